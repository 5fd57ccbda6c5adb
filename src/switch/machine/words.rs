//! What goes into the machine and what comes out of it.

use std::time::{Duration, Instant};

use crate::config;
use crate::model::{Color, Generation, Kind, Release, ServiceName};
use crate::switch::driver::{DrainWindows, Publication, Traffic};
use crate::switch::gate::{GateFailure, GateReport, Ready, SlotReport};
use crate::switch::outcome::Outcome;
use crate::switch::record::{Live, Move, ServiceRecord, StackRecord};
use crate::switch::status::Phase;
use crate::switch::verdict::{Cause, Observation, Verdict};

/// Number of one write of a stack's record. A higher one holds all that a lower one held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One service of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the configuration says.
    pub rules: Rules,
    /// The live pool.
    pub live: Live,
    /// Labels by [`Color::index`].
    pub releases: [Option<Release>; 2],
}

/// What the configuration says of switching one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether a slot has upstreams, by [`Color::index`].
    pub filled: [bool; 2],
    /// Labels that the file gives the slots, by [`Color::index`].
    pub releases: [Option<Release>; 2],
    /// How long the gate may stay shut.
    pub ready_timeout: Duration,
    /// Slower upstreams do not pass the gate.
    pub max_latency: Option<Duration>,
    /// How long the old pool may finish.
    pub windows: DrainWindows,
    /// Shortest watch.
    pub observe: Duration,
    /// Requests to see.
    pub observe_requests: u64,
    /// Longest watch.
    pub observe_max: Duration,
}

impl Rules {
    /// Whether both slots have upstreams.
    #[must_use]
    pub const fn is_switchable(&self) -> bool {
        self.filled[0] && self.filled[1]
    }
}

impl From<&config::Service> for Rules {
    fn from(service: &config::Service) -> Self {
        let switch = &service.switch;
        let release = |color: Color| {
            let slot = service.slots[color.index()].as_ref();
            slot.and_then(|slot| slot.release.clone())
        };
        let mut windows = DrainWindows::DEFAULT;
        windows.0[Kind::Request.index()] = switch.drain;
        windows.0[Kind::WebSocket.index()] = switch.websocket_drain;
        windows.0[Kind::Sse.index()] = switch.sse_drain;
        Self {
            filled: Color::ALL.map(|color| service.slots[color.index()].is_some()),
            releases: Color::ALL.map(release),
            ready_timeout: switch.ready_timeout,
            max_latency: service.health.max_latency,
            windows,
            observe: switch.observe,
            observe_requests: switch.observe_requests,
            observe_max: switch.observe_max,
        }
    }
}

/// What a person asks of one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Never given away before: names the command, and the pools that it may publish.
    pub generation: Generation,
    /// Who asks.
    pub actor: String,
    /// Why, if said.
    pub why: Option<String>,
    /// What is asked for.
    pub order: Order,
    /// Fresh reports of the slots that [`Machine::undoes`](super::Machine::undoes) names.
    pub old: Vec<SlotReport>,
}

/// What a [`Command`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Make a color live.
    Switch {
        /// Which.
        color: Color,
        /// Of these services; empty: of every one with both slots.
        services: Vec<ServiceName>,
        /// Without a gate.
        force: bool,
        /// Label of what runs in the target slots.
        release: Option<Release>,
        /// Go back unless it is confirmed within this time.
        confirm_within: Option<Duration>,
    },
    /// Undo the last cutover.
    RollBack,
    /// Keep what is observed.
    Promote,
    /// Give up what waits, undo what is observed.
    Abort,
}

/// What a slot looks like during an observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The service.
    pub service: ServiceName,
    /// Cumulative counters by [`Color::index`].
    pub traffic: [Traffic; 2],
    /// The slot that a rollback would return to.
    pub old: GateReport,
}

/// Facts for the machine. One with an older [`Generation`] or [`Ticket`] changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing but the time: a deadline has come.
    Tick,
    /// Somebody asks for something.
    Ordered(Command),
    /// Answer to [`Effect::CheckGate`].
    GateChecked {
        /// Of the switch that asked.
        generation: Generation,
        /// One report for each slot asked about.
        slots: Vec<SlotReport>,
    },
    /// A record is durable.
    Persisted {
        /// Which.
        ticket: Ticket,
    },
    /// A record could not be made durable.
    PersistFailed {
        /// Which.
        ticket: Ticket,
        /// What the disk said.
        reason: String,
    },
    /// Answer to [`Effect::Sample`].
    Sampled {
        /// Of the switch that asked.
        generation: Generation,
        /// One entry for each service asked about.
        samples: Vec<Sample>,
    },
    /// Answer to [`Effect::Judge`].
    Judged {
        /// Of the switch that asked.
        generation: Generation,
        /// The judge's word.
        verdict: Verdict,
    },
    /// Answer to [`Effect::Count`].
    Counted {
        /// The service.
        service: ServiceName,
        /// The draining pool.
        generation: Generation,
        /// What it still serves, by [`Kind::index`].
        in_flight: [u64; 3],
    },
    /// A reload: all services of the stack from now on.
    Reconfigured {
        /// In the order of their names. A service whose live pool differs from what the machine
        /// knows takes no further part in a running switch.
        members: Vec<(ServiceName, Member)>,
    },
}

