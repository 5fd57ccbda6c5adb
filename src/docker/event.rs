//! What an event changes about the inventory, and what has to be looked at again. Pure.
//!
//! Three things are believed at once, because the look would come too late: a signal that stops a
//! container (it is still running and must get no new request), its end, and a pause. Everything else is
//! looked at. Source: Docker Engine API, "Monitor events".

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::inventory::{Container, Health, Inventory, State};

/// One event of a container or a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `container` or `network`.
    pub kind: String,
    /// `die`, or `health_status: healthy`.
    pub action: String,
    /// Whom it is about: of a network event, the network.
    pub id: String,
    /// More about it.
    pub attributes: BTreeMap<String, String>,
}

/// What follows from an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Whether the inventory is another one now.
    pub changed: bool,
    /// The container that has to be looked at.
    pub look: Option<String>,
    /// What speaks against the container from now on.
    pub sign: Option<Sign>,
}

/// Something that speaks against a container. Shown after its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It ended.
    Exited {
        /// As the engine writes it; 137 is SIGKILL.
        code: String,
    },
    /// It wanted more memory than it may have.
    OutOfMemory,
    /// Its restart policy started it again, as often since the last look.
    Restarted(u64),
    /// Its HEALTHCHECK fails.
    Unhealthy,
}

impl Sign {
    /// Whether the container is dead or dying: what the rule `container` is about. One that is
    /// unhealthy may still answer, and is judged by its answers.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        match self {
            Self::Exited { .. } | Self::OutOfMemory | Self::Restarted(_) => true,
            Self::Unhealthy => false,
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::OutOfMemory => f.write_str("ran out of memory (OOM)"),
            Self::Restarted(1) => f.write_str("was restarted by its restart policy"),
            Self::Restarted(times) => {
                write!(f, "was restarted {times} times by its restart policy")
            }
            Self::Unhealthy => f.write_str("is unhealthy, says its HEALTHCHECK"),
        }
    }
}

impl Inventory {
    /// Takes note of an event.
    pub fn happened(&mut self, event: &Event) -> Reaction {
        match event.kind.as_str() {
            "container" => self.seen_of_container(event),
            "network" => match (event.action.as_str(), event.attributes.get("container")) {
                ("connect" | "disconnect", Some(id)) => look(id),
                _ => Reaction::default(),
            },
            _ => Reaction::default(),
        }
    }

    fn seen_of_container(&mut self, event: &Event) -> Reaction {
        let id = &event.id;
        let (action, detail) = match event.action.split_once(": ") {
            Some((action, detail)) => (action, detail),
            None => (event.action.as_str(), ""),
        };
        let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
        match action {
            "kill" => {
                let signal = attribute("signal").to_owned();
                let changed = self.change(id, |container| {
                    if container.state != State::Ended && container.is_ended_by(&signal) {
                        container.is_stopping = true;
                    }
                });
                Reaction {
                    changed,
                    ..Reaction::default()
                }
            }
            "die" => {
                let code = attribute("exitCode").to_owned();
                let changed = self.change(id, |container| {
                    container.state = State::Ended;
                    container.is_stopping = false;
                });
                Reaction {
                    changed,
                    look: Some(id.clone()),
                    sign: Some(Sign::Exited { code }),
                }
            }
            "oom" => Reaction {
                changed: false,
                look: Some(id.clone()),
                sign: Some(Sign::OutOfMemory),
            },
            "pause" => Reaction {
                changed: self.change(id, |container| container.state = State::Paused),
                ..Reaction::default()
            },
            "health_status" => {
                let health = health(detail);
                let changed = self.change(id, |container| {
                    container.health = health.or(container.health);
                });
                Reaction {
                    changed,
                    look: health.is_none().then(|| id.clone()),
                    sign: (health == Some(Health::Unhealthy)).then_some(Sign::Unhealthy),
                }
            }
            "destroy" => Reaction {
                changed: self.containers.remove(id).is_some(),
                ..Reaction::default()
            },
            "create" | "start" | "restart" | "unpause" | "rename" | "update" | "stop" => look(id),
            _ => Reaction::default(),
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Container)) -> bool {
        let Some(known) = self.containers.get_mut(id) else {
            return false;
        };
        let mut container = Container::clone(known);
        change(&mut container);
        if container == **known {
            return false;
        }
        *known = Arc::new(container);
        true
    }

