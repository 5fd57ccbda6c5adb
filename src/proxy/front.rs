//! One client connection as pingora sees it: the stream, who is at its ends, and the deadline
//! for a request head.
//!
//! Pingora bounds each read but not their sum, so a client that sends a byte a minute could keep
//! a connection for ever. [`Front`] counts from the first byte of a head to its end and breaks
//! the connection when that takes too long. In the common case a head arrives in one read and no
//! timer is ever made.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use pingora::proxy::Session;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::Sleep;

use super::websocket::{ANSWER_DEADLINE, Frames, Head, close_for_client, close_for_upstream};
use crate::pool::StreamEnd;
use crate::tls::TlsInfo;

const AWAITING_HEAD: u8 = 0;
const READING_HEAD: u8 = 1;
const PAST_HEAD: u8 = 2;

/// What may wait to be written together: about one packet. Longer writes pass it by.
const WRITE_BUFFER_BYTES: usize = 1_460;

/// How long a closing connection may take for its last bytes.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of the HTTP/2 client preface (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// What is known about a client connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who connected.
    pub(super) peer: IpAddr,
    /// From which port.
    pub(super) peer_port: u16,
    /// Where to.
    pub(super) local: SocketAddr,
    /// Name and certificate of the handshake; `None` for plain HTTP.
    pub(super) tls: Option<Arc<TlsInfo>>,
    /// Its socket, open for as long as a request of it is served.
    socket: RawFd,
    /// Set when the connection has become a WebSocket: how its end is asked for.
    websocket: OnceLock<Arc<StreamEnd>>,
    head: AtomicU8,
}

impl Connection {
    pub(super) fn new(
        socket: RawFd,
        peer: SocketAddr,
        local: SocketAddr,
        tls: Option<Arc<TlsInfo>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            socket,
            websocket: OnceLock::new(),
            peer: peer.ip().to_canonical(),
            peer_port: peer.port(),
            local,
            tls,
            head: AtomicU8::new(AWAITING_HEAD),
        })
    }

    /// The connection of a request.
    pub(super) fn of(session: &Session) -> Option<&Arc<Self>> {
        session
            .digest()?
            .proxy_digest
            .as_ref()?
            .user_data
            .as_ref()?
            .downcast_ref()
    }

    /// It becomes a WebSocket with the head that is written next. Its end can be asked for.
    pub(super) fn upgraded(&self) -> Arc<StreamEnd> {
        Arc::clone(self.websocket.get_or_init(Arc::default))
    }

    /// Whether the client has ended its side. Only to be asked while a request is served: the
    /// socket is open then.
    pub(super) fn is_gone(&self) -> bool {
        // Reading nothing leaves everything in place, and still says that the end has come.
        let mut seen = [0; 1];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.socket, &mut seen, flags) {
            Ok(read) => read == 0,
            Err(errno) => !matches!(errno, Errno::EAGAIN | Errno::EINTR),
        }
    }

    /// The head of the current request was read.
    pub(super) fn head_complete(&self) {
        self.head.store(PAST_HEAD, Ordering::Relaxed);
    }

    /// The next byte read begins another head.
    pub(super) fn next_head(&self) {
        self.head.store(AWAITING_HEAD, Ordering::Relaxed);
    }
}

/// A client connection with a deadline for request heads.
pub(super) struct Front {
    /// Pingora writes a head and the body after it one by one and flushes when it means it;
    /// together they are one packet, and one TLS record.
    stream: BufWriter<Stream>,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    head_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface still to come; 0 for HTTP/1.
    preface_left: usize,
    h2: bool,
    websocket: Option<Box<WebSocket>>,
}

