//! The sensitive test: a mixture over failure rates and over the moments when a rise began.
//!
//! For one alternative rate q above the limit p, the likelihood ratio of what was seen is a
//! non-negative supermartingale as long as the limit holds. So is a weighted mean of several, and
//! of several that begin at different moments with weights that add up to 1. Its value is the
//! evidence: how much a gambler who bets against the release would have made of 1.

use super::baseline::float;
use super::numeric::{log_add, log_sum};

/// The first alternative, as a multiple of the limit.
const NEAREST: f64 = 1.3;

/// The last alternative is at least this rate.
const FARTHEST: f64 = 0.95;

/// No alternative is above this rate.
const HIGHEST: f64 = 0.99;

/// The part of a tick that still belongs to the second before it, in seconds.
const EDGE: f64 = 1e-9;

/// How an [`EProcess`] is laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EProcessRules {
    /// The probability that it ever crosses its threshold while the limit holds.
    pub alpha: f64,
    /// Number of alternative rates. At least 1.
    pub alternatives: u32,
    /// Seconds between two starts. Above 0.
    pub restart_every: f64,
    /// Seconds of bad requests that it takes at least. 0: one is enough.
    pub min_bad_seconds: u32,
    /// When the first start is, in seconds after the cutover.
    pub first_start: f64,
    /// The longest watch in seconds: starts are laid out up to it.
    pub horizon: f64,
}

/// The evidence that the failure rate is above a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct EProcess {
    rules: EProcessRules,
    starts: u32,
    next: u32,
    second: Option<u64>,
    clip: f64,
    threshold: f64,
    alternatives: Vec<Alternative>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Alternative {
    failure: f64,
    success: f64,
    /// Log-likelihood ratio since the cutover, without the current second.
    settled: f64,
    /// That of the current second, before it is clipped.
    current: f64,
    /// Log of the weight that has started, at the price of its start.
    started: f64,
}

impl EProcess {
    /// Evidence against `limit`, a rate above 0 and below 1.
    #[must_use]
    pub fn new(limit: f64, rules: EProcessRules) -> Self {
        let count = rules.alternatives.max(1);
        let (low, high) = (
            (NEAREST * limit).ln(),
            FARTHEST.max((2.0 * limit).min(HIGHEST)).ln(),
        );
        let alternatives = (0..count).map(|at| {
            let part = f64::from(at) / f64::from(count.max(2) - 1);
            let rate = (low + (high - low) * part).exp().min(HIGHEST);
            Alternative {
                failure: (rate / limit).ln(),
                success: ((1.0 - rate) / (1.0 - limit)).ln(),
                settled: 0.0,
                current: 0.0,
                started: f64::NEG_INFINITY,
            }
        });
        let watched = (rules.horizon - rules.first_start).max(0.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few hundred starts; the cast saturates"
        )]
        let starts = ((watched / rules.restart_every).ceil() as u32).max(1);
        let mut process = Self {
            rules,
            starts,
            next: 0,
            second: None,
            clip: f64::INFINITY,
            threshold: rules.alpha.recip().ln(),
            alternatives: alternatives.collect(),
        };
        if rules.min_bad_seconds > 0 {
            let whole = process.threshold + f64::from(count).ln() - process.weight(0);
            process.clip = whole / f64::from(rules.min_bad_seconds);
        }
        process
    }

    /// The log-evidence that is enough.
    #[must_use]
    pub const fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Adds the counts of a tick that ended `end` seconds after the cutover and gives the
    /// log-evidence. Ticks come in order, none across the border of a second.
    pub fn tick(&mut self, end: f64, successes: u64, failures: u64) -> f64 {
        let end = end - EDGE;
        while self.next < self.starts && self.start(self.next) < end {
            let weight = self.weight(self.next) - f64::from(self.rules.alternatives.max(1)).ln();
            for alternative in &mut self.alternatives {
                alternative.settle(self.clip);
                let bet = weight - alternative.settled;
                alternative.started = log_add(alternative.started, bet);
            }
            self.next += 1;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds of a watch"
        )]
        let second = Some(end.max(0.0) as u64);
        if self.second != second {
            self.second = second;
            for alternative in &mut self.alternatives {
                alternative.settle(self.clip);
            }
        }
        for alternative in &mut self.alternatives {
            alternative.current += float(failures) * alternative.failure;
            alternative.current += float(successes) * alternative.success;
        }
        self.log_evidence()
    }

    /// ln of the evidence now; −∞ before the first start.
    #[must_use]
    pub fn log_evidence(&self) -> f64 {
        let clip = self.clip;
        let each = self.alternatives.iter();
        log_sum(each.map(move |a| a.settled + a.current.min(clip) + a.started))
    }

    /// Drops the evidence so far. Later starts keep their weights, so nothing of the allowed
    /// probability is spent twice.
    pub fn forget(&mut self) {
        for alternative in &mut self.alternatives {
            alternative.started = f64::NEG_INFINITY;
        }
    }

    fn start(&self, number: u32) -> f64 {
        self.rules.first_start + self.rules.restart_every * f64::from(number)
    }

    /// Log of a start's weight: half for the first one, the rest in equal parts.
    fn weight(&self, number: u32) -> f64 {
        match (self.starts, number) {
            (1, _) => 0.0,
            (_, 0) => 0.5_f64.ln(),
            (starts, _) => (0.5 / f64::from(starts - 1)).ln(),
        }
    }
}

impl Alternative {
    /// Ends a part of a second. What one second may say is bounded from above.
    fn settle(&mut self, clip: f64) {
        self.settled += self.current.min(clip);
        self.current = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const RULES: EProcessRules = EProcessRules {
        alpha: 3e-5,
        alternatives: 8,
        restart_every: 15.0,
        min_bad_seconds: 5,
        first_start: 0.0,
        horizon: 300.0,
    };

    /// Seconds until it crosses, with that many failures and successes each second.
    fn crosses(failures: u64, successes: u64, seconds: u32) -> Option<u32> {
        let mut process = EProcess::new(0.005, RULES);
        (1..=seconds).find(|second| {
            let seen = process.tick(f64::from(*second), successes, failures);
            seen >= process.threshold()
        })
    }

    #[test]
    fn one_bad_second_is_never_enough() {
        assert_eq!(crosses(1_000, 0, 4), None);
        assert_eq!(crosses(1_000, 0, 10), Some(5));
    }

    #[test]
    fn a_release_within_the_limit_collects_no_evidence() {
        let mut process = EProcess::new(0.005, RULES);
        for second in 1..=300 {
            let seen = process.tick(f64::from(second), 998, 2);
            assert!(seen < 1.0, "second {second}: {seen}");
        }
    }

    #[test]
    fn a_release_that_fails_five_times_the_limit_is_found_in_seconds() {
        let found = crosses(5, 195, 300).expect("found");
        assert!(found <= 20, "{found} s");
    }

    #[test]
    fn what_is_forgotten_does_not_count_but_what_follows_does() {
        let mut process = EProcess::new(0.005, RULES);
        for second in 1..=20 {
            process.tick(f64::from(second), 0, 100);
        }
        assert!(process.log_evidence() > process.threshold());
        process.forget();
        assert!(process.tick(21.0, 100, 0) < 0.0);
        for second in 22..=60 {
            process.tick(f64::from(second), 0, 100);
        }
        assert!(process.log_evidence() > process.threshold());
    }
}
