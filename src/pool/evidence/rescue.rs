//! The old pool as the helper of its successor's users.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use http::Method;

use crate::pool::generation::Pool;

/// The old pool, as far as it may be asked.
#[derive(Debug)]
pub struct Rescue {
    pub(super) to: Arc<Pool>,
    pub(super) methods: Vec<Method>,
    /// Highest number a second.
    pub(super) rate: AtomicU32,
    pub(super) open: AtomicBool,
    /// When the next one may go, in microseconds since `began`.
    next: AtomicU64,
    began: Instant,
}

impl Rescue {
    /// Lets `to` answer for its successor, at most `rate` times a second. `methods`: what may be
    /// asked twice.
    #[must_use]
    pub fn new(to: Arc<Pool>, methods: Vec<Method>, rate: u32, now: Instant) -> Self {
        Self {
            to,
            methods,
            rate: AtomicU32::new(rate.max(1)),
            open: AtomicBool::new(rate > 0),
            next: AtomicU64::new(0),
            began: now,
        }
    }

    /// A bucket that holds one second's worth (generic cell rate algorithm).
    pub(super) fn take(&self, now: Instant) -> bool {
        if !self.open.load(Relaxed) {
            return false;
        }
        let now = now.saturating_duration_since(self.began).as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let each = 1_000_000 / u64::from(self.rate.load(Relaxed)).max(1);
        let taken = self.next.fetch_update(Relaxed, Relaxed, |next| {
            let next = next.max(now);
            (next < now + 1_000_000).then_some(next + each)
        });
        taken.is_ok()
    }
}
