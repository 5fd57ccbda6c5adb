//! What happens to certificates between two configurations, for logs, metrics and whoever is
//! to be told.

use std::fmt;
use std::path::PathBuf;

use super::certificate::CertificateInfo;
use super::warning::Warning;
use crate::model::ServiceName;

/// Something that [`super::Store::watch`] or [`super::Upstreams::watch`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The files of a certificate changed, and the new one is served.
    Reloaded {
        /// The new certificate.
        certificate: CertificateInfo,
        /// What people should know of it.
        warnings: Vec<Warning>,
    },
    /// A CA file for clients changed; handshakes from now on are held to the new one.
    ClientCasReloaded {
        /// The file.
        file: PathBuf,
    },
    /// The files of TLS to the upstreams of a service changed; connections from now on use them.
    UpstreamFilesReloaded {
        /// The service.
        service: ServiceName,
    },
    /// A file changed to something that cannot be used. What was served before still is.
    Rejected {
        /// The file at fault.
        file: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// A file that was rejected has the content again that is in use.
    Mended {
        /// The files that belong together.
        files: Vec<PathBuf>,
    },
}

impl Event {
    /// Whether a person must act.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::Rejected { .. } => true,
            Self::Reloaded { .. }
            | Self::ClientCasReloaded { .. }
            | Self::UpstreamFilesReloaded { .. }
            | Self::Mended { .. } => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reloaded { certificate, .. } => {
                f.write_str("certificate reloaded for")?;
                for name in &certificate.names {
                    write!(f, " {name}")?;
                }
                Ok(())
            }
            Self::ClientCasReloaded { file } => {
                write!(f, "CAs of clients reloaded from {}", file.display())
            }
            Self::UpstreamFilesReloaded { service } => {
                write!(f, "files of TLS to the upstreams of {service} reloaded")
            }
            Self::Rejected { file, error } => write!(
                f,
                "{}: {error}; what was there before is served on",
                file.display()
            ),
            Self::Mended { files } => {
                f.write_str("usable again:")?;
                for file in files {
                    write!(f, " {}", file.display())?;
                }
                Ok(())
            }
        }
    }
}
