//! One service's new release under watch: both tests, the hard rules, the gate, one decision.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::alerts::{Alert, Alerts, Rule, Signs, Usage};
use super::attribution::{Attribution, Gate, GateRules, Tally};
use super::baseline::float;
use super::numeric::log_sum;
use super::{EProcess, EProcessRules, Ecusum, Limit, Shares};
use crate::config::{AfterAction, Rollback, RuleAction};
use crate::switch::verdict::Cause;

/// Log-evidence from which a release is suspicious: twenty to one.
const SUSPICIOUS: f64 = 2.995_732_273_553_991;

/// The rule that needs no statistics: that many seconds, requests and that share of failures.
const ABSOLUTE: (f64, u64, f64) = (3.0, 20, 0.5);

/// Requests that fail on both releases: how many within the same seconds, and which share of all,
/// are a shared cause.
const LEAST_ON_BOTH: u64 = 10;
const ON_BOTH: f64 = 0.1;

/// A baseline with a higher failure rate than this has no automatic rollback.
const HOPELESS: f64 = 0.2;

/// Counts of one kind of observation in a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Observations.
    pub all: u64,
    /// Those that speak against the release.
    pub bad: u64,
}

/// What the old release was asked for the gate's sake, in each respect that a release can fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Server errors, and no answer at all.
    pub failures: Tally,
    /// Slower than the limit that the new release is held to.
    pub slow: Tally,
    /// Client errors.
    pub client_errors: Tally,
}

/// Whether the old release could take over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Predecessor {
    /// It passed its last probes.
    #[default]
    Works,
    /// A probe failed just now.
    Unsure,
    /// It is down.
    Dead,
}

/// What happened in a tick.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tick {
    /// Its end, in seconds after the cutover.
    pub end: f64,
    /// First attempts on the new release and those that failed; not those that the old release
    /// failed as well.
    pub requests: Seen,
    /// Those that failed on both.
    pub both_failed: u64,
    /// Failures that the old release was asked to answer.
    pub rescues: Tally,
    /// Probes that the old release was asked, and how it did in each respect.
    pub probes: Probed,
    /// Requests over the limit of each latency quantile, in the order of the rules.
    pub slow: Vec<Seen>,
    /// Client errors on routes that were good before.
    pub client_errors: Seen,
    /// Requests that were timed, and those over three times the p99 of before.
    pub very_slow: Seen,
    /// What the containers use.
    pub usage: Usage,
    /// Seconds of the slowest health probe of the new release.
    pub probe: Option<f64>,
    /// Whether going back is possible.
    pub old: Predecessor,
    /// A rule that needs no counts: probes of the new release failed in a row, or its container
    /// died.
    pub hard: Option<(Cause, String)>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing is known against the release.
    Watch,
    /// Something is, not enough: probe the old release.
    Suspect,
    /// Go back now.
    RollBack {
        /// What found it.
        cause: Cause,
        /// For people, with the numbers.
        why: String,
    },
    /// Do not go back, call a person.
    Hold {
        /// For people.
        why: String,
    },
}

/// The numbers behind a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Numbers {
    /// ln of the evidence of the slow test.
    pub log_e: f64,
    /// Its threshold.
    pub log_e_needed: f64,
    /// Value of the fast test, in nats.
    pub w: f64,
    /// Its threshold.
    pub w_needed: f64,
    /// First attempts on the new release so far.
    pub requests: u64,
    /// Failures among them.
    pub failures: u64,
    /// What the old release was asked of them and failed too.
    pub rescues: Tally,
    /// Probes of the old release.
    pub probes: Tally,
}

/// The limits that a watch holds a release to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Of failures.
    pub failures: Limit,
    /// Of requests over the latency of each quantile; empty: nothing is known of latency.
    pub slow: Vec<f64>,
    /// Of client errors on routes that were good; `None`: there were none.
    pub client_errors: Option<f64>,
}

/// A release under watch.
#[derive(Clone, Debug)]
pub struct Watch {
    rules: Rollback,
    gate_rules: GateRules,
    limit: Limit,
    slow: EProcess,
    fast: Ecusum,
    latency: Vec<EProcess>,
    latency_needed: f64,
    client_errors: Option<EProcess>,
    gate: Gate,
    total: Seen,
    users: u64,
    since_suspicion: Suspicion,
    /// First attempts of the last seconds, and those that failed on both.
    recent: VecDeque<(f64, Seen, u64)>,
    alerts: Alerts,
    held: bool,
    shown: Option<Numbers>,
}

