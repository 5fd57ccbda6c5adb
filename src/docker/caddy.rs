//! Labels of caddy-docker-proxy: those of one Compose project become one Caddyfile, that becomes our
//! configuration. Pure.
//!
//! In the place of addresses stands a name for each service ([`token`]), so that what comes out says
//! which service it leads to and with which port; the containers are put there later, by color. A
//! container whose labels cannot be followed is left out, and the others are compiled without it.

use std::collections::BTreeMap;

use super::inventory::Container;
use super::limits;
use super::problem::Problem;
use crate::compat::caddyfile::labels::{Labeled, PREFIX, compile as to_caddyfile};
use crate::compat::caddyfile::{Sources, Style, adapt};
use crate::config::{self, Config, Env};

/// Containers with the same labels in the same service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The first of them.
    pub(super) container: String,
    /// The service that they belong to.
    pub(super) service: String,
    /// Their labels, without those of others.
    pub(super) labels: BTreeMap<String, String>,
}

/// What came of the labels of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Compiled {
    /// `None`: nothing that can be served.
    pub(super) config: Option<Config>,
    /// Containers that were left out.
    pub(super) problems: Vec<Problem>,
}

const FIX: &str = "see the labels in docs/docker.md";

/// Stands for the containers of the service of that number.
fn token(number: usize) -> String {
    format!("service-{number}.docker.invalid")
}

/// The number of the service that a host name stands for.
pub(super) fn number(host: &str) -> Option<usize> {
    let rest = host.strip_prefix("service-")?;
    rest.strip_suffix(".docker.invalid")?.parse().ok()
}

/// Labels of caddy-docker-proxy, older forms in today's words: `caddy.address` is the site, and
/// `caddy.targetport` where it leads to.
pub(super) fn labels(container: &Container) -> BTreeMap<String, String> {
    let mut ours = BTreeMap::new();
    for (label, value) in &container.labels {
        let first = label.split('.').next().unwrap_or(label);
        if first == PREFIX || is_numbered(first) {
            ours.insert(label.clone(), value.clone());
        }
    }
    let blocks: Vec<String> = ours
        .keys()
        .filter_map(|label| label.strip_suffix(".address"))
        .filter(|block| !block.contains('.'))
        .map(str::to_owned)
        .collect();
    for block in blocks {
        if let Some(host) = ours.remove(&format!("{block}.address")) {
            ours.entry(block.clone()).or_insert(host);
        }
        let port = ours.remove(&format!("{block}.targetport"));
        let protocol = ours.remove(&format!("{block}.targetprotocol"));
        if port.is_some() || protocol.is_some() {
            let words = [protocol, port].into_iter().flatten();
            let words: String = words.map(|word| format!(" {word}")).collect();
            ours.entry(format!("{block}.reverse_proxy"))
                .or_insert(format!("{{{{upstreams{words}}}}}"));
        }
    }
    ours
}

/// `caddy_3`, but not `caddy_ingress_network`.
fn is_numbered(first: &str) -> bool {
    let number = first
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix('_'));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Compiles the labels of a project. `services` gives each service its number.
pub(super) fn compile(units: &[Unit], services: &[String]) -> Compiled {
    let all: Vec<&Unit> = units.iter().collect();
    if all.is_empty() {
        return Compiled::default();
    }
    let logs = units.iter().flat_map(logs);
    if let Ok(config) = together(&all, services) {
        return Compiled {
            config: Some(config),
            problems: logs.collect(),
        };
    }
    // Somebody's labels are wrong. A snippet may be in another container, so those that fail are
    // tried again as long as any other helps.
    let mut taken: Vec<&Unit> = Vec::new();
    let mut waiting = all;
    let mut config = None;
    loop {
        let mut failed = Vec::new();
        let before = taken.len();
        for unit in waiting {
            taken.push(unit);
            match together(&taken, services) {
                Ok(good) => config = Some(good),
                Err(why) => {
                    taken.pop();
                    failed.push((unit, why));
                }
            }
        }
        if failed.is_empty() || taken.len() == before {
            let problems = failed.into_iter();
            let problems = problems.map(|(unit, why)| Problem::new(&unit.container, why, FIX));
            return Compiled {
                config,
                problems: problems.chain(logs).collect(),
            };
        }
        waiting = failed.into_iter().map(|(unit, _)| unit).collect();
    }
}

