//! A stop, seen by clients that keep to the rules of HTTP.

mod support;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use support::clients::{Seen, http1_client, http2_client, request};
use support::{Edge, Origins, curl, now, wait_until};
use tokio::net::TcpStream;

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
                && kinds.iter().all(|(_, seen)| seen.answered() > 100)
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
        assert!(seen.answered() > 50, "{kind}: {seen:?}");
        assert_eq!(seen.lost(), 0, "{kind}: {seen:?}");
    }
    drop(idle);
}

#[test]
fn readiness_goes_first_and_the_delay_serves_on() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config(""));
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
