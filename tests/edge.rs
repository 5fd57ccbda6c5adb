//! What a client of the proxy and its upstream see: routing, fields, errors, framing, retries.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use support::{Edge, Origins, curl, cutover, finish, free_port, now, require, wait_until};

/// Sends bytes and reads until the other end closes or nothing came for a while.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(addr).expect("connect");
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a timeout");
    socket.write_all(bytes).expect("write");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = socket.read(&mut buffer) {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

/// The lines of `/headers` as the upstream saw them.
fn seen_by_upstream(edge: &Edge, arguments: &[&str]) -> String {
    let url = format!("http://{}/headers", edge.http);
    let answer = curl(&[arguments, &[&url]].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
    answer.stdout
}

#[test]
fn the_upstream_learns_who_the_client_is_and_nothing_forged() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let forged = [
        "-H",
        "X-Forwarded-For: 6.6.6.6",
        "-H",
        "X-Forwarded-Proto: https",
        "-H",
        "X-Forwarded-Foo: 1",
        "-H",
        "X-Real-IP: 6.6.6.6",
        "-H",
        "X_Real_IP: 6.6.6.6",
        "-H",
        "Forwarded: for=6.6.6.6",
        "-H",
        "X-Original-URL: /admin",
        "-H",
        "Proxy: http://evil",
        "-H",
        "X-Request-Id: mine",
        "-H",
        "X-Kept: yes",
    ];
    let seen = seen_by_upstream(&edge, &forged);
    assert!(!seen.contains("6.6.6.6"), "{seen}");
    for gone in [
        "x-forwarded-foo",
        "x-original-url",
        "proxy:",
        "x_real_ip",
        "forwarded: for",
        "mine",
    ] {
        assert!(!seen.contains(gone), "{gone} passed\n{seen}");
    }
    for there in [
        "x-forwarded-for: 127.0.0.1\n".to_owned(),
        "x-forwarded-proto: http\n".to_owned(),
        format!("x-forwarded-host: {}\n", edge.http),
        format!("x-forwarded-port: {}\n", edge.http.port()),
        "x-real-ip: 127.0.0.1\n".to_owned(),
        format!("host: {}\n", edge.http),
        "x-kept: yes\n".to_owned(),
    ] {
        assert!(seen.contains(&there), "{there} is missing\n{seen}");
    }
    assert!(seen.contains("x-request-id: "), "{seen}");
}

#[test]
fn a_trusted_proxy_is_believed() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    let text = std::fs::read_to_string(edge.config()).unwrap();
    let text = text.replace(
        "[listen]\n",
        "[listen]\ntrusted_proxies = [\"127.0.0.1\"]\n",
    );
    std::fs::write(edge.config(), text).unwrap();
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let seen = seen_by_upstream(
        &edge,
        &[
            "-H",
            "X-Forwarded-For: 6.6.6.6, 203.0.113.7",
            "-H",
            "X-Forwarded-Proto: https",
            "-H",
            "X-Request-Id: from-the-front",
        ],
    );
    for there in [
        "x-forwarded-for: 6.6.6.6, 203.0.113.7, 127.0.0.1\n",
        "x-forwarded-proto: https\n",
        "x-real-ip: 203.0.113.7\n",
        "x-request-id: from-the-front\n",
    ] {
        assert!(seen.contains(there), "{there} is missing\n{seen}");
    }
    wait_until("the request is logged", || {
        edge.access_log().contains("/headers")
    });
    let line = edge.access_log();
    let line: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(line["client_ip"], "203.0.113.7");
    assert_eq!(line["service"], "web");
    assert_eq!(line["status"], 200);
}

