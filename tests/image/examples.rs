//! The worked examples, each in a fresh folder with the commands of its own README.

use std::fs;

use crate::compose::{Project, docker, edge_image, image};
use crate::support::{finish, wait_for, wait_until};
use std::time::Duration;

/// The application of the examples, in two releases.
const FIRST: &str = "cutover-test-app:v1";
const SECOND: &str = "cutover-test-app:v2";

/// Starting containers takes its time.
const STARTS: Duration = Duration::from_secs(60);

/// What stands behind `$ ` in the blocks of a README or another file.
pub(crate) fn commands(project: &Project, file: &str) -> Vec<String> {
    let text = fs::read_to_string(project.at(file)).expect("a README");
    let lines = text.lines().filter_map(|line| line.strip_prefix("$ "));
    lines
        .map(|line| {
            line.replace("registry.example.com/shop:v1", FIRST)
                .replace("registry.example.com/shop:v2", SECOND)
        })
        .collect()
}

pub(crate) fn images() {
    edge_image();
    image(&["app", "v1"]);
    image(&["app", "v2"]);
}

/// Goes through a README from the first line to the last: a switch runs in a terminal of its own
/// while the next line is typed in another one.
fn follow_the_readme(project: &Project) {
    let (mut terminal, mut serves) = (None, false);
    let mut before = String::new();
    for line in commands(project, "README.md") {
        if line.ends_with("switch green") {
            wait_for(STARTS, "the first release serves", || {
                project.ask("localhost").ends_with("v1\n")
            });
            wait_for(STARTS, "green is healthy", || {
                is_healthy(project, &before, "green")
            });
            terminal = Some(project.spawn(&line));
            serves = true;
            wait_for(STARTS, "the second release serves", || {
                project.ask("localhost").ends_with("v2\n")
            });
            continue;
        }
        let ended = finish(&mut project.shell(&line));
        assert_eq!(ended.code, 0, "{line}: {ended:?}");
        if line.ends_with("proxyctl status") {
            before.clone_from(&line);
        }
        if let Some(terminal) = terminal.take() {
            let switched = terminal.wait_with_output().expect("its end");
            let said = String::from_utf8_lossy(&switched.stdout);
            assert_eq!(switched.status.code(), Some(0), "{said}");
        }
        // Whatever is typed after the switch, nobody notices.
        if serves && (line.contains(" up ") || line.contains(" down")) {
            assert!(!project.ask("localhost").is_empty(), "{line}");
        }
    }
    assert!(!before.is_empty(), "the README has no switch");
    assert!(project.ask("localhost").ends_with("v2\n"));
    publishes_no_ops(project);
}

/// Whether the proxy finds every upstream of a color healthy; `status`: the README's command.
fn is_healthy(project: &Project, status: &str, color: &str) -> bool {
    let ended = finish(&mut project.shell(&format!("{status} --json")));
    let status: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
    let upstreams = status["services"][0]["slots"][color]["upstreams"].as_array();
    upstreams.is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["healthy"] == true))
}

fn publishes_no_ops(project: &Project) {
    for id in project.ids() {
        let ports = docker(&["port", &id]);
        assert!(!ports.contains("9180"), "{ports}");
    }
}

#[test]
fn blue_and_green_in_one_file() {
    images();
    let project = Project::new(Some("config/blue-green/one-file"), &["cutover-one-file"]);
    follow_the_readme(&project);
}

#[test]
fn blue_and_green_as_projects() {
    images();
    let names = ["proxy", "blue", "green"];
    let mut project = Project::new(Some("config/blue-green/projects"), &names);
    project.set("APP_NETWORK", "cutover-test-shop");
    follow_the_readme(&project);
}

#[test]
fn blue_and_green_as_overlays() {
    images();
    let project = Project::new(Some("config/blue-green/overlays"), &["cutover-overlays"]);
    follow_the_readme(&project);
}

#[test]
fn a_product_on_one_server() {
    images();
    image(&["postgres"]);
    let mut project = Project::new(Some("config/solo-saas"), &["cutover-solo"]);
    project.set("POSTGRES_IMAGE", "cutover-test-postgres:latest");
    project.set("BACKUPS", "cutover-solo-backups");
    for line in commands(&project, "README.md") {
        if line.ends_with("doctor") {
            continue;
        }
        if line.ends_with("proxyctl deploy v2") {
            release(&project, &line);
            continue;
        }
        let ended = finish(&mut project.shell(&line));
        assert_eq!(ended.code, 0, "{line}: {ended:?}");
    }
    assert!(project.ask("shop.example.com").ends_with("v2\n"));
    publishes_no_ops(&project);
    // The copy before the migration, and the one of the job.
    let copies = finish(&mut project.shell("docker compose exec db ls /backups")).stdout;
    let of = |kind: &str| copies.lines().filter(|name| name.starts_with(kind)).count();
    assert_eq!((of("pre-"), of("daily-")), (1, 1), "{copies}");
    // The database is nobody's but the application's.
    let network = docker(&["network", "inspect", "cutover-solo_db"]);
    let network: serde_json::Value = serde_json::from_str(&network).expect("JSON");
    assert_eq!(network[0]["Internal"], true);
    let inside = network[0]["Containers"].as_object().expect("containers");
    let mut names: Vec<_> = inside.values().map(|c| c["Name"].to_string()).collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(
        !names.iter().any(|name| name.contains("proxy")),
        "{names:?}"
    );
    // No public CA can be reached from here; nothing else is wrong.
    wait_until("doctor has one problem, the certificate", || {
        let line = "docker compose exec proxy proxyctl doctor";
        let ended = finish(&mut project.shell(line));
        let mut problems = ended
            .stdout
            .lines()
            .filter(|line| line.starts_with("problem"));
        let certificate = problems
            .next()
            .is_some_and(|line| line.contains("certificates") && line.contains("shop.example.com"));
        certificate && problems.next().is_none()
    });
}

/// A deploy with the copy, the migration and the worker, typed in one terminal while another one is
/// sure of it.
fn release(project: &Project, line: &str) {
    wait_for(STARTS, "the first release serves", || {
        project.ask("shop.example.com").ends_with("v1\n")
    });
    // What the migrations of an application make; a copy without any table is none.
    let table = "docker compose exec db psql -U app -c 'create table orders (id bigserial)'";
    assert_eq!(finish(&mut project.shell(table)).code, 0);
    let terminal = project.spawn(line);
    wait_for(STARTS, "the second release serves", || {
        project.ask("shop.example.com").ends_with("v2\n")
    });
    let mut sure = project.shell("docker compose exec proxy proxyctl promote");
    wait_for(STARTS, "somebody is sure of it", || {
        finish(&mut sure).code == 0
    });
    let deployed = terminal.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&deployed.stdout);
    assert_eq!(deployed.status.code(), Some(0), "{said}");
    assert!(
        said.contains("job snapshot") && said.contains("job migrate"),
        "{said}"
    );
}
