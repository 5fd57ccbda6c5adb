//! What addresses upstream names have now.
//!
//! A name that stops resolving keeps its last good addresses: a DNS server that is away must not
//! take an application down. A name that never resolved has none.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::{Endpoint, UpstreamAddr};
use crate::pool::{Behind, Reported, Target};

/// The last good addresses of every name, and the containers behind addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    names: RwLock<HashMap<Arc<str>, Vec<IpAddr>>>,
    containers: RwLock<HashMap<UpstreamAddr, (Behind, Option<Reported>)>>,
    /// Names of containers that a deploy keeps requests away from.
    held: RwLock<BTreeSet<String>>,
}

impl Addresses {
    /// Records a successful look-up. True when it changed something.
    pub(super) fn learn(&self, host: &Arc<str>, found: Vec<IpAddr>) -> bool {
        let mut known = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if known.get(host) == Some(&found) {
            return false;
        }
        known.insert(Arc::clone(host), found);
        true
    }

    /// Says which container is behind each upstream, and how it is. An upstream that is not named has
    /// none.
    pub(super) fn set_containers(
        &self,
        containers: HashMap<UpstreamAddr, (Behind, Option<Reported>)>,
    ) {
        *self
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner) = containers;
    }

    /// The container behind an upstream.
    pub(super) fn container(&self, upstream: &UpstreamAddr) -> Option<(Behind, Option<Reported>)> {
        let containers = self.containers.read();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        containers.get(upstream).cloned()
    }

    /// Keeps requests away from a container from the next time on that slots are filled, or no
    /// longer.
    pub(super) fn hold(&self, container: &str, held: bool) {
        let all = self.held.write();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        match held {
            true => all.insert(container.to_owned()),
            false => all.remove(container),
        };
    }

    /// Keeps requests away from no container.
    pub(super) fn hold_none(&self) {
        let all = self.held.write();
        all.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether requests are kept away from a container.
    pub(super) fn is_held(&self, container: &str) -> bool {
        let all = self.held.read();
        all.unwrap_or_else(PoisonError::into_inner)
            .contains(container)
    }

    /// Whether a name was ever looked up.
    #[must_use]
    pub(super) fn knows(&self, host: &str) -> bool {
        self.read().contains_key(host)
    }

    /// Where an upstream can be reached now.
    #[must_use]
    pub(super) fn targets(&self, upstream: &UpstreamAddr) -> Vec<Target> {
        match upstream.endpoint() {
            Endpoint::Socket(addr) => vec![Target::Socket(*addr)],
            Endpoint::Unix(path) => vec![Target::Unix(path.clone())],
            Endpoint::Name { host, port } => self
                .read()
                .get(host)
                .into_iter()
                .flatten()
                .map(|ip| Target::Socket(SocketAddr::new(*ip, *port)))
                .collect(),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Arc<str>, Vec<IpAddr>>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }
}
