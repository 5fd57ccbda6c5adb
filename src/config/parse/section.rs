//! One table of the file on its way through the walker: looks keys up in the schema, reports
//! what is wrong with their values.

use std::path::Path;

use super::findings::Findings;
use super::tree::{Entry, Node, Value, join};
use super::value::{self, Parsed};
use crate::config::Secret;
use crate::config::schema::{self, Table};
use crate::kept;

/// A table, its path as people see it, and the keys it may have.
pub(super) struct Section<'a> {
    pub(super) out: &'a Findings<'a>,
    schema: &'static Table,
    pub(super) path: String,
    pub(super) at: usize,
    pub(super) entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Opens a table and reports its unknown keys.
    pub(super) fn new(
        out: &'a Findings<'a>,
        schema: &'static Table,
        path: String,
        at: usize,
        entries: &'a [Entry],
    ) -> Self {
        let section = Self {
            out,
            schema,
            path,
            at,
            entries,
        };
        for entry in entries {
            if !schema.keys.iter().any(|key| key.name == entry.name) {
                section.unknown(entry);
            }
        }
        section
    }

    fn unknown(&self, entry: &Entry) {
        let key = join(&self.path, &entry.name);
        let moved = (schema::MOVED.iter())
            .find(|(table, name, _)| *table == self.schema.path && *name == entry.name);
        let names = || self.schema.keys.iter().map(|key| key.name);
        let message = if let Some((_, _, instead)) = moved {
            format!("unknown key; {instead}")
        } else if let Some(near) = self.out.nearest(&entry.name, names()) {
            format!("unknown key; did you mean `{near}`?")
        } else if let Some(table) = elsewhere(&entry.name) {
            format!("unknown key here; it belongs into [{table}]")
        } else {
            let all: Vec<_> = names().collect();
            format!("unknown key; the keys here are {}", all.join(", "))
        };
        self.out.error(entry.at, &key, message);
    }

    /// The entry of a known key, if the file has it.
    pub(super) fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        debug_assert!(
            self.schema.keys.iter().any(|known| known.name == key),
            "{key} is not in the schema of [{}]",
            self.schema.path
        );
        self.entries.iter().find(|entry| entry.name == key)
    }

    /// Whether it is one of these tables.
    pub(super) fn is(&self, schema: &'static Table) -> bool {
        self.schema.path == schema.path
    }

    /// Whether every key in here is one that may be here.
    pub(super) fn is_known(&self) -> bool {
        (self.entries.iter()).all(|entry| self.schema.keys.iter().any(|key| key.name == entry.name))
    }

    /// The values of a table whose keys are free. Wrong ones are reported and left out.
    pub(super) fn fields<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Value) -> Parsed<T>,
    ) -> Vec<(&'a Entry, T)> {
        let path = self.key(key);
        (self.table(key).unwrap_or_default().iter())
            .filter_map(|entry| {
                let value = self.read(&entry.node, &join(&path, &entry.name), &parse)?;
                Some((entry, value))
            })
            .collect()
    }

    /// The first of two keys if the file has it, else the second: where to show that they
    /// contradict each other.
    pub(super) fn first_of(&self, key: &'static str, other: &'static str) -> &'static str {
        if self.entry(key).is_some() {
            key
        } else {
            other
        }
    }

    /// How many items a list has, wrong ones included; `None` when it is no list.
    pub(super) fn length(&self, key: &'static str) -> Option<usize> {
        match &self.entry(key)?.node.value {
            Value::List(items) => Some(items.len()),
            _ => None,
        }
    }

    /// Path of a key in here.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Where a key's value is; where the table begins when the key is not there.
    pub(super) fn place(&self, key: &'static str) -> usize {
        self.entry(key).map_or(self.at, |entry| entry.node.at)
    }

    /// Reports an error at a key's value.
    pub(super) fn error(&self, key: &'static str, message: impl Into<String>) {
        self.out.error(self.place(key), &self.key(key), message);
    }

    /// Reports a warning at a key's value.
    pub(super) fn warning(&self, key: &'static str, message: impl Into<String>) {
        self.out.warning(self.place(key), &self.key(key), message);
    }

    /// Reports that something is not in this table.
    pub(super) fn missing(&self, message: impl Into<String>) {
        self.out.missing(self.at, &self.path, message);
    }

    fn leaf(&self, key: &'static str) -> Option<&'a Node> {
        Some(&self.entry(key)?.node)
    }

    /// A key's value. `None` when it is not there, or wrong and reported.
    pub(super) fn value<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Parsed<T>,
    ) -> Option<T> {
        self.read(self.leaf(key)?, &self.key(key), parse)
    }

    /// Replaces `slot` by a key's value if it is there and right.
    pub(super) fn set<T>(
        &self,
        key: &'static str,
        slot: &mut T,
        parse: impl FnOnce(&Value) -> Parsed<T>,
    ) {
        if let Some(value) = self.value(key, parse) {
            *slot = value;
        }
    }

    /// Reads one node, and reports what is wrong with it under `path`.
    pub(super) fn read<T>(
        &self,
        node: &Node,
        path: &str,
        parse: impl FnOnce(&Value) -> Parsed<T>,
    ) -> Option<T> {
        if matches!(node.value, Value::Broken) {
            return None;
        }
        match parse(&node.value) {
            Ok(value) => Some(value),
            Err(message) => {
                self.out.error(node.at, path, message);
                None
            }
        }
    }

    /// The values of a list, each with its place. Wrong ones are reported and left out.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        what: &str,
        parse: impl Fn(&Value) -> Parsed<T>,
    ) -> Option<Vec<(usize, T)>> {
        let node = self.leaf(key)?;
        match &node.value {
            Value::Broken => None,
            Value::List(items) => Some(self.items(key, items, parse)),
            other => {
                let found = other.describe();
                self.error(key, format!("expected a list of {what}, found {found}"));
                None
            }
        }
    }

    /// As [`Self::list`]; a single value counts as a list of one.
    pub(super) fn one_or_list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Value) -> Parsed<T>,
    ) -> Option<Vec<(usize, T)>> {
        let node = self.leaf(key)?;
        match &node.value {
            Value::List(items) => Some(self.items(key, items, parse)),
            _ => {
                let value = self.read(node, &self.key(key), parse)?;
                Some(vec![(node.at, value)])
            }
        }
    }

    fn items<T>(
        &self,
        key: &'static str,
        items: &[Node],
        parse: impl Fn(&Value) -> Parsed<T>,
    ) -> Vec<(usize, T)> {
        let path = self.key(key);
        (items.iter().enumerate())
            .filter_map(|(n, item)| {
                let value = self.read(item, &format!("{path}[{n}]"), &parse)?;
                Some((item.at, value))
            })
            .collect()
    }

    /// Replaces `slot` by the values of a list, without their places.
    pub(super) fn set_list<T>(
        &self,
        key: &'static str,
        slot: &mut Vec<T>,
        what: &str,
        parse: impl Fn(&Value) -> Parsed<T>,
    ) {
        if let Some(list) = self.list(key, what, parse) {
            *slot = list.into_iter().map(|(_, value)| value).collect();
        }
    }

    /// A table in here.
    pub(super) fn section(&self, key: &'static str, schema: &'static Table) -> Option<Self> {
        let entries = self.table(key)?;
        let at = self.header(key);
        Some(self.child(schema, self.key(key), at, entries))
    }

    /// The entries of a table whose keys are free, such as names of headers.
    pub(super) fn table(&self, key: &'static str) -> Option<&'a [Entry]> {
        let node = &self.entry(key)?.node;
        match &node.value {
            Value::Table(entries) => Some(entries),
            Value::Broken => None,
            other => {
                let form = match self.path.is_empty() {
                    true if key == "service" => "[service.NAME]".to_owned(),
                    true => format!("[{key}]"),
                    false => format!("{key} = {{ ... }}"),
                };
                let found = other.describe();
                self.error(key, format!("expected a table, {form}, found {found}"));
                None
            }
        }
    }

    /// The tables of a list of tables.
    pub(super) fn sections(&self, key: &'static str, schema: &'static Table) -> Vec<Self> {
        let Some(entry) = self.entry(key) else {
            return Vec::new();
        };
        let wrong = |at, path: &str, found: &Value| {
            if !matches!(found, Value::Broken) {
                let found = found.describe();
                let message = format!(
                    "expected tables, each under [[{}]], found {found}",
                    schema.path
                );
                self.out.error(at, path, message);
            }
        };
        let path = self.key(key);
        let Value::List(items) = &entry.node.value else {
            wrong(entry.node.at, &path, &entry.node.value);
            return Vec::new();
        };
        (items.iter().enumerate())
            .filter_map(|(n, item)| {
                let path = format!("{path}[{n}]");
                let Value::Table(entries) = &item.value else {
                    wrong(item.at, &path, &item.value);
                    return None;
                };
                Some(self.child(schema, path, item.at, entries))
            })
            .collect()
    }

    /// A table below this one.
    pub(super) fn child(
        &self,
        schema: &'static Table,
        path: String,
        at: usize,
        entries: &'a [Entry],
    ) -> Self {
        Self::new(self.out, schema, path, at, entries)
    }

    /// Where a table's name stands.
    fn header(&self, key: &'static str) -> usize {
        self.entry(key).map_or(self.at, |entry| entry.at)
    }

    /// A secret written as `key` or read from the file that `file_key` names. Its value is in
    /// no message.
    pub(super) fn secret(
        &self,
        key: &'static str,
        file_key: &'static str,
        check: impl Fn(&str) -> Parsed<()>,
    ) -> Option<Secret> {
        let text = self.value(key, value::text);
        let file = self.value(file_key, value::path);
        if self.entry(key).is_some() && self.entry(file_key).is_some() {
            let message = format!("give either {key} or {file_key}, not both");
            self.error(file_key, message);
            return None;
        }
        let (key, text) = match (text, file) {
            (Some(text), _) => (key, text),
            (None, Some(file)) => (file_key, self.secret_file(file_key, &file)?),
            (None, None) => {
                if self.entry(key).is_none() && self.entry(file_key).is_none() {
                    self.missing(format!("needs {key} or {file_key}"));
                }
                return None;
            }
        };
        match check(&text) {
            Ok(()) => Some(Secret::new(text)),
            Err(message) => {
                self.error(key, message);
                None
            }
        }
    }

    fn secret_file(&self, key: &'static str, file: &Path) -> Option<String> {
        let shown = file.display();
        match std::fs::metadata(file) {
            Ok(metadata) if is_open_to_others(&metadata) => {
                self.warning(key, format!("{shown} can be read by others; chmod 600 it"))
            }
            Ok(_) | Err(_) => {}
        }
        match kept::read_to_string(file) {
            Ok(text) => {
                self.out.secret_file(file);
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                Some(text.to_owned())
            }
            Err(error) => {
                self.error(key, format!("{shown} cannot be read: {error}"));
                None
            }
        }
    }
}

/// Whether people other than the owner and the group may read it.
fn is_open_to_others(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

/// The only other table that has such a key, if there is exactly one.
fn elsewhere(name: &str) -> Option<&'static str> {
    let mut tables = schema::TABLES
        .iter()
        .filter(|table| table.keys.iter().any(|key| key.name == name));
    let first = tables.next()?;
    (tables.next().is_none() && !first.path.is_empty()).then_some(first.path)
}
