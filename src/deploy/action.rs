//! The steps of a deploy, and of the way back.
//!
//! Every action can be done again after it was done in part or whole: that is what a restart does
//! with the one that was about to be.

use serde::{Deserialize, Serialize};

use super::plan::{Member, Origin, Plan, PlannedJob, Role};
use super::record::{Cause, Run};
use crate::config::{JobStep, Order};
use crate::model::Strategy;

/// One container of a member, and the one that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Position of the member in the plan.
    pub member: usize,
    /// Position among its new and its live containers.
    pub at: usize,
}

/// One step. Numbers are positions in the [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Has the image, or gets it.
    Pull(usize),
    /// Looks whether two releases fit.
    Resources,
    /// Closes the stack for maintenance and waits until nothing is in flight.
    Close,
    /// Runs a job to its end.
    Job(usize),
    /// Moves the containers of a declared color out of the way, stopped.
    Displace(usize),
    /// Makes the new containers of a member, without starting them.
    Create(usize),
    /// Starts them.
    Start(usize),
    /// Waits until they run and are healthy.
    Healthy(usize),
    /// Waits until the proxy's own probes of them pass.
    Gate,
    /// Asks each of them for a page.
    Smoke(usize),
    /// Stops the live containers of a worker that must not run twice, before the new ones start.
    Halt(usize),
    /// Moves the requests, in one step for all services.
    CutOver,
    /// Opens what was closed.
    Open,
    /// Waits until the new release is kept or rolled back.
    Verdict,
    /// The new release is the live one from now on: what follows is finished whatever happens.
    Adopt,
    /// Gives the new containers the plain network names.
    Plain(usize),
    /// Waits until the old release has nothing in flight.
    Drained,
    /// Stops the old containers of a member, which are kept.
    Park(usize),
    /// Removes the containers of releases that are kept no longer.
    Discard(usize),
    /// Starts one new container. It takes no requests yet.
    StartOne(Replica),
    /// Waits until it runs and is healthy.
    HealthyOne(Replica),
    /// Waits until the proxy's own probes of it pass.
    GateOne(Replica),
    /// Gives it the plain network names while it takes no requests: its address may change.
    PlainOne(Replica),
    /// Lets it take requests, and waits until it may.
    JoinOne(Replica),
    /// Lets the old one take no new request, and waits until it has nothing in flight. Only while the new
    /// ones so far are fit.
    LeaveOne(Replica),
    /// Stops the old one, which is kept. Only after what [`Action::LeaveOne`] does.
    ParkOne(Replica),
    /// Removes images of these services that no container uses.
    Prune,
    /// On the way back: removes the container of a job that was given up.
    EndJob(usize),
    /// On the way back: makes sure that requests go to the old release, which still runs.
    SwitchBack,
    /// On the way back: waits until the new release has nothing in flight.
    Withdraw,
    /// Stops the new containers of a member.
    StopNew(usize),
    /// Starts the containers that [`Action::Halt`] stopped. Only after [`Action::StopNew`].
    Revive(usize),
    /// Removes what [`Action::Create`] made.
    RemoveNew(usize),
    /// On the way back: starts the old one again and waits until it takes requests.
    ReviveOne(Replica),
    /// On the way back: lets the requests of the new one finish and removes it, or stops it if it was
    /// kept. Only after [`Action::ReviveOne`].
    WithdrawOne(Replica),
    /// Undoes [`Action::Displace`].
    PutBack(usize),
    /// Puts the copy of the data back if nobody can have written since; else says how to.
    Restore(usize),
}

