//! What a CA's published limits leave over. Pure.
//!
//! Let's Encrypt counts with token buckets (its own page says so), therefore this does: the
//! generic cell rate algorithm (ITU-T I.371), which needs one timestamp for each bucket. The
//! buckets are part of the journal, so a restart does not forget what was spent.
//!
//! This is what *this* account spent. Other machines with the same domain are not known here;
//! the CA's own `rateLimited` (RFC 8555 §6.6) is what tells of them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::names::NameSet;

/// So many events in a period, refilled evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Size of the bucket.
    pub count: u32,
    /// Time in which an empty bucket is full again.
    pub period: Duration,
}

/// The limits of one CA that a client can run into by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// New orders of one account.
    pub orders: Rate,
    /// Certificates for exactly the same set of names.
    pub duplicates: Rate,
    /// New certificates for one registered domain; renewals of the same set do not count.
    pub domain: Rate,
    /// Failed authorizations of one name and account.
    pub failures: Rate,
}

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Let's Encrypt's production limits, <https://letsencrypt.org/docs/rate-limits/>.
pub const LETS_ENCRYPT: Published = Published {
    orders: rate(300, Duration::from_secs(3 * 3600)),
    duplicates: rate(5, WEEK),
    domain: rate(50, WEEK),
    failures: rate(5, HOUR),
};

const fn rate(count: u32, period: Duration) -> Rate {
    Rate { count, period }
}

/// The buckets of one CA, by what they count. A bucket is the time at which it will be full
/// again; a bucket that is not there is full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Buckets(BTreeMap<String, SystemTime>);

impl Buckets {
    /// When an order for `names` may be sent: `now`, or later.
    pub(super) fn allowed_at(
        &self,
        limits: &Published,
        names: &NameSet,
        renewal: bool,
        now: SystemTime,
    ) -> SystemTime {
        spent_by_order(limits, names, renewal)
            .into_iter()
            .chain(names.names().iter().map(|name| failure(limits, name)))
            .map(|(key, rate)| self.free_at(&key, rate, now))
            .fold(now, SystemTime::max)
    }

    /// An order is sent.
    pub(super) fn order(
        &mut self,
        limits: &Published,
        names: &NameSet,
        renewal: bool,
        now: SystemTime,
    ) {
        for (key, rate) in spent_by_order(limits, names, renewal) {
            self.take(key, rate, now);
        }
        self.0.retain(|_, full| *full > now);
    }

    /// No certificate came of an order: the limits on certificates did not count it. The one
    /// on orders did, or may have.
    pub(super) fn refund(&mut self, limits: &Published, names: &NameSet, renewal: bool) {
        for (key, rate) in spent_by_order(limits, names, renewal) {
            if key != ORDERS
                && let Some(full) = self.0.get_mut(&key)
            {
                *full -= rate.period / rate.count;
            }
        }
    }

    /// The CA could not validate the names of an order.
    pub(super) fn failed(&mut self, limits: &Published, names: &NameSet, now: SystemTime) {
        for name in names.names() {
            let (key, rate) = failure(limits, name);
            self.take(key, rate, now);
        }
    }

    fn free_at(&self, key: &str, rate: Rate, now: SystemTime) -> SystemTime {
        let full = self.full_at(key, rate, now);
        // One token is there when at most `count - 1` are missing.
        (full + rate.period / rate.count)
            .checked_sub(rate.period)
            .map_or(now, |free| free.max(now))
    }

    fn take(&mut self, key: String, rate: Rate, now: SystemTime) {
        let full = self.full_at(&key, rate, now) + rate.period / rate.count;
        self.0.insert(key, full);
    }

    /// Later than a whole period from now, the clock was wrong when it was written.
    fn full_at(&self, key: &str, rate: Rate, now: SystemTime) -> SystemTime {
        let full = self.0.get(key).copied().unwrap_or(now);
        full.clamp(now, now + rate.period)
    }
}

