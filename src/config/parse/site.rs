//! `[[site]]` and `[[site.route]]`: hosts, certificates, and which service takes what.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use super::global::access_log;
use super::route;
use super::section::Section;
use super::service::Names;
use super::step::scan::Scan;
use super::step::sugar::Handlers;
use super::step::{Scope, all_end, answers};
use super::tree::{Value, join};
use super::value::{self, Parsed};
use crate::config::step::Step;
use crate::config::{
    ClientAuth, ClientAuthMode, Config, Hsts, IpSet, Kind, Listen, Route, ServiceIndex, Site, Tls,
    TlsVersion, schema,
};
use crate::model::HostPattern;

/// What is known of a site before the services are: enough to name the one that its short
/// form stands for.
pub(super) struct Head<'a> {
    pub(super) section: Section<'a>,
    hosts: Vec<(usize, HostPattern)>,
    default: bool,
    port: Option<u16>,
    /// What is known of its steps before they are read.
    pub(super) scan: Scan<'a>,
}

impl Head<'_> {
    /// What services are named after that it does not name itself.
    pub(super) fn base_name(&self) -> String {
        let host = match self.hosts.first() {
            Some((_, host)) => host.to_string(),
            None => "default".to_owned(),
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

/// The first pass over the sites.
pub(super) fn heads<'a>(root: &Section<'a>) -> Vec<Head<'a>> {
    let sites = root.sections("site", &schema::SITE);
    // Labels of containers may bring some.
    if root.entry("site").is_none() && root.entry("docker").is_none() {
        root.out.warning(
            0,
            "site",
            "there is no [[site]]: every request is answered with 404",
        );
    }
    sites.into_iter().map(head).collect()
}

fn head(section: Section<'_>) -> Head<'_> {
    let hosts = section.list("hosts", "host names", host);
    let mut default = false;
    section.set("default", &mut default, value::boolean);
    let no_hosts = section.entry("hosts").is_none() || section.length("hosts") == Some(0);
    if no_hosts && !default {
        section.missing(
            "has no hosts; give hosts = [\"example.com\"], or default = true to take every other \
             host",
        );
    }
    let hosts = hosts.unwrap_or_default();
    let port = section.value("port", value::whole(1..=u16::MAX));
    let scan = Scan::site(section.entries);
    Head {
        section,
        hosts,
        default,
        port,
        scan,
    }
}

/// The second pass, with the services named.
pub(super) fn read(
    root: &Section<'_>,
    heads: Vec<Head<'_>>,
    names: &Names<'_>,
    config: &mut Config,
) {
    let mut taken: HashMap<(HostPattern, Option<u16>), usize> = HashMap::new();
    let mut defaults: HashMap<Option<u16>, usize> = HashMap::new();
    let main_log = &config.log.access;
    let mut logs = HashMap::from([(main_log.file.clone(), Arc::clone(main_log))]);
    for head in heads {
        for (at, host) in &head.hosts {
            match taken.entry((host.clone(), head.port)) {
                Entry::Occupied(first) => {
                    let line = root.out.line(*first.get());
                    let message = format!("{host} is a host of the site in line {line} already");
                    root.out.error(*at, &head.section.key("hosts"), message);
                }
                Entry::Vacant(free) => {
                    free.insert(*at);
                }
            }
        }
        if head.default {
            match defaults.entry(head.port) {
                Entry::Occupied(first) => {
                    let line = root.out.line(*first.get());
                    let message = format!("the site in line {line} is the default already");
                    head.section.error("default", message);
                }
                Entry::Vacant(free) => {
                    free.insert(head.section.at);
                }
            }
        }
        check_port(&head, &config.listen);
        let (at, path) = (head.section.at, head.section.key("access_log"));
        let site = one(head, names);
        if let Some(log) = site.access_log.as_ref().filter(|log| log.file.is_some()) {
            let first = logs.entry(log.file.clone());
            if first.or_insert_with(|| Arc::clone(log)).rotate != log.rotate {
                let message = "another log has the same file and another rotate";
                root.out.error(at, &path, message.to_owned());
            }
        }
        config.sites.push(site);
    }
    for service in &config.services {
        let Some(entry) = names.entry(service.name.as_str()) else {
            continue;
        };
        let path = join("service", &entry.name);
        match (service.kind, names.is_used(&service.name)) {
            (Kind::Web, true) | (Kind::Worker { .. }, false) => {}
            (Kind::Web, false) => {
                let message = "no site or route leads to this service";
                root.out.warning(entry.at, &path, message);
            }
            (Kind::Worker { .. }, true) => {
                let message =
                    "is a worker, which takes no requests, but a site or route leads to it";
                root.out.error(entry.at, &path, message.to_owned());
            }
        }
    }
}

/// A port that nobody listens on gets no requests; port 0 may become any.
fn check_port(head: &Head<'_>, listen: &Listen) {
    let Some(port) = head.port else { return };
    let mut bound = listen.http.iter().chain(&listen.https);
    if !bound.any(|address| address.port() == port || address.port() == 0) {
        head.section.warning(
            "port",
            format!("gets no requests: no address of [listen] has port {port}"),
        );
    }
}

fn one<'a>(head: Head<'a>, names: &Names<'a>) -> Site {
    let Head {
        section,
        hosts,
        default,
        port,
        scan,
    } = head;
    let hosts: Vec<_> = hosts.into_iter().map(|(_, host)| host).collect();
    let mapped: Vec<_> = scan.mapped.into_iter().collect();
    let scope = Scope::new(names, &mapped);
    let (mut steps, mut routes, service) = answering(&section, scope);
    if let Some(step) = scope.canonical_host(&section, &hosts) {
        steps.insert(0, step);
    }
    let mut errors = Vec::new();
    if section.entry("error").is_some() {
        errors = scope.of_errors().steps(&section, "error");
    }
    errors.extend(scope.error_pages(&section));
    let mut redirect = true;
    if let Some(
        Value::Boolean(_)
        | Value::Text {
            is_variable: true, ..
        },
    ) = section.entry("redirect").map(|entry| &entry.node.value)
    {
        section.set("redirect", &mut redirect, value::boolean);
    }
    let tls = tls(&section, &hosts);
    let mut min_version = TlsVersion::default();
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    section.set("min_version", &mut min_version, value::word(&versions));
    let client_auth = client_auth(&section);
    let hsts = hsts(&section, &tls, redirect, &hosts);
    check_policy(&section, &tls, redirect);
    let own_log = section.section("access_log", &schema::SITE_ACCESS_LOG);
    let own_log = own_log.map(|section| Arc::new(access_log(&section)));
    routes.shrink_to_fit();
    Site {
        tls,
        min_version,
        client_auth,
        hsts,
        redirect,
        access_log: own_log,
        port,
        steps,
        errors,
        hosts,
        default,
        routes,
        service,
    }
}

