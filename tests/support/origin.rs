//! A scriptable upstream: HTTP/1.1 and h2c on one port, with every way to behave badly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What a test reads and sets.
#[derive(Debug, Default)]
pub struct State {
    /// Connections open now.
    pub open: AtomicUsize,
    /// Requests since the start.
    pub requests: AtomicU64,
    /// Requests by path.
    pub paths: Mutex<BTreeMap<String, u64>>,
    /// How `/healthz` behaves: `ok`, `fail`, `slow` or `hang`.
    pub health: Mutex<String>,
}

/// A running origin; it ends with the runtime.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it counted.
    pub state: Arc<State>,
}

impl Origin {
    /// Starts one that answers `X-Origin: name`, on a port of the system's choice if `addr` has
    /// port 0.
    pub async fn start(name: &'static str, addr: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let origin = Self {
            addr: listener.local_addr()?,
            state: Arc::default(),
        };
        let state = Arc::clone(&origin.state);
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue;
                };
                let _ = socket.set_nodelay(true);
                tokio::spawn(serve(name, socket, Arc::clone(&state)));
            }
        });
        Ok(origin)
    }

    /// The same over TLS.
    pub async fn start_tls(
        name: &'static str,
        addr: SocketAddr,
        config: Arc<rustls::ServerConfig>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let origin = Self {
            addr: listener.local_addr()?,
            state: Arc::default(),
        };
        let state = Arc::clone(&origin.state);
        let acceptor = TlsAcceptor::from(config);
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue;
                };
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
                tokio::spawn(async move {
                    match acceptor.accept(socket).into_fallible().await {
                        Ok(socket) => serve(name, socket, state).await,
                        // A client that was refused, or one that refused. It learns why only if
                        // what it sent meanwhile does not reset the connection.
                        Err((_, mut socket)) => {
                            let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
                        }
                    }
                });
            }
        });
        Ok(origin)
    }
}

async fn serve<S>(name: &'static str, socket: S, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    state.open.fetch_add(1, Ordering::SeqCst);
    let counted = Arc::clone(&state);
    let service = service_fn(move |request| answer(name, request, Arc::clone(&counted)));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1_000);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(socket), service);
    // An error is a client that left, or an answer that was broken off on purpose.
    let _ = connection.await;
    state.open.fetch_sub(1, Ordering::SeqCst);
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let number = |key: &str, default: u64| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, _)| *name == key)
            .find_map(|(_, value)| value.parse().ok())
            .unwrap_or(default)
    };
    if path != "/healthz" && path != "/counters" {
        state.requests.fetch_add(1, Ordering::SeqCst);
        if let Ok(mut paths) = state.paths.lock() {
            *paths.entry(path.clone()).or_default() += 1;
        }
    }
    let mut response = match path.as_str() {
        "/healthz" => health(&state).await,
        "/ctl" => {
            let wanted = query.strip_prefix("health=").unwrap_or("ok").to_owned();
            *state.health.lock().expect("not poisoned") = wanted;
            text("done\n")
        }
        "/counters" => text(&format!(
            "{{\"open\":{},\"requests\":{}}}\n",
            state.open.load(Ordering::SeqCst),
            state.requests.load(Ordering::SeqCst)
        )),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number("ms", 1_000))).await;
            text(name)
        }
        "/sse" => events(number("n", 10), number("every_ms", 100)),
        "/drip" => drip(number("n", 10), number("every_ms", 100)),
        "/upload" => upload(request).await?,
        "/echo" => echo(request).await?,
        "/headers" => headers(&request),
        "/ws" => return Ok(websocket(request)),
        // The connection ends without an answer.
        "/close" => return Err("closed on purpose".into()),
        "/truncated" => truncated(),
        "/trailers" => trailers(),
        _ => match path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
            Some(count) => zeros(count),
            None => match path
                .strip_prefix("/status/")
                .and_then(|code| code.parse().ok())
            {
                Some(code) => {
                    let mut response = text("as asked\n");
                    *response.status_mut() = StatusCode::from_u16(code)?;
                    response
                }
                None => text(name),
            },
        },
    };
    response
        .headers_mut()
        .insert("x-origin", HeaderValue::from_static(name));
    Ok(response)
}

async fn health(state: &State) -> Response<Body> {
    let health = state.health.lock().expect("not poisoned").clone();
    match health.as_str() {
        "fail" => {
            let mut response = text("{\"status\":\"starting\"}\n");
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            text("{\"status\":\"ok\"}\n")
        }
        "hang" => std::future::pending().await,
        _ => text("{\"status\":\"ok\"}\n"),
    }
}

fn text(body: &str) -> Response<Body> {
    Response::new(full(Bytes::copy_from_slice(body.as_bytes())))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn stream(items: impl futures_util::Stream<Item = Bytes> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(items.map(|bytes| Ok(Frame::data(bytes)))))
}

/// One chunk of text each `every_ms`.
fn paced(n: u64, every_ms: u64, form: fn(u64) -> String) -> Body {
    stream(futures_util::stream::unfold(0, move |i| async move {
        if i == n {
            return None;
        }
        if i > 0 {
            tokio::time::sleep(Duration::from_millis(every_ms)).await;
        }
        Some((Bytes::from(form(i)), i + 1))
    }))
}

fn events(n: u64, every_ms: u64) -> Response<Body> {
    let mut response = Response::new(paced(n, every_ms, |i| {
        format!("id: {i}\ndata: event {i}\n\n")
    }));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", kind);
    response
}

fn drip(n: u64, every_ms: u64) -> Response<Body> {
    Response::new(paced(n, every_ms, |i| format!("line {i}\n")))
}

fn zeros(count: u64) -> Response<Body> {
    static CHUNK: [u8; 64 * 1024] = [b'0'; 64 * 1024];
    let body = futures_util::stream::unfold(count, |left| async move {
        let size = left.min(CHUNK.len() as u64);
        (size > 0).then(|| (Bytes::from_static(&CHUNK[..size as usize]), left - size))
    });
    let mut response = Response::new(stream(body));
    response
        .headers_mut()
        .insert("content-length", count.into());
    response
}

/// Promises more than it sends.
fn truncated() -> Response<Body> {
    let items = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from_static(b"half"))),
        Err("cut on purpose".into()),
    ]);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(items)));
    response
        .headers_mut()
        .insert("content-length", 1_000.into());
    response
}

/// Text, then a trailer.
fn trailers() -> Response<Body> {
    let mut fields = http::HeaderMap::new();
    fields.insert("x-end", HeaderValue::from_static("1"));
    let items = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from("a line of text\n".repeat(1_000)))),
        Ok(Frame::trailers(fields)),
    ]);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(items)));
    let kind = HeaderValue::from_static("text/plain");
    response.headers_mut().insert("content-type", kind);
    response
}

async fn upload(
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let mut body = request.into_body();
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            bytes += data.len() as u64;
        }
    }
    Ok(text(&format!("{bytes}\n")))
}

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Response::new(
        request.into_body().map_err(Into::into).boxed(),
    ))
}

/// The request as it arrived: target and headers, a line each.
fn headers(request: &Request<Incoming>) -> Response<Body> {
    let mut lines = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        lines.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    text(&lines)
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        let mut response = text("not a WebSocket request\n");
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert("sec-websocket-accept", accept);
    }
    response
}
