//! `[[site.route]]`: which requests of a site go elsewhere than its own service.

use std::collections::HashMap;

use http::{HeaderName, Method};

use super::global::networks;
use super::section::Section;
use super::step::sugar::Handlers;
use super::step::{Scope, answers};
use super::tree::{Value, join};
use super::value::{self, Parsed};
use crate::config::step::Step;
use crate::config::{Route, ValueMatch, schema};
use crate::model::PathPattern;

/// The routes of a site in the order of the file.
pub(super) fn read<'a>(site: &Section<'a>, scope: Scope<'_, 'a>) -> Vec<Route> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut routes = Vec::new();
    for section in site.sections("route", &schema::ROUTE) {
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
        routes.extend(target(&section, scope, conditions));
    }
    routes
}

/// What is done with what a route takes. `None` when that is wrong and reported.
fn target<'a>(section: &Section<'a>, scope: Scope<'_, 'a>, conditions: Route) -> Option<Route> {
    let service = scope.target_service(section);
    let Handlers {
        mut steps,
        endpoint,
    } = scope.handlers(section);
    let has_endpoint = !endpoint.is_empty();
    steps.extend(endpoint);
    let written = |keys: &[&'static str]| keys.iter().any(|key| section.entry(key).is_some());
    if written(&["service", "upstream"]) {
        service?;
    } else if !answers(&steps) {
        let handles = ["redirect", "respond", "files", "try_files", "handle"];
        // What is wrong may be what answers; it is told already.
        let is_wrong = !has_endpoint && written(&["redirect", "respond", "try_files"]);
        if !is_wrong && (!written(&handles) || is_whole(section, &steps)) {
            section.missing(
                "leads nowhere; give service = \"NAME\", or something that answers such as files, \
                 redirect or respond",
            );
        }
        return None;
    }
    Some(Route {
        steps,
        service,
        ..conditions
    })
}

/// Whether every step that is written could be read.
fn is_whole(section: &Section<'_>, steps: &[Step]) -> bool {
    section
        .length("handle")
        .is_none_or(|written| written <= steps.len())
}

/// The conditions of a route, and whether all of them could be read.
fn conditions(section: &Section<'_>) -> (Route, bool) {
    let path = section.value("path", value::parsed::<PathPattern>(""));
    let methods: Vec<_> = section
        .one_or_list("method", value::method)
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
        steps: Vec::new(),
        service: None,
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
