//! What happened in the last 60 seconds: counts and latency quantiles, recorded without a lock.
//!
//! Time is cut into periods of 5 s. Every counter is a ring of 13 cells, one a period: the
//! current one and twelve whole ones before it. So a window reaches back 60 to 65 s: a sample
//! younger than 60 s always counts, one older than 65 s never does.
//!
//! **No rotation.** A ring usually needs somebody to clear the cell that becomes current, and
//! then a writer can add to a cell that is being cleared, or to one that has been reused since
//! it looked. Here each cell holds its own period next to its count, in one word. A writer
//! compares and swaps that word: same period, add one; older period, start anew at one; newer
//! period, the sample is at least 65 s late and belongs to no window any more. Whatever the
//! interleaving, a sample is counted once, in its own period, or is too old to be counted. A
//! reader adds up the cells whose period lies in the window, so nothing ever has to be cleared.
//!
//! **Memory.** An octave of latencies (64 buckets × 13 cells × 8 bytes = 6.5 KiB) is allocated
//! when the first sample falls into it. A service whose answers take 3 to 60 ms fills five of
//! them: 33 KiB a shard. Periods of 1 s would take five times that for a window that is no
//! longer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::buckets::{OCTAVES, SUBS, locate, middle};

/// The window that is promised; what is counted reaches back up to one [`PERIOD`] further.
pub(super) const LENGTH: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_secs(5);
const CELLS: usize = 13;

/// The last 60 (to 65) seconds of one color.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Requests that ended, WebSockets and event streams included.
    pub requests: u64,
    /// Those of them with a status of 500–599.
    pub errors_5xx: u64,
    /// How far back the window reaches: 60 to 65 s, less when counting began later.
    pub span: Duration,
    /// Bucket middles, ascending, each with the number of samples up to and with it.
    latencies: Vec<(Duration, u64)>,
}

impl Window {
    /// Requests a second. A window shorter than a second counts as one.
    #[must_use]
    pub fn rps(&self) -> f64 {
        self.requests as f64 / self.span.as_secs_f64().max(1.0)
    }

    /// Share of answers with a status of 500–599, from 0 to 1; 0 without requests.
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        self.errors_5xx as f64 / self.requests.max(1) as f64
    }

    /// Number of requests whose duration was recorded (not WebSockets or event streams).
    #[must_use]
    pub fn timed(&self) -> u64 {
        self.latencies.last().map_or(0, |(_, count)| *count)
    }

    /// The duration that a share `q` (0 to 1) of the requests did not exceed, by nearest rank,
    /// within 0.8 % for durations from 1 µs to 73 min. `None` for an empty window.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        // The subtrahend keeps a product such as 0.07 × 100 from rounding up to the next rank.
        let rank = (q.clamp(0.0, 1.0) * self.timed() as f64 - 1e-6)
            .ceil()
            .max(1.0) as u64;
        let at = self.latencies.partition_point(|(_, count)| *count < rank);
        self.latencies.get(at).map(|(duration, _)| *duration)
    }

    /// The median.
    #[must_use]
    pub fn p50(&self) -> Option<Duration> {
        self.quantile(0.5)
    }

    /// Nine in ten were not slower.
    #[must_use]
    pub fn p90(&self) -> Option<Duration> {
        self.quantile(0.9)
    }

    /// 99 in 100 were not slower.
    #[must_use]
    pub fn p99(&self) -> Option<Duration> {
        self.quantile(0.99)
    }

    /// 999 in 1,000 were not slower.
    #[must_use]
    pub fn p999(&self) -> Option<Duration> {
        self.quantile(0.999)
    }

    /// Adds up what several shards recorded, as seen at `now`.
    pub(super) fn collect(timeline: Timeline, now: Instant, shards: &[&Sliding]) -> Self {
        let period = timeline.period(now);
        let oldest = Period(period.0 - (CELLS as u32 - 1));
        let ring = |pick: fn(&Sliding) -> &Ring| -> u64 {
            let cells = shards.iter().flat_map(|shard| &pick(shard).0);
            cells.map(|cell| cell.since(oldest)).sum()
        };
        let mut latencies = Vec::new();
        let mut below = 0;
        for octave in 0..OCTAVES {
            let mut counts = [0_u64; SUBS];
            for cells in shards.iter().filter_map(|s| s.octaves[octave].get()) {
                for (at, cell) in cells.iter().enumerate() {
                    counts[at % SUBS] += cell.since(oldest);
                }
            }
            for (sub, count) in counts.into_iter().enumerate().filter(|(_, n)| *n > 0) {
                below += count;
                latencies.push((middle(octave, sub), below));
            }
        }
        Self {
            requests: ring(|shard| &shard.requests),
            errors_5xx: ring(|shard| &shard.errors_5xx),
            span: timeline.span(now),
            latencies,
        }
    }
}

