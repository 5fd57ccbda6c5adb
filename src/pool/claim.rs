//! In-flight counts and the draining bit in one atomic word.
//!
//! One word, so that "no claim after drained" is a property of one type and needs no lock: a
//! claim is a compare-and-swap that fails when the draining bit is set, and the counts and the
//! bit are always read together. Three counts of 21 bits each (2,097,151 at most, far above any
//! descriptor limit) and the bit on top:
//!
//! ```text
//! 63        62…42     41…21      20…0
//! draining  sse       websocket  request
//! ```

use super::sync::{AtomicU64, Ordering};

const BITS: u32 = 21;
const MASK: u64 = (1 << BITS) - 1;
const DRAINING: u64 = 1 << 63;

/// Counts of what is in flight, by kind, and whether new claims are refused.
#[derive(Debug)]
pub struct ClaimWord(AtomicU64);

impl ClaimWord {
    /// Nothing in flight, open for claims.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more of the kind at `lane` (0–2). False, and nothing counted, when draining or
    /// when the lane is full.
    #[must_use]
    pub fn try_claim(&self, lane: usize) -> bool {
        let shift = shift(lane);
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & DRAINING != 0 || (word >> shift) & MASK == MASK {
                return false;
            }
            // Acquire on success pairs with the release in `release`: what an earlier holder
            // wrote is seen by the next one.
            match self.0.compare_exchange_weak(
                word,
                word + (1 << shift),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
    }

    /// Moves one held claim from one lane to another in a single step, draining or not: the sum
    /// never dips, so a drain can't end in between.
    pub fn reclassify(&self, from: usize, to: usize) {
        let delta = (1_u64 << shift(to)).wrapping_sub(1 << shift(from));
        self.0.fetch_add(delta, Ordering::Relaxed);
    }

    /// Gives one claim back. True when this was the last one of a draining pool.
    pub fn release(&self, lane: usize) -> bool {
        let one = 1 << shift(lane);
        let before = self.0.fetch_sub(one, Ordering::Release);
        before - one == DRAINING
    }

    /// Refuses every later claim. True when nothing was in flight at that moment.
    pub fn begin_drain(&self) -> bool {
        self.0.fetch_or(DRAINING, Ordering::AcqRel) & !DRAINING == 0
    }

    /// Whether claims are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed) & DRAINING != 0
    }

    /// Whether claims are refused and nothing is in flight. Once true, true for ever.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.0.load(Ordering::Acquire) == DRAINING
    }

    /// What is in flight, by lane, read in one load.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        let word = self.0.load(Ordering::Acquire);
        [0, 1, 2].map(|lane| (word >> shift(lane)) & MASK)
    }
}

impl Default for ClaimWord {
    fn default() -> Self {
        Self::new()
    }
}

fn shift(lane: usize) -> u32 {
    debug_assert!(lane < 3, "there are three lanes");
    lane as u32 * BITS
}
