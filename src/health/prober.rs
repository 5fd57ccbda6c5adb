//! The shell around [`Tracker`]: one task per upstream that probes, waits and probes again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, broadcast};
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use super::probe::{Miss, probe};
use super::tracker::{Tracker, Transition};
use crate::clock;
use crate::config::Health;
use crate::http::Client;
use crate::model::{Color, ServiceName};
use crate::pool::{Availability, Upstream};

/// Probes upstreams until it is dropped, which stops every task.
#[derive(Debug)]
pub struct Prober {
    shared: Arc<Shared>,
    running: Mutex<HashMap<Key, Running>>,
}

/// One upstream and how it is probed.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// Where findings are written.
    pub upstream: Arc<Upstream>,
    /// What is asked, how often, with which thresholds.
    pub health: Health,
    /// The service it belongs to.
    pub service: ServiceName,
    /// The slot it belongs to.
    pub color: Color,
    /// Who asks.
    pub client: Client,
}

/// An upstream changed its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChanged {
    /// The service it belongs to.
    pub service: ServiceName,
    /// The slot it belongs to.
    pub color: Color,
    /// The upstream as people know it.
    pub upstream: Arc<str>,
    /// State before.
    pub from: Availability,
    /// State now.
    pub to: Availability,
    /// Why its last failed probe failed; of interest when `to` is down.
    pub reason: Option<String>,
    /// When the deciding probe ended.
    pub at: Instant,
}

impl Prober {
    /// Probes nothing until the first [`Prober::sync`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                permits: Semaphore::new(AT_ONCE),
                events: broadcast::Sender::new(EVENTS_KEPT),
            }),
            running: Mutex::default(),
        }
    }

    /// Transitions from now on. A receiver that falls 1,024 behind is told that it missed some;
    /// the state itself is always in [`Upstream::probe`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<HealthChanged> {
        self.shared.events.subscribe()
    }

    /// Makes `targets` what is probed. Upstreams that stay are not disturbed; those with other
    /// settings are probed anew from the state they have; those not named are left alone from
    /// now on, with the last finding in place. Must be called inside a tokio runtime.
    pub fn sync(&self, targets: Vec<ProbeTarget>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for target in targets {
            let key = Key {
                service: target.service.clone(),
                color: target.color,
                upstream: target.upstream.id(),
            };
            let Entry::Vacant(place) = running.entry(key) else {
                continue;
            };
            let kept = before
                .remove(place.key())
                .filter(|task| task.probes_like(&target));
            place.insert(kept.unwrap_or_else(|| Running::start(&self.shared, target)));
        }
        // Dropping what is left of `before` stops those tasks.
    }

    /// How many upstreams are probed.
    #[must_use]
    pub fn len(&self) -> usize {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.len()
    }

    /// Whether nothing is probed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Shared {
    permits: Semaphore,
    events: broadcast::Sender<HealthChanged>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    service: ServiceName,
    color: Color,
    upstream: u64,
}

/// A task and what it was started for; stops it when dropped.
#[derive(Debug)]
struct Running {
    upstream: Arc<Upstream>,
    health: Health,
    client: Client,
    task: AbortHandle,
}

impl Running {
    fn start(shared: &Arc<Shared>, target: ProbeTarget) -> Self {
        Self {
            upstream: Arc::clone(&target.upstream),
            health: target.health.clone(),
            client: target.client.clone(),
            task: tokio::spawn(run(Arc::clone(shared), target)).abort_handle(),
        }
    }

    fn probes_like(&self, target: &ProbeTarget) -> bool {
        Arc::ptr_eq(&self.upstream, &target.upstream)
            && self.health == target.health
            && self.client.is_like(&target.client)
            && !self.task.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(shared: Arc<Shared>, target: ProbeTarget) {
    let ProbeTarget {
        upstream,
        health,
        client,
        ..
    } = &target;
    let known = upstream.own_probe();
    if known.state != Availability::Unknown {
        // Not in step with everything else that a reload started.
        tokio::time::sleep(health.interval.mul_f64(fastrand::f64())).await;
    }
    let mut tracker = Tracker::resume(health.rise, health.fall, known.as_ref().clone());
    let mut tried = true;
    loop {
        let permit = shared.permits.acquire().await;
        let start = clock::now();
        let outcome = probe(client, upstream, health).await;
        drop(permit);
        let now = clock::now();
        match outcome {
            Err(Miss::NotTried(reason)) => {
                // Once per spell, not once per probe.
                if std::mem::take(&mut tried) {
                    let ProbeTarget { service, color, .. } = &target;
                    warn!(%service, %color, upstream = %upstream.shown(), reason, "upstream not probed");
                }
            }
            Ok(latency) => {
                tried = true;
                learn(&shared, &target, &mut tracker, now, Ok(latency));
            }
            Err(Miss::Failed(reason)) => {
                tried = true;
                learn(&shared, &target, &mut tracker, now, Err(reason));
            }
        }
        let pause = pause(health.interval, tracker.is_settling(), fastrand::f64());
        let spent = clock::now().saturating_duration_since(start);
        tokio::time::sleep(pause.saturating_sub(spent).max(SHORTEST_PAUSE)).await;
    }
}

fn learn(
    shared: &Shared,
    target: &ProbeTarget,
    tracker: &mut Tracker,
    now: Instant,
    outcome: Result<Duration, String>,
) {
    target.upstream.count_probe(outcome.is_ok());
    let transition = tracker.observe(now, outcome);
    let record = tracker.record().clone();
    let reason = record.reason.clone();
    target.upstream.set_probe(record);
    let Some(Transition { from, to }) = transition else {
        return;
    };
    tell(target, from, to, reason.as_deref());
    // No receiver: nobody wants to know.
    let _ = shared.events.send(HealthChanged {
        service: target.service.clone(),
        color: target.color,
        upstream: Arc::clone(target.upstream.shown()),
        from,
        to,
        reason,
        at: now,
    });
}

fn tell(target: &ProbeTarget, from: Availability, to: Availability, reason: Option<&str>) {
    let ProbeTarget { service, color, .. } = target;
    let upstream = &**target.upstream.shown();
    match to {
        Availability::Healthy => {
            info!(%service, %color, upstream, ?from, "upstream is healthy");
        }
        Availability::Down => {
            let reason = reason.unwrap_or_default();
            warn!(%service, %color, upstream, ?from, reason, "upstream is down");
        }
        Availability::Unknown => debug!(%service, %color, upstream, "upstream is unknown"),
    }
}

/// From the start of one probe to the start of the next: the interval, or less while the state
/// settles so that a gate opens soon; 10 % more or less by `chance` (0–1), so that probes which
/// began together drift apart.
fn pause(interval: Duration, settling: bool, chance: f64) -> Duration {
    let base = if settling {
        interval.min(SETTLING_INTERVAL)
    } else {
        interval
    };
    base.mul_f64(0.9 + 0.2 * chance)
}

/// Probes at a time over all services: bounds descriptors when thousands of upstreams hang.
const AT_ONCE: usize = 256;

/// Transitions kept for a slow receiver.
const EVENTS_KEPT: usize = 1024;

/// Between probes of an upstream whose state is about to be decided.
const SETTLING_INTERVAL: Duration = Duration::from_millis(500);

/// Even when a probe takes longer than the interval, its upstream gets a breath.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