#[test]
fn what_is_matched_is_what_is_forwarded() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "{}\n[[site]]\nhosts = [\"paths.test\"]\ntls = \"off\"\n\
         [[site.route]]\npath = \"/headers/*\"\nservice = \"web\"\n\
         [[site.route]]\npath = \"/headers\"\nservice = \"web\"\n",
        origins.config("observe = \"0s\"")
    ));
    edge.wait_healthy();
    let ask = |target: &str| {
        raw(
            edge.http,
            format!("GET {target} HTTP/1.1\r\nHost: paths.test\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    for (target, forwarded) in [
        ("/x/../headers", "GET /headers\n"),
        ("/%68eaders", "GET /headers\n"),
        ("/./headers?q=%2e%2e", "GET /headers?q=%2e%2e\n"),
    ] {
        let answer = ask(target);
        assert_eq!(status_of(&answer), "200", "{target}: {answer}");
        assert!(answer.contains(forwarded), "{target}: {answer}");
    }
    for refused in ["/headers%2Fx", "//headers", "/HEADERS", "/x"] {
        assert_eq!(status_of(&ask(refused)), "404", "{refused}");
    }
}

#[test]
fn errors_say_what_happened_in_the_form_that_was_asked_for() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "{}\n[[site]]\nhosts = [\"dead.test\"]\ntls = \"off\"\nupstream = [\"127.0.0.1:{}\"]\n\
         [[site]]\nhosts = [\"only.test\"]\ntls = \"off\"\n\
         [[site.route]]\npath = \"/a\"\nservice = \"web\"\n",
        origins
            .config("observe = \"0s\"")
            .replace("default = true\n", ""),
        free_port()
    ));
    edge.wait_healthy_except("dead.test");
    let ask = |host: &str, path: &str, accept: &str| {
        raw(
            edge.http,
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    let unknown = ask("nobody.test", "/", "*/*");
    assert_eq!(status_of(&unknown), "404");
    assert!(
        unknown.contains("Proxy-Status: cutover; error=destination_not_found"),
        "{unknown}"
    );
    assert!(unknown.contains("text/plain"), "{unknown}");
    assert_eq!(status_of(&ask("only.test", "/b", "*/*")), "404");
    let html = ask("nobody.test", "/", "text/html,*/*;q=0.8");
    assert!(html.contains("<!doctype html>"), "{html}");
    let json = ask("nobody.test", "/", "application/json");
    assert!(json.contains("{\"error\":{\"status\":404"), "{json}");
    wait_until("the dead upstream is known to be down", || {
        status_of(&ask("dead.test", "/", "*/*")) == "503"
    });
    let down = ask("dead.test", "/", "*/*");
    assert!(down.contains("Retry-After: 5"), "{down}");
    assert!(down.contains("error=destination_unavailable"), "{down}");
    let series = "cutover_requests_total{service=\"\",color=\"\",method=\"GET\",code=\"404\"}";
    assert_eq!(edge.metric(series), Some(4.0));
}

#[test]
fn framing_traps_are_refused_or_made_plain() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let ask = |text: &str| raw(edge.http, text.as_bytes());
    for (what, request, status) in [
        ("no Host", "GET / HTTP/1.1\r\n\r\n", "400"),
        (
            "two Hosts",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "400",
        ),
        ("a bad Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        (
            "two lengths",
            "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "400",
        ),
        (
            "an odd coding",
            "POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "400",
        ),
        (
            "a folded field",
            "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
            "400",
        ),
        (
            "CONNECT",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
            "405",
        ),
        (
            "a protected field in Connection",
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: X-Forwarded-For\r\n\r\n",
            "400",
        ),
        ("HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", "200"),
    ] {
        assert_eq!(status_of(&ask(request)), status, "{what}");
    }
    let long_target = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a".repeat(17 * 1024)
    );
    assert_eq!(status_of(&ask(&long_target)), "414");
    let long_head = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(66 * 1024)
    );
    assert_eq!(status_of(&ask(&long_head)), "431");
    // A length beside a coding: the coding counts, the length is dropped, the connection ends.
    let both = ask(
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\
                    Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
                    GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(status_of(&both), "200", "{both}");
    assert!(
        both.contains("\r\n\r\n5\n") || both.contains("5\n"),
        "{both}"
    );
    assert!(!both.contains("smuggled"), "{both}");
    let paths = origins.blue.state.paths.lock().unwrap().clone();
    assert!(!paths.contains_key("/smuggled"), "{paths:?}");
}

