//! Asks other servers on behalf of a request: an address, or the live slot of a service.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};

use crate::clock;
use crate::http::{Answer, Ask, Client, Dial, Failure, LookupError, Origin, Resolver};
use crate::model::{Endpoint, ErrorType, ServiceName, UpstreamAddr};
use crate::pool::{Affinity, Attempt, LiveTable, Target};

/// Addresses by name, and when they were looked up.
type Known = HashMap<Arc<str>, (Instant, Vec<IpAddr>)>;

/// The client and the resolver of questions.
#[derive(Debug)]
pub struct Outbound {
    client: Client,
    resolver: Arc<Resolver>,
    /// Addresses of the names in the configuration, each until it is to be looked up again.
    known: Mutex<Known>,
}

/// A `GET` with the head of a request.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Question {
    /// Path and query.
    pub(in crate::proxy) path: String,
    /// With `Host`.
    pub(in crate::proxy) headers: HeaderMap,
    /// For everything, the look-up of the name included.
    pub(in crate::proxy) deadline: Duration,
    /// Longest body, in bytes.
    pub(in crate::proxy) body_limit: usize,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::proxy) enum Unanswered {
    /// The service has no upstream that may be asked.
    #[error("no upstream is available")]
    Nobody,
    /// The name leads nowhere.
    #[error("{0}")]
    Lookup(LookupError),
    /// It was asked in vain.
    #[error("{0}")]
    Failed(Failure),
}

impl Unanswered {
    /// Whether it was the time that ran out.
    pub(in crate::proxy) const fn is_late(&self) -> bool {
        matches!(self, Self::Failed(Failure::Timeout(..)))
    }
}

impl Outbound {
    /// Asks with `client` whom `resolver` finds.
    #[must_use]
    pub fn new(client: Client, resolver: Arc<Resolver>) -> Self {
        Self {
            client,
            resolver,
            known: Mutex::default(),
        }
    }

    /// Asks an address. Of a name's addresses the next one is tried when one takes no connection.
    pub(in crate::proxy) async fn ask(
        &self,
        upstream: &UpstreamAddr,
        question: &Question,
    ) -> Result<Answer, Unanswered> {
        let late = Unanswered::Failed(Failure::Timeout(
            crate::http::Phase::Connect,
            question.deadline,
        ));
        let targets = tokio::time::timeout(question.deadline, self.targets(upstream));
        let targets = targets.await.unwrap_or(Err(late))?;
        let mut answer = Err(Unanswered::Nobody);
        for target in targets {
            answer = self.ask_target(upstream, &target, question).await;
            if !matches!(&answer, Err(Unanswered::Failed(Failure::Connect(_)))) {
                break;
            }
        }
        answer
    }

    /// Asks the live slot of a service: a request like any other for its counts, its balance and
    /// what ejects an upstream.
    pub(in crate::proxy) async fn ask_service(
        &self,
        table: &LiveTable,
        service: &ServiceName,
        client: IpAddr,
        question: &Question,
    ) -> Result<Answer, Unanswered> {
        let claim = table.claim_again(service).ok_or(Unanswered::Nobody)?;
        let slot = claim.pool().slot();
        let affinity = Affinity {
            client,
            header: None,
            cookie: None,
        };
        let picked = slot.pick(&affinity, &[]);
        let used = picked.map_err(|_| Unanswered::Nobody)?.upstream;
        let upstream = used.upstream();
        let asked = self.ask_target(upstream.configured(), upstream.target(), question);
        let answer = asked.await;
        let attempt = match &answer {
            Ok(answer) if answer.status.is_server_error() => Attempt::ServerError,
            Ok(_) => Attempt::Answered,
            Err(error) => {
                let kind = match error.is_late() {
                    true => ErrorType::HttpResponseTimeout,
                    false => ErrorType::DestinationUnavailable,
                };
                slot.metrics().upstream_error(upstream.label(), kind);
                Attempt::ConnectFailed
            }
        };
        if slot.record(upstream, attempt, clock::now()).is_some() {
            let (color, upstream) = (slot.color(), upstream.shown());
            tracing::warn!(%service, %color, %upstream, "upstream ejected after failures in a row");
        }
        answer
    }

