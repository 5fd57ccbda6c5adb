//! Shows a long verb while it runs, and how it ended.

use crate::admin::wire::{ControlError, Outcome, OutcomeBody, OutcomeKind, Progress};

use crate::ctl::output::Output;
use crate::ctl::switch_line::{deploy_line, switch_line};
use crate::ctl::text::{Line, Style};

/// Exit code after Ctrl-C, as a shell gives it for SIGINT (128 + 2).
pub(crate) const DETACHED: u8 = 130;

/// On a terminal: a line per event, and under them one line that is drawn again. Elsewhere: a
/// line per event. With `--json` these go to stderr.
pub(crate) struct Follower<'a> {
    output: &'a Output,
}

impl<'a> Follower<'a> {
    pub(crate) const fn new(output: &'a Output) -> Self {
        Self { output }
    }

    pub(crate) fn progress(&self, progress: &Progress) {
        let word = match &progress.deploy {
            Some(deploy) if deploy.back => "back",
            Some(_) => "deploy",
            None => progress.switch.phase.as_str(),
        };
        let event = (!progress.tick && !progress.message.is_empty()).then(|| {
            Line::new()
                .with(Style::Dim, format!("{word:<8} "))
                .plain(&progress.message)
        });
        if self.output.json {
            event.iter().for_each(|event| self.output.note(event));
        } else if self.output.terminal {
            let mut text = CLEAR_LINE.to_owned();
            if let Some(event) = event {
                text += &self.output.paint(&event);
                text.push('\n');
            }
            let line = match &progress.deploy {
                Some(deploy) => deploy_line(deploy, &progress.message),
                None => switch_line(&progress.switch),
            };
            text += &self.output.paint(&line);
            self.output.raw(&text);
        } else {
            self.output.lines(&event);
        }
    }

    /// Removes the line that is drawn again.
    fn clear(&self) {
        if self.output.terminal && !self.output.json {
            self.output.raw(CLEAR_LINE);
        }
    }

    /// Shows the end; the exit code. `undo`: as for [`OutcomeKind::exit_code`].
    pub(crate) fn end(&self, result: Result<Outcome, ControlError>, undo: bool) -> u8 {
        self.clear();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => return self.output.error(error),
        };
        let code = outcome.result.exit_code(undo);
        if self.output.json {
            self.output.document(&OutcomeBody { outcome });
            return code;
        }
        let style = if code == 0 { Style::Good } else { Style::Bad };
        let line = Line::new()
            .with(style, word(outcome.result))
            .plain(": ")
            .plain(&outcome.message);
        self.output.lines([&line]);
        let details = outcome.details.iter();
        let details: Vec<_> = details
            .map(|detail| Line::new().plain("  ").plain(detail))
            .collect();
        self.output.lines(&details);
        code
    }

    /// Shows that the daemon goes on alone, and what to type then; the exit code.
    pub(crate) fn detached(&self, next: &str) -> u8 {
        self.clear();
        let text = format!("detached: the daemon goes on. {next}");
        self.output.note(&Line::new().plain(text));
        DETACHED
    }
}

const fn word(result: OutcomeKind) -> &'static str {
    match result {
        OutcomeKind::Kept => "kept",
        OutcomeKind::AlreadyLive => "already live",
        OutcomeKind::Published => "cut over",
        OutcomeKind::Begun => "begun",
        OutcomeKind::Planned => "plan",
        OutcomeKind::Done => "done",
        OutcomeKind::RolledBack => "rolled back",
        OutcomeKind::Aborted => "aborted",
        OutcomeKind::Held => "still held",
        OutcomeKind::Failed => "failed",
        OutcomeKind::Unknown => "ended",
    }
}

/// Back to the first column, erase the line (ECMA-48 EL).
const CLEAR_LINE: &str = "\r\x1b[2K";
