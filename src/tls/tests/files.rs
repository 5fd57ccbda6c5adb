//! Certificates from files: errors, warnings, sharing, silence about keys.

use super::*;

#[test]
fn every_bad_file_is_named_with_what_is_wrong_and_nothing_changes() {
    let folder = Folder::new();
    let good = folder.files("good", &["a.test"]);
    let Tls::Files { cert, key } = good.clone() else {
        panic!("files");
    };
    let store = folder.serving(&[site(&["a.test"], good)]);
    let other = pem(&["b.test"], clock::wall(), clock::wall() + DAY).1;
    let missing = folder.path().join("missing.pem");
    let empty = folder.write("empty.pem", "nothing");
    let text = fs::read_to_string(&cert).expect("readable");
    let cut = folder.write("cut.pem", &text[..text.len() / 2]);
    let junk = folder.write(
        "junk.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let junk_key = folder.write(
        "junk.key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let locked = folder.write(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let foreign = folder.write("foreign.key", &other);
    let cases = [
        (&missing, &key, &missing, "cannot be read: No such file"),
        (&empty, &key, &empty, "contains no certificate"),
        (&key, &key, &key, "contains no certificate"),
        (&cut, &key, &cut, "is not valid PEM: "),
        (&junk, &key, &junk, "certificate 1 cannot be parsed: "),
        (&cert, &missing, &missing, "cannot be read: No such file"),
        (&cert, &cert, &cert, "contains no private key"),
        (&cert, &junk_key, &junk_key, "is of no supported kind: "),
        (&cert, &locked, &locked, "the private key is encrypted"),
        (&cert, &foreign, &foreign, "does not match the certificate"),
    ];
    for (cert, key, file, what) in cases {
        let tls = Tls::Files {
            cert: cert.clone(),
            key: key.clone(),
        };
        let also = Tls::Files {
            cert: missing.clone(),
            key: missing.clone(),
        };
        let sites = [site(&["b.test"], tls), site(&["c.test"], also)];
        let errors = store.apply(&sites, clock::wall()).expect_err("bad files");
        assert_eq!(errors.len(), 2, "{errors:?}");
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let start = format!("{}: ", file.display());
        let named = texts.iter().find(|text| text.starts_with(&start));
        let named = named.unwrap_or_else(|| panic!("{texts:?} do not name {start}"));
        assert!(named.contains(what), "{named} without {what}");
        assert_eq!(store.served()[0].names, hosts(&["a.test"]));
    }
}

#[test]
fn a_combined_file_serves_and_what_deserves_a_word_gets_one() {
    let folder = Folder::new();
    let now = clock::wall();
    let (cert, key) = pem(&["a.test"], now - 3 * DAY, now - DAY);
    let file = folder.write("both.pem", &format!("{key}\n{cert}"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("opened");
    let expired = Tls::Files {
        cert: file.clone(),
        key: file.clone(),
    };
    let early = folder.dated_files("early", &["*.b.test"], now + DAY, now + 2 * DAY);
    let store = folder.store();
    let loaded = store
        .apply(
            &[
                site(&["a.test", "other.test"], expired),
                site(&["*.b.test", "x.b.test"], early),
            ],
            now,
        )
        .expect("usable");
    let said: Vec<String> = loaded[0].warnings.iter().map(ToString::to_string).collect();
    assert!(
        said[0].contains("both.pem: the certificate expired at 20"),
        "{said:?}"
    );
    assert!(said[1].ends_with("does not name other.test"), "{said:?}");
    assert!(
        said[2].contains("can be read by others (mode 0644)"),
        "{said:?}"
    );
    assert_eq!(said.len(), 3, "{said:?}");
    let [Warning::NotYetValid { .. }] = loaded[1].warnings[..] else {
        panic!("{:?}", loaded[1].warnings);
    };
}

#[test]
fn sites_that_share_files_share_one_certificate() {
    let folder = Folder::new();
    let tls = folder.files("shared", &["a.test", "b.test"]);
    let store = folder.serving(&[site(&["a.test"], tls.clone()), site(&["b.test"], tls)]);
    let served = store.served();
    assert_eq!(served.len(), 1);
    assert_eq!(served[0].names, hosts(&["a.test", "b.test"]));
}

#[test]
fn no_debug_output_shows_a_key() {
    let folder = Folder::new();
    let (chain, key) = pem(&["a.test"], clock::wall() - DAY, clock::wall() + DAY);
    let store = folder.serving(&[site(&["a.test"], Tls::Auto)]);
    let origin = Path::new("a.test");
    store
        .install(
            &hosts(&["a.test"]),
            origin,
            chain.as_bytes(),
            key.as_bytes(),
        )
        .expect("installed");
    let acceptor = Acceptor::new(Arc::clone(&store), PATIENCE);
    let shown = format!("{acceptor:?} {:?}", store.table());
    assert!(shown.contains("a.test"));
    // Only through these would a formatter reach a key.
    for way in ["cert_resolver", "ticketer", "SigningKey"] {
        assert!(!shown.contains(way), "{way} in {shown}");
    }
}