/// What the shell must do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the probes; answer with [`Input::GateChecked`].
    CheckGate {
        /// To be repeated in the answer.
        generation: Generation,
        /// The slots.
        slots: Vec<(ServiceName, Color)>,
    },
    /// Write; answer with [`Input::Persisted`] or [`Input::PersistFailed`].
    Persist {
        /// To be repeated in the answer.
        ticket: Ticket,
        /// The stack.
        record: StackRecord,
        /// Its services.
        services: Vec<(ServiceName, ServiceRecord)>,
    },
    /// Publish the new pools in one store.
    CutOver {
        /// The proof that this may be.
        ready: Ready,
        /// One for each service that moves.
        pools: Vec<Publication>,
    },
    /// Publish the old pools again, in one store.
    Restore {
        /// One for each service that moves back.
        pools: Vec<Publication>,
    },
    /// Read counters and the old slot's health; answer with [`Input::Sampled`].
    Sample {
        /// To be repeated in the answer.
        generation: Generation,
        /// Each service with its old color.
        slots: Vec<(ServiceName, Color)>,
    },
    /// Ask the judge; answer with [`Input::Judged`].
    Judge(Observation),
    /// Let no more requests into a pool.
    BeginDrain {
        /// The service.
        service: ServiceName,
        /// The pool.
        generation: Generation,
        /// How long each kind may take.
        windows: DrainWindows,
    },
    /// Count what a pool still serves; answer with [`Input::Counted`].
    Count {
        /// The service.
        service: ServiceName,
        /// The pool.
        generation: Generation,
    },
    /// Close what a pool still serves of one kind.
    Close {
        /// The service.
        service: ServiceName,
        /// The pool.
        generation: Generation,
        /// The kind.
        kind: Kind,
    },
    /// Drop a pool.
    Retire {
        /// The service.
        service: ServiceName,
        /// The pool.
        generation: Generation,
    },
    /// Tell whoever waits for a command how far it is.
    Report {
        /// The command's generation.
        command: Generation,
        /// How far.
        progress: Progress,
    },
    /// Tell whoever waits for a command how it ended. Once for each command.
    Finish {
        /// The command's generation.
        command: Generation,
        /// How.
        outcome: Outcome,
    },
    /// Tell everybody.
    Notify(Event),
}

/// News for the one who waits for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The switch holds the lock.
    Accepted {
        /// What will move.
        services: Vec<ServiceName>,
        /// When the gate gives up.
        deadline: Instant,
    },
    /// The gate is shut. Sent when the reasons change.
    Waiting {
        /// What keeps it shut.
        failing: Vec<GateFailure>,
    },
    /// Traffic has moved.
    CutOver {
        /// What moved.
        moves: Vec<Move>,
    },
    /// The move is on disk, so that a restart keeps it; or it cannot be written for now.
    Recorded {
        /// What moved.
        moves: Vec<Move>,
        /// Why it is not on disk.
        unsaved: Option<String>,
    },
    /// Watched, once a second.
    Observing(Observation),
    /// A person must decide.
    Held {
        /// Why.
        reason: String,
    },
    /// Going back.
    RollingBack {
        /// Who decided.
        by: String,
        /// Why.
        reason: String,
    },
    /// The verdict was to keep it; the old pools finish their requests.
    Draining,
    /// The end; nothing comes after it.
    Finished(Outcome),
}

/// What a person set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// The gate, with `--force`.
    Gate {
        /// What would have kept it shut; empty: it was open.
        failing: Vec<GateFailure>,
    },
    /// The rest of a watch, with `promote`.
    Promote {
        /// How long it was watched.
        watched: Duration,
        /// Why it was held, if it was.
        held: Option<String>,
    },
    /// The rest of a switch, with `abort`.
    Abort {
        /// How far it was.
        phase: Phase,
    },
}

/// What happened to a stack: for metrics, notifications and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A switch took the lock.
    SwitchAccepted {
        /// Who.
        actor: String,
        /// Why, if said.
        why: Option<String>,
        /// To which color.
        target: Color,
        /// What will move.
        services: Vec<ServiceName>,
    },
    /// Traffic has moved to a new color.
    CutOver {
        /// Who asked.
        actor: String,
        /// What moved.
        moves: Vec<Move>,
        /// Whether the gate was skipped.
        forced: bool,
    },
    /// A person set aside what the switch would have done.
    Overridden {
        /// Who.
        actor: String,
        /// Why, if said.
        why: Option<String>,
        /// What was set aside.
        what: Override,
        /// The color that the switch moves to.
        target: Color,
        /// The services in question.
        services: Vec<ServiceName>,
    },
    /// A person must decide.
    Held {
        /// Why.
        reason: String,
        /// The services in question.
        services: Vec<ServiceName>,
    },
    /// Traffic has moved back.
    RolledBack {
        /// Who decided.
        by: String,
        /// The class of the reason.
        cause: Cause,
        /// The reason in words.
        reason: String,
        /// What moved.
        moves: Vec<Move>,
    },
    /// A switch is over, however it ended. Not sent for commands that never took the lock
    /// except as refusals.
    Ended {
        /// Its services; empty for a refusal before any was chosen.
        services: Vec<ServiceName>,
        /// How.
        outcome: Outcome,
    },
    /// A pool takes no more requests.
    DrainBegan {
        /// The service.
        service: ServiceName,
        /// The pool.
        pool: Live,
    },
    /// A pool has finished.
    Drained {
        /// The service.
        service: ServiceName,
        /// The pool.
        pool: Live,
        /// What had to be closed, by [`Kind::index`].
        closed: [u64; 3],
    },
    /// The state in memory is not on disk; a person must act.
    NotDurable {
        /// What the disk said.
        reason: String,
    },
    /// The state is on disk again.
    Durable,
}
