//! What the phases read off a request and an answer: pure functions of their heads.

use std::time::Duration;

use http::{HeaderName, Method, Uri, header, uri};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::timeout;

use super::connect::Pace;
use super::front::Connection;
use crate::model::normalize_path;
use crate::pool::RequestView;

/// 128 random bits in hex; not a secret.
pub(super) fn request_id(request: &RequestHeader, trusted: bool) -> String {
    let sent = request
        .headers
        .get("x-request-id")
        .and_then(|id| id.to_str().ok());
    match sent {
        Some(id) if trusted && !id.is_empty() && id.len() <= 200 => id.to_owned(),
        _ => format!("{:032x}", fastrand::u128(..)),
    }
}

/// Brings the target to the form in which it is matched, so that what was matched is what the
/// upstream gets. `Err`: it is no target (RFC 9112 §3.2), or has a `%` that begins no escape.
pub(super) fn normalize(request: &mut RequestHeader) -> Result<(), ()> {
    let absolute = match request.raw_path() {
        [b'/', ..] | b"*" => false,
        // The host of these is that of `Host`, or the parser has refused them.
        raw if is_absolute(raw) => true,
        _ => return Err(()),
    };
    let path = request.uri.path();
    if !escapes_are_whole(path) {
        return Err(());
    }
    let normal = normalize_path(path);
    if normal == path && !absolute {
        return Ok(());
    }
    let target = match request.uri.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal.into_owned(),
    };
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_| ())?);
    request.set_uri(Uri::from_parts(parts).map_err(|_: uri::InvalidUriParts| ())?);
    Ok(())
}

fn is_absolute(target: &[u8]) -> bool {
    let begins = |scheme: &str| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    begins("http://") || begins("https://")
}

fn escapes_are_whole(path: &str) -> bool {
    let mut after = path.split('%').skip(1);
    after.all(|text| {
        let digits = text.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

pub(super) fn https_location(host: &str, port: u16, uri: &Uri) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    match port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    }
}

pub(super) fn pace(request: &RequestHeader) -> Pace {
    let accepts_events = request
        .headers
        .get(header::ACCEPT)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if accepts_events {
        Pace::Events
    } else if request.headers.contains_key(header::UPGRADE) {
        Pace::Upgrade
    } else if is_grpc(request) {
        Pace::Call
    } else {
        Pace::Exchange
    }
}

pub(super) fn is_grpc(request: &RequestHeader) -> bool {
    request
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether the answer to a request of this pace is an event stream. That of a call is none,
/// whatever it says: no gRPC client takes one, and its connection is shared.
pub(super) fn is_event_stream(pace: Pace, response: &ResponseHeader) -> bool {
    pace != Pace::Call
        && response
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

pub(super) fn protocol(session: &Session) -> &'static str {
    if session.is_http2() {
        return "HTTP/2.0";
    }
    match session.req_header().version {
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

pub(super) struct View<'a> {
    pub(super) request: &'a RequestHeader,
    pub(super) method: &'a Method,
    pub(super) client: std::net::IpAddr,
}

impl RequestView for View<'_> {
    fn path(&self) -> &str {
        self.request.uri.path()
    }

    fn method(&self) -> &Method {
        self.method
    }

    fn any_header(&self, name: &HeaderName, accept: &dyn Fn(&str) -> bool) -> bool {
        let values = self.request.headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(accept)
    }

    fn query(&self) -> Option<&str> {
        self.request.uri.query()
    }

    fn client_ip(&self) -> std::net::IpAddr {
        self.client
    }
}
/// What a request that waits keeps in memory: its head.
pub(super) fn held_bytes(request: &RequestHeader) -> usize {
    let fields = request.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    request.raw_path().len() + fields
}

/// How often a client is looked at that may still send its body: nothing is read from it
/// meanwhile, so its end is not seen by itself.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Ends when the client does.
pub(super) async fn client_leaves(session: &mut Session) -> Box<Error> {
    let downstream = session.as_mut();
    if downstream.is_body_empty() || downstream.is_body_done() {
        return match downstream.read_body_or_idle(true).await {
            Err(error) => error.into_down(),
            // Another request on the same connection before this one was answered.
            Ok(_) => Error::new_down(ErrorType::ConnectionClosed),
        };
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if Connection::of(session).is_some_and(|connection| connection.is_gone()) {
            return Error::new_down(ErrorType::ConnectionClosed);
        }
    }
}
/// Bodies up to this length are read though nobody wants them, in bytes.
const DISCARDED: usize = 1 << 20;

/// And for at most so long.
const DISCARDING: Duration = Duration::from_millis(500);

/// Reads a body of a known and small length before an answer that does not need it. The connection can
/// be used again then, and over HTTP/2 the answer does not end the stream before the client did: that
/// is allowed (RFC 9113 §8.1), but curl before 8 takes it for an error. Where some of a body is left,
/// the connection ends with the answer: what follows on it may be the rest.
pub(super) async fn finish_body(session: &mut Session) {
    if is_worth_reading(session) {
        let read = async { while let Ok(Some(_)) = session.as_mut().read_request_body().await {} };
        let _ = timeout(DISCARDING, read).await;
    }
    if !session.as_mut().is_body_done() {
        session.set_keepalive(None);
    }
}

fn is_worth_reading(session: &mut Session) -> bool {
    // A connection that ends anyway needs nothing read, and what it says of lengths may be a lie.
    let ends = !session.is_http2() && session.get_keepalive().is_none();
    let headers = &session.req_header().headers;
    // Who asks first sends nothing until it is told to (RFC 9110 §10.1.1).
    let waits = headers.contains_key(header::EXPECT);
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let is_small = length.is_some_and(|length: usize| length <= DISCARDED);
    is_small && !waits && !ends && !session.as_mut().is_body_done()
}