#[test]
fn a_slow_head_is_cut_at_its_deadline() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "[timeouts]\nrequest_head = \"1s\"\n{}",
        origins.config("observe = \"0s\"")
    ));
    let mut socket = TcpStream::connect(edge.http).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let start = now();
    let mut closed = false;
    for byte in
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    {
        let mut answer = [0; 1];
        if socket.write_all(&[*byte]).is_err() || matches!(socket.read(&mut answer), Ok(0)) {
            closed = true;
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(6), "still open");
    }
    assert!(closed, "a trickled head was never cut");
}

#[test]
fn a_refused_connection_is_tried_elsewhere_with_any_method() {
    let origins = Origins::start();
    let dead = free_port();
    let config = origins.config("observe = \"0s\"").replace(
        &format!("blue = [\"{}\"]", origins.blue.addr),
        // Probed so rarely that only traffic can notice the dead one.
        &format!("balance = \"round_robin\"\nblue = [\"{}\", \"127.0.0.1:{dead}\"]\neject = {{ connect_failures = 0 }}", origins.blue.addr),
    );
    let edge = Edge::start(&config.replace(
        "interval = \"500ms\"",
        "type = \"tcp\"\ninterval = \"1h\"\nfall = 1000",
    ));
    for method in ["GET", "POST", "DELETE"] {
        for _ in 0..10 {
            let url = format!("http://{}/upload", edge.http);
            let answer = curl(&["-X", method, &url]);
            assert_eq!(answer.code, 0, "{method}: {answer:?}");
        }
    }
    let retries = edge
        .access_log()
        .lines()
        .filter(|line| line.contains("\"retries\":1"))
        .count();
    assert!(
        retries >= 10,
        "the dead upstream was met only {retries} times"
    );
}

#[test]
fn a_get_is_repeated_once_when_its_connection_dies_and_a_post_never() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let count = || {
        origins
            .blue
            .state
            .paths
            .lock()
            .unwrap()
            .get("/close")
            .copied()
            .unwrap_or(0)
    };
    let url = format!("http://{}/close", edge.http);
    let code =
        |method: &str| curl(&["-X", method, "-o", "/dev/null", "-w", "%{http_code}", &url]).stdout;
    assert_eq!(code("GET"), "502");
    assert_eq!(count(), 2, "one attempt and one repetition");
    assert_eq!(code("POST"), "502");
    assert_eq!(count(), 3, "a POST is sent once");
}

#[test]
fn http_is_redirected_where_tls_is_and_a_foreign_name_is_misdirected() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "{}\n[[site]]\nhosts = [\"secure.internal\"]\nservice = \"web\"\n\
         [[site]]\nhosts = [\"plain.internal\"]\ntls = \"off\"\nservice = \"web\"\n",
        origins.config("observe = \"0s\"")
    ));
    edge.wait_healthy();
    let port = edge.https.port();
    let redirected = raw(
        edge.http,
        b"GET /a?b=c HTTP/1.1\r\nHost: secure.internal\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status_of(&redirected), "308");
    assert!(
        redirected.contains(&format!(
            "Location: https://secure.internal:{port}/a?b=c\r\n"
        )),
        "{redirected}"
    );
    let resolve = format!("secure.internal:{port}:127.0.0.1");
    let url = format!("https://secure.internal:{port}/");
    let ask = |more: &[&str]| {
        let fixed = [
            "-k",
            "--resolve",
            &resolve,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
        ];
        curl(&[&fixed, more, &[&url]].concat()).stdout
    };
    assert_eq!(ask(&[]), "200 2");
    assert_eq!(ask(&["--http1.1"]), "200 1.1");
    assert_eq!(ask(&["-H", "Host: plain.internal"]), "421 2");
    assert_eq!(ask(&["-H", "Host: localhost"]), "421 2");
    // An address sends no name: it gets the certificate of that address, and only its hosts.
    let by_address = |host: &str| {
        let url = format!("https://127.0.0.1:{port}/");
        curl(&[
            "-k",
            "-H",
            host,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ])
        .stdout
    };
    assert_eq!(by_address("Host: localhost"), "200");
    assert_eq!(by_address("Host: secure.internal"), "421");
    // The internal CA can be trusted by its root.
    let root = edge.folder.path().join("state/ca/root.pem");
    let trusted = curl(&[
        "--cacert",
        &root.display().to_string(),
        "--resolve",
        &resolve,
        &url,
    ]);
    assert_eq!(trusted.stdout, "blue", "{trusted:?}");
}