/// What was seen since suspicion began.
#[derive(Clone, Copy, Debug, Default)]
struct Suspicion {
    requests: Seen,
    slow: Seen,
    client_errors: Seen,
    rescues: Tally,
    probes: Probed,
}

/// What a release was found to do worse than its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails requests.
    Failures,
    /// It is slow.
    Slow,
    /// It refuses requests that it should know.
    ClientErrors,
    /// It is down.
    Hard(Cause),
}

impl Fault {
    const fn cause(self) -> Cause {
        match self {
            Self::Failures | Self::ClientErrors => Cause::ErrorRate,
            Self::Slow => Cause::Latency,
            Self::Hard(cause) => cause,
        }
    }
}

impl Watch {
    /// Begins at the cutover. `horizon`: seconds of the longest watch.
    #[must_use]
    pub fn new(rules: &Rollback, limits: &Limits, horizon: f64) -> Self {
        let shares = Shares::of(rules.alpha);
        let process = |limit: f64, alpha: f64, first_start: f64| {
            let rules = EProcessRules {
                alpha,
                alternatives: rules.errors.alternatives,
                restart_every: rules.errors.restart_every.as_secs_f64(),
                min_bad_seconds: rules.errors.min_bad_seconds,
                first_start,
                horizon,
            };
            EProcess::new(limit, rules)
        };
        let warmup = rules.latency.warmup.as_secs_f64();
        Self {
            gate_rules: GateRules {
                clear: rules.gate.clear,
                block: rules.gate.block,
                wait: rules.gate.wait.map(|wait| wait.as_secs_f64()),
            },
            limit: limits.failures,
            slow: process(limits.failures.rate, shares.slow, 0.0),
            fast: Ecusum::new(
                limits.failures.rate,
                rules.fast.q,
                shares.fast,
                horizon,
                rules.fast.min_span.as_secs_f64(),
            ),
            latency: limits
                .slow
                .iter()
                .map(|limit| process(*limit, shares.latency, warmup))
                .collect(),
            latency_needed: shares.latency.recip().ln(),
            client_errors: limits
                .client_errors
                .map(|limit| process(limit, shares.client_errors, 0.0)),
            gate: Gate::default(),
            total: Seen::default(),
            users: 0,
            since_suspicion: Suspicion::default(),
            recent: VecDeque::new(),
            alerts: Alerts::new(&rules.rules),
            held: false,
            shown: None,
            rules: rules.clone(),
        }
    }

    /// Takes in a tick and decides.
    pub fn tick(&mut self, tick: &Tick) -> Decision {
        self.count(tick);
        let numbers = self.now();
        self.shown = Some(numbers);
        let suspicious = numbers.w >= 0.5 * numbers.w_needed
            || [
                Some(numbers.log_e),
                self.latency_evidence(),
                self.client_error_evidence(),
            ]
            .into_iter()
            .flatten()
            .any(|evidence| evidence >= SUSPICIOUS);
        if suspicious {
            self.since_suspicion.add(tick);
        } else {
            self.since_suspicion = Suspicion::default();
            self.gate.calm();
        }
        let Some((fault, what)) = self.found(tick, &numbers) else {
            if let Some(why) = self.fails_on_both(tick) {
                return Decision::Hold { why };
            }
            return if suspicious {
                Decision::Suspect
            } else {
                Decision::Watch
            };
        };
        self.decide(tick, fault, &what)
    }

