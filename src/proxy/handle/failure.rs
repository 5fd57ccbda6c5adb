//! What went wrong, and who answers it: the `errors` steps of the site, else the built-in page.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::run::{Flow, Outcome, Walk};
use super::write::Body;
use crate::model::ErrorType;
use crate::proxy::answer;
use crate::proxy::head::Refusal;

/// Why a request is not answered as it was meant to be.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Failure {
    /// 400 to 599.
    pub(super) status: u16,
    /// For `Proxy-Status` and the access log.
    pub(super) error: ErrorType,
    /// One sentence for a person, without anything the client sent.
    pub(super) why: &'static str,
    /// `{err.message}`; `None`: as `why`.
    pub(super) message: Option<String>,
    /// Fields that the answer must have whoever writes it, such as `WWW-Authenticate`.
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// A failure with a status of 400 to 599.
    pub(in crate::proxy) const fn new(status: u16, error: ErrorType, why: &'static str) -> Self {
        Self {
            status,
            error,
            why,
            message: None,
            fields: Vec::new(),
        }
    }

    /// 404.
    pub(super) const fn not_found() -> Self {
        Self::new(
            404,
            ErrorType::DestinationNotFound,
            "Nothing is served under this path.",
        )
    }

    /// With a field that the answer must have.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }

    /// `{err.message}`.
    pub(super) fn message(&self) -> &str {
        self.message.as_deref().unwrap_or(self.why)
    }

    fn refusal(&self) -> Refusal {
        Refusal::new(self.status, self.error, self.why)
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        Self::new(refusal.status, refusal.error, refusal.why)
    }
}

impl Walk<'_> {
    /// Answers a failure. Flow::Next is never returned: it is answered, cut, or goes to the
    /// service of a `proxy` step among the `errors` steps.
    pub(in crate::proxy) async fn fail(&mut self, failure: Failure) -> Outcome {
        self.exchange.error = Some(failure.error);
        let Some(handling) = self.exchange.handling.as_deref_mut() else {
            answer::refuse(self.session, &failure.refusal()).await?;
            return Ok(Flow::Answered);
        };
        let errors = handling.site.errors.clone();
        // One that comes while another is being answered is not answered by the same steps.
        let first = handling.failure.replace(failure).is_none();
        if first && !errors.is_empty() {
            self.restore();
            match self.run(&errors).await? {
                // Nothing is there to copy.
                Flow::Next | Flow::Copy(_) => {}
                // What cannot be answered nicely is still what it was (as in Caddy).
                Flow::Fail(second) => {
                    tracing::debug!(status = second.status, "the steps for an error failed");
                }
                over => return Ok(over),
            }
        }
        let Some(failure) = self.handling().failure.clone() else {
            return Ok(Flow::Next);
        };
        let (head, body) = answer::page(self.session.req_header(), &failure.refusal())?;
        self.answer(head, Body::Bytes(body)).await
    }

    /// The errors' steps see the request as it came: method and target, not the fields.
    fn restore(&mut self) {
        let handling = self.handling();
        handling.method = None;
        let original = handling.original.uri.clone();
        self.session.req_header_mut().set_uri(original);
    }
}

/// The phrase of a status, empty for one that has none.
pub(super) fn reason(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    status
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default()
}

/// A failure for an action that cannot be carried out, with a line in the log.
pub(super) fn not_possible(site: &Arc<crate::pool::SiteEntry>, what: &str) -> Failure {
    tracing::error!(site = %site.name, what, "a step cannot be carried out");
    Failure::new(
        500,
        ErrorType::ProxyConfigurationError,
        "The proxy failed to handle the request.",
    )
}
