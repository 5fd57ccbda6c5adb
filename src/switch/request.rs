//! What people and scripts ask for.

use std::time::Duration;

use crate::model::{Color, Release, ServiceName};

/// Who asks, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// Chosen by the client: asked again with the same id, the first result is given again.
    /// The last 256 results are remembered for a day, over restarts.
    pub id: Option<String>,
    /// Shown to others while the lock is held.
    pub actor: String,
    /// Shown in history.
    pub why: Option<String>,
}

/// `switch`.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchRequest {
    /// Which color is to be live.
    pub color: Color,
    /// Of these services, all of one stack. Empty: of every service with both slots of the only
    /// stack that has any.
    pub services: Vec<ServiceName>,
    /// Without a gate.
    pub force: bool,
    /// Label of what runs in the target slots; `None`: unchanged.
    pub release: Option<Release>,
    /// Go back unless it is confirmed within this time after the cutover.
    pub confirm_within: Option<Duration>,
    /// `--canary`, in percent. Refused in this version.
    pub canary_percent: Option<f64>,
    /// Who asks.
    pub by: By,
}

/// `rollback`, `promote` or `abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerbRequest {
    /// Names the stack by any of its services; empty: the only one it can be about.
    pub services: Vec<ServiceName>,
    /// Who asks.
    pub by: By,
}
