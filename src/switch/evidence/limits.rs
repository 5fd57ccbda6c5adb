//! What a release is held to, worked out of what its predecessor did.

use std::time::Duration;

use super::watch::Limits;
use super::{Baseline, LimitRules, Part, Shares};
use crate::config::Rollback;
use crate::pool::Habits;

/// Parts that a baseline is cut into.
const PARTS: usize = 60;
/// Requests that say something of latency or client errors before.
const HABIT: u64 = 100;
/// The least that client errors on good routes are allowed.
const CLIENT_ERRORS: f64 = 0.01;

impl LimitRules {
    /// Those of the failure rate.
    #[must_use]
    pub fn of(rules: &Rollback) -> Self {
        Self {
            ratio: rules.errors.ratio,
            floor: rules.errors.floor,
            without_baseline: rules.baseline.no_baseline_limit,
            alpha: Shares::of(rules.alpha).baseline,
        }
    }
}

impl Limits {
    /// What a release is held to, from what its predecessor did: its requests and failures of each
    /// minute, the newest last, and its habits.
    #[must_use]
    pub fn of(rules: &Rollback, minutes: &[(u64, u64)], habits: &Habits) -> Self {
        let shares = Shares::of(rules.alpha);
        let baseline = baseline(rules, minutes);
        let failures = baseline.limit(&LimitRules::of(rules));
        let rate = |all, bad, ratio, floor, alpha| {
            let parts = vec![Part {
                requests: all,
                failures: bad,
            }];
            let baseline = Baseline {
                parts,
                short: false,
            };
            let rules = LimitRules {
                ratio,
                floor,
                without_baseline: floor,
                alpha,
            };
            baseline.limit(&rules).rate
        };
        let slow = if habits.timed < HABIT {
            Vec::new()
        } else {
            let floors = rules.latency.floor.iter().copied().chain([0.005; 2]);
            let each = habits.slow.iter().zip(floors);
            each.map(|(slow, floor)| {
                let ratio = rules.latency.ratio;
                rate(habits.timed, *slow, ratio, floor, shares.latency_baseline)
            })
            .collect()
        };
        let client_errors = (habits.good >= HABIT).then(|| {
            let ratio = rules.errors.ratio;
            rate(
                habits.good,
                habits.client_errors,
                ratio,
                CLIENT_ERRORS,
                shares.latency_baseline,
            )
        });
        Self {
            failures,
            slow,
            client_errors,
        }
    }
}

/// The shortest window that is long enough, from counts of minutes, the newest last.
fn baseline(rules: &Rollback, minutes: &[(u64, u64)]) -> Baseline {
    let of = |time: Duration| usize::try_from(time.as_secs() / 60).unwrap_or(usize::MAX);
    let (least, most) = (of(rules.baseline.min_window), of(rules.baseline.max_window));
    let mut taken = Vec::new();
    let mut requests = 0;
    for (count, failed) in minutes.iter().rev().take(most) {
        if taken.len() >= least && requests >= rules.baseline.min_requests {
            break;
        }
        requests += count;
        taken.push(Part {
            requests: *count,
            failures: *failed,
        });
    }
    let short = taken.len() < least;
    let each = taken.len().div_ceil(PARTS).max(1);
    let sum = |parts: &[Part]| {
        parts.iter().fold(Part::default(), |sum, part| Part {
            requests: sum.requests + part.requests,
            failures: sum.failures + part.failures,
        })
    };
    Baseline {
        parts: taken.chunks(each).map(sum).collect(),
        short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_is_the_shortest_window_that_is_long_enough() {
        let rules = Rollback::default();
        let busy = vec![(20_000, 2); 30];
        let taken = baseline(&rules, &busy);
        assert_eq!(taken.parts.len(), 10);
        assert!(!taken.short);
        let quiet = vec![(10, 0); 3000];
        let taken = baseline(&rules, &quiet);
        assert_eq!(taken.parts.len(), 60, "a day in parts of 24 minutes");
        assert_eq!(taken.total().requests, 14_400);
        let new = baseline(&rules, &[(50, 1), (60, 0)]);
        assert!(new.short);
        assert_eq!(new.total().failures, 1);
    }
}
