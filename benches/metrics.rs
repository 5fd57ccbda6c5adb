//! Guards the cost of counting one request: alone, and when every core counts for one color.
//!
//! The contended figure is the time of one call on each of the threads at once; on a machine
//! that does other work its noise is larger than that of the others.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use cutover::clock;
use cutover::metrics::{ColorMetrics, LiveState, Metrics, RequestOutcome};
use cutover::model::{Color, ServiceName};
use http::Method;

fn record(counters: &ColorMetrics, now: Instant, round: u64) {
    let duration = Duration::from_micros(2_000 + round % 60_000);
    let outcome = RequestOutcome {
        method: &Method::GET,
        status: 200,
        duration: Some(duration),
        upstream: Some(duration / 2),
    };
    counters.record(black_box(now), black_box(&outcome));
}

fn contended(counters: &ColorMetrics, threads: u64, rounds: u64) -> Duration {
    let (started, now) = (clock::now(), clock::now());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..rounds).for_each(|round| record(counters, now, round)));
        }
    });
    started.elapsed()
}

fn benches(c: &mut Criterion) {
    let metrics = Metrics::new();
    let service = ServiceName::from("web");
    let blue = metrics.color(&service, Color::Blue);
    let now = clock::now();

    let mut round = 0;
    c.bench_function("record", |b| {
        b.iter(|| {
            round += 1;
            record(&blue, now, round);
        });
    });
    let cores = thread::available_parallelism().map_or(2, |n| n.get() as u64);
    c.bench_function("record, every core at one color", |b| {
        b.iter_custom(|rounds| contended(&blue, cores, rounds));
    });
    c.bench_function("window", |b| b.iter(|| blue.window(black_box(now))));
    c.bench_function("render one busy service", |b| {
        b.iter(|| metrics.render(now, &LiveState::default()));
    });
}

criterion_group!(group, benches);
criterion_main!(group);
