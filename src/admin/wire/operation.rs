//! Verbs that are done at once: hold, resume, maintenance, freeze, repair.

use serde::{Deserialize, Serialize};

use crate::history::Entry;
use crate::model::ServiceName;

/// `POST /v1/operate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb", deny_unknown_fields)]
pub enum Operation {
    /// Requests wait at the edge.
    Hold {
        /// Of these services; empty: of every service.
        #[serde(default)]
        services: Vec<ServiceName>,
        /// Longest wait of a request, in milliseconds.
        max_ms: u64,
    },
    /// Held requests go on.
    Resume {
        /// Of these services; empty: of every service.
        #[serde(default)]
        services: Vec<ServiceName>,
    },
    /// 503 with the maintenance page, or no longer.
    Maintenance {
        /// Whether it begins.
        on: bool,
        /// These services; with no site either: every service.
        #[serde(default)]
        services: Vec<ServiceName>,
        /// Sites by any of their hosts.
        #[serde(default)]
        sites: Vec<String>,
        /// Shown on the page.
        #[serde(default)]
        message: Option<String>,
    },
    /// Every switch is refused.
    Freeze {
        /// The reason.
        why: String,
        /// After how many milliseconds it ends by itself; null: with `unfreeze`.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Switches are allowed again.
    Unfreeze {},
    /// The journal is written anew from memory, and switches are allowed again.
    Repair {},
    /// Kept releases and idle containers are removed, and what deploys and jobs have left.
    Cleanup {},
    /// As `cleanup`, and the live containers get their first names back.
    Reset {},
    /// Every target of notifications is sent a test.
    NotifyTest {},
}

/// Answer of `POST /v1/operate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, one sentence each. No trailing full stop.
    pub done: Vec<String>,
    /// What a person should know beside it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `POST /v1/history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryRequest {
    /// At most this many; null: 50.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Only about this service.
    #[serde(default)]
    pub service: Option<ServiceName>,
}

/// Answer of `POST /v1/history`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// The newest first.
    pub history: Vec<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_named_by_its_verb() {
        let hold: Operation = serde_json::from_str(r#"{"verb":"hold","max_ms":5}"#).unwrap();
        let services = Vec::new();
        assert_eq!(
            hold,
            Operation::Hold {
                services,
                max_ms: 5
            }
        );
        assert!(serde_json::from_str::<Operation>(r#"{"verb":"freeze"}"#).is_err());
        assert!(serde_json::from_str::<Operation>(r#"{"verb":"unfreeze","x":1}"#).is_err());
    }
}
