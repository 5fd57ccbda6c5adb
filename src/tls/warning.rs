//! What works but deserves a word when it is loaded.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::certificate::{CertificateInfo, ServedCertificate};
use crate::clock;
use crate::model::HostPattern;

/// What works but deserves a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Clients will refuse it.
    Expired {
        /// The certificate file.
        file: PathBuf,
        /// When it did.
        not_after: SystemTime,
    },
    /// Clients will refuse it until then.
    NotYetValid {
        /// The certificate file.
        file: PathBuf,
        /// From when.
        not_before: SystemTime,
    },
    /// The site answers to a host that its certificate does not name.
    NotNamed {
        /// The certificate file.
        file: PathBuf,
        /// The host.
        host: HostPattern,
    },
    /// A site with `tls = "auto"` is served with a certificate of the local CA, which clients
    /// do not trust, because no issuer has certified these hosts yet.
    Uncertified {
        /// The hosts.
        hosts: Vec<HostPattern>,
    },
    /// Group or others may read the private key.
    KeyExposed {
        /// The key file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { file, not_after } => write!(
                f,
                "{}: the certificate expired at {}",
                file.display(),
                clock::rfc3339(*not_after)
            ),
            Self::NotYetValid { file, not_before } => write!(
                f,
                "{}: the certificate is not valid before {}",
                file.display(),
                clock::rfc3339(*not_before)
            ),
            Self::NotNamed { file, host } => {
                write!(
                    f,
                    "{}: the certificate does not name {host}",
                    file.display()
                )
            }
            Self::Uncertified { hosts } => {
                f.write_str("no certificate yet for")?;
                for host in hosts {
                    write!(f, " {host}")?;
                }
                f.write_str(": the internal CA's is served, which clients do not trust")
            }
            Self::KeyExposed { file, mode } => write!(
                f,
                "{}: the private key can be read by others (mode {mode:04o}); 0600 is enough",
                file.display()
            ),
        }
    }
}

/// What people should know of a certificate from files.
pub(super) fn warnings(
    certificate: &ServedCertificate,
    hosts: &[HostPattern],
    cert: &Path,
    key: &Path,
    now: SystemTime,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let CertificateInfo {
        not_before,
        not_after,
        ..
    } = *certificate.info();
    let file = cert.to_owned();
    if not_after <= now {
        warnings.push(Warning::Expired { file, not_after });
    } else if not_before > now {
        warnings.push(Warning::NotYetValid { file, not_before });
    }
    for host in hosts {
        if !certificate.names_pattern(host) {
            warnings.push(Warning::NotNamed {
                file: cert.to_owned(),
                host: host.clone(),
            });
        }
    }
    if let Ok(metadata) = std::fs::metadata(key) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let file = key.to_owned();
            warnings.push(Warning::KeyExposed { file, mode });
        }
    }
    warnings
}
