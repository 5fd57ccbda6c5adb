//! What the requests of a pool say about its release.
//!
//! A request adds to a counter or two of its thread's own shard, to the histogram of its route,
//! and, while the release is under watch, to what is held against it. Everything slower happens
//! on failures alone, behind a lock. Nothing here decides anything: `switch` does, from the
//! [`Totals`] that are read four times a second.
//!
//! A route is the path with what looks like an identifier taken out; the first 64 that answered
//! well are told apart, the others are one.

mod rescue;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::Method;

pub use self::rescue::Rescue;
pub use self::route::Frozen;

use self::route::{Habit, Histogram, Route, bucket, micros, route_key, route_name};
use super::generation::Pool;
use crate::metrics::lane;

/// Routes that are told apart.
const ROUTES: usize = 64;
/// Places looked at for a route.
const STEPS: usize = 8;
/// Groups of threads that count apart. A power of two.
const SHARDS: usize = 8;
/// Groups of client networks whose requests are counted. A power of two.
const NETWORKS: usize = 256;
/// Failures of one client network that count in [`CLIENT_WINDOW`].
const CLIENT_FAILURES: u32 = 3;
const CLIENT_WINDOW: Duration = Duration::from_secs(10);
/// A network with a larger share of the requests is a proxy in front, or the only user.
const CLIENT_SHARE: f64 = 0.2;
/// Client networks that are remembered.
const CLIENTS: usize = 4096;
/// Sample failures that are kept.
const SAMPLES: usize = 3;
/// Kinds of failures that are kept.
const KINDS: usize = 64;
/// Hits of a route after which another one of its paths is kept.
const SAMPLE_EVERY: u32 = 64;
/// Seconds of which the highest rate is remembered.
const RATES: usize = 300;
/// Minutes of the longest baseline.
const MINUTES: usize = 1440;

/// What is known of one pool's requests.
#[derive(Debug)]
pub struct Evidence {
    shards: Box<[Shard; SHARDS]>,
    /// Failures whose rescue failed too.
    both_failed: AtomicU64,
    rescues: AtomicU64,
    /// Requests that were timed, and those over the limit of each quantile.
    timed: AtomicU64,
    slow: [AtomicU64; 2],
    /// Those over three times the second quantile.
    very_slow: AtomicU64,
    /// Requests on routes that were good, and client errors among them.
    good: AtomicU64,
    client_errors: AtomicU64,
    networks: Box<[AtomicU32; NETWORKS]>,
    routes: Box<[Route]>,
    watched: ArcSwapOption<UnderWatch>,
    troubles: Mutex<Troubles>,
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    all: AtomicU64,
    bad: AtomicU64,
}

/// Cumulative counts of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// First attempts that were judged.
    pub all: u64,
    /// Those that failed.
    pub bad: u64,
    /// Failures whose rescue failed too; among neither of the above.
    pub both_failed: u64,
    /// Rescues that were tried.
    pub rescues: u64,
    /// Requests that were timed.
    pub timed: u64,
    /// Those over the limit of each quantile.
    pub slow: [u64; 2],
    /// Those over three times the second quantile.
    pub very_slow: u64,
    /// Requests on routes that were good.
    pub good: u64,
    /// Client errors among them.
    pub client_errors: u64,
}

/// What a new release is held to, and who helps its users.
#[derive(Debug)]
pub(super) struct UnderWatch {
    frozen: Frozen,
    rescue: Option<Rescue>,
}

/// Latency before a cutover: the share of requests over the limits that were set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Habits {
    /// Requests that were timed, and those over the limit of each quantile.
    pub timed: u64,
    /// In the order of the quantiles.
    pub slow: [u64; 2],
    /// Requests on good routes, and the client errors among them.
    pub good: u64,
    /// See above.
    pub client_errors: u64,
}

/// One failed first attempt.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// Its path without the query.
    pub path: &'a str,
    /// What was answered, or would have been; a word of RFC 9209 or a status.
    pub what: &'a str,
    /// Its id.
    pub request_id: &'a str,
}

/// What failed, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Route, what happened, how often; most often first.
    pub routes: Vec<(String, String, u64)>,
    /// Path, what happened, request id.
    pub samples: Vec<(String, String, String)>,
}

#[derive(Debug, Default)]
struct Troubles {
    clients: HashMap<u64, (Instant, u32)>,
    kinds: BTreeMap<(String, String), u64>,
    samples: Vec<(String, String, String)>,
}

/// Counts of the past, newest last.
#[derive(Debug, Default)]
struct Past {
    last: Totals,
    minute: (u64, u64),
    seconds_of_minute: u32,
    rates: std::collections::VecDeque<u32>,
    minutes: std::collections::VecDeque<(u64, u64)>,
}

