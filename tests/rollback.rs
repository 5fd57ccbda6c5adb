//! What users see of a bad release: how long it stays, how many of them meet it, and that a
//! healthy one stays. Open-loop load, counted at the client; every mode of failure at the app.

mod support;

#[path = "rollback/calm.rs"]
mod calm;
#[path = "rollback/kills.rs"]
mod kills;
#[path = "rollback/notes.rs"]
mod notes;
#[path = "rollback/world.rs"]
mod world;

use std::thread;
use std::time::Duration;

use serde_json::json;
use support::counts::{Counts, wanted};
use support::wait_until;
use world::{Ended, Mood, World};

const RATE: u32 = 200;

/// Once here, as often as `SOAK_ROLLBACKS` says in the soak; what each run showed is kept. A run
/// may take three times as long as the median of many.
fn repeated(name: &str, median: f64, run: impl Fn() -> Ended) {
    let rounds = wanted("SOAK_ROLLBACKS", 1);
    let counts = Counts::of(&format!("rollback-{name}"));
    for _ in counts.done("runs")..rounds {
        let ended = run();
        assert!(ended.seconds <= 3.0 * median, "{name}: {}", ended.text);
        counts.add(&json!({
            "runs": 1, "milliseconds": (ended.seconds * 1e3) as u64, "errors": ended.errors,
            "said": ended.text.lines().find(|line| line.contains("rolled back: ")),
        }));
    }
    let mut all = counts.all("milliseconds");
    all.sort_unstable();
    if let Some(middle) = all.get(all.len() / 2) {
        assert!(*middle as f64 <= median * 1e3, "{name}: {all:?}");
    }
}

#[test]
fn a_release_that_fails_everything_is_undone_in_a_second_and_no_user_sees_it() {
    repeated("all", 1.5, || {
        let world = World::start("", RATE, false);
        world.baseline(4);
        let ended = world.is_undone(Mood::Fails(1.0), 0);
        assert!(
            ended.text.contains("requests failed (100.0 %)")
                && ended.text.contains("no user saw an error"),
            "{}",
            ended.text
        );
        assert!(
            ended.text.contains("/route/"),
            "what failed: {}",
            ended.text
        );
        assert!(
            ended.text.contains("request "),
            "with request ids: {}",
            ended.text
        );
        let rescued = world
            .edge
            .metric(r#"cutover_rescued_requests_total{service="web"}"#);
        assert!(rescued > Some(10.0), "{rescued:?}");
        assert!(world.edge.access_log().contains(r#""rescued":true"#));
        let history = world.edge.proxyctl(&["history"]).stdout;
        assert!(history.contains("automatic rollback"), "{history}");
        // The same release is not taken again by accident.
        let again = world.edge.proxyctl(&["switch", "green"]);
        assert_eq!(again.code, 3, "{again:?}");
        assert!(again.stderr.contains("was rolled back"), "{again:?}");
        world.green.becomes(Mood::Well);
        let forced = world
            .edge
            .proxyctl(&["switch", "green", "--force", "--no-wait"]);
        assert_eq!(forced.code, 0, "{forced:?}");
        ended
    });
}

#[test]
fn half_of_the_requests_failing_is_enough() {
    repeated("half", 2.5, || {
        let world = World::start("", RATE, false);
        world.baseline(4);
        world.is_undone(Mood::Fails(0.5), 0)
    });
}

#[test]
fn one_in_twenty_is_enough() {
    repeated("one-in-twenty", 15.0, || {
        let world = World::start("", RATE, false);
        world.baseline(6);
        world.is_undone(Mood::Fails(0.05), 0)
    });
}

#[test]
fn connections_that_are_reset_are_failures() {
    repeated("reset", 2.5, || {
        let world = World::start("", RATE, false);
        world.baseline(4);
        world.is_undone(Mood::Resets, 0)
    });
}

#[test]
fn connections_that_are_refused_are_failures() {
    repeated("refused", 4.0, || {
        let world = World::start("", RATE, false);
        world.baseline(4);
        let ended = thread::scope(|scope| {
            let ended = scope.spawn(|| world.switch());
            wait_until("green is live", || world.edge.live() == "green");
            world.green.dies();
            ended.join().expect("no panic")
        });
        assert_eq!(ended.code, 4, "{}", ended.text);
        assert_eq!(world.edge.live(), "blue");
        assert_eq!(ended.errors, 0, "any request may be tried elsewhere");
        ended
    });
}

#[test]
fn bodies_that_are_cut_are_failures() {
    repeated("truncated", 2.5, || {
        let world = World::start("", RATE, false);
        world.baseline(4);
        world.is_undone(Mood::Truncates, 1_000)
    });
}

#[test]
fn requests_that_hang_are_slow_ones() {
    repeated("hang", 6.0, || {
        let more = "[service.web.rollback.latency]\nwarmup = \"1s\"\n";
        let world = World::start(more, RATE, false);
        world.baseline(6);
        world.is_undone(Mood::Hangs, 10_000)
    });
}

#[test]
fn three_times_the_latency_is_found() {
    repeated("latency", 6.0, || {
        let more = "[service.web.rollback.latency]\nwarmup = \"1s\"\n";
        let world = World::start(more, RATE, false);
        world.blue.becomes(Mood::Takes(Duration::from_millis(30)));
        world.baseline(6);
        let ended = world.is_undone(Mood::Takes(Duration::from_millis(90)), 0);
        assert!(ended.text.contains("slow"), "{}", ended.text);
        ended
    });
}

#[test]
fn a_router_that_finds_nothing_is_found() {
    repeated("not-found", 6.0, || {
        let world = World::start("", RATE, false);
        world.baseline(10);
        let ended = world.is_undone(Mood::NotFound, 0);
        assert!(ended.text.contains("client errors"), "{}", ended.text);
        ended
    });
}

#[test]
fn one_broken_route_of_fifty_is_found() {
    repeated("one-route", 30.0, || {
        let world = World::start("", RATE, false);
        world.baseline(10);
        let ended = world.is_undone(Mood::OneRoute, 0);
        assert!(ended.text.contains("/route/a-seven"), "{}", ended.text);
        ended
    });
}

#[test]
fn posts_are_never_sent_twice_and_a_bad_release_is_undone_all_the_same() {
    repeated("posts", 12.0, || {
        let world = World::start("", RATE, true);
        world.baseline(4);
        let ended = world.is_undone(Mood::Fails(1.0), 5_000);
        assert_eq!(world.blue.posted_twice() + world.green.posted_twice(), 0);
        let both = world.blue.posts.lock().expect("no panic");
        let green = world.green.posts.lock().expect("no panic");
        let twice = both.keys().filter(|path| green.contains_key(*path)).count();
        assert_eq!(twice, 0, "sent to both releases");
        drop((both, green));
        ended
    });
}
