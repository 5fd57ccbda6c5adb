//! From single probes to a state: so many passes in a row up, so many failures in a row down.
//!
//! Pure. One [`Tracker`] per upstream; a run of equal outcomes counts, the other outcome ends it.

use std::time::{Duration, Instant};

use crate::pool::{Availability, ProbeRecord};

/// Thresholds and what was seen so far of one upstream.
#[derive(Clone, Debug)]
pub struct Tracker {
    rise: u32,
    fall: u32,
    passes: u32,
    failures: u32,
    record: ProbeRecord,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before the probe.
    pub from: Availability,
    /// After it; always another one.
    pub to: Availability,
}

impl Tracker {
    /// Nothing seen yet. `rise` passes in a row make it healthy, `fall` failures in a row down;
    /// zero counts as one.
    #[must_use]
    pub fn new(rise: u32, fall: u32) -> Self {
        Self::resume(
            rise,
            fall,
            ProbeRecord {
                state: Availability::Unknown,
                reason: None,
                latency: None,
                at: None,
                passes: 0,
            },
        )
    }

    /// Goes on from `record`, possibly with other thresholds; the run in progress starts anew.
    #[must_use]
    pub fn resume(rise: u32, fall: u32, record: ProbeRecord) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            passes: 0,
            failures: 0,
            record,
        }
    }

    /// Counts a probe that ended at `now`: how long it took, or why it failed.
    pub fn observe(
        &mut self,
        now: Instant,
        outcome: Result<Duration, String>,
    ) -> Option<Transition> {
        let from = self.record.state;
        self.record.at = Some(now);
        match outcome {
            Ok(latency) => {
                self.failures = 0;
                self.passes = self.passes.saturating_add(1);
                self.record.passes = self.record.passes.saturating_add(1);
                self.record.latency = Some(latency);
                if self.passes >= self.rise {
                    self.record.state = Availability::Healthy;
                }
            }
            Err(reason) => {
                self.passes = 0;
                self.record.passes = 0;
                self.failures = self.failures.saturating_add(1);
                self.record.reason = Some(reason);
                if self.failures >= self.fall {
                    self.record.state = Availability::Down;
                }
            }
        }
        let to = self.record.state;
        (from != to).then_some(Transition { from, to })
    }

    /// Whether the next probes should come soon: the state is not known yet, or it is down and
    /// began to pass. A run of failures is not hurried, or a short stall would count `fall` times.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        match self.record.state {
            Availability::Unknown => true,
            Availability::Down => self.passes > 0,
            Availability::Healthy => false,
        }
    }

    /// State, last reason and last latency.
    #[must_use]
    pub fn record(&self) -> &ProbeRecord {
        &self.record
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const FAST: Duration = Duration::from_millis(3);

    fn pass(tracker: &mut Tracker) -> Option<Availability> {
        let transition = tracker.observe(clock::now(), Ok(FAST));
        transition.map(|transition| transition.to)
    }

    fn fail(tracker: &mut Tracker) -> Option<Availability> {
        let transition = tracker.observe(clock::now(), Err("connection refused".into()));
        transition.map(|transition| transition.to)
    }

    #[test]
    fn one_pass_is_not_enough_unless_rise_is_one() {
        let mut tracker = Tracker::new(2, 3);
        assert_eq!(pass(&mut tracker), None);
        assert_eq!(tracker.record().state, Availability::Unknown);
        assert_eq!(pass(&mut tracker), Some(Availability::Healthy));
        assert_eq!(
            pass(&mut Tracker::new(1, 3)),
            Some(Availability::Healthy),
            "rise = 1"
        );
    }

    #[test]
    fn a_failure_in_between_starts_the_count_anew() {
        let mut tracker = Tracker::new(2, 2);
        assert_eq!(pass(&mut tracker), None);
        assert_eq!(fail(&mut tracker), None);
        assert_eq!(pass(&mut tracker), None);
        assert_eq!(pass(&mut tracker), Some(Availability::Healthy));
        assert_eq!(fail(&mut tracker), None);
        assert_eq!(pass(&mut tracker), None);
        assert_eq!(fail(&mut tracker), None);
        assert_eq!(fail(&mut tracker), Some(Availability::Down));
    }

    #[test]
    fn reason_and_latency_outlive_the_probe_that_brought_them() {
        let mut tracker = Tracker::new(1, 1);
        fail(&mut tracker);
        pass(&mut tracker);
        let record = tracker.record();
        assert_eq!(record.state, Availability::Healthy);
        assert_eq!(record.reason.as_deref(), Some("connection refused"));
        assert_eq!(record.latency, Some(FAST));
        assert!(record.at.is_some());
    }

    #[test]
    fn new_thresholds_keep_the_state_and_restart_the_run() {
        let mut tracker = Tracker::new(1, 3);
        pass(&mut tracker);
        fail(&mut tracker);
        fail(&mut tracker);
        let mut tracker = Tracker::resume(1, 2, tracker.record().clone());
        assert_eq!(tracker.record().state, Availability::Healthy);
        assert_eq!(fail(&mut tracker), None);
        assert_eq!(fail(&mut tracker), Some(Availability::Down));
    }

    #[test]
    fn only_what_can_soon_become_healthy_is_hurried() {
        let mut tracker = Tracker::new(2, 1);
        assert!(tracker.is_settling(), "unknown");
        fail(&mut tracker);
        assert!(!tracker.is_settling(), "down");
        pass(&mut tracker);
        assert!(tracker.is_settling(), "down, began to pass");
        pass(&mut tracker);
        assert!(!tracker.is_settling(), "healthy");
    }

    /// What the thresholds mean, said over the whole history: the state is what the newest run
    /// of at least `rise` passes or `fall` failures says.
    fn state_by_history(rise: usize, fall: usize, history: &[bool]) -> Availability {
        for end in (1..=history.len()).rev() {
            let seen = &history[..end];
            if seen.len() >= rise && seen[end - rise..].iter().all(|passed| *passed) {
                return Availability::Healthy;
            }
            if seen.len() >= fall && seen[end - fall..].iter().all(|passed| !passed) {
                return Availability::Down;
            }
        }
        Availability::Unknown
    }

    proptest! {
        #[test]
        fn the_state_is_what_the_newest_long_enough_run_says(
            rise in 1_u32..5,
            fall in 1_u32..5,
            history in proptest::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut tracker = Tracker::new(rise, fall);
            let mut state = Availability::Unknown;
            for (index, passed) in history.iter().enumerate() {
                let transition = if *passed {
                    tracker.observe(clock::now(), Ok(FAST))
                } else {
                    tracker.observe(clock::now(), Err(index.to_string()))
                };
                let expected =
                    state_by_history(rise as usize, fall as usize, &history[..=index]);
                let step = (state != expected).then_some(Transition { from: state, to: expected });
                prop_assert_eq!(transition, step);
                prop_assert_eq!(tracker.record().state, expected);
                state = expected;
            }
            let last_failure = history.iter().rposition(|passed| !passed);
            prop_assert_eq!(
                tracker.record().reason.clone(),
                last_failure.map(|index| index.to_string())
            );
        }
    }
}
