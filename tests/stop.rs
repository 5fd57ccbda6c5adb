//! A stop, seen by clients that keep to the rules of HTTP.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{Edge, Origins, curl, now, wait_until};
use tokio::net::TcpStream;

/// What the clients of one kind saw.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicU64,
    lost: AtomicU64,
}

impl Seen {
    fn count(&self, answered: bool) {
        let counter = if answered { &self.answered } else { &self.lost };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn assert_nothing_lost(&self, kind: &str) {
        let (answered, lost) = (
            self.answered.load(Ordering::SeqCst),
            self.lost.load(Ordering::SeqCst),
        );
        assert!(answered > 50, "{kind}: only {answered} were answered");
        assert_eq!(lost, 0, "{kind}: lost beside {answered} answered");
    }
}

fn request(path: &str, close: bool) -> Request<Empty<Bytes>> {
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
async fn http1_client(address: SocketAddr, limit: usize, seen: Arc<Seen>) {
    // Refused, or not answered any more: the server is gone, which is no lost request.
    while let Ok(Ok(socket)) =
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
            let Ok(response) = sender.send_request(request("/", sent == limit)).await else {
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

/// One connection, eight requests at a time until the server sends GOAWAY.
async fn http2_client(address: SocketAddr, seen: Arc<Seen>) {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let (mut sender, seen) = (sender.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                while sender.ready().await.is_ok() {
                    match sender.send_request(request("/", false)).await {
                        Ok(response) => {
                            let whole = response.status() == 200;
                            seen.count(whole && response.into_body().collect().await.is_ok());
                        }
                        // Never sent: a GOAWAY came first (RFC 9113 §6.8).
                        Err(error) if error.is_canceled() => return,
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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn a_stop_under_load_loses_no_request_and_ends_with_the_last_one() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config(""));
    edge.wait_healthy();
    let clients = runtime();
    let kinds: [(&str, Arc<Seen>); 3] =
        ["keep-alive", "new connections", "h2c"].map(|kind| (kind, Arc::default()));
    let address = edge.http;
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(clients.spawn(http1_client(address, usize::MAX, Arc::clone(&kinds[0].1))));
    }
    for _ in 0..4 {
        running.push(clients.spawn(http1_client(address, 1, Arc::clone(&kinds[1].1))));
    }
    for _ in 0..2 {
        running.push(clients.spawn(http2_client(address, Arc::clone(&kinds[2].1))));
    }
    // A client that keeps its connection open and says nothing must not hold up the stop.
    let idle = clients.block_on(async {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .expect("HTTP/1.1");
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request("/", false)).await;
        answer
            .expect("an answer")
            .into_body()
            .collect()
            .await
            .expect("a body");
        (sender, connection)
    });
    let slow = std::thread::spawn(move || {
        let answer = curl(&[&format!("http://{address}/slow?ms=5000")]);
        (answer, now())
    });
    wait_until(
        "the slow request is in flight and all kinds get answers",
        || {
            edge.status()["services"][0]["slots"]["blue"]["in_flight"]["request"].as_u64()
                >= Some(1)
                && kinds
                    .iter()
                    .all(|(_, seen)| seen.answered.load(Ordering::SeqCst) > 100)
        },
    );
    let (took, code) = edge.stop("-TERM");
    let stopped = now();
    assert_eq!(code, Some(0), "{}", edge.log());
    let (answer, answered) = slow.join().expect("the slow client");
    assert_eq!(
        (answer.code, answer.stdout.as_str()),
        (0, "blue"),
        "{answer:?}"
    );
    let after = stopped.saturating_duration_since(answered);
    assert!(
        after < Duration::from_secs(2),
        "ended {after:?} after the last request, {took:?} after the signal; the grace is 10 s"
    );
    clients.block_on(async {
        for client in running {
            client.await.expect("a client's task");
        }
    });
    for (kind, seen) in &kinds {
        seen.assert_nothing_lost(kind);
    }
    drop(idle);
}

#[test]
fn readiness_goes_first_and_the_delay_serves_on() {
    let origins = Origins::start();
    let mut edge = Edge::start(&format!(
        "{}\n",
        origins.config("").replacen("[[site]]", "[[site]]", 1)
    ));
    let text = std::fs::read_to_string(edge.config()).expect("the configuration");
    let delayed = text.replacen("[listen]", "shutdown_delay = \"3s\"\n[listen]", 1);
    std::fs::write(edge.config(), delayed).expect("write");
    assert_eq!(edge.proxyctl(&["reload"]).code, 0, "{}", edge.log());
    let (http, ops) = (edge.http, edge.ops);
    let watcher = std::thread::spawn(move || {
        let ready = format!("http://{ops}/readyz");
        wait_until("readiness is gone", || {
            let answer = curl(&[
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                &ready,
            ]);
            answer.stdout == "503"
        });
        let since = now();
        let mut served = 0;
        while since.elapsed() < Duration::from_millis(1_500) {
            let answer = curl(&["--include", &format!("http://{http}/")]);
            assert_eq!(answer.code, 0, "not served in the delay: {answer:?}");
            assert!(!answer.stdout.to_lowercase().contains("connection: close"));
            served += 1;
        }
        served
    });
    let (took, code) = edge.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(watcher.join().expect("the watcher") > 0);
    assert!(took >= Duration::from_secs(3), "the delay was {took:?}");
    assert!(took < Duration::from_secs(9), "the stop took {took:?}");
}

#[test]
fn the_descriptor_limit_is_the_hard_one() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config(""));
    let pid = edge.child.as_ref().expect("running").id();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("/proc");
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("the limit");
    let mut values = files.split_whitespace();
    assert_eq!(values.next(), values.next(), "soft and hard: {files}");
}
