//! What a stack looks like from outside, at one moment.

use std::time::Instant;

use super::gate::{GateFailure, SlotReport};
use super::outcome::Outcome;
use super::record::{Live, Move};
use super::verdict::Observation;
use crate::model::{Color, Release, ServiceName, StackName};

/// Where a stack's switch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No switch runs.
    Idle,
    /// Waits at the gate.
    Probing,
    /// Passed the gate; its intent is being written.
    Switching,
    /// Cut over, watched.
    Observing,
    /// Cut over; a person must decide.
    Held,
    /// Going back.
    RollingBack,
    /// Kept; the verdict is being written.
    Committing,
}

impl Phase {
    /// The word in `status` and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Probing => "probing",
            Self::Switching => "switching",
            Self::Observing => "observing",
            Self::Held => "held",
            Self::RollingBack => "rolling_back",
            Self::Committing => "committing",
        }
    }
}

/// One stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackStatus {
    /// Its name.
    pub stack: StackName,
    /// Where its switch stands.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// The switch that holds the lock.
    pub run: Option<RunStatus>,
    /// While probing: the slots at the gate.
    pub gate: Vec<SlotReport>,
    /// While probing: what keeps the gate shut.
    pub failing: Vec<GateFailure>,
    /// While probing: when the switch gives up.
    pub gate_deadline: Option<Instant>,
    /// While observing or held: what was seen so far.
    pub observation: Option<Observation>,
    /// While held: why.
    pub held: Option<String>,
    /// The services, in the order of their names.
    pub services: Vec<ServiceStatus>,
    /// Pools that finish their requests.
    pub drains: Vec<DrainStatus>,
    /// What `rollback` would move back.
    pub undo: Vec<Move>,
    /// How the last switch or rollback ended, and when.
    pub last: Option<(Outcome, Instant)>,
    /// Why the latest state is not on disk.
    pub unsaved: Option<String>,
}

/// The switch that holds a stack's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStatus {
    /// Who started it.
    pub actor: String,
    /// Why, if said.
    pub why: Option<String>,
    /// Its target.
    pub target: Color,
    /// What moves.
    pub services: Vec<ServiceName>,
}

/// One service of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its name.
    pub service: ServiceName,
    /// The live pool.
    pub live: Live,
    /// Labels by [`Color::index`].
    pub releases: [Option<Release>; 2],
}

/// One pool that finishes its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainStatus {
    /// The service.
    pub service: ServiceName,
    /// The pool.
    pub pool: Live,
    /// What it still serves, by [`crate::model::Kind::index`].
    pub in_flight: [u64; 3],
    /// What was closed because its time was up.
    pub closed: [u64; 3],
    /// When it began; `None`: not begun, the verdict is not yet on disk.
    pub since: Option<Instant>,
    /// When the last kind is closed; `None`: not begun, the verdict is not yet on disk.
    pub deadline: Option<Instant>,
}
