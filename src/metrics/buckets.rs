//! Log-linear buckets: every power of two of nanoseconds is cut into 64 equal parts.
//!
//! The middle of a bucket is at most half its width from any value inside, and its width is at
//! most 1/64 of its lower bound, so an estimate is off by at most 1/128 < 0.8 %. Finding the
//! bucket takes a count of leading zeros and a shift: no logarithm on the request path.
//!
//! The range is 2^10 ns (1.024 µs, faster than a request through a proxy can be) to 2^42 ns
//! (73 minutes, beyond the longest timeout). Values outside count in the first or last bucket.

use std::time::Duration;

/// Buckets in one octave.
pub(super) const SUBS: usize = 1 << SUB_BITS;
/// Octaves covered.
pub(super) const OCTAVES: usize = (MAX_BITS - MIN_BITS) as usize;

const SUB_BITS: u32 = 6;
const MIN_BITS: u32 = 10;
const MAX_BITS: u32 = 42;

/// A duration in nanoseconds, clamped to 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The octave of a duration and its place inside, both from zero.
pub(super) fn locate(nanos: u64) -> (usize, usize) {
    let nanos = nanos.clamp(1 << MIN_BITS, (1 << MAX_BITS) - 1);
    let top = nanos.ilog2();
    let sub = (nanos >> (top - SUB_BITS)) as usize & (SUBS - 1);
    ((top - MIN_BITS) as usize, sub)
}

/// The middle of a bucket.
pub(super) fn middle(octave: usize, sub: usize) -> Duration {
    let width = 1_u64 << (octave + (MIN_BITS - SUB_BITS) as usize);
    Duration::from_nanos((SUBS + sub) as u64 * width + width / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_outside_the_range_count_at_its_ends() {
        assert_eq!(locate(0), (0, 0));
        assert_eq!(locate(1023), (0, 0));
        assert_eq!(locate(u64::MAX), (OCTAVES - 1, SUBS - 1));
    }

    proptest! {
        #[test]
        fn the_middle_is_within_one_part_in_128(exponent in 10.0..42.0_f64) {
            let value = (exponent.exp2() as u64).clamp(1 << MIN_BITS, (1 << MAX_BITS) - 1);
            let (octave, sub) = locate(value);
            let estimate = nanos(middle(octave, sub));
            let error = estimate.abs_diff(value) as f64 / value as f64;
            prop_assert!(error <= 1.0 / 128.0, "{value} -> {estimate}");
        }

        #[test]
        fn a_larger_value_is_never_in_a_lower_bucket(
            exponent in 9.0..43.0_f64,
            growth in 1.0..1.1_f64,
        ) {
            let low = exponent.exp2();
            prop_assert!(locate(low as u64) <= locate((low * growth) as u64));
        }
    }
}
