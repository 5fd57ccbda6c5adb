//! Pingora's phases for one request: check, route, claim, pick, forward, retry, answer, log.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType as Fault, Result};

use super::access_log::AccessLog;
use super::admit::Admitted;
use super::answer;
use super::connect::{self, Opened};
use super::event_stream::EventStream;
use super::exchange::Exchange;
use super::forwarded;
use super::front::Connection;
use super::guard::Outbound;
use super::handle;
use super::instead::{ABORTED, OVER};
use super::logged::asked_for;
use super::request::{is_event_stream, is_grpc};
use super::retry;
use super::settings::Settings;
use super::testimony::Heard;
use crate::clock;
use crate::metrics::{ColorMetrics, Metrics, RequestOutcome};
use crate::model::{ErrorType, Kind, Scheme};
use crate::pool::{Attempt, Doors, LiveTable};

/// Who knows what an ACME server must be shown under `/.well-known/acme-challenge/` (RFC 8555
/// §8.3). Asked for requests below that path alone.
pub trait ChallengeAnswers: std::fmt::Debug + Send + Sync {
    /// The body for `token` on `host` (no port); `None`: no such challenge is open.
    fn key_authorization(&self, token: &str, host: &str) -> Option<String>;
}

/// Where the tokens of HTTP-01 are.
pub(super) const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// The data plane behind every listener.
#[derive(Debug)]
pub struct Edge {
    pub(super) table: Arc<LiveTable>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) unrouted: Arc<ColorMetrics>,
    pub(super) log: AccessLog,
    pub(super) leaving: Arc<AtomicBool>,
    pub(super) doors: Arc<Doors>,
    pub(super) challenges: Arc<dyn ChallengeAnswers>,
    pub(super) outbound: Outbound,
}

