//! A daemon between open-loop load and two releases of an app that behave as a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::support::{Edge, now};

/// How a release behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// This share of the requests is answered with 500.
    Fails(f64),
    /// Closes without an answer.
    Resets,
    /// Never answers.
    Hangs,
    /// Sends half of what it promised.
    Truncates,
    /// 404 for everything.
    NotFound,
    /// Takes this long.
    Takes(Duration),
    /// One route of fifty fails.
    OneRoute,
    /// Routes that nobody knows are not found.
    KnowsItsRoutes,
}

/// A release of an app.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) mood: Arc<Mutex<Mood>>,
    /// POSTs by path.
    pub(crate) posts: Arc<Mutex<HashMap<String, u32>>>,
    task: JoinHandle<()>,
}

impl App {
    pub(crate) fn start(runtime: &Runtime, mood: Mood) -> Self {
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("bound");
        let address = listener.local_addr().expect("an address");
        let mood = Arc::new(Mutex::new(mood));
        let posts = Arc::default();
        let (moods, counts) = (Arc::clone(&mood), Arc::clone(&posts));
        let task = runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(serve(stream, Arc::clone(&moods), Arc::clone(&counts)));
            }
        });
        Self {
            address,
            mood,
            posts,
            task,
        }
    }

    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
    }

    /// Nobody listens any more.
    pub(crate) fn dies(&self) {
        self.task.abort();
    }

    pub(crate) fn posted_twice(&self) -> usize {
        let posts = self.posts.lock().expect("no panic");
        posts.values().filter(|count| **count > 1).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    moods: Arc<Mutex<Mood>>,
    posts: Arc<Mutex<HashMap<String, u32>>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        if head.starts_with("POST") {
            *posts
                .lock()
                .expect("no panic")
                .entry(path.clone())
                .or_default() += 1;
        }
        let mood = *moods.lock().expect("no panic");
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let bad = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nbad";
        let answer = match mood {
            _ if path == "/healthz" => ok,
            Mood::Well => ok,
            Mood::Fails(share) if fastrand::f64() < share => bad,
            Mood::Fails(_) => ok,
            Mood::Resets => return,
            Mood::Hangs => std::future::pending().await,
            Mood::Truncates => {
                let half = "HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\nhalf";
                let _ = stream.write_all(half.as_bytes()).await;
                return;
            }
            Mood::NotFound => "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
            Mood::Takes(time) => {
                tokio::time::sleep(time.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
                ok
            }
            Mood::OneRoute if path == "/route/a-seven" => bad,
            Mood::OneRoute => ok,
            Mood::KnowsItsRoutes if path.starts_with("/route/") => ok,
            Mood::KnowsItsRoutes => "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// What the clients saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) sent: AtomicU64,
    pub(crate) good: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) enough: AtomicBool,
}

/// Words, as identifiers would be one route.
const WORDS: [&str; 10] = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

/// Requests at a steady rate, whatever becomes of them.
async fn load(edge: SocketAddr, rate: u32, posts: bool, seen: Arc<Seen>) {
    let mut ticker = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut number = 0_u64;
    while !seen.enough.load(Ordering::Relaxed) {
        ticker.tick().await;
        number += 1;
        let group = ["a", "b", "c", "d", "e"][usize::try_from(number / 10 % 5).expect("small")];
        let word = WORDS[usize::try_from(number % 10).expect("small")];
        let request = if posts {
            format!(
                "POST /orders/{number} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndata"
            )
        } else {
            format!(
                "GET /route/{group}-{word} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
        };
        let seen = Arc::clone(&seen);
        seen.sent.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let answered = tokio::time::timeout(Duration::from_secs(20), ask(edge, &request)).await;
            let outcome = match answered {
                Ok(Some(status)) if status < 500 => &seen.good,
                _ => &seen.errors,
            };
            outcome.fetch_add(1, Ordering::Relaxed);
        });
    }
}

/// Status of one whole answer.
pub(crate) async fn ask(edge: SocketAddr, request: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(edge).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return None;
    }
    head.split(' ').nth(1)?.parse().ok()
}

/// A daemon between load and two releases.
pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) blue: App,
    pub(crate) green: App,
    pub(crate) seen: Arc<Seen>,
    pub(crate) runtime: Runtime,
}

/// What became of a switch.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) text: String,
    /// Of what the switch said.
    pub(crate) seconds: f64,
    pub(crate) errors: u64,
}

impl World {
    /// Watched for a minute.
    pub(crate) fn start(more: &str, rate: u32, posts: bool) -> Self {
        Self::watched("60s", more, rate, posts)
    }

    pub(crate) fn watched(observe: &str, more: &str, rate: u32, posts: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (blue, green) = (
            App::start(&runtime, Mood::Well),
            App::start(&runtime, Mood::Well),
        );
        let edge = Edge::start(&format!(
            "[[site]]\nhosts = [\"localhost\"]\ndefault = true\nredirect = false\nservice = \"web\"\n\
             [service.web]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n\
             [service.web.health]\ninterval = \"500ms\"\n\
             [service.web.switch]\nobserve = \"{observe}\"\nobserve_requests = 1\n{more}",
            blue.address, green.address
        ));
        edge.wait_healthy();
        let seen = Arc::new(Seen::default());
        runtime.spawn(load(edge.http, rate, posts, Arc::clone(&seen)));
        Self {
            edge,
            blue,
            green,
            seen,
            runtime,
        }
    }

    /// The old release serves for so long.
    pub(crate) fn baseline(&self, seconds: u64) {
        let all = || self.seen.good.load(Ordering::Relaxed);
        let (before, start) = (all(), now());
        while start.elapsed() < Duration::from_secs(seconds) {
            thread::sleep(Duration::from_millis(50));
        }
        assert!(all() > before, "the load is served");
        assert_eq!(self.seen.errors.load(Ordering::Relaxed), 0);
    }

    /// Switches and waits for how that ends.
    pub(crate) fn switch(&self) -> Ended {
        let before = self.seen.errors.load(Ordering::Relaxed);
        let ended = self.edge.proxyctl(&["switch", "green"]);
        let text = format!("{}{}", ended.stdout, ended.stderr);
        let seconds = text
            .split("rolled back: by cutover: ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|number| number.parse().ok());
        // What is in flight comes back.
        thread::sleep(Duration::from_millis(300));
        Ended {
            code: ended.code,
            seconds: seconds.unwrap_or(f64::INFINITY),
            errors: self.seen.errors.load(Ordering::Relaxed) - before,
            text,
        }
    }

    /// What the edge knows of answers that were no good ones.
    fn failures(&self) -> String {
        let log = self.edge.access_log();
        let bad = log.lines().filter(|line| !line.contains(r#""status":2"#));
        bad.collect::<Vec<_>>().join("\n")
    }

    /// Switches to a release in that mood, which is undone with at most so many errors at the
    /// clients.
    pub(crate) fn is_undone(&self, mood: Mood, errors: u64) -> Ended {
        self.green.becomes(mood);
        let ended = self.switch();
        assert_eq!(ended.code, 4, "{mood:?}: {}", ended.text);
        assert!(
            ended.errors <= errors,
            "{mood:?}: {} users saw an error: {}\n{}",
            ended.errors,
            ended.text,
            self.failures()
        );
        assert_eq!(self.edge.live(), "blue");
        ended
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.seen.enough.store(true, Ordering::Relaxed);
        self.blue.dies();
        let _ = &self.runtime;
    }
}
