//! The composition root: builds every part, connects them, reloads and stops them.
//!
//! [`run()`] and [`run_demo()`] are the daemon. Everything that decides lives in the modules below;
//! what is here only carries values from one to the other: the [`switch`](crate::switch) moves
//! pools through `driver`, the control API reaches the parts through `control`, and one
//! `publisher` writes the live table.

mod addresses;
mod adoption;
mod certification;
mod containers;
mod control;
mod daemon;
mod demo;
mod deploy;
mod discovery;
mod doctor;
mod driver;
mod events;
mod explain;
mod judge;
mod logging;
mod memory;
mod notes;
mod operations;
mod privileges;
mod publisher;
mod rehearse;
mod replay;
mod resolve;
mod run;
mod status;
mod witness;

pub use crate::switch::journal::repair;
pub use doctor::{Finding, Level, doctor};
pub use explain::explain_offline;
pub use rehearse::rehearse;
pub use run::{has_docker, run, run_demo, run_labels, without_a_file};
