//! One exchange on one fresh connection: connect, TLS if asked, request, answer, close.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::Full;

use super::failure::{Failure, Phase};
use super::wire::{Alpn, read_body};
use crate::clock;
use crate::model::Scheme;

/// Makes exchanges. Cheap to clone; holds the TLS settings and nothing else.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) tls_h2: Arc<rustls::ClientConfig>,
    /// Asked for instead of the origin's own name.
    pub(super) server_name: Option<Arc<str>>,
    /// Sent before anything else.
    pub(super) first: Option<Arc<[u8]>>,
}

/// Where a connection goes; names are already looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dial {
    /// TCP.
    Tcp(SocketAddr),
    /// Unix socket.
    Unix(PathBuf),
}

/// A place and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Where to connect.
    pub dial: Dial,
    /// What to speak.
    pub scheme: Scheme,
    /// `Host` or `:authority` of requests.
    pub authority: String,
    /// Name or IP address that the certificate must cover; only used with [`Scheme::Https`].
    pub tls_name: Option<String>,
}

/// One `GET`.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// To whom.
    pub origin: &'a Origin,
    /// Path and query, starting with `/`.
    pub path: &'a str,
    /// Headers beside `Host`, `User-Agent`, `Accept` and `Connection`.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// For everything from the connect to the last byte of the body.
    pub deadline: Duration,
    /// Reading stops here, in bytes.
    pub body_limit: usize,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, or its first [`Get::body_limit`] bytes.
    pub body: Bytes,
    /// Whether the body goes on after `body`.
    pub truncated: bool,
    /// Time from the start of the connect to the end of the body.
    pub elapsed: Duration,
    /// Time from the connection being open to the head of the answer.
    pub waited: Duration,
}

impl Client {
    /// A client that trusts what the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are
    /// honoured). Without any root certificate every TLS handshake fails and says why.
    #[must_use]
    pub fn system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = rustls::RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(found.certs);
        if unusable > 0 || !found.errors.is_empty() {
            let errors = found.errors.len();
            tracing::debug!(unusable, errors, "some root certificates were not loaded");
        }
        Self::with_roots(roots)
    }

    /// A client that trusts these roots only.
    #[must_use]
    pub fn with_roots(roots: rustls::RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has ciphers for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session would skip the certificate, which is part of what is tested.
        tls.resumption = rustls::client::Resumption::disabled();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut tls_h2 = tls.clone();
        tls_h2.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            tls: Arc::new(tls),
            tls_h2: Arc::new(tls_h2),
            server_name: None,
            first: None,
        }
    }

    /// A client with its own TLS: a configuration for any HTTP and one for HTTP/2 alone, and the
    /// name that is asked for instead of [`Origin::tls_name`].
    #[must_use]
    pub fn with_tls(configs: [Arc<rustls::ClientConfig>; 2], server_name: Option<&str>) -> Self {
        let [tls, tls_h2] = configs;
        Self {
            tls,
            tls_h2,
            server_name: server_name.map(Arc::from),
            first: None,
        }
    }

    /// The same, with connections that begin with these bytes.
    #[must_use]
    pub fn beginning_with(mut self, first: Vec<u8>) -> Self {
        self.first = Some(first.into());
        self
    }

    /// Whether the other one is a clone, or has the same TLS.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tls, &other.tls)
            && self.server_name == other.server_name
            && self.first == other.first
    }

    /// Opens a connection and closes it. Returns how long it took.
    ///
    /// # Errors
    /// Whatever kept it from being open within `deadline`. Cancel-safe: closes on drop.
    pub async fn connect(&self, dial: &Dial, deadline: Duration) -> Result<Duration, Failure> {
        let start = clock::now();
        tokio::time::timeout(deadline, self.dial(dial))
            .await
            .map_err(|_| Failure::Timeout(Phase::Connect, deadline))??;
        Ok(clock::now().saturating_duration_since(start))
    }

    /// One `GET`, redirects not followed.
    ///
    /// # Errors
    /// Anything short of a whole answer (or its first `body_limit` bytes) within the deadline.
    /// Cancel-safe: closes on drop.
    pub async fn get(&self, get: Get<'_>) -> Result<Answer, Failure> {
        let start = clock::now();
        let mut phase = Phase::Connect;
        let answer = self.get_within(get, &mut phase);
        let outcome = tokio::time::timeout(get.deadline, answer).await;
        let mut answer = outcome.map_err(|_| Failure::Timeout(phase, get.deadline))??;
        answer.elapsed = clock::now().saturating_duration_since(start);
        Ok(answer)
    }

    async fn get_within(&self, get: Get<'_>, phase: &mut Phase) -> Result<Answer, Failure> {
        let mut request = Request::new(Full::<Bytes>::default());
        for (name, value) in get.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("*/*"));
        let wire = self.open(get.origin, Alpn::Any, phase).await?;
        let open = clock::now();
        let (exchange, response) = wire.send(get.origin, get.path, request, phase).await?;
        let waited = clock::now().saturating_duration_since(open);
        *phase = Phase::Body;
        let (head, body) = response.into_parts();
        let (body, truncated, _) = read_body(body, get.body_limit).await?;
        drop(exchange);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            truncated,
            elapsed: Duration::ZERO,
            waited,
        })
    }
}
