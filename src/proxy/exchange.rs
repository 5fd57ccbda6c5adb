//! The state of one request on its way through the phases.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use pingora::http::RequestHeader;

use crate::clock;
use crate::metrics::ColorMetrics;
use crate::model::{ErrorType, Kind};
use crate::pool::{Claim, StreamEnd, Turn, UpstreamUse};

use super::connect::Pace;
use super::event_stream::EventStream;
use super::forwarded::Client;
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
    /// Descriptor of the upstream connection, if it is not shared.
    pub(super) connection: Option<RawFd>,
    pub(super) error: Option<ErrorType>,
    /// What the first attempt tells of its release.
    pub(super) testimony: Testimony,
    /// The response is an event stream that can be ended between two events.
    pub(super) events: Option<EventStream>,
}

/// The upstreams that already failed this request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: [u64; REMEMBERED],
    pub(super) made: usize,
    /// Whether the one repetition after a broken connection is used up.
    pub(super) repeated: bool,
}

impl Attempts {
    pub(super) fn failed(&self) -> &[u64] {
        &self.failed[..self.made.min(REMEMBERED)]
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
            connection: None,
            error: None,
            testimony: Testimony::Open,
            events: None,
        }
    }

    /// Goes to the pool of `claim`, and is counted and listed there.
    pub(super) fn claimed(&mut self, mut claim: Claim, request: &RequestHeader) {
        let path = request.uri.path();
        claim.describe(&request.method, path, self.client.ip, self.started);
        self.metrics = Some(Arc::clone(claim.pool().slot().metrics()));
        self.claim = Some(claim);
    }

    pub(super) fn kind(&self) -> Kind {
        self.claim.as_ref().map_or(Kind::Request, Claim::kind)
    }

    /// Counts as `kind` from now on, and lets a drain end its connection with that kind.
    pub(super) fn becomes(&mut self, kind: Kind, end: Option<Arc<StreamEnd>>) {
        let Some(claim) = &mut self.claim else {
            return;
        };
        claim.reclassify(kind, end);
        if let Some(fd) = self.connection {
            claim.pool().connections().carries(fd, kind);
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
