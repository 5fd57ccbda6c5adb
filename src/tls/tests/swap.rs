//! Certificates that change while clients connect.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_connecting_clients_fail_nobody_and_mix_no_names() {
    const SWAPS: usize = 200;
    let folder = Folder::new();
    let sites = [
        site(&["a.test"], folder.files("a", &["a.test"])),
        site(&["b.test"], folder.files("b", &["b.test"])),
        site(&["c.test"], Tls::Auto),
    ];
    let store = folder.serving(&sites);
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let clients: Vec<_> = ["a.test", "b.test", "c.test"]
        .into_iter()
        .map(|name| {
            let (store, done) = (Arc::clone(&store), Arc::clone(&done));
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut met = 0;
                while met == 0 || !done.load(Ordering::Relaxed) {
                    let shaken = meet(&store, name, client()).await;
                    assert_eq!(shaken.shown(), [name]);
                    let leaf = shaken.leaf();
                    seen.lock().expect("no panic").insert((name, leaf));
                    met += 1;
                }
                met
            })
        })
        .collect();
    let swapping = tokio::task::spawn_blocking(move || {
        let deadline = clock::now() + PATIENCE;
        let both = || {
            let seen = seen.lock().expect("no panic");
            seen.iter().filter(|(name, _)| *name == "c.test").count() > 1
        };
        for n in 0.. {
            if n >= SWAPS && (both() || clock::now() > deadline) {
                break;
            }
            if n % 2 == 0 {
                let (chain, key) = pem(&["c.test"], clock::wall() - DAY, clock::wall() + DAY);
                let (names, origin) = (hosts(&["c.test"]), Path::new("c.test"));
                store
                    .install(&names, origin, chain.as_bytes(), key.as_bytes())
                    .expect("installed");
            } else {
                store.apply(&sites, clock::wall()).expect("applied");
            }
        }
        assert!(both(), "no client met a second certificate");
        store.served()
    });
    let served = swapping.await;
    done.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.expect("no failed handshake") > 0);
    }
    let served = served.expect("all swaps");
    assert_eq!(served.len(), 3);
    assert_eq!(served[2].source, Source::Installed);
}

#[test]
fn what_an_issuer_installed_survives_a_reload_and_is_for_auto_alone() {
    let folder = Folder::new();
    let auto = default_site(&["a.test"], Tls::Auto);
    let store = folder.serving(std::slice::from_ref(&auto));
    let (chain, key) = pem(&["a.test"], clock::wall() - DAY, clock::wall() + DAY);
    let install = |chain: &str, key: &str| {
        let origin = Path::new("order for a.test");
        store.install(
            &hosts(&["a.test"]),
            origin,
            chain.as_bytes(),
            key.as_bytes(),
        )
    };
    install(&chain, &key).expect("installed");
    let sources = || -> Vec<_> { store.served().into_iter().map(|info| info.source).collect() };
    assert_eq!(sources(), [Source::Installed]);
    store
        .apply(std::slice::from_ref(&auto), clock::wall())
        .expect("applied");
    assert_eq!(sources(), [Source::Installed]);
    let error = install(&chain, "").expect_err("no key");
    assert_eq!(
        error.to_string(),
        "order for a.test: contains no private key (no `BEGIN PRIVATE KEY` section)"
    );
    let internal = Site {
        tls: Tls::Internal,
        ..auto
    };
    store.apply(&[internal], clock::wall()).expect("applied");
    assert_eq!(sources(), [Source::Internal]);
}
