//! The connection under an exchange: dialled, perhaps wrapped in TLS, spoken to in HTTP/1 or
//! HTTP/2, closed when dropped.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::client::{Client, Dial, Origin};
use super::failure::{Failure, Phase};
use crate::model::Scheme;

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

impl Client {
    /// Connects and does the handshake if the scheme has one.
    pub(super) async fn open(
        &self,
        origin: &Origin,
        alpn: Alpn,
        phase: &mut Phase,
    ) -> Result<Wire, Failure> {
        *phase = Phase::Connect;
        let stream = self.dial(&origin.dial).await?;
        if origin.scheme != Scheme::Https {
            *phase = Phase::Head;
            let h2 = origin.scheme == Scheme::H2c || alpn == Alpn::H2Only;
            return Ok(Wire { stream, h2 });
        }
        *phase = Phase::Tls;
        let own = origin.tls_name.as_deref();
        let name = self.server_name.as_deref().or(own).unwrap_or_default();
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

impl Client {
    /// Connects, and says what comes before everything else.
    pub(super) async fn dial(&self, dial: &Dial) -> Result<Box<dyn Stream>, Failure> {
        let mut stream: Box<dyn Stream> = match dial {
            Dial::Tcp(addr) => {
                let stream = TcpStream::connect(addr)
                    .await
                    .map_err(|error| Failure::from_connect(&error))?;
                // A failure only delays the last small segment.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Dial::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(|error| Failure::from_connect(&error))?;
                Box::new(stream)
            }
        };
        if let Some(first) = &self.first {
            stream
                .write_all(first)
                .await
                .map_err(|error| Failure::from_connect(&error))?;
        }
        Ok(stream)
    }
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
        let said = request.headers_mut().entry(USER_AGENT).or_insert(agent);
        if said.is_empty() {
            // Who asks for another says nothing of itself.
            request.headers_mut().remove(USER_AGENT);
        }
        let failed = |error: hyper::Error| Failure::from_hyper(&error, Phase::Head);
        let mut driver = JoinSet::new();
        let io = TokioIo::new(self.stream);
        let response = if self.h2 {
            *request.uri_mut() = absolute(origin, path)?;
            *request.version_mut() = Version::HTTP_2;
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_LIMIT_BYTES)
                .handshake(io)
                .await
                .map_err(failed)?;
            driver.spawn(connection);
            sender.send_request(request).await
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
            sender.send_request(request).await
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(own_or_driver(error, &mut driver).await),
        };
        Ok((Exchange { _driver: driver }, response))
    }
}

/// Keeps the connection of an exchange running; closes it when dropped.
pub(super) struct Exchange {
    _driver: JoinSet<Result<(), hyper::Error>>,
}

/// What bytes go over: TCP, a unix socket, TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

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

/// The request may only know that the connection is gone; the connection knows why.
async fn own_or_driver(
    error: hyper::Error,
    driver: &mut JoinSet<Result<(), hyper::Error>>,
) -> Failure {
    if (error.is_canceled() || error.is_closed())
        && let Some(Ok(Err(cause))) = driver.join_next().await
    {
        return Failure::from_hyper(&cause, Phase::Head);
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

const USER_AGENT_VALUE: &str = concat!("cutover-probe/", env!("CARGO_PKG_VERSION"));

/// No health endpoint needs more.
const HEAD_LIMIT_BYTES: u32 = 64 * 1024;
