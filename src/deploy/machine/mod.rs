//! One deploy, or one rollback to a kept release, as a pure state machine.
//!
//! The way forward is a list of actions, fixed by the plan ([`forward`]); the way back is made
//! from how far it came ([`backward`]). The machine goes along a list: it has the record written
//! that the next action is about to be done, waits until that is on disk, has it done, and goes
//! on. What a crash leaves behind is therefore always within what the record names, and every
//! action can be done again.
//!
//! ```text
//! Writing -> Doing -> Writing -> Doing -> ... -> Writing -> Over
//!               \-> Pausing -> Doing            the engine did not answer
//! ```
//!
//! Until the verdict a failure turns it back, and the old release is as it was. With
//! [`Action::Adopt`] the new release is the live one: what follows is finished whatever happens,
//! and what fails is told. A rolling deploy has no verdict: until it is kept, a failure brings back
//! each old container that has left, before the new one in its place goes.
//!
//! Invariants, each checked by the properties:
//!
//! - Nothing is done before the record of it is on disk.
//! - The old release of a web service and of a start-first worker runs until the verdict is kept.
//! - In a rolling deploy never fewer containers take requests than before it.
//! - The old and the new release of a stop-first worker never run together.
//! - When it is over, exactly the containers of the live and the kept release are there.

mod words;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

/// A run for tests elsewhere.
#[cfg(test)]
pub(crate) fn world_run() -> Run {
    world::run(false)
}

pub use words::{Answer, Change, Effect, Failure, Input, News, Outcome, Stage, Ticket};

use std::mem;
use std::time::{Duration, Instant};

use super::action::{Action, backward, forward};
use super::record::{Back, Cause, Run, Snapshot};

/// A deploy on its way.
#[derive(Debug)]
pub struct Machine {
    run: Run,
    forward: Vec<Action>,
    state: State,
    ticket: Ticket,
    stamp: u64,
    since: Instant,
    /// Since when the disk refuses.
    unwritten: Option<Instant>,
    /// The attempts at an action of the way back.
    attempts: u32,
    /// Who called it off while the engine was at something that cannot be left half done.
    called_off: Option<String>,
    ended: Option<Outcome>,
    out: Vec<Effect>,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// The record is on its way to the disk.
    Writing {
        ticket: Ticket,
        then: Then,
        /// It failed and is written again.
        again: Option<Instant>,
    },
    /// An action is being done.
    Doing {
        deadline: Option<Instant>,
    },
    /// It is done again in a moment.
    Pausing {
        until: Instant,
        deadline: Option<Instant>,
    },
    Over,
}

#[derive(Clone, Debug, PartialEq)]
enum Then {
    /// The next action.
    Do,
    /// Its end is told.
    End(Outcome),
    /// Nothing more.
    Nothing,
}

/// Between a failed write and the next attempt.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// How long the disk may refuse before a deploy turns back.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts at an action that the engine did not answer.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Attempts at an action of the way back, or after the verdict.
const ATTEMPTS: u32 = 60;

/// Attempts at bringing back a container that has left. Each of them takes its time.
const REVIVALS: u32 = 3;

/// The daemon may die so often under the steps before the cutover.
const CRASHES: u32 = 2;

impl Machine {
    /// A new one.
    #[must_use]
    pub fn begin(now: Instant, run: Run) -> (Self, Vec<Effect>) {
        let mut machine = Self::of(now, run);
        machine.write(Change::Step, Then::Do);
        let effects = mem::take(&mut machine.out);
        (machine, effects)
    }

