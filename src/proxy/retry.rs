//! What is tried again after an attempt that failed.
//!
//! Three ways to fail, each with its own rule. Nothing was sent: any method may be tried elsewhere.
//! The connection broke before any of an answer was passed on: GET and HEAD, once. An answer came that
//! the service wants to be tried again, or none in the time of one attempt: safe methods without a
//! body. Every further attempt takes a token of the slot's budget, except one on a kept connection that
//! its upstream closed meanwhile, which says nothing of the upstream.
//!
//! While no upstream can be had at all, a service may let its requests wait
//! ([`Edge::wait_for_upstream`]); those tries are paced and not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::{Method, header};
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType as Fault, Result};
use tokio::task::AbortHandle;

use super::connect::Pace;
use super::edge::Edge;
use super::exchange::Exchange;
use super::request::client_leaves;
use crate::clock;
use crate::pool::{OpenConnection, SlotSettings};

impl Edge {
    /// Chooses an upstream; with `retry.try_duration` waits for one that can be had.
    pub(super) async fn wait_for_upstream(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        if std::mem::take(&mut exchange.attempts.pause) {
            self.pause(session, exchange).await?;
        }
        loop {
            match self.choose(session, exchange) {
                Err(error) if *error.etype() == NONE && exchange.may_wait() => {
                    self.pause(session, exchange).await?;
                }
                chosen => return chosen,
            }
        }
    }

    /// Lets `retry.try_interval` pass, and forgets who failed before it.
    async fn pause(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        let Some(settings) = exchange.slot_settings() else {
            return Ok(());
        };
        tokio::select! {
            left = client_leaves(session) => return Err(left),
            () = tokio::time::sleep(settings.retry.try_interval) => {}
        }
        exchange.attempts.forget();
        self.move_with_the_switch(session.req_header(), exchange);
        Ok(())
    }

    /// Whether a request is tried again of which nothing was sent.
    pub(super) fn connects_again(&self, exchange: &mut Exchange) -> bool {
        let Some(settings) = exchange.slot_settings() else {
            return false;
        };
        if !settings.retry.on.connect {
            return false;
        }
        if exchange.attempts.made < self.attempts(&settings) && exchange.withdraw() {
            return true;
        }
        exchange.attempts.pause = exchange.may_wait();
        exchange.attempts.pause
    }

    /// Whether a request is sent again whose connection broke before an answer.
    pub(super) fn repeats_again(&self, exchange: &Exchange) -> bool {
        let Some(settings) = exchange.slot_settings() else {
            return false;
        };
        settings.retry.on.connect
            && exchange.attempts.made + 1 < self.attempts(&settings)
            && exchange.withdraw()
    }

    /// Whether an answer of this status is thrown away and asked for again.
    pub(super) fn answers_again(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        status: u16,
    ) -> bool {
        let Some(settings) = exchange.slot_settings() else {
            return false;
        };
        settings.retry.on.status(status) && self.goes_again(session, exchange, &settings)
    }

    /// Whether a request that was not answered in the time of one attempt is sent again.
    pub(super) fn times_out_again(&self, session: &mut Session, exchange: &mut Exchange) -> bool {
        let Some(settings) = exchange.slot_settings() else {
            return false;
        };
        settings.retry.on.timeout && self.goes_again(session, exchange, &settings)
    }

    /// The upstream may have seen it, so only what is safe to send twice.
    fn goes_again(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        settings: &SlotSettings,
    ) -> bool {
        exchange.attempts.made + 1 < self.attempts(settings)
            && is_repeatable(session)
            && exchange.withdraw()
    }

    fn attempts(&self, settings: &SlotSettings) -> usize {
        let all = || self.settings().limits.attempts;
        settings.retry.attempts.unwrap_or_else(all)
    }
}

impl Exchange {
    /// What the service that was claimed says of its requests.
    pub(super) fn slot_settings(&self) -> Option<Arc<SlotSettings>> {
        Some(self.claim.as_ref()?.pool().slot().settings())
    }

