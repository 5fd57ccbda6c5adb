//! A small world around the machine: an engine, a switch, a disk that fails. It does what it is
//! told, in part sometimes, and checks at every step what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::json;

use super::*;
use crate::config::{JobStep, Order};
use crate::deploy::action::Replica;
use crate::deploy::container::Hidden;
use crate::deploy::job::{Doors, ImageOf, JobRun, restore_obstacle};
use crate::deploy::plan::{
    Displaced, Existing, Image, Limits, Member, New, Plan, PlannedJob, PlannedSmoke, Role,
};
use crate::deploy::record::{Book, Facts, Installed, Pulled, Releases};
use crate::deploy::spec::ContainerSpec;
use crate::model::{Color, Strategy};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    Fails,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thing {
    pub(super) member: usize,
    pub(super) is_new: bool,
    pub(super) runs: bool,
    /// No request goes to it.
    pub(super) held: bool,
}

/// How the next action goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Luck {
    Good,
    /// It fails with nothing done.
    Fails,
    /// It fails with one container of several done.
    FailsHalfway,
    /// The engine does not answer.
    Silent,
    /// The new release is bad: the gate stays shut, or the verdict is to go back.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    Old,
    Watched,
    New,
}

pub(super) struct World {
    /// What is to be done.
    base: Plan,
    /// An old one that did not come back: its replacement may stay.
    pub(super) lost: bool,
    /// A request went to the new release.
    served: bool,
    pub(super) machine: Option<Machine>,
    pub(super) now: Instant,
    pub(super) disk: Disk,
    pub(super) durable: Book,
    pub(super) memory: Book,
    pub(super) writes: VecDeque<(Ticket, Book)>,
    pub(super) things: BTreeMap<String, Thing>,
    pub(super) traffic: Traffic,
    /// Requests that the new release still has after it was left.
    pub(super) pending: Option<(u64, Action)>,
    pub(super) jobs: Vec<String>,
    pub(super) restored: bool,
    pub(super) closed: bool,
    pub(super) end: Option<Outcome>,
    pub(super) log: Vec<String>,
}

/// A stack: a web service in two replicas, an API whose colors Compose declares, a worker of each
/// order.
pub(super) fn plan(retry: bool) -> Plan {
    let policy = json!({ "Name": "always" });
    let existing = |name: &str| Existing {
        name: name.to_owned(),
        policy: policy.clone(),
    };
    let new = |name: &str| New {
        name: name.to_owned(),
        spec: Some(ContainerSpec {
            name: name.to_owned(),
            body: Hidden(json!({})),
            more: Vec::new(),
            plain: Vec::new(),
            notes: Vec::new(),
        }),
        policy: policy.clone(),
    };
    let member = |service: &str, role, old: &[&str], made: &[&str]| Member {
        service: service.into(),
        role,
        from: Color::Blue,
        to: Color::Green,
        image: 0,
        old: old.iter().map(|name| existing(name)).collect(),
        old_image: "sha256:1".to_owned(),
        old_release: "v1".to_owned(),
        old_reference: "app:v1".to_owned(),
        old_digest: None,
        new: made.iter().map(|name| new(name)).collect(),
        displaced: Vec::new(),
        surplus: Vec::new(),
        grace_s: None,
    };
    let mut api = member("api", Role::Web, &["api-blue"], &["api-green"]);
    api.displaced.push(Displaced {
        name: "api-green".to_owned(),
        aside: "api-green-before-d2".to_owned(),
        ran: true,
        policy: policy.clone(),
    });
    api.surplus.push("api-green-before-d2".to_owned());
    let mut web = member(
        "web",
        Role::Web,
        &["web-1", "web-2"],
        &["web-g-1", "web-g-2"],
    );
    web.surplus.push("web-g-old".to_owned());
    let job = |name: &str, step, maintenance, snapshot| PlannedJob {
        step,
        job: JobRun {
            name: name.to_owned(),
            service: "web".into(),
            container: format!("{name}-d2"),
            image: ImageOf::New("app:v2".to_owned()),
            body: Hidden(json!({})),
            more: Vec::new(),
            env: Hidden(Vec::new()),
            timeout_ms: 10_000,
            maintenance,
            snapshot,
            restore: if snapshot {
                vec!["restore".to_owned()]
            } else {
                Vec::new()
            },
            success: None,
        },
    };
    Plan {
        stack: "default".into(),
        release: "v2".to_owned(),
        strategy: Strategy::BlueGreen,
        members: vec![
            api,
            member(
                "bot",
                Role::Worker(Order::StopFirst),
                &["bot-1"],
                &["bot-g-1"],
            ),
            member(
                "mailer",
                Role::Worker(Order::StartFirst),
                &["mailer-1"],
                &["mailer-g-1"],
            ),
            web,
        ],
        images: vec![Image {
            reference: "app:v2".to_owned(),
        }],
        jobs: vec![
            job("dump", JobStep::Before, true, true),
            job("migrate", JobStep::Before, false, false),
            job("try", JobStep::Smoke, false, false),
            job("tell", JobStep::After, false, false),
            job("sorry", JobStep::OnFailure, false, false),
            job("back", JobStep::OnRollback, false, false),
        ],
        smoke: Vec::new(),
        is_rollback: false,
        prune: true,
        retry,
        quarantine: Vec::new(),
        keep: 1,
        limits: Limits {
            pull_ms: 60_000,
            start_ms: 30_000,
            gate_ms: 30_000,
            drain_ms: 30_000,
            stop_ms: 10_000,
        },
    }
}

