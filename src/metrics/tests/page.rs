//! The page as Prometheus reads it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use crate::clock;
use crate::model::{Color, ErrorType, Release, ServiceName};

use super::super::{
    LiveColor, LiveService, LiveState, Metrics, Outcome, Protocol, RequestOutcome, RollbackReason,
    SwitchOutcome,
};
use super::get;
use super::parse;

/// Names, types and labels that dashboards and alerts rely on.
const PROMISED: [(&str, &str, &[&str]); 23] = [
    (
        "cutover_requests_total",
        "counter",
        &["service", "color", "method", "code"],
    ),
    (
        "cutover_request_duration_seconds",
        "histogram",
        &["service", "color"],
    ),
    (
        "cutover_upstream_duration_seconds",
        "histogram",
        &["service", "color"],
    ),
    (
        "cutover_request_duration_quantile_seconds",
        "gauge",
        &["service", "color", "quantile"],
    ),
    (
        "cutover_in_flight_requests",
        "gauge",
        &["service", "color", "kind"],
    ),
    ("cutover_live", "gauge", &["service", "color"]),
    (
        "cutover_release_info",
        "gauge",
        &["service", "color", "release"],
    ),
    (
        "cutover_upstream_healthy",
        "gauge",
        &["service", "color", "upstream"],
    ),
    (
        "cutover_upstream_errors_total",
        "counter",
        &["service", "color", "upstream", "reason"],
    ),
    ("cutover_switches_total", "counter", &["service", "outcome"]),
    ("cutover_rollbacks_total", "counter", &["service", "reason"]),
    ("cutover_rescued_requests_total", "counter", &["service"]),
    ("cutover_held_requests", "gauge", &["service"]),
    ("cutover_drain_remaining", "gauge", &["service", "kind"]),
    (
        "cutover_certificate_expiry_timestamp_seconds",
        "gauge",
        &["host"],
    ),
    ("cutover_certificate_missing", "gauge", &["host"]),
    ("cutover_certificate_files_rejected", "gauge", &[]),
    ("cutover_acme_orders_total", "counter", &["outcome"]),
    ("cutover_config_reloads_total", "counter", &["outcome"]),
    ("cutover_config_last_reload_success", "gauge", &[]),
    ("cutover_downstream_connections", "gauge", &["protocol"]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
];

const NASTY: &str = "a\\b\"c\nd{e}=,ü";

fn web() -> ServiceName {
    "web".into()
}

/// A process in which everything happened at least once.
fn eventful() -> (Arc<Metrics>, Instant, LiveState) {
    let now = clock::now();
    let metrics = Metrics::starting_at(now);
    let [blue, green] = Color::ALL.map(|color| metrics.color(&web(), color));
    get(&blue, now, 200, Some(Duration::from_millis(20)));
    get(&blue, now, 502, Some(Duration::from_millis(40)));
    get(&blue, now, 101, None);
    get(
        &metrics.unrouted(),
        now,
        404,
        Some(Duration::from_micros(30)),
    );
    green.upstream_error("web-green:3000", ErrorType::ConnectionRefused);
    metrics.switch_finished(&web(), SwitchOutcome::RolledBack);
    metrics.rolled_back(&web(), RollbackReason::Latency);
    metrics.rescued(&web());
    metrics.reload(Outcome::Failure);
    metrics.acme_order(Outcome::Success);
    metrics.certificate_expiry("example.com", Some(1_900_000_000));
    metrics.certificates_missing(["shop.example.com".to_owned()].into());
    metrics.certificate_files_rejected(2);
    metrics.connection_opened(Protocol::Https);
    let blue = LiveColor {
        release: Some(Release::from(NASTY)),
        in_flight: [3, 2, 1],
        drain_remaining: [0, 2, 1],
        upstreams: vec![("web-blue:3000".to_owned(), true)],
    };
    let green = LiveColor {
        drain_remaining: [5, 0, 1],
        upstreams: vec![("web-green:3000".to_owned(), false)],
        ..LiveColor::default()
    };
    let service = LiveService {
        name: web(),
        live: Color::Green,
        held: 7,
        colors: [Some(blue), Some(green)],
    };
    (
        metrics,
        now,
        LiveState {
            services: vec![service],
        },
    )
}

/// The value of the one series with this name and these label values.
fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let families = parse::page(page);
    let samples = families.values().flat_map(|family| &family.samples);
    let mut found = samples.filter(|(full, pairs, _)| {
        full == name
            && pairs
                .iter()
                .map(|(_, value)| value.as_str())
                .eq(labels.iter().copied())
    });
    let (_, _, value) = found.next()?;
    assert!(found.next().is_none(), "{name} {labels:?} twice");
    Some(*value)
}

