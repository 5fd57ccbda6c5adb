//! The daemon: `cutover run`, `cutover demo`, `cutover check`, `cutover version`. Called `proxyctl` it
//! is that: one file is enough for an image.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cutover::tls::{self, trust};
use cutover::{app, compat, config, ctl};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Edge reverse proxy with blue-green releases.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve in the foreground; works as PID 1.
    ///
    /// The configuration is the first of: --config, $CUTOVER_CONFIG, ./cutover.toml,
    /// /etc/cutover/cutover.toml, /etc/caddy/Caddyfile; with none of these and a Docker socket, the
    /// labels of containers. SIGHUP reloads it; SIGTERM drains and exits.
    Run {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show it without root, Docker or a file: two releases of a small app behind the proxy.
    Demo,
    /// Validate a configuration: every error as file:line:column, exit 1 if there is one.
    Check {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make this system trust the root of the internal CA.
    ///
    /// Installs it into the system's trust store (Debian, Alpine, Fedora, SUSE, Arch), which
    /// needs root. Browsers with a store of their own (Firefox) are not changed.
    Trust(StateDir),
    /// Make this system forget the root of the internal CA again.
    Untrust(StateDir),
    /// Print the version.
    Version,
}

/// Which internal CA: that of a configuration, unless its folder is named.
#[derive(Debug, clap::Args)]
struct StateDir {
    /// Configuration file, for its state_dir.
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    config: Option<PathBuf>,
    /// The state folder itself.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

impl StateDir {
    fn folder(self) -> Result<PathBuf, String> {
        if let Some(folder) = self.state_dir {
            return Ok(folder);
        }
        let path = find(self.config)?;
        match compat::load(&path) {
            Ok(config) => Ok(config.state_dir),
            Err(errors) => Err(format!("{} has errors\n{errors}", path.display())),
        }
    }
}

fn change_trust(
    state_dir: StateDir,
    change: impl FnOnce(&Path) -> Result<trust::Done, trust::TrustError>,
) -> ExitCode {
    let folder = match state_dir.folder() {
        Ok(folder) => folder,
        Err(message) => return fail(&message),
    };
    match change(&folder) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn main() -> ExitCode {
    if is_called("proxyctl") {
        return ctl::main();
    }
    // Before anything else can install another provider.
    tls::install_provider();
    match Arguments::parse().command {
        Command::Version => {
            println!("cutover {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Check { config } => check(config),
        Command::Run { config } => match find(config) {
            Ok(path) => exit(app::run(&path)),
            Err(_) if app::has_docker() => exit(app::run_labels()),
            Err(message) => fail(&message),
        },
        Command::Trust(state_dir) => change_trust(state_dir, trust::trust),
        Command::Untrust(state_dir) => change_trust(state_dir, trust::untrust),
        Command::Demo => exit(app::run_demo()),
    }
}

/// Whether this process was started under a name, by a link to the same file.
fn is_called(name: &str) -> bool {
    let path = std::env::args_os().next().map(PathBuf::from);
    path.is_some_and(|path| path.file_name() == Some(OsStr::new(name)))
}

fn check(explicit: Option<PathBuf>) -> ExitCode {
    let path = match find(explicit) {
        Ok(path) => path,
        Err(message) => return fail(&message),
    };
    match compat::load(&path) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("{warning}");
            }
            // The file may be for another machine.
            for error in tls::unusable(&config) {
                eprintln!(
                    "{}: warning: {error}; a daemon that sees the same refuses it",
                    path.display()
                );
            }
            let (sites, services) = (config.sites.len(), config.services.len());
            println!(
                "{}: valid, {sites} sites, {services} services",
                path.display()
            );
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            let is_error = |one: &&config::Diagnostic| one.severity == config::Severity::Error;
            let count = errors.0.iter().filter(is_error).count();
            let noun = if count == 1 { "error" } else { "errors" };
            fail(&format!("{}: {count} {noun}", path.display()))
        }
    }
}

fn find(explicit: Option<PathBuf>) -> Result<PathBuf, String> {
    match config::find(explicit.as_deref()) {
        config::Found::File(path) | config::Found::Caddyfile(path) => Ok(path),
        config::Found::Nothing => Err(
            "no configuration: looked at --config, $CUTOVER_CONFIG, ./cutover.toml, \
             /etc/cutover/cutover.toml, /etc/caddy/Caddyfile, and for a Docker socket; \
             `cutover demo` needs none"
                .to_owned(),
        ),
    }
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("cutover: {message}");
    ExitCode::FAILURE
}
