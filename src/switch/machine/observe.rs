//! After a cutover: watch, ask the judge, keep.

use std::time::{Duration, Instant};

use super::state::{Committing, Hold, Run, State, Watch, services};
use super::words::{Command, Effect, Event, Override, Progress, Sample};
use super::{Machine, Settling, WRITE_PATIENCE};
use crate::model::Generation;
use crate::switch::driver::Traffic;
use crate::switch::gate::SlotReport;
use crate::switch::outcome::{Outcome, Refusal};
use crate::switch::record::Move;
use crate::switch::verdict::{Cause, Observation, ServiceObservation, Verdict};

/// Between two samples of a watched cutover.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// The shortest watch after a restart in the middle of one.
const RESUMED: Duration = Duration::from_secs(60);

impl Machine {
    /// Watches a cutover that has just happened, unless nobody wants to.
    pub(super) fn observe(&mut self, now: Instant, run: Run) -> State {
        let observation = self.observation(&run, Duration::ZERO, &[], &[]);
        if observation.observe().is_zero() && run.confirm_within.is_none() {
            return self.commit(now, run, Vec::new());
        }
        let _ = self.persist(None);
        State::Observing(self.watch_due(
            now,
            Watch {
                confirm_by: run.confirm_within.map(|time| now + time),
                run,
                since: now,
                next: now,
                base: Vec::new(),
                old: Vec::new(),
                observation,
                told: None,
            },
        ))
    }

    pub(super) fn watch_due(&mut self, now: Instant, mut watch: Watch) -> Watch {
        // The ends of the shortest and of the longest watch are sampled on time.
        let ends = [watch.observation.observe(), watch.observation.observe_max()];
        let ends = ends.map(|end| watch.since + end);
        let regular = now + SAMPLE_EVERY;
        let ends = ends.into_iter().chain(watch.confirm_by);
        let next = ends.filter(|end| *end > now).min();
        watch.next = next.map_or(regular, |end| end.min(regular));
        let slot = |m: &Move| (m.service.clone(), m.from.color);
        self.out.push(Effect::Sample {
            generation: watch.run.generation,
            slots: watch.run.moves.iter().map(slot).collect(),
        });
        watch
    }

