//! The life of the local CA.

use super::*;

fn roots_of(folder: &Folder) -> Arc<RootCertStore> {
    let file = root_file(&folder.path().join("state"));
    let text = fs::read(file).expect("a root");
    let mut roots = RootCertStore::empty();
    for der in certificate::chain_from_pem(&text).expect("PEM") {
        roots.add(der).expect("a root");
    }
    Arc::new(roots)
}

fn trusting(folder: &Folder) -> ClientConfig {
    let verifier = WebPkiServerVerifier::builder(roots_of(folder)).build();
    ClientConfig::builder()
        .with_webpki_verifier(verifier.expect("a verifier"))
        .with_no_client_auth()
}

#[tokio::test]
async fn a_client_that_trusts_the_root_verifies_names_wildcards_and_addresses() {
    let folder = Folder::new();
    let store = folder.serving(&[
        site(&["localhost", "127.0.0.1", "::1"], Tls::Internal),
        site(&["*.app.localhost"], Tls::Auto),
    ]);
    let local = Some("127.0.0.1".parse().expect("an address"));
    for name in ["localhost", "127.0.0.1", "x.app.localhost"] {
        let met = meet_at(&store, name, trusting(&folder), local).await;
        let client = met.client.expect("a verified handshake");
        let chain = client.get_ref().1.peer_certificates().expect("a chain");
        assert_eq!(chain.len(), 2, "leaf and intermediate");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_ca_so_trust_in_its_root_lasts() {
    let folder = Folder::new();
    let sites = [site(&["localhost"], Tls::Internal)];
    folder.serving(&sites);
    let trusting = trusting(&folder);
    let ca = folder.path().join("state/ca");
    let read = |name: &str| fs::read(ca.join(name)).expect("a file");
    let names = [
        "root.key",
        "root.pem",
        "intermediate.key",
        "intermediate.pem",
    ];
    let before = names.map(read);
    let restarted = folder.serving(&sites);
    assert_eq!(before, names.map(read));
    assert!(meet(&restarted, "localhost", trusting).await.client.is_ok());
    assert_eq!(fs::read_dir(&ca).expect("a folder").count(), names.len());
}

#[test]
fn the_ca_is_private_to_its_user() {
    let (folder, opened) = (Folder::new(), Folder::new());
    let ca = opened.path().join("state/ca");
    fs::create_dir_all(&ca).expect("a folder");
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o755)).expect("opened");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for folder in [folder, opened] {
        folder.serving(&[site(&["localhost"], Tls::Internal)]);
        let ca = folder.path().join("state/ca");
        assert_eq!(mode(&ca), 0o700);
        for file in fs::read_dir(&ca).expect("a folder") {
            let path = file.expect("an entry").path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

#[test]
fn without_an_internal_site_no_ca_is_made() {
    let folder = Folder::new();
    folder.serving(&[
        site(&["a.test"], folder.files("a", &["a.test"])),
        site(&["b.test"], Tls::Off),
    ]);
    assert!(!folder.path().join("state").exists());
}

#[test]
fn a_broken_ca_file_is_named_and_left_as_it_is() {
    let sites = [
        site(&["a.localhost"], Tls::Internal),
        site(&["b.localhost"], Tls::Internal),
    ];
    let foreign = Folder::new();
    foreign.serving(&sites);
    let other = |name: &str| fs::read(foreign.path().join("state/ca").join(name)).expect("there");
    let cases: [(&str, Option<Vec<u8>>, &str, &str); 6] = [
        (
            "root.pem",
            Some(b"junk".to_vec()),
            "root.pem",
            "contains no certificate",
        ),
        (
            "root.key",
            Some(b"junk".to_vec()),
            "root.key",
            "no supported kind",
        ),
        ("root.key", None, "root.key", "cannot be read"),
        (
            "root.key",
            Some(other("root.key")),
            "root.key",
            "does not match",
        ),
        (
            "intermediate.key",
            None,
            "intermediate.key",
            "cannot be read",
        ),
        (
            "intermediate.key",
            Some(other("intermediate.key")),
            "intermediate.key",
            "does not match",
        ),
    ];
    for (broken, content, named, what) in cases {
        let folder = Folder::new();
        folder.serving(&sites);
        let ca = folder.path().join("state/ca");
        match &content {
            Some(bytes) => fs::write(ca.join(broken), bytes).expect("written"),
            None => fs::remove_file(ca.join(broken)).expect("removed"),
        }
        let errors = folder.store().apply(&sites, clock::wall());
        let errors = errors.expect_err("a broken CA");
        assert_eq!(errors.len(), 1, "said once for all sites: {errors:?}");
        assert!(errors[0].file.ends_with(named), "{}", errors[0]);
        assert!(errors[0].to_string().contains(what), "{}", errors[0]);
        assert_eq!(
            fs::read(ca.join(broken)).ok(),
            content,
            "{broken} was touched"
        );
    }
}

#[test]
fn an_intermediate_of_another_root_is_found_out() {
    let sites = [site(&["a.localhost"], Tls::Internal)];
    let (folder, foreign) = (Folder::new(), Folder::new());
    folder.serving(&sites);
    foreign.serving(&sites);
    for name in ["intermediate.pem", "intermediate.key"] {
        let from = foreign.path().join("state/ca").join(name);
        fs::copy(from, folder.path().join("state/ca").join(name)).expect("copied");
    }
    let errors = folder.store().apply(&sites, clock::wall());
    let error = &errors.expect_err("no chain")[0];
    assert!(error.file.ends_with("intermediate.pem"), "{error}");
    assert!(matches!(error.fault, Fault::BrokenCa(_)), "{error}");
}

#[test]
fn half_a_ca_from_a_crash_is_completed() {
    let sites = [site(&["a.localhost"], Tls::Internal)];
    let folder = Folder::new();
    folder.serving(&sites);
    let ca = folder.path().join("state/ca");
    let key = fs::read(ca.join("root.key")).expect("there");
    for name in ["root.pem", "intermediate.key", "intermediate.pem"] {
        fs::remove_file(ca.join(name)).expect("removed");
    }
    folder.serving(&sites);
    assert_eq!(fs::read(ca.join("root.key")).expect("there"), key);
}

#[test]
fn leaves_live_seven_days_and_are_renewed_after_two_thirds() {
    let folder = Folder::new();
    let store = folder.store();
    let sites = [
        default_site(&[], Tls::Auto),
        site(&["a.localhost"], Tls::Internal),
    ];
    let now = clock::wall();
    store.apply(&sites, now).expect("applied");
    let first = store.served();
    assert_eq!(first.len(), 2);
    let days = |a: SystemTime, b: SystemTime| {
        let hours = b.duration_since(a).expect("later").as_secs_f64() / 3600.0;
        (hours / 24.0).round()
    };
    assert_eq!(days(now, first[0].not_after), 7.0);

    assert_eq!(store.renew_due(now + 4 * DAY).expect("able"), []);
    store.apply(&sites, now + DAY).expect("applied");
    assert_eq!(store.served(), first, "a reload makes no new certificates");

    let due = store.next_renewal().expect("leaves");
    assert_eq!(days(now, due), 5.0);
    let renewed = store.renew_due(due).expect("able");
    assert_eq!(renewed.len(), 2);
    for info in store.served() {
        assert_eq!(days(due, info.not_after), 7.0, "{info:?}");
    }
    assert!(store.next_renewal() > Some(due));
}

#[test]
fn the_intermediate_is_renewed_under_its_key_and_the_root_is_not() {
    let folder = Folder::new();
    let store = folder.store();
    let sites = [site(&["a.localhost"], Tls::Internal)];
    let now = clock::wall();
    store.apply(&sites, now).expect("applied");
    let read = |name: &str| fs::read(folder.path().join("state/ca").join(name)).expect("there");
    let names = ["root.key", "root.pem", "intermediate.key"];
    let (kept, old) = (names.map(read), read("intermediate.pem"));
    let later = now + 300 * DAY;
    store.renew_due(later).expect("able");
    assert_eq!(names.map(read), kept);
    assert_ne!(read("intermediate.pem"), old);
    assert!(store.served()[0].not_after > later + 6 * DAY);

    let expired = folder.store().apply(&sites, now + 4000 * DAY);
    let error = &expired.expect_err("no root lives that long")[0];
    assert!(error.file.ends_with("root.pem"), "{error}");
    assert!(matches!(error.fault, Fault::CaExpired { .. }), "{error}");
}
