//! The ops listener: `/metrics`, `/healthz`, `/readyz` and an index on TCP. It can change
//! nothing, so it has no login; it answers the networks in `ops_allow` and nobody else.
//!
//! A browser inside those networks could be made to read it for a foreign page by DNS
//! rebinding: a name that the page's owner controls is pointed at this address. Such a request
//! carries that name in `Host`, so only an IP literal, `localhost` and names without a dot,
//! which no outsider can own, are answered.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::body::{AnyBody, full};
use crate::config::IpSet;

/// What the ops listener shows.
pub trait OpsSource: Send + Sync + 'static {
    /// All metrics in the Prometheus text format, version 0.0.4.
    fn metrics(&self) -> String;

    /// Whether configuration is loaded, listeners are bound and no stop has begun.
    ///
    /// # Errors
    /// What is missing, in a few words.
    fn ready(&self) -> Result<(), String>;
}

/// Connections at a time; more wait in the backlog.
pub const MAX_CONNECTIONS: usize = 256;

/// Answers on `listener` until `stop` resolves; open connections are then closed. A reload
/// changes who is answered by storing another set in `allow`.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn OpsSource>,
    allow: Arc<ArcSwap<IpSet>>,
    stop: impl Future<Output = ()> + Send,
) {
    let mut stop = pin!(stop);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accept => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, Arc::clone(&source), Arc::clone(&allow));
                connections.spawn(async move {
                    let _slot = slot;
                    if tokio::time::timeout(CONNECTION_LIFETIME, connection)
                        .await
                        .is_err()
                    {
                        debug!(%peer, "ops connection was too old");
                    }
                });
            }
            Err(error) => {
                // Usually out of descriptors: let others close some.
                warn!(%error, "ops accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    source: Arc<dyn OpsSource>,
    allow: Arc<ArcSwap<IpSet>>,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let permitted = allow.load().contains(peer.ip());
        let response = answer(&request, permitted, source.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let result = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        debug!(%peer, %error, "ops connection ended");
    }
}

fn answer<B>(request: &Request<B>, permitted: bool, source: &dyn OpsSource) -> Response<AnyBody> {
    let mut response = if !permitted {
        text(
            StatusCode::FORBIDDEN,
            "this address is not in listen.ops_allow\n",
        )
    } else {
        match host(request) {
            Host::Trusted => page(request, source),
            Host::Foreign => text(
                StatusCode::FORBIDDEN,
                "ask by IP address, localhost or a name without a dot\n",
            ),
            Host::Bad => text(StatusCode::BAD_REQUEST, "exactly one Host is needed\n"),
        }
    };
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    response
}

fn page<B>(request: &Request<B>, source: &dyn OpsSource) -> Response<AnyBody> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "read-only: GET or HEAD\n");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => full(StatusCode::OK, PROMETHEUS, source.metrics()),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match source.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {reason}\n"),
            ),
        },
        "/" => full(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        _ => text(
            StatusCode::NOT_FOUND,
            "there is /metrics, /healthz and /readyz\n",
        ),
    }
}

fn text(status: StatusCode, body: &str) -> Response<AnyBody> {
    full(status, "text/plain; charset=utf-8", body.to_owned())
}

/// What the request's authority says about who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Trusted,
    Foreign,
    Bad,
}

/// An authority in the request target counts as well as `Host` (RFC 9112 §3.2.2): both must be
/// trusted, since which of them a browser sends is not ours to choose.
fn host<B>(request: &Request<B>) -> Host {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => Some(field.as_bytes()),
        // Before HTTP/1.1 there was no Host; no browser is that old.
        (None, _) if request.version() < Version::HTTP_11 => None,
        _ => return Host::Bad,
    };
    let target = request.uri().authority().map(|a| a.as_str().as_bytes());
    let trusted = |authority: &[u8]| std::str::from_utf8(authority).is_ok_and(is_trusted);
    if field.is_none_or(trusted) && target.is_none_or(trusted) {
        Host::Trusted
    } else {
        Host::Foreign
    }
}

fn is_trusted(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(ip, port)| {
            ip.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port))
        });
    }
    let name = match authority.split_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) => return false,
        None => authority,
    };
    let dotless = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    dotless || name.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// hyper's smallest buffer is 8 KiB; heads of scrapers are far below.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A scraper that does not read its answer holds a connection no longer than this.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(10 * 60);

const INDEX: &str = "<!doctype html>\n<html lang=\"en\">\n<title>cutover</title>\n\
    <h1>cutover</h1>\n<ul>\n\
    <li><a href=\"/metrics\">/metrics</a>: Prometheus text format\n\
    <li><a href=\"/healthz\">/healthz</a>: the process is alive\n\
    <li><a href=\"/readyz\">/readyz</a>: it takes requests\n</ul>\n";

#[cfg(test)]
mod tests;