    /// The numbers of the last tick, as they were when it was decided: a shared cause takes the
    /// evidence with it.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.shown.unwrap_or_else(|| self.now())
    }

    fn now(&self) -> Numbers {
        Numbers {
            log_e: self.slow.log_evidence(),
            log_e_needed: self.slow.threshold(),
            w: self.fast.value(),
            w_needed: self.fast.threshold(),
            requests: self.total.all,
            failures: self.total.bad,
            rescues: self.since_suspicion.rescues,
            probes: self.since_suspicion.probes.failures,
        }
    }

    fn count(&mut self, tick: &Tick) {
        let successes = |seen: Seen| seen.all.saturating_sub(seen.bad);
        self.total.all += tick.requests.all;
        self.total.bad += tick.requests.bad;
        let rescued = tick.rescues.asked.saturating_sub(tick.rescues.failed);
        self.users += (tick.requests.bad + tick.both_failed).saturating_sub(rescued);
        self.slow
            .tick(tick.end, successes(tick.requests), tick.requests.bad);
        self.fast
            .tick(tick.end, successes(tick.requests), tick.requests.bad);
        for (process, seen) in self.latency.iter_mut().zip(&tick.slow) {
            process.tick(tick.end, successes(*seen), seen.bad);
        }
        if let Some(process) = &mut self.client_errors {
            let seen = tick.client_errors;
            process.tick(tick.end, successes(seen), seen.bad);
        }
        self.alerts.tick(
            tick.end,
            &Signs {
                requests: Seen {
                    all: tick.requests.all + tick.both_failed,
                    bad: tick.requests.bad + tick.both_failed,
                },
                very_slow: tick.very_slow,
                usage: tick.usage,
                probe: tick.probe,
            },
        );
        self.recent
            .push_back((tick.end, tick.requests, tick.both_failed));
        while let Some((end, ..)) = self.recent.front()
            && *end <= tick.end - ABSOLUTE.0
        {
            self.recent.pop_front();
        }
    }

    /// Which rule speaks for a rollback.
    fn found(&self, tick: &Tick, numbers: &Numbers) -> Option<(Fault, String)> {
        if let Some((cause, what)) = &tick.hard {
            return Some((Fault::Hard(*cause), what.clone()));
        }
        if self.limit.requests > 0 && self.limit.bound > HOPELESS && self.observed() > HOPELESS {
            return None;
        }
        let enough = self.total.bad >= self.rules.errors.min_errors;
        let before = format!(
            "before: {} of {} (limit {:.2} %)",
            self.limit.failures,
            self.limit.requests,
            100.0 * self.limit.rate
        );
        let failed = || {
            format!(
                "{} of {} requests failed ({:.1} %); {before}",
                self.total.bad,
                self.total.all,
                100.0 * float(self.total.bad) / float(self.total.all.max(1)),
            )
        };
        if enough && (numbers.log_e >= numbers.log_e_needed || self.fast.is_enough()) {
            let evidence = numbers.log_e.max(numbers.w);
            let needed = if numbers.log_e >= numbers.log_e_needed {
                numbers.log_e_needed
            } else {
                numbers.w_needed
            };
            let why = format!(
                "{}; evidence {}:1 (needed {}:1)",
                failed(),
                odds(evidence),
                odds(needed)
            );
            return Some((Fault::Failures, why));
        }
        if let Some(why) = self.absolute(tick, &before) {
            return Some((Fault::Failures, why));
        }
        if let Some(evidence) = self.latency_evidence()
            && evidence >= self.latency_needed
        {
            let why = format!(
                "more requests are slow than before allows; evidence {}:1 (needed {}:1)",
                odds(evidence),
                odds(self.latency_needed)
            );
            return Some((Fault::Slow, why));
        }
        if let Some(process) = &self.client_errors
            && process.log_evidence() >= process.threshold()
        {
            let why = format!(
                "routes that worked before answer with client errors; evidence {}:1 (needed {}:1)",
                odds(process.log_evidence()),
                odds(process.threshold())
            );
            return Some((Fault::ClientErrors, why));
        }
        let trigger = self.alerts.active().iter().find(|alert| alert.is_trigger)?;
        let fault = match trigger.rule {
            Rule::ServerErrors => Fault::Failures,
            Rule::P99 => Fault::Slow,
            Rule::Memory | Rule::Cpu => Fault::Hard(Cause::Container),
            Rule::HealthLatency => Fault::Hard(Cause::Health),
        };
        Some((fault, trigger.what.clone()))
    }

    /// What failed of the last seconds: requests, those that failed, those that failed on both.
    fn latest(&self) -> (Seen, u64) {
        let mut sum = (Seen::default(), 0);
        for (_, seen, both_failed) in &self.recent {
            sum.0 += *seen;
            sum.1 += both_failed;
        }
        sum
    }

    fn absolute(&self, tick: &Tick, before: &str) -> Option<String> {
        let (latest, _) = self.latest();
        let holds = self.rules.rules.absolute == RuleAction::Rollback
            && latest.all >= ABSOLUTE.1
            && float(latest.bad) >= ABSOLUTE.2 * float(latest.all)
            && tick.end >= self.rules.fast.min_span.as_secs_f64();
        holds.then(|| {
            format!(
                "{} of the last {} requests failed; {before}",
                latest.bad, latest.all
            )
        })
    }

    /// A shared outage takes the evidence with it: what fails on both is held against nobody.
    fn fails_on_both(&mut self, tick: &Tick) -> Option<String> {
        let (latest, both) = self.latest();
        let all = latest.all + both;
        let holds = both >= self.rules.errors.min_errors.max(LEAST_ON_BOTH)
            && float(both) >= ON_BOTH.max(self.limit.rate) * float(all);
        if !holds || self.rules.after.on_shared == AfterAction::Commit {
            return None;
        }
        self.recent.clear();
        Some(if tick.old != Predecessor::Dead {
            format!("shared cause: {both} of the last {all} requests failed on both releases")
        } else {
            format!(
                "{both} of the last {all} requests failed; the old release does not answer, so going back would not help"
            )
        })
    }

    /// The rules of thumb that hold now.
    #[must_use]
    pub fn alerts(&self) -> &[Alert] {
        self.alerts.active()
    }

    fn decide(&mut self, tick: &Tick, fault: Fault, what: &str) -> Decision {
        let hold = |why: String| Decision::Hold { why };
        if self.rules.r#unsafe {
            return hold(format!(
                "{what}; the release is marked as one that cannot be undone"
            ));
        }
        match (tick.old, self.rules.after.on_old_dead) {
            (Predecessor::Works, _) => {}
            // The next probes will tell.
            (Predecessor::Unsure, _) => return Decision::Suspect,
            (Predecessor::Dead, AfterAction::Commit) => return Decision::Watch,
            (Predecessor::Dead, AfterAction::Hold | AfterAction::Rollback) => {
                return hold(format!(
                    "{what}; the old release does not answer, so going back would not help"
                ));
            }
        }
        let cause = fault.cause();
        match self.attribute(tick.end, fault) {
            Attribution::Clear => Decision::RollBack {
                cause,
                why: self.told(fault, what),
            },
            Attribution::Wait => Decision::Suspect,
            Attribution::Blocked => self.blocked(fault, what),
            Attribution::Ambiguous => match self.rules.after.on_ambiguous {
                AfterAction::Rollback => Decision::RollBack {
                    cause,
                    why: self.told(fault, what),
                },
                AfterAction::Hold => hold(format!(
                    "{what}; nothing says whether the old release would do better"
                )),
                AfterAction::Commit => Decision::Watch,
            },
        }
    }

    /// Asks the gate, in the respect in which the release was found to be worse.
    fn attribute(&mut self, now: f64, fault: Fault) -> Attribution {
        let since = self.since_suspicion;
        let share = |seen: Seen| float(seen.bad) / float(seen.all.max(1));
        // Rescues are of failed requests alone.
        let (share, before, rescues) = match fault {
            Fault::Hard(_) => return Attribution::Clear,
            Fault::Failures => (share(since.requests), self.observed(), since.rescues),
            Fault::Slow => (share(since.slow), 0.0, Tally::default()),
            Fault::ClientErrors => (share(since.client_errors), 0.0, Tally::default()),
        };
        let (rules, probes) = (&self.gate_rules, since.probes.of(fault));
        self.gate.decide(now, rules, share, before, rescues, probes)
    }

    /// A shared cause: the evidence is dropped and collected anew.
    fn blocked(&mut self, fault: Fault, what: &str) -> Decision {
        let why = format!("shared cause: {what}; {}", self.asked(fault));
        let cause = fault.cause();
        self.slow.forget();
        self.fast.forget();
        for process in self.latency.iter_mut().chain(&mut self.client_errors) {
            process.forget();
        }
        self.since_suspicion = Suspicion::default();
        self.recent.clear();
        self.held = true;
        match self.rules.after.on_shared {
            AfterAction::Hold => Decision::Hold { why },
            AfterAction::Rollback => Decision::RollBack { cause, why },
            AfterAction::Commit => Decision::Watch,
        }
    }

    fn told(&self, fault: Fault, what: &str) -> String {
        let users = match self.users {
            0 => "no user saw an error".to_owned(),
            1 => "1 user saw an error".to_owned(),
            users => format!("{users} users saw an error"),
        };
        format!("{what}; {}; {users}", self.asked(fault))
    }

    fn asked(&self, fault: Fault) -> String {
        let Suspicion {
            rescues, probes, ..
        } = self.since_suspicion;
        let probes = probes.of(fault);
        let well = |tally: Tally| tally.asked.saturating_sub(tally.failed);
        if fault == Fault::Failures && rescues.asked > 0 {
            format!(
                "the old release answered {} of {} of the same requests",
                well(rescues),
                rescues.asked
            )
        } else if probes.asked > 0 {
            let (well, asked) = (well(probes), probes.asked);
            let in_time = if fault == Fault::Slow { " in time" } else { "" };
            format!("the old release answered {well} of {asked} probes{in_time}")
        } else {
            "the old release was not asked".to_owned()
        }
    }

    /// Failure rate of the baseline.
    fn observed(&self) -> f64 {
        float(self.limit.failures) / float(self.limit.requests.max(1))
    }

    /// The mean of the e-processes over latency, which is one as well.
    fn latency_evidence(&self) -> Option<f64> {
        if self.latency.is_empty() {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "two quantiles")]
        let count = self.latency.len() as f64;
        let sum = log_sum(self.latency.iter().map(EProcess::log_evidence));
        Some(sum - count.ln())
    }

    fn client_error_evidence(&self) -> Option<f64> {
        self.client_errors.as_ref().map(EProcess::log_evidence)
    }
}

