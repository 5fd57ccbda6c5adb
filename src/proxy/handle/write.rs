//! How an answer that no upstream gave is written.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType as Fault};

use super::response;
use super::run::{Flow, Outcome, Walk};
use crate::proxy::request::finish_body;

/// The body of an answer.
pub(super) enum Body {
    /// None, not even with `Content-Length: 0`, unless the head says so.
    Empty,
    /// In memory.
    Bytes(Bytes),
    /// Piece by piece. The head should have a `Content-Length`; without one it is chunked.
    Stream(Box<dyn Source>),
}

/// Where the pieces of a body come from.
#[async_trait]
pub(super) trait Source: Send {
    /// The next piece, never empty; `None`: the end.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>>;
}

impl Walk<'_> {
    /// Answers with a head and a body, which go through every change of the answer that steps
    /// asked for. A HEAD gets the head alone. Always [`Flow::Answered`].
    pub(super) async fn answer(&mut self, mut head: ResponseHeader, body: Body) -> Outcome {
        let status = head.status;
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || status.is_informational();
        if let Body::Bytes(bytes) = &body
            && !bodiless
            && !head.headers.contains_key(header::CONTENT_LENGTH)
        {
            head.insert_header(header::CONTENT_LENGTH, bytes.len())?;
        }
        response::early(self.exchange, &mut head)?;
        response::failure(self.exchange, &mut head)?;
        response::deferred(self.session, self.exchange, &mut head)?;
        if let Some(hsts) = self.exchange.hsts.take() {
            head.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts)?;
        }
        finish_body(self.session).await;
        if self.handling().upstream.is_some() {
            // Pingora closes a connection whose upstream's answer is dropped.
            self.session.set_keepalive(None);
        }
        self.handling().over = true;
        let head_only = bodiless || self.session.req_header().method == Method::HEAD;
        let chunked = !head_only && !head.headers.contains_key(header::CONTENT_LENGTH);
        if chunked && !self.session.is_http2() {
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        let head = Box::new(head);
        self.session.write_response_header(head, head_only).await?;
        if !head_only {
            self.body(body).await?;
        }
        Ok(Flow::Answered)
    }

    async fn body(&mut self, body: Body) -> pingora::Result<()> {
        match body {
            Body::Empty => self.piece(None, true).await,
            Body::Bytes(bytes) => self.piece(Some(bytes), true).await,
            Body::Stream(mut source) => loop {
                let piece = source.next().await.map_err(|error| {
                    Error::because(Fault::InternalError, "reading an answer's body", error)
                })?;
                let end = piece.is_none();
                self.piece(piece, end).await?;
                if end {
                    return Ok(());
                }
            },
        }
    }

    async fn piece(&mut self, mut piece: Option<Bytes>, end: bool) -> pingora::Result<()> {
        if let Some(encoder) = &mut self.handling().encoder {
            encoder.push(&mut piece, end)?;
            // Compressing takes its time, and a fast client never makes this request wait.
            tokio::task::yield_now().await;
        }
        self.session.write_response_body(piece, end).await
    }
}
