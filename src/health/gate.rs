//! What a switch asks before traffic moves: is every upstream of the target slot fit for it?

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::UpstreamAddr;
use crate::pool::{Availability, Target, Upstream};

/// What the gate sees of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The upstream as people know it.
    pub upstream: Arc<str>,
    /// What active probes say.
    pub state: Availability,
    /// Why it does not pass; `None`: it passes.
    pub obstacle: Option<String>,
    /// How long the last passed probe took.
    pub latency: Option<Duration>,
}

/// One finding per upstream, in the order of the slot. The gate passes when there is at least
/// one and none has an obstacle.
///
/// A name with IPv4 and IPv6 addresses may be served on one family only (`localhost`, most
/// often). If all its addresses of one family pass, those of the other that are down are no
/// obstacle: they take no traffic.
#[must_use]
pub fn gate_view(
    upstreams: &[Arc<Upstream>],
    max_latency: Option<Duration>,
    now: Instant,
) -> Vec<Finding> {
    let mut findings: Vec<_> = upstreams
        .iter()
        .map(|upstream| look(upstream, max_latency, now))
        .collect();
    let mut present = HashSet::new();
    let mut blocked = HashSet::new();
    for (upstream, finding) in upstreams.iter().zip(&findings) {
        let family = family(upstream);
        present.extend(family);
        blocked.extend(family.filter(|_| finding.obstacle.is_some()));
    }
    for (upstream, finding) in upstreams.iter().zip(&mut findings) {
        let other = family(upstream).map(|(name, is_ipv6)| (name, !is_ipv6));
        let covered = other.is_some_and(|other| present.contains(&other) && !blocked.contains(&other));
        if covered && finding.state == Availability::Down {
            finding.obstacle = None;
        }
    }
    findings
}

/// The configured name and whether this address of it is IPv6.
fn family(upstream: &Upstream) -> Option<(&UpstreamAddr, bool)> {
    match upstream.target() {
        Target::Socket(addr) => Some((upstream.configured(), addr.is_ipv6())),
        Target::Unix(_) => None,
    }
}

fn look(upstream: &Upstream, max_latency: Option<Duration>, now: Instant) -> Finding {
    let probe = upstream.probe();
    let last = probe.reason.as_deref();
    let obstacle = match probe.state {
        Availability::Unknown => Some(match last {
            _ if probe.at.is_none() => "not probed yet".to_owned(),
            Some(reason) => format!("not healthy yet: {reason}"),
            None => "not healthy yet".to_owned(),
        }),
        Availability::Down => Some(format!("down: {}", last.unwrap_or("no reason known"))),
        Availability::Healthy => match upstream.ejected_for(now) {
            Some(left) => Some(format!(
                "ejected for {:.1}s after failed requests",
                left.as_secs_f64()
            )),
            None => too_slow(probe.latency, max_latency),
        },
    };
    Finding {
        upstream: Arc::clone(upstream.shown()),
        state: probe.state,
        obstacle,
        latency: probe.latency,
    }
}

fn too_slow(latency: Option<Duration>, max_latency: Option<Duration>) -> Option<String> {
    let (latency, max) = latency.zip(max_latency)?;
    (latency > max).then(|| {
        let took = latency.as_millis();
        format!("answered in {took} ms, slower than max_latency {max:?}")
    })
}
