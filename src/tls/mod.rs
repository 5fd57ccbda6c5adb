//! TLS in front: which certificate answers which name, the handshake, and the local CA.
//!
//! A [`Store`] holds the certificate table. It is built whole from the sites of a configuration
//! ([`Store::apply`]) and published in one store, so a ClientHello meets either the old table
//! or the new one. An [`Acceptor`] reads the ClientHello first, picks the certificate (and with
//! it the rustls configuration), and finishes the handshake under one deadline. Its
//! [`EdgeTls`] is a stream that Pingora can serve; what the handshake learned travels with
//! every request of the connection as [`TlsInfo`], for the 421 of RFC 9110 §15.5.20.
//!
//! Who gets what: an exact name before a wildcard of one label; no SNI: the certificate for the
//! local address, else the default site's; an unknown name: the default site's; else a fatal
//! alert. TLS 1.2 and 1.3 (RFC 5246, RFC 8446) with h2 and http/1.1 (RFC 7301), resumption by
//! sealed ticket, no early data: a replayed request is worth more than a round trip.
//!
//! TLS to upstreams is Pingora's connector, with the roots of [`check_system_roots`] or what
//! [`Upstreams`] has for a service.
//!
//! Not here: ordering certificates; a [`Store::install`] is all that an issuer needs.

mod acceptor;
pub mod adopt;
mod ca;
mod certificate;
mod client;
mod error;
mod event;
mod files;
mod policy;
mod presented;
mod roots;
mod store;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod tickets;
pub mod trust;
mod upstream;
mod warning;
mod watch;

pub use acceptor::{Acceptor, ChallengeCertificates, Refused};
pub use ca::root_file;
pub use certificate::{CertificateInfo, ServedCertificate, Source, not_after};
pub use client::ClientCertificate;
pub use error::{Fault, TlsError};
pub use event::Event;
pub use files::unusable;
pub use policy::install_provider;
pub use roots::{RootsError, check_system_roots};
pub use store::{Delivered, Loaded, Store};
pub use stream::{EdgeTls, TlsInfo, info};
pub use upstream::{UpstreamTls, Upstreams};
pub use warning::Warning;
