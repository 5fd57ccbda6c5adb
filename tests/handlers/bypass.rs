//! No filter can be passed by: what the upstream receives is what was matched.
//!
//! Each site guards `/admin/*` with one kind of filter, and each way to write that path differently
//! is tried on all of them. Either the filter holds, or the upstream receives a target that is
//! another path for everybody who reads it as the standard says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::Edge;
use crate::upstream::{Got, Upstream};

/// What may become of a target.
enum Fate {
    /// The filter holds.
    Guarded,
    /// It is another path, which the upstream receives so.
    Passes(&'static str),
    /// It is no target.
    Bad,
}
use Fate::{Bad, Guarded, Passes};

const TARGETS: &[(&str, Fate)] = &[
    ("/admin/x", Guarded),
    ("/admin/", Guarded),
    ("/admin/x?a=b", Guarded),
    // Empty segments.
    ("//admin/x", Guarded),
    ("///admin/x", Guarded),
    ("/admin//x", Guarded),
    // Dot segments, plain and escaped.
    ("/./admin/x", Guarded),
    ("/open/../admin/x", Guarded),
    ("/%2e/admin/x", Guarded),
    ("/open/%2e%2e/admin/x", Guarded),
    ("/open/.%2E/admin/x", Guarded),
    ("/open/%2e./admin/x", Guarded),
    ("/../admin/x", Guarded),
    ("/admin/../open", Passes("/open")),
    ("/admin/%2e%2e/open", Passes("/open")),
    // Escapes of letters and of the slash.
    ("/%61dmin/x", Guarded),
    ("/%61%64%6d%69%6e/x", Guarded),
    ("/admin%2Fx", Guarded),
    ("/admin%2fx", Guarded),
    ("/%2Fadmin/x", Guarded),
    ("/open%2F..%2Fadmin/x", Guarded),
    ("/open/..%2Fadmin/x", Guarded),
    // Case.
    ("/ADMIN/x", Guarded),
    ("/Admin/x", Guarded),
    ("/%41dmin/x", Guarded),
    // Parameters of a segment: part of its name (RFC 3986 §3.3).
    ("/admin;a=b/x", Passes("/admin;a=b/x")),
    ("/open/..;/admin/x", Passes("/open/..;/admin/x")),
    ("/admin/x;a=b", Guarded),
    // An end of a line.
    ("/admin/x%0a", Guarded),
    ("/admin/%0d%0ax", Guarded),
    // Escaped twice: one decoding makes it no path of the filter's.
    ("/%2561dmin/x", Passes("/%2561dmin/x")),
    (
        "/open/%252e%252e/admin/x",
        Passes("/open/%252e%252e/admin/x"),
    ),
    ("/administrator", Passes("/administrator")),
    // A fragment is no part of a target (RFC 9112 §3.2): it is gone before anything is matched.
    ("/open#/../admin/x", Passes("/open")),
    ("/admin/x#/../open", Guarded),
    // No target.
    ("admin/x", Bad),
    ("?/admin/x", Bad),
    ("ftp://open.test/admin/x", Bad),
];

/// Of a list of sites, those whose filter needs no preparation.
const FILTERS: [&str; 5] = [
    "auth.test",
    "list.test",
    "rule.test",
    "abort.test",
    "forward.test",
];

fn config(upstream: SocketAddr, gate: SocketAddr) -> String {
    // The password is `password`, and cheap.
    let hash =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    let site = |host: &str, action: &str| {
        format!(
            "[[site]]\nhosts = [\"{host}\"]\ntls = \"off\"\nservice = \"web\"\n\
             [[site.handle]]\nmatch = {{ path = [\"/admin/*\"] }}\n{action}\n"
        )
    };
    [
        site(
            "auth.test",
            &format!("basic_auth = {{ users = {{ alice = \"{hash}\" }} }}"),
        ),
        site("list.test", "access = { allow = [\"10.0.0.0/8\"] }"),
        site(
            "limit.test",
            "rate_limit = { requests = 1, window = \"1h\", key = \"route\" }",
        ),
        site("rule.test", "error = 403"),
        site("abort.test", "abort = true"),
        site(
            "forward.test",
            &format!("forward_auth = {{ upstream = \"{gate}\", uri = \"/verify\" }}"),
        ),
        "[[site]]\nhosts = [\"method.test\"]\ntls = \"off\"\nservice = \"web\"\n\
         [[site.handle]]\nmatch = { method = [\"DELETE\"] }\nerror = 405\n"
            .to_owned(),
        "[[site]]\nhosts = [\"open.test\"]\ntls = \"off\"\nservice = \"web\"\n".to_owned(),
        format!("[service.web]\nblue = [\"{upstream}\"]\n"),
    ]
    .join("")
}

fn start() -> (Edge, Upstream, Upstream) {
    let upstream = Upstream::plain();
    let gate = Upstream::start(|_| {
        "HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
    });
    let edge = Edge::start(&config(upstream.addr, gate.addr));
    edge.wait_healthy();
    (edge, upstream, gate)
}

/// Sends bytes and reads to the end.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(addr).expect("connect");
    let timeout = Some(Duration::from_secs(10));
    socket.set_read_timeout(timeout).expect("a timeout");
    socket.write_all(bytes).expect("write");
    let mut answer = Vec::new();
    // A reset ends it too.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(line: &str, host: &str, fields: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n").into_bytes()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("closed")
}

