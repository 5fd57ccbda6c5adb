//! The file as a tree with positions, read key by key.
//!
//! A reader asks a [`Table`] for the keys it knows and gets [`Node`]s; [`Table::finish`] reports
//! every key that nobody asked for. Nothing stops at the first error: a wrong value is reported
//! and replaced by its default, and a file with any error is never used.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Severity};

/// What all readers of one file share.
pub(super) struct Context<'a> {
    file: &'a str,
    text: &'a str,
    environment: &'a dyn Fn(&str) -> Option<String>,
    findings: RefCell<Vec<(usize, Diagnostic)>>,
    inactive: RefCell<Vec<super::Inactive>>,
    keys: RefCell<std::collections::BTreeSet<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        file: &'a str,
        text: &'a str,
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            file,
            text,
            environment,
            findings: RefCell::default(),
            inactive: RefCell::default(),
            keys: RefCell::default(),
        }
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    pub(super) fn report(&self, severity: Severity, at: usize, key: &str, message: String) {
        let at = at.min(self.text.len());
        let before = self.text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let diagnostic = Diagnostic {
            severity,
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            message,
        };
        self.findings.borrow_mut().push((at, diagnostic));
    }

    pub(super) fn inactive(&self, key: &str, effect: &'static str) {
        self.inactive.borrow_mut().push(super::Inactive {
            key: key.to_owned(),
            effect,
        });
    }

    /// Every key path that a reader asked for, names of services and numbers replaced by `*`.
    pub(super) fn known_keys(&self) -> std::collections::BTreeSet<String> {
        self.keys.borrow().clone()
    }

    /// Errors and warnings in the order of the file, and what is not active.
    pub(super) fn into_findings(self) -> (Vec<Diagnostic>, Vec<Diagnostic>, Vec<super::Inactive>) {
        let mut findings = self.findings.into_inner();
        findings.sort_by_key(|(at, _)| *at);
        let (errors, warnings) = findings
            .into_iter()
            .map(|(_, diagnostic)| diagnostic)
            .partition(|diagnostic| diagnostic.severity == Severity::Error);
        (errors, warnings, self.inactive.into_inner())
    }
}

/// One value with its place and key path.
#[derive(Clone)]
pub(super) struct Node<'c> {
    pub(super) cx: &'c Context<'c>,
    pub(super) path: String,
    /// As [`Node::path`], with names and numbers replaced by `*`.
    shape: String,
    pub(super) value: &'c DeValue<'c>,
    pub(super) span: Range<usize>,
}

impl<'c> Node<'c> {
    pub(super) fn root(cx: &'c Context<'c>, value: &'c Spanned<DeValue<'c>>) -> Self {
        Self {
            cx,
            path: String::new(),
            shape: String::new(),
            value: value.get_ref(),
            span: value.span(),
        }
    }

    /// Reports an error at this value.
    pub(super) fn error(&self, message: impl Into<String>) {
        self.cx
            .report(Severity::Error, self.span.start, &self.path, message.into());
    }

    /// Reports a warning at this value.
    pub(super) fn warning(&self, message: impl Into<String>) {
        self.cx.report(
            Severity::Warning,
            self.span.start,
            &self.path,
            message.into(),
        );
    }

    /// Says that this key does nothing in this version.
    pub(super) fn inactive(&self, effect: &'static str) {
        self.cx.inactive(&self.path, effect);
    }

    /// This value as a table, or an error.
    pub(super) fn table(&self) -> Option<Table<'c>> {
        match self.value {
            DeValue::Table(entries) => Some(Table {
                node: self.clone(),
                entries,
                asked: RefCell::default(),
                open: Cell::new(false),
            }),
            other => {
                self.error(format!("is {}, expected a table", kind(other)));
                None
            }
        }
    }

    /// The elements of an array, or an error.
    pub(super) fn elements(&self) -> Vec<Self> {
        match self.value {
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .map(|(n, item)| Self {
                    cx: self.cx,
                    path: format!("{}[{n}]", self.path),
                    shape: format!("{}[]", self.shape),
                    value: item.get_ref(),
                    span: item.span(),
                })
                .collect(),
            other => {
                self.error(format!("is {}, expected a list", kind(other)));
                Vec::new()
            }
        }
    }

    /// The elements of an array, or the value itself.
    pub(super) fn one_or_more(&self) -> Vec<Self> {
        match self.value {
            DeValue::Array(_) => self.elements(),
            _ => vec![self.clone()],
        }
    }
}

/// One table being read.
pub(super) struct Table<'c> {
    pub(super) node: Node<'c>,
    entries: &'c DeTable<'c>,
    asked: RefCell<Vec<&'static str>>,
    open: Cell<bool>,
}

impl<'c> Table<'c> {
    /// The value of a key that this table may have.
    pub(super) fn key(&self, name: &'static str) -> Option<Node<'c>> {
        self.asked.borrow_mut().push(name);
        let shape = join(&self.node.shape, name);
        self.node.cx.keys.borrow_mut().insert(shape.clone());
        let (_, value) = self
            .entries
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == name)?;
        Some(Node {
            cx: self.node.cx,
            path: join(&self.node.path, name),
            shape,
            value: value.get_ref(),
            span: value.span(),
        })
    }

    /// A key that must be there.
    pub(super) fn required(&self, name: &'static str, form: &str) -> Option<Node<'c>> {
        let found = self.key(name);
        if found.is_none() {
            self.node
                .error(format!("`{name}` is missing, expected {form}"));
        }
        found
    }

    /// All entries of a table whose keys are names.
    pub(super) fn named(&self) -> Vec<(String, Node<'c>)> {
        self.open.set(true);
        self.entries
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                let node = Node {
                    cx: self.node.cx,
                    path: join(&self.node.path, &name),
                    shape: join(&self.node.shape, "*"),
                    value: value.get_ref(),
                    span: key.span(),
                };
                (name, node)
            })
            .collect()
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        if self.open.get() {
            return;
        }
        let asked = self.asked.borrow();
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if asked.contains(&name) {
                continue;
            }
            let path = join(&self.node.path, name);
            let message = match nearest(name, asked.iter().copied()) {
                Some(nearest) => format!("unknown key, did you mean `{nearest}`?"),
                None => {
                    let mut known: Vec<&str> = asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("unknown key, known here: {}", known.join(", "))
                }
            };
            self.node
                .cx
                .report(Severity::Error, key.span().start, &path, message);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The name that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// What a value is, for messages.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
