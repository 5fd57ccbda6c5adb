//! The PROXY protocol at the listeners and to upstreams.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use cutover::model::proxy_protocol::{Header, Version};

use crate::support::raw::{Mood, Raw};
use crate::support::{Edge, curl, wait_until};

fn service(upstream: &Raw, more: &str) -> String {
    format!(
        "[[site]]\nhosts = [\"127.0.0.1\"]\ntls = \"internal\"\nredirect = false\nservice = \"web\"\n\
         [service.web]\nblue = [\"{}\"]\n{more}\n",
        upstream.addr
    )
}

/// Believes this machine.
fn believing(upstream: &Raw) -> Edge {
    let edge = Edge::start(&service(upstream, ""));
    let text = std::fs::read_to_string(edge.config()).expect("readable");
    let listen = "[listen]\nproxy_protocol = [\"127.0.0.0/8\"]\n";
    std::fs::write(edge.config(), text.replace("[listen]\n", listen)).expect("written");
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    edge
}

const REQUEST: &str = "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";

/// Sends bytes, returns everything until the other end closes.
fn send(edge: &Edge, bytes: &[&[u8]]) -> String {
    let mut socket = TcpStream::connect(edge.http).expect("connected");
    socket.set_nodelay(true).expect("no delay");
    let patience = Some(Duration::from_secs(15));
    socket.set_read_timeout(patience).expect("a deadline");
    for part in bytes {
        // It may be refused before everything is sent.
        let _ = socket.write_all(part);
    }
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_client_is_who_a_believed_peer_says() {
    let upstream = Raw::start("up", Mood::Good);
    let edge = believing(&upstream);
    let told = Header::Proxied {
        source: "203.0.113.7:4711".parse().expect("an address"),
        destination: "192.0.2.1:80".parse().expect("an address"),
    };
    for version in [Version::V1, Version::V2] {
        let header = told.encode(version);
        let answer = send(&edge, &[&header, REQUEST.as_bytes()]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{version:?}: {answer}");
        let answer = answer.to_ascii_lowercase();
        assert!(
            answer.contains("x-forwarded-for: 203.0.113.7\r\n"),
            "{answer}"
        );
        assert!(
            !answer.contains("proxy tcp4"),
            "the header went on: {answer}"
        );
        // In any pieces.
        let (one, two) = header.split_at(7);
        let answer = send(&edge, &[one, two, REQUEST.as_bytes()]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let local = send(
        &edge,
        &[&Header::Local.encode(Version::V2), REQUEST.as_bytes()],
    );
    assert!(
        local
            .to_ascii_lowercase()
            .contains("x-forwarded-for: 127.0.0.1\r\n"),
        "{local}"
    );
    assert!(edge.access_log().contains("\"client_ip\":\"203.0.113.7\""));
    // Before TLS.
    let url = format!("https://{}/x", edge.https);
    let over_tls = curl(&["--insecure", "--haproxy-protocol", &url]);
    assert_eq!(over_tls.code, 0, "{over_tls:?}");
}

#[test]
fn a_believed_peer_that_says_nothing_or_nonsense_is_not_served() {
    let upstream = Raw::start("up", Mood::Good);
    let edge = believing(&upstream);
    let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
    for bytes in [
        REQUEST.as_bytes(),
        b"PROXY TCP4 1.2.3.4\r\n",
        &long,
        b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\0",
    ] {
        assert_eq!(send(&edge, &[bytes, REQUEST.as_bytes()]), "");
    }
    let plain = curl(&["--insecure", &format!("https://{}/x", edge.https)]);
    assert_ne!(plain.code, 0, "TLS without a header");
    assert!(upstream.heads().is_empty(), "{:?}", upstream.heads());
}

#[test]
fn from_anybody_else_a_header_is_no_request() {
    let upstream = Raw::start("up", Mood::Good);
    let edge = Edge::start(&service(&upstream, ""));
    let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n";
    let answer = send(&edge, &[header, REQUEST.as_bytes()]);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    assert!(upstream.heads().is_empty());
}

#[test]
fn an_upstream_is_told_whose_connection_it_is_and_shares_it_with_nobody() {
    let upstream = Raw::start("up", Mood::Good);
    let text = service(
        &upstream,
        "proxy_protocol = \"v1\"\n[service.web.health]\npath = \"/healthz\"\ninterval = \"500ms\"",
    );
    let edge = Edge::start(&text);
    wait_until("probes are understood", || {
        edge.status()["services"][0]["slots"]["blue"]["upstreams"][0]["healthy"] == true
    });
    let probe = upstream
        .heads()
        .into_iter()
        .find(|head| head.contains("/healthz"));
    assert!(probe.expect("a probe").starts_with("PROXY UNKNOWN\r\nGET "));

    let mut ports = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(edge.http).expect("connected");
        ports.push(socket.local_addr().expect("bound").port());
        for _ in 0..2 {
            let request = REQUEST.replace("Connection: close\r\n", "");
            socket.write_all(request.as_bytes()).expect("sent");
            let mut answer = String::new();
            let mut buffer = [0; 4096];
            while !answer.ends_with("\r\n\r\n") || answer.matches("\r\n\r\n").count() < 2 {
                let read = socket.read(&mut buffer).expect("an answer");
                assert!(read > 0, "closed: {answer}");
                answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        }
    }
    let heads = upstream.heads();
    let heads: Vec<_> = heads.iter().filter(|head| head.contains("/x ")).collect();
    assert_eq!(heads.len(), 4);
    let begins = |port| {
        format!(
            "PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\n",
            edge.http.port()
        )
    };
    for (client, port) in ports.iter().enumerate() {
        let [first, second] = [heads[2 * client], heads[2 * client + 1]];
        assert!(first.starts_with(&begins(port)), "{first}");
        assert!(
            second.starts_with("GET "),
            "not kept for its client: {second}"
        );
    }
}
