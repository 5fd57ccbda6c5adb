//! Reads the beginning of a request's body for `{body}`, so that an upstream still gets all of it.
//!
//! Pingora keeps what it reads up to 64 KiB to be able to send it again, and begins with that when it
//! forwards the request. Of a longer body the beginning is kept here and given back before the next
//! piece; so that there is one, its last 64 KiB are never read in advance.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::Result;

use super::failure::Failure;
use super::run::{Flow, Walk};
use super::state::Handling;
use crate::model::ErrorType;

/// What is read for the placeholder, and what pingora keeps.
const MOST: usize = 64 * 1024;

/// A body without a length whose end was met in advance.
const TOO_LONG: Failure = Failure::new(
    413,
    ErrorType::HttpRequestError,
    "The request's body is too long to be looked into.",
);

impl Walk<'_> {
    /// Fills `{body}`, once. `Some`: the body cannot be looked into and sent on as well.
    pub(super) async fn read_body(&mut self) -> Result<Option<Flow>> {
        if self.handling().body.is_some() || self.handling().upstream.is_some() {
            return Ok(None);
        }
        let length = self
            .session
            .req_header()
            .headers
            .get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        self.session.as_mut().enable_retry_buffering();
        let mut read = BytesMut::new();
        while read.len() < MOST {
            let left = length.map(|length| length.saturating_sub(read.len()));
            let is_long = length.is_some_and(|length| length > MOST);
            if is_long && left.is_some_and(|left| left <= MOST) {
                break;
            }
            match self.session.as_mut().read_request_body().await? {
                Some(piece) => read.extend_from_slice(&piece),
                None => break,
            }
        }
        let read = read.freeze();
        let lost = read.len() > MOST;
        let ended = self.session.as_mut().is_body_done();
        let handling = self.handling();
        handling.body = Some(read.slice(..read.len().min(MOST)));
        if lost {
            handling.unsent = Some(read);
        }
        Ok((lost && ended).then_some(Flow::Fail(TOO_LONG)))
    }
}

/// Gives back what was read in advance, before `piece`.
pub(super) fn give_back(handling: &mut Handling, piece: &mut Option<Bytes>) {
    let Some(unsent) = handling.unsent.take() else {
        return;
    };
    let rest = piece.take().unwrap_or_default();
    let mut whole = BytesMut::with_capacity(unsent.len() + rest.len());
    whole.extend_from_slice(&unsent);
    whole.extend_from_slice(&rest);
    *piece = Some(whole.freeze());
}
