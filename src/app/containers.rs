//! Containers come and go: the table follows, releases under watch are judged by them, and a live slot
//! that lost its last one gives way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info, warn};

use super::daemon::Daemon;
use super::discovery::Discovery;
use crate::clock;
use crate::docker::Trouble;
use crate::model::{Color, ServiceName};
use crate::pool::Availability;
use crate::switch::evidence::alerts::Usage;
use crate::switch::{By, Containers, Phase, Progress, SwitchRequest, Switchboard};

/// How long the end of a container speaks against its release. The judge looks four times a second, and
/// the container's log is waited for.
const FRESH: Duration = Duration::from_secs(5);
/// How long a live slot must have been without containers before the other one takes over: a restart
/// is no reason.
const DESERTED: Duration = Duration::from_secs(3);
/// Between two tries of that.
const NEXT_TRY: Duration = Duration::from_secs(30);
/// Between two looks at whether it is time.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after services or sites that could not be taken over.
const ADOPT_AGAIN: Duration = Duration::from_secs(10);

/// What is known of containers under watch.
pub(super) struct Witness {
    discovery: Arc<Discovery>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The slots of containers under watch; of those that are gone too.
    slots: HashMap<String, Vec<(ServiceName, Color)>>,
    fresh: Vec<Trouble>,
    /// What the last trouble of each service was.
    last: BTreeMap<ServiceName, Trouble>,
}

impl Witness {
    pub(super) fn new(discovery: Arc<Discovery>) -> Self {
        Self {
            discovery,
            known: Mutex::default(),
        }
    }

    /// Looks at the containers of these services from now on.
    pub(super) fn attend(&self, services: &BTreeSet<ServiceName>) {
        let attended = self.discovery.attend(services);
        let mut known = self.lock();
        known
            .slots
            .retain(|_, slots| slots.iter().any(|(service, _)| services.contains(service)));
        known.slots.extend(attended);
    }

    fn happened(&self, trouble: Trouble) {
        warn!(container = trouble.id, "{}", trouble.why);
        self.lock().fresh.push(trouble);
    }

