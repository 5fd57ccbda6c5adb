//! What `cutover.*` labels say. Pure.
//!
//! A label is written by whoever may start a container, which is more people than those who may
//! write the configuration. So there is a list of what labels may set, and everything else is
//! refused by name; a key that may be set is read by the configuration's own parser, with an
//! environment that is empty and variables escaped. A label that is refused changes nothing about
//! the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::inventory::Container;
use super::problem::Problem;
use crate::config::{self, Env, Rollback, Service};
use crate::model::{Color, HostPattern, PathPattern};

/// The beginning of every label.
pub(super) const PREFIX: &str = "cutover.";

/// Tables and keys of a service that labels may set.
const KEYS: [&str; 6] = ["balance", "sticky", "health", "eject", "switch", "rollback"];

/// Labels with a meaning of their own.
const OWN: [&str; 10] = [
    "host", "path", "service", "color", "port", "network", "health", "tls", "release", "enable",
];

/// First parts of labels that would reach beyond routing, with what they are.
const BEYOND: [(&str, &str); 16] = [
    ("acme", "certificates"),
    ("admin", "sockets of the proxy"),
    ("blue", "upstreams by hand"),
    ("command", "commands"),
    ("docker", "the engine"),
    ("exec", "commands"),
    ("green", "upstreams by hand"),
    ("hook", "commands"),
    ("hooks", "commands"),
    ("job", "jobs"),
    ("jobs", "jobs"),
    ("listen", "sockets of the proxy"),
    ("log", "logs"),
    ("notify", "notifications"),
    ("stack", "which services switch together"),
    ("state_dir", "files of the proxy"),
];

const INTO_THE_FILE: &str = "set it in the configuration file, and remove the label";

/// What the labels of one container say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Labels {
    /// `cutover.host`, several with commas or spaces between.
    pub hosts: Vec<HostPattern>,
    /// `cutover.path`; empty: every path.
    pub paths: Vec<PathPattern>,
    /// `cutover.service`.
    pub service: Option<String>,
    /// `cutover.color`.
    pub color: Option<Color>,
    /// `cutover.port`.
    pub port: Option<u16>,
    /// `cutover.network`.
    pub network: Option<String>,
    /// `cutover.tls`: `auto`, `internal` or `off`.
    pub tls: Option<String>,
    /// `cutover.release`.
    pub release: Option<String>,
    /// Keys of the service, such as `switch.drain`, as TOML.
    pub keys: BTreeMap<String, String>,
    /// It is not to be served: `cutover.enable=false`, or a label that says which slot or port it is
    /// cannot be read.
    pub is_refused: bool,
    /// Whether it has any label of ours.
    pub any: bool,
    /// Labels that are not followed.
    pub problems: Vec<Problem>,
}

/// Reads the labels of a container.
#[must_use]
pub(super) fn read(container: &Container) -> Labels {
    let mut labels = Labels::default();
    for (label, value) in &container.labels {
        if let Some(name) = label.strip_prefix(PREFIX) {
            // A deploy's own notes about what it made.
            if name.starts_with("deploy.") {
                continue;
            }
            labels.any = true;
            if let Err(Wrong { what, fix, refuses }) = labels.take(name, value.trim()) {
                let what = format!("label {label}: {what}");
                labels.is_refused |= refuses;
                labels
                    .problems
                    .push(Problem::new(&container.name, what, fix));
            }
        }
    }
    if labels.hosts.is_empty() && !labels.paths.is_empty() {
        labels.paths.clear();
        labels.problems.push(Problem::new(
            &container.name,
            "label cutover.path without cutover.host leads nowhere",
            "add the host",
        ));
    }
    labels
}

struct Wrong {
    what: String,
    fix: String,
    /// The container cannot be served at all without it.
    refuses: bool,
}

impl Wrong {
    fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            fix: fix.into(),
            refuses: false,
        }
    }

    fn refusing(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            refuses: true,
            ..Self::new(what, fix)
        }
    }
}

impl Labels {
    fn take(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        check_limits(name, value)?;
        match name {
            "host" => {
                for text in words(value) {
                    let host = text.parse().map_err(|error| {
                        Wrong::new(format!("{error}"), "write cutover.host=example.com")
                    })?;
                    self.hosts.push(host);
                }
            }
            "path" => {
                for text in words(value) {
                    let path = text.parse().map_err(|error| {
                        Wrong::new(format!("{error}"), "write cutover.path=/api/*")
                    })?;
                    self.paths.push(path);
                }
            }
            "service" if is_name(value) => self.service = Some(value.to_owned()),
            "service" => {
                return Err(Wrong::refusing(
                    format!("{value:?} is not a name"),
                    "use up to 253 letters, digits and - _ .",
                ));
            }
            "color" => match value.parse() {
                Ok(color) => self.color = Some(color),
                Err(_) => {
                    return Err(Wrong::refusing(
                        format!("{value:?} is no color"),
                        "write blue or green",
                    ));
                }
            },
            "port" => match value.parse::<u16>() {
                Ok(port) if port > 0 => self.port = Some(port),
                _ => {
                    return Err(Wrong::refusing(
                        format!("{value:?} is no port"),
                        "write a number from 1 to 65535",
                    ));
                }
            },
            "network" => self.network = Some(value.to_owned()),
            "tls" if ["auto", "internal", "off"].contains(&value) => {
                self.tls = Some(value.to_owned());
            }
            "tls" => {
                return Err(Wrong::new(
                    format!("{value:?} is not auto, internal or off"),
                    "certificates from files are set in the configuration file",
                ));
            }
            "release" => self.release = Some(value.to_owned()),
            "enable" => match value {
                "false" | "0" | "no" => self.is_refused = true,
                "true" | "1" | "yes" => {}
                _ => return Err(Wrong::new("neither true nor false", "write one of them")),
            },
            "health" => self.key("health.path", value)?,
            name => self.key(name, value)?,
        }
        Ok(())
    }

