//! `deploy`: what is asked for, how it gets on, what containers there are.

use serde::{Deserialize, Serialize};

use crate::model::{Color, ServiceName, Strategy};

/// `POST /v1/deploy`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// An image, or only a tag of the image that is live.
    pub image: String,
    /// Only these services; empty: the stack.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// `NAME=value` for the new containers, in place of what the live ones have.
    #[serde(default)]
    pub env: Vec<String>,
    /// Label of the release; null: its tag.
    #[serde(default)]
    pub release: Option<String>,
    /// Deploy it although it is live, or was rolled back.
    #[serde(default)]
    pub force: bool,
    /// How the new containers take over.
    #[serde(default)]
    pub strategy: Strategy,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether the answer comes when it is over. False: as soon as it is begun.
    #[serde(default = "yes")]
    pub wait: bool,
    /// Chosen by the client: asked again with the same id, the running one is joined or the
    /// recorded result is given.
    #[serde(default)]
    pub id: Option<String>,
    /// Why, for the history.
    #[serde(default)]
    pub why: Option<String>,
}

impl std::fmt::Debug for DeployRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let variables = self.env.len();
        f.debug_struct("DeployRequest")
            .field("image", &self.image)
            .field("services", &self.services)
            .field("variables", &variables)
            .field("force", &self.force)
            .field("strategy", &self.strategy)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

const fn yes() -> bool {
    true
}

/// How far a deploy is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployStatus {
    /// Its id, part of the names of its containers.
    pub id: String,
    /// What is deployed.
    pub release: String,
    /// Who asked for it.
    #[serde(default)]
    pub actor: String,
    /// What is being done.
    pub step: String,
    /// Steps that are done.
    pub done: usize,
    /// Of how many.
    pub of: usize,
    /// Whether it goes back.
    #[serde(default)]
    pub back: bool,
    /// When it began, RFC 3339.
    #[serde(default)]
    pub since: String,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRole {
    /// It is the release that works.
    Live,
    /// A deploy is making it.
    New,
    /// It is stopped, for a rollback.
    Kept,
    /// The idle color, not by a deploy.
    Idle,
    /// A job.
    Job,
    /// Nothing needs it: `cleanup` removes it.
    LeftOver,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ContainerRole {
    /// The word that status shows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::New => "new",
            Self::Kept => "kept",
            Self::Idle => "idle",
            Self::Job => "job",
            Self::LeftOver => "left over",
            Self::Unknown => "unknown",
        }
    }
}

/// One container of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Whose it is; null for a job of none.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// Its slot; null when nobody said.
    #[serde(default)]
    pub color: Option<Color>,
    /// What it is for.
    pub role: ContainerRole,
    /// Label of what runs in it.
    #[serde(default)]
    pub release: Option<String>,
    /// The image as it was asked for.
    pub image: String,
    /// What that was: `sha256:...`.
    pub image_id: String,
    /// The digest that its registry knows it by; null when it came from none.
    #[serde(default)]
    pub digest: Option<String>,
    /// `running`, `exited (0)`, ...
    pub state: String,
    /// What its own check says; null without one.
    #[serde(default)]
    pub health: Option<String>,
    /// Seconds since its last start; null when it does not run.
    #[serde(default)]
    pub age_s: Option<u64>,
    /// How often the engine started it again.
    #[serde(default)]
    pub restarts: u64,
    /// Memory that it uses, in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Of how much, in bytes.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// Share of one core over the last seconds.
    #[serde(default)]
    pub cpu: Option<f64>,
}

/// `POST /v1/job`: a job on a schedule is run now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Its name.
    pub name: String,
}

/// One job on a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// When it is due next, RFC 3339; null while it runs.
    #[serde(default)]
    pub next: Option<String>,
    /// When it did well last, RFC 3339; null: never.
    #[serde(default)]
    pub last_good: Option<String>,
    /// Why the last run failed; null: it did not.
    #[serde(default)]
    pub failure: Option<String>,
}
