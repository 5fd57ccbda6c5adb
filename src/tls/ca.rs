//! The local CA: a root that people may trust, an intermediate that signs, short-lived leaves.
//!
//! Both are made once under `state_dir/ca` and used ever after. The root's key is read again
//! only to sign the next intermediate, which keeps its key, so two processes that share the
//! folder (an upgrade) can never write halves that do not fit. A file that is there but does
//! not fit is an error that names it: overwriting it would silently void the trust that people
//! put into the root.
//!
//! | | life | next one |
//! |---|---|---|
//! | root | 10 years | by hand: remove the folder |
//! | intermediate | 1 year | after two thirds, here |
//! | leaf | 7 days | after two thirds, by [`super::Store::renew_due`] |
//!
//! Seven days: long enough for a laptop that sleeps over a weekend, short enough that nobody
//! misses revocation. Leaves and their keys live in memory alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{Leaf, Pair, chain_from_pem, renew_at};
use super::error::{Fault, TlsError};
use super::policy;
use crate::disk;
use crate::model::HostPattern;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROOT_LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const INTERMEDIATE_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Certificates begin this much before now, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// The root certificate of the local CA, for people to trust: `state_dir/ca/root.pem`.
#[must_use]
pub fn root_file(state_dir: &Path) -> PathBuf {
    state_dir.join("ca").join("root.pem")
}

/// The intermediate with its key, ready to sign.
pub(super) struct Ca {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    intermediate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Ca {
    /// Reads the CA of a state folder; makes what is missing.
    pub(super) fn open(state_dir: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let folder = state_dir.join("ca");
        disk::private_folder(&folder)
            .map_err(|error| TlsError::new(&folder, Fault::Unwritable(error)))?;
        let root = Authority::open(&folder, "root", |key| {
            let params = authority_params(
                "root",
                key,
                now,
                ROOT_LIFE,
                BasicConstraints::Constrained(1),
            )?;
            Ok(params.self_signed(key)?.pem())
        })?;
        root.check_not_expired(now)?;
        let mut intermediate = Authority::open(&folder, "intermediate", |key| {
            sign_intermediate(&root, key, now)
        })?;
        if renew_at(intermediate.leaf.not_before, intermediate.leaf.not_after) <= now {
            intermediate = intermediate.reissue(|key| sign_intermediate(&root, key, now))?;
        }
        let file = intermediate.file.clone();
        let broken = |reason: String| TlsError::new(&file, Fault::BrokenCa(reason));
        let Authority { key, der, leaf, .. } = intermediate;
        let ca = Self {
            folder,
            issuer: Issuer::from_ca_cert_der(&der, key)
                .map_err(|error| broken(error.to_string()))?,
            intermediate: der,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        };
        ca.check_against(&root.der, now).map_err(broken)?;
        Ok(ca)
    }

    /// Whether the intermediate should be renewed, which opening does.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        renew_at(self.not_before, self.not_after) <= now
    }

    /// A new leaf with a new key for these names. The chain is leaf and intermediate.
    pub(super) fn issue(&self, names: &[HostPattern], now: SystemTime) -> Result<Pair, TlsError> {
        let (chain, key) = self
            .sign_leaf(names, now)
            .map_err(|error| TlsError::new(&self.folder, Fault::Issue(error.to_string())))?;
        Pair::from_der(chain, key, &self.folder, &self.folder)
    }

