//! Certificates of other programs: which are taken, which are not, which are said.

use super::super::adopt::{Adopted, Legacy, Places};
use super::*;

struct Tree(Folder);

impl Tree {
    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn caddy(&self, issuer: &str, name: &str, days: u32) {
        let now = clock::wall();
        let host = name.replace("wildcard_", "*");
        let (cert, key) = pem(&[&host], now - 9 * DAY, now + days * DAY - 5 * DAY);
        let stem = format!("caddy/certificates/{issuer}/{name}/{name}");
        self.put(&format!("{stem}.crt"), &cert);
        self.put(&format!("{stem}.key"), &key);
        self.put(&format!("{stem}.json"), "{}");
    }

    fn certbot(&self, name: &str, hosts: &[&str], server: &str) {
        let now = clock::wall();
        let (cert, key) = pem(hosts, now - DAY, now + 60 * DAY);
        self.put(&format!("le/archive/{name}/fullchain1.pem"), &cert);
        self.put(&format!("le/archive/{name}/privkey1.pem"), &key);
        let live = self.0.path().join("le/live").join(name);
        fs::create_dir_all(&live).expect("made");
        for part in ["fullchain", "privkey"] {
            let target = format!("../../archive/{name}/{part}1.pem");
            std::os::unix::fs::symlink(target, live.join(format!("{part}.pem"))).expect("linked");
        }
        let conf = format!("version = 2.1.0\n[renewalparams]\nserver = {server}\n");
        self.put(&format!("le/renewal/{name}.conf"), &conf);
        self.put("le/live/README", "not a lineage");
    }

    fn read(&self) -> Legacy {
        let places = Places {
            caddy: vec![self.0.path().join("caddy"), "/nowhere".into()],
            certbot: vec![self.0.path().join("le"), "/nowhere".into()],
        };
        Legacy::read(&places)
    }
}

fn fitting(legacy: &Legacy, names: &[&str]) -> Vec<Adopted> {
    legacy.fitting(&hosts(names), clock::wall())
}

const PUBLIC: &str = "acme-v02.api.letsencrypt.org-directory";

#[tokio::test]
async fn valid_certificates_of_both_programs_are_served_without_the_internal_ca() {
    let tree = Tree(Folder::new());
    tree.caddy(PUBLIC, "a.test", 60);
    tree.caddy("acme.zerossl.com-v2-dv90", "a.test", 90);
    tree.caddy(PUBLIC, "wildcard_.w.test", 60);
    tree.caddy("local", "local.test", 60);
    tree.caddy(
        "acme-staging-v02.api.letsencrypt.org-directory",
        "staged.test",
        60,
    );
    tree.caddy(PUBLIC, "over.test", 1);
    tree.caddy(PUBLIC, "unasked.test", 60);
    let production = "https://acme-v02.api.letsencrypt.org/directory";
    tree.certbot("b.test", &["b.test", "www.b.test"], production);
    let staging = "https://acme-staging-v02.api.letsencrypt.org/directory";
    tree.certbot("s.test", &["s.test"], staging);
    tree.put(
        &format!("caddy/acme/{PUBLIC}/users/me@a.test/me.json"),
        "{}",
    );
    tree.put(
        &format!("caddy/acme/{PUBLIC}/users/me@a.test/me.key"),
        "key",
    );
    tree.put(
        &format!("caddy/acme/{PUBLIC}/challenge_tokens/x.json"),
        "{}",
    );

    let names = [
        "a.test",
        "*.w.test",
        "x.w.test",
        "local.test",
        "staged.test",
        "over.test",
        "b.test",
        "www.b.test",
        "s.test",
    ];
    let found = tree.read();
    let certificates = fitting(&found, &names);
    assert!(found.unusable.is_empty(), "{:?}", found.unusable);
    let mut taken: Vec<_> = certificates
        .iter()
        .flat_map(|adopted| adopted.names.clone())
        .collect();
    taken.sort();
    let mut expected = hosts(&["a.test", "*.w.test", "x.w.test", "b.test", "www.b.test"]);
    expected.sort();
    assert_eq!(taken, expected);
    let of_a = certificates.iter().find(|c| c.names == hosts(&["a.test"]));
    let of_a = of_a.expect("adopted").cert.to_string_lossy().into_owned();
    assert!(of_a.contains("zerossl"), "the longest valid one: {of_a}");
    assert_eq!(found.accounts.len(), 1);
    assert_eq!(found.accounts[0].directory, PUBLIC);

    let store = tree.0.store();
    assert_eq!(store.adopt(certificates).len(), 3);
    let sites = [
        site(&["a.test", "b.test"], Tls::Auto),
        site(&["local.test"], Tls::Auto),
    ];
    let loaded = store.apply(&sites[..1], clock::wall()).expect("applied");
    assert_eq!(loaded[0].warnings, []);
    assert!(!tree.0.path().join("state/ca").exists(), "nothing to sign");
    let met = meet(&store, "b.test", client()).await;
    assert_eq!(met.shown(), ["b.test", "www.b.test"]);
    assert_eq!(store.uncertified(), []);
    let loaded = store.apply(&sites, clock::wall()).expect("applied");
    let said = loaded[1].warnings[0].to_string();
    assert!(
        said.starts_with("no certificate yet for local.test"),
        "{said}"
    );
    assert_eq!(store.uncertified(), hosts(&["local.test"]));
    let sources: Vec<_> = store.served().into_iter().map(|info| info.source).collect();
    assert!(matches!(sources[0], Source::Adopted(_)), "{sources:?}");
}

#[test]
fn what_cannot_be_used_is_named_and_hides_nothing_else() {
    let tree = Tree(Folder::new());
    tree.caddy(PUBLIC, "a.test", 60);
    tree.caddy(PUBLIC, "b.test", 60);
    let key = format!("caddy/certificates/{PUBLIC}/b.test/b.test.key");
    fs::remove_file(tree.0.path().join(&key)).expect("removed");
    tree.put(
        &format!("caddy/certificates/{PUBLIC}/c.test/c.test.crt"),
        "cut",
    );
    tree.put(
        &format!("caddy/certificates/{PUBLIC}/c.test/c.test.key"),
        "cut",
    );
    tree.put("le/live/d.test/fullchain.pem", "cut");
    let found = tree.read();
    let fitting = fitting(&found, &["a.test", "b.test", "c.test", "d.test"]);
    assert_eq!(fitting.len(), 1);
    let mut files: Vec<_> = found
        .unusable
        .iter()
        .map(|error| name(&error.file))
        .collect();
    files.sort();
    assert_eq!(files, ["b.test.key", "c.test.crt", "privkey.pem"]);
}

fn name(path: &Path) -> String {
    path.file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}
