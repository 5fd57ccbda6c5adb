//! `body_limit`: the longest body of a request.

use http::header::CONTENT_LENGTH;
use pingora::proxy::Session;
use pingora::{Error, ErrorType as Fault, Result};

use super::failure::Failure;
use super::run::{Flow, Walk};
use crate::config::step::BodyLimit;
use crate::model::ErrorType;
use crate::proxy::exchange::Exchange;

/// Refuses a `Content-Length` above the limit with 413; any other body is counted as it comes. The
/// smallest of several limits counts.
pub(super) fn begin(walk: &mut Walk<'_>, limit: BodyLimit) -> Flow {
    let headers = &walk.session.req_header().headers;
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    let length: Option<u64> = length.and_then(|length| length.parse().ok());
    if length.is_some_and(|length| length > limit.bytes) {
        return Flow::Fail(Failure::new(
            413,
            ErrorType::HttpRequestError,
            "The request body is too large.",
        ));
    }
    let before = walk.handling().body_limit.unwrap_or(u64::MAX);
    walk.handling().body_limit = Some(before.min(limit.bytes));
    Flow::Next
}

/// Holds a body to the limit before its newest piece goes to the upstream.
///
/// # Errors
/// 413: nothing more goes there.
pub(in crate::proxy) fn hold(session: &Session, exchange: &Exchange) -> Result<()> {
    let handling = exchange.handling.as_deref();
    let Some(limit) = handling.and_then(|handling| handling.body_limit) else {
        return Ok(());
    };
    // What was read, and not what passed here: a repeated attempt sends the same piece again. What
    // follows an upgrade is no body.
    let read = session.body_bytes_read() as u64;
    if read > limit && !session.was_upgraded() {
        return Err(Error::new_down(Fault::HTTPStatus(413)));
    }
    Ok(())
}
