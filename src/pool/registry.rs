//! Every open upstream connection of one pool, so that a drained pool can close them all.
//!
//! Pingora keeps idle upstream connections in one private pool without a way to evict. Each
//! connection is therefore entered here with its descriptor when it opens and taken out just
//! before the descriptor is closed; shutting it down makes whoever holds it see the end of the
//! stream and drop it. A connection that carries an upgrade or an event stream is marked, so that
//! each kind can be ended at its own time; a shared HTTP/2 connection counts as `request`. The lock is held during the shutdown, so a descriptor can't be closed and
//! reused in between. It is taken once per connection, never per request.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};

use crate::model::Kind;

/// The open upstream connections of one pool. A clone is the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    open: HashMap<RawFd, Kind>,
    retired: bool,
}

impl Registry {
    /// Enters a connection. False when the pool is retired: close it instead of using it.
    #[must_use]
    pub fn opened(&self, fd: RawFd) -> bool {
        let mut inner = self.lock();
        if inner.retired {
            return false;
        }
        inner.open.insert(fd, Kind::Request);
        true
    }

    /// Takes a connection out; must be called before its descriptor is closed.
    pub fn closing(&self, fd: RawFd) {
        self.lock().open.remove(&fd);
    }

    /// Says what a connection carries from now on.
    pub fn carries(&self, fd: RawFd, kind: Kind) {
        if let Some(carried) = self.lock().open.get_mut(&fd) {
            *carried = kind;
        }
    }

    /// Ends the connections that carry `kind`, idle ones too for [`Kind::Request`]. Returns how
    /// many.
    pub fn close(&self, kind: Kind) -> usize {
        let inner = self.lock();
        let of_kind = inner.open.iter().filter(|(_, carried)| **carried == kind);
        of_kind.map(|(fd, _)| end(*fd)).count()
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
        inner.open.keys().map(|fd| end(*fd)).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing inside can panic half-way, so a poisoned set is still right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        assert!(registry.opened(there.as_raw_fd()));
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.retire(), 1);
        assert_eq!(here.read(&mut [0; 1]).unwrap(), 0, "the peer sees the end");
        assert!(!registry.opened(here.as_raw_fd()));
        registry.closing(there.as_raw_fd());
        assert!(registry.is_empty());
    }
}
