//! Policies: who may connect, what is resumed, and which sites share a connection.

use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer as Der, PrivateKeyDer};

use super::*;
use crate::config::{ClientAuth, ClientAuthMode, TlsVersion};

/// A CA of clients.
pub(super) struct Clients {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Clients {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a CA");
        Self {
            pem: ca.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A client's configuration with a certificate that ends then.
    fn client(&self, name: &str, end: SystemTime) -> ClientConfig {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = (end - 2 * DAY).into();
        params.not_after = end.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        let mut config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything))
            .with_client_auth_cert(vec![Der::from(cert.der().to_vec())], key)
            .expect("a client");
        config.resumption = Resumption::disabled();
        config
    }
}

fn protected(names: &[&str], mode: ClientAuthMode, ca: PathBuf) -> Site {
    Site {
        client_auth: Some(ClientAuth { mode, ca }),
        ..site(names, Tls::Internal)
    }
}

/// In TLS 1.3 a client learns that it was refused with the first byte it reads.
async fn is_served(met: Met) -> bool {
    let (Ok(mut client), Ok(mut server)) = (met.client, met.server) else {
        return false;
    };
    server.write_all(b"x").await.expect("sent");
    server.flush().await.expect("sent");
    client.read_u8().await.is_ok()
}

#[tokio::test]
async fn who_must_show_a_certificate_must_and_who_may_is_named() {
    let folder = Folder::new();
    let (ours, theirs) = (Clients::new(), Clients::new());
    let ca = folder.write("clients.pem", &ours.pem);
    let store = folder.serving(&[
        protected(&["must.test"], ClientAuthMode::Require, ca.clone()),
        protected(&["may.test"], ClientAuthMode::Optional, ca),
        site(&["open.test"], Tls::Internal),
    ]);
    let end = clock::wall() + DAY;
    let (good, foreign) = (ours.client("ann", end), theirs.client("eve", end));
    let expired = ours.client("old", clock::wall() - DAY);
    for (host, client, served, subject) in [
        ("must.test", client(), false, None),
        ("must.test", foreign.clone(), false, None),
        ("must.test", expired.clone(), false, None),
        ("must.test", good.clone(), true, Some("CN=ann")),
        ("may.test", client(), true, None),
        ("may.test", foreign, false, None),
        ("may.test", expired, false, None),
        ("may.test", good.clone(), true, Some("CN=ann")),
        ("open.test", good, true, None),
    ] {
        let met = meet(&store, host, client).await;
        let seen = met.server.as_ref().ok().and_then(|server| {
            let client = server.info().client.as_ref()?;
            assert_eq!(client.fingerprint.len(), 64);
            Some(client.subject.clone())
        });
        // rcgen puts a name of its own in front.
        let seen = seen.map(|subject| subject.split(',').next().map(str::to_owned));
        assert_eq!(seen.flatten().as_deref(), subject, "{host}");
        assert_eq!(is_served(met).await, served, "{host} {subject:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_where_1_3_is_the_lowest_and_only_there() {
    let folder = Folder::new();
    let strict = Site {
        min_version: TlsVersion::V1_3,
        ..site(&["strict.test"], Tls::Internal)
    };
    let store = folder.serving(&[strict, site(&["lax.test"], Tls::Internal)]);
    let old = || client_of(&[&rustls::version::TLS12]);
    let met = meet(&store, "strict.test", old()).await;
    assert_eq!(met.alert(), AlertDescription::ProtocolVersion);
    let met = meet(&store, "strict.test", client()).await;
    assert_eq!(met.info().version, "TLSv1.3");
    let met = meet(&store, "lax.test", old()).await;
    assert_eq!(met.info().version, "TLSv1.2");
    assert!(met.info().covers("lax.test"));
    assert!(!met.info().covers("strict.test"), "a policy was evaded");
}

#[tokio::test]
async fn a_connection_serves_the_sites_of_its_own_policy_alone() {
    let folder = Folder::new();
    let ca = folder.write("clients.pem", &Clients::new().pem);
    let all = ["open.test", "other.test", "must.test", "may.test"];
    // One certificate for all: names alone would let everything pass.
    let files = folder.files("all", &all);
    let with = |site: Site| Site {
        tls: files.clone(),
        ..site
    };
    let mut default = with(protected(&[], ClientAuthMode::Require, ca.clone()));
    default.default = true;
    let store = folder.serving(&[
        with(site(&["open.test"], Tls::Off)),
        with(site(&["other.test"], Tls::Off)),
        with(protected(
            &["must.test"],
            ClientAuthMode::Require,
            ca.clone(),
        )),
        with(protected(
            &["may.test"],
            ClientAuthMode::Optional,
            ca.clone(),
        )),
        default,
    ]);
    let met = meet(&store, "open.test", client()).await;
    for (host, expected) in [
        ("open.test", true),
        ("other.test", true),
        ("must.test", false),
        ("may.test", false),
        // Both are the default site's, which asks for a certificate.
        ("unknown.test", false),
        ("", false),
    ] {
        assert_eq!(met.info().covers(host), expected, "{host}");
    }
    // A reload that asks for certificates holds for connections that are open.
    let sites = [protected(&["open.test"], ClientAuthMode::Require, ca)];
    store.apply(&sites, clock::wall()).expect("applied");
    assert!(!met.info().covers("open.test"));
}

async fn kind(store: &Arc<Store>, name: &str, config: &ClientConfig) -> Option<HandshakeKind> {
    let met = meet(store, name, config.clone()).await;
    let (mut client, mut server) = (met.client.ok()?, met.server.ok()?);
    server.write_all(b"x").await.ok()?;
    server.flush().await.ok()?;
    client.read_u8().await.ok()?;
    client.get_ref().1.handshake_kind()
}

#[tokio::test]
async fn a_session_is_resumed_by_the_next_process_and_never_under_another_policy() {
    for version in rustls::ALL_VERSIONS {
        let folder = Folder::new();
        let ca = folder.write("clients.pem", &Clients::new().pem);
        let open = site(&["a.test"], Tls::Internal);
        let optional = protected(&["a.test"], ClientAuthMode::Optional, ca);
        let store = folder.serving(std::slice::from_ref(&open));
        store.rotate_tickets(clock::wall()).expect("written");
        let mut config = client_of(&[version]);
        config.resumption = Resumption::in_memory_sessions(8);
        let full = Some(HandshakeKind::Full);
        let resumed = Some(HandshakeKind::Resumed);
        assert_eq!(kind(&store, "a.test", &config).await, full);
        assert_eq!(kind(&store, "a.test", &config).await, resumed);
        let next = folder.serving(std::slice::from_ref(&open));
        assert_eq!(kind(&next, "a.test", &config).await, resumed, "restart");
        let other = folder.serving(&[optional]);
        assert_eq!(kind(&other, "a.test", &config).await, full, "policy");
    }
}

#[tokio::test]
async fn a_resumed_session_ends_with_the_certificate_of_its_client() {
    let folder = Folder::new();
    let clients = Clients::new();
    let ca = folder.write("clients.pem", &clients.pem);
    let store = folder.serving(&[protected(&["a.test"], ClientAuthMode::Require, ca)]);
    // Certificates count whole seconds.
    let mut config = clients.client("short", clock::wall() + Duration::from_secs(2));
    config.resumption = Resumption::in_memory_sessions(8);
    assert_eq!(
        kind(&store, "a.test", &config).await,
        Some(HandshakeKind::Full)
    );
    let deadline = clock::now() + PATIENCE;
    let refused = loop {
        let met = meet(&store, "a.test", config.clone()).await;
        match met.server {
            Err(refused) => break refused,
            // Reading brings the tickets for the next time.
            Ok(_) => assert!(is_served(met).await && clock::now() < deadline),
        }
    };
    let expired = matches!(refused, Refused::ClientCertificateExpired);
    assert!(expired, "{refused:?}");
}
