//! What a request tells of the release that it was for, and who answers it when that fails.
//!
//! Only the first attempt speaks. While a release is under watch and its predecessor is there to
//! help, a request that may be repeated goes to the predecessor instead of failing, and both
//! outcomes are told.

use std::sync::Arc;

use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::exchange::Exchange;
use super::request::is_grpc;
use super::retry::carries_body;
use crate::clock;
use crate::model::{ErrorType, Kind};
use crate::pool::{Failure, Pool};

/// How far a request is with what it tells.
#[derive(Debug, Default)]
pub(super) enum Testimony {
    /// The first attempt is on its way.
    #[default]
    Open,
    /// It was answered: only a cut body could speak against it.
    Answered,
    /// It failed, and that is told.
    Failed,
    /// It failed, and the predecessor is asked.
    Rescuing {
        /// Which failed.
        from: Arc<Pool>,
        /// Who is asked.
        to: Arc<Pool>,
        /// How.
        what: String,
    },
    /// The predecessor answered.
    Rescued,
}

/// Whether a status speaks against a release.
pub(super) fn is_failure(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

/// Codes of gRPC that say the same: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE,
/// DATA_LOSS.
fn is_grpc_failure(head: &http::HeaderMap) -> bool {
    let status = head.get("grpc-status");
    status.is_some_and(|status| matches!(status.as_bytes(), b"2" | b"4" | b"13" | b"14" | b"15"))
}

impl Exchange {
    /// Whether the predecessor answered instead.
    pub(super) fn was_rescued(&self) -> bool {
        matches!(self.testimony, Testimony::Rescued)
    }

    /// Who answers the next attempt instead of the live pool.
    pub(super) fn rescuer(&self) -> Option<&Arc<Pool>> {
        match &self.testimony {
            Testimony::Rescuing { to, .. } => Some(to),
            Testimony::Open | Testimony::Answered | Testimony::Failed | Testimony::Rescued => None,
        }
    }

    /// A response head has come. True: it is to be thrown away, the predecessor is asked.
    pub(super) fn head_came(
        &mut self,
        session: &mut Session,
        response: &ResponseHeader,
        becomes_stream: bool,
    ) -> Heard {
        let status = response.status.as_u16();
        let fails = is_failure(status) || is_grpc_failure(&response.headers);
        match &self.testimony {
            Testimony::Open if fails => {
                let what = status.to_string();
                if self.ask_predecessor(session, &what, true) {
                    return Heard::Again;
                }
                self.failed(session.req_header(), &what);
            }
            Testimony::Open => self.answered(session.req_header(), status, becomes_stream),
            Testimony::Rescuing { .. } => return self.rescue_over(session.req_header(), !fails),
            Testimony::Answered | Testimony::Failed | Testimony::Rescued => {}
        }
        Heard::Pass
    }

    /// An attempt ended without a response. `sent`: the upstream may have seen the request.
    /// True: the predecessor is asked.
    pub(super) fn attempt_failed(
        &mut self,
        session: &mut Session,
        error: Option<ErrorType>,
        sent: bool,
    ) -> bool {
        let what = error.map_or("no answer", ErrorType::as_str);
        match &self.testimony {
            Testimony::Open => {
                if self.ask_predecessor(session, what, sent) {
                    return true;
                }
                self.failed(session.req_header(), what);
            }
            Testimony::Rescuing { .. } => {
                self.rescue_over(session.req_header(), false);
            }
            // A stream ends in many ways that are nobody's failure.
            Testimony::Answered if self.kind() == Kind::Request => {
                self.broke(session.req_header(), what);
            }
            Testimony::Answered => {}
            Testimony::Failed | Testimony::Rescued => {}
        }
        false
    }

    /// Trailers of gRPC say how the call ended.
    pub(super) fn trailers_came(&mut self, request: &RequestHeader, trailers: &http::HeaderMap) {
        if matches!(self.testimony, Testimony::Answered) && is_grpc_failure(trailers) {
            self.broke(request, "grpc-status");
        }
    }

    /// Finds the predecessor for a request that may be repeated.
    fn ask_predecessor(&mut self, session: &mut Session, what: &str, sent: bool) -> bool {
        let Some(claim) = &self.claim else {
            return false;
        };
        let evidence = claim.pool().evidence();
        if !evidence.is_watched() || session.response_written().is_some() {
            return false;
        }
        let is_upgrade = session.is_upgrade_req();
        let request = session.req_header();
        let is_safe = evidence.may_repeat(self.method(request));
        let has_body = carries_body(&request.headers);
        if sent && (!is_safe || has_body || is_upgrade || !session.as_mut().is_body_empty()) {
            return false;
        }
        if has_body && session.as_ref().retry_buffer_truncated() {
            return false;
        }
        let Some(to) = evidence.rescuer(clock::now()) else {
            return false;
        };
        let from = Arc::clone(claim.pool());
        let what = what.to_owned();
        self.testimony = Testimony::Rescuing { from, to, what };
        true
    }

    fn answered(&mut self, request: &RequestHeader, status: u16, is_stream: bool) {
        let Some(claim) = &self.claim else {
            return;
        };
        let is_stream = is_stream || is_grpc(request);
        claim.pool().evidence().answered(
            self.client.ip,
            request.uri.path(),
            status,
            self.first_byte.filter(|_| !is_stream),
            *self.method(request) == Method::GET,
        );
        self.testimony = Testimony::Answered;
    }

    fn failed(&mut self, request: &RequestHeader, what: &str) {
        if let Some(claim) = &self.claim {
            let failure = self.failure(request, what);
            claim.pool().evidence().failed(clock::now(), &failure);
        }
        self.testimony = Testimony::Failed;
    }

    fn broke(&mut self, request: &RequestHeader, what: &str) {
        if let Some(claim) = &self.claim {
            let failure = self.failure(request, what);
            claim.pool().evidence().broke(clock::now(), &failure);
        }
        self.testimony = Testimony::Failed;
    }

    fn rescue_over(&mut self, request: &RequestHeader, answered: bool) -> Heard {
        let done = if answered {
            Testimony::Rescued
        } else {
            Testimony::Failed
        };
        if let Testimony::Rescuing { from, what, .. } = std::mem::replace(&mut self.testimony, done)
        {
            let failure = self.failure(request, &what);
            from.evidence().rescued(clock::now(), &failure, answered);
        }
        if answered {
            Heard::Rescued
        } else {
            Heard::Pass
        }
    }

    fn failure<'a>(&'a self, request: &'a RequestHeader, what: &'a str) -> Failure<'a> {
        Failure {
            client: self.client.ip,
            path: request.uri.path(),
            what,
            request_id: &self.request_id,
        }
    }
}

/// What is to be done with a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It goes to the client.
    Pass,
    /// It goes to the client, who would have seen an error without it.
    Rescued,
    /// It is thrown away, and the predecessor is asked.
    Again,
}
