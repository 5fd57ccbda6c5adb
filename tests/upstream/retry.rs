//! `[service.NAME.retry]`: what is tried again, what never is, and how much of it.

use std::time::Duration;

use crate::support::raw::{Mood, Raw};
use crate::support::{Edge, curl, free_port, now, wait_until};

/// One service over these upstreams, without ejection, so that each keeps its turn.
fn service(upstreams: &[String], retry: &str) -> String {
    format!(
        "[[site]]\nhosts = [\"127.0.0.1\"]\ntls = \"off\"\nservice = \"web\"\n\
         [service.web]\nblue = {upstreams:?}\nbalance = \"round_robin\"\n\
         [service.web.eject]\nconnect_failures = 0\nserver_errors = 0\n\
         [service.web.retry]\n{retry}\n"
    )
}

fn addresses(of: &[&Raw]) -> Vec<String> {
    of.iter().map(|raw| raw.addr.to_string()).collect()
}

const IN_FLIGHT: &str =
    "cutover_in_flight_requests{service=\"web\",color=\"blue\",kind=\"request\"}";

/// Status and `Proxy-Status` of one request.
fn ask(edge: &Edge, arguments: &[&str]) -> (String, String) {
    let url = format!("http://{}/x", edge.http);
    let form = "\n%{http_code}";
    let answer = curl(&[&["--include", "--write-out", form, &url], arguments].concat());
    let (head, status) = answer.stdout.rsplit_once('\n').expect("a status");
    let told = head
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("proxy-status"));
    (status.to_owned(), told.unwrap_or_default().to_owned())
}

#[test]
fn an_answer_is_asked_for_again_elsewhere_when_that_is_safe() {
    let (bad, good) = (
        Raw::start("bad", Mood::Status(503)),
        Raw::start("good", Mood::Good),
    );
    let both = addresses(&[&bad, &good]);
    let edge = Edge::start(&service(&both, "on = [\"connect\", \"503\"]"));
    for _ in 0..10 {
        assert_eq!(ask(&edge, &[]).0, "200");
    }
    // A further attempt takes a turn too, so it may have been all ten.
    let seen = bad.heads().len();
    assert!(seen >= 4, "{seen} of 10 went to the bad one first");
    for more in [
        &["--data", "x"][..],
        &["--request", "DELETE"],
        // Safe, but with a body that may be gone.
        &["--request", "GET", "--data", "x"],
    ] {
        let answers: Vec<_> = (0..10).map(|_| ask(&edge, more).0).collect();
        let failed = answers.iter().filter(|status| *status == "503").count();
        assert_eq!(failed, 5, "{more:?}: {answers:?}");
    }
    // Another status is not asked for again.
    edge.write(&service(&both, "on = [\"connect\", \"502\"]"));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let answers: Vec<_> = (0..10).map(|_| ask(&edge, &[]).0).collect();
    assert_eq!(answers.iter().filter(|status| *status == "503").count(), 5);
}

#[test]
fn a_small_answer_without_its_body_is_asked_for_again() {
    let (bad, good, apart) = (
        Raw::start("bad", Mood::Good),
        Raw::start("good", Mood::Good),
        Raw::start("apart", Mood::Apart),
    );
    let edge = Edge::start(&service(&addresses(&[&bad, &good, &apart]), ""));
    let url = format!("http://{}/x", edge.http);
    let ends = |more: &[&str]| {
        let ends = (0..15).map(|_| curl(&[more, &[&url]].concat()).code);
        ends.collect::<Vec<_>>()
    };
    // What an upstream is like is known from its whole answers.
    assert_eq!(ends(&[]), [0; 15]);
    bad.set(Mood::BreakOff);
    let before = [&bad, &good, &apart].map(|raw| raw.heads().len());
    assert_eq!(ends(&[]), [0; 15]);
    for (raw, before) in [&bad, &good, &apart].into_iter().zip(before) {
        let seen = raw.heads().len() - before;
        assert!(seen >= 3, "{raw:?} was asked {seen} times");
    }
    // Whether it was done is unknown, so the answer is passed on as far as it comes.
    // Curl calls that a partial file: 18.
    let ends = ends(&["--data", "x"]);
    let partial = ends.iter().filter(|code| **code == 18).count();
    assert_eq!(partial, 5, "{ends:?}");

    edge.write(&service(&addresses(&[&bad]), ""));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let before = bad.heads().len();
    let (status, told) = ask(&edge, &[]);
    assert_eq!(status, "502");
    assert!(told.contains("error=connection_terminated"), "{told}");
    let asked = bad.heads().len() - before;
    assert_eq!(asked, 2, "one attempt and one repetition");
}

