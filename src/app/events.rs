//! What happens to switches, told to the metrics and the slots. The switchboard logs it itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tracing::warn;

use super::daemon::Daemon;
use super::notes;
use crate::clock;
use crate::history::Entry;
use crate::metrics::{RollbackReason, SwitchOutcome};
use crate::model::{Color, ServiceName, StackName};
use crate::switch::{Cause, Event, Outcome, Override, Phase, StackStatus, Stamped, Switchboard};

/// Follows the switchboard for ever.
pub(super) async fn follow(
    daemon: Arc<Daemon>,
    switchboard: Switchboard,
    mut events: Receiver<Stamped>,
) {
    let mut status = switchboard.watch();
    let (told, accounts) = mpsc::unbounded_channel();
    tokio::spawn(tell(Arc::clone(&daemon), accounts));
    let mut runs: BTreeMap<StackName, Run> = BTreeMap::new();
    for stack in switchboard.status().iter() {
        if let Some(run) = &stack.run {
            daemon.containers.begin(&run.services, run.target);
        }
        runs.extend(Run::resumed(stack).map(|run| (stack.stack.clone(), run)));
    }
    loop {
        name_releases(&daemon, &switchboard);
        if let Some(watched) = watched(&status.borrow_and_update()) {
            daemon.set_watched(watched);
        }
        // An event is out before the status that it leads to.
        let event = tokio::select! {
            event = events.recv() => event,
            Ok(()) = status.changed() => continue,
        };
        match event {
            Ok(stamped) => {
                count(&daemon, &stamped.event);
                after_a_rollback(&daemon, &switchboard, &stamped.event);
                if let Event::SwitchAccepted {
                    services, target, ..
                } = &stamped.event
                {
                    daemon.containers.begin(services, *target);
                }
                let now = clock::now();
                let run = runs.entry(stamped.stack.clone()).or_default();
                let mut entries = run.happened(now, &stamped.event);
                for entry in entries.iter_mut().filter(|entry| entry.what == "force") {
                    entry.why.push_str(&let_go(&daemon, entry));
                }
                let _ = told.send((stamped.event, entries));
                run.watch(&switchboard.status(), &stamped.stack);
            }
            Err(RecvError::Lagged(missed)) => warn!(missed, "switch events were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Tells of events and adds them to the history, in their order. Beside the loop above, because an
/// account of containers is waited for.
async fn tell(daemon: Arc<Daemon>, mut events: mpsc::UnboundedReceiver<(Event, Vec<Entry>)>) {
    while let Some((event, entries)) = events.recv().await {
        let words = last_words(&daemon, &event).await;
        if let Some(note) = notes::of_switch(&daemon, &event, &words) {
            daemon.notifier.tell(note);
        }
        for mut entry in entries {
            if matches!(event, Event::RolledBack { .. }) {
                entry.details.clone_from(&words);
            }
            daemon.record(entry);
        }
    }
}

/// What speaks against the containers of a release that is left or held.
async fn last_words(daemon: &Daemon, event: &Event) -> Vec<String> {
    let services = match event {
        Event::RolledBack { moves, cause, .. } => {
            let services: Vec<_> = moves.iter().map(|m| m.service.clone()).collect();
            if *cause != Cause::Operator {
                daemon.containers.settle(&services).await;
            }
            services
        }
        Event::Held { services, .. } => services.clone(),
        Event::SwitchAccepted { .. }
        | Event::CutOver { .. }
        | Event::Overridden { .. }
        | Event::Ended { .. }
        | Event::DrainBegan { .. }
        | Event::Drained { .. }
        | Event::NotDurable { .. }
        | Event::Durable => return Vec::new(),
    };
    daemon.containers.last_words(&services).await
}

/// The running switch of a stack, for its entry in the history.
#[derive(Debug, Default)]
struct Run {
    entry: Entry,
    accepted: Option<Instant>,
    cut_over: Option<Instant>,
    decided: Option<Instant>,
}

impl Run {
    /// What is under watch when the daemon starts.
    fn resumed(stack: &StackStatus) -> Option<Self> {
        let run = stack.run.as_ref()?;
        Some(Self {
            entry: Entry {
                what: "switch".to_owned(),
                who: run.actor.clone(),
                services: run.services.clone(),
                from: Some(run.target.other()),
                to: Some(run.target),
                why: run.why.clone().unwrap_or_default(),
                ..Entry::default()
            },
            ..Self::default()
        })
    }

    /// What is over now.
    fn happened(&mut self, now: Instant, event: &Event) -> Vec<Entry> {
        let since = |then: Option<Instant>| {
            let age = now.saturating_duration_since(then?);
            u64::try_from(age.as_millis()).ok()
        };
        match event {
            Event::SwitchAccepted {
                actor,
                why,
                target,
                services,
            } => {
                *self = Self {
                    entry: Entry {
                        what: "switch".to_owned(),
                        who: actor.clone(),
                        services: services.clone(),
                        from: Some(target.other()),
                        to: Some(*target),
                        why: why.clone().unwrap_or_default(),
                        ..Entry::default()
                    },
                    accepted: Some(now),
                    cut_over: None,
                    decided: None,
                };
                Vec::new()
            }
            Event::CutOver { .. } => {
                self.entry.gate_ms = since(self.accepted);
                self.cut_over = Some(now);
                Vec::new()
            }
            Event::DrainBegan { .. } => {
                if self.decided.is_none() {
                    self.entry.observe_ms = since(self.cut_over);
                    self.decided = Some(now);
                }
                Vec::new()
            }
            Event::RolledBack {
                by, reason, moves, ..
            } => {
                let automatic = by == "cutover";
                let first = moves.first();
                vec![Entry {
                    what: if automatic {
                        "automatic rollback"
                    } else {
                        "rollback"
                    }
                    .to_owned(),
                    who: by.clone(),
                    services: moves.iter().map(|m| m.service.clone()).collect(),
                    from: first.map(|m| m.from.color),
                    to: first.map(|m| m.to.color),
                    result: "rolled_back".to_owned(),
                    why: reason.clone(),
                    observe_ms: since(self.cut_over),
                    requests: self.entry.requests,
                    failures: self.entry.failures,
                    ..Entry::default()
                }]
            }
            Event::Ended { services, outcome } => {
                let run = std::mem::take(self);
                // A rollback by hand has no switch of its own, and has its entry already.
                if run.entry.what.is_empty() {
                    return match outcome {
                        Outcome::Refused(refusal) => vec![Entry {
                            what: "switch".to_owned(),
                            services: services.clone(),
                            result: outcome.code().to_owned(),
                            why: refusal.to_string(),
                            ..Entry::default()
                        }],
                        _ => Vec::new(),
                    };
                }
                let mut entry = run.entry;
                entry.result = outcome.code().to_owned();
                entry.drain_ms = since(run.decided);
                let is_kept = matches!(outcome, Outcome::Kept { .. });
                if !is_kept && entry.why.is_empty() {
                    entry.why = outcome.to_string();
                }
                vec![entry]
            }
            Event::Overridden {
                actor,
                why,
                what,
                target,
                services,
            } => {
                let said = why.iter().map(|why| format!("; {why}"));
                let said: String = said.collect();
                vec![Entry {
                    what: word(what).to_owned(),
                    who: actor.clone(),
                    services: services.clone(),
                    from: Some(target.other()),
                    to: Some(*target),
                    result: "done".to_owned(),
                    why: notes::of_override(what) + &said,
                    requests: self.entry.requests,
                    failures: self.entry.failures,
                    ..Entry::default()
                }]
            }
            Event::Held { .. }
            | Event::Drained { .. }
            | Event::NotDurable { .. }
            | Event::Durable => Vec::new(),
        }
    }

    /// The numbers of the watch, as far as they are known.
    fn watch(&mut self, stacks: &[StackStatus], stack: &StackName) {
        let status = stacks.iter().find(|status| status.stack == *stack);
        if let Some(observation) = status.and_then(|status| status.observation.as_ref()) {
            let seen = observation.seen();
            self.entry.requests = Some(seen.requests);
            self.entry.failures = Some(seen.errors);
        }
    }
}

/// The verb that set something aside.
const fn word(what: &Override) -> &'static str {
    match what {
        Override::Gate { .. } => "force",
        Override::Promote { .. } => "promote",
        Override::Abort { .. } => "abort",
    }
}

/// A release that somebody insists on is in quarantine no more; what to say of that.
fn let_go(daemon: &Arc<Daemon>, forced: &Entry) -> String {
    let color = forced.to.unwrap_or(Color::Blue);
    if !daemon.quarantine.release(&forced.services, color) {
        return String::new();
    }
    let daemon = Arc::clone(daemon);
    tokio::task::spawn_blocking(move || daemon.quarantine.save());
    "; it was rolled back before, and tried again".to_owned()
}

/// Services whose new release is under watch. `None` while a rollback is being published: until
/// it is, the users of the release that is left are still helped.
fn watched(stacks: &[StackStatus]) -> Option<BTreeSet<ServiceName>> {
    let goes_back = |stack: &StackStatus| stack.phase == Phase::RollingBack;
    if stacks.iter().any(goes_back) {
        return None;
    }
    let awaits = |stack: &&StackStatus| matches!(stack.phase, Phase::Observing | Phase::Held);
    let moves = stacks.iter().filter(awaits).flat_map(|stack| &stack.undo);
    Some(moves.map(|moved| moved.service.clone()).collect())
}

/// How long an old release is watched after it took over again.
const AFTERWARDS: Duration = Duration::from_secs(30);
/// Failures that say that the cause was another one.
const STILL_FAILING: u64 = 5;

/// The release that failed is not switched to again by accident, and it is told if the old one
/// fails as well.
fn after_a_rollback(daemon: &Arc<Daemon>, switchboard: &Switchboard, event: &Event) {
    let Event::RolledBack {
        cause,
        reason,
        moves,
        ..
    } = event
    else {
        return;
    };
    if *cause == Cause::Operator {
        return;
    }
    let config = daemon.config.load();
    for moved in moves {
        let service = config.services.iter().find(|s| s.name == moved.service);
        if service.is_some_and(|service| service.rollback.after.quarantine) {
            let color = moved.from.color;
            let release = switchboard.release(&moved.service, color);
            daemon
                .quarantine
                .add(&moved.service, color, release, reason);
            let daemon = Arc::clone(daemon);
            tokio::task::spawn_blocking(move || daemon.quarantine.save());
        }
        let limit = daemon.verdicts.of(&moved.service);
        let limit = limit.map_or(0.1, |shown| shown.limit.rate);
        let (daemon, moved) = (Arc::clone(daemon), moved.clone());
        tokio::spawn(async move {
            let Some(pool) = daemon.publisher.pool(&moved.service, moved.to) else {
                return;
            };
            let before = pool.evidence().totals();
            tokio::time::sleep(AFTERWARDS).await;
            let after = pool.evidence().totals();
            let (all, bad) = (after.all - before.all, after.bad - before.bad);
            #[allow(clippy::cast_precision_loss, reason = "a share")]
            let fails = bad >= STILL_FAILING && bad as f64 > limit * all as f64;
            if fails {
                let why = format!(
                    "the cause is not the release: {bad} of {all} requests failed on {} in the {} s after the rollback",
                    moved.to.color,
                    AFTERWARDS.as_secs()
                );
                warn!(service = %moved.service, "{why}");
                daemon.record(Entry {
                    what: "still failing".to_owned(),
                    who: "cutover".to_owned(),
                    services: vec![moved.service.clone()],
                    result: "failed".to_owned(),
                    requests: Some(all),
                    failures: Some(bad),
                    why,
                    ..Entry::default()
                });
            }
        });
    }
}

fn count(daemon: &Daemon, event: &Event) {
    match event {
        Event::RolledBack { cause, moves, .. } => {
            for moved in moves {
                let reason = rollback_reason(*cause);
                daemon.metrics.rolled_back(&moved.service, reason);
            }
        }
        Event::Ended { services, outcome } => {
            if let Some(outcome) = switch_outcome(outcome) {
                for service in services {
                    daemon.metrics.switch_finished(service, outcome);
                }
            }
        }
        Event::SwitchAccepted { .. }
        | Event::CutOver { .. }
        | Event::Overridden { .. }
        | Event::Held { .. }
        | Event::DrainBegan { .. }
        | Event::Drained { .. }
        | Event::NotDurable { .. }
        | Event::Durable => {}
    }
}

/// Lets `status` and metrics name what a switch said runs in a slot.
fn name_releases(daemon: &Daemon, switchboard: &Switchboard) {
    for stack in switchboard.status().iter() {
        for service in &stack.services {
            for color in Color::ALL {
                if let Some(release) = &service.releases[color.index()] {
                    daemon
                        .publisher
                        .set_release(&service.service, color, release.clone());
                }
            }
        }
    }
}

const fn rollback_reason(cause: Cause) -> RollbackReason {
    match cause {
        Cause::ErrorRate => RollbackReason::ErrorRate,
        Cause::Latency => RollbackReason::Latency,
        Cause::Health => RollbackReason::Health,
        Cause::Container => RollbackReason::Container,
        Cause::Operator => RollbackReason::Operator,
    }
}

const fn switch_outcome(outcome: &Outcome) -> Option<SwitchOutcome> {
    match outcome {
        Outcome::Kept { .. } => Some(SwitchOutcome::Kept),
        Outcome::RolledBack { .. } => Some(SwitchOutcome::RolledBack),
        Outcome::Aborted { .. } => Some(SwitchOutcome::Aborted),
        Outcome::Refused(_) => Some(SwitchOutcome::Refused),
        Outcome::AlreadyLive { .. }
        | Outcome::Undone { .. }
        | Outcome::Promoted { .. }
        | Outcome::Cancelled
        | Outcome::Recorded(_)
        | Outcome::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::EventKind;

    #[test]
    fn every_override_has_an_entry_of_its_own_and_is_told() {
        let overrides = [
            (Override::Gate { failing: vec![] }, "force", "it was open"),
            (
                Override::Promote {
                    watched: Duration::from_secs(12),
                    held: Some("a shared cause".to_owned()),
                },
                "promote",
                "after 12 s of its watch, while it was held: a shared cause; because",
            ),
            (
                Override::Abort {
                    phase: Phase::Probing,
                },
                "abort",
                "before any traffic moved; because",
            ),
        ];
        for (what, word, why) in overrides {
            let event = Event::Overridden {
                actor: "ann (uid 1000)".to_owned(),
                why: Some("because".to_owned()),
                what,
                target: Color::Green,
                services: vec!["web".into()],
            };
            let entries = Run::default().happened(clock::now(), &event);
            let [entry] = entries.as_slice() else {
                panic!("{entries:?}");
            };
            assert_eq!(
                (entry.what.as_str(), entry.who.as_str()),
                (word, "ann (uid 1000)")
            );
            assert!(entry.why.contains(why), "{}", entry.why);
            let note = notes::of_entry(entry).expect("it is told");
            assert_eq!(
                (note.event, note.who),
                (EventKind::Override, entry.who.clone())
            );
        }
    }
}