impl Evidence {
    pub(super) fn new() -> Self {
        Self {
            shards: Box::default(),
            both_failed: AtomicU64::new(0),
            rescues: AtomicU64::new(0),
            timed: AtomicU64::new(0),
            slow: Default::default(),
            very_slow: AtomicU64::new(0),
            good: AtomicU64::new(0),
            client_errors: AtomicU64::new(0),
            networks: Box::new(std::array::from_fn(|_| AtomicU32::new(0))),
            routes: (0..=ROUTES).map(|_| Route::new()).collect(),
            watched: ArcSwapOption::empty(),
            troubles: Mutex::default(),
            past: Mutex::default(),
        }
    }

    /// Counts a first attempt that was answered with `status`, below 500 or 501 or 505.
    /// `latency`: time to the first byte; `None` for what has none to compare, such as streams.
    pub fn answered(
        &self,
        client: IpAddr,
        path: &str,
        status: u16,
        latency: Option<Duration>,
        is_get: bool,
    ) {
        self.shard().all.fetch_add(1, Relaxed);
        let key = route_key(path);
        let is_client_error = matches!(status, 400 | 401 | 403 | 404 | 405);
        if let Some(watched) = &*self.watched.load() {
            self.networks[network(client)].fetch_add(1, Relaxed);
            let habit = watched.frozen.habit(key);
            if habit.good {
                self.good.fetch_add(1, Relaxed);
                if is_client_error {
                    self.client_errors.fetch_add(1, Relaxed);
                }
            }
            // What took longer was counted while it was in flight.
            if let Some(latency) = latency.filter(|latency| micros(*latency) <= habit.late()) {
                self.timed(&habit, micros(latency));
            }
        }
        // What answers badly opens no new route, so that a scanner takes no place.
        let route = self.route(key, !is_client_error && status < 400);
        let hits = route.hits.fetch_add(1, Relaxed);
        if is_client_error {
            route.client_errors.fetch_add(1, Relaxed);
        }
        if let Some(latency) = latency {
            let times = route.times.get_or_init(Histogram::boxed);
            times.0[bucket(micros(latency))].fetch_add(1, Relaxed);
        }
        let renews = !route.has_sample.load(Relaxed) || hits.is_multiple_of(SAMPLE_EVERY);
        if renews && is_get && (200..300).contains(&status) {
            route.keep_sample(path);
        }
    }

    /// Counts a request that is still in flight after its route's longest limit, once.
    pub fn late(&self, path: &str, age: Duration) -> bool {
        let watched = self.watched.load();
        let Some(watched) = &*watched else {
            return false;
        };
        let habit = watched.frozen.habit(route_key(path));
        if micros(age) <= habit.late() {
            return false;
        }
        self.timed(&habit, micros(age));
        true
    }

    fn timed(&self, habit: &Habit, took: u32) {
        if habit.limits[0] == 0 {
            return;
        }
        self.timed.fetch_add(1, Relaxed);
        for (slow, limit) in self.slow.iter().zip(habit.limits) {
            if took > limit {
                slow.fetch_add(1, Relaxed);
            }
        }
        if took > habit.very_slow {
            self.very_slow.fetch_add(1, Relaxed);
        }
    }

    /// The limit that a GET of `path` is held to, of the first quantile.
    #[must_use]
    pub fn slow_limit(&self, path: &str) -> Option<Duration> {
        let watched = self.watched.load();
        let limit = watched.as_ref()?.frozen.habit(route_key(path)).limits[0];
        (limit > 0).then(|| Duration::from_micros(u64::from(limit)))
    }

    /// Counts a first attempt that failed. Of one client network that is not most of the
    /// traffic, the fourth failure within ten seconds and those after it only count as requests
    /// that were not judged.
    pub fn failed(&self, now: Instant, failure: &Failure<'_>) {
        let counts = self.remember(now, failure);
        if counts {
            self.shard().all.fetch_add(1, Relaxed);
            self.shard().bad.fetch_add(1, Relaxed);
        }
    }

    /// An answered attempt turned out to be broken: its body was cut.
    pub fn broke(&self, now: Instant, failure: &Failure<'_>) {
        if self.remember(now, failure) {
            self.shard().bad.fetch_add(1, Relaxed);
        }
    }

    /// A failed attempt whose rescue was tried: `answered` says how that ended.
    pub fn rescued(&self, now: Instant, failure: &Failure<'_>, answered: bool) {
        self.rescues.fetch_add(1, Relaxed);
        if answered {
            self.failed(now, failure);
        } else {
            self.both_failed.fetch_add(1, Relaxed);
            self.remember(now, failure);
        }
    }

