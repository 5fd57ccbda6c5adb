//! Windows and totals.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock;
use crate::model::Color;

use super::super::{Metrics, Totals};
use super::get;

const QUANTILES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 1.0];

/// The sample of nearest rank: the smallest that a share `q` of all do not exceed.
fn exact(sorted: &[u64], q: f64) -> u64 {
    let rank = (1..=sorted.len()).find(|rank| *rank as f64 + 1e-6 >= q * sorted.len() as f64);
    sorted[rank.expect("q is at most 1") - 1]
}

/// Latencies in nanoseconds: even, heavy-tailed, bimodal and constant ones, 2 µs to an hour.
fn latencies() -> impl Strategy<Value = Vec<u64>> {
    let size = 1..1500_usize;
    prop_oneof![
        prop::collection::vec(2_000..100_000_000_u64, size.clone()),
        prop::collection::vec((11.0..41.7_f64).prop_map(|e| e.exp2() as u64), size.clone()),
        prop::collection::vec(
            prop_oneof![9 => 900_000..1_100_000_u64, 1 => 2_000_000_000..9_000_000_000_u64],
            size.clone(),
        ),
        (2_000..3_600_000_000_000_u64, size).prop_map(|(value, n)| vec![value; n]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn quantiles_are_within_one_percent_of_the_exact_ones(samples in latencies(), step in 0..40_u64) {
        let start = clock::now();
        let blue = Metrics::starting_at(start).color(&"web".into(), Color::Blue);
        for (at, nanos) in samples.iter().enumerate() {
            let now = start + Duration::from_millis(at as u64 * step);
            get(&blue, now, 200, Some(Duration::from_nanos(*nanos)));
        }
        let now = start + Duration::from_millis(samples.len() as u64 * step);
        let window = blue.window(now);
        let mut sorted = samples;
        sorted.sort_unstable();
        prop_assert_eq!(window.timed(), sorted.len() as u64);
        for q in QUANTILES {
            let exact = exact(&sorted, q) as f64;
            let estimate = window.quantile(q).expect("a sample").as_nanos() as f64;
            prop_assert!((estimate - exact).abs() <= exact * 0.01, "{q}: {estimate} for {exact}");
        }
    }

    #[test]
    fn a_sample_counts_for_sixty_seconds_and_at_most_one_period_more(
        mut ages in prop::collection::vec(0..400_000_u64, 1..200),
        first in 0..50_000_u64,
    ) {
        let start = clock::now();
        let blue = Metrics::starting_at(start).color(&"web".into(), Color::Blue);
        let now = start + Duration::from_millis(400_000 + first);
        ages.sort_unstable_by(|a, b| b.cmp(a));
        for age in &ages {
            get(&blue, now - Duration::from_millis(*age), 500, Some(Duration::from_millis(1 + age)));
        }
        let window = blue.window(now);
        let within = |limit| ages.iter().filter(|age| **age < limit).count() as u64;
        for counted in [window.requests, window.errors_5xx, window.timed()] {
            prop_assert!(within(60_000) <= counted && counted <= within(65_001));
        }
        if let Some(slowest) = window.quantile(1.0) {
            prop_assert!(slowest <= Duration::from_millis(65_001 + 1).mul_f64(1.01));
        }
        prop_assert!(window.span >= Duration::from_secs(60));
        prop_assert!(window.span < Duration::from_secs(65));
    }

    #[test]
    fn samples_that_arrive_out_of_order_count_in_their_own_period(
        ages in prop::collection::vec(0..400_000_u64, 1..200),
    ) {
        let start = clock::now();
        let metrics = Metrics::starting_at(start);
        let [shuffled, sorted] = Color::ALL.map(|color| metrics.color(&"web".into(), color));
        let now = start + Duration::from_secs(401);
        let record = |counters, ages: &[u64]| {
            for age in ages {
                let at = now - Duration::from_millis(*age);
                get(counters, at, 200, Some(Duration::from_millis(1 + age)));
            }
        };
        record(&shuffled, &ages);
        let mut ages = ages;
        ages.sort_unstable_by(|a, b| b.cmp(a));
        record(&sorted, &ages);
        let (shuffled, sorted) = (shuffled.window(now), sorted.window(now));
        prop_assert_eq!(shuffled.requests, sorted.requests);
        for q in QUANTILES {
            prop_assert_eq!(shuffled.quantile(q), sorted.quantile(q));
        }
    }
}

#[test]
fn an_empty_window_has_rates_of_zero_and_no_quantile() {
    let start = clock::now();
    let blue = Metrics::starting_at(start).color(&"web".into(), Color::Blue);
    let window = blue.window(start);
    assert_eq!(
        (window.rps(), window.error_rate(), window.p50()),
        (0.0, 0.0, None)
    );

    get(&blue, start, 200, Some(Duration::from_millis(5)));
    let window = blue.window(start + Duration::from_secs(65));
    assert_eq!(
        (window.rps(), window.error_rate(), window.p50()),
        (0.0, 0.0, None)
    );
}

#[test]
fn rates_are_over_the_time_that_the_window_covers() {
    let start = clock::now();
    let blue = Metrics::starting_at(start).color(&"web".into(), Color::Blue);
    for second in 0..200 {
        let status = if second % 4 == 0 { 503 } else { 404 };
        get(&blue, start + Duration::from_secs(second), status, None);
        let window = blue.window(start + Duration::from_secs(second + 1));
        assert!((window.rps() - 1.0).abs() < 1e-9, "{second}: {window:?}");
    }
    let window = blue.window(start + Duration::from_secs(199));
    assert!((window.error_rate() - 0.25).abs() < 0.02, "{window:?}");
    assert_eq!(window.timed(), 0);
}

#[test]
fn what_many_threads_record_is_counted_once() {
    const THREADS: u64 = 8;
    const EACH: u64 = 20_000;
    let start = clock::now();
    let blue = Metrics::starting_at(start).color(&"web".into(), Color::Blue);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut before = Totals::default();
            while !done.load(Relaxed) {
                let now = blue.totals();
                assert!(now.requests >= before.requests && now.errors_5xx >= before.errors_5xx);
                assert!(blue.window(start).requests <= THREADS * EACH);
                before = now;
            }
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    for i in 0..EACH {
                        // Each thread walks over eight periods on its own.
                        let now = start + Duration::from_millis(i * 2);
                        let status = if i % 10 == 0 { 502 } else { 200 };
                        get(&blue, now, status, Some(Duration::from_micros(100 + i)));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("no panic");
        }
        done.store(true, Relaxed);
        reader.join().expect("no panic");
    });
    let (all, failed) = (THREADS * EACH, THREADS * EACH / 10);
    assert_eq!(
        blue.totals(),
        Totals {
            requests: all,
            errors_5xx: failed
        }
    );
    let window = blue.window(start + Duration::from_millis(EACH * 2));
    assert_eq!(
        (window.requests, window.errors_5xx, window.timed()),
        (all, failed, all)
    );
    assert_eq!(blue.duration().count(), all);
    assert_eq!(blue.upstream().count(), all);
}
