//! The same Caddyfile in Debian's Caddy 2.6 and in cutover: what a client and an upstream see of
//! both must be equal, except for the differences that `tests/compat/differences.txt` accepts. What
//! `proxyctl adapt` makes of the Caddyfile is run as well, and must answer exactly as that does.
//!
//! `tests/compat/cases` are run in both; `tests/compat/documented` are held to what Caddy's
//! documentation says, because Caddy 2.6 lacks the feature; `tests/compat/real` are whole sites.
//! `COMPAT_CASE=text` runs only the cases whose name contains the text.

#[path = "compat/mod.rs"]
mod runner;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use support::{Edge, Origins, curl, cutover, wait_until};

use runner::{accepted, all_cases, check_folder, compare_folder};

#[test]
fn answers_are_equal() {
    compare_folder("cases/answers");
}

#[test]
fn matchers_take_the_same_requests() {
    compare_folder("cases/matching");
}

#[test]
fn directives_run_in_the_same_order() {
    compare_folder("cases/ordering");
}

#[test]
fn requests_are_rewritten_alike() {
    compare_folder("cases/rewriting");
}

#[test]
fn fields_are_changed_alike() {
    compare_folder("cases/headers");
}

#[test]
fn files_are_served_alike() {
    compare_folder("cases/files");
}

#[test]
fn upstreams_and_clients_get_the_same() {
    compare_folder("cases/proxying");
}

#[test]
fn answers_are_compressed_alike() {
    compare_folder("cases/encoding");
}

#[test]
fn placeholders_and_imports_mean_the_same() {
    compare_folder("cases/values");
}

#[test]
fn sites_take_the_same_names_and_ports() {
    compare_folder("cases/sites");
}

#[test]
fn the_same_people_are_let_in() {
    compare_folder("cases/auth");
}

#[test]
fn what_caddy_2_6_lacks_does_what_its_documentation_says() {
    check_folder("documented");
}

#[test]
fn whole_sites_answer_as_before() {
    compare_folder("real");
}

#[test]
fn there_are_sixty_caddyfiles_and_four_hundred_requests_at_least() {
    let compared: Vec<_> = all_cases()
        .into_iter()
        .filter(|case| !case.name.starts_with("documented/"))
        .collect();
    let requests: usize = compared.iter().map(|case| case.requests.len()).sum();
    assert!(compared.len() >= 60, "{} Caddyfiles", compared.len());
    assert!(requests >= 400, "{requests} requests");
    let real = compared
        .iter()
        .filter(|case| case.name.starts_with("real/"));
    assert!(real.count() >= 10);
}

#[test]
fn every_accepted_difference_is_met_and_told_in_the_documentation() {
    let accepted = accepted::read();
    let listed: BTreeSet<String> = accepted.iter().map(|a| a.id.clone()).collect();
    let mut met: BTreeSet<String> = all_cases()
        .into_iter()
        .flat_map(|case| case.requests)
        .flat_map(|request| request.differs)
        .collect();
    met.insert(accepted::ERROR_PAGE.to_owned());
    assert_eq!(listed, met, "the table and the cases");

    let page = fs::read_to_string("docs/compat.md").expect("the page");
    let table = page
        .split("<!-- differences -->")
        .nth(1)
        .expect("the table");
    let told: BTreeSet<&str> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    let rows: Vec<String> = accepted.iter().map(accepted::Accepted::row).collect();
    let rows: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    assert_eq!(
        told, rows,
        "docs/compat.md and tests/compat/differences.txt"
    );
}

#[test]
fn a_file_beside_a_caddyfile_makes_its_site_one_that_can_be_switched() {
    let origins = Origins::start();
    let mut edge = Edge::prepare(&[]);
    let folder = edge.folder.path().display().to_string();
    let port = edge.http.port();
    let caddyfile = format!(
        "{{\n\thttp_port {port}\n}}\nhttp://app.localhost {{\n\theader X-Site app\n\
         \treverse_proxy {}\n}}\n",
        origins.blue.addr
    );
    let beside = format!(
        "state_dir = \"{folder}/state\"\n\
         [listen]\nops = \"{}\"\nadmin = \"{folder}/run/admin.sock\"\n\
         [service.\"app.localhost\"]\ngreen = [\"{}\"]\n\
         health = {{ path = \"/\", interval = \"200ms\" }}\n\
         switch = {{ observe = \"0s\", drain = \"1s\", ready_timeout = \"5s\" }}\n",
        edge.ops, origins.green.addr
    );
    let file = edge.folder.path().join("Caddyfile");
    fs::write(&file, caddyfile).expect("written");
    fs::write(edge.folder.path().join("cutover.toml"), beside).expect("written");
    let log = fs::File::create(edge.folder.path().join("daemon.log")).expect("a file");
    let child = Command::new(cutover())
        .args(["run", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("cutover starts");
    edge.child = Some(child);
    wait_until("the daemon is ready", || edge.is_ready());
    edge.wait_healthy();

    let url = format!("http://app.localhost:{port}/");
    let resolve = format!("app.localhost:{port}:127.0.0.1");
    let ask = || curl(&["-i", "--resolve", &resolve, &url]).stdout;
    let status = edge.status();
    assert_eq!(status["services"][0]["name"], "app.localhost");
    assert!(ask().contains("blue"), "{}", ask());
    let switched = edge.proxyctl(&["switch", "green"]);
    assert_eq!(switched.code, 0, "{switched:?}\n{}", edge.log());
    assert_eq!(edge.live(), "green");
    let answer = ask();
    assert!(answer.contains("green"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("x-site: app"),
        "{answer}"
    );
    let back = edge.proxyctl(&["switch", "blue"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(ask().contains("blue"));
}