fn lines(got: &[Got]) -> Vec<&str> {
    got.iter().map(Got::line).collect()
}

fn holds(host: &str, answer: &str) -> bool {
    let refused = match host {
        "auth.test" | "forward.test" => "401",
        "limit.test" => "429",
        "abort.test" => "closed",
        _ => "403",
    };
    status(answer) == refused
}

#[test]
fn no_spelling_of_a_path_passes_any_filter() {
    let (edge, upstream, _gate) = start();
    // The one request that the limit allows.
    let first = raw(edge.http, &request("GET /admin/x", "limit.test", ""));
    assert_eq!(status(&first), "200");
    assert_eq!(lines(&upstream.take()), ["GET /admin/x"]);
    for host in FILTERS.into_iter().chain(["limit.test"]) {
        for (target, fate) in TARGETS {
            let answer = raw(edge.http, &request(&format!("GET {target}"), host, ""));
            let got = upstream.take();
            match fate {
                Guarded => {
                    assert!(
                        got.is_empty(),
                        "{host} {target}: passed as {:?}",
                        lines(&got)
                    );
                    assert!(holds(host, &answer), "{host} {target}: {answer}");
                }
                Passes(path) => assert_eq!(lines(&got), [format!("GET {path}")], "{host} {target}"),
                Bad => {
                    assert!(got.is_empty(), "{host} {target}: {:?}", lines(&got));
                    assert_eq!(status(&answer), "400", "{host} {target}: {answer}");
                }
            }
        }
    }
}

#[test]
fn a_target_in_absolute_form_and_a_second_host_lead_to_one_site() {
    let (edge, upstream, _gate) = start();
    let ask = |line: &str, host: &str, fields: &str| {
        let answer = raw(edge.http, &request(line, host, fields));
        (status(&answer).to_owned(), upstream.take())
    };
    // The target names the site, whatever Host says (RFC 9112 §3.2.2), or the two must agree.
    let (status, got) = ask("GET http://rule.test/admin/x", "rule.test", "");
    assert_eq!((status.as_str(), got.len()), ("403", 0));
    for (line, host) in [
        ("GET http://rule.test/admin/x", "open.test"),
        ("GET http://open.test/admin/x", "rule.test"),
        ("GET HTTP://RULE.TEST/admin/x", "open.test"),
        ("GET http://open.test@rule.test/admin/x", "open.test"),
        ("GET http://rule.test:80/admin/x", "open.test"),
    ] {
        let (status, got) = ask(line, host, "");
        // If it passed, it was as a request of the open site, and the upstream was told that one.
        for one in &got {
            assert_eq!(one.field("host"), ["open.test"], "{line} {host}");
            assert_eq!(one.line(), "GET /admin/x");
        }
        assert!(
            status == "400" || status == "403" || got.len() == 1,
            "{line} {host}: {status}"
        );
    }
    for (host, second) in [("open.test", "rule.test"), ("rule.test", "open.test")] {
        let (status, got) = ask("GET /admin/x", host, &format!("Host: {second}\r\n"));
        assert_eq!((status.as_str(), got.len()), ("400", 0), "two Hosts");
    }
    for host in ["RULE.TEST", "rule.test.", "rule.test:80", "rule.test:99"] {
        let (status, got) = ask("GET /admin/x", host, "");
        assert_eq!((status.as_str(), got.len()), ("403", 0), "{host}");
    }
}

#[test]
fn a_client_cannot_say_that_it_is_somebody_else_or_something_else() {
    let (edge, upstream, _gate) = start();
    for field in [
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
        "X-Real-IP: 10.0.0.1",
        "Forwarded: for=10.0.0.1",
        "X-Client-IP: 10.0.0.1",
        "CF-Connecting-IP: 10.0.0.1",
        "X_Forwarded_For: 10.0.0.1",
        "X-Forwarded-Host: open.test",
        "X-Original-URL: /open",
        "X-Rewrite-URL: /open",
    ] {
        let answer = raw(
            edge.http,
            &request("GET /admin/x", "list.test", &format!("{field}\r\n")),
        );
        assert_eq!(status(&answer), "403", "{field}");
        assert!(upstream.take().is_empty(), "{field}");
        // And no upstream is made to believe that the open path was another one.
        raw(
            edge.http,
            &request("GET /open", "list.test", &format!("{field}\r\n")),
        );
        let got = upstream.take();
        assert_eq!(lines(&got), ["GET /open"], "{field}");
        assert!(got[0].field("x-original-url").is_empty());
        assert!(got[0].field("x-rewrite-url").is_empty());
        assert!(got[0].field("x_forwarded_for").is_empty());
        assert_eq!(got[0].field("x-forwarded-for"), ["127.0.0.1"], "{field}");
    }
}

