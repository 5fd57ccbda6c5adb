//! What a switch needs done by others: one trait, implemented where pools and probes are known.

use std::time::Duration;

use super::gate::GateReport;
use crate::model::{Color, Generation, Kind, ServiceName};

/// The hands of the switch. Every method returns at once; none may block on a disk or a peer.
///
/// The switchboard is the only caller, from one task. A service or generation that is not
/// known (any more) has no traffic and nothing in flight; an order about it does nothing.
pub trait Driver: Send + Sync + 'static {
    /// What the probes know of the upstreams of one slot.
    fn gate(&self, service: &ServiceName, color: Color) -> GateReport;

    /// Makes every named pool the live one of its service, all in one atomic store. A
    /// generation that still exists undrained is put back; any other one is made anew.
    fn publish(&self, pools: &[Publication]);

    /// Lets no further request claim this pool. `windows` tell how long each kind may take, so
    /// that WebSocket closes can be spread over theirs.
    fn begin_drain(&self, service: &ServiceName, generation: Generation, windows: DrainWindows);

    /// What the pool still serves, by [`Kind::index`].
    fn in_flight(&self, service: &ServiceName, generation: Generation) -> [u64; 3];

    /// Closes what the pool still serves of one kind.
    fn close(&self, service: &ServiceName, generation: Generation, kind: Kind);

    /// Drops the pool: its idle upstream connections are closed.
    fn retire(&self, service: &ServiceName, generation: Generation);

    /// Requests that a slot has answered since the daemon started.
    fn traffic(&self, service: &ServiceName, color: Color) -> Traffic;
}

/// One service's new live pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The service.
    pub service: ServiceName,
    /// Its live color from now on.
    pub color: Color,
    /// The pool's number.
    pub generation: Generation,
}

/// How long each kind may go on in a draining pool, by [`Kind::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainWindows(pub [Duration; 3]);

impl DrainWindows {
    /// 30 s each, the defaults of the configuration.
    pub const DEFAULT: Self = Self([Duration::from_secs(30); 3]);

    /// The window of one kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> Duration {
        self.0[kind.index()]
    }

    /// When even the longest window is over.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.0.into_iter().max().unwrap_or(Duration::ZERO)
    }
}

/// Cumulative counters of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests answered.
    pub requests: u64,
    /// Of these, how many failed by the upstream's fault.
    pub errors: u64,
}

impl Traffic {
    /// What was added since `base`; zero if the counters were reset.
    #[must_use]
    pub const fn since(self, base: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(base.requests),
            errors: self.errors.saturating_sub(base.errors),
        }
    }
}