    /// Why a container of these services ended, and what it wrote last; a line each.
    pub(super) fn last_words(&self, services: &[ServiceName]) -> Vec<String> {
        let known = self.lock();
        let troubles = services
            .iter()
            .filter_map(|service| known.last.get(service));
        let mut lines = Vec::new();
        for trouble in troubles {
            match &trouble.log {
                Ok(log) if log.is_empty() => {
                    lines.push(format!("{}; it wrote nothing", trouble.why))
                }
                Ok(log) => {
                    lines.push(format!("{}; its last lines:", trouble.why));
                    lines.extend(log.iter().map(|line| format!("  {line}")));
                }
                Err(why) => lines.push(format!("{}; its log is not known: {why}", trouble.why)),
            }
        }
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers for Witness {
    fn trouble(&self, service: &ServiceName, color: Color) -> Option<String> {
        let now = clock::now();
        let mut known = self.lock();
        let Known { slots, fresh, last } = &mut *known;
        fresh.retain(|trouble| now.saturating_duration_since(trouble.at) < FRESH);
        let is_of_slot = |trouble: &Trouble| {
            let slots = slots.get(&trouble.id).into_iter().flatten();
            slots
                .clone()
                .any(|(name, of)| name == service && *of == color)
        };
        let at = fresh.iter().position(is_of_slot)?;
        let trouble = fresh.remove(at);
        let why = trouble.why.clone();
        last.insert(service.clone(), trouble);
        Some(why)
    }

    fn usage(&self, service: &ServiceName, color: Color) -> Usage {
        let known = self.lock();
        let of_slot = known.slots.iter().filter(|(_, slots)| {
            slots
                .iter()
                .any(|(name, of)| name == service && *of == color)
        });
        let used = of_slot.filter_map(|(id, _)| self.discovery.used(id));
        let fuller = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        used.fold(Usage::default(), |sum, used| Usage {
            memory: fuller(sum.memory, used.memory),
            cpu: fuller(sum.cpu, used.cpu),
        })
    }
}

/// Takes what happens to containers under watch, for ever.
pub(super) async fn listen(witness: Arc<Witness>, mut troubles: UnboundedReceiver<Trouble>) {
    while let Some(trouble) = troubles.recv().await {
        witness.happened(trouble);
    }
}

/// Follows the containers for ever.
pub(super) async fn follow(daemon: Arc<Daemon>, switchboard: Switchboard) {
    let mut status = switchboard.watch();
    let mut ticker = tokio::time::interval(LOOK);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut views = daemon.discovery.views();
    let mut deserted = Deserted::default();
    let mut stands = Vec::new();
    loop {
        let view = async {
            match &mut views {
                Some(views) => views.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            is_there = view => if !is_there {
                // Replaced: `changed` tells of the next one.
                views = None;
                continue;
            },
            () = daemon.discovery.changed.notified() => views = daemon.discovery.views(),
            Ok(()) = status.changed() => {
                let is = standing(&daemon, &switchboard);
                if is == stands {
                    continue;
                }
                stands = is;
            }
            _ = ticker.tick() => {
                deserted.give_way(&daemon, &switchboard);
                continue;
            }
        }
        daemon.containers_changed();
        daemon.attend(&switchboard);
    }
}

/// What of the switches matters to the containers: which slots are live, and which must stay.
fn standing(daemon: &Daemon, switchboard: &Switchboard) -> Vec<(ServiceName, Color, bool)> {
    let table = daemon.publisher.table().load();
    let services = table.services.iter();
    services
        .map(|entry| {
            let is_switching = is_switching(switchboard, &entry.name);
            (entry.name.clone(), entry.live, is_switching)
        })
        .collect()
}

/// Takes over services and sites that come and go, for ever.
pub(super) async fn adopt(daemon: Arc<Daemon>) {
    loop {
        daemon.discovery.adopt.notified().await;
        while let Err(why) = daemon.adopt_found().await {
            error!(%why, "what was found in Docker cannot be served, the former state stays");
            daemon.discovery.set_failed(Some(why));
            tokio::time::sleep(ADOPT_AGAIN).await;
        }
        daemon.discovery.set_failed(None);
    }
}

/// Services whose live slot has nobody left.
#[derive(Default)]
struct Deserted {
    services: BTreeMap<ServiceName, Instant>,
    tried: BTreeMap<ServiceName, Instant>,
}

impl Deserted {
    /// Switches to the other slot where it is healthy.
    fn give_way(&mut self, daemon: &Arc<Daemon>, switchboard: &Switchboard) {
        let now = clock::now();
        let found = daemon.discovery.discovered();
        self.services
            .retain(|service, _| found.deserted.contains(service));
        for service in &found.deserted {
            let since = *self.services.entry(service.clone()).or_insert(now);
            let tried = self.tried.get(service).copied();
            let is_time = now.saturating_duration_since(since) >= DESERTED
                && tried.is_none_or(|then| now.saturating_duration_since(then) >= NEXT_TRY);
            if !is_time || is_switching(switchboard, service) {
                continue;
            }
            let table = daemon.publisher.table().load();
            let Some(live) = table.named(service.as_str()).map(|entry| entry.live) else {
                continue;
            };
            let other = live.other();
            let upstreams = daemon.publisher.slot(service, other);
            let upstreams = upstreams.map(|slot| slot.upstreams()).unwrap_or_default();
            let is_healthy = !upstreams.is_empty()
                && (upstreams.iter()).all(|up| up.availability() == Availability::Healthy);
            if is_healthy {
                self.tried.insert(service.clone(), now);
                take_over(switchboard, service.clone(), other);
            }
        }
    }
}

fn is_switching(switchboard: &Switchboard, service: &ServiceName) -> bool {
    let stacks = switchboard.status();
    let mut stacks = stacks.iter();
    stacks.any(|stack| {
        stack.phase != Phase::Idle && stack.services.iter().any(|known| known.service == *service)
    })
}

fn take_over(switchboard: &Switchboard, service: ServiceName, color: Color) {
    let why = format!("{} has no container any more", color.other());
    info!(%service, %color, why, "the other slot takes over");
    let mut news = switchboard.switch(SwitchRequest {
        color,
        services: vec![service.clone()],
        force: false,
        release: None,
        confirm_within: None,
        canary_percent: None,
        by: By {
            id: None,
            actor: "cutover".to_owned(),
            why: Some(why),
        },
    });
    tokio::spawn(async move {
        while let Some(progress) = news.recv().await {
            if let Progress::Finished(outcome) = progress {
                info!(%service, %outcome, "the other slot took over");
            }
        }
    });
}
