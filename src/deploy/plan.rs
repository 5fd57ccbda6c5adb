//! What a deploy is to do, fixed before it begins.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::spec::ContainerSpec;
use crate::config::{JobStep, Order};
use crate::model::{Color, ServiceName, StackName, Strategy};

/// All of it. Everything that a restart needs is in here: the configuration may have changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The stack.
    pub stack: StackName,
    /// What people call the release.
    pub release: String,
    /// How the new containers take over.
    #[serde(default)]
    pub strategy: Strategy,
    /// Its services, in the order of their names.
    pub members: Vec<Member>,
    /// The images, each once.
    pub images: Vec<Image>,
    /// Jobs of these services that are steps, in the order of the file.
    pub jobs: Vec<PlannedJob>,
    /// Pages to ask for.
    pub smoke: Vec<PlannedSmoke>,
    /// It starts what was kept, instead of something new.
    #[serde(default)]
    pub is_rollback: bool,
    /// Whether unused images are removed at the end.
    pub prune: bool,
    /// Whether a cutover that was intended and did not happen is asked for again after a crash.
    #[serde(default)]
    pub retry: bool,
    /// Images of these services that were rolled back.
    #[serde(default)]
    pub quarantine: Vec<super::record::Quarantined>,
    /// Releases that stay, stopped.
    pub keep: u8,
    /// How long each kind of step may take.
    pub limits: Limits,
}

/// How long steps may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The pull of one image.
    pub pull_ms: u64,
    /// Until new containers are healthy.
    pub start_ms: u64,
    /// Until the proxy's own probes pass.
    pub gate_ms: u64,
    /// Until the old release has nothing in flight, after its drain is over by the clock.
    pub drain_ms: u64,
    /// What containers have between SIGTERM and SIGKILL, the longest of them.
    pub stop_ms: u64,
}

/// An image that is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the engine and registries know it.
    pub reference: String,
}

/// One service of the release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The service.
    pub service: ServiceName,
    /// What it is.
    pub role: Role,
    /// The slot of what is live.
    pub from: Color,
    /// The slot of what is new.
    pub to: Color,
    /// Which of [`Plan::images`].
    pub image: usize,
    /// The live containers.
    pub old: Vec<Existing>,
    /// Image of the live containers: `sha256:...`.
    pub old_image: String,
    /// Label of the live release.
    pub old_release: String,
    /// Its image as it was asked for.
    #[serde(default)]
    pub old_reference: String,
    /// The digest that its registry knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_digest: Option<String>,
    /// The new containers.
    pub new: Vec<New>,
    /// Containers of a declared color that stand where the new ones will.
    #[serde(default)]
    pub displaced: Vec<Displaced>,
    /// Containers of releases that are kept no longer once this one is.
    #[serde(default)]
    pub surplus: Vec<String>,
    /// Between SIGTERM and SIGKILL, in seconds; `None`: as each container says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u64>,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes requests.
    Web,
    /// It takes none.
    #[serde(with = "order")]
    Worker(Order),
}

mod order {
    //! [`Order`] as the configuration spells it.

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::config::Order;

    pub(super) fn serialize<S: Serializer>(order: &Order, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(order.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Order, D::Error> {
        match String::deserialize(from)?.as_str() {
            "start-first" => Ok(Order::StartFirst),
            "stop-first" => Ok(Order::StopFirst),
            other => Err(serde::de::Error::custom(format!("no order `{other}`"))),
        }
    }
}

/// A container that is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// Its restart policy, for when it is started again.
    pub policy: serde_json::Value,
}

/// A container of the new release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct New {
    /// Its name.
    pub name: String,
    /// What it is made from; `None`: it is there already, stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ContainerSpec>,
    /// Its restart policy.
    pub policy: serde_json::Value,
}

/// A container that gives its name away for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// Its name, which the new one gets.
    pub name: String,
    /// What it is called meanwhile.
    pub aside: String,
    /// Whether it ran.
    pub ran: bool,
    /// Its restart policy.
    #[serde(default)]
    pub policy: serde_json::Value,
}

/// Where the containers of a member come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They are made by this run.
    Made,
    /// They were kept.
    Kept,
}

/// A job of this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedJob {
    /// When it runs.
    #[serde(with = "step")]
    pub step: JobStep,
    /// What it is.
    pub job: super::job::JobRun,
}

mod step {
    //! [`JobStep`] as the configuration spells it.

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::config::JobStep;