    /// Puts a container as it was seen. A signal that it got meanwhile is remembered as long as it
    /// was not started again. True when something is different.
    pub fn seen(&mut self, mut container: Container) -> bool {
        let known = self.containers.get(&container.id);
        if let Some(known) = known {
            let same_run = known.started == container.started;
            container.is_stopping =
                known.is_stopping && same_run && container.state == State::Running;
            if **known == container {
                return false;
            }
        }
        self.containers
            .insert(container.id.clone(), Arc::new(container));
        true
    }
}

fn look(id: &str) -> Reaction {
    Reaction {
        look: Some(id.to_owned()),
        ..Reaction::default()
    }
}

fn health(word: &str) -> Option<Health> {
    match word {
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        "starting" => Some(Health::Starting),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Inventory {
        let mut inventory = Inventory::default();
        inventory.seen(Container {
            id: "c".to_owned(),
            state: State::Running,
            started: "1".to_owned(),
            ..Container::default()
        });
        inventory
    }

    fn event(action: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes = attributes.iter();
        Event {
            kind: "container".to_owned(),
            action: action.to_owned(),
            id: "c".to_owned(),
            attributes: attributes
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_takes_a_container_out_is_believed_at_once() {
        for (action, attributes) in [
            ("kill", &[("signal", "15")][..]),
            ("kill", &[("signal", "9")]),
            ("die", &[("exitCode", "1")]),
            ("pause", &[]),
            ("destroy", &[]),
        ] {
            let mut inventory = one();
            let reaction = inventory.happened(&event(action, attributes));
            assert!(reaction.changed, "{action}");
            let takes = inventory
                .containers
                .get("c")
                .is_some_and(|c| c.takes_requests());
            assert!(!takes, "{action}");
        }
    }

    #[test]
    fn a_signal_that_does_not_stop_changes_nothing() {
        let mut inventory = one();
        let reaction = inventory.happened(&event("kill", &[("signal", "1")]));
        assert_eq!(reaction, Reaction::default());
    }

    #[test]
    fn what_may_bring_a_container_back_is_looked_at() {
        for action in ["start", "unpause", "rename", "update", "restart", "create"] {
            let reaction = one().happened(&event(action, &[]));
            assert_eq!(reaction.look.as_deref(), Some("c"), "{action}");
        }
        let connected = Event {
            kind: "network".to_owned(),
            id: "net".to_owned(),
            ..event("connect", &[("container", "c")])
        };
        assert_eq!(one().happened(&connected).look.as_deref(), Some("c"));
        assert_eq!(
            one().happened(&event("exec_start: sh", &[])),
            Reaction::default()
        );
    }

    #[test]
    fn health_is_taken_from_the_event() {
        let mut inventory = one();
        assert!(
            inventory
                .happened(&event("health_status: unhealthy", &[]))
                .changed
        );
        assert_eq!(inventory.containers["c"].health, Some(Health::Unhealthy));
        assert!(
            !inventory
                .happened(&event("health_status: unhealthy", &[]))
                .changed
        );
    }

    #[test]
    fn a_look_does_not_undo_a_signal_but_another_start_does() {
        let mut inventory = one();
        inventory.happened(&event("kill", &[("signal", "SIGTERM")]));
        let mut seen = Container {
            is_stopping: false,
            ..Container::clone(&inventory.containers["c"])
        };
        inventory.seen(seen.clone());
        assert!(inventory.containers["c"].is_stopping);
        seen.started = "2".to_owned();
        inventory.seen(seen);
        assert!(inventory.containers["c"].takes_requests());
    }

    #[test]
    fn what_speaks_against_a_container_is_told_and_an_end_is_more_than_ill_health() {
        let sign = |action, attributes: &[(&str, &str)]| {
            let sign = one().happened(&event(action, attributes)).sign?;
            Some((sign.to_string(), sign.is_end()))
        };
        let told = |words: &str, is_end| Some((words.to_owned(), is_end));
        let died = sign("die", &[("exitCode", "137")]);
        assert_eq!(died, told("exited with code 137", true));
        assert_eq!(sign("oom", &[]), told("ran out of memory (OOM)", true));
        let unhealthy = sign("health_status: unhealthy", &[]);
        assert_eq!(unhealthy, told("is unhealthy, says its HEALTHCHECK", false));
        for action in ["health_status: healthy", "health_status: starting", "kill"] {
            assert_eq!(sign(action, &[("signal", "15")]), None, "{action}");
        }
    }
}