#[test]
fn an_upstream_can_be_a_unix_socket_or_h2c() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "{}\n[[site]]\nhosts = [\"h2c.test\"]\ntls = \"off\"\nupstream = [\"h2c://{}\"]\n",
        origins.config("observe = \"0s\""),
        origins.green.addr
    ));
    edge.wait_healthy();
    let answer = curl(&[
        "-H",
        "Host: h2c.test",
        &format!("http://{}/headers", edge.http),
    ]);
    assert!(
        answer.stdout.contains("GET http://h2c.test/headers"),
        "{answer:?}"
    );
    let prior = curl(&["--http2-prior-knowledge", &format!("http://{}/", edge.http)]);
    assert_eq!(prior.stdout, "blue", "{prior:?}");
}

/// An upstream that answers every connection with 101 before it has read a byte, then echoes.
fn hasty() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            thread::spawn(move || {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                            Upgrade: websocket\r\n\r\n";
                let _ = socket.write_all(head.as_bytes());
                let mut request = Vec::new();
                let mut byte = [0; 1];
                while !request.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
                    request.push(byte[0]);
                }
                let Ok(mut out) = socket.try_clone() else {
                    return;
                };
                let _ = std::io::copy(&mut socket, &mut out);
            });
        }
    });
    address
}

#[test]
fn an_upgrade_is_not_lost_when_its_answer_is_there_at_once() {
    let edge = Edge::start(&format!(
        "[[site]]\nhosts = [\"localhost\"]\ntls = \"off\"\nservice = \"ws\"\n\
         [service.ws]\nblue = [\"{}\"]\n",
        hasty()
    ));
    edge.wait_healthy();
    let lost: Vec<_> = (0..40)
        .filter(|_| {
            let mut socket = TcpStream::connect(edge.http).expect("connected");
            let deadline = Some(Duration::from_secs(10));
            socket.set_read_timeout(deadline).expect("a deadline");
            let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                           Upgrade: websocket\r\n\r\n";
            socket.write_all(request.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            let mut byte = [0; 1];
            while !answer.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
                answer.push(byte[0]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", edge.log());
            // A whole WebSocket frame: the proxy follows them.
            let frame = [0x81, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
            let mut echo = [0; 11];
            let said = socket
                .write_all(&frame)
                .and_then(|()| socket.read_exact(&mut echo));
            said.is_err() || echo != frame
        })
        .collect();
    assert_eq!(lost, [] as [i32; 0], "of 40");
}

#[test]
fn secrets_stay_out_of_the_access_log() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let url = format!("http://{}/x?token=S3CRET&page=2", edge.http);
    let _ = curl(&["-H", "Authorization: Bearer S3CRET", &url]);
    wait_until("the request is logged", || {
        edge.access_log().contains("page=2")
    });
    assert!(
        !edge.access_log().contains("S3CRET"),
        "{}",
        edge.access_log()
    );
    assert!(!edge.log().contains("S3CRET"));
}

#[test]
fn the_ops_listener_answers_and_the_image_can_ask_this_instance() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let page = curl(&[&format!("http://{}/metrics", edge.ops)]).stdout;
    for name in [
        "cutover_requests_total",
        "cutover_request_duration_seconds",
        "cutover_upstream_duration_seconds",
        "cutover_request_duration_quantile_seconds",
        "cutover_in_flight_requests",
        "cutover_live",
        "cutover_release_info",
        "cutover_upstream_healthy",
        "cutover_upstream_errors_total",
        "cutover_switches_total",
        "cutover_rollbacks_total",
        "cutover_rescued_requests_total",
        "cutover_held_requests",
        "cutover_drain_remaining",
        "cutover_certificate_expiry_timestamp_seconds",
        "cutover_acme_orders_total",
        "cutover_config_reloads_total",
        "cutover_config_last_reload_success",
        "cutover_downstream_connections",
        "process_resident_memory_bytes",
    ] {
        assert!(
            page.contains(&format!("# TYPE {name} ")),
            "{name} is missing"
        );
    }
    assert_eq!(curl(&[&format!("http://{}/healthz", edge.ops)]).code, 0);
    assert_eq!(edge.proxyctl(&["ready"]).code, 0);
    let rebinding = curl(&[
        "-H",
        "Host: evil.example",
        &format!("http://{}/metrics", edge.ops),
    ]);
    assert_eq!(rebinding.code, 22, "{rebinding:?}");
    let (_, code) = edge.stop("-TERM");
    assert_eq!(code, Some(0), "{}", edge.log());
    assert_eq!(edge.proxyctl(&["ready"]).code, 5);
}

#[test]
fn a_second_daemon_says_what_is_in_its_way() {
    require("curl");
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    let start = |config: &std::path::Path| {
        finish(
            std::process::Command::new(cutover())
                .args(["run", "--config"])
                .arg(config),
        )
    };
    let second = start(&edge.config());
    assert_eq!(second.code, 1);
    let pid = edge.child.as_ref().expect("running").id();
    assert!(
        second.stderr.contains("state is in use by another cutover")
            && second.stderr.contains(&format!("process {pid} on ")),
        "{second:?}"
    );
    let text = std::fs::read_to_string(edge.config()).expect("the configuration");
    let elsewhere = edge.folder.path().join("second.toml");
    let other = text.replacen("/state\"", "/other\"", 1);
    std::fs::write(&elsewhere, other).expect("write");
    let second = start(&elsewhere);
    assert_eq!(second.code, 1);
    assert!(
        second
            .stderr
            .contains(&format!("cannot listen on {}", edge.http)),
        "{second:?}"
    );
    assert!(
        second.stderr.contains("another program listens there"),
        "{second:?}"
    );
    assert_eq!(
        edge.proxyctl(&["status"]).code,
        0,
        "the first one is untouched"
    );
}

#[test]
fn the_demo_is_up_at_once_and_proxyctl_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let start = now();
    let mut demo = std::process::Command::new(cutover())
        .arg("demo")
        .env("XDG_RUNTIME_DIR", folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let proxyctl = |arguments: &[&str]| {
        finish(
            std::process::Command::new(support::proxyctl())
                .args(arguments)
                .env("XDG_RUNTIME_DIR", folder.path())
                .env_remove("PROXYCTL_ADDR"),
        )
    };
    wait_until("proxyctl finds the demo", || proxyctl(&["ready"]).code == 0);
    // Two seconds are promised; three times that on a busy machine.
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    wait_until("its own traffic is seen", || {
        let page = curl(&["http://127.0.0.1:9180/metrics"]).stdout;
        page.lines().any(|line| {
            line.starts_with("cutover_request_duration_quantile_seconds{service=\"app\",color=\"blue\",quantile=\"0.99\"}")
                && !line.ends_with("NaN")
        })
    });
    assert!(curl(&["http://127.0.0.1:8080/"]).stdout.contains("blue"));
    assert!(
        curl(&["-k", "https://localhost:8443/"])
            .stdout
            .contains("blue")
    );
    let switched = proxyctl(&["switch", "green", "--no-wait"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    assert!(
        curl(&["http://127.0.0.1:8080/api/release"])
            .stdout
            .contains("green")
    );
    finish(std::process::Command::new("kill").arg(demo.id().to_string()));
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}
