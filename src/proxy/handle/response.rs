//! What steps change about an answer's head, whoever gives the answer.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::encode;
use super::fields::{self, speak_of_upstream};
use super::forward::answer_fits;
use super::run::{Flow, Walk};
use super::scope::Scope;
use super::state::Deferred;
use crate::config::step::{Action, ResponseHeaders};
use crate::pool::Planned;
use crate::proxy::exchange::Exchange;
use crate::proxy::guard::CrossOrigin;

/// Carries out a `response_header` step: later, or at once on the fields that the answer begins with.
pub(super) fn step(walk: &mut Walk<'_>, step: &Arc<Planned>, headers: &ResponseHeaders) -> Flow {
    if headers.deferred || headers.when.is_some() {
        let deferred = Deferred::Step(Arc::clone(step));
        walk.handling().deferred.push(deferred);
        return Flow::Next;
    }
    let mut early = std::mem::take(&mut walk.handling().early);
    let changed = fields::apply(&headers.ops, &mut early, &walk.scope());
    walk.handling().early = early;
    if let Err(error) = changed {
        tracing::error!(%error, "a response_header step cannot be carried out");
    }
    Flow::Next
}

/// Gives an answer of the proxy's own the fields that were there before it; its own win.
pub(super) fn early(exchange: &mut Exchange, head: &mut ResponseHeader) -> Result<()> {
    let Some(handling) = exchange.handling.as_deref_mut() else {
        return Ok(());
    };
    let early = std::mem::take(&mut handling.early);
    let missing = early
        .keys()
        .filter(|name| !head.headers.contains_key(*name));
    for name in missing.cloned().collect::<Vec<_>>() {
        for value in early.get_all(&name) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// Gives an upstream's answer the fields that were there before it, beside its own: what a step
/// says at once replaces nothing that comes later (Caddy's `header` without `defer`).
pub(super) fn beside(exchange: &mut Exchange, head: &mut ResponseHeader) -> Result<()> {
    let Some(handling) = exchange.handling.as_deref_mut() else {
        return Ok(());
    };
    let mut early = std::mem::take(&mut handling.early);
    if head.headers.contains_key(header::SERVER) {
        // One product answers.
        early.remove(header::SERVER);
    }
    for name in early.keys() {
        // They were there first, so they stand first.
        let own: Vec<HeaderValue> = head.headers.get_all(name).iter().cloned().collect();
        head.remove_header(name);
        for value in early.get_all(name).iter().chain(&own) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// The answer to a failure says what failed (RFC 9209), whoever writes it.
pub(super) fn failure(exchange: &mut Exchange, head: &mut ResponseHeader) -> Result<()> {
    let handling = exchange.handling.as_deref();
    let Some(failure) = handling.and_then(|handling| handling.failure.as_ref()) else {
        return Ok(());
    };
    for (name, value) in &failure.fields {
        head.insert_header(name.clone(), value.clone())?;
    }
    let status = HeaderName::from_static("proxy-status");
    if !head.headers.contains_key(&status) {
        let value = format!("cutover; error={}", failure.error.as_str());
        head.insert_header(status, value)?;
    }
    if failure.status == 503 && !head.headers.contains_key(header::RETRY_AFTER) {
        head.insert_header(header::RETRY_AFTER, HeaderValue::from_static("5"))?;
    }
    Ok(())
}

/// The changes that a `proxy` step makes to its upstream's answer.
pub(super) fn of_proxy(
    session: &Session,
    exchange: &Exchange,
    changes: &[ResponseHeaders],
    head: &mut ResponseHeader,
) -> Result<()> {
    for change in changes {
        apply(session, exchange, change, head)?;
    }
    Ok(())
}

fn apply(
    session: &Session,
    exchange: &Exchange,
    change: &ResponseHeaders,
    head: &mut ResponseHeader,
) -> Result<()> {
    if change
        .when
        .as_ref()
        .is_some_and(|when| !answer_fits(when, head))
    {
        return Ok(());
    }
    let scope = Scope::new(session, exchange);
    if speak_of_upstream(&change.ops) {
        let before = head.clone();
        return fields::apply(&change.ops, head, &scope.with_answer(&before));
    }
    fields::apply(&change.ops, head, &scope)
}

/// Carries out what steps left for now, those of later steps first.
pub(super) fn deferred(
    session: &Session,
    exchange: &mut Exchange,
    head: &mut ResponseHeader,
) -> Result<()> {
    let Some(handling) = exchange.handling.as_deref_mut() else {
        return Ok(());
    };
    let mut list = std::mem::take(&mut handling.deferred);
    while let Some(change) = list.pop() {
        match change {
            Deferred::Fields(fields) => {
                for (name, value) in fields {
                    head.insert_header(name, value)?;
                }
            }
            Deferred::CrossOrigin(answer) => {
                for name in CrossOrigin::replaces() {
                    head.remove_header(&name);
                }
                for (name, value) in answer.fields() {
                    head.insert_header(name.clone(), value.clone())?;
                }
                if answer.adds_vary(&head.headers) {
                    head.append_header(header::VARY, HeaderValue::from_static("Origin"))?;
                }
            }
            Deferred::Step(step) => match &step.action {
                Action::ResponseHeaders(change) => apply(session, exchange, change, head)?,
                // What follows a 101 is no body.
                Action::Encode(encode) if head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    let encoder = encode::begin(encode, session.req_header(), head);
                    // Of two such steps one compresses: the head says so to the other.
                    if let (Some(handling), Some(encoder)) =
                        (exchange.handling.as_deref_mut(), encoder)
                    {
                        handling.encoder = Some(encoder);
                    }
                }
                _ => {}
            },
        }
    }
    Ok(())
}
