//! The CAs that may be asked, in their order.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::limits::{LETS_ENCRYPT, Published};
use crate::config::{Acme, Eab};
use crate::http;
use crate::kept;

/// Let's Encrypt, production.
pub const LETS_ENCRYPT_PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Let's Encrypt, staging: the same checks, no trusted certificate, generous limits.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// One CA.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Directory URL.
    pub directory: String,
    /// Staging directory, if the CA has one.
    pub staging: Option<String>,
    /// `mailto:` contact of the account.
    pub email: Option<String>,
    /// External account binding.
    pub eab: Option<Eab>,
    /// Profile that is asked for.
    pub profile: Option<String>,
    /// Common name of the issuer at the top of the chain that is preferred.
    pub preferred_chain: Option<String>,
    /// Published limits that are kept.
    pub limits: Option<Published>,
    pub(super) client: http::Client,
}

/// Why an issuer cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// `ca_file` cannot be read.
    #[error("acme.ca_file: {path}: {error}")]
    CaFile {
        /// The file.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// `ca_file` holds no certificate.
    #[error("acme.ca_file: {0}: no certificate in it")]
    NoCertificate(String),
}

impl Issuer {
    /// The CAs of `[acme]`: the directory, then the fallback if there is one.
    ///
    /// # Errors
    /// `ca_file` cannot be used.
    pub fn from_config(acme: &Acme) -> Result<Vec<Self>, IssuerError> {
        let public = acme.directory == LETS_ENCRYPT_PRODUCTION;
        let staging = || LETS_ENCRYPT_STAGING.to_owned();
        let first = Self {
            directory: acme.directory.clone(),
            staging: acme.staging.clone().or_else(|| public.then(staging)),
            email: acme.email.clone(),
            eab: acme.eab.clone(),
            profile: acme.profile.clone(),
            preferred_chain: acme.preferred_chain.clone(),
            limits: public.then_some(LETS_ENCRYPT),
            client: client(acme.ca_file.as_deref())?,
        };
        let fallback = acme.fallback.as_ref().map(|fallback| Self {
            directory: fallback.directory.clone(),
            staging: None,
            email: acme.email.clone(),
            eab: fallback.eab.clone(),
            profile: None,
            preferred_chain: None,
            limits: None,
            client: first.client.clone(),
        });
        let all = [Some(first), fallback];
        Ok(all.into_iter().flatten().collect())
    }

    /// The directory of an attempt.
    pub(super) fn directory(&self, staging: bool) -> &str {
        match &self.staging {
            Some(url) if staging => url,
            _ => &self.directory,
        }
    }
}

/// The secret of an external account binding as bytes: base64 of either alphabet, with or
/// without padding; `None` when it is none.
pub(super) fn eab_key(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let url_safe: String = text
        .chars()
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    BASE64_URL_SAFE_NO_PAD.decode(url_safe).ok()
}

/// Part of a path below `state_dir/acme` that stands for a directory URL: its host, port and
/// path, so that two directories of one host do not share an account.
pub(super) fn folder(directory: &str) -> String {
    let (_, rest) = directory.split_once("://").unwrap_or(("", directory));
    rest.chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c,
            _ => '_',
        })
        .collect()
}

fn client(ca_file: Option<&Path>) -> Result<http::Client, IssuerError> {
    let Some(path) = ca_file else {
        return Ok(http::Client::system());
    };
    let shown = path.display().to_string();
    let pem = kept::read(path).map_err(|error| IssuerError::CaFile {
        path: shown.clone(),
        error,
    })?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(IssuerError::NoCertificate(shown)),
        _ => Ok(http::Client::with_roots(roots)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_encrypt_comes_with_its_limits_and_staging_and_others_do_not() {
        let issuers = Issuer::from_config(&Acme::default()).expect("issuers");
        assert_eq!(issuers.len(), 1);
        assert_eq!(issuers[0].staging.as_deref(), Some(LETS_ENCRYPT_STAGING));
        assert!(issuers[0].limits.is_some());
        let private = Acme {
            directory: "https://ca.example/dir".to_owned(),
            ..Acme::default()
        };
        let issuers = Issuer::from_config(&private).expect("issuers");
        assert_eq!(issuers[0].staging, None);
        assert!(issuers[0].limits.is_none());
    }

    #[test]
    fn a_binding_key_is_read_in_both_alphabets() {
        assert_eq!(eab_key("-_8="), Some(vec![0xfb, 0xff]));
        assert_eq!(eab_key("+/8"), Some(vec![0xfb, 0xff]));
        assert_eq!(eab_key("not base64!"), None);
    }

    #[test]
    fn directories_of_one_host_have_folders_of_their_own() {
        assert_eq!(
            folder("https://ca.example:9000/a/dir"),
            "ca.example_9000_a_dir"
        );
        assert_ne!(
            folder("https://ca.example/a"),
            folder("https://ca.example/b")
        );
    }
}
