//! The handshake: ClientHello, certificate, rest, all under one deadline.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pingora::protocols::{IO, TimingDigest};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::policy::{self, ACME_TLS};
use super::store::Store;
use super::stream::{EdgeTls, TlsInfo, local_ip};
use crate::clock;

/// Why a connection did not become a TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The client did not finish the handshake in time.
    #[error("the TLS handshake took too long")]
    Deadline,
    /// No certificate for the name, and no default site. The client got the alert.
    #[error("no certificate for {}", sni.as_deref().unwrap_or("a client without SNI"))]
    NoCertificate {
        /// The name asked for, lower case.
        sni: Option<String>,
    },
    /// An ACME server looked at a challenge certificate (RFC 8737): all that it came for.
    #[error("challenge for {host} answered")]
    Challenge {
        /// The name that is being validated, lower case.
        host: String,
    },
    /// The client resumed a session whose client certificate has expired since.
    #[error("the client's certificate has expired")]
    ClientCertificateExpired,
    /// Version, cipher, ALPN or the message itself: not acceptable to one of the sides.
    #[error("TLS handshake failed: {0}")]
    Handshake(rustls::Error),
    /// The connection broke, or the client went away.
    #[error("connection lost during the TLS handshake: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Handshake(error),
            Err(error) => Self::Io(error),
        }
    }
}

/// Who knows the certificates of TLS-ALPN-01 challenges (RFC 8737). Asked for every handshake
/// that offers `acme-tls/1` alone, so it must not block.
pub trait ChallengeCertificates: fmt::Debug + Send + Sync {
    /// The certificate that proves control of `host`, which is lower case; `None`: no challenge
    /// is open for it, and the handshake is refused.
    fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>>;
}

/// Turns accepted sockets into TLS connections.
#[derive(Debug)]
pub struct Acceptor {
    store: Arc<Store>,
    challenges: OnceLock<Arc<dyn ChallengeCertificates>>,
    deadline_millis: AtomicU64,
}

impl Acceptor {
    /// Serves the certificates of `store`; `deadline` is for one whole handshake.
    #[must_use]
    pub fn new(store: Arc<Store>, deadline: Duration) -> Self {
        let acceptor = Self {
            store,
            challenges: OnceLock::new(),
            deadline_millis: AtomicU64::new(0),
        };
        acceptor.set_deadline(deadline);
        acceptor
    }

    /// Answers TLS-ALPN-01 challenges with the certificates of `challenges`. The first call
    /// holds; without one every challenge is refused.
    pub fn answer_challenges(&self, challenges: Arc<dyn ChallengeCertificates>) {
        // Who came first stays, as said.
        let _ = self.challenges.set(challenges);
    }

    /// Changes the deadline of the handshakes that begin from now on.
    pub fn set_deadline(&self, deadline: Duration) {
        let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.deadline_millis.store(millis, Ordering::Relaxed);
    }

    /// Does the whole handshake. `local` is the address that the client came to, for clients
    /// without SNI; `None`: the socket's own. Dropping the future closes the connection.
    ///
    /// # Errors
    /// Why not; the connection is closed then, after the alert if there is one.
    pub async fn accept<S: IO>(
        &self,
        stream: S,
        local: Option<IpAddr>,
    ) -> Result<Box<EdgeTls<S>>, Refused> {
        let deadline = Duration::from_millis(self.deadline_millis.load(Ordering::Relaxed));
        // Boxed, because the caller's future lives as long as the connection, and what the
        // handshake needs should not.
        Box::pin(async {
            tokio::time::timeout(deadline, self.handshake(stream, local))
                .await
                .unwrap_or(Err(Refused::Deadline))
        })
        .await
    }

    async fn handshake<S: IO>(
        &self,
        stream: S,
        local: Option<IpAddr>,
    ) -> Result<Box<EdgeTls<S>>, Refused> {
        let began = clock::now();
        let hello = rustls::server::Acceptor::default();
        let start = LazyConfigAcceptor::new(hello, stream).await?;
        let sni = start
            .client_hello()
            .server_name()
            .map(str::to_ascii_lowercase);
        if is_challenge(&start.client_hello()) {
            return Err(self.prove(start, sni).await);
        }
        let local = match sni {
            Some(_) => None,
            None => local.or_else(|| local_ip(&start.io)),
        };
        let picked = (self.store.table().load())
            .pick(sni.as_deref(), local)
            .map(|picked| (Arc::clone(picked.presented), picked.default));
        let Some((presented, default)) = picked else {
            let description = match sni {
                Some(_) => UNRECOGNIZED_NAME,
                None => MISSING_EXTENSION,
            };
            refuse(start.io, description).await;
            return Err(Refused::NoCertificate { sni });
        };
        let tls = start.into_stream(Arc::clone(presented.config())).await?;
        let timing = TimingDigest {
            established_ts: clock::wall(),
            establishment_duration: Some(clock::now().saturating_duration_since(began)),
            offload_wait_duration: None,
        };
        let table = Arc::clone(self.store.table());
        let info = TlsInfo::new(sni, tls.get_ref().1, &presented, default, table);
        // A full handshake has checked that; a ticket may outlive the certificate.
        if (info.client.as_ref()).is_some_and(|client| client.not_after < clock::wall()) {
            return Err(Refused::ClientCertificateExpired);
        }
        let edge = EdgeTls::new(tls, info, timing)
            .map_err(|error| Refused::Io(io::Error::other(error.to_string())))?;
        Ok(Box::new(edge))
    }

    /// Completes a challenge's handshake and closes (RFC 8737 §3); no byte of HTTP is served.
    async fn prove<S: IO>(&self, start: StartHandshake<S>, sni: Option<String>) -> Refused {
        let certificate = (sni.as_deref())
            .zip(self.challenges.get())
            .and_then(|(host, challenges)| challenges.certificate(host));
        let (Some(host), Some(certificate)) = (sni.clone(), certificate) else {
            refuse(start.io, NO_APPLICATION_PROTOCOL).await;
            return Refused::NoCertificate { sni };
        };
        let config = match policy::challenge(&certificate) {
            Ok(config) => config,
            Err(error) => return Refused::Handshake(error),
        };
        match start.into_stream(config).await {
            Ok(mut tls) => {
                // The server has seen what it came for, however it says goodbye.
                tls.shutdown().await.unwrap_or_default();
                Refused::Challenge { host }
            }
            Err(error) => error.into(),
        }
    }
}

/// Whether a ClientHello offers the protocol of challenges and nothing else, as RFC 8737 §3
/// demands of the validating server.
fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none())
}

/// A name that nobody serves (RFC 6066 §3).
const UNRECOGNIZED_NAME: u8 = 112;
/// A client that named nothing (RFC 8446 §9.2).
const MISSING_EXTENSION: u8 = 109;
/// A challenge that is not open (RFC 7301 §3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Sends a fatal alert in the clear, as nothing is encrypted before the ServerHello.
async fn refuse<S: IO>(mut stream: S, description: u8) {
    // Record: alert, version 3.3, two bytes; alert: fatal and its description.
    let record = [21, 3, 3, 0, 2, 2, description];
    // The client is refused either way.
    if stream.write_all(&record).await.is_ok() && stream.flush().await.is_ok() {
        AsyncWriteExt::shutdown(&mut stream)
            .await
            .unwrap_or_default();
    }
}
