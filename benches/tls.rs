//! Ten thousand certificates: what they cost at start, in memory and in a handshake's lookup.
//!
//! Guards that a lookup does not grow with the number of certificates, and that publishing one
//! renewed certificate among many stays in milliseconds. The lookups of the smaller and the
//! larger table are measured in turns; what differs beside their number is the processor's
//! cache. Run: `cargo bench --bench tls`.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cutover::acme::{Issuance, Issuer, Method, Settings, Shelf, wanted};
use cutover::config::{Acme, Site, Tls, TlsVersion};
use cutover::metrics::Metrics;
use cutover::model::HostPattern;
use cutover::tls::Store;
use rcgen::{CertificateParams, KeyPair};

const FEW: usize = 10;
const MANY: usize = 10_000;
const LOOKUPS: u32 = 200_000;

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB"));
    number
        .and_then(|text| text.trim().parse().ok())
        .expect("VmRSS")
}

fn name(n: usize) -> String {
    format!("site-{n}.example.com")
}

fn site(folder: &Path, n: usize) -> Site {
    let (cert, key) = (
        folder.join(format!("{n}.pem")),
        folder.join(format!("{n}.key")),
    );
    Site {
        hosts: vec![HostPattern::Exact(name(n))],
        default: false,
        tls: Tls::Files { cert, key },
        min_version: TlsVersion::V1_2,
        client_auth: None,
        hsts: None,
        access_log: None,
        redirect: true,
        port: None,
        steps: Vec::new(),
        errors: Vec::new(),
        routes: Vec::new(),
        service: None,
    }
}

fn nanoseconds_per_lookup(store: &Store, names: &[String]) -> f64 {
    let (start, _) = now();
    for n in 0..LOOKUPS as usize {
        let name = &names[(n * 7919) % names.len()];
        assert!(black_box(store.certificate_for(name)).is_some());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

fn main() {
    cutover::tls::install_provider();
    let folder = std::env::temp_dir().join(format!("cutover-bench-tls-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    for n in 0..MANY {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name(n)]).expect("a name");
        let cert = params.self_signed(&key).expect("a certificate");
        fs::write(folder.join(format!("{n}.pem")), cert.pem()).expect("written");
        fs::write(folder.join(format!("{n}.key")), key.serialize_pem()).expect("written");
    }
    let start = |count: usize| {
        let sites: Vec<_> = (0..count).map(|n| site(&folder, n)).collect();
        let names: Vec<_> = (0..count).map(name).collect();
        let before = resident_kib();
        let (began, wall) = now();
        let store = Store::new(&folder.join("state")).expect("a store");
        store.apply(&sites, wall).expect("good files");
        let took = began.elapsed();
        let grown = resident_kib().saturating_sub(before);
        println!("{count:>6} certificates: read, checked and published in {took:.1?}, {grown} KiB");
        (store, names)
    };
    let (few, few_names) = start(FEW);
    let (many, many_names) = start(MANY);
    // A client that asks for few of many: the caches hold the same as with few.
    let hot = &many_names[..FEW];
    for round in 1..=3 {
        let (small, large) = (
            nanoseconds_per_lookup(&few, &few_names),
            nanoseconds_per_lookup(&many, hot),
        );
        let cold = nanoseconds_per_lookup(&many, &many_names);
        println!(
            "round {round}: a lookup among {FEW}: {small:.0} ns; among {MANY}: {large:.0} ns for \
             {FEW} names, {cold:.0} ns for all of them"
        );
    }
    let (began, wall) = now();
    let looks = 10;
    for _ in 0..looks {
        many.watch(wall + Duration::from_secs(60));
    }
    println!(
        "a look at the files, all {MANY} in {looks} calls: {:.1?} each",
        began.elapsed() / looks
    );
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name(0)]).expect("a name");
    let cert = params.self_signed(&key).expect("a certificate");
    fs::write(folder.join("0.pem"), cert.pem()).expect("written");
    fs::write(folder.join("0.key"), key.serialize_pem()).expect("written");
    // The first pair in the order of the looks, which begin again here.
    let (began, _) = now();
    let events = many.watch(wall + Duration::from_secs(120));
    println!(
        "one of {MANY} renewed, noticed and published: {:.1?}",
        began.elapsed()
    );
    assert_eq!(events.len(), 1, "the renewed one was not noticed");
    stored(&folder);
    fs::remove_dir_all(&folder).expect("removed");
}

/// A start with as many certificates that were ordered before.
fn stored(folder: &Path) {
    let state = folder.join("ordered");
    let shelf = Shelf::new(&state);
    let sites: Vec<_> = (0..MANY)
        .map(|n| Site {
            tls: Tls::Auto,
            ..site(folder, n)
        })
        .collect();
    let sets = wanted(&sites);
    for (n, names) in sets.iter().enumerate() {
        let read = |kind| fs::read_to_string(folder.join(format!("{n}.{kind}"))).expect("there");
        shelf
            .put_certificate(names, &read("key"), &read("pem"))
            .expect("stored");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let acme = Acme {
        directory: "https://127.0.0.1:9/directory".to_owned(),
        ..Acme::default()
    };
    let issuers = Issuer::from_config(&acme).expect("an issuer");
    let settings = Settings::new(state.clone(), issuers, vec![Method::Http01]);
    let before = resident_kib();
    let (began, wall) = now();
    let store = Arc::new(Store::new(&state).expect("a store"));
    let issuance = Issuance::start(
        settings,
        sets.clone(),
        Arc::clone(&store),
        Arc::default(),
        Metrics::new(),
        tokio::sync::mpsc::unbounded_channel().0,
    );
    store.apply(&sites, wall).expect("nothing to make");
    let took = began.elapsed();
    let grown = resident_kib().saturating_sub(before);
    assert_eq!(store.served().len(), MANY, "all of them are served");
    println!("{MANY} stored certificates: read, checked and published in {took:.1?}, {grown} KiB");
    let (began, _) = now();
    issuance.want(sets);
    println!("a reload with the same sites: {:.1?}", began.elapsed());
    runtime.block_on(issuance.stop());
}
