//! Random histories against a small world of pools, probes and a disk that fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::switch::driver::Traffic;
use crate::switch::gate::{GateReport, SlotReport, UpstreamReport, UpstreamState};
use crate::switch::verdict::{Cause, Verdict};

/// One step of a history: what, to whom, how much.
type Step = (u8, u8, u16);

const SERVICES: [&str; 3] = ["api", "web", "worker"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Works,
    Fails,
    Stalls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Healthy,
    Unknown,
    Down,
    Empty,
}

/// Everything around the machine, and what must stay true of it.
struct World {
    machine: Machine,
    start: Instant,
    now: Instant,
    reloads: bool,
    disk: Disk,
    /// As the shell keeps it: services that a reload took away are remembered.
    book: BTreeMap<ServiceName, Live>,
    writes: VecDeque<(Ticket, StackRecord, BTreeMap<ServiceName, Live>)>,
    durable: StackRecord,
    durable_live: BTreeMap<ServiceName, Live>,
    published: BTreeMap<ServiceName, Live>,
    draining: BTreeSet<(ServiceName, Generation)>,
    slots: BTreeMap<(ServiceName, Color), Slot>,
    in_flight: [u64; 3],
    requests: u64,
    verdict: Verdict,
    next: u64,
    forced: BTreeSet<Generation>,
    admitted: BTreeSet<Generation>,
    open: BTreeSet<Generation>,
    undo: BTreeMap<ServiceName, Color>,
    absent: BTreeMap<ServiceName, Member>,
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
        observe_max: Duration::from_secs(observe * 4),
    }
}

impl World {
    fn new(observe: u64, reloads: bool) -> Self {
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
            verdict: Verdict::Undecided,
            next: 2,
            forced: BTreeSet::new(),
            admitted: BTreeSet::new(),
            open: BTreeSet::new(),
            undo: BTreeMap::new(),
            absent: BTreeMap::new(),
        }
    }

    fn report(&self, service: &ServiceName, color: Color) -> GateReport {
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

    fn reports(&self, slots: Vec<(ServiceName, Color)>) -> Vec<SlotReport> {
        let report = |(service, color): (ServiceName, Color)| SlotReport {
            report: self.report(&service, color),
            service,
            color,
        };
        slots.into_iter().map(report).collect()
    }

    fn feed(&mut self, input: Input) {
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

    fn perform(&mut self, effect: Effect) -> Option<Input> {
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
                return Some(Input::Judged {
                    generation: observation.generation,
                    verdict: self.verdict.clone(),
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
                ..
            } => assert!(
                self.draining.contains(&(service, generation)),
                "closed undrained"
            ),
            Effect::Retire {
                service,
                generation,
            } => assert!(
                self.draining.remove(&(service, generation)),
                "retired undrained"
            ),
            Effect::Report { command, .. } => {
                assert!(self.open.contains(&command), "news after the end");
            }
            Effect::Finish { command, .. } => {
                assert!(self.open.remove(&command), "ended twice, or never begun");
            }
            Effect::Notify(_) => {}
        }
        None
    }

    fn cut_over(&mut self, forced: bool, pools: &[Publication]) {
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

    fn restore(&mut self, pools: &[Publication]) {
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

    fn publish(&mut self, pools: &[Publication]) {
        for pool in pools {
            let key = (pool.service.clone(), pool.generation);
            assert!(!self.draining.contains(&key), "published a draining pool");
            let live = Live {
                color: pool.color,
                generation: pool.generation,
            };
            self.published.insert(pool.service.clone(), live);
        }
    }

    fn begin_drain(&mut self, service: ServiceName, generation: Generation) {
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
        assert!(self.draining.insert((service, generation)), "drains twice");
    }

    /// What the disk does with the oldest write.
    fn write(&mut self) {
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

    fn writes(&mut self) {
        while self.disk != Disk::Stalls && !self.writes.is_empty() {
            self.write();
        }
    }

    fn order(&mut self, order: Order) {
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
        if is_switch && before != Phase::Idle {
            let refused = !self.open.contains(&generation);
            let back = self.machine.phase() == Phase::RollingBack;
            assert!(refused || back, "two switches at once");
        }
    }

    fn pass(&mut self, duration: Duration) {
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

    fn reload(&mut self, service: &ServiceName) {
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

    fn step(&mut self, (what, whom, amount): Step) {
        let service = ServiceName::from(SERVICES[usize::from(whom) % SERVICES.len()]);
        let color = Color::ALL[usize::from(amount) % 2];
        match what % 16 {
            0 | 1 => self.order(Order::Switch {
                color,
                services: if whom < 128 { vec![] } else { vec![service] },
                force: amount % 8 < 2,
                release: None,
            }),
            2 => self.order(Order::RollBack),
            3 => self.order(Order::Promote),
            4 => self.order(Order::Abort),
            5 => {
                let state = [Slot::Healthy, Slot::Unknown, Slot::Down, Slot::Empty];
                let state = state[usize::from(amount / 2) % 4];
                self.slots.insert((service, color), state);
            }
            6 => {
                for state in self.slots.values_mut() {
                    *state = Slot::Healthy;
                }
            }
            7 => self.disk = [Disk::Works, Disk::Fails, Disk::Stalls][usize::from(amount) % 3],
            8 => self.disk = Disk::Works,
            9 => self.in_flight = [whom, whom / 2, whom / 3].map(|n| u64::from(n) % 5),
            10 => self.requests += u64::from(amount),
            11 => {
                let reason = "why".to_owned();
                let cause = Cause::ErrorRate;
                self.verdict = match amount % 8 {
                    0..4 => Verdict::Undecided,
                    4 => Verdict::Keep,
                    5 | 6 => Verdict::RollBack { cause, reason },
                    _ => Verdict::Hold { reason },
                };
            }
            12 => self.stale(whom, service),
            13 => self.reload(&service),
            _ => self.pass(Duration::from_millis(u64::from(amount) * 2)),
        }
        self.writes();
    }

    /// Old answers come late: nothing may change.
    fn stale(&mut self, which: u8, service: ServiceName) {
        let generation = Generation(self.next + 7);
        let saved = self.machine.ledger.saved;
        let input = match which % 5 {
            0 => Input::GateChecked {
                generation,
                slots: Vec::new(),
            },
            1 => Input::Persisted { ticket: saved },
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
        let before = self.machine.status();
        let effects = self.machine.handle(self.now, input);
        assert_eq!(effects, [], "a stale input had effects");
        assert_eq!(
            self.machine.status(),
            before,
            "a stale input changed something"
        );
    }

    /// With everything working again, everything comes to an end.
    fn ends(&mut self) {
        self.disk = Disk::Works;
        self.verdict = Verdict::Undecided;
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

fn history(observe: u64, reloads: bool, steps: &[Step]) {
    let mut world = World::new(observe, reloads);
    for step in steps {
        world.step(*step);
    }
    world.ends();
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..100)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_history_breaks_an_invariant(observe in 0_u64..20, steps in steps()) {
        history(observe, false, &steps);
    }

    #[test]
    fn no_reload_breaks_an_invariant(observe in 0_u64..20, steps in steps()) {
        history(observe, true, &steps);
    }
}
