//! What must be known of a site's steps before they are read: names that maps set, and upstreams
//! that stand for a service. Nothing is reported here; the walk itself does that.

use std::collections::BTreeSet;

use crate::config::parse::tree::{Entry, Node, Value};

/// What a scan finds.
#[derive(Default)]
pub(in crate::config::parse) struct Scan<'a> {
    /// Names that `map` steps set.
    pub(in crate::config::parse) mapped: BTreeSet<String>,
    /// Lists of upstreams in steps and routes, without the site's own.
    pub(in crate::config::parse) upstreams: Vec<&'a Node>,
}

impl<'a> Scan<'a> {
    /// Looks through the steps and routes of a site.
    pub(in crate::config::parse) fn site(entries: &'a [Entry]) -> Self {
        let mut scan = Self::default();
        for key in ["handle", "error"] {
            scan.steps(field(entries, key));
        }
        for route in tables(field(entries, "route")) {
            scan.upstreams(route);
            scan.steps(field(route, "handle"));
        }
        scan
    }

    fn steps(&mut self, list: Option<&'a Node>) {
        for step in tables(list) {
            self.steps(field(step, "handle"));
            if let Some(map) = table(field(step, "map")) {
                self.map(map);
            }
            let Some(proxy) = table(field(step, "proxy")) else {
                continue;
            };
            self.upstreams(proxy);
            for answer in tables(field(proxy, "on_response")) {
                self.steps(field(answer, "handle"));
            }
        }
    }

    fn map(&mut self, map: &'a [Entry]) {
        let entries = tables(field(map, "entries")).filter_map(|entry| table(field(entry, "set")));
        let default = table(field(map, "default"));
        for set in entries.chain(default) {
            self.mapped
                .extend(set.iter().map(|entry| entry.name.clone()));
        }
    }

    fn upstreams(&mut self, entries: &'a [Entry]) {
        self.upstreams.extend(field(entries, "upstream"));
    }
}

/// A name as the value that it would be.
pub(super) fn named(name: &str) -> Value {
    Value::Text {
        text: name.to_owned(),
        is_variable: false,
    }
}

fn field<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Node> {
    let entry = entries.iter().find(|entry| entry.name == name)?;
    Some(&entry.node)
}

fn table(node: Option<&Node>) -> Option<&[Entry]> {
    match &node?.value {
        Value::Table(entries) => Some(entries),
        _ => None,
    }
}

fn tables(node: Option<&Node>) -> impl Iterator<Item = &[Entry]> {
    let items = match node.map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    items.iter().filter_map(|item| table(Some(item)))
}
