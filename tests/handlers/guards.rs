//! Filters at work: what is let through, what is refused and how, and that nothing leaks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::{Edge, curl, wait_until};
use crate::upstream::{Upstream, ok};

fn site(host: &str, handlers: &str) -> String {
    format!("[[site]]\nhosts = [\"{host}\"]\ntls = \"off\"\nservice = \"web\"\n{handlers}\n")
}

fn start(sites: &str, upstream: &Upstream) -> Edge {
    let edge = Edge::start(&with_service(sites, upstream));
    edge.wait_healthy();
    edge
}

fn with_service(sites: &str, upstream: &Upstream) -> String {
    format!("{sites}[service.web]\nblue = [\"{}\"]\n", upstream.addr)
}

/// The whole answer to a request for a path of a host.
fn ask(edge: &Edge, host: &str, path: &str, more: &[&str]) -> String {
    let url = format!("http://{}{path}", edge.http);
    let host = format!("Host: {host}");
    let asked = curl(&[&["-i", "-H", &host], more, &[&url]].concat());
    // 22: an error status.
    assert!(matches!(asked.code, 0 | 22), "{asked:?}");
    asked.stdout
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("closed")
}

/// The value of a field of an answer.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    let mut fields = lines.filter_map(|line| line.split_once(": "));
    fields.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("connect");
    let timeout = Some(Duration::from_secs(20));
    socket.set_read_timeout(timeout).expect("a timeout");
    socket
}

/// Reads an answer's head.
fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn who_knows_the_password_comes_in_and_the_upstream_learns_it_too() {
    let upstream = Upstream::plain();
    // The password is `password`, and cheap.
    let hash =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    let auth = format!(
        "basic_auth = {{ realm = \"staff\", users = {{ alice = \"{hash}\" }} }}\n\
         request_header = {{ set = {{ X-User = \"{{user.id}}\" }} }}"
    );
    let edge = start(&site("auth.test", &auth), &upstream);
    for (user, wanted) in [
        ("alice:password", "200"),
        ("alice:password", "200"),
        ("alice:passwort", "401"),
        ("bob:password", "401"),
        ("alice:", "401"),
    ] {
        let answer = ask(&edge, "auth.test", "/", &["-u", user]);
        assert_eq!(status(&answer), wanted, "{user}: {answer}");
        let got = upstream.take();
        match wanted {
            "200" => {
                assert_eq!(got[0].field("x-user"), ["alice"]);
                assert_eq!(
                    got[0].field("authorization"),
                    ["basic ywxpy2u6cgfzc3dvcmq="]
                );
            }
            _ => {
                assert!(got.is_empty(), "{user}");
                assert_eq!(
                    field(&answer, "www-authenticate"),
                    Some("Basic realm=\"staff\"")
                );
            }
        }
    }
    assert_eq!(status(&ask(&edge, "auth.test", "/", &[])), "401");
}

#[test]
fn a_limit_says_when_to_come_back_and_survives_a_reload() {
    let upstream = Upstream::plain();
    let limit = site(
        "limit.test",
        "rate_limit = { requests = 2, window = \"1h\" }",
    );
    let edge = start(&limit, &upstream);
    let first = ask(&edge, "limit.test", "/", &[]);
    assert_eq!(status(&first), "200");
    assert_eq!(
        field(&first, "ratelimit-policy"),
        Some("\"client\";q=2;w=3600")
    );
    assert!(field(&first, "ratelimit").is_some_and(|told| told.starts_with("\"client\";r=1;t=")));
    assert_eq!(status(&ask(&edge, "limit.test", "/", &[])), "200");
    let refused = |edge: &Edge| {
        let answer = ask(edge, "limit.test", "/", &[]);
        assert_eq!(status(&answer), "429", "{answer}");
        let seconds: u64 = field(&answer, "retry-after")
            .expect("told")
            .parse()
            .expect("a number");
        assert!((1_700..=1_800).contains(&seconds), "{seconds}");
        assert!(
            field(&answer, "ratelimit").is_some_and(|told| told.starts_with("\"client\";r=0;t="))
        );
    };
    refused(&edge);
    // Another step before it changes nothing about this one.
    let more = limit.replace("rate_limit", "security_headers = true\nrate_limit");
    edge.write(&with_service(&more, &upstream));
    let reloaded = edge.proxyctl(&["reload"]);
    assert_eq!(reloaded.code, 0, "{reloaded:?}");
    refused(&edge);
    edge.write(&with_service(&limit.replace("1h", "2h"), &upstream));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    assert_eq!(
        status(&ask(&edge, "limit.test", "/", &[])),
        "200",
        "a changed one begins anew"
    );
}

