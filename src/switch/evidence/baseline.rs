//! What the service failed before the cutover, and the limit that is tolerated after it.

use serde::{Deserialize, Serialize};

use super::numeric::upper_bound;

/// The share of the limit that bursts of the old release may raise it to.
const BURST_LIMIT: f64 = 0.2;

/// Failures that a dispersion is estimated from, at least.
const DISPERSION_FAILURES: u64 = 20;

/// No limit is above this rate.
const HIGHEST_LIMIT: f64 = 0.95;

/// Dispersion from which the old release counts as one with bursts.
const BURSTS: f64 = 2.0;

/// One part of the baseline's window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Requests that were judged.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

/// The requests of one generation before a cutover, cut into parts of equal time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// In any order.
    pub parts: Vec<Part>,
    /// Whether they cover less time than a baseline should: such a one is used as it is, but
    /// tolerates no more than none at all.
    pub short: bool,
}

/// How a [`Limit`] is made from a [`Baseline`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitRules {
    /// How far above the baseline's bound a release may be. 1 or more.
    pub ratio: f64,
    /// Never below this rate.
    pub floor: f64,
    /// The limit without any requests, and the highest one of a short baseline.
    pub without_baseline: f64,
    /// Probability that the bound is wrong.
    pub alpha: f64,
}

/// The failure rate that a release may have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The rate, above 0 and below 1.
    pub rate: f64,
    /// Upper bound of the baseline's rate.
    pub bound: f64,
    /// Requests of the baseline.
    pub requests: u64,
    /// Failures of the baseline.
    pub failures: u64,
    /// How much more the parts differ than independent requests would; 1: not more.
    pub dispersion: f64,
}

impl Baseline {
    /// Both counts over all parts.
    #[must_use]
    pub fn total(&self) -> Part {
        self.parts.iter().fold(Part::default(), |sum, part| Part {
            requests: sum.requests + part.requests,
            failures: sum.failures + part.failures,
        })
    }

    /// The tolerated limit.
    #[must_use]
    pub fn limit(&self, rules: &LimitRules) -> Limit {
        let Part { requests, failures } = self.total();
        let dispersion = self.dispersion();
        let bound = upper_bound(
            float(failures) / dispersion,
            float(requests) / dispersion,
            rules.alpha,
        );
        let rate = if requests == 0 {
            rules.without_baseline
        } else {
            let tolerated = (rules.ratio * bound).max(rules.floor);
            let bursts = if dispersion >= BURSTS {
                self.highest_rate().min(BURST_LIMIT)
            } else {
                0.0
            };
            let cap = if self.short {
                rules.without_baseline
            } else {
                HIGHEST_LIMIT
            };
            tolerated.max(bursts).min(cap)
        };
        Limit {
            rate,
            bound,
            requests,
            failures,
            dispersion,
        }
    }

    /// Pearson's χ² over its degrees of freedom; at least 1.
    fn dispersion(&self) -> f64 {
        let Part { requests, failures } = self.total();
        let filled = self.parts.iter().filter(|part| part.requests > 0);
        let parts = filled.clone().count();
        if failures < DISPERSION_FAILURES || failures == requests || parts < 2 {
            return 1.0;
        }
        let rate = float(failures) / float(requests);
        let squares: f64 = filled
            .map(|part| {
                let expected = float(part.requests) * rate;
                (float(part.failures) - expected).powi(2) / (expected * (1.0 - rate))
            })
            .sum();
        #[allow(clippy::cast_precision_loss, reason = "a few dozen parts")]
        let freedom = (parts - 1) as f64;
        (squares / freedom).max(1.0)
    }

    fn highest_rate(&self) -> f64 {
        let filled = self.parts.iter().filter(|part| part.requests > 0);
        filled
            .map(|part| float(part.failures) / float(part.requests))
            .fold(0.0, f64::max)
    }
}

/// Counts stay far below 2⁵³, where doubles stop being exact.
#[allow(clippy::cast_precision_loss, reason = "counts of requests")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: LimitRules = LimitRules {
        ratio: 1.5,
        floor: 0.005,
        without_baseline: 0.10,
        alpha: 2e-5,
    };

    /// `failures` of `requests`, spread as evenly as whole numbers allow.
    fn even(failures: u64, requests: u64) -> Baseline {
        let share = |total: u64, at: u64| total * (at + 1) / 60 - total * at / 60;
        let part = |at| Part {
            requests: share(requests, at),
            failures: share(failures, at),
        };
        Baseline {
            parts: (0..60).map(part).collect(),
            short: false,
        }
    }

    #[test]
    fn bound_and_limit_of_known_baselines() {
        let table = [
            ((0, 1_000), 0.0108, 0.0161),
            ((10, 10_000), 0.0033, 0.0050),
            ((100, 10_000), 0.0154, 0.0230),
            ((864, 86_400), 0.0117, 0.0175),
            ((1_000, 100_000), 0.0115, 0.0173),
            ((6_000, 600_000), 0.0106, 0.0159),
        ];
        for ((failures, requests), bound, rate) in table {
            let limit = even(failures, requests).limit(&RULES);
            let case = format!("{failures}/{requests}: {limit:?}");
            assert!((limit.bound - bound).abs() < 6e-5, "{case}");
            assert!((limit.rate - rate).abs() < 6e-5, "{case}");
        }
    }

    #[test]
    fn a_short_baseline_is_used_but_tolerates_no_more_than_none() {
        let mut short = even(0, 100);
        let limit = short.limit(&RULES);
        assert!((limit.rate - 0.154).abs() < 1e-3, "{limit:?}");
        short.short = true;
        let limit = short.limit(&RULES);
        assert!((limit.bound - 0.103).abs() < 1e-3, "{limit:?}");
        assert!((limit.rate - 0.10).abs() < 1e-12, "{limit:?}");
        let none = Baseline::default().limit(&RULES);
        assert!((none.rate - 0.10).abs() < 1e-12, "{none:?}");
    }

    #[test]
    fn a_bad_old_release_raises_the_limit() {
        let limit = even(30_000, 100_000).limit(&RULES);
        assert!(limit.rate >= 0.45 - 1e-9, "{limit:?}");
    }

    #[test]
    fn bursts_of_the_old_release_are_tolerated_from_the_new_one() {
        let mut baseline = even(600, 60_000);
        for (at, part) in baseline.parts.iter_mut().enumerate() {
            part.failures = if at % 10 == 0 { 100 } else { 0 };
        }
        let limit = baseline.limit(&RULES);
        assert!(limit.dispersion > 2.0, "{limit:?}");
        assert!((limit.rate - 0.10).abs() < 1e-9, "{limit:?}");
    }

    proptest! {
        #[test]
        fn a_limit_is_a_rate_whatever_was_counted(
            parts in prop::collection::vec((0_u64..10_000, 0_u64..10_000), 0..60),
        ) {
            let parts = parts.into_iter().map(|(a, b)| Part { requests: a.max(b), failures: a.min(b) });
            let baseline = Baseline { parts: parts.collect(), short: false };
            let limit = baseline.limit(&RULES);
            prop_assert!(limit.rate >= RULES.floor && limit.rate <= 0.95, "{:?}", limit);
            prop_assert!(limit.dispersion >= 1.0);
        }
    }
}
