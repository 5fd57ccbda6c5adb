//! A hundred requests a second of three kinds, by clients that keep to the rules and remember what
//! they were promised: GET, POST, and messages over WebSockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::exchange::{Answer, exchange};
use crate::support::{now, wait_until};

/// Requests and messages a second, of all clients together.
pub(crate) const RATE: u64 = 100;

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    stop: AtomicBool,
    pub(crate) gets: AtomicU64,
    pub(crate) posts: AtomicU64,
    pub(crate) messages: AtomicU64,
    /// WebSockets that were told to come again (close code 1012).
    pub(crate) restarted: AtomicU64,
    /// Requests that were told to come again (503 with `Retry-After`): only in a maintenance.
    pub(crate) closed: AtomicU64,
    failed: Mutex<Vec<String>>,
    /// What was acknowledged: the id of each row, with its note.
    acknowledged: Mutex<BTreeMap<u64, String>>,
}

impl Seen {
    fn fail(&self, what: String) {
        self.failed.lock().expect("no panic").push(what);
    }

    fn acknowledge(&self, answer: &str, note: String) {
        match answer.trim().parse() {
            Ok(id) => {
                let mut all = self.acknowledged.lock().expect("no panic");
                all.insert(id, note);
            }
            Err(_) => self.fail(format!("no id: {answer:?}")),
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        let all = [&self.gets, &self.posts, &self.messages];
        all.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What is left when the clients have ended.
#[derive(Debug)]
pub(crate) struct Total {
    pub(crate) seen: Arc<Seen>,
    pub(crate) failed: Vec<String>,
    pub(crate) acknowledged: BTreeMap<u64, String>,
    pub(crate) seconds: f64,
}

pub(crate) struct Mixed {
    pub(crate) seen: Arc<Seen>,
    clients: Vec<JoinHandle<()>>,
    began: Instant,
}

impl Mixed {
    /// 40 % GET, 40 % POST, 20 % messages over two WebSockets; without those, half and half.
    pub(crate) fn start(edge: SocketAddr, with_sockets: bool) -> Self {
        let seen: Arc<Seen> = Arc::default();
        let (http, sockets) = match with_sockets {
            true => (RATE * 4 / 10, RATE * 2 / 10),
            false => (RATE / 2, 0),
        };
        let mut clients = Vec::new();
        for n in 0..2_u64 {
            let pace = |rate: u64| Duration::from_secs(1) * 2 / u32::try_from(rate).expect("small");
            let own = Arc::clone(&seen);
            clients.push(std::thread::spawn(move || {
                paced(&own, pace(http), |_| get(edge, &own));
            }));
            let own = Arc::clone(&seen);
            clients.push(std::thread::spawn(move || {
                paced(&own, pace(http), |count| {
                    post(edge, &own, format!("post {n}-{count}"));
                });
            }));
            if sockets > 0 {
                let own = Arc::clone(&seen);
                clients.push(std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime");
                    runtime.block_on(web_sockets(edge, &own, n, pace(sockets)));
                }));
            }
        }
        Self {
            seen,
            clients,
            began: now(),
        }
    }

    /// Waits until so many more were answered.
    pub(crate) fn more(&self, count: u64) {
        let until = self.seen.answered() + count;
        wait_until("more requests were answered", || {
            self.seen.answered() >= until
        });
    }

    pub(crate) fn end(self) -> Total {
        self.seen.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no panic");
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let failed = std::mem::take(&mut *self.seen.failed.lock().expect("no panic"));
        let acknowledged = self.seen.acknowledged.lock().expect("no panic").clone();
        Total {
            seen: self.seen,
            failed,
            acknowledged,
            seconds,
        }
    }
}

/// At this pace, whatever an answer takes.
fn paced(seen: &Seen, pace: Duration, mut one: impl FnMut(u64)) {
    let mut next = now();
    for count in 0.. {
        if seen.is_over() {
            return;
        }
        one(count);
        next += pace;
        std::thread::sleep(next.saturating_duration_since(now()));
    }
}

fn get(edge: SocketAddr, seen: &Seen) {
    match exchange(edge, "GET", "localhost", "/", "") {
        Ok(answer) if answer.status == 200 && answer.body.starts_with('v') => {
            seen.gets.fetch_add(1, Ordering::Relaxed);
        }
        other => refused(seen, "GET", other),
    }
}

fn post(edge: SocketAddr, seen: &Seen, note: String) {
    match exchange(edge, "POST", "localhost", "/orders", &note) {
        Ok(answer) if answer.status == 200 => {
            seen.posts.fetch_add(1, Ordering::Relaxed);
            seen.acknowledge(&answer.body, note);
        }
        other => refused(seen, "POST", other),
    }
}

fn refused(seen: &Seen, method: &str, answer: Result<Answer, String>) {
    let is_told_when = |head: &str| head.to_ascii_lowercase().contains("\r\nretry-after:");
    match answer {
        Ok(answer) if answer.status == 503 && is_told_when(&answer.head) => {
            seen.closed.fetch_add(1, Ordering::Relaxed);
        }
        other => seen.fail(format!("{method}: {other:?}")),
    }
}

/// One connection after the other. A message that was not acknowledged is sent again on the next.
async fn web_sockets(edge: SocketAddr, seen: &Seen, client: u64, pace: Duration) {
    let mut count = 0_u64;
    while !seen.is_over() {
        let connected = async {
            let socket = tokio::net::TcpStream::connect(edge).await?;
            let (socket, _) = tokio_tungstenite::client_async("ws://localhost/ws", socket).await?;
            Ok::<_, Error>(socket)
        };
        let mut socket = match connected.await {
            Ok(socket) => socket,
            Err(error) => {
                seen.fail(format!("WebSocket: {error}"));
                tokio::time::sleep(pace).await;
                continue;
            }
        };
        let mut ticker = tokio::time::interval(pace);
        loop {
            tokio::select! {
                // Something came that was not asked for: the end of it.
                unasked = socket.next() => {
                    ended(seen, unasked);
                    break;
                }
                _ = ticker.tick() => {}
            }
            if seen.is_over() {
                let _ = socket.close(None).await;
                break;
            }
            let note = format!("message {client}-{count}");
            let sent = socket.send(Message::text(note.clone())).await;
            match socket.next().await {
                Some(Ok(Message::Text(answer))) if sent.is_ok() => {
                    seen.messages.fetch_add(1, Ordering::Relaxed);
                    seen.acknowledge(answer.as_str(), note);
                    count += 1;
                }
                other => {
                    ended(seen, other);
                    break;
                }
            }
        }
    }
}

/// Close code 1012 says that the service restarts, and that the client may come again.
fn ended(seen: &Seen, last: Option<Result<Message, Error>>) {
    match last {
        Some(Ok(Message::Close(Some(close)))) if close.code == CloseCode::Restart => {
            seen.restarted.fetch_add(1, Ordering::Relaxed);
        }
        other => seen.fail(format!("WebSocket: {other:?}")),
    }
}
