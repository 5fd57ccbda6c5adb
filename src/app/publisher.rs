//! The one writer of the live table: builds it from a configuration, and moves live colors.
//!
//! Every change happens under one mutex and ends in one store. A reload keeps the slots, pools
//! and live colors of services that stay, so no request notices it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::addresses::Addresses;
use crate::config::{Config, Service, ServiceIndex};
use crate::metrics::Metrics;
use crate::model::{Color, Generation, Kind, Release, ServiceName};
use crate::pool::{LiveTable, Pool, Routes, ServiceEntry, Slot, SlotSettings, Table, Upstream};

/// One service's part of a cutover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which service.
    pub service: ServiceName,
    /// Which slot takes new requests.
    pub color: Color,
    /// Number of the pool if a new one is needed, because the slot's newest one drains.
    pub generation: Generation,
}

/// Owns slots and pools; replaces the table that requests load.
#[derive(Debug)]
pub struct Publisher {
    table: Arc<LiveTable>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<(ServiceName, Color), Arc<Slot>>,
    /// Every pool that may still have requests, by service and number.
    pools: HashMap<(ServiceName, Generation), Arc<Pool>>,
    newest: Generation,
}

impl Publisher {
    /// Starts with an empty table.
    #[must_use]
    pub fn new(table: Arc<LiveTable>, metrics: Arc<Metrics>) -> Self {
        Self {
            table,
            metrics,
            state: Mutex::default(),
        }
    }

    /// The table that requests load.
    #[must_use]
    pub fn table(&self) -> &Arc<LiveTable> {
        &self.table
    }

    /// Publishes a configuration in one store. A service that is live keeps its color and pools;
    /// a new one starts with `recorded`, else as the configuration says. Returns the pools that
    /// the configuration no longer names; they must be drained.
    pub fn apply(
        &self,
        config: &Config,
        addresses: &Addresses,
        recorded: &dyn Fn(&ServiceName) -> Option<Color>,
    ) -> Vec<Arc<Pool>> {
        let mut state = self.lock();
        let before = self.table.load();
        let mut services = Vec::with_capacity(config.services.len());
        let mut by_name = HashMap::with_capacity(config.services.len());
        for (at, service) in config.services.iter().enumerate() {
            let old = before.named(service.name.as_str());
            let pools = Color::ALL.map(|color| {
                let slot = state.slot(service, color, &self.metrics, addresses)?;
                let kept = old.and_then(|old| old.pools[color.index()].clone());
                Some(kept.unwrap_or_else(|| state.open(slot)))
            });
            let live = old
                .map(|old| old.live)
                .or_else(|| recorded(&service.name))
                .unwrap_or_else(|| service.first_live());
            let live = with_upstreams(service, live);
            by_name.insert(service.name.clone(), ServiceIndex(at));
            services.push(ServiceEntry {
                name: service.name.clone(),
                live,
                pools,
            });
        }
        let table = Table {
            routes: Arc::new(Routes::new(config)),
            services,
            by_name: Arc::new(by_name),
        };
        let gone = before
            .services
            .iter()
            .flat_map(|old| old.pools.iter().flatten())
            .filter(|pool| {
                let slot = pool.slot();
                let still = table.named(slot.service().as_str());
                still.is_none_or(|entry| entry.pools[slot.color().index()].is_none())
            })
            .cloned()
            .collect();
        state.slots.retain(|(name, color), _| {
            let entry = table.named(name.as_str());
            entry.is_some_and(|entry| entry.pools[color.index()].is_some())
        });
        self.table.store(table);
        gone
    }

    /// Moves all services of `placements` in one store. Returns for each the number of the pool
    /// that now takes its requests; `None` for a service or slot that does not exist.
    pub fn place(&self, placements: &[Placement]) -> Vec<Option<Generation>> {
        let mut state = self.lock();
        let mut table = Table::clone(&self.table.load());
        let placed = placements
            .iter()
            .map(|placement| {
                let at = *table.by_name.get(&placement.service)?;
                let entry = table.services.get_mut(at.0)?;
                let pool = entry.pools[placement.color.index()].as_mut()?;
                if pool.claims().is_draining() {
                    *pool = state.open_as(Arc::clone(pool.slot()), placement.generation);
                }
                entry.live = placement.color;
                Some(pool.generation())
            })
            .collect();
        self.table.store(table);
        placed
    }

    /// The pool of a number, if it may still have requests.
    #[must_use]
    pub fn pool(&self, service: &ServiceName, generation: Generation) -> Option<Arc<Pool>> {
        let key = (service.clone(), generation);
        self.lock().pools.get(&key).cloned()
    }