    /// Remembers that the chosen upstream failed this request.
    pub(super) fn failed_upstream(&mut self) {
        if let Some(used) = &self.upstream {
            self.attempts.add(used.upstream().id());
        }
    }

    /// Starts the time of an attempt on a connection of its own. A request with a body is not
    /// timed: how long that takes is the client's business.
    pub(super) fn time_attempt(&mut self, session: &mut Session) {
        let limit = self.slot_settings();
        let limit = limit.and_then(|settings| settings.retry.per_try_timeout);
        let (Some(limit), Some(connection), Pace::Exchange) = (limit, &self.connection, self.pace)
        else {
            return;
        };
        if !session.as_mut().is_body_empty() {
            return;
        }
        let began = self.attempt_started.unwrap_or_else(clock::now);
        let passed = clock::now().saturating_duration_since(began);
        let left = limit.saturating_sub(passed);
        self.timer = Some(TryTimer::start(connection.clone(), left));
    }

    /// Whether an error of the upstream is the end of the time of one attempt.
    pub(super) fn is_late(&self, error: &Error) -> bool {
        let limit = self.slot_settings();
        let limit = limit.and_then(|settings| settings.retry.per_try_timeout);
        *error.etype() == Fault::ReadTimedout && limit.is_some()
    }

    /// Takes a token of the budget of the slot that was claimed.
    fn withdraw(&self) -> bool {
        let claim = self.claim.as_ref();
        claim.is_some_and(|claim| claim.pool().slot().may_retry(clock::now()))
    }

    /// Whether another try still begins within `retry.try_duration`.
    fn may_wait(&self) -> bool {
        let Some(settings) = self.slot_settings() else {
            return false;
        };
        let passed = clock::now().saturating_duration_since(self.started);
        let retry = &settings.retry;
        // A rescue has its own hurry: somebody else answers, or nobody does.
        self.rescuer().is_none() && passed + retry.try_interval < retry.try_duration
    }
}

/// What [`Edge::choose`] says when there is none.
pub(super) const NONE: Fault = Fault::HTTPStatus(503);

/// A safe method (RFC 9110 §9.2.1) without a body, of which no answer has begun.
fn is_repeatable(session: &mut Session) -> bool {
    let request = session.req_header();
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE];
    safe.contains(&request.method)
        && !carries_body(&request.headers)
        && !session.is_upgrade_req()
        && session.response_written().is_none()
        && session.as_mut().is_body_empty()
}

/// Whether a head announces a body.
pub(super) fn carries_body(headers: &http::HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// Ends the connection of one attempt that is not answered in time. Dropping it ends the timer.
#[derive(Debug)]
pub(super) struct TryTimer {
    state: Arc<AtomicU8>,
    task: AbortHandle,
}

const WAITING: u8 = 0;
const ANSWERED: u8 = 1;
const EXPIRED: u8 = 2;

impl TryTimer {
    /// Times what `connection` carries.
    pub(super) fn start(connection: OpenConnection, after: Duration) -> Self {
        let state = Arc::new(AtomicU8::new(WAITING));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if advance(&shared, EXPIRED) {
                connection.end();
            }
        });
        Self {
            state,
            task: task.abort_handle(),
        }
    }

    /// A response head has come. False: too late, the connection is ended.
    pub(super) fn answered(&self) -> bool {
        advance(&self.state, ANSWERED)
    }

    /// Whether the time passed.
    pub(super) fn has_expired(&self) -> bool {
        self.state.load(Ordering::Acquire) == EXPIRED
    }
}

impl Drop for TryTimer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whoever is first decides.
fn advance(state: &AtomicU8, to: u8) -> bool {
    let ordering = (Ordering::AcqRel, Ordering::Acquire);
    state
        .compare_exchange(WAITING, to, ordering.0, ordering.1)
        .is_ok()
}

/// The error of an attempt that was not answered in time.
pub(super) fn expired() -> Box<Error> {
    Error::new_up(Fault::ReadTimedout)
}
