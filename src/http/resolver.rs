//! Names of upstreams to addresses, with the time they are good for.
//!
//! In the order of a usual `nsswitch.conf`: `localhost` (RFC 6761 §6.3), the hosts file, DNS as
//! `resolv.conf` says. Both files are looked at on every lookup, so an edit needs no restart.
//! DNS is spoken by this process itself: a static binary has no `getaddrinfo` to load modules
//! with, and only DNS tells the TTL.
//!
//! Nothing is cached here. Whoever asks keeps the answer for [`Resolved::ttl`] and may ask
//! earlier, for instance when an address stopped answering.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;

/// All addresses behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// IPv4 before IPv6, ascending, without doubles; never empty.
    pub addrs: Vec<IpAddr>,
    /// How long they are good for: the smallest TTL, at least 1 s, at most 30 s.
    pub ttl: Duration,
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The DNS says that it does not exist.
    #[error("no such name")]
    NoSuchName,
    /// It exists, but not as an address.
    #[error("the name has no address")]
    NoAddress,
    /// Nobody answered in time.
    #[error("no answer from the DNS server")]
    NoAnswer,
    /// A DNS server answered that it can't.
    #[error("the DNS server could not answer")]
    ServerFailed,
    /// `resolv.conf` names no server, or there is none.
    #[error("no DNS server is configured")]
    NoServer,
    /// Not a name at all.
    #[error("not a valid name")]
    Invalid,
}

/// Looks names up. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Resolver {
    hosts: Option<PathBuf>,
    servers: Servers,
}

#[derive(Debug)]
enum Servers {
    Fixed(TokioResolver),
    /// Read again when the file's time of change is another one.
    File {
        path: PathBuf,
        read: Mutex<Option<(SystemTime, Option<TokioResolver>)>>,
    },
}

impl Resolver {
    /// As the system is configured: `/etc/hosts` and `/etc/resolv.conf`.
    #[must_use]
    pub fn system() -> Self {
        Self::with_files("/etc/hosts".into(), "/etc/resolv.conf".into())
    }

    /// Asks these servers only, without a hosts file.
    ///
    /// # Errors
    /// [`LookupError::NoServer`] when `servers` is empty.
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, LookupError> {
        let servers: Vec<_> = servers.iter().map(server).collect();
        if servers.is_empty() {
            return Err(LookupError::NoServer);
        }
        let config = ResolverConfig::from_name_servers(servers);
        let dns = build(config, ResolverOpts::default()).ok_or(LookupError::NoServer)?;
        Ok(Self {
            hosts: None,
            servers: Servers::Fixed(dns),
        })
    }

    fn with_files(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self {
            hosts: Some(hosts),
            servers: Servers::File {
                path: resolv_conf,
                read: Mutex::new(None),
            },
        }
    }

    /// Every address of `host`, IPv4 and IPv6. A server that answers for one family only within
    /// the deadline (5 s) is enough.
    ///
    /// # Errors
    /// See [`LookupError`]. Cancel-safe.
    pub async fn lookup(&self, host: &str) -> Result<Resolved, LookupError> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(resolved([ip], TTL_MAX));
        }
        if host == "localhost" || host.ends_with(".localhost") {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(resolved(loopback, TTL_MAX));
        }
        if let Some(path) = &self.hosts {
            let known = from_hosts_file(path, &host).await;
            if !known.is_empty() {
                return Ok(resolved(known, HOSTS_TTL));
            }
        }
        let dns = self.dns().await.ok_or(LookupError::NoServer)?;
        let patiently = |lookup| async {
            tokio::time::timeout(PATIENCE, lookup)
                .await
                .unwrap_or(Err(NetError::Timeout))
        };
        let (v4, v6) = tokio::join!(
            patiently(dns.lookup(host.as_str(), RecordType::A)),
            patiently(dns.lookup(host.as_str(), RecordType::AAAA))
        );
        merge(v4, v6)
    }

    /// The client of the servers that are configured now; `None` without one.
    pub(super) async fn dns(&self) -> Option<TokioResolver> {
        let (path, read) = match &self.servers {
            Servers::Fixed(dns) => return Some(dns.clone()),
            Servers::File { path, read } => (path, read),
        };
        let changed = tokio::fs::metadata(path).await.ok()?.modified().ok()?;
        if let Some((seen, dns)) = &*lock(read)
            && *seen == changed
        {
            return dns.clone();
        }
        let text = tokio::fs::read(path).await.ok()?;
        let dns = match parse_resolv_conf(text) {
            Ok((config, options)) => build(config, options),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "no DNS server to ask");
                None
            }
        };
        *lock(read) = Some((changed, dns.clone()));
        dns
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A value is stored whole or not at all, so a poisoned one is still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.timeout = options.timeout.min(QUERY_TIMEOUT);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .ok()
}

fn server(addr: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = addr.port();
        connection
    });
    NameServerConfig::new(addr.ip(), true, connections.into())
}

fn merge(
    v4: Result<Lookup, NetError>,
    v6: Result<Lookup, NetError>,
) -> Result<Resolved, LookupError> {
    let mut addrs = Vec::new();
    let mut ttl = TTL_MAX;
    for record in [&v4, &v6].into_iter().flatten().flat_map(|l| l.answers()) {
        ttl = ttl.min(Duration::from_secs(record.ttl.into()));
        addrs.extend(record.data.ip_addr());
    }
    if !addrs.is_empty() {
        return Ok(resolved(addrs, ttl));
    }
    // The family that failed may have had addresses, so its failure is the answer.
    let errors = [v4.err(), v6.err()].map(|error| error.map(|error| reason(&error)));
    let told = errors
        .into_iter()
        .flatten()
        .max_by_key(|error| match error {
            LookupError::NoAddress => 0,
            LookupError::NoSuchName => 1,
            _ => 2,
        });
    Err(told.unwrap_or(LookupError::NoAddress))
}

/// What a failed lookup means. A record type other than addresses makes `NoAddress` mean "none".
pub(super) fn reason(error: &NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => LookupError::NoSuchName,
            ResponseCode::NoError => LookupError::NoAddress,
            _ => LookupError::ServerFailed,
        },
        NetError::Dns(_) => LookupError::ServerFailed,
        NetError::Proto(_) => LookupError::Invalid,
        _ => LookupError::NoAnswer,
    }
}

fn resolved(addrs: impl Into<Vec<IpAddr>>, ttl: Duration) -> Resolved {
    let mut addrs = addrs.into();
    addrs.sort_unstable();
    addrs.dedup();
    Resolved {
        addrs,
        ttl: ttl.clamp(TTL_MIN, TTL_MAX),
    }
}

/// Addresses of `host` in a hosts file (hosts(5)): an address, then its names, `#` to the end
/// of the line is a comment.
async fn from_hosts_file(path: &Path, host: &str) -> Vec<IpAddr> {
    let Ok(text) = tokio::fs::read(path).await else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&text);
    let mut addrs = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        if words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)) {
            addrs.push(ip);
        }
    }
    addrs
}

const TTL_MIN: Duration = Duration::from_secs(1);

/// A longer TTL would outlive a container that was started anew under the same name.
const TTL_MAX: Duration = Duration::from_secs(30);

/// A hosts file has no TTL; it is cheap to read again.
const HOSTS_TTL: Duration = Duration::from_secs(5);

/// One query to one server, before it is repeated.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The whole lookup.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
