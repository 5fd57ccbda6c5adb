//! `proxyctl`: speaks to a running daemon. In an image `cutover` under this name is the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    cutover::ctl::main()
}
