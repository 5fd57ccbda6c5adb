//! `[[site]]` and `[[site.route]]`: hosts, certificates, and which service takes what.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, Method};

use super::global::networks;
use super::section::Section;
use super::service::{Names, slot};
use super::tree::{Value, join, quoted};
use super::value::{self, Parsed};
use crate::config::{
    ClientAuth, ClientAuthMode, Config, Hsts, Route, ServiceIndex, Site, Slot, Tls, TlsVersion,
    ValueMatch, schema,
};
use crate::model::{HostPattern, PathPattern};

/// What is known of a site before the services are: enough to name the one that its short
/// form stands for.
pub(super) struct Head<'a> {
    pub(super) section: Section<'a>,
    hosts: Vec<(usize, HostPattern)>,
    default: bool,
    /// With `upstream`: the name of the service that it stands for.
    pub(super) short_name: Option<String>,
    /// With `upstream`: its blue slot.
    pub(super) short_slot: Option<Slot>,
}

/// The first pass over the sites.
pub(super) fn heads<'a>(root: &Section<'a>) -> Vec<Head<'a>> {
    let sites = root.sections("site", &schema::SITE);
    if root.entry("site").is_none() {
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
    let short_slot = slot(&section, "upstream");
    let short_name = short_slot.is_some().then(|| match hosts.first() {
        Some((_, host)) => host.to_string(),
        None => "default".to_owned(),
    });
    Head {
        section,
        hosts,
        default,
        short_name,
        short_slot,
    }
}

/// The second pass, with the services named.
pub(super) fn read(
    root: &Section<'_>,
    heads: Vec<Head<'_>>,
    names: &Names<'_>,
    config: &mut Config,
) {
    let mut taken: HashMap<HostPattern, usize> = HashMap::new();
    let mut default: Option<usize> = None;
    let mut used = vec![false; config.services.len()];
    for head in heads {
        for (at, host) in &head.hosts {
            if let Some(first) = taken.get(host) {
                let line = root.out.line(*first);
                let message = format!("{host} is a host of the site in line {line} already");
                root.out.error(*at, &head.section.key("hosts"), message);
            } else {
                taken.insert(host.clone(), *at);
            }
        }
        if head.default {
            if let Some(first) = default {
                let line = root.out.line(first);
                let message = format!("the site in line {line} is the default already");
                head.section.error("default", message);
            }
            default = default.or(Some(head.section.at));
        }
        let site = one(head, names);
        let targets = site.routes.iter().map(|route| route.service);
        for ServiceIndex(n) in targets.chain(site.service) {
            if let Some(used) = used.get_mut(n) {
                *used = true;
            }
        }
        config.sites.push(site);
    }
    for (service, _) in config.services.iter().zip(used).filter(|(_, used)| !used) {
        if let Some(entry) = names.entry(service.name.as_str()) {
            let path = join("service", &entry.name);
            root.out
                .warning(entry.at, &path, "no site or route leads to this service");
        }
    }
}

fn one(head: Head<'_>, names: &Names<'_>) -> Site {
    let Head {
        section,
        hosts,
        default,
        short_name,
        ..
    } = head;
    let named = names.resolve(&section);
    if section.entry("service").is_some() && section.entry("upstream").is_some() {
        section.error(
            "upstream",
            "stands for a service of its own; remove it or service",
        );
    }
    let routes = routes(&section, names);
    let takes_nothing = ["service", "upstream", "route"]
        .into_iter()
        .all(|key| section.entry(key).is_none());
    if takes_nothing {
        section.missing(
            "leads nowhere; give service = \"NAME\", upstream = [\"app:3000\"] or a route",
        );
    }
    let service = named.or_else(|| names.index(&short_name?));
    let all = |route: &Route| route.path.is_none() && route.conditions() == 0;
    if service.is_some() && routes.iter().any(all) {
        section.out.warning(
            section.at,
            &section.path,
            "a route without conditions takes everything: nothing is left for the site's service",
        );
    }
    let hosts: Vec<_> = hosts.into_iter().map(|(_, host)| host).collect();
    let mut redirect = true;
    section.set("redirect", &mut redirect, value::boolean);
    let tls = tls(&section, &hosts);
    let mut min_version = TlsVersion::default();
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    section.set("min_version", &mut min_version, value::word(&versions));
    let client_auth = client_auth(&section);
    let hsts = hsts(&section, &tls, redirect, &hosts);
    check_policy(&section, &tls, redirect);
    Site {
        tls,
        min_version,
        client_auth,
        hsts,
        redirect,
        hosts,
        default,
        routes,
        service,
    }
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

fn routes(site: &Section<'_>, names: &Names<'_>) -> Vec<Route> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut routes = Vec::new();
    for section in site.sections("route", &schema::ROUTE) {
        if section.entry("service").is_none() {
            section.missing("leads nowhere; give service = \"NAME\"");
        }
        let (conditions, whole) = conditions(&section);
        if whole {
            match seen.get(&identity(&conditions)) {
                Some(first) => {
                    let line = site.out.line(*first);
                    let message =
                        format!("never reached: the route in line {line} has the same conditions");
                    site.out.error(section.at, &section.path, message);
                }
                None => {
                    seen.insert(identity(&conditions), section.at);
                }
            }
        }
        if let Some(service) = names.resolve(&section) {
            routes.push(Route {
                service,
                ..conditions
            });
        }
    }
    routes
}

