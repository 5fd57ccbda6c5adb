//! From a command to the cutover: choose, wait at the gate, write the intent, publish.

use std::time::{Duration, Instant};

use super::state::{Probing, Run, State, Switching, services};
use super::words::{Command, Effect, Event, Order, Override, Progress};
use super::{Machine, WRITE_PATIENCE};
use crate::clock;
use crate::model::{Color, Generation, ServiceName};
use crate::switch::gate::{GateFailure, Ready, SlotReport};
use crate::switch::outcome::{Outcome, Refusal};
use crate::switch::record::{Cutover, Intent, Live, Move, Watched};

/// Between two looks at a shut gate.
const CHECK_EVERY: Duration = Duration::from_millis(250);

impl Machine {
    pub(super) fn switch(&mut self, now: Instant, command: &Command) {
        let Order::Switch {
            color,
            services: ref asked,
            force,
            ref release,
            confirm_within,
        } = command.order
        else {
            return;
        };
        self.state = match self.take() {
            State::Idle => match self.choose(command.generation, color, asked) {
                Ok(moves) if moves.is_empty() => {
                    self.finish(command.generation, Outcome::AlreadyLive { color });
                    State::Idle
                }
                Ok(moves) => {
                    let run = Run {
                        generation: command.generation,
                        actor: command.actor.clone(),
                        why: command.why.clone(),
                        target: color,
                        release: release.clone(),
                        moves,
                        confirm_within,
                        reported: false,
                    };
                    self.accept(now, run, force)
                }
                Err(refusal) => {
                    self.end(
                        now,
                        Some(command.generation),
                        asked.to_vec(),
                        Outcome::Refused(refusal),
                    );
                    State::Idle
                }
            },
            State::Observing(watch) if watch.run.is_undone_by(color, asked) => {
                self.undo_watched(now, command, State::Observing(watch))
            }
            State::Held(watch, hold) if watch.run.is_undone_by(color, asked) => {
                self.undo_watched(now, command, State::Held(watch, hold))
            }
            state @ (State::Probing(_)
            | State::Switching(_)
            | State::Observing(_)
            | State::Held(..)
            | State::RollingBack(_)
            | State::Committing(_)) => {
                if let Some(refusal) = self.locked(now, &state) {
                    let services = asked.to_vec();
                    let outcome = Outcome::Refused(refusal);
                    self.finish(command.generation, outcome.clone());
                    self.notify(Event::Ended { services, outcome });
                }
                state
            }
        };
    }

    /// What would have to move for `color` to be live; empty: it is.
    fn choose(
        &self,
        generation: Generation,
        color: Color,
        asked: &[ServiceName],
    ) -> Result<Vec<Move>, Refusal> {
        if let Some(unknown) = asked.iter().find(|name| !self.members.contains_key(*name)) {
            return Err(Refusal::UnknownService {
                name: unknown.to_string(),
                nearest: None,
            });
        }
        let chosen: Vec<_> = self
            .members
            .iter()
            .filter(|(name, member)| {
                asked.contains(name) || (asked.is_empty() && member.rules.is_switchable())
            })
            .collect();
        if chosen.is_empty() {
            return Err(Refusal::NothingSwitchable);
        }
        let mut moves = Vec::new();
        for (name, member) in chosen {
            if member.live.color == color {
                continue;
            }
            if !member.rules.filled[color.index()] {
                return Err(Refusal::EmptySlot {
                    service: name.clone(),
                    color,
                });
            }
            moves.push(Move {
                service: name.clone(),
                from: member.live,
                to: Live { color, generation },
            });
        }
        Ok(moves)
    }

    fn accept(&mut self, now: Instant, run: Run, force: bool) -> State {
        let timeout = |m: &Move| Some(self.members.get(&m.service)?.rules.ready_timeout);
        let timeout = run.moves.iter().filter_map(timeout).max();
        let deadline = now + timeout.unwrap_or(Duration::ZERO);
        self.notify(Event::SwitchAccepted {
            actor: run.actor.clone(),
            why: run.why.clone(),
            target: run.target,
            services: services(&run.moves),
        });
        self.report(
            run.generation,
            Progress::Accepted {
                services: services(&run.moves),
                deadline,
            },
        );
        let probing = Probing {
            run,
            force,
            since: now,
            deadline,
            next: now,
            slots: Vec::new(),
            failing: Vec::new(),
        };
        State::Probing(self.check_gate(now, probing))
    }

    fn check_gate(&mut self, now: Instant, mut probing: Probing) -> Probing {
        probing.next = now + CHECK_EVERY;
        let slot = |m: &Move| (m.service.clone(), m.to.color);
        self.out.push(Effect::CheckGate {
            generation: probing.run.generation,
            slots: probing.run.moves.iter().map(slot).collect(),
        });
        probing
    }

