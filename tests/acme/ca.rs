//! A CA that misbehaves, or that has renewal information.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cutover::acme::Issuer;
use cutover::clock;
use cutover::config::Acme;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    /// Nobody listens.
    Down,
    /// Never answers.
    Slow,
    /// Answers 200 and nonsense.
    Garbage,
    /// Answers 500.
    Broken,
    /// Refuses accounts for so long.
    Limited(Duration),
    /// Is named so in CAA records.
    Named(&'static str),
    /// Wants certificates renewed between then and twice then.
    Suggests(Duration),
}

pub(crate) struct Misbehaving {
    port: u16,
    asked: Arc<AtomicUsize>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Misbehaving {
    pub(crate) async fn start(mood: Mood) -> Self {
        cutover::tls::install_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let task = (!matches!(mood, Mood::Down)).then(|| {
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(answer(stream, mood, port));
                }
            })
        });
        Self { port, asked, task }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn issuer(&self) -> Issuer {
        let acme = Acme {
            directory: format!("http://127.0.0.1:{}/dir", self.port),
            ..Acme::default()
        };
        Issuer::from_config(&acme).expect("an issuer").remove(0)
    }
}

async fn answer(mut stream: TcpStream, mood: Mood, port: u16) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let directory = serde_json::json!({
        "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
        "renewalInfo": url("/renewal"),
        "meta": {"caaIdentities": if let Mood::Named(name) = mood { vec![name] } else { Vec::new() }},
    });
    let nonce = "Replay-Nonce: abc\r\n".to_owned();
    let (status, headers, body) = match mood {
        Mood::Down => return,
        Mood::Slow => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return;
        }
        Mood::Garbage => ("200 OK", String::new(), "<html>hello</html>".to_owned()),
        Mood::Broken => ("500 Internal Server Error", String::new(), "no".to_owned()),
        Mood::Limited(_) | Mood::Suggests(_) | Mood::Named(_) if path == "/dir" => {
            ("200 OK", String::new(), directory.to_string())
        }
        // Asked for nothing else while CAA forbids it.
        Mood::Named(_) => return,
        Mood::Limited(_) if path == "/nonce" => ("200 OK", nonce, String::new()),
        Mood::Limited(wait) => {
            let body = serde_json::json!({
                "type": "urn:ietf:params:acme:error:rateLimited",
                "detail": "too many accounts",
            });
            let retry = format!("{nonce}Retry-After: {}\r\n", wait.as_secs());
            ("429 Too Many Requests", retry, body.to_string())
        }
        Mood::Suggests(wait) => {
            let time = |after| clock::rfc3339(clock::wall() + after);
            let window = serde_json::json!({
                "suggestedWindow": {"start": time(wait), "end": time(wait * 2)},
            });
            (
                "200 OK",
                "Retry-After: 3600\r\n".to_owned(),
                window.to_string(),
            )
        }
    };
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
}
