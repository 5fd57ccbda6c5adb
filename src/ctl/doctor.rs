//! `doctor`: what is wrong on this machine.

use std::path::Path;

use crate::admin::client::Client;
use crate::admin::socket;
use crate::admin::wire::{ControlError, ErrorCode, Operation};
use crate::app::{Finding, Level};
use crate::compat;
use crate::config::{self, Found};

use crate::ctl::output::Output;
use crate::ctl::text::{Line, Style};

/// Exit code 1 if there is a problem; warnings do not count.
pub(crate) async fn doctor(
    output: &Output,
    addr: Option<&str>,
    config: Option<&Path>,
    repair: bool,
) -> u8 {
    let client = socket::locate(addr).ok().map(Client::new);
    let running = match &client {
        Some(client) => client.status().await.is_ok(),
        None => false,
    };
    let file = match config::find(config) {
        Found::File(file) | Found::Caddyfile(file) => Some(file),
        Found::Nothing => None,
    };
    if repair {
        return match client.filter(|_| running) {
            Some(client) => by_the_daemon(output, &client).await,
            None => by_hand(output, file.as_deref()),
        };
    }
    let found = crate::app::doctor(file.as_deref(), running).await;
    let problem = found.iter().any(|one| one.level == Level::Problem);
    if output.json {
        output.document(&serde_json::json!({"findings": found, "running": running}));
    } else {
        let daemon = if running {
            "a daemon is running"
        } else {
            "no daemon is running"
        };
        output.lines([&Line::new().with(Style::Dim, daemon)]);
        output.lines(&found.iter().flat_map(lines).collect::<Vec<_>>());
    }
    u8::from(problem)
}

async fn by_the_daemon(output: &Output, client: &Client) -> u8 {
    match client.operate(&Operation::Repair {}).await {
        Ok(done) if output.json => output.document(&done),
        Ok(done) => say(output, &done.done),
        Err(error) => return output.error(error),
    }
    0
}

/// Without a daemon the journal is this process's for a moment. Without a file it is where `cutover run`
/// would have it.
fn by_hand(output: &Output, file: Option<&Path>) -> u8 {
    let failed = |message: String| output.error(ControlError::new(ErrorCode::Failed, message));
    let config = match file.map_or_else(crate::app::without_a_file, compat::load) {
        Ok(config) => config,
        Err(errors) => {
            return output.error(
                ControlError::new(ErrorCode::InvalidConfig, "the configuration has errors")
                    .with_details(errors.0.iter().map(ToString::to_string)),
            );
        }
    };
    match crate::app::repair(&config.state_dir) {
        Ok(done) if output.json => output.document(&serde_json::json!({"done": done})),
        Ok(done) if done.is_empty() => say(output, &["the journal is not damaged".to_owned()]),
        Ok(done) => say(output, &done),
        Err(error) => return failed(error.to_string()),
    }
    0
}

fn say(output: &Output, done: &[String]) {
    for line in done {
        output.lines([&Line::new().plain(line)]);
    }
}

fn lines(finding: &Finding) -> Vec<Line> {
    let (style, word) = match finding.level {
        Level::Ok => (Style::Good, "ok"),
        Level::Warning => (Style::Warn, "warning"),
        Level::Problem => (Style::Bad, "problem"),
    };
    let mut lines = vec![
        Line::new()
            .with(style, format!("{word:<8}"))
            .plain(format!("{:<16}{}", finding.check, finding.what)),
    ];
    if finding.level != Level::Ok {
        lines.push(Line::new().plain(format!("        {}", finding.meaning)));
        lines.push(Line::new().with(Style::Dim, format!("        to mend it: {}", finding.fix)));
    }
    lines
}
