//! One address that requests can go to, and whether they may.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::clock;
use crate::config::Eject;
use crate::model::{Endpoint, UpstreamAddr};

/// A place to connect to; a name is already looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// TCP.
    Socket(SocketAddr),
    /// Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What active probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Not probed yet: takes live traffic unless it came to others, passes no gate.
    Unknown,
    /// Passed `rise` probes in a row.
    Healthy,
    /// Failed `fall` probes in a row.
    Down,
}

/// The newest finding of the active probes.
#[derive(Clone, Debug)]
pub struct ProbeRecord {
    /// State after thresholds.
    pub state: Availability,
    /// Why the last failed probe failed; kept after a recovery until the next failure.
    pub reason: Option<String>,
    /// How long the last passed probe took.
    pub latency: Option<Duration>,
    /// When the last probe ended; `None` before the first.
    pub at: Option<Instant>,
    /// Probes passed in a row; 0 after one that failed.
    pub passes: u32,
}

/// The container behind an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Different for every container and every start of one: what was known of another run says
    /// nothing of this one, though the address be the same.
    pub run: Arc<str>,
}

/// What a container's own health check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It passes.
    Healthy,
    /// It did not pass yet: takes live traffic, passes no gate.
    Starting,
    /// It fails.
    Unhealthy,
}

/// How one attempt on an upstream ended, for passive ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Any answer below 500.
    Answered,
    /// An answer from 500 to 599.
    ServerError,
    /// No connection, or one that broke before the response head.
    ConnectFailed,
}

/// One address of a slot. Shared by every pool of the slot; lives as long as the address does.
#[derive(Debug)]
pub struct Upstream {
    configured: UpstreamAddr,
    target: Target,
    label: Arc<str>,
    shown: Arc<str>,
    id: u64,
    behind: Option<Behind>,
    /// A deploy keeps requests away.
    held: AtomicBool,
    /// It came to others that take the requests meanwhile, and was never found healthy.
    on_trial: AtomicBool,
    counted_heads: AtomicBool,
    /// Milliseconds since the process's epoch.
    slow_until: AtomicU64,
    state: AtomicU8,
    /// What own probes found.
    own: ArcSwap<ProbeRecord>,
    /// What they found together with what was reported.
    probe: ArcSwap<ProbeRecord>,
    /// What was reported; held while the two are put together.
    reported: Mutex<Option<Reported>>,
    in_flight: AtomicUsize,
    connect_failures: AtomicU32,
    server_errors: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds since the process's epoch; 0: not ejected.
    ejected_until: AtomicU64,
    probes: AtomicU64,
    failed_probes: AtomicU64,
}

impl Upstream {
    /// A new address, not probed yet. `target` must be what `configured` names or resolves to.
    #[must_use]
    pub fn new(configured: UpstreamAddr, target: Target) -> Self {
        Self::of_container(configured, target, None)
    }

    /// As [`Upstream::new`], with the container that answers there.
    #[must_use]
    pub fn of_container(configured: UpstreamAddr, target: Target, behind: Option<Behind>) -> Self {
        let label: Arc<str> = configured.to_string().into();
        let shown = match (configured.endpoint(), &target) {
            (Endpoint::Name { .. }, Target::Socket(addr)) => format!("{label} ({addr})").into(),
            _ => Arc::clone(&label),
        };
        let id = stable_hash(&[label.as_bytes(), target.to_string().as_bytes()]);
        let unknown = ProbeRecord {
            state: Availability::Unknown,
            reason: None,
            latency: None,
            at: None,
            passes: 0,
        };
        Self {
            configured,
            target,
            label,
            shown,
            id,
            behind,
            held: AtomicBool::new(false),
            on_trial: AtomicBool::new(false),
            counted_heads: AtomicBool::new(false),
            slow_until: AtomicU64::new(0),
            state: AtomicU8::new(encode(Availability::Unknown)),
            own: ArcSwap::from_pointee(unknown.clone()),
            probe: ArcSwap::from_pointee(unknown),
            reported: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            connect_failures: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            failed_probes: AtomicU64::new(0),
        }
    }

    /// As configured.
    #[must_use]
    pub fn configured(&self) -> &UpstreamAddr {
        &self.configured
    }

    /// Where to connect.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The configured text: the `upstream` label of metrics.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// For people: the configured text, and the address behind it if it is a name.
    #[must_use]
    pub fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// The same for the same address across restarts; for hashing and sticky cookies.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The container that answers here, if it is known.
    #[must_use]
    pub fn behind(&self) -> Option<&Behind> {
        self.behind.as_ref()
    }

    /// Keeps every request away, or no longer. Only the writer of slots calls this. True when it was
    /// otherwise before.
    pub fn set_held(&self, held: bool) -> bool {
        self.held.swap(held, Ordering::SeqCst) != held
    }

