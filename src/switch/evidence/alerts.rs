//! Rules of thumb that people know from their dashboards. They tell, and go back only where the
//! configuration says so: as triggers they are slow in the bad case and wrong in the good one.

use std::collections::VecDeque;

use super::Seen;
use super::baseline::float;
use crate::config::{RollbackRules, RuleAction};

/// Share of failures of the last minute.
const SERVER_ERRORS: (f64, f64) = (60.0, 0.01);
/// Share of requests over three times the p99 of before, of the last five minutes: more than one
/// in a hundred means that p99 is above that.
const P99: (f64, f64) = (300.0, 0.01);
/// Fewer than this are no rate.
const LEAST: u64 = 5;
/// Of the limit.
const MEMORY: f64 = 0.9;
/// Growth that reaches the limit within this many seconds, seen over as many as the second.
const MEMORY_GROWTH: (f64, f64) = (3600.0, 120.0);
/// Of the limit, for so many seconds.
const CPU: (f64, f64) = (0.9, 60.0);
/// Seconds that a probe takes, for so many seconds.
const HEALTH: (f64, f64) = (0.2, 10.0);

/// What a release uses of what it is allowed, 0–1 and above; `None`: no limit, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Memory.
    pub memory: Option<f64>,
    /// CPU.
    pub cpu: Option<f64>,
}

/// What the alerts look at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signs {
    /// Requests, and those that failed at the first attempt.
    pub requests: Seen,
    /// Requests that were timed, and those over three times the p99 of before.
    pub very_slow: Seen,
    /// The fullest container.
    pub usage: Usage,
    /// Seconds of the slowest health probe, the last of each upstream.
    pub probe: Option<f64>,
}

/// Which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// `server_errors`
    ServerErrors,
    /// `p99`
    P99,
    /// `memory`
    Memory,
    /// `cpu`
    Cpu,
    /// `health_latency`
    HealthLatency,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ServerErrors,
        Self::P99,
        Self::Memory,
        Self::Cpu,
        Self::HealthLatency,
    ];

    /// Its key in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerErrors => "server_errors",
            Self::P99 => "p99",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::HealthLatency => "health_latency",
        }
    }

    const fn action(self, rules: &RollbackRules) -> RuleAction {
        match self {
            Self::ServerErrors => rules.server_errors,
            Self::P99 => rules.p99,
            Self::Memory => rules.memory,
            Self::Cpu => rules.cpu,
            Self::HealthLatency => rules.health_latency,
        }
    }
}

/// A rule that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Which.
    pub rule: Rule,
    /// With the numbers, for people.
    pub what: String,
    /// Whether it is to undo the release.
    pub is_trigger: bool,
}

/// The memory of the rules during one watch.
#[derive(Clone, Debug)]
pub struct Alerts {
    rules: RollbackRules,
    requests: Window,
    very_slow: Window,
    memory: VecDeque<(f64, f64)>,
    cpu_since: Option<f64>,
    probe_since: Option<f64>,
    active: Vec<Alert>,
}

impl Alerts {
    /// At the cutover.
    #[must_use]
    pub fn new(rules: &RollbackRules) -> Self {
        Self {
            rules: rules.clone(),
            requests: Window::new(SERVER_ERRORS.0),
            very_slow: Window::new(P99.0),
            memory: VecDeque::new(),
            cpu_since: None,
            probe_since: None,
            active: Vec::new(),
        }
    }

    /// What holds now.
    #[must_use]
    pub fn active(&self) -> &[Alert] {
        &self.active
    }

