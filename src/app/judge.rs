//! The verdict over live traffic: what pools counted goes into the evaluator, its decision to
//! the switch.
//!
//! The evaluator itself is `switch::evidence`, pure. Here its inputs are gathered four times a
//! second: counters of the new pool, rescues by the old one, probes of both slots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::daemon::Daemon;
use super::memory::WatchMemory;
use super::notes;
use super::publisher::quantiles;
use super::replay::Replays;
use crate::admin::wire::{FailingRoute, FailureSample, JudgeReport, JudgeService, Share};
use crate::clock;
use crate::config::{AfterAction, Rollback, RollbackMode, RuleAction};
use crate::history::Entry;
use crate::http::Client;
use crate::model::{Color, Generation, ServiceName};
use crate::pool::{Availability, Failures, Pool, Slot, Totals, Upstream};
use crate::switch::evidence::alerts::{Alert, Rule};
use crate::switch::evidence::attribution::Tally;
use crate::switch::evidence::{
    Decision, Limit, Limits, Numbers, Predecessor, Probed, Seen, Tick, Watch,
};
use crate::switch::{Cause, Containers, Judge, Observation, ServiceObservation, Verdict, plain};

/// Age of the probes that a rollback relies on.
const FRESH: Duration = Duration::from_secs(5);
/// A hold ends when nothing was suspicious for this long.
const CALM: Duration = Duration::from_secs(60);
/// Rescues in a tick that say how the old release copes, and the share of failures that is bad.
const COPES: (u64, f64) = (3, 0.2);

/// What is known of watches, for people.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Mutex<HashMap<ServiceName, Shown>>);

/// One service's last watch.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) generation: Generation,
    pub(super) color: Color,
    pub(super) elapsed: Duration,
    pub(super) numbers: Numbers,
    pub(super) limit: Limit,
    pub(super) state: State,
    pub(super) why: Option<String>,
    pub(super) mode: RollbackMode,
    pub(super) slow: [(u64, u64); 2],
    pub(super) client_errors: (u64, u64),
    pub(super) alerts: Vec<Alert>,
    pub(super) failures: Failures,
    pub(super) over: bool,
}

/// What the last look decided, without its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Watching,
    Suspicious,
    Held,
    Rollback,
}

impl State {
    /// The word in `judge`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Suspicious => "suspicious",
            Self::Held => "held",
            Self::Rollback => "rollback",
        }
    }
}

