use std::collections::BTreeMap;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock;

const TIMEOUT: Duration = Duration::from_millis(300);

fn http(json: serde_json::Value) -> Health {
    health(Probe::Http {
        path: "/healthz".into(),
        host: None,
        status: (200, 299),
        json: serde_json::from_value::<BTreeMap<_, _>>(json).unwrap(),
    })
}

fn health(probe: Probe) -> Health {
    Health {
        probe,
        interval: Duration::from_secs(3),
        timeout: TIMEOUT,
        rise: 2,
        fall: 3,
        max_latency: None,
    }
}

fn at(scheme: &str, addr: std::net::SocketAddr) -> Upstream {
    let configured = format!("{scheme}{addr}").parse().unwrap();
    Upstream::new(configured, Target::Socket(addr))
}

/// Serves one connection at a time with `serve` until the test ends.
async fn listen<F, S>(serve: S) -> std::net::SocketAddr
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    addr
}

async fn answering(answer: &'static [u8]) -> std::net::SocketAddr {
    listen(move |mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(answer).await;
    })
    .await
}

fn client() -> Client {
    Client::with_roots(RootCertStore::empty())
}

async fn reason(upstream: &Upstream, health: &Health) -> String {
    reason_of(&client(), upstream, health).await
}

async fn reason_of(client: &Client, upstream: &Upstream, health: &Health) -> String {
    match probe(client, upstream, health).await {
        Ok(_) => "passed".to_owned(),
        Err(Miss::Failed(reason)) => reason,
        Err(Miss::NotTried(reason)) => format!("not tried: {reason}"),
    }
}

#[tokio::test]
async fn a_good_answer_passes_and_carries_its_latency() {
    let addr = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}").await;
    let took = probe(&client(), &at("", addr), &http(json!({"status": "ok"}))).await;
    assert!(took.is_ok_and(|took| took > Duration::ZERO && took < TIMEOUT));
}

#[tokio::test]
async fn the_request_names_the_host_the_path_and_the_probe() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let addr = listen(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap();
            tell.send(String::from_utf8_lossy(&head[..n]).into_owned())
                .unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    assert_eq!(reason(&at("", addr), &http(json!({}))).await, "passed");
    let head = told.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /healthz http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {addr}\r\n")), "{head}");
    assert!(head.contains("user-agent: cutover-probe/"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    for health in [http(json!({})), health(Probe::Tcp)] {
        assert_eq!(reason(&at("", addr), &health).await, "connection refused");
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_runs_into_the_timeout() {
    let addr = listen(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let start = clock::now();
    assert_eq!(
        reason(&at("", addr), &http(json!({}))).await,
        "no answer within 300ms"
    );
    let took = clock::now() - start;
    assert!(took >= TIMEOUT && took < 4 * TIMEOUT, "{took:?}");
    assert_eq!(reason(&at("", addr), &health(Probe::Tcp)).await, "passed");
    assert_eq!(
        reason(&at("h2c://", addr), &http(json!({}))).await,
        "no answer within 300ms"
    );
    assert_eq!(
        reason(&at("https://", addr), &http(json!({}))).await,
        "no TLS handshake within 300ms"
    );
}

#[tokio::test]
async fn a_full_backlog_is_a_connect_timeout() {
    // A listener that never accepts, its queue filled: further SYNs are dropped.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await
    {
        held.push(stream);
        assert!(held.len() < 64, "the backlog never filled");
    }
    assert_eq!(
        reason(&at("", addr), &health(Probe::Tcp)).await,
        "connect timed out after 300ms"
    );
}

#[tokio::test]
async fn a_slow_upstream_passes_while_it_is_within_the_timeout() {
    let addr = listen(|mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
    })
    .await;
    let mut health = http(json!({}));
    health.max_latency = Some(Duration::from_millis(1));
    let took = probe(&client(), &at("", addr), &health).await;
    assert!(took.is_ok_and(|took| took >= Duration::from_millis(100)));
}

#[tokio::test]
async fn a_reset_and_a_close_are_told_apart() {
    let reset = listen(|mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    })
    .await;
    assert_eq!(
        reason(&at("", reset), &http(json!({}))).await,
        "connection reset before the answer"
    );
    let closed = answering(b"").await;
    assert_eq!(
        reason(&at("", closed), &http(json!({}))).await,
        "connection closed before the answer"
    );
    let cut = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab").await;
    assert_eq!(
        reason(&at("", cut), &http(json!({}))).await,
        "connection closed in the middle of the body"
    );
}

#[tokio::test]
async fn garbage_is_not_an_answer() {
    let addr = answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").await;
    assert_eq!(
        reason(&at("", addr), &http(json!({}))).await,
        "answer is not HTTP/1"
    );
    assert_eq!(
        reason(&at("https://", addr), &http(json!({}))).await,
        "TLS: answer is not TLS"
    );
    let http1 = listen(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    assert_eq!(
        reason(&at("h2c://", http1), &http(json!({}))).await,
        "answer is not HTTP/2 (frame with invalid size)"
    );
    let head = listen(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
    })
    .await;
    assert_eq!(
        reason(&at("", head), &http(json!({}))).await,
        "response head is too large"
    );
}

#[tokio::test]
async fn a_wrong_status_or_field_is_quoted() {
    let addr = answering(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(
        reason(&at("", addr), &http(json!({}))).await,
        "status 503, expected 200-299"
    );
    let addr =
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{\"status\":\"starting\"}").await;
    assert_eq!(
        reason(&at("", addr), &http(json!({"status": "ok"}))).await,
        r#"field status is "starting", expected "ok""#
    );
}

#[tokio::test]
async fn an_endless_body_fails_only_if_it_has_to_be_read() {
    let flood = listen(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
    })
    .await;
    assert_eq!(reason(&at("", flood), &http(json!({}))).await, "passed");
    assert_eq!(
        reason(&at("", flood), &http(json!({"status": "ok"}))).await,
        "body is larger than 64 KiB"
    );
    let trickle = listen(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(
        reason(&at("", trickle), &http(json!({}))).await,
        "body not complete within 300ms"
    );
}

#[tokio::test]
async fn a_path_that_is_none_is_named() {
    let addr = answering(b"").await;
    for wrong in ["healthz", "/two words", "", "*"] {
        let mut asked = http(json!({}));
        if let Probe::Http { path, .. } = &mut asked.probe {
            *path = wrong.into();
        }
        assert_eq!(
            reason(&at("", addr), &asked).await,
            format!("`{wrong}` is not a request path")
        );
    }
}

#[tokio::test]
async fn a_unix_socket_is_probed_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let configured: UpstreamAddr = format!("unix:{}", path.display()).parse().unwrap();
    let upstream = Upstream::new(configured, Target::Unix(path.clone()));
    assert_eq!(reason(&upstream, &http(json!({}))).await, "no such socket");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let n = stream.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..n]).to_ascii_lowercase();
        let status = if head.contains("host: localhost\r\n") {
            "200"
        } else {
            "400"
        };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    assert_eq!(reason(&upstream, &http(json!({}))).await, "passed");
}

/// A TLS server for `name`, and a client that trusts its issuer.
async fn tls(name: &str, alpn: &[&[u8]]) -> (std::net::SocketAddr, Client) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &ca).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![leaf.der().clone()],
        PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    )
    .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let addr = listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            serve_hyper(stream, 1).await;
        }
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    (addr, Client::with_roots(roots))
}

