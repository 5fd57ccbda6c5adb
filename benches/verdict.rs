//! Guards the cost of judging: what a request pays, and a look, four times a second.

#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use cutover::config::Rollback;
use cutover::switch::evidence::attribution::Tally;
use cutover::switch::evidence::{Baseline, LimitRules, Limits, Part, Probed, Seen, Tick, Watch};

/// A watch of half an hour with every test of a service.
fn watch(rules: &Rollback) -> Watch {
    let part = Part {
        requests: 2_000,
        failures: 2,
    };
    let baseline = Baseline {
        parts: vec![part; 60],
        short: false,
    };
    let limit = baseline.limit(&LimitRules::of(rules));
    let limits = Limits {
        slow: vec![0.15, 0.02],
        client_errors: Some(0.01),
        failures: limit,
    };
    Watch::new(rules, &limits, 1_800.0)
}

fn benches(c: &mut Criterion) {
    let rules = Rollback::default();
    let mut fresh = watch(&rules);
    let mut number = 0_u32;
    let seen = |all, bad| Seen { all, bad };
    c.bench_function("a look", |bencher| {
        bencher.iter(|| {
            // Over and over the half hour, so that the last start of the slow test is paid too.
            number += 1;
            if number > 7_200 {
                fresh = watch(&rules);
                number = 1;
            }
            let tick = Tick {
                end: f64::from(number) * 0.25,
                requests: seen(250, u64::from(number.is_multiple_of(4))),
                slow: vec![seen(249, 20), seen(249, 2)],
                client_errors: seen(200, 1),
                rescues: Tally::default(),
                probes: Probed::default(),
                ..Tick::default()
            };
            black_box(fresh.tick(black_box(&tick)));
        });
    });
}

criterion_group!(verdict, benches);
criterion_main!(verdict);
