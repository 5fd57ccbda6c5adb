//! `[service.NAME.retry]`: what is tried again, what never is, and how much of it.

use std::time::Duration;

use crate::support::raw::{Mood, Raw};
use crate::support::{Edge, curl, free_port, now};

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
        Raw::start("bad", Mood::BreakOff),
        Raw::start("good", Mood::Good),
        Raw::start("apart", Mood::Apart),
    );
    let edge = Edge::start(&service(&addresses(&[&bad, &good, &apart]), ""));
    let url = format!("http://{}/x", edge.http);
    let ends = |more: &[&str]| {
        let ends = (0..15).map(|_| curl(&[more, &[&url]].concat()).code);
        ends.collect::<Vec<_>>()
    };
    assert_eq!(ends(&[]), [0; 15]);
    for (raw, name) in [(&bad, "bad"), (&good, "good"), (&apart, "apart")] {
        let seen = raw.heads().len();
        assert!(seen >= 3, "{name} was asked {seen} times");
    }
    // Whether it was done is unknown, so the answer is passed on as far as it comes.
    // Curl calls that a partial file: 18.
    let ends = ends(&["--data", "x"]);
    assert_eq!(
        ends.iter().filter(|code| **code == 18).count(),
        5,
        "{ends:?}"
    );

    edge.write(&service(&addresses(&[&bad]), ""));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let before = bad.heads().len();
    let (status, told) = ask(&edge, &[]);
    assert_eq!(status, "502");
    assert!(told.contains("error=connection_terminated"), "{told}");
    assert_eq!(
        bad.heads().len() - before,
        2,
        "one attempt and one repetition"
    );
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
        crate::support::wait_until("both wait", || edge.metric(IN_FLIGHT) == Some(2.0));
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