    /// Takes in what was seen until `end`, in seconds since the cutover.
    pub fn tick(&mut self, end: f64, signs: &Signs) {
        self.requests.add(end, signs.requests);
        self.very_slow.add(end, signs.very_slow);
        if let Some(memory) = signs.usage.memory {
            self.memory.push_back((end, memory));
            while (self.memory.front()).is_some_and(|(at, _)| *at < end - MEMORY_GROWTH.1) {
                self.memory.pop_front();
            }
        }
        since(&mut self.cpu_since, end, signs.usage.cpu, CPU.0);
        since(&mut self.probe_since, end, signs.probe, HEALTH.0);
        let found = Rule::ALL.into_iter().filter_map(|rule| {
            let action = rule.action(&self.rules);
            if action == RuleAction::Off {
                return None;
            }
            Some(Alert {
                rule,
                what: self.holds(rule, end, signs)?,
                is_trigger: action == RuleAction::Rollback,
            })
        });
        self.active = found.collect();
    }

    fn holds(&self, rule: Rule, end: f64, signs: &Signs) -> Option<String> {
        match rule {
            Rule::ServerErrors => {
                let share = self.requests.share(end)?;
                (share > SERVER_ERRORS.1).then(|| {
                    format!(
                        "{:.1} % of the requests of the last minute failed",
                        100.0 * share
                    )
                })
            }
            Rule::P99 => {
                let share = self.very_slow.share(end)?;
                (share > P99.1).then(|| {
                    "p99 of the last five minutes is above three times what it was".to_owned()
                })
            }
            Rule::Memory => self.memory(signs.usage.memory?),
            Rule::Cpu => {
                let long = end - self.cpu_since? >= CPU.1;
                long.then(|| "CPU is above 90 % of its limit for a minute".to_owned())
            }
            Rule::HealthLatency => {
                let (long, probe) = (end - self.probe_since? >= HEALTH.1, signs.probe?);
                long.then(|| format!("health probes take {:.0} ms", 1e3 * probe))
            }
        }
    }

    fn memory(&self, now: f64) -> Option<String> {
        if now > MEMORY {
            return Some(format!("memory is at {:.0} % of its limit", 100.0 * now));
        }
        let (first, last) = (self.memory.front()?, self.memory.back()?);
        let seconds = last.0 - first.0;
        if seconds < 0.5 * MEMORY_GROWTH.1 {
            return None;
        }
        let left = (1.0 - now) / ((last.1 - first.1) / seconds);
        (left > 0.0 && left < MEMORY_GROWTH.0).then(|| {
            format!(
                "memory is at {:.0} % of its limit and grows so that it is there in {:.0} minutes",
                100.0 * now,
                (left / 60.0).max(1.0)
            )
        })
    }
}

/// Since when a value is above a limit.
fn since(since: &mut Option<f64>, now: f64, value: Option<f64>, limit: f64) {
    match value {
        Some(value) if value > limit => {
            since.get_or_insert(now);
        }
        Some(_) => *since = None,
        None => {}
    }
}

/// Counts of the last seconds, by the second.
#[derive(Clone, Debug)]
struct Window {
    seconds: f64,
    counts: VecDeque<(f64, Seen)>,
    sum: Seen,
}

impl Window {
    const fn new(seconds: f64) -> Self {
        Self {
            seconds,
            counts: VecDeque::new(),
            sum: Seen { all: 0, bad: 0 },
        }
    }

    fn add(&mut self, end: f64, seen: Seen) {
        self.sum += seen;
        match self.counts.back_mut() {
            Some((second, sum)) if *second >= end.floor() => *sum += seen,
            _ => self.counts.push_back((end.floor(), seen)),
        }
        while let Some((second, seen)) = self.counts.front()
            && *second < end - self.seconds
        {
            self.sum.all -= seen.all;
            self.sum.bad -= seen.bad;
            self.counts.pop_front();
        }
    }

