//! The hands of the switch: publishing and draining over the pools, the gate over the probes.

use std::sync::Arc;
use std::time::Duration;

use super::publisher::Publisher;
use crate::clock;
use crate::health::{Finding, gate_view};
use crate::model::{Color, Generation, Kind, ServiceName};
use crate::pool::{Availability, StreamEnd};
use crate::switch::{
    DrainWindows, Driver, GateReport, Publication, Traffic, UpstreamReport, UpstreamState,
};

/// [`Driver`] over the live table.
#[derive(Debug)]
pub(super) struct PoolDriver(pub(super) Arc<Publisher>);

impl Driver for PoolDriver {
    fn gate(&self, service: &ServiceName, color: Color) -> GateReport {
        let Some(slot) = self.0.slot(service, color) else {
            return GateReport::default();
        };
        // The limit on latency is the machine's to apply.
        let findings = gate_view(&slot.upstreams(), None, clock::now());
        GateReport {
            upstreams: findings.into_iter().filter_map(report).collect(),
        }
    }

    fn publish(&self, pools: &[Publication]) {
        self.0.publish(pools);
    }

    fn begin_drain(&self, service: &ServiceName, generation: Generation, windows: DrainWindows) {
        if let Some(pool) = self.0.begin_drain(service, generation) {
            for kind in [Kind::WebSocket, Kind::Sse] {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    let ends = || pool.ends(kind);
                    let is_over = || pool.claims().counts() == [0; 3];
                    spread(ends, is_over, windows.of(kind)).await;
                });
            }
        }
    }

    fn in_flight(&self, service: &ServiceName, generation: Generation) -> [u64; 3] {
        self.0.in_flight(service, generation)
    }

    fn close(&self, service: &ServiceName, generation: Generation, kind: Kind) {
        self.0.close(service, generation, kind);
    }

    fn retire(&self, service: &ServiceName, generation: Generation) {
        self.0.retire(service, generation);
    }

    fn traffic(&self, service: &ServiceName, color: Color) -> Traffic {
        let totals = self
            .0
            .slot(service, color)
            .map(|slot| slot.metrics().totals());
        totals.map_or_else(Traffic::default, |totals| Traffic {
            requests: totals.requests,
            errors: totals.errors_5xx,
        })
    }
}

/// Ends streams one after the other, so that their clients do not all come back at the same moment:
/// the last one a little before the window closes. `ends`: those that are there now.
pub(super) async fn spread(
    ends: impl Fn() -> Vec<Arc<StreamEnd>>,
    is_over: impl Fn() -> bool,
    window: Duration,
) {
    const STEP: Duration = Duration::from_millis(50);
    let begun = clock::now();
    let last = window.mul_f64(SPREAD);
    loop {
        let mut waiting = ends();
        waiting.retain(|end| !end.is_asked());
        let left = last.saturating_sub(clock::now().saturating_duration_since(begun));
        // Each of those that wait has the same chance at each step that is left.
        let chance = STEP.as_secs_f64() / (left + STEP).as_secs_f64();
        for end in waiting {
            if fastrand::f64() < chance {
                end.ask();
            }
        }
        // A request that was in flight may yet become a stream.
        let over = clock::now().saturating_duration_since(begun) >= window;
        if over || is_over() {
            return;
        }
        tokio::time::sleep(STEP).await;
    }
}

/// The part of its window over which streams are ended.
const SPREAD: f64 = 0.8;

/// `None` for an address that is down but stands for nothing: its name is served on the other
/// address family.
fn report(finding: Finding) -> Option<UpstreamReport> {
    let Finding {
        upstream,
        state,
        obstacle,
        latency,
    } = finding;
    let state = match (state, &obstacle) {
        (Availability::Healthy, None) => UpstreamState::Healthy,
        // Ejected by traffic: probes are content, but requests fail.
        (Availability::Healthy, Some(_)) => UpstreamState::Down,
        (Availability::Unknown, _) => UpstreamState::Unknown,
        (Availability::Down, Some(_)) => UpstreamState::Down,
        (Availability::Down, None) => return None,
    };
    // The machine puts the state before the reason, so the reason alone is wanted here.
    let reason = obstacle.and_then(|text| match text.as_str() {
        "not healthy yet" => None,
        text => {
            let bare = text.strip_prefix("down: ");
            let bare = bare.or_else(|| text.strip_prefix("not healthy yet: "));
            Some(bare.unwrap_or(text).to_owned())
        }
    });
    Some(UpstreamReport {
        address: upstream.to_string(),
        state,
        reason,
        latency,
    })
}