/// A connection that has become a WebSocket.
#[derive(Debug)]
struct WebSocket {
    end: Arc<StreamEnd>,
    head: Head,
    to_client: Frames,
    to_upstream: Frames,
    /// What is left to write of the Close frame for the client; `None`: not begun.
    farewell: Option<Vec<u8>>,
    /// What is left to give of the Close frame for the upstream; `None`: not begun.
    notice: Option<Vec<u8>>,
    /// Until when the client may answer.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Front {
    /// Wraps `stream`. `h2`: what follows is HTTP/2, by ALPN or by prior knowledge.
    ///
    /// # Errors
    /// None in practice: the digest's placeholder head is always valid.
    pub(super) fn new(
        stream: Stream,
        connection: Arc<Connection>,
        head_timeout: Duration,
        h2: bool,
    ) -> pingora::Result<Self> {
        // Pingora hands this digest to every request of the connection, HTTP/2 included.
        let placeholder = Box::new(ResponseHeader::build(200, Some(0))?);
        let digest = ProxyDigest::new(placeholder, Some(Box::new(Arc::clone(&connection))));
        Ok(Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream),
            connection,
            digest: Arc::new(digest),
            head_timeout,
            deadline: None,
            preface_left: if h2 { PREFACE_BYTES } else { 0 },
            h2,
            websocket: None,
        })
    }

    /// What follows the frames, once the connection is a WebSocket.
    fn websocket(&mut self) -> Option<&mut WebSocket> {
        if self.websocket.is_none() {
            let end = self.connection.websocket.get()?;
            self.websocket = Some(Box::new(WebSocket {
                end: Arc::clone(end),
                head: Head::default(),
                to_client: Frames::default(),
                to_upstream: Frames::default(),
                farewell: None,
                notice: None,
                deadline: None,
            }));
        }
        self.websocket.as_deref_mut()
    }

    /// Says goodbye to the client, when that is wanted and nothing is half said.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let Self {
            websocket: Some(websocket),
            stream,
            ..
        } = self
        else {
            return Poll::Ready(Ok(()));
        };
        if websocket.farewell.is_none() {
            let ready = websocket.head.is_over() && websocket.to_client.is_between();
            if !websocket.end.is_asked() || !ready || websocket.to_client.has_closed() {
                return Poll::Ready(Ok(()));
            }
            websocket.farewell = Some(close_for_client());
            websocket.deadline = Some(Box::pin(tokio::time::sleep(ANSWER_DEADLINE)));
        }
        while let Some(left) = websocket.farewell.as_mut().filter(|left| !left.is_empty()) {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, left))?;
            left.drain(..written);
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_read_websocket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            if let Some(websocket) = self.websocket() {
                websocket.end.wake_later(0, cx.waker());
            }
            // Goodbye waits for no reader: a client that does not read is cut at the deadline.
            if let Poll::Ready(Err(error)) = self.poll_farewell(cx) {
                return Poll::Ready(Err(error));
            }
            let Self {
                websocket: Some(websocket),
                stream,
                ..
            } = self
            else {
                return Poll::Ready(Ok(()));
            };
            if websocket.farewell.is_some() && websocket.to_upstream.is_between() {
                let notice = websocket
                    .notice
                    .get_or_insert_with(|| close_for_upstream(fastrand::u32(..).to_be_bytes()));
                if !notice.is_empty() {
                    let given = notice.len().min(buf.remaining());
                    buf.put_slice(&notice[..given]);
                    notice.drain(..given);
                    return Poll::Ready(Ok(()));
                }
            }
            let saying_goodbye = websocket.notice.is_some();
            if saying_goodbye && websocket.to_upstream.has_closed() {
                // The client has answered: nothing more comes.
                return Poll::Ready(Ok(()));
            }
            if let Some(deadline) = &mut websocket.deadline
                && deadline.as_mut().poll(cx).is_ready()
                && saying_goodbye
            {
                return Poll::Ready(Ok(()));
            }
            if !saying_goodbye {
                let before = buf.filled().len();
                ready!(Pin::new(stream).poll_read(cx, buf))?;
                websocket.to_upstream.follow(&buf.filled()[before..]);
                return Poll::Ready(Ok(()));
            }
            // The upstream knows: what the client says now is only looked at for its answer.
            let mut bytes = [0; 4_096];
            let mut dropped = ReadBuf::new(&mut bytes);
            ready!(Pin::new(stream).poll_read(cx, &mut dropped))?;
            if dropped.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            websocket.to_upstream.follow(dropped.filled());
        }
    }

    fn poll_write_websocket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_farewell(cx))?;
        let Self {
            websocket: Some(websocket),
            stream,
            ..
        } = self
        else {
            return Poll::Ready(Ok(0));
        };
        if websocket.farewell.is_some() {
            // Nothing follows a Close frame (RFC 6455 §5.5.1).
            return Poll::Ready(Ok(buf.len()));
        }
        let mut head = websocket.head;
        let mut part = head.follow(buf);
        if part == 0 {
            part = buf.len();
            if websocket.end.is_asked() {
                part = websocket.to_client.rest_of_message(buf);
            }
        }
        let written = ready!(Pin::new(stream).poll_write(cx, &buf[..part]))?;
        let in_head = websocket.head.follow(&buf[..written]);
        websocket.to_client.follow(&buf[in_head..written]);
        Poll::Ready(Ok(written))
    }

    /// Whether the head (or the preface) is being waited for with a deadline.
    fn is_timed(&self) -> bool {
        if self.h2 {
            self.preface_left > 0
        } else {
            self.connection.head.load(Ordering::Relaxed) == READING_HEAD
        }
    }

    fn took(&mut self, bytes: usize) {
        if self.h2 {
            self.preface_left = self.preface_left.saturating_sub(bytes);
        } else {
            // Only the first byte of a head changes the state; a body leaves it alone.
            let _ = self.connection.head.compare_exchange(
                AWAITING_HEAD,
                READING_HEAD,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Front {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.websocket().is_some() {
            return self.poll_read_websocket(cx, buf);
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match polled {
            Poll::Ready(_) => {
                let bytes = buf.filled().len() - before;
                if bytes > 0 {
                    self.took(bytes);
                }
                if !self.is_timed() {
                    self.deadline = None;
                }
                polled
            }
            Poll::Pending if self.is_timed() => {
                let timeout = self.head_timeout;
                let deadline = self
                    .deadline
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                if deadline.as_mut().poll(cx).is_ready() {
                    let late = std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        "the request head did not arrive in time",
                    );
                    return Poll::Ready(Err(late));
                }
                Poll::Pending
            }
            Poll::Pending => {
                self.deadline = None;
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Front {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.websocket().is_some() {
            return self.poll_write_websocket(cx, buf);
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        if self.websocket().is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write_websocket(cx, first.map_or(&[], |buf| buf));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Front {
    async fn shutdown(&mut self) {
        // A peer that is gone or does not read has no claim on the last bytes.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.stream.shutdown()).await;
    }
}

impl UniqueID for Front {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().id()
    }
}

impl Ssl for Front {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        // Also for h2c, where nothing was negotiated: this is what pingora decides by.
        Some(if self.h2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for Front {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Front {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest))
    }

    fn set_proxy_digest(&mut self, _digest: ProxyDigest) {}
}

impl GetSocketDigest for Front {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }

    fn set_socket_digest(&mut self, _digest: SocketDigest) {}
}

impl Peek for Front {}
