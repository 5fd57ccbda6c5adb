//! TLS to upstreams: whom a service trusts, and what it shows of itself.
//!
//! Pingora's connector makes the handshake of a request from the pieces that a peer carries, the
//! client of probes from a whole configuration; both are made here of the same files. Files that
//! changed are read again ([`Upstreams::watch`]), and what was good last stays in use. New files
//! come with a new [`UpstreamTls::id`], so that no connection which was opened under the old ones
//! is used again.
//!
//! A service without a `tls` table has no entry here: its upstreams are held to the roots of the
//! system, by Pingora's own connector.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::{Pair, chain_from_pem, key_from_pem};
use super::error::{Fault, TlsError};
use super::event::Event;
use super::policy::{provider, roots};
use super::watch::{Look, Watched};
use crate::config::{self, Alpn, Service};
use crate::model::ServiceName;

/// TLS to the upstreams of one service. Immutable: files that changed make a new one.
pub struct UpstreamTls {
    id: u64,
    ca: Option<Arc<CaType>>,
    identity: Option<Arc<CertKey>>,
    server_name: Option<String>,
    verify: bool,
    alpn: Alpn,
    probes: [Arc<ClientConfig>; 2],
}

impl UpstreamTls {
    /// `texts` are the contents of the files, in their order.
    fn new(config: &config::UpstreamTls, texts: &[Vec<u8>]) -> Result<Self, TlsError> {
        let mut texts = texts.iter().map(Vec::as_slice);
        let mut next = || texts.next().unwrap_or_default();
        let ca = config.ca.as_deref().map(|file| (file, next()));
        let identity = match &config.identity {
            Some((cert, key)) => Some(Identity::new((cert, next()), (key, next()))?),
            None => None,
        };
        let verify = !config.insecure_skip_verify;
        let trusted = match ca {
            Some((file, pem)) => roots(file, pem)?.0,
            None => system_roots(),
        };
        let probes = [&[H2, HTTP_1][..], &[H2]].map(|offered| {
            let offered = match (config.alpn, offered) {
                (Alpn::Http1, [_, _]) => &[HTTP_1][..],
                (Alpn::H2, _) => &[H2],
                (Alpn::Any | Alpn::Http1, offered) => offered,
            };
            probe_config(&trusted, identity.as_ref(), verify, offered)
        });
        let [any, h2] = probes;
        static IDS: AtomicU64 = AtomicU64::new(1);
        Ok(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            ca: match (verify, ca) {
                (true, None) => None,
                (true, Some((file, pem))) => Some(pinned(file, pem)?),
                // The connector makes no verifier without a root, not even one that asks nothing.
                (false, _) => Some(unused_root()?),
            },
            identity: identity.map(|identity| identity.shown).map(Arc::new),
            server_name: config.server_name.clone(),
            verify,
            alpn: config.alpn,
            probes: [any?, h2?],
        })
    }

    /// Another number for every set of files: part of the key by which idle connections are kept.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name that is asked for instead of the upstream's own.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Makes connections to `peer` use it.
    pub fn apply(&self, peer: &mut HttpPeer) {
        if let Some(name) = &self.server_name {
            peer.sni.clone_from(name);
        }
        peer.client_cert_key.clone_from(&self.identity);
        let options = &mut peer.options;
        options.ca.clone_from(&self.ca);
        options.verify_cert = self.verify;
        options.verify_hostname = self.verify;
        match self.alpn {
            Alpn::Any => options.set_http_version(2, 1),
            Alpn::Http1 => options.set_http_version(1, 1),
            Alpn::H2 => options.set_http_version(2, 2),
        }
    }

    /// For probes: what the handshake offers for any HTTP, and for HTTP/2 alone.
    #[must_use]
    pub fn probe_configs(&self) -> [Arc<ClientConfig>; 2] {
        self.probes.clone()
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("id", &self.id)
            .field("server_name", &self.server_name)
            .field("verify", &self.verify)
            .field("alpn", &self.alpn)
            .finish_non_exhaustive()
    }
}

/// TLS to the upstreams of every service that has a `tls` table. Requests read it without a lock.
#[derive(Debug, Default)]
pub struct Upstreams {
    current: ArcSwap<ByService>,
    files: Mutex<HashMap<ServiceName, Entry>>,
}

type ByService = HashMap<ServiceName, Arc<UpstreamTls>>;

#[derive(Debug)]
struct Entry {
    config: config::UpstreamTls,
    watched: Watched,
    tls: Arc<UpstreamTls>,
}

