//! A reload in the middle of anything: services come, go and lose slots.
//!
//! A service that left the stack, or whose live pool was changed by the reload, takes no further
//! part in the running switch; the others go on. A switch without services left is over.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Machine;
use super::state::{Hold, RollingBack, Run, State, Step, Watch, services};
use super::words::Member;
use crate::model::ServiceName;
use crate::switch::outcome::{Outcome, Refusal};
use crate::switch::record::{Live, Move};

impl Machine {
    pub(super) fn reconfigured(&mut self, now: Instant, members: Vec<(ServiceName, Member)>) {
        let mut members: BTreeMap<_, _> = members.into_iter().collect();
        for (name, member) in &mut members {
            let old = self.members.get(name);
            let kept = old.filter(|old| old.rules.releases == member.rules.releases);
            if let Some(old) = kept {
                member.releases.clone_from(&old.releases);
            }
        }
        self.members = members;
        self.state = match self.take() {
            State::Idle => State::Idle,
            State::Probing(mut probing) => {
                self.keep_moves(&mut probing.run.moves, |m| m.from);
                if probing.run.moves.is_empty() {
                    self.give_up(now, &probing.run, Outcome::Refused(Refusal::Removed))
                } else {
                    probing.next = now;
                    State::Probing(probing)
                }
            }
            State::Switching(mut switching) => {
                self.keep_moves(&mut switching.run.moves, |m| m.from);
                if switching.run.moves.is_empty() {
                    self.give_up(now, &switching.run, Outcome::Refused(Refusal::Removed))
                } else {
                    State::Switching(switching)
                }
            }
            State::Observing(watch) => self.keep_watching(now, watch, None),
            State::Held(watch, hold) => self.keep_watching(now, watch, Some(hold)),
            State::RollingBack(mut back) => {
                if back.step == Step::Announcing {
                    let dropped = self.keep_moves(&mut back.moves, |m| m.from);
                    self.forget(&dropped);
                }
                if back.moves.is_empty() {
                    self.not_going_back(back)
                } else {
                    State::RollingBack(back)
                }
            }
            State::Committing(committing) => State::Committing(committing),
        };
        self.rewrite();
    }

    /// Leaves only the moves whose service is here with the pool that `expected` names.
    fn keep_moves(&self, moves: &mut Vec<Move>, expected: impl Fn(&Move) -> Live) -> Vec<Move> {
        let here = |m: &Move| {
            let member = self.members.get(&m.service);
            member.is_some_and(|member| member.live == expected(m))
        };
        let (kept, dropped) = std::mem::take(moves).into_iter().partition(here);
        *moves = kept;
        dropped
    }

    fn keep_watching(&mut self, now: Instant, mut watch: Watch, held: Option<Hold>) -> State {
        let dropped = self.keep_moves(&mut watch.run.moves, |m| m.to);
        let seen = &mut watch.observation.services;
        seen.retain(|seen| dropped.iter().all(|m| m.service != seen.service));
        self.forget(&dropped);
        let ticket = self.persist(None);
        for m in dropped {
            let live_again = self
                .members
                .get(&m.service)
                .is_some_and(|s| s.live == m.from);
            if !live_again {
                self.drain(m.service, m.from, ticket, None);
            }
        }
        if watch.run.moves.is_empty() {
            return self.unwatched(now, &watch.run);
        }
        match held {
            Some(hold) => State::Held(watch, hold),
            None => State::Observing(watch),
        }
    }

    /// What takes no further part is not watched, and not undone, after a restart either.
    pub(super) fn forget(&mut self, dropped: &[Move]) {
        self.last = self.last.take().and_then(|mut last| {
            let is_dropped = |m: &Move| dropped.iter().any(|other| other.service == m.service);
            last.moves.retain(|m| !is_dropped(m));
            (!last.moves.is_empty()).then_some(last)
        });
    }

    fn not_going_back(&mut self, back: RollingBack) -> State {
        let reason = Refusal::Removed.to_string();
        for command in back.overtaken {
            self.finish(
                command,
                Outcome::Failed {
                    reason: reason.clone(),
                },
            );
        }
        for command in back.commands {
            self.finish(command, Outcome::Refused(Refusal::Removed));
        }
        State::Idle
    }

    fn unwatched(&mut self, now: Instant, run: &Run) -> State {
        let outcome = Outcome::Failed {
            reason: Refusal::Removed.to_string(),
        };
        self.end(now, run.waiter(), services(&run.moves), outcome);
        State::Idle
    }
}
