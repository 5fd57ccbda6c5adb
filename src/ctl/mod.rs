//! The command line: arguments to one call of the control API to an exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 a waiting switch was rolled back, 5 the
//! daemon cannot be reached; 130 when Ctrl-C detached from a call that the daemon goes on with.

mod adapt;
mod args;
mod certs;
mod containers;
mod doctor;
mod drain;
mod env_file;
mod explain;
mod follow;
mod hash_password;
mod history;
mod judge;
mod offline;
mod output;
mod run;
mod switch_line;
mod table;
mod text;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::admin::wire::{ControlError, ErrorCode};

use crate::ctl::output::Output;

/// Runs `proxyctl` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(run::run(cli))),
        Err(error) => {
            eprintln!("proxyctl: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Help and version go to stdout with code 0. The rest is wrong usage: code 2, on stderr, and
/// as JSON for who asked for it.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        // A reader that left early is nobody to complain to.
        let _ = error.print();
        return 0;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        return Output::of_process(true).error(ControlError::new(ErrorCode::Usage, message));
    }
    let _ = error.print();
    ErrorCode::Usage.exit_code()
}
