//! A client that sends the bytes it is given and changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What came back; a status of 0 is a connection that was closed before a whole head.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without transfer coding.
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is sent over HTTP/1.
#[derive(Clone, Copy, Debug)]
pub struct Bytes1<'a> {
    /// Head and body.
    pub request: &'a [u8],
    /// Whether it is a HEAD, whose answer has no body.
    pub head: bool,
    /// Sent after a 101; as much is read back, and is the body of the answer.
    pub after: &'a [u8],
}

/// Sends a request over TCP, or TLS when a name is given, and reads one answer.
pub async fn http1(addr: SocketAddr, name: Option<&str>, sent: Bytes1<'_>) -> Answer {
    let exchange = async {
        let Ok(socket) = TcpStream::connect(addr).await else {
            return Answer::default();
        };
        match name {
            None => exchange(socket, sent).await,
            Some(name) => match tls(socket, name, b"http/1.1").await {
                Ok(socket) => exchange(socket, sent).await,
                Err(_) => Answer::default(),
            },
        }
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_default()
}

/// A request over HTTP/2 with TLS.
pub async fn http2(addr: SocketAddr, name: &str, request: http::Request<Full<Bytes>>) -> Answer {
    let exchange = async {
        let socket = TcpStream::connect(addr).await?;
        let socket = tls(socket, name, b"h2").await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let answer = Answer {
            status: head.status.as_u16(),
            headers: head
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), text(v)))
                .collect(),
            body: body.collect().await?.to_bytes().to_vec(),
        };
        connection.abort();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer)
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        _ => Answer::default(),
    }
}

/// Whether somebody listens, and with TLS whether there is a certificate for the name.
pub async fn is_ready(addr: SocketAddr, name: Option<&str>) -> bool {
    let Ok(socket) = TcpStream::connect(addr).await else {
        return false;
    };
    match name {
        None => true,
        Some(name) => tls(socket, name, b"http/1.1").await.is_ok(),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    Bytes1 {
        request,
        head,
        after,
    }: Bytes1<'_>,
) -> Answer {
    // A server may answer and close before it has read everything.
    let _ = socket.write_all(request).await;
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes, head, false) {
            // What is only a beginning is read on from here.
            Some(answer) if answer.status >= 200 => return answer,
            Some(mut answer) if answer.status == 101 => {
                answer.body = vec![0; after.len()];
                let _ = socket.write_all(after).await;
                let read = socket.read_exact(&mut answer.body).await;
                answer.body.truncate(read.unwrap_or(0));
                return answer;
            }
            Some(_) => {
                let end = find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
                bytes.drain(..end);
                continue;
            }
            None => {}
        }
        let mut buffer = [0; 16 * 1024];
        match socket.read(&mut buffer).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            _ => return parse(&bytes, head, true).unwrap_or_default(),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A whole answer at the start of `bytes`; at the `end` of the connection also one whose length
/// was not told.
fn parse(bytes: &[u8], no_body: bool, end: bool) -> Option<Answer> {
    let at = find(bytes, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let rest = &bytes[at + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    let mut answer = Answer {
        status,
        headers: headers.collect(),
        body: Vec::new(),
    };
    if no_body || status < 200 || status == 204 || status == 304 {
        return Some(answer);
    }
    let chunked = answer
        .header("transfer-encoding")
        .is_some_and(|v| v.contains("chunked"));
    let length = answer
        .header("content-length")
        .and_then(|v| v.parse::<usize>().ok());
    answer.body = match (chunked, length) {
        (true, _) => unchunk(rest, end)?,
        (false, Some(length)) if rest.len() >= length => rest[..length].to_vec(),
        (false, _) if end => rest.to_vec(),
        (false, _) => return None,
    };
    Some(answer)
}

fn unchunk(mut rest: &[u8], end: bool) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some(at) = find(rest, b"\r\n") else {
            return end.then_some(body);
        };
        let size = String::from_utf8_lossy(&rest[..at]);
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[at + 2..];
        if size == 0 {
            return Some(body);
        }
        if rest.len() < size + 2 {
            return end.then_some(body);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

async fn tls(
    socket: TcpStream,
    name: &str,
    protocol: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

/// Trusts every certificate: which one is sent is tested elsewhere.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
