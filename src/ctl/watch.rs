//! `status --watch`: the table, drawn again every second until Ctrl-C.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::client::Client;
use crate::admin::wire::{ControlError, ErrorCode, Status};

use crate::ctl::output::Output;
use crate::ctl::table;
use crate::ctl::text::{Line, Style};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// On a terminal the last picture stays while the daemon cannot be asked, with the reason above
/// it. Elsewhere, or with `--json`, a line per change or per look, and an error ends it.
pub(crate) async fn watch(client: &Client, output: &Output) -> u8 {
    let Ok(mut stop) = Stop::listen() else {
        let message = "cannot listen for signals, so --watch could not be ended";
        return output.error(ControlError::new(ErrorCode::Internal, message));
    };
    let screen = (output.terminal && !output.json).then(|| Screen::open(output));
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut picture = Vec::new();
    let mut said = Vec::new();
    loop {
        tokio::select! {
            () = stop.asked() => return 0,
            _ = period.tick() => {}
        }
        let status = tokio::select! {
            () = stop.asked() => return 0,
            status = client.status() => status,
        };
        match (status, &screen) {
            (Ok(status), Some(screen)) => {
                picture = table::status(&status);
                screen.draw(&picture);
            }
            (Err(error), Some(screen)) => {
                let trouble = Line::new().with(Style::Bad, error.message);
                let mut lines = vec![trouble, Line::new()];
                lines.extend(picture.iter().cloned());
                screen.draw(&lines);
            }
            (Ok(status), None) if output.json => output.document(&status),
            (Ok(status), None) => said = say_changes(output, &status, said),
            (Err(error), None) => return output.error(error),
        }
    }
}

/// A line for each service that is not as it was.
fn say_changes(output: &Output, status: &Status, before: Vec<String>) -> Vec<String> {
    let now: Vec<String> = status.services.iter().map(table::summary).collect();
    let changed = now.iter().filter(|line| !before.contains(line));
    let lines: Vec<Line> = changed.map(|line| Line::new().plain(line)).collect();
    output.lines(&lines);
    now
}

/// The terminal's alternate screen; left again on drop, so the shell's text comes back.
struct Screen<'a> {
    output: &'a Output,
}

impl<'a> Screen<'a> {
    fn open(output: &'a Output) -> Self {
        output.raw("\x1b[?1049h\x1b[?25l\x1b[2J");
        Self { output }
    }

    /// Writes over what is there instead of clearing first, inside a synchronized update
    /// (private mode 2026), so nothing flickers.
    fn draw(&self, lines: &[Line]) {
        let rows = self.output.size().map_or(usize::MAX, |(_, rows)| rows);
        let mut text = String::from("\x1b[?2026h\x1b[H");
        let fits = lines.len() <= rows;
        let shown = if fits {
            lines.len()
        } else {
            rows.saturating_sub(1)
        };
        let mut painted: Vec<String> = lines
            .iter()
            .take(shown)
            .map(|line| self.output.paint(line))
            .collect();
        if !fits {
            let more = format!("… {} more lines", lines.len() - shown);
            painted.push(self.output.paint(&Line::new().with(Style::Dim, more)));
        }
        for (row, line) in painted.iter().enumerate() {
            if row > 0 {
                text.push('\n');
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J\x1b[?2026l");
        self.output.raw(&text);
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.output.raw("\x1b[?25h\x1b[?1049l");
    }
}

/// The signals that end a watch; caught so that the terminal is left as it was.
struct Stop([Signal; 3]);

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
