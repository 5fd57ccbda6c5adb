//! Containers as an engine shows them. Pure: values without a socket behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::Color;

/// Everything that is known of an engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// By their whole id.
    pub containers: BTreeMap<String, Arc<Container>>,
    /// Where this program runs.
    pub own: Place,
}

/// Where this program runs, as seen from the containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On the host, or in a container that shares the host's network: every address of a bridge
    /// can be reached.
    #[default]
    Host,
    /// In a container.
    Container {
        /// Its id.
        id: String,
        /// Its name, for people.
        name: String,
        /// Its Compose project; empty: none.
        project: String,
        /// Ids of its networks.
        networks: BTreeSet<String>,
    },
    /// In a container that the engine does not know, such as one that has an engine inside: the
    /// networks that an interface of this process is in are shared.
    Unknown,
}

impl Place {
    /// The Compose project of the proxy's own container, without a color at its end.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        let Self::Container { project, .. } = self else {
            return None;
        };
        Some(Color::ending(project).0).filter(|project| !project.is_empty())
    }
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// The whole id.
    pub id: String,
    /// Without the slash.
    pub name: String,
    /// As it was asked for: `app:v2`.
    pub image: String,
    /// Which image that was.
    pub image_id: String,
    /// All labels, those of the image included.
    pub labels: BTreeMap<String, String>,
    /// Networks it is on.
    pub networks: Vec<Attached>,
    /// It has the network of the host.
    pub on_host: bool,
    /// TCP ports that it or its image exposes.
    pub exposed: BTreeSet<u16>,
    /// What it is doing.
    pub state: State,
    /// What its HEALTHCHECK says; `None`: it has none.
    pub health: Option<Health>,
    /// A signal that stops it was sent, and it has not ended yet.
    pub is_stopping: bool,
    /// The signal that `docker stop` sends; empty: SIGTERM.
    pub stop_signal: String,
    /// When it was made, RFC 3339; the older one comes first.
    pub created: String,
    /// When it was started last, RFC 3339.
    pub started: String,
    /// How often its restart policy started it again.
    pub restarts: u64,
    /// Bytes that it may use; `None`: as many as there are.
    pub memory_limit: Option<u64>,
    /// CPUs that it may use; `None`: all.
    pub cpu_limit: Option<f64>,
}

/// A network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The container's addresses in it, IPv4 first. Empty while it does not run.
    pub addresses: Vec<IpAddr>,
    /// An interface of this process is in the same subnet.
    pub is_near: bool,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, not started yet.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It is there, but gets no time.
    Paused,
    /// It ended, and its restart policy will start it again.
    Restarting,
    /// It ended, or is about to be removed.
    Ended,
}

/// What a HEALTHCHECK says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It did not pass yet.
    Starting,
    /// It passes.
    Healthy,
    /// It fails.
    Unhealthy,
}

/// Label of a Compose project.
pub(super) const PROJECT: &str = "com.docker.compose.project";
/// Label of a service in it.
pub(super) const SERVICE: &str = "com.docker.compose.service";
/// Label of a container in that, from 1.
pub(super) const NUMBER: &str = "com.docker.compose.container-number";
/// Label of containers that `docker compose run` makes.
pub(super) const ONE_OFF: &str = "com.docker.compose.oneoff";

impl Container {
    /// A label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The Compose project; empty: none.
    #[must_use]
    pub fn project(&self) -> &str {
        let copied = || self.label("cutover.deploy.project");
        self.label(PROJECT).or_else(copied).unwrap_or_default()
    }

    /// The Compose service; of a copy that a deploy made, that of the first container.
    #[must_use]
    pub fn compose_service(&self) -> Option<&str> {
        self.label(SERVICE)
            .or_else(|| self.label("cutover.deploy.base"))
    }

    /// Whether somebody ran it for once: it serves nobody.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        (self.label(ONE_OFF)).is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || self.label("cutover.deploy.job").is_some()
    }

    /// Whether new requests may go to it.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        self.state == State::Running && !self.is_stopping
    }

    /// Its name without the number of its Compose service: `shop-web-2` and `shop_web_2` are
    /// `shop-web` and `shop_web`.
    #[must_use]
    pub fn bare_name(&self) -> &str {
        let Some(number) = self.label(NUMBER) else {
            return &self.name;
        };
        let bare = self
            .name
            .strip_suffix(number)
            .and_then(|rest| rest.strip_suffix('-').or_else(|| rest.strip_suffix('_')));
        bare.unwrap_or(&self.name)
    }

    /// Whether this signal ends it: `docker stop` and `docker kill` say which one they send.
    #[must_use]
    pub fn is_ended_by(&self, signal: &str) -> bool {
        const ENDING: [i32; 4] = [2, 3, 9, 15];
        let Some(signal) = number(signal) else {
            return false;
        };
        ENDING.contains(&signal) || number(&self.stop_signal) == Some(signal)
    }
}

/// `15`, `TERM` and `SIGTERM` are 15; signal(7).
fn number(signal: &str) -> Option<i32> {
    if let Ok(number) = signal.parse::<i32>() {
        return Some(number);
    }
    let name = signal.to_ascii_uppercase();
    let name = match name.starts_with("SIG") {
        true => name,
        false => format!("SIG{name}"),
    };
    if let Some(above) = name.strip_prefix("SIGRTMIN+") {
        return above.parse::<i32>().ok().map(|n| 34 + n);
    }
    name.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, number: Option<&str>) -> Container {
        Container {
            name: name.to_owned(),
            labels: number
                .map(|n| (NUMBER.to_owned(), n.to_owned()))
                .into_iter()
                .collect(),
            ..Container::default()
        }
    }

    #[test]
    fn the_number_of_both_composes_is_no_part_of_a_name() {
        for (name, number, bare) in [
            ("shop-web-blue-1", Some("1"), "shop-web-blue"),
            ("shop_web_12", Some("12"), "shop_web"),
            ("web-2", None, "web-2"),
            ("custom", Some("1"), "custom"),
        ] {
            assert_eq!(named(name, number).bare_name(), bare);
        }
    }

    #[test]
    fn signals_that_end_a_container_are_known_by_number_and_name() {
        let mut container = Container::default();
        for signal in ["15", "SIGTERM", "TERM", "term", "9", "2", "3", "SIGINT"] {
            assert!(container.is_ended_by(signal), "{signal}");
        }
        for signal in ["1", "10", "SIGHUP", "USR1", "", "NONSENSE"] {
            assert!(!container.is_ended_by(signal), "{signal}");
        }
        container.stop_signal = "SIGUSR1".to_owned();
        assert!(container.is_ended_by("10"), "its own stop signal");
        container.stop_signal = "SIGRTMIN+3".to_owned();
        assert!(container.is_ended_by("37"), "systemd's");
    }
}
