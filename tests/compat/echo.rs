//! The upstream of both servers: it keeps what it received, and answers as the request asks.
//!
//! `Reply: 404 Content-Type=text/html X-A=1 size=1000 text=some+words` is the answer; without it: 200 and a line
//! of text. `Upgrade: websocket` is answered with 101, and the bytes after it are sent back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Of which upstream.
    pub at: &'static str,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An upstream.
#[derive(Debug)]
pub struct Echo {
    pub addr: SocketAddr,
}

/// Where every upstream notes what it got.
pub type Notes = Arc<Mutex<Vec<Received>>>;

impl Echo {
    pub async fn start(name: &'static str, notes: Notes) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(name, socket, Arc::clone(&notes)));
            }
        });
        Self { addr }
    }
}

async fn serve(name: &'static str, socket: TcpStream, notes: Notes) {
    let service = service_fn(move |request| answer(name, request, Arc::clone(&notes)));
    let server = auto::Builder::new(TokioExecutor::new());
    // An error is a probe or a client that left.
    let _ = server
        .serve_connection_with_upgrades(TokioIo::new(socket), service)
        .await;
}

async fn answer(
    name: &'static str,
    mut request: Request<Incoming>,
    notes: Notes,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let upgrade = request.headers().contains_key("upgrade").then(|| {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            let mut io = TokioIo::new(upgraded);
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = io.read(&mut buffer).await {
                if io.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        });
    });
    let (head, body) = request.into_parts();
    let body = match upgrade {
        Some(()) => Bytes::new(),
        None => body.collect().await?.to_bytes(),
    };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let received = Received {
        at: name,
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head
            .headers
            .iter()
            .map(|(n, v)| (n.to_string(), text(v)))
            .collect(),
        body: body.to_vec(),
    };
    let reply = head.headers.get("reply").map(text).unwrap_or_default();
    let mut response = reply_to(&received, &reply);
    if upgrade.is_some() {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.body_mut() = Full::default();
        for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket")] {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
    }
    notes.lock().expect("no panic").push(received);
    Ok(response)
}

fn reply_to(received: &Received, reply: &str) -> Response<Full<Bytes>> {
    let Received {
        at, method, target, ..
    } = received;
    let line = format!("{at}: {method} {target}\n");
    let mut response = Response::new(Full::from(line));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert("content-type", kind);
    for word in reply.split_whitespace() {
        match word.split_once('=') {
            None => *response.status_mut() = word.parse().expect("a status"),
            Some(("size", size)) => {
                let size = size.parse().expect("a size");
                let text: Vec<u8> = b"all work and no play\n"
                    .iter()
                    .copied()
                    .cycle()
                    .take(size)
                    .collect();
                *response.body_mut() = Full::from(text);
            }
            Some(("text", text)) => *response.body_mut() = Full::from(text.replace('+', " ")),
            Some((name, value)) => {
                let name: HeaderName = name.parse().expect("a field name");
                let value = HeaderValue::from_str(&value.replace('+', " ")).expect("a value");
                match name == http::header::CONTENT_TYPE {
                    true => drop(response.headers_mut().insert(name, value)),
                    false => drop(response.headers_mut().append(name, value)),
                }
            }
        }
    }
    response
}