impl Upstreams {
    /// Takes over the services of a configuration, all or none. Those that stay as they were keep
    /// their connections. Reads files.
    ///
    /// # Errors
    /// Every file that cannot be used; nothing was changed then.
    pub fn apply(&self, services: &[Service], now: SystemTime) -> Result<(), Vec<TlsError>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut errors = Vec::new();
        let mut new = HashMap::new();
        let mut kept = Vec::new();
        let default = config::UpstreamTls::default();
        for service in services.iter().filter(|service| service.tls != default) {
            let known = files.get(&service.name);
            if known.is_some_and(|entry| entry.config == service.tls) {
                kept.push(service.name.clone());
                continue;
            }
            match Entry::read(service.tls.clone(), now) {
                Ok(entry) => {
                    new.insert(service.name.clone(), entry);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for name in kept {
            if let Some(entry) = files.remove(&name) {
                new.insert(name, entry);
            }
        }
        *files = new;
        self.publish(&files);
        Ok(())
    }

    /// Looks whether files changed, and uses those that can be used from now on.
    pub fn watch(&self, now: SystemTime) -> Vec<Event> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        for (service, entry) in files.iter_mut() {
            let Entry {
                config,
                watched,
                tls,
            } = entry;
            match watched.look(now, |texts| UpstreamTls::new(config, texts)) {
                Look::Same => {}
                Look::New(new) => {
                    *tls = Arc::new(new);
                    events.push(Event::UpstreamFilesReloaded {
                        service: service.clone(),
                    });
                }
                Look::Rejected(trouble) => events.push(Event::Rejected {
                    file: trouble.file,
                    error: trouble.error,
                }),
                Look::Mended => events.push(Event::Mended {
                    files: paths(config),
                }),
            }
        }
        if !events.is_empty() {
            self.publish(&files);
        }
        events
    }

    /// What holds for a service; `None`: the system's roots.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Option<Arc<UpstreamTls>> {
        self.current.load().get(service).cloned()
    }

    fn publish(&self, files: &HashMap<ServiceName, Entry>) {
        let all = files.iter();
        let all = all.map(|(name, entry)| (name.clone(), Arc::clone(&entry.tls)));
        self.current.store(Arc::new(all.collect()));
    }
}

impl Entry {
    fn read(config: config::UpstreamTls, now: SystemTime) -> Result<Self, TlsError> {
        let read = |texts: &[Vec<u8>]| UpstreamTls::new(&config, texts);
        let (watched, tls) = Watched::start(paths(&config), now, read)?;
        Ok(Self {
            config,
            watched,
            tls: Arc::new(tls),
        })
    }
}

/// The files of a service, in the order in which [`UpstreamTls::new`] takes their contents.
fn paths(config: &config::UpstreamTls) -> Vec<PathBuf> {
    let identity = config.identity.iter();
    let identity = identity.flat_map(|(cert, key)| [cert.clone(), key.clone()]);
    config.ca.iter().cloned().chain(identity).collect()
}

/// A certificate of ours, in both forms.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    shown: CertKey,
}

impl Identity {
    fn new(cert: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<Self, TlsError> {
        // Both are good, and belong together.
        Pair::from_pem(cert, key)?;
        let chain = chain_from_pem(cert.1).map_err(|fault| TlsError::new(cert.0, fault))?;
        let der = key_from_pem(key.1).map_err(|fault| TlsError::new(key.0, fault))?;
        let secret = der.secret_der().to_vec();
        // The connector guesses the form of a key, and panics when it cannot.
        if let Err(reason) = PrivateKeyDer::try_from(secret.clone()) {
            let fault = Fault::UnsupportedKey(reason.to_owned());
            return Err(TlsError::new(key.0, fault));
        }
        let certificates: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
        for (n, der) in certificates.iter().enumerate() {
            wrapped(cert.0, n, der)?;
        }
        Ok(Self {
            chain,
            key: der,
            shown: CertKey::new(certificates, secret),
        })
    }
}

/// The CAs of a file as the connector takes them.
fn pinned(file: &Path, pem: &[u8]) -> Result<Arc<CaType>, TlsError> {
    let chain = chain_from_pem(pem).map_err(|fault| TlsError::new(file, fault))?;
    let all = chain.iter().enumerate();
    let all: Result<Vec<_>, _> = all.map(|(n, der)| wrapped(file, n, der)).collect();
    Ok(Arc::from(all?))
}

/// One certificate as the connector takes it. Its parser is not ours, and panics.
fn wrapped(file: &Path, n: usize, der: &[u8]) -> Result<WrappedX509, TlsError> {
    let der = der.to_vec();
    catch_unwind(AssertUnwindSafe(|| WrappedX509::new(der, parse_x509))).map_err(|_| {
        let reason = "the connector to upstreams cannot parse it".to_owned();
        TlsError::new(
            file,
            Fault::BadCertificate {
                number: n + 1,
                reason,
            },
        )
    })
}

/// A root that nobody has the key of.
fn unused_root() -> Result<Arc<CaType>, TlsError> {
    let here = Path::new("insecure_skip_verify");
    let made = rcgen::generate_simple_self_signed(vec!["nobody.invalid".to_owned()])
        .map_err(|error| TlsError::new(here, Fault::Setup(error.to_string())))?;
    Ok(Arc::from(vec![wrapped(here, 0, made.cert.der())?]))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // What the system lacks is said at the start, and by every handshake.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn probe_config(
    trusted: &RootCertStore,
    identity: Option<&Identity>,
    verify: bool,
    offered: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let setup =
        |error: rustls::Error| TlsError::new(Path::new("TLS"), Fault::Setup(error.to_string()));
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = if verify {
        builder.with_root_certificates(trusted.clone())
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(Arc::clone(provider()))))
    };
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(setup)?,
        None => builder.with_no_client_auth(),
    };
    // A resumed session would skip the certificate, which is part of what is probed.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

const H2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// `insecure_skip_verify`: whoever answers is believed, but must own the key of what they show.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
