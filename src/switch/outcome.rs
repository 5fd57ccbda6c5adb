//! How commands end, and what that means to a script.

use std::time::Duration;

use super::gate::GateFailure;
use super::record::Recorded;
use super::verdict::Cause;
use crate::model::{Color, ServiceName};

/// The end of one command. [`std::fmt::Display`] is the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outcome {
    /// A switch whose verdict was to keep it, with the old pools drained.
    #[error("{color} is live: {}{}", list(.services), closed_text(.closed, .unsaved.as_deref()))]
    Kept {
        /// The color that is live now.
        color: Color,
        /// What moved.
        services: Vec<ServiceName>,
        /// What the drain had to close, by [`crate::model::Kind::index`].
        closed: [u64; 3],
        /// Why the verdict is not on disk; the old pools stay undrained until it is.
        unsaved: Option<String>,
    },
    /// A switch with nothing to move.
    #[error("{color} is already live")]
    AlreadyLive {
        /// The color asked for.
        color: Color,
    },
    /// A switch that traffic followed and that was undone.
    #[error("rolled back by {by}: {reason}")]
    RolledBack {
        /// What moved back.
        services: Vec<ServiceName>,
        /// `cutover` itself or the person who asked.
        by: String,
        /// The class of the reason.
        cause: Cause,
        /// The reason in words.
        reason: String,
    },
    /// A switch cancelled while it waited at the gate: no traffic had moved.
    #[error("aborted by {by} before any traffic moved")]
    Aborted {
        /// Who cancelled it.
        by: String,
    },
    /// A `rollback`, an `abort` during observe, or a switch back to the old color.
    #[error("rolled back: {}{}", list(.services), unsaved_text(.unsaved.as_deref()))]
    Undone {
        /// What moved back.
        services: Vec<ServiceName>,
        /// Why it is not on disk. Traffic has moved all the same.
        unsaved: Option<String>,
    },
    /// A `promote` that ended an observe.
    #[error("{color} is kept")]
    Promoted {
        /// The color that stays live.
        color: Color,
    },
    /// An `abort` that cancelled a switch at the gate.
    #[error("the waiting switch was cancelled; no traffic had moved")]
    Cancelled,
    /// Nothing was changed.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The command was given before with the same id: how it ended then.
    #[error("{}", .0.text)]
    Recorded(Recorded),
    /// It began and could not end as asked.
    #[error("failed: {reason}")]
    Failed {
        /// What went wrong.
        reason: String,
    },
}

