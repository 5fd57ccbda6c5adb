//! What holds for the whole daemon: sockets, deadlines, bounds, logs, accounts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use http::HeaderName;
use ipnet::IpNet;

use crate::model::PathPattern;

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
    /// Peers whose connections begin with a header of the PROXY protocol. Default none.
    pub proxy_protocol: IpSet,
}

impl Default for Listen {
    fn default() -> Self {
        let any = |port| {
            vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            ]
        };
        let v4 = |a, b, c, d, bits| IpNet::new_assert(Ipv4Addr::new(a, b, c, d).into(), bits);
        Self {
            http: any(80),
            https: any(443),
            ops: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9180)),
            ops_allow: IpSet(vec![
                v4(127, 0, 0, 0, 8),
                IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
                v4(10, 0, 0, 0, 8),
                v4(172, 16, 0, 0, 12),
                v4(192, 168, 0, 0, 16),
                IpNet::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 7),
            ]),
            admin: PathBuf::from("/run/cutover/admin.sock"),
            trusted_proxies: IpSet::default(),
            proxy_protocol: IpSet::default(),
        }
    }
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

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            request_body: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            client_write: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            upstream_read: Duration::from_secs(60),
            upstream_write: Duration::from_secs(60),
            upstream_idle: Duration::from_secs(50),
            stream_idle: Duration::from_secs(3600),
        }
    }
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
    /// Of those, how many one client may have: an IPv4 address or an IPv6 /64, trusted proxies
    /// apart. Default unlimited; above: closed at accept.
    pub connections_per_client: Option<usize>,
    /// Idle connections kept to upstreams in all. Default 512.
    pub upstream_keep_alive: usize,
    /// Attempts for one request, the first included. Default 3.
    pub attempts: usize,
    /// Requests of one service that may wait in a hold. Default 10,000; above: 503.
    pub held_requests: usize,
    /// Bytes of the heads of those requests. Default 64 MiB; above: 503.
    pub held_bytes: usize,
}

/// `[history]`: how much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Entries. Default 1,000.
    pub keep: usize,
    /// Their age. Default 90 days.
    pub age: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self {
            keep: 1_000,
            age: Duration::from_secs(90 * 86_400),
        }
    }
}

/// `[maintenance]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// Clients that are let in all the same. Default none.
    pub allow: IpSet,
    /// HTML file in place of the built-in page. Default none.
    pub page: Option<PathBuf>,
    /// Told in `Retry-After`. Default 60 s.
    pub retry_after: Duration,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            allow: IpSet::default(),
            page: None,
            retry_after: Duration::from_secs(60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_head_bytes: 64 * 1024,
            request_target_bytes: 16 * 1024,
            connections: 20_000,
            connections_per_client: None,
            upstream_keep_alive: 512,
            attempts: 3,
            held_requests: 10_000,
            held_bytes: 64 << 20,
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Whether and how requests are logged, but those of sites with a log of their own.
    pub access: Arc<AccessLog>,
    /// Names of query parameters whose value is not logged, lower case. `log.redact` adds to
    /// [`Log::ALWAYS_REDACTED`].
    pub redact_query: Vec<String>,
    /// Header names whose value is not logged; from the same list.
    pub redact_headers: Vec<HeaderName>,
}

impl Log {
    /// What is never logged, whatever `log.redact` says. Each name stands for a query
    /// parameter and for a header.
    pub const ALWAYS_REDACTED: [&'static str; 16] = [
        "access_token",
        "api_key",
        "authorization",
        "client_secret",
        "code",
        "cookie",
        "id_token",
        "password",
        "proxy-authorization",
        "refresh_token",
        "secret",
        "set-cookie",
        "sig",
        "signature",
        "token",
        "x-api-key",
    ];

    /// Adds a name to both lists, lower case; a text that no header can have as its name goes
    /// to the query parameters alone.
    pub(super) fn redact(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        if let Ok(header) = HeaderName::try_from(name.as_str())
            && !self.redact_headers.contains(&header)
        {
            self.redact_headers.push(header);
        }
        if !self.redact_query.contains(&name) {
            self.redact_query.push(name);
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        let mut log = Self {
            access: Arc::default(),
            redact_query: Vec::new(),
            redact_headers: Vec::new(),
        };
        for name in Self::ALWAYS_REDACTED {
            log.redact(name);
        }
        log
    }
}

/// `[log.access]`, and `[site.access_log]`: one line a request.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Default true.
    pub enabled: bool,
    /// Share of requests logged, 0–1. Default 1. Errors (5xx) are always logged.
    pub sample: f64,
    /// Default stdout.
    pub file: Option<PathBuf>,
    /// What a line looks like. Default ours.
    pub format: LogFormat,
    /// What is not logged. Default nothing.
    pub skip: LogSkip,
    /// When the file is put aside; `None`: never.
    pub rotate: Option<Rotate>,
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON with our fields.
    #[default]
    Cutover,
    /// Apache's `common`.
    Common,
    /// Apache's `combined`.
    Combined,
    /// JSON with Caddy's fields.
    Caddy,
}

impl LogFormat {
    /// As the configuration spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cutover => "cutover",
            Self::Common => "common",
            Self::Combined => "combined",
            Self::Caddy => "caddy",
        }
    }
}

