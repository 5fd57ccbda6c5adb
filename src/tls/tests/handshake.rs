//! Who is shown which certificate, and how a handshake ends.

use super::*;

#[tokio::test]
async fn an_exact_name_wins_over_a_wildcard_and_case_does_not_matter() {
    let folder = Folder::new();
    let store = folder.serving(&[
        site(&["*.example.com"], folder.files("wild", &["*.example.com"])),
        site(&["a.example.com"], folder.files("a", &["a.example.com"])),
    ]);
    for (asked, shown) in [
        ("a.example.com", "a.example.com"),
        ("A.Example.COM", "a.example.com"),
        ("b.example.com", "*.example.com"),
    ] {
        let met = meet(&store, asked, client()).await;
        assert_eq!(met.shown(), [shown], "{asked}");
        assert!(!met.info().default);
        assert_eq!(met.info().sni, Some(asked.to_ascii_lowercase()));
    }
    for unknown in ["example.com", "x.b.example.com"] {
        let met = meet(&store, unknown, client()).await;
        assert_eq!(met.alert(), AlertDescription::UnrecognisedName, "{unknown}");
        let refused = met.server.expect_err("refused");
        let text = format!("no certificate for {unknown}");
        assert_eq!(refused.to_string(), text);
    }
}

#[tokio::test]
async fn an_unknown_name_gets_the_default_site_but_a_plain_one_nothing() {
    let folder = Folder::new();
    let store = folder.serving(&[
        default_site(&["a.test"], folder.files("a", &["a.test"])),
        site(&["plain.test"], Tls::Off),
    ]);
    let met = meet(&store, "other.test", client()).await;
    assert_eq!(met.shown(), ["a.test"]);
    assert!(met.info().default);
    let met = meet(&store, "plain.test", client()).await;
    assert_eq!(met.alert(), AlertDescription::UnrecognisedName);
}

#[tokio::test]
async fn without_a_name_the_local_address_decides_then_the_default_site() {
    let folder = Folder::new();
    let addressed = site(&["127.0.0.1", "::1"], Tls::Internal);
    let default = default_site(&["a.test"], folder.files("a", &["a.test"]));
    let store = folder.serving(&[addressed.clone(), default]);

    let mapped = Some("::ffff:127.0.0.1".parse().expect("an address"));
    let met = meet_at(&store, "a.test", without_sni(), mapped).await;
    assert_eq!(met.shown(), ["127.0.0.1", "::1"]);
    assert!(!met.info().default);
    assert_eq!(met.info().sni, None);

    // A client that goes to an address sends no SNI (RFC 6066 §3).
    let local = Some("127.0.0.1".parse().expect("an address"));
    let met = meet_at(&store, "127.0.0.1", client(), local).await;
    assert_eq!(met.shown(), ["127.0.0.1", "::1"]);

    let elsewhere = Some("192.0.2.1".parse().expect("an address"));
    let met = meet_at(&store, "a.test", without_sni(), elsewhere).await;
    assert_eq!(met.shown(), ["a.test"]);
    assert!(met.info().default);

    let store = folder.serving(&[addressed]);
    let met = meet_at(&store, "a.test", without_sni(), elsewhere).await;
    assert_eq!(met.alert(), AlertDescription::MissingExtension);
    assert!(matches!(
        met.server,
        Err(Refused::NoCertificate { sni: None })
    ));
}

#[tokio::test]
async fn the_local_address_is_read_from_the_socket_when_nobody_says_it() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["127.0.0.1"], Tls::Internal)]);
    let (near, mut far) = sockets().await;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&far);
    far.set_socket_digest(SocketDigest::from_raw_fd(fd));
    let acceptor = Acceptor::new(store, PATIENCE);
    let connector = TlsConnector::from(Arc::new(client()));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far, None));
    assert!(client.is_ok());
    let server = server.expect("accepted");
    let names = &server.info().certificate.info().names;
    assert_eq!(*names, hosts(&["127.0.0.1"]));
}

#[tokio::test]
async fn alpn_picks_h2_before_h1_and_refuses_what_nobody_speaks() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test"], Tls::Internal)]);
    for (offered, selected) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(ALPN::H2)),
        (&[b"http/1.1", b"h2"], Some(ALPN::H2)),
        (&[b"http/1.1"], Some(ALPN::H1)),
        (&[], None),
    ] {
        let mut client = client();
        client.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let met = meet(&store, "a.test", client).await;
        let server = met.server.expect("a handshake");
        assert_eq!(server.selected_alpn_proto(), selected, "{offered:?}");
    }
    let mut other = client();
    other.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let met = meet(&store, "a.test", other).await;
    assert_eq!(met.alert(), AlertDescription::NoApplicationProtocol);
    assert!(matches!(met.server, Err(Refused::NoCertificate { .. })));
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_named_in_the_digest() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test"], Tls::Internal)]);
    for (version, protocol, text) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2, "TLSv1.2"),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3, "TLSv1.3"),
    ] {
        let met = meet(&store, "a.test", client_of(&[version])).await;
        let client = met.client.expect("a handshake");
        assert_eq!(client.get_ref().1.protocol_version(), Some(protocol));
        let server = met.server.expect("a handshake");
        let digest = server.get_ssl_digest().expect("TLS");
        assert_eq!(digest.version, text);
        assert!(digest.cipher.starts_with("TLS"), "{}", digest.cipher);
        assert_eq!(server.get_timing_digest().len(), 2);
    }
}

