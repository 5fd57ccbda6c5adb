//! Which requests lead where: sites and their routes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::step::{Action, Matcher, Step};
use super::{AccessLog, IpSet, ServiceIndex};
use crate::model::{HostPattern, PathPattern};

/// `[[site]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Names it answers to; at least one unless `default`.
    pub hosts: Vec<HostPattern>,
    /// Takes hosts that no other site names. At most one site for each port.
    pub default: bool,
    /// Only requests that come in on this port; `None`: on any that no other site of the same host
    /// has for itself.
    pub port: Option<u16>,
    /// Where certificates come from.
    pub tls: Tls,
    /// Lowest TLS version that clients may speak. Default 1.2.
    pub min_version: TlsVersion,
    /// Certificates that clients show; `None`: they are not asked.
    pub client_auth: Option<ClientAuth>,
    /// What browsers are told to remember; `None`: nothing.
    pub hsts: Option<Hsts>,
    /// Whether plain HTTP is redirected to https when the site has TLS. Default true.
    pub redirect: bool,
    /// The log of its requests; `None`: that of `[log.access]`.
    pub access_log: Option<Arc<AccessLog>>,
    /// What is done with every request before a route is looked for.
    pub steps: Vec<Step>,
    /// What answers errors of the steps, of files and of the proxy itself; empty: the built-in page.
    pub errors: Vec<Step>,
    /// Routes in the order of the file.
    pub routes: Vec<Route>,
    /// What no route takes and no step answers; `None`: 404.
    pub service: Option<ServiceIndex>,
}

impl Site {
    /// Whether a condition of a step or route looks at the method of requests.
    #[must_use]
    pub fn looks_at_methods(&self) -> bool {
        let in_routes = self.routes.iter().map(|route| &route.steps);
        self.routes.iter().any(|route| !route.methods.is_empty())
            || in_routes.chain([&self.steps]).any(|steps| in_steps(steps))
    }
}

fn in_steps(steps: &[Step]) -> bool {
    steps.iter().any(|step| {
        let nested = match &step.action {
            Action::Steps(nested) => in_steps(nested),
            _ => false,
        };
        nested || step.when.as_ref().is_some_and(in_matcher)
    })
}

fn in_matcher(matcher: &Matcher) -> bool {
    let mut sets = matcher.0.iter();
    sets.any(|set| !set.method.is_empty() || set.not.iter().any(in_matcher))
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

/// A version of TLS, older ones first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// `hsts = { max_age, subdomains, preload }` of a site (RFC 6797 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// How long browsers come over TLS alone, and are not let past a bad certificate. Zero
    /// makes them forget.
    pub max_age: Duration,
    /// Whether that holds for every name below as well.
    pub subdomains: bool,
    /// Consents to the lists that browsers are built with.
    pub preload: bool,
}

impl std::fmt::Display for Hsts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max-age={}", self.max_age.as_secs())?;
        if self.subdomains {
            f.write_str("; includeSubDomains")?;
        }
        if self.preload {
            f.write_str("; preload")?;
        }
        Ok(())
    }
}

/// `client_auth = { mode, ca }` of a site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientAuth {
    /// What happens to a client without a certificate.
    pub mode: ClientAuthMode,
    /// PEM file with the certificates of the CAs that sign clients' certificates.
    pub ca: PathBuf,
}

/// What happens to a client that shows no certificate. One that shows a certificate that does
/// not verify is refused either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAuthMode {
    /// Its handshake is refused.
    Require,
    /// It is served, and the upstream is told no subject.
    Optional,
}

/// `[[site.route]]`. All given conditions must hold.
#[derive(Clone, Debug, PartialEq)]
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
    /// What is done before that; a step may answer.
    pub steps: Vec<Step>,
    /// Where the request goes; `None`: a step answers, else 404.
    pub service: Option<ServiceIndex>,
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
