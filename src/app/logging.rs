//! Where log lines of the daemon go: stderr, so that stdout holds access log lines alone.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged without `$CUTOVER_LOG`: our own lines from INFO. Pingora's and the protocol
/// crates' are left out, because they report every port scan; what matters of a request is in
/// the access log.
const DEFAULT: &str = "info,pingora_core=off,pingora_proxy=off,pingora=off,hyper=off,h2=off,hickory_proto=off,hickory_resolver=off,rustls=off";

/// Starts logging. `$CUTOVER_LOG` takes a filter such as `debug` or `info,cutover::proxy=trace`.
/// On a terminal lines are text, elsewhere JSON.
pub(super) fn start() {
    let filter = EnvFilter::try_from_env("CUTOVER_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    // Also takes in what pingora says through `log`.
    let started = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // A second start in one process, as in tests, keeps the first.
    drop(started);
}