impl Action {
    /// For progress and messages: what is being done.
    #[must_use]
    pub fn told(self, plan: &Plan) -> String {
        let member = |n: usize| plan.members.get(n).map_or("?", |m| m.service.as_str());
        let job = |n: usize| plan.jobs.get(n).map_or("?", |job| job.job.name.as_str());
        let one = |replica: Replica| {
            let of = plan.members.get(replica.member).map_or(0, Member::replicas);
            format!("{} of {of} of {}", replica.at + 1, member(replica.member))
        };
        match self {
            Self::Pull(n) => format!(
                "pull {}",
                plan.images
                    .get(n)
                    .map_or("?", |image| image.reference.as_str())
            ),
            Self::StartOne(replica) => format!("start {}", one(replica)),
            Self::HealthyOne(replica) => format!("wait for {} to be healthy", one(replica)),
            Self::GateOne(replica) => format!("wait for the health gate of {}", one(replica)),
            Self::PlainOne(replica) => format!("give {} its plain name", one(replica)),
            Self::JoinOne(replica) => format!("let {} take requests", one(replica)),
            Self::LeaveOne(replica) => format!("drain the old {}", one(replica)),
            Self::ParkOne(replica) => format!("stop the old {}", one(replica)),
            Self::ReviveOne(replica) => format!("start the old {} again", one(replica)),
            Self::WithdrawOne(replica) => format!("drain and take away the new {}", one(replica)),
            Self::Resources => "check memory and disk".to_owned(),
            Self::Close => "close for maintenance".to_owned(),
            Self::Job(n) => format!("job {}", job(n)),
            Self::Displace(n) => format!("stop the idle color of {}", member(n)),
            Self::Create(n) => format!("make the containers of {}", member(n)),
            Self::Start(n) => format!("start {}", member(n)),
            Self::Healthy(n) => format!("wait for {} to be healthy", member(n)),
            Self::Gate => "wait for the health gate".to_owned(),
            Self::Smoke(n) => format!(
                "smoke check {}",
                plan.smoke.get(n).map_or("?", |smoke| smoke.path.as_str())
            ),
            Self::Halt(n) => format!("stop the old {}", member(n)),
            Self::CutOver => "switch".to_owned(),
            Self::Open => "open".to_owned(),
            Self::Verdict => "observe".to_owned(),
            Self::Adopt => "keep".to_owned(),
            Self::Plain(n) => format!("give {} its plain name", member(n)),
            Self::Drained => "drain".to_owned(),
            Self::Park(n) => format!("stop the old {}", member(n)),
            Self::Discard(n) => format!("remove older containers of {}", member(n)),
            Self::Prune => "remove unused images".to_owned(),
            Self::EndJob(n) => format!("end job {}", job(n)),
            Self::SwitchBack => "switch back".to_owned(),
            Self::Withdraw => "let requests of the new release finish".to_owned(),
            Self::StopNew(n) => format!("stop the new {}", member(n)),
            Self::Revive(n) => format!("start the old {} again", member(n)),
            Self::RemoveNew(n) => format!("remove the new containers of {}", member(n)),
            Self::PutBack(n) => format!("put the idle color of {} back", member(n)),
            Self::Restore(n) => format!("restore what {} saved", job(n)),
        }
    }
}

/// The way forward.
#[must_use]
pub fn forward(plan: &Plan) -> Vec<Action> {
    let mut all = Vec::new();
    all.extend((0..plan.images.len()).map(Action::Pull));
    if !plan.is_rollback {
        all.push(Action::Resources);
    }
    let mut closes = false;
    for (n, job) in jobs(plan, JobStep::Before) {
        if job.job.maintenance && !closes {
            closes = true;
            all.push(Action::Close);
        }
        all.push(Action::Job(n));
    }
    for (n, member) in members(plan) {
        if !member.displaced.is_empty() {
            all.push(Action::Displace(n));
        }
    }
    for (n, member) in members(plan) {
        if member.is_made() {
            all.push(Action::Create(n));
        }
    }
    match plan.strategy {
        Strategy::BlueGreen => at_once(plan, closes, &mut all),
        Strategy::Rolling => one_by_one(plan, closes, &mut all),
    }
    for (n, member) in members(plan) {
        let is_parked = plan.is_rolled(member);
        if !is_parked && !member.is_stop_first() && !member.old.is_empty() {
            all.push(Action::Park(n));
        }
    }
    for (n, member) in members(plan) {
        if !member.surplus.is_empty() {
            all.push(Action::Discard(n));
        }
    }
    if plan.prune && !plan.is_rollback {
        all.push(Action::Prune);
    }
    all
}

