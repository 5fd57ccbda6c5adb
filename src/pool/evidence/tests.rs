//! Counting, habits, rescues.

use super::route::{BUCKETS, upper_edge};
use super::*;

fn client(last: u8) -> IpAddr {
    IpAddr::from([198, 51, last, 7])
}

fn failure(client: IpAddr) -> Failure<'static> {
    Failure {
        client,
        path: "/users/42",
        what: "500",
        request_id: "id",
    }
}

fn learned() -> Arc<Pool> {
    let pool = crate::pool::generation::tests::pool();
    for at in 0..1_000 {
        let micros = 10 * (1_000 + at);
        let time = Some(Duration::from_micros(micros));
        pool.evidence()
            .answered(client(1), &format!("/users/{at}"), 200, time, true);
    }
    pool
}

const QUANTILES: [f64; 2] = [0.9, 0.99];

fn watched(old: &Arc<Pool>, rescue: Option<Rescue>) -> Arc<Pool> {
    let new = crate::pool::generation::tests::pool();
    let frozen = old.evidence().freeze(QUANTILES, 1.5);
    new.evidence().watch(frozen, rescue);
    new
}

#[test]
fn paths_with_different_identifiers_are_one_route() {
    let same = [
        "/users/1/orders/2",
        "/users/77/orders/993",
        "//users/3//orders/4/",
    ];
    assert!(
        same.iter()
            .all(|path| route_key(path) == route_key(same[0]))
    );
    assert_eq!(route_name(same[1]), "/users/*/orders/*");
    assert_eq!(
        route_name("/o/6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        "/o/*"
    );
    for other in ["/users/1", "/users/me/orders/2", "/"] {
        assert_ne!(route_key(other), route_key(same[0]), "{other}");
    }
    assert_eq!(route_name("/cafebabe"), "/cafebabe", "a word");
}

#[test]
fn buckets_are_a_sixteenth_of_a_doubling_and_edges_belong_to_them() {
    for micros in [
        0,
        63,
        64,
        65,
        1_000,
        4_096,
        1_000_000,
        134_000_000,
        u32::MAX,
    ] {
        let at = bucket(micros);
        assert!(
            upper_edge(at) >= micros.min(upper_edge(BUCKETS - 1)),
            "{micros}"
        );
        if at > 0 {
            assert!(upper_edge(at - 1) < micros, "{micros}");
        }
    }
    let (below, edge) = (upper_edge(200), upper_edge(201));
    assert!(f64::from(edge) / f64::from(below) < 1.07);
}

#[test]
fn what_nobody_notices_is_not_slow() {
    let old = crate::pool::generation::tests::pool();
    for _ in 0..1_000 {
        let time = Some(Duration::from_micros(300));
        old.evidence().answered(client(1), "/", 200, time, true);
    }
    let new = watched(&old, None);
    for (micros, slow) in [(900, [0, 0]), (4_900, [0, 0]), (9_000, [1, 1])] {
        let time = Some(Duration::from_micros(micros));
        new.evidence().answered(client(1), "/", 200, time, true);
        assert_eq!(new.evidence().totals().slow, slow, "{micros}");
    }
}

#[test]
fn requests_over_the_old_limits_are_slow_and_late_ones_count_once() {
    let old = learned();
    let new = watched(&old, None);
    let evidence = new.evidence();
    for (micros, slow) in [(10_000, [0, 0]), (30_000, [1, 0]), (90_000, [2, 1])] {
        let time = Some(Duration::from_micros(micros));
        evidence.answered(client(1), "/users/9", 200, time, true);
        assert_eq!(evidence.totals().slow, slow, "{micros}");
    }
    assert!(!evidence.late("/users/9", Duration::from_millis(20)));
    assert!(evidence.late("/users/9", Duration::from_secs(1)));
    assert_eq!(evidence.totals().slow, [3, 2]);
    let habits = old.evidence().habits(QUANTILES, 1.5);
    assert_eq!((habits.timed, habits.slow), (1_000, [0, 0]));
}

#[test]
fn client_errors_count_on_good_routes_alone() {
    let old = learned();
    for _ in 0..40 {
        old.evidence()
            .answered(client(2), "/wp-login.php", 404, None, true);
    }
    let new = watched(&old, None);
    for path in ["/users/1", "/wp-login.php", "/unheard-of"] {
        new.evidence().answered(client(2), path, 404, None, true);
    }
    let totals = new.evidence().totals();
    assert_eq!((totals.good, totals.client_errors), (1, 1));
}

#[test]
fn the_surplus_failures_of_one_client_do_not_count_unless_it_is_most_of_the_traffic() {
    let old = learned();
    let start = crate::clock::now();
    let new = watched(&old, None);
    for at in 0..100_u8 {
        new.evidence().answered(client(at), "/", 200, None, true);
    }
    for _ in 0..10 {
        new.evidence().failed(start, &failure(client(200)));
    }
    assert_eq!(new.evidence().totals().bad, 3);
    let later = start + Duration::from_secs(11);
    new.evidence().failed(later, &failure(client(200)));
    assert_eq!(new.evidence().totals().bad, 4);

    let behind_a_proxy = watched(&old, None);
    for _ in 0..10 {
        behind_a_proxy.evidence().failed(start, &failure(client(1)));
    }
    assert_eq!(behind_a_proxy.evidence().totals().bad, 10);
    let failures = behind_a_proxy.evidence().failures();
    assert_eq!(
        failures.routes,
        [("/users/*".to_owned(), "500".to_owned(), 10)]
    );
    assert_eq!(failures.samples.len(), SAMPLES);
}

#[test]
fn rescues_keep_to_their_rate_and_end_with_the_watch() {
    let old = learned();
    let start = crate::clock::now();
    let new = watched(
        &old,
        Some(Rescue::new(Arc::clone(&old), vec![Method::GET], 10, start)),
    );
    let asked = |at: Instant| {
        let asked = (0..100).filter(|_| new.evidence().rescuer(at).is_some());
        asked.count()
    };
    assert_eq!(asked(start), 10);
    assert_eq!(asked(start), 0);
    let later = start + Duration::from_millis(500);
    assert_eq!(asked(later), 5);
    new.evidence().allow_rescues(0);
    assert_eq!(asked(later + Duration::from_secs(5)), 0);
    new.evidence().allow_rescues(20);
    assert_eq!(asked(later + Duration::from_secs(10)), 20);
    new.evidence().unwatch();
    assert_eq!(asked(later + Duration::from_secs(20)), 0);
}

#[test]
fn a_failure_on_both_is_held_against_neither() {
    let old = learned();
    let new = watched(&old, None);
    let now = crate::clock::now();
    new.evidence().rescued(now, &failure(client(1)), false);
    new.evidence().rescued(now, &failure(client(1)), true);
    let totals = new.evidence().totals();
    let counts = (totals.all, totals.bad, totals.both_failed, totals.rescues);
    assert_eq!(counts, (1, 1, 1, 2));
}

#[test]
fn minutes_and_the_highest_rate_are_remembered() {
    let pool = crate::pool::generation::tests::pool();
    let evidence = pool.evidence();
    for second in 0..125 {
        for _ in 0..if second == 70 { 9 } else { 2 } {
            evidence.answered(client(1), "/", 200, None, true);
        }
        evidence.second();
    }
    assert_eq!(evidence.highest_rate(), 9);
    assert_eq!(evidence.minutes(), [(120, 0), (127, 0), (10, 0)]);
    evidence.remember_minutes(vec![(5, 1)]);
    assert_eq!(evidence.minutes()[0], (5, 1));
}
