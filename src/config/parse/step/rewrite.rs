//! Actions that change what is asked for, or what is remembered of a request.

use super::{Scope, Value, each, only_true, path_of, pattern};
use crate::config::parse::section::Section;
use crate::config::parse::value::{self, Parsed};
use crate::config::schema::handlers;
use crate::config::step::{
    Action, LogStep, MapEntry, MapInput, QueryOp, Rewrite, Template, TryFiles, TryPolicy, ValueMap,
};

/// Which of several files is taken.
pub(super) const POLICIES: [(&str, TryPolicy); 4] = [
    ("first_exist", TryPolicy::FirstExist),
    ("smallest_size", TryPolicy::SmallestSize),
    ("largest_size", TryPolicy::LargestSize),
    ("most_recently_modified", TryPolicy::MostRecent),
];

impl<'a> Scope<'_, 'a> {
    pub(super) fn rewrite(&self, at: &Section<'a>) -> Option<Rewrite> {
        if !matches!(at.entry("rewrite")?.node.value, Value::Table(_)) {
            let to = at.value("rewrite", |value| match value {
                Value::Text { .. } => self.target(value),
                other => Err(format!(
                    "expected a target such as \"/new{{uri}}\", or a table such as {{ strip_prefix \
                     = \"/old\" }}; found {}",
                    other.describe()
                )),
            })?;
            return Some(Rewrite {
                to: Some(to),
                ..Rewrite::default()
            });
        }
        let section = at.section("rewrite", &handlers::REWRITE)?;
        if section.entries.is_empty() {
            section.missing("changes nothing; give to, strip_prefix, path_regexp, query, ...");
        }
        let text = |key| section.value(key, |value| self.some_template(value));
        let mut rewrite = Rewrite {
            method: text("method"),
            to: section.value("to", |value| self.target(value)),
            strip_prefix: text("strip_prefix"),
            strip_suffix: text("strip_suffix"),
            add_prefix: text("add_prefix"),
            ..Rewrite::default()
        };
        for replace in section.sections("replace", &handlers::REWRITE_REPLACE) {
            needs(&replace, "find", "the text that is replaced");
            let find = replace.value("find", some_text);
            let with = replace.value("with", |value| self.template(value));
            let mut limit = 0;
            replace.set("limit", &mut limit, value::whole(0..=1_000_000_u32));
            if let Some(find) = find {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                rewrite
                    .replace
                    .push((find, with.unwrap_or_default(), limit));
            }
        }
        for replace in section.sections("path_regexp", &handlers::REWRITE_REGEXP) {
            needs(&replace, "find", "a regular expression");
            let find = replace.value("find", pattern);
            let with = replace.value("with", |value| self.template(value));
            if let Some(find) = find {
                rewrite.path_regexp.push((find, with.unwrap_or_default()));
            }
        }
        if let Some(query) = section.section("query", &handlers::REWRITE_QUERY) {
            rewrite.query = self.query_ops(&query);
        }
        Some(rewrite)
    }

    /// A new path, or path and query, or `?query`.
    fn target(&self, value: &Value) -> Parsed<Template> {
        let template = self.some_template(value)?;
        let begins_with_text = match value {
            Value::Text { text, .. } => !text.starts_with(['/', '?', '{']),
            _ => false,
        };
        match begins_with_text {
            true => Err("a target begins with / or ?, or with a placeholder".to_owned()),
            false => Ok(template),
        }
    }

    /// In the order in which they are applied: rename, set, add, replace, delete.
    fn query_ops(&self, section: &Section<'a>) -> Vec<QueryOp> {
        let mut ops = Vec::new();
        let single: [(_, fn(_, _) -> _); 2] = [("rename", QueryOp::Rename), ("set", QueryOp::Set)];
        for (key, op) in single {
            for (entry, value) in section.fields(key, |value| self.template(value)) {
                let path = path_of(section, key, entry);
                match self.parse_template(&entry.name) {
                    Ok(name) => ops.push(op(name, value)),
                    Err(error) => section.out.error(entry.at, &path, error),
                }
            }
        }
        for entry in section.table("add").unwrap_or_default() {
            let path = path_of(section, "add", entry);
            let name = self.parse_template(&entry.name);
            if let Err(error) = &name {
                section.out.error(entry.at, &path, error);
            }
            for (node, path) in each(&entry.node, &path) {
                let value = section.read(node, &path, |value| self.template(value));
                if let (Ok(name), Some(value)) = (&name, value) {
                    ops.push(QueryOp::Add(name.clone(), value));
                }
            }
        }
        for replace in section.sections("replace", &handlers::QUERY_REPLACE) {
            needs(&replace, "find", "a regular expression");
            let name = replace.value("name", |value| self.some_template(value));
            let find = replace.value("find", pattern);
            let with = replace.value("with", |value| self.template(value));
            if let Some(find) = find {
                let name = name.unwrap_or_else(|| Template::text("*"));
                ops.push(QueryOp::Replace(name, find, with.unwrap_or_default()));
            }
        }
        let deleted = section.one_or_list("delete", |value| self.some_template(value));
        let deleted = deleted.unwrap_or_default().into_iter();
        ops.extend(deleted.map(|(_, name)| QueryOp::Delete(name)));
        if ops.is_empty() && section.entries.is_empty() {
            section.missing("changes nothing; give rename, set, add, replace or delete");
        }
        ops
    }

    pub(super) fn try_files(&self, at: &Section<'a>) -> Option<Action> {
        let of = |section: &Section<'a>, key| {
            let files = section.one_or_list(key, |value| self.some_template(value))?;
            if section.length(key) == Some(0) {
                section.error(key, "give at least one file, such as \"{path}\"");
            }
            Some(files.into_iter().map(|(_, file)| file).collect())
        };
        if !matches!(at.entry("try_files")?.node.value, Value::Table(_)) {
            return Some(Action::TryFiles(TryFiles {
                root: None,
                files: of(at, "try_files")?,
                policy: TryPolicy::default(),
            }));
        }
        let section = at.section("try_files", &handlers::TRY_FILES)?;
        needs(
            &section,
            "files",
            "what is tried, such as [\"{path}\", \"/index.html\"]",
        );
        let mut policy = TryPolicy::default();
        section.set("policy", &mut policy, value::word(&POLICIES));
        Some(Action::TryFiles(TryFiles {
            root: section.value("root", |value| self.some_template(value)),
            files: of(&section, "files").unwrap_or_default(),
            policy,
        }))
    }

    pub(super) fn map(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("map", &handlers::MAP)?;
        needs(&section, "source", "what is looked up, such as \"{host}\"");
        let source = section.value("source", |value| self.some_template(value));
        let default = self.templates(&section, "default");
        let mut entries = Vec::new();
        for entry in section.sections("entries", &handlers::MAP_ENTRY) {
            let exact = entry.value("input", value::text).map(MapInput::Exact);
            let pattern = entry.value("pattern", pattern).map(MapInput::Pattern);
            match (entry.entry("input"), entry.entry("pattern")) {
                (Some(_), Some(_)) => entry.error("pattern", "give either input or pattern"),
                (None, None) => entry.missing("needs input or pattern: what fits"),
                _ => {}
            }
            let set = self.templates(&entry, "set");
            entries.extend(exact.or(pattern).map(|input| (input, set)));
        }
        let set = entries.iter().flat_map(|(_, set)| set);
        let mut names: Vec<_> = set.chain(&default).map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            section.missing("sets nothing; give entries with set = { NAME = \"value\" }");
        }
        self.check_mapped(&section, &names);
        let value = |set: &[(String, Template)], name: &str| {
            let found = set.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        Some(Action::Map(ValueMap {
            source: source?,
            entries: (entries.into_iter())
                .map(|(input, set)| MapEntry {
                    input,
                    outputs: names.iter().map(|name| value(&set, name)).collect(),
                })
                .collect(),
            defaults: (names.iter())
                .map(|name| value(&default, name).unwrap_or_default())
                .collect(),
            names,
        }))
    }

    /// Names of a map are used as `{name}`.
    fn check_mapped(&self, section: &Section<'a>, names: &[String]) {
        for name in names {
            let used = Template::parse(&format!("{{{name}}}"), self.mapped);
            let is_name = used.is_ok_and(|template| template.as_text().is_none());
            if !is_name {
                let message = format!(
                    "{{{name}}} is no placeholder: a name has letters, digits and . _ - / : $"
                );
                section.error("entries", message);
            }
        }
    }

    pub(super) fn log(&self, at: &Section<'a>) -> Option<Action> {
        if !matches!(at.entry("log")?.node.value, Value::Table(_)) {
            return at.value("log", |value| match value {
                Value::Boolean(true) => Err("true is the default; remove it".to_owned()),
                Value::Boolean(false) => Ok(Action::Log(LogStep {
                    skip: true,
                    append: Vec::new(),
                })),
                other => Err(format!(
                    "expected false, or a table such as {{ append = {{ tenant = \
                     \"{{header.X-Tenant}}\" }} }}; found {}",
                    other.describe()
                )),
            });
        }
        let section = at.section("log", &handlers::LOG_STEP)?;
        let mut log = LogStep {
            skip: false,
            append: self.templates(&section, "append"),
        };
        section.set("skip", &mut log.skip, value::boolean);
        if section.entries.is_empty() {
            section.missing("does nothing; give skip = true or append");
        }
        Some(Action::Log(log))
    }

    /// `vars = { ... }`.
    pub(super) fn vars(&self, at: &Section<'a>) -> Option<Action> {
        at.table("vars")?;
        Some(Action::Vars(self.templates(at, "vars")))
    }

    /// `abort = true`.
    pub(super) fn abort(&self, at: &Section<'a>) -> Option<Action> {
        at.value("abort", only_true).map(|()| Action::Abort)
    }
}

/// Reports that a key is not there.
pub(super) fn needs(section: &Section<'_>, key: &'static str, what: &str) {
    if section.entry(key).is_none() {
        section.missing(format!("needs {key}: {what}"));
    }
}

fn some_text(value: &Value) -> Parsed<String> {
    match value::text(value)? {
        text if text.is_empty() => Err("must not be empty".to_owned()),
        text => Ok(text),
    }
}
