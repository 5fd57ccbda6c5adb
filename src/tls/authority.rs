//! The local CA behind `tls = "internal"`: a root, an intermediate, and short-lived leaves.
//!
//! Root and intermediate are made once and kept under the state folder; keys are readable by
//! the daemon's user alone. A leaf lives for [`LEAF_LIFETIME`] and is made anew at every load
//! and when two thirds of that are over.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificate::{BuildError, Served, Source};
use crate::clock;

/// Lifetime of a leaf.
const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// Lifetime of the intermediate.
const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(5 * 366 * 86_400);

/// Lifetime of the root.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Certificates begin this much earlier, for clients whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// The local CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    intermediate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Why the local CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of it cannot be read or written.
    #[error("{path}: the internal CA's file cannot be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file of it is damaged. It is not replaced: clients may trust it.
    #[error("{path} is damaged; restore it, or remove the folder to start with a new CA")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// A made certificate could not be used.
    #[error("a made certificate is not usable: {0}")]
    Unusable(String),
}

impl Authority {
    /// Opens the CA in `folder`, or makes it there.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(file(folder))?;
        let cert_path = folder.join("intermediate.crt");
        let key_path = folder.join("intermediate.key");
        if !cert_path.exists() && !key_path.exists() {
            Self::make(folder)?;
        }
        let cert_pem = fs::read_to_string(&cert_path).map_err(file(&cert_path))?;
        let key_pem = fs::read_to_string(&key_path).map_err(file(&key_path))?;
        let damaged = |path: &Path| AuthorityError::Damaged {
            path: path.to_owned(),
        };
        let key = KeyPair::from_pem(&key_pem).map_err(|_| damaged(&key_path))?;
        let intermediate =
            CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| damaged(&cert_path))?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|_| damaged(&cert_path))?;
        Ok(Self {
            issuer,
            intermediate,
        })
    }

    fn make(folder: &Path) -> Result<(), AuthorityError> {
        let root_key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let root_params = ca_params("cutover local root", ROOT_LIFETIME, 1);
        let root = root_params
            .self_signed(&root_key)
            .map_err(AuthorityError::Make)?;
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let params = ca_params("cutover local intermediate", INTERMEDIATE_LIFETIME, 0);
        let intermediate = params
            .signed_by(&key, &root_issuer)
            .map_err(AuthorityError::Make)?;
        // The intermediate's certificate comes last: its presence says that all is there.
        write(&folder.join("root.key"), &root_key.serialize_pem(), 0o600)?;
        write(&folder.join("root.crt"), &root.pem(), 0o644)?;
        write(
            &folder.join("intermediate.key"),
            &key.serialize_pem(),
            0o600,
        )?;
        write(&folder.join("intermediate.crt"), &intermediate.pem(), 0o644)
    }

    /// A certificate for `names` (host names, wildcards and IP addresses).
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn issue(&self, names: &[String]) -> Result<Served, AuthorityError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(ip) => Ok(SanType::IpAddress(ip)),
                Err(_) => name.clone().try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()
            .map_err(AuthorityError::Make)?;
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, LEAF_LIFETIME);
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(AuthorityError::Make)?;
        let chain = vec![leaf.der().clone(), self.intermediate.clone()];
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Served::new(chain, private, Source::Internal).map_err(|error| match error {
            BuildError::Key(error) => AuthorityError::Unusable(error.to_string()),
            BuildError::Malformed(reason) => AuthorityError::Unusable(reason),
        })
    }

    /// Whether a leaf of this CA should be made anew: two thirds of its life are over.
    #[must_use]
    pub fn is_due(served: &Served, now: SystemTime) -> bool {
        let left = served.not_after().duration_since(now).unwrap_or_default();
        *served.source() == Source::Internal && left < LEAF_LIFETIME / 3
    }
}

fn ca_params(name: &str, lifetime: Duration, below: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, lifetime);
    params
}

fn validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = clock::wall();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
}

/// Writes a file as a whole: temporary file, fsync, rename.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| AuthorityError::File {
        path: path.to_owned(),
        source,
    })
}
