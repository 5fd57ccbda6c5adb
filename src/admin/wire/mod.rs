//! The JSON of the control API, version 1.
//!
//! Paths begin with `/v1/`. Fields are only ever added: a reader ignores what it does not know
//! and takes a default for what is missing, so a `proxyctl` and a daemon of different age
//! understand each other. An enum that may grow has a catch-all variant for the same reason.
//!
//! A verb that takes long answers with one JSON object a line ([`Event`]): any number of
//! progress lines and blank heartbeats, then exactly one outcome or error.

mod certificate;
mod deploy;
mod error;
mod judge;
mod operation;
mod status;
mod verb;

pub use crate::history::Entry;
pub use certificate::{CertificateOrigin, CertificateReport, CertificateStatus, RenewRequest};
pub use deploy::{
    ContainerRole, ContainerStatus, DeployRequest, DeployStatus, JobRequest, JobStatus,
};
pub use error::{ControlError, ErrorBody, ErrorCode};
pub use judge::{FailingRoute, FailureSample, JudgeReport, JudgeService, ReplayReport, Share};
pub use operation::{Done, HistoryReport, HistoryRequest, Operation};
pub use status::{
    Blocking, Certificate, DockerProblem, DockerStatus, DrainStatus, FreezeStatus, GateFailure,
    HoldStatus, InFlight, MaintenanceStatus, Phase, RefusedCall, ReservedHost, ServiceState,
    ServiceStatus, SlotStatus, Slots, Status, SwitchStatus, Tally, UpstreamStatus,
};
pub use verb::{
    Candidate, ConfigReport, DecisionRequest, Event, ExplainReport, ExplainRequest, Outcome,
    OutcomeBody, OutcomeKind, Progress, ReadyReport, ReloadReport, RollbackRequest, SwitchRequest,
};

/// Media type of every single answer.
pub const JSON: &str = "application/json";

/// Media type of a stream of [`Event`]s, one a line.
pub const JSON_LINES: &str = "application/x-ndjson";
