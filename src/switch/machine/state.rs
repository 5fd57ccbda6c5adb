//! The states of one switch, each with what it knows.

use std::time::{Duration, Instant};

use super::words::{Sample, Ticket};
use crate::model::{Color, Generation, Release, ServiceName};
use crate::switch::gate::{GateFailure, Ready, SlotReport};
use crate::switch::record::Move;
use crate::switch::status::{Phase, RunStatus};
use crate::switch::verdict::{Cause, Observation};

/// Where the switch of a stack stands. Every transition consumes the old state.
#[derive(Debug)]
pub(super) enum State {
    Idle,
    Probing(Probing),
    Switching(Switching),
    Observing(Watch),
    Held(Watch, Hold),
    RollingBack(RollingBack),
    Committing(Committing),
}

impl State {
    pub(super) const fn phase(&self) -> Phase {
        match self {
            Self::Idle => Phase::Idle,
            Self::Probing(_) => Phase::Probing,
            Self::Switching(_) => Phase::Switching,
            Self::Observing(_) => Phase::Observing,
            Self::Held(..) => Phase::Held,
            Self::RollingBack(_) => Phase::RollingBack,
            Self::Committing(_) => Phase::Committing,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Probing(probing) => Some(probing.next.min(probing.deadline)),
            Self::Switching(switching) => Some(switching.deadline),
            Self::Observing(watch) | Self::Held(watch, _) => Some(watch.next),
            Self::RollingBack(back) => Some(back.deadline),
            Self::Committing(committing) => Some(committing.deadline),
        }
    }

    /// Who holds the lock.
    pub(super) fn holder(&self) -> Option<RunStatus> {
        match self {
            Self::Idle => None,
            Self::Probing(Probing { run, .. })
            | Self::Switching(Switching { run, .. })
            | Self::Observing(Watch { run, .. })
            | Self::Held(Watch { run, .. }, _)
            | Self::Committing(Committing { run, .. }) => Some(run.status()),
            Self::RollingBack(back) => Some(RunStatus {
                actor: back.by.clone(),
                why: Some(back.reason.clone()),
                target: back.target,
                services: services(&back.moves),
            }),
        }
    }
}

/// A switch that was accepted.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) generation: Generation,
    pub(super) actor: String,
    pub(super) why: Option<String>,
    pub(super) target: Color,
    pub(super) release: Option<Release>,
    pub(super) moves: Vec<Move>,
    /// It is undone unless somebody promotes it within this time after the cutover.
    pub(super) confirm_within: Option<Duration>,
    /// Its outcome was told already: it is held past its longest watch.
    pub(super) reported: bool,
}

impl Run {
    pub(super) fn status(&self) -> RunStatus {
        RunStatus {
            actor: self.actor.clone(),
            why: self.why.clone(),
            target: self.target,
            services: services(&self.moves),
        }
    }

    /// Who still waits for its end.
    pub(super) fn waiter(&self) -> Option<Generation> {
        (!self.reported).then_some(self.generation)
    }

    /// Whether a switch to `color` of these services is the way back of this one.
    pub(super) fn is_undone_by(&self, color: Color, asked: &[ServiceName]) -> bool {
        let moved = |service: &ServiceName| self.moves.iter().any(|m| &m.service == service);
        let same = asked.iter().all(moved) && self.moves.iter().all(|m| asked.contains(&m.service));
        color != self.target && (asked.is_empty() || same)
    }
}

pub(super) fn services(moves: &[Move]) -> Vec<ServiceName> {
    moves.iter().map(|m| m.service.clone()).collect()
}

/// Waits at the gate.
#[derive(Debug)]
pub(super) struct Probing {
    pub(super) run: Run,
    pub(super) force: bool,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) next: Instant,
    pub(super) slots: Vec<SlotReport>,
    pub(super) failing: Vec<GateFailure>,
}

/// Waits for its intent to be durable.
#[derive(Debug)]
pub(super) struct Switching {
    pub(super) run: Run,
    pub(super) ready: Ready,
    /// What would have kept the gate shut.
    pub(super) ignored: Vec<GateFailure>,
    pub(super) ticket: Ticket,
    pub(super) deadline: Instant,
}

/// Watches a cutover.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) run: Run,
    pub(super) since: Instant,
    pub(super) next: Instant,
    /// It is undone then, unless somebody promotes it before.
    pub(super) confirm_by: Option<Instant>,
    /// The counters at the cutover; empty until the first sample.
    pub(super) base: Vec<Sample>,
    /// The old slots as of the last sample.
    pub(super) old: Vec<SlotReport>,
    pub(super) observation: Observation,
    /// The second that was told last.
    pub(super) told: Option<u64>,
}

/// Why a watch needs a person.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) reason: String,
}

/// Goes back.
#[derive(Debug)]
pub(super) struct RollingBack {
    /// Told that their switch or promotion was rolled back.
    pub(super) overtaken: Vec<Generation>,
    /// Told that what they asked for is done.
    pub(super) commands: Vec<Generation>,
    /// From the new pools to the old ones.
    pub(super) moves: Vec<Move>,
    pub(super) target: Color,
    pub(super) by: String,
    pub(super) cause: Cause,
    pub(super) reason: String,
    pub(super) step: Step,
    pub(super) ticket: Ticket,
    pub(super) deadline: Instant,
}

/// How far a rollback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its intent is being written; it does not wait long for that.
    Announcing,
    /// Traffic has moved; that is being written.
    Recording,
}

/// Waits for its verdict to be durable.
#[derive(Debug)]
pub(super) struct Committing {
    pub(super) run: Run,
    pub(super) promoters: Vec<Generation>,
    pub(super) ticket: Ticket,
    pub(super) deadline: Instant,
}
