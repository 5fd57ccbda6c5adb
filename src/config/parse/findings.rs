//! What the walk finds on its way, and where in the file it was.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::config::{Config, Diagnostic, Diagnostics, Severity};

/// Errors and warnings, collected in any order.
pub(super) struct Findings<'a> {
    /// Where each file begins, in bytes of the text.
    files: Vec<(usize, &'a str)>,
    text: &'a str,
    /// Where each line starts, in bytes.
    lines: Vec<usize>,
    /// There were syntax errors: nothing may be called missing.
    torn: bool,
    /// Lines that are no TOML.
    torn_lines: RefCell<HashSet<usize>>,
    found: RefCell<Vec<Found>>,
    /// Files of secrets that were read.
    secret_files: RefCell<Vec<PathBuf>>,
    /// How many more names may be compared for "did you mean", so that a file of nothing but
    /// wrong names takes no quadratic time.
    comparisons: Cell<usize>,
}

struct Found {
    at: usize,
    severity: Severity,
    is_syntax: bool,
    key: String,
    message: String,
}

impl<'a> Findings<'a> {
    pub(super) fn new(files: &[(usize, &'a str)], text: &'a str, torn: bool) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            files: files.to_vec(),
            text,
            lines: std::iter::once(0).chain(ends).collect(),
            torn,
            torn_lines: RefCell::default(),
            found: RefCell::default(),
            secret_files: RefCell::default(),
            comparisons: Cell::new(200_000),
        }
    }

    pub(super) fn syntax(&self, at: usize, message: &str) {
        self.push(at, Severity::Error, true, "", message.to_owned());
    }

    /// Nothing on the line of this place is to be trusted.
    pub(super) fn torn(&self, at: usize) {
        let line = self.line_of_all(at);
        self.torn_lines.borrow_mut().insert(line);
    }

    pub(super) fn error(&self, at: usize, key: &str, message: impl Into<String>) {
        self.push(at, Severity::Error, false, key, message.into());
    }

    /// An error about something that is not there.
    pub(super) fn missing(&self, at: usize, key: &str, message: impl Into<String>) {
        if !self.torn {
            self.error(at, key, message);
        }
    }

    pub(super) fn warning(&self, at: usize, key: &str, message: impl Into<String>) {
        self.push(at, Severity::Warning, false, key, message.into());
    }

    pub(super) fn secret_file(&self, file: &Path) {
        self.secret_files.borrow_mut().push(file.to_owned());
    }

    /// Line of a place in its file, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let (start, _) = self.file(at);
        self.line_of_all(at) + 1 - self.line_of_all(start)
    }

    fn line_of_all(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).max(1)
    }

    /// Where the file of a place begins, and its name.
    fn file(&self, at: usize) -> (usize, &'a str) {
        let after = self.files.partition_point(|(start, _)| *start <= at);
        let found = self.files.get(after.saturating_sub(1));
        found.copied().unwrap_or_default()
    }

    /// The name most like `wrong`, if one is like it at all.
    pub(super) fn nearest<'n>(
        &self,
        wrong: &str,
        names: impl Iterator<Item = &'n str>,
    ) -> Option<&'n str> {
        const LONGEST: usize = 64;
        if wrong.len() > LONGEST {
            return None;
        }
        let wrong = wrong.to_ascii_lowercase();
        let enough = (wrong.chars().count() / 3).max(1);
        names
            .take_while(|_| {
                let left = self.comparisons.get();
                self.comparisons.set(left.saturating_sub(1));
                left > 0
            })
            .filter(|name| name.len() <= LONGEST)
            .map(|name| (strsim::damerau_levenshtein(&wrong, name), name))
            .min()
            .filter(|(distance, _)| *distance <= enough)
            .map(|(_, name)| name)
    }

    /// The configuration with its warnings, or every error in the order of the file.
    pub(super) fn finish(self, mut config: Config) -> Result<Config, Diagnostics> {
        let mut found = self.found.take();
        // A line that is no TOML says nothing reliable about the keys on it.
        let torn = self.torn_lines.take();
        found.retain(|f| f.is_syntax || !torn.contains(&self.line_of_all(f.at)));
        found.sort_by_key(|f| f.at);

        let mut place = Place::default();
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        for f in found {
            let start = self.lines[self.line_of_all(f.at) - 1];
            let diagnostic = Diagnostic {
                severity: f.severity,
                file: self.file(f.at).1.to_owned(),
                line: self.line(f.at),
                column: place.column(self.text, start, f.at),
                key: f.key,
                message: f.message,
            };
            match f.severity {
                Severity::Error => errors.push(diagnostic),
                Severity::Warning => warnings.push(diagnostic),
            }
        }
        if !errors.is_empty() {
            return Err(Diagnostics(errors));
        }
        config.warnings = warnings;
        config.secret_files = self.secret_files.take();
        Ok(config)
    }

    fn push(&self, at: usize, severity: Severity, is_syntax: bool, key: &str, message: String) {
        self.found.borrow_mut().push(Found {
            at: at.min(self.text.len()),
            severity,
            is_syntax,
            key: key.to_owned(),
            message,
        });
    }
}

/// Counts characters from the last place asked for, so that a long line with many errors is
/// counted once.
#[derive(Default)]
struct Place {
    at: usize,
    characters: usize,
}

impl Place {
    /// Column from 1 of `at`, in the line that starts at `start`. Asked in ascending order.
    fn column(&mut self, text: &str, start: usize, at: usize) -> usize {
        if self.at < start {
            *self = Self {
                at: start,
                characters: 0,
            };
        }
        let new = text.as_bytes()[self.at..at].iter();
        self.characters += new.filter(|byte| (**byte & 0xc0) != 0x80).count();
        self.at = at;
        self.characters + 1
    }
}
