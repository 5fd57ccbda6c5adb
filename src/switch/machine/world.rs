//! A small world around the machine: pools, probes, a disk that fails. It answers, and checks at
//! every effect what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::*;
use crate::switch::driver::Traffic;
use crate::switch::gate::{GateReport, SlotReport, UpstreamReport, UpstreamState};
use crate::switch::record::Book;
use crate::switch::recover::recover;
use crate::switch::verdict::{Verdict, plain};

pub(super) const SERVICES: [&str; 3] = ["api", "web", "worker"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    Fails,
    Stalls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Healthy,
    Unknown,
    Down,
    Empty,
}

/// Everything around the machine, and what must stay true of it.
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) reloads: bool,
    pub(super) crashes: bool,
    pub(super) disk: Disk,
    /// As the shell keeps it: services that a reload took away are remembered.
    pub(super) book: BTreeMap<ServiceName, Live>,
    pub(super) writes: VecDeque<(Ticket, StackRecord, BTreeMap<ServiceName, Live>)>,
    pub(super) durable: StackRecord,
    pub(super) durable_live: BTreeMap<ServiceName, Live>,
    pub(super) published: BTreeMap<ServiceName, Live>,
    pub(super) draining: BTreeSet<(ServiceName, Generation)>,
    pub(super) slots: BTreeMap<(ServiceName, Color), Slot>,
    pub(super) in_flight: [u64; 3],
    pub(super) requests: u64,
    /// What the judge says; `None`: what the plain one says.
    pub(super) verdict: Option<Verdict>,
    pub(super) next: u64,
    pub(super) forced: BTreeSet<Generation>,
    pub(super) admitted: BTreeSet<Generation>,
    pub(super) open: BTreeSet<Generation>,
    /// Runs that were taken up again after a crash: nobody waits for them.
    pub(super) orphans: BTreeSet<Generation>,
    pub(super) undo: BTreeMap<ServiceName, Color>,
    pub(super) absent: BTreeMap<ServiceName, Member>,
    /// How every command ended so far.
    pub(super) ended: BTreeMap<Generation, Outcome>,
    /// What the driver was told, in words.
    pub(super) log: Vec<String>,
    pub(super) events: Vec<Event>,
    pub(super) progress: Vec<(Generation, Progress)>,
}

fn rules(observe: u64) -> Rules {
    Rules {
        filled: [true; 2],
        releases: [None, None],
        ready_timeout: Duration::from_secs(30),
        max_latency: None,
        windows: DrainWindows([5, 20, 10].map(Duration::from_secs)),
        observe: Duration::from_secs(observe),
        observe_requests: 100,
        observe_max: Duration::from_secs(observe * 4 + 10),
    }
}

