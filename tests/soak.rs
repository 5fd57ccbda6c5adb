//! Long repetitions, in a short form by default. `just soak` runs the long one: counts are kept
//! in `target/soak` and a soak that was interrupted goes on where it ended.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;
use support::clients::{Seen, http1_client, http2_client};
use support::counts::{Counts, wanted};
use support::journal::named_by_the_journal;
use support::{Edge, Origins, curl, wait_until};

/// Memory and descriptors of the daemon once drains are over.
fn at_rest(edge: &Edge) -> (u64, usize) {
    wait_until("no drain is left", || {
        let drains = edge.status()["services"][0]["drains"].clone();
        drains.as_array().is_none_or(Vec::is_empty)
    });
    (edge.resident_kib(), edge.descriptors())
}

#[test]
fn switches_back_and_forth_under_load_lose_nothing_and_leak_nothing() {
    const BATCH: u64 = 100;
    // With fewer a leak of some KiB a switch would not show in the bound below.
    let switches = wanted("SOAK_SWITCHES", 1_000);
    let counts = Counts::of("switches");
    let mut done = counts.done("switches");
    if done >= switches {
        assert_eq!(
            counts.done("lost"),
            0,
            "lost in an earlier part of the soak"
        );
        return;
    }
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\ndrain = \"5s\""));
    edge.wait_healthy();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut first: Option<(u64, usize)> = None;
    let mut last = (0, 0);
    while done < switches {
        let seen: Arc<Seen> = Arc::default();
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let seen = Arc::clone(&seen);
                match client {
                    0..=2 => runtime.spawn(http1_client(edge.http, usize::MAX, seen)),
                    3 => runtime.spawn(http1_client(edge.http, 1, seen)),
                    _ => runtime.spawn(http2_client(edge.http, seen)),
                }
            })
            .collect();
        let batch = BATCH.min(switches - done);
        for n in done..done + batch {
            let target = if edge.live() == "blue" {
                "green"
            } else {
                "blue"
            };
            let switched = edge.proxyctl(&["switch", target, "--no-wait"]);
            assert_eq!(switched.code, 0, "switch {n}: {switched:?}");
            assert_eq!(edge.live(), target, "switch {n}");
        }
        seen.enough();
        for client in clients {
            runtime.block_on(client).expect("a client's task");
        }
        done += batch;
        last = at_rest(&edge);
        counts.add(&json!({
            "switches": batch, "answered": seen.answered(), "lost": seen.lost(),
            "resident_kib": last.0, "descriptors": last.1,
        }));
        assert_eq!(seen.lost(), 0, "after {done} switches: {seen:?}");
        assert!(seen.answered() > batch, "{seen:?}");
        // The first batch fills caches and pools.
        first.get_or_insert(last);
    }
    let first = first.expect("at least one batch");
    assert!(
        last.0 < first.0 + 16 * 1024,
        "memory grew from {} KiB to {} KiB",
        first.0,
        last.0
    );
    assert!(
        last.1 <= first.1 + 16,
        "descriptors grew from {} to {}",
        first.1,
        last.1
    );
}

/// Two services that switch together.
fn stack(origins: &Origins, observe: &str) -> String {
    let (blue, green) = (origins.blue.addr, origins.green.addr);
    let service = |name: &str| {
        format!(
            "[service.{name}]\nblue = [\"{blue}\"]\ngreen = [\"{green}\"]\n\
             [service.{name}.health]\ninterval = \"500ms\"\n\
             [service.{name}.switch]\nobserve = \"{observe}\"\ndrain = \"1s\"\n"
        )
    };
    format!(
        "[[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\nredirect = false\nservice = \"web\"\n\
         [[site.route]]\npath = \"/api/*\"\nservice = \"api\"\n{}{}",
        service("web"),
        service("api")
    )
}

