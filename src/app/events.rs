//! What happens to switches, told to the metrics and the slots. The switchboard logs it itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use super::daemon::Daemon;
use crate::clock;
use crate::history::Entry;
use crate::metrics::{RollbackReason, SwitchOutcome};
use crate::model::{Color, StackName};
use crate::switch::{Cause, Event, Outcome, StackStatus, Stamped, Switchboard};

/// Follows the switchboard for ever.
pub(super) async fn follow(
    daemon: Arc<Daemon>,
    switchboard: Switchboard,
    mut events: Receiver<Stamped>,
) {
    let mut runs = BTreeMap::new();
    loop {
        name_releases(&daemon, &switchboard);
        match events.recv().await {
            Ok(stamped) => {
                count(&daemon, &stamped.event);
                let now = clock::now();
                let run: &mut Run = runs.entry(stamped.stack.clone()).or_default();
                for entry in run.happened(now, &stamped.event) {
                    daemon.history.add(entry);
                }
                run.watch(&switchboard.status(), &stamped.stack);
            }
            Err(RecvError::Lagged(missed)) => warn!(missed, "switch events were missed"),
            Err(RecvError::Closed) => return,
        }
    }
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
