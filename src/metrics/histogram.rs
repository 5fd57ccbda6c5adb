//! Cumulative histograms with fixed bounds, as Prometheus wants them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds in nanoseconds, inclusive, and as the `le` label shows them. 1 ms to 60 s in
/// steps of 1 – 2.5 – 5: an answer from memory, a page, a slow report, a timeout.
pub(super) const BOUNDS: [(u64, &str); 15] = [
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
    (30_000_000_000, "30"),
    (60_000_000_000, "60"),
];

/// One shard's part of a histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Samples by bucket, each counted once; the last one is above every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(super) fn observe(&self, nanos: u64) {
        let bucket = BOUNDS.partition_point(|(bound, _)| *bound < nanos);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }
}

/// A histogram as read: the sum of its shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Snapshot {
    /// Samples at or below each of [`BOUNDS`], and at last all of them.
    pub(super) cumulative: [u64; BOUNDS.len() + 1],
    /// Sum of all samples in seconds.
    pub(super) sum_seconds: f64,
}

impl Snapshot {
    /// Adds up the shards. The count is the sum of the buckets, so the two always agree.
    pub(super) fn collect<'a>(shards: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut snapshot = Self::default();
        for shard in shards {
            for (total, bucket) in snapshot.cumulative.iter_mut().zip(&shard.buckets) {
                *total += bucket.load(Relaxed);
            }
            snapshot.sum_seconds += shard.sum_nanos.load(Relaxed) as f64 / 1e9;
        }
        let mut below = 0;
        for total in &mut snapshot.cumulative {
            below += *total;
            *total = below;
        }
        snapshot
    }

    /// Number of samples.
    pub(super) fn count(&self) -> u64 {
        self.cumulative[BOUNDS.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_say_what_they_are() {
        assert!(BOUNDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (nanos, label) in BOUNDS {
            let seconds: f64 = label.parse().expect("a number");
            assert_eq!((seconds * 1e9).round() as u64, nanos);
        }
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        histogram.observe(1_000_000);
        histogram.observe(1_000_001);
        histogram.observe(u64::from(u32::MAX) * 1_000);
        let seen = Snapshot::collect([&histogram].into_iter());
        assert_eq!(seen.cumulative[0], 1);
        assert_eq!(seen.cumulative[1], 2);
        assert_eq!(seen.cumulative[BOUNDS.len() - 1], 2);
        assert_eq!(seen.count(), 3);
    }
}
