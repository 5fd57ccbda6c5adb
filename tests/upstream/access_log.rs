//! The access log as it is on disk: formats, what is skipped, rotation, a file that was moved away.

use std::fs;
use std::process::Command;

use crate::support::raw::{Mood, Raw};
use crate::support::{Edge, curl, finish, wait_until};

/// `Edge` writes `[log.access]` with its file; these keys go below it.
fn configure(edge: &Edge, upstream: &Raw, log: &str) {
    edge.write(&format!(
        "[[site]]\nhosts = [\"127.0.0.1\"]\ntls = \"off\"\nservice = \"web\"\n\
         [service.web]\nblue = [\"{}\"]\n",
        upstream.addr
    ));
    let text = fs::read_to_string(edge.config()).expect("readable");
    let text = text.replace("[log.access]\n", &format!("[log.access]\n{log}\n"));
    fs::write(edge.config(), text).expect("written");
}

fn start(upstream: &Raw, log: &str) -> Edge {
    let mut edge = Edge::prepare(&[]);
    configure(&edge, upstream, log);
    edge.spawn();
    edge
}

fn get(edge: &Edge, path: &str) {
    let url = format!("http://{}{path}", edge.http);
    let agent = ["--user-agent", "a \"quoted\" one", "--cookie", "id=secret"];
    let answer = curl(&[&agent[..], &[&url]].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
}

fn hang_up(edge: &Edge) {
    let pid = edge.child.as_ref().expect("running").id().to_string();
    assert_eq!(finish(Command::new("kill").args(["-HUP", &pid])).code, 0);
}

#[test]
fn a_reload_changes_the_form_and_what_is_skipped() {
    let upstream = Raw::start("up", Mood::Good);
    let edge = start(&upstream, "format = \"combined\"\nskip = [\"/quiet/*\"]");
    get(&edge, "/quiet/1");
    get(&edge, "/loud?token=secret");
    wait_until("the line is there", || edge.access_log().contains('\n'));
    let line = edge.access_log();
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let end = "] \"GET /loud?token=*** HTTP/1.1\" 200 ";
    assert!(
        line.contains(end) && line.ends_with(" \"-\" \"a \\\"quoted\\\" one\"\n"),
        "{line}"
    );
    assert!(!line.contains("quiet"), "{line}");

    configure(&edge, &upstream, "format = \"caddy\"\nskip = [\"404\"]");
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    get(&edge, "/quiet/2?token=secret");
    wait_until("the line is there", || {
        edge.access_log().contains("/quiet/2")
    });
    let log = edge.access_log();
    let last = log.lines().last().expect("a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["msg"], "handled request");
    assert_eq!(last["request"]["uri"], "/quiet/2?token=***");
    assert_eq!(last["request"]["headers"]["Cookie"][0], "REDACTED");
    assert_eq!(last["status"], 200);
    let asked = curl(&[
        "--header",
        "Host: unknown",
        &format!("http://{}/nowhere", edge.http),
    ]);
    assert_ne!(asked.code, 0);
    get(&edge, "/last");
    wait_until("the last line is there", || {
        edge.access_log().contains("/last")
    });
    assert!(!edge.access_log().contains("/nowhere"));
    assert!(!edge.access_log().contains("secret"));
}

#[test]
fn the_file_is_rotated_by_size_and_opened_again_when_it_was_moved() {
    let upstream = Raw::start("up", Mood::Good);
    let rotate = "rotate = { size = \"1KiB\", keep = 2 }";
    let edge = start(&upstream, rotate);
    let all = || {
        let names = fs::read_dir(edge.folder.path()).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with("access"))
            .collect::<Vec<_>>()
    };
    for n in 0..40 {
        get(&edge, &format!("/{n}"));
        wait_until("it is written", || {
            !edge.access_log().is_empty() || all().len() > 1
        });
    }
    wait_until("old ones are compressed, and two of them left", || {
        let names = all();
        let compressed = names
            .iter()
            .filter(|name| name.ends_with(".log.gz"))
            .count();
        names.len() <= 3 && compressed >= 1
    });

    configure(&edge, &upstream, "");
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    let (log, moved) = (
        edge.folder.path().join("access.log"),
        edge.folder.path().join("moved"),
    );
    fs::rename(&log, &moved).expect("moved");
    // With a configuration that has an error too.
    fs::write(edge.config(), "nonsense").expect("written");
    hang_up(&edge);
    wait_until("the file is back", || log.exists());
    get(&edge, "/after");
    wait_until("lines go there", || edge.access_log().contains("/after"));
    assert!(
        !fs::read_to_string(&moved)
            .expect("readable")
            .contains("/after")
    );
}

#[test]
fn a_log_that_cannot_be_opened_is_no_new_configuration() {
    let upstream = Raw::start("up", Mood::Good);
    let edge = start(&upstream, "");
    let text = fs::read_to_string(edge.config()).expect("readable");
    let text = text.replace("/access.log", "/missing/access.log");
    fs::write(edge.config(), text).expect("written");
    let reload = edge.proxyctl(&["reload"]);
    assert_eq!(reload.code, 1, "{reload:?}");
    assert!(reload.stderr.contains("/missing/access.log"), "{reload:?}");
    get(&edge, "/still");
    wait_until("the old one is written", || {
        edge.access_log().contains("/still")
    });
}

#[test]
fn a_site_has_a_log_of_its_own() {
    let upstream = Raw::start("up", Mood::Good);
    let mut edge = Edge::prepare(&[]);
    let own = |name: &str| edge.folder.path().join(name);
    let [first, second, bad] = ["first.log", "second.log", "missing/x.log"].map(own);
    let text = |log: &std::path::Path, redact: &str| {
        format!(
            "[[site]]\nhosts = [\"127.0.0.1\"]\ntls = \"off\"\nservice = \"web\"\n\
             [[site]]\nhosts = [\"own.internal\"]\ntls = \"off\"\nservice = \"web\"\n\
             access_log = {{ file = {log:?}, format = \"combined\", skip = [{redact}] }}\n\
             [service.web]\nblue = [\"{}\"]\n",
            upstream.addr
        )
    };
    edge.write(&text(&first, ""));
    edge.spawn();
    let get_own = |path: &str| {
        let url = format!("http://{}{path}", edge.http);
        let answer = curl(&["--header", "Host: own.internal", &url]);
        assert_eq!(answer.code, 0, "{answer:?}");
    };
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    get(&edge, "/shared");
    get_own("/own?token=secret");
    wait_until("each has its line", || {
        edge.access_log().contains("/shared") && read(&first).contains("/own")
    });
    let line = read(&first);
    assert!(
        line.contains("\"GET /own?token=*** HTTP/1.1\" 200 "),
        "{line}"
    );
    assert!(!line.contains("/shared") && !edge.access_log().contains("/own"));

    // Moved away by another program.
    fs::rename(&first, edge.folder.path().join("first.log.1")).expect("renamed");
    hang_up(&edge);
    // Whoever checks the configuration makes the file before the writer opens it.
    wait_until("lines go there", || {
        get_own("/again");
        read(&first).contains("/again")
    });

    edge.write(&text(&bad, ""));
    let refused = edge.proxyctl(&["reload"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("missing/x.log"), "{refused:?}");
    edge.write(&text(&second, "\"/quiet\""));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    get_own("/quiet");
    get_own("/moved");
    wait_until("lines go to the other file", || {
        read(&second).contains("/moved")
    });
    assert!(!read(&second).contains("/quiet") && !read(&first).contains("/moved"));
}