/// From the first start to the drain: all new containers beside all old ones, and one cutover.
fn at_once(plan: &Plan, closes: bool, all: &mut Vec<Action>) {
    let early = || members(plan).filter(|(_, member)| !member.is_stop_first());
    all.extend(early().map(|(n, _)| Action::Start(n)));
    all.extend(early().map(|(n, _)| Action::Healthy(n)));
    let has_web = plan.has_web();
    if has_web {
        all.push(Action::Gate);
    }
    all.extend((0..plan.smoke.len()).map(Action::Smoke));
    all.extend(jobs(plan, JobStep::Smoke).map(|(n, _)| Action::Job(n)));
    stop_first_workers(plan, all);
    if has_web {
        all.push(Action::CutOver);
    }
    if closes {
        all.push(Action::Open);
    }
    if has_web {
        all.push(Action::Verdict);
    }
    all.push(Action::Adopt);
    all.extend(members(plan).map(|(n, _)| Action::Plain(n)));
    all.extend(jobs(plan, JobStep::After).map(|(n, _)| Action::Job(n)));
    if has_web {
        all.push(Action::Drained);
    }
}

/// The same part of a rolling deploy: each new container in the place of an old one, then the workers.
fn one_by_one(plan: &Plan, closes: bool, all: &mut Vec<Action>) {
    let web = || members(plan).filter(|(_, member)| plan.is_rolled(member));
    for (n, member) in web() {
        for at in 0..member.replicas() {
            replica(plan, Replica { member: n, at }, all);
        }
    }
    let early = || {
        let others = members(plan).filter(|(_, member)| !plan.is_rolled(member));
        others.filter(|(_, member)| !member.is_stop_first())
    };
    all.extend(early().map(|(n, _)| Action::Start(n)));
    all.extend(early().map(|(n, _)| Action::Healthy(n)));
    let is_of_web = |job: &PlannedJob| web().any(|(_, member)| member.service == job.job.service);
    let of_workers = jobs(plan, JobStep::Smoke).filter(|(_, job)| !is_of_web(job));
    all.extend(of_workers.map(|(n, _)| Action::Job(n)));
    stop_first_workers(plan, all);
    if plan.has_web() {
        // Some of them have taken requests for a while.
        all.push(Action::Gate);
    }
    if closes {
        all.push(Action::Open);
    }
    all.push(Action::Adopt);
    // Those that take requests have their names already.
    let workers = members(plan).filter(|(_, member)| !plan.is_rolled(member));
    all.extend(workers.map(|(n, _)| Action::Plain(n)));
    all.extend(jobs(plan, JobStep::After).map(|(n, _)| Action::Job(n)));
}

/// One new container from its start to the end of the old one.
fn replica(plan: &Plan, replica: Replica, all: &mut Vec<Action>) {
    let Some(member) = plan.members.get(replica.member) else {
        return;
    };
    if let Some(new) = member.new.get(replica.at) {
        all.extend([
            Action::StartOne(replica),
            Action::HealthyOne(replica),
            Action::GateOne(replica),
        ]);
        if replica.at == 0 {
            let pages = plan.smoke.iter().enumerate();
            let pages = pages.filter(|(_, page)| page.service == member.service);
            all.extend(pages.map(|(n, _)| Action::Smoke(n)));
            let own = jobs(plan, JobStep::Smoke);
            let own = own.filter(|(_, job)| job.job.service == member.service);
            all.extend(own.map(|(n, _)| Action::Job(n)));
        }
        if new.spec.is_some() {
            all.push(Action::PlainOne(replica));
        }
        all.push(Action::JoinOne(replica));
    }
    if replica.at < member.old.len() {
        all.extend([Action::LeaveOne(replica), Action::ParkOne(replica)]);
    }
}

fn stop_first_workers(plan: &Plan, all: &mut Vec<Action>) {
    for (n, _) in members(plan).filter(|(_, member)| member.is_stop_first()) {
        all.extend([Action::Halt(n), Action::Start(n), Action::Healthy(n)]);
    }
}

