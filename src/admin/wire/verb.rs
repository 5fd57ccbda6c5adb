//! Requests and answers of the verbs.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ControlError, DeployStatus, SwitchStatus};
use crate::model::{Color, Release, ServiceName};

/// `POST /v1/switch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchRequest {
    /// Which slot becomes live.
    pub target: Color,
    /// Only these services; empty: the stack, or all stacks when there is one.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// Share of requests for the target before the whole cutover, above 0 and below 1.
    #[serde(default)]
    pub canary: Option<f64>,
    /// How long the canary lasts, in milliseconds; only with `canary`.
    #[serde(default)]
    pub canary_ms: Option<u64>,
    /// Whether the answer comes when it is over (verdict given, old slot drained). False: as
    /// soon as the cutover is published, or refused.
    #[serde(default = "yes")]
    pub wait: bool,
    /// Skip the gate and the quarantine.
    #[serde(default)]
    pub force: bool,
    /// Label of what runs in the target.
    #[serde(default)]
    pub release: Option<Release>,
    /// Chosen by the client: asked again with the same id, the recorded result is given.
    #[serde(default)]
    pub id: Option<String>,
    /// Why, for the history.
    #[serde(default)]
    pub why: Option<String>,
    /// Go back unless it is promoted within so many milliseconds after the cutover.
    #[serde(default)]
    pub confirm_within_ms: Option<u64>,
}

/// `POST /v1/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Whether the answer comes when the slot that was left is drained. False: as soon as the
    /// old one is live again.
    #[serde(default = "yes")]
    pub wait: bool,
    /// Chosen by the client: asked again with the same id, the recorded result is given.
    #[serde(default)]
    pub id: Option<String>,
    /// Why, for the history.
    #[serde(default)]
    pub why: Option<String>,
}

/// `POST /v1/promote` and `POST /v1/abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionRequest {
    /// Chosen by the client: asked again with the same id, the recorded result is given.
    #[serde(default)]
    pub id: Option<String>,
    /// Why, for the history.
    #[serde(default)]
    pub why: Option<String>,
}

const fn yes() -> bool {
    true
}

/// One line of a long answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Something happened, or time went by.
    Progress(Box<Progress>),
    /// It is over. The last line.
    Outcome(Outcome),
    /// It was refused or failed. The last line.
    Error(ControlError),
}

/// How a long verb gets on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// True: nothing happened but time; only worth showing where it can be overwritten.
    #[serde(default)]
    pub tick: bool,
    /// What happened, in one line; empty for a tick.
    #[serde(default)]
    pub message: String,
    /// Where the switch stands now.
    pub switch: SwitchStatus,
    /// Where the deploy stands now, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<DeployStatus>,
}

/// How a switch, a rollback, a `promote` or an `abort` ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// In one word.
    pub result: OutcomeKind,
    /// In one sentence: what is live now and why. No trailing full stop.
    pub message: String,
    /// The services it was about.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// The slot that is live now.
    #[serde(default)]
    pub live: Option<Color>,
    /// More about it, a line each: what failed, and where to look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// The envelope of an [`Outcome`] that is a whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeBody {
    /// The outcome.
    pub outcome: Outcome,
}

/// The word of an [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// The verdict kept the target.
    Kept,
    /// The target was live before; nothing was done.
    AlreadyLive,
    /// The target is live; the watch goes on without the asker.
    Published,
    /// The former slot is live again.
    RolledBack,
    /// The deploy is begun; it goes on without the asker.
    Begun,
    /// Nothing was done: this is what would be.
    Planned,
    /// A job that was run by hand did well.
    Done,
    /// Ended by a person before the cutover was complete; the former slot is live.
    Aborted,
    /// Held, and `observe_max` is over: both slots stay up, a person decides.
    Held,
    /// It did not work.
    Failed,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl OutcomeKind {
    /// Exit code of the verb that asked. `undo`: the verb was `rollback`, `abort` or `promote`,
    /// so going back is what it wanted; for a waiting switch it is 4.
    #[must_use]
    pub const fn exit_code(self, undo: bool) -> u8 {
        match self {
            Self::Kept
            | Self::AlreadyLive
            | Self::Published
            | Self::Begun
            | Self::Planned
            | Self::Done => 0,
            Self::RolledBack | Self::Aborted => {
                if undo {
                    0
                } else {
                    4
                }
            }
            Self::Held | Self::Failed | Self::Unknown => 1,
        }
    }
}

/// Answer of `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The file that was read; null when there is none.
    pub config: Option<String>,
    /// What is different now, one line each; empty: nothing.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Findings that do not prevent it, as `file:line:column: message`.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Answer of `GET /v1/config`. Secrets are masked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// The effective configuration as TOML.
    pub toml: String,
    /// The same as JSON.
    #[serde(default)]
    pub config: serde_json::Value,
}

/// `POST /v1/explain`: a request that is not sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Absolute URL, `http://` or `https://`.
    pub url: String,
    /// Default GET.
    #[serde(default = "default_method")]
    pub method: String,
    /// Header fields, name and value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Address of the client; null: the machine itself.
    #[serde(default)]
    pub client_ip: Option<IpAddr>,
}

fn default_method() -> String {
    "GET".to_owned()
}

/// Answer of `POST /v1/explain`: where the request would go. What is null was not reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// Socket that would take it.
    pub listener: Option<String>,
    /// Site that answers for the host.
    pub site: Option<String>,
    /// Route within the site.
    pub route: Option<String>,
    /// Service behind the route.
    pub service: Option<ServiceName>,
    /// Slot that would take it.
    pub color: Option<Color>,
    /// Upstream that would take it, or what the choice depends on.
    pub upstream: Option<String>,
    /// Status that the proxy itself would answer; null when the request is forwarded.
    #[serde(default)]
    pub status: Option<u16>,
    /// The reasons, one step a line.
    #[serde(default)]
    pub why: Vec<String>,
    /// Routes that were looked at, in the order of their precedence.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
}

/// One route that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The route as written.
    pub route: String,
    /// Whether all its conditions hold.
    pub matched: bool,
    /// The condition that failed, or why another route wins.
    pub why: String,
}

/// Answer of `GET /v1/ready` when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyReport {
    /// Always true; not ready is an error with the reason.
    pub ready: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_waits_unless_told_otherwise() {
        let request: SwitchRequest = serde_json::from_str(r#"{"target":"green"}"#).unwrap();
        assert!(request.wait && !request.force && request.services.is_empty());
        assert!(serde_json::from_str::<SwitchRequest>(r#"{"target":"red"}"#).is_err());
        assert!(
            serde_json::from_str::<SwitchRequest>(r#"{"target":"blue","forse":true}"#).is_err()
        );
    }

    #[test]
    fn going_back_is_success_only_for_who_asked_for_it() {
        assert_eq!(OutcomeKind::RolledBack.exit_code(false), 4);
        assert_eq!(OutcomeKind::RolledBack.exit_code(true), 0);
        assert_eq!(OutcomeKind::AlreadyLive.exit_code(false), 0);
        assert_eq!(OutcomeKind::Held.exit_code(false), 1);
    }

    #[test]
    fn the_last_line_of_a_stream_names_what_it_is() {
        let event = Event::Outcome(Outcome {
            result: OutcomeKind::Kept,
            message: "green is live".into(),
            services: vec!["web".into()],
            live: Some(Color::Green),
            details: Vec::new(),
        });
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.starts_with(r#"{"outcome":{"result":"kept""#), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
