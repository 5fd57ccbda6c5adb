//! Steps: `[[site.handle]]` and its kin, and the keys of sites and routes that stand for steps.

mod answer;
mod guard;
pub(in crate::config) mod hash;
mod headers;
mod matcher;
mod proxy;
mod reach;
mod rewrite;
pub(super) mod scan;
pub(super) mod sugar;

use super::findings::Findings;
use super::section::Section;
use super::service::Names;
use super::tree::{Entry, Node, Value, join, quoted};
use super::value::{self, Parsed};
use crate::config::schema::handlers;
use crate::config::step::{Action, Pattern, Step, Template, TemplateError, Var};

pub(super) use self::reach::{all_end, answers};

/// What the steps of one site are read with.
#[derive(Clone, Copy)]
pub(super) struct Scope<'c, 'a> {
    out: &'a Findings<'a>,
    names: &'c Names<'a>,
    /// Names that `map` steps of the site set.
    mapped: &'c [String],
    /// Within `[[site.error]]`.
    in_errors: bool,
    /// Within `on_response`.
    in_response: bool,
}

/// What a step can do; one of these.
const ACTIONS: &[&str] = &[
    "access",
    "concurrency",
    "rate_limit",
    "cors",
    "basic_auth",
    "forward_auth",
    "body_limit",
    "vars",
    "map",
    "root",
    "request_header",
    "response_header",
    "security_headers",
    "rewrite",
    "try_files",
    "encode",
    "log",
    "respond",
    "redirect",
    "error",
    "abort",
    "files",
    "proxy",
    "service",
    "copy_response",
    "handle",
];

impl<'c, 'a> Scope<'c, 'a> {
    /// For the steps of one site before it is known what answers.
    pub(super) fn new(names: &'c Names<'a>, mapped: &'c [String]) -> Self {
        Self {
            out: names.out(),
            names,
            mapped,
            in_errors: false,
            in_response: false,
        }
    }

    /// For `[[site.error]]`.
    pub(super) fn of_errors(self) -> Self {
        Self {
            in_errors: true,
            ..self
        }
    }

    fn of_response(self) -> Self {
        Self {
            in_response: true,
            ..self
        }
    }

    /// The steps of a list of tables; wrong ones are reported and left out.
    pub(super) fn steps(&self, section: &Section<'a>, key: &'static str) -> Vec<Step> {
        let sections = section.sections(key, &handlers::STEP);
        if section.length(key) == Some(0) {
            section.error(key, "an empty list does nothing; remove it");
        }
        let mut groups = Vec::new();
        let mut steps = Vec::with_capacity(sections.len());
        for step in &sections {
            let when = step
                .section("match", &handlers::MATCH)
                .and_then(|section| self.matcher(&section));
            let group = self.group(step, &mut groups);
            if let Some(action) = self.only_action(step) {
                steps.push((
                    step,
                    Step {
                        when,
                        group,
                        action,
                    },
                ));
            }
        }
        reach::warn(&steps);
        steps.into_iter().map(|(_, step)| step).collect()
    }

    /// The number of a group: its place among the groups of the list.
    fn group(&self, step: &Section<'a>, known: &mut Vec<String>) -> Option<u32> {
        let name = step.value("group", value::words)?;
        let place = known.iter().position(|group| *group == name);
        let place = place.unwrap_or_else(|| {
            known.push(name);
            known.len() - 1
        });
        u32::try_from(place).ok()
    }

    fn only_action(&self, step: &Section<'a>) -> Option<Action> {
        let mut written = ACTIONS.iter().filter(|key| step.entry(key).is_some());
        let Some(key) = written.next() else {
            if step.is_known() {
                step.missing(
                    "does nothing; give one action, such as respond = \"text\", \
                     redirect = \"https://{host}{uri}\" or service = \"NAME\"",
                );
            }
            return None;
        };
        let others: Vec<_> = written.collect();
        for other in &others {
            let message = format!(
                "a step has one action, and this one has {key}; give {other} a step of its own"
            );
            step.error(other, message);
        }
        let action = self.action(step, key);
        let value = step.entry(key).map(|entry| &entry.node.value);
        if action.is_none() && matches!(value, Some(Value::Boolean(false))) && *key != "abort" {
            step.error(key, "false does nothing in a step; remove the step");
        }
        action.filter(|_| others.is_empty())
    }

