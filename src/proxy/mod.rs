//! The data plane: pingora's phases over the live table.
//!
//! A request is checked (`head`), told apart from forged ones (`forwarded`), led through the steps of
//! its site if that has some (`handle`), routed and claimed over one table snapshot (`admit`), sent
//! over a connection that belongs to its pool's generation (`attempt`, `connect`), and answered by the
//! upstream or by us (`answer`, `instead`). `edge` has pingora's phases and ties these together.
//!
//! Invariants: a request holds its claim until it ends, whatever way it ends; a request is repeated
//! only if nothing of it was sent, or if it is a GET or HEAD whose connection died before any of the
//! answer was passed on (`small`), and that once, or if it is safe and its service asks for it
//! (`retry`); after a switch a repetition goes to the new pool.
//!
//! Not here: which color is live (`switch`), whether an upstream is healthy (`health`).

mod access_log;
mod admit;
mod announce;
mod answer;
mod attempt;
mod connect;
mod edge;
mod encode;
mod event_stream;
mod exchange;
mod forwarded;
mod front;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod handle;
mod head;
mod instead;
mod listen;
mod logged;
mod request;
mod retry;
mod settings;
mod small;
mod sticky;
mod tcp_info;
mod testimony;
mod upgrade;
mod websocket;

pub use access_log::AccessLog;
pub use edge::{ChallengeAnswers, Edge};
pub use exchange::Exchange;
pub use guard::Outbound;
pub use handle::{Asked, Rehearsal, RehearsalEnd};
pub use listen::{BindError, Bound, Server, bind, open};
pub use settings::Settings;
pub use sticky::StickyKey;
