//! Replay probes: what worked a moment ago, asked of the old release again.
//!
//! While a release is suspicious, paths that answered GETs with 2xx are asked of the old one,
//! without query and without anything a client sent, to learn whether going back would help. The
//! answers are thrown away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::daemon::client_of;
use crate::health::replay;
use crate::http::Client;
use crate::model::ServiceName;
use crate::pool::Pool;
use crate::switch::evidence::Probed;
use crate::switch::evidence::attribution::Tally;
use crate::tls;

/// The probes under way and their outcomes.
#[derive(Debug)]
pub(super) struct Replays {
    client: Client,
    upstreams: Arc<tls::Upstreams>,
    services: HashMap<ServiceName, Arc<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    probed: Mutex<Probed>,
    running: AtomicU64,
    next: AtomicU64,
}

impl Replays {
    pub(super) fn new(client: Client, upstreams: Arc<tls::Upstreams>) -> Self {
        Self {
            client,
            upstreams,
            services: HashMap::new(),
        }
    }

    /// What came back since the last call.
    pub(super) fn take(&mut self, service: &ServiceName) -> Probed {
        let counts = self.services.entry(service.clone()).or_default();
        std::mem::take(&mut *counts.probed())
    }

    /// Sends a quarter of a second's worth: a quarter of `rate`, 5 to 50 a second. What `old`
    /// answers is held to the limits of `new`.
    pub(super) fn ask(
        &mut self,
        service: &ServiceName,
        old: &Arc<Pool>,
        new: &Arc<Pool>,
        rate: u64,
    ) {
        let paths = old.evidence().samples();
        if paths.is_empty() {
            return;
        }
        let counts = Arc::clone(self.services.entry(service.clone()).or_default());
        let client = client_of(&self.client, &self.upstreams, old.slot());
        let wanted = (rate / 4).clamp(5, 50).div_ceil(4);
        for _ in 0..wanted {
            if counts.running.load(Relaxed) >= 50 {
                return;
            }
            let turn = usize::try_from(counts.next.fetch_add(1, Relaxed)).unwrap_or_default();
            let upstreams = old.slot().upstreams();
            let Some(upstream) = upstreams.get(turn % upstreams.len().max(1)) else {
                return;
            };
            let (upstream, path) = (Arc::clone(upstream), paths[turn % paths.len()].clone());
            let limit = new.evidence().slow_limit(&path);
            let (counts, client) = (Arc::clone(&counts), client.clone());
            counts.running.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let answer = replay(&client, &upstream, &path).await;
                *counts.probed() += probed(answer, limit);
                counts.running.fetch_sub(1, Relaxed);
            });
        }
    }
}

impl Counts {
    fn probed(&self) -> MutexGuard<'_, Probed> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one answer says in each respect. Without the client's cookies a path may well be
/// forbidden, so 401 and the like say nothing of whether it is known.
fn probed(answer: Option<(u16, Duration)>, limit: Option<Duration>) -> Probed {
    let one = |failed| Tally {
        asked: 1,
        failed: u64::from(failed),
    };
    let Some((status, waited)) = answer else {
        return Probed {
            failures: one(true),
            slow: one(true),
            client_errors: Tally::default(),
        };
    };
    Probed {
        failures: one(status >= 500),
        slow: limit.map_or_else(Tally::default, |limit| one(waited > limit)),
        client_errors: match status {
            200..=399 => one(false),
            404 | 405 => one(true),
            _ => Tally::default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_speaks_in_each_respect_that_it_can() {
        let limit = Some(Duration::from_millis(10));
        let quick = Duration::from_millis(2);
        let of = |probed: Probed| {
            [probed.failures, probed.slow, probed.client_errors]
                .map(|tally| (tally.asked, tally.failed))
        };
        let none = (0, 0);
        assert_eq!(of(probed(Some((200, quick)), limit)), [(1, 0); 3]);
        let slow = probed(Some((200, Duration::from_millis(11))), limit);
        assert_eq!(of(slow), [(1, 0), (1, 1), (1, 0)]);
        assert_eq!(of(probed(Some((200, quick)), None)), [(1, 0), none, (1, 0)]);
        assert_eq!(
            of(probed(Some((404, quick)), limit)),
            [(1, 0), (1, 0), (1, 1)]
        );
        assert_eq!(
            of(probed(Some((401, quick)), limit)),
            [(1, 0), (1, 0), none]
        );
        assert_eq!(
            of(probed(Some((502, quick)), limit)),
            [(1, 1), (1, 0), none]
        );
        assert_eq!(of(probed(None, limit)), [(1, 1), (1, 1), none]);
    }
}
