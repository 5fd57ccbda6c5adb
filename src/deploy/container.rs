//! A container as the engine describes it: what a deploy reads of it, and the whole description
//! for what it is copied from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::Color;

/// Labels that a deploy reads and writes. Those below `cutover.deploy.` are its own notes.
pub mod label {
    /// The service of the configuration that a container belongs to.
    pub const SERVICE: &str = "cutover.deploy.service";
    /// The service that its owner says it belongs to.
    pub const OWN_SERVICE: &str = "cutover.service";
    /// Where requests for it come from.
    pub const HOST: &str = "cutover.host";
    /// Its slot.
    pub const COLOR: &str = "cutover.color";
    /// Label of what runs in it.
    pub const RELEASE: &str = "cutover.release";
    /// The deploy that made it.
    pub const DEPLOY: &str = "cutover.deploy.id";
    /// The name that its network aliases are made of.
    pub const BASE: &str = "cutover.deploy.base";
    /// The Compose project that the first container came from.
    pub const PROJECT: &str = "cutover.deploy.project";
    /// What the first container of the service was called.
    pub const FIRST_NAME: &str = "cutover.deploy.first-name";
    /// Plain aliases by network, as JSON.
    pub const ALIASES: &str = "cutover.deploy.aliases";
    /// The deploy step that a one-shot container is.
    pub const JOB: &str = "cutover.deploy.job";
    /// What Compose writes on its own.
    pub const COMPOSE: &str = "com.docker.compose.";
    /// The Compose project.
    pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";
    /// The Compose service.
    pub const COMPOSE_SERVICE: &str = "com.docker.compose.service";
    /// `True` for `docker compose run`.
    pub const COMPOSE_ONEOFF: &str = "com.docker.compose.oneoff";
    /// The Compose files, separated by commas.
    pub const COMPOSE_FILES: &str = "com.docker.compose.project.config_files";
    /// Where they are.
    pub const COMPOSE_FOLDER: &str = "com.docker.compose.project.working_dir";
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The engine's id, 64 hexadecimal digits.
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// What that was: `sha256:...`.
    pub image_id: String,
    /// All labels, those of the image included.
    pub labels: BTreeMap<String, String>,
    /// What it does.
    pub state: State,
    /// What its own health check says; `None`: it has none.
    pub health: Option<Health>,
    /// How often the engine started it again.
    pub restarts: u64,
    /// When it was last started, RFC 3339.
    pub started_at: String,
    /// The whole description.
    pub inspect: Hidden<Value>,
}

/// What may have secrets in it, such as variables: it is kept and passed on, and nobody is shown it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T> Deref for Hidden<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Hidden<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    /// Its process is there.
    Running,
    /// Between two starts by the engine.
    Restarting,
    /// Its process has ended.
    Exited {
        /// Its exit code.
        code: i64,
    },
    /// It is being removed or cannot be.
    Dead,
}

/// What the container's own health check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not yet known.
    Starting,
    /// It passed.
    Healthy,
    /// It failed as often as it may.
    Unhealthy,
}