    /// What one key does. `None` when it is not there, or wrong and reported.
    fn action(&self, at: &Section<'a>, key: &'static str) -> Option<Action> {
        match key {
            "access" => self.access(at),
            "concurrency" => self.concurrency(at),
            "rate_limit" => self.rate_limit(at),
            "cors" => self.cors(at),
            "basic_auth" => self.basic_auth(at),
            "forward_auth" => self.forward_auth(at),
            "body_limit" => self.body_limit(at),
            "vars" => self.vars(at),
            "map" => self.map(at),
            "root" => at
                .value("root", |value| self.template(value))
                .map(Action::Root),
            "request_header" => {
                let section = at.section("request_header", &handlers::REQUEST_HEADER)?;
                Some(Action::RequestHeaders(self.header_ops(&section)))
            }
            "response_header" => {
                let section = at.section("response_header", &handlers::RESPONSE_HEADER)?;
                Some(Action::ResponseHeaders(self.response_headers(&section)))
            }
            "security_headers" => self.security_headers(at),
            "rewrite" => self.rewrite(at).map(Action::Rewrite),
            "try_files" => self.try_files(at),
            "encode" => self.encode(at),
            "log" => self.log(at),
            "respond" => self.respond(at),
            "redirect" => self.redirect(at),
            "error" => self.error(at),
            "abort" => self.abort(at),
            "files" => self.files(at),
            "proxy" => self.proxy(at),
            "service" => self.only_service(at),
            "copy_response" => self.copy_response(at),
            "handle" => Some(Action::Steps(self.steps(at, "handle"))),
            _ => None,
        }
    }

    /// A text with placeholders.
    fn template(&self, value: &Value) -> Parsed<Template> {
        self.parse_template(&value::text(value)?)
    }

    /// As [`Self::template`], but not empty.
    fn some_template(&self, value: &Value) -> Parsed<Template> {
        let template = self.template(value)?;
        match template.as_text() {
            Some("") => Err("must not be empty".to_owned()),
            _ => Ok(template),
        }
    }

    fn parse_template(&self, text: &str) -> Parsed<Template> {
        Template::parse(text, self.mapped).map_err(|TemplateError::Unknown(name)| {
            if name.bytes().all(|b| b.is_ascii_digit()) {
                return format!(
                    "unknown placeholder {{{name}}}; a group of a regular expression is `${name}`, \
                     or `$\\{{{name}}}` where a letter or digit follows"
                );
            }
            let near = self.near_placeholder(&name);
            match near {
                Some(near) => format!("unknown placeholder {{{name}}}; did you mean {{{near}}}?"),
                None => format!(
                    "unknown placeholder {{{name}}}; docs/config.md has them all, and `\\\\{{` is \
                     a literal brace"
                ),
            }
        })
    }

    /// The placeholder that is most like a wrong one: a whole name, or the same end after
    /// another beginning.
    fn near_placeholder(&self, wrong: &str) -> Option<String> {
        let mapped = self.mapped.iter().map(String::as_str);
        let mut names: Vec<&str> = mapped.collect();
        for name in Var::names() {
            names.push(name);
        }
        if let Some(near) = self.out.nearest(wrong, names.into_iter()) {
            return Some(near.to_owned());
        }
        let (beginning, end) = wrong.split_once('.')?;
        let near = self.out.nearest(beginning, Var::families())?;
        let name = format!("{near}.{end}");
        Var::parse(&name, &[]).map(|_| name)
    }

    /// A table of texts with placeholders.
    fn templates(&self, section: &Section<'a>, key: &'static str) -> Vec<(String, Template)> {
        let fields = section.fields(key, |value| self.template(value));
        let named = |(entry, value): (&Entry, Template)| (entry.name.clone(), value);
        fields.into_iter().map(named).collect()
    }
}

/// `true`; nothing else is worth writing.
fn only_true(value: &Value) -> Parsed<()> {
    match value::boolean(value)? {
        true => Ok(()),
        false => Err("false does nothing; remove it".to_owned()),
    }
}

/// A regular expression; what is wrong with it is told on one line.
fn pattern(value: &Value) -> Parsed<Pattern> {
    let text = value::text(value)?;
    Pattern::new(&text).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        let reason = last.strip_prefix("error: ").unwrap_or(last);
        format!("{} is not a regular expression: {reason}", quoted(&text))
    })
}

/// The items of a list, or a single value as a list of one, wherever they stand.
fn each<'n>(node: &'n Node, path: &str) -> Vec<(&'n Node, String)> {
    match &node.value {
        Value::List(items) => (items.iter().enumerate())
            .map(|(n, item)| (item, format!("{path}[{n}]")))
            .collect(),
        _ => vec![(node, path.to_owned())],
    }
}

/// Path of an entry of a table with free keys.
fn path_of(section: &Section<'_>, key: &'static str, entry: &Entry) -> String {
    join(&section.key(key), &entry.name)
}
