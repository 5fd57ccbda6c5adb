//! Changes of fields, and conditions on an answer.

use http::HeaderName;

use super::{Scope, Value, each, path_of, pattern};
use crate::config::parse::section::Section;
use crate::config::parse::tree::{Entry, quoted};
use crate::config::parse::value::{self, Parsed};
use crate::config::schema::handlers;
use crate::config::step::{
    Action, HeaderOp, HeaderOps, ResponseHeaders, ResponseMatcher, TextMatch, is_framing,
};

impl<'a> Scope<'_, 'a> {
    /// `{ add, default, set, remove, replace }`, in the order in which they are applied;
    /// `remove = ["*"]` comes first, as nothing else would be left.
    pub(super) fn header_ops(&self, section: &Section<'a>) -> HeaderOps {
        let mut ops = Vec::new();
        for entry in section.table("add").unwrap_or_default() {
            let path = path_of(section, "add", entry);
            let name = changed_name(section, entry, &path);
            for (node, path) in each(&entry.node, &path) {
                let value = section.read(node, &path, |value| self.template(value));
                if let (Some(name), Some(value)) = (&name, value) {
                    ops.push(HeaderOp::Add(name.clone(), value));
                }
            }
        }
        let single: [(_, fn(_, _) -> _); 2] =
            [("default", HeaderOp::Default), ("set", HeaderOp::Set)];
        for (key, op) in single {
            let mut seen: Vec<HeaderName> = Vec::new();
            for (entry, value) in section.fields(key, |value| self.template(value)) {
                let path = path_of(section, key, entry);
                let Some(name) = changed_name(section, entry, &path) else {
                    continue;
                };
                if seen.contains(&name) {
                    let message = "twice in this table: header names have no case".to_owned();
                    section.out.error(entry.at, &path, message);
                }
                seen.push(name.clone());
                ops.push(op(name, value));
            }
        }
        let removed = section.one_or_list("remove", removed).unwrap_or_default();
        for (_, name) in removed {
            match name.as_str() {
                "*" => ops.insert(0, HeaderOp::Remove(name)),
                _ => ops.push(HeaderOp::Remove(name)),
            }
        }
        for replace in section.sections("replace", &handlers::HEADER_REPLACE) {
            ops.extend(self.header_replace(&replace));
        }
        let is_empty = ["add", "default", "set", "remove", "replace"]
            .into_iter()
            .all(|key| section.entry(key).is_none());
        if is_empty && section.is_known() {
            section.missing("changes nothing; give set, add, default, remove or replace");
        }
        HeaderOps(ops)
    }

    fn header_replace(&self, section: &Section<'a>) -> Option<HeaderOp> {
        if section.entry("find").is_none() {
            section.missing("needs find: a regular expression");
        }
        let name = section.value("name", |value| match value::words(value)?.as_str() {
            "*" => Ok(None),
            name => match HeaderName::try_from(name) {
                Ok(name) => Ok(Some(name)),
                Err(_) => Err(format!("{} is not the name of a header", quoted(name))),
            },
        });
        let find = section.value("find", pattern);
        let with = section.value("with", |value| self.template(value));
        Some(HeaderOp::Replace {
            name: name.flatten(),
            find: find?,
            with: with.unwrap_or_default(),
        })
    }

    /// `response_header = { ... }`.
    pub(super) fn response_headers(&self, section: &Section<'a>) -> ResponseHeaders {
        let mut deferred = true;
        section.set("defer", &mut deferred, value::boolean);
        ResponseHeaders {
            ops: self.header_ops(section),
            when: self.response_matcher(section),
            deferred,
        }
    }

    /// `status` and `header` of a table; `None` when it has neither.
    pub(super) fn response_matcher(&self, section: &Section<'a>) -> Option<ResponseMatcher> {
        let status = section.one_or_list("status", status_range);
        if section.length("status") == Some(0) {
            section.error("status", "an empty list would hold for nothing; remove it");
        }
        let headers = header_matches(section, "header");
        let written = section.entry("status").is_some() || section.entry("header").is_some();
        written.then(|| ResponseMatcher {
            status: status
                .unwrap_or_default()
                .into_iter()
                .map(|(_, range)| range)
                .collect(),
            headers,
        })
    }

    /// `security_headers = true`.
    pub(super) fn security_headers(&self, at: &Section<'a>) -> Option<Action> {
        let on = at.value("security_headers", value::boolean)?;
        on.then(|| Action::ResponseHeaders(ResponseHeaders::security()))
    }
}