    /// Whether a failure counts; keeps what people are shown.
    fn remember(&self, now: Instant, failure: &Failure<'_>) -> bool {
        let watched = self.watched.load().is_some();
        if !watched {
            return true;
        }
        self.networks[network(failure.client)].fetch_add(1, Relaxed);
        let mut troubles = self.troubles();
        let name = route_name(failure.path);
        let kind = (name, failure.what.to_owned());
        if troubles.kinds.len() < KINDS || troubles.kinds.contains_key(&kind) {
            *troubles.kinds.entry(kind).or_default() += 1;
        }
        if troubles.samples.len() < SAMPLES {
            troubles.samples.push((
                failure.path.chars().take(256).collect(),
                failure.what.to_owned(),
                failure.request_id.to_owned(),
            ));
        }
        if troubles.clients.len() >= CLIENTS {
            troubles
                .clients
                .retain(|_, (since, _)| now.saturating_duration_since(*since) < CLIENT_WINDOW);
        }
        let key = network_key(failure.client);
        let (since, count) = troubles.clients.entry(key).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= CLIENT_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        let surplus = *count > CLIENT_FAILURES;
        drop(troubles);
        !surplus || self.share(failure.client) >= CLIENT_SHARE
    }

    /// Share of a client network in the requests since the watch began.
    fn share(&self, client: IpAddr) -> f64 {
        let all: u64 = (self.networks.iter())
            .map(|count| u64::from(count.load(Relaxed)))
            .sum();
        let own = self.networks[network(client)].load(Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let all = all.max(1) as f64;
        f64::from(own) / all
    }

    /// What was counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sum = |of: fn(&Shard) -> &AtomicU64| {
            let each = self.shards.iter().map(|shard| of(shard).load(Relaxed));
            each.sum()
        };
        Totals {
            bad: sum(|shard| &shard.bad),
            all: sum(|shard| &shard.all),
            both_failed: self.both_failed.load(Relaxed),
            rescues: self.rescues.load(Relaxed),
            timed: self.timed.load(Relaxed),
            slow: [self.slow[0].load(Relaxed), self.slow[1].load(Relaxed)],
            very_slow: self.very_slow.load(Relaxed),
            good: self.good.load(Relaxed),
            client_errors: self.client_errors.load(Relaxed),
        }
    }

    /// What failed, for people.
    #[must_use]
    pub fn failures(&self) -> Failures {
        let troubles = self.troubles();
        let kinds = troubles.kinds.iter();
        let mut routes: Vec<_> = kinds
            .map(|((route, what), count)| (route.clone(), what.clone(), *count))
            .collect();
        routes.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        Failures {
            routes,
            samples: troubles.samples.clone(),
        }
    }

    /// Paths that answered a GET with 2xx not long ago, one of each route.
    #[must_use]
    pub fn samples(&self) -> Vec<String> {
        let with = (self.routes.iter()).filter(|route| route.has_sample.load(Relaxed));
        with.map(|route| route.sample().to_string()).collect()
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_samples(&self) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| route.has_sample.load(Relaxed))
    }

    /// What this pool's routes are like: its `quantiles` times `factor`.
    #[must_use]
    pub fn freeze(&self, quantiles: [f64; 2], factor: f64) -> Frozen {
        let mut frozen = Frozen::default();
        for (at, route) in self.routes.iter().enumerate() {
            let habit = route.habit(quantiles, factor);
            let key = route.key.load(Relaxed);
            if at == ROUTES {
                frozen.others = habit;
            } else if key != 0 {
                frozen.routes.insert(key, habit);
            }
        }
        frozen
    }

    /// Begins to hold this pool's requests against the habits of its predecessor. With `rescue`
    /// the old pool answers what fails here.
    pub fn watch(&self, frozen: Frozen, rescue: Option<Rescue>) {
        *self.troubles() = Troubles::default();
        let watched = UnderWatch { frozen, rescue };
        self.watched.store(Some(Arc::new(watched)));
    }

    /// What this pool is held to, while it is.
    #[must_use]
    pub fn frozen(&self) -> Option<Frozen> {
        let watched = self.watched.load();
        watched.as_ref().map(|watched| watched.frozen.clone())
    }

    /// The watch is over: nothing is rescued any more.
    pub fn unwatch(&self) {
        self.watched.store(None);
    }

    /// Whether a watch is on.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched.load().is_some()
    }

    /// Whether a request of that method, which the upstream may have seen, may be asked of the
    /// old pool as well.
    #[must_use]
    pub fn may_repeat(&self, method: &Method) -> bool {
        let watched = self.watched.load();
        let rescue = watched.as_ref().and_then(|watched| watched.rescue.as_ref());
        rescue.is_some_and(|rescue| rescue.methods.contains(method))
    }

    /// The old pool, if it may be asked once more now.
    #[must_use]
    pub fn rescuer(&self, now: Instant) -> Option<Arc<Pool>> {
        let watched = self.watched.load();
        let rescue = watched.as_ref()?.rescue.as_ref()?;
        rescue.take(now).then(|| Arc::clone(&rescue.to))
    }

    /// Sets how often the old pool may be asked; zero: not at all.
    pub fn allow_rescues(&self, rate: u32) {
        if let Some(rescue) = self.watched.load().as_ref().and_then(|w| w.rescue.as_ref()) {
            rescue.rate.store(rate.max(1), Relaxed);
            rescue.open.store(rate > 0, Relaxed);
        }
    }

    /// How many requests were over the limits that `quantiles` and `factor` set, before.
    #[must_use]
    pub fn habits(&self, quantiles: [f64; 2], factor: f64) -> Habits {
        let mut habits = Habits::default();
        for route in &self.routes {
            let habit = route.habit(quantiles, factor);
            if habit.good {
                habits.good += u64::from(route.hits.load(Relaxed));
                habits.client_errors += u64::from(route.client_errors.load(Relaxed));
            }
            let Some(times) = route.times.get().filter(|_| habit.limits[0] > 0) else {
                continue;
            };
            habits.timed += times.count();
            for (slow, limit) in habits.slow.iter_mut().zip(habit.limits) {
                *slow += times.over(limit);
            }
        }
        habits
    }

    /// Takes note of what the last second brought. Call it once a second.
    pub fn second(&self) {
        let now = self.totals();
        let mut past = self.past();
        let all = now.all.saturating_sub(past.last.all);
        let bad = now.bad.saturating_sub(past.last.bad);
        past.last = now;
        if past.rates.len() == RATES {
            past.rates.pop_front();
        }
        past.rates.push_back(u32::try_from(all).unwrap_or(u32::MAX));
        past.minute.0 += all;
        past.minute.1 += bad;
        past.seconds_of_minute += 1;
        if past.seconds_of_minute >= 60 {
            past.seconds_of_minute = 0;
            let minute = std::mem::take(&mut past.minute);
            if past.minutes.len() == MINUTES {
                past.minutes.pop_front();
            }
            past.minutes.push_back(minute);
        }
    }

    /// Halves what is known of routes, so that the last hours weigh most. Call it once an hour.
    pub fn fade(&self) {
        let halve = |count: &AtomicU32| count.store(count.load(Relaxed) / 2, Relaxed);
        for route in &self.routes {
            halve(&route.hits);
            halve(&route.client_errors);
            for count in route.times.get().iter().flat_map(|times| &times.0) {
                halve(count);
            }
        }
    }

    /// The highest number of requests in one second of the last five minutes.
    #[must_use]
    pub fn highest_rate(&self) -> u32 {
        self.past().rates.iter().copied().max().unwrap_or(0)
    }

    /// Requests and failures of each minute, the newest last; the last one may be a part.
    #[must_use]
    pub fn minutes(&self) -> Vec<(u64, u64)> {
        let now = self.totals();
        let past = self.past();
        let mut minutes: Vec<_> = past.minutes.iter().copied().collect();
        // What came since the last second.
        let all = now.all.saturating_sub(past.last.all);
        let bad = now.bad.saturating_sub(past.last.bad);
        minutes.push((past.minute.0 + all, past.minute.1 + bad));
        minutes
    }

    /// Goes on with the minutes of an earlier process, which came before those counted here.
    pub fn remember_minutes(&self, minutes: Vec<(u64, u64)>) {
        let mut past = self.past();
        for minute in minutes.into_iter().rev() {
            past.minutes.push_front(minute);
        }
        while past.minutes.len() > MINUTES {
            past.minutes.pop_front();
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[lane() % SHARDS]
    }

    /// The route of that key. `open` makes it if there is a place; else it is one of the others.
    fn route(&self, key: u64, open: bool) -> &Route {
        for step in 0..STEPS {
            let at = (usize::try_from(key >> 32).unwrap_or_default() + step) % ROUTES;
            let route = &self.routes[at];
            match route.key.load(Relaxed) {
                0 => {
                    if !open {
                        break;
                    }
                    match route.key.compare_exchange(0, key, Relaxed, Relaxed) {
                        Ok(_) => return route,
                        Err(other) if other == key => return route,
                        Err(_) => {}
                    }
                }
                known if known == key => return route,
                _ => {}
            }
        }
        &self.routes[ROUTES]
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        // Nothing inside can panic half-way.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The /24 or /56 of a client.
fn network_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => (u64::try_from(v6.to_bits() >> 72).unwrap_or(u64::MAX)) | 1 << 63,
    }
}

fn network(client: IpAddr) -> usize {
    let hash = network_key(client).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(hash >> 56).unwrap_or_default() % NETWORKS
}
