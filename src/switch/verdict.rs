//! The verdict: whether a cutover is kept, from what was seen of it.
//!
//! Pure. [`plain`] is the form that only waits: the shortest watch, then enough requests, then
//! the longest watch. A statistical one is another [`Judge`]; the machine asks it at every
//! sample and bounds it by `observe_max` whatever it says.

use std::time::{Duration, Instant};

use super::driver::Traffic;
use super::record::Live;
use crate::model::{Color, Generation, ServiceName};

/// What is to be done with an observed cutover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Watch on. While held: the suspicion is over.
    Undecided,
    /// Keep it.
    Keep,
    /// Go back.
    RollBack {
        /// For the metric.
        cause: Cause,
        /// The numbers behind it, for people.
        reason: String,
    },
    /// Do neither and call a person: going back would not help or would do harm.
    Hold {
        /// Why, for people.
        reason: String,
    },
}

/// What made a rollback necessary; the `reason` label of its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too many failed requests.
    ErrorRate,
    /// Too slow.
    Latency,
    /// Probes of the new slot fail.
    Health,
    /// A container of the new slot died.
    Container,
    /// A person asked.
    Operator,
}

impl Cause {
    /// The value of the `reason` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::Latency => "latency",
            Self::Health => "health",
            Self::Container => "container",
            Self::Operator => "operator",
        }
    }
}

/// Decides about observed cutovers. Called four times a second of each observe, from one task.
pub trait Judge: Send + 'static {
    /// The verdict so far. A judge with memory tells cutovers apart by their generation.
    fn judge(&mut self, now: Instant, observation: &Observation) -> Verdict;
}

/// The judge that only waits: [`plain`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Judge for Plain {
    fn judge(&mut self, _now: Instant, observation: &Observation) -> Verdict {
        plain(observation)
    }
}

/// What was seen since a cutover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Of the new pools.
    pub generation: Generation,
    /// Since the cutover.
    pub elapsed: Duration,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// Time left to confirm it, where that was asked for; then it is undone.
    pub confirm_left: Option<Duration>,
    /// One entry for each service that moved.
    pub services: Vec<ServiceObservation>,
}

/// One service's part of an [`Observation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceObservation {
    /// The service.
    pub service: ServiceName,
    /// Its new color.
    pub color: Color,
    /// The pool that was live.
    pub from: Live,
    /// The pool that is.
    pub to: Live,
    /// What the new color answered since the cutover.
    pub new: Traffic,
    /// What the old color answered since the cutover.
    pub old: Traffic,
    /// Shortest watch.
    pub observe: Duration,
    /// Requests that the new color must have answered.
    pub observe_requests: u64,
    /// Longest watch.
    pub observe_max: Duration,
}

impl Observation {
    /// The shortest watch: the longest one that any service asks for.
    #[must_use]
    pub fn observe(&self) -> Duration {
        let each = self.services.iter().map(|service| service.observe);
        each.max().unwrap_or(Duration::ZERO)
    }

    /// The longest watch; never shorter than [`Observation::observe`].
    #[must_use]
    pub fn observe_max(&self) -> Duration {
        let each = self.services.iter().map(|service| service.observe_max);
        each.max().unwrap_or(Duration::ZERO).max(self.observe())
    }

    /// What all new colors answered together.
    #[must_use]
    pub fn seen(&self) -> Traffic {
        self.services
            .iter()
            .fold(Traffic::default(), |sum, service| Traffic {
                requests: sum.requests + service.new.requests,
                errors: sum.errors + service.new.errors,
            })
    }

    /// Requests asked for in all.
    #[must_use]
    pub fn needed(&self) -> u64 {
        let each = self.services.iter().map(|service| service.observe_requests);
        each.fold(0, u64::saturating_add)
    }
}

/// Keeps a cutover that was watched long enough: for `observe`, then until every service has
/// seen its `observe_requests`, at the latest at `observe_max`.
#[must_use]
pub fn plain(observation: &Observation) -> Verdict {
    let enough = observation
        .services
        .iter()
        .all(|service| service.new.requests >= service.observe_requests);
    let watched = observation.elapsed >= observation.observe();
    let longest = observation.elapsed >= observation.observe_max();
    if longest || (watched && enough) {
        Verdict::Keep
    } else {
        Verdict::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(elapsed: u64, requests: &[u64]) -> Observation {
        let services = requests
            .iter()
            .map(|requests| ServiceObservation {
                service: "web".into(),
                color: Color::Green,
                from: Live {
                    color: Color::Blue,
                    generation: Generation(1),
                },
                to: Live {
                    color: Color::Green,
                    generation: Generation(2),
                },
                new: Traffic {
                    requests: *requests,
                    errors: 0,
                },
                old: Traffic::default(),
                observe: Duration::from_secs(60),
                observe_requests: 100,
                observe_max: Duration::from_secs(600),
            })
            .collect();
        Observation {
            generation: Generation(2),
            elapsed: Duration::from_secs(elapsed),
            held: None,
            confirm_left: None,
            services,
        }
    }

    #[test]
    fn nothing_is_kept_before_the_shortest_watch() {
        assert_eq!(plain(&seen(59, &[1_000_000])), Verdict::Undecided);
        assert_eq!(plain(&seen(60, &[100])), Verdict::Keep);
    }

    #[test]
    fn too_few_requests_of_one_service_extend_the_watch() {
        assert_eq!(plain(&seen(60, &[1_000, 99])), Verdict::Undecided);
        assert_eq!(plain(&seen(60, &[1_000, 100])), Verdict::Keep);
    }

    #[test]
    fn the_longest_watch_ends_it() {
        assert_eq!(plain(&seen(599, &[0])), Verdict::Undecided);
        assert_eq!(plain(&seen(600, &[0])), Verdict::Keep);
    }
}
