//! The listeners: bound all at once before anything is served, accepted from until a stop.
//!
//! A stop ends accepting, makes every further answer the last of its connection, lets idle
//! keep-alive connections go after a linger (a request may already be on its way on them), and
//! returns as soon as no connection is left.

use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use socket2::{Domain, Protocol as SocketProtocol, SockFilter, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::announce;
use super::edge::Edge;
use super::front::{Connection, Front};
use super::guard::{ClientConnection, ClientConnections};
use super::settings::Settings;
use crate::metrics::{Metrics, Protocol};
use crate::model::proxy_protocol::Header;
use crate::tls::Acceptor;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 4096;

/// How long idle keep-alive connections stay open in a stop: a request that was sent before the
/// client learned of it still gets its answer.
const LINGER: Duration = Duration::from_millis(2500);

/// How long a stop goes on accepting while new connections are already turned away: time for
/// handshakes under way to end, so that no client is cut off that saw its connection open.
const SETTLE: Duration = Duration::from_millis(250);

/// The client connection preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A bound socket.
#[derive(Debug)]
pub struct Bound {
    listener: StdListener,
    address: SocketAddr,
    https: bool,
}

impl Bound {
    /// The address, with the port that was really bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The configured address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// Binds every address or none. An IPv6 address is bound for IPv6 alone; a family that this
/// machine does not have is skipped with a warning.
///
/// # Errors
/// The first address that cannot be bound.
pub fn bind(addresses: &[SocketAddr], https: bool) -> Result<Vec<Bound>, BindError> {
    let mut bound = Vec::new();
    for address in addresses {
        match open(*address) {
            Ok(listener) => bound.push(Bound {
                address: listener.local_addr().unwrap_or(*address),
                listener,
                https,
            }),
            Err(error) if is_missing_family(&error) && addresses.len() > 1 => {
                tracing::warn!(%address, %error, "address family is missing here, listener skipped");
            }
            Err(source) => {
                return Err(BindError {
                    address: *address,
                    source,
                });
            }
        }
    }
    Ok(bound)
}

/// Opens one listening socket.
///
/// # Errors
/// What the system says.
pub fn open(address: SocketAddr) -> std::io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(SocketProtocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets a listener drop the segments that begin a connection. Closing a listener resets what
/// waits in its queue and what is in the middle of its handshake, and both look open to the
/// client; one whose first segment was dropped repeats it a second later and finds whoever
/// listens then.
///
/// # Errors
/// The system has no socket filters.
fn turn_away(listener: &TcpListener) -> std::io::Result<()> {
    use nix::libc::{BPF_ABS, BPF_B, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET};
    /// The byte with the flags in a TCP header, and the flag SYN (RFC 9293 §3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    let step =
        |code: u32, jt, jf, k| SockFilter::new(u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k);
    let filter = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, FLAGS),
        step(BPF_JMP | BPF_JSET | BPF_K, 0, 1, SYN),
        step(BPF_RET | BPF_K, 0, 0, 0),
        step(BPF_RET | BPF_K, 0, 0, u32::MAX),
    ];
    socket2::SockRef::from(listener).attach_filter(&filter)
}

fn is_missing_family(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = nix::errno::Errno::EAFNOSUPPORT as i32;
    const EADDRNOTAVAIL: i32 = nix::errno::Errno::EADDRNOTAVAIL as i32;
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

/// Takes connections from the listeners to the phases.
pub struct Server {
    proxy: Arc<HttpProxy<Edge>>,
    acceptor: Arc<Acceptor>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: Arc<Metrics>,
    open: AtomicUsize,
    clients: Arc<ClientConnections>,
    closed: Notify,
    leaving: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Builds the data plane around `edge`. `leaving` is the flag that `edge` reads.
    #[must_use]
    pub fn new(
        edge: Edge,
        acceptor: Arc<Acceptor>,
        settings: Arc<ArcSwap<Settings>>,
        metrics: Arc<Metrics>,
        leaving: Arc<AtomicBool>,
        threads: usize,
    ) -> Arc<Self> {
        let current = settings.load();
        let conf = ServerConf {
            threads,
            // How often something is tried again is decided here, not there.
            max_retries: usize::MAX,
            // Per thread in pingora's eyes; the limit is meant for the process.
            upstream_keepalive_pool_size: current
                .limits
                .upstream_keep_alive
                .div_ceil(threads)
                .max(1),
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(edge, Arc::new(conf));
        proxy.server_options = Some({
            let mut options = pingora::apps::HttpServerOptions::default();
            options.h2_idle_timeout = Some(current.timeouts.keep_alive);
            options
        });
        proxy.handle_init_modules();
        drop(current);
        Arc::new(Self {
            proxy: Arc::new(proxy),
            acceptor,
            settings,
            metrics,
            open: AtomicUsize::new(0),
            clients: Arc::default(),
            closed: Notify::new(),
            leaving,
            stop: watch::channel(false).0,
        })
    }

    /// Starts accepting from `bound`.
    ///
    /// # Errors
    /// A socket that the runtime does not take.
    pub fn serve(self: &Arc<Self>, bound: Vec<Bound>) -> std::io::Result<()> {
        for bound in bound {
            let listener = TcpListener::from_std(bound.listener)?;
            let server = Arc::clone(self);
            tokio::spawn(async move { server.accept_from(listener, bound.https).await });
        }
        Ok(())
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Stops: accepts nothing more, lets requests finish for at most `grace`, and returns as
    /// soon as no connection is left. Returns how many were left at the end of the grace.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.leaving.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        let linger = LINGER.min(grace);
        let settled = async {
            tokio::time::sleep(SETTLE).await;
            self.emptied().await;
        };
        if timeout(linger, settled).await.is_err() {
            self.proxy.http_cleanup().await;
            let _ = timeout(grace.saturating_sub(linger), self.emptied()).await;
        }
        self.connections()
    }

    async fn emptied(&self) {
        loop {
            let closed = self.closed.notified();
            if self.connections() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Accepts until a stop, and then for [`SETTLE`] what had begun to connect before it.
    async fn accept_from(self: Arc<Self>, listener: TcpListener, https: bool) {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            () = self.accept_all(&listener, https) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if let Err(error) = turn_away(&listener) {
            tracing::debug!(%error, "new connections are not turned away before the listener ends");
        }
        // The error is the end of the time.
        let _ = timeout(SETTLE, self.accept_all(&listener, https)).await;
    }

    async fn accept_all(self: &Arc<Self>, listener: &TcpListener, https: bool) {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    let server = Arc::clone(self);
                    if let Some(place) = Place::take(&server, https, peer.ip()) {
                        tokio::spawn(
                            async move { server.handle(socket, peer, https, place).await },
                        );
                    }
                }
                Err(error) => {
                    // Out of descriptors or memory: give the others a moment to end. Other
                    // errors concern one connection alone.
                    tracing::warn!(%error, "accept failed");
                    if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted) {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }

    /// Who a connection is from, by the peer or by what the peer says. `None`: it must say, and
    /// does not.
    async fn announced(&self, socket: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        let deadline = {
            let settings = self.settings.load();
            if !settings.proxy_protocol.contains(peer.ip()) {
                return Some(peer);
            }
            settings.timeouts.request_head
        };
        // Boxed, because this future lives as long as the connection.
        match timeout(deadline, Box::pin(announce::read(socket))).await {
            Ok(Ok(Header::Proxied { source, .. })) => Some(source),
            Ok(Ok(Header::Local)) => Some(peer),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "connection refused");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "connection refused: no PROXY protocol header in time");
                None
            }
        }
    }

    async fn handle(&self, mut socket: TcpStream, peer: SocketAddr, https: bool, _place: Place) {
        let Some(peer) = self.announced(&mut socket, peer).await else {
            return;
        };
        let (Ok(local), Ok(())) = (socket.local_addr(), socket.set_nodelay(true)) else {
            return;
        };
        let descriptor = socket.as_raw_fd();
        let head_timeout = self.settings.load().timeouts.request_head;
        let (stream, tls, h2): (Stream, _, bool) = if https {
            let accepted = self
                .acceptor
                .accept(L4Stream::from(socket), Some(local.ip()));
            match accepted.await {
                Ok(stream) => {
                    let h2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
                    let info = Arc::clone(stream.info());
                    (stream as Stream, Some(info), h2)
                }
                Err(refused) => {
                    tracing::debug!(%peer, error = %refused, "TLS handshake refused");
                    return;
                }
            }
        } else {
            let keep_alive = self.settings.load().timeouts.keep_alive;
            match timeout(keep_alive.max(head_timeout), begins_with_preface(&socket)).await {
                Ok(Ok(h2)) => (Box::new(L4Stream::from(socket)), None, h2),
                Ok(Err(_)) | Err(_) => return,
            }
        };
        let connection = Connection::new(descriptor, peer, local, tls);
        let Ok(front) = Front::new(stream, connection, head_timeout, h2) else {
            return;
        };
        let stop: ShutdownWatch = self.stop.subscribe();
        // `process_new` answers every request of the connection.
        let mut next: Option<Stream> = Some(Box::new(front));
        while let Some(stream) = next {
            next = self.proxy.process_new(stream, &stop).await;
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// Whether the client speaks HTTP/2 with prior knowledge. Waits for as many bytes as it takes to
/// tell; nothing is consumed.
async fn begins_with_preface(socket: &TcpStream) -> std::io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let bytes = socket.peek(&mut seen).await?;
        if bytes == 0 {
            return Ok(false);
        }
        if seen[..bytes] != PREFACE[..bytes] {
            return Ok(false);
        }
        if bytes == PREFACE.len() {
            return Ok(true);
        }
        // A part of the preface: the socket stays readable, so waiting for it would not wait.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One open connection's place under the limits, given back when dropped.
struct Place {
    server: Arc<Server>,
    protocol: Protocol,
    _of_client: Option<ClientConnection>,
}

impl Place {
    fn take(server: &Arc<Server>, https: bool, peer: IpAddr) -> Option<Self> {
        let settings = server.settings.load();
        // A trusted proxy's connections are those of many clients.
        let of_client = match settings.limits.connections_per_client {
            Some(limit) if !settings.trusted_proxies.contains(peer) => {
                Some(server.clients.take(peer, limit)?)
            }
            _ => None,
        };
        if server.open.fetch_add(1, Ordering::Relaxed) >= settings.limits.connections {
            server.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let protocol = if https {
            Protocol::Https
        } else {
            Protocol::Http
        };
        server.metrics.connection_opened(protocol);
        Some(Self {
            server: Arc::clone(server),
            protocol,
            _of_client: of_client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.metrics.connection_closed(self.protocol);
        if self.server.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.server.closed.notify_waiters();
        }
    }
}
