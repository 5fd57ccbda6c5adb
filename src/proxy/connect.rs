//! Connections to upstreams: how a peer is described to pingora, and how its socket is opened.
//!
//! Pingora keeps idle upstream connections by the peer's group key, which is the pool's
//! id here, and what TLS to it is made of: a drained generation shares no connection with the next
//! one. The socket is
//! opened by [`Registry`], so every connection of a pool can be ended with the pool.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::SocketAddr as InetAddr;
use std::os::fd::RawFd;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{Digest, GetProxyDigest, UniqueID};
use pingora::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

use super::upgrade::{Turn, Upgrades};
use crate::config::Timeouts;
use crate::model::Scheme;
use crate::pool::{OpenConnection, Pool, Registry, Target, Upstream};
use crate::tls::Upstreams;

/// gRPC calls that an upstream may be asked for at a time on one HTTP/2 connection.
const SHARED_BY_CALLS: usize = 100;

/// What a request needs of the time between two reads of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// An ordinary exchange.
    Exchange,
    /// A gRPC call, silent for as long as it likes within reason.
    Call,
    /// An event stream that was asked for, as silent.
    Events,
    /// An upgrade, as silent.
    Upgrade,
}

/// The peer for one attempt.
///
/// # Errors
/// A unix path that is too long for a socket address.
pub(super) fn peer(
    pool: &Pool,
    service_tls: &Upstreams,
    upstream: &Upstream,
    timeouts: &Timeouts,
    pace: Pace,
    announcement: Option<Vec<u8>>,
) -> Result<Box<HttpPeer>> {
    let configured = upstream.configured();
    let tls = configured.scheme() == Scheme::Https;
    let name = if tls { configured.tls_name() } else { None };
    let name = name.unwrap_or_default();
    let mut peer = match upstream.target() {
        // A socket address, never a name: a name would be looked up here and block.
        Target::Socket(addr) => HttpPeer::new(*addr, tls, name),
        Target::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), tls, name)?,
    };
    peer.group_key = pool.id();
    let settings = pool.slot().settings();
    let own = &settings.timeouts;
    let options = &mut peer.options;
    let one_try = settings.retry.per_try_timeout.unwrap_or(Duration::MAX);
    let connect = own.connect(timeouts).min(one_try);
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.read_timeout = Some(match pace {
        Pace::Exchange => own.read(timeouts),
        Pace::Call | Pace::Events | Pace::Upgrade => own.stream(timeouts),
    });
    options.write_timeout = Some(own.write(timeouts));
    options.idle_timeout = Some(own.idle(timeouts));
    // One of many streams on a connection cannot be ended without a word from the upstream, and any
    // answer may turn out to be an event stream, whatever was accepted. Only that of a call may not.
    options.max_h2_streams = match pace {
        Pace::Call => SHARED_BY_CALLS,
        Pace::Exchange | Pace::Events | Pace::Upgrade => 1,
    };
    // There is no `Upgrade` in HTTP/2.
    let upgrades = matches!(pace, Pace::Upgrade) && configured.scheme() != Scheme::H2c;
    match configured.scheme() {
        Scheme::H2c => options.set_http_version(2, 2),
        Scheme::Https if !upgrades => options.set_http_version(2, 1),
        Scheme::Http | Scheme::Https => options.set_http_version(1, 1),
    }
    options.custom_l4 = Some(Arc::clone(pool.connections()) as _);
    if tls && let Some(tls) = service_tls.of(pool.slot().service()) {
        tls.apply(&mut peer);
        peer.group_key = key_of([pool.id(), tls.id()]);
    }
    if !settings.keep_alive {
        peer.group_key = key_of([peer.group_key, ALONE.fetch_add(1, Ordering::Relaxed)]);
        peer.options.idle_timeout = Some(Duration::ZERO);
    }
    let first = announcement.unwrap_or_default();
    if !first.is_empty() {
        peer.group_key = key_of((peer.group_key, &first));
        let idle = &mut peer.options.idle_timeout;
        *idle = idle.map(|idle| idle.min(ANNOUNCED_IDLE));
    }
    if upgrades {
        Upgrades::of(pool, first).take_over(&mut peer);
    } else if !first.is_empty() {
        let connections = Arc::clone(pool.connections());
        peer.options.custom_l4 = Some(Arc::new(Announcing { connections, first }));
    }
    Ok(Box::new(peer))
}