/// Labels that would set up a log. Every site is logged as the configuration file says, so those have
/// no effect.
fn logs(unit: &Unit) -> impl Iterator<Item = Problem> {
    let labels = unit.labels.iter().filter(|(label, value)| {
        let mut parts = label.split('.').skip(1);
        let first = parts.next().unwrap_or_default();
        let name = first.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_log = name.strip_prefix('_').unwrap_or(first) == LOG;
        is_log && (parts.next().is_some() || !value.is_empty())
    });
    labels.map(|(label, _)| {
        const FIX: &str =
            "remove it, and set log.access, or access_log of a [[site]], in the configuration file";
        let what = format!("label {label}: labels set up no logs, so it has no effect");
        Problem::new(&unit.container, what, FIX)
    })
}

/// The directive.
const LOG: &str = "log";

/// All of them as one configuration, or the first thing that is wrong.
fn together(units: &[&Unit], services: &[String]) -> Result<Config, String> {
    let mut labeled = Vec::with_capacity(units.len());
    for unit in units {
        for (label, value) in &unit.labels {
            if let Some(why) = limits::of_label(label, value) {
                return Err(format!("label {label}: {why}"));
            }
        }
        let at = services.iter().position(|name| *name == unit.service);
        labeled.push(Labeled {
            name: unit.container.clone(),
            labels: unit.labels.clone(),
            addresses: vec![token(at.unwrap_or_default())],
        });
    }
    let mut sources = Sources::default();
    let mut caddyfile = to_caddyfile(&labeled, &mut sources).map_err(|problem| problem.message)?;
    for site in &mut caddyfile.sites {
        site.block.lines.retain(|line| line.name() != LOG);
    }
    if caddyfile.global.is_some() {
        return Err(
            "labels set no global options, such as acme; set them in the configuration file"
                .to_owned(),
        );
    }
    let adapted = adapt(&caddyfile, Style::default());
    if let Some(error) = adapted.errors.first() {
        return Err(error.message.clone());
    }
    let nothing = Env::from_iter::<[(String, String); 0]>([]);
    let config = config::load_str_with("labels", &adapted.toml.text, &nothing);
    let config = config.map_err(|errors| {
        let first = errors.0.into_iter().next();
        first.map_or_else(String::new, |error| error.message)
    })?;
    if let Some(why) = limits::of_config(&config) {
        return Err(why.to_owned());
    }
    let sockets = config.listen.http.iter().chain(&config.listen.https);
    if let Some(other) = sockets.clone().find(|at| ![80, 443].contains(&at.port())) {
        return Err(format!(
            "labels open no ports: {} is not 80 or 443; set it in [listen] of the configuration file",
            other.port()
        ));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::{Action, Step};

    fn unit(container: &str, service: &str, labels: &[(&str, &str)]) -> Unit {
        let labels = labels.iter();
        let container = Container {
            name: container.to_owned(),
            labels: labels
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Container::default()
        };
        Unit {
            labels: super::labels(&container),
            container: container.name,
            service: service.to_owned(),
        }
    }

    fn compiled(units: &[Unit]) -> Compiled {
        compile(units, &["app".to_owned(), "api".to_owned()])
    }

    fn hosts(compiled: &Compiled) -> Vec<String> {
        let sites = compiled.config.iter().flat_map(|config| &config.sites);
        let mut hosts: Vec<_> = sites
            .flat_map(|site| site.hosts.iter().map(ToString::to_string))
            .collect();
        hosts.sort();
        hosts
    }

    #[test]
    fn the_labels_of_a_compose_file_lead_to_their_service() {
        let compiled = compiled(&[unit(
            "shop-app-1",
            "app",
            &[
                ("caddy.address", "api.example.com"),
                ("caddy.handle_path", "/*"),
                ("caddy.handle_path.0_reverse_proxy", "{{upstreams 3000}}"),
                ("caddy_ingress_network", "edge"),
            ],
        )]);
        assert_eq!(compiled.problems, []);
        assert_eq!(hosts(&compiled), ["api.example.com"]);
        let config = compiled.config.expect("a configuration");
        let slot = config.services[0].slots[0].as_ref().expect("blue");
        let upstream = slot.upstreams[0].to_string();
        assert_eq!(upstream, "service-0.docker.invalid:3000");
        assert_eq!(number("service-0.docker.invalid"), Some(0));
        assert_eq!(number("service-0.docker.example"), None);
    }

    #[test]
    fn the_oldest_form_is_understood() {
        let compiled = compiled(&[unit(
            "app",
            "app",
            &[
                ("caddy.address", "old.example.com"),
                ("caddy.targetport", "8080"),
            ],
        )]);
        assert_eq!(hosts(&compiled), ["old.example.com"]);
        assert_eq!(compiled.config.expect("one").services.len(), 1);
    }

    #[test]
    fn one_containers_mistake_is_its_own() {
        let good = unit(
            "good",
            "app",
            &[
                ("caddy", "a.example.com"),
                ("caddy.reverse_proxy", "{{upstreams 80}}"),
            ],
        );
        for (label, value, word) in [
            ("caddy.file_server", "", "files"),
            ("caddy.root", "* /etc", "files"),
            ("caddy.respond", "{env.HOME}", "variables"),
            ("caddy.tls", "/cert.pem /key.pem", "TLS"),
            ("caddy.reverse_proxy", "unix//run/docker.sock", "unix"),
            ("caddy.nonsense", "x", "nonsense"),
            ("caddy.reverse_proxy", "{{nothing}}", "template"),
        ] {
            let bad = unit("bad", "api", &[("caddy", "b.example.com"), (label, value)]);
            for units in [[good.clone(), bad.clone()], [bad.clone(), good.clone()]] {
                let compiled = compiled(&units);
                assert_eq!(hosts(&compiled), ["a.example.com"], "{label}={value}");
                assert_eq!(compiled.problems.len(), 1);
                let said = compiled.problems[0].to_string();
                assert!(said.starts_with("bad: ") && said.contains(word), "{said}");
            }
        }
    }

    #[test]
    fn logs_are_not_for_labels_and_harm_no_site() {
        let logged = |label: &str, value: &str| {
            let site = [
                ("caddy", "a.example.com"),
                ("caddy.reverse_proxy", "{{upstreams 80}}"),
            ];
            compiled(&[
                unit("a", "app", &[&site[..], &[(label, value)]].concat()),
                unit(
                    "b",
                    "api",
                    &[("caddy", "b.example.com"), ("caddy.respond", "b")],
                ),
            ])
        };
        let bare = logged("caddy.log", "");
        assert_eq!(bare.problems, [], "it is logged as every site is");
        for (label, value) in [
            ("caddy.log.output", "file /etc/cron.d/x"),
            ("caddy.1_log.output", "discard"),
            ("caddy.log", "named"),
        ] {
            let said = logged(label, value);
            assert_eq!(hosts(&said), ["a.example.com", "b.example.com"], "{label}");
            let [problem] = &said.problems[..] else {
                panic!("{label}: {:?}", said.problems);
            };
            assert!(
                problem
                    .to_string()
                    .starts_with(&format!("a: label {label}: ")),
                "{problem}"
            );
            let config = said.config.expect("one");
            for site in &config.sites {
                assert_eq!(site.access_log, None, "{label}");
                let is_silent = |step: &Step| matches!(&step.action, Action::Log(_));
                assert!(
                    !site.steps.iter().any(is_silent),
                    "{label}: {:?}",
                    site.steps
                );
            }
        }
    }

    #[test]
    fn global_options_and_ports_are_not_for_labels() {
        let acme = unit("bad", "app", &[("caddy.email", "me@example.com")]);
        assert!(compiled(&[acme]).problems[0].what.contains("global"));
        let port = unit(
            "bad",
            "app",
            &[
                ("caddy", "http://a.example.com:8080"),
                ("caddy.reverse_proxy", "{{upstreams 80}}"),
            ],
        );
        assert!(compiled(&[port]).problems[0].what.contains("8080"));
    }

    #[test]
    fn a_snippet_of_another_container_helps() {
        let user = unit(
            "a",
            "app",
            &[
                ("caddy", "a.example.com"),
                ("caddy.import", "common"),
                ("caddy.reverse_proxy", "{{upstreams 80}}"),
            ],
        );
        let snippet = unit(
            "b",
            "api",
            &[("caddy", "(common)"), ("caddy.encode", "gzip")],
        );
        let bad = unit(
            "c",
            "api",
            &[("caddy", "c.example.com"), ("caddy.nonsense", "")],
        );
        let compiled = compiled(&[user, bad, snippet]);
        assert_eq!(hosts(&compiled), ["a.example.com"]);
        assert_eq!(compiled.problems.len(), 1);
    }
}
