//! How a service's upstreams are reached.

use std::path::PathBuf;
use std::time::Duration;

use super::Timeouts;

/// `[service.X.tls]`: TLS to `https://` upstreams, of requests and of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file with the CAs that sign the upstreams' certificates; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files of the chain and the key that are shown to an upstream which asks for a
    /// certificate. Default none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that is asked for (SNI, RFC 6066 §3) and must be in the certificate; `None`: the
    /// host of the upstream.
    pub server_name: Option<String>,
    /// Takes every certificate. Default false.
    pub insecure_skip_verify: bool,
    /// What is offered by ALPN (RFC 7301). Default both, HTTP/2 first.
    pub alpn: Alpn,
}

/// Versions of HTTP that an `https://` upstream may choose from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`, else `http/1.1`.
    #[default]
    Any,
    /// `http/1.1` alone.
    Http1,
    /// `h2` alone.
    H2,
}

/// `[service.X.retry]`: what is tried again, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts for one request, the first included; `None`: `limits.attempts`.
    pub attempts: Option<usize>,
    /// How many attempts there may be beside the first ones.
    pub budget: RetryBudget,
    /// From the start of an attempt to its response head. Default none.
    pub per_try_timeout: Option<Duration>,
    /// What is worth another attempt.
    pub on: RetryOn,
    /// While no upstream is available or takes a connection, go on trying for so long after the
    /// request came. Default zero: not at all.
    pub try_duration: Duration,
    /// Between two of those tries. Default 250 ms.
    pub try_interval: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: None,
            budget: RetryBudget::default(),
            per_try_timeout: None,
            on: RetryOn::default(),
            try_duration: Duration::ZERO,
            try_interval: Duration::from_millis(250),
        }
    }
}

/// Further attempts of a slot: a share of its requests, and a few a second on top, so that
/// retries cannot multiply an outage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Of the requests, 0–1. Default 0.2.
    pub share: f64,
    /// A second, whatever the number of requests. Default 10.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            share: 0.2,
            per_second: 10,
        }
    }
}

/// What is worth another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection, or one that broke before any answer; the latter for GET and HEAD alone.
    /// Default true.
    pub connect: bool,
    /// `per_try_timeout` passed, for safe methods (RFC 9110 §9.2.1) without a body. Default true.
    pub timeout: bool,
    /// Answers, as inclusive ranges from 400 to 599, for the same requests. Default none.
    pub statuses: Vec<(u16, u16)>,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            connect: true,
            timeout: true,
            statuses: Vec::new(),
        }
    }
}

impl RetryOn {
    /// Whether an answer of this status is worth another attempt.
    #[must_use]
    pub fn status(&self, status: u16) -> bool {
        let mut ranges = self.statuses.iter();
        ranges.any(|(from, to)| (*from..=*to).contains(&status))
    }
}

/// `sticky = { ... }`: the cookie of `balance = "cookie"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sticky {
    /// Its name; `None`: [`Sticky::default_name`] of the service.
    pub cookie: Option<String>,
    /// How long browsers keep it; `None`: until they are closed.
    pub max_age: Option<Duration>,
    /// Whether it is for TLS alone; `None`: if the request came over TLS.
    pub secure: Option<bool>,
    /// When browsers send it from other sites. Default lax.
    pub same_site: SameSite,
}

impl Sticky {
    /// Two services of one host must not overwrite each other's: the service's own name, with
    /// what no cookie's name may have replaced.
    #[must_use]
    pub fn default_name(service: &str) -> String {
        let letter = |c: char| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' => c,
            _ => '_',
        };
        let name: String = service.chars().map(letter).collect();
        format!("cutover_{name}")
    }
}

/// `SameSite` of a cookie (RFC 6265bis §5.4.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameSite {
    /// With navigations alone.
    #[default]
    Lax,
    /// Never.
    Strict,
    /// Always; browsers want `Secure` with it.
    None,
}

/// `[service.X.timeouts]`: what differs from `[timeouts]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTimeouts {
    /// See [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// See [`Timeouts::upstream_read`].
    pub upstream_read: Option<Duration>,
    /// See [`Timeouts::upstream_write`].
    pub upstream_write: Option<Duration>,
    /// See [`Timeouts::upstream_idle`].
    pub upstream_idle: Option<Duration>,
    /// See [`Timeouts::stream_idle`].
    pub stream_idle: Option<Duration>,
}

impl ServiceTimeouts {
    /// TCP and TLS connection.
    #[must_use]
    pub fn connect(&self, all: &Timeouts) -> Duration {
        self.connect.unwrap_or(all.connect)
    }

    /// Between two reads.
    #[must_use]
    pub fn read(&self, all: &Timeouts) -> Duration {
        self.upstream_read.unwrap_or(all.upstream_read)
    }

    /// Between two writes.
    #[must_use]
    pub fn write(&self, all: &Timeouts) -> Duration {
        self.upstream_write.unwrap_or(all.upstream_write)
    }

    /// Of a connection that is kept.
    #[must_use]
    pub fn idle(&self, all: &Timeouts) -> Duration {
        self.upstream_idle.unwrap_or(all.upstream_idle)
    }

    /// Between two reads of a stream.
    #[must_use]
    pub fn stream(&self, all: &Timeouts) -> Duration {
        self.stream_idle.unwrap_or(all.stream_idle)
    }
}
