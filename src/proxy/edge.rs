//! Pingora's phases for one request: check, route, claim, pick, forward, retry, answer, log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType as Fault, Result};

use super::access_log::{AccessLog, Line, logged_path};
use super::answer;
use super::connect;
use super::event_stream::EventStream;
use super::exchange::Exchange;
use super::forwarded;
use super::front::Connection;
use super::head::{self, Refusal};
use super::request::{
    STICKY_COOKIE, View, client_leaves, held_bytes, https_location, is_event_stream, is_grpc,
    milliseconds, normalize, pace, protocol, request_id, sticky_cookie,
};
use super::settings::Settings;
use super::testimony::Heard;
use super::upgrade::Turn;
use crate::clock;
use crate::config::{Balance, Tls};
use crate::metrics::{ColorMetrics, Metrics, RequestOutcome};
use crate::model::{ErrorType, Kind, Scheme, ServiceName};
use crate::pool::{
    Affinity, Attempt, Doors, Entered, HoldLimits, LiveTable, NotFound, Notice, Waiting, host_of,
};

/// Who knows what an ACME server must be shown under `/.well-known/acme-challenge/` (RFC 8555
/// §8.3). Asked for requests below that path alone.
pub trait ChallengeAnswers: std::fmt::Debug + Send + Sync {
    /// The body for `token` on `host` (no port); `None`: no such challenge is open.
    fn key_authorization(&self, token: &str, host: &str) -> Option<String>;
}

/// Where the tokens of HTTP-01 are.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// The data plane behind every listener.
#[derive(Debug)]
pub struct Edge {
    table: Arc<LiveTable>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: Arc<Metrics>,
    unrouted: Arc<ColorMetrics>,
    log: AccessLog,
    leaving: Arc<AtomicBool>,
    doors: Arc<Doors>,
    challenges: Arc<dyn ChallengeAnswers>,
}

