//! The buckets of `rate_limit`: GCRA by key, in bounded memory.
//!
//! `governor` does the arithmetic; the times are kept here, 12 bytes or so a key, so that keys can
//! be bounded in number. A key is swept when its bucket is full again, which is when it says no
//! more than a missing one. When there are [`KEYS`] that are not, further ones share
//! buckets by hash: nobody gets more than the limit by sending more keys.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, Reference as _};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderName, HeaderValue};

use crate::clock;
use crate::config::step::{RateKey, RateLimit};

/// Keys of one step that are told apart at a time.
const KEYS: usize = 65_536;
/// Parts that are locked by themselves.
const SHARDS: usize = 16;
/// Buckets of each part that keys share when it is full.
const SHARED: usize = 64;
/// Least and longest time between two sweeps of a part.
const SWEEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The clock of the program.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Now;

impl Clock for Now {
    type Instant = Instant;

    fn now(&self) -> Instant {
        clock::now()
    }
}

/// All buckets of one step.
#[derive(Debug)]
pub(in crate::proxy) struct Buckets<C: Clock + std::fmt::Debug = Now> {
    limiter: RateLimiter<u64, Times<C>, C, StateInformationMiddleware>,
    #[cfg(test)]
    shards: Arc<[Mutex<Shard>]>,
    clock: C,
    /// Keyed, so that nobody can aim at somebody else's bucket.
    hasher: RandomState,
    /// Between two requests at the full rate.
    period: Duration,
    burst: u32,
    /// Name in the RateLimit fields.
    name: String,
    policy: HeaderValue,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Taken {
    /// Whether it may go on.
    pub(in crate::proxy) allowed: bool,
    /// How many more may come at once.
    pub(in crate::proxy) left: u32,
    /// Allowed: until the bucket is full again; else until the next one may come.
    pub(in crate::proxy) wait: Duration,
}

impl Taken {
    /// `wait` for `Retry-After`: whole seconds, at least one.
    pub(in crate::proxy) fn seconds(self) -> u64 {
        let rest = u64::from(self.wait.subsec_nanos() > 0);
        (self.wait.as_secs() + rest).max(1)
    }
}

impl<C: Clock + Clone + std::fmt::Debug> Buckets<C> {
    /// Full buckets.
    pub(in crate::proxy) fn new(limit: &RateLimit, clock: C) -> Self {
        let requests = limit.requests.max(1);
        let period = (limit.window / requests).max(Duration::from_nanos(1));
        // A bucket that would fill in more than a century overflows its arithmetic.
        let most = (1_u128 << 61) / period.as_nanos();
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(limit.burst.min(most)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)
            .unwrap_or(Quota::per_second(burst))
            .allow_burst(burst);
        let fills_in = period.saturating_mul(burst.get());
        let times = Times {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            start: clock.now(),
            clock: clock.clone(),
            patience: fills_in.clamp(SWEEP.0, SWEEP.1).into(),
        };
        let name = match &limit.key {
            RateKey::Client => "client".to_owned(),
            RateKey::Route => "route".to_owned(),
            RateKey::Header(name) => name.to_string(),
            RateKey::Template(_) => "custom".to_owned(),
        };
        // A window with a fraction of a second cannot be said there.
        let window = match limit.window.subsec_nanos() {
            0 => format!(";w={}", limit.window.as_secs()),
            _ => String::new(),
        };
        let policy = HeaderValue::try_from(format!("\"{name}\";q={requests}{window}"));
        Self {
            #[cfg(test)]
            shards: Arc::clone(&times.shards),
            limiter: RateLimiter::new(quota, times, clock.clone()),
            clock,
            hasher: RandomState::new(),
            period,
            burst: burst.get(),
            name,
            policy: policy.unwrap_or(HeaderValue::from_static("\"default\"")),
        }
    }

    /// Takes one from the bucket of `key`.
    pub(in crate::proxy) fn take(&self, key: &impl Hash) -> Taken {
        match self.limiter.check_key(&self.hasher.hash_one(key)) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let missing = self.burst.saturating_sub(left);
                Taken {
                    allowed: true,
                    left,
                    wait: self.period.saturating_mul(missing),
                }
            }
            Err(until) => Taken {
                allowed: false,
                left: 0,
                wait: until.wait_time_from(self.clock.now()),
            },
        }
    }

    /// What a client is told (draft-ietf-httpapi-ratelimit-headers-10 §3, §4).
    pub(in crate::proxy) fn fields(&self, taken: Taken) -> [(HeaderName, HeaderValue); 2] {
        let Taken { left, .. } = taken;
        let now = format!("\"{}\";r={left};t={}", self.name, taken.seconds());
        let now = HeaderValue::try_from(now).unwrap_or(HeaderValue::from_static("\"default\";r=0"));
        [
            (
                HeaderName::from_static("ratelimit-policy"),
                self.policy.clone(),
            ),
            (HeaderName::from_static("ratelimit"), now),
        ]
    }

    #[cfg(test)]
    fn keys(&self) -> usize {
        let shards = self.shards.iter();
        shards
            .map(|shard| shard.lock().expect("no panic").full_at.len())
            .sum()
    }
}

