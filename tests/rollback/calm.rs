//! What is no reason to go back, or no reason to move at all.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::RATE;
use crate::support::{now, wait_for, wait_until};
use crate::world::{Mood, World, ask};

/// Until so much time is over since `start`.
fn until(start: std::time::Instant, seconds: u64) {
    while start.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(Duration::from_millis(20));
    }
}

impl World {
    /// Switches without waiting for how it ends.
    fn switches(&self, more: &[&str]) {
        let ended = self
            .edge
            .proxyctl(&[&["switch", "green", "--no-wait"], more].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(self.edge.live(), "green");
    }

    /// The evidence of the last watch.
    pub(crate) fn judged(&self) -> Value {
        let judged = self.edge.proxyctl(&["judge", "--json"]);
        assert_eq!(judged.code, 0, "{judged:?}");
        let report: Value = serde_json::from_str(&judged.stdout).expect("JSON");
        report["services"][0].clone()
    }

    fn is_kept(&self) {
        wait_for(Duration::from_secs(90), "the release is kept", || {
            let log = self.edge.log();
            assert!(!log.contains("the verdict is to"), "{log}");
            self.judged()["over"] == true
        });
        assert_eq!(self.edge.live(), "green");
        let history = self.edge.proxyctl(&["history"]).stdout;
        assert!(!history.contains("rollback"), "{history}");
    }
}

#[test]
fn an_outage_of_what_both_need_is_held_and_then_goes_on() {
    let world = World::start("", RATE, false);
    world.baseline(4);
    let mut switch = world.edge.proxyctl_command();
    let mut running = switch
        .args(["switch", "green"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    wait_until("green is live", || world.edge.live() == "green");
    let outage = now();
    for app in [&world.blue, &world.green] {
        app.becomes(Mood::Fails(1.0));
    }
    wait_until("it is held", || {
        let log = world.edge.log();
        assert!(!log.contains("the verdict is to go back"), "{log}");
        log.contains("shared cause")
    });
    assert_eq!(world.judged()["state"], "held");
    until(outage, 10);
    for app in [&world.blue, &world.green] {
        app.becomes(Mood::Well);
    }
    wait_for(Duration::from_secs(180), "the watch goes on", || {
        world.judged()["state"] == "watching" || world.judged()["over"] == true
    });
    assert_eq!(running.wait().expect("ended").code(), Some(0), "and kept");
    assert_eq!(world.edge.live(), "green");
}

#[test]
fn nothing_goes_back_to_an_old_release_that_is_dead() {
    let world = World::start("", RATE, false);
    world.baseline(4);
    world.switches(&[]);
    world.blue.dies();
    wait_until("blue is known to be down", || {
        let status = world.edge.status();
        status["services"][0]["slots"]["blue"]["upstreams"][0]["healthy"] == false
    });
    world.green.becomes(Mood::Fails(1.0));
    wait_until("it is held", || {
        world.edge.log().contains("the verdict is to hold")
    });
    assert_eq!(world.edge.live(), "green");
}

#[test]
fn a_scanner_that_finds_nothing_says_nothing() {
    let world = World::watched("12s", "", RATE, false);
    for app in [&world.blue, &world.green] {
        app.becomes(Mood::KnowsItsRoutes);
    }
    world.baseline(6);
    let edge = world.edge.http;
    let scanner = world.runtime.spawn(scan(edge));
    world.switches(&[]);
    world.is_kept();
    scanner.abort();
    let judged = world.judged();
    assert!(
        judged["requests"]["all"].as_u64() > Some(12 * 150),
        "{judged}"
    );
}

/// Fifty requests a second for what no app has.
async fn scan(edge: SocketAddr) {
    let mut ticker = tokio::time::interval(Duration::from_millis(20));
    for number in 0.. {
        ticker.tick().await;
        let request = format!(
            "GET /wp-content/{number}/setup.php HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        );
        tokio::spawn(async move { ask(edge, &request).await });
    }
}

#[test]
fn clients_that_give_up_say_nothing() {
    let world = World::watched("10s", "", RATE, false);
    let slow = Mood::Takes(Duration::from_millis(150));
    for app in [&world.blue, &world.green] {
        app.becomes(slow);
    }
    world.baseline(6);
    world.switches(&[]);
    let edge = world.edge.http;
    let leaving = world.runtime.spawn(async move {
        let each = (0..500_u64).map(|number| {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(10 * number)).await;
                let request = "GET /route/a-one HTTP/1.1\r\nhost: localhost\r\n\r\n";
                let mut stream = TcpStream::connect(edge).await.expect("connected");
                stream.write_all(request.as_bytes()).await.expect("asked");
                // Long enough to be under way at the app, too short for an answer.
                tokio::time::sleep(Duration::from_millis(40)).await;
            })
        });
        futures_util::future::join_all(each).await.len()
    });
    world.is_kept();
    let left = world.runtime.block_on(leaving).expect("no panic");
    assert_eq!(left, 500);
    let gone = world.edge.access_log().matches(r#""status":499"#).count();
    assert!(gone >= 400, "{gone} of the clients are known to have left");
}

#[test]
fn a_cold_start_says_nothing() {
    let world = World::watched("40s", "", RATE, false);
    world.blue.becomes(Mood::Takes(Duration::from_millis(30)));
    world.green.becomes(Mood::Takes(Duration::from_millis(90)));
    world.baseline(6);
    let start = now();
    world.switches(&[]);
    until(start, 20);
    world.green.becomes(Mood::Takes(Duration::from_millis(30)));
    world.is_kept();
}

#[test]
fn a_mode_that_only_observes_says_what_it_would_do() {
    let world = World::watched("6s", "[rollback]\nmode = \"observe\"\n", RATE, false);
    world.baseline(4);
    world.green.becomes(Mood::Fails(0.5));
    let ended = world.switch();
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert_eq!(world.edge.live(), "green");
    let history = world.edge.proxyctl(&["history"]).stdout;
    assert!(history.contains("would go back"), "{history}");
}

#[test]
fn a_mode_that_is_off_judges_nothing() {
    let world = World::watched("4s", "[rollback]\nmode = \"off\"\n", RATE, false);
    world.baseline(2);
    world.green.becomes(Mood::Fails(0.5));
    let ended = world.switch();
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert!(ended.errors > 0, "and rescues nobody");
    let log = world.edge.log();
    assert!(!log.contains("verdict") && !log.contains("would"), "{log}");
}

#[test]
fn a_switch_that_nobody_confirms_is_undone() {
    let world = World::watched("3s", "", RATE, false);
    world.baseline(2);
    world.switches(&["--confirm-within", "5s"]);
    wait_until("nobody confirmed", || world.edge.live() == "blue");
    let history = world.edge.proxyctl(&["history"]).stdout;
    assert!(history.contains("confirm"), "{history}");
    // That says nothing against the release.
    world.switches(&["--confirm-within", "5s"]);
    let promoted = world.edge.proxyctl(&["promote"]);
    assert_eq!(promoted.code, 0, "{promoted:?}");
    let start = now();
    until(start, 6);
    assert_eq!(world.edge.live(), "green");
    assert_eq!(world.seen.errors.load(Ordering::Relaxed), 0);
}