fn spent_by_order(limits: &Published, names: &NameSet, renewal: bool) -> Vec<(String, Rate)> {
    let mut spent = vec![
        (ORDERS.to_owned(), limits.orders),
        (format!("set {}", names.folder()), limits.duplicates),
    ];
    if !renewal {
        let mut domains: Vec<_> = names.names().iter().map(|name| registered(name)).collect();
        domains.dedup();
        spent.extend(
            domains
                .into_iter()
                .map(|domain| (format!("domain {domain}"), limits.domain)),
        );
    }
    spent
}

const ORDERS: &str = "orders";

fn failure(limits: &Published, name: &str) -> (String, Rate) {
    (format!("failures {name}"), limits.failures)
}

/// The registered domain of `name`, by its shape rather than by the public suffix list: two
/// labels, three where a country's second level is short (`example.co.uk`). A wrong guess
/// either counts two domains as one, which waits too long with more than 50 new certificates a
/// week, or one as two, and then the CA's own answer decides. The list itself is MPL-2.0, which
/// deny.toml does not let in.
fn registered(name: &str) -> &str {
    let labels: Vec<&str> = name.rsplit('.').collect();
    let depth = match labels.as_slice() {
        [top, second, _, ..] if top.len() == 2 && second.len() <= 3 => 3,
        _ => 2,
    };
    let length: usize = labels.iter().take(depth).map(|label| label.len() + 1).sum();
    &name[name.len().saturating_sub(length.saturating_sub(1))..]
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1_800_000_000);

    fn set(name: &str) -> NameSet {
        NameSet::new([name]).expect("a name")
    }

    #[test]
    fn a_registered_domain_is_two_labels_or_three_under_a_country() {
        for (name, domain) in [
            ("www.shop.example.com", "example.com"),
            ("example.com", "example.com"),
            ("www.example.co.uk", "example.co.uk"),
            ("www.example.de", "example.de"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(registered(name), domain, "{name}");
        }
    }

    #[test]
    fn a_sixth_certificate_for_one_set_waits_for_a_token() {
        let (names, now) = (set("a.example"), UNIX_EPOCH + START);
        let mut buckets = Buckets::default();
        for n in 0..5 {
            let at = buckets.allowed_at(&LETS_ENCRYPT, &names, true, now);
            assert_eq!(at, now, "order {n}");
            buckets.order(&LETS_ENCRYPT, &names, true, now);
        }
        let at = buckets.allowed_at(&LETS_ENCRYPT, &names, true, now);
        assert_eq!(at, now + WEEK / 5);
        let other = set("b.example");
        assert_eq!(buckets.allowed_at(&LETS_ENCRYPT, &other, false, now), now);
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_lock_for_years() {
        let (names, now) = (set("a.example"), UNIX_EPOCH + START);
        let mut buckets = Buckets::default();
        for _ in 0..5 {
            buckets.order(&LETS_ENCRYPT, &names, true, now + WEEK * 500);
        }
        let at = buckets.allowed_at(&LETS_ENCRYPT, &names, true, now);
        assert!(at <= now + WEEK / 5);
    }

    proptest! {
        /// Whoever asks first never exceeds bucket size plus refill, whatever the gaps are.
        #[test]
        fn no_window_holds_more_than_bucket_and_refill(gaps in proptest::collection::vec(0_u64..90_000, 1..60)) {
            let (names, mut now) = (set("a.example"), UNIX_EPOCH + START);
            let mut buckets = Buckets::default();
            let mut sent = Vec::new();
            for gap in gaps {
                now += Duration::from_secs(gap);
                if buckets.allowed_at(&LETS_ENCRYPT, &names, true, now) <= now {
                    buckets.order(&LETS_ENCRYPT, &names, true, now);
                    sent.push(now);
                }
            }
            for (n, first) in sent.iter().enumerate() {
                let within = sent[n..].iter().filter(|at| **at < *first + WEEK).count();
                prop_assert!(within <= 10, "{within} in one week");
            }
        }
    }
}
