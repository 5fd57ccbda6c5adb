//! Proofs that the CA asks for while an order runs, by token and by name.
//!
//! The listeners read, an order writes. Nothing here outlives its order.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::plan::Method;
use crate::tls::ChallengeCertificates;

/// What has to be shown for one name.
#[derive(Clone)]
pub struct Proof {
    /// The name, without a wildcard's `*.`.
    pub name: String,
    /// The challenge's token.
    pub token: String,
    /// `token.thumbprint` (RFC 8555 §8.1).
    pub key_authorization: String,
    /// SHA-256 of it.
    pub digest: [u8; 32],
}

/// Shows proofs of one kind. A DNS provider would be another one.
#[async_trait]
pub trait Solver: Send + Sync {
    /// Shows `proof`; the CA may look as soon as this returns.
    ///
    /// # Errors
    /// Why it cannot be shown, for people.
    async fn present(&self, proof: &Proof) -> Result<(), String>;

    /// Removes it again; also called when [`Solver::present`] failed.
    async fn withdraw(&self, proof: &Proof);
}

/// What the listeners ask.
#[derive(Default)]
pub struct Challenges {
    http: RwLock<HashMap<String, Shown>>,
    alpn: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

struct Shown {
    name: String,
    key_authorization: String,
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

impl Challenges {
    /// The body of `GET /.well-known/acme-challenge/{token}` on `host` (no port), to be
    /// answered with 200 and `application/octet-stream` before any redirect (RFC 8555 §8.3).
    #[must_use]
    pub fn http01(&self, token: &str, host: &str) -> Option<String> {
        let table = self.http.read().unwrap_or_else(PoisonError::into_inner);
        let shown = table.get(token)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        host.eq_ignore_ascii_case(&shown.name)
            .then(|| shown.key_authorization.clone())
    }

    /// The certificate for a ClientHello with SNI `host` whose ALPN offers `acme-tls/1` and
    /// nothing else; the connection is closed after the handshake (RFC 8737 §3).
    #[must_use]
    pub fn alpn_certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let table = self.alpn.read().unwrap_or_else(PoisonError::into_inner);
        table.get(host.to_ascii_lowercase().as_str()).cloned()
    }
}

impl ChallengeCertificates for Challenges {
    fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.alpn_certificate(host)
    }
}

/// The ALPN protocol of TLS-ALPN-01.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The solver of a method that the listeners answer.
pub(super) fn solver(method: Method, challenges: &Arc<Challenges>) -> Box<dyn Solver> {
    let challenges = Arc::clone(challenges);
    match method {
        Method::Http01 => Box::new(Http01(challenges)),
        Method::TlsAlpn01 => Box::new(TlsAlpn01(challenges)),
    }
}

struct Http01(Arc<Challenges>);

#[async_trait]
impl Solver for Http01 {
    async fn present(&self, proof: &Proof) -> Result<(), String> {
        let mut table = self.0.http.write().unwrap_or_else(PoisonError::into_inner);
        let shown = Shown {
            name: proof.name.clone(),
            key_authorization: proof.key_authorization.clone(),
        };
        table.insert(proof.token.clone(), shown);
        Ok(())
    }

    async fn withdraw(&self, proof: &Proof) {
        let mut table = self.0.http.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&proof.token);
    }
}

struct TlsAlpn01(Arc<Challenges>);

#[async_trait]
impl Solver for TlsAlpn01 {
    async fn present(&self, proof: &Proof) -> Result<(), String> {
        let certificate = alpn_certificate(proof).map_err(|error| error.to_string())?;
        let mut table = self.0.alpn.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(proof.name.clone(), Arc::new(certificate));
        Ok(())
    }

    async fn withdraw(&self, proof: &Proof) {
        let mut table = self.0.alpn.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&proof.name);
    }
}

/// Self-signed, the name as its only subjectAltName, the digest in a critical acmeIdentifier
/// extension (RFC 8737 §3).
fn alpn_certificate(proof: &Proof) -> Result<CertifiedKey, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![proof.name.clone()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&proof.digest)];
    let certificate = params.self_signed(&key)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    Ok(CertifiedKey::new(chain, any_supported_type(&der)?))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn proof() -> Proof {
        Proof {
            name: "a.example".to_owned(),
            token: "token".to_owned(),
            key_authorization: "token.thumb".to_owned(),
            digest: [7; 32],
        }
    }

    #[tokio::test]
    async fn a_token_is_answered_for_its_own_host_while_it_is_shown() {
        let challenges = Arc::new(Challenges::default());
        let solver = solver(Method::Http01, &challenges);
        solver.present(&proof()).await.expect("shown");
        let answer = challenges.http01("token", "A.example.");
        assert_eq!(answer.as_deref(), Some("token.thumb"));
        assert_eq!(challenges.http01("token", "b.example"), None);
        assert_eq!(challenges.http01("other", "a.example"), None);
        solver.withdraw(&proof()).await;
        assert_eq!(challenges.http01("token", "a.example"), None);
    }

    #[tokio::test]
    async fn a_challenge_certificate_has_one_name_and_the_critical_digest() {
        let challenges = Arc::new(Challenges::default());
        let solver = solver(Method::TlsAlpn01, &challenges);
        solver.present(&proof()).await.expect("shown");
        let shown = challenges.alpn_certificate("A.EXAMPLE").expect("shown");
        let (_, parsed) = X509Certificate::from_der(&shown.cert[0]).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("valid");
        assert_eq!(names.expect("there").value.general_names.len(), 1);
        let digest = parsed
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .expect("acmeIdentifier");
        assert!(digest.critical);
        // An OCTET STRING of 32 bytes.
        assert_eq!(digest.value[..2], [4, 32]);
        assert_eq!(digest.value[2..], [7; 32]);
        solver.withdraw(&proof()).await;
        assert!(challenges.alpn_certificate("a.example").is_none());
    }
}
