//! Conditions of steps as TOML.

use http::HeaderName;

use super::step::{Field, field, policy};
use super::text::{inline_table, list, networks, text};
use crate::config::step::{FileMatch, Matcher, MatcherSet, Pattern, ResponseMatcher, TextMatch};

/// What stands after `match =`.
pub(super) fn matcher(matcher: &Matcher) -> String {
    match &matcher.0[..] {
        [one] => inline_table(&set(one)),
        sets => {
            let sets = sets.iter().map(|one| inline_table(&set(one)));
            inline_table(&[field("any", list(sets))])
        }
    }
}

fn set(set: &MatcherSet) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut push = |key: &str, is_there: bool, value: &dyn Fn() -> String| {
        if is_there {
            fields.push(field(key, value()));
        }
    };
    let some = |count: usize| count > 0;
    push("path", some(set.path.len()), &|| {
        list(set.path.iter().map(text))
    });
    push("path_regexp", set.path_regexp.is_some(), &|| {
        let (name, pattern) = set.path_regexp.iter().next().expect("it is some");
        inline_table(&named(name, pattern, None))
    });
    push("host", some(set.host.len()), &|| {
        list(set.host.iter().map(text))
    });
    push("method", some(set.method.len()), &|| {
        list(set.method.iter().map(text))
    });
    push("header", some(set.header.len()), &|| headers(&set.header));
    push("header_regexp", some(set.header_regexp.len()), &|| {
        list((set.header_regexp.iter()).map(|(name, header, pattern)| {
            let header = field("field", text(header));
            inline_table(&named(name, pattern, Some(header)))
        }))
    });
    push("query", some(set.query.len()), &|| query(set));
    push("remote_ip", !set.remote_ip.is_empty(), &|| {
        networks(&set.remote_ip)
    });
    push("client_ip", !set.client_ip.is_empty(), &|| {
        networks(&set.client_ip)
    });
    push("protocol", set.protocol.is_some(), &|| {
        set.protocol.iter().map(text).collect()
    });
    push("vars", some(set.vars.len()), &|| {
        list(set.vars.iter().map(|(value, texts)| {
            let is = field("is", list(texts.iter().map(text)));
            inline_table(&[field("value", text(value)), is])
        }))
    });
    push("vars_regexp", some(set.vars_regexp.len()), &|| {
        list((set.vars_regexp.iter()).map(|(name, value, pattern)| {
            let value = field("value", text(value));
            inline_table(&named(name, pattern, Some(value)))
        }))
    });
    push("file", set.file.is_some(), &|| {
        set.file.iter().map(file).collect()
    });
    push("error_status", some(set.error_status.len()), &|| {
        statuses(&set.error_status)
    });
    push("not", some(set.not.len()), &|| {
        list(set.not.iter().map(matcher))
    });
    fields
}

fn named(name: &str, pattern: &Pattern, other: Option<Field>) -> Vec<Field> {
    let mut fields = Vec::new();
    if !name.is_empty() {
        fields.push(field("name", text(name)));
    }
    fields.extend(other);
    fields.push(field("pattern", text(pattern.as_str())));
    fields
}

fn query(set: &MatcherSet) -> String {
    let mut fields: Vec<(&str, Vec<String>)> = Vec::new();
    for (name, value) in &set.query {
        match fields.last_mut() {
            Some((known, values)) if known == name => values.push(text(value)),
            _ => fields.push((name, vec![text(value)])),
        }
    }
    let fields: Vec<_> = (fields.into_iter())
        .map(|(name, values)| field(name, list(values.into_iter())))
        .collect();
    inline_table(&fields)
}

fn file(file: &FileMatch) -> String {
    let mut fields = Vec::new();
    if let Some(root) = &file.root {
        fields.push(field("root", text(root)));
    }
    fields.push(field("try", list(file.files.iter().map(text))));
    fields.push(field("policy", policy(file.policy)));
    if !file.split.is_empty() {
        fields.push(field("split", list(file.split.iter().map(text))));
    }
    inline_table(&fields)
}

/// `status` and `header` of a condition on an answer.
pub(super) fn response(when: &ResponseMatcher) -> Vec<Field> {
    let mut fields = Vec::new();
    if !when.status.is_empty() {
        fields.push(field("status", statuses(&when.status)));
    }
    if !when.headers.is_empty() {
        fields.push(field("header", headers(&when.headers)));
    }
    fields
}

fn headers(headers: &[(HeaderName, Vec<TextMatch>)]) -> String {
    let fields: Vec<_> = (headers.iter())
        .map(|(name, texts)| field(name.as_str(), list(texts.iter().map(text_match))))
        .collect();
    inline_table(&fields)
}

pub(super) fn text_match(what: &TextMatch) -> String {
    match what {
        TextMatch::Present => text("*"),
        TextMatch::Absent => text("!"),
        TextMatch::Exact(value) => text(value),
        TextMatch::Prefix(value) => text(format!("{value}*")),
        TextMatch::Suffix(value) => text(format!("*{value}")),
        TextMatch::Contains(value) => text(format!("*{value}*")),
    }
}

fn statuses(ranges: &[(u16, u16)]) -> String {
    list(ranges.iter().map(|(from, to)| match to - from {
        0 => from.to_string(),
        99 if from % 100 == 0 => text(format!("{}xx", from / 100)),
        _ => text(format!("{from}-{to}")),
    }))
}
