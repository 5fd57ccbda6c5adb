//! The one TLS policy: provider, versions, ALPN, resumption.

use std::sync::{Arc, LazyLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// aws-lc-rs with X25519MLKEM768 as its first key exchange group, because of the
/// `prefer-post-quantum` feature of rustls.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// Makes aws-lc-rs the provider of the whole process, upstream connections included. Call it
/// first in `main` and in every test: Pingora installs ring when nobody was there before, and
/// whoever is first wins. Calling it again changes nothing.
pub fn install_provider() {
    // An error means that a provider is installed already.
    let _ = provider().as_ref().clone().install_default();
}

/// The configuration that every certificate's own is cloned from. The clones share the ticket
/// keys; that is safe because rustls resumes a session only under the SNI that it began with.
pub(super) fn template() -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Nothing));
    // acme-tls/1 belongs into the configuration of a challenge certificate, never in here.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sealed tickets keep nothing per client; their keys rotate every 6 h and die with the
    // process.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Fills the template's place for a certificate; never asked.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let config = template().expect("a template");
        assert!(config.ticketer.enabled());
        assert_eq!(config.max_early_data_size, 0);
    }
}
