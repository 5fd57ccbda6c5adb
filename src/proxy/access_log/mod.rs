//! The access log: one line a request, written by a thread of its own.
//!
//! A request only forms its line ([`form`]) and hands it over; when the writer ([`writer`]) falls
//! behind by [`QUEUE`] lines, further lines are dropped and counted, because traffic never waits
//! for a terminal or a disk. One writer serves all logs, those of sites too. Values of redacted
//! parameters and headers are replaced before the line exists.

mod form;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use serde::Serialize;

pub(super) use self::form::Entry;
use self::writer::{Orders, Sinks, Target};
use crate::config;

/// Lines that may wait for the writer.
const QUEUE: usize = 65_536;

/// One line. Fields that have no value are left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Line<'a> {
    pub(super) ts: String,
    pub(super) request_id: &'a str,
    pub(super) client_ip: String,
    pub(super) method: &'a str,
    pub(super) scheme: &'static str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream_ms: Option<f64>,
    pub(super) service: &'a str,
    pub(super) color: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) release: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<&'a str>,
    pub(super) retries: usize,
    pub(super) rescued: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<&'a str>,
}

/// A line, and the log that it is for.
struct Addressed {
    to: Arc<config::AccessLog>,
    line: Vec<u8>,
}

/// Where lines go. Cloning is cheap; the writer ends when the last clone is gone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Nothing only wakes the writer.
    lines: SyncSender<Option<Addressed>>,
    orders: Arc<Orders>,
}

impl AccessLog {
    /// Starts the writer to stdout, and to files that are created if they are missing and appended
    /// to.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn start<'a>(
        logs: impl Iterator<Item = &'a Arc<config::AccessLog>>,
    ) -> std::io::Result<Self> {
        let sinks = Sinks::open(logs.map(|log| Target::from(&**log)))?;
        let (lines, queue) = sync_channel(QUEUE);
        let orders: Arc<Orders> = Arc::default();
        let told = Arc::clone(&orders);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer::write_all(&queue, sinks, &told))?;
        Ok(Self { lines, orders })
    }

    /// Whether lines could go to a file. Makes it if it is missing.
    ///
    /// # Errors
    /// Why not.
    pub fn check(file: &Path) -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).open(file).map(drop)
    }

    /// Writes as a new configuration says from now on. A file that cannot be opened leaves things
    /// as they are, with a warning.
    pub fn follow<'a>(&self, logs: impl Iterator<Item = &'a Arc<config::AccessLog>>) {
        let targets = logs.map(|log| Target::from(&**log));
        self.orders.follow(targets.collect());
        self.wake();
    }

    /// Opens the files again: somebody may have moved them away.
    pub fn reopen(&self) {
        self.orders.reopen();
        self.wake();
    }

    /// Without a place in the queue the writer is awake anyway.
    fn wake(&self) {
        let _ = self.lines.try_send(None);
    }

    pub(super) fn write(&self, to: &Arc<config::AccessLog>, entry: &Entry<'_>) {
        let Some(line) = entry.bytes(to.format) else {
            return;
        };
        let to = Arc::clone(to);
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Some(Addressed { to, line })) {
            self.orders.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The target as logged: the path, and the query with the values of secret parameters masked.
pub(super) fn logged_path(path: &str, query: Option<&str>, secret: &[String]) -> String {
    let Some(query) = query else {
        return path.to_owned();
    };
    let mut out = String::with_capacity(path.len() + query.len() + 1);
    out.push_str(path);
    for (n, pair) in query.split('&').enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name, secret) => {
                out.push_str(name);
                out.push_str("=***");
            }
            _ => out.push_str(pair),
        }
    }
    out
}

fn is_secret(name: &str, secret: &[String]) -> bool {
    // `pass%77ord=x` is the same parameter to the application.
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    secret
        .iter()
        .any(|secret| secret.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_parameters_are_masked_however_they_are_spelled() {
        let secret = ["token".to_owned()];
        let logged = |query| logged_path("/a", query, &secret);
        assert_eq!(logged(None), "/a");
        assert_eq!(logged(Some("x=1&token=abc&y=2")), "/a?x=1&token=***&y=2");
        assert_eq!(logged(Some("TOKEN=abc")), "/a?TOKEN=***");
        assert_eq!(logged(Some("%74oken=abc")), "/a?%74oken=***");
        assert_eq!(logged(Some("tokens=abc&flag")), "/a?tokens=abc&flag");
    }
}
