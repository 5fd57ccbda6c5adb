//! `adapt`: another program's configuration as ours.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::admin::wire::{ControlError, ErrorCode};
use crate::compat;
use crate::config::{Diagnostic, Env, Severity};

use crate::ctl::output::Output;
use crate::ctl::text::{Line, Style};

/// Writes it to stdout or a new file, and what has no equivalent to stderr. Exit code 1 if there is such a line.
pub(crate) fn adapt(output: &Output, file: &Path, out: Option<&Path>) -> u8 {
    let (toml, said) = compat::adapt(file, &Env::process());
    let failed = toml.is_none() || said.iter().any(|one| one.severity == Severity::Error);
    if output.json {
        let lines = |severity| -> Vec<String> {
            let of = |one: &&Diagnostic| one.severity == severity;
            said.iter().filter(of).map(ToString::to_string).collect()
        };
        output.document(&serde_json::json!({
            "toml": toml,
            "errors": lines(Severity::Error),
            "notes": lines(Severity::Warning),
        }));
        return u8::from(failed);
    }
    for one in &said {
        let style = match one.severity {
            Severity::Error => Style::Bad,
            Severity::Warning => Style::Warn,
        };
        output.note(&Line::new().with(style, one.to_string()));
    }
    match (toml, out) {
        (Some(toml), None) => output.raw(&toml),
        (Some(toml), Some(path)) => {
            let written = OpenOptions::new().write(true).create_new(true).open(path);
            let written = written.and_then(|mut file| file.write_all(toml.as_bytes()));
            if let Err(error) = written {
                let shown = path.display();
                let message = match error.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        format!(
                            "{shown} is there already, and is not overwritten; name another file"
                        )
                    }
                    _ => format!("{shown} cannot be written: {error}"),
                };
                return output.error(ControlError::new(ErrorCode::Failed, message));
            }
        }
        (None, _) => {}
    }
    u8::from(failed)
}
