//! The file as a tree of values, each with its place, variables already replaced.

use std::ops::Deref;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Findings;
use crate::config::env::{Env, expand};

/// A value and where it starts, in bytes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

/// A key of a table with its value, and where the key starts.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) at: usize,
    pub(super) node: Node,
}

/// What TOML knows.
#[derive(Debug)]
pub(super) enum Value {
    /// `is_variable`: it was a single `${VAR}`, so it may stand for another type.
    Text {
        text: String,
        is_variable: bool,
    },
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// Already reported; says nothing more.
    Broken,
}

impl Value {
    /// For `expected ..., found ...`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text { text, .. } => format!("the text {}", quoted(text)),
            Self::Integer(number) => format!("the number {number}"),
            Self::Float(number) => format!("the number {number:?}"),
            Self::Boolean(value) => value.to_string(),
            Self::Date => "a date".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) | Self::Broken => "a table".to_owned(),
        }
    }
}

/// A text as an error shows it: escaped, and cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().nth(LONGEST).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{:?}", start + "…")
}

/// Copies the parser's tree, replacing variables. Its depth is bounded by the TOML parser.
pub(super) fn table(table: &DeTable<'_>, env: &Env, path: &str, out: &Findings) -> Vec<Entry> {
    table
        .iter()
        .map(|(key, value)| {
            let name: &str = key.get_ref().deref();
            Entry {
                name: name.to_owned(),
                at: key.span().start,
                node: node(value, env, &join(path, name), out),
            }
        })
        .collect()
}

fn node(spanned: &Spanned<DeValue<'_>>, env: &Env, path: &str, out: &Findings) -> Node {
    let at = spanned.span().start;
    let value = match spanned.get_ref() {
        DeValue::String(text) => match expand(text, env) {
            Ok(done) => Value::Text {
                text: done.text,
                is_variable: done.is_variable,
            },
            Err(errors) => {
                for error in errors {
                    out.error(at, path, error);
                }
                Value::Broken
            }
        },
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                out.error(at, path, format!("{number} is too large a number"));
                Value::Broken
            }
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => {
                out.error(at, path, format!("{number} is not a number"));
                Value::Broken
            }
        },
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(list) => Value::List(
            list.iter()
                .enumerate()
                .map(|(n, item)| node(item, env, &format!("{path}[{n}]"), out))
                .collect(),
        ),
        DeValue::Table(entries) => Value::Table(table(entries, env, path, out)),
    };
    Node { at, value }
}

/// `path.name`, with the name in quotes where TOML needs them.
pub(super) fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = if bare { name.to_owned() } else { quoted(name) };
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}
/// Adds the entries of another text. Tables are put together and lists of tables appended; anything
/// else stands in one text only.
pub(super) fn merge(into: &mut Vec<Entry>, added: Vec<Entry>, path: &str, out: &Findings<'_>) {
    for entry in added {
        let Some(known) = into.iter_mut().find(|known| known.name == entry.name) else {
            into.push(entry);
            continue;
        };
        let path = join(path, &entry.name);
        let is_tables = |list: &[Node]| {
            let mut items = list.iter().map(|item| &item.value);
            items.all(|item| matches!(item, Value::Table(_)))
        };
        match (&mut known.node.value, entry.node.value) {
            (Value::Table(into), Value::Table(added)) => merge(into, added, &path, out),
            (Value::List(into), Value::List(added)) if is_tables(into) && is_tables(&added) => {
                into.extend(added);
            }
            _ => {
                let message = "is given by the other file already; it stands in one of them";
                out.error(entry.at, &path, message);
            }
        }
    }
}