impl World {
    pub(super) fn new(observe: u64, reloads: bool) -> Self {
        let start = crate::clock::now();
        let live = Live {
            color: Color::Blue,
            generation: Generation(1),
        };
        let names = SERVICES.map(ServiceName::from);
        let member = |name: &ServiceName| {
            let member = Member {
                rules: rules(observe),
                live,
                releases: [None, None],
            };
            (name.clone(), member)
        };
        let slot =
            |name: &ServiceName| Color::ALL.map(|color| ((name.clone(), color), Slot::Healthy));
        let lives: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), live)).collect();
        Self {
            machine: Machine::new(start, "default".into(), names.iter().map(member), None),
            start,
            now: start,
            reloads,
            crashes: false,
            disk: Disk::Works,
            book: lives.clone(),
            writes: VecDeque::new(),
            durable: StackRecord::default(),
            durable_live: lives.clone(),
            published: lives,
            draining: BTreeSet::new(),
            slots: names.iter().flat_map(slot).collect(),
            in_flight: [0; 3],
            requests: 0,
            verdict: None,
            next: 2,
            forced: BTreeSet::new(),
            admitted: BTreeSet::new(),
            open: BTreeSet::new(),
            orphans: BTreeSet::new(),
            undo: BTreeMap::new(),
            absent: BTreeMap::new(),
            ended: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            progress: Vec::new(),
        }
    }

    pub(super) fn report(&self, service: &ServiceName, color: Color) -> GateReport {
        let state = match self.slots[&(service.clone(), color)] {
            Slot::Healthy => UpstreamState::Healthy,
            Slot::Unknown => UpstreamState::Unknown,
            Slot::Down => UpstreamState::Down,
            Slot::Empty => return GateReport::default(),
        };
        GateReport {
            upstreams: vec![UpstreamReport {
                address: "app:3000".to_owned(),
                state,
                reason: None,
                latency: None,
            }],
        }
    }

    pub(super) fn reports(&self, slots: Vec<(ServiceName, Color)>) -> Vec<SlotReport> {
        let report = |(service, color): (ServiceName, Color)| SlotReport {
            report: self.report(&service, color),
            service,
            color,
        };
        slots.into_iter().map(report).collect()
    }

    pub(super) fn feed(&mut self, input: Input) {
        let effects = self.machine.handle(self.now, input);
        let mut answers = Vec::new();
        for effect in effects {
            answers.extend(self.perform(effect));
        }
        for (service, member) in self.machine.members() {
            assert_eq!(
                self.published[service], member.live,
                "memory and table differ"
            );
        }
        for answer in answers {
            self.feed(answer);
        }
    }

    pub(super) fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::CheckGate { generation, slots } => {
                let slots = self.reports(slots);
                let passes = |slot: &SlotReport| slot.failures(None).is_empty();
                if slots.iter().all(passes) {
                    self.admitted.insert(generation);
                }
                return Some(Input::GateChecked { generation, slots });
            }
            Effect::Persist {
                ticket,
                record,
                services,
            } => {
                let live = |(name, record): (ServiceName, ServiceRecord)| (name, record.live);
                self.book.extend(services.into_iter().map(live));
                self.writes.push_back((ticket, record, self.book.clone()));
            }
            Effect::CutOver { ready, pools } => self.cut_over(ready.is_forced(), &pools),
            Effect::Restore { pools } => self.restore(&pools),
            Effect::Sample { generation, slots } => {
                let sample = |(service, color): (ServiceName, Color)| Sample {
                    traffic: [Traffic {
                        requests: self.requests,
                        errors: 0,
                    }; 2],
                    old: self.report(&service, color),
                    service,
                };
                let samples = slots.into_iter().map(sample).collect();
                return Some(Input::Sampled {
                    generation,
                    samples,
                });
            }
            Effect::Judge(observation) => {
                let said = self.verdict.clone();
                let verdict = said.unwrap_or_else(|| plain(&observation));
                let generation = observation.generation;
                return Some(Input::Judged {
                    generation,
                    verdict,
                });
            }
            Effect::BeginDrain {
                service,
                generation,
                ..
            } => self.begin_drain(service, generation),
            Effect::Count {
                service,
                generation,
            } => {
                return Some(Input::Counted {
                    service,
                    generation,
                    in_flight: self.in_flight,
                });
            }
            Effect::Close {
                service,
                generation,
                kind,
            } => {
                self.log
                    .push(format!("close {service} {generation} {}", kind.as_str()));
                let key = (service, generation);
                assert!(self.draining.contains(&key), "closed undrained");
            }
            Effect::Retire {
                service,
                generation,
            } => {
                self.log.push(format!("retire {service} {generation}"));
                let key = (service, generation);
                assert!(self.draining.remove(&key), "retired undrained");
            }
            Effect::Report { command, progress } => {
                let known = self.open.contains(&command) || self.orphans.contains(&command);
                assert!(known, "news after the end");
                if let Progress::Recorded {
                    moves,
                    unsaved: None,
                } = &progress
                {
                    assert!(self.durable.pending.is_none(), "a crash would undo it");
                    for m in moves {
                        assert_eq!(self.durable_live[&m.service], m.to);
                    }
                }
                self.progress.push((command, progress));
            }
            Effect::Finish { command, outcome } => {
                let known = self.open.remove(&command) || self.orphans.remove(&command);
                assert!(known, "ended twice, or never begun");
                self.ended.insert(command, outcome);
            }
            Effect::Notify(event) => self.events.push(event),
        }
        None
    }

    pub(super) fn cut_over(&mut self, forced: bool, pools: &[Publication]) {
        let generation = pools[0].generation;
        let proven = if forced { &self.forced } else { &self.admitted };
        assert!(proven.contains(&generation), "cutover without proof");
        let Some(Intent::CutOver { moves }) = &self.durable.pending else {
            panic!("cutover without a durable intent");
        };
        let planned = |pool: &Publication| moves.iter().any(|m| m.service == pool.service);
        assert!(pools.iter().all(planned), "moved what was not intended");
        self.undo.clear();
        for pool in pools {
            let old = self.published[&pool.service].color;
            assert_ne!(old, pool.color, "moved a service that was there");
            self.undo.insert(pool.service.clone(), old);
        }
        self.publish(pools);
    }

    pub(super) fn restore(&mut self, pools: &[Publication]) {
        for pool in pools {
            assert_eq!(
                self.undo.get(&pool.service),
                Some(&pool.color),
                "not as it was"
            );
        }
        if !self.reloads {
            assert_eq!(pools.len(), self.undo.len(), "only a part was undone");
        }
        self.publish(pools);
    }

    pub(super) fn publish(&mut self, pools: &[Publication]) {
        for pool in pools {
            let key = (pool.service.clone(), pool.generation);
            assert!(!self.draining.contains(&key), "published a draining pool");
            let live = Live {
                color: pool.color,
                generation: pool.generation,
            };
            self.log.push(format!(
                "publish {} {} {}",
                pool.service, pool.color, pool.generation
            ));
            self.published.insert(pool.service.clone(), live);
        }
    }

    pub(super) fn begin_drain(&mut self, service: ServiceName, generation: Generation) {
        assert_ne!(
            self.published[&service].generation, generation,
            "drains what is live"
        );
        assert_ne!(
            self.durable_live[&service].generation, generation,
            "drains what a restart would make live"
        );
        let unkept = self.durable.last.iter().filter(|last| !last.kept);
        let undecided = |m: &Move| m.service == service && m.from.generation == generation;
        assert!(
            self.reloads || !unkept.flat_map(|last| &last.moves).any(undecided),
            "drains before the verdict"
        );
        self.log.push(format!("drain {service} {generation}"));
        assert!(self.draining.insert((service, generation)), "drains twice");
    }

    /// What the disk does with the oldest write.
    pub(super) fn write(&mut self) {
        let Some((ticket, record, live)) = self.writes.pop_front() else {
            return;
        };
        if self.disk == Disk::Fails {
            let reason = "no space left on device".to_owned();
            self.feed(Input::PersistFailed { ticket, reason });
            return;
        }
        self.durable = record;
        self.durable_live = live;
        self.feed(Input::Persisted { ticket });
    }

    pub(super) fn writes(&mut self) {
        while self.disk != Disk::Stalls && !self.writes.is_empty() {
            self.write();
        }
    }

    pub(super) fn order(&mut self, order: Order) -> Generation {
        let generation = Generation(self.next);
        self.next += 1;
        if let Order::Switch { force: true, .. } = order {
            self.forced.insert(generation);
        }
        let is_switch = matches!(order, Order::Switch { .. });
        let before = self.machine.phase();
        let command = Command {
            generation,
            actor: "somebody".to_owned(),
            why: None,
            order,
            old: self.reports(self.machine.undoes()),
        };
        self.open.insert(generation);
        self.feed(Input::Ordered(command));
        self.writes();
        if is_switch && before != Phase::Idle {
            let refused = !self.open.contains(&generation);
            let back = self.machine.phase() == Phase::RollingBack;
            let undone = matches!(self.ended.get(&generation), Some(Outcome::Undone { .. }));
            assert!(refused || back || undone, "two switches at once");
        }
        generation
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut ticks = 0;
        while let Some(deadline) = self.machine.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline.max(self.now);
            self.feed(Input::Tick);
            self.writes();
            ticks += 1;
            assert!(ticks < 100_000, "time stands still");
        }
        self.now = end;
    }

    pub(super) fn reload(&mut self, service: &ServiceName) {
        if !self.reloads {
            return;
        }
        let mut members: BTreeMap<_, _> = self
            .machine
            .members()
            .map(|(name, member)| (name.clone(), member.clone()))
            .collect();
        if let Some(member) = self.absent.remove(service) {
            members.insert(service.clone(), member);
        } else if let Some(member) = members.remove(service) {
            self.absent.insert(service.clone(), member);
        }
        self.feed(Input::Reconfigured {
            members: members.into_iter().collect(),
        });
    }

    /// Old answers come late: nothing may change.
    pub(super) fn stale(&mut self, which: u8, service: ServiceName) {
        let generation = Generation(self.next + 7);
        let saved = self.machine.ledger.saved;
        let input = match which % 5 {
            0 => Input::GateChecked {
                generation,
                slots: Vec::new(),
            },
            1 => Input::Persisted {
                ticket: saved.min(Ticket(1)),
            },
            2 => Input::PersistFailed {
                ticket: saved,
                reason: "late".to_owned(),
            },
            3 => Input::Judged {
                generation,
                verdict: Verdict::Keep,
            },
            _ => Input::Counted {
                service,
                generation,
                in_flight: [0; 3],
            },
        };
        let before = format!("{:?}", self.machine);
        let effects = self.machine.handle(self.now, input);
        assert_eq!(effects, [], "a stale input had effects");
        assert_eq!(
            format!("{:?}", self.machine),
            before,
            "a stale input changed something"
        );
    }

    /// The process dies and starts again. Of what is being written, `reached` records are on
    /// disk though nobody was told; `goodbye`: it stopped on purpose. What is live then is
    /// worked out here once more, from the table of the design and not from the code.
    pub(super) fn crash(&mut self, reached: usize, goodbye: bool) {
        for _ in 0..reached.min(self.writes.len()) {
            if let Some((_, record, live)) = self.writes.pop_front() {
                self.durable = record;
                self.durable_live = live;
            }
        }
        self.writes.clear();
        let expected = self.after_a_crash(goodbye);

        let record = |(name, live): (&ServiceName, &Live)| {
            let record = ServiceRecord {
                live: *live,
                releases: BTreeMap::new(),
            };
            (name.clone(), record)
        };
        let stack = StackName::from("default");
        let book = Book {
            generation: Generation(self.next),
            services: self.durable_live.iter().map(record).collect(),
            stacks: [(stack.clone(), self.durable.clone())].into(),
            clean: goodbye,
            ..Book::default()
        };
        let book = recover(Some(book), &[]).book;
        self.next = self.next.max(book.generation.0) + 1;
        let live: BTreeMap<_, _> = book
            .services
            .iter()
            .map(|(name, record)| (name.clone(), record.live))
            .collect();
        assert_eq!(live, expected, "not what the table names");
        for (service, live) in &live {
            let key = (service.clone(), live.generation);
            assert!(
                !self.draining.contains(&key),
                "live again, though it was drained"
            );
        }

        // Connections, drains, commands: all ended with the process.
        self.draining.clear();
        self.open.clear();
        self.durable = book.stacks[&stack].clone();
        self.durable_live.clone_from(&live);
        self.book.clone_from(&live);
        let last = self.durable.last.clone();
        let moved = last.iter().flat_map(|last| &last.moves);
        self.undo = moved.map(|m| (m.service.clone(), m.from.color)).collect();
        let members: Vec<_> = self
            .machine
            .members()
            .map(|(name, member)| {
                let mut member = member.clone();
                member.live = live[name];
                (name.clone(), member)
            })
            .collect();
        for member in self.absent.iter_mut() {
            member.1.live = live[member.0];
        }
        self.published = live;
        self.machine = Machine::new(self.now, stack, members, last);
        let generation = Generation(self.next);
        self.next += 1;
        self.machine
            .resume(self.now, generation, Duration::from_secs(3));
        // A watch that goes on has nobody who waits for it.
        self.orphans.insert(generation);
    }

    /// The table: what was only intended did not happen, except a rollback; what is watched goes
    /// on, except after the second crash.
    fn after_a_crash(&self, goodbye: bool) -> BTreeMap<ServiceName, Live> {
        let mut live = self.durable_live.clone();
        let crashes = self.durable.last.as_ref().and_then(|last| {
            let watched = last.watched.as_ref().filter(|_| !last.kept)?;
            Some(watched.crashes + u32::from(!goodbye))
        });
        let undone = crashes.is_some_and(|crashes| crashes >= 2);
        match (&self.durable.pending, &self.durable.last) {
            (Some(Intent::CutOver { moves }), _) => {
                live.extend(moves.iter().map(|m| (m.service.clone(), m.from)));
            }
            (Some(Intent::RollBack { moves }), _) => {
                live.extend(moves.iter().map(|m| (m.service.clone(), m.to)));
            }
            (None, Some(last)) if undone => {
                live.extend(last.moves.iter().map(|m| (m.service.clone(), m.from)));
            }
            (None, _) => {}
        }
        live
    }

    /// With everything working again, everything comes to an end.
    pub(super) fn ends(&mut self) {
        self.disk = Disk::Works;
        self.verdict = None;
        for state in self.slots.values_mut() {
            *state = Slot::Healthy;
        }
        self.writes();
        self.pass(Duration::from_secs(3600));
        assert!(self.machine.is_at_rest(), "never ends: {:?}", self.machine);
        assert_eq!(self.open, BTreeSet::new(), "somebody still waits");
        assert_eq!(self.draining, BTreeSet::new(), "a pool was never retired");
        for (service, live) in &self.published {
            if !self.absent.contains_key(service) {
                assert_eq!(
                    &self.durable_live[service], live,
                    "the disk knows it otherwise"
                );
            }
        }
        assert!(self.now > self.start);
    }
}
