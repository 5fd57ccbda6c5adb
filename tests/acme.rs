//! Orders against pebble, the ACME server that Let's Encrypt tests clients with (Debian's
//! `pebble`, with every second nonce refused), and against a CA that misbehaves.

#[path = "acme/ca.rs"]
mod ca;
#[path = "acme/caddy.rs"]
mod caddy;
#[path = "acme/edge.rs"]
mod edge;
#[path = "acme/pebble.rs"]
mod pebble;
#[path = "acme/program.rs"]
mod program;
mod support;

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cutover::acme::{Event, Method};

use ca::{Misbehaving, Mood};
use edge::Edge;
use pebble::Pebble;
use support::Origins;

#[tokio::test(flavor = "multi_thread")]
async fn http_01_brings_a_certificate_that_is_stored_and_served() {
    let pebble = Pebble::start(&[]).await;
    let edge = Edge::start(&pebble.issuer(), &[Method::Http01], &["a.example.com"]).await;
    let issued = edge.issued().await;
    assert!(issued.starts_with("Pebble Intermediate"), "{issued}");
    let served = edge.served("a.example.com");
    assert!(
        served.issuer.starts_with("Pebble Intermediate"),
        "{served:?}"
    );
    let pem = fs::read_to_string(edge.state("certificates/a.example.com/certificate.pem"));
    let pem = pem.expect("stored");
    assert!(pem.contains("PRIVATE KEY") && pem.contains("BEGIN CERTIFICATE"));
    let status = &edge.issuance().status()[0];
    assert_eq!(status.method, Some("http-01"));
    assert_eq!(status.failures, 0, "{status:?}");
    assert!(edge.http_asked() > 0, "the CA asked the HTTP listener");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_01_brings_a_certificate() {
    let pebble = Pebble::start(&[]).await;
    let edge = Edge::start(&pebble.issuer(), &[Method::TlsAlpn01], &["b.example.com"]).await;
    edge.issued().await;
    assert!(edge.alpn_asked() > 0, "the CA asked the TLS listener");
    assert_eq!(edge.issuance().status()[0].method, Some("tls-alpn-01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_challenge_is_tried_when_the_first_fails() {
    let pebble = Pebble::start(&[]).await;
    let methods = [Method::Http01, Method::TlsAlpn01];
    let edge = Edge::builder(&pebble.issuer(), &methods, &["c.example.com"])
        .mute_http()
        .start()
        .await;
    let error = edge.failed().await;
    assert!(
        error.contains("c.example.com: "),
        "in the CA's own words: {error}"
    );
    assert!(
        edge.issuance().status()[0].next.is_some(),
        "a minute of backoff"
    );
    edge.advance(Duration::from_secs(70));
    edge.issued().await;
    assert_eq!(edge.issuance().status()[0].method, Some("tls-alpn-01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_bound_and_an_order_without_binding_says_what_to_set() {
    let pebble = Pebble::with_binding().await;
    let mut issuer = pebble.issuer();
    let edge = Edge::start(&issuer, &[Method::Http01], &["d.example.com"]).await;
    let error = edge.failed().await;
    assert!(error.contains("acme.eab_key_id"), "{error}");
    drop(edge);
    issuer.eab = Some(Pebble::binding());
    let edge = Edge::start(&issuer, &[Method::Http01], &["d.example.com"]).await;
    edge.issued().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_in_place_when_its_time_comes_and_the_account_is_reused() {
    let pebble = Pebble::start(&[]).await;
    let issuer = pebble.issuer();
    let builder = Edge::builder(&issuer, &[Method::Http01], &["e.example.com"]);
    // Three hours of life, five minutes before two thirds are over less the jitter.
    builder.store_certificate(
        "e.example.com",
        Duration::from_secs(105 * 60),
        Duration::from_secs(75 * 60),
    );
    let edge = builder.start().await;
    let before = edge.served("e.example.com");
    assert!(!before.issuer.starts_with("Pebble"), "{before:?}");
    edge.nothing_for(Duration::from_millis(500)).await;
    edge.advance(Duration::from_secs(16 * 60));
    edge.issued().await;
    let after = edge.served("e.example.com");
    assert!(after.issuer.starts_with("Pebble"), "{after:?}");
    let account = || fs::read_to_string(edge.account_file(&issuer)).expect("an account");
    let first = account();
    edge.issuance()
        .renew("e.example.com", true)
        .expect("wanted");
    edge.issued().await;
    assert_eq!(account(), first);
    assert!(
        edge.issuance().renew("e.example.com", false).is_err(),
        "fresh"
    );
    assert!(
        edge.issuance().renew("x.example.com", true).is_err(),
        "unknown"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_chain_is_taken_from_the_alternates() {
    let pebble = Pebble::start(&[
        ("PEBBLE_ALTERNATE_ROOTS", "2"),
        ("PEBBLE_CHAIN_LENGTH", "1"),
    ])
    .await;
    let roots = pebble.root_names().await;
    assert_eq!(roots.len(), 3);
    for (n, root) in roots.iter().enumerate() {
        let mut issuer = pebble.issuer();
        issuer.preferred_chain = Some(root.clone());
        let host = format!("f{n}.example.com");
        let edge = Edge::start(&issuer, &[Method::Http01], &[&host]).await;
        edge.issued().await;
        assert_eq!(&edge.top_issuer(&host), root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_an_address_costs_no_order() {
    let pebble = Pebble::start(&[]).await;
    let edge = Edge::builder(&pebble.issuer(), &[Method::Http01], &["gone.example.com"])
        .dns_without_names()
        .start()
        .await;
    let error = edge.failed().await;
    assert!(error.contains("gone.example.com"), "{error}");
    assert!(
        !edge.account_file(&pebble.issuer()).exists(),
        "nothing was sent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_cut_off_is_gone_on_with_and_not_made_twice() {
    let pebble = Pebble::start(&[]).await;
    let issuer = pebble.issuer();
    let builder = Edge::builder(&issuer, &[Method::Http01], &["h.example.com"]).hold_http();
    let mut edge = builder.start().await;
    let pending = edge.order_file(&issuer, "h.example.com");
    edge.until("the order is on disk and asked for", || {
        pending.exists() && edge.http_asked() > 0
    })
    .await;
    let first = fs::read_to_string(&pending).expect("an order");
    let state = edge.kill().await;
    let again = Edge::builder(&issuer, &[Method::Http01], &["h.example.com"]).without_listeners();
    let second = again.on(state).start().await;
    second.issued().await;
    let key = |text: &str| {
        let order: serde_json::Value = serde_json::from_str(text).expect("JSON");
        order["key"].as_str().expect("a key").trim().to_owned()
    };
    let stored = fs::read_to_string(second.state("certificates/h.example.com/certificate.pem"));
    assert!(
        stored.expect("stored").contains(&key(&first)),
        "the key of the first order"
    );
    assert!(!pending.exists() && !second.order_file(&issuer, "h.example.com").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_made_in_the_moment_of_a_kill_is_found_again_by_its_key() {
    let pebble = Pebble::start(&[]).await;
    let mut issuer = pebble.issuer();
    issuer.email = Some("ops@example.com".to_owned());
    let start = |host| Edge::builder(&issuer, &[Method::Http01], &[host]);
    let mut edge = start("k.example.com").start().await;
    edge.issued().await;
    let account = |edge: &Edge| {
        let file = fs::read_to_string(edge.account_file(&issuer)).expect("an account");
        serde_json::from_str::<serde_json::Value>(&file).expect("JSON")
    };
    let first = account(&edge);
    let file = edge.account_file(&issuer);
    let key_file = file.with_file_name("account-key.json");
    assert!(!key_file.exists(), "it is with its account");
    // As a kill leaves it between the CA's work and its answer.
    let key = first["key_pkcs8"].as_str().expect("a key");
    let key = URL_SAFE_NO_PAD.decode(key).expect("base64");
    let state = edge.kill().await;
    drop(edge);
    let written = serde_json::json!({"version": 1, "key": STANDARD.encode(key)});
    fs::write(&key_file, written.to_string()).expect("written");
    fs::remove_file(&file).expect("removed");
    let again = start("l.example.com").on(state).start().await;
    again.issued().await;
    let second = account(&again);
    assert_eq!(
        (&second["id"], &second["key_pkcs8"]),
        (&first["id"], &first["key_pkcs8"])
    );
    assert!(!key_file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_on_one_volume_one_orders() {
    let pebble = Pebble::start(&[]).await;
    let issuer = pebble.issuer();
    let first = Edge::start(&issuer, &[Method::Http01], &["i.example.com"]).await;
    first.issued().await;
    let second = Edge::builder(
        &issuer,
        &[Method::Http01],
        &["i.example.com", "j.example.com"],
    )
    .beside(&first)
    .start()
    .await;
    assert_eq!(second.event().await, Event::AnotherOrders);
    assert!(second.served("i.example.com").issuer.starts_with("Pebble"));
    second.nothing_for(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_down_slow_or_talks_nonsense_is_waited_for_on_the_ladder() {
    for (mood, words) in [
        (Mood::Down, "connection refused"),
        (Mood::Slow, "within"),
        (Mood::Garbage, "is no ACME directory"),
        (Mood::Broken, "500"),
    ] {
        let ca = Misbehaving::start(mood).await;
        let edge = Edge::start(&ca.issuer(), &[Method::Http01], &["k.example.com"]).await;
        let (error, wait) = edge.failed_and_wait().await;
        assert!(error.contains(words), "{mood:?}: {error}");
        assert!((60..=66).contains(&wait.as_secs()), "{mood:?}: {wait:?}");
        let asked = ca.asked();
        edge.advance(Duration::from_secs(50));
        edge.nothing_for(Duration::from_millis(300)).await;
        assert_eq!(ca.asked(), asked, "{mood:?}: not before its time");
        edge.advance(Duration::from_secs(20));
        let (_, wait) = edge.failed_and_wait().await;
        assert!((120..=132).contains(&wait.as_secs()), "{mood:?}: {wait:?}");
        assert!(
            edge.served("k.example.com").not_after > edge.now(),
            "the local CA's"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_of_the_ca_is_waited_for() {
    let ca = Misbehaving::start(Mood::Limited(Duration::from_secs(5_000))).await;
    let edge = Edge::start(&ca.issuer(), &[Method::Http01], &["l.example.com"]).await;
    edge.failed().await;
    let next = edge.issuance().status()[0].next.expect("a wait");
    edge.advance(Duration::from_secs(200));
    edge.nothing_for(Duration::from_millis(300)).await;
    let limit = edge.issuance().status()[0].next.expect("a wait");
    let wait = limit.duration_since(edge.now()).expect("later").as_secs();
    assert!(next < limit && (4_700..=4_800).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_that_the_ca_suggests_moves_the_renewal() {
    // This pebble has no renewal information; the server is written from RFC 9773.
    let ca = Misbehaving::start(Mood::Suggests(Duration::from_secs(3600))).await;
    let builder = Edge::builder(&ca.issuer(), &[Method::Http01], &["m.example.com"]);
    builder.store_certificate(
        "m.example.com",
        Duration::from_secs(3600),
        Duration::from_secs(80 * 86_400),
    );
    let edge = builder.start().await;
    let why = "the CA suggests it (RFC 9773)";
    edge.until("the window is known", || {
        edge.issuance().status()[0].why == why
    })
    .await;
    let next = edge.issuance().status()[0].next.expect("a wait");
    let wait = next.duration_since(edge.now()).expect("later");
    assert!(
        wait >= Duration::from_secs(3500) && wait <= Duration::from_secs(7300),
        "{wait:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn caa_records_of_the_parent_that_name_another_ca_cost_no_order() {
    let ca = Misbehaving::start(Mood::Named("ours.example")).await;
    let edge = Edge::builder(&ca.issuer(), &[Method::Http01], &["n.example.com"])
        .dns_with_caa("example.com.", "other.example")
        .await
        .start()
        .await;
    let error = edge.failed().await;
    let words = "the CAA records of example.com forbid ours.example: they allow only other.example";
    assert!(error.contains(words), "{error}");
    assert_eq!(ca.asked(), 1, "the directory alone");
}

#[test]
fn a_site_gets_its_certificate_by_itself_and_keeps_it_over_a_restart() {
    let mut daemon = program::Daemon::start(&["shop.example.com"]);
    daemon.wait_issued("shop.example.com");
    let answer = daemon.ask("shop.example.com");
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.stdout.contains("blue"), "{answer:?}");
    let orders = r#"cutover_acme_orders_total{outcome="success"}"#;
    assert_eq!(daemon.edge.metric(orders), Some(1.0));
    let expiry = r#"cutover_certificate_expiry_timestamp_seconds{host="shop.example.com"}"#;
    assert!(daemon.edge.metric(expiry) > Some(1.8e9));
    let table = daemon.edge.proxyctl(&["certs"]).stdout;
    assert!(
        table.contains("Pebble Intermediate") && table.contains("by http-01"),
        "{table}"
    );
    daemon.edge.stop("-KILL");
    daemon.edge.spawn();
    let answer = daemon.ask("shop.example.com");
    assert_eq!(answer.code, 0, "from the disk, at once: {answer:?}");
    assert_eq!(daemon.edge.metric(orders), Some(0.0), "no second order");
    let refused = daemon
        .edge
        .proxyctl(&["certs", "renew", "shop.example.com"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    let renewed = daemon
        .edge
        .proxyctl(&["certs", "renew", "shop.example.com", "--force"]);
    assert_eq!(renewed.code, 0, "{renewed:?}");
    assert!(renewed.stdout.contains("issued by Pebble"), "{renewed:?}");
    assert_eq!(daemon.edge.metric(orders), Some(1.0));
    // Only open challenges are answered, the rest goes where the site says.
    let path = "/.well-known/acme-challenge/nothing";
    let answer = program::plain(&daemon.edge, "shop.example.com", path).stdout;
    assert!(answer.contains("blue"), "not redirected: {answer}");
    let answer = program::plain(&daemon.edge, "shop.example.com", "/").stdout;
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
}

#[test]
fn a_first_start_with_many_sites_makes_one_account() {
    let hosts: Vec<String> = (0..8).map(|n| format!("n{n}.example.com")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let daemon = program::Daemon::start(&hosts);
    for host in &hosts {
        daemon.wait_issued(host);
        assert_eq!(daemon.certificate(host)["failures"], 0, "at the first try");
    }
    let log = daemon.pebble.log();
    assert!(log.contains("There are now 1 accounts"), "{log}");
    assert!(!log.contains("There are now 2 accounts"), "{log}");
    assert_eq!(log.matches("Added order").count(), hosts.len(), "{log}");
}

#[test]
fn a_reload_orders_for_new_sites_and_forgets_old_ones() {
    let daemon = program::Daemon::start(&["one.example.com"]);
    daemon.wait_issued("one.example.com");
    let origins = Origins::start();
    let dns = pebble::ports().2;
    let hosts = ["two.example.com", "app.localhost"];
    let text = program::text(&daemon.pebble, dns, &origins, &hosts);
    daemon.edge.write(&text);
    let reload = daemon.edge.proxyctl(&["reload"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    assert!(
        reload.stdout.contains("two.example.com"),
        "warned: {reload:?}"
    );
    daemon.wait_issued("two.example.com");
    assert!(daemon.certificate("one.example.com").is_null());
    assert_eq!(daemon.certificate("app.localhost")["origin"], "internal");
    assert_eq!(daemon.certificate("app.localhost")["stands_in"], false);
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_orders_orders_nothing_twice() {
    let hosts: Vec<String> = (0..6).map(|n| format!("k{n}.example.com")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut daemon = program::Daemon::start(&hosts);
    // Later and later in what a start does: account, orders, proofs, certificates, writes.
    let mut account = None;
    for kill in 0..12 {
        std::thread::sleep(Duration::from_millis(kill * 40));
        daemon.edge.stop("-KILL");
        let now = daemon.account();
        assert!(account.is_none() || account == now, "the account was lost");
        account = now;
        daemon.edge.spawn();
    }
    for host in &hosts {
        daemon.wait_issued(host);
        assert_eq!(daemon.ask(host).code, 0, "{host}");
    }
    daemon.edge.stop("-KILL");
    daemon.edge.spawn();
    let stored = r#"cutover_acme_orders_total{outcome="success"}"#;
    assert_eq!(daemon.edge.metric(stored), Some(0.0));
    let log = daemon.pebble.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("Issued certificate"), hosts.len(), "{log}");
}