/// A description that lacks what every container has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's description of a container has no {0}")]
pub struct Incomplete(&'static str);

impl Container {
    /// Reads `GET /containers/{id}/json`.
    ///
    /// # Errors
    /// It has no id, name, image or state.
    pub fn from_inspect(inspect: Value) -> Result<Self, Incomplete> {
        let text = |pointer: &str| {
            let found = inspect.pointer(pointer).and_then(Value::as_str);
            found.map(str::to_owned)
        };
        let labels = inspect.pointer("/Config/Labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let labels = labels.map(|(key, value)| {
            let value = value.as_str().unwrap_or_default();
            (key.clone(), value.to_owned())
        });
        let code = inspect.pointer("/State/ExitCode").and_then(Value::as_i64);
        let state = match text("/State/Status").ok_or(Incomplete("state"))?.as_str() {
            "created" => State::Created,
            // A paused one holds its memory and its sockets.
            "running" | "paused" => State::Running,
            "restarting" => State::Restarting,
            "exited" => State::Exited {
                code: code.unwrap_or_default(),
            },
            _ => State::Dead,
        };
        let health = match text("/State/Health/Status").as_deref() {
            Some("starting") => Some(Health::Starting),
            Some("healthy") => Some(Health::Healthy),
            Some("unhealthy") => Some(Health::Unhealthy),
            Some(_) | None => None,
        };
        let restarts = inspect.get("RestartCount").and_then(Value::as_u64);
        Ok(Self {
            id: text("/Id").ok_or(Incomplete("id"))?,
            name: (text("/Name").ok_or(Incomplete("name"))?)
                .trim_start_matches('/')
                .to_owned(),
            image: text("/Config/Image").ok_or(Incomplete("image"))?,
            image_id: text("/Image").ok_or(Incomplete("image id"))?,
            labels: labels.collect(),
            state,
            health,
            restarts: restarts.unwrap_or_default(),
            started_at: text("/State/StartedAt").unwrap_or_default(),
            inspect: Hidden(inspect),
        })
    }

    /// The first 12 digits of the id: the engine makes a host name and an alias of them.
    #[must_use]
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// One label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// Whether its process is there, or will be in a moment.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Running | State::Restarting)
    }

    /// Whether Compose made it, for a service and not for `docker compose run`.
    #[must_use]
    pub fn is_of_compose(&self) -> bool {
        self.label(label::COMPOSE_SERVICE).is_some() && !self.is_one_off()
    }

    /// Whether it is a job, ours or one of `docker compose run`.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        let one_off = self.label(label::COMPOSE_ONEOFF);
        one_off.is_some_and(|word| word.eq_ignore_ascii_case("true"))
            || self.label(label::JOB).is_some()
    }

    /// The Compose project that it, or what it was copied from, belongs to.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        let copied = || self.label(label::PROJECT).filter(|name| !name.is_empty());
        self.label(label::COMPOSE_PROJECT).or_else(copied)
    }

    /// The name without a color: of the Compose service, or of the container when Compose has no
    /// part in it.
    #[must_use]
    pub fn base(&self) -> &str {
        if let Some(base) = self.label(label::BASE) {
            return base;
        }
        let name = self.label(label::COMPOSE_SERVICE).unwrap_or(&self.name);
        match Color::ending(name).0 {
            "" => name,
            base => base,
        }
    }

    /// The slot that its label says, else the ending of its Compose project, its Compose service
    /// or its name.
    #[must_use]
    pub fn color(&self) -> Option<Color> {
        if let Some(color) = self.label(label::COLOR) {
            return color.parse().ok();
        }
        self.declared_color()
            .or_else(|| Color::ending(&self.name).1)
    }

    /// The slot that the Compose files give it by the name of its project or service: such a
    /// container is made again where it stands.
    #[must_use]
    pub fn declared_color(&self) -> Option<Color> {
        if !self.is_of_compose() {
            return None;
        }
        let mut names = [label::COMPOSE_PROJECT, label::COMPOSE_SERVICE].into_iter();
        names.find_map(|name| Color::ending(self.label(name)?).1)
    }

    /// The names that it has in its networks.
    #[must_use]
    pub fn aliases(&self) -> BTreeSet<&str> {
        let networks = self.inspect.pointer("/NetworkSettings/Networks");
        let networks = networks.and_then(Value::as_object).into_iter().flatten();
        let aliases = networks.filter_map(|(_, network)| network.get("Aliases")?.as_array());
        aliases.flatten().filter_map(Value::as_str).collect()
    }

    /// The IP addresses that it has now.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<&str> {
        let networks = self.inspect.pointer("/NetworkSettings/Networks");
        let networks = networks.and_then(Value::as_object).into_iter().flatten();
        let each = networks.flat_map(|(_, network)| {
            ["IPAddress", "GlobalIPv6Address"].map(|key| network.get(key).and_then(Value::as_str))
        });
        each.flatten().filter(|one| !one.is_empty()).collect()
    }

    /// Its restart policy, as the engine takes it.
    #[must_use]
    pub fn restart_policy(&self) -> Value {
        let policy = self.inspect.pointer("/HostConfig/RestartPolicy");
        policy.cloned().unwrap_or(Value::Null)
    }

    /// Its Compose file and service, for a message that says where to change something.
    #[must_use]
    pub fn place(&self) -> String {
        let Some(service) = self.label(label::COMPOSE_SERVICE) else {
            return format!("container {}", self.name);
        };
        let files = self.label(label::COMPOSE_FILES).unwrap_or_default();
        let folder = self.label(label::COMPOSE_FOLDER).unwrap_or_default();
        let file = files.split(',').next().unwrap_or_default();
        let file = match (file.starts_with('/') || folder.is_empty(), file) {
            (_, "") => "the Compose file".to_owned(),
            (true, file) => file.to_owned(),
            (false, file) => format!("{folder}/{file}"),
        };
        format!("service {service} in {file}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Container {
        let text = include_str!("spec/fixtures/web.json");
        let mut read: Value = serde_json::from_str(text).expect("JSON");
        Container::from_inspect(read[0].take()).expect("a container")
    }

    #[test]
    fn what_compose_made_is_read() {
        let web = web();
        assert_eq!(web.name, "shop_web_1");
        assert_eq!(web.image, "shop:1");
        assert_eq!(web.state, State::Running);
        assert_eq!(web.health, Some(Health::Starting));
        assert_eq!((web.base(), web.project()), ("web", Some("shop")));
        assert_eq!((web.color(), web.declared_color()), (None, None));
        assert!(web.is_of_compose() && web.is_up() && !web.is_one_off());
        assert_eq!(web.place(), "service web in /srv/shop/docker-compose.yml");
    }

    #[test]
    fn a_color_comes_from_the_label_before_any_name() {
        let mut web = web();
        let mut set = |key: &str, value: &str| {
            web.labels.insert(key.to_owned(), value.to_owned());
            (web.color(), web.declared_color())
        };
        let (blue, green) = (Some(Color::Blue), Some(Color::Green));
        assert_eq!(set(label::COMPOSE_PROJECT, "green"), (green, green));
        assert_eq!(set(label::COMPOSE_PROJECT, "app_blue"), (blue, blue));
        assert_eq!(set(label::COMPOSE_SERVICE, "web-green"), (blue, blue));
        assert_eq!(set(label::COMPOSE_PROJECT, "app"), (green, green));
        assert_eq!(set(label::COMPOSE_SERVICE, "blue"), (blue, blue));
        assert_eq!(set(label::COLOR, "green"), (green, blue));
    }

    #[test]
    fn a_name_that_is_nothing_but_a_color_is_its_own_base() {
        let mut web = web();
        for (service, base) in [
            ("app-green", "app"),
            ("blue", "blue"),
            ("evergreen", "evergreen"),
        ] {
            let key = label::COMPOSE_SERVICE.to_owned();
            web.labels.insert(key, service.to_owned());
            assert_eq!(web.base(), base);
        }
    }

    #[test]
    fn a_description_without_an_id_is_refused() {
        let error = Container::from_inspect(serde_json::json!({"State": {"Status": "running"}}));
        assert_eq!(error, Err(Incomplete("id")));
    }
}
