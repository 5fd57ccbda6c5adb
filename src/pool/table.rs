//! The snapshot that a request loads: routes, and for every service its live pool.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::generation::{Claim, Pool};
use super::route::Routes;
use crate::config::ServiceIndex;
use crate::model::{Color, ServiceName};

/// One service in a table.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Its name.
    pub name: ServiceName,
    /// The color that takes new requests.
    pub live: Color,
    /// The pool that takes new requests; `None`: the live slot has no upstreams.
    pub pool: Option<Arc<Pool>>,
}

/// Routes and pools that belong together. Never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Which host and path leads where.
    pub routes: Arc<Routes>,
    /// Services by [`ServiceIndex`].
    pub services: Vec<ServiceEntry>,
    /// Position of each service.
    pub by_name: Arc<HashMap<ServiceName, ServiceIndex>>,
}

impl Table {
    /// The service at an index of this table's routes.
    #[must_use]
    pub fn service(&self, index: ServiceIndex) -> Option<&ServiceEntry> {
        self.services.get(index.0)
    }

    /// A service by name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&ServiceEntry> {
        self.by_name
            .get(name)
            .and_then(|index| self.service(*index))
    }
}

/// The current [`Table`]. One writer at a time (`app`), any number of readers without a lock.
#[derive(Debug, Default)]
pub struct LiveTable(ArcSwap<Table>);

impl LiveTable {
    /// Starts with `table`.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self(ArcSwap::from_pointee(table))
    }

    /// What is current now.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Table>> {
        self.0.load()
    }

    /// Replaces it: every request that loads after this sees all of it.
    pub fn store(&self, table: Table) {
        self.0.store(Arc::new(table));
    }

    /// Claims a place on the live pool of `service`, starting from `table`, which the caller has
    /// routed with. A pool that began to drain after the load makes this load again, by name,
    /// because positions may have moved.
    #[must_use]
    pub fn claim(&self, table: &Table, service: ServiceIndex) -> Option<Claim> {
        let entry = table.service(service)?;
        if let Some(claim) = entry.pool.as_ref()?.try_claim() {
            return Some(claim);
        }
        self.claim_again(&entry.name)
    }

    /// Claims a place on the live pool of the service of that name, as of now.
    #[must_use]
    pub fn claim_again(&self, name: &ServiceName) -> Option<Claim> {
        // A pool that drains was replaced before its bit was set, so the next load sees the new
        // one. The bound only keeps a broken invariant from becoming a spin.
        for _ in 0..64 {
            let table = self.load();
            if let Some(claim) = table.named(name.as_str())?.pool.as_ref()?.try_claim() {
                return Some(claim);
            }
        }
        None
    }
}
