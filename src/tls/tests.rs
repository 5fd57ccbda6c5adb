//! Handshakes of real rustls clients against the acceptor, over loopback sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::l4::stream::Stream as L4Stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{Site, Tls};

fn site(hosts: &[&str], default: bool, tls: Tls) -> Site {
    Site {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        default,
        tls,
        redirect: true,
        routes: Vec::new(),
        service: None,
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    acceptor: Arc<Acceptor>,
}

impl Fixture {
    fn new(sites: &[Site]) -> Self {
        install_provider();
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::new());
        store.apply(sites, &folder.path().join("ca")).unwrap();
        let acceptor = Acceptor::new(Arc::clone(&store), Duration::from_secs(10)).unwrap();
        Self {
            folder,
            store,
            acceptor: Arc::new(acceptor),
        }
    }

    /// One handshake: what the client sees, and what the server says of it.
    async fn handshake(
        &self,
        name: &str,
        config: rustls::ClientConfig,
    ) -> (
        Result<Vec<CertificateDer<'static>>, String>,
        Result<(bool, Arc<TlsInfo>), Refused>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = tokio::spawn(async move {
            let socket = TcpStream::connect(local).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector
                .connect(name, socket)
                .await
                .map_err(|e| e.to_string())?;
            let chain = stream
                .get_ref()
                .1
                .peer_certificates()
                .unwrap_or_default()
                .to_vec();
            Ok(chain.into_iter().map(CertificateDer::into_owned).collect())
        });
        let (socket, _) = listener.accept().await.unwrap();
        let accepted = self.acceptor.accept(L4Stream::from(socket), local).await;
        let accepted = accepted.map(|accepted| {
            let h2 = accepted.is_h2();
            let (_stream, info) = accepted.into_parts();
            (h2, info)
        });
        (client.await.unwrap(), accepted)
    }

    fn root(&self) -> CertificateDer<'static> {
        let pem = std::fs::read(self.folder.path().join("ca/root.crt")).unwrap();
        CertificateDer::from_pem_slice(&pem).unwrap()
    }

    /// A client that trusts the internal CA's root alone.
    fn client(
        &self,
        alpn: &[&[u8]],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

fn names(chain: &[CertificateDer<'_>]) -> Vec<String> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let alternatives = leaf.subject_alternative_name().unwrap().unwrap();
    alternatives
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn a_name_gets_its_own_certificate_exact_before_wildcard() {
    let fixture = Fixture::new(&[
        site(&["*.example.internal"], false, Tls::Internal),
        site(&["a.example.internal"], false, Tls::Internal),
    ]);
    for (name, expected) in [
        ("a.example.internal", "DNSName(a.example.internal)"),
        ("A.Example.Internal", "DNSName(a.example.internal)"),
        ("b.example.internal", "DNSName(*.example.internal)"),
    ] {
        let client = fixture.client(&[b"h2", b"http/1.1"], &BOTH);
        let (seen, accepted) = fixture.handshake(name, client).await;
        assert_eq!(names(&seen.unwrap()), [expected], "{name}");
        let (h2, info) = accepted.unwrap();
        assert!(h2);
        assert_eq!(info.version(), "TLSv1.3");
        assert!(info.covers("b.example.internal") == (expected.contains('*')));
        assert!(!info.covers("example.internal"));
    }
}

#[tokio::test]
async fn an_unknown_name_is_refused_unless_there_is_a_default_site() {
    let fixture = Fixture::new(&[site(&["a.internal"], false, Tls::Internal)]);
    let (seen, accepted) = fixture
        .handshake("other.internal", fixture.client(&[], &BOTH))
        .await;
    assert!(seen.is_err());
    assert!(matches!(accepted, Err(Refused::NoCertificate)));
    fixture
        .store
        .apply(
            &[site(&["a.internal"], true, Tls::Internal)],
            &fixture.folder.path().join("ca"),
        )
        .unwrap();
    let (seen, accepted) = fixture
        .handshake("other.internal", fixture.client(&[], &BOTH))
        .await;
    let error = seen.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    assert!(accepted.is_err() || accepted.is_ok_and(|(_, info)| info.is_default()));
}

#[tokio::test]
async fn an_address_gets_the_certificate_of_the_local_ip() {
    let fixture = Fixture::new(&[
        site(&["127.0.0.1"], false, Tls::Internal),
        site(&["a.internal"], false, Tls::Internal),
    ]);
    // An IP address is never sent as a name (RFC 6066 section 3).
    let (seen, accepted) = fixture
        .handshake("127.0.0.1", fixture.client(&[b"http/1.1"], &BOTH))
        .await;
    assert_eq!(seen.unwrap().len(), 2, "leaf and intermediate");
    let (h2, _) = accepted.unwrap();
    assert!(!h2);
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_a_site_without_tls_is_not_served() {
    let fixture = Fixture::new(&[
        site(&["a.internal"], false, Tls::Internal),
        site(&["plain.internal"], false, Tls::Off),
    ]);
    let old = fixture.client(&[], &[&rustls::version::TLS12]);
    let (_, accepted) = fixture.handshake("a.internal", old).await;
    assert_eq!(accepted.unwrap().1.version(), "TLSv1.2");
    let (_, accepted) = fixture
        .handshake("plain.internal", fixture.client(&[], &BOTH))
        .await;
    assert!(matches!(accepted, Err(Refused::NoCertificate)));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_at_the_deadline() {
    let fixture = Fixture::new(&[site(&["a.internal"], false, Tls::Internal)]);
    fixture.acceptor.set_deadline(Duration::from_millis(200));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local: SocketAddr = listener.local_addr().unwrap();
    let _silent = TcpStream::connect(local).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let refused = fixture
        .acceptor
        .accept(L4Stream::from(socket), local)
        .await
        .err();
    assert!(matches!(refused, Some(Refused::Deadline)), "{refused:?}");
}

#[tokio::test]
async fn certificates_can_be_exchanged_under_clients_without_a_failed_handshake() {
    let fixture = Fixture::new(&[site(&["a.internal"], false, Tls::Internal)]);
    let authority = Authority::open(&fixture.folder.path().join("ca")).unwrap();
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let served = authority.issue(&["a.internal".to_owned()]).unwrap();
        fixture.store.replace(&Arc::new(served));
        let (seen, _) = fixture
            .handshake("a.internal", fixture.client(&[], &BOTH))
            .await;
        let chain = seen.unwrap();
        assert_eq!(names(&chain), ["DNSName(a.internal)"]);
        serials.insert(chain[0].to_vec());
    }
    assert_eq!(
        serials.len(),
        200,
        "every handshake saw the certificate of its moment"
    );
}

#[test]
fn the_internal_ca_is_made_once_and_its_keys_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new(&[site(&["a.internal"], false, Tls::Internal)]);
    let ca = fixture.folder.path().join("ca");
    let mode = |name: &str| {
        std::fs::metadata(ca.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("root.key"), mode("intermediate.key"), mode("")),
        (0o600, 0o600, 0o700)
    );
    let root = fixture.root();
    Authority::open(&ca).unwrap();
    assert_eq!(fixture.root(), root, "opened again, not made again");
    std::fs::write(ca.join("intermediate.crt"), "damaged").unwrap();
    let error = Authority::open(&ca).unwrap_err().to_string();
    assert!(error.contains("intermediate.crt is damaged"), "{error}");
    let shown = format!("{:?}", fixture.store);
    assert!(
        !shown.contains("PRIVATE") && !shown.contains("key:"),
        "{shown}"
    );
}

#[test]
fn a_leaf_is_renewed_when_two_thirds_of_its_life_are_over() {
    let sites = [site(&["a.internal"], false, Tls::Internal)];
    let fixture = Fixture::new(&sites);
    let ca = fixture.folder.path().join("ca");
    let now = crate::clock::wall();
    let days = |n: u64| now + Duration::from_secs(n * 86_400);
    assert_eq!(fixture.store.renew_due(&sites, &ca, days(4)).unwrap(), 0);
    assert_eq!(fixture.store.renew_due(&sites, &ca, days(5)).unwrap(), 1);
}

#[test]
fn bad_files_are_named_and_the_old_table_stays() {
    let fixture = Fixture::new(&[site(&["a.internal"], false, Tls::Internal)]);
    let folder = fixture.folder.path();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    let pair = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let cert = write(&format!("{name}.pem"), &made.cert.pem());
        (
            cert,
            write(&format!("{name}.key"), &made.signing_key.serialize_pem()),
        )
    };
    let ((good, good_key), (_, other_key)) = (pair("good.test"), pair("other.test"));
    let empty = write("empty.pem", "");
    let missing = folder.join("missing.pem");
    let apply = |cert: &Path, key: &Path| {
        let files = Tls::Files {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        fixture
            .store
            .apply(&[site(&["good.test"], false, files)], &folder.join("ca"))
    };
    for (cert, key, said) in [
        (&missing, &good_key, "cannot read"),
        (&empty, &good_key, "has no certificate"),
        (&good, &empty, "has no private key"),
        (&good, &other_key, "does not fit"),
    ] {
        let error = apply(cert, key).unwrap_err().to_string();
        assert!(
            error.contains(said) && error.contains(".pem") || error.contains(".key"),
            "{error}"
        );
        assert!(error.contains(said), "{error}");
        let hosts: Vec<String> = fixture.store.served().into_iter().map(|c| c.host).collect();
        assert_eq!(
            hosts,
            ["a.internal"],
            "the old certificates are still served"
        );
    }
    apply(&good, &good_key).unwrap();
    assert_eq!(fixture.store.served()[0].host, "good.test");
}
