//! `rate_limit`: requests in a time.

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::failure::Failure;
use super::run::{Flow, Walk};
use super::state::Deferred;
use crate::config::step::{RateKey, RateLimit};
use crate::model::ErrorType;
use crate::pool::Planned;
use crate::proxy::guard::{Buckets, Now, Taken, network_of};

/// Takes one from the bucket of the request's key; none left: 429. Both answers say how the bucket
/// stands. The buckets stay over a reload that does not change the step.
pub(super) fn take(walk: &mut Walk<'_>, step: &Planned, limit: &RateLimit) -> Flow {
    let buckets = step.state(|| Buckets::new(limit, Now));
    let taken = from_bucket(walk, &buckets, &limit.key);
    let fields = buckets.fields(taken);
    if taken.allowed {
        let fields = Deferred::Fields(fields.into());
        walk.handling().deferred.push(fields);
        return Flow::Next;
    }
    let refused = Failure::new(
        429,
        ErrorType::HttpRequestDenied,
        "Too many requests; try again later.",
    );
    let later = [(RETRY_AFTER, HeaderValue::from(taken.seconds()))];
    let with =
        |failure: Failure, (name, value): (HeaderName, HeaderValue)| failure.with(name, value);
    Flow::Fail(fields.into_iter().chain(later).fold(refused, with))
}

/// Each kind of key is hashed with a number of its own, so that no header passes for an address.
fn from_bucket(walk: &Walk<'_>, buckets: &Buckets, key: &RateKey) -> Taken {
    let client = || (0, network_of(walk.exchange.client.ip));
    match key {
        RateKey::Client => buckets.take(&client()),
        RateKey::Route => buckets.take(&1),
        RateKey::Header(name) => {
            let values = walk.session.req_header().headers.get_all(name);
            let values: Vec<&[u8]> = values.iter().map(HeaderValue::as_bytes).collect();
            match values.is_empty() {
                true => buckets.take(&client()),
                false => buckets.take(&(2, values)),
            }
        }
        RateKey::Template(template) => {
            let text = walk.fill(template);
            match text.is_empty() {
                true => buckets.take(&client()),
                false => buckets.take(&(3, text)),
            }
        }
    }
}