    /// Once the window is full and says something.
    fn share(&self, end: f64) -> Option<f64> {
        let says = end >= self.seconds && self.sum.bad >= LEAST;
        says.then(|| float(self.sum.bad) / float(self.sum.all.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules that hold after `seconds` of the same signs.
    fn after(seconds: u32, rules: &RollbackRules, signs: impl Fn(f64) -> Signs) -> Vec<Alert> {
        let mut alerts = Alerts::new(rules);
        for tick in 1..=4 * seconds {
            let end = f64::from(tick) / 4.0;
            alerts.tick(end, &signs(end));
        }
        alerts.active().to_vec()
    }

    fn of(alerts: &[Alert]) -> Vec<Rule> {
        alerts.iter().map(|alert| alert.rule).collect()
    }

    #[test]
    fn a_minute_of_errors_is_told() {
        let signs = |_| Signs {
            requests: Seen { all: 50, bad: 1 },
            ..Signs::default()
        };
        let rules = RollbackRules::default();
        assert_eq!(of(&after(59, &rules, signs)), []);
        let found = after(61, &rules, signs);
        assert_eq!(of(&found), [Rule::ServerErrors]);
        assert!(found[0].what.starts_with("2.0 % of"), "{found:?}");
        assert!(!found[0].is_trigger);
        let trigger = RollbackRules {
            server_errors: RuleAction::Rollback,
            ..RollbackRules::default()
        };
        assert!(after(61, &trigger, signs)[0].is_trigger);
        let off = RollbackRules {
            server_errors: RuleAction::Off,
            ..RollbackRules::default()
        };
        assert_eq!(after(61, &off, signs), []);
        let fewer = |_| Signs {
            requests: Seen { all: 200, bad: 1 },
            ..Signs::default()
        };
        assert_eq!(after(300, &rules, fewer), []);
    }

    #[test]
    fn five_slow_minutes_are_told_and_forgotten_when_they_are_over() {
        let signs = |end: f64| Signs {
            very_slow: Seen {
                all: 50,
                bad: u64::from(end < 301.0),
            },
            ..Signs::default()
        };
        let rules = RollbackRules::default();
        assert_eq!(of(&after(299, &rules, signs)), []);
        assert_eq!(of(&after(301, &rules, signs)), [Rule::P99]);
        assert_eq!(of(&after(600, &rules, signs)), []);
    }

    #[test]
    fn memory_that_is_full_or_will_be_is_told() {
        let usage = |memory| {
            move |_| Signs {
                usage: Usage {
                    memory: Some(memory),
                    cpu: None,
                },
                ..Signs::default()
            }
        };
        let rules = RollbackRules::default();
        assert_eq!(of(&after(1, &rules, usage(0.91))), [Rule::Memory]);
        assert_eq!(of(&after(600, &rules, usage(0.89))), []);
        let grows = |each: f64| {
            move |end: f64| Signs {
                usage: Usage {
                    memory: Some(0.2 + each * end / 3600.0),
                    cpu: None,
                },
                ..Signs::default()
            }
        };
        let found = after(120, &rules, grows(2.0));
        assert_eq!(of(&found), [Rule::Memory]);
        assert!(found[0].what.contains("in 22 minutes"), "{found:?}");
        assert_eq!(of(&after(120, &rules, grows(0.5))), []);
        assert_eq!(of(&after(20, &rules, grows(2.0))), [], "too early to say");
    }

    #[test]
    fn cpu_and_slow_probes_are_told_when_they_last() {
        let rules = RollbackRules::default();
        let busy = |end: f64| Signs {
            usage: Usage {
                memory: None,
                cpu: Some(if (end - 40.0).abs() < 0.1 { 0.5 } else { 0.95 }),
            },
            ..Signs::default()
        };
        assert_eq!(of(&after(99, &rules, busy)), [], "a pause begins it anew");
        assert_eq!(of(&after(101, &rules, busy)), [Rule::Cpu]);
        let slow = |_| Signs {
            probe: Some(0.25),
            ..Signs::default()
        };
        assert_eq!(of(&after(9, &rules, slow)), []);
        let found = after(11, &rules, slow);
        assert_eq!(of(&found), [Rule::HealthLatency]);
        assert_eq!(found[0].what, "health probes take 250 ms");
    }
}