/// The conditions of a route, and whether all of them could be read.
fn conditions(section: &Section<'_>) -> (Route, bool) {
    let path = section.value("path", value::parsed::<PathPattern>(""));
    let methods: Vec<_> = section
        .one_or_list("method", method)
        .unwrap_or_default()
        .into_iter()
        .map(|(_, method)| method)
        .collect();
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    let mut whole = true;
    for entry in section.table("header").unwrap_or_default() {
        let path = join(&section.key("header"), &entry.name);
        let value = section.read(&entry.node, &path, value_match);
        match (HeaderName::try_from(entry.name.as_str()), value) {
            (Err(_), _) => {
                let message = "not the name of a header".to_owned();
                section.out.error(entry.at, &path, message);
            }
            (Ok(name), _) if headers.iter().any(|(other, _)| *other == name) => {
                let message = "twice in this route: header names have no case".to_owned();
                section.out.error(entry.at, &path, message);
            }
            (Ok(name), Some(value)) => {
                headers.push((name, value));
                continue;
            }
            (Ok(_), None) => {}
        }
        whole = false;
    }
    // Header names have no case, so the order of the file's own spelling means nothing.
    headers.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    let mut query = Vec::new();
    for entry in section.table("query").unwrap_or_default() {
        let path = join(&section.key("query"), &entry.name);
        match section.read(&entry.node, &path, value_match) {
            Some(value) => query.push((entry.name.clone(), value)),
            None => whole = false,
        }
    }
    let client_ip = networks(section, "client_ip");
    for key in ["method", "client_ip"] {
        if section.length(key) == Some(0) {
            section.error(
                key,
                "an empty list would match nothing; remove it to match all",
            );
        }
    }
    whole &= path.is_some() == section.entry("path").is_some()
        && methods.is_empty() == section.entry("method").is_none()
        && client_ip.is_empty() == section.entry("client_ip").is_none();
    let route = Route {
        path,
        methods,
        headers,
        query,
        client_ip,
        service: ServiceIndex(0),
    };
    (route, whole)
}

/// Equal for routes that match the same requests by the same words.
fn identity(route: &Route) -> String {
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list.dedup();
        list
    };
    let methods = sorted(route.methods.iter().map(Method::to_string).collect());
    let headers = sorted(route.headers.iter().map(|h| format!("{h:?}")).collect());
    let query = sorted(route.query.iter().map(|q| format!("{q:?}")).collect());
    let networks = sorted(route.client_ip.0.iter().map(ToString::to_string).collect());
    format!(
        "{:?} {methods:?} {headers:?} {query:?} {networks:?}",
        route.path
    )
}

fn host(value: &Value) -> Parsed<HostPattern> {
    value::parsed("")(value).map_err(|error| match value {
        Value::Text { text, .. } if !text.is_ascii() => {
            format!("{error}; international names are written in their xn-- form (RFC 5891)")
        }
        _ => error,
    })
}

fn method(value: &Value) -> Parsed<Method> {
    let text = value::words(value)?;
    match Method::from_bytes(text.as_bytes()) {
        Ok(_) if text.bytes().any(|b| b.is_ascii_lowercase()) => Err(format!(
            "methods have upper case; write \"{}\"",
            text.to_ascii_uppercase()
        )),
        Ok(method) => Ok(method),
        Err(_) => Err(format!("{} is not a method such as \"GET\"", quoted(&text))),
    }
}

fn value_match(value: &Value) -> Parsed<ValueMatch> {
    let text = match value {
        Value::Text { text, .. } => text.as_str(),
        other => {
            return Err(format!(
                "expected a text: \"*\" for any value, \"abc*\" for a beginning, or the exact \
                 value; found {}",
                other.describe()
            ));
        }
    };
    Ok(match text.strip_suffix('*') {
        Some("") => ValueMatch::Present,
        Some(prefix) => ValueMatch::Prefix(prefix.to_owned()),
        None => ValueMatch::Exact(text.to_owned()),
    })
}
