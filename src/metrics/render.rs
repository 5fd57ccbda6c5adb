//! One scrape: counters from here, states from the caller, `process_*` from the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::model::{Color, Kind, Release, ServiceName};

use super::color::ColorMetrics;
use super::labels::{Outcome, Protocol, RollbackReason, SwitchOutcome};
use super::names::{self, QUANTILES};
use super::registry::{Metrics, ServiceMetrics};
use super::text::Exposition;

/// The `Content-Type` of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is, at the moment of a scrape, as its owners say.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    /// Every configured service, each once.
    pub services: Vec<LiveService>,
}

/// The state of one service.
#[derive(Clone, Debug)]
pub struct LiveService {
    /// Its name.
    pub name: ServiceName,
    /// The color that takes new requests.
    pub live: Color,
    /// Requests that wait at the edge.
    pub held: u64,
    /// Its slots by [`Color::index`]; `None`: no upstreams are configured there.
    pub colors: [Option<LiveColor>; 2],
}

/// The state of one slot.
#[derive(Clone, Debug, Default)]
pub struct LiveColor {
    /// What runs there, if that is known.
    pub release: Option<Release>,
    /// Open requests of all its pools, by [`Kind::index`].
    pub in_flight: [u64; 3],
    /// Those of them that belong to draining pools, by [`Kind::index`].
    pub drain_remaining: [u64; 3],
    /// Its upstreams as configured, each once, and whether probes call it healthy.
    pub upstreams: Vec<(String, bool)>,
}

impl Metrics {
    /// The page for Prometheus (text format 0.0.4), with quantiles as seen at `now`. Every
    /// family is announced, also those without a series yet; counters with a closed set of
    /// labels exist at zero for every service in `live` or ever passed to [`Metrics::color`].
    #[must_use]
    pub fn render(&self, now: Instant, live: &LiveState) -> String {
        let mut services = self.services();
        for service in &live.services {
            services.entry(service.name.clone()).or_default();
        }
        let unrouted = self.unrouted();
        let mut colors = vec![("", "", &unrouted)];
        for (name, service) in &services {
            for color in Color::ALL {
                if let Some(counters) = service.colors[color.index()].get() {
                    colors.push((name.as_str(), color.as_str(), counters));
                }
            }
        }
        let mut page = Exposition::default();
        render_traffic(&mut page, now, &colors);
        render_switches(&mut page, &services);
        render_live(&mut page, live);
        self.render_process(&mut page);
        page.finish(&self.process_text())
    }

    fn render_process(&self, page: &mut Exposition) {
        let mut expiry = page.family(&names::CERTIFICATE_EXPIRY);
        for (host, seconds) in self.certificates() {
            expiry.sample(&[&host], seconds);
        }
        let mut missing = page.family(&names::CERTIFICATE_MISSING);
        for host in self.missing() {
            missing.sample(&[&host], 1);
        }
        page.family(&names::CERTIFICATE_FILES_REJECTED)
            .sample(&[], self.rejected());
        let mut orders = page.family(&names::ACME_ORDERS);
        for outcome in Outcome::ALL {
            orders.sample(&[outcome.as_str()], self.acme_orders.value(outcome));
        }
        let mut reloads = page.family(&names::CONFIG_RELOADS);
        for outcome in Outcome::ALL {
            reloads.sample(&[outcome.as_str()], self.reloads.value(outcome));
        }
        let succeeded = !self.last_reload_failed.load(Relaxed);
        page.family(&names::CONFIG_LAST_RELOAD_SUCCESS)
            .sample(&[], u8::from(succeeded));
        let mut connections = page.family(&names::CONNECTIONS);
        for protocol in Protocol::ALL {
            connections.sample(&[protocol.as_str()], self.connections.value(protocol));
        }
        page.family(&names::BUILD_INFO)
            .sample(&[env!("CARGO_PKG_VERSION")], 1);
    }

    /// `process_*`, in the text format; empty where there is no `/proc`.
    #[cfg(target_os = "linux")]
    fn process_text(&self) -> String {
        use prometheus::core::Collector as _;

        let mut text = String::new();
        // What the kernel does not tell is missing from the page; the rest of it stands.
        let _ = prometheus::TextEncoder::new().encode_utf8(&self.process.collect(), &mut text);
        text
    }

    #[cfg(not(target_os = "linux"))]
    fn process_text(&self) -> String {
        String::new()
    }
}

