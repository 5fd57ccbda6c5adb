//! Blue-green: which color of a service is live, and how that changes.
//!
//! The core is pure. [`Machine`] holds the switch of one stack: time and facts come in as
//! [`Input`], what is to be done leaves as [`Effect`]. The gate ([`GateReport`], [`Ready`]) and
//! the verdict ([`Verdict`], [`plain`]) are functions of what they are given. The shell is one
//! task behind the [`Switchboard`]: it performs effects through the [`Driver`] and remembers live
//! colors in the [`Journal`].
//!
//! ```text
//! Idle -> Probing -> Switching -> Observing -> Committing -> Idle, the old pool drains
//!            |          |           |    \-> Held -> Observing | Committing | RollingBack
//!         refused    refused        \-> RollingBack -> Idle, the new pool drains
//! ```
//!
//! Invariants, each checked by a property test of the machine:
//!
//! - One color of a service is live, and no live pool ever drains.
//! - Only [`Ready`] lets a cutover happen, and only a passed gate or `--force` makes one.
//! - The intent is on disk before a cutover; the verdict is on disk before the old pool drains.
//!   A rollback does not wait for a slow disk.
//! - A rollback restores exactly the live map that its cutover replaced.
//! - One switch of a stack at a time; drains run beside the next one.
//!
//! What it does not do: probe upstreams, count requests, start or stop containers, answer
//! requests. All of that is behind [`Driver`].

mod containers;
mod controller;
mod driver;
pub mod evidence;
mod gate;
mod ids;
pub mod journal;
mod machine;
mod outcome;
mod record;
mod recover;
mod request;
mod select;
mod status;
mod switchboard;
mod verdict;

pub use containers::{Containers, NoContainers};
pub use driver::{DrainWindows, Driver, Publication, Traffic};
pub use gate::{GateFailure, GateReport, Ready, SlotReport, UpstreamReport, UpstreamState};
pub use journal::{Journal, Save, SaveError};
pub use machine::{
    Command, Effect, Event, Input, Machine, Member, Order, Override, Progress, Rules, Sample,
    Ticket,
};
pub use outcome::{Outcome, Refusal};
pub use record::{
    Book, Cutover, Freeze, GoneBack, Intent, Live, MaintenanceRecord, Move, Recorded, Running,
    ServiceRecord, StackRecord, Verb, Watched,
};
pub use recover::{Recovered, recover};
pub use request::{By, SwitchRequest, VerbRequest};
pub use status::{DrainStatus, Phase, RunStatus, ServiceStatus, StackStatus};
pub use switchboard::{Layout, Notes, Setup, Stamped, Stopped, Switchboard};
pub use verdict::{Cause, Judge, Observation, Plain, ServiceObservation, Verdict, plain};
