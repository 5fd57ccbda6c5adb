//! Finds and reads the configuration file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Diagnostics, Severity};
use super::{Config, parse};

/// What `run` finds when it looks for its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file of ours.
    File(PathBuf),
    /// Only `/etc/caddy/Caddyfile`.
    Caddyfile(PathBuf),
    /// Nothing.
    Nothing,
}

/// Where `run` looks, first hit wins: `--config`, `$CUTOVER_CONFIG`, `./cutover.toml`,
/// `/etc/cutover/cutover.toml`, `/etc/caddy/Caddyfile`. A file that was named is taken whether it
/// exists or not.
#[must_use]
pub fn find(explicit: Option<&Path>) -> Found {
    if let Some(path) = explicit {
        return Found::File(path.to_owned());
    }
    if let Some(path) = std::env::var_os("CUTOVER_CONFIG").filter(|path| !path.is_empty()) {
        return Found::File(PathBuf::from(path));
    }
    let ours = ["cutover.toml", "/etc/cutover/cutover.toml"];
    if let Some(path) = ours.iter().map(Path::new).find(|path| path.exists()) {
        return Found::File(path.to_owned());
    }
    let caddyfile = Path::new("/etc/caddy/Caddyfile");
    if caddyfile.exists() {
        return Found::Caddyfile(caddyfile.to_owned());
    }
    Found::Nothing
}

/// Reads and validates a file with the process's environment.
///
/// # Errors
/// Every error of the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let file = path.display().to_string();
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => load_str(&file, &text),
        Ok(Err(error)) => {
            let valid = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
            Err(unreadable(
                file,
                before.matches('\n').count() + 1,
                before
                    .rsplit('\n')
                    .next()
                    .map_or(0, |line| line.chars().count())
                    + 1,
                "is not UTF-8, expected TOML 1.0".to_owned(),
            ))
        }
        Err(error) => Err(unreadable(file, 1, 1, format!("cannot be read: {error}"))),
    }
}

fn unreadable(file: String, line: usize, column: usize, message: String) -> Diagnostics {
    Diagnostics(vec![Diagnostic {
        severity: Severity::Error,
        file,
        line,
        column,
        key: String::new(),
        message,
    }])
}

/// Validates a text with the process's environment; `file` is the name that errors carry.
///
/// # Errors
/// Every error of the text.
pub fn load_str(file: &str, text: &str) -> Result<Config, Diagnostics> {
    load_with(file, text, &|name| std::env::var(name).ok())
}

/// Validates a text with another environment.
///
/// # Errors
/// Every error of the text.
pub fn load_with(
    file: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Diagnostics> {
    parse::read(file, text, environment).0
}

/// The paths of all keys that are known in the tables of `text`, names and positions as `*`.
#[must_use]
pub fn known_keys(text: &str) -> BTreeSet<String> {
    parse::read("", text, &|_| None).1
}
