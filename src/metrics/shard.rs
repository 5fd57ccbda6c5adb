//! One shard of a color's counters: what a request writes to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::buckets::nanos;
use super::color::{RequestOutcome, Totals};
use super::histogram::Histogram;
use super::labels::{CODES, METHODS, code_index, is_5xx, method_index};
use super::window::{Period, Sliding};

/// Counters that one group of threads writes. Aligned so that two shards never share a cache
/// line, nor the pair of lines that x86 prefetches together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    /// Requests by method and status code; a row exists once its method was seen.
    rows: [OnceLock<Box<[AtomicU64]>>; METHODS.len()],
    pub(super) duration: Histogram,
    pub(super) upstream: Histogram,
    pub(super) sliding: Sliding,
}

impl Shard {
    /// Counts one request. Returns how many this shard has counted in the current period.
    pub(super) fn record(&self, period: Period, outcome: &RequestOutcome<'_>) -> u32 {
        let code = code_index(outcome.status);
        let row = self.rows[method_index(outcome.method)]
            .get_or_init(|| CODES.iter().map(|_| AtomicU64::new(0)).collect());
        row[code].fetch_add(1, Relaxed);
        if let Some(duration) = outcome.duration {
            let nanos = nanos(duration);
            self.duration.observe(nanos);
            self.sliding.latency(period, nanos);
        }
        if let Some(duration) = outcome.upstream {
            self.upstream.observe(nanos(duration));
        }
        self.sliding.request(period, is_5xx(code))
    }

    /// Requests of one method, by position in [`CODES`].
    pub(super) fn row(&self, method: usize) -> Option<&[AtomicU64]> {
        self.rows[method].get().map(|row| &**row)
    }

    /// Everything since the shard was made.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for row in self.rows.iter().filter_map(OnceLock::get) {
            for (code, counter) in row.iter().enumerate() {
                let count = counter.load(Relaxed);
                totals.requests += count;
                totals.errors_5xx += if is_5xx(code) { count } else { 0 };
            }
        }
        totals
    }
}

/// The calling thread's number. Threads are numbered as they first record, so the workers of
/// the data plane, which record most, spread evenly.
pub(crate) fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: usize = NEXT.fetch_add(1, Relaxed);
    }
    LANE.with(|lane| *lane)
}
