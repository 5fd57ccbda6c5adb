//! A small answer is passed on when all of it is there.
//!
//! An application that writes the head and the body of an answer one after the other may end in
//! between: it is killed, runs out of memory, is paused. A client that has the head by then has its
//! answer, and the rest of it cannot be had anywhere. So the head of a small answer that came by
//! itself waits for its body, and a GET whose connection ends before that is sent again like one that
//! got no answer at all.
//!
//! How much of an answer pingora has read is not told. How many bytes came on a connection is, by the
//! kernel ([`tcp_info`]), and how long a head was follows from its fields, written as everybody writes
//! them. Whether an upstream does is learned from its whole answers; until then nothing waits.

use std::future::poll_fn;
use std::os::fd::RawFd;
use std::task::Poll;
use std::time::Duration;

use http::{Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use tokio::time::timeout;

use super::connect::Pace;
use super::exchange::Exchange;
use super::tcp_info;
use crate::clock;
use crate::model::Scheme;

/// Bodies up to this length are waited for, in bytes.
const LARGEST: u64 = 16 * 1024;

/// How long a head waits for its body. What takes longer is passed on in pieces.
const LONGEST: Duration = Duration::from_secs(1);

/// How long heads of an upstream wait for nothing after one that waited in vain.
const FORGIVEN: Duration = Duration::from_secs(300);

/// How often the kernel is asked during a wait: the first time, and at the rarest.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(16)];

/// The connection on which an answer comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Pingora's, and open until the answer is through.
    fd: RawFd,
    /// Bytes that came on it before.
    before: u64,
    /// Bytes on it when all of the answer is there. Known with its head.
    whole: Option<u64>,
}

/// An answer whose head is there and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadAlone {
    fd: RawFd,
    /// Bytes on the connection when the body is there too.
    whole: u64,
}

/// How the wait for a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// It is there.
    Came,
    /// It will not come: the connection has ended.
    Lost,
    /// It takes its time.
    Late,
}

impl Exchange {
    /// Remembers how much came on a connection before this exchange. Only for answers that are waited
    /// for: in plain HTTP/1, of the method GET.
    pub(super) fn expect_answer(
        &self,
        method: &Method,
        fd: RawFd,
        reused: bool,
    ) -> Option<Arrival> {
        let upstream = self.upstream.as_ref()?.upstream();
        let plain = upstream.configured().scheme() == Scheme::Http;
        if !plain
            || method != Method::GET
            || self.pace != Pace::Exchange
            || upstream.is_slow_with_bodies()
        {
            return None;
        }
        let before = if reused {
            tcp_info::of(fd)?.received
        } else {
            0
        };
        Some(Arrival {
            fd,
            before,
            whole: None,
        })
    }

    /// An answer that is small, and of which only the head is there.
    pub(super) fn head_alone(&mut self, response: &ResponseHeader) -> Option<HeadAlone> {
        let arrival = self.arrival.as_mut()?;
        let Some(body) = small_body(response) else {
            self.arrival = None;
            return None;
        };
        let (fd, head) = (arrival.fd, arrival.before + head_length(response));
        let whole = head + body;
        arrival.whole = Some(whole);
        let came = tcp_info::of(fd)?.received;
        let upstream = self.upstream.as_ref()?.upstream();
        let is_alone = came == head && upstream.writes_heads_as_counted();
        is_alone.then_some(HeadAlone { fd, whole })
    }

    /// Learns from an answer that is whole whether its head was as long as its fields say.
    pub(super) fn answer_is_whole(&mut self) {
        if let Some(Arrival {
            fd,
            whole: Some(whole),
            ..
        }) = self.arrival.take()
            && let Some(used) = &self.upstream
            && !used.upstream().writes_heads_as_counted()
            && tcp_info::of(fd).is_some_and(|info| info.received == whole)
        {
            used.upstream().heads_are_as_counted();
        }
    }

    /// Lets a body come before its head is passed on.
    ///
    /// # Errors
    /// It will not come; nothing of the answer was passed on.
    pub(super) async fn wait_for_body(&mut self, alone: HeadAlone) -> Result<()> {
        match alone.body().await {
            Body::Came => Ok(()),
            Body::Late => {
                if let Some(used) = &self.upstream {
                    used.upstream()
                        .was_slow_with_a_body(clock::now() + FORGIVEN);
                }
                Ok(())
            }
            Body::Lost => {
                self.attempts.broken_off = true;
                let lost =
                    Error::explain(ErrorType::ConnectionClosed, "an answer without its body");
                Err(lost.into_up())
            }
        }
    }
}

