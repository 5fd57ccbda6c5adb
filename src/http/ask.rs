//! One `GET` with a head that somebody else wrote.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;

use super::client::{Answer, Client, Origin};
use super::failure::{Failure, Phase};
use super::wire::{Alpn, read_body};
use crate::clock;

/// See [`Client::ask`].
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// To whom. Its authority is the `Host`.
    pub origin: &'a Origin,
    /// Path and query, starting with `/`.
    pub path: &'a str,
    /// Every field but `Host` and those of the connection.
    pub headers: HeaderMap,
    /// For everything from the connect to the last byte of the body.
    pub deadline: Duration,
    /// Reading stops here, in bytes.
    pub body_limit: usize,
}

impl Client {
    /// One `GET` on a fresh connection, redirects not followed.
    ///
    /// # Errors
    /// Anything short of a whole answer (or its first `body_limit` bytes) within the deadline.
    /// Cancel-safe: closes on drop.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let start = clock::now();
        let deadline = ask.deadline;
        let mut phase = Phase::Connect;
        let answer = self.ask_within(ask, &mut phase);
        let outcome = tokio::time::timeout(deadline, answer).await;
        let mut answer = outcome.map_err(|_| Failure::Timeout(phase, deadline))??;
        answer.elapsed = clock::now().saturating_duration_since(start);
        Ok(answer)
    }

    async fn ask_within(&self, ask: Ask<'_>, phase: &mut Phase) -> Result<Answer, Failure> {
        let mut request = Request::new(Full::<Bytes>::default());
        *request.headers_mut() = ask.headers;
        let wire = self.open(ask.origin, Alpn::Any, phase).await?;
        let open = clock::now();
        let (exchange, response) = wire.send(ask.origin, ask.path, request, phase).await?;
        let waited = clock::now().saturating_duration_since(open);
        *phase = Phase::Body;
        let (head, body) = response.into_parts();
        let (body, truncated, _) = read_body(body, ask.body_limit).await?;
        drop(exchange);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            truncated,
            elapsed: Duration::ZERO,
            waited,
        })
    }
}
