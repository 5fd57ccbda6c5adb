//! The composition root.
mod addresses;
mod publisher;
pub use addresses::Addresses;
pub use publisher::{Placement, Publisher};