/// The same stack, replaced one by one: three replicas of the web service, one of the API. `closes`:
/// for maintenance.
pub(super) fn rolling_plan(closes: bool) -> Plan {
    let mut plan = plan(false);
    plan.jobs[0].job.maintenance = closes;
    plan.strategy = Strategy::Rolling;
    for member in &mut plan.members {
        member.to = member.from;
    }
    let web = &mut plan.members[3];
    let (old, new) = (web.old[0].clone(), web.new[0].clone());
    web.old.push(Existing {
        name: "web-3".to_owned(),
        ..old
    });
    web.new.push(New {
        name: "web-g-3".to_owned(),
        ..new
    });
    let api = &mut plan.members[0];
    api.displaced.clear();
    api.surplus.clear();
    plan.smoke.push(PlannedSmoke {
        service: "web".into(),
        path: "/".to_owned(),
        host: None,
        status: (200, 399),
        contains: None,
        timeout_ms: 1_000,
    });
    plan
}

/// A run of that plan.
pub(crate) fn run(retry: bool) -> Run {
    run_of(plan(retry))
}

/// A run of any plan.
pub(super) fn run_of(plan: Plan) -> Run {
    Run {
        id: "d2".to_owned(),
        command: None,
        actor: "ci".to_owned(),
        why: None,
        at_ms: 0,
        force: false,
        plan,
        done: 0,
        back: None,
        facts: Facts::default(),
        crashes: 0,
    }
}

/// What is there before a deploy.
fn before(plan: &Plan) -> BTreeMap<String, Thing> {
    let mut things = BTreeMap::new();
    let mut put = |name: &str, member, runs| {
        let thing = Thing {
            member,
            is_new: false,
            runs,
            held: false,
        };
        things.insert(name.to_owned(), thing);
    };
    put("api-blue", 0, true);
    match plan.strategy {
        // The idle color of Compose, with an older release; it runs.
        Strategy::BlueGreen => put("api-green", 0, true),
        Strategy::Rolling => put("web-3", 3, true),
    }
    put("bot-1", 1, true);
    put("mailer-1", 2, true);
    put("web-1", 3, true);
    put("web-2", 3, true);
    // What was kept until now.
    put("web-g-old", 3, false);
    things
}

impl World {
    pub(super) fn new(retry: bool) -> Self {
        Self::of(plan(retry))
    }

    pub(super) fn rolling(closes: bool) -> Self {
        Self::of(rolling_plan(closes))
    }

    pub(super) fn of(base: Plan) -> Self {
        let mut world = Self {
            lost: false,
            served: false,
            machine: None,
            now: crate::clock::now(),
            disk: Disk::Works,
            durable: Book::default(),
            memory: Book::default(),
            writes: VecDeque::new(),
            things: before(&base),
            traffic: Traffic::Old,
            pending: None,
            jobs: Vec::new(),
            restored: false,
            closed: false,
            end: None,
            log: Vec::new(),
            base,
        };
        let kept = Installed {
            color: Color::Green,
            release: "v0".to_owned(),
            image: "app:v0".to_owned(),
            image_id: "sha256:0".to_owned(),
            digest: None,
            deploy: "d1".to_owned(),
            containers: vec!["web-g-old".to_owned()],
            since_ms: 0,
            policies: BTreeMap::new(),
        };
        let releases = Releases {
            live: None,
            kept: Some(kept),
        };
        world.durable.releases.insert("web".into(), releases);
        world.memory = world.durable.clone();
        let (machine, effects) = Machine::begin(world.now, run_of(world.base.clone()));
        world.machine = Some(machine);
        world.perform(effects);
        world
    }

