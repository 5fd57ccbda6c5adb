//! The configuration, validated: types that cannot be wrong, so nothing checks again later.
//!
//! [`load()`] reads one TOML file and returns a [`Config`] or every error of the file at once. Runtime state never lives here: which color is live, what is
//! healthy and what was switched belong to `pool`, `health` and `switch`.

mod diagnostic;
mod load;
mod parse;
mod render;
mod service;
mod site;
mod tree;
mod value;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use load::{Found, find, known_keys, load, load_str, load_with};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;

use crate::model::{
    Color, HostPattern, PathPattern, Release, ServiceName, StackName, UpstreamAddr,
};

/// A whole configuration. Every reference inside resolves: a [`ServiceIndex`] is in range,
/// hosts are unique, no pool is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder for the live colors, the journal, certificates. Default `/data/cutover`.
    pub state_dir: PathBuf,
    /// How long a stop waits for requests in flight. Default 30 s.
    pub shutdown_grace: Duration,
    /// Sockets and who may use them.
    pub listen: Listen,
    /// Deadlines on the client's side and for upstreams.
    pub timeouts: Timeouts,
    /// Bounds against abuse.
    pub limits: Limits,
    /// Access log and redaction.
    pub log: Log,
    /// ACME account settings.
    pub acme: Acme,
    /// Docker discovery; `None` without a `[docker]` table.
    pub docker: Option<Docker>,
    /// Where events go.
    pub notify: Vec<Notify>,
    /// Sites in the order of the file.
    pub sites: Vec<Site>,
    /// Services in the order of their names.
    pub services: Vec<Service>,
    /// What parsed but does nothing in this version; said at start, one line each.
    pub inactive: Vec<Inactive>,
    /// What is allowed but deserves a word, such as a secret file that others can read.
    pub warnings: Vec<Diagnostic>,
}

/// Position of a service in [`Config::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(pub usize);

/// A key whose feature is not part of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// Path of the key, such as `acme.email`.
    pub key: String,
    /// What will not happen, such as `certificates are not ordered yet`.
    pub effect: &'static str,
}

/// `[listen]`. Changing it needs a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Plain HTTP. Default `0.0.0.0:80` and `[::]:80`. May be empty.
    pub http: Vec<SocketAddr>,
    /// HTTPS. Default `0.0.0.0:443` and `[::]:443`. May be empty.
    pub https: Vec<SocketAddr>,
    /// Metrics and health of the daemon. Default `0.0.0.0:9180`.
    pub ops: SocketAddr,
    /// Who may ask `ops`; others get 403.
    pub ops_allow: IpSet,
    /// The admin socket. Default `/run/cutover/admin.sock`.
    pub admin: PathBuf,
    /// Peers whose forwarding headers are believed. Default none.
    pub trusted_proxies: IpSet,
}

/// A set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet(pub Vec<IpNet>);

impl IpSet {
    /// Whether `ip` is inside; an IPv4-mapped IPv6 address counts as the IPv4 one.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Whether nothing is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `[timeouts]`. None is infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Whole TLS handshake. Default 10 s.
    pub tls_handshake: Duration,
    /// Whole request head, from its first byte. Default 10 s.
    pub request_head: Duration,
    /// Between two reads of a request body. Default 60 s.
    pub request_body: Duration,
    /// Idle keep-alive connection of a client. Default 75 s.
    pub keep_alive: Duration,
    /// Between two writes to a client that does not read. Default 60 s.
    pub client_write: Duration,
    /// TCP (and TLS) connection to an upstream. Default 5 s.
    pub connect: Duration,
    /// Until the upstream's first byte, and between two reads of its body. Default 60 s.
    pub upstream_read: Duration,
    /// Between two writes to an upstream that does not read. Default 60 s.
    pub upstream_write: Duration,
    /// Idle connection kept to an upstream. Default 50 s.
    pub upstream_idle: Duration,
    /// Silence of an upgraded connection or event stream before it is closed. Default 1 h.
    pub stream_idle: Duration,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers together, in bytes. Default 64 KiB; above: 431.
    pub request_head_bytes: usize,
    /// Request target, in bytes. Default 16 KiB; above: 414.
    pub request_target_bytes: usize,
    /// Client connections at a time. Default 20,000; above: closed at accept.
    pub connections: usize,
    /// Idle connections kept to upstreams in all. Default 512.
    pub upstream_keep_alive: usize,
    /// Attempts for one request, the first included. Default 3.
    pub attempts: usize,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Whether and how requests are logged.
    pub access: AccessLog,
    /// Names of query parameters whose value is not logged, lower case.
    pub redact_query: Vec<String>,
    /// Header names whose value is not logged.
    pub redact_headers: Vec<HeaderName>,
}

/// `[log.access]`: one JSON line a request.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Default true.
    pub enabled: bool,
    /// Share of requests logged, 0–1. Default 1. Errors (5xx) are always logged.
    pub sample: f64,
    /// Default stdout.
    pub file: Option<PathBuf>,
}