impl Edge {
    /// Connects the phases with what they read. `leaving` makes every answer the last one of
    /// its connection.
    #[must_use]
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a part of its own, given once"
    )]
    pub fn new(
        table: Arc<LiveTable>,
        settings: Arc<ArcSwap<Settings>>,
        metrics: Arc<Metrics>,
        log: AccessLog,
        leaving: Arc<AtomicBool>,
        doors: Arc<Doors>,
        challenges: Arc<dyn ChallengeAnswers>,
        outbound: Outbound,
    ) -> Self {
        Self {
            table,
            settings,
            unrouted: metrics.unrouted(),
            metrics,
            log,
            leaving,
            doors,
            challenges,
            outbound,
        }
    }

    /// Who asks other servers.
    pub(super) const fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// The live table.
    pub(super) const fn table(&self) -> &Arc<LiveTable> {
        &self.table
    }

    /// What a reload may change.
    pub(super) fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new()
    }

    /// None: the default adds a compression module to every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        let admitted = match self.admit(session, exchange) {
            // Boxed, here and below, so that requests without steps do not carry the room for them.
            Ok(Admitted::Steps(site)) => Ok(Box::pin(self.walk(session, exchange, &site)).await?),
            admitted => admitted,
        };
        match admitted {
            Ok(Admitted::Proxy) => Ok(false),
            Ok(Admitted::Answered | Admitted::Steps(_)) => Ok(true),
            Ok(Admitted::Abort) => Err(Error::new_down(ABORTED)),
            Ok(Admitted::Held(service, waiting)) => {
                match self.wait(session, exchange, &service, waiting).await? {
                    Ok(()) => Ok(false),
                    Err(refusal) => self.refuse(session, exchange, &refusal).await,
                }
            }
            Ok(Admitted::Closed(notice)) => {
                let closed = self.doors.closed.load_full();
                answer::closed(session, &notice, closed.page.as_ref(), closed.retry_after).await?;
                Ok(true)
            }
            Ok(Admitted::Challenge(body)) => {
                answer::challenge(session, body).await?;
                Ok(true)
            }
            Ok(Admitted::Redirect(location)) => {
                answer::redirect(session, &location).await?;
                Ok(true)
            }
            Err(refusal) => self.refuse(session, exchange, &refusal).await,
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        if exchange.handling.is_none() {
            return self.wait_for_upstream(session, exchange).await;
        }
        Box::pin(self.answer_pending(session, exchange)).await?;
        match self.wait_for_upstream(session, exchange).await {
            Err(error) if self.postpone(session, exchange, &error) => {
                Box::pin(self.answer_pending(session, exchange)).await?;
                self.wait_for_upstream(session, exchange).await
            }
            chosen => chosen,
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        handle::hold(session, exchange)?;
        if let Some(handling) = exchange.handling.as_deref_mut() {
            handling.request_body(body);
        }
        Ok(())
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        fd: std::os::fd::RawFd,
        digest: Option<&pingora::protocols::Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let Some(opened) = Opened::of(digest) else {
            return Ok(());
        };
        if !connect::is_shared(peer) {
            exchange.connection = Some(opened.connection.clone());
        }
        // The request is written next, then its answer is read.
        if let Some(turn) = &opened.turn {
            turn.put_off();
        }
        let method = exchange.method(session.req_header());
        exchange.arrival = exchange.expect_answer(method, fd, reused);
        exchange.time_attempt(session);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        // Steps come after that, and may have set such fields themselves.
        if !exchange.client.trusted_peer && exchange.handling.is_none() {
            forwarded::remove_forgeable(request);
        }
        if exchange.method_matters {
            forwarded::remove_method_overrides(request);
        }
        if is_grpc(session.req_header()) {
            // Required of a gRPC request over HTTP/2, but removed with the hop-by-hop fields.
            let h2 = exchange
                .upstream
                .as_ref()
                .is_some_and(|used| used.upstream().configured().scheme() != Scheme::Http);
            if h2 {
                request.insert_header(header::TE, "trailers")?;
            }
        }
        let connection = Connection::of(session);
        let tls = connection.and_then(|connection| connection.tls.as_ref());
        forwarded::set(
            request,
            &forwarded::Facts {
                certificate: tls.and_then(|tls| tls.client.as_ref()),
                peer: exchange.peer,
                client: exchange.client,
                host: asked_for(session, exchange),
                https: exchange.https,
                port: exchange.local_port,
                request_id: &exchange.request_id,
            },
        )?;
        handle::request(session, exchange, request)?;
        // The next one that was held may go.
        exchange.turn = None;
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let alone = exchange.head_alone(response);
        if response.status != StatusCode::SWITCHING_PROTOCOLS {
            // Of that connection alone (RFC 9110 §7.8); browsers refuse it in HTTP/2.
            response.remove_header(&header::UPGRADE);
            if response.status.is_informational() {
                return Ok(());
            }
        }
        if exchange
            .timer
            .as_ref()
            .is_some_and(|timer| !timer.answered())
        {
            return Err(retry::expired());
        }
        let first_byte = exchange
            .attempt_started
            .map(|started| clock::now().saturating_duration_since(started));
        if let Some(alone) = alone {
            exchange.wait_for_body(alone).await?;
        }
        exchange.timer = None;
        exchange.first_byte = first_byte;
        let attempt = if response.status.is_server_error() {
            Attempt::ServerError
        } else {
            Attempt::Answered
        };
        self.record(exchange, attempt, None);
        let becomes_stream = response.status == StatusCode::SWITCHING_PROTOCOLS
            || is_event_stream(exchange.pace, response);
        match exchange.head_came(session, response, becomes_stream) {
            Heard::Pass => {
                let status = response.status.as_u16();
                if self.answers_again(session, exchange, status) {
                    exchange.first_byte = None;
                    exchange.attempts.discarded = true;
                    exchange.failed_upstream();
                    let mut again = Error::new_in(Fault::HTTPStatus(status));
                    again.set_retry(true);
                    return Err(again);
                }
            }
            Heard::Rescued => {
                let slot = exchange.claim.as_ref().map(|claim| claim.pool().slot());
                if let Some(slot) = slot {
                    self.metrics.rescued(slot.service());
                }
            }
            Heard::Again => {
                exchange.first_byte = None;
                let mut again = Error::new_in(Fault::HTTPStatus(response.status.as_u16()));
                again.set_retry(true);
                return Err(again);
            }
        }
        if exchange.handling.is_some() {
            Box::pin(self.handle_answer(session, exchange, response)).await?;
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            let end = Connection::of(session).map(|connection| connection.upgraded());
            exchange.becomes(Kind::WebSocket, end);
        } else if is_event_stream(exchange.pace, response) {
            // What is compressed cannot be cut between two events.
            if !response.headers.contains_key(header::CONTENT_ENCODING)
                && !response.headers.contains_key(header::CONTENT_LENGTH)
            {
                exchange.events = Some(EventStream::new(exchange.connection.clone()));
            }
            let end = exchange
                .events
                .as_ref()
                .map(|events| Arc::clone(events.end()));
            exchange.becomes(Kind::Sse, end);
        }
        if let Some(hsts) = exchange.hsts.take() {
            response.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts)?;
        }
        if exchange.set_cookie
            && let (Some(used), Some(claim)) = (&exchange.upstream, &exchange.claim)
        {
            let (slot, id) = (claim.pool().slot(), used.upstream().id());
            let rules = slot.settings();
            let (name, key) = (&rules.cookie, &self.settings().sticky);
            let cookie = key.set_cookie(id, slot, name, &rules.sticky, exchange.https);
            response.append_header(header::SET_COOKIE, cookie)?;
        }
        Ok(())
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut http::HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.trailers_came(session.req_header(), trailers);
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if end_of_stream {
            exchange.answer_is_whole();
        }
        if let Some(events) = &mut exchange.events {
            events.pass(body);
        }
        if let Some(handling) = exchange.handling.as_deref_mut() {
            let head_only = session.req_header().method == Method::HEAD;
            handling.response_body(body, end_of_stream, head_only)?;
        }
        Ok(None)
    }

    /// Trailers end a compressed body too. They are dropped then, as any recipient may drop them
    /// (RFC 9110 §6.5.1): pingora sends either them or a last piece of the body.
    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut http::HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<Option<Bytes>> {
        match exchange.handling.as_deref_mut() {
            Some(handling) if session.req_header().method != Method::HEAD => {
                handling.rest_of_body()
            }
            _ => Ok(None),
        }
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let kind = answer::classify(&error).map(|refusal| refusal.error);
        self.record(exchange, Attempt::ConnectFailed, kind);
        exchange.failed_upstream();
        // Nothing was sent, so any method may be tried elsewhere.
        let rescued = exchange.attempt_failed(session, kind, false);
        let again = rescued || self.connects_again(exchange);
        error.set_retry(again || self.postpone(session, exchange, &error));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        let discarded = std::mem::take(&mut exchange.attempts.discarded);
        let handling = exchange.handling.as_deref_mut();
        let moved = handling.is_some_and(|handling| std::mem::take(&mut handling.moved));
        if (discarded || moved || exchange.rescuer().is_some()) && error.retry() {
            // The response was thrown away.
            return error;
        }
        if exchange.is_over() {
            error.set_retry(false);
            return error;
        }
        let timer = exchange.timer.take();
        if timer.is_some_and(|timer| timer.has_expired()) {
            // Whatever the connection says of its end: it was ended here.
            error = retry::expired();
        }
        // It began to answer, so it was not closed for having been idle.
        let broken_off = std::mem::take(&mut exchange.attempts.broken_off);
        let reused = reused && !broken_off;
        // Undecided until somebody says whether the connection was a kept one.
        error.retry.decide_reuse(reused);
        let from_upstream = *error.esource() == pingora::ErrorSource::Upstream;
        let answered = exchange.first_byte.is_some();
        let late = from_upstream && !answered && exchange.is_late(&error);
        if from_upstream {
            let kind = answer::classify(&error).map(|refusal| refusal.error);
            self.record(exchange, Attempt::ConnectFailed, kind);
        }
        // An HTTP/2 upstream that says it did not process the request (RFC 9113 §8.7).
        let untouched = error.retry() && matches!(error.etype(), Fault::H2Error);
        let method = exchange.method(session.req_header());
        let safe = matches!(*method, Method::GET | Method::HEAD);
        let died = matches!(
            error.etype(),
            Fault::ConnectionClosed | Fault::ReadError | Fault::WriteError | Fault::H2Error
        );
        let again = from_upstream
            && !answered
            && !exchange.attempts.repeated
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none()
            && (untouched || (safe && died));
        if again && reused {
            // A kept connection that the upstream closed says nothing of the release.
        } else if from_upstream {
            let kind = answer::classify(&error).map(|refusal| refusal.error);
            if exchange.attempt_failed(session, kind, true) {
                error.set_retry(true);
                return error;
            }
        }
        let again = match (again, late) {
            (true, _) => reused || self.repeats_again(exchange),
            (false, true) => self.times_out_again(session, exchange),
            (false, false) => false,
        };
        if again {
            exchange.attempts.repeated |= !late;
            exchange.failed_upstream();
        }
        error.set_retry(again || (!answered && self.postpone(session, exchange, &error)));
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let written = session.response_written().map(|head| head.status.as_u16());
        if error.etype() == &ABORTED {
            exchange.error = Some(ErrorType::HttpRequestDenied);
            return FailToProxy {
                error_code: 499,
                can_reuse_downstream: false,
            };
        }
        if let Some(status) = written.filter(|_| error.etype() == &OVER) {
            return FailToProxy {
                error_code: status,
                can_reuse_downstream: false,
            };
        }
        let farewell = exchange.events.as_ref().and_then(EventStream::farewell);
        if let (Some(status), Some(farewell)) = (written, farewell) {
            let ended = session.write_response_body(Some(farewell), true).await;
            exchange.error = ended.err().map(|_| ErrorType::HttpResponseIncomplete);
            return FailToProxy {
                error_code: status,
                can_reuse_downstream: false,
            };
        }
        let refusal = answer::classify(error);
        exchange.error = refusal.as_ref().map(|refusal| refusal.error);
        let error_code = match (written, refusal) {
            // The head is out: all that is left is to end the body early, which the client sees.
            (Some(status), _) => {
                exchange.error = Some(ErrorType::HttpResponseIncomplete);
                answer::flush(session, self.settings.load().timeouts.client_write).await;
                status
            }
            (None, None) => 499,
            (None, Some(refusal)) => {
                let mut answered = self.refuse(session, exchange, &refusal).await;
                if let Ok(false) = answered {
                    // Nothing can be forwarded any more: without the steps.
                    answered = self.refuse(session, exchange, &refusal).await;
                }
                if let Err(error) = answered {
                    tracing::debug!(%error, "client left before its error answer");
                }
                let written = session.response_written();
                written.map_or(refusal.status, |head| head.status.as_u16())
            }
        };
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    /// All outcomes are in the access log and the metrics.
    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        if let Some(connection) = Connection::of(session) {
            connection.next_head();
        }
        let written = session.response_written().map(|head| head.status.as_u16());
        let status = match (written, error) {
            (Some(status), _) => status,
            // The client left before there was anything to answer.
            (None, Some(_)) => 499,
            (None, None) => 0,
        };
        let now = clock::now();
        let took = now.saturating_duration_since(exchange.started);
        let timed = exchange.kind() == Kind::Request;
        let metrics = exchange.metrics.as_ref().unwrap_or(&self.unrouted);
        metrics.record(
            now,
            &RequestOutcome {
                method: &session.req_header().method,
                status,
                duration: timed.then_some(took),
                upstream: exchange.first_byte.filter(|_| timed),
            },
        );
        let settings = self.settings.load();
        let access = exchange.log.as_ref().unwrap_or(&settings.log.access);
        let handling = exchange.handling.as_ref();
        let skipped = handling.is_some_and(|handling| handling.log.skip)
            || access.skip.takes(session.req_header().uri.path(), status);
        if access.enabled
            && !skipped
            && (status >= 500 || access.sample >= 1.0 || fastrand::f64() < access.sample)
        {
            self.log_line(session, exchange, &settings, access, status, took);
        }
    }
}