    /// Lets everything go on, with good luck, until it is over or nothing happens any more.
    pub(super) fn finish(&mut self) {
        self.disk = Disk::Works;
        for _ in 0..2_000 {
            if self.machine.as_ref().is_none_or(Machine::is_over) && self.writes.is_empty() {
                return;
            }
            self.write();
            self.act(Luck::Good);
            self.pass(Duration::from_secs(1));
        }
        panic!(
            "it does not end: {:?}",
            self.machine.as_ref().map(Machine::stage)
        );
    }

    /// The next write ends.
    pub(super) fn write(&mut self) {
        let Some((ticket, book)) = self.writes.pop_front() else {
            return;
        };
        let input = match self.disk {
            Disk::Works => {
                self.durable = book;
                Input::Saved { ticket }
            }
            Disk::Fails => Input::SaveFailed {
                ticket,
                reason: "full".to_owned(),
            },
        };
        self.feed(input);
    }

    /// The action that is being done ends.
    pub(super) fn act(&mut self, luck: Luck) {
        let Some((stamp, action)) = self.pending.take() else {
            return;
        };
        let answer = self.engine(action, luck);
        self.log.push(format!("{action:?} {luck:?}"));
        self.feed(Input::Answered { stamp, answer });
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        let due = self.machine.as_ref().and_then(Machine::deadline);
        if due.is_some_and(|due| due <= self.now) {
            self.feed(Input::Tick);
        }
    }

    pub(super) fn abort(&mut self) {
        let by = "somebody".to_owned();
        self.feed(Input::Abort { by });
    }

    /// The daemon dies and starts again. What it was doing may be done, in part, or not at all.
    pub(super) fn crash(&mut self, luck: Luck) {
        self.log.push(format!("crash {luck:?}"));
        if let Some((_, action)) = self.pending.take() {
            let _ = self.engine(action, luck);
        }
        self.writes.clear();
        self.memory = self.durable.clone();
        self.machine = None;
        self.forget_holds();
        // Whoever waited is gone.
        self.end = None;
        let Some(run) = self.durable.running.clone() else {
            return;
        };
        let (machine, effects) = Machine::resume(self.now, run);
        self.machine = Some(machine);
        self.perform(effects);
    }

    /// A daemon that starts holds back what its record says was not let in yet, and nothing else.
    fn forget_holds(&mut self) {
        let running = self.durable.running.as_ref();
        let held = running.map(|run| run.held_back()).unwrap_or_default();
        for (name, thing) in &mut self.things {
            thing.held = held.contains(&name.as_str());
        }
    }

    /// Another deploy in the same world.
    pub(super) fn replace(&mut self, machine: Machine, effects: Vec<Effect>) {
        self.machine = Some(machine);
        self.pending = None;
        self.writes.clear();
        self.perform(effects);
    }

