//! What a site asks of a connection: provider, versions, ALPN, resumption, client certificates.
//!
//! Two sites with equal demands have the same [`Policy::id`]. A connection may carry requests
//! for every site of its own policy and for no other, and so may its session tickets.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provided};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::certificate::chain_from_pem;
use super::error::{Fault, TlsError};
use super::tickets::{TicketKeys, Ticketer};
use crate::config::{ClientAuth, ClientAuthMode, TlsVersion};

/// aws-lc-rs with X25519MLKEM768 as its first key exchange group, because of the
/// `prefer-post-quantum` feature of rustls.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(provided::default_provider()));
    &PROVIDER
}

/// Makes aws-lc-rs the provider of the whole process, upstream connections included. Call it
/// first in `main` and in every test: Pingora installs ring when nobody was there before, and
/// whoever is first wins. Calling it again changes nothing.
pub fn install_provider() {
    // An error means that a provider is installed already.
    let _ = provider().as_ref().clone().install_default();
}

/// Tells policies apart: a digest of everything that one asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct PolicyId([u8; 32]);

impl PolicyId {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
impl From<[u8; 32]> for PolicyId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// What one or more sites ask of their connections. Immutable: a CA file that changed makes a
/// new one.
pub(super) struct Policy {
    id: PolicyId,
    template: ServerConfig,
}

impl Policy {
    /// Builds the policy of a site. `ca` is the text of its CA file.
    pub(super) fn new(
        min_version: TlsVersion,
        client_auth: Option<(&ClientAuth, &[u8])>,
        keys: &Arc<TicketKeys>,
    ) -> Result<Self, TlsError> {
        let mut seen = digest::Context::new(&digest::SHA256);
        seen.update(&[min_version as u8]);
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(versions(min_version))
            .map_err(|error| setup(Path::new("TLS"), &error))?;
        let builder = match client_auth {
            None => builder.with_no_client_auth(),
            Some((auth, ca)) => {
                let file = auth.ca.as_path();
                let (roots, digest) = roots(file, ca)?;
                seen.update(&[1 + auth.mode as u8]);
                seen.update(&digest);
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(provider()),
                );
                let verifier = match auth.mode {
                    ClientAuthMode::Require => verifier,
                    ClientAuthMode::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| setup(file, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let id = PolicyId(
            seen.finish()
                .as_ref()
                .try_into()
                .expect("SHA-256 has 32 bytes"),
        );
        let mut template = builder.with_cert_resolver(Arc::new(Nothing));
        // Every suite here is a good one; an order of the server's own is what auditors look for.
        template.ignore_client_order = true;
        // acme-tls/1 belongs into the configuration of a challenge certificate, never in here.
        template.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        template.ticketer = Arc::new(Ticketer::new(Arc::clone(keys), id));
        template.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { id, template })
    }

    /// Equal for policies that ask for the same.
    pub(super) fn id(&self) -> PolicyId {
        self.id
    }

    /// The rustls configuration that presents `key` under this policy.
    pub(super) fn present(&self, key: &Arc<CertifiedKey>) -> Arc<ServerConfig> {
        let mut config = self.template.clone();
        config.cert_resolver = Arc::new(Always(Arc::clone(key)));
        Arc::new(config)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policy").field(&self.id).finish()
    }
}

/// The configuration of a TLS-ALPN-01 challenge (RFC 8737 §3): that protocol alone, one
/// certificate, nothing to resume.
pub(super) fn challenge(key: &Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions(TlsVersion::V1_2))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(Arc::clone(key))));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The protocol name of TLS-ALPN-01 (RFC 8737 §6.2).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static NEWEST_FIRST: [&SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::V1_2 => &NEWEST_FIRST,
        TlsVersion::V1_3 => &NEWEST_FIRST[..1],
    }
}

/// The CAs of a file, and a digest of them: equal for files that differ in comments alone.
pub(super) fn roots(file: &Path, pem: &[u8]) -> Result<(RootCertStore, Vec<u8>), TlsError> {
    let chain = chain_from_pem(pem).map_err(|fault| TlsError::new(file, fault))?;
    let (mut roots, mut seen) = (
        RootCertStore::empty(),
        digest::Context::new(&digest::SHA256),
    );
    for (n, der) in chain.into_iter().enumerate() {
        seen.update(digest::digest(&digest::SHA256, &der).as_ref());
        roots.add(der).map_err(|error| {
            let (number, reason) = (n + 1, error.to_string());
            TlsError::new(file, Fault::BadCertificate { number, reason })
        })?;
    }
    Ok((roots, seen.finish().as_ref().to_vec()))
}

fn setup(file: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::new(file, Fault::Setup(error.to_string()))
}

/// Fills the template's place for a certificate; never asked.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// Presents one certificate to everybody: which one is decided before.
struct Always(Arc<CertifiedKey>);

impl fmt::Debug for Always {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Always")
    }
}

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn policy(min_version: TlsVersion, mode: Option<ClientAuthMode>, ca: &str) -> Policy {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = TicketKeys::open(folder.path(), clock::wall()).expect("keys");
        let auth = mode.map(|mode| ClientAuth {
            mode,
            ca: "ca.pem".into(),
        });
        let auth = auth.as_ref().map(|auth| (auth, ca.as_bytes()));
        Policy::new(min_version, auth, &Arc::new(keys)).expect("a policy")
    }

    #[test]
    fn the_process_default_prefers_a_post_quantum_key_exchange() {
        install_provider();
        install_provider();
        let installed = CryptoProvider::get_default().expect("just installed");
        assert_eq!(
            installed.kx_groups[0].name(),
            rustls::NamedGroup::X25519MLKEM768
        );
    }

    #[test]
    fn tickets_are_on_and_early_data_is_off() {
        let config = policy(TlsVersion::V1_2, None, "").template;
        assert!(config.ticketer.enabled());
        assert_eq!(config.max_early_data_size, 0);
    }

    #[test]
    fn policies_are_the_same_when_they_ask_for_the_same() {
        let ca = |name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]);
            made.expect("made").cert.pem()
        };
        let (one, other) = (ca("one"), ca("other"));
        let commented = format!("# the first CA\n{one}");
        use ClientAuthMode::{Optional, Require};
        use TlsVersion::{V1_2, V1_3};
        let all = [
            policy(V1_2, None, ""),
            policy(V1_3, None, ""),
            policy(V1_2, Some(Require), &one),
            policy(V1_2, Some(Optional), &one),
            policy(V1_2, Some(Require), &other),
            policy(V1_2, Some(Require), &format!("{one}{other}")),
        ];
        for (n, a) in all.iter().enumerate() {
            for (m, b) in all.iter().enumerate() {
                assert_eq!(a.id() == b.id(), n == m, "{n} and {m}");
            }
        }
        assert_eq!(all[2].id(), policy(V1_2, Some(Require), &commented).id());
    }
}
