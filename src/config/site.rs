//! `[[site]]` and `[[site.route]]`.

use std::collections::HashMap;

use http::HeaderName;

use super::service::{self, methods, upstreams};
use super::tree::{Node, nearest};
use super::{IpSet, Rollback, Route, Service, ServiceIndex, Site, Tls, ValueMatch};
use crate::model::{HostPattern, ServiceName};

/// Services by name while sites are read; short sites add their own.
pub(super) struct Services {
    list: Vec<Service>,
    by_name: HashMap<ServiceName, usize>,
    rollback: Rollback,
}

impl Services {
    pub(super) fn new(list: Vec<Service>, rollback: Rollback) -> Self {
        let by_name = list
            .iter()
            .enumerate()
            .map(|(n, s)| (s.name.clone(), n))
            .collect();
        Self {
            list,
            by_name,
            rollback,
        }
    }

    pub(super) fn into_list(self) -> Vec<Service> {
        self.list
    }

    fn find(&self, node: &Node<'_>) -> Option<ServiceIndex> {
        let name = node.text()?;
        if let Some(at) = self.by_name.get(name.as_str()) {
            return Some(ServiceIndex(*at));
        }
        let known = self.list.iter().map(|service| service.name.as_str());
        let message = match nearest(&name, known.clone()) {
            Some(meant) => format!("there is no service `{name}`, did you mean `{meant}`?"),
            None if self.list.is_empty() => {
                format!("there is no service `{name}`, expected a table [service.{name}]")
            }
            None => {
                let some: Vec<&str> = known.take(8).collect();
                format!("there is no service `{name}`, known: {}", some.join(", "))
            }
        };
        node.error(message);
        None
    }

    fn add(&mut self, node: &Node<'_>, name: &str) -> Option<ServiceIndex> {
        let blue = upstreams(node);
        if blue.is_empty() {
            if node.one_or_more().is_empty() {
                node.error("has no upstream, expected a list such as [\"app:3000\"]");
            }
            return None;
        }
        if self.by_name.contains_key(name) {
            node.error(format!(
                "needs a service named after the first host, but [service.{name}] exists; \
                 use `service = \"{name}\"`"
            ));
            return None;
        }
        let name = ServiceName::from(name);
        let at = self.list.len();
        self.by_name.insert(name.clone(), at);
        self.list
            .push(service::bare(name, blue, self.rollback.clone()));
        Some(ServiceIndex(at))
    }
}

/// What must be unique among all sites.
#[derive(Default)]
pub(super) struct Taken {
    hosts: HashMap<HostPattern, String>,
    default: Option<String>,
}

pub(super) fn site(node: &Node<'_>, services: &mut Services, taken: &mut Taken) -> Option<Site> {
    let table = node.table()?;
    let hosts_node = table.key("hosts");
    let hosts = hosts_node
        .as_ref()
        .map_or_else(Vec::new, |node| hosts(node, taken));
    let default_node = table.key("default");
    let default = default_node
        .as_ref()
        .and_then(|node| node.boolean())
        .unwrap_or(false);
    if let (true, Some(default_node)) = (default, &default_node) {
        if let Some(other) = &taken.default {
            default_node.error(format!(
                "only one site can be the default, {other} is it already"
            ));
        }
        taken.default.get_or_insert_with(|| node.path.clone());
    }
    if hosts_node.is_none() && !default {
        node.error("`hosts` is missing, expected a list of host names, or default = true");
    }
    let service_node = table.key("service");
    let upstream_node = table.key("upstream");
    let service = match (&service_node, &upstream_node) {
        (Some(_), Some(upstream)) => {
            upstream.error("cannot stand beside `service`, expected one of the two");
            None
        }
        (Some(node), None) => services.find(node),
        (None, Some(node)) => {
            let name = hosts
                .first()
                .map_or_else(|| "default".to_owned(), ToString::to_string);
            services.add(node, &name)
        }
        (None, None) => None,
    };
    let route_node = table.key("route");
    let routes = route_node.as_ref().map_or_else(Vec::new, |node| {
        let nodes = node.elements();
        let routes: Vec<Option<Route>> = nodes.iter().map(|node| route(node, services)).collect();
        report_doubles(&nodes, &routes);
        routes.into_iter().flatten().collect()
    });
    if service_node.is_none() && upstream_node.is_none() && route_node.is_none() {
        node.error("leads nowhere, expected `service`, `upstream` or [[site.route]]");
    }
    let tls = table.key("tls").map_or(Tls::Auto, |node| tls(&node));
    let tls = match tls {
        Tls::Auto if !hosts.is_empty() && hosts.iter().all(is_private) => Tls::Internal,
        Tls::Auto => {
            let node = table.key("tls").unwrap_or_else(|| node.clone());
            node.cx.inactive(
                &format!("{}.tls", table.node.path),
                "certificates are not ordered yet; one of the internal CA is served",
            );
            Tls::Auto
        }
        other => other,
    };
    let redirect = table
        .key("redirect")
        .and_then(|node| node.boolean())
        .unwrap_or(true);
    table.finish();
    Some(Site {
        hosts,
        default,
        tls,
        redirect,
        routes,
        service,
    })
}