impl Edge {
    /// Connects the phases with what they read. `leaving` makes every answer the last one of
    /// its connection.
    #[must_use]
    pub fn new(
        table: Arc<LiveTable>,
        settings: Arc<ArcSwap<Settings>>,
        metrics: Arc<Metrics>,
        log: AccessLog,
        leaving: Arc<AtomicBool>,
        doors: Arc<Doors>,
        challenges: Arc<dyn ChallengeAnswers>,
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
        }
    }

    /// Everything before an upstream is involved. `Err`: the answer to give instead.
    fn admit(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Admitted, Refusal> {
        let settings = self.settings.load();
        if let Some(connection) = Connection::of(session) {
            connection.head_complete();
            exchange.peer = connection.peer;
            exchange.https = connection.tls.is_some();
            exchange.local_port = connection.local.port();
        }
        self.set_limits(session, &settings);
        let target_bytes = session.req_header().raw_path().len();
        let bad_path = Refusal::new(400, ErrorType::HttpRequestError, "The path is not valid.");
        normalize(session.req_header_mut()).map_err(|()| bad_path)?;
        let request = session.req_header();
        exchange.client =
            forwarded::client(exchange.peer, &request.headers, &settings.trusted_proxies);
        exchange.request_id = request_id(request, exchange.client.trusted_peer);
        let authority = head::check(
            &request.method,
            &request.uri,
            target_bytes,
            request.version,
            &request.headers,
            &settings.limits,
        )?;
        let bad_host = Refusal::new(
            400,
            ErrorType::HttpRequestError,
            "The Host is not a host name.",
        );
        let mut lower = [0; 255];
        let host = match authority {
            "" => "",
            authority => host_of(authority, &mut lower).ok_or(bad_host)?,
        };
        exchange.pace = pace(request);

        // Before any rule of a site: the CA must see it whatever they say.
        let token = request.uri.path().strip_prefix(CHALLENGES);
        if let Some(token) = token.filter(|token| !token.is_empty())
            && let Some(body) = self.challenges.key_authorization(token, host)
        {
            return Ok(Admitted::Challenge(body));
        }
        let table = self.table.load();
        let view = View {
            request,
            client: exchange.client.ip,
        };
        let found = table
            .routes
            .find(host, &view)
            .map_err(|not_found| match not_found {
                NotFound::Host => Refusal::new(
                    404,
                    ErrorType::DestinationNotFound,
                    "No site is served under this host name.",
                ),
                NotFound::Path(_) => Refusal::new(
                    404,
                    ErrorType::DestinationNotFound,
                    "Nothing is served under this path.",
                ),
            })?;
        if let Some(tls) = Connection::of(session).and_then(|connection| connection.tls.clone()) {
            if found.site.tls == Tls::Off || !tls.covers(host) {
                return Err(Refusal::new(
                    421,
                    ErrorType::HttpRequestError,
                    "This connection's certificate or TLS policy does not cover the host name.",
                ));
            }
        } else if found.site.redirect
            && let Some(port) = settings.https_port
            && !request.uri.path().starts_with(CHALLENGES)
        {
            return Ok(Admitted::Redirect(https_location(host, port, &request.uri)));
        } else if found.site.needs_client_certificate {
            return Err(Refusal::new(
                421,
                ErrorType::HttpRequestError,
                "This site is served over TLS with a client certificate only.",
            ));
        }
        if exchange.https {
            exchange.hsts.clone_from(&found.site.hsts);
        }
        let service = table.service(found.service).ok_or(UNAVAILABLE)?;
        let closed = self.doors.closed.load();
        if let Some(notice) = closed.notice(&found.site.name, &service.name, exchange.client.ip) {
            exchange.error = Some(ErrorType::DestinationUnavailable);
            exchange.metrics = service
                .pool
                .as_ref()
                .map(|pool| Arc::clone(pool.slot().metrics()));
            return Ok(Admitted::Closed(Arc::clone(notice)));
        }
        if self.doors.holds.are_any() {
            let limits = HoldLimits {
                requests: settings.limits.held_requests,
                bytes: settings.limits.held_bytes,
            };
            let bytes = held_bytes(request);
            let now = clock::now();
            match self.doors.holds.enter(&service.name, now, bytes, limits) {
                Entered::Pass => {}
                Entered::Wait(waiting) => {
                    return Ok(Admitted::Held(service.name.clone(), waiting));
                }
                Entered::Full => return Err(HOLD_FULL),
            }
        }
        let claim = self.table.claim(&table, found.service).ok_or(UNAVAILABLE)?;
        exchange.claimed(claim, request);
        Ok(Admitted::Proxy)
    }

    /// Waits until a held request may go on, claims the pool that is live then.
    async fn wait(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        service: &ServiceName,
        mut waiting: Waiting,
    ) -> Result<Result<(), Refusal>> {
        let until = tokio::time::Instant::from_std(waiting.until());
        let turn = tokio::select! {
            biased;
            turn = waiting.turn() => turn,
            left = client_leaves(session) => return Err(left),
            () = tokio::time::sleep_until(until) => {
                waiting.gave_up();
                return Ok(Err(HELD_TOO_LONG));
            }
        };
        exchange.turn = Some(turn);
        let Some(claim) = self.table.claim_again(service) else {
            return Ok(Err(UNAVAILABLE));
        };
        exchange.claimed(claim, session.req_header());
        Ok(Ok(()))
    }

    /// Deadlines of this request on the client's side.
    fn set_limits(&self, session: &mut Session, settings: &Settings) {
        let timeouts = &settings.timeouts;
        let stream = session.is_upgrade_req();
        session.set_read_timeout(Some(if stream {
            timeouts.stream_idle
        } else {
            timeouts.request_body
        }));
        session.set_write_timeout(Some(timeouts.client_write));
        session.set_total_drain_timeout(Some(timeouts.request_body));
        if self.leaving.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        } else if session.get_keepalive().is_some() {
            session.set_keepalive(Some(timeouts.keep_alive.as_secs().max(1)));
        }
    }

    /// Chooses where the next attempt goes. An attempt after a switch goes to the new pool.
    fn choose(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        let unavailable = || Error::new_in(Fault::HTTPStatus(503));
        let settings = self.settings.load();
        match exchange.rescuer().map(|old| old.try_claim()) {
            Some(Some(claim)) => exchange.claimed(claim, session.req_header()),
            // The predecessor is leaving.
            Some(None) => return Err(unavailable()),
            None if exchange.attempts.made > 0 => {
                self.move_with_the_switch(session.req_header(), exchange);
            }
            None => {}
        }
        let claim = exchange.claim.as_ref().ok_or_else(unavailable)?;
        let slot = claim.pool().slot();
        let balance = slot.settings();
        let request = session.req_header();
        let affinity = Affinity {
            client: exchange.client.ip,
            header: match &balance.balance {
                Balance::Header(name) => request.headers.get(name).map(http::HeaderValue::as_bytes),
                _ => None,
            },
            cookie: match &balance.balance {
                Balance::Cookie => sticky_cookie(request),
                _ => None,
            },
        };
        let picked = slot.pick(&affinity, exchange.attempts.failed());
        let Ok(picked) = picked else {
            // Nothing was sent, so the predecessor may be asked for anything.
            let again = exchange.rescuer().is_none()
                && exchange.attempt_failed(session, Some(ErrorType::DestinationUnavailable), false);
            return if again {
                self.choose(session, exchange)
            } else {
                Err(unavailable())
            };
        };
        let peer = connect::peer(
            claim.pool(),
            picked.upstream.upstream(),
            &settings.timeouts,
            exchange.pace,
        )?;
        exchange.set_cookie = picked.set_cookie;
        exchange.upstream = Some(picked.upstream);
        exchange.attempt_started = Some(clock::now());
        exchange.connection = None;
        Ok(peer)
    }

    /// Before a repetition: claims the live pool if the claimed one is no longer live, so that
    /// nothing is sent to an upstream that is known to be leaving.
    fn move_with_the_switch(&self, request: &RequestHeader, exchange: &mut Exchange) {
        let Some(claim) = &exchange.claim else {
            return;
        };
        let slot = claim.pool().slot();
        let table = self.table.load();
        let still_live = table
            .named(slot.service().as_str())
            .and_then(|entry| entry.pool.as_ref())
            .is_some_and(|live| Arc::ptr_eq(live, claim.pool()));
        if !still_live && let Some(moved) = self.table.claim_again(slot.service()) {
            exchange.claimed(moved, request);
        }
    }

    /// Counts how an attempt ended, for ejection and `upstream_errors_total`.
    fn record(&self, exchange: &Exchange, attempt: Attempt, error: Option<ErrorType>) {
        let (Some(claim), Some(used)) = (&exchange.claim, &exchange.upstream) else {
            return;
        };
        let slot = claim.pool().slot();
        let upstream = used.upstream();
        if let Some(error) = error {
            slot.metrics().upstream_error(upstream.label(), error);
        }
        if let Some(time) = slot.record(upstream, attempt, clock::now()) {
            tracing::warn!(
                service = %slot.service(),
                color = %slot.color(),
                upstream = %upstream.shown(),
                seconds = time.as_secs_f64(),
                "upstream ejected after failures in a row"
            );
        }
    }
}

