//! The fast test: one alternative, restarted whenever it has lost everything.
//!
//! Each look is a test of its own, so the bound is a union bound over all looks of a watch.

use super::LOOKS_PER_SECOND;
use super::baseline::float;

/// Evidence for a catastrophe: most requests fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Ecusum {
    failure: f64,
    success: f64,
    threshold: f64,
    min_span: f64,
    value: f64,
    /// When the value left zero, in seconds after the cutover.
    since: Option<f64>,
    last: f64,
}

impl Ecusum {
    /// Evidence against `limit`, for the alternative rate `q` above it; false with probability
    /// `alpha` at most during `horizon` seconds. It takes `min_span` seconds at least.
    #[must_use]
    pub fn new(limit: f64, q: f64, alpha: f64, horizon: f64, min_span: f64) -> Self {
        let q = q.max(0.5 * (1.0 + limit));
        let looks = (horizon * f64::from(LOOKS_PER_SECOND)).max(1.0);
        Self {
            failure: (q / limit).ln(),
            success: ((1.0 - q) / (1.0 - limit)).ln(),
            threshold: (looks / alpha).ln(),
            min_span,
            value: 0.0,
            since: None,
            last: 0.0,
        }
    }

    /// Adds the counts of a tick that ended `end` seconds after the cutover. True: enough.
    pub fn tick(&mut self, end: f64, successes: u64, failures: u64) -> bool {
        let step = float(failures) * self.failure + float(successes) * self.success;
        let value = (self.value + step).max(0.0);
        self.since = if value > 0.0 {
            self.since.or(Some(self.last))
        } else {
            None
        };
        self.value = value;
        self.last = end;
        self.is_enough()
    }

    /// Whether value and span are enough.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        let span = self.since.map_or(0.0, |since| self.last - since);
        self.value >= self.threshold && span >= self.min_span - 1e-9
    }

    /// The value, in nats.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// The value that is enough.
    #[must_use]
    pub const fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Begins again.
    pub const fn forget(&mut self) {
        self.value = 0.0;
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(limit: f64) -> Ecusum {
        Ecusum::new(limit, 0.9, 1e-5, 1800.0, 1.0)
    }

    #[test]
    fn failures_in_a_row_that_it_takes_at_each_limit() {
        let table = [
            (0.005, 4),
            (0.01, 5),
            (0.02, 6),
            (0.05, 8),
            (0.10, 10),
            (0.20, 14),
        ];
        for (limit, needed) in table {
            let mut cusum = test(limit);
            let enough = (1..=30).find(|n| cusum.tick(f64::from(*n), 0, 1));
            assert_eq!(enough, Some(needed), "limit {limit}");
        }
    }

    #[test]
    fn a_burst_shorter_than_the_span_is_not_enough() {
        let mut cusum = test(0.005);
        cusum.tick(0.25, 10, 0);
        assert!(!cusum.tick(0.50, 0, 1_000));
        assert!(!cusum.tick(1.00, 0, 0));
        assert!(cusum.tick(1.25, 0, 0));
    }

    #[test]
    fn three_failures_of_ten_are_left_to_the_other_test() {
        let mut cusum = test(0.005);
        for n in 1..=100 {
            assert!(!cusum.tick(f64::from(n), 7, 2), "second {n}");
        }
    }
}