    fn sign_leaf(
        &self,
        names: &[HostPattern],
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names: Vec<String> = names.iter().map(HostPattern::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        // An empty subject: the names are in the extension, and a common name holds only 64
        // characters (RFC 5280 §4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + LEAF_LIFE).min(self.not_after).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.intermediate.clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((chain, key))
    }

    /// Issues one leaf and looks at it with a client's eyes.
    fn check_against(&self, root: &CertificateDer<'_>, now: SystemTime) -> Result<(), String> {
        let name = HostPattern::Exact("localhost".to_owned());
        let (chain, _) = self.sign_leaf(&[name], now).map_err(|e| e.to_string())?;
        let mut roots = RootCertStore::empty();
        roots
            .add(root.clone().into_owned())
            .map_err(|e| e.to_string())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(policy::provider()),
        )
        .build()
        .map_err(|e| e.to_string())?;
        let name = ServerName::try_from("localhost").map_err(|e| e.to_string())?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        verifier
            .verify_server_cert(
                &chain[0],
                &chain[1..],
                &name,
                &[],
                UnixTime::since_unix_epoch(since),
            )
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// One certificate that signs others, with its key, as on disk.
struct Authority {
    file: PathBuf,
    key: KeyPair,
    der: CertificateDer<'static>,
    leaf: Leaf,
}

impl Authority {
    /// Reads `NAME.key` and `NAME.pem`. The key is made first and the certificate from what is
    /// on disk, so a crash in between, or a second process, leaves nothing that does not fit.
    fn open(
        folder: &Path,
        name: &str,
        sign: impl FnOnce(&KeyPair) -> Result<String, rcgen::Error>,
    ) -> Result<Self, TlsError> {
        let key_file = folder.join(name).with_extension("key");
        let file = folder.join(name).with_extension("pem");
        if !key_file.exists() {
            if file.exists() {
                let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(TlsError::new(&key_file, Fault::Unreadable(missing)));
            }
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .map_err(|error| TlsError::new(&key_file, Fault::Issue(error.to_string())))?;
            disk::write_new(&key_file, key.serialize_pem().as_bytes())
                .map_err(|error| TlsError::new(&key_file, Fault::Unwritable(error)))?;
        }
        let key = read(&key_file)?;
        let key = KeyPair::from_pem(&key)
            .map_err(|error| TlsError::new(&key_file, Fault::UnsupportedKey(error.to_string())))?;
        if !file.exists() {
            let pem = sign(&key)
                .map_err(|error| TlsError::new(&file, Fault::Issue(error.to_string())))?;
            disk::write_new(&file, pem.as_bytes())
                .map_err(|error| TlsError::new(&file, Fault::Unwritable(error)))?;
        }
        Self::read(file, key, &key_file)
    }

    /// Replaces the certificate by a new one for the same key.
    fn reissue(
        self,
        sign: impl FnOnce(&KeyPair) -> Result<String, rcgen::Error>,
    ) -> Result<Self, TlsError> {
        let pem = sign(&self.key)
            .map_err(|error| TlsError::new(&self.file, Fault::Issue(error.to_string())))?;
        disk::replace(&self.file, pem.as_bytes())
            .map_err(|error| TlsError::new(&self.file, Fault::Unwritable(error)))?;
        let key_file = self.file.with_extension("key");
        Self::read(self.file, self.key, &key_file)
    }

    fn read(file: PathBuf, key: KeyPair, key_file: &Path) -> Result<Self, TlsError> {
        let text = read(&file)?;
        let der = chain_from_pem(text.as_bytes())
            .map_err(|fault| TlsError::new(&file, fault))?
            .swap_remove(0);
        let bad =
            |reason: String| TlsError::new(&file, Fault::BadCertificate { number: 1, reason });
        let leaf = Leaf::from_der(&der).map_err(bad)?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| bad(error.to_string()))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            let cert = file.clone();
            return Err(TlsError::new(key_file, Fault::KeyMismatch { cert }));
        }
        Ok(Self {
            file,
            key,
            der,
            leaf,
        })
    }

    fn check_not_expired(&self, now: SystemTime) -> Result<(), TlsError> {
        let not_after = self.leaf.not_after;
        if not_after <= now {
            return Err(TlsError::new(&self.file, Fault::CaExpired { not_after }));
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(file).map_err(|error| TlsError::new(file, Fault::Unreadable(error)))
}

fn sign_intermediate(
    root: &Authority,
    key: &KeyPair,
    now: SystemTime,
) -> Result<String, rcgen::Error> {
    let mut params = authority_params(
        "intermediate",
        key,
        now,
        INTERMEDIATE_LIFE,
        BasicConstraints::Constrained(0),
    )?;
    params.not_after = (now + INTERMEDIATE_LIFE).min(root.leaf.not_after).into();
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(&root.der, &root.key)?;
    Ok(params.signed_by(key, &issuer)?.pem())
}

fn authority_params(
    role: &str,
    key: &KeyPair,
    now: SystemTime,
    life: Duration,
    constraints: BasicConstraints,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - DAY).into();
    params.not_after = (now + life).into();
    // Part of the key's identifier tells the CAs of two machines apart in a trust store.
    let id: String = params
        .key_identifier(key)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("cutover local {role} {id}"));
    Ok(params)
}
