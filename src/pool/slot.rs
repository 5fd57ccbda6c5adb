//! One color of one service: its upstreams, and everything that outlives a single pool.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::balance::{self, Affinity, NoUpstream, Picked};
use super::generation::Pool;
use super::retry_budget::RetryBudget;
use super::upstream::{Attempt, Upstream};
use crate::config::{Balance, Eject, Retry, Service, ServiceTimeouts, Sticky};
use crate::metrics::ColorMetrics;
use crate::model::proxy_protocol::Version;
use crate::model::{Color, Release, ServiceName};

/// What a reload may change about a slot without touching its requests.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotSettings {
    /// How an upstream is chosen.
    pub balance: Balance,
    /// When traffic ejects an upstream.
    pub eject: Eject,
    /// What is tried again.
    pub retry: Retry,
    /// The cookie of a balance by cookie.
    pub sticky: Sticky,
    /// Its name.
    pub cookie: String,
    /// What differs from the timeouts of all services.
    pub timeouts: ServiceTimeouts,
    /// Whether connections are kept.
    pub keep_alive: bool,
    /// Said at the start of a connection.
    pub proxy_protocol: Option<Version>,
}

impl SlotSettings {
    /// Those of a configured service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            balance: service.balance.clone(),
            eject: service.eject.clone(),
            retry: service.retry.clone(),
            sticky: service.sticky.clone(),
            cookie: (service.sticky.cookie.clone())
                .unwrap_or_else(|| Sticky::default_name(service.name.as_str())),
            timeouts: service.timeouts,
            keep_alive: service.keep_alive,
            proxy_protocol: service.proxy_protocol,
        }
    }
}

impl Default for SlotSettings {
    /// Those of a service that says nothing.
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            eject: Eject::default(),
            retry: Retry::default(),
            sticky: Sticky::default(),
            cookie: Sticky::default_name(""),
            timeouts: ServiceTimeouts::default(),
            keep_alive: true,
            proxy_protocol: None,
        }
    }
}

/// One color of one service. Lives as long as the configuration names it; reloads change its
/// upstreams in place, so health and counts are kept.
#[derive(Debug)]
pub struct Slot {
    service: ServiceName,
    color: Color,
    release: ArcSwapOption<Release>,
    settings: ArcSwap<SlotSettings>,
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    turn: AtomicUsize,
    retries: RetryBudget,
    metrics: Arc<ColorMetrics>,
    pools: Mutex<Vec<Weak<Pool>>>,
    /// Held while one upstream is ejected, so that two at once can't be the last two.
    ejecting: Mutex<()>,
}

impl Slot {
    /// An empty slot.
    #[must_use]
    pub fn new(
        service: ServiceName,
        color: Color,
        settings: SlotSettings,
        metrics: Arc<ColorMetrics>,
    ) -> Self {
        Self {
            service,
            color,
            release: ArcSwapOption::empty(),
            settings: ArcSwap::from_pointee(settings),
            upstreams: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            retries: RetryBudget::default(),
            metrics,
            pools: Mutex::default(),
            ejecting: Mutex::default(),
        }
    }

    /// The service it belongs to.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Its color.
    #[must_use]
    pub fn color(&self) -> Color {
        self.color
    }

    /// What runs here, if anybody said.
    #[must_use]
    pub fn release(&self) -> Option<Arc<Release>> {
        self.release.load_full()
    }

    /// Names what runs here.
    pub fn set_release(&self, release: Option<Release>) {
        self.release.store(release.map(Arc::new));
    }

    /// Counters of this color.
    #[must_use]
    pub fn metrics(&self) -> &Arc<ColorMetrics> {
        &self.metrics
    }

    /// Balance and ejection.
    #[must_use]
    pub fn settings(&self) -> Arc<SlotSettings> {
        self.settings.load_full()
    }

    /// Replaces balance and ejection.
    pub fn set_settings(&self, settings: SlotSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// The addresses known now.
    #[must_use]
    pub fn upstreams(&self) -> Arc<Vec<Arc<Upstream>>> {
        self.upstreams.load_full()
    }

    /// Replaces the addresses. Whoever calls keeps the `Arc` of an address that stays, so its
    /// health and counts stay too.
    pub fn set_upstreams(&self, upstreams: Vec<Arc<Upstream>>) {
        self.upstreams.store(Arc::new(upstreams));
    }

    /// Chooses an upstream. `tried` are those that already failed this request.
    ///
    /// # Errors
    /// [`NoUpstream`] when the slot has none that may be used.
    pub fn pick(&self, affinity: &Affinity<'_>, tried: &[u64]) -> Result<Picked, NoUpstream> {
        let settings = self.settings.load();
        let upstreams = self.upstreams.load();
        balance::pick(&settings.balance, &upstreams, &self.turn, affinity, tried)
    }

    /// Takes a token of the retry budget: whether one more attempt may be made.
    #[must_use]
    pub fn may_retry(&self, now: Instant) -> bool {
        let budget = self.settings.load().retry.budget;
        let requests = self.metrics.totals().requests;
        self.retries.withdraw(now, requests, &budget)
    }

    /// Counts how an attempt ended and ejects the upstream when its limits are reached, but
    /// never the last one that is available or may become so. Returns for how long it was ejected.
    pub fn record(
        &self,
        upstream: &Upstream,
        attempt: Attempt,
        now: Instant,
    ) -> Option<std::time::Duration> {
        let settings = self.settings.load();
        if !upstream.record(attempt, &settings.eject) {
            return None;
        }
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        if !upstream.is_available() {
            return None;
        }
        let another = self.upstreams.load().iter().any(|other| {
            other.id() != upstream.id() && (other.is_available() || other.could_be_tried())
        });
        another.then(|| upstream.eject(now, &settings.eject))
    }

    /// In-flight counts by kind over every pool of this slot that still has requests.
    #[must_use]
    pub fn in_flight(&self) -> [u64; 3] {
        self.sum(|_| true)
    }

    /// In-flight counts of the pools that drain.
    #[must_use]
    pub fn draining(&self) -> [u64; 3] {
        self.sum(|pool| pool.claims().is_draining())
    }

    pub(super) fn adopt(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    fn sum(&self, which: impl Fn(&Pool) -> bool) -> [u64; 3] {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = [0; 3];
        for pool in pools.iter().filter_map(Weak::upgrade).filter(|p| which(p)) {
            for (sum, count) in total.iter_mut().zip(pool.claims().counts()) {
                *sum += count;
            }
        }
        total
    }
}