/// Answers an upgrade and then says nothing until the client leaves.
fn silent_websocket() -> Upstream {
    Upstream::start(|got| match got.field("upgrade").is_empty() {
        true => ok(),
        false => {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_owned()
        }
    })
}

#[test]
fn who_leaves_the_queue_makes_room_for_the_next_one() {
    // Holds every request to `/slow` until it is told to go on.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |got| {
        if got.line().ends_with("/slow") {
            let _ = wait
                .lock()
                .expect("no panic")
                .recv_timeout(Duration::from_secs(20));
        }
        ok()
    });
    let places = site(
        "full.test",
        "concurrency = { requests = 1, queue = 1, wait = \"20s\" }",
    );
    let edge = start(&places, &upstream);
    let request = |path: &str| {
        let mut socket = connect(edge.http);
        let text = format!("GET {path} HTTP/1.1\r\nHost: full.test\r\n\r\n");
        socket.write_all(text.as_bytes()).expect("write");
        socket
    };
    let mut slow = request("/slow");
    let mut waiting = request("/waits");
    wait_until("the queue is full", || {
        let full = full_now(&edge);
        if !full {
            // The question itself stood in the queue.
            waiting = request("/waits");
        }
        full
    });
    // The one that waits leaves: another one finds its place in the queue.
    drop(waiting);
    let mut next = None;
    wait_until("there is room in the queue", || {
        let mut socket = request("/next");
        let shortly = Some(Duration::from_millis(500));
        socket.set_read_timeout(shortly).expect("a timeout");
        if head(&mut socket).is_empty() {
            next = Some(socket);
        }
        next.is_some()
    });
    assert!(full_now(&edge));
    go.send(()).expect("a request waits");
    assert_eq!(status(&head(&mut slow)), "200");
    let mut next = next.expect("it waits");
    let patiently = Some(Duration::from_secs(20));
    next.set_read_timeout(patiently).expect("a timeout");
    assert_eq!(status(&head(&mut next)), "200");
    assert_eq!(
        status(&ask(&edge, "full.test", "/", &[])),
        "200",
        "all places are free"
    );
}

/// Whether a request is refused at once.
fn full_now(edge: &Edge) -> bool {
    let url = format!("http://{}/", edge.http);
    let asked = curl(&["-i", "-m", "1", "-H", "Host: full.test", &url]);
    status(&asked.stdout) == "503"
}

#[test]
fn a_websocket_keeps_its_place_for_as_long_as_it_lives() {
    let upstream = silent_websocket();
    let places = site("full.test", "concurrency = { requests = 1 }");
    let edge = start(&places, &upstream);
    let mut socket = connect(edge.http);
    socket
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: full.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .expect("write");
    assert_eq!(status(&head(&mut socket)), "101");
    assert!(full_now(&edge));
    drop(socket);
    wait_until("its place is free", || !full_now(&edge));
}

