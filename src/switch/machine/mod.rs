//! The switch of one stack, as a pure state machine.
//!
//! [`Machine::handle`] takes the time and a fact, and gives back what is to be done, in order;
//! [`Machine::deadline`] says when it wants to be asked again. Nothing in this folder reads a
//! clock, waits, locks, logs or rolls dice. Drains are kept beside the state, because the lock
//! ends with the verdict and drains do not.
//!
//! Durability follows write-ahead logging (Mohan et al., ARIES, 1992): the intent is written
//! before a cutover, what was done after it, and nothing that a restart could need is drained
//! before that. Writes are numbered by [`Ticket`]; a write that failed after traffic moved is
//! repeated until it succeeds, and drains wait for it.

mod drain;
mod observe;
mod probe;
mod reload;
mod rollback;
mod state;
mod words;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use words::{
    Command, Effect, Event, Input, Member, Order, Override, Progress, Rules, Sample, Ticket,
};

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use super::driver::{DrainWindows, Publication};
use super::outcome::{Outcome, Refusal};
use super::record::{Cutover, Intent, Live, Move, ServiceRecord, StackRecord};
use super::status::{Phase, ServiceStatus, StackStatus};
use crate::model::{Color, Generation, ServiceName, StackName};
use drain::Drain;
use state::State;

/// The switch of one stack.
#[derive(Debug)]
pub struct Machine {
    stack: StackName,
    members: BTreeMap<ServiceName, Member>,
    last: Option<Cutover>,
    state: State,
    since: Instant,
    drains: Vec<Drain>,
    settling: Vec<Settling>,
    ledger: Ledger,
    ended: Option<(Outcome, Instant)>,
    out: Vec<Effect>,
}

/// A switch that was kept and whose old pools still drain.
#[derive(Debug)]
struct Settling {
    run: Generation,
    color: Color,
    services: Vec<ServiceName>,
    closed: [u64; 3],
}

/// What is on disk and what is not yet.
#[derive(Debug, Default)]
struct Ledger {
    written: Ticket,
    saved: Ticket,
    retry_at: Option<Instant>,
    trouble: Option<String>,
    /// The cutover that nobody may rely on before this write is durable.
    moved: Option<(Ticket, Generation, Vec<Move>)>,
}

