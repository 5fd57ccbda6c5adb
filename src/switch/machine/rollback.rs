//! Going back: by verdict or by hand, during an observe or any time later.

use std::time::{Duration, Instant};

use super::state::{RollingBack, State, Step, services};
use super::words::{Command, Effect, Event, Order, Override, Progress};
use super::{Machine, WRITE_PATIENCE};
use crate::model::Generation;
use crate::switch::gate::{GateFailure, SlotReport};
use crate::switch::outcome::{Outcome, Refusal};
use crate::switch::record::{Intent, Move};
use crate::switch::status::Phase;
use crate::switch::verdict::Cause;

/// How long a rollback waits for its intent to be written: bad traffic does not wait for disks.
const ANNOUNCE_PATIENCE: Duration = Duration::from_millis(50);

impl Machine {
    pub(super) fn roll_back(&mut self, now: Instant, command: &Command) {
        self.state = match self.take() {
            State::Idle => self.undo_last(now, command),
            state @ (State::Observing(_) | State::Held(..) | State::Committing(_)) => {
                self.undo_watched(now, command, state)
            }
            State::RollingBack(back) => State::RollingBack(join(back, command)),
            state @ (State::Probing(_) | State::Switching(_)) => {
                if let Some(refusal) = self.locked(now, &state) {
                    self.refuse(command, refusal);
                }
                state
            }
        };
    }

    pub(super) fn abort(&mut self, now: Instant, command: &Command) {
        self.state = match self.take() {
            State::Idle => {
                self.refuse(command, Refusal::NothingRunning);
                State::Idle
            }
            State::Probing(probing) => {
                let phase = Phase::Probing;
                self.overridden(command, &probing.run, Override::Abort { phase });
                self.finish(command.generation, Outcome::Cancelled);
                let by = command.actor.clone();
                self.give_up(now, &probing.run, Outcome::Aborted { by })
            }
            State::Switching(switching) => {
                let _ = self.persist(None);
                let phase = Phase::Switching;
                self.overridden(command, &switching.run, Override::Abort { phase });
                self.finish(command.generation, Outcome::Cancelled);
                let by = command.actor.clone();
                self.give_up(now, &switching.run, Outcome::Aborted { by })
            }
            state @ (State::Observing(_) | State::Held(..) | State::Committing(_)) => {
                self.undo_watched(now, command, state)
            }
            State::RollingBack(back) => State::RollingBack(join(back, command)),
        };
    }

    /// Undoes a cutover whose old pools were never drained.
    pub(super) fn undo_watched(&mut self, now: Instant, command: &Command, state: State) -> State {
        let moves = match &state {
            State::Observing(watch) | State::Held(watch, _) => &watch.run.moves,
            State::Committing(committing) => &committing.run.moves,
            State::Idle | State::Probing(_) | State::Switching(_) | State::RollingBack(_) => {
                return state;
            }
        };
        let failing = self.old_failures(moves, &command.old);
        if !failing.is_empty() {
            self.refuse(command, Refusal::OldSlotDown { failing });
            return state;
        }
        let phase = state.phase();
        let (run, promoters) = match state {
            State::Observing(watch) | State::Held(watch, _) => (watch.run, Vec::new()),
            State::Committing(committing) => (committing.run, committing.promoters),
            State::Idle | State::Probing(_) | State::Switching(_) | State::RollingBack(_) => {
                return State::Idle;
            }
        };
        if command.order == Order::Abort {
            self.overridden(command, &run, Override::Abort { phase });
        }
        let overtaken = run.waiter().into_iter().chain(promoters).collect();
        self.go_back(
            now,
            run.moves,
            overtaken,
            vec![command.generation],
            by_hand(command),
        )
    }

    /// Undoes a cutover that was kept. Its old pools have drained, or begin to: new ones.
    fn undo_last(&mut self, now: Instant, command: &Command) -> State {
        let mut moves = self.undo();
        if moves.is_empty() {
            self.refuse(command, Refusal::NothingToUndo);
            return State::Idle;
        }
        let failing = self.old_failures(&moves, &command.old);
        if !failing.is_empty() {
            self.refuse(command, Refusal::OldSlotDown { failing });
            return State::Idle;
        }
        for m in &mut moves {
            if let Some(member) = self.members.get(&m.service) {
                m.to = member.live;
            }
            // At once: a write under way must not begin the drain of what comes back.
            let waiting = self.drains.iter().position(|drain| {
                drain.is_waiting() && drain.service == m.service && drain.pool == m.from
            });
            match waiting {
                Some(index) => drop(self.drains.remove(index)),
                None => m.from.generation = command.generation,
            }
        }
        let undone = |run: Generation| moves.iter().any(|m| m.to.generation == run);
        let (overtaken, settling): (Vec<_>, Vec<_>) = std::mem::take(&mut self.settling)
            .into_iter()
            .partition(|settling| undone(settling.run));
        self.settling = settling;
        let overtaken = overtaken.into_iter().map(|settling| settling.run).collect();
        self.go_back(
            now,
            moves,
            overtaken,
            vec![command.generation],
            by_hand(command),
        )
    }

