//! Answers in an upstream's place: by the steps of the site where it has some, by the built-in page
//! where it has not.

use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType as Fault, Result};

use super::admit::UNAVAILABLE;
use super::answer;
use super::edge::Edge;
use super::exchange::{Attempts, Exchange};
use super::handle::{self, Answer, Failure, Flow, Walk};
use super::head::Refusal;
use super::testimony::Testimony;

impl Edge {
    /// Answers with an error: by the steps of the site, if it has some. False: they ask a service,
    /// whose pool is claimed now.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        refusal: &Refusal,
    ) -> Result<bool> {
        exchange.error = Some(refusal.error);
        if exchange.handling.is_none() {
            answer::refuse(session, refusal).await?;
            return Ok(true);
        }
        Box::pin(self.fail(session, exchange, Failure::from(refusal))).await
    }

    pub(super) async fn fail(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        failure: Failure,
    ) -> Result<bool> {
        let mut walk = Walk {
            edge: self,
            session,
            exchange,
        };
        let mut flow = walk.fail(failure).await?;
        if let Flow::Proxy(step) = flow {
            match walk.chosen(step).and_then(|service| walk.claim(service)) {
                Some(()) => return Ok(false),
                None => flow = walk.fail(Failure::from(&UNAVAILABLE)).await?,
            }
        }
        match flow {
            Flow::Answered => Ok(true),
            _ => Err(Error::new_down(ABORTED)),
        }
    }

    /// Answers what a site with steps has left to do about a failed attempt. `Err`: there is nothing
    /// more to ask.
    pub(super) async fn answer_pending(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let handling = exchange.handling.as_deref_mut();
        let Some(failure) = handling.and_then(|handling| handling.pending.take()) else {
            return Ok(());
        };
        if session.as_ref().retry_buffer_truncated() {
            // What the first service got cannot be sent again.
            self.fail(session, exchange, handle::CANNOT_ASK_ANOTHER)
                .await?;
            return Err(Error::new_in(OVER));
        }
        match self.fail(session, exchange, failure).await? {
            true => Err(Error::new_in(OVER)),
            false => {
                exchange.attempts = Attempts::default();
                exchange.testimony = Testimony::Failed;
                Ok(())
            }
        }
    }

    /// Whether the `errors` steps of a site may ask another service now that nothing else is left to
    /// try. They do when the next attempt begins.
    pub(super) fn postpone(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        error: &Error,
    ) -> bool {
        let written = session.response_written().is_some();
        let Some(refusal) = answer::classify(error).filter(|_| !written) else {
            return false;
        };
        let mut walk = Walk {
            edge: self,
            session,
            exchange,
        };
        if walk.exchange.handling.is_none() || !walk.forwards_errors() {
            return false;
        }
        if let Some(handling) = walk.exchange.handling.as_deref_mut() {
            handling.pending = Some(Failure::from(&refusal));
        }
        true
    }

    /// The steps' part of an upstream's answer. `Err`: the answer is not for the client.
    pub(super) async fn handle_answer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        response: &mut ResponseHeader,
    ) -> Result<()> {
        let mut walk = Walk {
            edge: self,
            session,
            exchange,
        };
        match walk.upstream_answered(response).await? {
            Answer::Pass => Ok(()),
            Answer::Over => Err(Error::new_in(OVER)),
            Answer::Abort => Err(Error::new_down(ABORTED)),
            Answer::Ask(service) => {
                if walk.session.as_ref().retry_buffer_truncated() || walk.claim(service).is_none() {
                    walk.fail(handle::CANNOT_ASK_ANOTHER).await?;
                    return Err(Error::new_in(OVER));
                }
                exchange.first_byte = None;
                exchange.attempts = Attempts::default();
                exchange.testimony = Testimony::Failed;
                if let Some(handling) = exchange.handling.as_deref_mut() {
                    handling.moved = true;
                }
                let mut again = Error::new_in(Fault::HTTPStatus(response.status.as_u16()));
                again.set_retry(true);
                Err(again)
            }
        }
    }
}

/// Steps have answered in the place of an upstream.
pub(super) const OVER: Fault = Fault::Custom("answered by a step");

/// A connection that a step closes without an answer.
pub(super) const ABORTED: Fault = Fault::Custom("aborted by a step");
