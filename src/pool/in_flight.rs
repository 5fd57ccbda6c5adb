//! What a pool has in flight, one by one: for whoever asks what blocks a drain, and for ending
//! streams.
//!
//! Requests are entered in one of several maps behind locks of their own, chosen by their number,
//! so that threads rarely meet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::Method;

use super::stream_end::StreamEnd;
use crate::model::Kind;

/// Maps. A power of two.
const SHARDS: usize = 16;

/// Longest path that is kept, in bytes.
const PATH_BYTES: usize = 256;

/// One request in flight.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// As what it counts.
    pub kind: Kind,
    /// Its method.
    pub method: Method,
    /// Its path without the query, cut after 256 bytes.
    pub path: Box<str>,
    /// Who asked.
    pub client: IpAddr,
    /// When it was claimed.
    pub since: Instant,
    /// Whether it was counted as late.
    pub(super) late: bool,
    /// Which upstream answers it; only of streams it is known.
    pub(super) upstream: Option<u64>,
    /// How to end it before it ends by itself; only streams have one.
    pub end: Option<Arc<StreamEnd>>,
}

/// All of a pool.
#[derive(Debug, Default)]
pub(super) struct List {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, InFlight>>; SHARDS],
}

impl List {
    pub(super) fn enter(&self, method: &Method, path: &str, client: IpAddr, now: Instant) -> u64 {
        let mut end = path.len().min(PATH_BYTES);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        let entry = InFlight {
            kind: Kind::Request,
            method: method.clone(),
            path: path[..end].into(),
            client,
            since: now,
            late: false,
            upstream: None,
            end: None,
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).insert(number, entry);
        number
    }

    pub(super) fn leave(&self, number: u64) {
        self.shard(number).remove(&number);
    }

    pub(super) fn becomes(
        &self,
        number: u64,
        kind: Kind,
        end: Option<Arc<StreamEnd>>,
        upstream: Option<u64>,
    ) {
        if let Some(entry) = self.shard(number).get_mut(&number) {
            entry.kind = kind;
            entry.end = end;
            entry.upstream = upstream;
        }
    }

    /// The oldest ones, at most `limit`.
    pub(super) fn oldest(&self, limit: usize) -> Vec<InFlight> {
        let mut all = self.all();
        all.sort_by_key(|entry| entry.since);
        all.truncate(limit);
        all
    }

    pub(super) fn each(&self, mut visit: impl FnMut(&mut InFlight)) {
        for shard in 0..SHARDS as u64 {
            self.shard(shard).values_mut().for_each(&mut visit);
        }
    }

    pub(super) fn all(&self) -> Vec<InFlight> {
        (0..SHARDS as u64)
            .flat_map(|shard| self.shard(shard).values().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, InFlight>> {
        let shard = usize::try_from(number % SHARDS as u64).unwrap_or_default();
        // Nothing inside can panic half-way.
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