/// How long a write may take before it counts as failed.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Between a failed write and the next attempt.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// A stack at rest.
    #[must_use]
    pub fn new(
        now: Instant,
        stack: StackName,
        members: impl IntoIterator<Item = (ServiceName, Member)>,
        last: Option<Cutover>,
    ) -> Self {
        Self {
            stack,
            members: members.into_iter().collect(),
            last,
            state: State::Idle,
            since: now,
            drains: Vec::new(),
            settling: Vec::new(),
            ledger: Ledger::default(),
            ended: None,
            out: Vec::new(),
        }
    }

    /// Takes in a fact; gives back what is to be done, in order.
    #[must_use]
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let before = self.phase();
        match input {
            Input::Tick => self.tick(now),
            Input::Ordered(command) => self.ordered(now, command),
            Input::GateChecked { generation, slots } => self.gate_checked(now, generation, slots),
            Input::Persisted { ticket } => self.persisted(now, ticket),
            Input::PersistFailed { ticket, reason } => self.persist_failed(now, ticket, reason),
            Input::Sampled {
                generation,
                samples,
            } => self.sampled(now, generation, samples),
            Input::Judged {
                generation,
                verdict,
            } => self.judged(now, generation, verdict),
            Input::Counted {
                service,
                generation,
                in_flight,
            } => self.counted(now, &service, generation, in_flight),
            Input::Reconfigured { members } => self.reconfigured(now, members),
        }
        if self.phase() != before {
            self.since = now;
        }
        mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due; `None`: nothing is waited for.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let drains = self.drains.iter().filter_map(Drain::deadline);
        let timers = [self.state.deadline(), self.ledger.retry_at];
        timers.into_iter().flatten().chain(drains).min()
    }

    /// Where the switch stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// The services of the stack.
    pub fn members(&self) -> impl Iterator<Item = (&ServiceName, &Member)> {
        self.members.iter()
    }

    /// Whether nothing runs, drains or waits for the disk.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.phase() == Phase::Idle && self.drains.is_empty() && self.ledger.retry_at.is_none()
    }

    /// The slots that a rollback would return to, for the reports of a [`Command`].
    #[must_use]
    pub fn undoes(&self) -> Vec<(ServiceName, Color)> {
        let slot = |m: &Move| (m.service.clone(), m.from.color);
        self.undo().iter().map(slot).collect()
    }

    /// Pools beside the live ones that a rollback may publish again: they take no requests, but
    /// must not be dropped.
    #[must_use]
    pub fn standby(&self) -> Vec<(ServiceName, Live)> {
        let watched = match &self.state {
            State::Observing(watch) | State::Held(watch, _) => watch.run.moves.as_slice(),
            State::Committing(committing) => committing.run.moves.as_slice(),
            State::Idle | State::Probing(_) | State::Switching(_) | State::RollingBack(_) => &[],
        };
        let watched = watched.iter().map(|m| (m.service.clone(), m.from));
        let waiting = self.drains.iter().filter(|drain| drain.is_waiting());
        let waiting = waiting.map(|drain| (drain.service.clone(), drain.pool));
        watched.chain(waiting).collect()
    }

    /// What a switch under watch has moved, once that is on disk.
    #[must_use]
    pub fn recorded_moves(&self, run: Generation) -> Option<Vec<Move>> {
        let watched = match &self.state {
            State::Observing(watch) | State::Held(watch, _) => &watch.run,
            State::Committing(committing) => &committing.run,
            State::Idle | State::Probing(_) | State::Switching(_) | State::RollingBack(_) => {
                return None;
            }
        };
        (watched.generation == run && self.ledger.moved.is_none()).then(|| watched.moves.clone())
    }

    /// How the stack looks from outside.
    #[must_use]
    pub fn status(&self) -> StackStatus {
        let mut status = StackStatus {
            stack: self.stack.clone(),
            phase: self.phase(),
            since: self.since,
            run: self.state.holder(),
            gate: Vec::new(),
            failing: Vec::new(),
            gate_deadline: None,
            observation: None,
            held: None,
            services: self.members.iter().map(service_status).collect(),
            drains: self.drains.iter().map(Drain::status).collect(),
            undo: self.undo(),
            last: self.ended.clone(),
            unsaved: self.ledger.trouble.clone(),
        };
        match &self.state {
            State::Probing(probing) => {
                status.gate.clone_from(&probing.slots);
                status.failing.clone_from(&probing.failing);
                status.gate_deadline = Some(probing.deadline);
            }
            State::Observing(watch) => status.observation = Some(watch.observation.clone()),
            State::Held(watch, hold) => {
                status.observation = Some(watch.observation.clone());
                status.held = Some(hold.reason.clone());
            }
            State::Idle | State::Switching(_) | State::RollingBack(_) | State::Committing(_) => {}
        }
        status
    }

    fn tick(&mut self, now: Instant) {
        if self
            .state
            .deadline()
            .is_some_and(|deadline| now >= deadline)
        {
            self.state = match self.take() {
                State::Idle => State::Idle,
                State::Probing(probing) => self.probing_due(now, probing),
                State::Switching(switching) => {
                    self.not_recorded(now, switching, "the disk did not answer".to_owned())
                }
                State::Observing(watch) => State::Observing(self.watch_due(now, watch)),
                State::Held(watch, hold) => State::Held(self.watch_due(now, watch), hold),
                State::RollingBack(back) => self.back_due(now, back),
                State::Committing(committing) => {
                    let reason = "the disk did not answer".to_owned();
                    self.trouble(now, reason.clone());
                    self.committed(now, committing, Some(reason))
                }
            };
        }
        for drain in &mut self.drains {
            drain.tick(now, &mut self.out);
        }
        if self.ledger.retry_at.is_some_and(|at| now >= at) {
            self.rewrite();
        }
    }

    fn ordered(&mut self, now: Instant, command: Command) {
        match &command.order {
            Order::Switch { .. } => self.switch(now, &command),
            Order::RollBack => self.roll_back(now, &command),
            Order::Promote => self.promote(now, &command),
            Order::Abort => self.abort(now, &command),
        }
    }

    fn persisted(&mut self, now: Instant, ticket: Ticket) {
        if ticket <= self.ledger.saved || ticket > self.ledger.written {
            return;
        }
        self.ledger.saved = ticket;
        if ticket == self.ledger.written {
            self.ledger.retry_at = None;
            if self.ledger.trouble.take().is_some() {
                self.notify(Event::Durable);
            }
        }
        self.state = match self.take() {
            State::Switching(switching) if switching.ticket <= ticket => {
                self.cut_over(now, switching)
            }
            State::RollingBack(back) if back.ticket <= ticket => match back.step {
                state::Step::Announcing => self.restore(now, back),
                state::Step::Recording => self.restored(now, back, None),
            },
            State::Committing(committing) if committing.ticket <= ticket => {
                self.committed(now, committing, None)
            }
            state @ (State::Idle
            | State::Probing(_)
            | State::Switching(_)
            | State::Observing(_)
            | State::Held(..)
            | State::RollingBack(_)
            | State::Committing(_)) => state,
        };
        if (self.ledger.moved.as_ref()).is_some_and(|(awaited, ..)| *awaited <= ticket) {
            self.recorded(None);
        }
        self.begin_drains(now);
    }

    /// Tells whoever did not wait for the watch that the move will hold.
    fn recorded(&mut self, unsaved: Option<String>) {
        if let Some((_, run, moves)) = self.ledger.moved.take()
            && self.phase() != Phase::RollingBack
        {
            self.report(run, Progress::Recorded { moves, unsaved });
        }
    }

    fn persist_failed(&mut self, now: Instant, ticket: Ticket, reason: String) {
        // A newer write is on its way: it says all that this one did.
        if ticket != self.ledger.written || ticket <= self.ledger.saved {
            return;
        }
        self.state = match self.take() {
            State::Switching(switching) => self.not_recorded(now, switching, reason),
            State::RollingBack(back) => {
                self.trouble(now, reason.clone());
                match back.step {
                    state::Step::Announcing => self.restore(now, back),
                    state::Step::Recording => self.restored(now, back, Some(reason)),
                }
            }
            State::Committing(committing) => {
                self.trouble(now, reason.clone());
                self.committed(now, committing, Some(reason))
            }
            state @ (State::Idle | State::Probing(_) | State::Observing(_) | State::Held(..)) => {
                self.trouble(now, reason);
                state
            }
        };
    }

    fn counted(
        &mut self,
        now: Instant,
        service: &ServiceName,
        generation: Generation,
        in_flight: [u64; 3],
    ) {
        let is_it =
            |drain: &Drain| &drain.service == service && drain.pool.generation == generation;
        let Some(index) = self.drains.iter().position(is_it) else {
            return;
        };
        if !self.drains[index].counted(now, in_flight, &mut self.out) {
            return;
        }
        let drain = self.drains.remove(index);
        let closed = drain.closed();
        self.out.push(Effect::Retire {
            service: drain.service.clone(),
            generation: drain.pool.generation,
        });
        self.notify(Event::Drained {
            service: drain.service,
            pool: drain.pool,
            closed,
        });
        if let Some(run) = drain.run {
            self.settle(now, run, closed);
        }
    }

    /// Ends a kept switch with the last of its drains.
    fn settle(&mut self, now: Instant, run: Generation, closed: [u64; 3]) {
        let Some(index) = self
            .settling
            .iter()
            .position(|settling| settling.run == run)
        else {
            return;
        };
        for (sum, part) in self.settling[index].closed.iter_mut().zip(closed) {
            *sum += part;
        }
        if self.drains.iter().any(|drain| drain.run == Some(run)) {
            return;
        }
        let settling = self.settling.remove(index);
        self.end(
            now,
            Some(run),
            settling.services.clone(),
            Outcome::Kept {
                color: settling.color,
                services: settling.services,
                closed: settling.closed,
                unsaved: None,
            },
        );
    }

    fn begin_drains(&mut self, now: Instant) {
        for drain in &mut self.drains {
            drain.saved(now, self.ledger.saved, &mut self.out);
        }
    }

    fn drain(&mut self, service: ServiceName, pool: Live, ticket: Ticket, run: Option<Generation>) {
        let windows = self
            .members
            .get(&service)
            .map(|member| member.rules.windows);
        let windows = windows.unwrap_or(DrainWindows::DEFAULT);
        self.drains
            .push(Drain::new(service, pool, windows, ticket, run));
    }

    /// What a rollback would move back now: only what is still as the cutover left it.
    fn undo(&self) -> Vec<Move> {
        let moves = match &self.state {
            State::Observing(watch) | State::Held(watch, _) => watch.run.moves.as_slice(),
            State::Committing(committing) => committing.run.moves.as_slice(),
            State::Idle => self.last.as_ref().map_or(&[][..], |last| &last.moves),
            State::Probing(_) | State::Switching(_) | State::RollingBack(_) => &[],
        };
        let is_live = |m: &&Move| {
            let member = self.members.get(&m.service);
            member.is_some_and(|member| member.live.color == m.to.color)
        };
        moves.iter().filter(is_live).cloned().collect()
    }

    /// Makes the new side of each move the live one, in memory.
    fn adopt(&mut self, moves: &[Move]) -> Vec<Publication> {
        for m in moves {
            if let Some(member) = self.members.get_mut(&m.service) {
                member.live = m.to;
            }
        }
        let publication = |m: &Move| Publication {
            service: m.service.clone(),
            color: m.to.color,
            generation: m.to.generation,
        };
        moves.iter().map(publication).collect()
    }

    fn persist(&mut self, pending: Option<Intent>) -> Ticket {
        self.ledger.written = Ticket(self.ledger.written.0 + 1);
        self.ledger.retry_at = None;
        self.out.push(Effect::Persist {
            ticket: self.ledger.written,
            record: StackRecord {
                last: self.last.clone(),
                pending,
            },
            services: self.members.iter().map(service_record).collect(),
        });
        self.ledger.written
    }

    /// Writes the state as it is, once more.
    fn rewrite(&mut self) {
        let pending = match &self.state {
            State::Switching(switching) => Some(Intent::CutOver {
                moves: switching.run.moves.clone(),
            }),
            State::RollingBack(back) => match back.step {
                state::Step::Announcing => Some(Intent::RollBack {
                    moves: back.moves.clone(),
                }),
                state::Step::Recording => None,
            },
            State::Idle
            | State::Probing(_)
            | State::Observing(_)
            | State::Held(..)
            | State::Committing(_) => None,
        };
        let _ = self.persist(pending);
    }

    /// The state in memory is ahead of the disk: says so once and tries again.
    fn trouble(&mut self, now: Instant, reason: String) {
        self.ledger.retry_at = Some(now + WRITE_AGAIN);
        if self.ledger.trouble.is_none() {
            self.notify(Event::NotDurable {
                reason: reason.clone(),
            });
        }
        self.ledger.trouble = Some(reason.clone());
        self.recorded(Some(reason));
    }

    /// The end of what held the lock.
    fn end(
        &mut self,
        now: Instant,
        command: Option<Generation>,
        services: Vec<ServiceName>,
        outcome: Outcome,
    ) {
        self.ended = Some((outcome.clone(), now));
        self.notify(Event::Ended {
            services,
            outcome: outcome.clone(),
        });
        if let Some(command) = command {
            self.finish(command, outcome);
        }
    }

    /// Refuses a command that never held the lock.
    fn refuse(&mut self, command: &Command, refusal: Refusal) {
        self.finish(command.generation, Outcome::Refused(refusal));
    }

    /// Why nothing else may begin in `state`; `None`: something may.
    fn locked(&self, now: Instant, state: &State) -> Option<Refusal> {
        let holder = state.holder()?;
        Some(Refusal::Locked {
            holder: holder.actor,
            target: holder.target,
            state: state.phase().as_str(),
            age: now.saturating_duration_since(self.since),
        })
    }

    fn finish(&mut self, command: Generation, outcome: Outcome) {
        // Its end says more.
        self.ledger.moved.take_if(|(_, run, _)| *run == command);
        self.out.push(Effect::Finish { command, outcome });
    }

    fn report(&mut self, command: Generation, progress: Progress) {
        self.out.push(Effect::Report { command, progress });
    }

    fn notify(&mut self, event: Event) {
        self.out.push(Effect::Notify(event));
    }

    const fn take(&mut self) -> State {
        mem::replace(&mut self.state, State::Idle)
    }
}

fn service_record((name, member): (&ServiceName, &Member)) -> (ServiceName, ServiceRecord) {
    let labelled = |color: Color| Some((color, member.releases[color.index()].clone()?));
    let record = ServiceRecord {
        live: member.live,
        releases: Color::ALL.into_iter().filter_map(labelled).collect(),
    };
    (name.clone(), record)
}

fn service_status((name, member): (&ServiceName, &Member)) -> ServiceStatus {
    ServiceStatus {
        service: name.clone(),
        live: member.live,
        releases: member.releases.clone(),
    }
}
