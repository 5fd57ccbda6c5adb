//! The data plane: pingora's phases over the live table.
//!
//! A request is checked (`head`), told apart from forged ones (`forwarded`), routed and
//! claimed over one table snapshot (`edge`), sent over a connection that belongs to its pool's
//! generation (`connect`), and answered by the upstream or by us (`answer`).
//!
//! Invariants: a request holds its claim until it ends, whatever way it ends; a request is
//! repeated only if nothing of it was sent, or if it is a GET or HEAD whose connection died
//! before any answer, and that once; after a switch a repetition goes to the new pool.
//!
//! Not here: which color is live (`switch`), whether an upstream is healthy (`health`).

mod access_log;
mod answer;
mod connect;
mod edge;
mod event_stream;
mod exchange;
mod forwarded;
mod front;
mod head;
mod listen;
mod request;
mod settings;
mod testimony;
mod upgrade;
mod websocket;

pub use access_log::AccessLog;
pub use edge::{ChallengeAnswers, Edge};
pub use exchange::Exchange;
pub use listen::{BindError, Bound, Server, bind, open};
pub use settings::Settings;
