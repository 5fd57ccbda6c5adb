//! The state of one request on its way through the phases.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use pingora::http::RequestHeader;

use crate::clock;
use crate::config::AccessLog;
use crate::metrics::ColorMetrics;
use crate::model::{ErrorType, Kind};
use crate::pool::{Claim, OpenConnection, StreamEnd, Turn, UpstreamUse};

use super::connect::Pace;
use super::event_stream::EventStream;
use super::forwarded::Client;
use super::handle::Handling;
use super::retry::TryTimer;
use super::small::Arrival;
use super::testimony::Testimony;

/// Upstreams remembered as tried; more attempts than this are not configured by anyone.
const REMEMBERED: usize = 8;

/// One request. Dropped on every exit path, and the claim with it.
#[derive(Debug)]
pub struct Exchange {
    pub(super) started: Instant,
    pub(super) peer: IpAddr,
    pub(super) client: Client,
    pub(super) https: bool,
    /// `Strict-Transport-Security` of the answer.
    pub(super) hsts: Option<HeaderValue>,
    pub(super) local_port: u16,
    /// Whether rules of the site look at the method.
    pub(super) method_matters: bool,
    pub(super) request_id: String,
    pub(super) pace: Pace,
    /// The turn of a request that was held; given on once its head is on its way.
    pub(super) turn: Option<Turn>,
    /// Given back when the request ends in whatever way.
    pub(super) claim: Option<Claim>,
    pub(super) upstream: Option<UpstreamUse>,
    pub(super) metrics: Option<Arc<ColorMetrics>>,
    pub(super) attempts: Attempts,
    /// Whether the chosen upstream should be kept by cookie.
    pub(super) set_cookie: bool,
    /// When the current attempt began, and when its response head came.
    pub(super) attempt_started: Option<Instant>,
    pub(super) first_byte: Option<Duration>,
    /// Ends an attempt that takes too long.
    pub(super) timer: Option<TryTimer>,
    /// The upstream connection, if it is not shared.
    pub(super) connection: Option<OpenConnection>,
    /// Where the answer comes, if it is one that may be waited for.
    pub(super) arrival: Option<Arrival>,
    pub(super) error: Option<ErrorType>,
    /// Its site's own log.
    pub(super) log: Option<Arc<AccessLog>>,
    /// What the first attempt tells of its release.
    pub(super) testimony: Testimony,
    /// The response is an event stream that can be ended between two events.
    pub(super) events: Option<EventStream>,
    /// What steps left behind; `None` for a site without any.
    pub(super) handling: Option<Box<Handling>>,
}

/// The upstreams that already failed this request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: [u64; REMEMBERED],
    pub(super) made: usize,
    /// Whether the one repetition after a broken connection is used up.
    pub(super) repeated: bool,
    /// The answer was thrown away, so that the request can be sent again.
    pub(super) discarded: bool,
    /// The answer broke off before any of it was passed on.
    pub(super) broken_off: bool,
    /// The next attempt waits for a moment first.
    pub(super) pause: bool,
}

impl Attempts {
    pub(super) fn failed(&self) -> &[u64] {
        &self.failed[..self.made.min(REMEMBERED)]
    }

    /// Every upstream is worth another try.
    pub(super) fn forget(&mut self) {
        self.failed = [0; REMEMBERED];
    }

    pub(super) fn add(&mut self, upstream: u64) {
        if let Some(place) = self.failed.get_mut(self.made) {
            *place = upstream;
        }
        self.made += 1;
    }
}

impl Exchange {
    pub(super) fn new() -> Self {
        let nobody = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        Self {
            started: clock::now(),
            peer: nobody,
            client: Client {
                ip: nobody,
                trusted_peer: false,
            },
            https: false,
            hsts: None,
            local_port: 0,
            method_matters: false,
            request_id: String::new(),
            pace: Pace::Exchange,
            turn: None,
            claim: None,
            upstream: None,
            metrics: None,
            attempts: Attempts::default(),
            set_cookie: false,
            attempt_started: None,
            first_byte: None,
            timer: None,
            connection: None,
            arrival: None,
            error: None,
            log: None,
            testimony: Testimony::Open,
            events: None,
            handling: None,
        }
    }

    /// Goes to the pool of `claim`, and is counted and listed there.
    pub(super) fn claimed(&mut self, mut claim: Claim, request: &RequestHeader) {
        let (method, path) = (self.method(request), request.uri.path());
        claim.describe(method, path, self.client.ip, self.started);
        self.metrics = Some(Arc::clone(claim.pool().slot().metrics()));
        self.claim = Some(claim);
    }

    /// The method that an upstream gets.
    pub(super) fn method<'a>(&'a self, request: &'a RequestHeader) -> &'a Method {
        let changed = self.handling.as_ref();
        let changed = changed.and_then(|handling| handling.method.as_ref());
        changed.unwrap_or(&request.method)
    }

    /// Whether a step has answered already, so that nothing else may.
    pub(super) fn is_over(&self) -> bool {
        self.handling.as_ref().is_some_and(|handling| handling.over)
    }

    pub(super) fn kind(&self) -> Kind {
        self.claim.as_ref().map_or(Kind::Request, Claim::kind)
    }

    /// Counts as `kind` from now on, and lets a drain end its connection with that kind.
    pub(super) fn becomes(&mut self, kind: Kind, end: Option<Arc<StreamEnd>>) {
        let Some(claim) = &mut self.claim else {
            return;
        };
        let upstream = self.upstream.as_ref().map(|used| used.upstream().id());
        claim.reclassify(kind, end, upstream);
        if let Some(connection) = &self.connection {
            connection.carries(kind);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // A connection that carried a stream may be kept and carry a request next.
        if self.kind() != Kind::Request {
            self.becomes(Kind::Request, None);
        }
    }
}
