//! Bodies of answers: one buffer, or lines as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

use super::wire::{ControlError, ErrorBody, ErrorCode, JSON};

/// Any body of ours.
pub(super) type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A whole answer.
pub(super) fn full(
    status: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<AnyBody> {
    let mut response = Response::new(Full::new(bytes.into()).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<AnyBody> {
    match serde_json::to_vec(value) {
        Ok(bytes) => full(status, JSON, bytes),
        Err(error) => full(
            StatusCode::INTERNAL_SERVER_ERROR,
            JSON,
            format!(r#"{{"error":{{"code":"internal","message":"not JSON: {error}"}}}}"#),
        ),
    }
}

/// An error as JSON, with the status of its code.
pub(super) fn error(error: ControlError) -> Response<AnyBody> {
    json(error.code.status(), &ErrorBody { error })
}

/// An error with a code and a sentence.
pub(super) fn refuse(code: ErrorCode, message: impl Into<String>) -> Response<AnyBody> {
    error(ControlError::new(code, message))
}

/// A body that ends when the sender is dropped.
#[derive(Debug)]
pub(super) struct Lines(pub(super) mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|line| line.map(|bytes| Ok(Frame::data(bytes))))
    }
}
