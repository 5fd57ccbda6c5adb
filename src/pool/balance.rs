//! Chooses one upstream of a slot.
//!
//! Only available upstreams are chosen, and those that did not yet fail this request before
//! those that did. When every upstream that probes do not call down is ejected, ejection is
//! ignored: it must never take the last one. The same goes for one that came to others and was not
//! found healthy yet. When all are down there is none to choose; one that a deploy holds back never is.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::upstream::{Availability, Upstream, UpstreamUse, stable_hash};
use crate::config::Balance;

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Affinity<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// Value of the header that `balance = "header:NAME"` names.
    pub header: Option<&'a [u8]>,
    /// Upstream that the client's cookie names.
    pub cookie: Option<u64>,
}

/// A chosen upstream.
#[derive(Debug)]
pub struct Picked {
    /// Counts the request on it until dropped.
    pub upstream: UpstreamUse,
    /// Whether the answer should set the cookie that leads back here.
    pub set_cookie: bool,
}

/// The slot has no upstream that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUpstream {
    /// The slot is empty, or no name of it could be looked up yet.
    #[error("no upstream is known")]
    Empty,
    /// All of them are down.
    #[error("every upstream is down")]
    AllDown,
}

pub(super) fn pick(
    balance: &Balance,
    upstreams: &[Arc<Upstream>],
    turn: &AtomicUsize,
    affinity: &Affinity<'_>,
    tried: &[u64],
) -> Result<Picked, NoUpstream> {
    if upstreams.is_empty() {
        return Err(NoUpstream::Empty);
    }
    // From what is wanted to what is still allowed; the first that finds one wins.
    let fresh = |u: &Upstream| u.is_available() && !tried.contains(&u.id());
    // One that is new is better than the same one again.
    let untried = |u: &Upstream| u.could_be_tried() && !tried.contains(&u.id());
    let available = |u: &Upstream| u.is_available();
    let not_down = |u: &Upstream| !u.is_held() && u.availability() != Availability::Down;
    choose(balance, upstreams, turn, affinity, &fresh)
        .or_else(|| choose(balance, upstreams, turn, affinity, &untried))
        .or_else(|| choose(balance, upstreams, turn, affinity, &available))
        .or_else(|| choose(balance, upstreams, turn, affinity, &not_down))
        .ok_or(NoUpstream::AllDown)
}

fn choose(
    balance: &Balance,
    upstreams: &[Arc<Upstream>],
    turn: &AtomicUsize,
    affinity: &Affinity<'_>,
    usable: &dyn Fn(&Upstream) -> bool,
) -> Option<Picked> {
    let mut set_cookie = false;
    let chosen = match balance {
        Balance::LeastConn => least_busy_of_two(upstreams, usable),
        Balance::RoundRobin => {
            // One of the usable in turn: a dead neighbour's share is spread over all others.
            let count = upstreams.iter().filter(|u| usable(u)).count();
            let place = turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
            upstreams.iter().filter(|u| usable(u)).nth(place)
        }
        Balance::Random => by_chance(upstreams, usable),
        Balance::First => upstreams.iter().find(|u| usable(u)),
        Balance::IpHash => match &affinity.client.to_canonical() {
            IpAddr::V4(ip) => rendezvous(upstreams, usable, &ip.octets()),
            IpAddr::V6(ip) => rendezvous(upstreams, usable, &ip.octets()),
        },
        Balance::Header(_) => match affinity.header {
            Some(value) => rendezvous(upstreams, usable, value),
            None => by_chance(upstreams, usable),
        },
        Balance::Cookie => {
            let kept = affinity
                .cookie
                .and_then(|id| upstreams.iter().find(|u| u.id() == id && usable(u)));
            set_cookie = kept.is_none();
            kept.or_else(|| least_busy_of_two(upstreams, usable))
        }
    };
    chosen.map(|upstream| Picked {
        upstream: UpstreamUse::begin(Arc::clone(upstream)),
        set_cookie,
    })
}

/// Power of two choices (Mitzenmacher, 2001): nearly as even as asking all, without a herd.
fn least_busy_of_two<'a>(
    upstreams: &'a [Arc<Upstream>],
    usable: &dyn Fn(&Upstream) -> bool,
) -> Option<&'a Arc<Upstream>> {
    if let [only] = upstreams {
        return usable(only).then_some(only);
    }
    let first = by_chance(upstreams, usable)?;
    let other = |u: &Upstream| u.id() != first.id() && usable(u);
    match by_chance(upstreams, &other) {
        Some(second) if second.in_flight() < first.in_flight() => Some(second),
        _ => Some(first),
    }
}