#[test]
fn a_method_that_was_matched_is_the_one_the_upstream_sees() {
    let (edge, upstream, _gate) = start();
    let direct = raw(edge.http, &request("DELETE /x", "method.test", ""));
    assert_eq!(status(&direct), "405");
    for field in [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "x_http_method_override: DELETE",
    ] {
        let fields = format!("{field}\r\nContent-Length: 0\r\n");
        raw(edge.http, &request("POST /x", "method.test", &fields));
        let got = upstream.take();
        assert_eq!(lines(&got), ["POST /x"]);
        assert!(!got[0].head.contains("delete"), "{field}: {}", got[0].head);
        // Where no rule looks at methods the application's own convention is none of ours.
        if !field.contains('_') {
            raw(edge.http, &request("POST /x", "open.test", &fields));
            assert!(upstream.take()[0].head.contains("delete"), "{field}");
        }
    }
    assert_eq!(
        status(&raw(edge.http, &request("delete /x", "method.test", ""))),
        "200"
    );
    assert_eq!(
        lines(&upstream.take()),
        ["delete /x"],
        "methods have a case (RFC 9110 §9.1)"
    );
}

/// One HTTP/2 request of exactly these fields, pseudo-fields included, by prior knowledge. Reads
/// until its stream or the connection is answered or ended.
fn h2(addr: SocketAddr, fields: &[(&str, &str)]) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const END_STREAM_AND_HEADERS: u8 = 0x5;
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literal without indexing, new name, no Huffman code (RFC 7541 §6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    let length = u32::try_from(block.len()).expect("short").to_be_bytes();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(SETTINGS);
    bytes.extend(&length[1..]);
    bytes.extend([1, END_STREAM_AND_HEADERS, 0, 0, 0, 1]);
    bytes.extend(block);
    let mut socket = TcpStream::connect(addr).expect("connect");
    let timeout = Some(Duration::from_secs(10));
    socket.set_read_timeout(timeout).expect("a timeout");
    socket.write_all(&bytes).expect("write");
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).is_err() {
            return;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if socket.read_exact(&mut vec![0; length]).is_err() {
            return;
        }
        // HEADERS, RST_STREAM, GOAWAY.
        if matches!(head[3], 1 | 3 | 7) {
            return;
        }
    }
}

#[test]
fn pseudo_fields_of_http2_that_contradict_do_not_reach_the_upstream() {
    let (edge, upstream, _gate) = start();
    let plain = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/open"),
        (":authority", "rule.test"),
    ];
    h2(edge.http, &plain);
    let got = upstream.take();
    assert_eq!(lines(&got), ["GET /open"]);
    assert_eq!(got[0].field("host"), ["rule.test"]);

    let with = |changes: &[(&'static str, &'static str)]| {
        let mut fields = plain.to_vec();
        for (name, value) in changes {
            match fields.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => *old = value,
                None => fields.push((name, value)),
            }
        }
        fields
    };
    // Guarded whatever else is said.
    for fields in [
        with(&[(":path", "/admin/x")]),
        with(&[(":path", "//admin/x")]),
        with(&[(":path", "/open/%2e%2e/admin/x")]),
        with(&[(":path", "/admin/x"), ("host", "open.test")]),
        with(&[(":path", "/admin/x"), (":scheme", "https")]),
        with(&[(":path", "http://open.test/admin/x")]),
        with(&[(":path", "admin/x")]),
        with(&[(":path", "")]),
        with(&[(":path", "/admin/x"), (":authority", "open.test@rule.test")]),
        [with(&[(":path", "/open")]), vec![(":path", "/admin/x")]].concat(),
        [
            with(&[(":path", "/admin/x"), (":authority", "open.test")]),
            vec![(":authority", "rule.test")],
        ]
        .concat(),
        [
            with(&[(":path", "/admin/x")]),
            vec![(":authority", "open.test")],
        ]
        .concat(),
        [vec![("x-first", "1")], with(&[(":path", "/admin/x")])].concat(),
        with(&[(":path", "/admin/x"), ("connection", "host")]),
        with(&[(":path", "/admin/x"), ("transfer-encoding", "chunked")]),
    ] {
        h2(edge.http, &fields);
        let got = upstream.take();
        assert!(got.is_empty(), "{fields:?} passed as {:?}", lines(&got));
    }
    // An authority and a Host that differ: refused, or one of them is what everybody goes by.
    h2(
        edge.http,
        &with(&[
            (":path", "/admin/x"),
            (":authority", "open.test"),
            ("host", "rule.test"),
        ]),
    );
    for one in upstream.take() {
        assert_eq!(one.field("host"), ["open.test"], "{}", one.head);
    }
    // Without an authority the Host is one (RFC 9113 §8.3.1).
    let mut fields = with(&[(":path", "/admin/x"), ("host", "rule.test")]);
    fields.retain(|(name, _)| *name != ":authority");
    h2(edge.http, &fields);
    assert!(upstream.take().is_empty());
}
