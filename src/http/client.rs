//! One exchange on one fresh connection: connect, TLS if asked, request, answer, close.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::failure::{Failure, Phase};
use crate::clock;
use crate::model::Scheme;

/// Makes exchanges. Cheap to clone; holds the TLS settings and nothing else.
#[derive(Clone, Debug)]
pub struct Client {
    tls: Arc<rustls::ClientConfig>,
    tls_h2: Arc<rustls::ClientConfig>,
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
        }
    }

    /// Opens a connection and closes it. Returns how long it took.
    ///
    /// # Errors
    /// Whatever kept it from being open within `deadline`. Cancel-safe: closes on drop.
    pub async fn connect(&self, dial: &Dial, deadline: Duration) -> Result<Duration, Failure> {
        let start = clock::now();
        tokio::time::timeout(deadline, open(dial))
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
        let mut request = Request::new(Full::default());
        for (name, value) in get.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("*/*"));
        let wire = self.open(get.origin, Alpn::Any, phase).await?;
        let (exchange, response) = wire.send(get.origin, get.path, request, phase).await?;
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
        })
    }

    /// Connects and does the handshake if the scheme has one.
    pub(super) async fn open(
        &self,
        origin: &Origin,
        alpn: Alpn,
        phase: &mut Phase,
    ) -> Result<Wire, Failure> {
        *phase = Phase::Connect;
        let stream = open(&origin.dial).await?;
        if origin.scheme != Scheme::Https {
            *phase = Phase::Head;
            let h2 = origin.scheme == Scheme::H2c || alpn == Alpn::H2Only;
            return Ok(Wire { stream, h2 });
        }
        *phase = Phase::Tls;
        let name = origin.tls_name.as_deref().unwrap_or_default();
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| Failure::Tls(format!("`{name}` can't be in a certificate")))?;
        let config = match alpn {
            Alpn::Any => &self.tls,
            Alpn::H2Only => &self.tls_h2,
        };
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(server, stream)
            .await
            .map_err(|error| Failure::from_tls(&error, name))?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if alpn == Alpn::H2Only && !h2 {
            return Err(Failure::Tls("HTTP/2 was not agreed".to_owned()));
        }
        *phase = Phase::Head;
        let stream = Box::new(stream);
        Ok(Wire { stream, h2 })
    }
}

/// Which protocols a TLS handshake offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpn {
    /// HTTP/2, else HTTP/1.1.
    Any,
    /// HTTP/2 and nothing else; without TLS: by prior knowledge.
    H2Only,
}

/// An open connection that nothing was sent on yet.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    h2: bool,
}

impl Wire {
    /// Sends the request and waits for the response head. The body can be read while the
    /// returned [`Exchange`] lives.
    pub(super) async fn send(
        self,
        origin: &Origin,
        path: &str,
        mut request: Request<Full<Bytes>>,
        phase: &mut Phase,
    ) -> Result<(Exchange, http::Response<Incoming>), Failure> {
        *phase = Phase::Head;
        let agent = HeaderValue::from_static(USER_AGENT_VALUE);
        request.headers_mut().insert(USER_AGENT, agent);
        let failed = |error: hyper::Error| Failure::from_hyper(&error, Phase::Head);
        let mut driver = JoinSet::new();
        let io = TokioIo::new(self.stream);
        let (sender, response) = if self.h2 {
            *request.uri_mut() = absolute(origin, path)?;
            *request.version_mut() = Version::HTTP_2;
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_LIMIT_BYTES)
                .handshake(io)
                .await
                .map_err(failed)?;
            driver.spawn(connection);
            let response = sender.send_request(request).await;
            (Sender::H2(sender), response)
        } else {
            let host = HeaderValue::from_str(&origin.authority)
                .map_err(|_| Failure::Request(format!("`{}` is not a host", origin.authority)))?;
            *request.uri_mut() = path_only(path)?;
            request.headers_mut().insert(HOST, host);
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(CONNECTION, close);
            let (mut sender, connection) = http1::Builder::new()
                .max_buf_size(HEAD_LIMIT_BYTES as usize)
                .handshake(io)
                .await
                .map_err(failed)?;
            driver.spawn(connection);
            let response = sender.send_request(request).await;
            (Sender::H1(sender), response)
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(own_or_driver(error, &mut driver).await),
        };
        Ok((
            Exchange {
                _sender: sender,
                _driver: driver,
            },
            response,
        ))
    }
}

/// Keeps the connection of an exchange running; closes it when dropped.
pub(super) struct Exchange {
    _sender: Sender,
    _driver: JoinSet<Result<(), hyper::Error>>,
}

#[expect(dead_code, reason = "held so that the connection stays open")]
enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Reads up to `limit` bytes; the flag says whether there was more. Trailers if they came.
pub(super) async fn read_body(
    mut body: Incoming,
    limit: usize,
) -> Result<(Bytes, bool, Option<HeaderMap>), Failure> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::from_hyper(&error, Phase::Body))?;
        match frame.into_data() {
            Ok(data) => {
                let room = limit - read.len();
                read.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    return Ok((read.freeze(), true, None));
                }
            }
            Err(frame) => return Ok((read.freeze(), false, frame.into_trailers().ok())),
        }
    }
    Ok((read.freeze(), false, None))
}

async fn open(dial: &Dial) -> Result<Box<dyn Stream>, Failure> {
    match dial {
        Dial::Tcp(addr) => {
            let stream = TcpStream::connect(addr)
                .await
                .map_err(|error| Failure::from_connect(&error))?;
            // A failure only delays the last small segment.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream))
        }
        Dial::Unix(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| Failure::from_connect(&error))?;
            Ok(Box::new(stream))
        }
    }
}

/// The request may only know that the connection is gone; the connection knows why.
async fn own_or_driver(
    error: hyper::Error,
    driver: &mut JoinSet<Result<(), hyper::Error>>,
) -> Failure {
    if error.is_canceled() || error.is_closed() {
        if let Some(Ok(Err(cause))) = driver.join_next().await {
            return Failure::from_hyper(&cause, Phase::Head);
        }
    }
    Failure::from_hyper(&error, Phase::Head)
}

fn path_only(path: &str) -> Result<Uri, Failure> {
    let not_a_path = || Failure::Request(format!("`{path}` is not a request path"));
    if !path.starts_with('/') {
        return Err(not_a_path());
    }
    let path = http::uri::PathAndQuery::try_from(path).map_err(|_| not_a_path())?;
    Ok(Uri::from(path))
}

fn absolute(origin: &Origin, path: &str) -> Result<Uri, Failure> {
    let mut parts = path_only(path)?.into_parts();
    parts.scheme = Some(match origin.scheme {
        Scheme::Https => http::uri::Scheme::HTTPS,
        Scheme::Http | Scheme::H2c => http::uri::Scheme::HTTP,
    });
    let not_a_host = || Failure::Request(format!("`{}` is not a host", origin.authority));
    parts.authority = Some(origin.authority.parse().map_err(|_| not_a_host())?);
    Uri::from_parts(parts).map_err(|_| not_a_host())
}

/// A `POST`, for protocols built on top such as gRPC.
pub(super) fn post(body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    request
}

const USER_AGENT_VALUE: &str = concat!("cutover-probe/", env!("CARGO_PKG_VERSION"));

/// No health endpoint needs more.
const HEAD_LIMIT_BYTES: u32 = 64 * 1024;
