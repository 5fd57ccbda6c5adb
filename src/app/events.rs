//! What happens to switches, told to the metrics and the slots. The switchboard logs it itself.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use super::daemon::Daemon;
use crate::metrics::{RollbackReason, SwitchOutcome};
use crate::model::Color;
use crate::switch::{Cause, Event, Outcome, Stamped, Switchboard};

/// Follows the switchboard for ever.
pub(super) async fn follow(
    daemon: Arc<Daemon>,
    switchboard: Switchboard,
    mut events: Receiver<Stamped>,
) {
    loop {
        name_releases(&daemon, &switchboard);
        match events.recv().await {
            Ok(stamped) => count(&daemon, &stamped.event),
            Err(RecvError::Lagged(missed)) => warn!(missed, "switch events were missed"),
            Err(RecvError::Closed) => return,
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