    /// Whether a deploy keeps requests away.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// It comes to others: they take the requests until it was found healthy once. Only the writer of
    /// slots calls this, before it is one of them.
    pub fn begin_trial(&self) {
        self.on_trial.store(true, Ordering::Relaxed);
    }

    /// Whether it must be found healthy before it takes requests that others can take.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.on_trial.load(Ordering::Relaxed)
    }

    /// Heads of its answers are as long on the wire as their fields say.
    pub fn heads_are_as_counted(&self) {
        self.counted_heads.store(true, Ordering::Relaxed);
    }

    /// Whether that is known.
    #[must_use]
    pub fn writes_heads_as_counted(&self) -> bool {
        self.counted_heads.load(Ordering::Relaxed)
    }

    /// A body did not follow its head in time: until then its heads wait for none.
    pub fn was_slow_with_a_body(&self, until: Instant) {
        let until = clock::millis(since_epoch(until)).max(1);
        self.slow_until.store(until, Ordering::Relaxed);
    }

    /// Whether its heads wait for no body now.
    #[must_use]
    pub fn is_slow_with_bodies(&self) -> bool {
        match self.slow_until.load(Ordering::Relaxed) {
            0 => false,
            until => since_epoch(clock::now()) < Duration::from_millis(until),
        }
    }

    /// Stores what `health` found. Only `health` calls this.
    pub fn set_probe(&self, record: ProbeRecord) {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        self.own.store(Arc::new(record));
        self.put_together(*reported);
    }

    /// Stores what the container's health check says; `None`: it has none. Only the writer of slots
    /// calls this. True when it says something else than before.
    pub fn report(&self, now: Option<Reported>) -> bool {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if *reported == now {
            return false;
        }
        *reported = now;
        self.put_together(now);
        true
    }

    /// Healthy is what both call so; what one calls down is down.
    fn put_together(&self, reported: Option<Reported>) {
        let own = self.own.load();
        let record = match (reported, own.state) {
            (None | Some(Reported::Healthy), _)
            | (Some(Reported::Starting), Availability::Down) => ProbeRecord::clone(&own),
            (Some(Reported::Starting), _) => ProbeRecord {
                state: Availability::Unknown,
                reason: Some("the container's health check has not passed yet".to_owned()),
                passes: 0,
                ..ProbeRecord::clone(&own)
            },
            (Some(Reported::Unhealthy), _) => ProbeRecord {
                state: Availability::Down,
                reason: Some("the container's health check fails".to_owned()),
                passes: 0,
                ..ProbeRecord::clone(&own)
            },
        };
        self.state.store(encode(record.state), Ordering::Relaxed);
        if record.state == Availability::Healthy {
            self.on_trial.store(false, Ordering::Relaxed);
        }
        self.probe.store(Arc::new(record));
    }

    /// What own probes found, whatever was reported.
    #[must_use]
    pub fn own_probe(&self) -> Arc<ProbeRecord> {
        self.own.load_full()
    }

    /// Counts one probe. Only `health` calls this.
    pub fn count_probe(&self, passed: bool) {
        self.probes.fetch_add(1, Ordering::Relaxed);
        self.failed_probes
            .fetch_add(u64::from(!passed), Ordering::Relaxed);
    }

    /// Probes so far, and those that failed.
    #[must_use]
    pub fn probes(&self) -> (u64, u64) {
        (
            self.probes.load(Ordering::Relaxed),
            self.failed_probes.load(Ordering::Relaxed),
        )
    }

    /// The newest finding: of the probes, and of the container's own health check.
    #[must_use]
    pub fn probe(&self) -> Arc<ProbeRecord> {
        self.probe.load_full()
    }

    /// What active probes and the container's own health check say.
    #[must_use]
    pub fn availability(&self) -> Availability {
        decode(self.state.load(Ordering::Relaxed))
    }

    /// Until when traffic avoids it, if it was ejected and the time is not over.
    #[must_use]
    pub fn ejected_for(&self, now: Instant) -> Option<Duration> {
        match self.ejected_until.load(Ordering::Relaxed) {
            0 => None,
            until => Duration::from_millis(until).checked_sub(since_epoch(now)),
        }
    }

    /// Whether a request may go here.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.is_held()
            && !self.is_on_trial()
            && self.availability() != Availability::Down
            && (self.ejected_until.load(Ordering::Relaxed) == 0
                || self.ejected_for(clock::now()).is_none())
    }

    /// Whether it is on trial and nothing speaks against it yet.
    #[must_use]
    pub fn could_be_tried(&self) -> bool {
        self.is_on_trial() && !self.is_held() && self.availability() != Availability::Down
    }

    /// Requests in flight here, over all pools of the slot.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts an outcome. True when the limits of `eject` are now reached; the caller then
    /// decides whether another upstream is left and calls [`Upstream::eject`].
    #[must_use]
    pub(super) fn record(&self, attempt: Attempt, eject: &Eject) -> bool {
        match attempt {
            Attempt::Answered => {
                // Read first: the line stays shared between cores while all goes well.
                if self.connect_failures.load(Ordering::Relaxed) != 0 {
                    self.connect_failures.store(0, Ordering::Relaxed);
                }
                if self.server_errors.load(Ordering::Relaxed) != 0 {
                    self.server_errors.store(0, Ordering::Relaxed);
                }
                if self.ejections.load(Ordering::Relaxed) != 0
                    && self.ejected_until.load(Ordering::Relaxed) == 0
                {
                    self.ejections.store(0, Ordering::Relaxed);
                }
                // The first good answer after an ejection ends it for good.
                if self.ejected_until.load(Ordering::Relaxed) != 0
                    && self.ejected_for(clock::now()).is_none()
                {
                    self.ejected_until.store(0, Ordering::Relaxed);
                }
                false
            }
            Attempt::ServerError => {
                self.connect_failures.store(0, Ordering::Relaxed);
                let seen = self.server_errors.fetch_add(1, Ordering::Relaxed) + 1;
                eject.server_errors != 0 && seen >= eject.server_errors
            }
            Attempt::ConnectFailed => {
                let seen = self.connect_failures.fetch_add(1, Ordering::Relaxed) + 1;
                eject.connect_failures != 0 && seen >= eject.connect_failures
            }
        }
    }

    /// Keeps traffic away for `base`, doubled for each ejection in a row, at most `max`.
    pub(super) fn eject(&self, now: Instant, eject: &Eject) -> Duration {
        let times = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
        let time = eject.base.saturating_mul(1 << times).min(eject.max);
        let until = (since_epoch(now) + time).as_millis();
        self.ejected_until.store(
            u64::try_from(until).unwrap_or(u64::MAX).max(1),
            Ordering::Relaxed,
        );
        self.connect_failures.store(0, Ordering::Relaxed);
        self.server_errors.store(0, Ordering::Relaxed);
        time
    }
}

