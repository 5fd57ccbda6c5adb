//! The control API: what `proxyctl` says to the daemon, and the read-only ops listener.
//!
//! [`wire`] holds the versioned JSON types. [`Control`] is what the daemon must be able to do;
//! [`server`] offers it over HTTP/1.1 on a unix socket ([`socket`] says where, [`listen`] makes
//! it private), [`client`] is the other end. [`ops`] answers `/metrics`, `/healthz` and
//! `/readyz` on TCP and can change nothing.
//!
//! Full control is a matter of file permissions and of the kernel's word about the peer
//! (`SO_PEERCRED`): only root and the daemon's own user are heard, there is no password. The
//! module decides nothing about traffic: it does not know what a switch is, only how one is
//! asked for and reported.

mod body;
pub mod client;
mod control;
pub mod listen;
pub mod ops;
pub mod server;
pub mod socket;
pub mod wire;

pub use control::{Actor, Control, Reporter};