fn by_chance<'a>(
    upstreams: &'a [Arc<Upstream>],
    usable: &dyn Fn(&Upstream) -> bool,
) -> Option<&'a Arc<Upstream>> {
    if let [only] = upstreams {
        return usable(only).then_some(only);
    }
    let count = upstreams.iter().filter(|u| usable(u)).count();
    if count == 0 {
        return None;
    }
    // Availability may change between the two walks; then the first usable one will do.
    let place = fastrand::usize(..count);
    let mut usable = upstreams.iter().filter(|u| usable(u));
    let mut chosen = usable.next()?;
    for _ in 0..place {
        chosen = usable.next().unwrap_or(chosen);
    }
    Some(chosen)
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): an upstream that comes or goes moves only
/// its own share of keys.
fn rendezvous<'a>(
    upstreams: &'a [Arc<Upstream>],
    usable: &dyn Fn(&Upstream) -> bool,
    key: &[u8],
) -> Option<&'a Arc<Upstream>> {
    upstreams
        .iter()
        .filter(|u| usable(u))
        .max_by_key(|u| stable_hash(&[key, &u.id().to_le_bytes()]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::pool::upstream::{ProbeRecord, Target};

    fn upstreams(n: u16) -> Vec<Arc<Upstream>> {
        (0..n)
            .map(|i| {
                let addr = format!("127.0.0.1:{}", 3000 + i);
                let target = Target::Socket(addr.parse().unwrap());
                Arc::new(Upstream::new(addr.parse().unwrap(), target))
            })
            .collect()
    }

    fn down(upstream: &Upstream) {
        upstream.set_probe(ProbeRecord {
            state: Availability::Down,
            reason: Some("refused".to_owned()),
            latency: None,
            at: None,
            passes: 0,
        });
    }

    fn from(last: u8) -> Affinity<'static> {
        Affinity {
            client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
            header: None,
            cookie: None,
        }
    }

    fn picked(balance: &Balance, ups: &[Arc<Upstream>], affinity: &Affinity<'_>) -> u64 {
        let turn = AtomicUsize::new(0);
        let picked = pick(balance, ups, &turn, affinity, &[]).expect("one is usable");
        picked.upstream.upstream().id()
    }

    #[test]
    fn least_conn_never_takes_the_busier_of_two() {
        let ups = upstreams(2);
        let _busy = UpstreamUse::begin(Arc::clone(&ups[0]));
        for _ in 0..100 {
            assert_eq!(picked(&Balance::LeastConn, &ups, &from(1)), ups[1].id());
        }
    }

    #[test]
    fn round_robin_skips_the_dead_and_stays_even() {
        let ups = upstreams(3);
        down(&ups[1]);
        let turn = AtomicUsize::new(0);
        let mut counts: HashMap<u64, u32> = HashMap::new();
        for _ in 0..100 {
            let picked = pick(&Balance::RoundRobin, &ups, &turn, &from(1), &[]).unwrap();
            *counts.entry(picked.upstream.upstream().id()).or_default() += 1;
        }
        assert_eq!(counts.get(&ups[0].id()), Some(&50));
        assert_eq!(counts.get(&ups[2].id()), Some(&50));
    }

    #[test]
    fn a_lost_upstream_moves_only_its_own_clients() {
        let ups = upstreams(4);
        let before: Vec<u64> = (0..200)
            .map(|i| picked(&Balance::IpHash, &ups, &from(i)))
            .collect();
        let lost = ups[2].id();
        down(&ups[2]);
        for (i, was) in before.iter().enumerate() {
            let now = picked(&Balance::IpHash, &ups, &from(i as u8));
            assert_ne!(now, lost);
            if *was != lost {
                assert_eq!(now, *was);
            }
        }
        let shares = before.iter().filter(|id| **id == lost).count();
        assert!(
            (20..=80).contains(&shares),
            "a quarter of 200, not {shares}"
        );
    }

    #[test]
    fn the_first_takes_all_until_it_is_down() {
        let ups = upstreams(3);
        assert_eq!(picked(&Balance::First, &ups, &from(1)), ups[0].id());
        down(&ups[0]);
        assert_eq!(picked(&Balance::First, &ups, &from(1)), ups[1].id());
    }

    #[test]
    fn a_cookie_leads_back_until_its_upstream_is_down() {
        let ups = upstreams(3);
        let turn = AtomicUsize::new(0);
        let with = Affinity {
            cookie: Some(ups[1].id()),
            ..from(1)
        };
        let kept = pick(&Balance::Cookie, &ups, &turn, &with, &[]).unwrap();
        assert_eq!(kept.upstream.upstream().id(), ups[1].id());
        assert!(!kept.set_cookie);
        down(&ups[1]);
        let moved = pick(&Balance::Cookie, &ups, &turn, &with, &[]).unwrap();
        assert_ne!(moved.upstream.upstream().id(), ups[1].id());
        assert!(moved.set_cookie);
    }

    #[test]
    fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
        let ups = upstreams(2);
        let turn = AtomicUsize::new(0);
        for _ in 0..50 {
            let again = pick(&Balance::Random, &ups, &turn, &from(1), &[ups[0].id()]).unwrap();
            assert_eq!(again.upstream.upstream().id(), ups[1].id());
        }
        down(&ups[1]);
        let only = pick(&Balance::Random, &ups, &turn, &from(1), &[ups[0].id()]).unwrap();
        assert_eq!(only.upstream.upstream().id(), ups[0].id());
    }

    #[test]
    fn one_that_comes_to_others_takes_nothing_before_it_was_found_healthy() {
        let ups = upstreams(2);
        ups[1].begin_trial();
        for _ in 0..100 {
            assert_eq!(picked(&Balance::Random, &ups, &from(1)), ups[0].id());
        }
        down(&ups[0]);
        assert_eq!(picked(&Balance::Random, &ups, &from(1)), ups[1].id());
        ups[1].set_probe(ProbeRecord {
            state: Availability::Healthy,
            ..ProbeRecord::clone(&ups[1].own_probe())
        });
        assert!(ups[1].is_available());
    }

    #[test]
    fn a_retry_asks_one_that_is_new_before_it_asks_the_same_one_again() {
        let ups = upstreams(2);
        let turn = AtomicUsize::new(0);
        ups[1].begin_trial();
        let again = |tried: &[u64]| {
            let picked = pick(&Balance::LeastConn, &ups, &turn, &from(1), tried);
            picked.map(|picked| picked.upstream.upstream().id())
        };
        assert_eq!(again(&[ups[0].id()]), Ok(ups[1].id()));
        // Both were asked: the one that was found healthy is the better one.
        assert_eq!(again(&[ups[0].id(), ups[1].id()]), Ok(ups[0].id()));
        ups[1].set_held(true);
        assert_eq!(again(&[ups[0].id()]), Ok(ups[0].id()));
    }

    #[test]
    fn one_that_is_held_back_takes_nothing_whatever_becomes_of_the_others() {
        let ups = upstreams(2);
        let turn = AtomicUsize::new(0);
        assert!(ups[1].set_held(true) && !ups[1].set_held(true));
        for _ in 0..100 {
            assert_eq!(picked(&Balance::LeastConn, &ups, &from(1)), ups[0].id());
        }
        down(&ups[0]);
        let none = pick(&Balance::LeastConn, &ups, &turn, &from(1), &[]);
        assert_eq!(none.map(|_| ()), Err(NoUpstream::AllDown));
        ups[1].set_held(false);
        assert_eq!(picked(&Balance::LeastConn, &ups, &from(1)), ups[1].id());
    }

    #[test]
    fn ejection_is_ignored_when_it_would_leave_none_and_down_is_not() {
        let ups = upstreams(2);
        let turn = AtomicUsize::new(0);
        let eject = crate::config::Eject {
            connect_failures: 1,
            server_errors: 0,
            base: std::time::Duration::from_secs(5),
            max: std::time::Duration::from_secs(60),
        };
        down(&ups[0]);
        ups[1].eject(crate::clock::now(), &eject);
        assert!(!ups[1].is_available());
        let picked = pick(&Balance::LeastConn, &ups, &turn, &from(1), &[]).unwrap();
        assert_eq!(picked.upstream.upstream().id(), ups[1].id());
        drop(picked);
        down(&ups[1]);
        let none = pick(&Balance::LeastConn, &ups, &turn, &from(1), &[]);
        assert_eq!(none.map(|_| ()), Err(NoUpstream::AllDown));
    }
}
