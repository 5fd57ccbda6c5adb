//! The live table: where a request goes, whether it may, and what it leaves behind.
//!
//! A request loads one [`Table`] from [`LiveTable`], finds its service, claims the live
//! [`Pool`] and picks an [`Upstream`] of the pool's [`Slot`]. Nothing on that way takes a lock
//! or allocates.
//!
//! Invariants: a table is never changed, only replaced; a claim is impossible once its pool was
//! seen drained; an upstream known to be down is picked by nobody, and ejection never takes the
//! last one.
//!
//! Not here: probing (`health` writes what it learns through [`Upstream::set_probe`]), deciding
//! what is live (`switch`), opening sockets (`proxy`).

mod balance;
mod claim;
mod closed;
mod evidence;
mod generation;
mod hold;
mod in_flight;
mod plan;
mod registry;
mod retry_budget;
mod route;
mod slot;
mod stream_end;
mod table;
mod upstream;

/// The atomics that [`claim`] counts with; a model checker puts its own in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

pub use balance::{Affinity, NoUpstream, Picked};
pub use claim::ClaimWord;
pub use closed::{Closed, Doors, Notice};
pub use evidence::{Evidence, Failure, Failures, Frozen, Habits, Rescue, Totals};
pub use generation::{Claim, Pool};
pub use hold::{Entered, HoldLimits, HoldState, Holds, Turn, Waiting};
pub use in_flight::InFlight;
pub use plan::{Plan, Planned};
pub use registry::{OpenConnection, Registry};
pub use route::{Candidate, Found, RequestView, Routes, SiteEntry, host_of};
pub use slot::{Slot, SlotSettings};
pub use stream_end::StreamEnd;
pub use table::{LiveTable, ServiceEntry, Table};
pub use upstream::{
    Attempt, Availability, Behind, ProbeRecord, Reported, Target, Upstream, UpstreamUse,
};
