//! Containers come and go: the table follows, and a live slot that lost its last one gives way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info};

use super::daemon::Daemon;
use super::witness::Witness;
use crate::clock;
use crate::docker::Trouble;
use crate::model::{Color, ServiceName};
use crate::pool::Availability;
use crate::switch::{By, Phase, Progress, SwitchRequest, Switchboard};

/// How long a live slot must have been without containers before the other one takes over: a restart
/// is no reason.
const DESERTED: Duration = Duration::from_secs(3);
/// Between two tries of that.
const NEXT_TRY: Duration = Duration::from_secs(30);
/// Between two looks at whether it is time.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after services or sites that could not be taken over.
const ADOPT_AGAIN: Duration = Duration::from_secs(10);

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
                if !daemon.discovery.is_due() {
                    continue;
                }
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