    /// A key of the service.
    fn key(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        let value = escaped(&config::as_value(value));
        let alone = BTreeMap::from([(name.to_owned(), value.clone())]);
        service("x", &alone, &Rollback::default()).map_err(|errors| {
            let said = errors.join("; ");
            Wrong::new(said, "the keys are in docs/config.md, under [service.NAME]")
        })?;
        self.keys.insert(name.to_owned(), value);
        Ok(())
    }
}

/// Whether a label may set that at all.
fn check_limits(name: &str, value: &str) -> Result<(), Wrong> {
    let first = name.split('.').next().unwrap_or(name);
    if value.to_ascii_lowercase().contains("unix:") {
        return Err(Wrong::new(
            "labels lead to containers, not to unix sockets",
            INTO_THE_FILE,
        ));
    }
    if name
        .split('.')
        .any(|part| part.ends_with("_file") || part == "file")
    {
        return Err(Wrong::new("labels name no files", INTO_THE_FILE));
    }
    if first == "tls" && name != "tls" {
        return Err(Wrong::new("labels name no files of TLS", INTO_THE_FILE));
    }
    if let Some((_, what)) = BEYOND.iter().find(|(beyond, _)| *beyond == first) {
        return Err(Wrong::new(
            format!("labels do not set {what}"),
            INTO_THE_FILE,
        ));
    }
    if OWN.contains(&name) || KEYS.contains(&first) {
        return Ok(());
    }
    let known = OWN.iter().chain(&KEYS);
    let near = known
        .map(|known| (strsim::damerau_levenshtein(known, first), known))
        .filter(|(edits, _)| *edits <= 2)
        .min();
    let fix = match near {
        Some((_, near)) => format!("did you mean cutover.{near}?"),
        None => format!(
            "labels set {} and the tables {} of a service; the rest stands in the configuration file",
            OWN.join(", "),
            KEYS.join(", ")
        ),
    };
    Err(Wrong::new("labels do not set this", fix))
}

/// What the keys of one service mean, or what is wrong with them.
type Labelled = Result<Service, Vec<String>>;

/// Services that were made of keys before.
#[derive(Debug, Default)]
pub(super) struct Made {
    rollback: Rollback,
    services: HashMap<BTreeMap<String, String>, Arc<Labelled>>,
}

impl Made {
    /// As [`service`], read once. The name is nobody's.
    pub(super) fn service(
        &mut self,
        keys: &BTreeMap<String, String>,
        rollback: &Rollback,
    ) -> Arc<Result<Service, Vec<String>>> {
        const MOST: usize = 1_000;
        if self.rollback != *rollback || self.services.len() > MOST {
            self.services.clear();
            self.rollback = rollback.clone();
        }
        let made = self.services.entry(keys.clone());
        Arc::clone(made.or_insert_with(|| Arc::new(service("x", keys, rollback))))
    }
}

/// A service with these keys, and with `rollback` where they say nothing.
///
/// # Errors
/// Every finding, without the place in a text that nobody wrote.
pub(super) fn service(
    name: &str,
    keys: &BTreeMap<String, String>,
    rollback: &Rollback,
) -> Result<Service, Vec<String>> {
    let mut text = format!(
        "{}[service.{}]\nblue = [\"127.0.0.1:1\"]\n",
        config::rollback_text(rollback),
        config::text_value(name)
    );
    for (key, value) in keys {
        let parts: Vec<_> = key.split('.').map(quoted).collect();
        text.push_str(&format!("{} = {value}\n", parts.join(".")));
    }
    let nothing = Env::from_iter::<[(String, String); 0]>([]);
    match config::load_str_with("label", &text, &nothing) {
        Ok(mut config) => match config.services.pop() {
            Some(service) => Ok(Service {
                slots: [None, None],
                ..service
            }),
            None => Err(vec!["no service".to_owned()]),
        },
        Err(errors) => Err(errors.0.into_iter().map(|error| error.message).collect()),
    }
}

fn quoted(part: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    match !part.is_empty() && part.bytes().all(bare) {
        true => part.to_owned(),
        false => config::text_value(part),
    }
}

/// A value in which `${` is itself: no variable of this process is read for a label.
pub(super) fn escaped(value: &str) -> String {
    value.replace("${", "$${")
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
}

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed)
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