    fn feed(&mut self, input: Input) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let effects = machine.handle(self.now, input);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Save {
                    ticket,
                    run,
                    change,
                } => {
                    match change {
                        Change::Step => self.memory.running = Some(*run),
                        Change::Adopt => {
                            self.memory.adopt(&run, 1);
                            self.memory.running = Some(*run);
                        }
                        Change::End(outcome) => self.memory.end(&run, &outcome, 2),
                    }
                    self.writes.push_back((ticket, self.memory.clone()));
                }
                Effect::Do { stamp, action } => {
                    let durable = self.durable.running.as_ref();
                    let run = durable.expect("an action without a record on disk");
                    let known = match &run.back {
                        Some(back) => back.actions.get(back.done).copied(),
                        None => forward(&run.plan).get(run.done).copied(),
                    };
                    assert_eq!(known, Some(action), "the record says another action");
                    self.pending = Some((stamp, action));
                }
                Effect::Cancel { stamp } => {
                    if self.pending.is_some_and(|(known, _)| known == stamp) {
                        self.pending = None;
                    }
                }
                Effect::Report(_) => {}
                Effect::End(outcome) => {
                    assert_eq!(self.end, None, "ended twice");
                    self.end = Some(outcome);
                }
            }
        }
    }

    fn plan(&self) -> Plan {
        let running = self.memory.running.as_ref();
        running.map_or_else(|| self.base.clone(), |run| run.plan.clone())
    }

    fn start(&mut self, name: &str) {
        let thing = self.things.get_mut(name).expect("it is there");
        thing.runs = true;
        let member = thing.member;
        if self.base.members[member].is_stop_first() {
            let up = self
                .things
                .values()
                .filter(|it| it.member == member && it.runs);
            assert_eq!(up.count(), 1, "it runs twice\n{:#?}", self.log);
        }
    }

    fn stop(&mut self, name: &str) {
        let Some(thing) = self.things.get(name).cloned() else {
            return;
        };
        let member = &self.base.members[thing.member];
        let is_old = !thing.is_new && member.old.iter().any(|o| o.name == name);
        if is_old && self.base.is_rolled(member) {
            assert!(thing.held, "stopped while it took requests");
        } else if is_old && !member.is_stop_first() {
            if self.base.strategy == Strategy::BlueGreen {
                assert_eq!(self.traffic, Traffic::New, "stopped before the verdict");
            }
            let known = self.durable.releases.get(&member.service);
            let live = known.and_then(|known| known.live.as_ref());
            assert_eq!(live.map(|live| live.color), Some(member.to), "not durable");
        }
        let thing = self.things.get_mut(name).expect("it was there");
        thing.runs = false;
    }

    fn create(&mut self, name: &str, member: usize) {
        let run = self.durable.running.as_ref().expect("a record");
        let named = run.plan.members[member]
            .new
            .iter()
            .any(|new| new.name == name);
        assert!(named, "{name} is in no record");
        let thing = Thing {
            member,
            is_new: true,
            runs: false,
            held: true,
        };
        let known = self.things.get(name);
        assert!(known.is_none_or(|known| known.is_new), "the name is taken");
        self.things.entry(name.to_owned()).or_insert(thing);
    }

    fn engine(&mut self, action: Action, luck: Luck) -> Answer {
        let answer = self.does(action, luck);
        for (n, member) in self.base.members.iter().enumerate() {
            if !self.base.is_rolled(member) {
                continue;
            }
            let of_it = self.things.values().filter(|thing| thing.member == n);
            let serving = of_it.filter(|thing| thing.runs && !thing.held).count();
            let log = &self.log;
            assert!(
                serving >= member.old.len(),
                "{serving} of {} serve\n{log:#?}",
                member.service
            );
        }
        answer
    }

    fn holds(&mut self, name: &str, held: bool) {
        if let Some(thing) = self.things.get_mut(name) {
            thing.held = held;
        }
    }

    fn serves(&self, name: &str) -> bool {
        let thing = self.things.get(name);
        thing.is_some_and(|thing| thing.runs && !thing.held)
    }

    /// One container, as the hands do it. False: it failed.
    fn one(&mut self, action: Action, replica: Replica, luck: Luck) -> bool {
        let plan = self.base.clone();
        let new = plan.new_one(replica).expect("a pair").name.clone();
        let old = plan.old_one(replica).expect("a pair").name.clone();
        let (halfway, bad) = (luck == Luck::FailsHalfway, luck == Luck::Bad);
        match action {
            Action::StartOne(_) => {
                self.holds(&new, true);
                if !halfway {
                    self.start(&new);
                }
            }
            Action::PlainOne(_) => assert!(!self.serves(&new), "its address may change"),
            Action::JoinOne(_) => {
                self.holds(&new, false);
                self.served |= !self.closed;
                return !bad;
            }
            Action::LeaveOne(_) | Action::ParkOne(_) => {
                if bad {
                    return false;
                }
                let mut so_far = plan.members[replica.member].new.iter().take(replica.at + 1);
                assert!(so_far.all(|new| self.serves(&new.name)), "nobody is fit");
                self.holds(&old, true);
                if !halfway && matches!(action, Action::ParkOne(_)) {
                    self.stop(&old);
                }
            }
            Action::ReviveOne(_) => {
                self.holds(&old, false);
                if bad {
                    self.lost = true;
                    return false;
                }
                if !halfway {
                    self.start(&old);
                }
            }
            Action::WithdrawOne(_) => {
                if self.serves(&new) {
                    assert!(self.serves(&old), "nobody is left in its place");
                }
                self.holds(&new, true);
                if !halfway {
                    self.stop(&new);
                    self.things.remove(&new);
                }
            }
            _ => return !bad,
        }
        true
    }

    fn does(&mut self, action: Action, luck: Luck) -> Answer {
        let fails = |again| {
            Answer::Failed(Failure {
                reason: "as it was told to".to_owned(),
                lines: Vec::new(),
                again,
            })
        };
        if matches!(action, Action::ReviveOne(_)) && luck != Luck::Good {
            self.lost = true;
        }
        match luck {
            Luck::Fails => return fails(false),
            Luck::Silent => return fails(true),
            Luck::Good | Luck::FailsHalfway | Luck::Bad => {}
        }
        let halfway = luck == Luck::FailsHalfway;
        let plan = self.plan();
        let member = |n: usize| plan.members[n].clone();
        let names = |n: usize| -> Vec<String> {
            let all = member(n).new.into_iter().map(|new| new.name);
            all.take(if halfway { 1 } else { usize::MAX }).collect()
        };
        let old = |n: usize| -> Vec<String> {
            let all = member(n).old.into_iter().map(|old| old.name);
            all.take(if halfway { 1 } else { usize::MAX }).collect()
        };
        let mut news = News::Nothing;
        match action {
            Action::Pull(_) => {
                news = News::Pulled(Pulled {
                    id: "sha256:2".to_owned(),
                    digest: None,
                });
            }
            Action::Resources | Action::Prune | Action::Smoke(_) | Action::EndJob(_) => {}
            Action::Gate | Action::Healthy(_) => {
                if luck == Luck::Bad {
                    return fails(false);
                }
            }
            Action::Close => {
                self.closed = true;
                news = News::Closed { quiet: true };
            }
            Action::Open => self.closed = false,
            Action::Job(n) => {
                let job = &plan.jobs[n].job;
                if luck == Luck::Bad {
                    return fails(false);
                }
                self.jobs.push(job.name.clone());
                news = News::Ran { began_ms: 5 };
            }
            Action::Displace(n) => {
                for one in member(n).displaced {
                    if self.things.contains_key(&one.aside) {
                        continue;
                    }
                    self.stop(&one.name);
                    if !halfway && let Some(thing) = self.things.remove(&one.name) {
                        self.things.insert(one.aside, thing);
                    }
                }
            }
            Action::PutBack(n) => {
                for one in member(n).displaced {
                    if let Some(thing) = self.things.remove(&one.aside) {
                        let taken = self.things.insert(one.name.clone(), thing);
                        assert_eq!(taken, None, "the new one has the name");
                    }
                    if one.ran && self.things.contains_key(&one.name) && !halfway {
                        self.start(&one.name);
                    }
                }
            }
            Action::Create(n) => names(n).iter().for_each(|name| self.create(name, n)),
            Action::Start(n) => {
                if member(n).is_stop_first() {
                    // As the hands do it: whatever a record says.
                    let old: Vec<_> = member(n).old.into_iter().map(|old| old.name).collect();
                    old.iter().for_each(|name| self.stop(name));
                }
                names(n).iter().for_each(|name| self.start(name));
            }
            Action::Halt(n) => old(n).iter().for_each(|name| self.stop(name)),
            Action::CutOver => {
                if luck == Luck::Bad {
                    return fails(false);
                }
                if halfway {
                    news = News::NeverHappened;
                    if self.traffic == Traffic::Old {
                        return Answer::Done(news);
                    }
                }
                let up = |name: &str| self.things.get(name).is_some_and(|it| it.runs);
                for member in plan.members.iter().filter(|m| m.role == Role::Web) {
                    assert!(
                        member.new.iter().all(|new| up(&new.name)),
                        "moved to nothing"
                    );
                }
                if self.traffic == Traffic::Old {
                    self.traffic = Traffic::Watched;
                }
                news = News::Moved;
            }
            Action::Verdict => {
                if luck == Luck::Bad && self.traffic == Traffic::Watched {
                    self.traffic = Traffic::Old;
                }
                news = match self.traffic {
                    Traffic::Old => News::RolledBack {
                        reason: "errors".to_owned(),
                    },
                    Traffic::Watched | Traffic::New => {
                        self.traffic = Traffic::New;
                        News::Kept
                    }
                };
            }
            Action::StartOne(replica)
            | Action::HealthyOne(replica)
            | Action::GateOne(replica)
            | Action::PlainOne(replica)
            | Action::JoinOne(replica)
            | Action::LeaveOne(replica)
            | Action::ParkOne(replica)
            | Action::ReviveOne(replica)
            | Action::WithdrawOne(replica) => {
                if !self.one(action, replica, luck) {
                    return fails(false);
                }
                if matches!(action, Action::JoinOne(_)) {
                    news = News::Moved;
                }
            }
            Action::SwitchBack => self.traffic = Traffic::Old,
            Action::Adopt => panic!("that is a write"),
            Action::Plain(_) | Action::Drained | Action::Withdraw => {}
            Action::Park(n) => old(n).iter().for_each(|name| self.stop(name)),
            Action::Discard(n) => {
                for name in member(n).surplus {
                    self.stop(&name);
                    self.things.remove(&name);
                }
            }
            Action::StopNew(n) => names(n).iter().for_each(|name| self.stop(name)),
            Action::Revive(n) => {
                // As the hands do it.
                let new: Vec<_> = member(n).new.into_iter().map(|new| new.name).collect();
                new.iter().for_each(|name| self.stop(name));
                old(n).iter().for_each(|name| self.start(name));
            }
            Action::RemoveNew(n) => {
                for name in names(n) {
                    if self.things.get(&name).is_some_and(|thing| thing.is_new) {
                        self.stop(&name);
                        self.things.remove(&name);
                    }
                }
            }
            Action::Restore(n) => {
                // As the hands do it.
                let run = self.machine.as_ref().expect("it runs").run();
                let doors = Doors {
                    closed_since_ms: self.closed.then_some(1),
                    workers: Vec::new(),
                    let_in: false,
                };
                news = match restore_obstacle(run, n, &doors) {
                    Some(why) => News::Advice(vec![why]),
                    None => {
                        assert!(self.closed, "written over what users did");
                        assert_eq!(self.traffic, Traffic::Old, "written under the new release");
                        assert!(!self.served, "written under the new release");
                        self.restored = true;
                        News::Restored("the copy".to_owned())
                    }
                };
            }
        }
        if halfway {
            return fails(false);
        }
        Answer::Done(news)
    }

    /// What is there when it is over.
    pub(super) fn check_end(&self) {
        let log = format!("{:#?}", self.log);
        assert_eq!(self.durable.running, None, "{log}");
        assert!(!self.closed, "left closed\n{log}");
        let running = running(&self.things);
        let there: BTreeSet<_> = self.things.keys().map(String::as_str).collect();
        let is_new = self
            .durable
            .releases
            .get("bot")
            .is_some_and(|known| known.live.is_some());
        let was = before(&self.base);
        if is_new {
            if self.base.strategy == Strategy::BlueGreen {
                assert_eq!(self.traffic, Traffic::New, "{log}");
            }
            let members = || self.base.members.iter();
            let live = members().flat_map(|it| it.new.iter().map(|new| new.name.as_str()));
            let live: BTreeSet<_> = live.collect();
            assert_eq!(running, live, "{log}");
            let kept = members().flat_map(|it| it.old.iter().map(|old| old.name.as_str()));
            assert_eq!(there, live.into_iter().chain(kept).collect(), "{log}");
        } else if self.lost {
            // Of each pair one serves, and nothing is gone that was there.
            assert!(
                was.keys().all(|name| self.things.contains_key(name)),
                "{log}"
            );
            for member in self
                .base
                .members
                .iter()
                .filter(|it| self.base.is_rolled(it))
            {
                for (old, new) in member.old.iter().zip(&member.new) {
                    let serve = self.serves(&old.name) || self.serves(&new.name);
                    assert!(serve, "{}\n{log}", old.name);
                }
            }
        } else {
            assert_eq!(self.traffic, Traffic::Old, "{log}");
            assert_eq!(running, self::running(&was), "{log}");
            assert_eq!(there, was.keys().map(String::as_str).collect(), "{log}");
        }
    }
}

/// Names of what runs.
fn running(things: &BTreeMap<String, Thing>) -> BTreeSet<&str> {
    let running = things.iter().filter(|(_, thing)| thing.runs);
    running.map(|(name, _)| name.as_str()).collect()
}
