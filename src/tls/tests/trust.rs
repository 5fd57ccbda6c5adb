//! Trust stores: what is put where, and what is said when it cannot be.

use super::super::trust::{Done, TrustError, TrustStore};
use super::*;

fn store(folder: &Folder, program: &[&str]) -> TrustStore {
    let roots = folder.path().join("roots");
    fs::create_dir_all(&roots).expect("made");
    let program: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
    TrustStore {
        folder: roots,
        rebuild: program.clone(),
        rebuild_without: program,
    }
}

#[test]
fn the_root_goes_in_once_and_comes_out_alone() {
    let folder = Folder::new();
    let state = folder.path().join("state");
    let trusted = store(&folder, &["true"]);
    let error = trusted.trust(&state).expect_err("no CA yet");
    assert!(matches!(error, TrustError::NoRoot { .. }), "{error}");
    folder.serving(&[site(&["a.test"], Tls::Internal)]);
    let other = trusted.folder.join("corporate.crt");
    fs::write(&other, "another root").expect("written");

    let done = trusted.trust(&state).expect("trusted");
    let Done::Trusted(file) = done else {
        panic!("{done:?}");
    };
    let root = fs::read(root_file(&state)).expect("the root");
    assert_eq!(fs::read(&file).expect("installed"), root);
    let again = trusted.trust(&state).expect("trusted");
    assert_eq!(again, Done::AlreadyTrusted(file.clone()));
    assert_eq!(
        trusted.untrust(&state).expect("gone"),
        Done::Removed(file.clone())
    );
    assert!(!file.exists());
    assert_eq!(trusted.untrust(&state).expect("gone"), Done::NotTrusted);
    assert!(other.exists(), "a root that is not ours was removed");
}

#[test]
fn a_store_that_cannot_be_rebuilt_is_left_as_it_was() {
    let folder = Folder::new();
    folder.serving(&[site(&["a.test"], Tls::Internal)]);
    let script = "echo 'disk full' >&2; exit 3";
    let failing = store(&folder, &["sh", "-c", script]);
    let error = failing
        .trust(&folder.path().join("state"))
        .expect_err("fails");
    let text = error.to_string();
    assert!(
        text.contains("disk full") && text.contains("exit status: 3"),
        "{text}"
    );
    assert_eq!(fs::read_dir(&failing.folder).expect("there").count(), 0);
}
