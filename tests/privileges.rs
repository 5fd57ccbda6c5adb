//! A start as root: what the real program gives up, takes over, and still knows at a reload. Needs
//! root, as the image does.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Edge, Origins, curl, cutover, finish, wait_until};

const UID: u32 = 10001;
/// Of nobody on this machine.
const SOCKET_GROUP: u32 = 54_321;
const NET_BIND_SERVICE: &str = "0000000000000400";

/// An edge on ports that need a capability, in a folder that every user can pass through.
fn prepare(user: Option<&str>) -> Edge {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests start the program as root: run them as root"
    );
    let variables: Vec<(&str, &Path)> = user
        .iter()
        .map(|user| ("CUTOVER_UID", Path::new(*user)))
        .collect();
    let mut edge = Edge::prepare(&variables);
    edge.http = SocketAddr::from(([127, 0, 0, 5], 80));
    edge.https = SocketAddr::from(([127, 0, 0, 5], 443));
    set_mode(edge.folder.path(), 0o755);
    edge
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// One line of `/proc/PID/status`, of every thread; they must all say the same.
fn status(edge: &Edge, name: &str) -> String {
    let pid = edge.child.as_ref().expect("running").id();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let mut said: Vec<String> = threads
        .map(|thread| {
            let file = thread.expect("a thread").path().join("status");
            let text = fs::read_to_string(file).expect("its status");
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let words = line.expect("the line").split_whitespace();
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert!(said.len() > 1, "the threads that serve");
    said.dedup();
    assert_eq!(said.len(), 1, "{name} {said:?}");
    said.remove(0)
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").uid()
}

#[test]
fn a_start_as_root_becomes_a_user_that_may_bind_ports_and_nothing_else() {
    let mut edge = prepare(Some("10001"));
    let socket = edge.folder.path().join("docker.sock");
    let _docker = UnixListener::bind(&socket).expect("a socket");
    chown(&socket, None, Some(SOCKET_GROUP)).expect("chown");
    set_mode(&socket, 0o660);
    let origins = Origins::start();
    edge.write(&format!(
        "[docker]\nsocket = \"{}\"\n{}",
        socket.display(),
        origins.config("")
    ));
    edge.spawn();
    edge.wait_healthy();

    assert_eq!(status(&edge, "Uid:"), "10001 10001 10001 10001");
    assert_eq!(status(&edge, "Gid:"), "10001 10001 10001 10001");
    assert_eq!(status(&edge, "Groups:"), SOCKET_GROUP.to_string());
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(status(&edge, set), NET_BIND_SERVICE, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(status(&edge, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&edge, "NoNewPrivs:"), "1");
    let answer = curl(&["http://127.0.0.5/", "--header", "Host: localhost"]);
    assert!(answer.stdout.contains("blue"), "{answer:?}");

    let state = edge.folder.path().join("state");
    let metadata = fs::metadata(&state).expect("there");
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (UID, 0o700));
    // Root, as in `docker exec`, is heard.
    assert_eq!(edge.live(), "blue");
    let switched = edge.proxyctl(&["switch", "green", "--no-wait"]);
    assert_eq!(switched.code, 0, "{switched:?}\n{}", edge.log());
    wait_until("green is live", || edge.live() == "green");
    assert_eq!(edge.stop("-TERM").1, Some(0));
}

#[test]
fn what_root_wrote_is_taken_over_but_for_files_with_another_name() {
    let mut edge = prepare(Some("10001"));
    let state = edge.folder.path().join("state");
    let (nested, linked) = (state.join("old/file"), state.join("linked"));
    let foreign = edge.folder.path().join("foreign");
    fs::create_dir_all(nested.parent().expect("a folder")).expect("a folder");
    fs::write(&nested, "by root").expect("a file");
    fs::write(&foreign, "of somebody else").expect("a file");
    fs::hard_link(&foreign, &linked).expect("another name");
    std::os::unix::fs::symlink(&foreign, state.join("symbolic")).expect("a link");
    fs::write(edge.folder.path().join("access.log"), "").expect("a file");
    edge.write(&Origins::start().config(""));
    edge.spawn();
    assert_eq!(owner(&state), UID);
    assert_eq!(owner(&nested), UID);
    assert_eq!(owner(&edge.folder.path().join("access.log")), UID);
    assert_eq!(owner(&foreign), 0, "not through a link");
    assert!(edge.log().contains("left to its owner"), "{}", edge.log());
}

#[test]
fn a_reload_knows_what_only_root_may_read_until_it_changes() {
    let mut edge = prepare(Some("10001"));
    let origins = Origins::start();
    let at = |name: &str| edge.folder.path().join(name);
    let ca = support::ca::Ca::new();
    let (cert, key) = support::ca::pair(edge.folder.path(), "site", &ca.sign(&["a.test"], "a"));
    let (hook, root) = (at("hook"), at("root.pem"));
    fs::write(&hook, "https://127.0.0.1:9/hook\n").expect("a file");
    fs::write(&root, ca.root.pem()).expect("a file");
    for file in [&cert, &key, &hook] {
        set_mode(file, 0o400);
    }
    let text = |port: u16| {
        format!(
            "[[notify]]\nkind = \"slack\"\nurl_file = \"{}\"\n\
             [[site]]\nhosts = [\"a.test\"]\nservice = \"web\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\n\
             [[site]]\nhosts = [\"b.test\"]\nupstream = [\"127.0.0.1:{port}\"]\ntls = \"off\"\n{}",
            hook.display(),
            cert.display(),
            key.display(),
            origins.service("")
        )
    };
    edge.write(&text(1));
    edge.spawn();
    edge.wait_healthy_except("b.test");
    let ask = || {
        curl(&[
            "https://a.test/",
            "--resolve",
            "a.test:443:127.0.0.5",
            "--cacert",
            &root.display().to_string(),
        ])
    };
    assert!(ask().stdout.contains("blue"), "{:?}\n{}", ask(), edge.log());

    edge.write(&text(2));
    let reload = edge.proxyctl(&["reload"]);
    assert_eq!(reload.code, 0, "{reload:?}\n{}", edge.log());
    assert!(reload.stdout.contains("b.test"), "{reload:?}");

    // Looking as that user, root is told the same.
    let doctor = Command::new(support::proxyctl())
        .args(["doctor", "--config"])
        .arg(edge.config())
        .env("CUTOVER_UID", "10001")
        .env("PROXYCTL_ADDR", edge.folder.path().join("run/admin.sock"))
        .output()
        .expect("doctor runs");
    let said = String::from_utf8_lossy(&doctor.stdout);
    for file in [&cert, &key, &hook] {
        let named = format!("{} cannot be read by uid 10001", file.display());
        assert!(said.contains(&named), "{named}\n{said}");
    }

    let fresh = edge.folder.path().join("fresh");
    fs::write(&fresh, "https://127.0.0.1:9/another\n").expect("a file");
    set_mode(&fresh, 0o400);
    fs::rename(&fresh, &hook).expect("replaced");
    let reload = edge.proxyctl(&["reload"]);
    assert_eq!(reload.code, 1, "{reload:?}");
    assert!(reload.stderr.contains("or restart"), "{reload:?}");
    assert!(ask().stdout.contains("blue"), "nothing changed");
}

#[test]
fn without_a_user_to_become_root_stays_root() {
    let mut edge = prepare(None);
    edge.write(&Origins::start().config(""));
    edge.spawn();
    assert_eq!(status(&edge, "Uid:"), "0 0 0 0");
    assert_eq!(status(&edge, "NoNewPrivs:"), "0");
    assert_eq!(owner(&edge.folder.path().join("state")), 0);
}

#[test]
fn a_user_that_is_no_number_ends_the_start_before_anything_is_touched() {
    let edge = prepare(None);
    edge.write(&Origins::start().config(""));
    let ended = finish(
        Command::new(cutover())
            .args(["run", "--config"])
            .arg(edge.config())
            .env("CUTOVER_UID", "caddy")
            .stdin(Stdio::null()),
    );
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("CUTOVER_UID is `caddy`"), "{ended:?}");
    assert!(!edge.folder.path().join("state").exists());
}
