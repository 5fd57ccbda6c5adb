//! `concurrency`: requests in flight at a time.

use super::failure::Failure;
use super::run::{Flow, Outcome, Walk};
use crate::config::step::Concurrency;
use crate::model::ErrorType;
use crate::pool::Planned;
use crate::proxy::guard::{Entered, Places};
use crate::proxy::request::client_leaves;

/// Takes a place until the request ends (a WebSocket's with its connection), waiting for one in a
/// bounded queue; none in time: 503. A client that leaves frees its place.
pub(super) async fn enter(walk: &mut Walk<'_>, step: &Planned, limit: &Concurrency) -> Outcome {
    let places = step.state(|| Places::new(limit));
    let place = match places.enter(walk.exchange.client.ip) {
        Entered::Place(place) => Some(place),
        Entered::Full => None,
        Entered::Wait(waiting) => tokio::select! {
            biased;
            place = waiting.turn() => place,
            left = client_leaves(walk.session) => return Err(left),
            () = tokio::time::sleep(limit.wait) => None,
        },
    };
    let Some(place) = place else {
        return Ok(Flow::Fail(Failure::new(
            503,
            ErrorType::ConnectionLimitReached,
            "Too many requests at a time; try again soon.",
        )));
    };
    walk.handling().keep(place);
    Ok(Flow::Next)
}
