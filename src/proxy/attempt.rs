//! One attempt: which upstream it goes to, and what is remembered of its end.

use std::sync::Arc;

use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};

use super::connect;
use super::edge::Edge;
use super::exchange::Exchange;
use super::front::Connection;
use super::retry;
use crate::clock;
use crate::config::Balance;
use crate::model::ErrorType;
use crate::pool::{Affinity, Attempt};

impl Edge {
    /// Chooses where the next attempt goes. An attempt after a switch goes to the new pool.
    pub(super) fn choose(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        let unavailable = || Error::new_in(retry::NONE);
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
                Balance::Cookie => {
                    let (key, name) = (&settings.sticky, &balance.cookie);
                    key.upstream(&request.headers, name, slot)
                }
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
        let announcement = (balance.proxy_protocol)
            .zip(Connection::of(session))
            .map(|(version, connection)| exchange.announcement(connection, version));
        let peer = connect::peer(
            claim.pool(),
            &settings.upstream_tls,
            picked.upstream.upstream(),
            &settings.timeouts,
            exchange.pace,
            announcement,
        )?;
        exchange.timer = None;
        exchange.set_cookie = picked.set_cookie;
        exchange.upstream = Some(picked.upstream);
        exchange.attempt_started = Some(clock::now());
        exchange.connection = None;
        exchange.arrival = None;
        Ok(peer)
    }

    /// Before a repetition: claims the live pool if the claimed one is no longer live, so that
    /// nothing is sent to an upstream that is known to be leaving.
    pub(super) fn move_with_the_switch(&self, request: &RequestHeader, exchange: &mut Exchange) {
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
    pub(super) fn record(&self, exchange: &Exchange, attempt: Attempt, error: Option<ErrorType>) {
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