    /// Refuses new requests to a pool. Never the live one: that is a mistake of the caller, which
    /// changes nothing and is logged.
    pub fn begin_drain(&self, service: &ServiceName, generation: Generation) {
        let Some(pool) = self.pool(service, generation) else {
            return;
        };
        let table = self.table.load();
        let live = table
            .named(service.as_str())
            .and_then(ServiceEntry::live_pool)
            .is_some_and(|live| live.generation() == generation);
        if live {
            warn!(%service, %generation, "refused to drain the live pool");
            return;
        }
        pool.claims().begin_drain();
    }

    /// Ends the upstream connections of a pool that carry `kind`. Returns how many.
    pub fn close(&self, service: &ServiceName, generation: Generation, kind: Kind) -> usize {
        self.pool(service, generation)
            .map_or(0, |pool| pool.connections().close(kind))
    }

    /// Ends every upstream connection of a pool and forgets it. Returns how many connections.
    pub fn retire(&self, service: &ServiceName, generation: Generation) -> usize {
        let key = (service.clone(), generation);
        let pool = self.lock().pools.remove(&key);
        pool.map_or(0, |pool| pool.connections().retire())
    }

    /// The slot of a service, if the configuration names it.
    #[must_use]
    pub fn slot(&self, service: &ServiceName, color: Color) -> Option<Arc<Slot>> {
        self.lock().slots.get(&(service.clone(), color)).cloned()
    }

    /// Every slot.
    #[must_use]
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.lock().slots.values().cloned().collect()
    }

    /// Makes every later pool number larger than `generation`.
    pub fn continue_after(&self, generation: Generation) {
        let mut state = self.lock();
        state.newest = state.newest.max(generation);
    }

    /// Names what runs in a slot.
    pub fn set_release(&self, service: &ServiceName, color: Color, release: Option<Release>) {
        if let Some(slot) = self.slot(service, color) {
            slot.set_release(release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves the old table in place, which is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The slot as configured, made when it is new; `None` when it has no upstreams.
    fn slot(
        &mut self,
        service: &Service,
        color: Color,
        metrics: &Metrics,
        addresses: &Addresses,
    ) -> Option<Arc<Slot>> {
        let configured = service.slots[color.index()].as_ref()?;
        let settings = SlotSettings {
            balance: service.balance.clone(),
            eject: service.eject.clone(),
        };
        let slot = self
            .slots
            .entry((service.name.clone(), color))
            .or_insert_with(|| {
                let counters = metrics.color(&service.name, color);
                Arc::new(Slot::new(
                    service.name.clone(),
                    color,
                    settings.clone(),
                    counters,
                ))
            });
        if *slot.settings() != settings {
            slot.set_settings(settings);
        }
        if configured.release.is_some() {
            slot.set_release(configured.release.clone());
        }
        fill(slot, &configured.upstreams, addresses);
        Some(Arc::clone(slot))
    }

    fn open(&mut self, slot: Arc<Slot>) -> Arc<Pool> {
        self.open_as(slot, self.newest.next())
    }

    fn open_as(&mut self, slot: Arc<Slot>, generation: Generation) -> Arc<Pool> {
        // A number is never used twice, whatever the caller asks for: connections are kept by it.
        let generation = generation.max(self.newest.next());
        self.newest = generation;
        let pool = Pool::new(slot, generation);
        let key = (pool.slot().service().clone(), generation);
        self.pools.insert(key, Arc::clone(&pool));
        pool
    }
}

/// Gives a slot the addresses that its upstreams have now. An address that stays keeps its
/// health and counts.
pub(super) fn fill(slot: &Slot, configured: &[crate::model::UpstreamAddr], addresses: &Addresses) {
    let known = slot.upstreams();
    let next: Vec<Arc<Upstream>> = configured
        .iter()
        .flat_map(|upstream| {
            addresses
                .targets(upstream)
                .into_iter()
                .map(|target| (upstream.clone(), target))
        })
        .map(|(upstream, target)| {
            let same =
                |old: &&Arc<Upstream>| *old.configured() == upstream && *old.target() == target;
            known
                .iter()
                .find(same)
                .cloned()
                .unwrap_or_else(|| Arc::new(Upstream::new(upstream, target)))
        })
        .collect();
    let unchanged = next.len() == known.len()
        && next
            .iter()
            .zip(known.iter())
            .all(|(new, old)| Arc::ptr_eq(new, old));
    if !unchanged {
        slot.metrics().retain_upstreams(|label| {
            configured
                .iter()
                .any(|upstream| upstream.to_string() == label)
        });
        slot.set_upstreams(next);
    }
}

/// The live color, or the other one when the live slot lost its upstreams.
fn with_upstreams(service: &Service, live: Color) -> Color {
    let filled = |color: Color| service.slots[color.index()].is_some();
    if filled(live) || !filled(live.other()) {
        return live;
    }
    warn!(
        service = %service.name,
        color = %live,
        "the live slot is no longer configured, the other one takes over"
    );
    live.other()
}
