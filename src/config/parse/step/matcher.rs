//! `match = { ... }`: conditions of a step.

use super::headers::{header_matches, status_range};
use super::rewrite::{POLICIES, needs};
use super::{Scope, Value, each, path_of, pattern};
use crate::config::parse::global::networks;
use crate::config::parse::section::Section;
use crate::config::parse::site::host;
use crate::config::parse::tree::quoted;
use crate::config::parse::value::{self, Parsed};
use crate::config::schema::handlers;
use crate::config::step::{FileMatch, Matcher, MatcherSet, Part, Template, TryPolicy, Var};

/// What `protocol` may be; those with a version may have a `+` after it.
const PROTOCOLS: [&str; 10] = [
    "http",
    "https",
    "grpc",
    "http/1.0",
    "http/1.1",
    "http/2",
    "http/3",
    "http/1.0+",
    "http/1.1+",
    "http/2+",
];

impl<'a> Scope<'_, 'a> {
    /// `None` when nothing of it could be read.
    pub(super) fn matcher(&self, section: &Section<'a>) -> Option<Matcher> {
        if section.entries.is_empty() {
            section.missing("holds for everything; remove it, or give path, method, header, ...");
            return None;
        }
        if section.entry("any").is_none() {
            return Some(Matcher(vec![self.set(section)]));
        }
        if section.entries.len() > 1 {
            section.error(
                "any",
                "stands alone: put the other conditions into each of its alternatives",
            );
        }
        if section.length("any") == Some(0) {
            section.error("any", "an empty list would hold for nothing; remove it");
        }
        let sets = section.sections("any", &handlers::MATCH);
        let sets = sets.iter().filter_map(|set| match set.entry("any") {
            Some(_) => {
                set.error(
                    "any",
                    "alternatives have none of their own; list them all in one",
                );
                None
            }
            None => Some(self.set(set)),
        });
        Some(Matcher(sets.collect()))
    }

    fn set(&self, section: &Section<'a>) -> MatcherSet {
        for entry in section.entries {
            if matches!(&entry.node.value, Value::List(items) if items.is_empty()) {
                let path = section.key(&entry.name);
                let message = "an empty list would hold for nothing; remove it".to_owned();
                section.out.error(entry.node.at, &path, message);
            }
        }
        let plain = |list: Option<Vec<(usize, Template)>>| {
            let list = list.unwrap_or_default().into_iter();
            list.map(|(_, value)| value).collect::<Vec<_>>()
        };
        let path_regexp = section.section("path_regexp", &handlers::MATCH_PATH_REGEXP);
        MatcherSet {
            path: plain(section.one_or_list("path", |value| self.path(value))),
            path_regexp: path_regexp.and_then(|section| named_pattern(&section)),
            host: unplaced(section.one_or_list("host", host)),
            method: unplaced(section.one_or_list("method", value::method)),
            header: header_matches(section, "header"),
            header_regexp: self.header_regexp(section),
            query: self.query(section),
            remote_ip: networks(section, "remote_ip"),
            client_ip: networks(section, "client_ip"),
            protocol: section.value("protocol", protocol),
            vars: self.vars_match(section),
            vars_regexp: self.vars_regexp(section),
            file: section
                .section("file", &handlers::MATCH_FILE)
                .map(|section| self.file(&section)),
            error_status: self.error_status(section),
            not: self.not(section),
        }
    }

    /// A path with stars, in lower case: it is compared without regard to case.
    fn path(&self, value: &Value) -> Parsed<Template> {
        let mut path = self.some_template(value)?;
        if let Some(Part::Text(text)) = path.0.first()
            && !text.starts_with(['/', '*'])
        {
            return Err(format!(
                "{} is not a path: it begins with / or *, such as \"/api/*\" or \"*.php\"",
                quoted(&path.to_string())
            ));
        }
        for part in &mut path.0 {
            if let Part::Text(text) = part {
                *text = text.to_lowercase();
            }
        }
        Ok(path)
    }

    fn header_regexp(
        &self,
        section: &Section<'a>,
    ) -> Vec<(String, http::HeaderName, crate::config::step::Pattern)> {
        let read = |section: &Section<'a>| {
            needs(section, "field", "the name of a header");
            let field = section.value("field", |value| {
                let text = value::words(value)?;
                http::HeaderName::try_from(text.as_str())
                    .map_err(|_| format!("{} is not the name of a header", quoted(&text)))
            });
            let (name, pattern) = named_pattern(section)?;
            Some((name, field?, pattern))
        };
        let sections = section.sections("header_regexp", &handlers::MATCH_HEADER_REGEXP);
        sections.iter().filter_map(read).collect()
    }

    fn query(&self, section: &Section<'a>) -> Vec<(String, Template)> {
        let mut query = Vec::new();
        for entry in section.table("query").unwrap_or_default() {
            let path = path_of(section, "query", entry);
            for (node, path) in each(&entry.node, &path) {
                let value = section.read(node, &path, |value| self.template(value));
                query.extend(value.map(|value| (entry.name.clone(), value)));
            }
        }
        query
    }

    fn vars_match(&self, section: &Section<'a>) -> Vec<(Template, Vec<Template>)> {
        let read = |section: &Section<'a>| {
            needs(
                section,
                "value",
                "what is compared, such as \"{vars.tenant}\"",
            );
            needs(section, "is", "what it may be");
            let value = section.value("value", |value| self.some_template(value));
            let texts = section.one_or_list("is", |value| self.template(value));
            Some((value?, unplaced(texts)))
        };
        let sections = section.sections("vars", &handlers::MATCH_VARS);
        sections.iter().filter_map(read).collect()
    }

    fn vars_regexp(
        &self,
        section: &Section<'a>,
    ) -> Vec<(String, Template, crate::config::step::Pattern)> {
        let read = |section: &Section<'a>| {
            needs(section, "value", "what is compared, such as \"{query.id}\"");
            let value = section.value("value", |value| self.some_template(value));
            let (name, pattern) = named_pattern(section)?;
            Some((name, value?, pattern))
        };
        let sections = section.sections("vars_regexp", &handlers::MATCH_VARS_REGEXP);
        sections.iter().filter_map(read).collect()
    }

    fn file(&self, section: &Section<'a>) -> FileMatch {
        let mut policy = TryPolicy::default();
        section.set("policy", &mut policy, value::word(&POLICIES));
        let tried = section.one_or_list("try", |value| self.some_template(value));
        FileMatch {
            root: section.value("root", |value| self.some_template(value)),
            files: tried.map_or_else(
                || vec![Template(vec![Part::Var(Var::Path)])],
                |files| files.into_iter().map(|(_, file)| file).collect(),
            ),
            policy,
            split: unplaced(section.one_or_list("split", value::words)),
        }
    }

    fn error_status(&self, section: &Section<'a>) -> Vec<(u16, u16)> {
        let status = section.one_or_list("error_status", status_range);
        if section.entry("error_status").is_some() && !self.in_errors {
            section.error(
                "error_status",
                "there is no error here; it belongs into a [[site.error]] step",
            );
        }
        unplaced(status)
    }

    /// A list of conditions, or one.
    fn not(&self, section: &Section<'a>) -> Vec<Matcher> {
        let is_table = matches!(
            section.entry("not").map(|entry| &entry.node.value),
            Some(Value::Table(_))
        );
        let sections = match is_table {
            true => section
                .section("not", &handlers::MATCH)
                .into_iter()
                .collect(),
            false => section.sections("not", &handlers::MATCH),
        };
        sections
            .iter()
            .filter_map(|not| self.matcher(not))
            .collect()
    }
}

fn unplaced<T>(list: Option<Vec<(usize, T)>>) -> Vec<T> {
    let list = list.unwrap_or_default().into_iter();
    list.map(|(_, value)| value).collect()
}

/// `name` and `pattern` of a table.
fn named_pattern(section: &Section<'_>) -> Option<(String, crate::config::step::Pattern)> {
    needs(section, "pattern", "a regular expression");
    let mut name = String::new();
    section.set("name", &mut name, |value| {
        let text = value::text(value)?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        match text.bytes().all(allowed) {
            true => Ok(text),
            false => Err(format!(
                "{} is not a name: letters, digits, - and _, as in {{re.NAME.1}}",
                quoted(&text)
            )),
        }
    });
    Some((name, section.value("pattern", pattern)?))
}

fn protocol(value: &Value) -> Parsed<String> {
    let text = value::words(value)?.to_ascii_lowercase();
    if PROTOCOLS.contains(&text.as_str()) {
        return Ok(text);
    }
    Err(format!(
        "expected {}; found the text {}",
        value::one_of(PROTOCOLS.into_iter(), value),
        quoted(&text)
    ))
}