/// `[acme]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// Contact of the account.
    pub email: Option<String>,
    /// Directory URL. Default Let's Encrypt production.
    pub directory: String,
    /// CA of a private ACME server.
    pub ca_file: Option<PathBuf>,
    /// Resolvers for pre-flight checks; empty: the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// `[docker]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// Default true.
    pub enabled: bool,
    /// Default the unix socket `/var/run/docker.sock`.
    pub socket: DockerSocket,
    /// Network whose addresses are used; `None`: the one shared with the proxy.
    pub network: Option<String>,
}

/// How the Docker engine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerSocket {
    /// A unix socket.
    Unix(PathBuf),
    /// `tcp://host:port`, for a socket proxy.
    Tcp(String),
}

/// `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Format of the message.
    pub kind: NotifyKind,
    /// Where it goes. A secret: masked wherever it is shown.
    pub url: Secret,
    /// Key of the HMAC over the body.
    pub secret: Option<Secret>,
}

/// Format of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyKind {
    /// Generic JSON.
    Json,
    /// Slack's incoming webhook.
    Slack,
    /// Discord's webhook.
    Discord,
}

/// A text that never shows itself: `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; only for the wire.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `[[site]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Names it answers to; at least one unless `default`.
    pub hosts: Vec<HostPattern>,
    /// Takes hosts that no other site names. At most one site.
    pub default: bool,
    /// Where certificates come from.
    pub tls: Tls,
    /// Whether plain HTTP is redirected to https when the site has TLS. Default true.
    pub redirect: bool,
    /// Routes in the order of the file.
    pub routes: Vec<Route>,
    /// What no route takes; `None`: 404.
    pub service: Option<ServiceIndex>,
}

/// `tls` of a site, with `auto` already resolved for names that no public CA certifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Ordered by ACME.
    Auto,
    /// From the local CA.
    Internal,
    /// Plain HTTP only.
    Off,
    /// From files.
    Files {
        /// PEM chain, leaf first.
        cert: PathBuf,
        /// PEM private key.
        key: PathBuf,
    },
}

/// `[[site.route]]`. All given conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Path; `None`: any.
    pub path: Option<PathPattern>,
    /// Methods; empty: any.
    pub methods: Vec<Method>,
    /// Headers that must be there.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters that must be there (names and values percent-decoded).
    pub query: Vec<(String, ValueMatch)>,
    /// Client addresses; empty: any.
    pub client_ip: IpSet,
    /// Where the request goes.
    pub service: ServiceIndex,
}

impl Route {
    /// Number of conditions beside the path, for "the most specific wins".
    #[must_use]
    pub fn conditions(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + usize::from(!self.client_ip.is_empty())
    }
}

/// What a header or query value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// `"*"`: present with any value.
    Present,
    /// Exactly this text.
    Exact(String),
    /// `"abc*"`: starts with.
    Prefix(String),
}

impl ValueMatch {
    /// Whether `value` is what is asked for.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
        }
    }
}

/// `[service.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The table's name.
    pub name: ServiceName,
    /// Services of one stack switch together; `default` when unset.
    pub stack: StackName,
    /// `live = "..."`: only used when no journal says which color is live.
    pub live: Option<Color>,
    /// Upstreams by [`Color::index`]; `None`: the slot is empty.
    pub slots: [Option<Slot>; 2],
    /// The Compose service whose containers fill the slots, instead of `slots`.
    pub docker: Option<DockerService>,
    /// How one upstream of a pool is chosen.
    pub balance: Balance,
    /// Active probes.
    pub health: Health,
    /// Passive ejection.
    pub eject: Eject,
    /// Gate, drain and observation of a switch.
    pub switch: Switch,
    /// Automatic rollback.
    pub rollback: Rollback,
}

impl Service {
    /// Whether both slots have upstreams, so that it can be switched.
    #[must_use]
    pub fn is_switchable(&self) -> bool {
        self.slots.iter().all(Option::is_some)
    }

    /// The live color when no journal knows better: the configured one, else blue, else the
    /// only slot with upstreams.
    #[must_use]
    pub fn first_live(&self) -> Color {
        let filled = |color: &Color| self.slots[color.index()].is_some();
        self.live
            .filter(filled)
            .or_else(|| Color::ALL.into_iter().find(filled))
            .unwrap_or(Color::Blue)
    }
}

/// The upstreams of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// At least one, without doubles.
    pub upstreams: Vec<UpstreamAddr>,
    /// Label of what runs there, if the file says.
    pub release: Option<Release>,
}

/// `docker = { service = "...", port = N }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerService {
    /// Name of the Compose service.
    pub service: String,
    /// Container port; `None`: the only exposed one.
    pub port: Option<u16>,
}

/// `balance`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of two random upstreams (power of two choices, Mitzenmacher 2001).
    #[default]
    LeastConn,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// By the client's address, rendezvous hashing.
    IpHash,
    /// By the value of a header, rendezvous hashing; without it by chance.
    Header(HeaderName),
    /// By a cookie that the proxy sets.
    Cookie,
}