/// Who answers what comes to a site: its steps, its routes, what they leave.
fn answering<'a>(
    section: &Section<'a>,
    scope: Scope<'_, 'a>,
) -> (Vec<Step>, Vec<Route>, Option<ServiceIndex>) {
    let mut service = scope.target_service(section);
    let mut routes = route::read(section, scope);
    let Handlers {
        mut steps,
        endpoint,
    } = scope.handlers(section);
    let leads = |key: &&'static str| section.entry(key).is_some();
    let has_redirect = matches!(
        section.entry("redirect").map(|entry| &entry.node.value),
        Some(
            Value::Table(_)
                | Value::Text {
                    is_variable: false,
                    ..
                }
        )
    );
    let answering = [
        "service",
        "upstream",
        "route",
        "handle",
        "files",
        "try_files",
        "respond",
    ];
    if !answering.iter().any(leads) && !has_redirect {
        section.missing(
            "leads nowhere; give service = \"NAME\", upstream = [\"app:3000\"], a route, or \
             something that answers such as files or redirect",
        );
    }
    let takes_all = |route: &Route| route.path.is_none() && route.conditions() == 0;
    let left = service.is_some() || !endpoint.is_empty();
    if left && routes.iter().any(takes_all) {
        section.out.warning(
            section.at,
            &section.path,
            "a route without conditions takes everything: nothing is left for the site's service",
        );
    } else if routes.is_empty() {
        if left && all_end(&steps) {
            let message = "its handle steps answer every request: nothing is left for its service";
            section.out.warning(section.at, &section.path, message);
        }
        steps.extend(endpoint);
    } else if !endpoint.is_empty() {
        // What answers for the site takes what no route does, so it is a route like them.
        routes.push(Route {
            path: None,
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            client_ip: IpSet::default(),
            steps: endpoint,
            service: service.take(),
        });
    }
    let only_steps = section.entry("handle").is_some() && service.is_none() && routes.is_empty();
    if only_steps && !steps.is_empty() && !answers(&steps) {
        section.out.warning(
            section.at,
            &section.path,
            "none of its steps answers: every request gets 404",
        );
    }
    (steps, routes, service)
}