fn members(plan: &Plan) -> impl DoubleEndedIterator<Item = (usize, &Member)> {
    plan.members.iter().enumerate()
}

fn jobs(plan: &Plan, step: JobStep) -> impl Iterator<Item = (usize, &PlannedJob)> {
    let all = plan.jobs.iter().enumerate();
    all.filter(move |(_, job)| job.step == step)
}

/// The way back from where a run is, which is before [`Action::Adopt`]: what was done or begun is
/// undone, the last first.
#[must_use]
pub fn backward(run: &Run, cause: &Cause) -> Vec<Action> {
    let plan = &run.plan;
    let forward = forward(plan);
    let begun = &forward[..(run.done + 1).min(forward.len())];
    let began = |action: Action| begun.contains(&action);
    let mut all = Vec::new();
    // The last one may still run.
    if let Some(Action::Job(n)) = begun.last() {
        all.push(Action::EndJob(*n));
    }
    if began(Action::CutOver) && !matches!(cause, Cause::RolledBack { .. }) {
        all.push(Action::SwitchBack);
    }
    if began(Action::CutOver) {
        all.push(Action::Withdraw);
    }
    let last_first = || members(plan).rev();
    for (n, member) in last_first().filter(|(_, member)| member.is_stop_first()) {
        if began(Action::Start(n)) {
            all.push(Action::StopNew(n));
        }
        if began(Action::Halt(n)) && !member.old.is_empty() {
            all.push(Action::Revive(n));
        }
    }
    for (n, member) in last_first() {
        if plan.is_rolled(member) {
            for at in (0..member.replicas()).rev() {
                all.extend(replica_back(plan, Replica { member: n, at }, begun));
            }
            continue;
        }
        match member.origin() {
            Origin::Made if began(Action::Create(n)) => all.push(Action::RemoveNew(n)),
            Origin::Kept if began(Action::Start(n)) && !member.is_stop_first() => {
                all.push(Action::StopNew(n));
            }
            Origin::Made | Origin::Kept => {}
        }
    }
    for (n, _) in last_first() {
        if began(Action::Displace(n)) {
            all.push(Action::PutBack(n));
        }
    }
    for (n, job) in plan.jobs.iter().enumerate().rev() {
        // A job that was to make the copy and failed has left none.
        let has_copy = run.facts.snapshots.contains_key(&n);
        if has_copy && !job.job.restore.is_empty() {
            all.push(Action::Restore(n));
        }
    }
    if run.facts.closed || began(Action::Close) {
        all.push(Action::Open);
    }
    let step = match cause {
        Cause::Failed { .. } | Cause::Aborted { .. } => Some(JobStep::OnFailure),
        Cause::RolledBack { .. } => Some(JobStep::OnRollback),
        Cause::AlreadyLive | Cause::Refused { .. } => None,
    };
    let of_step = plan.jobs.iter().enumerate();
    let of_step = of_step.filter(|(_, job)| Some(job.step) == step);
    all.extend(of_step.map(|(n, _)| Action::Job(n)));
    all
}

/// The way back of one replica: the old one serves before the new one leaves.
fn replica_back(plan: &Plan, replica: Replica, begun: &[Action]) -> Vec<Action> {
    let began = |action: Action| begun.contains(&action);
    let mut all = Vec::new();
    if began(Action::LeaveOne(replica)) {
        all.push(Action::ReviveOne(replica));
    }
    let is_there = match plan.new_one(replica).map(|new| new.spec.is_some()) {
        Some(true) => began(Action::Create(replica.member)),
        Some(false) => began(Action::StartOne(replica)),
        None => false,
    };
    if is_there {
        all.push(Action::WithdrawOne(replica));
    }
    all
}

impl Member {
    /// Whether the old one must have ended before the new one starts.
    #[must_use]
    pub const fn is_stop_first(&self) -> bool {
        match self.role {
            Role::Worker(Order::StopFirst) => true,
            Role::Worker(Order::StartFirst) | Role::Web => false,
        }
    }
}
