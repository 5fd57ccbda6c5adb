//! What every request pays before it is sent: route match, and claim and release.
//!
//! Guards: the cost of a match must not grow with the number of routes, and a claim must stay
//! cheap when all cores take it at once. Compare runs of the same machine only.

#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use cutover::config::load_str;
use cutover::metrics::Metrics;
use cutover::model::{Color, Generation};
use cutover::pool::{Pool, RequestView, Routes, Slot, SlotSettings};
use http::{HeaderMap, HeaderName, Method};

struct Request {
    path: String,
    headers: HeaderMap,
}

impl RequestView for Request {
    fn path(&self) -> &str {
        &self.path
    }
    fn method(&self) -> &Method {
        &Method::GET
    }
    fn any_header(&self, name: &HeaderName, accept: &dyn Fn(&str) -> bool) -> bool {
        let values = self.headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(accept)
    }
    fn query(&self) -> Option<&str> {
        None
    }
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }
}

/// `count` routes: half of them hosts of their own, half prefixes of one host.
fn routes(count: usize) -> Routes {
    let mut text = String::from("[service.app]\nblue = [\"127.0.0.1:1\"]\n");
    for n in 0..count / 2 {
        text.push_str(&format!(
            "[[site]]\nhosts = [\"h{n}.test\"]\nservice = \"app\"\ntls = \"off\"\n"
        ));
    }
    text.push_str("[[site]]\nhosts = [\"many.test\"]\nservice = \"app\"\ntls = \"off\"\n");
    for n in 0..count / 2 {
        text.push_str(&format!(
            "[[site.route]]\npath = \"/p{n}/*\"\nservice = \"app\"\n"
        ));
    }
    let config = load_str("bench.toml", &text).expect("a valid configuration");
    Routes::new(&config)
}

fn route_match(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_match");
    for count in [10, 1_000, 10_000] {
        let routes = routes(count);
        let request = Request {
            path: format!("/p{}/users/17", count / 4),
            headers: HeaderMap::new(),
        };
        let host = format!("h{}.test", count / 4);
        group.bench_with_input(BenchmarkId::new("host", count), &host, |b, host| {
            b.iter(|| {
                routes
                    .site(black_box(host), 80)
                    .and_then(|site| site.find(&request))
                    .is_some()
            });
        });
        group.bench_with_input(BenchmarkId::new("path", count), &request, |b, request| {
            b.iter(|| {
                routes
                    .site(black_box("many.test"), 80)
                    .and_then(|site| site.find(request))
                    .is_some()
            });
        });
    }
    group.finish();
}

fn claim(c: &mut Criterion) {
    let metrics = Metrics::new();
    let config = load_str(
        "bench.toml",
        "[[site]]\nhosts=[\"a.test\"]\nupstream=[\"127.0.0.1:1\"]\ntls=\"off\"\n",
    )
    .expect("a valid configuration");
    let service = &config.services[0];
    let slot = Arc::new(Slot::new(
        service.name.clone(),
        Color::Blue,
        SlotSettings::of(service),
        metrics.color(&service.name, Color::Blue),
    ));
    let pool = Pool::new(slot, Generation(1));
    let mut group = c.benchmark_group("claim_release");
    for contenders in [0_usize, 1, 3] {
        let stop = Arc::new(AtomicBool::new(false));
        let others: Vec<_> = (0..contenders)
            .map(|_| {
                let (pool, stop) = (Arc::clone(&pool), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        drop(black_box(pool.try_claim()));
                    }
                })
            })
            .collect();
        group.bench_function(BenchmarkId::new("contenders", contenders), |b| {
            b.iter(|| drop(black_box(pool.try_claim())));
        });
        stop.store(true, Ordering::Relaxed);
        for other in others {
            other.join().expect("a contender");
        }
    }
    group.finish();
}

criterion_group!(benches, route_match, claim);
criterion_main!(benches);
