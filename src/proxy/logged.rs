//! The line of the access log for a request.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};
use pingora::proxy::Session;

use super::access_log::{Entry, Line, logged_path};
use super::edge::Edge;
use super::exchange::Exchange;
use super::front::Connection;
use super::head;
use super::request::{milliseconds, protocol};
use super::settings::Settings;
use crate::clock;
use crate::config::AccessLog;
use crate::model::ErrorType;

impl Edge {
    pub(super) fn log_line(
        &self,
        session: &Session,
        exchange: &Exchange,
        settings: &Settings,
        to: &Arc<AccessLog>,
        status: u16,
        took: Duration,
    ) {
        let request = session.req_header();
        let slot = exchange.claim.as_ref().map(|claim| claim.pool().slot());
        let release = slot.and_then(|slot| slot.release());
        let tls = Connection::of(session).and_then(|connection| connection.tls.clone());
        // As it came, whatever steps made of it.
        let original = exchange
            .handling
            .as_ref()
            .map(|handling| &handling.original.uri);
        let uri = original.unwrap_or(&request.uri);
        let path = logged_path(uri.path(), uri.query(), &settings.log.redact_query);
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
        let at = clock::wall();
        let connection = Connection::of(session);
        let line = Line {
            ts: clock::rfc3339(at),
            request_id: &exchange.request_id,
            client_ip: exchange.client.ip.to_string(),
            method: request.method.as_str(),
            scheme: if exchange.https { "https" } else { "http" },
            host: asked_for(session, exchange),
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
        };
        let entry = Entry {
            line,
            at,
            request,
            response: session.response_written(),
            user: (exchange.handling.as_ref()).and_then(|handling| handling.user.as_deref()),
            peer: (
                exchange.peer,
                connection.map_or(0, |connection| connection.peer_port),
            ),
            tls: tls.as_deref(),
            more: (exchange.handling.as_ref())
                .map_or(&[], |handling| handling.log.append.as_slice()),
            rules: &settings.log,
        };
        self.log.write(to, &entry);
    }
}

/// Host and port as the client sent them, whatever steps made of them.
pub(super) fn asked_for<'a>(session: &'a Session, exchange: &'a Exchange) -> &'a str {
    match &exchange.handling {
        Some(handling) => &handling.original.authority,
        None => head::authority(session.req_header()),
    }
}
