//! Tells people elsewhere what happened: webhooks, chat rooms, phones.
//!
//! A [`Note`] is queued for every target of `[[notify]]` that wants its event, kept in a file
//! until the target took it, and tried again for a day. Whoever tells something waits for
//! nothing: neither for the disk nor for the network. A note arrives at least once, in order for
//! each target, always with the same id.

mod note;
mod notifier;
mod queue;
mod target;

pub use note::{EventKind, Note};
pub use notifier::{Notifier, Waiting};
pub use target::Delivered;