/// `[service.X.health]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Between two probes. Default 3 s.
    pub interval: Duration,
    /// For one probe. Default 2 s.
    pub timeout: Duration,
    /// Passes in a row until healthy. Default 2.
    pub rise: u32,
    /// Failures in a row until unhealthy. Default 3.
    pub fall: u32,
    /// Slower than this does not pass the switch gate. Default none.
    pub max_latency: Option<Duration>,
}

/// What an active probe asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A TCP connection. The default without a `health` table.
    Tcp,
    /// `GET path`.
    Http {
        /// Default `/healthz`.
        path: String,
        /// `Host` header; default the upstream's own name.
        host: Option<String>,
        /// Accepted status codes, inclusive. Default 200–299.
        status: (u16, u16),
        /// Fields that the JSON body must have.
        json: BTreeMap<String, serde_json::Value>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Service name asked for; empty: the server as a whole.
        service: String,
    },
}

/// `[service.X.eject]`: passive health, from real traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eject {
    /// Connect failures in a row. Default 3; 0: off.
    pub connect_failures: u32,
    /// Answers 500–599 in a row. Default 10; 0: off.
    pub server_errors: u32,
    /// First ejection; doubles each time. Default 5 s.
    pub base: Duration,
    /// Longest ejection. Default 60 s.
    pub max: Duration,
}

/// `[service.X.switch]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// How long a switch waits for the target to become healthy. Default 300 s.
    pub ready_timeout: Duration,
    /// For requests of the old slot. Default 30 s.
    pub drain: Duration,
    /// For WebSockets of the old slot. Default 30 s.
    pub websocket_drain: Duration,
    /// For event streams of the old slot. Default 30 s.
    pub sse_drain: Duration,
    /// Shortest watch after a cutover. Default 5 min; zero: drain at once.
    pub observe: Duration,
    /// Extended until this many requests were seen. Default 5,000.
    pub observe_requests: u64,
    /// But no longer than this. Default 30 min.
    pub observe_max: Duration,
}

/// `[service.X.rollback]` merged over `[rollback]`. The tables of the evaluator are kept as
/// numbers for the verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollback {
    /// Default enforce.
    pub mode: RollbackMode,
    /// Default true.
    pub rescue: bool,
    /// Default false; true: a rollback would do harm, so it only pages.
    pub r#unsafe: bool,
    /// Probability of one false rollback per release. Default 1e-4.
    pub alpha: f64,
    /// `[rollback.baseline]`.
    pub baseline: RollbackBaseline,
    /// `[rollback.errors]`.
    pub errors: RollbackErrors,
    /// `[rollback.fast]`.
    pub fast: RollbackFast,
    /// `[rollback.latency]`.
    pub latency: RollbackLatency,
    /// `[rollback.gate]`.
    pub gate: RollbackGate,
    /// `[rollback.after]`.
    pub after: RollbackAfter,
}

/// `mode` of the rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackMode {
    /// Decide and act.
    Enforce,
    /// Decide and report.
    Observe,
    /// Neither.
    Off,
}

/// Baseline before the cutover.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackBaseline {
    /// Default 10 min.
    pub min_window: Duration,
    /// Default 100,000.
    pub min_requests: u64,
    /// Default 24 h.
    pub max_window: Duration,
    /// Tolerated error rate without any baseline. Default 10 %.
    pub no_baseline_limit: f64,
}

/// Slow path.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackErrors {
    /// Default 1.5.
    pub ratio: f64,
    /// Default 0.5 %.
    pub floor: f64,
    /// Default 5.
    pub min_errors: u64,
    /// Default 5.
    pub min_bad_seconds: u32,
    /// Default 15 s.
    pub restart_every: Duration,
    /// Default 8.
    pub alternatives: u32,
}

/// Fast path.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackFast {
    /// Default 0.9.
    pub q: f64,
    /// Default 1 s.
    pub min_span: Duration,
}

/// Latency test.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackLatency {
    /// Default 1.5.
    pub factor: f64,
    /// Default 0.90 and 0.99.
    pub quantiles: Vec<f64>,
    /// Default 1.5.
    pub ratio: f64,
    /// One per quantile. Default 2 % and 0.5 %.
    pub floor: Vec<f64>,
    /// Default 30 s.
    pub warmup: Duration,
}

/// Attribution gate.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackGate {
    /// Methods that may be rescued. Default GET and HEAD.
    pub methods: Vec<Method>,
    /// Default 3.0.
    pub clear: f64,
    /// Default 4.0.
    pub block: f64,
    /// Default 10 s and 30 s.
    pub wait: [Duration; 2],
}

/// What happens after the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackAfter {
    /// Default hold.
    pub on_shared: AfterAction,
    /// Default rollback.
    pub on_ambiguous: AfterAction,
    /// Default hold.
    pub on_old_dead: AfterAction,
    /// Default commit.
    pub on_no_traffic: AfterAction,
    /// Default true.
    pub quarantine: bool,
    /// Default 10 min.
    pub cooldown: Duration,
}

/// What to do when the evidence alone does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAction {
    /// Keep both slots and page.
    Hold,
    /// Go back.
    Rollback,
    /// Keep the new release.
    Commit,
}
