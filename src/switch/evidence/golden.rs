//! Streams whose evidence was computed by `tests/golden/reference.py`, from the definition.

use super::{EProcess, EProcessRules, Ecusum, Shares};

struct Line {
    end: f64,
    requests: u64,
    failures: u64,
    log_e: f64,
    w: f64,
}

struct Stream {
    limit: f64,
    horizon: f64,
    lines: Vec<Line>,
}

fn parse(text: &str) -> Stream {
    let setting = |name: &str| {
        let (_, value) = text.split_once(name).expect("a setting");
        let value = value.split_whitespace().next().expect("a value");
        value.parse().expect("a number")
    };
    let line = |line: &str| {
        let mut fields = line.split(',');
        let mut next = || fields.next().expect("five fields");
        Line {
            end: next().parse().expect("seconds"),
            requests: next().parse().expect("requests"),
            failures: next().parse().expect("failures"),
            log_e: next().parse().expect("evidence"),
            w: next().parse().expect("a value"),
        }
    };
    Stream {
        limit: setting("limit="),
        horizon: setting("horizon="),
        lines: text.lines().skip(2).map(line).collect(),
    }
}

/// Compares every tick; gives the ticks at which each test first crossed, by the file and by us.
fn compare(name: &str, text: &str) -> [Option<usize>; 2] {
    let stream = parse(text);
    let shares = Shares::of(1e-4);
    let mut slow = EProcess::new(
        stream.limit,
        EProcessRules {
            alpha: shares.slow,
            alternatives: 8,
            restart_every: 15.0,
            min_bad_seconds: 5,
            first_start: 0.0,
            horizon: stream.horizon,
        },
    );
    let mut fast = Ecusum::new(stream.limit, 0.9, shares.fast, stream.horizon, 1.0);
    let mut crossed = [None; 2];
    for (at, line) in stream.lines.iter().enumerate() {
        let successes = line.requests - line.failures;
        let log_e = slow.tick(line.end, successes, line.failures);
        fast.tick(line.end, successes, line.failures);
        assert!(
            (log_e - line.log_e).abs() < 1e-9,
            "{name}, {} s: log E {log_e}, expected {}",
            line.end,
            line.log_e
        );
        assert!(
            (fast.value() - line.w).abs() < 1e-9,
            "{name}, {} s: W {}, expected {}",
            line.end,
            fast.value(),
            line.w
        );
        let theirs = line.log_e >= slow.threshold();
        assert_eq!(theirs, log_e >= slow.threshold(), "{name}, {} s", line.end);
        if theirs {
            crossed[0] = crossed[0].or(Some(at));
        }
        if line.w >= fast.threshold() {
            crossed[1] = crossed[1].or(Some(at));
        }
    }
    crossed
}

macro_rules! streams {
    ($($name:ident: $slow:literal $fast:literal,)*) => {$(
        #[test]
        fn $name() {
            let name = stringify!($name);
            let text = include_str!(concat!("../../../tests/golden/", stringify!($name), ".csv"));
            let crossed = compare(name, text).map(|at| at.is_some());
            assert_eq!(crossed, [$slow, $fast], "{name}: slow and fast");
        }
    )*};
}

streams! {
    sudden_5_percent: true false,
    sudden_outage: true true,
    healthy_busy: false false,
    healthy_idle: false false,
    no_traffic: false false,
    all_fail_at_once: true true,
    half_fails: true true,
    one_to_three_percent: true false,
    at_the_limit: false false,
    burst_then_well: false true,
    short_bursts: false false,
    slow_rise: true false,
    high_limit: true true,
    one_start: true true,
}