    pub(super) fn sampled(&mut self, now: Instant, generation: Generation, samples: Vec<Sample>) {
        self.state = match self.take() {
            State::Observing(watch) if watch.run.generation == generation => {
                State::Observing(self.ask(now, watch, None, samples))
            }
            State::Held(watch, hold) if watch.run.generation == generation => {
                let reason = Some(hold.reason.clone());
                State::Held(self.ask(now, watch, reason, samples), hold)
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

    fn ask(
        &mut self,
        now: Instant,
        mut watch: Watch,
        held: Option<String>,
        samples: Vec<Sample>,
    ) -> Watch {
        if watch.base.is_empty() {
            watch.base.clone_from(&samples);
        }
        let elapsed = now.saturating_duration_since(watch.since);
        watch.observation = self.observation(&watch.run, elapsed, &watch.base, &samples);
        watch.observation.held = held;
        let left = |by: Instant| by.saturating_duration_since(now);
        watch.observation.confirm_left = watch.confirm_by.map(left);
        let report = |m: &Move| {
            let sample = find(&samples, m)?;
            Some(SlotReport {
                service: m.service.clone(),
                color: m.from.color,
                report: sample.old.clone(),
            })
        };
        watch.old = watch.run.moves.iter().filter_map(report).collect();
        let second = watch.observation.elapsed.as_secs();
        if watch.told != Some(second)
            && let Some(waiter) = watch.run.waiter()
        {
            watch.told = Some(second);
            self.report(waiter, Progress::Observing(watch.observation.clone()));
        }
        self.out.push(Effect::Judge(watch.observation.clone()));
        watch
    }

    fn observation(
        &self,
        run: &Run,
        elapsed: Duration,
        base: &[Sample],
        samples: &[Sample],
    ) -> Observation {
        let service = |m: &Move| {
            let rules = &self.members.get(&m.service)?.rules;
            let since = |color: crate::model::Color| match (find(samples, m), find(base, m)) {
                (Some(sample), Some(base)) => {
                    sample.traffic[color.index()].since(base.traffic[color.index()])
                }
                (None, _) | (_, None) => Traffic::default(),
            };
            Some(ServiceObservation {
                service: m.service.clone(),
                color: m.to.color,
                from: m.from,
                to: m.to,
                new: since(m.to.color),
                old: since(m.from.color),
                observe: rules.observe,
                observe_requests: rules.observe_requests,
                observe_max: rules.observe_max,
            })
        };
        Observation {
            generation: run.generation,
            elapsed,
            held: None,
            confirm_left: None,
            services: run.moves.iter().filter_map(service).collect(),
        }
    }

    pub(super) fn judged(&mut self, now: Instant, generation: Generation, verdict: Verdict) {
        self.state = match self.take() {
            State::Observing(watch) if watch.run.generation == generation => {
                self.decide(now, watch, None, verdict)
            }
            State::Held(watch, hold) if watch.run.generation == generation => {
                self.decide(now, watch, Some(hold), verdict)
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

    fn decide(
        &mut self,
        now: Instant,
        watch: Watch,
        held: Option<Hold>,
        verdict: Verdict,
    ) -> State {
        let over = watch.observation.elapsed >= watch.observation.observe_max();
        let verdict = match (watch.confirm_by, verdict) {
            (_, verdict @ Verdict::RollBack { .. }) | (None, verdict) => verdict,
            (Some(by), _) if now >= by => Verdict::RollBack {
                cause: Cause::Operator,
                reason: "not confirmed in time with proxyctl promote".to_owned(),
            },
            // Nobody has confirmed it yet.
            (Some(_), Verdict::Keep) => return State::Observing(watch),
            (Some(_), verdict) => verdict,
        };
        match verdict {
            Verdict::Undecided if !over || watch.confirm_by.is_some() => {
                if held.is_some() {
                    self.record_hold(None);
                }
                State::Observing(watch)
            }
            // Whatever the judge is made of, a watch ends.
            Verdict::Undecided | Verdict::Keep => self.commit(now, watch.run, Vec::new()),
            Verdict::RollBack { cause, reason } => {
                let failing = self.old_failures(&watch.run.moves, &watch.old);
                if failing.is_empty() {
                    let moves = watch.run.moves.clone();
                    return self.go_back(
                        now,
                        moves,
                        watch.run.waiter().into_iter().collect(),
                        Vec::new(),
                        ("cutover".to_owned(), cause, reason),
                    );
                }
                let down = Refusal::OldSlotDown { failing };
                self.hold(now, watch, held, format!("{reason}; but {down}"))
            }
            Verdict::Hold { reason } => self.hold(now, watch, held, reason),
        }
    }

    fn hold(
        &mut self,
        now: Instant,
        mut watch: Watch,
        held: Option<Hold>,
        reason: String,
    ) -> State {
        if held.is_none() {
            self.record_hold(Some(reason.clone()));
            self.notify(Event::Held {
                reason: reason.clone(),
                services: services(&watch.run.moves),
            });
            // Held again after its end was told: nobody listens any more.
            if let Some(waiter) = watch.run.waiter() {
                let reason = reason.clone();
                self.report(waiter, Progress::Held { reason });
            }
        }
        let over = watch.observation.elapsed >= watch.observation.observe_max();
        if over && !watch.run.reported {
            watch.run.reported = true;
            let outcome = Outcome::Failed {
                reason: format!("still held at observe_max: {reason}"),
            };
            self.end(
                now,
                Some(watch.run.generation),
                services(&watch.run.moves),
                outcome,
            );
        }
        State::Held(watch, Hold { reason })
    }

    /// A hold survives a restart.
    fn record_hold(&mut self, reason: Option<String>) {
        let last = self.last.as_mut();
        if let Some(watched) = last.and_then(|last| last.watched.as_mut()) {
            watched.held = reason;
            let _ = self.persist(None);
        }
    }

    /// Watches on what was watched when the daemon stopped, `elapsed` after its cutover: for the
    /// rest of the watch, a minute at least, with evidence from now on. Only for a new machine.
    pub fn resume(&mut self, now: Instant, generation: Generation, elapsed: Duration) {
        let Some(last) = self.last.clone().filter(|last| !last.kept) else {
            return;
        };
        let moves = self.undo();
        // As with a reload that took them away: not watched, so not undone by a crash either.
        let is_watched = |m: &Move| moves.iter().any(|other| other.service == m.service);
        let gone: Vec<_> = (last.moves.iter().filter(|m| !is_watched(m)).cloned()).collect();
        self.forget(&gone);
        let Some(watched) = last.watched.filter(|_| !moves.is_empty()) else {
            return;
        };
        let run = Run {
            generation,
            actor: last.actor,
            why: watched.why,
            target: watched.target,
            release: None,
            moves,
            confirm_within: watched.confirm_ms.map(Duration::from_millis),
            reported: false,
        };
        let observation = self.observation(&run, Duration::ZERO, &[], &[]);
        let passed = elapsed.min(observation.observe().saturating_sub(RESUMED));
        let left = |time: Duration| now + time.saturating_sub(elapsed);
        let watch = Watch {
            confirm_by: run.confirm_within.map(left),
            run,
            since: now.checked_sub(passed).unwrap_or(now),
            next: now,
            base: Vec::new(),
            old: Vec::new(),
            observation,
            told: None,
        };
        self.state = match watched.held {
            Some(reason) => State::Held(watch, Hold { reason }),
            None => State::Observing(watch),
        };
    }

    pub(super) fn promote(&mut self, now: Instant, command: &Command) {
        self.state = match self.take() {
            State::Observing(watch) => self.promoted(now, command, watch, None),
            State::Held(watch, hold) => self.promoted(now, command, watch, Some(hold.reason)),
            State::Committing(mut committing) => {
                committing.promoters.push(command.generation);
                State::Committing(committing)
            }
            State::Idle => {
                self.refuse(command, Refusal::NothingRunning);
                State::Idle
            }
            state @ (State::Probing(_) | State::Switching(_) | State::RollingBack(_)) => {
                let state_name = state.phase().as_str();
                self.refuse(command, Refusal::NothingToPromote { state: state_name });
                state
            }
        };
    }

    /// The rest of a watch is set aside.
    fn promoted(
        &mut self,
        now: Instant,
        command: &Command,
        watch: Watch,
        held: Option<String>,
    ) -> State {
        let watched = now.saturating_duration_since(watch.since);
        let what = Override::Promote { watched, held };
        self.overridden(command, &watch.run, what);
        self.commit(now, watch.run, vec![command.generation])
    }

    /// Tells everybody that a person decided otherwise.
    pub(super) fn overridden(&mut self, command: &Command, run: &Run, what: Override) {
        self.notify(Event::Overridden {
            actor: command.actor.clone(),
            why: command.why.clone(),
            what,
            target: run.target,
            services: services(&run.moves),
        });
    }

    /// Keeps a cutover; the old pools wait until that is on disk.
    pub(super) fn commit(&mut self, now: Instant, run: Run, promoters: Vec<Generation>) -> State {
        if let Some(last) = &mut self.last {
            last.kept = true;
            last.watched = None;
        }
        let ticket = self.persist(None);
        State::Committing(Committing {
            run,
            promoters,
            ticket,
            deadline: now + WRITE_PATIENCE,
        })
    }

    pub(super) fn committed(
        &mut self,
        now: Instant,
        committing: Committing,
        unsaved: Option<String>,
    ) -> State {
        let Committing {
            run,
            promoters,
            ticket,
            ..
        } = committing;
        for command in promoters {
            self.finish(command, Outcome::Promoted { color: run.target });
        }
        // An end that waits for a disk might never come: then it is told at once.
        let waits = unsaved.is_none() && !run.reported;
        for m in &run.moves {
            let run = waits.then_some(run.generation);
            self.drain(m.service.clone(), m.from, ticket, run);
        }
        if waits {
            self.report(run.generation, Progress::Draining);
            self.settling.push(Settling {
                run: run.generation,
                color: run.target,
                services: services(&run.moves),
                closed: [0; 3],
            });
        } else {
            let outcome = Outcome::Kept {
                color: run.target,
                services: services(&run.moves),
                closed: [0; 3],
                unsaved,
            };
            self.end(now, run.waiter(), services(&run.moves), outcome);
        }
        State::Idle
    }
}

fn find<'a>(samples: &'a [Sample], m: &Move) -> Option<&'a Sample> {
    samples.iter().find(|sample| sample.service == m.service)
}