    async fn ask_target(
        &self,
        upstream: &UpstreamAddr,
        target: &Target,
        question: &Question,
    ) -> Result<Answer, Unanswered> {
        let mut headers = question.headers.clone();
        let host = headers.remove(header::HOST);
        let host = host
            .as_ref()
            .and_then(|host: &HeaderValue| host.to_str().ok());
        let origin = Origin {
            dial: match target {
                Target::Socket(addr) => Dial::Tcp(*addr),
                Target::Unix(path) => Dial::Unix(path.clone()),
            },
            scheme: upstream.scheme(),
            authority: host.unwrap_or("localhost").to_owned(),
            tls_name: upstream.tls_name(),
        };
        let asked = self.client.ask(Ask {
            origin: &origin,
            path: &question.path,
            headers,
            deadline: question.deadline,
            body_limit: question.body_limit,
        });
        asked.await.map_err(Unanswered::Failed)
    }

    async fn targets(&self, upstream: &UpstreamAddr) -> Result<Vec<Target>, Unanswered> {
        let (host, port) = match upstream.endpoint() {
            Endpoint::Socket(addr) => return Ok(vec![Target::Socket(*addr)]),
            Endpoint::Unix(path) => return Ok(vec![Target::Unix(path.clone())]),
            Endpoint::Name { host, port } => (host, *port),
        };
        let now = clock::now();
        let fresh = self
            .lock()
            .get(host)
            .filter(|(until, _)| *until > now)
            .cloned();
        let addrs = match fresh {
            Some((_, addrs)) => addrs,
            None => {
                let found = self.resolver.lookup(host).await;
                let found = found.map_err(Unanswered::Lookup)?;
                let entry = (now + found.ttl, found.addrs.clone());
                self.lock().insert(Arc::clone(host), entry);
                found.addrs
            }
        };
        let target = |ip| Target::Socket(SocketAddr::new(ip, port));
        Ok(addrs.into_iter().map(target).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing inside can panic half-way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request and gives its head.
    async fn answer_one(listener: TcpListener, answer: &'static str) -> String {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("a head");
            head.extend(byte);
        }
        stream
            .write_all(answer.as_bytes())
            .await
            .expect("an answer");
        String::from_utf8(head).expect("text")
    }

    fn question() -> Question {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("app.example"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("browser"));
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b"));
        Question {
            path: "/verify?x=1".to_owned(),
            headers,
            deadline: Duration::from_secs(5),
            body_limit: 4,
        }
    }

    fn outbound() -> Outbound {
        let client = Client::with_roots(rustls::RootCertStore::empty());
        Outbound::new(client, Arc::new(Resolver::system()))
    }

    #[tokio::test]
    async fn a_name_is_asked_with_the_head_of_the_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let upstream: UpstreamAddr = format!("localhost:{port}").parse().expect("an address");
        let served = answer_one(
            listener,
            "HTTP/1.1 401 No\r\ncontent-length: 6\r\n\r\nlonger",
        );
        let (outbound, question) = (outbound(), question());
        let (head, answer) = tokio::join!(served, outbound.ask(&upstream, &question));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 401);
        assert_eq!((&*answer.body, answer.truncated), (&b"long"[..], true));
        assert!(head.starts_with("GET /verify?x=1 HTTP/1.1\r\n"), "{head}");
        for line in ["host: app.example", "user-agent: browser", "cookie: a=b"] {
            assert_eq!(
                head.matches(&format!("\r\n{line}\r\n")).count(),
                1,
                "{line} in {head}"
            );
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_late_and_who_is_not_there_is_not() {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = silent.local_addr().expect("an address").to_string();
        let mut question = question();
        question.deadline = Duration::from_millis(50);
        let outbound = outbound();
        let asked = outbound
            .ask(&address.parse().expect("an address"), &question)
            .await;
        assert!(asked.expect_err("no answer").is_late());
        drop(silent);
        question.deadline = Duration::from_secs(5);
        let asked = outbound
            .ask(&address.parse().expect("an address"), &question)
            .await;
        assert!(!asked.expect_err("nobody").is_late());
    }
}
