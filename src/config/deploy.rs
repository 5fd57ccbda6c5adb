//! Releases of container-managed services, and the one-shot containers around them.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Schedule, ServiceName};

/// `[deploy]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Deploy {
    /// Releases that stay, stopped, for a rollback in seconds. Default 1; 0: none.
    pub keep: u8,
    /// For the pull of one image. Default 10 min.
    pub pull_timeout: Duration,
    /// Until the new containers' own health checks pass. Default 300 s.
    pub start_timeout: Duration,
    /// A deploy begins only with so many bytes free where the engine keeps its data. Default 1 GiB.
    pub free_disk: usize,
    /// So many bytes of memory must be left with both colors running. Default 64 MiB.
    pub free_memory: usize,
    /// Whether images of the service that no container uses are removed at the end. Default true.
    pub prune: bool,
    /// Docker's config file with registry credentials; `None`: `$DOCKER_CONFIG/config.json`, else
    /// `~/.docker/config.json`.
    pub registry_config: Option<PathBuf>,
    /// What becomes of a deploy whose cutover was intended when the daemon died and did not happen.
    /// Default `Abort`.
    pub resume_after_crash: Resume,
    /// Asked of the new containers before any traffic moves.
    pub smoke: Vec<Smoke>,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            keep: 1,
            pull_timeout: Duration::from_secs(600),
            start_timeout: Duration::from_secs(300),
            free_disk: 1 << 30,
            free_memory: 64 << 20,
            prune: true,
            registry_config: None,
            resume_after_crash: Resume::Abort,
            smoke: Vec::new(),
        }
    }
}

/// `resume_after_crash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// It is undone.
    #[default]
    Abort,
    /// It goes on.
    Retry,
}

impl Resume {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Retry => "retry",
        }
    }
}

/// `[[deploy.smoke]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smoke {
    /// Whose new containers are asked, each of them.
    pub service: ServiceName,
    /// The target of the GET, with its query.
    pub path: String,
    /// `Host` header; `None`: the first host that leads to the service.
    pub host: Option<String>,
    /// Accepted status codes, inclusive. Default 200–299.
    pub status: (u16, u16),
    /// What the body must contain.
    pub contains: Option<String>,
    /// For one answer. Default 5 s.
    pub timeout: Duration,
}

/// `[[job]]`: a container that does one thing and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Unique.
    pub name: String,
    /// Environment, networks, mounts and user are those of this service's container.
    pub service: ServiceName,
    /// What makes it run.
    pub when: When,
    /// Which image.
    pub image: JobImage,
    /// In place of the image's command; `{time}` is when it starts, as 20260131T235959Z, in UTC.
    pub command: Vec<String>,
    /// In place of the image's entry point; empty: the image's own.
    pub entrypoint: Vec<String>,
    /// `NAME=value`, over the service's own.
    pub env: Vec<String>,
    /// More `SOURCE:TARGET[:ro]`, volumes or folders of the host.
    pub mounts: Vec<String>,
    /// Files of the host, each read-only at `/run/secrets/NAME`.
    pub secret_files: Vec<PathBuf>,
    /// In place of the service's user.
    pub user: Option<String>,
    /// It is killed after this. Default 10 min.
    pub timeout: Duration,
    /// The service is closed for maintenance from before this step until the cutover.
    pub maintenance: bool,
    /// It makes a copy of the data, which `restore` puts back.
    pub snapshot: bool,
    /// The command that puts the copy back; `{time}` is the one of the snapshot.
    pub restore: Vec<String>,
    /// What it must have left beside exit code 0.
    pub success: Option<Success>,
}

/// What makes a job run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// A step of every deploy of its service.
    Step(JobStep),
    /// The clock.
    Schedule(Box<Schedule>),
}

/// `when`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStep {
    /// Before anything is started.
    Before,
    /// When the new containers are healthy, before any traffic moves.
    Smoke,
    /// After the verdict.
    After,
    /// When a deploy fails before its cutover.
    OnFailure,
    /// When a release was rolled back.
    OnRollback,
}

impl JobStep {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Before,
        Self::Smoke,
        Self::After,
        Self::OnFailure,
        Self::OnRollback,
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Smoke => "smoke",
            Self::After => "after",
            Self::OnFailure => "on_failure",
            Self::OnRollback => "on_rollback",
        }
    }
}

/// `image` of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobImage {
    /// The release that is deployed.
    New,
    /// The release that was live before.
    Old,
    /// Whichever is live.
    Any,
    /// This one.
    Reference(String),
}

impl JobImage {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::New => "new",
            Self::Old => "old",
            Self::Any => "any",
            Self::Reference(image) => image,
        }
    }
}

/// `success` of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// A file of the job's container, volumes included, that must be there and newer than the start
    /// of the job.
    pub file: Option<String>,
    /// Bytes that it must have at least. Default 1.
    pub min_size: usize,
    /// A command in the same surroundings that must end with 0.
    pub verify: Vec<String>,
}

/// What a service is for a deploy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It takes requests.
    #[default]
    Web,
    /// It has no port.
    Worker {
        /// Which of the two releases runs first.
        order: Order,
    },
}

/// `order` of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The new one is healthy before the old one stops, after the verdict: for a while both run.
    #[default]
    StartFirst,
    /// The old one has ended before the new one starts, right before the cutover.
    StopFirst,
}

impl Order {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        }
    }
}
