use std::io::{Read, Write};
use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;

struct Fake(Mutex<Result<(), String>>);

impl OpsSource for Fake {
    fn metrics(&self) -> String {
        "cutover_live{service=\"web\",color=\"blue\"} 1\n".to_owned()
    }

    fn ready(&self) -> Result<(), String> {
        self.0.lock().unwrap().clone()
    }
}

struct Ops {
    addr: SocketAddr,
    fake: Arc<Fake>,
    allow: Arc<ArcSwap<IpSet>>,
    _stop: oneshot::Sender<()>,
}

async fn ops(networks: &[&str]) -> Ops {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let fake = Arc::new(Fake(Mutex::new(Ok(()))));
    let allow = Arc::new(ArcSwap::from_pointee(set(networks)));
    let (stop, stopped) = oneshot::channel::<()>();
    let source = Arc::clone(&fake) as Arc<dyn OpsSource>;
    tokio::spawn(serve(listener, source, Arc::clone(&allow), async {
        let _ = stopped.await;
    }));
    Ops {
        addr,
        fake,
        allow,
        _stop: stop,
    }
}

fn set(networks: &[&str]) -> IpSet {
    IpSet(networks.iter().map(|net| net.parse().unwrap()).collect())
}

impl Ops {
    /// Sends bytes, returns everything that comes back.
    async fn raw(&self, head: &str) -> String {
        let (addr, head) = (self.addr, head.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .await
        .unwrap()
    }

    async fn ask(&self, method: &str, path: &str, host: &str) -> String {
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
        .await
    }
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn pages_say_what_the_daemon_says() {
    let ops = ops(&["127.0.0.0/8"]).await;
    let metrics = ops.ask("GET", "/metrics", "127.0.0.1:9180").await;
    assert_eq!(status(&metrics), "200");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"));
    assert!(metrics.ends_with("cutover_live{service=\"web\",color=\"blue\"} 1\n"));
    assert!(
        ops.ask("GET", "/healthz", "localhost")
            .await
            .ends_with("ok\n")
    );
    let head = ops.ask("HEAD", "/metrics", "localhost").await;
    assert_eq!(status(&head), "200");
    assert!(head.ends_with("\r\n\r\n"), "a HEAD has no body: {head}");
    assert_eq!(status(&ops.ask("GET", "/x", "localhost").await), "404");
    assert!(
        ops.ask("GET", "/", "localhost")
            .await
            .contains("<a href=\"/metrics\">")
    );
}

#[tokio::test]
async fn readyz_is_503_with_the_reason_while_healthz_stays_200() {
    let ops = ops(&["127.0.0.0/8"]).await;
    assert_eq!(status(&ops.ask("GET", "/readyz", "localhost").await), "200");
    *ops.fake.0.lock().unwrap() = Err("shutting down".to_owned());
    let answer = ops.ask("GET", "/readyz", "localhost").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.ends_with("not ready: shutting down\n"));
    assert_eq!(
        status(&ops.ask("GET", "/healthz", "localhost").await),
        "200"
    );
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let ops = ops(&["127.0.0.0/8"]).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = ops.ask(method, "/metrics", "localhost").await;
        assert_eq!(status(&answer), "405", "{method}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_foreign_network_is_refused_until_a_reload_lets_it_in() {
    let ops = ops(&["10.0.0.0/8"]).await;
    assert_eq!(
        status(&ops.ask("GET", "/metrics", "localhost").await),
        "403"
    );
    ops.allow.store(Arc::new(set(&["127.0.0.0/8"])));
    assert_eq!(
        status(&ops.ask("GET", "/metrics", "localhost").await),
        "200"
    );
}

#[tokio::test]
async fn a_rebound_name_is_refused_wherever_it_stands() {
    let ops = ops(&["127.0.0.0/8"]).await;
    assert_eq!(
        status(&ops.ask("GET", "/metrics", "evil.example:9180").await),
        "403"
    );
    let absolute = ops
        .ask("GET", "http://evil.example/metrics", "localhost")
        .await;
    assert_eq!(status(&absolute), "403");
    let two = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&ops.raw(two).await), "400");
    let none = "GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&ops.raw(none).await), "400");
    let old = "GET /metrics HTTP/1.0\r\n\r\n";
    assert_eq!(status(&ops.raw(old).await), "200");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let ops = ops(&["127.0.0.0/8"]).await;
    let answer = ops
        .raw(&format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}",
            "x".repeat(MAX_HEAD_BYTES)
        ))
        .await;
    assert_eq!(status(&answer), "431", "{answer}");
}

#[test]
fn trusted_authorities_are_addresses_localhost_and_dotless_names() {
    for good in [
        "localhost",
        "localhost:9180",
        "proxy",
        "my_proxy-1:80",
        "127.0.0.1",
        "192.168.1.7:9180",
        "[::1]",
        "[2001:db8::1]:9180",
    ] {
        assert!(is_trusted(good), "{good}");
    }
    for bad in [
        "",
        ":80",
        "example.com",
        "localhost.example.com:80",
        "127.0.0.1.nip.io",
        "evil.",
        "a b",
        "user@localhost",
        "[::1].evil.com",
        "[evil.com]",
        "localhost:80:80",
        "localhost:8x",
    ] {
        assert!(!is_trusted(bad), "{bad}");
    }
}
