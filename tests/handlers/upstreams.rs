//! The `proxy` action, upstreams' answers, and what must work with steps as without.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_tungstenite::tungstenite::Message;

use super::{ask, edge};
use crate::support::{Edge, Origins, curl, wait_until};

#[test]
fn a_proxy_step_changes_the_copy_that_the_upstream_gets_and_its_answer() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"[[site.handle]]
request_header = { set = { X-Step = "1" } }
[[site.handle]]
[site.handle.proxy]
service = "web"
rewrite = "/headers?p={path}"
request_header = { set = { Host = "{upstream}", X-Forwarded-Proto = "https", X-Step = "2" }, remove = ["X-Real-IP", "User-*"] }
response_header = [
    { set = { X-From = "{rp.header.X-Origin} {rp.status_code} {path}" } },
    { status = ["5xx"], set = { X-Never = "1" } },
]"#,
    );
    let answer = ask(&edge, "GET", "/p", "User-Agent: me\r\n");
    assert!(
        answer.body.starts_with("GET /headers?p=%2Fp\n"),
        "{answer:?}"
    );
    for there in [
        format!("host: {}\n", origins.blue.addr),
        "x-forwarded-proto: https\n".to_owned(),
        "x-forwarded-host: h.test\n".to_owned(),
        "x-step: 2\n".to_owned(),
    ] {
        assert!(answer.body.contains(&there), "{there}\n{}", answer.body);
    }
    assert!(
        !answer.body.contains("x-real-ip") && !answer.body.contains("user-agent"),
        "{answer:?}"
    );
    assert_eq!(answer.field("x-from"), ["blue 200 /p"]);
    assert!(answer.field("x-never").is_empty());
    wait_until("it is logged", || {
        edge.access_log().contains("\"path\":\"/p\"")
    });
}

#[test]
fn an_upstreams_answer_is_handled_before_any_of_it_is_sent() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"[[site.handle]]
response_header = { set = { X-Site = "1" } }
[[site.handle]]
[site.handle.proxy]
service = "web"
[[site.handle.proxy.on_response]]
status = [418]
replace_status = "200"
[[site.handle.proxy.on_response]]
status = ["5xx"]
[[site.handle.proxy.on_response.handle]]
match = { path = "/status/503" }
copy_response = { status = 500, exclude = ["X-Origin"] }
[[site.handle.proxy.on_response.handle]]
match = { path = "/status/504" }
error = 502
[[site.handle.proxy.on_response.handle]]
copy_response = { headers_only = true, include = ["X-Origin"] }
[[site.handle.proxy.on_response.handle]]
respond = { status = 202, body = "instead of {rp.status_code} of {rp.header.X-Origin}" }
[[site.handle.proxy.on_response]]
status = [404]
[[site.handle.proxy.on_response.handle]]
rewrite = "/headers"
[[site.handle.proxy.on_response.handle]]
service = "web"
[[site.error]]
respond = "error {err.status_code}""#,
    );
    let replaced = ask(&edge, "GET", "/status/418", "");
    assert_eq!(
        (replaced.status, replaced.body.as_str()),
        (200, "as asked\n"),
        "{replaced:?}"
    );
    let instead = ask(&edge, "GET", "/status/500", "");
    assert_eq!(
        (instead.status, instead.body.as_str()),
        (202, "instead of 500 of blue"),
        "{instead:?}"
    );
    assert_eq!(
        (instead.field("x-origin"), instead.field("x-site")),
        (vec!["blue"], vec!["1"])
    );
    let copied = ask(&edge, "GET", "/status/503", "");
    assert_eq!(
        (copied.status, copied.body.as_str()),
        (500, "as asked\n"),
        "{copied:?}"
    );
    assert_eq!(
        (copied.field("x-origin").len(), copied.field("x-site")),
        (0, vec!["1"])
    );
    let failed = ask(&edge, "GET", "/status/504", "");
    assert_eq!(
        (failed.status, failed.body.as_str()),
        (502, "error 502"),
        "{failed:?}"
    );
    let elsewhere = ask(&edge, "GET", "/status/404", "");
    assert_eq!(elsewhere.status, 200, "{elsewhere:?}");
    assert!(
        elsewhere.body.starts_with("GET /headers\n"),
        "{elsewhere:?}"
    );
    assert_eq!(ask(&edge, "GET", "/", "").body, "blue");
    // Over HTTP/2 the connection goes on after an answer in the place of the upstream's.
    let answers = over_one_h2_connection(edge.http, &["/status/504", "/"]);
    let wanted = [(502, "error 502".to_owned()), (200, "blue".to_owned())];
    assert_eq!(answers, wanted);
}