fn series(metrics: &Metrics, now: Instant) -> usize {
    let page = parse::page(&metrics.render(now, &LiveState::default()));
    page.values().map(|family| family.samples.len()).sum()
}

#[test]
#[cfg(target_os = "linux")]
fn every_promised_metric_is_there_with_its_type_and_labels() {
    let (metrics, now, live) = eventful();
    let families = parse::page(&metrics.render(now, &live));
    for (name, kind, labels) in PROMISED {
        let family = families
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(family.kind, kind, "{name}");
        assert!(!family.samples.is_empty(), "{name} has no series");
        for (full, pairs, _) in &family.samples {
            let names: Vec<_> = pairs.iter().map(|(label, _)| label.as_str()).collect();
            let bucket: &[&str] = if full.ends_with("_bucket") {
                &["le"]
            } else {
                &[]
            };
            assert_eq!(names, [labels, bucket].concat(), "{full}");
        }
    }
    let known: BTreeSet<_> = PROMISED.iter().map(|(name, _, _)| *name).collect();
    let added = families
        .keys()
        .filter(|name| !known.contains(name.as_str()));
    for name in added {
        assert!(
            name.starts_with("process_") || name == "cutover_build_info",
            "{name}"
        );
    }
}

#[test]
fn every_family_is_announced_before_anything_happened() {
    let now = clock::now();
    let page = Metrics::starting_at(now).render(now, &LiveState::default());
    let families = parse::page(&page);
    for (name, ..) in PROMISED
        .iter()
        .filter(|(name, ..)| name.starts_with("cutover_"))
    {
        assert!(families.contains_key(*name), "{name}");
    }
}

#[test]
fn values_are_those_that_were_recorded() {
    let (metrics, now, live) = eventful();
    let page = metrics.render(now, &live);
    let expected: [(&str, &[&str], f64); 30] = [
        (
            "cutover_requests_total",
            &["web", "blue", "GET", "200"],
            1.0,
        ),
        (
            "cutover_requests_total",
            &["web", "blue", "GET", "101"],
            1.0,
        ),
        ("cutover_requests_total", &["", "", "GET", "404"], 1.0),
        (
            "cutover_request_duration_seconds_count",
            &["web", "blue"],
            2.0,
        ),
        (
            "cutover_request_duration_seconds_sum",
            &["web", "blue"],
            0.06,
        ),
        (
            "cutover_request_duration_seconds_bucket",
            &["web", "blue", "0.025"],
            1.0,
        ),
        (
            "cutover_upstream_duration_seconds_bucket",
            &["web", "blue", "+Inf"],
            2.0,
        ),
        (
            "cutover_in_flight_requests",
            &["web", "blue", "websocket"],
            2.0,
        ),
        ("cutover_live", &["web", "blue"], 0.0),
        ("cutover_live", &["web", "green"], 1.0),
        ("cutover_release_info", &["web", "blue", NASTY], 1.0),
        (
            "cutover_upstream_healthy",
            &["web", "blue", "web-blue:3000"],
            1.0,
        ),
        (
            "cutover_upstream_healthy",
            &["web", "green", "web-green:3000"],
            0.0,
        ),
        (
            "cutover_upstream_errors_total",
            &["web", "green", "web-green:3000", "connection_refused"],
            1.0,
        ),
        ("cutover_switches_total", &["web", "rolled_back"], 1.0),
        ("cutover_rollbacks_total", &["web", "latency"], 1.0),
        ("cutover_rescued_requests_total", &["web"], 1.0),
        ("cutover_held_requests", &["web"], 7.0),
        ("cutover_drain_remaining", &["web", "request"], 5.0),
        ("cutover_drain_remaining", &["web", "sse"], 2.0),
        (
            "cutover_certificate_expiry_timestamp_seconds",
            &["example.com"],
            1.9e9,
        ),
        ("cutover_certificate_missing", &["shop.example.com"], 1.0),
        ("cutover_certificate_files_rejected", &[], 2.0),
        ("cutover_acme_orders_total", &["success"], 1.0),
        ("cutover_acme_orders_total", &["failure"], 0.0),
        ("cutover_config_reloads_total", &["failure"], 1.0),
        ("cutover_config_last_reload_success", &[], 0.0),
        ("cutover_downstream_connections", &["https"], 1.0),
        ("cutover_downstream_connections", &["http"], 0.0),
        ("cutover_build_info", &[env!("CARGO_PKG_VERSION")], 1.0),
    ];
    for (name, labels, wanted) in expected {
        assert_eq!(
            value(&page, name, labels),
            Some(wanted),
            "{name} {labels:?}"
        );
    }
    let median = ["web", "blue", "0.5"];
    let median = value(&page, "cutover_request_duration_quantile_seconds", &median);
    assert!(
        (median.expect("a median") - 0.02).abs() <= 0.0002,
        "{median:?}"
    );
}

