//! What can be wrong with a certificate, a key or a file of the local CA.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::clock;

/// A certificate, key or CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct TlsError {
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

impl TlsError {
    pub(super) fn new(file: &Path, fault: Fault) -> Self {
        Self {
            file: file.to_owned(),
            fault,
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Missing, a folder, or no permission.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// A folder or file of the local CA cannot be made.
    #[error("cannot be written: {0}")]
    Unwritable(io::Error),
    /// A PEM section is damaged.
    #[error("is not valid PEM: {0}")]
    NotPem(String),
    /// No `BEGIN CERTIFICATE` section.
    #[error("contains no certificate (no `BEGIN CERTIFICATE` section)")]
    NoCertificate,
    /// The PEM is fine, the certificate inside is not; counted from 1, leaf first.
    #[error("certificate {number} cannot be parsed: {reason}")]
    BadCertificate {
        /// Position in the file, from 1.
        number: usize,
        /// What the parser said.
        reason: String,
    },
    /// No private key section.
    #[error("contains no private key (no `BEGIN PRIVATE KEY` section)")]
    NoKey,
    /// The key needs a password that nobody can type.
    #[error("the private key is encrypted: decrypt it with `openssl pkey -in FILE -out FILE`")]
    EncryptedKey,
    /// RSA, ECDSA P-256, P-384, P-521 and Ed25519 are supported.
    #[error("the private key is of no supported kind: {0}")]
    UnsupportedKey(String),
    /// Key and certificate are not a pair.
    #[error("the private key does not match the certificate in {}", cert.display())]
    KeyMismatch {
        /// Where the certificate is.
        cert: PathBuf,
    },
    /// A file of the local CA whose time is over.
    #[error("expired at {}: remove the folder to make a new CA, and trust its root again", clock::rfc3339(*not_after))]
    CaExpired {
        /// When it did.
        not_after: SystemTime,
    },
    /// The local CA's files do not form a chain.
    #[error("does not belong to the other files of this CA: {0}")]
    BrokenCa(String),
    /// A certificate could not be issued.
    #[error("no certificate could be issued: {0}")]
    Issue(String),
    /// The keys of session tickets could not be read back; new ones were made.
    #[error("new keys for session tickets were made, no older session is resumed: {0}")]
    TicketKeys(io::Error),
    /// No random bytes for the ticket keys.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}