    pub(super) fn probing_due(&mut self, now: Instant, probing: Probing) -> State {
        if now < probing.deadline {
            return State::Probing(self.check_gate(now, probing));
        }
        let refusal = Refusal::Gate {
            waited: now.saturating_duration_since(probing.since),
            failing: probing.failing,
        };
        self.give_up(now, &probing.run, Outcome::Refused(refusal))
    }

    pub(super) fn gate_checked(
        &mut self,
        now: Instant,
        generation: Generation,
        slots: Vec<SlotReport>,
    ) {
        self.state = match self.take() {
            State::Probing(probing) if probing.run.generation == generation => {
                self.assess(now, probing, slots)
            }
            state @ (State::Idle
            | State::Probing(_)
            | State::Switching(_)
            | State::Observing(_)
            | State::Held(..)
            | State::RollingBack(_)
            | State::Committing(_)) => state,
        };
    }

    fn assess(&mut self, now: Instant, mut probing: Probing, slots: Vec<SlotReport>) -> State {
        let mut chosen = Vec::new();
        let mut unseen = Vec::new();
        for m in &probing.run.moves {
            let is_it = |slot: &&SlotReport| slot.service == m.service && slot.color == m.to.color;
            match (slots.iter().find(is_it), self.members.get(&m.service)) {
                (Some(slot), Some(member)) => chosen.push((slot, member.rules.max_latency)),
                (None, _) | (_, None) => unseen.push(GateFailure {
                    service: m.service.clone(),
                    color: m.to.color,
                    upstream: None,
                    why: "not yet probed".to_owned(),
                }),
            }
        }
        if let Some((empty, _)) = chosen.iter().find(|(slot, _)| slot.is_empty()) {
            let refusal = Refusal::EmptySlot {
                service: empty.service.clone(),
                color: empty.color,
            };
            return self.give_up(now, &probing.run, Outcome::Refused(refusal));
        }
        let passed = if unseen.is_empty() {
            Ready::admit(chosen)
        } else {
            Err(unseen)
        };
        let (ready, ignored) = match passed {
            passed if probing.force => (Ok(Ready::forced()), passed.err().unwrap_or_default()),
            passed => (passed, Vec::new()),
        };
        match ready {
            Ok(ready) => {
                let ticket = self.persist(Some(Intent::CutOver {
                    moves: probing.run.moves.clone(),
                }));
                State::Switching(Switching {
                    run: probing.run,
                    ready,
                    ignored,
                    ticket,
                    deadline: now + WRITE_PATIENCE,
                })
            }
            Err(failing) => {
                if failing != probing.failing {
                    self.report(
                        probing.run.generation,
                        Progress::Waiting {
                            failing: failing.clone(),
                        },
                    );
                }
                probing.failing = failing;
                probing.slots = slots;
                State::Probing(probing)
            }
        }
    }

    /// Ends a switch before anything moved.
    pub(super) fn give_up(&mut self, now: Instant, run: &Run, outcome: Outcome) -> State {
        self.end(now, Some(run.generation), services(&run.moves), outcome);
        State::Idle
    }

    /// The intent could not be written: nothing moves, and the disk is told to forget it.
    pub(super) fn not_recorded(
        &mut self,
        now: Instant,
        switching: Switching,
        reason: String,
    ) -> State {
        let _ = self.persist(None);
        let refusal = Refusal::NotRecorded { reason };
        self.give_up(now, &switching.run, Outcome::Refused(refusal))
    }

    pub(super) fn cut_over(&mut self, now: Instant, switching: Switching) -> State {
        let Switching {
            run,
            ready,
            ignored,
            ..
        } = switching;
        let pools = self.adopt(&run.moves);
        if let Some(release) = &run.release {
            for m in &run.moves {
                if let Some(member) = self.members.get_mut(&m.service) {
                    member.releases[run.target.index()] = Some(release.clone());
                }
            }
        }
        self.last = Some(Cutover {
            moves: run.moves.clone(),
            actor: run.actor.clone(),
            kept: false,
            watched: Some(Watched {
                target: run.target,
                why: run.why.clone(),
                since_ms: 0,
                crashes: 0,
                held: None,
                confirm_ms: run.confirm_within.map(clock::millis),
            }),
        });
        let forced = ready.is_forced();
        self.out.push(Effect::CutOver { ready, pools });
        self.notify(Event::CutOver {
            actor: run.actor.clone(),
            moves: run.moves.clone(),
            forced,
        });
        if forced {
            self.notify(Event::Overridden {
                actor: run.actor.clone(),
                why: run.why.clone(),
                what: Override::Gate { failing: ignored },
                target: run.target,
                services: services(&run.moves),
            });
        }
        self.report(
            run.generation,
            Progress::CutOver {
                moves: run.moves.clone(),
            },
        );
        let (command, moves) = (run.generation, run.moves.clone());
        let state = self.observe(now, run);
        self.ledger.moved = Some((self.ledger.written, command, moves));
        state
    }
}