/// Turns instants into periods.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    origin: Instant,
}

/// Number of a period. Starts above [`CELLS`], so that zero is "never" and the oldest period of
/// a window is never below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Period(u32);

impl Timeline {
    /// Periods are counted from `origin`; what lies before belongs to the first one.
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin }
    }

    /// The period of `at`.
    pub(super) fn period(self, at: Instant) -> Period {
        let past = at.saturating_duration_since(self.origin).as_secs() / PERIOD.as_secs();
        Period(u32::try_from(past + CELLS as u64).unwrap_or(u32::MAX))
    }

    /// How far back a window seen at `now` reaches.
    fn span(self, now: Instant) -> Duration {
        let past = now.saturating_duration_since(self.origin);
        let into_period = Duration::from_nanos((past.as_nanos() % PERIOD.as_nanos()) as u64);
        past.min(LENGTH + into_period)
    }
}

/// The sliding counters of one shard.
#[derive(Debug, Default)]
pub(super) struct Sliding {
    requests: Ring,
    errors_5xx: Ring,
    octaves: [OnceLock<Box<[Cell]>>; OCTAVES],
}

impl Sliding {
    /// Counts one request. Returns how many this shard has counted in the current period.
    pub(super) fn request(&self, period: Period, is_5xx: bool) -> u32 {
        if is_5xx {
            self.errors_5xx.add(period);
        }
        self.requests.add(period)
    }

    /// Counts one duration.
    pub(super) fn latency(&self, period: Period, nanos: u64) {
        let (octave, sub) = locate(nanos);
        let cells = self.octaves[octave]
            .get_or_init(|| (0..SUBS * CELLS).map(|_| Cell::default()).collect());
        cells[period.cell() * SUBS + sub].add(period);
    }
}

impl Period {
    fn cell(self) -> usize {
        self.0 as usize % CELLS
    }
}

#[derive(Debug, Default)]
struct Ring([Cell; CELLS]);

impl Ring {
    fn add(&self, period: Period) -> u32 {
        self.0[period.cell()].add(period)
    }
}

/// A count and the period it belongs to, in one word: the upper and the lower half.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    /// Adds one. Returns the period's count after it, 0 if the cell already serves a newer one.
    /// A count stops at `u32::MAX`.
    fn add(&self, period: Period) -> u32 {
        let mut seen = self.0.load(Relaxed);
        loop {
            let (held, count) = Self::unpack(seen);
            if held > period {
                return 0;
            }
            let count = if held == period {
                count.saturating_add(1)
            } else {
                1
            };
            let next = u64::from(period.0) << 32 | u64::from(count);
            match self.0.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return count,
                Err(now) => seen = now,
            }
        }
    }

    /// The count, if it is of `oldest` or newer. Newer than the reader's own period counts too:
    /// the writer read its clock a moment later.
    fn since(&self, oldest: Period) -> u64 {
        let (held, count) = Self::unpack(self.0.load(Relaxed));
        if held >= oldest { u64::from(count) } else { 0 }
    }

    fn unpack(word: u64) -> (Period, u32) {
        (Period((word >> 32) as u32), word as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_sample_never_touches_a_cell_of_a_newer_period() {
        let cell = Cell::default();
        cell.add(Period(26));
        cell.add(Period(26));
        assert_eq!(cell.add(Period(13)), 0);
        assert_eq!(cell.since(Period(26)), 2);
        assert_eq!(cell.since(Period(14)), 2);
    }

    #[test]
    fn a_reused_cell_starts_anew() {
        let cell = Cell::default();
        cell.add(Period(13));
        cell.add(Period(13));
        assert_eq!(cell.add(Period(26)), 1);
        assert_eq!(cell.since(Period(14)), 1);
        assert_eq!(cell.since(Period(27)), 0);
    }

    #[test]
    fn a_full_cell_stays_full_and_keeps_its_period() {
        let cell = Cell(AtomicU64::new(13 << 32 | u64::from(u32::MAX)));
        assert_eq!(cell.add(Period(13)), u32::MAX);
        assert_eq!(cell.since(Period(13)), u64::from(u32::MAX));
        assert_eq!(cell.since(Period(14)), 0);
    }
}