impl HeadAlone {
    /// Waits for the body. Should be awaited in the task that reads the connection.
    pub(super) async fn body(self) -> Body {
        let [mut step, rarest] = LOOKS;
        let mut left = LONGEST;
        loop {
            // Mostly what comes wakes the reader, which is polled together with this. Not when it has
            // read more pieces than it can pass on, and not what it read in the same turn before.
            let look = poll_fn(|_| self.look().map_or(Poll::Pending, Poll::Ready));
            let time = step.min(left);
            if let Ok(end) = timeout(time, look).await {
                return end;
            }
            left -= time;
            if left.is_zero() {
                return Body::Late;
            }
            step = (step * 2).min(rarest);
        }
    }

    fn look(self) -> Option<Body> {
        match tcp_info::of(self.fd) {
            Some(info) if info.received >= self.whole => Some(Body::Came),
            Some(info) if info.is_open => None,
            Some(_) | None => Some(Body::Lost),
        }
    }
}

/// The length of a body that is announced and small. None of an error of the upstream: nobody asks for
/// that again for its own sake.
fn small_body(response: &ResponseHeader) -> Option<u64> {
    let bare = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if response.status.is_informational()
        || response.status.is_server_error()
        || bare.contains(&response.status)
        || response.version > Version::HTTP_11
    {
        return None;
    }
    let length = response.headers.get(header::CONTENT_LENGTH)?;
    let length: u64 = length.to_str().ok()?.parse().ok()?;
    (1..=LARGEST).contains(&length).then_some(length)
}

/// How long a head was on the wire, with one space after each colon (RFC 9112 §4, §5).
fn head_length(response: &ResponseHeader) -> u64 {
    let reason = response.get_reason_phrase().unwrap_or_default();
    let status = "HTTP/1.1 200 ".len() + reason.len() + "\r\n".len();
    let fields = response.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len());
    (status + fields.sum::<usize>() + "\r\n".len()) as u64
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn response(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        response.set_version(Version::HTTP_11);
        for (name, value) in fields {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (here, listener.accept().unwrap().0)
    }

    #[test]
    fn a_head_is_as_long_as_it_was_written() {
        let fields = [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("X-Empty", "")];
        let head = "HTTP/1.1 404 Not Found\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Empty: \r\n\r\n";
        assert_eq!(head_length(&response(404, &fields)), head.len() as u64);
        let mut odd = response(200, &[]);
        odd.set_reason_phrase(Some("Fine")).unwrap();
        assert_eq!(head_length(&odd), "HTTP/1.1 200 Fine\r\n\r\n".len() as u64);
    }

    #[test]
    fn only_a_body_that_is_announced_and_small_is_waited_for() {
        let of =
            |status, length: &str| small_body(&response(status, &[("content-length", length)]));
        assert_eq!(of(200, "13"), Some(13));
        assert_eq!(of(404, "16384"), Some(16384));
        for (status, length) in [
            (200, "0"),
            (200, "16385"),
            (304, "13"),
            (204, "13"),
            (103, "13"),
        ] {
            assert_eq!(of(status, length), None, "{status} {length}");
        }
        assert_eq!(small_body(&response(200, &[])), None);
        let mut h2 = response(200, &[("content-length", "13")]);
        h2.set_version(Version::HTTP_2);
        assert_eq!(small_body(&h2), None);
    }

    #[tokio::test]
    async fn a_body_comes_or_never_will() {
        let (here, mut there) = pair();
        let fd = here.as_raw_fd();
        there.write_all(b"head").unwrap();
        there.write_all(b"body").unwrap();
        assert_eq!(HeadAlone { fd, whole: 8 }.body().await, Body::Came);
        // The last byte is missing, and an end is not one.
        drop(there);
        assert_eq!(HeadAlone { fd, whole: 9 }.body().await, Body::Lost);
        assert_eq!(HeadAlone { fd, whole: 8 }.body().await, Body::Came);
    }

    #[tokio::test]
    async fn a_body_in_pieces_needs_nobody_who_reads() {
        let (here, mut there) = pair();
        let fd = here.as_raw_fd();
        let pieces = std::thread::spawn(move || {
            for _ in 0..10 {
                there.write_all(b"piece").unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            there
        });
        let began = clock::now();
        assert_eq!(HeadAlone { fd, whole: 50 }.body().await, Body::Came);
        assert!(clock::now() - began < LONGEST, "{:?}", began.elapsed());
        drop(pieces.join());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_takes_its_time_is_not_waited_for() {
        let (here, _there) = pair();
        let alone = HeadAlone {
            fd: here.as_raw_fd(),
            whole: 1,
        };
        let early = timeout(LONGEST - LOOKS[0], alone.body()).await;
        assert!(early.is_err(), "{early:?}");
        let in_time = timeout(LONGEST + LOOKS[1], alone.body()).await;
        assert_eq!(in_time, Ok(Body::Late));
    }
}
