//! The one writer of the live table: builds it from a configuration, and moves live colors.
//!
//! Every change happens under one mutex and ends in one store. A reload keeps the slots, pools
//! and live colors of services that stay, so no request notices it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::warn;

use super::addresses::Addresses;
use crate::clock;
use crate::config::{Config, Rollback, RollbackLatency, RollbackMode, Service, ServiceIndex};
use crate::metrics::Metrics;
use crate::model::{Color, Generation, Kind, Release, ServiceName, UpstreamAddr};
use crate::pool::{
    Frozen, InFlight, LiveTable, Pool, Rescue, Routes, ServiceEntry, Slot, SlotSettings, Table,
    Upstream,
};
use crate::switch::{Live, Publication};

/// Owns slots and pools; replaces the table that requests load.
#[derive(Debug)]
pub(super) struct Publisher {
    table: Arc<LiveTable>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<(ServiceName, Color), Arc<Slot>>,
    /// Every pool that is live or may still have requests.
    pools: HashMap<(ServiceName, Generation), Arc<Pool>>,
    rollbacks: HashMap<ServiceName, Rollback>,
    /// Beginnings of what was named when it was closed: a drain closes again and again until all is
    /// gone.
    named: HashMap<(ServiceName, Generation), HashSet<Instant>>,
}

/// Requests that are told one by one when a drain closes them.
const CLOSED_TOLD: usize = 20;

impl Publisher {
    /// Starts with an empty table.
    pub(super) fn new(table: Arc<LiveTable>, metrics: Arc<Metrics>) -> Self {
        Self {
            table,
            metrics,
            state: Mutex::default(),
        }
    }

    /// The table that requests load.
    pub(super) fn table(&self) -> &Arc<LiveTable> {
        &self.table
    }

    /// Publishes a configuration in one store, with the live pools that `live` names. A pool
    /// that is live already stays the same object. Returns the pools that no service has any
    /// more; they must be drained.
    pub(super) fn apply(
        &self,
        config: &Config,
        addresses: &Addresses,
        live: &dyn Fn(&Service) -> Live,
    ) -> Vec<Arc<Pool>> {
        let mut state = self.lock();
        let mut services = Vec::with_capacity(config.services.len());
        let mut by_name = HashMap::with_capacity(config.services.len());
        for (at, service) in config.services.iter().enumerate() {
            state
                .rollbacks
                .insert(service.name.clone(), service.rollback.clone());
            for color in Color::ALL {
                state.configure(service, color, &self.metrics, addresses);
            }
            let live = live(service);
            by_name.insert(service.name.clone(), ServiceIndex(at));
            services.push(ServiceEntry {
                name: service.name.clone(),
                live: live.color,
                pool: state.pool(&service.name, live.color, live.generation),
            });
        }
        let table = Table {
            routes: Arc::new(Routes::renewed(config, &self.table.load().routes)),
            services,
            by_name: Arc::new(by_name),
        };
        // Only live slots are asked for, so a slot that drains keeps its pools until it is done.
        state.slots.retain(|(name, color), _| {
            let at = table.by_name.get(name);
            at.and_then(|at| config.services.get(at.0))
                .is_some_and(|service| service.slots[color.index()].is_some())
        });
        let gone = state
            .pools
            .values()
            .filter(|pool| table.named(pool.slot().service().as_str()).is_none())
            .cloned()
            .collect();
        self.table.store(table);
        gone
    }

    /// Makes every named pool the live one of its service, all in one store.
    pub(super) fn publish(&self, publications: &[Publication]) {
        let mut state = self.lock();
        let mut table = Table::clone(&self.table.load());
        for publication in publications {
            let Publication {
                service,
                color,
                generation,
            } = publication;
            let is_new = !state.has(service, *generation);
            let pool = state.pool(service, *color, *generation);
            let at = table.by_name.get(service).copied();
            let entry = at.and_then(|at| table.services.get_mut(at.0));
            match (entry, pool) {
                (Some(entry), Some(pool)) => {
                    // Before its first request: whoever was live helps its users.
                    if let Some(old) = entry.pool.as_ref().filter(|_| is_new)
                        && entry.live != *color
                    {
                        state.watch(service, old, &pool, None);
                    }
                    entry.live = *color;
                    entry.pool = Some(pool);
                }
                _ => warn!(%service, %color, "nothing to publish: the slot has no upstreams"),
            }
        }
        self.table.store(table);
    }

