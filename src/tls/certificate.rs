//! One certificate as it is served: names, dates, origin, key. The private key is reachable by rustls alone and by no `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::InconsistentKeys;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{Fault, TlsError};
use super::policy;
use super::table::host_form;
use crate::model::HostPattern;

/// Where a certificate came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The site's own files; holds the chain's.
    Files(PathBuf),
    /// The local CA.
    Internal,
    /// Installed by an issuer while running ([`super::Store::install`]).
    Installed,
    /// Found in the folder of another program ([`super::adopt`]); holds the chain's file.
    Adopted(PathBuf),
}

/// What status and metrics show of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Hosts it is served for; the certificate's own names for a default site without hosts.
    pub names: Vec<HostPattern>,
    /// Common name of the issuer, else its whole distinguished name.
    pub issuer: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Where it came from.
    pub source: Source,
}

/// A certificate in the table. Immutable: a renewal is a new one.
pub struct ServedCertificate {
    info: CertificateInfo,
    /// Subject alternative names; common names are ignored, as clients do (RFC 9525).
    sans: Vec<HostPattern>,
    key: Arc<CertifiedKey>,
}

impl ServedCertificate {
    /// Pairs chain and key. `hosts` are the names it will be served for; they need not be in
    /// the certificate.
    pub(super) fn new(pair: Pair, mut hosts: Vec<HostPattern>, source: Source) -> Self {
        let Pair { key, leaf } = pair;
        hosts.sort();
        hosts.dedup();
        let names = if hosts.is_empty() {
            leaf.names.clone()
        } else {
            hosts
        };
        Self {
            info: CertificateInfo {
                names,
                issuer: leaf.issuer,
                not_before: leaf.not_before,
                not_after: leaf.not_after,
                source,
            },
            sans: leaf.names,
            key: Arc::new(key),
        }
    }

    /// What status and metrics show of it.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// Whether `host` (no port; case, brackets and a trailing dot do not matter) is one of its
    /// names, or one that it is configured for.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let host = host_form(host);
        self.info.names.iter().any(|name| name_covers(name, &host)) || self.names(&host)
    }

    /// Whether the certificate itself names `host`, already in the table's form.
    pub(super) fn names(&self, host: &str) -> bool {
        self.sans.iter().any(|name| name_covers(name, host))
    }

    /// Whether the certificate itself names everything that `pattern` stands for.
    pub(super) fn names_pattern(&self, pattern: &HostPattern) -> bool {
        names_pattern(&self.sans, pattern)
    }

    /// When two thirds of its life are over: time for the next one.
    pub(super) fn renew_at(&self) -> SystemTime {
        renew_at(self.info.not_before, self.info.not_after)
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServedCertificate")
            .field(&self.info)
            .finish()
    }
}

/// The moment when two thirds of a life are over: a third is left to mend what fails.
pub(super) fn renew_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after
        .duration_since(not_before)
        .unwrap_or(Duration::ZERO);
    not_before + life * 2 / 3
}

fn names_pattern(names: &[HostPattern], pattern: &HostPattern) -> bool {
    match pattern {
        HostPattern::Exact(host) => names.iter().any(|name| name_covers(name, host)),
        HostPattern::Wildcard(_) => names.contains(pattern),
    }
}

fn name_covers(name: &HostPattern, host: &str) -> bool {
    match name {
        HostPattern::Exact(exact) => exact == host,
        HostPattern::Wildcard(rest) => host
            .split_once('.')
            .is_some_and(|(label, tail)| !label.is_empty() && tail == rest),
    }
}

/// A chain with the key that belongs to its leaf.
#[derive(Clone)]
pub(super) struct Pair {
    key: CertifiedKey,
    leaf: Leaf,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pair").field(&self.leaf.names).finish()
    }
}

/// What is read from the first certificate of a chain.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) names: Vec<HostPattern>,
    pub(super) issuer: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Pair {
    /// What was read from the leaf.
    pub(super) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Reads two PEM texts; the names say which file an error is about. Both may be the same
    /// file: each text is searched for its own kind of section.
    pub(super) fn from_pem(
        (cert_file, cert): (&Path, &[u8]),
        (key_file, key): (&Path, &[u8]),
    ) -> Result<Self, TlsError> {
        let chain = chain_from_pem(cert).map_err(|fault| TlsError::new(cert_file, fault))?;
        let key = key_from_pem(key).map_err(|fault| TlsError::new(key_file, fault))?;
        Self::from_der(chain, key, cert_file, key_file)
    }

    pub(super) fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        cert_file: &Path,
        key_file: &Path,
    ) -> Result<Self, TlsError> {
        let mut leaf = None;
        for (n, der) in chain.iter().enumerate() {
            let read = Leaf::from_der(der).map_err(|reason| {
                let number = n + 1;
                TlsError::new(cert_file, Fault::BadCertificate { number, reason })
            })?;
            leaf.get_or_insert(read);
        }
        let leaf = leaf.ok_or_else(|| TlsError::new(cert_file, Fault::NoCertificate))?;
        let key = policy::provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| TlsError::new(key_file, Fault::UnsupportedKey(error.to_string())))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let cert = cert_file.to_owned();
                return Err(TlsError::new(key_file, Fault::KeyMismatch { cert }));
            }
            Err(error) => {
                let (number, reason) = (1, error.to_string());
                let fault = Fault::BadCertificate { number, reason };
                return Err(TlsError::new(cert_file, fault));
            }
        }
        Ok(Self { key, leaf })
    }
}

impl Leaf {
    /// Whether it names everything that `pattern` stands for.
    pub(super) fn names_pattern(&self, pattern: &HostPattern) -> bool {
        names_pattern(&self.names, pattern)
    }

    pub(super) fn from_der(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("bytes after its end".to_owned());
        }
        let issuer = certificate.issuer();
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| error.to_string())?
            .map(|san| san.value.general_names.iter().filter_map(name).collect())
            .unwrap_or_default();
        Ok(Self {
            names,
            issuer: issuer
                .iter_common_name()
                .find_map(|name| name.as_str().ok())
                .map_or_else(|| issuer.to_string(), str::to_owned),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<HostPattern> {
    match name {
        GeneralName::DNSName(dns) => dns.parse().ok(),
        GeneralName::IPAddress(bytes) => {
            let ip = if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                std::net::IpAddr::from(v4)
            } else {
                std::net::IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?)
            };
            Some(HostPattern::Exact(ip.to_string()))
        }
        _ => None,
    }
}

fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

/// The end of the first certificate of a PEM text.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn not_after(text: &[u8]) -> Result<SystemTime, Fault> {
    let chain = chain_from_pem(text)?;
    let leaf = chain.first().ok_or(Fault::NoCertificate)?;
    let leaf =
        Leaf::from_der(leaf).map_err(|reason| Fault::BadCertificate { number: 1, reason })?;
    Ok(leaf.not_after)
}

pub(super) fn chain_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| Fault::NotPem(error.to_string()))?;
    if chain.is_empty() {
        return Err(Fault::NoCertificate);
    }
    Ok(chain)
}

pub(super) fn key_from_pem(text: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    let has = |needle: &[u8]| text.windows(needle.len()).any(|window| window == needle);
    match PrivateKeyDer::from_pem_slice(text) {
        // RFC 1421 headers inside a section mark an encrypted key of the traditional form.
        _ if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") => {
            Err(Fault::EncryptedKey)
        }
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(Fault::NoKey),
        Err(error) => Err(Fault::NotPem(error.to_string())),
    }
}
