//! One application with its two slots: upstreams, probes, ejection, switch.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;

use super::{Kind, Retry, Rollback, ServiceTimeouts, Sticky, UpstreamTls};
use crate::model::{Color, Release, ServiceName, StackName, UpstreamAddr, proxy_protocol};

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
    /// What it is for a deploy.
    pub kind: Kind,
    /// How long its containers have between SIGTERM and SIGKILL; `None`: as they say themselves,
    /// else 10 s.
    pub stop_grace: Option<Duration>,
    /// How one upstream of a pool is chosen.
    pub balance: Balance,
    /// The cookie of [`Balance::Cookie`].
    pub sticky: Sticky,
    /// Whether connections to upstreams carry more than one request. Default true.
    pub keep_alive: bool,
    /// TLS to `https://` upstreams.
    pub tls: UpstreamTls,
    /// Said to upstreams at the start of a connection. Default nothing.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Further attempts.
    pub retry: Retry,
    /// What differs from the timeouts of all services.
    pub timeouts: ServiceTimeouts,
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
    /// One without upstreams, everything else as it is by default.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: ServiceName::from(name),
            stack: StackName::from("default"),
            live: None,
            slots: [None, None],
            docker: None,
            kind: Kind::default(),
            stop_grace: None,
            balance: Balance::default(),
            sticky: Sticky::default(),
            keep_alive: true,
            tls: UpstreamTls::default(),
            proxy_protocol: None,
            retry: Retry::default(),
            timeouts: ServiceTimeouts::default(),
            health: Health::default(),
            eject: Eject::default(),
            switch: Switch::default(),
            rollback: Rollback::default(),
        }
    }

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
    /// Its Compose project, without a color at its end; `None`: the proxy's own if that has such a
    /// service, else the first that is found.
    pub project: Option<String>,
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
    /// The first one in the order of the file that is available: the others wait for its failure.
    First,
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

impl Default for Health {
    /// Without a `health` table: a TCP connection.
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            max_latency: None,
        }
    }
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

impl Default for Eject {
    fn default() -> Self {
        Self {
            connect_failures: 3,
            server_errors: 10,
            base: Duration::from_secs(5),
            max: Duration::from_secs(60),
        }
    }
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

impl Default for Switch {
    fn default() -> Self {
        Self {
            ready_timeout: Duration::from_secs(300),
            drain: Duration::from_secs(30),
            websocket_drain: Duration::from_secs(30),
            sse_drain: Duration::from_secs(30),
            observe: Duration::from_secs(300),
            observe_requests: 5_000,
            observe_max: Duration::from_secs(1800),
        }
    }
}