    /// Whether new requests go to it.
    pub(super) fn is_live(&self, pool: &Arc<Pool>) -> bool {
        let table = self.table.load();
        let entry = table.named(pool.slot().service().as_str());
        let live = entry.and_then(|entry| entry.pool.as_ref());
        live.is_some_and(|live| Arc::ptr_eq(live, pool))
    }

    /// Refuses new requests to a pool, and gives it. Never the live one: that would be a mistake of the
    /// caller, changes nothing and is logged.
    pub(super) fn begin_drain(
        &self,
        service: &ServiceName,
        generation: Generation,
    ) -> Option<Arc<Pool>> {
        let pool = self.find(service, generation)?;
        let live = self
            .table
            .load()
            .named(service.as_str())
            .and_then(|entry| entry.pool.as_ref())
            .is_some_and(|live| Arc::ptr_eq(live, &pool));
        if live {
            warn!(%service, %generation, "refused to drain the live pool");
            return None;
        }
        pool.claims().begin_drain();
        Some(pool)
    }

    /// The oldest requests in flight on a pool, at most `limit`.
    pub(super) fn blocking(
        &self,
        service: &ServiceName,
        generation: Generation,
        limit: usize,
    ) -> Vec<InFlight> {
        let pool = self.find(service, generation);
        pool.map_or_else(Vec::new, |pool| pool.in_flight(limit))
    }

    /// What a pool has in flight, by [`Kind::index`].
    pub(super) fn in_flight(&self, service: &ServiceName, generation: Generation) -> [u64; 3] {
        self.find(service, generation)
            .map_or([0; 3], |pool| pool.claims().counts())
    }

    /// Ends the upstream connections of a pool that carry `kind`.
    pub(super) fn close(&self, service: &ServiceName, generation: Generation, kind: Kind) {
        let Some(pool) = self.find(service, generation) else {
            return;
        };
        let mut of_kind = pool.in_flight(usize::MAX);
        {
            let mut state = self.lock();
            let key = (service.clone(), generation);
            if !state.pools.contains_key(&key) {
                return;
            }
            let named = state.named.entry(key).or_default();
            of_kind.retain(|one| one.kind == kind && named.insert(one.since));
        }
        let now = clock::now();
        let mut of_kind = of_kind.into_iter();
        for one in of_kind.by_ref().take(CLOSED_TOLD) {
            let age = now.saturating_duration_since(one.since).as_secs_f64();
            let (method, path, client) = (&one.method, &one.path, one.client);
            warn!(%service, kind = kind.as_str(), %method, path, %client, age_s = age, "closed at the end of the drain");
        }
        let more = of_kind.count();
        if more > 0 {
            warn!(%service, kind = kind.as_str(), more, "closed at the end of the drain");
        }
        pool.connections().close(kind);
    }

    /// Ends every upstream connection of a pool and forgets it.
    pub(super) fn retire(&self, service: &ServiceName, generation: Generation) {
        let key = (service.clone(), generation);
        let pool = {
            let mut state = self.lock();
            state.named.remove(&key);
            state.pools.remove(&key)
        };
        if let Some(pool) = pool {
            pool.claims().begin_drain();
            pool.connections().retire();
            // Its watch holds the pool before it: kept, a request or a live pool that still holds
            // this one would hold all that ever were.
            pool.evidence().unwatch();
        }
    }

    /// The slot of a service, if the configuration fills it.
    pub(super) fn slot(&self, service: &ServiceName, color: Color) -> Option<Arc<Slot>> {
        self.lock().slots.get(&(service.clone(), color)).cloned()
    }

