//! Active probes of every upstream of both slots, all the time.
//!
//! [`probe`](fn@probe) asks one upstream once, [`Tracker`] turns the outcomes into a state by thresholds
//! (pure), [`Prober`] is the shell: one task per upstream, which writes what it learns to
//! [`Upstream::set_probe`](crate::pool::Upstream::set_probe) and tells transitions to whoever
//! subscribed. [`gate_view`] is what a switch asks before it moves traffic.
//!
//! ```text
//!            rise passes in a row                    fall failures in a row
//! Unknown ------------------------> Healthy <------> Down <------------------ Unknown
//! ```
//!
//! Invariants: only probes make an upstream healthy, never a dropped or restarted task; what
//! fails on the proxy's own side (no descriptor left) changes no state.
//!
//! Not here: ejection by real traffic (`pool`), looking names up (`http`), and what a transition
//! leads to (`switch`).

mod gate;
mod judge;
mod probe;
mod prober;
mod tracker;

pub use gate::{Finding, gate_view};
pub use probe::{Miss, probe, replay};
pub use prober::{HealthChanged, ProbeTarget, Prober};
pub use tracker::{Tracker, Transition};