/// Statuses and bodies of GETs, one after the other on one connection.
fn over_one_h2_connection(addr: SocketAddr, paths: &[&str]) -> Vec<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    let asked = async {
        let socket = tokio::net::TcpStream::connect(addr).await.expect("connect");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut client, connection) = builder
            .handshake(TokioIo::new(socket))
            .await
            .expect("a connection");
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for path in paths {
            let request = Request::get(format!("http://h.test{path}")).body(Empty::<Bytes>::new());
            let answer = client.send_request(request.expect("a request")).await;
            let answer = answer.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body");
            answers.push((
                status,
                String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            ));
        }
        answers
    };
    let patience = Duration::from_secs(20);
    runtime.block_on(async {
        tokio::time::timeout(patience, asked)
            .await
            .expect("in time")
    })
}

#[test]
fn retries_and_holds_work_as_without_steps() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        "service = \"web\"\n[[site.handle]]\nrequest_header = { set = { X-Step = \"1\" } }\n[[site.handle]]\nrewrite = { method = \"{query.m}\" }",
    );
    let count = || {
        origins
            .blue
            .state
            .paths
            .lock()
            .expect("no panic")
            .get("/close")
            .copied()
    };
    assert_eq!(ask(&edge, "GET", "/close?m=GET", "").status, 502);
    assert_eq!(count(), Some(2), "a GET is repeated once");
    assert_eq!(ask(&edge, "GET", "/close?m=POST", "").status, 502);
    assert_eq!(count(), Some(3), "what the upstream gets as a POST is not");
    assert_eq!(edge.proxyctl(&["hold", "--max", "20s"]).code, 0);
    let http = edge.http;
    let waiting = std::thread::spawn(move || {
        curl(&[
            "-H",
            "Host: h.test",
            &format!("http://{http}/headers?m=GET"),
        ])
        .stdout
    });
    wait_until("it is held", || {
        edge.metric("cutover_held_requests{service=\"web\"}") == Some(1.0)
    });
    assert_eq!(edge.proxyctl(&["resume"]).code, 0);
    let held = waiting.join().expect("an answer");
    assert!(held.contains("x-step: 1\n"), "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_and_event_streams_pass_through_steps() {
    let origins = tokio::task::spawn_blocking(Origins::start)
        .await
        .expect("origins");
    let keys = r#"service = "web"
[[site.handle]]
response_header = { set = { X-Step = "1" } }
[[site.handle]]
rewrite = { strip_prefix = "/app" }"#;
    let (edge, origins) = tokio::task::spawn_blocking(move || (edge(&origins, keys), origins))
        .await
        .expect("an edge");
    let socket = tokio::net::TcpStream::connect(edge.http)
        .await
        .expect("connect");
    let (mut websocket, head) = tokio_tungstenite::client_async("ws://h.test/app/ws", socket)
        .await
        .expect("a WebSocket");
    assert_eq!(head.headers()["x-step"], "1");
    websocket.send(Message::text("hello")).await.expect("sent");
    let echo = websocket
        .next()
        .await
        .expect("a message")
        .expect("a message");
    assert_eq!(echo.into_text().expect("text").as_str(), "hello");
    let in_flight = "cutover_in_flight_requests{service=\"web\",color=\"blue\",kind=\"websocket\"}";
    tokio::task::spawn_blocking(move || {
        wait_until("it is counted", || edge.metric(in_flight) == Some(1.0));
        let events = ask(&edge, "GET", "/app/sse?n=3&every_ms=10", "");
        assert_eq!(events.body.matches("data: event").count(), 3, "{events:?}");
        assert_eq!(events.field("x-step"), ["1"]);
        assert!(origins.blue.state.requests.load(Ordering::SeqCst) >= 2);
        // Not in the runtime of this test.
        drop(origins);
    })
    .await
    .expect("no panic");
}

#[test]
fn a_compressed_answer_with_trailers_is_whole() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "[[site]]\nhosts = [\"h.test\"]\ntls = \"off\"\nservice = \"web\"\n\
         [[site.handle]]\nencode = true\n\
         [service.web]\nblue = [\"h2c://{}\"]\n",
        origins.blue.addr
    ));
    edge.wait_healthy();
    let url = format!("http://{}/trailers", edge.http);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for coding in ["gzip", "br", "zstd"] {
            let accept = format!("Accept-Encoding: {coding}");
            let head = "-w%header{content-encoding} %{http_version}";
            let got = curl(&[
                "--compressed",
                version,
                "-H",
                "Host: h.test",
                "-H",
                &accept,
                head,
                &url,
            ]);
            let (text, end) = got.stdout.rsplit_once('\n').unwrap_or_default();
            assert_eq!(got.code, 0, "{version} {coding}: {got:?}");
            assert!(end.starts_with(coding), "{version} {coding}: {end}");
            assert_eq!(text.lines().count(), 1_000, "{version} {coding}");
            assert!(text.lines().all(|line| line == "a line of text"));
        }
    }
}