    /// Why the slots that `moves` came from cannot take traffic back; empty: they can.
    pub(super) fn old_failures(&self, moves: &[Move], old: &[SlotReport]) -> Vec<GateFailure> {
        let mut failing = Vec::new();
        for m in moves {
            let is_it =
                |slot: &&SlotReport| slot.service == m.service && slot.color == m.from.color;
            match old.iter().find(is_it) {
                Some(slot) if slot.report.may_serve() => {}
                Some(slot) => failing.extend(slot.failures(None)),
                None => failing.push(GateFailure {
                    service: m.service.clone(),
                    color: m.from.color,
                    upstream: None,
                    why: "its state is not known".to_owned(),
                }),
            }
        }
        failing
    }

    /// Begins to undo `moves`. Told `RolledBack`: `overtaken`; told `Undone`: `commands`.
    pub(super) fn go_back(
        &mut self,
        now: Instant,
        moves: Vec<Move>,
        overtaken: Vec<Generation>,
        commands: Vec<Generation>,
        (by, cause, reason): (String, Cause, String),
    ) -> State {
        let reversed = |m: Move| Move {
            service: m.service,
            from: m.to,
            to: m.from,
        };
        let moves: Vec<Move> = moves.into_iter().map(reversed).collect();
        for command in overtaken.iter().chain(&commands) {
            self.report(
                *command,
                Progress::RollingBack {
                    by: by.clone(),
                    reason: reason.clone(),
                },
            );
        }
        let Some(target) = moves.first().map(|m| m.to.color) else {
            return State::Idle;
        };
        let ticket = self.persist(Some(Intent::RollBack {
            moves: moves.clone(),
        }));
        State::RollingBack(RollingBack {
            overtaken,
            commands,
            moves,
            target,
            by,
            cause,
            reason,
            step: Step::Announcing,
            ticket,
            deadline: now + ANNOUNCE_PATIENCE,
        })
    }

    pub(super) fn back_due(&mut self, now: Instant, back: RollingBack) -> State {
        match back.step {
            Step::Announcing => self.restore(now, back),
            Step::Recording => {
                let reason = "the disk did not answer".to_owned();
                self.trouble(now, reason.clone());
                self.restored(now, back, Some(reason))
            }
        }
    }

    /// Publishes the old pools again.
    pub(super) fn restore(&mut self, now: Instant, mut back: RollingBack) -> State {
        let pools = self.adopt(&back.moves);
        self.last = None;
        self.out.push(Effect::Restore { pools });
        self.notify(Event::RolledBack {
            by: back.by.clone(),
            cause: back.cause,
            reason: back.reason.clone(),
            moves: back.moves.clone(),
        });
        back.step = Step::Recording;
        back.ticket = self.persist(None);
        back.deadline = now + WRITE_PATIENCE;
        State::RollingBack(back)
    }

    /// The rollback is recorded, or cannot be: either way it is over.
    pub(super) fn restored(
        &mut self,
        now: Instant,
        back: RollingBack,
        unsaved: Option<String>,
    ) -> State {
        for m in &back.moves {
            self.drain(m.service.clone(), m.from, back.ticket, None);
        }
        let moved = services(&back.moves);
        let rolled_back = Outcome::RolledBack {
            services: moved.clone(),
            by: back.by,
            cause: back.cause,
            reason: back.reason,
        };
        for command in back.overtaken {
            self.finish(command, rolled_back.clone());
        }
        for command in back.commands {
            self.finish(
                command,
                Outcome::Undone {
                    services: moved.clone(),
                    unsaved: unsaved.clone(),
                },
            );
        }
        self.end(now, None, moved, rolled_back);
        State::Idle
    }
}

fn join(mut back: RollingBack, command: &Command) -> RollingBack {
    back.commands.push(command.generation);
    back
}

fn by_hand(command: &Command) -> (String, Cause, String) {
    let reason = command.why.clone();
    (
        command.actor.clone(),
        Cause::Operator,
        reason.unwrap_or_else(|| "asked for".to_owned()),
    )
}
