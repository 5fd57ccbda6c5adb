//! Finds and reads the configuration file.

use std::path::{Path, PathBuf};

use super::{Config, Diagnostic, Diagnostics, Env, Severity, parse};

/// What [`find`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The file to load. One that was named may not exist; [`load`] says so.
    File(PathBuf),
    /// Only a Caddyfile; `compat` reads it.
    Caddyfile(PathBuf),
    /// Nothing anywhere.
    Nothing,
}

/// The file that `run` uses, first hit: `--config`, `$CUTOVER_CONFIG`, `./cutover.toml`,
/// `/etc/cutover/cutover.toml`, `/etc/caddy/Caddyfile`.
#[must_use]
pub fn find(explicit: Option<&Path>) -> Found {
    find_with(explicit, &Env::process(), Path::exists)
}

/// As [`find`], with the environment and the file system given.
#[must_use]
pub fn find_with(explicit: Option<&Path>, env: &Env, exists: impl Fn(&Path) -> bool) -> Found {
    if let Some(path) = explicit {
        return Found::File(path.to_owned());
    }
    if let Some(path) = env.var("CUTOVER_CONFIG").filter(|path| !path.is_empty()) {
        return Found::File(PathBuf::from(path));
    }
    for path in ["cutover.toml", "/etc/cutover/cutover.toml"] {
        if exists(Path::new(path)) {
            return Found::File(PathBuf::from(path));
        }
    }
    let caddyfile = Path::new("/etc/caddy/Caddyfile");
    if exists(caddyfile) {
        return Found::Caddyfile(caddyfile.to_owned());
    }
    Found::Nothing
}

/// Reads and validates a file, with the variables of this process.
///
/// # Errors
/// Every error of the file, or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    load_with(path, &Env::process())
}

/// As [`load`], with the environment given.
///
/// # Errors
/// Every error of the file, or why it cannot be read.
pub fn load_with(path: &Path, env: &Env) -> Result<Config, Diagnostics> {
    let text = read(path)?;
    load_str_with(&path.display().to_string(), &text, env)
}

/// The text of a file.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, Diagnostics> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| alone(&file, (0, 0), format!("cannot be read: {error}")))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let (error, bytes) = (error.utf8_error(), error.into_bytes());
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = good.matches('\n').count() + 1;
            let column = good.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
            Err(alone(
                &file,
                (line, column),
                "not UTF-8 from here on".to_owned(),
            ))
        }
    }
}

/// Validates a text with the variables of this process; `file` is the name that errors carry.
///
/// # Errors
/// Every error of the text.
pub fn load_str(file: &str, text: &str) -> Result<Config, Diagnostics> {
    load_str_with(file, text, &Env::process())
}

/// As [`load_str`], with the environment given.
///
/// # Errors
/// Every error of the text.
pub fn load_str_with(file: &str, text: &str, env: &Env) -> Result<Config, Diagnostics> {
    parse::parse(&[(file, text)], env)
}

/// Validates a text and another one that adds to it: tables are put together, lists of tables
/// appended. Each is a name that errors carry, and the text.
///
/// # Errors
/// Every error of both. A key that both give is one.
pub fn load_both(
    main: (&str, &str),
    beside: Option<(&str, &str)>,
    env: &Env,
) -> Result<Config, Diagnostics> {
    let texts: Vec<_> = std::iter::once(main).chain(beside).collect();
    parse::parse(&texts, env)
}

fn alone(file: &str, (line, column): (usize, usize), message: String) -> Diagnostics {
    Diagnostics(vec![Diagnostic {
        severity: Severity::Error,
        file: file.to_owned(),
        line,
        column,
        key: String::new(),
        message,
    }])
}

/// A setting that was typed at a terminal as the configuration would have it: what is no value of
/// TOML is a text whose quotes were left out, such as `10m`.
#[must_use]
pub fn as_value(typed: &str) -> String {
    match format!("x = {typed}").parse::<toml::Table>() {
        Ok(_) if !typed.is_empty() => typed.to_owned(),
        _ => toml::Value::from(typed).to_string(),
    }
}

/// A text as a value of the configuration, quoted and escaped.
#[must_use]
pub fn text_value(text: &str) -> String {
    toml::Value::from(text).to_string()
}
