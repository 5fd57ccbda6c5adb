//! Where output goes and what the place can show.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use terminal_size::{Height, Width};

use crate::admin::wire::{ControlError, ErrorBody};

use crate::ctl::text::{Line, Style};

/// Stdout and stderr of this process. A reader that went away is not an error: there is nobody
/// left to tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON document on stdout, everything for people on stderr.
    pub(crate) json: bool,
    /// Stdout is a terminal that can move its cursor.
    pub(crate) terminal: bool,
    color: bool,
    error_color: bool,
}

impl Output {
    /// Colors only on a terminal, and not if `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn of_process(json: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let color = |terminal: bool| terminal && !dumb && !set("NO_COLOR");
        let terminal = io::stdout().is_terminal();
        Self {
            json,
            terminal: terminal && !dumb,
            color: color(terminal),
            error_color: color(io::stderr().is_terminal()),
        }
    }

    /// Columns and rows of the terminal; `None` elsewhere, where nothing is cut.
    pub(crate) fn size(&self) -> Option<(usize, usize)> {
        if !self.terminal {
            return None;
        }
        let (Width(columns), Height(rows)) =
            terminal_size::terminal_size_of(io::stdout()).unwrap_or((Width(80), Height(24)));
        Some((usize::from(columns.max(20)), usize::from(rows.max(5))))
    }

    /// A line as it is written to stdout, without its end.
    pub(crate) fn paint(&self, line: &Line) -> String {
        line.paint(self.color, self.size().map(|(columns, _)| columns))
    }

    /// Writes lines to stdout.
    pub(crate) fn lines<'a>(&self, lines: impl IntoIterator<Item = &'a Line>) {
        let text: String = lines
            .into_iter()
            .map(|line| self.paint(line) + "\n")
            .collect();
        self.raw(&text);
    }

    /// Writes to stdout as it is.
    pub(crate) fn raw(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        let _ = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
    }

    /// Writes a line for people to stderr.
    pub(crate) fn note(&self, line: &Line) {
        let _ = writeln!(io::stderr(), "{}", line.paint(self.error_color, None));
    }

    /// Writes one JSON document to stdout; indented where a person reads it.
    pub(crate) fn document(&self, value: &impl Serialize) {
        let text = match self.terminal {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        match text {
            Ok(text) => self.raw(&(text + "\n")),
            Err(error) => self.note(&Line::new().plain(format!("proxyctl: not JSON: {error}"))),
        }
    }

    /// Shows an error, as JSON on stdout if that was asked for, and gives its exit code.
    pub(crate) fn error(&self, error: ControlError) -> u8 {
        let code = error.code.exit_code();
        if self.json {
            self.document(&ErrorBody { error });
            return code;
        }
        self.note(
            &Line::new()
                .with(Style::Bad, "proxyctl:")
                .plain(" ")
                .plain(&error.message),
        );
        for detail in &error.details {
            self.note(&Line::new().plain("  ").plain(detail));
        }
        code
    }
}