/// HTTP/1 and HTTP/2: 200 with the protocol's version, gRPC health with `serving`.
async fn serve_hyper<S>(stream: S, serving: u8)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    use http_body_util::{BodyExt, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let service = service_fn(
        move |request: http::Request<hyper::body::Incoming>| async move {
            let version = format!("{{\"version\":\"{:?}\"}}", request.version());
            let grpc = request.uri().path() == "/grpc.health.v1.Health/Check";
            let mut trailers = http::HeaderMap::new();
            if grpc {
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                let known = asked.len() == 5 || asked.ends_with(b"shop");
                let status = if known { "0" } else { "5" };
                trailers.insert("grpc-status", status.parse().unwrap());
            }
            let body = if grpc {
                vec![0, 0, 0, 0, 2, 8, serving]
            } else {
                version.into_bytes()
            };
            let body = Full::new(bytes::Bytes::from(body))
                .with_trailers(async move { (!trailers.is_empty()).then_some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        },
    );
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[tokio::test]
async fn tls_is_verified_against_the_roots_and_the_name() {
    let (addr, trusting) = tls("127.0.0.1", &[b"h2", b"http/1.1"]).await;
    let h2 = http(json!({"version": "HTTP/2.0"}));
    let upstream = at("https://", addr);
    assert_eq!(reason_of(&trusting, &upstream, &h2).await, "passed");
    assert_eq!(
        reason(&upstream, &h2).await,
        "TLS: certificate is from an unknown issuer"
    );
    let named: UpstreamAddr = format!("https://app.test:{}", addr.port()).parse().unwrap();
    let named = Upstream::new(named, Target::Socket(addr));
    assert_eq!(
        reason_of(&trusting, &named, &h2).await,
        "TLS: certificate is not valid for `app.test`"
    );
    let (addr, trusting) = tls("127.0.0.1", &[]).await;
    let h1 = http(json!({"version": "HTTP/1.1"}));
    assert_eq!(
        reason_of(&trusting, &at("https://", addr), &h1).await,
        "passed"
    );
}

#[tokio::test]
async fn grpc_health_passes_only_when_serving() {
    let grpc = |service: &str| {
        health(Probe::Grpc {
            service: service.into(),
        })
    };
    let up = listen(|stream| serve_hyper(stream, 1)).await;
    assert_eq!(reason(&at("h2c://", up), &grpc("")).await, "passed");
    assert_eq!(reason(&at("", up), &grpc("shop")).await, "passed");
    assert_eq!(
        reason(&at("", up), &grpc("cart")).await,
        "no such gRPC service (NOT_FOUND)"
    );
    let down = listen(|stream| serve_hyper(stream, 2)).await;
    assert_eq!(
        reason(&at("", down), &grpc("")).await,
        "gRPC health is NOT_SERVING, expected SERVING"
    );
    let (addr, trusting) = tls("127.0.0.1", &[b"h2"]).await;
    assert_eq!(
        reason_of(&trusting, &at("https://", addr), &grpc("")).await,
        "passed"
    );
}

#[tokio::test]
async fn h2c_speaks_http_2_without_being_asked() {
    let addr = listen(|stream| serve_hyper(stream, 1)).await;
    let h2 = http(json!({"version": "HTTP/2.0"}));
    assert_eq!(reason(&at("h2c://", addr), &h2).await, "passed");
    assert_eq!(
        reason(&at("", addr), &h2).await,
        r#"field version is "HTTP/1.1", expected "HTTP/2.0""#
    );
}

#[test]
fn the_host_header_leaves_out_the_port_of_the_scheme() {
    let of = |text: &str| authority(&text.parse().unwrap());
    assert_eq!(of("app:80"), "app");
    assert_eq!(of("https://app:443"), "app");
    assert_eq!(of("https://app:80"), "app:80");
    assert_eq!(of("[::1]:3000"), "[::1]:3000");
    assert_eq!(of("unix:/run/app.sock"), "localhost");
}
