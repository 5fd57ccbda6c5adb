//! The composition root: builds every part, connects them, reloads and stops them.
//!
//! [`run()`] and [`run_demo()`] are the daemon. Everything that decides lives in the modules below;
//! what is here only carries values from one to the other: the [`switch`](crate::switch) moves
//! pools through `driver`, the control API reaches the parts through `control`, and one
//! `publisher` writes the live table.

mod addresses;
mod certification;
mod control;
mod daemon;
mod demo;
mod doctor;
mod driver;
mod events;
mod explain;
mod judge;
mod logging;
mod memory;
mod notes;
mod operations;
mod publisher;
mod rehearse;
mod replay;
mod resolve;
mod run;
mod status;

pub use crate::switch::journal::repair;
pub use doctor::{Finding, Level, doctor};
pub use explain::explain_offline;
pub use rehearse::rehearse;
pub use run::{run, run_demo};
