//! One published generation of a slot, and the claim that a request holds on it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::Method;

use super::claim::ClaimWord;
use super::evidence::Evidence;
use super::in_flight::{InFlight, List};
use super::registry::Registry;
use super::slot::Slot;
use super::stream_end::StreamEnd;
use crate::model::{Generation, Kind};

/// A generation: what a request claims and what drains.
#[derive(Debug)]
pub struct Pool {
    slot: Arc<Slot>,
    generation: Generation,
    id: u64,
    claims: ClaimWord,
    connections: Arc<Registry>,
    list: List,
    evidence: Evidence,
}

impl Pool {
    /// A new generation of `slot`, open for claims.
    #[must_use]
    pub fn new(slot: Arc<Slot>, generation: Generation) -> Arc<Self> {
        let pool = Arc::new(Self {
            slot,
            generation,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            claims: ClaimWord::new(),
            connections: Arc::default(),
            list: List::default(),
            evidence: Evidence::new(),
        });
        pool.slot.adopt(&pool);
        pool
    }

    /// The slot whose upstreams take the requests.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Its number.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Different for every pool of this process: what idle connections are kept by.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Counts and draining bit.
    #[must_use]
    pub fn claims(&self) -> &ClaimWord {
        &self.claims
    }

    /// The upstream connections that requests of this pool opened.
    #[must_use]
    pub fn connections(&self) -> &Arc<Registry> {
        &self.connections
    }

    /// What its requests say about its release.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Claims a place for one request. `None` when the pool drains: load the table again.
    #[must_use]
    pub fn try_claim(self: &Arc<Self>) -> Option<Claim> {
        self.claims.try_claim(Kind::Request.index()).then(|| Claim {
            pool: Arc::clone(self),
            kind: Kind::Request,
            listed: None,
        })
    }

    /// What is in flight, the oldest first, at most `limit`.
    #[must_use]
    pub fn in_flight(&self, limit: usize) -> Vec<InFlight> {
        self.list.oldest(limit)
    }

    /// Counts requests that take longer than their route ever should.
    pub fn count_late(&self, now: Instant) {
        self.list.each(|entry| {
            let age = now.saturating_duration_since(entry.since);
            if entry.kind == Kind::Request && !entry.late {
                entry.late = self.evidence.late(&entry.path, age);
            }
        });
    }

    /// Every stream of that kind, to be ended.
    #[must_use]
    pub fn ends(&self, kind: Kind) -> Vec<Arc<StreamEnd>> {
        let of_kind = self.list.all().into_iter().filter(|one| one.kind == kind);
        of_kind.filter_map(|one| one.end).collect()
    }

    /// Every stream of that kind that an upstream answers, to be ended.
    #[must_use]
    pub fn ends_of(&self, kind: Kind, upstream: u64) -> Vec<Arc<StreamEnd>> {
        let all = self.list.all().into_iter();
        let of_it = all.filter(|one| one.kind == kind && one.upstream == Some(upstream));
        of_it.filter_map(|one| one.end).collect()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One request in flight on a pool. Dropped on every exit path; the drop gives the place back.
#[derive(Debug)]
pub struct Claim {
    pool: Arc<Pool>,
    kind: Kind,
    /// Its number among those in flight.
    listed: Option<u64>,
}

impl Claim {
    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// As what it counts.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Says whose place it is, for whoever asks what is in flight.
    pub fn describe(&mut self, method: &Method, path: &str, client: IpAddr, now: Instant) {
        if self.listed.is_none() {
            self.listed = Some(self.pool.list.enter(method, path, client, now));
        }
    }

    /// Counts as another kind from now on, in one step; `end` ends it early, `upstream` answers it.
    pub fn reclassify(&mut self, kind: Kind, end: Option<Arc<StreamEnd>>, upstream: Option<u64>) {
        if let Some(number) = self.listed {
            self.pool.list.becomes(number, kind, end, upstream);
        }
        if self.kind != kind {
            self.pool.claims.reclassify(self.kind.index(), kind.index());
            self.kind = kind;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(number) = self.listed {
            self.pool.list.leave(number);
        }
        self.pool.claims.release(self.kind.index());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::model::Color;
    use crate::pool::SlotSettings;

    /// A pool of a slot without upstreams.
    pub(in super::super) fn pool() -> Arc<Pool> {
        let service = "web".into();
        let metrics = Metrics::new().color(&service, Color::Blue);
        let settings = SlotSettings::default();
        let slot = Slot::new(service, Color::Blue, settings, metrics);
        Pool::new(Arc::new(slot), Generation::default())
    }
}