fn render_traffic(
    page: &mut Exposition,
    now: Instant,
    colors: &[(&str, &str, &Arc<ColorMetrics>)],
) {
    let mut requests = page.family(&names::REQUESTS);
    for (service, color, counters) in colors {
        for (method, code, count) in counters.requests() {
            requests.sample(&[service, color, method, code], count);
        }
    }
    // An idle color has no histogram: fifteen empty buckets for each of thousands help nobody.
    let used = || colors.iter().filter(|(_, _, counters)| counters.is_used());
    let mut durations = page.family(&names::REQUEST_DURATION);
    for (service, color, counters) in used() {
        durations.histogram(&[service, color], &counters.duration());
    }
    let mut durations = page.family(&names::UPSTREAM_DURATION);
    for (service, color, counters) in used() {
        durations.histogram(&[service, color], &counters.upstream());
    }
    let mut quantiles = page.family(&names::REQUEST_QUANTILE);
    for (service, color, counters) in colors {
        let window = counters.window(now);
        for (q, text) in QUANTILES {
            let seconds = window.quantile(q).map_or(f64::NAN, |d| d.as_secs_f64());
            quantiles.sample(&[service, color, text], seconds);
        }
    }
    let mut errors = page.family(&names::UPSTREAM_ERRORS);
    for (service, color, counters) in colors {
        for (upstream, reasons) in counters.upstream_errors() {
            for (reason, count) in reasons {
                errors.sample(&[service, color, &upstream, reason.as_str()], count);
            }
        }
    }
}

fn render_switches(page: &mut Exposition, services: &BTreeMap<ServiceName, Arc<ServiceMetrics>>) {
    let mut switches = page.family(&names::SWITCHES);
    for (name, service) in services {
        for outcome in SwitchOutcome::ALL {
            let count = service.switches.value(outcome);
            switches.sample(&[name.as_str(), outcome.as_str()], count);
        }
    }
    let mut rollbacks = page.family(&names::ROLLBACKS);
    for (name, service) in services {
        for reason in RollbackReason::ALL {
            let count = service.rollbacks.value(reason);
            rollbacks.sample(&[name.as_str(), reason.as_str()], count);
        }
    }
    let mut rescued = page.family(&names::RESCUED);
    for (name, service) in services {
        rescued.sample(&[name.as_str()], service.rescued.load(Relaxed));
    }
}

fn render_live(page: &mut Exposition, live: &LiveState) {
    let mut in_flight = page.family(&names::IN_FLIGHT);
    each_slot(live, |service, color, slot| {
        for kind in Kind::ALL {
            let labels = [service.name.as_str(), color.as_str(), kind.as_str()];
            in_flight.sample(&labels, slot.in_flight[kind.index()]);
        }
    });
    let mut lives = page.family(&names::LIVE);
    each_slot(live, |service, color, _| {
        let is_live = u8::from(service.live == color);
        lives.sample(&[service.name.as_str(), color.as_str()], is_live);
    });
    let mut releases = page.family(&names::RELEASE_INFO);
    each_slot(live, |service, color, slot| {
        if let Some(release) = &slot.release {
            releases.sample(
                &[service.name.as_str(), color.as_str(), release.as_str()],
                1,
            );
        }
    });
    let mut healthy = page.family(&names::UPSTREAM_HEALTHY);
    each_slot(live, |service, color, slot| {
        for (upstream, passes) in &slot.upstreams {
            let labels = [service.name.as_str(), color.as_str(), upstream];
            healthy.sample(&labels, u8::from(*passes));
        }
    });
    let mut held = page.family(&names::HELD);
    for service in &live.services {
        held.sample(&[service.name.as_str()], service.held);
    }
    let mut remaining = page.family(&names::DRAIN_REMAINING);
    for service in &live.services {
        for kind in Kind::ALL {
            let slots = service.colors.iter().flatten();
            let sum: u64 = slots.map(|slot| slot.drain_remaining[kind.index()]).sum();
            remaining.sample(&[service.name.as_str(), kind.as_str()], sum);
        }
    }
}

fn each_slot(live: &LiveState, mut visit: impl FnMut(&LiveService, Color, &LiveColor)) {
    for service in &live.services {
        for color in Color::ALL {
            if let Some(slot) = &service.colors[color.index()] {
                visit(service, color, slot);
            }
        }
    }
}
