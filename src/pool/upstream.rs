//! One address that requests can go to, and whether they may.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
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
    /// Not probed yet: takes live traffic, passes no gate.
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
    state: AtomicU8,
    probe: ArcSwap<ProbeRecord>,
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
        let label: Arc<str> = configured.to_string().into();
        let shown = match (configured.endpoint(), &target) {
            (Endpoint::Name { .. }, Target::Socket(addr)) => format!("{label} ({addr})").into(),
            _ => Arc::clone(&label),
        };
        let id = stable_hash(&[label.as_bytes(), target.to_string().as_bytes()]);
        Self {
            configured,
            target,
            label,
            shown,
            id,
            state: AtomicU8::new(encode(Availability::Unknown)),
            probe: ArcSwap::from_pointee(ProbeRecord {
                state: Availability::Unknown,
                reason: None,
                latency: None,
                at: None,
                passes: 0,
            }),
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

    /// Stores what `health` found. Only `health` calls this.
    pub fn set_probe(&self, record: ProbeRecord) {
        self.state.store(encode(record.state), Ordering::Relaxed);
        self.probe.store(Arc::new(record));
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

    /// The newest probe finding.
    #[must_use]
    pub fn probe(&self) -> Arc<ProbeRecord> {
        self.probe.load_full()
    }

    /// What active probes say.
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
        self.availability() != Availability::Down
            && (self.ejected_until.load(Ordering::Relaxed) == 0
                || self.ejected_for(clock::now()).is_none())
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