fn tls(section: &Section<'_>, hosts: &[HostPattern]) -> Tls {
    let written = section.entry("tls");
    let tls = match written.map(|entry| &entry.node.value) {
        Some(Value::Table(_)) => match section.section("tls", &schema::SITE_TLS) {
            Some(files) => return tls_files(&files),
            None => Tls::Off,
        },
        Some(Value::List(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_))
        | Some(Value::Date) => {
            section.error(
                "tls",
                "expected \"auto\", \"internal\", \"off\" or { cert = \"...\", key = \"...\" }",
            );
            Tls::Off
        }
        Some(Value::Text { .. }) => {
            let choices = [
                ("auto", Tls::Auto),
                ("internal", Tls::Internal),
                ("off", Tls::Off),
            ];
            let mut tls = Tls::Off;
            section.set("tls", &mut tls, value::word(&choices));
            tls
        }
        Some(Value::Broken) => Tls::Off,
        None => Tls::Auto,
    };
    if tls != Tls::Auto {
        return tls;
    }
    if hosts.iter().all(HostPattern::is_private) {
        return Tls::Internal;
    }
    for host in hosts.iter().filter(|host| !host.is_private()) {
        if let HostPattern::Wildcard(_) = host {
            section.warning(
                "tls",
                format!("no certificate is ordered for {host}: wildcards need DNS-01, which is not in this version; the internal CA's is served"),
            );
        }
    }
    Tls::Auto
}

fn client_auth(site: &Section<'_>) -> Option<ClientAuth> {
    let section = site.section("client_auth", &schema::SITE_CLIENT_AUTH)?;
    if section.entry("ca").is_none() {
        section.missing("needs ca: a PEM file with the CAs that sign the clients' certificates");
    }
    let mut mode = ClientAuthMode::Require;
    let modes = [
        ("require", ClientAuthMode::Require),
        ("optional", ClientAuthMode::Optional),
    ];
    section.set("mode", &mut mode, value::word(&modes));
    Some(ClientAuth {
        mode,
        ca: section.value("ca", value::path).unwrap_or_default(),
    })
}

/// The least that the lists of browsers ask for.
const PRELOAD_MAX_AGE: Duration = Duration::from_secs(31_536_000);

fn hsts(site: &Section<'_>, tls: &Tls, redirect: bool, hosts: &[HostPattern]) -> Option<Hsts> {
    let section = site.section("hsts", &schema::SITE_HSTS)?;
    if section.entry("max_age").is_none() {
        section.missing("needs max_age: how long browsers remember, such as \"8760h\"");
    }
    let mut hsts = Hsts {
        max_age: section
            .value("max_age", value::duration)
            .unwrap_or_default(),
        subdomains: false,
        preload: false,
    };
    section.set("subdomains", &mut hsts.subdomains, value::boolean);
    section.set("preload", &mut hsts.preload, value::boolean);
    if *tls == Tls::Off {
        site.error("hsts", "needs TLS, which tls = \"off\" turns off");
    } else if !redirect {
        site.error(
            "hsts",
            "with redirect = false, who comes over plain HTTP is never told (RFC 6797 section 7.2)",
        );
    } else if hosts.iter().all(HostPattern::is_private) {
        site.error(
            "hsts",
            "no public CA certifies these hosts: one bad certificate would lock browsers out",
        );
    }
    if hsts.preload && !(hsts.subdomains && hsts.max_age >= PRELOAD_MAX_AGE) {
        section.error(
            "preload",
            "needs subdomains = true and max_age of at least \"8760h\"; a name stays in the lists for months",
        );
    }
    Some(hsts)
}

/// Refuses what would look protected and not be.
fn check_policy(section: &Section<'_>, tls: &Tls, redirect: bool) {
    if *tls == Tls::Off {
        for key in ["min_version", "client_auth"] {
            if section.entry(key).is_some() {
                section.error(key, "needs TLS, which tls = \"off\" turns off");
            }
        }
    } else if !redirect && section.entry("client_auth").is_some() {
        section.error(
            "client_auth",
            "with redirect = false, plain HTTP would pass without a certificate",
        );
    }
}

fn tls_files(section: &Section<'_>) -> Tls {
    for key in ["cert", "key"] {
        if section.entry(key).is_none() {
            section.missing(format!("needs {key}: both cert and key are PEM files"));
        }
    }
    Tls::Files {
        cert: section.value("cert", value::path).unwrap_or_default(),
        key: section.value("key", value::path).unwrap_or_default(),
    }
}

/// A host name or an address.
pub(super) fn host(value: &Value) -> Parsed<HostPattern> {
    value::parsed("")(value).map_err(|error| match value {
        Value::Text { text, .. } if !text.is_ascii() => {
            format!("{error}; international names are written in their xn-- form (RFC 5891)")
        }
        _ => error,
    })
}
