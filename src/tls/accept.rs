//! The handshake: ClientHello, certificate by name, deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig};
use tokio_rustls::LazyConfigAcceptor;

use super::certificate::Served;
use super::edge_io::EdgeTls;
use super::store::Store;

/// Sessions remembered for resumption by clients that do not keep tickets.
const SESSIONS: usize = 4_096;

/// What was agreed in a handshake.
#[derive(Debug)]
pub struct TlsInfo {
    served: Arc<Served>,
    version: &'static str,
    by_default: bool,
}

impl TlsInfo {
    /// Whether the connection's certificate covers a host, lower case without port.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.served.covers(host)
    }

    /// Whether the default site's certificate was served because no other one was for the name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.by_default
    }

    /// `TLSv1.2` or `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version
    }
}

/// A finished handshake.
pub struct Accepted {
    stream: EdgeTls,
    info: Arc<TlsInfo>,
}

impl Accepted {
    /// Whether HTTP/2 was agreed on (RFC 7301).
    #[must_use]
    pub fn is_h2(&self) -> bool {
        self.stream.is_h2()
    }

    /// The stream for pingora, and what was agreed.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Arc<TlsInfo>) {
        (Box::new(self.stream), self.info)
    }
}

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The handshake took too long.
    #[error("the handshake did not finish in time")]
    Deadline,
    /// There is no certificate for the name, and no default site.
    #[error("no certificate for the requested name")]
    NoCertificate,
    /// The handshake failed, or the client left.
    #[error("the handshake failed")]
    Handshake(#[source] std::io::Error),
}

/// Accepts TLS connections with the certificates of a [`Store`].
pub struct Acceptor {
    store: Arc<Store>,
    base: ServerConfig,
    /// Configurations by certificate: one for all handshakes of a certificate.
    ready: arc_swap::ArcSwap<Vec<(Arc<Served>, Arc<ServerConfig>)>>,
    deadline_ms: AtomicU64,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// Answers every ClientHello with one certificate, chosen before.
#[derive(Debug)]
struct Chosen(Arc<CertifiedKey>);

impl ResolvesServerCert for Chosen {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Acceptor {
    /// TLS 1.2 and 1.3, h2 and http/1.1, session tickets with keys that change every 6 h.
    ///
    /// # Errors
    /// The provider lacks what TLS needs.
    pub fn new(store: Arc<Store>, deadline: Duration) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let none = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
        let mut base = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(none);
        base.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        base.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        base.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
        // One ticket is enough for a client that comes back once at a time.
        base.send_tls13_tickets = 1;
        Ok(Self {
            store,
            base,
            ready: arc_swap::ArcSwap::default(),
            deadline_ms: AtomicU64::new(millis(deadline)),
        })
    }

    /// Changes the deadline of a whole handshake.
    pub fn set_deadline(&self, deadline: Duration) {
        self.deadline_ms.store(millis(deadline), Ordering::Relaxed);
    }

    /// Makes the handshake on a new connection to `local`.
    ///
    /// # Errors
    /// [`Refused`]. Cancel-safe: closes the connection.
    pub async fn accept(&self, stream: L4Stream, local: SocketAddr) -> Result<Accepted, Refused> {
        let deadline = Duration::from_millis(self.deadline_ms.load(Ordering::Relaxed));
        tokio::time::timeout(deadline, self.handshake(stream, local))
            .await
            .unwrap_or(Err(Refused::Deadline))
    }

    async fn handshake(&self, stream: L4Stream, local: SocketAddr) -> Result<Accepted, Refused> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream)
            .await
            .map_err(Refused::Handshake)?;
        let hello = start.client_hello();
        let found = self.store.find(hello.server_name(), local.ip());
        let Some((served, by_default)) = found else {
            // Finishing with a configuration that has no certificate sends the alert.
            let _ = start.into_stream(Arc::new(self.base.clone())).await;
            return Err(Refused::NoCertificate);
        };
        let config = self.config(&served);
        let stream = start
            .into_stream(config)
            .await
            .map_err(Refused::Handshake)?;
        let (_, connection) = stream.get_ref();
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let info = Arc::new(TlsInfo {
            served,
            version,
            by_default,
        });
        Ok(Accepted {
            stream: EdgeTls::new(stream, version),
            info,
        })
    }

    /// The configuration of a certificate, made once: it shares ticket keys and sessions with
    /// all others.
    fn config(&self, served: &Arc<Served>) -> Arc<ServerConfig> {
        let known = self.ready.load();
        if let Some((_, config)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, served)) {
            return Arc::clone(config);
        }
        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(Chosen(Arc::clone(served.key())));
        let config = Arc::new(config);
        self.ready.rcu(|known| {
            let mut next: Vec<_> = known.iter().rev().take(31).rev().cloned().collect();
            next.push((Arc::clone(served), Arc::clone(&config)));
            next
        });
        config
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
