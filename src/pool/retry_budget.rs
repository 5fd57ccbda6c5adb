//! How many attempts a slot may add to those that its requests are.
//!
//! A token bucket: a share of the requests fills it, and a few tokens a second whatever comes; each
//! further attempt takes one. When everything fails, the upstreams get that share more and no
//! multiple. Nothing is counted on the way of a request: the number of requests so far is asked for
//! when somebody wants to try again, so that what never fails costs nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::RetryBudget as Rules;

/// Tokens are counted in thousandths.
const TOKEN: u64 = 1_000;

/// Seconds for which tokens of the floor are saved up.
const SAVED: u64 = 10;

/// The bucket of one slot. It begins full.
#[derive(Debug, Default)]
pub(super) struct RetryBudget(Mutex<Option<Bucket>>);

#[derive(Debug)]
struct Bucket {
    tokens: u64,
    filled: Instant,
    /// Requests that filled it so far.
    requests: u64,
}

impl RetryBudget {
    /// Takes a token for one further attempt. `requests` is how many the slot had so far.
    pub(super) fn withdraw(&self, now: Instant, requests: u64, rules: &Rules) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = capacity(rules);
        let bucket = bucket.get_or_insert(Bucket {
            tokens: full,
            filled: now,
            requests,
        });
        let passed = now.saturating_duration_since(bucket.filled);
        let came = requests.saturating_sub(bucket.requests);
        let new = by_time(passed, rules).saturating_add(by_requests(came, rules));
        // What is less than a thousandth is kept for the next time.
        if new > 0 {
            bucket.filled = now;
            bucket.requests = requests;
        }
        bucket.tokens = bucket.tokens.saturating_add(new).min(full);
        match bucket.tokens.checked_sub(TOKEN) {
            Some(left) => {
                bucket.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// Without a floor a share still needs a place to gather.
fn capacity(rules: &Rules) -> u64 {
    match (rules.per_second, rules.share > 0.0) {
        (0, false) => 0,
        (floor, _) => (u64::from(floor) * SAVED).max(SAVED) * TOKEN,
    }
}

fn by_time(passed: Duration, rules: &Rules) -> u64 {
    let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
    millis.saturating_mul(u64::from(rules.per_second))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of 0 to 1; far below 2^53"
)]
fn by_requests(came: u64, rules: &Rules) -> u64 {
    (came as f64 * rules.share * TOKEN as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn taken(budget: &RetryBudget, now: Instant, requests: u64, rules: &Rules) -> usize {
        (0..10_000)
            .take_while(|_| budget.withdraw(now, requests, rules))
            .count()
    }

    #[test]
    fn a_full_outage_adds_a_share_of_the_requests_and_the_floor() {
        let (start, rules) = (clock::now(), Rules::default());
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget, start, 0, &rules), 100, "ten seconds saved");
        // A minute at 1,000 requests a second that all fail and all want another attempt.
        let (mut added, mut requests) = (0, 0);
        for tick in 1..=6_000_u32 {
            requests += 10;
            let now = start + Duration::from_millis(10) * tick;
            added += (0..10)
                .filter(|_| budget.withdraw(now, requests, &rules))
                .count();
        }
        assert_eq!(added, 60_000 / 5 + 60 * 10);
    }

    #[test]
    fn a_quiet_slot_saves_up_ten_seconds_and_no_more() {
        let (start, rules) = (clock::now(), Rules::default());
        let budget = RetryBudget::default();
        taken(&budget, start, 0, &rules);
        let second = start + Duration::from_secs(1);
        assert_eq!(taken(&budget, second, 0, &rules), 10);
        let hour = start + Duration::from_secs(3600);
        assert_eq!(taken(&budget, hour, 1_000_000, &rules), 100);
    }

    #[test]
    fn a_budget_of_nothing_gives_nothing_and_a_share_alone_gives_that() {
        let now = clock::now();
        let nothing = Rules {
            share: 0.0,
            per_second: 0,
        };
        assert!(!RetryBudget::default().withdraw(now, 1_000, &nothing));
        let share = Rules {
            share: 0.1,
            per_second: 0,
        };
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget, now, 0, &share), 10);
        assert_eq!(taken(&budget, now, 50, &share), 5);
        // Requests one by one add up to the same.
        let one_by_one = (51..=100).filter(|n| budget.withdraw(now, *n, &share));
        assert_eq!(one_by_one.count(), 5);
        // Less than a thousandth each is not lost.
        let tiny = Rules {
            share: 0.0005,
            per_second: 0,
        };
        let budget = RetryBudget::default();
        taken(&budget, now, 0, &tiny);
        let granted = (1..=4_000).filter(|n| budget.withdraw(now, *n, &tiny));
        assert_eq!(granted.count(), 2);
    }
}
