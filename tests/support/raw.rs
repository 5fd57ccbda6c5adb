//! An upstream that can be told how to fail, and remembers every byte of the heads that it got.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// 200, with the head as the body.
    Good,
    /// This status.
    Status(u16),
    /// Never answers.
    Hang,
    /// 200, of which only the head comes before the end of the connection.
    BreakOff,
    /// 200, with a moment between head and body.
    Apart,
    /// The same, and a moment between each ten bytes of the body.
    Pieces,
    /// The same as apart, and after another moment a reset of the connection.
    Reset,
    /// The same as apart, with three seconds in between.
    Late,
    /// 200 without a space after any colon, with a body as long as there are colons, and the end of
    /// the connection.
    Terse,
}

/// Between the pieces of an answer.
const APART: Duration = Duration::from_millis(20);

/// HTTP/1.1 on threads; ends with the process.
#[derive(Clone, Debug)]
pub struct Raw {
    pub addr: SocketAddr,
    name: &'static str,
    mood: Arc<Mutex<Mood>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Raw {
    pub fn start(name: &'static str, mood: Mood) -> Self {
        Self::start_at(name, mood, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn start_at(name: &'static str, mood: Mood, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).expect("a port");
        let raw = Self {
            addr: listener.local_addr().expect("bound"),
            name,
            mood: Arc::new(Mutex::new(mood)),
            heads: Arc::default(),
        };
        let server = raw.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(socket));
            }
        });
        raw
    }

    /// Heads of requests so far, with whatever came before the first one of a connection.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }

    /// From the next request on.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
    }

    fn serve(&self, mut socket: TcpStream) {
        // Else the second of two pieces waits until the first one is acknowledged (RFC 1122 §4.2.3.4).
        socket.set_nodelay(true).expect("a connection");
        let mut left = Vec::new();
        while let Some(head) = self.head(&mut socket, &mut left) {
            self.heads.lock().expect("no panic").push(head.clone());
            let mood = *self.mood.lock().expect("no panic");
            let (status, body) = match mood {
                Mood::Good
                | Mood::BreakOff
                | Mood::Apart
                | Mood::Pieces
                | Mood::Reset
                | Mood::Late => (200, head),
                Mood::Terse => (200, "ok".to_owned()),
                Mood::Status(status) => (status, "as told\n".to_owned()),
                Mood::Hang => {
                    // Until the other end has had enough.
                    let _ = socket.read(&mut [0; 1]);
                    return;
                }
            };
            let (name, length) = (self.name, body.len());
            let space = if mood == Mood::Terse { "" } else { " " };
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length:{space}{length}\r\nx-origin:{space}{name}\r\n\r\n"
            );
            let pieces = match mood {
                Mood::Apart | Mood::Reset | Mood::Late => vec![answer, body],
                Mood::Pieces => {
                    let pieces = body.as_bytes().chunks(10);
                    let pieces = pieces.map(|piece| String::from_utf8_lossy(piece).into_owned());
                    [answer].into_iter().chain(pieces).collect()
                }
                Mood::BreakOff => vec![answer],
                _ => vec![answer + &body],
            };
            let last = pieces.len() - 1;
            for (n, piece) in pieces.into_iter().enumerate() {
                if socket.write_all(piece.as_bytes()).is_err() {
                    return;
                }
                match mood {
                    Mood::Apart | Mood::Reset if n < last => std::thread::sleep(APART),
                    Mood::Pieces if n < last => std::thread::sleep(APART / 10),
                    Mood::Late if n < last => std::thread::sleep(APART * 150),
                    _ => {}
                }
            }
            match mood {
                Mood::BreakOff | Mood::Terse => return,
                Mood::Reset => {
                    std::thread::sleep(APART);
                    let linger = socket2::SockRef::from(&socket);
                    linger.set_linger(Some(Duration::ZERO)).expect("a socket");
                    return;
                }
                _ => {}
            }
        }
    }

    /// The next head, its body read and thrown away.
    fn head(&self, socket: &mut TcpStream, left: &mut Vec<u8>) -> Option<String> {
        let mut buffer = [0; 4096];
        let end = loop {
            if let Some(end) = left.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            let read = socket.read(&mut buffer).ok().filter(|read| *read > 0)?;
            left.extend_from_slice(&buffer[..read]);
        };
        let head: Vec<u8> = left.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let lower = head.to_ascii_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        while left.len() < length {
            let read = socket.read(&mut buffer).ok().filter(|read| *read > 0)?;
            left.extend_from_slice(&buffer[..read]);
        }
        left.drain(..length);
        Some(head)
    }
}
