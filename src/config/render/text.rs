//! Single values as TOML.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use crate::config::{IpSet, ValueMatch};

/// A TOML string; `${` is escaped, because it is replaced on reading.
pub(super) fn text(value: impl Display) -> String {
    toml::Value::String(value.to_string().replace("${", "$${")).to_string()
}

pub(super) fn path(path: impl AsRef<Path>) -> String {
    text(path.as_ref().display())
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

pub(super) fn networks(set: &IpSet) -> String {
    list(set.0.iter().map(text))
}

pub(super) fn duration(duration: Duration) -> String {
    text(in_words(duration))
}

/// As a file says it, in the largest unit that keeps it exact: `90s`, `1h`.
pub(in crate::config) fn in_words(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units
        .into_iter()
        .find(|(each, _)| milliseconds > 0 && milliseconds.is_multiple_of(*each));
    match unit {
        Some((each, unit)) => format!("{}{unit}", milliseconds / each),
        None if milliseconds == 0 => "0s".to_owned(),
        None => format!("{milliseconds}ms"),
    }
}

pub(super) fn size(bytes: usize) -> String {
    match bytes % 1024 {
        0 => text(format!("{}KiB", bytes / 1024)),
        _ => bytes.to_string(),
    }
}

/// A float that stays one: `Debug` keeps the point and every digit.
pub(super) fn number(number: f64) -> String {
    format!("{number:?}")
}

pub(super) fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match bare {
        true => key.to_owned(),
        // A basic string on one line, which is what a quoted key is.
        false => serde_json::Value::String(key.to_owned())
            .to_string()
            .replace('\u{7f}', "\\u007f"),
    }
}

pub(super) fn matches<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a ValueMatch)>,
) -> Option<String> {
    let pairs: Vec<_> = pairs
        .map(|(name, value)| {
            let value = match value {
                ValueMatch::Present => text("*"),
                ValueMatch::Exact(value) => text(value),
                ValueMatch::Prefix(prefix) => text(format!("{prefix}*")),
            };
            format!("{} = {value}", bare_or_quoted(name))
        })
        .collect();
    (!pairs.is_empty()).then(|| format!("{{ {} }}", pairs.join(", ")))
}

/// `{ key = value, ... }` of keys as they are and values that are TOML already.
pub(super) fn inline_table(fields: &[(String, String)]) -> String {
    if fields.is_empty() {
        return "{}".to_owned();
    }
    let pairs: Vec<_> = (fields.iter())
        .map(|(key, value)| format!("{} = {value}", bare_or_quoted(key)))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

pub(super) fn inline<'a>(
    fields: impl Iterator<Item = (&'a String, &'a serde_json::Value)>,
) -> String {
    let pairs: Vec<_> = fields
        .map(|(name, value)| format!("{} = {}", bare_or_quoted(name), json(value)))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

pub(super) fn json(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => text(""),
        serde_json::Value::Bool(value) => value.to_string(),
        serde_json::Value::Number(value) => match value.as_f64() {
            Some(float) if value.is_f64() => number(float),
            _ => value.to_string(),
        },
        serde_json::Value::String(value) => text(value),
        serde_json::Value::Array(items) => list(items.iter().map(json)),
        serde_json::Value::Object(fields) => inline(fields.iter()),
    }
}
