//! The configuration, validated: types that cannot be wrong, so nothing checks again later.
//!
//! The parser is in `parse`; its input is one TOML file, its output a [`Config`] or every
//! error of the file at once. [`schema`] lists every key there is; the parser refuses what is
//! not in it. Runtime state never lives here: which color is live, what is healthy and what
//! was switched belong to `pool`, `health` and `switch`.

mod deploy;
mod diagnostic;
mod env;
mod global;
mod join;
mod load;
mod parse;
mod paths;
mod render;
mod rollback;
pub mod schema;
mod service;
mod site;
pub mod step;
mod transport;

pub use deploy::{Deploy, Job, JobImage, JobStep, Kind, Order, Resume, Smoke, Success, When};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use env::Env;
pub use global::{
    AccessLog, Acme, AcmeFallback, Docker, DockerSocket, Eab, History, IpSet, Limits, Listen, Log,
    LogFormat, LogSkip, Maintenance, Notify, NotifyEvent, NotifyKind, Rotate, Secret, Timeouts,
};
pub use join::JoinedSite;
pub use load::{
    Found, as_value, find, find_with, load, load_both, load_str, load_str_with, load_with, read,
    text_value,
};
pub use render::rollback_text;
pub use rollback::{
    AfterAction, RescueBudget, Rollback, RollbackAfter, RollbackBaseline, RollbackErrors,
    RollbackFast, RollbackGate, RollbackLatency, RollbackMode, RollbackRules, RuleAction,
};
pub use service::{Balance, DockerService, Eject, Health, Probe, Service, Slot, Switch};
pub use site::{ClientAuth, ClientAuthMode, Hsts, Route, Site, Tls, TlsVersion, ValueMatch};
pub use transport::{
    Alpn, Retry, RetryBudget, RetryOn, SameSite, ServiceTimeouts, Sticky, UpstreamTls,
};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A whole configuration. Every reference inside resolves: a [`ServiceIndex`] is in range,
/// hosts are unique, no pool is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder for the live colors, the journal, certificates. Default `/data/cutover`.
    pub state_dir: PathBuf,
    /// How long a stop waits for requests in flight. Default 30 s.
    pub shutdown_grace: Duration,
    /// How long a stop serves on after `/readyz` says no, so that a load balancer in front stops
    /// sending first. Default 0.
    pub shutdown_delay: Duration,
    /// Sockets and who may use them.
    pub listen: Listen,
    /// Deadlines on the client's side and for upstreams.
    pub timeouts: Timeouts,
    /// Bounds against abuse.
    pub limits: Limits,
    /// How much of the history is kept.
    pub history: History,
    /// How maintenance looks.
    pub maintenance: Maintenance,
    /// Access log and redaction.
    pub log: Log,
    /// ACME account settings.
    pub acme: Acme,
    /// Docker discovery; `None` without a `[docker]` table.
    pub docker: Option<Docker>,
    /// Releases of containers.
    pub deploy: Deploy,
    /// One-shot containers, in the order of the file.
    pub jobs: Vec<Job>,
    /// Where events go.
    pub notify: Vec<Notify>,
    /// `[rollback]`: what holds for services that say nothing themselves.
    pub rollback: Rollback,
    /// Sites in the order of the file.
    pub sites: Vec<Site>,
    /// Services in the order of their names.
    pub services: Vec<Service>,
    /// Files that secrets were read from.
    pub secret_files: Vec<PathBuf>,
    /// What is allowed but deserves a word, such as a secret file that others can read.
    pub warnings: Vec<Diagnostic>,
}

/// Position of a service in [`Config::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(pub usize);

impl Config {
    /// Names of the keys whose value differs in `new` and cannot change in a running daemon:
    /// bound addresses, the admin socket and the state folder. Empty: `new` can be applied.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        [
            ("state_dir", self.state_dir != new.state_dir),
            ("listen.http", self.listen.http != new.listen.http),
            ("listen.https", self.listen.https != new.listen.https),
            ("listen.ops", self.listen.ops != new.listen.ops),
            ("listen.admin", self.listen.admin != new.listen.admin),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    /// Every access log: that of `[log.access]`, then those of sites.
    pub fn access_logs(&self) -> impl Iterator<Item = &Arc<AccessLog>> {
        let of_sites = self
            .sites
            .iter()
            .filter_map(|site| site.access_log.as_ref());
        std::iter::once(&self.log.access).chain(of_sites)
    }
}
