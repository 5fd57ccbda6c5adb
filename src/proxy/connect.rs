//! Connections to upstreams: how a peer is described to pingora, and how its socket is opened.
//!
//! Pingora keeps idle upstream connections by the peer's group key, which is the pool's
//! id here: a drained generation shares no connection with the next one. The socket is
//! opened by [`Registry`], so every connection of a pool can be ended with the pool.

use std::net::SocketAddr as InetAddr;
use std::os::fd::RawFd;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::UniqueID;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::net::{TcpStream, UnixStream};

use super::upgrade::Upgrades;
use crate::config::Timeouts;
use crate::model::Scheme;
use crate::pool::{Pool, Registry, Target, Upstream};

/// Streams that an upstream may be asked for at a time on one HTTP/2 connection.
const H2_STREAMS: usize = 100;

/// What a request needs of the time between two reads of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// An ordinary exchange.
    Exchange,
    /// A gRPC call, silent for as long as it likes within reason.
    Call,
    /// An event stream, as silent. It shares its upstream connection with nobody, so that it can
    /// be ended without a word from the upstream.
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
    upstream: &Upstream,
    timeouts: &Timeouts,
    pace: Pace,
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
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = Some(match pace {
        Pace::Exchange => timeouts.upstream_read,
        Pace::Call | Pace::Events | Pace::Upgrade => timeouts.stream_idle,
    });
    options.write_timeout = Some(timeouts.upstream_write);
    options.idle_timeout = Some(timeouts.upstream_idle);
    options.max_h2_streams = match pace {
        Pace::Events => 1,
        Pace::Exchange | Pace::Call | Pace::Upgrade => H2_STREAMS,
    };
    options.custom_l4 = Some(Arc::clone(pool.connections()) as _);
    match (configured.scheme(), pace) {
        (Scheme::H2c, _) => options.set_http_version(2, 2),
        // There is no `Upgrade` in HTTP/2.
        (Scheme::Http | Scheme::Https, Pace::Upgrade) => {
            options.set_http_version(1, 1);
            Upgrades::of(pool).take_over(&mut peer);
        }
        (Scheme::Https, _) => options.set_http_version(2, 1),
        (Scheme::Http, _) => options.set_http_version(1, 1),
    }
    Ok(Box::new(peer))
}

/// Whether other requests may be on the peer's connection.
pub(super) fn is_shared(peer: &HttpPeer) -> bool {
    let options = &peer.options;
    options.alpn.get_max_http_version() == 2 && options.max_h2_streams > 1
}

#[async_trait]
impl Connect for Registry {
    /// Opens a connection and enters it. The time is bounded by the peer's connection timeout,
    /// which pingora holds around this call.
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let mut stream = match addr {
            SocketAddr::Inet(addr) => Stream::from(tcp(addr).await?),
            SocketAddr::Unix(addr) => Stream::from(unix(addr).await?),
        };
        let fd = stream.id();
        enter(self, &mut stream, fd)?;
        Ok(stream)
    }
}

pub(super) async fn tcp(addr: &InetAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(addr).await.map_err(failed)?;
    socket
        .set_nodelay(true)
        .or_err(ErrorType::SocketError, "setting TCP_NODELAY")?;
    Ok(socket)
}

pub(super) async fn unix(addr: &UnixAddr) -> Result<UnixStream> {
    let path = addr
        .as_pathname()
        .ok_or_else(|| Error::explain(ErrorType::ConnectError, "a unix socket without a path"))?;
    UnixStream::connect(path).await.map_err(failed)
}

/// Lists an open connection for as long as it is open.
pub(super) fn enter(registry: &Registry, stream: &mut Stream, fd: RawFd) -> Result<()> {
    if !registry.opened(fd) {
        return Error::e_explain(ErrorType::ConnectError, "the pool is retired");
    }
    // Dropped by the stream before its descriptor is closed.
    stream.tracer = Some(Tracer(Box::new(Entry {
        registry: registry.clone(),
        fd,
    })));
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
struct Entry {
    registry: Registry,
    fd: RawFd,
}

impl Tracing for Entry {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        self.registry.closing(self.fd);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}
