//! What happens to switches, told to the log, the metrics and the slots.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tracing::{error, info, warn};

use super::daemon::Daemon;
use crate::metrics::{RollbackReason, SwitchOutcome};
use crate::model::Color;
use crate::switch::{Cause, Event, Outcome, Stamped};

/// Follows the switchboard for ever.
pub(super) async fn follow(daemon: Arc<Daemon>, mut events: Receiver<Stamped>) {
    loop {
        match events.recv().await {
            Ok(stamped) => tell(&daemon, &stamped),
            Err(RecvError::Lagged(missed)) => warn!(missed, "switch events were missed"),
            Err(RecvError::Closed) => return,
        }
        name_releases(&daemon);
    }
}

fn tell(daemon: &Daemon, Stamped { stack, event, .. }: &Stamped) {
    match event {
        Event::SwitchAccepted { actor, target, .. } => {
            info!(%stack, %target, %actor, "switch accepted, waiting at the gate");
        }
        Event::CutOver {
            actor,
            moves,
            forced,
        } => {
            for moved in moves {
                info!(
                    %stack, service = %moved.service, from = %moved.from.color,
                    to = %moved.to.color, %actor, forced, "cut over"
                );
            }
        }
        Event::Held { reason, .. } => {
            error!(%stack, %reason, "switch is held, an operator must decide")
        }
        Event::RolledBack {
            by,
            cause,
            reason,
            moves,
        } => {
            for moved in moves {
                daemon
                    .metrics
                    .rolled_back(&moved.service, rollback_reason(*cause));
                warn!(
                    %stack, service = %moved.service, from = %moved.from.color,
                    to = %moved.to.color, %by, %reason, "rolled back"
                );
            }
        }
        Event::Ended { services, outcome } => {
            if let Some(kind) = switch_outcome(outcome) {
                for service in services {
                    daemon.metrics.switch_finished(service, kind);
                }
            }
            info!(%stack, outcome = outcome.code(), "switch ended: {outcome}");
        }
        Event::DrainBegan { service, pool } => {
            info!(%service, color = %pool.color, generation = %pool.generation, "drain began");
        }
        Event::Drained {
            service,
            pool,
            closed,
        } => {
            let [requests, websockets, streams] = closed;
            info!(
                %service, color = %pool.color, generation = %pool.generation,
                requests, websockets, streams, "drained; the numbers were closed at its end"
            );
        }
        Event::NotDurable { reason } => error!(%stack, %reason, "the live colors are not on disk"),
        Event::Durable => info!(%stack, "the live colors are on disk again"),
    }
}

/// Lets `status` and metrics name what a switch said runs in a slot.
fn name_releases(daemon: &Daemon) {
    let Some(switchboard) = daemon.switchboard.get() else {
        return;
    };
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
        | Outcome::Failed { .. } => None,
    }
}
