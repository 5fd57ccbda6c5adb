//! What `status` says: every service with both slots, running switches and drains, certificates.

use serde::{Deserialize, Serialize};

use super::{ContainerStatus, DeployStatus, JobStatus};
use crate::model::{Color, Kind, Release, ServiceName, StackName};

/// The daemon at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Services in the order of their names.
    pub services: Vec<ServiceStatus>,
    /// Certificates in the order of their hosts.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Docker discovery; null when it is off.
    #[serde(default)]
    pub docker: Option<DockerStatus>,
    /// The deploy that goes on; null when none does.
    #[serde(default)]
    pub deploy: Option<DeployStatus>,
    /// Containers of the services, as of some seconds ago.
    #[serde(default)]
    pub containers: Vec<ContainerStatus>,
    /// Jobs on a schedule, in the order of the file.
    #[serde(default)]
    pub jobs: Vec<JobStatus>,
    /// Why nothing may be switched; null when it may.
    #[serde(default)]
    pub freeze: Option<FreezeStatus>,
    /// What is closed for maintenance.
    #[serde(default)]
    pub maintenance: Vec<MaintenanceStatus>,
    /// What a person should look at, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Version of the daemon.
    #[serde(default)]
    pub version: String,
    /// Seconds since the daemon started.
    #[serde(default)]
    pub uptime_s: u64,
    /// File the configuration was read from; null when there is none.
    #[serde(default)]
    pub config: Option<String>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// The slot that takes new requests.
    pub live: Color,
    /// What it is doing.
    pub state: ServiceState,
    /// Both slots; one without upstreams is there and empty.
    pub slots: Slots,
    /// The services it switches with.
    pub stack: StackName,
    /// The switch it takes part in; null when none is running.
    #[serde(default)]
    pub switch: Option<SwitchStatus>,
    /// Old generations that finish their requests.
    #[serde(default)]
    pub drains: Vec<DrainStatus>,
    /// Its requests wait at the edge; null when they do not.
    #[serde(default)]
    pub hold: Option<HoldStatus>,
}

/// `freeze`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeStatus {
    /// The reason that was given.
    pub why: String,
    /// Who said so.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
    /// When it ends by itself, RFC 3339; null: with `unfreeze`.
    #[serde(default)]
    pub until: Option<String>,
}

/// `maintenance` of one service or site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceStatus {
    /// The service; null when it is a site.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// The first host of the site; null when it is a service.
    #[serde(default)]
    pub site: Option<String>,
    /// Shown on the page.
    #[serde(default)]
    pub message: Option<String>,
    /// Who said so.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
}

/// `hold` of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// Requests that wait.
    pub waiting: u64,
    /// When the one that came first gives up, RFC 3339; null when none waits.
    #[serde(default)]
    pub until: Option<String>,
    /// When it began, RFC 3339; null: it has ended, and those that waited are being let go.
    #[serde(default)]
    pub since: Option<String>,
    /// Longest wait of a request, in milliseconds.
    #[serde(default)]
    pub max_ms: u64,
    /// Requests that found no room or waited too long, since it began.
    #[serde(default)]
    pub refused: u64,
}

/// What a service is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Nothing: one slot is live, the other idle.
    Stable,
    /// A switch waits for the target to become healthy.
    Gate,
    /// The target takes a share of the requests.
    Canary,
    /// The target is live and watched.
    Observe,
    /// The watch found something that a rollback may not cure; a person decides.
    Held,
    /// An old generation finishes its requests.
    Drain,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ServiceState {
    /// The word that status shows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Gate => "gate",
            Self::Canary => "canary",
            Self::Observe => "observe",
            Self::Held => "held",
            Self::Drain => "drain",
            Self::Unknown => "unknown",
        }
    }
}

/// Both slots of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slots {
    /// The blue slot.
    pub blue: SlotStatus,
    /// The green slot.
    pub green: SlotStatus,
}