impl Outcome {
    /// The exit code of the command that waited for it: 0 done, 1 failed, 3 refused,
    /// 4 rolled back.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Recorded(recorded) => recorded.exit,
            Self::Kept { .. }
            | Self::AlreadyLive { .. }
            | Self::Undone { .. }
            | Self::Promoted { .. }
            | Self::Cancelled => 0,
            Self::Failed { .. } => 1,
            Self::Refused(_) | Self::Aborted { .. } => 3,
            Self::RolledBack { .. } => 4,
        }
    }

    /// The word for JSON and logs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Recorded(recorded) => &recorded.code,
            Self::Kept { .. } => "kept",
            Self::AlreadyLive { .. } => "already_live",
            Self::RolledBack { .. } => "rolled_back",
            Self::Aborted { .. } => "aborted",
            Self::Undone { .. } => "undone",
            Self::Promoted { .. } => "promoted",
            Self::Cancelled => "cancelled",
            Self::Refused(refusal) => refusal.code(),
            Self::Failed { .. } => "failed",
        }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name that no service has.
    #[error("no service `{name}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownService {
        /// As asked for.
        name: String,
        /// The nearest name there is.
        nearest: Option<String>,
    },
    /// Several stacks, and none was named.
    #[error("several stacks could be meant ({}): name one of its services with --service", .stacks.join("; "))]
    SeveralStacks {
        /// Each stack with its services.
        stacks: Vec<String>,
    },
    /// Services of more than one stack in one command.
    #[error("{} are not of one stack: switch them one after the other", .services.join(", "))]
    DifferentStacks {
        /// Each service with its stack.
        services: Vec<String>,
    },
    /// No service has both slots.
    #[error("no service has both a blue and a green slot")]
    NothingSwitchable,
    /// `--canary`.
    #[error("canary switches are not part of this version; switch without --canary")]
    Canary,
    /// Nothing runs in the target slot.
    #[error("the {color} slot of {service} has no upstreams")]
    EmptySlot {
        /// The service.
        service: ServiceName,
        /// The slot.
        color: Color,
    },
    /// Another switch of the stack runs.
    #[error("a switch to {target} by {holder} is running: {state} for {}", age_text(*.age))]
    Locked {
        /// Who started it.
        holder: String,
        /// Its target.
        target: Color,
        /// Its state, as `status` shows it.
        state: &'static str,
        /// How long it has been in that state.
        age: Duration,
    },
    /// The target did not become healthy in time.
    #[error("not ready after {}: {}", age_text(*.waited), gate_text(.failing))]
    Gate {
        /// How long the switch waited.
        waited: Duration,
        /// Every upstream that kept the gate shut.
        failing: Vec<GateFailure>,
    },
    /// The intent could not be written ahead.
    #[error("the switch could not be recorded: {reason}; traffic has not moved")]
    NotRecorded {
        /// What the disk said.
        reason: String,
    },
    /// No cutover to undo.
    #[error("nothing to undo")]
    NothingToUndo,
    /// No observe to end.
    #[error("no switch is running")]
    NothingRunning,
    /// A `promote` while the gate is still shut.
    #[error("nothing to promote: the switch is {state}")]
    NothingToPromote {
        /// Its state, as `status` shows it.
        state: &'static str,
    },
    /// The old slot cannot take the traffic back.
    #[error("the old slot is down: {}", gate_text(.failing))]
    OldSlotDown {
        /// Why, for each upstream of each service that is down.
        failing: Vec<GateFailure>,
    },
    /// `freeze`.
    #[error("switches are frozen by {by}: {why}")]
    Frozen {
        /// The reason that was given.
        why: String,
        /// Who said so.
        by: String,
    },
    /// The journal is damaged.
    #[error(
        "switches are locked until the journal is repaired with `proxyctl doctor --repair`: {damage}"
    )]
    Damaged {
        /// What is wrong with it.
        damage: String,
    },
    /// A reload took the services away meanwhile.
    #[error("a reload removed every service of this switch, or its slot")]
    Removed,
}

impl Refusal {
    /// The word for JSON and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "unknown_service",
            Self::SeveralStacks { .. } => "several_stacks",
            Self::DifferentStacks { .. } => "different_stacks",
            Self::NothingSwitchable => "nothing_switchable",
            Self::Canary => "canary_unavailable",
            Self::EmptySlot { .. } => "empty_slot",
            Self::Locked { .. } => "locked",
            Self::Gate { .. } => "gate_not_passed",
            Self::NotRecorded { .. } => "not_recorded",
            Self::NothingToUndo => "nothing_to_undo",
            Self::NothingRunning => "nothing_running",
            Self::NothingToPromote { .. } => "nothing_to_promote",
            Self::OldSlotDown { .. } => "old_slot_down",
            Self::Frozen { .. } => "frozen",
            Self::Damaged { .. } => "journal_damaged",
            Self::Removed => "removed",
        }
    }
}

fn list(services: &[ServiceName]) -> String {
    let names: Vec<_> = services.iter().map(ServiceName::as_str).collect();
    names.join(", ")
}

fn closed_text(closed: &[u64; 3], unsaved: Option<&str>) -> String {
    let [requests, websockets, streams] = closed;
    let closed = if closed.iter().all(|count| *count == 0) {
        String::new()
    } else {
        format!(
            "; closed at the end of the drain: {requests} requests, {websockets} WebSockets, \
             {streams} event streams"
        )
    };
    closed + &unsaved_text(unsaved)
}

fn unsaved_text(unsaved: Option<&str>) -> String {
    match unsaved {
        Some(reason) => format!("; NOT YET ON DISK ({reason}): a restart would forget it"),
        None => String::new(),
    }
}

fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

fn gate_text(failing: &[GateFailure]) -> String {
    let each: Vec<_> = failing.iter().map(ToString::to_string).collect();
    each.join("; ")
}
