//! A small world around the machine: an engine, a switch, a disk that fails. It does what it is
//! told, in part sometimes, and checks at every step what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::json;

use super::*;
use crate::config::{JobStep, Order};
use crate::deploy::container::Hidden;
use crate::deploy::job::{Doors, ImageOf, JobRun, restore_obstacle};
use crate::deploy::plan::{
    Displaced, Existing, Image, Limits, Member, New, Plan, PlannedJob, Role,
};
use crate::deploy::record::{Book, Facts, Installed, Pulled, Releases};
use crate::deploy::spec::ContainerSpec;
use crate::model::Color;

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

/// A run of that plan.
pub(crate) fn run(retry: bool) -> Run {
    Run {
        id: "d2".to_owned(),
        command: None,
        actor: "ci".to_owned(),
        why: None,
        at_ms: 0,
        force: false,
        plan: plan(retry),
        done: 0,
        back: None,
        facts: Facts::default(),
        crashes: 0,
    }
}

/// What is there before a deploy.
fn before() -> BTreeMap<String, Thing> {
    let mut things = BTreeMap::new();
    let mut put = |name: &str, member, runs| {
        let thing = Thing {
            member,
            is_new: false,
            runs,
        };
        things.insert(name.to_owned(), thing);
    };
    put("api-blue", 0, true);
    // The idle color of Compose, with an older release; it runs.
    put("api-green", 0, true);
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
        let mut world = Self {
            machine: None,
            now: crate::clock::now(),
            disk: Disk::Works,
            durable: Book::default(),
            memory: Book::default(),
            writes: VecDeque::new(),
            things: before(),
            traffic: Traffic::Old,
            pending: None,
            jobs: Vec::new(),
            restored: false,
            closed: false,
            end: None,
            log: Vec::new(),
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
        let (machine, effects) = Machine::begin(world.now, run(retry));
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
        // Whoever waited is gone.
        self.end = None;
        let Some(run) = self.durable.running.clone() else {
            return;
        };
        let (machine, effects) = Machine::resume(self.now, run);
        self.machine = Some(machine);
        self.perform(effects);
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
        running.map_or_else(|| plan(false), |run| run.plan.clone())
    }

    fn start(&mut self, name: &str) {
        let thing = self.things.get_mut(name).expect("it is there");
        thing.runs = true;
        let member = thing.member;
        let plan = plan(false);
        if plan.members[member].is_stop_first() {
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
        let plan = plan(false);
        let is_old = !thing.is_new
            && plan.members[thing.member]
                .old
                .iter()
                .any(|o| o.name == name);
        if is_old && !plan.members[thing.member].is_stop_first() {
            assert_eq!(self.traffic, Traffic::New, "stopped before the verdict");
            let known = self
                .durable
                .releases
                .get(&plan.members[thing.member].service);
            let live = known.and_then(|known| known.live.as_ref());
            assert_eq!(
                live.map(|live| live.color),
                Some(Color::Green),
                "not durable"
            );
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
        };
        let known = self.things.get(name);
        assert!(known.is_none_or(|known| known.is_new), "the name is taken");
        self.things.entry(name.to_owned()).or_insert(thing);
    }

    fn engine(&mut self, action: Action, luck: Luck) -> Answer {
        let fails = |again| {
            Answer::Failed(Failure {
                reason: "as it was told to".to_owned(),
                lines: Vec::new(),
                again,
            })
        };
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
        if is_new {
            assert_eq!(self.traffic, Traffic::New, "{log}");
            let live = ["api-green", "bot-g-1", "mailer-g-1", "web-g-1", "web-g-2"];
            assert_eq!(running, live.into(), "{log}");
            let kept = ["api-blue", "bot-1", "mailer-1", "web-1", "web-2"];
            assert_eq!(there, live.into_iter().chain(kept).collect(), "{log}");
        } else {
            assert_eq!(self.traffic, Traffic::Old, "{log}");
            let was = before();
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
