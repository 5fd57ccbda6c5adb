use std::time::Duration;

use super::*;
use crate::config::{Balance, Probe};

fn container(labels: &[(&str, &str)]) -> Container {
    let labels = labels.iter();
    Container {
        name: "web-1".to_owned(),
        labels: labels
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Container::default()
    }
}

fn said(label: &str, value: &str) -> String {
    let labels = read(&container(&[
        (label, value),
        ("cutover.host", "good.example"),
    ]));
    assert_eq!(labels.hosts.len(), 1, "the other label holds");
    let problems: Vec<_> = labels.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{label}={value}: {problems:?}");
    let problem = problems.concat();
    assert!(problem.starts_with("web-1: label "), "{problem}");
    problem
}

#[test]
fn labels_say_where_a_container_is_served_and_how() {
    let labels = read(&container(&[
        ("cutover.host", "example.com, www.example.com"),
        ("cutover.path", "/api/*"),
        ("cutover.service", "web"),
        ("cutover.color", "green"),
        ("cutover.port", "3000"),
        ("cutover.network", "edge"),
        ("cutover.health", "/up"),
        ("cutover.health.interval", "1s"),
        ("cutover.balance", "round_robin"),
        ("cutover.switch.drain", "10s"),
        ("cutover.switch.observe_requests", "7"),
        ("cutover.rollback.rescue", "false"),
        ("traefik.enable", "true"),
    ]));
    assert_eq!(labels.problems, []);
    assert_eq!(labels.hosts.len(), 2);
    assert_eq!(labels.color, Some(Color::Green));
    assert_eq!(labels.port, Some(3000));
    let service = service("web", &labels.keys, &Rollback::default()).expect("a service");
    assert_eq!(service.balance, Balance::RoundRobin);
    assert_eq!(service.switch.drain, Duration::from_secs(10));
    assert_eq!(service.switch.observe_requests, 7);
    assert!(!service.rollback.rescue);
    assert_eq!(service.health.interval, Duration::from_secs(1));
    let Probe::Http { path, .. } = &service.health.probe else {
        panic!("{:?}", service.health);
    };
    assert_eq!(path, "/up");
}

#[test]
fn a_label_sets_no_job_and_no_command() {
    for label in [
        "cutover.job",
        "cutover.jobs.backup.command",
        "cutover.command",
        "cutover.hook.pre",
    ] {
        assert!(
            said(label, "rm -rf /").contains("configuration file"),
            "{label}"
        );
    }
}

#[test]
fn a_label_names_no_file() {
    for label in [
        "cutover.health.token_file",
        "cutover.password_file",
        "cutover.sticky.secret_file",
    ] {
        assert!(
            said(label, "/run/secrets/x").contains("no files"),
            "{label}"
        );
    }
}

#[test]
fn a_label_names_no_files_of_tls() {
    for label in ["cutover.tls.cert", "cutover.tls.key", "cutover.tls.ca"] {
        assert!(said(label, "/key.pem").contains("TLS"), "{label}");
    }
    assert!(said("cutover.tls", "/cert.pem").contains("internal"));
}

#[test]
fn a_label_sets_nothing_of_acme() {
    assert!(said("cutover.acme.directory", "https://evil.example").contains("certificates"));
}

#[test]
fn a_label_sets_no_notification() {
    assert!(said("cutover.notify.url", "https://evil.example").contains("notifications"));
}

#[test]
fn a_label_does_not_point_to_another_engine() {
    assert!(said("cutover.docker.socket", "tcp://evil.example:1").contains("the engine"));
}

#[test]
fn a_label_leads_to_no_unix_socket() {
    for label in [
        "cutover.upstream",
        "cutover.blue",
        "cutover.health.path",
        "cutover.path",
    ] {
        assert!(
            said(label, "unix:/var/run/docker.sock").contains("unix"),
            "{label}"
        );
    }
}

#[test]
fn a_label_sets_no_socket_state_or_log_of_the_proxy() {
    for label in [
        "cutover.listen.http",
        "cutover.admin",
        "cutover.state_dir",
        "cutover.log.access.file",
    ] {
        said(label, "0.0.0.0:1");
    }
}

#[test]
fn a_label_does_not_join_another_stack() {
    assert!(said("cutover.stack", "payments").contains("switch together"));
}

#[test]
fn a_label_reads_no_variable_of_the_proxy() {
    for value in ["${HOME}", "${HOME:-x}", "$${HOME}", "\"${PATH}\""] {
        let labels = read(&container(&[("cutover.health.host", value)]));
        let service = service("web", &labels.keys, &Rollback::default()).expect("a service");
        let Probe::Http { host, .. } = &service.health.probe else {
            continue;
        };
        let host = host.as_deref().unwrap_or_default();
        assert!(host.contains("${"), "{value} became {host}");
    }
    let drain = said("cutover.switch.drain", "${HOME:-1s}");
    assert!(
        drain.contains("duration") || drain.contains("${HOME"),
        "{drain}"
    );
}

#[test]
fn what_is_wrong_is_told_with_what_would_be_right() {
    assert!(said("cutover.switch.drian", "1s").contains("drain"));
    assert!(said("cutover.switch.drain", "soon").contains("soon"));
    assert!(said("cutover.helth", "/up").contains("cutover.health"));
    assert!(said("cutover.path", "api").contains("/api/*"));
    assert!(said("cutover.upstream", "10.0.0.1:1").contains("rest stands"));
}

#[test]
fn a_color_or_port_that_cannot_be_read_refuses_the_container() {
    for (label, value) in [
        ("cutover.color", "bleu"),
        ("cutover.port", "http"),
        ("cutover.port", "0"),
    ] {
        let labels = read(&container(&[(label, value)]));
        assert!(
            labels.is_refused && labels.problems.len() == 1,
            "{label}={value}"
        );
    }
    assert!(read(&container(&[("cutover.enable", "false")])).is_refused);
}

#[test]
fn a_path_without_a_host_is_told() {
    let labels = read(&container(&[("cutover.path", "/x")]));
    assert_eq!(labels.paths, []);
    assert_eq!(labels.problems.len(), 1);
}
