//! The steps of a deploy, and of the way back.
//!
//! Every action can be done again after it was done in part or whole: that is what a restart does
//! with the one that was about to be.

use serde::{Deserialize, Serialize};

use super::plan::{Member, Origin, Plan, Role};
use super::record::{Cause, Run};
use crate::config::{JobStep, Order};

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
        match self {
            Self::Pull(n) => format!(
                "pull {}",
                plan.images
                    .get(n)
                    .map_or("?", |image| image.reference.as_str())
            ),
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
    let members = || plan.members.iter().enumerate();
    let jobs = |step: JobStep| {
        let of = plan.jobs.iter().enumerate();
        of.filter(move |(_, job)| job.step == step)
    };
    all.extend((0..plan.images.len()).map(Action::Pull));
    if !plan.is_rollback {
        all.push(Action::Resources);
    }
    let mut closed = false;
    for (n, job) in jobs(JobStep::Before) {
        if job.job.maintenance && !closed {
            closed = true;
            all.push(Action::Close);
        }
        all.push(Action::Job(n));
    }
    for (n, member) in members() {
        if !member.displaced.is_empty() {
            all.push(Action::Displace(n));
        }
    }
    for (n, member) in members() {
        if member.is_made() {
            all.push(Action::Create(n));
        }
    }
    let is_early = |member: &Member| !member.is_stop_first();
    for (n, _) in members().filter(|(_, member)| is_early(member)) {
        all.push(Action::Start(n));
    }
    for (n, _) in members().filter(|(_, member)| is_early(member)) {
        all.push(Action::Healthy(n));
    }
    let has_web = plan.has_web();
    if has_web {
        all.push(Action::Gate);
    }
    all.extend((0..plan.smoke.len()).map(Action::Smoke));
    all.extend(jobs(JobStep::Smoke).map(|(n, _)| Action::Job(n)));
    for (n, _) in members().filter(|(_, member)| !is_early(member)) {
        all.extend([Action::Halt(n), Action::Start(n), Action::Healthy(n)]);
    }
    if has_web {
        all.push(Action::CutOver);
    }
    if closed {
        all.push(Action::Open);
    }
    if has_web {
        all.push(Action::Verdict);
    }
    all.push(Action::Adopt);
    all.extend(members().map(|(n, _)| Action::Plain(n)));
    all.extend(jobs(JobStep::After).map(|(n, _)| Action::Job(n)));
    if has_web {
        all.push(Action::Drained);
    }
    for (n, member) in members() {
        if is_early(member) && !member.old.is_empty() {
            all.push(Action::Park(n));
        }
    }
    for (n, member) in members() {
        if !member.surplus.is_empty() {
            all.push(Action::Discard(n));
        }
    }
    if plan.prune && !plan.is_rollback {
        all.push(Action::Prune);
    }
    all
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
    let members = || plan.members.iter().enumerate().rev();
    for (n, member) in members().filter(|(_, member)| member.is_stop_first()) {
        if began(Action::Start(n)) {
            all.push(Action::StopNew(n));
        }
        if began(Action::Halt(n)) && !member.old.is_empty() {
            all.push(Action::Revive(n));
        }
    }
    for (n, member) in members() {
        match member.origin() {
            Origin::Made if began(Action::Create(n)) => all.push(Action::RemoveNew(n)),
            Origin::Kept if began(Action::Start(n)) && !member.is_stop_first() => {
                all.push(Action::StopNew(n));
            }
            Origin::Made | Origin::Kept => {}
        }
    }
    for (n, _) in members() {
        if began(Action::Displace(n)) {
            all.push(Action::PutBack(n));
        }
    }
    for (n, job) in plan.jobs.iter().enumerate().rev() {
        // A job that was to make the copy and failed has left none.
        let is_whole = run.facts.snapshots.get(&n).is_some_and(|copy| copy.whole);
        if is_whole && !job.job.restore.is_empty() && is_undone(cause) {
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

const fn is_undone(cause: &Cause) -> bool {
    match cause {
        Cause::Failed { .. } | Cause::Aborted { .. } | Cause::RolledBack { .. } => true,
        Cause::AlreadyLive | Cause::Refused { .. } => false,
    }
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
