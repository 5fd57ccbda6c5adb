//! Would going back help? Two sequential probability ratio tests (Wald, 1945) on what the old
//! release answered since suspicion began: to requests that the new one had failed, and to
//! probes.

use super::baseline::float;

/// What the old release was asked since suspicion began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub asked: u64,
    /// How often it failed as well.
    pub failed: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.asked += more.asked;
        self.failed += more.failed;
    }
}

/// When a [`Gate`] is sure, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateRules {
    /// Enough for "the old release works".
    pub clear: f64,
    /// Enough for "the old release fails too".
    pub block: f64,
    /// How long to wait for either, in seconds, when at least a tenth of the requests fail, and
    /// when fewer do.
    pub wait: [f64; 2],
}

/// What the gate says to a rollback that the evidence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// The old release answers what the new one fails: go back.
    Clear,
    /// Both fail: going back would not help.
    Blocked,
    /// Not known yet.
    Wait,
    /// Not known in time; nothing speaks against going back.
    Ambiguous,
}

/// Share of failures from which a decision is urgent.
const URGENT: f64 = 0.1;

/// What each shared cause that was found adds to the evidence asked for the next time.
const RAISED: f64 = 2.0;

/// The memory of the gate during one watch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gate {
    asked_since: Option<f64>,
    blocked: u32,
}

impl Gate {
    /// How often a shared cause was found.
    #[must_use]
    pub const fn blocked(&self) -> u32 {
        self.blocked
    }

    /// Decides at `now` seconds after the cutover, when the evidence asks for a rollback. `share`
    /// is the new release's share of failures since suspicion began, `before` the old one's
    /// before the cutover, both 0–1.
    pub fn decide(
        &mut self,
        now: f64,
        rules: &GateRules,
        share: f64,
        before: f64,
        rescues: Tally,
        probes: Tally,
    ) -> Attribution {
        let since = *self.asked_since.get_or_insert(now);
        let by_rescues = log_ratio(rescues, share, before);
        let by_probes = log_ratio(probes, share, before);
        let clear = rules.clear + RAISED * f64::from(self.blocked);
        let wait = rules.wait[usize::from(share < URGENT)];
        let decision = if by_rescues >= rules.block || by_probes >= rules.block {
            Attribution::Blocked
        } else if by_rescues <= -clear || (by_probes <= -clear && by_rescues <= 0.0) {
            Attribution::Clear
        } else if now - since < wait {
            Attribution::Wait
        } else if by_rescues + by_probes > 0.0 || self.blocked > 0 {
            Attribution::Blocked
        } else {
            Attribution::Ambiguous
        };
        if decision == Attribution::Blocked {
            self.blocked += 1;
            self.asked_since = None;
        }
        decision
    }

    /// The release is no longer suspicious: the wait begins anew.
    pub const fn calm(&mut self) {
        self.asked_since = None;
    }
}

/// Log-likelihood ratio of "the old release fails like the new one does now" against "it works as
/// before". 0 when it was not asked.
#[must_use]
pub fn log_ratio(tally: Tally, share: f64, before: f64) -> f64 {
    if tally.asked == 0 {
        return 0.0;
    }
    let shared = share.clamp(1e-4, 0.95);
    let works = before.max(0.1 * shared).min(0.5 * shared);
    let failed = float(tally.failed);
    let answered = float(tally.asked - tally.failed.min(tally.asked));
    failed * (shared / works).ln() + answered * ((1.0 - shared) / (1.0 - works)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: GateRules = GateRules {
        clear: 3.0,
        block: 4.0,
        wait: [10.0, 30.0],
    };

    const fn tally(asked: u64, failed: u64) -> Tally {
        Tally { asked, failed }
    }

    #[test]
    fn an_old_release_that_answers_clears_the_way() {
        let mut gate = Gate::default();
        let none = Tally::default();
        let decision = gate.decide(1.0, &RULES, 1.0, 0.001, tally(2, 0), none);
        assert_eq!(decision, Attribution::Clear);
        let decision = gate.decide(1.0, &RULES, 1.0, 0.001, none, tally(2, 0));
        assert_eq!(decision, Attribution::Clear);
    }

    #[test]
    fn an_old_release_that_fails_too_blocks_it_and_raises_the_bar() {
        let mut gate = Gate::default();
        let none = Tally::default();
        // At a share of one half, a failure is worth 2.3 nats and an answer 0.64.
        let mut decide = |rescues| gate.decide(1.0, &RULES, 0.5, 0.001, rescues, none);
        assert_eq!(decide(tally(1, 1)), Attribution::Wait);
        assert_eq!(decide(tally(5, 0)), Attribution::Clear);
        assert_eq!(decide(tally(2, 2)), Attribution::Blocked);
        assert_eq!(decide(tally(5, 0)), Attribution::Wait);
        assert_eq!(decide(tally(8, 0)), Attribution::Clear);
        assert_eq!(gate.blocked(), 1);
    }

    #[test]
    fn without_an_answer_it_waits_and_then_says_so() {
        let mut gate = Gate::default();
        let none = Tally::default();
        for (now, expected) in [(1.0, Attribution::Wait), (10.9, Attribution::Wait)] {
            assert_eq!(gate.decide(now, &RULES, 0.5, 0.0, none, none), expected);
        }
        let decision = gate.decide(11.0, &RULES, 0.5, 0.0, none, none);
        assert_eq!(decision, Attribution::Ambiguous);
        gate.calm();
        let decision = gate.decide(12.0, &RULES, 0.05, 0.0, none, none);
        assert_eq!(decision, Attribution::Wait);
    }
}
