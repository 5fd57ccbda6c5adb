//! TLS-ALPN-01: the handshake that an ACME server comes for, and nothing more.

use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::*;

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ChallengeCertificates for One {
    fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        (host == "a.test").then(|| Arc::clone(&self.0))
    }
}

fn proof() -> Arc<CertifiedKey> {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["a.test".to_owned()]).expect("names");
    let cert = params.self_signed(&key).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = policy::provider();
    let key = provider.key_provider.load_private_key(key).expect("a key");
    Arc::new(CertifiedKey::new(vec![cert.der().clone()], key))
}

#[tokio::test]
async fn a_challenge_is_shown_to_who_asks_for_it_alone_and_the_connection_ends() {
    let folder = Folder::new();
    let store = folder.serving(&[default_site(&["a.test"], Tls::Internal)]);
    let proof = proof();
    let acceptor = Acceptor::new(store, PATIENCE);
    acceptor.answer_challenges(Arc::new(One(Arc::clone(&proof))));
    let connect = async |name: &str, offered: &[&[u8]]| {
        let (near, far) = sockets().await;
        let mut config = client();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let (client, server) =
            tokio::join!(connector.connect(name, near), acceptor.accept(far, None));
        Met { client, server }
    };
    let mut met = connect("A.test", &[b"acme-tls/1"]).await;
    assert_eq!(met.leaf(), proof.cert[0].to_vec());
    let Err(Refused::Challenge { host }) = &met.server else {
        panic!("{:?}", met.server);
    };
    assert_eq!(host, "a.test");
    let client = met.client.as_mut().expect("a handshake");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("a clean end");
    assert_eq!(rest, b"");

    let met = connect("other.test", &[b"acme-tls/1"]).await;
    assert_eq!(met.alert(), AlertDescription::NoApplicationProtocol);
    // Beside other protocols it is no challenge.
    let met = connect("a.test", &[b"acme-tls/1", b"h2"]).await;
    assert_ne!(met.leaf(), proof.cert[0].to_vec());
    let server = met.server.expect("served");
    assert_eq!(server.selected_alpn_proto(), Some(ALPN::H2));
}