/// The live color of every service, which must be one and the same.
fn one_live_color(edge: &Edge, when: &str) -> String {
    let status = edge.status();
    let services = status["services"].as_array().expect("services");
    let live: Vec<_> = services
        .iter()
        .map(|service| service["live"].as_str().expect("a color"))
        .collect();
    assert_eq!(live.len(), 2, "{when}: {status}");
    assert_eq!(live[0], live[1], "{when}: half switched: {status}");
    for path in ["/", "/api/x"] {
        let answer = curl(&[&format!("http://{}{path}", edge.http)]);
        assert_eq!(
            (answer.code, answer.stdout.as_str()),
            (0, live[0]),
            "{when}: {answer:?}"
        );
    }
    live[0].to_owned()
}

/// Clients that see the proxy die: a lost connection is no fault then, a wrong answer is.
struct Visitors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Visitors {
    fn start(address: SocketAddr) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let visit = move |stop: Arc<AtomicBool>| {
            let mut wrong = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut socket) = TcpStream::connect(address) else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
                let mut answer = [0; 2_048];
                while !stop.load(Ordering::Relaxed) {
                    if socket.write_all(ask).is_err() {
                        break;
                    }
                    match socket.read(&mut answer) {
                        Ok(0) | Err(_) => break,
                        Ok(_) if answer.starts_with(b"HTTP/1.1 200") => {}
                        Ok(length) => {
                            wrong.push(String::from_utf8_lossy(&answer[..length]).into_owned())
                        }
                    }
                }
            }
            wrong
        };
        let threads = (0..2).map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || visit(stop))
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let wrong = thread.join().expect("a visitor");
            assert_eq!(wrong, [] as [String; 0], "answers while the daemon was up");
        }
    }
}

/// Kills the daemon before or after a disk operation of its journal, or at any other moment, in
/// the middle of switches and rollbacks; the next start must have one live color for the whole
/// stack, the one that the journal names, and no acknowledged switch is lost.
#[test]
fn a_killed_daemon_comes_back_with_one_live_color() {
    let kills = wanted("SOAK_KILLS", 25);
    let counts = Counts::of("kills");
    let origins = Origins::start();
    let mut edge = Edge::start(&stack(&origins, "0s"));
    one_live_color(&edge, "at the start");
    edge.stop("-KILL");
    for seed in counts.done("kills")..kills {
        let mut random = fastrand::Rng::with_seed(seed);
        let when = format!("seed {seed}");
        let observe = if random.bool() { "0s" } else { "10m" };
        edge.write(&stack(&origins, observe));
        let at_operation = random.u64(1..60).to_string();
        edge.spawn_with(&[("CUTOVER_CRASH_AT", at_operation.clone())]);
        let visitors = Visitors::start(edge.http);
        let mut acknowledged = None;
        let mut said = Vec::new();
        wait_until("it is ready or gone", || {
            edge.has_ended() || edge.is_ready()
        });
        for _ in 0..6 {
            if edge.has_ended() {
                break;
            }
            let target = ["blue", "green"][random.usize(0..2)];
            let arguments: &[&str] = match random.u8(0..8) {
                0..4 if observe == "0s" => &["switch", target, "--force"],
                0..5 => &["switch", target, "--force", "--no-wait"],
                5 | 6 => &["rollback"],
                _ => &["promote"],
            };
            let ended = edge.proxyctl(arguments);
            said.push(format!(
                "{arguments:?}: {} {}",
                ended.code,
                ended.stderr.trim()
            ));
            // What was waited for to its end is on disk; anything else may be or not.
            let waited = arguments[0] == "switch" && !arguments.contains(&"--no-wait");
            match ended.code {
                0 if waited => acknowledged = Some(target),
                3 => {}
                _ => acknowledged = None,
            }
        }
        if !edge.has_ended() {
            edge.stop("-KILL");
        }
        edge.child = None;
        visitors.finish();
        let named = named_by_the_journal(&edge);
        edge.spawn();
        let live = one_live_color(&edge, &when);
        let told = format!(
            "{when}: operation {at_operation}, {said:#?}\n{}",
            edge.log()
        );
        assert_eq!(live, named, "not what the journal names; {told}");
        if let Some(acknowledged) = acknowledged {
            assert_eq!(
                live, acknowledged,
                "an acknowledged switch was lost; {told}"
            );
        }
        edge.stop("-KILL");
        counts.add(&json!({"kills": 1, "seed": seed, "operation": at_operation, "live": live, "commands": said.len()}));
    }
}
