//! What is told.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock;
pub use crate::config::NotifyEvent as EventKind;
use crate::model::{Color, ServiceName};

/// One thing that happened. The JSON of it is the body of a generic webhook; fields are only ever
/// added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The same for every attempt and every target.
    pub id: String,
    /// When it happened, RFC 3339.
    pub time: String,
    /// What kind of thing.
    pub event: EventKind,
    /// In one line, for people.
    pub title: String,
    /// More of it, in a sentence or two; may be empty.
    #[serde(default)]
    pub text: String,
    /// What it was about.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// The color that was live before.
    #[serde(default)]
    pub from: Option<Color>,
    /// The color that is live now.
    #[serde(default)]
    pub to: Option<Color>,
    /// Who did it: name and user id, or `cutover` itself.
    #[serde(default)]
    pub who: String,
    /// Requests that the new color answered under watch.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Those of them that failed.
    #[serde(default)]
    pub failures: Option<u64>,
    /// Lines to look at: what failed, with request ids.
    #[serde(default)]
    pub details: Vec<String>,
    /// Name of the machine or container.
    #[serde(default)]
    pub host: String,
}

impl Note {
    /// A note with nothing but its title; id, time and host are set when it is told.
    #[must_use]
    pub fn new(event: EventKind, title: impl Into<String>) -> Self {
        Self {
            id: String::new(),
            time: clock::rfc3339(SystemTime::UNIX_EPOCH),
            event,
            title: title.into(),
            text: String::new(),
            services: Vec::new(),
            from: None,
            to: None,
            who: String::new(),
            requests: None,
            failures: None,
            details: Vec::new(),
            host: String::new(),
        }
    }

    /// Title, text and details, for people.
    #[must_use]
    pub fn message(&self) -> String {
        let mut lines = vec![self.title.as_str()];
        if !self.text.is_empty() {
            lines.push(&self.text);
        }
        lines.extend(self.details.iter().map(String::as_str));
        lines.join("\n")
    }
}