/// The name of a field that is to be changed, with a warning where that has no effect.
fn changed_name(section: &Section<'_>, entry: &Entry, path: &str) -> Option<HeaderName> {
    let name = header_name(section, entry, path)?;
    if is_framing(&name) {
        let message = "no effect: this field is set for each connection by the proxy itself";
        section.out.warning(entry.at, path, message);
    }
    Some(name)
}

/// A table of fields, each with one or more texts with stars; `!` for a missing field.
pub(super) fn header_matches(
    section: &Section<'_>,
    key: &'static str,
) -> Vec<(HeaderName, Vec<TextMatch>)> {
    let mut matches: Vec<(HeaderName, Vec<TextMatch>)> = Vec::new();
    for entry in section.table(key).unwrap_or_default() {
        let path = path_of(section, key, entry);
        let name = header_name(section, entry, &path);
        let values: Vec<_> = each(&entry.node, &path)
            .into_iter()
            .filter_map(|(node, path)| section.read(node, &path, text_match))
            .collect();
        let Some(name) = name else { continue };
        if matches.iter().any(|(known, _)| *known == name) {
            let message = "twice in this table: header names have no case".to_owned();
            section.out.error(entry.at, &path, message);
        }
        if matches!(&entry.node.value, Value::List(items) if items.is_empty()) {
            let message = "an empty list would hold for nothing; \"*\" is any value".to_owned();
            section.out.error(entry.node.at, &path, message);
        }
        matches.push((name, values));
    }
    matches.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    matches
}

fn text_match(value: &Value) -> Parsed<TextMatch> {
    match value {
        Value::Text { text, .. } if text == "!" => Ok(TextMatch::Absent),
        Value::Text { text, .. } => Ok(TextMatch::new(text)),
        other => Err(format!(
            "expected a text: \"*\" for any value, \"!\" for none, \"abc*\" for a beginning, or \
             the exact value; found {}",
            other.describe()
        )),
    }
}

/// The name of an entry as the name of a field.
pub(super) fn header_name(section: &Section<'_>, entry: &Entry, path: &str) -> Option<HeaderName> {
    let name = HeaderName::try_from(entry.name.as_str()).ok();
    if name.is_none() {
        let message = "not the name of a header".to_owned();
        section.out.error(entry.at, path, message);
    }
    name
}

/// A name of a field; a star at its start, its end or both stands for any text.
fn removed(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    let bare = text.strip_prefix('*').unwrap_or(&text);
    let bare = bare.strip_suffix('*').unwrap_or(bare);
    match HeaderName::try_from(bare) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) if text == "*" => Ok(text),
        Err(_) => Err(format!(
            "{} is not the name of a header; \"X-*\" and \"*\" are allowed",
            quoted(&text)
        )),
    }
}

/// `404`, `"404"`, `"5xx"` or `"500-504"`.
pub(super) fn status_range(value: &Value) -> Parsed<(u16, u16)> {
    if let Value::Text { text, .. } = value
        && let [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] = text.as_bytes()
    {
        let from = u16::from(class - b'0') * 100;
        return Ok((from, from + 99));
    }
    value::status(value).map_err(|error| {
        error.replace(
            "a status such as \"200\"",
            "a status such as 404 or \"404\", a class such as \"5xx\"",
        )
    })
}
