//! Steps of sites and routes, driven through the real daemon.

mod support;

#[path = "handlers/answers.rs"]
mod answers;
#[path = "handlers/bypass.rs"]
mod bypass;
#[path = "handlers/errors.rs"]
mod errors;
#[path = "handlers/files.rs"]
mod files;
#[path = "handlers/guards.rs"]
mod guards;
#[path = "handlers/order.rs"]
mod order;
#[path = "handlers/upstream.rs"]
mod upstream;
#[path = "handlers/upstreams.rs"]
mod upstreams;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::{Edge, Origins};

/// An answer as it came over HTTP/1.1.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// Values of a field.
    fn field(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

/// A daemon over two origins, with one site `h.test` that has `keys` and the service `web`.
fn edge(origins: &Origins, keys: &str) -> Edge {
    let text = format!(
        "[[site]]\nhosts = [\"h.test\"]\ntls = \"off\"\n{keys}\n{}",
        origins.service("observe = \"0s\"")
    );
    let edge = Edge::start(&text);
    edge.wait_healthy();
    edge
}

/// One request on a connection of its own; `more` are further lines of the head.
fn ask(edge: &Edge, method: &str, target: &str, more: &str) -> Answer {
    ask_with(
        edge,
        &format!("{method} {target} HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n{more}\r\n"),
    )
}

/// The same with a whole request.
fn ask_with(edge: &Edge, request: &str) -> Answer {
    let text = exchange(edge, request);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Answer {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: if chunked {
            dechunked(body)
        } else {
            body.to_owned()
        },
    }
}

/// Everything that comes until the connection ends.
fn exchange(edge: &Edge, request: &str) -> String {
    let mut socket = TcpStream::connect(edge.http).expect("connect");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    socket.write_all(request.as_bytes()).expect("write");
    let mut answer = Vec::new();
    // A reset after the answer is an end too.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn dechunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}