/// Requests that are not logged, whatever else holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSkip {
    /// For one of these paths.
    pub paths: Vec<PathPattern>,
    /// Answered so: inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
}

impl LogSkip {
    /// Whether a request is not logged.
    #[must_use]
    pub fn takes(&self, path: &str, status: u16) -> bool {
        self.paths.iter().any(|pattern| pattern.matches(path))
            || (self.statuses.iter()).any(|(from, to)| (*from..=*to).contains(&status))
    }
}

/// `rotate = { ... }` of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// In bytes. Default 100 MB.
    pub size: u64,
    /// Or when it is so old. Default never.
    pub age: Option<Duration>,
    /// Old files that stay. Default 10.
    pub keep: usize,
    /// Whether those are compressed (RFC 1952). Default true.
    pub compress: bool,
}

impl Default for Rotate {
    fn default() -> Self {
        Self {
            size: 100_000_000,
            age: None,
            keep: 10,
            compress: true,
        }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            enabled: true,
            sample: 1.0,
            file: None,
            format: LogFormat::default(),
            skip: LogSkip::default(),
            rotate: None,
        }
    }
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
    /// Directory on which failed orders are tried first. Default: Let's Encrypt's, for its own.
    pub staging: Option<String>,
    /// External account binding of the directory.
    pub eab: Option<Eab>,
    /// Profile of certificates that is asked for.
    pub profile: Option<String>,
    /// Common name of the issuer at the top of the chain that is preferred.
    pub preferred_chain: Option<String>,
    /// The CA that is asked when the first one fails.
    pub fallback: Option<AcmeFallback>,
}

/// External account binding (RFC 8555 §7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eab {
    /// Key identifier that the CA gave.
    pub key_id: String,
    /// Its key, base64url.
    pub key: Secret,
}

/// `[acme.fallback]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeFallback {
    /// Directory URL. Default ZeroSSL.
    pub directory: String,
    /// External account binding; ZeroSSL needs one.
    pub eab: Option<Eab>,
}

impl AcmeFallback {
    /// Directory of ZeroSSL.
    pub const ZERO_SSL: &'static str = "https://acme.zerossl.com/v2/DV90";
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            email: None,
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            ca_file: None,
            resolvers: Vec::new(),
            staging: None,
            eab: None,
            profile: None,
            preferred_chain: None,
            fallback: None,
        }
    }
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

impl Default for Docker {
    fn default() -> Self {
        Self {
            enabled: true,
            socket: DockerSocket::Unix(PathBuf::from("/var/run/docker.sock")),
            network: None,
        }
    }
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
    /// Key of the signature of generic JSON; token of ntfy.
    pub secret: Option<Secret>,
    /// What is told. Default everything.
    pub events: Vec<NotifyEvent>,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyEvent {
    /// A color takes the requests.
    Switched,
    /// Something speaks against the new release, not enough yet.
    Suspicious,
    /// A rule of thumb holds for the new release.
    Alert,
    /// The new release is bad and going back would not help: a person must act.
    Held,
    /// The old color takes the requests again.
    RolledBack,
    /// The old color fails too, after a rollback.
    StillBad,
    /// A new release is kept.
    Committed,
    /// A switch was ended by a person.
    Aborted,
    /// A switch was refused.
    Refused,
    /// A start found something unfinished, or a disk works again.
    Recovered,
    /// A person held, froze, or closed something.
    Override,
    /// A certificate was issued or replaced.
    Certificate,
    /// A certificate could not be had, or its file cannot be used.
    CertificateError,
    /// A deploy ended without its release being live.
    DeployFailed,
    /// A job of a deploy or on a schedule failed.
    JobFailed,
    /// The configuration was read again.
    Config,
    /// The configuration has errors and was not taken over.
    ConfigError,
    /// `proxyctl notify test`
    Test,
}

impl NotifyEvent {
    /// All but the test, which is always sent.
    pub const ALL: [Self; 17] = [
        Self::Switched,
        Self::Suspicious,
        Self::Alert,
        Self::Held,
        Self::RolledBack,
        Self::StillBad,
        Self::Committed,
        Self::Aborted,
        Self::Refused,
        Self::Recovered,
        Self::Override,
        Self::Certificate,
        Self::CertificateError,
        Self::DeployFailed,
        Self::JobFailed,
        Self::Config,
        Self::ConfigError,
    ];

    /// As the configuration and the JSON spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Switched => "switched",
            Self::Suspicious => "suspicious",
            Self::Alert => "alert",
            Self::Held => "held",
            Self::RolledBack => "rolled_back",
            Self::StillBad => "still_bad",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
            Self::Recovered => "recovered",
            Self::Override => "override",
            Self::Certificate => "certificate",
            Self::CertificateError => "certificate_error",
            Self::DeployFailed => "deploy_failed",
            Self::JobFailed => "job_failed",
            Self::Config => "config",
            Self::ConfigError => "config_error",
            Self::Test => "test",
        }
    }
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
    /// A topic of ntfy.
    Ntfy,
}

impl NotifyKind {
    /// As the configuration spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Slack => "slack",
            Self::Discord => "discord",
            Self::Ntfy => "ntfy",
        }
    }
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