    /// Takes up what a restart found.
    #[must_use]
    pub fn resume(now: Instant, mut run: Run) -> (Self, Vec<Effect>) {
        run.crashes += 1;
        let mut machine = Self::of(now, run);
        let cutover = machine.place(Action::CutOver);
        let is_before = machine.run.done < cutover.unwrap_or_else(|| machine.adopted());
        if machine.run.back.is_none() && is_before && machine.run.crashes > CRASHES {
            let step = machine.told();
            let reason = format!("the daemon died {} times under it", machine.run.crashes);
            machine.turn(Cause::Failed {
                step,
                reason,
                lines: Vec::new(),
                is_shut: false,
            });
        } else {
            machine.write(Change::Step, Then::Do);
        }
        let effects = mem::take(&mut machine.out);
        (machine, effects)
    }

    fn of(now: Instant, run: Run) -> Self {
        Self {
            forward: forward(&run.plan),
            run,
            state: State::Over,
            ticket: Ticket(0),
            stamp: 0,
            since: now,
            unwritten: None,
            attempts: 0,
            called_off: None,
            ended: None,
            out: Vec::new(),
        }
    }

    /// Takes in a fact; gives back what is to be done, in order.
    #[must_use]
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        match input {
            Input::Saved { ticket } => self.saved(now, ticket),
            Input::SaveFailed { ticket, reason } => self.save_failed(now, ticket, reason),
            Input::Answered { stamp, answer } if stamp == self.stamp => self.answered(now, answer),
            // What was given up answers late.
            Input::Answered { .. } => {}
            Input::Abort { by } => self.abort(by),
            Input::Tick => self.tick(now),
        }
        mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due; `None`: nothing is waited for.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Writing { again, .. } => again,
            State::Doing { deadline } => deadline,
            State::Pausing { until, .. } => Some(until),
            State::Over => None,
        }
    }

    /// What it does.
    #[must_use]
    pub const fn run(&self) -> &Run {
        &self.run
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Where it stands, and since when.
    #[must_use]
    pub fn stage(&self) -> (Stage, Instant) {
        let (done, of) = match &self.run.back {
            Some(back) => (back.done, back.actions.len()),
            None => (self.run.done, self.forward.len()),
        };
        let stage = Stage {
            action: self.action(),
            text: self.told(),
            done,
            of,
            is_back: self.run.back.is_some(),
        };
        (stage, self.since)
    }

    /// Whether a person can still call it off: there was no cutover, and it is not kept.
    #[must_use]
    pub fn can_abort(&self) -> bool {
        let cutover = self
            .place(Action::CutOver)
            .unwrap_or_else(|| self.adopted());
        let goes_on = self.ended.is_none() && !self.is_over();
        goes_on && self.run.back.is_none() && self.run.done < cutover
    }

    /// The action that is about to be done or being done.
    fn action(&self) -> Option<Action> {
        match &self.run.back {
            Some(back) => back.actions.get(back.done).copied(),
            None => self.forward.get(self.run.done).copied(),
        }
    }

    fn told(&self) -> String {
        self.action()
            .map_or_else(|| "end".to_owned(), |action| action.told(&self.run.plan))
    }

    fn place(&self, action: Action) -> Option<usize> {
        self.forward.iter().position(|known| *known == action)
    }

    /// Position of the action after which nothing is undone.
    fn adopted(&self) -> usize {
        self.place(Action::Adopt).unwrap_or(self.forward.len())
    }

    /// Whether nothing is undone any more.
    fn is_finishing(&self) -> bool {
        self.run.back.is_none() && self.run.done >= self.adopted()
    }

    fn write(&mut self, change: Change, then: Then) {
        self.ticket.0 += 1;
        self.state = State::Writing {
            ticket: self.ticket,
            then,
            again: None,
        };
        self.out.push(Effect::Save {
            ticket: self.ticket,
            run: Box::new(self.run.clone()),
            change,
        });
    }

    fn saved(&mut self, now: Instant, ticket: Ticket) {
        let then = match mem::replace(&mut self.state, State::Over) {
            State::Writing {
                ticket: waited,
                then,
                ..
            } if waited == ticket => then,
            other => {
                self.state = other;
                return;
            }
        };
        self.unwritten = None;
        match then {
            Then::Do => self.next(now),
            Then::End(outcome) => self.out.push(Effect::End(outcome)),
            Then::Nothing => {}
        }
    }

    fn save_failed(&mut self, now: Instant, ticket: Ticket, reason: String) {
        let finishing = self.is_finishing();
        let State::Writing {
            ticket: waited,
            again,
            then,
        } = &mut self.state
        else {
            return;
        };
        if *waited != ticket {
            return;
        }
        let since = *self.unwritten.get_or_insert(now);
        let retry = Some(now + WRITE_AGAIN);
        match then {
            // Whoever waits is told; the disk gets it when it can.
            Then::End(outcome) => {
                self.out.push(Effect::End(outcome.clone()));
                *then = Then::Nothing;
                *again = retry;
                return;
            }
            Then::Nothing => {
                *again = retry;
                return;
            }
            Then::Do => {}
        }
        let is_going_back = self.run.back.is_some();
        if self.run.done == 0 && self.run.crashes == 0 && !is_going_back {
            // Nothing was done: there is nothing to be sorry about.
            let outcome = Outcome::Refused {
                reason: format!("it could not be recorded: {reason}; nothing was changed"),
            };
            self.ended = Some(outcome.clone());
            self.out.push(Effect::End(outcome.clone()));
            self.write(Change::End(outcome), Then::Nothing);
            return;
        }
        let is_patient = now.saturating_duration_since(since) < WRITE_PATIENCE;
        if is_patient || is_going_back || finishing {
            *again = retry;
            return;
        }
        let step = self.told();
        let reason = format!("it cannot be recorded: {reason}");
        self.turn(Cause::Failed {
            step,
            reason,
            lines: Vec::new(),
            is_shut: false,
        });
    }

    /// Does what the record says is about to be done.
    fn next(&mut self, now: Instant) {
        self.since = now;
        let Some(action) = self.action() else {
            self.end();
            return;
        };
        if action == Action::Adopt {
            self.run.done += 1;
            self.write(Change::Adopt, Then::Do);
            return;
        }
        self.attempts = 0;
        let limit = self.run.plan.limit(action);
        self.perform(action, limit.map(|limit| now + limit));
        let (stage, _) = self.stage();
        self.out.push(Effect::Report(stage));
    }

    fn perform(&mut self, action: Action, deadline: Option<Instant>) {
        self.stamp += 1;
        self.state = State::Doing { deadline };
        self.out.push(Effect::Do {
            stamp: self.stamp,
            action,
        });
    }

    fn answered(&mut self, now: Instant, answer: Answer) {
        let State::Doing { deadline } = self.state else {
            return;
        };
        let Some(action) = self.action() else {
            return;
        };
        if let Some(by) = self.called_off.take()
            && self.can_abort()
        {
            self.turn(Cause::Aborted { by });
            return;
        }
        match answer {
            Answer::Done(news) => self.learn(action, news),
            Answer::Failed(failure) => self.failed(now, action, deadline, failure),
        }
    }

    /// An action is done.
    fn learn(&mut self, action: Action, news: News) {
        let facts = &mut self.run.facts;
        match news {
            News::Nothing => {}
            News::Pulled(pulled) => {
                if let Action::Pull(n) = action {
                    facts.images.insert(n, pulled);
                }
            }
            News::Closed { quiet } => {
                facts.closed = true;
                facts.quiet = quiet;
            }
            News::Ran { began_ms } => {
                if let Action::Job(n) = action
                    && self
                        .run
                        .plan
                        .jobs
                        .get(n)
                        .is_some_and(|job| job.job.snapshot)
                {
                    facts.snapshots.insert(n, Snapshot { began_ms });
                }
            }
            // A container that joins while the stack is closed gets none.
            News::Moved => facts.moved |= !(matches!(action, Action::JoinOne(_)) && facts.closed),
            News::Kept => facts.moved = true,
            News::RolledBack { reason } => {
                facts.moved = true;
                if self.run.back.is_none() {
                    self.turn(Cause::RolledBack { reason });
                    return;
                }
            }
            News::NeverHappened => {
                if self.run.plan.retry && action == Action::CutOver {
                    // Asked for again, as the configuration wants it.
                    self.write(Change::Step, Then::Do);
                    return;
                }
                self.turn(Cause::Failed {
                    step: action.told(&self.run.plan),
                    reason: "the daemon was stopped before it happened".to_owned(),
                    lines: Vec::new(),
                    is_shut: false,
                });
                return;
            }
            News::Restored(what) => facts.restored.push(what),
            News::Advice(lines) => facts.advice.extend(lines),
        }
        if action == Action::Open {
            self.run.facts.closed = false;
        }
        if let Some(cause) = self.is_pointless(action) {
            self.turn(cause);
            return;
        }
        self.step_on();
    }

    /// The images are known: is there anything to do, and may it be done?
    fn is_pointless(&self, action: Action) -> Option<Cause> {
        let is_last = matches!(action, Action::Pull(n) if n + 1 == self.run.plan.images.len());
        if !is_last || self.run.force || self.run.plan.is_rollback || self.run.back.is_some() {
            return None;
        }
        let facts = &self.run.facts;
        for member in &self.run.plan.members {
            let id = facts.images.get(&member.image).map(|image| &image.id);
            let mut held = self.run.plan.quarantine.iter();
            let held = held.find(|one| one.service == member.service && Some(&one.image_id) == id);
            if let Some(held) = held {
                let (service, why) = (&member.service, &held.why);
                let reason = format!(
                    "{} of {service} was rolled back: {why}; --force deploys it all the same",
                    held.release
                );
                return Some(Cause::Refused { reason });
            }
        }
        let same = self.run.plan.members.iter().all(|member| {
            let image = facts.images.get(&member.image);
            image.is_some_and(|image| image.id == member.old_image) && !member.old.is_empty()
        });
        same.then_some(Cause::AlreadyLive)
    }

    fn step_on(&mut self) {
        match &mut self.run.back {
            Some(back) => back.done += 1,
            None => self.run.done += 1,
        }
        if self.action().is_some() {
            self.write(Change::Step, Then::Do);
        } else {
            self.end();
        }
    }

    fn failed(
        &mut self,
        now: Instant,
        action: Action,
        deadline: Option<Instant>,
        failure: Failure,
    ) {
        let until = now + TRY_AGAIN;
        let must_be = self.run.back.is_some() || self.is_finishing();
        let in_time = deadline.is_none_or(|deadline| until < deadline);
        if failure.again && in_time {
            self.state = State::Pausing { until, deadline };
            return;
        }
        // Each attempt has its time: the engine may hang.
        let limit = self.run.plan.limit(action);
        let deadline = limit.map(|limit| until + limit);
        if failure.again && must_be {
            // It is away, and will come back.
            self.state = State::Pausing { until, deadline };
            return;
        }
        if !must_be {
            self.turn(Cause::Failed {
                step: action.told(&self.run.plan),
                reason: failure.reason,
                lines: failure.lines,
                is_shut: matches!(
                    action,
                    Action::Healthy(_)
                        | Action::HealthyOne(_)
                        | Action::Gate
                        | Action::GateOne(_)
                        | Action::JoinOne(_)
                        | Action::LeaveOne(_)
                        | Action::Smoke(_)
                        | Action::CutOver
                ),
            });
            return;
        }
        self.attempts += 1;
        let is_job = matches!(action, Action::Job(_) | Action::Restore(_));
        let attempts = match action {
            Action::ReviveOne(_) => REVIVALS,
            _ => ATTEMPTS,
        };
        if self.attempts < attempts && !is_job {
            self.state = State::Pausing { until, deadline };
            return;
        }
        // It cannot be helped: told, and gone on with what is left.
        let told = action.told(&self.run.plan);
        let mut lines = vec![format!("{told}: {}", failure.reason)];
        lines.extend(failure.lines.into_iter().map(|line| format!("  {line}")));
        self.run.facts.trouble.extend(lines);
        if let Action::StopNew(member) = action {
            // The old one may only start when the new one has certainly ended.
            self.skip(Action::Revive(member), "the new one may still run");
        }
        if let Action::ReviveOne(replica) = action {
            // Somebody has to take the requests.
            let why = "the old one does not take requests, its replacement does";
            self.skip(Action::WithdrawOne(replica), why);
        }
        self.step_on();
    }

    fn skip(&mut self, action: Action, why: &str) {
        if let Some(back) = &mut self.run.back {
            let from = back.done;
            let mut n = 0;
            back.actions.retain(|known| {
                n += 1;
                n <= from || *known != action
            });
            let told = action.told(&self.run.plan);
            let advice = format!("not done, because {why}: {told}");
            self.run.facts.advice.push(advice);
        }
    }

    /// Goes back from here.
    fn turn(&mut self, cause: Cause) {
        let is_joining = matches!(self.action(), Some(Action::JoinOne(_)));
        self.run.facts.moved |= is_joining && !self.run.facts.closed;
        let actions = backward(&self.run, &cause);
        let is_empty = actions.is_empty();
        self.run.back = Some(Back {
            actions,
            done: 0,
            cause,
        });
        if is_empty {
            self.end();
        } else {
            self.write(Change::Step, Then::Do);
        }
    }

    fn abort(&mut self, by: String) {
        if !self.can_abort() {
            return;
        }
        let waits = match self.action() {
            Some(
                Action::Pull(_)
                | Action::Close
                | Action::Job(_)
                | Action::Healthy(_)
                | Action::HealthyOne(_)
                | Action::Gate
                | Action::GateOne(_)
                | Action::JoinOne(_)
                | Action::LeaveOne(_)
                | Action::Smoke(_),
            ) => true,
            // What the engine has begun would be there after it was undone.
            Some(_) | None => false,
        };
        match self.state {
            State::Doing { .. } if !waits => {
                self.called_off = Some(by);
                return;
            }
            State::Doing { .. } => self.out.push(Effect::Cancel { stamp: self.stamp }),
            State::Writing { .. } | State::Pausing { .. } => {}
            State::Over => return,
        }
        self.stamp += 1;
        self.turn(Cause::Aborted { by });
    }

    fn tick(&mut self, now: Instant) {
        match self.state.clone() {
            State::Writing {
                then,
                again: Some(again),
                ..
            } if again <= now => {
                let change = match &self.ended {
                    None => self.change(),
                    Some(outcome) => Change::End(outcome.clone()),
                };
                self.write(change, then);
            }
            State::Doing {
                deadline: Some(deadline),
            } if deadline <= now => {
                let Some(action) = self.action() else {
                    return;
                };
                self.out.push(Effect::Cancel { stamp: self.stamp });
                self.stamp += 1;
                let waited = self.run.plan.limit(action).unwrap_or_default();
                let failure = Failure {
                    reason: format!("not done after {} s", waited.as_secs()),
                    lines: Vec::new(),
                    again: false,
                };
                self.failed(now, action, None, failure);
            }
            State::Pausing { until, deadline } if until <= now => {
                if let Some(action) = self.action() {
                    self.perform(action, deadline);
                }
            }
            State::Writing { .. } | State::Doing { .. } | State::Pausing { .. } | State::Over => {}
        }
    }

    /// What the last write was about, for when it is repeated.
    fn change(&self) -> Change {
        let is_adoption = self.run.back.is_none() && self.run.done == self.adopted() + 1;
        if is_adoption {
            Change::Adopt
        } else {
            Change::Step
        }
    }

    fn end(&mut self) {
        let outcome = words::outcome(&self.run);
        self.ended = Some(outcome.clone());
        self.write(Change::End(outcome.clone()), Then::End(outcome));
    }
}
