//! The one object that knows every counter of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use crate::clock;
use crate::model::{Color, ServiceName};

use super::color::ColorMetrics;
use super::labels::{Counters, Outcome, Protocol, RollbackReason, SwitchOutcome};
use super::window::Timeline;

/// Every counter of the process. Locks guard only the maps, which requests do not touch.
#[derive(Debug)]
pub struct Metrics {
    timeline: Timeline,
    shards: usize,
    unrouted: Arc<ColorMetrics>,
    services: Mutex<BTreeMap<ServiceName, Arc<ServiceMetrics>>>,
    certificates: Mutex<BTreeMap<String, i64>>,
    certificates_missing: Mutex<BTreeSet<String>>,
    certificate_files_rejected: AtomicU64,
    pub(super) connections: Counters<Protocol>,
    pub(super) reloads: Counters<Outcome>,
    pub(super) last_reload_failed: AtomicBool,
    pub(super) acme_orders: Counters<Outcome>,
    #[cfg(target_os = "linux")]
    pub(super) process: prometheus::process_collector::ProcessCollector,
}

/// Counters of one service.
#[derive(Debug, Default)]
pub(super) struct ServiceMetrics {
    pub(super) colors: [OnceLock<Arc<ColorMetrics>>; 2],
    pub(super) switches: Counters<SwitchOutcome>,
    pub(super) rollbacks: Counters<RollbackReason>,
    pub(super) rescued: AtomicU64,
}

impl Metrics {
    /// Empty counters; sliding windows begin now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::starting_at(clock::now())
    }

    /// Empty counters whose sliding windows begin at `origin`; an earlier `now` counts as
    /// `origin`.
    #[must_use]
    pub fn starting_at(origin: Instant) -> Arc<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (timeline, shards) = (Timeline::new(origin), cores.min(MOST_SHARDS));
        Arc::new(Self {
            timeline,
            shards,
            unrouted: Arc::new(ColorMetrics::new(timeline, shards)),
            services: Mutex::default(),
            certificates: Mutex::default(),
            certificates_missing: Mutex::default(),
            certificate_files_rejected: AtomicU64::new(0),
            connections: Counters::default(),
            reloads: Counters::default(),
            last_reload_failed: AtomicBool::new(false),
            acme_orders: Counters::default(),
            #[cfg(target_os = "linux")]
            process: prometheus::process_collector::ProcessCollector::for_self(),
        })
    }

    /// The counters of one color, made on the first call. From then on the service has its
    /// series, at zero where nothing happened yet. Takes a lock: once for each slot.
    #[must_use]
    pub fn color(&self, service: &ServiceName, color: Color) -> Arc<ColorMetrics> {
        let service = self.service(service);
        let counters = service.colors[color.index()]
            .get_or_init(|| Arc::new(ColorMetrics::new(self.timeline, self.shards)));
        Arc::clone(counters)
    }

    /// The counters of requests that reached no service: empty `service` and `color` labels.
    #[must_use]
    pub fn unrouted(&self) -> Arc<ColorMetrics> {
        Arc::clone(&self.unrouted)
    }

    /// Drops the series of every service that is not in `known`. Who still holds its
    /// [`ColorMetrics`] goes on counting, unseen; a service that returns starts from zero.
    pub fn retain(&self, known: &BTreeSet<ServiceName>) {
        lock(&self.services).retain(|name, _| known.contains(name));
    }

    /// Counts a switch that ended.
    pub fn switch_finished(&self, service: &ServiceName, outcome: SwitchOutcome) {
        self.service(service).switches.increment(outcome);
    }

    /// Counts a rollback. Its switch counts in [`Self::switch_finished`] as well.
    pub fn rolled_back(&self, service: &ServiceName, reason: RollbackReason) {
        self.service(service).rollbacks.increment(reason);
    }

    /// Counts a request that the other color answered after the live one had failed.
    pub fn rescued(&self, service: &ServiceName) {
        self.service(service).rescued.fetch_add(1, Relaxed);
    }

    /// Counts a reload of the configuration and remembers how the last one ended. The
    /// configuration that the process started with counts as a success that is not counted.
    pub fn reload(&self, outcome: Outcome) {
        self.reloads.increment(outcome);
        self.last_reload_failed
            .store(outcome == Outcome::Failure, Relaxed);
    }

    /// Counts an order of a certificate that ended.
    pub fn acme_order(&self, outcome: Outcome) {
        self.acme_orders.increment(outcome);
    }

    /// Sets when the certificate of `host` expires, in seconds since the Unix epoch; `None`
    /// removes the series.
    pub fn certificate_expiry(&self, host: &str, not_after: Option<i64>) {
        let mut certificates = lock(&self.certificates);
        match not_after {
            Some(seconds) => certificates.insert(host.to_owned(), seconds),
            None => certificates.remove(host),
        };
    }

    /// Replaces the hosts that are served with a stand-in because no certificate was issued.
    pub fn certificates_missing(&self, hosts: BTreeSet<String>) {
        *lock(&self.certificates_missing) = hosts;
    }

    /// Sets how many certificate files are broken now.
    pub fn certificate_files_rejected(&self, files: u64) {
        self.certificate_files_rejected.store(files, Relaxed);
    }

    /// A client's connection was accepted. Pairs with [`Self::connection_closed`].
    pub fn connection_opened(&self, protocol: Protocol) {
        self.connections.increment(protocol);
    }

    /// A client's connection is gone.
    pub fn connection_closed(&self, protocol: Protocol) {
        self.connections.decrement(protocol);
    }

    /// Every service with counters, by name.
    pub(super) fn services(&self) -> BTreeMap<ServiceName, Arc<ServiceMetrics>> {
        lock(&self.services).clone()
    }

    /// Every certificate's expiry, by host.
    pub(super) fn certificates(&self) -> BTreeMap<String, i64> {
        lock(&self.certificates).clone()
    }

    pub(super) fn missing(&self) -> BTreeSet<String> {
        lock(&self.certificates_missing).clone()
    }

    pub(super) fn rejected(&self) -> u64 {
        self.certificate_files_rejected.load(Relaxed)
    }

    fn service(&self, name: &ServiceName) -> Arc<ServiceMetrics> {
        Arc::clone(lock(&self.services).entry(name.clone()).or_default())
    }
}

/// Counters stay usable even if a thread died while it held them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// More shards cost memory and no longer spread anything: eight writers to one line do not
/// queue long.
const MOST_SHARDS: usize = 8;
