//! A recorded switch through the verdict's code, without a daemon.

use std::path::Path;

use crate::admin::wire::{ControlError, ErrorCode, ReplayReport};
use crate::config::{Config, as_value, load_str};
use crate::switch::evidence::replay;

/// How a recorded switch would have ended, with settings over the defaults.
///
/// # Errors
/// `usage`: the file cannot be read or used, or a setting is none.
pub fn rehearse(file: &Path, settings: &[String]) -> Result<ReplayReport, ControlError> {
    let config = configured(settings)?;
    let service = &config.services[0];
    let usage = |message| ControlError::new(ErrorCode::Usage, message);
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage(format!("{}: {error}", file.display())))?;
    let wrong = |error: replay::ReplayError| usage(format!("{}: {error}", file.display()));
    let rows = replay::parse(&text).map_err(wrong)?;
    let found = replay::replay(&rows, &service.rollback, &service.switch).map_err(wrong)?;
    Ok(ReplayReport {
        decision: found.decision.to_owned(),
        t_ms: found.t_ms,
        reason: found.reason,
        log_e: found.log_e,
        w: found.w,
    })
}

/// A service with those settings: `rollback.errors.floor=0.003`, `switch.observe=10m`.
fn configured(settings: &[String]) -> Result<Config, ControlError> {
    let mut text = String::from("service.web.blue = [\"127.0.0.1:1\"]\n");
    for setting in settings {
        let wrong = || {
            let form = "a setting is KEY=VALUE, such as rollback.errors.floor=0.003";
            ControlError::new(ErrorCode::Usage, format!("--set {setting}: {form}"))
        };
        let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
        let (key, value) = (key.trim(), value.trim());
        let is_key = !key.is_empty() && key.split('.').all(|part| !part.is_empty());
        if !is_key || key.contains(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_') {
            return Err(wrong());
        }
        let key = match key.split('.').next() {
            Some("rollback") => key.to_owned(),
            Some("switch") => format!("service.web.{key}"),
            _ => {
                let message = format!("--set {key}: only rollback.* and switch.* can be set");
                return Err(ControlError::new(ErrorCode::Usage, message));
            }
        };
        text.push_str(&format!("{key} = {}\n", as_value(value)));
    }
    text.push_str("[[site]]\ndefault = true\ntls = \"off\"\nservice = \"web\"\n");
    load_str("settings", &text).map_err(|diagnostics| {
        // The place is in a file that nobody wrote.
        let each = diagnostics.0.iter().map(|one| {
            let text = one.to_string();
            let told = text.splitn(4, ':').nth(3).map(str::trim);
            told.unwrap_or(&text).to_owned()
        });
        ControlError::new(ErrorCode::Usage, "a setting cannot be used").with_details(each)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_are_those_of_the_configuration() {
        let set = [
            "rollback.errors.floor=0.003",
            "switch.observe=10m",
            "switch.observe_max=20m",
            "rollback.gate.wait=[\"1s\", \"2s\"]",
            "rollback.mode=observe",
        ];
        let config = configured(&strings(&set)).expect("settings");
        let service = &config.services[0];
        assert!((service.rollback.errors.floor - 0.003).abs() < 1e-12);
        assert_eq!(service.switch.observe.as_secs(), 600);
        assert_eq!(service.rollback.gate.wait[1].as_secs(), 2);
    }

    #[test]
    fn what_is_no_setting_is_told() {
        let wrong = |setting: &str| {
            let error = configured(&strings(&[setting])).expect_err("no setting");
            assert_eq!(error.code, ErrorCode::Usage);
            format!("{} {}", error.message, error.details.join(" "))
        };
        assert!(wrong("floor").contains("KEY=VALUE"));
        assert!(wrong("listen.http=x").contains("only rollback.* and switch.*"));
        let unknown = wrong("rollback.errors.flor=0.1");
        assert!(unknown.contains("rollback.errors.flor"), "{unknown}");
        assert!(unknown.contains("floor"), "{unknown}");
        assert!(wrong("rollback.alpha=2").contains("rollback.alpha"));
        assert!(wrong("rollback.alpha").contains("KEY=VALUE"));
    }
}