    pub(super) fn serialize<S: Serializer>(step: &JobStep, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(step.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<JobStep, D::Error> {
        let word = String::deserialize(from)?;
        let found = JobStep::ALL.into_iter().find(|step| step.as_str() == word);
        found.ok_or_else(|| serde::de::Error::custom(format!("no step `{word}`")))
    }
}

/// A page to ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSmoke {
    /// Of which service's new containers.
    pub service: ServiceName,
    /// Target of the GET.
    pub path: String,
    /// `Host` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Accepted status codes.
    pub status: (u16, u16),
    /// What the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// For one answer, in milliseconds.
    pub timeout_ms: u64,
}

impl Plan {
    /// Whether requests move.
    #[must_use]
    pub fn has_web(&self) -> bool {
        self.members.iter().any(|member| member.role == Role::Web)
    }

    /// The services that take requests.
    #[must_use]
    pub fn web(&self) -> Vec<ServiceName> {
        let web = self.members.iter().filter(|m| m.role == Role::Web);
        web.map(|member| member.service.clone()).collect()
    }

    /// All services.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceName> {
        self.members.iter().map(|m| m.service.clone()).collect()
    }

    /// The color that takes the requests if all goes well: that of every web member, else of the
    /// first one.
    #[must_use]
    pub fn color(&self) -> Option<Color> {
        let web = self.members.iter().find(|member| member.role == Role::Web);
        web.or(self.members.first()).map(|member| member.to)
    }

    /// Whether the containers of a member are replaced one by one.
    #[must_use]
    pub fn is_rolled(&self, member: &Member) -> bool {
        self.strategy == Strategy::Rolling && member.role == Role::Web
    }

    /// A container of the new release.
    #[must_use]
    pub fn new_one(&self, replica: super::Replica) -> Option<&New> {
        self.members.get(replica.member)?.new.get(replica.at)
    }

    /// The live container that leaves for it.
    #[must_use]
    pub fn old_one(&self, replica: super::Replica) -> Option<&Existing> {
        self.members.get(replica.member)?.old.get(replica.at)
    }

    /// How long a step may take; `None`: as long as it likes.
    #[must_use]
    pub fn limit(&self, action: super::Action) -> Option<Duration> {
        use super::Action as A;
        // The engine answers most things at once; a disk that is busy may take its time.
        const ANSWER: u64 = 60_000;
        let limits = &self.limits;
        // One after the other.
        let stops = |n: usize, containers: fn(&Member) -> usize| {
            let count = self.members.get(n).map_or(1, containers).max(1);
            limits.stop_ms * u64::try_from(count).unwrap_or(u64::MAX) + ANSWER
        };
        let ms = match action {
            A::Pull(_) => limits.pull_ms,
            // Its own image, the job, and what verifies it.
            A::Job(n) | A::Restore(n) => {
                limits.pull_ms + 2 * self.jobs.get(n)?.job.timeout_ms + ANSWER
            }
            A::Healthy(_) | A::HealthyOne(_) => limits.start_ms,
            A::Gate | A::GateOne(_) | A::JoinOne(_) => limits.gate_ms,
            A::LeaveOne(_) => limits.gate_ms + limits.drain_ms + ANSWER,
            A::ParkOne(_) | A::WithdrawOne(_) => {
                limits.gate_ms + limits.drain_ms + limits.stop_ms + ANSWER
            }
            A::ReviveOne(_) => limits.start_ms + limits.gate_ms + ANSWER,
            A::Smoke(n) => {
                let page = self.smoke.get(n)?;
                let mut members = self.members.iter();
                let asked = members.find(|member| member.service == page.service);
                let count = asked.map_or(1, |member| member.new.len()).max(1);
                page.timeout_ms * u64::try_from(count).unwrap_or(u64::MAX) + ANSWER
            }
            A::Close | A::Drained | A::Withdraw => limits.drain_ms + ANSWER,
            A::Displace(n) => stops(n, |member| member.displaced.len()),
            A::Halt(n) | A::Park(n) => stops(n, |member| member.old.len()),
            A::StopNew(n) | A::RemoveNew(n) => stops(n, |member| member.new.len()),
            // Ended by the switch itself.
            A::CutOver | A::Verdict => return None,
            A::SwitchBack => limits.drain_ms + ANSWER,
            A::Resources
            | A::Create(_)
            | A::Start(_)
            | A::StartOne(_)
            | A::PlainOne(_)
            | A::Open
            | A::Adopt
            | A::Plain(_)
            | A::Discard(_)
            | A::Prune
            | A::Revive(_)
            | A::PutBack(_)
            | A::EndJob(_) => ANSWER,
        };
        Some(Duration::from_millis(ms))
    }
}

impl Member {
    /// Where its containers come from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self.is_made() {
            true => Origin::Made,
            false => Origin::Kept,
        }
    }

    /// Replicas that are gone through one by one: those of the larger release.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.new.len().max(self.old.len())
    }

    /// Whether this run makes them.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.new.iter().any(|new| new.spec.is_some())
    }
}
