//! One published generation of a slot, and the claim that a request holds on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::claim::ClaimWord;
use super::registry::Registry;
use super::slot::Slot;
use crate::model::{Generation, Kind};

/// A generation: what a request claims and what drains.
#[derive(Debug)]
pub struct Pool {
    slot: Arc<Slot>,
    generation: Generation,
    id: u64,
    claims: ClaimWord,
    connections: Arc<Registry>,
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

    /// Claims a place for one request. `None` when the pool drains: load the table again.
    #[must_use]
    pub fn try_claim(self: &Arc<Self>) -> Option<Claim> {
        self.claims.try_claim(Kind::Request.index()).then(|| Claim {
            pool: Arc::clone(self),
            kind: Kind::Request,
        })
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One request in flight on a pool. Dropped on every exit path; the drop gives the place back.
#[derive(Debug)]
pub struct Claim {
    pool: Arc<Pool>,
    kind: Kind,
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

    /// Counts as another kind from now on, in one step.
    pub fn reclassify(&mut self, kind: Kind) {
        if self.kind != kind {
            self.pool.claims.reclassify(self.kind.index(), kind.index());
            self.kind = kind;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.pool.claims.release(self.kind.index());
    }
}
