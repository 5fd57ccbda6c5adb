//! One certificate with its key, ready for handshakes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where a certificate came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the files that a site names.
    Files(PathBuf),
    /// From the local CA.
    Internal,
    /// Ordered from a public CA.
    Acme,
}

/// A certificate that answers handshakes. `Debug` shows no key.
#[derive(Clone)]
pub struct Served {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    issuer: String,
    not_after: SystemTime,
    source: Source,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served")
            .field("names", &self.names)
            .field("issuer", &self.issuer)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No certificate in the file.
    #[error("{path} has no certificate, expected a PEM chain with the site's own first")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No private key in the file.
    #[error("{path} has no private key, expected PEM (PKCS#8, SEC1 or PKCS#1)")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The two files do not belong together, or the key's type is not known.
    #[error("{key} does not fit {cert}")]
    Mismatch {
        /// Certificate file.
        cert: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The certificate is not X.509.
    #[error("{path} is not a certificate: {reason}")]
    Malformed {
        /// The file, or a description.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
}

impl Served {
    /// Reads a PEM chain and its key.
    ///
    /// # Errors
    /// [`CertificateError`], which names the file.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, CertificateError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CertificateError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let (cert_pem, key_pem) = (read(cert)?, read(key)?);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&cert_pem)
            .filter_map(Result::ok)
            .collect();
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate {
                path: cert.to_owned(),
            });
        }
        let private =
            PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| CertificateError::NoKey {
                path: key.to_owned(),
            })?;
        let source = Source::Files(cert.to_owned());
        Self::new(chain, private, source).map_err(|error| match error {
            BuildError::Key(source) => CertificateError::Mismatch {
                cert: cert.to_owned(),
                key: key.to_owned(),
                source,
            },
            BuildError::Malformed(reason) => CertificateError::Malformed {
                path: cert.to_owned(),
                reason,
            },
        })
    }

    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        source: Source,
    ) -> Result<Self, BuildError> {
        let described = chain
            .first()
            .map(|leaf| describe(leaf))
            .unwrap_or_else(|| Err("an empty chain".to_owned()));
        let (names, issuer, not_after) = described.map_err(BuildError::Malformed)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(BuildError::Key)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            issuer,
            not_after,
            source,
        })
    }

    /// What rustls signs with.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// DNS names (lower case, `*.` kept) and IP addresses that it covers.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Common name or organisation of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// End of its validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Where it came from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether it covers a host, lower case (RFC 9525 §6.3: a star stands for one label).
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(rest) => host
                .split_once('.')
                .is_some_and(|(_, parent)| parent == rest),
            None => name == host,
        })
    }
}

/// Why chain and key do not make a certificate.
pub(super) enum BuildError {
    Key(rustls::Error),
    Malformed(String),
}

type Described = (Vec<String>, String, SystemTime);

fn describe(leaf: &CertificateDer<'_>) -> Result<Described, String> {
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    let alternatives = cert
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    for name in alternatives.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => {
                let ip = <[u8; 4]>::try_from(*bytes)
                    .map(std::net::IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
                names.extend(ip.map(|ip| ip.to_string()));
            }
            _ => {}
        }
    }
    let issuer = cert.issuer();
    let issuer = issuer
        .iter_common_name()
        .chain(issuer.iter_organization())
        .find_map(|name| name.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let end = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    Ok((names, issuer, UNIX_EPOCH + Duration::from_secs(end)))
}