#[test]
fn the_quantile_of_a_color_without_requests_is_nan() {
    let (metrics, now, live) = eventful();
    let name = "cutover_request_duration_quantile_seconds";
    let page = metrics.render(now, &live);
    for quantile in ["0.5", "0.9", "0.99", "0.999"] {
        let green = value(&page, name, &["web", "green", quantile]);
        assert!(green.expect("a series").is_nan());
    }
    let page = metrics.render(now + Duration::from_secs(66), &live);
    assert!(
        value(&page, name, &["web", "blue", "0.5"])
            .expect("a series")
            .is_nan()
    );
}

#[test]
fn counters_of_a_known_service_begin_at_zero() {
    let now = clock::now();
    let metrics = Metrics::starting_at(now);
    let _ = metrics.color(&web(), Color::Blue);
    let page = metrics.render(now, &LiveState::default());
    for outcome in ["kept", "rolled_back", "aborted", "refused"] {
        assert_eq!(
            value(&page, "cutover_switches_total", &["web", outcome]),
            Some(0.0)
        );
    }
    for reason in ["error_rate", "latency", "health", "container", "operator"] {
        assert_eq!(
            value(&page, "cutover_rollbacks_total", &["web", reason]),
            Some(0.0)
        );
    }
    assert_eq!(
        value(&page, "cutover_rescued_requests_total", &["web"]),
        Some(0.0)
    );
    assert_eq!(
        value(&page, "cutover_config_last_reload_success", &[]),
        Some(1.0)
    );
}

#[test]
fn what_a_client_makes_up_adds_no_series() {
    let now = clock::now();
    let metrics = Metrics::starting_at(now);
    let unrouted = metrics.unrouted();
    let record = |method: &str, status| {
        let method: Method = method.parse().expect("a method");
        let outcome = RequestOutcome {
            method: &method,
            status,
            duration: None,
            upstream: None,
        };
        unrouted.record(now, &outcome);
    };
    record("BREW", 777);
    record("GET", 299);
    let before = series(&metrics, now);
    for n in 0..500 {
        record(&format!("M{n}"), 600 + n);
    }
    for status in 209..226 {
        record("GET", status);
    }
    assert_eq!(series(&metrics, now), before);
    let page = metrics.render(now, &LiveState::default());
    let name = "cutover_requests_total";
    assert_eq!(value(&page, name, &["", "", "OTHER", "other"]), Some(501.0));
    assert_eq!(value(&page, name, &["", "", "GET", "2xx"]), Some(18.0));
}

#[test]
fn a_removed_service_loses_its_series_and_returns_at_zero() {
    let (metrics, now, _) = eventful();
    let old = metrics.color(&web(), Color::Blue);
    metrics.retain(&BTreeSet::from([ServiceName::from("api")]));
    get(&old, now, 200, None);
    let page = metrics.render(now, &LiveState::default());
    assert!(!page.contains("\"web\""), "{page}");
    assert!(value(&page, "cutover_requests_total", &["", "", "GET", "404"]).is_some());

    assert_eq!(metrics.color(&web(), Color::Blue).totals().requests, 0);
    let page = metrics.render(now, &LiveState::default());
    assert_eq!(
        value(&page, "cutover_switches_total", &["web", "rolled_back"]),
        Some(0.0)
    );
}

#[test]
fn a_kept_service_keeps_its_counters() {
    let (metrics, ..) = eventful();
    let before = metrics.color(&web(), Color::Blue);
    metrics.retain(&BTreeSet::from([web()]));
    assert!(Arc::ptr_eq(&before, &metrics.color(&web(), Color::Blue)));
}

#[test]
fn upstreams_and_certificates_that_are_gone_lose_their_series() {
    let (metrics, now, live) = eventful();
    metrics
        .color(&web(), Color::Green)
        .retain_upstreams(|name| name == "other:1");
    metrics.certificate_expiry("example.com", None);
    let families = parse::page(&metrics.render(now, &live));
    assert!(families["cutover_upstream_errors_total"].samples.is_empty());
    assert!(
        families["cutover_certificate_expiry_timestamp_seconds"]
            .samples
            .is_empty()
    );
}
