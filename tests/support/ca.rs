//! A CA of the tests' own, and the files that it fills.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};

/// A CA that signs what the tests need.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub root: rcgen::Certificate,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root");
        let issuer = Issuer::new(params, key);
        Self { issuer, root }
    }

    /// Chain and key, PEM.
    pub fn sign(&self, names: &[&str], subject: &str) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        (cert.pem(), key.serialize_pem())
    }
}

pub fn write(path: &Path, text: &str) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
    path.to_owned()
}

/// Writes `NAME.pem` and `NAME.key` and returns their places.
pub fn pair(folder: &Path, name: &str, (cert, key): &(String, String)) -> (PathBuf, PathBuf) {
    (
        write(&folder.join(format!("{name}.pem")), cert),
        write(&folder.join(format!("{name}.key")), key),
    )
}
