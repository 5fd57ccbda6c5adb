//! What the counts of an observed cutover say about the new release.
//!
//! Pure functions of counts and time. Two sequential tests look at the same requests: the
//! [`EProcess`] finds a small rise and may be looked at after every request, the [`Ecusum`] finds
//! a catastrophe within its first failures. Both ask whether the failure rate is above a
//! tolerated limit, which a [`Baseline`] gives from what was served before. The [`attribution`]
//! gate asks whether going back would help.
//!
//! Both tests are test martingales: under "every request fails with probability at most the
//! limit, given everything before it", the chance that either ever crosses its threshold is
//! bounded (Ville's inequality; Ramdas et al., "Game-theoretic statistics and safe anytime-valid
//! inference", 2023). Independence and a constant rate are not assumed.

pub mod alerts;
pub mod attribution;
mod baseline;
mod ecusum;
mod eprocess;
mod limits;
mod numeric;
pub mod replay;
mod watch;

#[cfg(test)]
mod golden;

pub use baseline::{Baseline, Limit, LimitRules, Part};
pub use ecusum::Ecusum;
pub use eprocess::{EProcess, EProcessRules};
pub use watch::{Decision, Limits, Numbers, Predecessor, Probed, Seen, Tick, Watch};

/// Looks at the evidence in a second: what the bound of the [`Ecusum`] is laid out for.
pub const LOOKS_PER_SECOND: u32 = 4;

/// How the probability of one false rollback is shared out among the tests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// The upper bound of the baseline's failure rate.
    pub baseline: f64,
    /// The [`EProcess`] over failures.
    pub slow: f64,
    /// The [`Ecusum`].
    pub fast: f64,
    /// The upper bounds of the baseline's latency exceedances.
    pub latency_baseline: f64,
    /// The e-processes over latency.
    pub latency: f64,
    /// The e-process over client errors on routes that were good.
    pub client_errors: f64,
}

impl Shares {
    /// Shares of `alpha`, the probability for a release as a whole, above 0 and below 1.
    #[must_use]
    pub fn of(alpha: f64) -> Self {
        Self {
            baseline: 0.2 * alpha,
            slow: 0.3 * alpha,
            fast: 0.1 * alpha,
            latency_baseline: 0.1 * alpha,
            latency: 0.2 * alpha,
            client_errors: 0.1 * alpha,
        }
    }

    /// What they add up to.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.baseline
            + self.slow
            + self.fast
            + self.latency_baseline
            + self.latency
            + self.client_errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_the_whole_and_no_more() {
        let shares = Shares::of(1e-4);
        assert!((shares.total() - 1e-4).abs() < 1e-18);
        assert!((shares.slow - 3e-5).abs() < 1e-18);
    }
}
