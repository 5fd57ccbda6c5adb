//! `judge`: what the verdict sees of a release under watch.

use serde::{Deserialize, Serialize};

use crate::model::{Color, ServiceName};

/// Answer of `GET /v1/judge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeReport {
    /// By name; the last watch of each service since the daemon started.
    pub services: Vec<JudgeService>,
}

/// One service's watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeService {
    /// The service.
    pub service: ServiceName,
    /// The color that is watched.
    pub color: Color,
    /// `watching`, `suspicious`, `held` or `rollback`.
    pub state: String,
    /// Whether the watch is over.
    pub over: bool,
    /// `enforce`, `observe` or `off`.
    pub mode: String,
    /// Since the cutover.
    pub elapsed_ms: u64,
    /// The last reason, for people.
    #[serde(default)]
    pub why: Option<String>,
    /// First attempts on the new color, and failures among them.
    pub requests: Share,
    /// The same of the baseline.
    pub before: Share,
    /// The failure rate that is tolerated, 0–1.
    pub limit: f64,
    /// ln of the evidence of the slow test, and what it needs; null before its first start.
    #[serde(with = "nothing_yet")]
    pub log_e: f64,
    /// See `log_e`.
    pub log_e_needed: f64,
    /// Value of the fast test in nats, and what it needs.
    pub w: f64,
    /// See `w`.
    pub w_needed: f64,
    /// Failures that the old color was asked to answer since suspicion began, and those that it
    /// failed too.
    pub rescues: Share,
    /// Probes of the old color since suspicion began.
    pub probes: Share,
    /// Requests over the limit of each latency quantile.
    pub slow: Vec<Share>,
    /// Client errors on routes that were good.
    pub client_errors: Share,
    /// Rules of thumb that hold.
    #[serde(default)]
    pub alerts: Vec<String>,
    /// What fails most: route, how, how often.
    #[serde(default)]
    pub routes: Vec<FailingRoute>,
    /// Some failures.
    #[serde(default)]
    pub samples: Vec<FailureSample>,
}

/// Some of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many.
    pub all: u64,
    /// How many of them speak against it.
    pub bad: u64,
}

/// A route that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingRoute {
    /// Its path, identifiers taken out.
    pub route: String,
    /// A status, or what the connection did.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureSample {
    /// Its path without the query.
    pub path: String,
    /// A status, or what the connection did.
    pub what: String,
    /// Its id, as in the access log.
    pub request_id: String,
}

/// Answer of `judge --replay --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// `rollback`, `hold`, `keep`, or `undecided` when the record ends before.
    pub decision: String,
    /// End of the tick of the decision, on the record's clock.
    pub t_ms: i64,
    /// In one sentence.
    pub reason: String,
    /// ln of the evidence of the slow test then; null before its first start.
    #[serde(with = "nothing_yet")]
    pub log_e: f64,
    /// Value of the fast test then, in nats.
    pub w: f64,
}

/// Evidence that is ln 0, which JSON has no number for.
mod nothing_yet {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        match value.is_finite() {
            true => to.serialize_f64(*value),
            false => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        let value = Option::<f64>::deserialize(from)?;
        Ok(value.unwrap_or(f64::NEG_INFINITY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_that_has_not_begun_is_null() {
        let report = ReplayReport {
            decision: "undecided".to_owned(),
            t_ms: 250,
            reason: String::new(),
            log_e: f64::NEG_INFINITY,
            w: 0.0,
        };
        let text = serde_json::to_string(&report).expect("JSON");
        assert!(text.contains(r#""log_e":null"#), "{text}");
        assert_eq!(
            serde_json::from_str::<ReplayReport>(&text).ok(),
            Some(report)
        );
    }
}
