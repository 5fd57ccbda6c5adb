//! The access log: one JSON line a request, written by a thread of its own.
//!
//! A request only formats its line and hands it over; when the writer falls behind by
//! [`QUEUE`] lines, further lines are dropped and counted, because traffic never waits for a
//! terminal. Values of redacted parameters and headers are replaced by `***` before the line
//! exists.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use serde::Serialize;
use tracing::warn;

/// Lines that may wait for the writer.
const QUEUE: usize = 65_536;

/// One line. Fields that have no value are left out.
#[derive(Debug, Serialize)]
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

/// Where lines go. Cloning is cheap; the writer ends when the last clone is gone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the writer to stdout, or to a file that is created if it is missing and appended
    /// to.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(file: Option<&Path>) -> std::io::Result<Self> {
        let sink: Box<dyn Write + Send> = match file {
            Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
            None => Box::new(std::io::stdout()),
        };
        let (lines, queue) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&queue, sink, &lost))?;
        Ok(Self { lines, dropped })
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let Ok(mut bytes) = serde_json::to_vec(line) else {
            return;
        };
        bytes.push(b'\n');
        if let Err(TrySendError::Full(_)) = self.lines.try_send(bytes) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(queue: &Receiver<Vec<u8>>, sink: Box<dyn Write + Send>, dropped: &AtomicU64) {
    let mut sink = BufWriter::with_capacity(64 * 1024, sink);
    let mut broken = false;
    while let Ok(line) = queue.recv() {
        let mut result = sink.write_all(&line);
        while let Ok(line) = queue.try_recv() {
            result = result.and_then(|()| sink.write_all(&line));
        }
        result = result.and_then(|()| sink.flush());
        // Said once, not once a line: the disk is full for all of them.
        match result {
            Err(error) if !broken => {
                broken = true;
                warn!(%error, "access log cannot be written");
            }
            Err(_) => {}
            Ok(()) => broken = false,
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lines = lost, "access log fell behind, lines dropped");
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