impl Slots {
    /// The slot of `color`.
    #[must_use]
    pub const fn of(&self, color: Color) -> &SlotStatus {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

/// One slot. Rates and quantiles are over the last 60 s; null without a request in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// What runs there; null when nobody said.
    pub release: Option<Release>,
    /// Its upstreams; empty when the slot is not configured.
    pub upstreams: Vec<UpstreamStatus>,
    /// Requests that hold it now, over all its generations.
    pub in_flight: InFlight,
    /// Number of the pool published last; null before the first one.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Requests a second.
    #[serde(default)]
    pub rps: f64,
    /// Share of answers 500–599 and of upstream failures, 0–1.
    #[serde(default)]
    pub error_rate: Option<f64>,
    /// Median duration at the edge, in milliseconds.
    #[serde(default)]
    pub p50_ms: Option<f64>,
    /// 99th percentile of the duration at the edge, in milliseconds.
    #[serde(default)]
    pub p99_ms: Option<f64>,
}

/// One upstream of a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// As configured.
    pub address: String,
    /// Null before the first probe: it takes live traffic but passes no gate.
    pub healthy: Option<bool>,
    /// Why it is down or ejected, or what the last failure was; null when all is well.
    pub reason: Option<String>,
    /// Duration of the last probe, in milliseconds.
    #[serde(default)]
    pub probe_ms: Option<f64>,
    /// Name of the container that answers there; left out when none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// Requests by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Ordinary exchanges.
    pub request: u64,
    /// Upgraded connections.
    pub websocket: u64,
    /// Event streams.
    pub sse: u64,
}

impl InFlight {
    /// All kinds together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.request + self.websocket + self.sse
    }

    /// From counts indexed by [`Kind::index`].
    #[must_use]
    pub const fn from_counts(counts: [u64; 3]) -> Self {
        Self {
            request: counts[Kind::Request.index()],
            websocket: counts[Kind::WebSocket.index()],
            sse: counts[Kind::Sse.index()],
        }
    }
}

/// A running switch, as `status` and every progress line show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// Services that move together.
    pub services: Vec<ServiceName>,
    /// Where they move.
    pub target: Color,
    /// How far it is.
    pub phase: Phase,
    /// Who asked for it.
    #[serde(default)]
    pub actor: String,
    /// Time in this phase, in milliseconds.
    #[serde(default)]
    pub elapsed_ms: u64,
    /// When this phase ends if nothing extends it, in milliseconds from its start.
    #[serde(default)]
    pub planned_ms: Option<u64>,
    /// When this phase ends at the latest, in milliseconds from its start.
    #[serde(default)]
    pub limit_ms: Option<u64>,
    /// Requests the target has answered since the cutover.
    #[serde(default)]
    pub requests: u64,
    /// Requests that the verdict wants to see.
    #[serde(default)]
    pub requests_needed: Option<u64>,
    /// Share of requests that the target takes while it is a canary, 0–1.
    #[serde(default)]
    pub canary: Option<f64>,
    /// What the target did since the cutover.
    #[serde(default)]
    pub new: Option<Tally>,
    /// What the old slot did before it.
    #[serde(default)]
    pub old: Option<Tally>,
    /// What the gate still waits for.
    #[serde(default)]
    pub gate: Vec<GateFailure>,
    /// Why it is held or rolled back.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Requests and failures over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests counted.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// 99th percentile of the duration, in milliseconds.
    #[serde(default)]
    pub p99_ms: Option<f64>,
}

impl Tally {
    /// Share of failures, 0–1; `None` without requests.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "a share for people; 2^53 requests are far away"
    )]
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failures as f64 / self.requests as f64)
    }
}

/// How far a switch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for the target to become healthy.
    Gate,
    /// The target takes a share of the requests.
    Canary,
    /// The target is being published.
    Cutover,
    /// The target is live and watched.
    Observe,
    /// The watch found something that a rollback may not cure.
    Held,
    /// Going back.
    Rollback,
    /// Keep or roll back is being written down.
    Verdict,
    /// The old generation finishes its requests.
    Drain,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// The word that progress lines show.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Canary => "canary",
            Self::Cutover => "cutover",
            Self::Observe => "observe",
            Self::Held => "held",
            Self::Rollback => "rollback",
            Self::Verdict => "verdict",
            Self::Drain => "drain",
            Self::Unknown => "working",
        }
    }
}

/// One thing that keeps the gate closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateFailure {
    /// Whose slot.
    pub service: ServiceName,
    /// Which upstream; null when it is about the whole slot.
    #[serde(default)]
    pub address: Option<String>,
    /// What is missing.
    pub reason: String,
}

/// An old generation that finishes its requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Slot it belongs to.
    pub color: Color,
    /// Which pool.
    pub generation: u64,
    /// What is left.
    pub in_flight: InFlight,
    /// Time since it began, in milliseconds.
    #[serde(default)]
    pub elapsed_ms: u64,
    /// Until what is left is closed, in milliseconds.
    #[serde(default)]
    pub deadline_ms: u64,
    /// What is left, one by one: the oldest ones.
    #[serde(default)]
    pub blocking: Vec<Blocking>,
}

