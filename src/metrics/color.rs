//! The counters of one color of one service: what a slot holds and a request records to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::Method;

use crate::model::ErrorType;

use super::histogram::Snapshot;
use super::labels::{CODES, METHODS};
use super::shard::{Shard, lane};
use super::window::{Timeline, Window};

/// Counters of one color. Lives as long as a slot holds it; whether it is exported is up to
/// [`Metrics::retain`](super::Metrics::retain).
#[derive(Debug)]
pub struct ColorMetrics {
    timeline: Timeline,
    /// The first one serves every thread until `busy`.
    shards: Box<[OnceLock<Box<Shard>>]>,
    busy: AtomicBool,
    upstream_errors: Mutex<UpstreamErrors>,
}

/// One finished request, as [`ColorMetrics::record`] counts it.
#[derive(Clone, Copy, Debug)]
pub struct RequestOutcome<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// The status that the client was sent, or would have been sent had it stayed.
    pub status: u16,
    /// The whole request at the edge; `None` for WebSockets and event streams, whose length
    /// says nothing about speed.
    pub duration: Option<Duration>,
    /// From sending the request upstream to the first byte of the answer; `None` as above, and
    /// when no upstream answered.
    pub upstream: Option<Duration>,
}

/// Requests since the color's counters were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All of them.
    pub requests: u64,
    /// Those with a status of 500–599.
    pub errors_5xx: u64,
}

type UpstreamErrors = BTreeMap<String, BTreeMap<ErrorType, u64>>;

impl ColorMetrics {
    /// Empty counters that may spread over this many shards.
    pub(super) fn new(timeline: Timeline, shards: usize) -> Self {
        Self {
            timeline,
            shards: (0..shards.max(1)).map(|_| OnceLock::new()).collect(),
            busy: AtomicBool::new(false),
            upstream_errors: Mutex::default(),
        }
    }

    /// Counts a request that ended at `now`. Takes no lock; allocates only when the color sees
    /// its first request, a method or a magnitude of latency for the first time.
    pub fn record(&self, now: Instant, outcome: &RequestOutcome<'_>) {
        let busy = self.busy.load(Relaxed);
        let shard = if busy { lane() % self.shards.len() } else { 0 };
        let shard = self.shards[shard].get_or_init(Box::default);
        let in_period = shard.record(self.timeline.period(now), outcome);
        if !busy && in_period >= BUSY {
            self.busy.store(true, Relaxed);
        }
    }

    /// Counts a failure to get an answer from `upstream`, named as the configuration names it.
    /// Takes a lock: for the error path.
    pub fn upstream_error(&self, upstream: &str, reason: ErrorType) {
        let mut errors = self.lock_errors();
        if let Some(by_reason) = errors.get_mut(upstream) {
            *by_reason.entry(reason).or_default() += 1;
        } else {
            errors.insert(upstream.to_owned(), BTreeMap::from([(reason, 1)]));
        }
    }

    /// Forgets the errors of upstreams that are no longer part of the slot, so that addresses
    /// that come and go do not pile up.
    pub fn retain_upstreams(&self, keep: impl Fn(&str) -> bool) {
        self.lock_errors().retain(|upstream, _| keep(upstream));
    }

    /// The last 60 seconds, as seen at `now`.
    #[must_use]
    pub fn window(&self, now: Instant) -> Window {
        let sliding: Vec<_> = self.shards().map(|shard| &shard.sliding).collect();
        Window::collect(self.timeline, now, &sliding)
    }

    /// Everything since these counters were made. Never decreases.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shards()
            .map(Shard::totals)
            .fold(Totals::default(), |sum, shard| Totals {
                requests: sum.requests + shard.requests,
                errors_5xx: sum.errors_5xx + shard.errors_5xx,
            })
    }

    /// Every method and code seen, with its count.
    pub(super) fn requests(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut seen = Vec::new();
        for (method, method_name) in METHODS.into_iter().enumerate() {
            let mut counts = [0; CODES.len()];
            for row in self.shards().filter_map(|shard| shard.row(method)) {
                for (sum, counter) in counts.iter_mut().zip(row) {
                    *sum += counter.load(Relaxed);
                }
            }
            let counted = CODES
                .into_iter()
                .zip(counts)
                .filter(|(_, count)| *count > 0);
            seen.extend(counted.map(|(code, count)| (method_name, code, count)));
        }
        seen
    }

    /// Whole requests, as a histogram.
    pub(super) fn duration(&self) -> Snapshot {
        Snapshot::collect(self.shards().map(|shard| &shard.duration))
    }

    /// First upstream bytes, as a histogram.
    pub(super) fn upstream(&self) -> Snapshot {
        Snapshot::collect(self.shards().map(|shard| &shard.upstream))
    }

    /// Every upstream and reason seen, with its count.
    pub(super) fn upstream_errors(&self) -> UpstreamErrors {
        self.lock_errors().clone()
    }

    /// Whether anything was ever recorded.
    pub(super) fn is_used(&self) -> bool {
        self.shards().next().is_some()
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards
            .iter()
            .filter_map(|shard| shard.get().map(|shard| &**shard))
    }

    fn lock_errors(&self) -> MutexGuard<'_, UpstreamErrors> {
        // Counters stay usable even if a thread died while it held them.
        self.upstream_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests in one period of 5 s from which a color spreads over all shards: 2,000 a second.
/// Below that, two cores rarely meet at the same cache line.
const BUSY: u32 = 10_000;

#[cfg(test)]
mod tests {
    use std::thread;

    use crate::clock;

    use super::*;

    const OUTCOME: RequestOutcome<'_> = RequestOutcome {
        method: &Method::GET,
        status: 200,
        duration: Some(Duration::from_millis(3)),
        upstream: None,
    };

    fn record_from_sixteen_threads(color: &ColorMetrics, now: Instant) {
        for _ in 0..16 {
            thread::scope(|scope| {
                scope.spawn(|| color.record(now, &OUTCOME));
            });
        }
    }

    #[test]
    fn only_a_busy_color_spreads_over_shards() {
        let now = clock::now();
        let color = ColorMetrics::new(Timeline::new(now), 4);
        record_from_sixteen_threads(&color, now);
        for period in 0..20 {
            let now = now + Duration::from_secs(5 * period);
            (0..BUSY / 2).for_each(|_| color.record(now, &OUTCOME));
        }
        record_from_sixteen_threads(&color, now + Duration::from_secs(100));
        assert_eq!(color.shards().count(), 1);

        let now = now + Duration::from_secs(105);
        (0..BUSY).for_each(|_| color.record(now, &OUTCOME));
        record_from_sixteen_threads(&color, now);
        assert!(color.shards().count() > 1);
        assert_eq!(color.totals().requests, u64::from(BUSY) * 11 + 48);
    }

    #[test]
    fn a_color_without_requests_owns_less_than_a_kibibyte() {
        let color = ColorMetrics::new(Timeline::new(clock::now()), 8);
        let table = color.shards.len() * size_of::<OnceLock<Box<Shard>>>();
        assert!(!color.is_used());
        assert!(size_of::<ColorMetrics>() + table < 1024);
    }
}