/// Whether other requests may be on the peer's connection.
pub(super) fn is_shared(peer: &HttpPeer) -> bool {
    let options = &peer.options;
    options.alpn.get_max_http_version() == 2 && options.max_h2_streams > 1
}

/// How long a connection is kept that was announced for one client, whom nobody else may follow.
const ANNOUNCED_IDLE: Duration = Duration::from_secs(5);

/// For connections that nobody else may use.
static ALONE: AtomicU64 = AtomicU64::new(0);

/// One key for connections that have all of `parts` in common.
fn key_of(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

#[async_trait]
impl Connect for Registry {
    /// Opens a connection and enters it. The time is bounded by the peer's connection timeout,
    /// which pingora holds around this call.
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        open(self, addr, &[]).await
    }
}

/// Opens connections that begin with bytes of their own.
#[derive(Debug)]
struct Announcing {
    connections: Arc<Registry>,
    first: Vec<u8>,
}

#[async_trait]
impl Connect for Announcing {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        open(&self.connections, addr, &self.first).await
    }
}

async fn open(registry: &Registry, addr: &SocketAddr, first: &[u8]) -> Result<Stream> {
    let mut stream = match addr {
        SocketAddr::Inet(addr) => Stream::from(tcp(addr, first).await?),
        SocketAddr::Unix(addr) => Stream::from(unix(addr, first).await?),
    };
    let fd = stream.id();
    enter(registry, &mut stream, fd, None)?;
    Ok(stream)
}

/// Connects, and writes `first` before anything else.
pub(super) async fn tcp(addr: &InetAddr, first: &[u8]) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(addr).await.map_err(failed)?;
    socket.write_all(first).await.map_err(failed)?;
    socket
        .set_nodelay(true)
        .or_err(ErrorType::SocketError, "setting TCP_NODELAY")?;
    Ok(socket)
}

/// As [`tcp`].
pub(super) async fn unix(addr: &UnixAddr, first: &[u8]) -> Result<UnixStream> {
    let path = addr
        .as_pathname()
        .ok_or_else(|| Error::explain(ErrorType::ConnectError, "a unix socket without a path"))?;
    let mut socket = UnixStream::connect(path).await.map_err(failed)?;
    socket.write_all(first).await.map_err(failed)?;
    Ok(socket)
}

/// What is known of a connection that was opened here.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: OpenConnection,
    /// Of an upgrade.
    pub(super) turn: Option<Arc<Turn>>,
}

impl Opened {
    /// By what pingora tells of a connection. Its descriptor would not do: that of an HTTP/2
    /// connection may be another one's by now.
    pub(super) fn of(digest: Option<&Digest>) -> Option<&Self> {
        let opened = digest?.proxy_digest.as_ref()?;
        opened.user_data.as_ref()?.downcast_ref()
    }
}

/// Lists an open connection for as long as it is open.
pub(super) fn enter(
    registry: &Registry,
    stream: &mut Stream,
    fd: RawFd,
    turn: Option<Arc<Turn>>,
) -> Result<()> {
    let Some(connection) = registry.opened(fd) else {
        return Error::e_explain(ErrorType::ConnectError, "the pool is retired");
    };
    // Dropped by the stream before its descriptor is closed.
    stream.tracer = Some(Tracer(Box::new(Entry(connection.clone()))));
    // Meant for proxies on the way, which answer with a head; there is none.
    let placeholder = Box::new(ResponseHeader::build(200, Some(0))?);
    let opened = Box::new(Opened { connection, turn });
    stream.set_proxy_digest(ProxyDigest::new(placeholder, Some(opened)));
    Ok(())
}

fn failed(error: std::io::Error) -> Box<Error> {
    use std::io::ErrorKind as Kind;
    let kind = match error.kind() {
        Kind::ConnectionRefused | Kind::NotFound => ErrorType::ConnectRefused,
        Kind::TimedOut => ErrorType::ConnectTimedout,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable => {
            ErrorType::ConnectNoRoute
        }
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting to an upstream", error)
}

/// A connection's entry in its pool's registry.
#[derive(Clone, Debug)]
struct Entry(OpenConnection);

impl Tracing for Entry {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        self.0.closing();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}
