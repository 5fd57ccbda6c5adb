//! Connections of upgrades to their upstreams: each has its own, and its answer is read a turn
//! late.
//!
//! Pingora reads an upstream's answer and gives it the end of the request's empty body in one
//! `select!` without an order. If an answer 101 was there at the first look, it was read first in
//! half of the cases; the end of the body, read next, then counted as the end of the upgraded
//! connection, and the client lost it before its first message. That took an upstream that answers
//! between the last write and the first read: one upgrade in a thousand when many come at once. A
//! turn later the end of the body is through.

use std::fmt;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::Result;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::{enter, tcp, unix};
use crate::pool::{Pool, Registry};

/// How long the connection of an upgrade that was refused is kept: nothing else may use it.
const REFUSED_IDLE: Duration = Duration::from_secs(1);

/// Opens connections for the upgrades of a pool.
#[derive(Debug)]
pub(super) struct Upgrades {
    registry: Registry,
    /// Written before anything else.
    first: Vec<u8>,
}

impl Upgrades {
    pub(super) fn of(pool: &Pool, first: Vec<u8>) -> Self {
        Self {
            registry: Registry::clone(pool.connections()),
            first,
        }
    }

    /// The peer's connection is opened here, and none of the kept ones.
    pub(super) fn take_over(self, peer: &mut HttpPeer) {
        peer.group_key = !peer.group_key;
        peer.options.idle_timeout = Some(REFUSED_IDLE);
        peer.options.custom_l4 = Some(Arc::new(self));
    }
}

#[async_trait]
impl Connect for Upgrades {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let turn = Arc::new(Turn::default());
        // Pingora does not know the descriptor of such a stream.
        let (fd, socket): (_, Box<dyn VirtualSocket>) = match addr {
            SocketAddr::Inet(addr) => {
                let socket = tcp(addr, &self.first).await?;
                (socket.as_raw_fd(), Box::new(Patient::new(socket, &turn)))
            }
            SocketAddr::Unix(addr) => {
                let socket = unix(addr, &self.first).await?;
                (socket.as_raw_fd(), Box::new(Patient::new(socket, &turn)))
            }
        };
        let mut stream = Stream::from(VirtualSocketStream::new(socket));
        enter(&self.registry, &mut stream, fd, Some(turn))?;
        Ok(stream)
    }
}

/// When the answer to an upgrade is read.
#[derive(Debug, Default)]
pub(super) struct Turn {
    late: AtomicBool,
}

impl Turn {
    /// The next read is put off by one turn of its task.
    pub(super) fn put_off(&self) {
        self.late.store(true, Ordering::Relaxed);
    }
}

/// A socket that can be told to wait a turn before it is read.
struct Patient<S> {
    socket: S,
    turn: Arc<Turn>,
}

impl<S> Patient<S> {
    fn new(socket: S, turn: &Arc<Turn>) -> Self {
        let turn = Arc::clone(turn);
        Self { socket, turn }
    }
}

impl<S> fmt::Debug for Patient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.turn.fmt(f)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.turn.late.swap(false, Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S> VirtualSocket for Patient<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync,
{
    /// What a connection needs was set when it was opened.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> std::io::Result<()> {
        Ok(())
    }
}
