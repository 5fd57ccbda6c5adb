//! A TLS connection as Pingora serves it, and what the handshake said of it.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown,
    SocketDigest, Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use rustls::{ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::certificate::ServedCertificate;
use super::client::ClientCertificate;
use super::policy::PolicyId;
use super::presented::Presented;
use super::table::{Entry, Table, host_form};

/// How long a closing connection may take to hand its last bytes to the kernel.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What the handshake of a connection settled.
pub struct TlsInfo {
    /// The name that the client asked for, lower case.
    pub sni: Option<String>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The suite's number (IANA TLS Cipher Suites); 0 before one is agreed on.
    pub cipher_suite: u16,
    /// Whether a ticket stood in for the certificate.
    pub resumed: bool,
    /// What was presented.
    pub certificate: Arc<ServedCertificate>,
    /// Whether it is the default site's, because nothing matched.
    pub default: bool,
    /// The client's own certificate, verified; `None`: it was not asked, or showed none.
    pub client: Option<ClientCertificate>,
    policy: PolicyId,
    table: Arc<ArcSwap<Table>>,
}

impl TlsInfo {
    pub(super) fn new(
        sni: Option<String>,
        connection: &ServerConnection,
        presented: &Presented,
        default: bool,
        table: Arc<ArcSwap<Table>>,
    ) -> Self {
        Self {
            sni,
            version: version(connection),
            cipher_suite: connection
                .negotiated_cipher_suite()
                .map_or(0, |suite| u16::from(suite.suite())),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            certificate: Arc::clone(presented.certificate()),
            default,
            client: ClientCertificate::of(connection),
            policy: presented.policy(),
            table,
        }
    }

    /// Whether a request for `host` (no port) may come over this connection; if not, the
    /// answer is 421 (RFC 9110 §15.5.20).
    ///
    /// The site that serves `host` must ask for the same policy as this connection has: who
    /// named another site in the handshake may lack its client certificate or lowest version.
    /// Then the host may be the name of the handshake, every other name of the certificate
    /// (clients merge connections, RFC 9113 §9.1.1), and on a connection of the default site
    /// every host that no other site names. No host at all, which HTTP/1.0 allows, is the
    /// default site's. A site that turned TLS off is never meant.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let host = host_form(host);
        let table = self.table.load();
        match table.entry(&host) {
            Some(Entry::Off) => false,
            Some(Entry::Certificate(presented)) => {
                let named = !self.default && self.sni.as_deref() == Some(&*host);
                self.policy == presented.policy() && (named || self.certificate.covers(&host))
            }
            None => {
                let policy = table.default_policy();
                let named = self.default || host.is_empty() || self.certificate.covers(&host);
                policy.is_none_or(|policy| policy == self.policy) && named
            }
        }
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("sni", &self.sni)
            .field("version", &self.version)
            .field("certificate", &self.certificate)
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

/// What the handshake said of the connection that a request came over; `None` without TLS.
///
/// Pingora sets the extension of its TLS digest only in its own handshake, so the information
/// travels in the one place of a [`Digest`] that takes foreign data: the proxy digest, which
/// is otherwise empty on connections of clients.
#[must_use]
pub fn info(digest: &Digest) -> Option<&Arc<TlsInfo>> {
    let data = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    data.downcast_ref()
}

/// The server's end of a TLS connection over `S`. Adds no buffer of its own to those of rustls
/// and `S`.
pub struct EdgeTls<S> {
    tls: TlsStream<S>,
    info: Arc<TlsInfo>,
    ssl: Arc<SslDigest>,
    carrier: Arc<ProxyDigest>,
    timing: TimingDigest,
}

impl<S: IO> EdgeTls<S> {
    pub(super) fn new(
        tls: TlsStream<S>,
        info: TlsInfo,
        timing: TimingDigest,
    ) -> pingora::Result<Self> {
        let info = Arc::new(info);
        let cipher = tls
            .get_ref()
            .1
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or_default();
        let ssl = SslDigest::new(cipher, info.version, None, None, Vec::new());
        let header = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
        let carrier = ProxyDigest::new(header, Some(Box::new(Arc::clone(&info))));
        Ok(Self {
            tls,
            info,
            ssl: Arc::new(ssl),
            carrier: Arc::new(carrier),
            timing,
        })
    }

    /// What the handshake settled.
    #[must_use]
    pub fn info(&self) -> &Arc<TlsInfo> {
        &self.info
    }
}

/// The version as people write it; rustls spells it with an underscore.
fn version(connection: &ServerConnection) -> &'static str {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

/// The local address of a connection, if it is an internet socket.
pub(super) fn local_ip<S: GetSocketDigest>(stream: &S) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    digest.local_addr()?.as_inet().map(|address| address.ip())
}

impl<S> fmt::Debug for EdgeTls<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EdgeTls").field(&self.info).finish()
    }
}

impl<S: IO> AsyncRead for EdgeTls<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl<S: IO> AsyncWrite for EdgeTls<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

#[async_trait]
impl<S: IO> Shutdown for EdgeTls<S> {
    /// Sends close_notify and closes. An error or a client that does not read changes nothing:
    /// the connection is over.
    async fn shutdown(&mut self) {
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.tls.shutdown()).await;
    }
}

impl<S: IO> UniqueID for EdgeTls<S> {
    fn id(&self) -> UniqueIDType {
        self.tls.get_ref().0.id()
    }
}

impl<S: IO> Ssl for EdgeTls<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(Arc::clone(&self.ssl))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.tls.get_ref().1.alpn_protocol()? {
            b"h2" => Some(ALPN::H2),
            b"http/1.1" => Some(ALPN::H1),
            _ => None,
        }
    }
}

impl<S: IO> GetTimingDigest for EdgeTls<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        let mut layers = self.tls.get_ref().0.get_timing_digest();
        layers.push(Some(self.timing.clone()));
        layers
    }

    fn get_read_pending_time(&self) -> Duration {
        self.tls.get_ref().0.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.tls.get_ref().0.get_write_pending_time()
    }
}

impl<S: IO> GetProxyDigest for EdgeTls<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.carrier))
    }
}

impl<S: IO> GetSocketDigest for EdgeTls<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.tls.get_ref().0.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.tls.get_mut().0.set_socket_digest(digest);
    }
}

impl<S: IO> Peek for EdgeTls<S> {}
