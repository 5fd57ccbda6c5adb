//! Clients that keep to the rules of HTTP and count what they lose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// What the clients of one kind saw.
#[derive(Debug, Default)]
pub struct Seen {
    answered: AtomicU64,
    lost: AtomicU64,
    enough: AtomicBool,
}

impl Seen {
    fn count(&self, answered: bool) {
        let counter = if answered { &self.answered } else { &self.lost };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    /// Whole answers with status 200.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Requests that were sent and got anything else.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    /// Lets the clients end after their current request.
    pub fn enough(&self) {
        self.enough.store(true, Ordering::SeqCst);
    }

    fn wants_more(&self) -> bool {
        !self.enough.load(Ordering::SeqCst)
    }
}

/// A GET of `path`; `close`: the last of its connection.
pub fn request(path: &str, close: bool) -> Request<Empty<Bytes>> {
    let mut request = Request::builder()
        .uri(format!("http://localhost{path}"))
        .header(header::HOST, "localhost");
    if close {
        request = request.header(header::CONNECTION, "close");
    }
    request.body(Empty::new()).expect("a request")
}

/// One connection after the other until nobody listens. On each: requests until the server says
/// that it closes (RFC 9112 §9.6), at most `limit`.
pub async fn http1_client(address: SocketAddr, limit: usize, seen: Arc<Seen>) {
    // Refused, or not answered any more: the server is gone, which is no lost request.
    while seen.wants_more()
        && let Ok(Ok(socket)) =
            tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(socket)).await else {
            seen.count(false);
            continue;
        };
        let connection = tokio::spawn(connection);
        for sent in 1..=limit {
            if sent > 1 && sender.ready().await.is_err() {
                break;
            }
            let last = sent == limit || !seen.wants_more();
            let Ok(response) = sender.send_request(request("/", last)).await else {
                seen.count(false);
                break;
            };
            let closes = response
                .headers()
                .get(header::CONNECTION)
                .is_some_and(|value| value == "close");
            let whole = response.status() == 200;
            let whole = whole && response.into_body().collect().await.is_ok();
            seen.count(whole);
            if closes || !whole {
                break;
            }
        }
        drop(sender);
        connection.abort();
    }
}

/// Whether a request was certainly not processed: the connection said a GOAWAY without an error
/// before it was sent, or named an earlier stream as its last (RFC 9113 §6.8). A stream that the
/// server took ends in another way, whatever becomes of it.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let refused = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        });
    error.is_canceled() || refused
}

/// One connection, eight requests at a time until the server sends GOAWAY.
pub async fn http2_client(address: SocketAddr, seen: Arc<Seen>) {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let (mut sender, seen) = (sender.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                while seen.wants_more() && sender.ready().await.is_ok() {
                    match sender.send_request(request("/", false)).await {
                        Ok(response) => {
                            let whole = response.status() == 200;
                            seen.count(whole && response.into_body().collect().await.is_ok());
                        }
                        Err(error) if is_unprocessed(&error) => return,
                        Err(_) => seen.count(false),
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let connection = tokio::spawn(connection);
    for stream in streams {
        stream.await.expect("a stream's task");
    }
    connection.abort();
}
