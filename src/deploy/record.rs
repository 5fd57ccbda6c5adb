//! What is remembered of deploys: the shapes on disk.
//!
//! Written whole and synced before it counts. A [`Run`] says which of its actions are done and
//! which one was about to be, so that a start finds every container and every job that may be
//! there: nothing is made before its name is on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::action::{Action, forward};
use super::plan::Plan;
use crate::model::{Color, ServiceName};

/// Everything that survives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// Version of this shape; [`Book::VERSION`] is the only one known.
    pub version: u32,
    /// Number of the last deploy.
    pub last: u64,
    /// The deploy that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Run>,
    /// What is installed, by service.
    #[serde(default)]
    pub releases: BTreeMap<ServiceName, Releases>,
    /// Images that were rolled back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<Quarantined>,
    /// Jobs on a schedule, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schedule: BTreeMap<String, Ran>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            version: Self::VERSION,
            last: 0,
            running: None,
            releases: BTreeMap::new(),
            quarantine: Vec::new(),
            schedule: BTreeMap::new(),
        }
    }
}

impl Book {
    /// The version that this code writes and reads.
    pub const VERSION: u32 = 1;

    /// The new release of a run is the live one, and the old one is kept.
    pub fn adopt(&mut self, run: &Run, at_ms: u64) {
        for member in &run.plan.members {
            let known = self.releases.entry(member.service.clone()).or_default();
            // The disk refused it before: it is so already.
            if known
                .live
                .as_ref()
                .is_some_and(|live| live.deploy == run.id)
            {
                continue;
            }
            let was = known.live.take();
            let old = member.old.iter();
            let old = Installed {
                color: member.from,
                release: member.old_release.clone(),
                image: member.old_reference.clone(),
                image_id: member.old_image.clone(),
                digest: member.old_digest.clone(),
                deploy: was
                    .as_ref()
                    .map(|was| was.deploy.clone())
                    .unwrap_or_default(),
                since_ms: was.as_ref().map_or(0, |was| was.since_ms),
                containers: old.clone().map(|one| one.name.clone()).collect(),
                policies: old
                    .map(|one| (one.name.clone(), one.policy.clone()))
                    .collect(),
            };
            let pulled = run.facts.images.get(&member.image).cloned();
            let pulled = pulled.unwrap_or_default();
            let image = run.plan.images.get(member.image);
            known.live = Some(Installed {
                color: member.to,
                release: run.plan.release.clone(),
                image: image
                    .map(|image| image.reference.clone())
                    .unwrap_or_default(),
                image_id: pulled.id,
                digest: pulled.digest,
                deploy: run.id.clone(),
                since_ms: at_ms,
                containers: member.new.iter().map(|new| new.name.clone()).collect(),
                policies: (member.new.iter())
                    .map(|new| (new.name.clone(), new.policy.clone()))
                    .collect(),
            });
            known.kept = (run.plan.keep > 0 && !old.containers.is_empty()).then_some(old);
            // Somebody insisted on it, and it did well.
            let live = known.live.as_ref().map(|live| live.image_id.clone());
            let live = live.unwrap_or_default();
            let service = &member.service;
            self.quarantine
                .retain(|one| one.service != *service || one.image_id != live);
        }
    }

    /// A run is over.
    pub fn end(&mut self, run: &Run, outcome: &super::Outcome, at_ms: u64) {
        self.running = None;
        self.last += 1;
        let why = match outcome {
            super::Outcome::RolledBack { reason, .. } => reason.clone(),
            super::Outcome::Kept { .. } if run.plan.is_rollback => {
                let why = run.why.clone();
                why.unwrap_or_else(|| format!("rolled back by {}", run.actor))
            }
            _ => return,
        };
        for member in &run.plan.members {
            // What is left by a rollback is what was live before it.
            let (image_id, release) = match run.plan.is_rollback {
                true => (member.old_image.clone(), member.old_release.clone()),
                false => {
                    let pulled = run.facts.images.get(&member.image);
                    let id = pulled.map(|pulled| pulled.id.clone());
                    (id.unwrap_or_default(), run.plan.release.clone())
                }
            };
            if image_id == member.old_image && !run.plan.is_rollback {
                continue;
            }
            let service = member.service.clone();
            self.quarantine
                .retain(|one| one.service != service || one.image_id != image_id);
            self.quarantine.push(Quarantined {
                service,
                image_id,
                release,
                why: why.clone(),
                at_ms,
            });
        }
        let more = self.quarantine.len().saturating_sub(QUARANTINED);
        self.quarantine.drain(..more);
    }
}

