//! An upstream that writes down what it gets, byte for byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What came with one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    /// The whole head, lower case but for its first line.
    pub(crate) head: String,
    /// Bytes of the body that came before the connection ended or the body did.
    pub(crate) body: usize,
    /// Whether the body was whole.
    pub(crate) whole: bool,
}

impl Got {
    /// Method and target as they came.
    pub(crate) fn line(&self) -> &str {
        let line = self.head.lines().next().unwrap_or_default();
        line.strip_suffix(" HTTP/1.1").unwrap_or(line)
    }

    /// The values of a field.
    pub(crate) fn field(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}: ");
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.strip_prefix(&*start))
            .collect()
    }
}

/// Answers every request with `answer(its head)` and ends the connection, or what it was upgraded to
/// when the client does.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Upstream {
    pub(crate) fn start(answer: impl Fn(&Got) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let upstream = Self {
            addr: listener.local_addr().expect("an address"),
            got: Arc::default(),
        };
        let (got, answer) = (Arc::clone(&upstream.got), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (got, answer) = (Arc::clone(&got), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &got, &*answer));
            }
        });
        upstream
    }

    /// Answers `200` and `ok`.
    pub(crate) fn plain() -> Self {
        Self::start(|_| ok())
    }

    /// What came since the last call.
    pub(crate) fn take(&self) -> Vec<Got> {
        std::mem::take(&mut *self.got.lock().expect("no panic"))
    }
}

/// An answer with the body `ok`.
pub(crate) fn ok() -> String {
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_owned()
}

fn serve(mut stream: TcpStream, got: &Mutex<Vec<Got>>, answer: &dyn Fn(&Got) -> String) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            // The probe: it connects and leaves.
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head);
    let (line, fields) = text.split_once("\r\n").unwrap_or_default();
    let mut one = Got {
        head: format!(
            "{line}\n{}",
            fields.to_ascii_lowercase().replace("\r\n", "\n")
        ),
        ..Got::default()
    };
    let length: usize = one
        .field("content-length")
        .first()
        .map_or(0, |n| n.parse().expect("n"));
    let chunked = !one.field("transfer-encoding").is_empty();
    let mut body = Vec::new();
    let mut piece = [0; 4096];
    one.whole = loop {
        let is_whole = match chunked {
            true => body.ends_with(b"0\r\n\r\n"),
            false => body.len() >= length,
        };
        if is_whole {
            break true;
        }
        match stream.read(&mut piece) {
            Ok(read @ 1..) => body.extend_from_slice(&piece[..read]),
            _ => break false,
        }
    };
    one.body = body.len();
    let answer = answer(&one);
    got.lock().expect("no panic").push(one);
    let _ = stream.write_all(answer.as_bytes());
    // What follows an upgrade is the client's to end.
    while answer.starts_with("HTTP/1.1 101") {
        match stream.read(&mut piece) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