impl Verdicts {
    pub(super) fn all(&self) -> Vec<(ServiceName, Shown)> {
        let mut all: Vec<_> = (self.lock().iter())
            .map(|(service, shown)| (service.clone(), shown.clone()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn of(&self, service: &ServiceName) -> Option<Shown> {
        self.lock().get(service).cloned()
    }

    /// What failed on these services, a line each.
    pub(super) fn failures(&self, services: &[ServiceName]) -> Vec<String> {
        let known = self.lock();
        let shown = services.iter().filter_map(|service| known.get(service));
        shown.flat_map(|shown| failures(&shown.failures)).collect()
    }

    /// The watch is over.
    pub(super) fn close(&self, service: &ServiceName) {
        if let Some(shown) = self.lock().get_mut(service) {
            shown.over = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceName, Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The judge of the daemon.
pub(super) struct Evidence {
    daemon: Arc<Daemon>,
    watches: HashMap<ServiceName, Watching>,
    replays: Replays,
}

/// One service under watch.
struct Watching {
    generation: Generation,
    rules: Rollback,
    /// `None`: nobody wants a verdict.
    watch: Option<Watch>,
    limit: Limit,
    new: Arc<Pool>,
    old: Arc<Pool>,
    last: Totals,
    last_probes: Tally,
    decided: Option<State>,
    /// Why both slots are kept, and since when nothing was suspicious.
    held: Option<(String, Instant)>,
    /// It was told that it is suspicious.
    was_suspicious: bool,
    /// Rules of thumb that were told.
    told: Vec<Rule>,
    highest_rate: u32,
    /// After a restart: it may still be starting, and has the time that a recovery gives it.
    is_awaited: bool,
    rescue_rate: u32,
}

impl Evidence {
    pub(super) fn new(daemon: Arc<Daemon>) -> Self {
        let replays = Replays::new(Client::system(), Arc::clone(&daemon.upstream_tls));
        Self {
            daemon,
            watches: HashMap::new(),
            replays,
        }
    }

    fn begin(
        &self,
        now: Instant,
        observation: &Observation,
        seen: &ServiceObservation,
    ) -> Option<Watching> {
        let publisher = &self.daemon.publisher;
        let new = publisher.pool(&seen.service, seen.to)?;
        let old = publisher.pool(&seen.service, seen.from)?;
        let config = self.daemon.config.load();
        let service = config.services.iter().find(|s| s.name == seen.service)?;
        let rules = service.rollback.clone();
        self.daemon.remember(&old);
        let known = self.daemon.watches.of(&seen.service, seen.to.generation);
        if !new.evidence().is_watched() {
            let frozen = known.as_ref().map(|known| known.frozen.clone());
            publisher.watch(&seen.service, &old, &new, frozen);
        }
        let horizon = seen.observe_max.max(seen.observe).as_secs_f64();
        let is_awaited = known.is_some();
        let (limits, highest_rate) = match known {
            Some(known) => (known.limits, known.highest_rate),
            None => {
                let before = old.evidence();
                let (quantiles, factor) = quantiles(&rules.latency);
                let habits = before.habits(quantiles, factor);
                let limits = Limits::of(&rules, &before.minutes(), &habits);
                (limits, before.highest_rate())
            }
        };
        self.keep(seen, &new, &limits, highest_rate);
        let limit = limits.failures;
        let watch = match rules.mode {
            RollbackMode::Off => None,
            RollbackMode::Enforce | RollbackMode::Observe => {
                Some(Watch::new(&rules, &limits, horizon))
            }
        };
        info!(
            service = %seen.service,
            limit_percent = limit.rate * 100.0,
            before = limit.requests,
            before_failed = limit.failures,
            "the new release is under watch"
        );
        Some(Watching {
            generation: observation.generation,
            rescue_rate: rules.gate.budget.rate(highest_rate),
            rules,
            watch,
            limit,
            // What came before the first look belongs to it as well.
            last: Totals::default(),
            last_probes: probes(old.slot()),
            told: Vec::new(),
            highest_rate,
            is_awaited,
            new,
            old,
            decided: None,
            was_suspicious: false,
            held: observation.held.clone().map(|why| (why, now)),
        })
    }

    /// Lets a restart hold the release to the same.
    fn keep(&self, seen: &ServiceObservation, new: &Pool, limits: &Limits, highest_rate: u32) {
        let Some(frozen) = new.evidence().frozen() else {
            return;
        };
        let memory = WatchMemory {
            service: seen.service.clone(),
            generation: seen.to.generation,
            limits: limits.clone(),
            frozen,
            highest_rate,
        };
        let watches = Arc::clone(&self.daemon.watches);
        tokio::task::spawn_blocking(move || watches.keep(memory));
    }

    fn decide(
        &mut self,
        now: Instant,
        observation: &Observation,
        seen: &ServiceObservation,
    ) -> Decision {
        let known = self.watches.get(&seen.service);
        if known.is_none_or(|known| known.generation != observation.generation) {
            match self.begin(now, observation, seen) {
                Some(watching) => {
                    self.watches.insert(seen.service.clone(), watching);
                }
                None => return Decision::Watch,
            }
        }
        let Some(watching) = self.watches.get_mut(&seen.service) else {
            return Decision::Watch;
        };
        let replayed = self.replays.take(&seen.service);
        let old = predecessor(watching.old.slot(), now, observation.elapsed);
        let containers = &*self.daemon.containers;
        let tick = watching.tick(now, observation, seen, old, replayed, containers);
        let Some(watch) = &mut watching.watch else {
            return Decision::Watch;
        };
        let decision = watch.tick(&tick);
        let numbers = watch.numbers();
        let alerts = watch.alerts().to_vec();
        let suspicious = !matches!(decision, Decision::Watch);
        let decision = watching.calm(now, decision);
        watching.tell(&self.daemon, &seen.service, &alerts);
        watching.mind_the_old(&tick, &decision);
        if suspicious && watching.rules.gate.replay {
            let rate = tick.requests.all * 4;
            let (old, new) = (&watching.old, &watching.new);
            self.replays.ask(&seen.service, old, new, rate);
        }
        let (state, why) = match &decision {
            Decision::Watch => (State::Watching, None),
            Decision::Suspect => (State::Suspicious, None),
            Decision::RollBack { why, .. } => (State::Rollback, Some(why.clone())),
            Decision::Hold { why } => (State::Held, Some(why.clone())),
        };
        let totals = watching.last;
        let mut shown = self.daemon.verdicts.lock();
        let before = shown.get(&seen.service);
        let before = before.filter(|shown| shown.generation == observation.generation);
        let why = why.or_else(|| before.and_then(|shown| shown.why.clone()));
        shown.insert(
            seen.service.clone(),
            Shown {
                generation: observation.generation,
                color: seen.to.color,
                elapsed: observation.elapsed,
                numbers,
                limit: watching.limit,
                state,
                why,
                mode: watching.rules.mode,
                slow: totals.slow.map(|slow| (totals.timed, slow)),
                client_errors: (totals.good, totals.client_errors),
                alerts,
                failures: watching.new.evidence().failures(),
                over: false,
            },
        );
        drop(shown);
        if watching.decided != Some(state) {
            watching.decided = Some(state);
            let only_observes = watching.rules.mode == RollbackMode::Observe;
            let service = &seen.service;
            match &decision {
                Decision::Watch => info!(%service, "nothing speaks against the new release"),
                Decision::Suspect => {
                    warn!(%service, "the new release is suspicious");
                    let what = format!(
                        "{} of {} requests failed",
                        numbers.failures, numbers.requests
                    );
                    if !std::mem::replace(&mut watching.was_suspicious, true) {
                        let note = notes::suspicious(service, &what);
                        self.daemon.notifier.tell(note);
                    }
                }
                Decision::RollBack { why, .. } if only_observes => {
                    would(&self.daemon, service, "go back", why, &numbers);
                }
                Decision::Hold { why } if only_observes => {
                    would(&self.daemon, service, "hold", why, &numbers);
                }
                Decision::RollBack { why, .. } => {
                    warn!(%service, "the verdict is to go back: {why}");
                }
                Decision::Hold { why } => warn!(%service, "the verdict is to hold: {why}"),
            }
        }
        match watching.rules.mode {
            RollbackMode::Enforce => decision,
            RollbackMode::Observe | RollbackMode::Off => Decision::Watch,
        }
    }

    /// What to do with a watch that is over and undecided.
    fn at_the_end(&self, observation: &Observation) -> Verdict {
        for seen in &observation.services {
            let Some(watching) = self.watches.get(&seen.service) else {
                continue;
            };
            if watching.rules.mode != RollbackMode::Enforce
                || watching.decided != Some(State::Suspicious)
            {
                continue;
            }
            let reason = format!(
                "{}: suspicious at observe_max, and not enough to decide",
                seen.service
            );
            if let Some(verdict) = after(watching.rules.after.on_ambiguous, reason) {
                return verdict;
            }
        }
        plain(observation)
    }

    /// What to do with a watch that is long enough, and in which nobody asked anything.
    fn without_traffic(&self, observation: &Observation) -> Option<Verdict> {
        observation.services.iter().find_map(|seen| {
            let watching = self.watches.get(&seen.service)?;
            if seen.new.requests > 0 || watching.rules.mode != RollbackMode::Enforce {
                return None;
            }
            let seconds = observation.elapsed.as_secs();
            let reason = format!("{}: no request in {seconds} s", seen.service);
            after(watching.rules.after.on_no_traffic, reason)
        })
    }
}

fn after(action: AfterAction, reason: String) -> Option<Verdict> {
    match action {
        AfterAction::Rollback => Some(Verdict::RollBack {
            cause: Cause::ErrorRate,
            reason,
        }),
        AfterAction::Hold => Some(Verdict::Hold { reason }),
        AfterAction::Commit => None,
    }
}

/// A verdict that is only reported.
fn would(daemon: &Daemon, service: &ServiceName, what: &str, why: &str, numbers: &Numbers) {
    warn!(%service, "the verdict would be to {what}, rollback.mode is observe: {why}");
    daemon.record(Entry {
        what: format!("would {what}"),
        who: "cutover".to_owned(),
        services: vec![service.clone()],
        result: "observed".to_owned(),
        requests: Some(numbers.requests),
        failures: Some(numbers.failures),
        why: why.to_owned(),
        ..Entry::default()
    });
}

impl Judge for Evidence {
    fn judge(&mut self, now: Instant, observation: &Observation) -> Verdict {
        let mut suspicious = false;
        let mut held = None;
        for seen in &observation.services {
            match self.decide(now, observation, seen) {
                Decision::Watch => {}
                Decision::Suspect => suspicious = true,
                Decision::RollBack { cause, why } => {
                    let after = observation.elapsed.as_secs_f64();
                    let reason = format!("{after:.1} s after the swap: {why}");
                    return Verdict::RollBack { cause, reason };
                }
                Decision::Hold { why } => held = Some(why),
            }
        }
        if let Some(reason) = held {
            return Verdict::Hold { reason };
        }
        if observation.elapsed >= observation.observe_max() {
            return match self.at_the_end(observation) {
                Verdict::Keep => self.without_traffic(observation).unwrap_or(Verdict::Keep),
                other => other,
            };
        }
        if suspicious {
            return Verdict::Undecided;
        }
        match plain(observation) {
            Verdict::Keep => self.without_traffic(observation).unwrap_or(Verdict::Keep),
            other => other,
        }
    }
}

impl Watching {
    fn tick(
        &mut self,
        now: Instant,
        observation: &Observation,
        seen: &ServiceObservation,
        old: Predecessor,
        replayed: Probed,
        containers: &dyn Containers,
    ) -> Tick {
        self.new.count_late(now);
        let totals = self.new.evidence().totals();
        let last = std::mem::replace(&mut self.last, totals);
        let since = |of: fn(&Totals) -> u64| of(&totals).saturating_sub(of(&last));
        let timed = since(|totals| totals.timed);
        let probed = probes(self.old.slot());
        let health = Tally {
            asked: probed.asked.saturating_sub(self.last_probes.asked),
            failed: probed.failed.saturating_sub(self.last_probes.failed),
        };
        self.last_probes = probed;
        // Health probes say less than requests do: they speak where nothing else can.
        let can_replay = self.rules.gate.replay && self.old.evidence().has_samples();
        let probes = if can_replay {
            replayed
        } else {
            Probed {
                failures: health,
                slow: health,
                client_errors: health,
            }
        };
        Tick {
            end: observation.elapsed.as_secs_f64(),
            requests: Seen {
                all: since(|totals| totals.all),
                bad: since(|totals| totals.bad),
            },
            both_failed: since(|totals| totals.both_failed),
            rescues: Tally {
                asked: since(|totals| totals.rescues),
                failed: since(|totals| totals.both_failed),
            },
            probes,
            slow: (0..2)
                .map(|at| Seen {
                    all: timed,
                    bad: totals.slow[at].saturating_sub(last.slow[at]),
                })
                .collect(),
            client_errors: Seen {
                all: since(|totals| totals.good),
                bad: since(|totals| totals.client_errors),
            },
            very_slow: Seen {
                all: timed,
                bad: since(|totals| totals.very_slow),
            },
            usage: containers.usage(&seen.service, seen.to.color),
            probe: slowest_probe(self.new.slot()),
            old,
            hard: self.hard(seen, old, containers),
        }
    }

    /// The new slot's probes say that all of it is down, or a container of it died.
    fn hard(
        &mut self,
        seen: &ServiceObservation,
        old: Predecessor,
        containers: &dyn Containers,
    ) -> Option<(Cause, String)> {
        let rules = &self.rules.rules;
        if rules.container != RuleAction::Off
            && let Some(why) = containers.trouble(&seen.service, seen.to.color)
        {
            if rules.container == RuleAction::Rollback {
                return Some((Cause::Container, why));
            }
            warn!(service = %seen.service, "container: {why}");
        }
        let upstreams = self.new.slot().upstreams();
        let is_up = |upstream: &Arc<Upstream>| upstream.probe().state == Availability::Healthy;
        self.is_awaited &= !upstreams.iter().any(is_up);
        if self.is_awaited {
            return None;
        }
        let down = |availability| availability == Availability::Down;
        let all_down = !upstreams.is_empty()
            && (upstreams.iter()).all(|upstream| down(upstream.probe().state));
        if old != Predecessor::Works || !all_down || rules.health != RuleAction::Rollback {
            return None;
        }
        let first = upstreams[0].probe();
        let reason = first.reason.as_deref().unwrap_or("no answer");
        let why = format!("health probes of the new release fail: {reason}");
        Some((Cause::Health, why))
    }

    /// A hold lasts until nothing was suspicious for a while.
    fn calm(&mut self, now: Instant, decision: Decision) -> Decision {
        match (&decision, &mut self.held) {
            (Decision::Hold { why }, held) => *held = Some((why.clone(), now)),
            (Decision::RollBack { .. }, held) => *held = None,
            (Decision::Watch | Decision::Suspect, None) => {}
            (Decision::Suspect, Some((why, since))) => {
                *since = now;
                return Decision::Hold { why: why.clone() };
            }
            (Decision::Watch, Some((why, since))) => {
                if now.saturating_duration_since(*since) < CALM {
                    return Decision::Hold { why: why.clone() };
                }
                self.held = None;
            }
        }
        decision
    }

    /// Rules of thumb, once each time they begin to hold.
    fn tell(&mut self, daemon: &Daemon, service: &ServiceName, alerts: &[Alert]) {
        for alert in alerts {
            if !self.told.contains(&alert.rule) {
                warn!(%service, rule = alert.rule.as_str(), "alert: {}", alert.what);
                daemon.notifier.tell(notes::alert(service, &alert.what));
            }
        }
        self.told = alerts.iter().map(|alert| alert.rule).collect();
    }

    /// Asks the old release for less as soon as it does not cope, and for nothing once the cause
    /// is a shared one or nobody is there to answer.
    fn mind_the_old(&mut self, tick: &Tick, decision: &Decision) {
        let full = self.rules.gate.budget.rate(self.highest_rate);
        let Tally { asked, failed } = tick.rescues;
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let fails = asked >= COPES.0 && failed as f64 >= COPES.1 * asked as f64;
        self.rescue_rate = match decision {
            _ if tick.old == Predecessor::Dead => 0,
            Decision::Hold { .. } => 0,
            Decision::Watch | Decision::Suspect | Decision::RollBack { .. } if fails => {
                self.rescue_rate / 2
            }
            Decision::Watch | Decision::Suspect | Decision::RollBack { .. } => {
                (self.rescue_rate + full / 10 + 1).min(full)
            }
        };
        self.new.evidence().allow_rescues(self.rescue_rate);
    }
}

/// Going back needs an upstream that passed its last two probes within the last seconds.
fn predecessor(slot: &Slot, now: Instant, elapsed: Duration) -> Predecessor {
    let upstreams = slot.upstreams();
    let works = upstreams.iter().any(|upstream| {
        let probe = upstream.probe();
        let age = probe.at.map(|at| now.saturating_duration_since(at));
        // Before a cutover probes are as rare as the configuration says.
        let is_fresh = age.is_some_and(|age| age <= FRESH) || elapsed <= FRESH;
        probe.state != Availability::Down && probe.passes >= 2 && is_fresh
    });
    let dead = |upstream: &Arc<Upstream>| upstream.probe().state == Availability::Down;
    if works {
        Predecessor::Works
    } else if upstreams.iter().all(dead) {
        Predecessor::Dead
    } else {
        Predecessor::Unsure
    }
}

/// Seconds that the last probe of the slowest upstream took.
fn slowest_probe(slot: &Slot) -> Option<f64> {
    let upstreams = slot.upstreams();
    let each = upstreams
        .iter()
        .filter_map(|upstream| upstream.probe().latency);
    each.max().map(|latency| latency.as_secs_f64())
}

/// What is known of every watch.
pub(super) fn report(verdicts: &Verdicts) -> JudgeReport {
    let share = |(all, bad)| Share { all, bad };
    let tally = |tally: Tally| share((tally.asked, tally.failed));
    let service = |(service, shown): (ServiceName, Shown)| {
        let Shown { numbers, limit, .. } = shown;
        let routes = shown.failures.routes.into_iter().take(5);
        let samples = shown.failures.samples.into_iter();
        JudgeService {
            service,
            color: shown.color,
            state: shown.state.as_str().to_owned(),
            over: shown.over,
            mode: shown.mode.as_str().to_owned(),
            elapsed_ms: clock::millis(shown.elapsed),
            why: shown.why,
            requests: share((numbers.requests, numbers.failures)),
            before: share((limit.requests, limit.failures)),
            limit: limit.rate,
            log_e: numbers.log_e,
            log_e_needed: numbers.log_e_needed,
            w: numbers.w,
            w_needed: numbers.w_needed,
            rescues: tally(numbers.rescues),
            probes: tally(numbers.probes),
            slow: shown.slow.map(share).to_vec(),
            client_errors: share(shown.client_errors),
            alerts: shown.alerts.into_iter().map(|alert| alert.what).collect(),
            routes: routes
                .map(|(route, what, count)| FailingRoute { route, what, count })
                .collect(),
            samples: samples
                .map(|(path, what, request_id)| FailureSample {
                    path,
                    what,
                    request_id,
                })
                .collect(),
        }
    };
    JudgeReport {
        services: verdicts.all().into_iter().map(service).collect(),
    }
}

/// What failed most, and some of it, a line each.
fn failures(failures: &Failures) -> Vec<String> {
    let routes = failures.routes.iter().take(5);
    let routes = routes.map(|(route, what, count)| format!("{route}: {what}, {count} times"));
    let samples = failures.samples.iter();
    let samples = samples.map(|(path, what, id)| format!("{path}: {what}, request {id}"));
    routes.chain(samples).collect()
}

/// Probes that the upstreams of a slot answered and failed since they are known.
fn probes(slot: &Slot) -> Tally {
    let mut tally = Tally::default();
    for upstream in slot.upstreams().iter() {
        let (asked, failed) = upstream.probes();
        tally.asked += asked;
        tally.failed += failed;
    }
    tally
}
