//! Every open upstream connection of one pool, so that a drained pool can close them all.
//!
//! Pingora keeps idle upstream connections in one private pool without a way to evict. Each
//! connection is therefore entered here with its descriptor when it opens and taken out just
//! before the descriptor is closed; shutting it down makes whoever holds it see the end of the
//! stream and drop it. A connection that carries an upgrade or an event stream is marked, so that
//! each kind can be ended at its own time; one that carries calls or nothing counts as `request`.
//!
//! Connections are known by numbers, because descriptors come again: the task of an HTTP/2
//! connection may close one while a request on it is still served. The lock is held during the
//! shutdown, so a descriptor can't be closed and reused in between. It is taken for connections,
//! upgrades and event streams, never for an ordinary request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, shutdown};

use crate::model::Kind;

/// The open upstream connections of one pool. A clone is the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// By their numbers.
    open: HashMap<u64, Carried>,
    opened: u64,
    retired: bool,
}

#[derive(Clone, Copy, Debug)]
struct Carried {
    fd: RawFd,
    kind: Kind,
}

/// One entered connection; it may be closed already, then nothing here does anything.
#[derive(Clone, Debug)]
pub struct OpenConnection {
    registry: Registry,
    number: u64,
}

impl Registry {
    /// Enters a connection. `None` when the pool is retired: close it instead of using it.
    #[must_use]
    pub fn opened(&self, fd: RawFd) -> Option<OpenConnection> {
        let mut inner = self.lock();
        if inner.retired {
            return None;
        }
        inner.opened += 1;
        let number = inner.opened;
        let kind = Kind::Request;
        inner.open.insert(number, Carried { fd, kind });
        Some(OpenConnection {
            registry: self.clone(),
            number,
        })
    }

    /// Ends the connections that carry `kind`, idle ones too for [`Kind::Request`]. Returns how
    /// many.
    pub fn close(&self, kind: Kind) -> usize {
        let inner = self.lock();
        let of_kind = inner.open.values().filter(|one| one.kind == kind);
        of_kind.map(|one| end(one.fd)).count()
    }

    /// Ends the connections to an address whose container cannot answer any more. Returns how many.
    pub fn end_to(&self, address: SocketAddr) -> usize {
        let inner = self.lock();
        let to_it = inner
            .open
            .values()
            .filter(|one| peer(one.fd) == Some(address));
        to_it.map(|one| end(one.fd)).count()
    }

    /// How many connections are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends every connection in both directions and lets no new one in. Returns how many.
    pub fn retire(&self) -> usize {
        let mut inner = self.lock();
        inner.retired = true;
        inner.open.values().map(|one| end(one.fd)).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing inside can panic half-way, so a poisoned set is still right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    /// Says what it carries from now on.
    pub fn carries(&self, kind: Kind) {
        if let Some(carried) = self.registry.lock().open.get_mut(&self.number) {
            carried.kind = kind;
        }
    }

    /// Ends it in both directions.
    pub fn end(&self) {
        if let Some(carried) = self.registry.lock().open.get(&self.number) {
            end(carried.fd);
        }
    }

    /// Takes it out; must be called before its descriptor is closed.
    pub fn closing(&self) {
        self.registry.lock().open.remove(&self.number);
    }
}

/// Whom a connection leads to.
fn peer(fd: RawFd) -> Option<SocketAddr> {
    let peer = getpeername::<SockaddrStorage>(fd).ok()?;
    let v4 = peer.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| peer.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}

/// A peer that is gone already has nothing left to shut down.
fn end(fd: RawFd) {
    let _ = shutdown(fd, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn retiring_ends_open_connections_and_refuses_new_ones() {
        let registry = Registry::default();
        let (mut here, there) = UnixStream::pair().unwrap();
        let open = registry.opened(there.as_raw_fd()).unwrap();
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.retire(), 1);
        assert_eq!(here.read(&mut [0; 1]).unwrap(), 0, "the peer sees the end");
        assert!(registry.opened(here.as_raw_fd()).is_none());
        open.closing();
        assert!(registry.is_empty());
    }

    #[test]
    fn only_connections_to_that_address_are_ended() {
        use std::net::{TcpListener, TcpStream};
        let registry = Registry::default();
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [0, 1].map(|n| listeners[n].local_addr().unwrap());
        let mut streams = addresses.map(|address| TcpStream::connect(address).unwrap());
        for stream in &streams {
            assert!(registry.opened(stream.as_raw_fd()).is_some());
        }
        assert_eq!(registry.end_to(addresses[0]), 1);
        assert_eq!(streams[0].read(&mut [0; 1]).unwrap(), 0);
        streams[1].set_nonblocking(true).unwrap();
        let open = streams[1].read(&mut [0; 1]).unwrap_err();
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_descriptor_that_comes_again_is_another_connection() {
        let registry = Registry::default();
        let (mut here, there) = UnixStream::pair().unwrap();
        let fd = there.as_raw_fd();
        let old = registry.opened(fd).unwrap();
        old.closing();
        let new = registry.opened(fd).unwrap();
        old.carries(Kind::Sse);
        old.end();
        assert_eq!(registry.close(Kind::Sse), 0);
        here.set_nonblocking(true).unwrap();
        let open = here.read(&mut [0; 1]).unwrap_err();
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
        new.end();
        assert_eq!(here.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn each_kind_is_ended_at_its_own_time() {
        let registry = Registry::default();
        let (mut request, to_request) = UnixStream::pair().unwrap();
        let (mut stream, to_stream) = UnixStream::pair().unwrap();
        let _first = registry.opened(to_request.as_raw_fd()).unwrap();
        registry
            .opened(to_stream.as_raw_fd())
            .unwrap()
            .carries(Kind::Sse);
        assert_eq!(registry.close(Kind::Sse), 1);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        request.set_nonblocking(true).unwrap();
        assert!(request.read(&mut [0; 1]).is_err(), "still open");
        assert_eq!(registry.close(Kind::Request), 1);
        assert_eq!(request.read(&mut [0; 1]).unwrap(), 0);
    }
}
