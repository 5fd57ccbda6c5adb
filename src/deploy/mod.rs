//! Releases of container-managed services: pull, jobs, start, gate, smoke, switch, verdict, stop;
//! or one container after the other within the live slot (`rolling`).
//!
//! The core is pure. [`plan_deploy`] makes a [`Plan`] of what a person asks for, of the
//! configuration and of the containers that are there; [`Machine`] goes along it, records every
//! step before it is done, and goes back when something fails. What containers are made from is a
//! [`ContainerSpec`]. The hands are elsewhere: containers in `docker`, the switch in `switch`; the
//! composition root connects them.
//!
//! What it does not do: move requests, judge a release, speak to the engine.

mod action;
pub mod container;
mod found;
mod job;
mod machine;
mod plan;
mod planner;
mod record;
mod reference;
pub mod schedule;
mod spec;
mod store;

pub use action::{Action, Replica, backward, forward};
pub use container::{Container, Health, Hidden, State};
pub use found::{bare_project, live_container, ours, owner};
pub use job::{Doors, FileFacts, ImageOf, Images, JobRun, Left, restore_command, restore_obstacle};
pub use machine::{Answer, Change, Effect, Failure, Input, Machine, News, Outcome, Stage, Ticket};
pub use plan::{
    Displaced, Existing, Image, Limits, Member, New, Origin, Plan, PlannedJob, PlannedSmoke, Role,
};
pub use planner::{Ask, PlanError, Scene, plan_deploy, plan_rollback};
pub use record::{
    Back, Book, Cause, Facts, Installed, Pulled, Quarantined, Ran, Releases, Run, Snapshot,
};
pub use reference::{release_label, repository};
pub use spec::{Attachment, ContainerSpec, SpecRefusal};
pub use store::{Store, StoreError};

#[cfg(test)]
pub(crate) use machine::world_run as machine_world_run;
