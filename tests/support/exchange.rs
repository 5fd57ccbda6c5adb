//! One request on a connection of its own, to its end.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// With the end of its last line.
    pub head: String,
    /// Without space around it.
    pub body: String,
}

/// Asks, and reads until the other side closes. An answer that is shorter than it says is an error.
pub fn exchange(
    edge: SocketAddr,
    method: &str,
    host: &str,
    path: &str,
    body: &str,
) -> Result<Answer, String> {
    let wrong = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect(edge).map_err(wrong)?;
    let patience = Some(Duration::from_secs(15));
    socket.set_read_timeout(patience).map_err(wrong)?;
    let length = match method {
        "GET" => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).map_err(wrong)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(wrong)?;
    let status = answer.split(' ').nth(1);
    let status = status.and_then(|status| status.parse().ok());
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let told = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse::<usize>().ok())?
    });
    if told.is_some_and(|told| told != body.len()) {
        return Err(format!("{} of {told:?} bytes: {answer}", body.len()));
    }
    Ok(Answer {
        status: status.ok_or("no status")?,
        head: format!("{head}\r\n"),
        body: body.trim().to_owned(),
    })
}
