//! Keeps the addresses of upstream names fresh.
//!
//! Each name is looked up again when its records expire, at the latest after 30 s and at the
//! earliest after 1 s. A failed look-up keeps the last good addresses and is tried again with a
//! growing pause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::addresses::Addresses;
use crate::clock;
use crate::config::{Config, Service};
use crate::http::Resolver;
use crate::model::Endpoint;

/// Pause after the first failed look-up; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two look-ups of a name that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Longest wait for the first look-ups of a start or reload; later answers are applied when
/// they come.
const FIRST_LOOKUPS: Duration = Duration::from_secs(2);

/// Every name among the upstreams of a configuration.
pub(super) fn names(config: &Config) -> BTreeSet<Arc<str>> {
    config.services.iter().flat_map(names_of).collect()
}

/// The names among the upstreams of one service.
pub(super) fn names_of(service: &Service) -> BTreeSet<Arc<str>> {
    let upstreams = service
        .slots
        .iter()
        .flatten()
        .flat_map(|slot| &slot.upstreams);
    upstreams
        .filter_map(|upstream| match upstream.endpoint() {
            Endpoint::Name { host, .. } => Some(Arc::clone(host)),
            Endpoint::Socket(_) | Endpoint::Unix(_) => None,
        })
        .collect()
}

/// Looks up the names of a configuration that were never looked up, so that a start does not
/// answer 503 for want of an address. Gives up waiting after two seconds.
pub(super) async fn first_lookups(config: &Config, resolver: &Resolver, addresses: &Addresses) {
    let new = names(config)
        .into_iter()
        .filter(|name| !addresses.knows(name));
    let lookups = new.map(|name| async move {
        match resolver.lookup(&name).await {
            Ok(found) => {
                addresses.learn(&name, found.addrs);
            }
            Err(error) => warn!(name = %name, %error, "upstream name does not resolve"),
        }
    });
    let _ = tokio::time::timeout(FIRST_LOOKUPS, futures_join(lookups)).await;
}

async fn futures_join<F: Future<Output = ()>>(all: impl Iterator<Item = F>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|lookup| lookup.as_mut().poll(cx).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// When each name is due, and how it fared.
#[derive(Debug, Default)]
pub(super) struct Schedule(BTreeMap<Arc<str>, Due>);

#[derive(Debug)]
struct Due {
    at: Instant,
    failures: u32,
}

impl Schedule {
    /// Follows exactly `names` from now on.
    pub(super) fn follow(&mut self, names: BTreeSet<Arc<str>>, now: Instant) {
        self.0.retain(|name, _| names.contains(name));
        for name in names {
            self.0.entry(name).or_insert(Due {
                at: now,
                failures: 0,
            });
        }
    }

    /// The next name that is due at all, and when.
    fn next(&self) -> Option<(Arc<str>, Instant)> {
        let (name, due) = self.0.iter().min_by_key(|(_, due)| due.at)?;
        Some((Arc::clone(name), due.at))
    }

    fn answered(&mut self, name: &str, at: Instant) {
        if let Some(due) = self.0.get_mut(name) {
            *due = Due { at, failures: 0 };
        }
    }

    /// Plans the next try; true for the first failure in a row.
    fn failed(&mut self, name: &str, now: Instant) -> bool {
        let Some(due) = self.0.get_mut(name) else {
            return false;
        };
        let pause = FIRST_PAUSE
            .saturating_mul(1 << due.failures.min(8))
            .min(LONGEST_PAUSE);
        due.at = now + pause;
        due.failures += 1;
        due.failures == 1
    }
}

/// Looks names up for ever. `changed` is called after an answer that differs from the last one;
/// `follow` delivers the names of a new configuration.
pub(super) async fn keep_fresh(
    resolver: Arc<Resolver>,
    addresses: Arc<Addresses>,
    mut follow: tokio::sync::watch::Receiver<BTreeSet<Arc<str>>>,
    changed: impl Fn(),
) {
    let mut schedule = Schedule::default();
    loop {
        let names = follow.borrow_and_update().clone();
        schedule.follow(names, clock::now());
        let Some((name, at)) = schedule.next() else {
            if follow.changed().await.is_err() {
                return;
            }
            continue;
        };
        let wait = at.saturating_duration_since(clock::now());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            news = follow.changed() => match news {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        match resolver.lookup(&name).await {
            Ok(found) => {
                schedule.answered(&name, clock::now() + found.ttl);
                if addresses.learn(&name, found.addrs.clone()) {
                    info!(name = %name, addresses = ?found.addrs, "upstream name has new addresses");
                    changed();
                }
            }
            Err(error) => {
                if schedule.failed(&name, clock::now()) {
                    warn!(name = %name, %error, "upstream name does not resolve, last addresses kept");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_name_is_tried_with_growing_pauses_and_a_good_one_when_it_expires() {
        let start = clock::now();
        let mut schedule = Schedule::default();
        let name: Arc<str> = "app".into();
        schedule.follow([Arc::clone(&name)].into(), start);
        assert_eq!(schedule.next(), Some((Arc::clone(&name), start)));
        let pauses: Vec<u64> = (0..6)
            .map(|_| {
                schedule.failed("app", start);
                schedule.next().map_or(0, |(_, at)| (at - start).as_secs())
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15]);
        schedule.answered("app", start + Duration::from_secs(7));
        assert_eq!(
            schedule.next().map(|(_, at)| at - start),
            Some(Duration::from_secs(7))
        );
        assert!(
            schedule.failed("app", start),
            "the count of failures began anew"
        );
        schedule.follow(BTreeSet::new(), start);
        assert_eq!(schedule.next(), None);
    }
}