enum Admitted {
    Proxy,
    Redirect(String),
    Challenge(String),
    Closed(Arc<Notice>),
    Held(ServiceName, Waiting),
}

const HOLD_FULL: Refusal = Refusal::new(
    503,
    ErrorType::ConnectionLimitReached,
    "Too many requests are waiting already.",
);

const HELD_TOO_LONG: Refusal = Refusal::new(
    503,
    ErrorType::DestinationUnavailable,
    "The service did not come back in time.",
);

const UNAVAILABLE: Refusal = Refusal::new(
    503,
    ErrorType::DestinationUnavailable,
    "No upstream is available right now.",
);

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new()
    }

    /// None: the default adds a compression module to every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        match self.admit(session, exchange) {
            Ok(Admitted::Proxy) => Ok(false),
            Ok(Admitted::Held(service, waiting)) => {
                match self.wait(session, exchange, &service, waiting).await? {
                    Ok(()) => Ok(false),
                    Err(refusal) => {
                        exchange.error = Some(refusal.error);
                        answer::refuse(session, &refusal).await?;
                        Ok(true)
                    }
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
            Err(refusal) => {
                exchange.error = Some(refusal.error);
                answer::refuse(session, &refusal).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        self.choose(session, exchange)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        peer: &HttpPeer,
        fd: std::os::fd::RawFd,
        digest: Option<&pingora::protocols::Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let turn = Turn::of(digest);
        let fd = turn.map_or(fd, |turn| turn.fd);
        exchange.connection = (!connect::is_shared(peer)).then_some(fd);
        // The request is written next, then its answer is read.
        if let Some(turn) = turn {
            turn.put_off();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if !exchange.client.trusted_peer {
            forwarded::remove_forgeable(request);
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
                host: head::authority(session.req_header()),
                https: exchange.https,
                port: exchange.local_port,
                request_id: &exchange.request_id,
            },
        )?;
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
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        exchange.first_byte = exchange
            .attempt_started
            .map(|started| clock::now().saturating_duration_since(started));
        let attempt = if response.status.is_server_error() {
            Attempt::ServerError
        } else {
            Attempt::Answered
        };
        self.record(exchange, attempt, None);
        let becomes_stream =
            response.status == StatusCode::SWITCHING_PROTOCOLS || is_event_stream(response);
        match exchange.head_came(session, response, becomes_stream) {
            Heard::Pass => {}
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
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            let end = Connection::of(session).map(|connection| connection.upgraded());
            exchange.becomes(Kind::WebSocket, end);
        } else if is_event_stream(response) {
            // What is compressed cannot be cut between two events.
            if !response.headers.contains_key(header::CONTENT_ENCODING)
                && !response.headers.contains_key(header::CONTENT_LENGTH)
            {
                exchange.events = Some(EventStream::new(exchange.connection));
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
            && let Some(used) = &exchange.upstream
        {
            let secure = if exchange.https { "; Secure" } else { "" };
            response.append_header(
                header::SET_COOKIE,
                format!(
                    "{STICKY_COOKIE}={:016x}; Path=/; HttpOnly; SameSite=Lax{secure}",
                    used.upstream().id()
                ),
            )?;
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
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if let Some(events) = &mut exchange.events {
            if events.is_over() {
                // What was cut is ended as a failure is, with a farewell in its place.
                return Error::e_explain(Fault::Custom("cut"), "the event stream is over");
            }
            events.pass(body);
        }
        Ok(None)
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
        if let Some(used) = &exchange.upstream {
            exchange.attempts.add(used.upstream().id());
        }
        // Nothing was sent, so any method may be tried elsewhere.
        let limit = self.settings.load().limits.attempts;
        let rescued = exchange.attempt_failed(session, kind, false);
        error.set_retry(rescued || exchange.attempts.made < limit);
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
        if exchange.rescuer().is_some() && error.retry() {
            // The response was thrown away.
            return error;
        }
        // Undecided until somebody says whether the connection was a kept one.
        error.retry.decide_reuse(reused);
        let from_upstream = *error.esource() == pingora::ErrorSource::Upstream;
        let answered = exchange.first_byte.is_some();
        if from_upstream {
            let kind = answer::classify(&error).map(|refusal| refusal.error);
            self.record(exchange, Attempt::ConnectFailed, kind);
        }
        // An HTTP/2 upstream that says it did not process the request (RFC 9113 §8.7).
        let untouched = error.retry() && matches!(error.etype(), Fault::H2Error);
        let safe = matches!(session.req_header().method, Method::GET | Method::HEAD);
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
        if again {
            exchange.attempts.repeated = true;
            if let Some(used) = &exchange.upstream {
                exchange.attempts.add(used.upstream().id());
            }
        }
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let written = session.response_written().map(|head| head.status.as_u16());
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
                status
            }
            (None, None) => 499,
            (None, Some(refusal)) => {
                if let Err(error) = answer::refuse(session, &refusal).await {
                    tracing::debug!(%error, "client left before its error answer");
                }
                refusal.status
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
        let access = &settings.log.access;
        if access.enabled
            && (status >= 500 || access.sample >= 1.0 || fastrand::f64() < access.sample)
        {
            self.log_line(session, exchange, &settings, status, took);
        }
    }
}

impl Edge {
    fn log_line(
        &self,
        session: &Session,
        exchange: &Exchange,
        settings: &Settings,
        status: u16,
        took: Duration,
    ) {
        let request = session.req_header();
        let slot = exchange.claim.as_ref().map(|claim| claim.pool().slot());
        let release = slot.and_then(|slot| slot.release());
        let tls = Connection::of(session).and_then(|connection| connection.tls.clone());
        let path = logged_path(
            request.uri.path(),
            request.uri.query(),
            &settings.log.redact_query,
        );
        let field = |name: HeaderName| {
            let shown = if settings.log.redact_headers.contains(&name) {
                Some("***")
            } else {
                None
            };
            let value = request.headers.get(&name)?.to_str().ok()?;
            Some(shown.unwrap_or(value))
        };
        let trace = request
            .headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok());
        self.log.write(&Line {
            ts: clock::rfc3339(clock::wall()),
            request_id: &exchange.request_id,
            client_ip: exchange.client.ip.to_string(),
            method: request.method.as_str(),
            scheme: if exchange.https { "https" } else { "http" },
            host: head::authority(request),
            path: &path,
            protocol: protocol(session),
            status,
            bytes_in: session.body_bytes_read() as u64,
            bytes_out: session.body_bytes_sent() as u64,
            duration_ms: milliseconds(took),
            upstream_ms: exchange.first_byte.map(milliseconds),
            service: slot.map_or("", |slot| slot.service().as_str()),
            color: slot.map_or("", |slot| slot.color().as_str()),
            release: release.as_ref().map(|release| release.as_str()),
            upstream: exchange
                .upstream
                .as_ref()
                .map(|used| used.upstream().shown().as_ref()),
            retries: exchange.attempts.made,
            rescued: exchange.was_rescued(),
            error: exchange.error.map(ErrorType::as_str),
            tls_version: tls.as_ref().map(|tls| tls.version),
            user_agent: field(header::USER_AGENT),
            // The trace id is the second part of the field (W3C Trace Context §3.2).
            trace_id: trace.and_then(|trace| trace.split('-').nth(1)),
        });
    }
}