/// Images that are remembered as bad; the oldest are forgotten.
const QUARANTINED: usize = 100;

/// What is installed of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Releases {
    /// The one that works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Installed>,
    /// The one before, stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Installed>,
}

/// One release and its containers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// Its slot.
    pub color: Color,
    /// What people call it.
    pub release: String,
    /// The image as it was asked for.
    pub image: String,
    /// What that was: `sha256:...`.
    pub image_id: String,
    /// The digest that its registry knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The deploy that made it; empty: somebody else did.
    #[serde(default)]
    pub deploy: String,
    /// Names of its containers.
    pub containers: Vec<String>,
    /// When it became live, in milliseconds since 1970; 0: not known.
    #[serde(default)]
    pub since_ms: u64,
    /// Restart policies of its containers, which are told not to restart while they are kept.
    #[serde(default)]
    pub policies: BTreeMap<String, Value>,
}

/// An image that was rolled back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The service.
    pub service: ServiceName,
    /// The image.
    pub image_id: String,
    /// What people call it.
    pub release: String,
    /// Why.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The last run of a job on a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// The time for which it ran, in milliseconds since 1970.
    pub due_ms: u64,
    /// When it began.
    pub began_ms: u64,
    /// When it ended; `None`: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it failed; empty: it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure: String,
    /// Name of its container.
    pub container: String,
    /// The last time it did well, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_ms: Option<u64>,
}

/// One deploy or rollback on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Names it: part of the names of its containers.
    pub id: String,
    /// The id that its client chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// Why, as they put it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Although the same image is live, or was rolled back.
    pub force: bool,
    /// What is to be done.
    pub plan: Plan,
    /// Actions that are done; the next one was about to be.
    pub done: usize,
    /// It goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Back>,
    /// What was learned on the way.
    #[serde(default)]
    pub facts: Facts,
    /// How often the daemon died under it.
    #[serde(default)]
    pub crashes: u32,
}

impl Run {
    /// New containers of a rolling run that were not let in yet: they take no requests, though they
    /// may run.
    #[must_use]
    pub fn held_back(&self) -> Vec<&str> {
        let forward = forward(&self.plan);
        let joined = &forward[..self.done.min(forward.len())];
        let mut held = Vec::new();
        for action in &forward {
            if let Action::JoinOne(replica) = action
                && !joined.contains(action)
                && let Some(new) = self.plan.new_one(*replica)
            {
                held.push(new.name.as_str());
            }
        }
        held
    }
}

/// The way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Back {
    /// What is to be done, fixed when it turned.
    pub actions: Vec<Action>,
    /// How many of them are done.
    pub done: usize,
    /// Why.
    pub cause: Cause,
}

/// Why a deploy goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cause {
    /// A step failed before any traffic moved.
    Failed {
        /// The step.
        step: String,
        /// What went wrong.
        reason: String,
        /// Last lines of the job.
        lines: Vec<String>,
        /// The new release is not fit: it is not healthy, or its gate stayed shut.
        #[serde(default)]
        is_shut: bool,
    },
    /// The verdict, or a person after the cutover.
    RolledBack {
        /// In words.
        reason: String,
    },
    /// A person, before the cutover.
    Aborted {
        /// Who.
        by: String,
    },
    /// Nothing to do after all: the image is live.
    AlreadyLive,
    /// It is not to be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What was learned on the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// By the number of the image.
    #[serde(default)]
    pub images: BTreeMap<usize, Pulled>,
    /// When each job that has a copy to put back began, by its number.
    #[serde(default)]
    pub snapshots: BTreeMap<usize, Snapshot>,
    /// The stack was closed for maintenance by this run.
    #[serde(default)]
    pub closed: bool,
    /// Nothing was in flight any more when it had been closed.
    #[serde(default)]
    pub quiet: bool,
    /// Requests went to the new release, if only for a moment.
    #[serde(default)]
    pub moved: bool,
    /// What was put back, in words.
    #[serde(default)]
    pub restored: Vec<String>,
    /// What a person has to do, a line each.
    #[serde(default)]
    pub advice: Vec<String>,
    /// What went wrong without ending it.
    #[serde(default)]
    pub trouble: Vec<String>,
}

/// What a reference turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// `sha256:...`.
    pub id: String,
    /// The digest that its registry knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A copy of the data that can be put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When its job began, in milliseconds since 1970.
    pub began_ms: u64,
}
