//! What the parts do together: quantiles against exact ones, the page against a strict parser.

mod page;
mod parse;
mod sliding;

use std::time::{Duration, Instant};

use http::Method;

use super::{ColorMetrics, RequestOutcome};

/// Records a `GET` that was answered with `status` after `duration`.
fn get(counters: &ColorMetrics, now: Instant, status: u16, duration: Option<Duration>) {
    counters.record(
        now,
        &RequestOutcome {
            method: &Method::GET,
            status,
            duration,
            upstream: duration,
        },
    );
}