/// A request that a drain waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocking {
    /// What it is.
    pub kind: Kind,
    /// Its method.
    pub method: String,
    /// Its path without the query, cut after 256 bytes.
    pub path: String,
    /// Who asked.
    pub client: String,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Name it answers for.
    pub host: String,
    /// Who signed it; null while there is none.
    pub issuer: Option<String>,
    /// End of its validity, RFC 3339; null while there is none.
    pub expires: Option<String>,
    /// Seconds until then; negative when it is over.
    #[serde(default)]
    pub expires_in_s: Option<i64>,
    /// Why there is none, or why it could not be renewed.
    pub error: Option<String>,
}

/// Docker discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerStatus {
    /// `connecting`, `connected`, `disconnected` or `failed` (what was found cannot be served).
    pub state: String,
    /// Why it is not connected.
    #[serde(default)]
    pub error: Option<String>,
    /// Version of the engine's API that is spoken; empty: it does not tell.
    #[serde(default)]
    pub api: String,
    /// Containers that serve or could.
    #[serde(default)]
    pub containers: usize,
    /// Calls that the engine, or a socket proxy before it, refuses, and what does not work for it.
    #[serde(default)]
    pub refused: Vec<RefusedCall>,
    /// Containers, labels and routes that are not served, and why.
    #[serde(default)]
    pub problems: Vec<DockerProblem>,
    /// Hosts of Compose projects that are down, which others may not have yet.
    #[serde(default)]
    pub reserved: Vec<ReservedHost>,
}

/// A host that is kept for a Compose project without containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedHost {
    /// The host.
    pub host: String,
    /// The project, without a color at its end.
    pub project: String,
    /// When another project may have it, RFC 3339.
    pub until: String,
}

/// A call that Docker refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCall {
    /// Such as `GET /events`.
    pub call: String,
    /// What it said.
    pub message: String,
    /// What does not work without it.
    pub effect: String,
}

/// Something about a container that keeps it from being served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerProblem {
    /// Its name.
    pub container: String,
    /// What is so.
    pub what: String,
    /// What to do.
    pub fix: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape that scripts rely on, as the documentation states it.
    #[test]
    fn the_fixed_fields_of_status_have_their_names_and_types() {
        let status = Status {
            services: vec![ServiceStatus {
                name: "web".into(),
                live: Color::Green,
                state: ServiceState::Observe,
                slots: Slots {
                    green: SlotStatus {
                        release: Some("v2".into()),
                        upstreams: vec![UpstreamStatus {
                            address: "web-green:3000".into(),
                            healthy: None,
                            reason: None,
                            probe_ms: None,
                            container: None,
                        }],
                        in_flight: InFlight::from_counts([3, 2, 1]),
                        ..SlotStatus::default()
                    },
                    ..Slots::default()
                },
                stack: "default".into(),
                switch: None,
                drains: Vec::new(),
                hold: None,
            }],
            ..Status::default()
        };
        let json = serde_json::to_value(&status).unwrap();
        let service = &json["services"][0];
        assert_eq!(service["name"], "web");
        assert_eq!(service["live"], "green");
        assert_eq!(service["state"], "observe");
        let green = &service["slots"]["green"];
        assert_eq!(green["release"], "v2");
        let upstream = serde_json::json!(
            {"address": "web-green:3000", "healthy": null, "reason": null, "probe_ms": null}
        );
        assert_eq!(green["upstreams"][0], upstream);
        assert_eq!(
            green["in_flight"],
            serde_json::json!({"request": 3, "websocket": 2, "sse": 1})
        );
        assert_eq!(service["slots"]["blue"]["upstreams"], serde_json::json!([]));
        assert!(json["docker"].is_null());
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
    }

    #[test]
    fn a_daemon_that_says_only_what_is_fixed_is_understood() {
        let text = r#"{"services":[{"name":"web","live":"blue","state":"eclipse","stack":"default",
            "slots":{"blue":{"release":null,"upstreams":[{"address":"a:1","healthy":true,"reason":null}],
                             "in_flight":{"request":0,"websocket":0,"sse":0}},
                     "green":{"release":null,"upstreams":[],"in_flight":{"request":0,"websocket":0,"sse":0}}}}],
            "moon": 1}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.services[0].state, ServiceState::Unknown);
        assert_eq!(
            status.services[0].slots.blue.upstreams[0].healthy,
            Some(true)
        );
    }
}
