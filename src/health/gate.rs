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
        let covered =
            other.is_some_and(|other| present.contains(&other) && !blocked.contains(&other));
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
        // Rounded up, so that the text never says that a number is greater than itself.
        let took = latency.as_nanos().div_ceil(1_000_000);
        format!("answered in {took} ms, slower than max_latency {max:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::pool::ProbeRecord;

    fn upstream(configured: &str, target: &str) -> Arc<Upstream> {
        let target = Target::Socket(target.parse().unwrap());
        Arc::new(Upstream::new(configured.parse().unwrap(), target))
    }

    fn found(upstream: &Upstream, state: Availability, reason: Option<&str>, millis: Option<u64>) {
        upstream.set_probe(ProbeRecord {
            state,
            reason: reason.map(str::to_owned),
            latency: millis.map(Duration::from_millis),
            at: Some(clock::now()),
            passes: 0,
        });
    }

    fn obstacles(upstreams: &[Arc<Upstream>], max: Option<u64>) -> Vec<Option<String>> {
        let max = max.map(Duration::from_millis);
        let findings = gate_view(upstreams, max, clock::now());
        findings.into_iter().map(|f| f.obstacle).collect()
    }

    #[test]
    fn each_obstacle_is_a_sentence() {
        let one = upstream("10.0.0.1:80", "10.0.0.1:80");
        let look = |max| obstacles(&[Arc::clone(&one)], max).remove(0);
        assert_eq!(look(None).as_deref(), Some("not probed yet"));
        found(&one, Availability::Unknown, None, Some(1));
        assert_eq!(look(None).as_deref(), Some("not healthy yet"));
        found(
            &one,
            Availability::Unknown,
            Some("connection refused"),
            None,
        );
        assert_eq!(
            look(None).as_deref(),
            Some("not healthy yet: connection refused")
        );
        found(&one, Availability::Down, Some("connection refused"), None);
        assert_eq!(look(None).as_deref(), Some("down: connection refused"));
        found(&one, Availability::Healthy, Some("an old one"), Some(312));
        assert_eq!(look(None), None);
        assert_eq!(look(Some(312)), None, "the limit itself passes");
        assert_eq!(
            look(Some(200)).as_deref(),
            Some("answered in 312 ms, slower than max_latency 200ms")
        );
    }

    #[test]
    fn an_ejected_upstream_does_not_pass() {
        use crate::config::Eject;
        use crate::model::Color;
        use crate::pool::{Attempt, Slot, SlotSettings};

        let eject = Eject {
            connect_failures: 1,
            server_errors: 0,
            base: Duration::from_secs(5),
            max: Duration::from_secs(60),
        };
        let settings = SlotSettings {
            eject,
            ..SlotSettings::default()
        };
        let counters = crate::metrics::Metrics::new().color(&"web".into(), Color::Green);
        let slot = Slot::new("web".into(), Color::Green, settings, counters);
        let pair = [
            upstream("10.0.0.1:80", "10.0.0.1:80"),
            upstream("10.0.0.2:80", "10.0.0.2:80"),
        ];
        for one in &pair {
            found(one, Availability::Healthy, None, Some(1));
        }
        slot.set_upstreams(pair.to_vec());
        let then = clock::now();
        slot.record(&pair[0], Attempt::ConnectFailed, then).unwrap();
        let findings = gate_view(&slot.upstreams(), None, then + Duration::from_millis(800));
        assert_eq!(
            findings[0].obstacle.as_deref(),
            Some("ejected for 4.2s after failed requests")
        );
        assert_eq!(findings[1].obstacle, None);
    }

    #[test]
    fn a_name_served_on_one_family_passes_without_the_other() {
        let v4 = upstream("localhost:80", "127.0.0.1:80");
        let v6 = upstream("localhost:80", "[::1]:80");
        let both = [Arc::clone(&v4), Arc::clone(&v6)];
        let blocked = |n: usize| {
            let seen = obstacles(&both, None);
            assert_eq!(seen.iter().flatten().count(), n, "{seen:?}");
        };
        found(&v4, Availability::Healthy, None, Some(1));
        blocked(1);
        found(&v6, Availability::Down, Some("connection refused"), None);
        blocked(0);
        found(&v4, Availability::Down, Some("connection refused"), None);
        blocked(2);
    }

    #[test]
    fn a_dead_replica_is_not_covered_by_its_siblings() {
        let one = upstream("web:80", "10.0.0.1:80");
        let two = upstream("web:80", "10.0.0.2:80");
        let other_name = upstream("api:80", "[fd00::1]:80");
        found(&one, Availability::Healthy, None, Some(1));
        found(&two, Availability::Down, Some("connection refused"), None);
        found(&other_name, Availability::Healthy, None, Some(1));
        let seen = obstacles(&[one, two, other_name], None);
        assert_eq!(seen, [None, Some("down: connection refused".into()), None]);
    }
}
