//! From a request's head to a claimed pool: what is checked, which site it is for, what its steps
//! say, whether its service is open.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Method;
use pingora::Result;
use pingora::proxy::Session;

use super::edge::{CHALLENGES, Edge};
use super::exchange::Exchange;
use super::forwarded;
use super::front::Connection;
use super::handle::{Failure, Flow, Handling, Original, Walk};
use super::head::{self, Refusal};
use super::request::{
    View, client_leaves, held_bytes, https_location, normalize, pace, request_id,
};
use super::settings::Settings;
use crate::clock;
use crate::config::{ServiceIndex, Tls};
use crate::model::{ErrorType, ServiceName};
use crate::pool::{Claim, Entered, HoldLimits, Notice, SiteEntry, Table, Waiting, host_of};

impl Edge {
    /// Everything before an upstream is involved. `Err`: the answer to give instead.
    pub(super) fn admit(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Admitted, Refusal> {
        let settings = self.settings.load();
        if let Some(connection) = Connection::of(session) {
            connection.head_complete();
            exchange.peer = connection.peer;
            exchange.https = connection.tls.is_some();
            exchange.local_port = connection.local.port();
        }
        self.set_limits(session, &settings);
        let request = session.req_header();
        let target_bytes = request.raw_path().len();
        if request.method != Method::CONNECT && !head::is_target(request.raw_path()) {
            return Err(Refusal::bad("The target is not one of an HTTP request."));
        }
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
        let site = (table.routes.site(host, exchange.local_port)).ok_or(Refusal::new(
            404,
            ErrorType::DestinationNotFound,
            "No site is served under this host name.",
        ))?;
        exchange.log.clone_from(&site.log);
        if let Some(tls) = Connection::of(session).and_then(|connection| connection.tls.clone()) {
            if site.tls == Tls::Off || !tls.covers(host) {
                return Err(Refusal::new(
                    421,
                    ErrorType::HttpRequestError,
                    "This connection's certificate or TLS policy does not cover the host name.",
                ));
            }
        } else if site.redirect
            && let Some(port) = settings.https_port
            && !request.uri.path().starts_with(CHALLENGES)
        {
            return Ok(Admitted::Redirect(https_location(host, port, &request.uri)));
        } else if site.needs_client_certificate {
            return Err(Refusal::new(
                421,
                ErrorType::HttpRequestError,
                "This site is served over TLS with a client certificate only.",
            ));
        }
        if exchange.https {
            exchange.hsts.clone_from(&site.hsts);
        }
        exchange.method_matters = site.looks_at_methods;
        if site.has_steps {
            let original = Original {
                uri: request.uri.clone(),
                authority: authority.to_owned(),
            };
            exchange.handling = Some(Box::new(Handling::new(Arc::clone(site), original)));
            let request = session.req_header_mut();
            // Before any step looks at them or sets one of its own.
            forwarded::remove_nominated(request);
            forwarded::remove_client_certificate(request);
            if !exchange.client.trusted_peer {
                forwarded::remove_forgeable(request);
            }
            return Ok(Admitted::Steps(Arc::clone(site)));
        }
        let view = View {
            request,
            method: &request.method,
            client: exchange.client.ip,
        };
        let found = site.find(&view).ok_or(NOTHING_HERE)?;
        let target = found.service.ok_or(NOTHING_HERE)?;
        self.enter(session, exchange, site, &table, target)
    }

    /// Leads a request to its service, past what is closed or held.
    pub(super) fn enter(
        &self,
        session: &Session,
        exchange: &mut Exchange,
        site: &SiteEntry,
        table: &Table,
        target: ServiceIndex,
    ) -> Result<Admitted, Refusal> {
        let request = session.req_header();
        let service = table.service(target).ok_or(UNAVAILABLE)?;
        let closed = self.doors.closed.load();
        if let Some(notice) = closed.notice(&site.name, &service.name, exchange.client.ip) {
            exchange.error = Some(ErrorType::DestinationUnavailable);
            exchange.metrics = service
                .pool
                .as_ref()
                .map(|pool| Arc::clone(pool.slot().metrics()));
            return Ok(Admitted::Closed(Arc::clone(notice)));
        }
        if self.doors.holds.are_any() {
            let settings = self.settings.load();
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
        let claim = self.table.claim(table, target).ok_or(UNAVAILABLE)?;
        exchange.claimed(claim, request);
        Ok(Admitted::Proxy)
    }

    /// Runs the steps of a site, then those of the route that is found after them.
    pub(super) async fn walk(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        site: &Arc<SiteEntry>,
    ) -> Result<Admitted> {
        if let Some(notice) = self.closed_site(exchange, site) {
            return Ok(Admitted::Closed(notice));
        }
        let mut walk = Walk {
            edge: self,
            session,
            exchange,
        };
        let mut flow = walk.run(&site.plan).await?;
        let mut service = None;
        if matches!(flow, Flow::Next) {
            let request = walk.session.req_header();
            let view = View {
                request,
                method: walk.exchange.method(request),
                client: walk.exchange.client.ip,
            };
            let found = site.find(&view);
            if let Some(plan) = found.and_then(|found| found.plan) {
                flow = walk.run(plan).await?;
            }
            service = found.and_then(|found| found.service);
        }
        loop {
            flow = match flow {
                Flow::Answered => return Ok(Admitted::Answered),
                Flow::Abort => return Ok(Admitted::Abort),
                Flow::Fail(failure) => walk.fail(failure).await?,
                // Outside of response steps there is nothing to copy.
                Flow::Copy(_) => Flow::Fail(Failure::from(&NOTHING_HERE)),
                Flow::Proxy(step) => {
                    service = walk.chosen(step);
                    Flow::Next
                }
                Flow::Next => {
                    let name = service.take().and_then(|index| site.service_name(index));
                    match self.enter_named(&mut walk, site, name) {
                        Ok(admitted) => return Ok(admitted),
                        Err(refusal) => Flow::Fail(Failure::from(&refusal)),
                    }
                }
            };
        }
    }

    /// Claims a place on the live pool of a service.
    pub(super) fn claim(&self, service: &ServiceName) -> Option<Claim> {
        self.table.claim_again(service)
    }

    /// By name, because steps may take longer than their table lives.
    pub(super) fn enter_named(
        &self,
        walk: &mut Walk<'_>,
        site: &SiteEntry,
        name: Option<&ServiceName>,
    ) -> Result<Admitted, Refusal> {
        let name = name.ok_or(NOTHING_HERE)?;
        let table = self.table.load();
        let target = *table.by_name.get(name).ok_or(UNAVAILABLE)?;
        self.enter(walk.session, walk.exchange, site, &table, target)
    }

    /// The notice of a site that is closed as a whole, before any of its steps answers.
    pub(super) fn closed_site(
        &self,
        exchange: &mut Exchange,
        site: &SiteEntry,
    ) -> Option<Arc<Notice>> {
        let closed = self.doors.closed.load();
        let notice = closed.site(&site.name, exchange.client.ip)?;
        exchange.error = Some(ErrorType::DestinationUnavailable);
        Some(Arc::clone(notice))
    }

    /// Waits until a held request may go on, claims the pool that is live then.
    pub(super) async fn wait(
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
    pub(super) fn set_limits(&self, session: &mut Session, settings: &Settings) {
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
}

/// What becomes of a request that was let in.
pub(super) enum Admitted {
    Proxy,
    /// The steps of this site come first.
    Steps(Arc<SiteEntry>),
    /// By a step.
    Answered,
    Abort,
    Redirect(String),
    Challenge(String),
    Closed(Arc<Notice>),
    Held(ServiceName, Waiting),
}

const NOTHING_HERE: Refusal = Refusal::new(
    404,
    ErrorType::DestinationNotFound,
    "Nothing is served under this path.",
);

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

pub(super) const UNAVAILABLE: Refusal = Refusal::new(
    503,
    ErrorType::DestinationUnavailable,
    "No upstream is available right now.",
);