/// When each bucket will be full, by hash.
#[derive(Debug)]
struct Times<C: Clock> {
    shards: Arc<[Mutex<Shard>]>,
    clock: C,
    start: C::Instant,
    patience: Nanos,
}

#[derive(Debug)]
struct Shard {
    full_at: HashMap<u64, Nanos>,
    swept: Nanos,
    shared: [Nanos; SHARED],
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            full_at: HashMap::new(),
            swept: Nanos::new(0),
            shared: [Nanos::new(0); SHARED],
        }
    }
}

impl<C: Clock> Times<C> {
    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(key % SHARDS as u64) as usize];
        // Nothing inside can panic half-way.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clock> StateStore for Times<C> {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let now = self.clock.now().duration_since(self.start);
        let mut shard = self.shard(*key);
        let is_full = shard.full_at.len() >= KEYS / SHARDS;
        let patience = self.patience.as_u64() / if is_full { 8 } else { 1 };
        if now.saturating_sub(shard.swept).as_u64() >= patience {
            shard.swept = now;
            shard.full_at.retain(|_, full_at| *full_at > now);
            if shard.full_at.capacity() > 4 * shard.full_at.len() {
                shard.full_at.shrink_to_fit();
            }
        }
        let known = shard.full_at.get(key).copied();
        if known.is_none() && shard.full_at.len() >= KEYS / SHARDS {
            let shared = &mut shard.shared[(key >> 32) as usize % SHARED];
            let (outcome, full_at) = f(Some(*shared))?;
            *shared = full_at;
            return Ok(outcome);
        }
        let (outcome, full_at) = f(known)?;
        shard.full_at.insert(*key, full_at);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn buckets(
        requests: u32,
        window: u64,
        burst: u32,
    ) -> (Buckets<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit {
            requests,
            window: Duration::from_secs(window),
            burst,
            key: RateKey::Client,
        };
        (Buckets::new(&limit, clock.clone()), clock)
    }

    #[test]
    fn a_burst_passes_and_then_one_for_each_part_of_the_window() {
        let (buckets, clock) = buckets(60, 60, 3);
        let allowed: Vec<bool> = (0..4).map(|_| buckets.take(&"a").allowed).collect();
        assert_eq!(allowed, [true, true, true, false]);
        assert!(buckets.take(&"b").allowed, "another key has its own bucket");
        clock.advance(Duration::from_millis(999));
        let refused = buckets.take(&"a");
        assert_eq!(
            (refused.allowed, refused.left, refused.seconds()),
            (false, 0, 1)
        );
        clock.advance(Duration::from_millis(1));
        assert!(buckets.take(&"a").allowed);
        assert!(!buckets.take(&"a").allowed);
    }

    #[test]
    fn the_fields_say_what_is_left_and_when_there_will_be_more() {
        let (buckets, _) = buckets(2, 60, 2);
        let told = |taken| {
            buckets
                .fields(taken)
                .map(|(_, value)| value.to_str().expect("ascii").to_owned())
        };
        assert_eq!(
            told(buckets.take(&"a")),
            ["\"client\";q=2;w=60", "\"client\";r=1;t=30"]
        );
        assert_eq!(told(buckets.take(&"a"))[1], "\"client\";r=0;t=60");
        let refused = buckets.take(&"a");
        assert_eq!(told(refused)[1], "\"client\";r=0;t=30");
        assert_eq!(refused.seconds(), 30);
    }

    #[test]
    fn idle_keys_are_swept() {
        let (buckets, clock) = buckets(10, 1, 10);
        for key in 0..10_000 {
            assert!(buckets.take(&key).allowed);
        }
        assert_eq!(buckets.keys(), 10_000);
        clock.advance(Duration::from_secs(2));
        for key in 0..1_000 {
            assert!(buckets.take(&key).allowed);
        }
        assert_eq!(buckets.keys(), 1_000);
    }

    #[test]
    fn more_keys_than_there_is_room_for_share_buckets_instead_of_going_free() {
        let (buckets, _) = buckets(1, 3_600, 1);
        let tried = 2 * KEYS;
        let passed = (0..tried).filter(|key| buckets.take(key).allowed).count();
        assert!(buckets.keys() <= KEYS);
        assert!(passed <= KEYS + SHARDS * SHARED, "{passed}");
        assert!(!buckets.take(&0).allowed, "a known key is still known");
    }

    #[test]
    fn numbers_at_the_edge_do_not_overflow() {
        for (requests, window, burst) in [
            (1, 86_400 * 365, u32::MAX),
            (u32::MAX, 1, u32::MAX),
            (1, 1, 0),
        ] {
            let (buckets, _) = buckets(requests, window, burst);
            assert!(buckets.take(&"a").allowed);
        }
    }
}