impl Probed {
    const fn of(&self, fault: Fault) -> Tally {
        match fault {
            Fault::Failures | Fault::Hard(_) => self.failures,
            Fault::Slow => self.slow,
            Fault::ClientErrors => self.client_errors,
        }
    }
}

impl std::ops::AddAssign for Probed {
    fn add_assign(&mut self, more: Self) {
        self.failures += more.failures;
        self.slow += more.slow;
        self.client_errors += more.client_errors;
    }
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, more: Self) {
        self.all += more.all;
        self.bad += more.bad;
    }
}

impl Suspicion {
    fn add(&mut self, tick: &Tick) {
        self.requests.all += tick.requests.all + tick.both_failed;
        self.requests.bad += tick.requests.bad + tick.both_failed;
        // Of the quantiles the first has the most to say.
        self.slow += tick.slow.first().copied().unwrap_or_default();
        self.client_errors += tick.client_errors;
        self.rescues += tick.rescues;
        self.probes += tick.probes;
    }
}

/// Evidence as the first number of `n:1`.
fn odds(log: f64) -> String {
    if log > 23.0 {
        return "10,000,000,000".to_owned();
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below 10^10"
    )]
    let whole = log.exp().round() as u64;
    let digits = whole.to_string();
    let mut shown = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::evidence::{Baseline, LimitRules, Part};

    const TICK: f64 = 0.25;

    struct World {
        watch: Watch,
        end: f64,
        random: fastrand::Rng,
    }

    impl World {
        /// After a baseline of 100,000 requests with that failure rate.
        fn new(seed: u64, baseline: f64) -> Self {
            Self::with(seed, baseline, &Rollback::default())
        }

        fn with(seed: u64, baseline: f64, rules: &Rollback) -> Self {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let failures = (baseline * 100_000.0) as u64;
            let part = |at: u64| Part {
                requests: 100_000 / 50,
                failures: failures * (at + 1) / 50 - failures * at / 50,
            };
            let baseline = Baseline {
                parts: (0..50).map(part).collect(),
                short: false,
            };
            let limits = Limits {
                failures: baseline.limit(&LimitRules {
                    ratio: 1.5,
                    floor: 0.005,
                    without_baseline: 0.1,
                    alpha: 2e-5,
                }),
                slow: vec![0.15, 0.02],
                client_errors: Some(0.01),
            };
            Self {
                watch: Watch::new(rules, &limits, 1800.0),
                end: 0.0,
                random: fastrand::Rng::with_seed(seed),
            }
        }

        fn binomial(&mut self, count: u64, rate: f64) -> u64 {
            (0..count)
                .map(|_| u64::from(self.random.f64() < rate))
                .sum()
        }

        /// One tick; `rate` requests a second of which 70 % can be rescued.
        fn tick(&mut self, rate: u64, bad: f64, old: f64) -> Decision {
            self.end += TICK;
            let requests = rate / 4;
            let failed = self.binomial(requests, bad);
            let asked = self.binomial(failed, 0.7);
            let both = self.binomial(asked, old);
            let tick = Tick {
                end: self.end,
                requests: Seen {
                    all: requests - both,
                    bad: failed - both,
                },
                both_failed: both,
                rescues: Tally {
                    asked,
                    failed: both,
                },
                ..Tick::default()
            };
            self.watch.tick(&tick)
        }

        /// The first decision that is more than suspicion, and when.
        fn run(&mut self, seconds: u64, rate: u64, bad: f64, old: f64) -> Option<(f64, Decision)> {
            (0..4 * seconds).find_map(|_| match self.tick(rate, bad, old) {
                Decision::Watch | Decision::Suspect => None,
                decision => Some((self.end, decision)),
            })
        }
    }

    #[test]
    fn a_release_that_fails_everything_is_undone_after_one_second() {
        let (end, decision) = World::new(1, 0.001)
            .run(60, 200, 1.0, 0.001)
            .expect("decided");
        assert!((end - 1.0).abs() < 0.3, "{end}");
        let Decision::RollBack { cause, why } = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(cause, Cause::ErrorRate);
        assert!(
            why.contains("requests failed (100.0 %); before: 100 of 100000"),
            "{why}"
        );
        assert!(why.contains("of the same requests"), "{why}");
    }

    #[test]
    fn one_failure_in_twenty_is_undone_within_seconds() {
        for seed in 0..20 {
            let found = World::new(seed, 0.001).run(60, 200, 0.05, 0.001);
            let (end, decision) = found.expect("decided");
            assert!(
                matches!(decision, Decision::RollBack { .. }),
                "{decision:?}"
            );
            assert!(end < 15.0, "seed {seed}: {end} s");
        }
    }

    #[test]
    fn a_shared_outage_is_held_and_what_follows_is_watched_on() {
        let mut world = World::new(2, 0.001);
        let (_, decision) = world.run(30, 200, 0.9, 0.9).expect("decided");
        let Decision::Hold { why } = decision else {
            panic!("{decision:?}");
        };
        assert!(why.starts_with("shared cause: "), "{why}");
        // The end of the outage: nothing is left of the evidence.
        assert_eq!(world.tick(200, 0.0, 0.0), Decision::Watch);
        assert_eq!(world.run(60, 200, 0.0005, 0.0), None);
    }

    #[test]
    fn healthy_releases_are_left_alone() {
        for seed in 0..40 {
            let found = World::new(seed, 0.01).run(300, 40, 0.01, 0.01);
            assert_eq!(found, None, "seed {seed}");
        }
    }

    #[test]
    fn an_outage_of_everything_is_held_although_it_leaves_no_evidence() {
        let mut world = World::new(9, 0.0);
        let (end, decision) = (1..40)
            .find_map(|_| {
                world.end += TICK;
                let decision = world.watch.tick(&Tick {
                    end: world.end,
                    both_failed: 20,
                    rescues: Tally {
                        asked: 20,
                        failed: 20,
                    },
                    ..Tick::default()
                });
                match decision {
                    Decision::Watch | Decision::Suspect => None,
                    decision => Some((world.end, decision)),
                }
            })
            .expect("decided");
        assert!(end <= 1.0, "{end}");
        assert_eq!(
            decision,
            Decision::Hold {
                why: "shared cause: 20 of the last 20 requests failed on both releases".to_owned()
            }
        );
    }

    #[test]
    fn a_rule_of_thumb_undoes_a_release_only_where_it_is_told_to() {
        for (action, undone) in [(RuleAction::Alert, false), (RuleAction::Rollback, true)] {
            let mut rules = Rollback::default();
            rules.rules.memory = action;
            let mut world = World::with(10, 0.0, &rules);
            let decision = world.watch.tick(&Tick {
                end: TICK,
                usage: Usage {
                    memory: Some(0.95),
                    cpu: None,
                },
                ..Tick::default()
            });
            let is_undone = matches!(decision, Decision::RollBack { .. });
            assert_eq!(is_undone, undone, "{decision:?}");
            assert_eq!(world.watch.alerts().len(), 1);
        }
    }

    #[test]
    fn a_release_that_cannot_be_undone_is_held() {
        let rules = Rollback {
            r#unsafe: true,
            ..Rollback::default()
        };
        let (_, decision) = World::with(3, 0.0, &rules)
            .run(60, 200, 1.0, 0.0)
            .expect("decided");
        assert!(matches!(decision, Decision::Hold { .. }), "{decision:?}");
    }

    #[test]
    fn nothing_goes_back_to_an_old_release_that_does_not_answer() {
        let mut world = World::new(4, 0.0);
        let decisions = (1..40).map(|at| {
            world.watch.tick(&Tick {
                end: f64::from(at) * TICK,
                requests: Seen { all: 50, bad: 50 },
                old: Predecessor::Dead,
                ..Tick::default()
            })
        });
        let decisions: Vec<_> = decisions.collect();
        assert!(decisions.iter().any(|d| matches!(d, Decision::Hold { .. })));
        assert!(
            !decisions
                .iter()
                .any(|d| matches!(d, Decision::RollBack { .. }))
        );
    }

    #[test]
    fn a_dead_container_needs_no_counts() {
        let mut world = World::new(5, 0.0);
        let decision = world.watch.tick(&Tick {
            end: TICK,
            hard: Some((
                Cause::Container,
                "web-green-1 was killed for memory".to_owned(),
            )),
            ..Tick::default()
        });
        assert!(
            matches!(
                decision,
                Decision::RollBack {
                    cause: Cause::Container,
                    ..
                }
            ),
            "{decision:?}"
        );
    }

    #[test]
    fn slow_requests_and_client_errors_are_found_too() {
        for (slow, client_errors, expected) in [(30, 0, Cause::Latency), (0, 25, Cause::ErrorRate)]
        {
            let mut world = World::new(6, 0.0);
            let well = Tally {
                asked: 5,
                failed: 0,
            };
            let old = Probed {
                failures: well,
                slow: well,
                client_errors: well,
            };
            let found = (1..1_200).find_map(|at| {
                let seen = |bad| Seen { all: 50, bad };
                let decision = world.watch.tick(&Tick {
                    end: f64::from(at) * TICK,
                    requests: seen(0),
                    slow: vec![seen(slow), seen(slow)],
                    client_errors: seen(client_errors),
                    probes: old,
                    ..Tick::default()
                });
                match decision {
                    Decision::RollBack { cause, .. } => Some((at, cause)),
                    _ => None,
                }
            });
            let (ticks, cause) = found.expect("found");
            assert_eq!(cause, expected);
            // The gate does not wait: the old release is asked in the same respect.
            assert!(ticks < 4 * 30 + 60, "{ticks} ticks");
        }
    }

    #[test]
    fn what_is_slow_on_both_is_held() {
        let mut world = World::new(7, 0.0);
        let slow = Tally {
            asked: 5,
            failed: 4,
        };
        let seen = |bad| Seen { all: 50, bad };
        let found = (1..1_200).find_map(|at| {
            let decision = world.watch.tick(&Tick {
                end: f64::from(at) * TICK,
                requests: seen(0),
                slow: vec![seen(40), seen(40)],
                probes: Probed {
                    slow,
                    ..Probed::default()
                },
                ..Tick::default()
            });
            match decision {
                Decision::Watch | Decision::Suspect => None,
                decision => Some(decision),
            }
        });
        let Some(Decision::Hold { why }) = found else {
            panic!("{found:?}");
        };
        assert!(why.starts_with("shared cause: "), "{why}");
        assert!(why.contains("probes in time"), "{why}");
    }
}