/// One request on an upstream; lowers its count when dropped.
#[derive(Debug)]
pub struct UpstreamUse(Arc<Upstream>);

impl UpstreamUse {
    /// Counts one more request on `upstream`.
    #[must_use]
    pub fn begin(upstream: Arc<Upstream>) -> Self {
        upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(upstream)
    }

    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for UpstreamUse {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// FNV-1a, 64 bit: the same on every machine and in every version, as cookies need it.
pub(super) fn stable_hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    // A final mix (Stafford's variant 13): FNV alone leaves the high bits of short keys alike.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

const fn encode(state: Availability) -> u8 {
    match state {
        Availability::Unknown => 0,
        Availability::Healthy => 1,
        Availability::Down => 2,
    }
}

const fn decode(byte: u8) -> Availability {
    match byte {
        1 => Availability::Healthy,
        2 => Availability::Down,
        _ => Availability::Unknown,
    }
}

fn since_epoch(now: Instant) -> Duration {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    now.saturating_duration_since(*EPOCH.get_or_init(|| now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_must_call_an_upstream_healthy_and_one_can_call_it_down() {
        let target = Target::Socket(SocketAddr::from(([10, 0, 0, 1], 80)));
        let upstream = Upstream::new("10.0.0.1:80".parse().unwrap(), target);
        let probed = |state| ProbeRecord {
            state,
            passes: 2,
            ..ProbeRecord::clone(&upstream.own_probe())
        };
        use Availability::{Down, Healthy, Unknown};
        use Reported::{Starting, Unhealthy};
        for (own, reported, both) in [
            (Healthy, None, Healthy),
            (Healthy, Some(Reported::Healthy), Healthy),
            (Healthy, Some(Starting), Unknown),
            (Healthy, Some(Unhealthy), Down),
            (Unknown, Some(Reported::Healthy), Unknown),
            (Unknown, Some(Unhealthy), Down),
            (Down, Some(Reported::Healthy), Down),
            (Down, Some(Starting), Down),
        ] {
            upstream.set_probe(probed(own));
            upstream.report(reported);
            assert_eq!(upstream.availability(), both, "{own:?} {reported:?}");
            assert_eq!(upstream.probe().state, both);
            assert_eq!(upstream.own_probe().state, own);
            upstream.report(None);
            upstream.report(reported);
            upstream.set_probe(probed(own));
            assert_eq!(upstream.availability(), both, "in the other order");
        }
        assert!(!upstream.report(Some(Starting)), "nothing new");
    }
}
