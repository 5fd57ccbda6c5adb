//! Files that change while they are served.

use std::os::unix::fs::symlink;

use super::client_auth::Clients;
use super::*;
use crate::config::{ClientAuth, ClientAuthMode};

/// Long after everything that the tests write, so that stamps are trusted.
fn later(looks: u64) -> SystemTime {
    clock::wall() + Duration::from_secs(60 + looks)
}

fn paths(tls: &Tls) -> (PathBuf, PathBuf) {
    match tls {
        Tls::Files { cert, key } => (cert.clone(), key.clone()),
        other => panic!("{other:?}"),
    }
}

fn fresh() -> (String, String) {
    pem(&["a.test"], clock::wall() - DAY, clock::wall() + DAY)
}

#[tokio::test]
async fn new_files_are_served_and_broken_ones_leave_the_last_good() {
    let folder = Folder::new();
    let files = folder.files("a", &["a.test"]);
    let (cert, key) = paths(&files);
    let store = folder.serving(&[site(&["a.test"], files)]);
    assert_eq!(store.watch(later(0)), []);
    let first = meet(&store, "a.test", client()).await.leaf();

    let (new_cert, new_key) = fresh();
    fs::write(&cert, &new_cert).expect("written");
    assert_eq!(store.watch(later(1)), [], "the key is still to come");
    assert_eq!(meet(&store, "a.test", client()).await.leaf(), first);
    fs::write(&key, &new_key).expect("written");
    let events = store.watch(later(2));
    assert!(matches!(events[..], [Event::Reloaded { .. }]), "{events:?}");
    let second = meet(&store, "a.test", client()).await.leaf();
    assert_ne!(first, second);

    for broken in ["", &new_cert[..new_cert.len() / 2], &fresh().0] {
        fs::write(&cert, broken).expect("written");
        assert_eq!(store.watch(later(3)), [], "no alarm at the first look");
        let events = store.watch(later(4));
        let [event @ Event::Rejected { file, .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(event.is_alarm());
        assert!(*file == cert || *file == key);
        assert_eq!(store.rejected().len(), 1);
        assert_eq!(store.watch(later(5)), [], "told once");
        assert_eq!(meet(&store, "a.test", client()).await.leaf(), second);
        fs::write(&cert, &new_cert).expect("written");
        let events = store.watch(later(6));
        assert!(matches!(events[..], [Event::Mended { .. }]), "{events:?}");
        assert_eq!(store.rejected(), []);
    }
    fs::remove_file(&key).expect("removed");
    assert_eq!(store.watch(later(7)), []);
    assert_eq!(store.watch(later(8)).len(), 1);
    assert_eq!(meet(&store, "a.test", client()).await.leaf(), second);
}

#[tokio::test]
async fn a_swapped_link_brings_both_files_at_once() {
    let folder = Folder::new();
    for version in ["v1", "v2"] {
        let (cert, key) = fresh();
        let path = folder.path().join(version);
        fs::create_dir(&path).expect("made");
        fs::write(path.join("tls.crt"), cert).expect("written");
        fs::write(path.join("tls.key"), key).expect("written");
    }
    // As Kubernetes mounts a secret: files lead through a link that is replaced by a rename.
    let data = folder.path().join("..data");
    symlink("v1", &data).expect("linked");
    for name in ["tls.crt", "tls.key"] {
        let target = Path::new("..data").join(name);
        symlink(target, folder.path().join(name)).expect("linked");
    }
    let files = Tls::Files {
        cert: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
    };
    let store = folder.serving(&[site(&["a.test"], files)]);
    let first = meet(&store, "a.test", client()).await.leaf();
    let fresh = folder.path().join("..data_tmp");
    symlink("v2", &fresh).expect("linked");
    fs::rename(&fresh, &data).expect("swapped");
    let events = store.watch(later(0));
    assert!(matches!(events[..], [Event::Reloaded { .. }]), "{events:?}");
    assert_ne!(meet(&store, "a.test", client()).await.leaf(), first);
}

#[test]
fn a_ca_of_clients_is_watched_too() {
    let folder = Folder::new();
    let ca = folder.write("clients.pem", &Clients::new().pem);
    let protected = Site {
        client_auth: Some(ClientAuth {
            mode: ClientAuthMode::Require,
            ca: ca.clone(),
        }),
        ..site(&["a.test"], Tls::Internal)
    };
    let store = folder.serving(&[protected]);
    let policy = || {
        let table = store.table().load();
        let picked = table.pick(Some("a.test"), None).expect("served");
        picked.presented.policy()
    };
    let first = policy();
    fs::write(&ca, "nothing").expect("written");
    assert_eq!(store.watch(later(0)), []);
    let events = store.watch(later(1));
    assert!(matches!(events[..], [Event::Rejected { .. }]), "{events:?}");
    assert_eq!(policy(), first);
    fs::write(&ca, Clients::new().pem).expect("written");
    let events = store.watch(later(2));
    assert_eq!(events, [Event::ClientCasReloaded { file: ca }]);
    assert_ne!(policy(), first, "old sessions would still be resumed");
}
