//! TLS at the edge: which certificate answers which name, and the handshake.
//!
//! [`Store`] holds the certificate table, replaced as a whole and read by every handshake, so a
//! certificate can be exchanged at any time without failing one. [`Acceptor`] reads the
//! ClientHello, picks by its name and finishes the handshake under a deadline. [`Authority`] is
//! the local CA behind `tls = "internal"`.
//!
//! Not here: ordering certificates. Whoever does calls [`Store::replace`].

mod accept;
mod authority;
mod certificate;
mod edge_io;
mod store;

pub use accept::{Accepted, Acceptor, Refused, TlsInfo};
pub use authority::{Authority, AuthorityError};
pub use certificate::{CertificateError, Served, Source};
pub use store::{CertificateInfo, Store, StoreError};

/// Makes aws-lc-rs with X25519MLKEM768 the process's provider, before anything else can install
/// another one. Calling it again changes nothing.
pub fn install_provider() {
    // An error says that a provider is there already: ours, from an earlier call.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests;
