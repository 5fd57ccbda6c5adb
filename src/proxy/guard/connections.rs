//! Open connections by client, for `limits.connections_per_client`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::network_of;

/// How many each client has open. Bounded by `limits.connections`, because every entry is an
/// open connection's.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ClientConnections(Mutex<HashMap<IpAddr, usize>>);

/// One open connection's place, given back when dropped.
#[derive(Debug)]
pub(in crate::proxy) struct ClientConnection {
    all: Arc<ClientConnections>,
    network: IpAddr,
}

impl ClientConnections {
    /// Counts one more of `ip`; `None`: it has `limit` already.
    pub(in crate::proxy) fn take(
        self: &Arc<Self>,
        ip: IpAddr,
        limit: usize,
    ) -> Option<ClientConnection> {
        let network = network_of(ip);
        let mut open = self.lock();
        let count = open.entry(network).or_default();
        if *count >= limit.max(1) {
            return None;
        }
        *count += 1;
        Some(ClientConnection {
            all: Arc::clone(self),
            network,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing inside can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_and_what_it_closes_it_may_open_again() {
        let all = Arc::new(ClientConnections::default());
        let take = |text: &str| all.take(text.parse().expect("ip"), 2);
        let first = take("2001:db8::1").expect("a place");
        let _second = take("2001:db8::2").expect("a place");
        assert!(take("2001:db8::3").is_none(), "the /64 is one client");
        assert!(take("2001:db8:0:1::3").is_some());
        drop(first);
        let third = take("2001:db8::3").expect("a place");
        drop(third);
        assert_eq!(all.lock().len(), 1, "nothing is kept of who has none");
    }
}