    /// Ends the connections of a slot's pools to upstreams that cannot answer any more: what waits for
    /// them is tried elsewhere at once. Returns how many.
    pub(super) fn end_to(&self, slot: &Slot, addresses: &[std::net::SocketAddr]) -> usize {
        let state = self.lock();
        let pools = state.pools.values();
        let of_slot = pools.filter(|pool| std::ptr::eq(&**pool.slot(), slot));
        of_slot
            .map(|pool| {
                let each = addresses.iter();
                each.map(|address| pool.connections().end_to(*address))
                    .sum::<usize>()
            })
            .sum()
    }

    /// Every slot, in no order.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.lock().slots.values().cloned().collect()
    }

    /// Names what runs in a slot.
    pub(super) fn set_release(&self, service: &ServiceName, color: Color, release: Release) {
        if let Some(slot) = self.slot(service, color) {
            slot.set_release(Some(release));
        }
    }

    /// The pool of that number, made if it is gone; `None`: the slot has no upstreams.
    pub(super) fn pool(&self, service: &ServiceName, live: Live) -> Option<Arc<Pool>> {
        let mut state = self.lock();
        state.pool(service, live.color, live.generation)
    }

    /// Holds the requests of `new` against what was frozen of an earlier process's watch, or
    /// against the habits of `old`, who answers what fails there.
    pub(super) fn watch(
        &self,
        service: &ServiceName,
        old: &Arc<Pool>,
        new: &Arc<Pool>,
        frozen: Option<Frozen>,
    ) {
        self.lock().watch(service, old, new, frozen);
    }

    /// Every pool that takes requests or may yet.
    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        self.lock().pools.values().cloned().collect()
    }

    fn find(&self, service: &ServiceName, generation: Generation) -> Option<Arc<Pool>> {
        let key = (service.clone(), generation);
        self.lock().pools.get(&key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves the old table in place, which is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Brings a slot to its configuration, making it when it is new.
    fn configure(
        &mut self,
        service: &Service,
        color: Color,
        metrics: &Metrics,
        addresses: &Addresses,
    ) {
        let Some(configured) = &service.slots[color.index()] else {
            return;
        };
        let settings = SlotSettings::of(service);
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
    }

    fn has(&self, service: &ServiceName, generation: Generation) -> bool {
        let key = (service.clone(), generation);
        let known = self.pools.get(&key);
        known.is_some_and(|pool| !pool.claims().is_draining())
    }

    fn watch(
        &self,
        service: &ServiceName,
        old: &Arc<Pool>,
        new: &Arc<Pool>,
        frozen: Option<Frozen>,
    ) {
        let Some(rules) = self.rollbacks.get(service) else {
            return;
        };
        let rescue = (rules.mode == RollbackMode::Enforce && rules.rescue).then(|| {
            let rate = rules.gate.budget.rate(old.evidence().highest_rate());
            let methods = rules.gate.methods.clone();
            Rescue::new(Arc::clone(old), methods, rate, clock::now())
        });
        if rules.mode != RollbackMode::Off {
            let (quantiles, factor) = quantiles(&rules.latency);
            let frozen = frozen.unwrap_or_else(|| old.evidence().freeze(quantiles, factor));
            new.evidence().watch(frozen, rescue);
        }
    }

    /// The pool of that number: the one that exists and does not drain, else a new one. `None`
    /// when the slot has no upstreams.
    fn pool(
        &mut self,
        service: &ServiceName,
        color: Color,
        generation: Generation,
    ) -> Option<Arc<Pool>> {
        let slot = self.slots.get(&(service.clone(), color))?;
        let key = (service.clone(), generation);
        if let Some(pool) = self.pools.get(&key)
            && pool.slot().color() == color
            && !pool.claims().is_draining()
        {
            return Some(Arc::clone(pool));
        }
        let pool = Pool::new(Arc::clone(slot), generation);
        self.pools.insert(key, Arc::clone(&pool));
        Some(pool)
    }
}

/// The two quantiles of latency that are watched. A configuration with one has it twice.
pub(super) fn quantiles(latency: &RollbackLatency) -> ([f64; 2], f64) {
    let first = latency.quantiles.first().copied().unwrap_or(0.9);
    let second = latency.quantiles.get(1).copied().unwrap_or(first);
    ([first, second], latency.factor)
}

/// Gives a slot the addresses that its upstreams have now. An address that stays keeps its
/// health and counts. True when something changed.
pub(super) fn fill(slot: &Slot, configured: &[UpstreamAddr], addresses: &Addresses) -> bool {
    let known = slot.upstreams();
    let targets = configured.iter().flat_map(|upstream| {
        let container = addresses.container(upstream);
        let (behind, reported) = container.map_or((None, None), |(b, r)| (Some(b), r));
        let targets = addresses.targets(upstream).into_iter();
        targets.map(move |target| (upstream, target, behind.clone(), reported))
    });
    let found: Vec<(Arc<Upstream>, bool)> = targets
        .map(|(upstream, target, behind, reported)| {
            let kept = known.iter().find(|old| {
                old.configured() == upstream
                    && *old.target() == target
                    && old.behind() == behind.as_ref()
            });
            let held = behind
                .as_ref()
                .is_some_and(|it| addresses.is_held(&it.name));
            let is_new = kept.is_none();
            let upstream = kept.cloned().unwrap_or_else(|| {
                Arc::new(Upstream::of_container(upstream.clone(), target, behind))
            });
            upstream.set_held(held);
            upstream.report(reported);
            (upstream, is_new)
        })
        .collect();
    // A container that comes to others has to show first that it can.
    if found.iter().any(|(_, is_new)| !is_new) {
        let new = found.iter().filter(|(_, is_new)| *is_new);
        let of_containers = new.filter(|(upstream, _)| upstream.behind().is_some());
        of_containers.for_each(|(upstream, _)| upstream.begin_trial());
    }
    let next: Vec<_> = found.into_iter().map(|(upstream, _)| upstream).collect();
    let unchanged = next.len() == known.len()
        && next
            .iter()
            .zip(known.iter())
            .all(|(new, old)| Arc::ptr_eq(new, old));
    if unchanged {
        return false;
    }
    slot.metrics().retain_upstreams(|label| {
        configured
            .iter()
            .any(|upstream| upstream.to_string() == label)
    });
    slot.set_upstreams(next);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Behind;

    #[test]
    fn a_container_that_comes_to_others_is_on_trial_and_one_that_is_held_is_marked() {
        let counters = Metrics::new().color(&"web".into(), Color::Blue);
        let slot = Slot::new("web".into(), Color::Blue, SlotSettings::default(), counters);
        let addresses = Addresses::default();
        let both = ["10.0.0.1:80", "10.0.0.2:80"].map(|one| one.parse().expect("an address"));
        let behind = |upstream: &UpstreamAddr| {
            let behind = Behind {
                name: upstream.to_string().into(),
                run: "1".into(),
            };
            (upstream.clone(), (behind, None))
        };
        addresses.set_containers(both.iter().map(behind).collect());
        let trials = || {
            let all = slot.upstreams();
            all.iter().map(|one| one.is_on_trial()).collect::<Vec<_>>()
        };
        assert!(fill(&slot, &both[..1], &addresses));
        assert_eq!(trials(), [false], "the first ones have nobody to wait for");
        assert!(fill(&slot, &both, &addresses));
        assert_eq!(trials(), [false, true]);
        assert!(fill(&slot, &both[1..], &addresses));
        addresses.hold("10.0.0.2:80", true);
        assert!(!fill(&slot, &both[1..], &addresses), "the same upstreams");
        assert!(slot.upstreams()[0].is_held());
        addresses.hold_none();
        fill(&slot, &both[1..], &addresses);
        assert!(!slot.upstreams()[0].is_held());
    }
}