#[test]
fn a_body_above_the_limit_is_refused_and_the_rest_of_it_goes_nowhere() {
    let upstream = Upstream::plain();
    let limit = site("body.test", "body_limit = \"64KiB\"");
    let answers = "[[site]]\nhosts = [\"nobody.test\"]\ntls = \"off\"\nbody_limit = \"64KiB\"\nrespond = \"hello\"\n";
    let edge = start(&(limit + answers), &upstream);
    let send = |host: &str, head: &str, body: &[u8]| {
        let mut socket = connect(edge.http);
        let text =
            format!("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n\r\n");
        socket.write_all(text.as_bytes()).expect("write");
        // It may be refused before it is whole.
        let _ = socket.write_all(body);
        head_of(&mut socket)
    };
    // By its length, before a byte of it is read.
    for host in ["body.test", "nobody.test"] {
        let answer = send(host, "Content-Length: 65537\r\nExpect: 100-continue", b"");
        assert_eq!(status(&answer), "413", "{answer}");
    }
    assert!(upstream.take().is_empty());
    assert_eq!(
        status(&send("body.test", "Content-Length: 65536", &[b'x'; 65_536])),
        "200"
    );
    assert_eq!(upstream.take()[0].body, 65_536);
    // By what comes, piece by piece.
    let piece = [b"1000\r\n".as_slice(), &[b'x'; 4_096], b"\r\n"].concat();
    let whole = |pieces: usize| [piece.repeat(pieces), b"0\r\n\r\n".to_vec()].concat();
    let chunked = "Transfer-Encoding: chunked";
    assert_eq!(status(&send("body.test", chunked, &whole(16))), "200");
    assert!(upstream.take()[0].whole);
    assert_eq!(status(&send("body.test", chunked, &whole(64))), "413");
    wait_until("the upstream was left alone with it", || {
        let got = upstream.take();
        assert!(
            got.iter().all(|one| !one.whole),
            "a cut body was ended as if it were whole"
        );
        !got.is_empty()
    });
}

/// The head of the last answer, after any 100.
fn head_of(socket: &mut TcpStream) -> String {
    loop {
        let answer = head(socket);
        if status(&answer) != "100" {
            return answer;
        }
    }
}

