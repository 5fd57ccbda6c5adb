//! The command line: arguments to one call of the control API to an exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 a waiting switch was rolled back, 5 the
//! daemon cannot be reached; 130 when Ctrl-C detached from a call that the daemon goes on with.

mod args;
mod explain;
mod follow;
mod offline;
mod output;
mod run;
mod switch_line;
mod table;
mod text;
mod watch;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout with code 0, everything else to stderr with 2. A reader that
            // left early is nobody to complain to.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
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
