//! The verdict on a fake clock, over thousands of releases: how often a healthy one is undone,
//! how soon a bad one. `SOAK_RELEASES` is the number for each cell; seeds are fixed, so a failure
//! repeats.

use cutover::config::Rollback;
use cutover::switch::evidence::attribution::Tally;
use cutover::switch::evidence::{
    Baseline, Decision, LimitRules, Limits, Part, Probed, Seen, Tick, Watch,
};

const TICK: f64 = 0.25;
const PARTS: u64 = 60;

fn releases(short: u64) -> u64 {
    std::env::var("SOAK_RELEASES").map_or(short, |text| text.parse().expect("a number"))
}

/// Traffic at `rate` requests a second, Poisson as far as it matters here.
struct Traffic {
    random: fastrand::Rng,
    rate: u64,
}

impl Traffic {
    /// Arrivals in `seconds`.
    fn arrivals(&mut self, seconds: f64) -> u64 {
        let mean = self.rate as f64 * seconds;
        if mean > 30.0 {
            return self.normal(mean, mean);
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.random.f64(), 0);
        while product > limit {
            product *= self.random.f64();
            count += 1;
        }
        count
    }

    /// How many of `count` fail at `rate`.
    fn failures(&mut self, count: u64, rate: f64) -> u64 {
        if rate <= 0.0 || count == 0 {
            return 0;
        }
        if rate >= 1.0 {
            return count;
        }
        let mean = count as f64 * rate;
        if mean > 50.0 && count as f64 * (1.0 - rate) > 50.0 {
            return self.normal(mean, mean * (1.0 - rate)).min(count);
        }
        // From one failure to the next.
        let (mut at, mut found) = (0, 0);
        loop {
            let gap = (1.0 - self.random.f64()).ln() / (1.0 - rate).ln();
            at += gap as u64 + 1;
            if at > count {
                return found;
            }
            found += 1;
        }
    }

    fn normal(&mut self, mean: f64, variance: f64) -> u64 {
        let (a, b) = (1.0 - self.random.f64(), self.random.f64());
        let z = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        (mean + z * variance.sqrt()).round().max(0.0) as u64
    }

    /// As long as the rules want it: 10 minutes and 100,000 requests, at most a day.
    fn baseline(&mut self, bad: f64) -> Baseline {
        let total = (600 * self.rate).max(100_000.min(86_400 * self.rate));
        let part = |traffic: &mut Self| Part {
            requests: total / PARTS,
            failures: traffic.failures(total / PARTS, bad),
        };
        Baseline {
            parts: (0..PARTS).map(|_| part(self)).collect(),
            short: false,
        }
    }

    /// Seconds of a watch: 5 minutes, until 5,000 requests, at most half an hour.
    fn watched(&self) -> f64 {
        (5_000.0 / self.rate as f64).ceil().clamp(300.0, 1_800.0)
    }
}

fn limits(baseline: &Baseline) -> Limits {
    let rules = Rollback::default();
    Limits {
        failures: baseline.limit(&LimitRules::of(&rules)),
        slow: Vec::new(),
        client_errors: None,
    }
}

/// When the release was undone, in seconds after the cutover.
fn undone(traffic: &mut Traffic, before: f64, after: f64) -> Option<f64> {
    let limits = limits(&traffic.baseline(before));
    let watched = traffic.watched();
    let mut watch = Watch::new(&Rollback::default(), &limits, watched);
    let mut end = 0.0;
    let mut suspicious = false;
    // A quarter of the traffic, within bounds, as long as there is suspicion.
    let mut probes = Traffic {
        random: traffic.random.fork(),
        rate: (traffic.rate / 4).clamp(5, 50),
    };
    while end < watched {
        end += TICK;
        let probed = if suspicious { probes.arrivals(TICK) } else { 0 };
        let requests = traffic.arrivals(TICK);
        let failed = traffic.failures(requests, after);
        let asked = traffic.failures(failed, 0.7);
        let both = traffic.failures(asked, before);
        let decision = watch.tick(&Tick {
            end,
            requests: Seen {
                all: requests - both,
                bad: failed - both,
            },
            both_failed: both,
            rescues: Tally {
                asked,
                failed: both,
            },
            probes: Probed {
                failures: Tally {
                    asked: probed,
                    failed: probes.failures(probed, before),
                },
                ..Probed::default()
            },
            ..Tick::default()
        });
        suspicious = match decision {
            Decision::RollBack { .. } => return Some(end),
            Decision::Suspect => true,
            Decision::Watch | Decision::Hold { .. } => false,
        };
    }
    None
}

#[test]
fn a_healthy_release_is_not_undone() {
    let releases = releases(150);
    for rate in [1, 10, 100, 1_000] {
        for before in [0.0, 0.001, 0.01] {
            let mut traffic = Traffic {
                random: fastrand::Rng::with_seed(rate + (before * 1e6) as u64),
                rate,
            };
            let wrong = (0..releases)
                .filter(|_| undone(&mut traffic, before, before).is_some())
                .count();
            assert_eq!(
                wrong, 0,
                "{wrong} of {releases} healthy releases at {rate}/s and {before} were undone"
            );
        }
    }
}

/// Requests a second, failure rate before and after, median and 99th percentile of the delay in
/// seconds that an independent simulation of the same rules gave, over 1,000 releases and more.
const DETECTED: [(u64, f64, f64, f64, f64); 16] = [
    (1, 0.0, 0.5, 10.0, 28.0),
    (1, 0.001, 1.0, 4.75, 12.0),
    (1, 0.01, 1.0, 5.75, 14.0),
    (10, 0.0, 0.05, 23.0, 54.0),
    (10, 0.001, 0.5, 1.5, 4.5),
    (10, 0.01, 0.05, 70.0, 180.0),
    (10, 0.01, 1.0, 1.0, 1.5),
    (100, 0.001, 0.01, 84.0, 196.0),
    (100, 0.001, 0.05, 5.25, 12.25),
    (100, 0.01, 0.03, 49.0, 103.0),
    (200, 0.001, 0.05, 4.25, 8.5),
    (200, 0.001, 1.0, 1.0, 1.0),
    (200, 0.01, 0.03, 25.0, 62.0),
    (200, 0.01, 0.5, 1.0, 1.25),
    (1_000, 0.001, 0.01, 14.0, 48.0),
    (1_000, 0.01, 0.05, 4.25, 9.5),
];

#[test]
fn a_bad_release_is_undone_as_soon_as_promised() {
    let releases = releases(150);
    for (rate, before, after, median, last) in DETECTED {
        let mut traffic = Traffic {
            random: fastrand::Rng::with_seed(rate + (after * 1e6) as u64),
            rate,
        };
        let mut delays: Vec<f64> = (0..releases)
            .map(|_| undone(&mut traffic, before, after).unwrap_or(f64::INFINITY))
            .collect();
        delays.sort_by(f64::total_cmp);
        let at = |part: f64| delays[((delays.len() - 1) as f64 * part).ceil() as usize];
        let case = format!(
            "{rate}/s, {before} -> {after}: {} and {}",
            at(0.5),
            at(0.99)
        );
        // One tick for the look, a tenth for chance, more in the tail of a short run.
        assert!(at(0.5) <= 1.1 * median + TICK, "{case}, expected {median}");
        let allowed = if releases >= 1_000 { 1.25 } else { 1.6 };
        assert!(at(0.99) <= allowed * last + TICK, "{case}, expected {last}");
    }
}
