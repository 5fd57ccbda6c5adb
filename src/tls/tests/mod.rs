//! The harness: sites with files in a temporary folder, and a rustls client that meets the
//! acceptor over loopback.

mod adopt;
mod ca;
mod challenge;
mod client_auth;
mod files;
mod handshake;
mod swap;
mod trust;
mod watch;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, SocketDigest, Ssl,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::Leaf;
use super::*;
use crate::clock;
use crate::config::{Site, Tls};
use crate::model::HostPattern;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PATIENCE: Duration = Duration::from_secs(10);

fn hosts(names: &[&str]) -> Vec<HostPattern> {
    names
        .iter()
        .map(|name| name.parse().expect("a host"))
        .collect()
}

fn site(names: &[&str], tls: Tls) -> Site {
    Site {
        hosts: hosts(names),
        default: false,
        tls,
        min_version: crate::config::TlsVersion::V1_2,
        client_auth: None,
        hsts: None,
        access_log: None,
        redirect: true,
        port: None,
        steps: Vec::new(),
        errors: Vec::new(),
        routes: Vec::new(),
        service: None,
    }
}

fn default_site(names: &[&str], tls: Tls) -> Site {
    Site {
        default: true,
        ..site(names, tls)
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        install_provider();
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn store(&self) -> Arc<Store> {
        Arc::new(Store::new(&self.path().join("state")).expect("a store"))
    }

    fn serving(&self, sites: &[Site]) -> Arc<Store> {
        let store = self.store();
        store.apply(sites, clock::wall()).expect("good sites");
        store
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("narrowed");
        path
    }

    /// Self-signed files for these names.
    fn files(&self, stem: &str, names: &[&str]) -> Tls {
        self.dated_files(stem, names, clock::wall() - DAY, clock::wall() + 30 * DAY)
    }

    fn dated_files(&self, stem: &str, names: &[&str], from: SystemTime, to: SystemTime) -> Tls {
        let (cert, key) = pem(names, from, to);
        Tls::Files {
            cert: self.write(&format!("{stem}.pem"), &cert),
            key: self.write(&format!("{stem}.key"), &key),
        }
    }
}

fn pem(names: &[&str], from: SystemTime, to: SystemTime) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = from.into();
    params.not_after = to.into();
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    (cert.pem(), key.serialize_pem())
}

/// Takes every certificate: which one it is, is what the tests look at.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
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
        let algorithms = &policy::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &policy::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &policy::provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

fn client() -> ClientConfig {
    client_of(rustls::ALL_VERSIONS)
}

fn client_of(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_protocol_versions(versions)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

fn without_sni() -> ClientConfig {
    let mut config = client();
    config.enable_sni = false;
    config
}

struct Met {
    client: Result<TlsStream<TcpStream>, std::io::Error>,
    server: Result<Box<EdgeTls<L4Stream>>, Refused>,
}

impl Met {
    /// The certificate that the client was shown.
    fn leaf(&self) -> Vec<u8> {
        let stream = self.client.as_ref().expect("a handshake");
        let chain = stream.get_ref().1.peer_certificates().expect("a chain");
        chain[0].to_vec()
    }

    /// The names in it.
    fn shown(&self) -> Vec<String> {
        let leaf = Leaf::from_der(&self.leaf().into()).expect("a certificate");
        leaf.names.iter().map(ToString::to_string).collect()
    }

    fn info(&self) -> &TlsInfo {
        self.server.as_ref().expect("a handshake").info()
    }

    fn alert(&self) -> AlertDescription {
        let error = self.client.as_ref().expect_err("refused");
        let error = error.get_ref().and_then(|error| error.downcast_ref());
        match error {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            other => panic!("no alert but {other:?}"),
        }
    }
}

async fn sockets() -> (TcpStream, L4Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (server, _) = server.expect("a connection");
    (client.expect("a connection"), server.into())
}

async fn meet(store: &Arc<Store>, name: &str, client: ClientConfig) -> Met {
    meet_at(store, name, client, None).await
}

async fn meet_at(
    store: &Arc<Store>,
    name: &str,
    client: ClientConfig,
    local: Option<IpAddr>,
) -> Met {
    let (near, far) = sockets().await;
    let acceptor = Acceptor::new(Arc::clone(store), PATIENCE);
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connector = TlsConnector::from(Arc::new(client));
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far, local));
    Met { client, server }
}
