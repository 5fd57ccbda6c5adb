//! The shell: one task that owns every stack's [`Machine`], performs its effects through the
//! [`Driver`], and writes the book on a thread of its own, one write at a time.
//!
//! The loop selects over messages, the end of a write and the next deadline. It decides nothing
//! about a switch; what it adds is who waits for which command, the ids that were seen, and the
//! merging of all stacks into one book. Writes that queue up behind a slow disk become one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::driver::Driver;
use super::gate::SlotReport;
use super::ids;
use super::journal::Save;
use super::machine::{
    Command, Effect, Event, Input, Machine, Member, Order, Progress, Rules, Sample, Ticket,
};
use super::outcome::{Outcome, Refusal};
use super::record::{Book, Running, StackRecord, Verb};
use super::recover::{live_of, remember};
use super::request::By;
use super::select::{Candidate, select};
use super::status::{Phase, StackStatus};
use super::switchboard::{Install, Layout, Message, Notes, Request, Setup, Stamped};
use super::verdict::Judge;
use crate::clock;
use crate::config::Service;
use crate::model::{Color, Generation, ServiceName, StackName};

/// Between a failed write of what no machine waits for and the next attempt.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Controller {
    driver: Arc<dyn Driver>,
    judge: Box<dyn Judge>,
    clock: fn() -> Instant,
    stacks: BTreeMap<StackName, Machine>,
    book: Book,
    pen: Pen,
    waiters: HashMap<Generation, Vec<UnboundedSender<Progress>>>,
    inbox: UnboundedReceiver<Message>,
    status: watch::Sender<Arc<[StackStatus]>>,
    events: broadcast::Sender<Stamped>,
    /// What is wrong with the journal: nothing is switched before its repair.
    damage: Option<String>,
    notes: watch::Sender<Notes>,
}

/// What is being written and what comes next.
struct Pen {
    save: Arc<dyn Save>,
    writing: Option<JoinHandle<Result<(), String>>>,
    flying: Vec<(StackName, Ticket)>,
    waiting: Vec<(StackName, Ticket)>,
    dirty: bool,
    flushes: Vec<oneshot::Sender<Result<(), String>>>,
    /// Why the last write failed, and when the next attempt is.
    failed: Option<(String, Instant)>,
}

impl Controller {
    pub(super) fn new(
        setup: Setup,
        clock: fn() -> Instant,
        inbox: UnboundedReceiver<Message>,
        events: broadcast::Sender<Stamped>,
    ) -> (
        Self,
        watch::Receiver<Arc<[StackStatus]>>,
        watch::Receiver<Notes>,
    ) {
        let (status, watcher) = watch::channel(Arc::from([]));
        let (notes, noted) = watch::channel(Notes::default());
        let mut controller = Self {
            driver: setup.driver,
            judge: setup.judge,
            clock,
            stacks: BTreeMap::new(),
            book: setup.recovered.book,
            pen: Pen::new(setup.save),
            waiters: HashMap::new(),
            inbox,
            status,
            events,
            damage: setup.damage,
            notes,
        };
        controller.adopt(&setup.services);
        controller.take_up();
        controller.show();
        (controller, watcher, noted)
    }