/// A ClientHello of TLS 1.1 with what such a client would offer.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let extensions = [
        0, 10, 0, 4, 0, 2, 0, 29, // supported_groups: x25519
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
        0, 0, 0, 11, 0, 9, 0, 0, 6, b'a', b'.', b't', b'e', b's', b't', // server_name
    ];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut hello = vec![1, 0, 0, body.len() as u8];
    hello.extend(body);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[tokio::test]
async fn tls_1_1_is_refused_with_protocol_version() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test"], Tls::Internal)]);
    let (mut near, far) = sockets().await;
    near.write_all(&hello_of_tls_1_1()).await.expect("sent");
    let refused = Acceptor::new(store, PATIENCE).accept(far, None).await;
    assert!(matches!(refused, Err(Refused::Handshake(_))), "{refused:?}");
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.expect("an alert");
    assert_eq!(alert[0], 21);
    assert_eq!(alert[5..], [2, 70]);
}

#[tokio::test]
async fn what_the_handshake_learned_travels_with_the_digest() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test"], Tls::Internal)]);
    let server = meet(&store, "a.test", client())
        .await
        .server
        .expect("a handshake");
    let digest = Digest {
        ssl_digest: server.get_ssl_digest(),
        proxy_digest: server.get_proxy_digest(),
        ..Digest::default()
    };
    let info = info(&digest).expect("a TLS connection");
    assert_eq!(info.sni.as_deref(), Some("a.test"));
    assert_eq!(info.version, "TLSv1.3");
    assert!(super::info(&Digest::default()).is_none());
}

#[tokio::test]
async fn bytes_pass_both_ways_and_a_shutdown_is_a_clean_end() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test"], Tls::Internal)]);
    let met = meet(&store, "a.test", client()).await;
    let (mut client, mut server) = (met.client.expect("up"), met.server.expect("up"));
    client.write_all(b"ping").await.expect("sent");
    let mut ping = [0; 4];
    server.read_exact(&mut ping).await.expect("received");
    server.write_all(b"pong").await.expect("sent");
    pingora::protocols::Shutdown::shutdown(&mut *server).await;
    let mut pong = Vec::new();
    // Without close_notify this read would fail with UnexpectedEof.
    client.read_to_end(&mut pong).await.expect("a clean end");
    assert_eq!((&ping[..], &pong[..]), (&b"ping"[..], &b"pong"[..]));
}

#[tokio::test]
async fn a_session_is_resumed_under_its_name() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test", "b.test"], Tls::Internal)]);
    let mut config = client();
    config.resumption = Resumption::in_memory_sessions(8);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let met = meet(&store, "a.test", config.clone()).await;
        let (mut client, mut server) = (met.client.expect("up"), met.server.expect("up"));
        server.write_all(b"x").await.expect("sent");
        server.flush().await.expect("sent");
        // The tickets come before the first byte.
        client.read_u8().await.expect("received");
        kinds.push(client.get_ref().1.handshake_kind());
    }
    assert_eq!(kinds[0], Some(rustls::HandshakeKind::Full));
    assert_eq!(kinds[1], Some(rustls::HandshakeKind::Resumed));
}

#[tokio::test]
async fn a_silent_client_meets_the_deadline_and_a_change_holds_at_once() {
    let folder = Folder::new();
    let store = folder.serving(&[site(&["a.test"], Tls::Internal)]);
    let acceptor = Acceptor::new(store, Duration::from_secs(3600));
    acceptor.set_deadline(Duration::from_millis(20));
    let (mut near, far) = sockets().await;
    // Half a record header, then silence.
    near.write_all(&[22, 3]).await.expect("sent");
    let refused = tokio::time::timeout(PATIENCE, acceptor.accept(far, None)).await;
    let refused = refused.expect("the new deadline, not the old one");
    assert!(matches!(refused, Err(Refused::Deadline)), "{refused:?}");
    assert_eq!(near.read(&mut [0; 8]).await.expect("closed"), 0);
}

#[tokio::test]
async fn what_is_not_tls_or_goes_away_is_told_apart() {
    let folder = Folder::new();
    let acceptor = Acceptor::new(folder.store(), PATIENCE);
    let (mut near, far) = sockets().await;
    near.write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    let refused = acceptor.accept(far, None).await;
    assert!(matches!(refused, Err(Refused::Handshake(_))), "{refused:?}");
    let (near, far) = sockets().await;
    drop(near);
    let refused = acceptor.accept(far, None).await;
    assert!(matches!(refused, Err(Refused::Io(_))), "{refused:?}");
}

#[tokio::test]
async fn covers_follows_the_certificate_the_default_site_and_off() {
    let folder = Folder::new();
    let store = folder.serving(&[
        site(
            &["a.test", "configured.test"],
            folder.files("a", &["a.test", "*.a.test"]),
        ),
        site(&["b.test"], folder.files("b", &["b.test"])),
        site(&["off.a.test", "off.test"], Tls::Off),
        default_site(&["d.test"], folder.files("d", &["d.test"])),
    ]);
    let met = meet(&store, "a.test", client()).await;
    for host in ["a.test", "A.Test", "a.test.", "x.a.test", "configured.test"] {
        assert!(met.info().covers(host), "{host}");
    }
    for host in ["b.test", "off.a.test", "x.y.a.test", "unknown.test"] {
        assert!(!met.info().covers(host), "{host}");
    }
    let met = meet(&store, "unknown.test", client()).await;
    for host in ["unknown.test", "other.test", "d.test", "192.0.2.1"] {
        assert!(met.info().covers(host), "{host}");
    }
    for host in ["a.test", "x.off.test.b.test.", "off.test"] {
        let expected = host.starts_with('x');
        assert_eq!(met.info().covers(host), expected, "{host}");
    }
}