fn hosts(node: &Node<'_>, taken: &mut Taken) -> Vec<HostPattern> {
    let mut found = Vec::new();
    let nodes = node.elements();
    if nodes.is_empty() && matches!(node.value, toml::de::DeValue::Array(_)) {
        node.error("is empty, expected at least one host name");
    }
    for node in nodes {
        let Some(host) = node.parsed::<HostPattern>("") else {
            continue;
        };
        if let Some(other) = taken.hosts.get(&host) {
            node.error(format!("`{host}` belongs to {other} already"));
            continue;
        }
        let site = node
            .path
            .split(".hosts")
            .next()
            .unwrap_or_default()
            .to_owned();
        taken.hosts.insert(host.clone(), site);
        found.push(host);
    }
    found
}

/// Names that no public CA certifies.
fn is_private(host: &HostPattern) -> bool {
    let name = match host {
        HostPattern::Exact(name) | HostPattern::Wildcard(name) => name.as_str(),
    };
    let below = |suffix: &str| {
        name == suffix
            || name
                .strip_suffix(suffix)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    name.parse::<std::net::IpAddr>().is_ok()
        || !name.contains('.')
        || ["localhost", "local", "internal", "home.arpa"]
            .into_iter()
            .any(below)
}

fn tls(node: &Node<'_>) -> Tls {
    const FORM: &str = "\"auto\", \"internal\", \"off\" or { cert = \"...\", key = \"...\" }";
    match node.value {
        toml::de::DeValue::Table(_) => {
            let Some(table) = node.table() else {
                return Tls::Auto;
            };
            let file = |name| {
                let form = "the path of a PEM file";
                table.required(name, form).and_then(|node| node.path_buf())
            };
            let (cert, key) = (file("cert"), file("key"));
            table.finish();
            match (cert, key) {
                (Some(cert), Some(key)) => Tls::Files { cert, key },
                _ => Tls::Internal,
            }
        }
        toml::de::DeValue::String(_) => match node.text().as_deref() {
            Some("auto") | None => Tls::Auto,
            Some("internal") => Tls::Internal,
            Some("off") => Tls::Off,
            Some(other) => {
                node.error(format!(
                    "`{other}` is not a certificate source, expected {FORM}"
                ));
                Tls::Internal
            }
        },
        other => {
            node.error(format!("is {}, expected {FORM}", super::tree::kind(other)));
            Tls::Internal
        }
    }
}

fn route(node: &Node<'_>, services: &Services) -> Option<Route> {
    let table = node.table()?;
    let path = table.key("path").and_then(|node| node.parsed(""));
    let methods = table
        .key("method")
        .map(|node| methods(&node))
        .unwrap_or_default();
    let headers = table
        .key("header")
        .and_then(|node| node.table())
        .map(|table| {
            let entries = table.named().into_iter().filter_map(|(name, node)| {
                let value = value_match(&node)?;
                match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) => Some((name, value)),
                    Err(_) => {
                        node.error(format!("`{name}` is not a header name"));
                        None
                    }
                }
            });
            entries.collect()
        })
        .unwrap_or_default();
    let query = table
        .key("query")
        .and_then(|node| node.table())
        .map(|table| {
            let entries = table.named().into_iter();
            entries
                .filter_map(|(name, node)| Some((name, value_match(&node)?)))
                .collect()
        })
        .unwrap_or_default();
    let client_ip = table
        .key("client_ip")
        .map_or_else(IpSet::default, |node| node.networks());
    let service = table
        .required("service", "the name of a service")
        .and_then(|node| services.find(&node));
    table.finish();
    Some(Route {
        path,
        methods,
        headers,
        query,
        client_ip,
        service: service?,
    })
}

fn value_match(node: &Node<'_>) -> Option<ValueMatch> {
    let text = node.text()?;
    Some(match text.strip_suffix('*') {
        Some("") => ValueMatch::Present,
        Some(prefix) => ValueMatch::Prefix(prefix.to_owned()),
        None => ValueMatch::Exact(text),
    })
}

/// Two routes with the same conditions: the second can never be taken.
fn report_doubles(nodes: &[Node<'_>], routes: &[Option<Route>]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (n, (node, route)) in nodes.iter().zip(routes).enumerate() {
        let Some(route) = route else { continue };
        let Route {
            path,
            methods,
            headers,
            query,
            client_ip,
            service: _,
        } = route;
        let conditions = format!("{path:?} {methods:?} {headers:?} {query:?} {client_ip:?}");
        if let Some(first) = seen.get(&conditions) {
            node.error(format!(
                "can never be taken, route[{first}] of this site has the same conditions"
            ));
        } else {
            seen.insert(conditions, n);
        }
    }
}