    pub(super) async fn run(mut self) {
        loop {
            self.pen.write(&self.book);
            self.show();
            let again = self.pen.failed.as_ref().map(|(_, again)| *again);
            let deadlines = self.stacks.values().filter_map(Machine::deadline);
            let deadline = deadlines.chain(again).min();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.message(message),
                    None => break,
                },
                result = finished(&mut self.pen.writing) => self.written(result),
                () = until(deadline) => self.tick(),
            }
        }
        // Nobody can ask any more; what is known still reaches the disk.
        while self.pen.writing.is_some() {
            let result = finished(&mut self.pen.writing).await;
            self.written(result);
            self.pen.write(&self.book);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Ask { request, progress } => self.ask(request, progress),
            Message::Reconfigure {
                services,
                install,
                warnings,
            } => {
                let said = self.reconfigure(&services, install);
                let _ = warnings.send(said);
            }
            Message::Flush { goodbye, done } => {
                if goodbye && self.damage.is_none() {
                    self.book.clean = true;
                    self.pen.dirty = true;
                }
                self.pen.flushes.push(done);
            }
            Message::Freeze { freeze, done } => {
                self.book.freeze = freeze;
                self.note(done);
            }
            Message::Maintain { changes, done } => {
                for (key, record) in changes {
                    match record {
                        Some(record) => drop(self.book.maintenance.insert(key, record)),
                        None => drop(self.book.maintenance.remove(&key)),
                    }
                }
                self.note(done);
            }
            Message::Knows { id, done } => drop(done.send(self.knows(&id))),
            Message::Repair { repair, done } => {
                let repaired = repair(&self.book);
                if repaired.is_ok() {
                    self.damage = None;
                    self.pen.dirty = true;
                }
                // Whoever is gone no longer waits.
                let _ = done.send(repaired);
            }
        }
    }

    /// What was changed is to be on disk before the answer.
    fn note(&mut self, done: oneshot::Sender<Result<(), String>>) {
        self.pen.dirty = true;
        self.pen.flushes.push(done);
    }

    fn tick(&mut self) {
        let now = (self.clock)();
        if self
            .pen
            .failed
            .as_ref()
            .is_some_and(|(_, again)| *again <= now)
        {
            self.pen.failed = None;
            self.pen.dirty = true;
        }
        let due = |machine: &Machine| machine.deadline().is_some_and(|at| at <= now);
        let due: Vec<_> = self
            .stacks
            .iter()
            .filter(|(_, machine)| due(machine))
            .map(|(stack, _)| stack.clone())
            .collect();
        for stack in due {
            self.feed(&stack, Input::Tick);
        }
    }

    fn ask(&mut self, request: Request, progress: UnboundedSender<Progress>) {
        let by = request.by().clone();
        if let Some(id) = &by.id {
            if let Some(recorded) = self.book.results.iter().find(|known| known.id == *id) {
                let outcome = Outcome::Recorded(recorded.clone());
                let _ = progress.send(Progress::Finished(outcome));
                return;
            }
            if let Some(running) = self.book.running.iter().find(|known| known.id == *id)
                && let Some(waiters) = self.waiters.get_mut(&running.generation)
            {
                let machine = self.stacks.get(&running.stack);
                let moves = machine.and_then(|it| it.recorded_moves(running.generation));
                if let Some(moves) = moves {
                    let unsaved = None;
                    let _ = progress.send(Progress::Recorded { moves, unsaved });
                }
                waiters.push(progress);
                return;
            }
        }
        let generation = self.book.allot();
        self.waiters.insert(generation, vec![progress]);
        let verb = request.verb();
        match self.resolve(request) {
            Ok((stack, order)) => {
                self.book.running.extend(by.id.map(|id| Running {
                    id,
                    at_ms: clock::epoch_ms(clock::wall()),
                    generation,
                    stack: stack.clone(),
                    verb,
                    moves: Vec::new(),
                    kept: false,
                    back: None,
                }));
                let old = self.reports(self.stacks.get(&stack).map(Machine::undoes));
                let command = Command {
                    generation,
                    actor: by.actor,
                    why: by.why,
                    order,
                    old,
                };
                self.feed(&stack, Input::Ordered(command));
            }
            Err(refusal) => {
                let outcome = Outcome::Refused(refusal);
                if let Some(id) = by.id {
                    self.record(id, &outcome);
                }
                self.finish(generation, outcome);
            }
        }
    }

    /// Whether a command with this id runs or has ended.
    fn knows(&self, id: &str) -> bool {
        let mut results = self.book.results.iter();
        let mut running = self.book.running.iter();
        results.any(|known| known.id == id) || running.any(|known| known.id == id)
    }

    /// Commands with an id whose watch goes on after a restart can be joined again. What cannot
    /// go on has ended.
    fn take_up(&mut self) {
        for known in self.book.running.clone() {
            let machine = self.stacks.get(&known.stack);
            let moves = machine.and_then(|machine| machine.recorded_moves(known.generation));
            self.waiters.insert(known.generation, Vec::new());
            if moves.is_none() {
                let reason = "the daemon was stopped, and what moved is gone since".to_owned();
                self.finish(known.generation, Outcome::Failed { reason });
            }
        }
    }

    /// Which stack a request is about, and what it orders there.
    fn resolve(&self, request: Request) -> Result<(StackName, Order), Refusal> {
        match request {
            Request::Switch(request) => {
                self.is_allowed()?;
                if request.canary_percent.is_some() {
                    return Err(Refusal::Canary);
                }
                let fits = |machine: &Machine| {
                    let mut members = machine.members();
                    members.any(|(_, member)| member.rules.is_switchable())
                };
                let candidates = self.candidates(fits);
                let none = Refusal::NothingSwitchable;
                let stack = select(&candidates, &request.services, none)?;
                let order = Order::Switch {
                    color: request.color,
                    services: request.services,
                    force: request.force,
                    release: request.release,
                    confirm_within: request.confirm_within,
                };
                Ok((stack, order))
            }
            Request::RollBack(request) => {
                let fits = |machine: &Machine| {
                    machine.phase() != Phase::Idle || !machine.undoes().is_empty()
                };
                let candidates = self.candidates(fits);
                let stack = select(&candidates, &request.services, Refusal::NothingToUndo)?;
                Ok((stack, Order::RollBack))
            }
            Request::Promote(request) => {
                let stack = self.running(&request.services)?;
                Ok((stack, Order::Promote))
            }
            Request::Abort(request) => {
                let stack = self.running(&request.services)?;
                Ok((stack, Order::Abort))
            }
        }
    }

    /// Whether anything may be switched at all.
    fn is_allowed(&self) -> Result<(), Refusal> {
        if let Some(damage) = &self.damage {
            return Err(Refusal::Damaged {
                damage: damage.clone(),
            });
        }
        match &self.book.freeze {
            Some(freeze)
                if freeze
                    .until_ms
                    .is_none_or(|until| clock::epoch_ms(clock::wall()) < until) =>
            {
                Err(Refusal::Frozen {
                    why: freeze.why.clone(),
                    by: freeze.by.clone(),
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn running(&self, services: &[ServiceName]) -> Result<StackName, Refusal> {
        let candidates = self.candidates(|machine| machine.phase() != Phase::Idle);
        select(&candidates, services, Refusal::NothingRunning)
    }

    fn candidates(&self, fits: impl Fn(&Machine) -> bool) -> Vec<Candidate> {
        let candidate = |(stack, machine): (&StackName, &Machine)| Candidate {
            stack: stack.clone(),
            services: machine.members().map(|(name, _)| name.clone()).collect(),
            fits: fits(machine),
        };
        self.stacks.iter().map(candidate).collect()
    }

    fn reports(
        &self,
        slots: impl IntoIterator<Item = Vec<(ServiceName, Color)>>,
    ) -> Vec<SlotReport> {
        let report = |(service, color): (ServiceName, Color)| SlotReport {
            report: self.driver.gate(&service, color),
            service,
            color,
        };
        slots.into_iter().flatten().map(report).collect()
    }

    /// Gives a machine a fact and does what it asks for, with the answers that this brings.
    fn feed(&mut self, stack: &StackName, input: Input) {
        let mut facts = VecDeque::from([input]);
        while let Some(fact) = facts.pop_front() {
            let now = (self.clock)();
            let Some(machine) = self.stacks.get_mut(stack) else {
                return;
            };
            let before = machine.phase();
            let effects = machine.handle(now, fact);
            let after = machine.phase();
            if before != after {
                let (from, to) = (before.as_str(), after.as_str());
                info!(%stack, from, to, "switch state changed");
            }
            for effect in effects {
                facts.extend(self.perform(stack, effect));
            }
        }
    }

    /// Does one thing; the answer, if it has one.
    fn perform(&mut self, stack: &StackName, effect: Effect) -> Option<Input> {
        match effect {
            Effect::CheckGate { generation, slots } => {
                let slots = self.reports([slots]);
                return Some(Input::GateChecked { generation, slots });
            }
            Effect::Persist {
                ticket,
                record,
                services,
            } => {
                let record = stamped(self.book.stacks.get(stack), record);
                ids::written(&mut self.book, stack, &record);
                self.book.stacks.insert(stack.clone(), record);
                self.book.services.extend(services);
                self.pen.note(stack.clone(), ticket);
            }
            Effect::CutOver { ready: _, pools } | Effect::Restore { pools } => {
                self.driver.publish(&pools);
            }
            Effect::Sample { generation, slots } => {
                let sample = |(service, old): (ServiceName, Color)| Sample {
                    traffic: Color::ALL.map(|color| self.driver.traffic(&service, color)),
                    old: self.driver.gate(&service, old),
                    service,
                };
                return Some(Input::Sampled {
                    generation,
                    samples: slots.into_iter().map(sample).collect(),
                });
            }
            Effect::Judge(observation) => {
                let verdict = self.judge.judge((self.clock)(), &observation);
                let generation = observation.generation;
                return Some(Input::Judged {
                    generation,
                    verdict,
                });
            }
            Effect::BeginDrain {
                service,
                generation,
                windows,
            } => self.driver.begin_drain(&service, generation, windows),
            Effect::Count {
                service,
                generation,
            } => {
                let in_flight = self.driver.in_flight(&service, generation);
                return Some(Input::Counted {
                    service,
                    generation,
                    in_flight,
                });
            }
            Effect::Close {
                service,
                generation,
                kind,
            } => self.driver.close(&service, generation, kind),
            Effect::Retire {
                service,
                generation,
            } => self.driver.retire(&service, generation),
            Effect::Report { command, progress } => {
                ids::told(&mut self.book, command, &progress);
                if let Some(waiters) = self.waiters.get_mut(&command) {
                    waiters.retain(|waiter| waiter.send(progress.clone()).is_ok());
                }
            }
            Effect::Finish { command, outcome } => self.finish(command, outcome),
            Effect::Notify(event) => self.notify(stack, event),
        }
        None
    }

    fn finish(&mut self, command: Generation, outcome: Outcome) {
        if let Some(id) = ids::finish(&mut self.book, command) {
            self.record(id, &outcome);
        }
        for waiter in self.waiters.remove(&command).into_iter().flatten() {
            // Whoever is gone has detached.
            let _ = waiter.send(Progress::Finished(outcome.clone()));
        }
    }

    /// For whoever asks again with the same id.
    fn record(&mut self, id: String, outcome: &Outcome) {
        let now = clock::epoch_ms(clock::wall());
        ids::record(&mut self.book, id, now, outcome);
        self.pen.dirty = true;
    }

    fn notify(&self, stack: &StackName, event: Event) {
        log(stack, &event);
        // Without a subscriber there is nobody to miss it.
        let _ = self.events.send(Stamped {
            at: clock::wall(),
            stack: stack.clone(),
            event,
        });
    }

    fn written(&mut self, result: Result<(), String>) {
        if let Err(reason) = &result {
            error!(error = %reason, "switch state not written");
            self.pen.failed = Some((reason.clone(), (self.clock)() + WRITE_AGAIN));
        }
        for (stack, ticket) in std::mem::take(&mut self.pen.flying) {
            let input = match &result {
                Ok(()) => Input::Persisted { ticket },
                Err(reason) => Input::PersistFailed {
                    ticket,
                    reason: reason.clone(),
                },
            };
            self.feed(&stack, input);
        }
    }

    fn reconfigure(&mut self, services: &[Service], install: Install) -> Vec<String> {
        let (warnings, facts) = self.adopt(services);
        let standby = self.stacks.values().flat_map(Machine::standby);
        let mut layout = Layout {
            live: BTreeMap::new(),
            standby: standby.collect(),
        };
        for machine in self.stacks.values() {
            let live = |(name, member): (&ServiceName, &Member)| (name.clone(), member.live);
            layout.live.extend(machine.members().map(live));
        }
        install(&layout);
        for (stack, effects) in facts {
            for effect in effects {
                if let Some(answer) = self.perform(&stack, effect) {
                    self.feed(&stack, answer);
                }
            }
        }
        self.stacks
            .retain(|_, machine| machine.members().next().is_some() || !machine.is_at_rest());
        for warning in &warnings {
            warn!(%warning, "reload");
        }
        warnings
    }

    /// Hands every service to the machine of its stack, with the live pool that is remembered.
    fn adopt(&mut self, services: &[Service]) -> (Vec<String>, Vec<(StackName, Vec<Effect>)>) {
        let now = (self.clock)();
        let fresh = self.book.allot();
        let mut warnings = Vec::new();
        let mut homes: BTreeMap<StackName, Vec<(ServiceName, Member)>> = BTreeMap::new();
        for service in services {
            let (live, warning) = live_of(&self.book, service, fresh);
            warnings.extend(warning);
            remember(&mut self.book, &service.name, live);
            let member = self.member(service);
            let home = homes.entry(service.stack.clone()).or_default();
            home.extend(member.map(|member| (service.name.clone(), member)));
        }
        let mut facts = Vec::new();
        for (stack, machine) in &mut self.stacks {
            let members = homes.remove(stack).unwrap_or_default();
            let effects = machine.handle(now, Input::Reconfigured { members });
            facts.push((stack.clone(), effects));
        }
        for (stack, members) in homes {
            let last = self.book.stacks.get(&stack);
            let last = last.and_then(|record| record.last.clone());
            let since = last.as_ref().and_then(|last| last.watched.as_ref());
            let elapsed = since.map_or(0, |watched| {
                clock::epoch_ms(clock::wall()).saturating_sub(watched.since_ms)
            });
            // The number of its command: whoever asks again with its id joins it.
            let run = last.as_ref().and_then(|last| last.moves.first());
            let run = run.map_or(Generation::default(), |m| m.to.generation);
            let mut machine = Machine::new(now, stack.clone(), members, last);
            machine.resume(now, run, Duration::from_millis(elapsed));
            self.stacks.insert(stack, machine);
        }
        self.pen.dirty = true;
        (warnings, facts)
    }

    fn member(&self, service: &Service) -> Option<Member> {
        let record = self.book.services.get(&service.name)?;
        let rules = Rules::from(service);
        let label = |color: Color| {
            let said = record.releases.get(&color).cloned();
            said.or_else(|| rules.releases[color.index()].clone())
        };
        Some(Member {
            live: record.live,
            releases: Color::ALL.map(label),
            rules,
        })
    }

    fn show(&self) {
        let shown: Arc<[StackStatus]> = self.stacks.values().map(Machine::status).collect();
        let notes = Notes {
            freeze: self.book.freeze.clone(),
            maintenance: self.book.maintenance.clone(),
            damage: self.damage.clone(),
        };
        self.notes.send_if_modified(|known| {
            let changed = *known != notes;
            *known = notes;
            changed
        });
        self.status.send_if_modified(|status| {
            let changed = *status != shown;
            *status = shown;
            changed
        });
    }
}

impl Pen {
    fn new(save: Arc<dyn Save>) -> Self {
        Self {
            save,
            writing: None,
            flying: Vec::new(),
            waiting: Vec::new(),
            dirty: false,
            flushes: Vec::new(),
            failed: None,
        }
    }

    fn note(&mut self, stack: StackName, ticket: Ticket) {
        self.waiting.push((stack, ticket));
        self.dirty = true;
    }

    /// Begins the next write, unless one is under way or nothing changed.
    fn write(&mut self, book: &Book) {
        if self.writing.is_some() {
            return;
        }
        if !self.dirty {
            let failed = self.failed.as_ref().map(|(reason, _)| reason.clone());
            for flush in self.flushes.drain(..) {
                // Whoever is gone no longer waits.
                let _ = flush.send(failed.clone().map_or(Ok(()), Err));
            }
            return;
        }
        self.dirty = false;
        self.flying = std::mem::take(&mut self.waiting);
        let (save, book) = (Arc::clone(&self.save), book.clone());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            save.save(&book).map_err(|error| error.to_string())
        }));
    }
}

impl Request {
    const fn by(&self) -> &By {
        match self {
            Self::Switch(request) => &request.by,
            Self::RollBack(request) | Self::Promote(request) | Self::Abort(request) => &request.by,
        }
    }

    const fn verb(&self) -> Verb {
        match self {
            Self::Switch(_) => Verb::Switch,
            Self::RollBack(_) => Verb::Rollback,
            Self::Promote(_) => Verb::Promote,
            Self::Abort(_) => Verb::Abort,
        }
    }
}

/// The moment of a cutover is taken when it is first recorded: the machine knows no wall clock.
fn stamped(known: Option<&StackRecord>, mut record: StackRecord) -> StackRecord {
    let watched = |record: &StackRecord| {
        let last = record.last.as_ref()?;
        Some((last.moves.clone(), last.watched.as_ref()?.since_ms))
    };
    let before = known.and_then(watched);
    if let Some(last) = &mut record.last
        && let Some(watched) = &mut last.watched
        && watched.since_ms == 0
    {
        watched.since_ms = match before {
            Some((moves, since_ms)) if moves == last.moves && since_ms != 0 => since_ms,
            Some(_) | None => clock::epoch_ms(clock::wall()),
        };
    }
    record
}

async fn finished(writing: &mut Option<JoinHandle<Result<(), String>>>) -> Result<(), String> {
    let Some(write) = writing else {
        return std::future::pending().await;
    };
    let result = write.await;
    *writing = None;
    result.unwrap_or_else(|error| Err(error.to_string()))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn log(stack: &StackName, event: &Event) {
    match event {
        Event::CutOver {
            actor,
            moves,
            forced,
        } => {
            for m in moves {
                let (service, from, to) = (&m.service, m.from.color, m.to.color);
                info!(%stack, %service, %from, %to, actor, forced, "cut over");
            }
        }
        Event::RolledBack {
            by, reason, moves, ..
        } => {
            for m in moves {
                let (service, from, to) = (&m.service, m.from.color, m.to.color);
                warn!(%stack, %service, %from, %to, by, reason, "rolled back");
            }
        }
        Event::Overridden {
            actor,
            what,
            target,
            why,
            ..
        } => info!(%stack, actor, ?what, %target, why, "overridden by hand"),
        Event::Held { reason, .. } => error!(%stack, reason, "switch held: a person must decide"),
        Event::NotDurable { reason } => error!(%stack, reason, "live colors are not on disk"),
        Event::Durable => info!(%stack, "live colors are on disk again"),
        Event::SwitchAccepted { actor, target, .. } => {
            info!(%stack, actor, %target, "switch accepted");
        }
        Event::Ended { outcome, .. } => info!(%stack, %outcome, "switch ended"),
        Event::DrainBegan { service, pool } => {
            info!(%stack, %service, color = %pool.color, "drain began");
        }
        Event::Drained {
            service,
            pool,
            closed,
        } => info!(%stack, %service, color = %pool.color, ?closed, "drained"),
    }
}

#[cfg(test)]
mod tests;
