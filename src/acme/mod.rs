//! Certificates that get and renew themselves (RFC 8555).
//!
//! [`Plan`] decides when which set of names is ordered where: pure, and all of its memory is a
//! journal on disk. [`Issuance`] is the loop around it: it loads what is stored, makes the
//! attempts that the plan begins, stores and installs what comes, asks the CA when it wants
//! each certificate renewed (RFC 9773), and says what happened. Listeners ask [`Challenges`].
//!
//! Invariants: nothing is served from here — a certificate goes to disk first and then into
//! the table of `tls`, where it replaces the last good one; a journal is on disk before the
//! attempts that it paid for are made; of the processes on one `state_dir` one orders, the
//! others pick up what it stores.
//!
//! Not here: which certificate answers which name and what is served while there is none (that
//! is `tls`), DNS-01 (a [`Solver`] of its own) and ordering at the first handshake.

mod challenges;
mod directory;
mod issuance;
mod issuer;
mod limits;
mod names;
mod order;
mod plan;
mod preflight;
mod shelf;
mod status;
mod wire;

pub use challenges::{ACME_TLS, Challenges, Proof, Solver};
pub use issuance::{Issuance, Settings, wanted};
pub use issuer::{Issuer, IssuerError, LETS_ENCRYPT_PRODUCTION, LETS_ENCRYPT_STAGING};
pub use limits::{LETS_ENCRYPT, Published, Rate};
pub use names::NameSet;
pub use plan::{
    Attempt, CHECK, Decision, FailureKind, IssuerRules, Journal, Method, Outcome, Plan, Record,
    Rules, Validity, Why, Window,
};
pub use shelf::{Lock, Shelf};
pub use status::{Event, RenewRefused, Status};