#[test]
fn another_server_decides_and_its_fields_replace_the_clients() {
    let upstream = Upstream::plain();
    let gate = Upstream::start(|got| {
        match got.field("cookie").is_empty() {
        true => "HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                 Content-Length: 5\r\nConnection: close\r\n\r\nlogin"
            .to_owned(),
        false => "HTTP/1.1 200 OK\r\nRemote-User: alice\r\nX-Forwarded-Email: a@b.test\r\nContent-Length: 0\r\n\
                  Connection: close\r\n\r\n"
            .to_owned(),
    }
    });
    let asks = format!(
        "forward_auth = {{ upstream = \"{}\", uri = \"/verify?rd=1\", \
         copy_headers = [\"Remote-User>X-User\", \"Remote-Groups\", \"X-Forwarded-Email\"] }}",
        gate.addr
    );
    let service = "forward_auth = { service = \"gate\", uri = \"/verify\" }";
    let nobody = "forward_auth = { upstream = \"127.0.0.1:9\", uri = \"/verify\" }";
    let sites =
        site("asks.test", &asks) + &site("service.test", service) + &site("nobody.test", nobody);
    let text = format!("[service.gate]\nblue = [\"{}\"]\n", gate.addr);
    let edge = start(&(sites + &text), &upstream);
    let forged = [
        "-H",
        "X-User: root",
        "-H",
        "X_User: root",
        "-H",
        "Remote-Groups: admins",
    ];

    let answer = ask(
        &edge,
        "asks.test",
        "/a?b=c",
        &[&forged[..], &["-X", "POST", "-d", "body"]].concat(),
    );
    assert_eq!(status(&answer), "302");
    assert_eq!(field(&answer, "location"), Some("https://login.test/"));
    assert_eq!(
        answer.matches("set-cookie").count() + answer.matches("Set-Cookie").count(),
        2
    );
    assert!(answer.ends_with("\r\n\r\nlogin"), "{answer}");
    assert!(upstream.take().is_empty());
    let asked = gate.take().remove(0);
    assert_eq!((asked.line(), asked.body), ("GET /verify?rd=1", 0));
    for (name, value) in [
        ("host", "asks.test"),
        ("x-forwarded-method", "post"),
        ("x-forwarded-uri", "/a?b=c"),
        ("x-forwarded-host", "asks.test"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(asked.field(name), [value], "{}", asked.head);
    }

    let answer = ask(
        &edge,
        "asks.test",
        "/",
        &[&forged[..], &["-b", "a=1"]].concat(),
    );
    assert_eq!(status(&answer), "200");
    let got = upstream.take().remove(0);
    assert_eq!(got.field("x-user"), ["alice"]);
    assert_eq!(got.field("x-forwarded-email"), ["a@b.test"]);
    assert!(
        !got.head.contains("root") && !got.head.contains("admins"),
        "{}",
        got.head
    );

    gate.take();
    assert_eq!(
        status(&ask(&edge, "service.test", "/", &["-b", "a=1"])),
        "200"
    );
    assert_eq!(gate.take()[0].line(), "GET /verify");
    assert_eq!(upstream.take().len(), 1);
    assert_eq!(status(&ask(&edge, "nobody.test", "/", &[])), "502");
    assert!(upstream.take().is_empty());
}

#[test]
fn a_page_of_another_origin_reads_what_the_step_says_and_no_more() {
    let upstream = Upstream::start(|_| {
        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept-Encoding\r\nContent-Length: 2\r\n\
         Connection: close\r\n\r\nok"
            .to_owned()
    });
    let cors = "cors = { origins = [\"https://*.good.test\"], credentials = true, expose = [\"X-Total\"] }";
    let edge = start(&site("cors.test", cors), &upstream);
    let origin = |name: &str| format!("Origin: https://{name}");
    let good = ask(&edge, "cors.test", "/", &["-H", &origin("app.good.test")]);
    assert_eq!(
        field(&good, "access-control-allow-origin"),
        Some("https://app.good.test")
    );
    assert_eq!(
        field(&good, "access-control-allow-credentials"),
        Some("true")
    );
    assert_eq!(
        field(&good, "access-control-expose-headers"),
        Some("X-Total")
    );
    assert!(
        good.to_ascii_lowercase().contains("\r\nvary: origin\r\n"),
        "{good}"
    );
    assert!(
        good.to_ascii_lowercase()
            .contains("\r\nvary: accept-encoding\r\n"),
        "{good}"
    );
    let evil = ask(&edge, "cors.test", "/", &["-H", &origin("evil.test")]);
    assert_eq!(field(&evil, "access-control-allow-origin"), None);
    assert!(
        evil.to_ascii_lowercase().contains("\r\nvary: origin\r\n"),
        "{evil}"
    );
    assert_eq!(upstream.take().len(), 2);
    let asks = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT"];
    let preflight = ask(
        &edge,
        "cors.test",
        "/",
        &[&asks[..], &["-H", &origin("a.good.test")]].concat(),
    );
    assert_eq!(status(&preflight), "204");
    assert!(
        field(&preflight, "access-control-allow-methods")
            .is_some_and(|methods| methods.contains("PUT"))
    );
    assert!(upstream.take().is_empty(), "answered here");
}

#[test]
fn a_client_has_so_many_connections_and_no_more() {
    let upstream = Upstream::plain();
    let limit = "[limits]\nconnections_per_client = 3\n";
    let edge = start(&(limit.to_owned() + &site("many.test", "")), &upstream);
    let open = || {
        let mut socket = connect(edge.http);
        let text = "GET / HTTP/1.1\r\nHost: many.test\r\n\r\n";
        socket.write_all(text.as_bytes()).expect("write");
        let answer = head(&mut socket);
        (status(&answer) == "200").then_some(socket)
    };
    wait_until("three are open", || {
        let kept: Vec<_> = (0..3).map_while(|_| open()).collect();
        if kept.len() < 3 {
            return false;
        }
        assert!(open().is_none(), "a fourth one");
        true
    });
    wait_until("they are given back", || open().is_some());
}

#[test]
fn preset_fields_fill_gaps_and_the_applications_own_win() {
    let upstream = Upstream::start(|_| {
        "HTTP/1.1 200 OK\r\nX-Frame-Options: DENY\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_owned()
    });
    let edge = start(&site("safe.test", "security_headers = true"), &upstream);
    let answer = ask(&edge, "safe.test", "/", &[]);
    assert_eq!(field(&answer, "x-frame-options"), Some("DENY"));
    assert_eq!(field(&answer, "x-content-type-options"), Some("nosniff"));
    assert_eq!(
        field(&answer, "referrer-policy"),
        Some("strict-origin-when-cross-origin")
    );
}
