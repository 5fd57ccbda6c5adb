//! Every metric name, label and bucket, in one place; and the sliding latency quantiles that
//! `status` shows and `/metrics` exports.
//!
//! **Two kinds of numbers.** What happens (requests, errors, switches) is counted here when it
//! happens. What is (live color, requests in flight, upstream health) belongs to others and is
//! handed over at scrape time as a [`LiveState`]; nothing here can disagree with its owner.
//!
//! **The request path** holds an `Arc<ColorMetrics>`, resolved once when its slot was built.
//! [`ColorMetrics::record`] is a handful of relaxed atomic operations: no lock, no hash, no
//! allocation but the first time a method or a magnitude of latency is seen (those wait for
//! one allocation, once). A color that never took a request owns a few hundred bytes.
//!
//! **Sharding.** A color starts with one shard. When that takes more than a few thousand
//! requests a second, threads spread over `min(cores, 8)` shards, and reading sums them up. So a
//! busy service does not bounce one cache line between all cores, and ten thousand quiet ones
//! do not pay for eight copies.
//!
//! **Cardinality.** Label values come from the configuration or from closed lists. A method
//! outside the nine standard ones is `OTHER`; a status code outside the registered ones is
//! `1xx` to `5xx` (so `code=~"5.."` still finds it), or `other` outside 100–599.
//!
//! Relaxed ordering is enough everywhere: every counter stands alone, and no reader draws a
//! conclusion about other memory from its value. A scrape is therefore not one instant: two
//! counters in it may differ by the requests that ended in between.
//!
//! Sources: Prometheus text format 0.0.4; RFC 9209 (error types); log-linear buckets as in
//! HdrHistogram, with a bounded relative error as in Masson et al., "DDSketch" (VLDB 2019).

mod buckets;
mod color;
mod histogram;
mod labels;
mod names;
mod registry;
mod render;
mod shard;
mod text;
mod window;

#[cfg(test)]
mod tests;

pub use color::{ColorMetrics, RequestOutcome, Totals};
pub use labels::{Outcome, Protocol, RollbackReason, SwitchOutcome};
pub use registry::Metrics;
pub use render::{CONTENT_TYPE, LiveColor, LiveService, LiveState};
pub(crate) use shard::lane;
pub use window::Window;