#[test]
fn a_whole_answer_is_passed_on_however_it_comes_and_ends() {
    for mood in [Mood::Pieces, Mood::Reset, Mood::Terse] {
        // That one is never known to write heads as others do.
        let first = if mood == Mood::Terse {
            mood
        } else {
            Mood::Good
        };
        let raw = Raw::start("raw", first);
        let edge = Edge::start(&service(&addresses(&[&raw]), ""));
        let url = format!("http://{}/x", edge.http);
        assert_eq!(curl(&[&url]).code, 0);
        raw.set(mood);
        let began = now();
        for _ in 0..10 {
            let answer = curl(&[&url]);
            assert_eq!(answer.code, 0, "{mood:?}: {answer:?}");
        }
        let each = began.elapsed() / 10;
        assert!(each < Duration::from_millis(800), "{mood:?}: {each:?} each");
        // Beside the probes.
        let asked = raw.heads();
        let asked = asked.iter().filter(|head| head.starts_with("GET /x"));
        assert_eq!(asked.count(), 11, "{mood:?}: each was asked for once");
    }
}

#[test]
fn a_body_that_takes_its_time_is_passed_on_without_its_head_waiting_longer() {
    let raw = Raw::start("raw", Mood::Good);
    let edge = Edge::start(&service(&addresses(&[&raw]), ""));
    let url = format!("http://{}/x", edge.http);
    assert_eq!(curl(&[&url]).code, 0);
    raw.set(Mood::Late);
    let first_byte = || {
        let form = "%{time_starttransfer}";
        // Over HTTP/1 a head is not on its way before there is something of the body.
        let h2 = "--http2-prior-knowledge";
        let answer = curl(&[h2, "-o", "/dev/null", "--write-out", form, &url]);
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.stdout.parse::<f64>().expect("seconds")
    };
    let (waited, again) = (first_byte(), first_byte());
    assert!((0.9..2.9).contains(&waited), "{waited}");
    assert!(again < 0.9, "{again}");
    // What is measured is when the head came.
    let line = || edge.access_log().lines().rev().nth(1).map(str::to_owned);
    let upstream_ms = || {
        let line: serde_json::Value = serde_json::from_str(&line()?).ok()?;
        line["upstream_ms"].as_f64()
    };
    wait_until("both are logged", || edge.access_log().lines().count() == 3);
    let measured = upstream_ms().expect("a number");
    assert!(measured < 900.0, "{measured}");
}

#[test]
fn an_attempt_that_takes_too_long_is_ended_and_made_elsewhere() {
    let (slow, good) = (
        Raw::start("slow", Mood::Hang),
        Raw::start("good", Mood::Good),
    );
    let both = addresses(&[&slow, &good]);
    let edge = Edge::start(&service(&both, "per_try_timeout = \"300ms\""));
    let began = now();
    for _ in 0..4 {
        assert_eq!(ask(&edge, &[]).0, "200");
    }
    assert!(slow.heads().len() >= 2, "{}", slow.heads().len());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // Whether it was done is unknown, so nobody does it again.
    let answers: Vec<_> = (0..4)
        .map(|_| ask(&edge, &["--request", "DELETE"]))
        .collect();
    let late: Vec<_> = answers
        .iter()
        .filter(|(status, _)| status == "504")
        .collect();
    assert_eq!(late.len(), 2, "{answers:?}");
    assert!(
        late[0].1.contains("error=connection_read_timeout"),
        "{late:?}"
    );

    edge.write(&service(
        &addresses(&[&slow]),
        "per_try_timeout = \"300ms\"\nattempts = 2",
    ));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let before = slow.heads().len();
    assert_eq!(ask(&edge, &[]).0, "504");
    assert_eq!(slow.heads().len() - before, 2, "attempts are counted");
}

#[test]
fn an_outage_gets_no_more_than_the_budget_on_top() {
    let bad = Raw::start("bad", Mood::Status(503));
    let retry = "on = [\"503\"]\nattempts = 10\nbudget = 0.0\nbudget_floor = 1";
    let edge = Edge::start(&service(&addresses(&[&bad]), retry));
    let began = now();
    for _ in 0..20 {
        assert_eq!(ask(&edge, &[]).0, "503");
    }
    let allowed = 10 + 1 + usize::try_from(began.elapsed().as_secs()).expect("short");
    let added = bad.heads().len() - 20;
    assert!(
        (10..=allowed).contains(&added),
        "{added}, not 10 to {allowed}"
    );
}

#[test]
fn a_request_waits_for_its_only_upstream_to_come_back() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let edge = Edge::start(&service(std::slice::from_ref(&address), "attempts = 2"));
    let (status, told) = ask(&edge, &[]);
    assert_eq!(status, "502", "{told}");
    let patient = "attempts = 2\nbudget = 0.0\nbudget_floor = 0\n\
                   try_duration = \"15s\"\ntry_interval = \"50ms\"";
    edge.write(&service(std::slice::from_ref(&address), patient));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let began = now();
    std::thread::scope(|scope| {
        // Nothing was sent, so it does not matter what it is.
        let waiting = [&[][..], &["--data", "x"]].map(|more| scope.spawn(|| ask(&edge, more)));
        wait_until("both wait", || edge.metric(IN_FLIGHT) == Some(2.0));
        let _back = Raw::start_at("back", Mood::Good, address.parse().expect("an address"));
        for waiting in waiting {
            assert_eq!(waiting.join().expect("no panic").0, "200");
        }
    });
    assert!(
        began.elapsed() < Duration::from_secs(14),
        "{:?}",
        began.elapsed()
    );
}
