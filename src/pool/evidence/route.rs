//! Routes: which path belongs to which, how long each takes, what it was like before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of a path, what a route is told by.
const SEGMENTS: usize = 6;
/// How many times the second quantile is very slow.
const VERY_SLOW: f64 = 3.0;
/// Hits from which a route's habits are known.
const KNOWN: u32 = 20;
/// Share of client errors below which a route is a good one.
const GOOD: f64 = 0.01;

/// One route, and how long it takes.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) key: AtomicU64,
    /// A path of it that answered a GET with 2xx, not long ago.
    sample: Mutex<Box<str>>,
    pub(super) has_sample: AtomicBool,
    pub(super) hits: AtomicU32,
    pub(super) client_errors: AtomicU32,
    pub(super) times: OnceLock<Box<Histogram>>,
}

/// What the routes of a pool were like, frozen at a cutover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// By route; what is not in it is one of the others.
    pub(super) routes: HashMap<u64, Habit>,
    pub(super) others: Habit,
}

/// What a route was like before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Habit {
    /// Microseconds; zero: not known.
    pub(super) limits: [u32; 2],
    /// Three times the second quantile.
    pub(super) very_slow: u32,
    pub(super) good: bool,
}

impl Habit {
    /// From this age on a request is counted before it is answered: longer than both limits,
    /// and than the time between two looks at what is in flight.
    pub(super) fn late(&self) -> u32 {
        self.limits[0].max(self.limits[1]).saturating_add(LATE)
    }
}

/// In microseconds.
const LATE: u32 = 500_000;

impl Frozen {
    pub(super) fn habit(&self, key: u64) -> Habit {
        self.routes.get(&key).copied().unwrap_or(self.others)
    }
}

impl Route {
    pub(super) fn new() -> Self {
        Self {
            key: AtomicU64::new(0),
            sample: Mutex::default(),
            has_sample: AtomicBool::new(false),
            hits: AtomicU32::new(0),
            client_errors: AtomicU32::new(0),
            times: OnceLock::new(),
        }
    }

    pub(super) fn sample(&self) -> MutexGuard<'_, Box<str>> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep_sample(&self, path: &str) {
        // Somebody else keeps one just now.
        if let Ok(mut sample) = self.sample.try_lock() {
            *sample = path.into();
            self.has_sample.store(true, Relaxed);
        }
    }

    pub(super) fn habit(&self, quantiles: [f64; 2], factor: f64) -> Habit {
        let hits = self.hits.load(Relaxed);
        let client_errors = self.client_errors.load(Relaxed);
        let good = hits >= KNOWN && f64::from(client_errors) < GOOD * f64::from(hits);
        let times = self
            .times
            .get()
            .filter(|times| times.count() >= u64::from(KNOWN));
        let limits = times.map_or([0; 2], |times| {
            quantiles.map(|quantile| times.limit(quantile, factor))
        });
        let very_slow = times.map_or(0, |times| times.limit(quantiles[1], VERY_SLOW));
        Habit {
            limits,
            very_slow,
            good,
        }
    }
}

/// Nobody notices less, and the machine's own noise is of this size: where a route takes half a
/// millisecond, one and a half are not slow. In microseconds.
const UNNOTICED: u32 = 5_000;

/// Sixteen buckets to a doubling, from 64 µs to 134 s.
#[derive(Debug)]
pub(super) struct Histogram(pub(super) [AtomicU32; BUCKETS]);

const LOWEST: u32 = 6;
const DOUBLINGS: usize = 21;
const PARTS: usize = 16;
pub(super) const BUCKETS: usize = DOUBLINGS * PARTS + 1;

impl Histogram {
    pub(super) fn boxed() -> Box<Self> {
        Box::new(Self(std::array::from_fn(|_| AtomicU32::new(0))))
    }

    pub(super) fn count(&self) -> u64 {
        let counts = self.0.iter().map(|count| u64::from(count.load(Relaxed)));
        counts.sum()
    }

    /// Requests over a limit that is a bucket's edge.
    pub(super) fn over(&self, limit: u32) -> u64 {
        let first = bucket(limit) + 1;
        let counts = self.0.iter().skip(first);
        counts.map(|count| u64::from(count.load(Relaxed))).sum()
    }

    /// `factor` times a quantile and at least [`UNNOTICED`], rounded up to a bucket's upper edge,
    /// in microseconds.
    pub(super) fn limit(&self, quantile: f64, factor: f64) -> u32 {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts below 2^53"
        )]
        let rank = (self.count() as f64 * quantile).ceil() as u64;
        let mut sum = 0;
        for (at, count) in self.0.iter().enumerate() {
            sum += u64::from(count.load(Relaxed));
            if sum >= rank {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let limit = (f64::from(upper_edge(at)) * factor).min(f64::from(u32::MAX)) as u32;
                return upper_edge(bucket(limit.max(UNNOTICED)));
            }
        }
        u32::MAX
    }
}

pub(super) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

pub(super) fn bucket(micros: u32) -> usize {
    if micros < 1 << LOWEST {
        return 0;
    }
    let doubling = 31 - micros.leading_zeros();
    let part = (micros >> (doubling - 4)) & 15;
    let at = (doubling - LOWEST) as usize * PARTS + part as usize + 1;
    at.min(BUCKETS - 1)
}

/// The largest time in a bucket, in microseconds.
pub(super) fn upper_edge(bucket: usize) -> u32 {
    if bucket == 0 {
        return (1 << LOWEST) - 1;
    }
    let at = bucket - 1;
    let doubling = LOWEST + u32::try_from(at / PARTS).unwrap_or(25);
    let part = u64::try_from(at % PARTS).unwrap_or_default();
    let edge = (1_u64 << doubling) + ((part + 1) << (doubling - 4)) - 1;
    u32::try_from(edge).unwrap_or(u32::MAX)
}

/// Whether a segment of a path is somebody's number rather than a word: digits, or 8 and more
/// hexadecimal digits and dashes with a digit among them.
pub(super) fn is_identifier(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return false;
    }
    let all = |is: fn(&u8) -> bool| bytes.iter().all(is);
    digits == bytes.len() || (bytes.len() >= 8 && all(|b| b.is_ascii_hexdigit() || *b == b'-'))
}

pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    let all = path.split('/').filter(|segment| !segment.is_empty());
    all.take(SEGMENTS)
        .map(|segment| if is_identifier(segment) { "*" } else { segment })
}

/// FNV-1a; never zero.
pub(super) fn route_key(path: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for segment in segments(path) {
        for byte in segment.bytes().chain([b'/']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    // The high half chooses the place.
    (hash ^ (hash << 32)).max(1)
}

pub(super) fn route_name(path: &str) -> String {
    let mut name = String::new();
    for segment in segments(path) {
        name.push('/');
        name.extend(segment.chars().take(64));
    }
    if name.is_empty() {
        "/".to_owned()
    } else {
        name
    }
}
