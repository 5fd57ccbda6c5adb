//! One service's new release under watch: both tests, the hard rules, the gate, one decision.

use std::collections::VecDeque;

use super::attribution::{Attribution, Gate, GateRules, Tally};
use super::baseline::float;
use super::numeric::log_sum;
use super::{EProcess, EProcessRules, Ecusum, Limit, Shares};
use crate::config::{AfterAction, Rollback};
use crate::switch::verdict::Cause;

/// Log-evidence from which a release is suspicious: twenty to one.
const SUSPICIOUS: f64 = 2.995_732_273_553_991;

/// The rule that needs no statistics: that many seconds, requests and that share of failures.
const ABSOLUTE: (f64, u64, f64) = (3.0, 20, 0.5);

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
    /// Probes that the old release was asked.
    pub probes: Tally,
    /// Requests over the limit of each latency quantile, in the order of the rules.
    pub slow: Vec<Seen>,
    /// Client errors on routes that were good before.
    pub client_errors: Seen,
    /// Whether the old release passed its last probes: going back is possible.
    pub old_is_usable: bool,
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
#[derive(Clone, Debug, PartialEq)]
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
    recent: VecDeque<(f64, Seen)>,
    held: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Suspicion {
    requests: Seen,
    rescues: Tally,
    probes: Tally,
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
            held: false,
            rules: rules.clone(),
        }
    }

    /// Takes in a tick and decides.
    pub fn tick(&mut self, tick: &Tick) -> Decision {
        self.count(tick);
        let numbers = self.numbers();
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
        let Some((cause, what)) = self.found(tick, &numbers) else {
            return if suspicious {
                Decision::Suspect
            } else {
                Decision::Watch
            };
        };
        let hard = tick.hard.is_some();
        self.decide(tick, cause, &what, hard)
    }

    /// The numbers so far.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        Numbers {
            log_e: self.slow.log_evidence(),
            log_e_needed: self.slow.threshold(),
            w: self.fast.value(),
            w_needed: self.fast.threshold(),
            requests: self.total.all,
            failures: self.total.bad,
            rescues: self.since_suspicion.rescues,
            probes: self.since_suspicion.probes,
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
        self.recent.push_back((tick.end, tick.requests));
        while let Some((end, _)) = self.recent.front()
            && *end <= tick.end - ABSOLUTE.0
        {
            self.recent.pop_front();
        }
    }

    /// Which rule speaks for a rollback.
    fn found(&self, tick: &Tick, numbers: &Numbers) -> Option<(Cause, String)> {
        if let Some(hard) = &tick.hard {
            return Some(hard.clone());
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
            return Some((Cause::ErrorRate, why));
        }
        let latest = self
            .recent
            .iter()
            .fold(Seen::default(), |sum, (_, seen)| Seen {
                all: sum.all + seen.all,
                bad: sum.bad + seen.bad,
            });
        if latest.all >= ABSOLUTE.1
            && float(latest.bad) >= ABSOLUTE.2 * float(latest.all)
            && tick.end >= self.rules.fast.min_span.as_secs_f64()
        {
            let why = format!(
                "{} of the last {} requests failed; {before}",
                latest.bad, latest.all
            );
            return Some((Cause::ErrorRate, why));
        }
        if let Some(evidence) = self.latency_evidence()
            && evidence >= self.latency_needed
        {
            let why = format!(
                "more requests are slow than before allows; evidence {}:1 (needed {}:1)",
                odds(evidence),
                odds(self.latency_needed)
            );
            return Some((Cause::Latency, why));
        }
        let evidence = self.client_error_evidence()?;
        let needed = self.client_errors.as_ref()?.threshold();
        (evidence >= needed).then(|| {
            let why = format!(
                "routes that worked before answer with client errors; evidence {}:1 (needed {}:1)",
                odds(evidence),
                odds(needed)
            );
            (Cause::ErrorRate, why)
        })
    }

    fn decide(&mut self, tick: &Tick, cause: Cause, what: &str, hard: bool) -> Decision {
        let hold = |why: String| Decision::Hold { why };
        if self.rules.r#unsafe {
            return hold(format!(
                "{what}; the release is marked as one that cannot be undone"
            ));
        }
        if !tick.old_is_usable {
            return match self.rules.after.on_old_dead {
                AfterAction::Commit => Decision::Watch,
                AfterAction::Hold | AfterAction::Rollback => hold(format!(
                    "{what}; the old release does not answer, so going back would not help"
                )),
            };
        }
        let since = self.since_suspicion;
        let share = float(since.requests.bad) / float(since.requests.all.max(1));
        let attribution = if hard {
            Attribution::Clear
        } else {
            let gate = &self.gate_rules;
            let before = self.observed();
            self.gate
                .decide(tick.end, gate, share, before, since.rescues, since.probes)
        };
        match attribution {
            Attribution::Clear => Decision::RollBack {
                cause,
                why: self.told(what),
            },
            Attribution::Wait => Decision::Suspect,
            Attribution::Blocked => self.blocked(cause, what),
            Attribution::Ambiguous => match self.rules.after.on_ambiguous {
                AfterAction::Rollback => Decision::RollBack {
                    cause,
                    why: self.told(what),
                },
                AfterAction::Hold => hold(format!(
                    "{what}; nothing says whether the old release would do better"
                )),
                AfterAction::Commit => Decision::Watch,
            },
        }
    }

    /// A shared cause: the evidence is dropped and collected anew.
    fn blocked(&mut self, cause: Cause, what: &str) -> Decision {
        let why = format!("shared cause: {what}; {}", self.asked());
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

    fn told(&self, what: &str) -> String {
        let users = match self.users {
            0 => "no user saw an error".to_owned(),
            1 => "1 user saw an error".to_owned(),
            users => format!("{users} users saw an error"),
        };
        format!("{what}; {}; {users}", self.asked())
    }

    fn asked(&self) -> String {
        let Suspicion {
            rescues, probes, ..
        } = self.since_suspicion;
        let answered = |tally: Tally| tally.asked.saturating_sub(tally.failed);
        if rescues.asked > 0 {
            format!(
                "the old release answered {} of {} of the same requests",
                answered(rescues),
                rescues.asked
            )
        } else if probes.asked > 0 {
            let (answered, asked) = (answered(probes), probes.asked);
            format!("the old release answered {answered} of {asked} probes")
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

impl Suspicion {
    fn add(&mut self, tick: &Tick) {
        self.requests.all += tick.requests.all + tick.both_failed;
        self.requests.bad += tick.requests.bad + tick.both_failed;
        for (sum, more) in [
            (&mut self.rescues, tick.rescues),
            (&mut self.probes, tick.probes),
        ] {
            sum.asked += more.asked;
            sum.failed += more.failed;
        }
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
                old_is_usable: true,
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
                old_is_usable: false,
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
            old_is_usable: true,
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
            let found = (1..1_200).find_map(|at| {
                let seen = |bad| Seen { all: 50, bad };
                let decision = world.watch.tick(&Tick {
                    end: f64::from(at) * TICK,
                    requests: seen(0),
                    slow: vec![seen(slow), seen(slow)],
                    client_errors: seen(client_errors),
                    old_is_usable: true,
                    probes: Tally {
                        asked: 5,
                        failed: 0,
                    },
                    ..Tick::default()
                });
                match decision {
                    Decision::RollBack { cause, .. } => Some(cause),
                    _ => None,
                }
            });
            assert_eq!(found, Some(expected));
        }
    }
}
