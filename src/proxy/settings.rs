//! What a reload may change about the data plane, apart from routes and pools.

use std::sync::Arc;

use super::sticky::StickyKey;
use crate::config::{Config, IpSet, Limits, Log, Timeouts};
use crate::tls::Upstreams;

/// Read once a request from an `ArcSwap`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Bounds.
    pub limits: Limits,
    /// Access log and redaction.
    pub log: Log,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: IpSet,
    /// Peers whose connections begin with a header of the PROXY protocol.
    pub proxy_protocol: IpSet,
    /// Where plain HTTP is redirected to; `None` without an https listener.
    pub https_port: Option<u16>,
    /// TLS to upstreams that is not as the system has it.
    pub upstream_tls: Arc<Upstreams>,
    /// Signs the cookies of sticky sessions.
    pub sticky: Arc<StickyKey>,
}

impl Settings {
    /// The part of a configuration that the phases read.
    #[must_use]
    pub fn new(config: &Config, upstream_tls: Arc<Upstreams>, sticky: Arc<StickyKey>) -> Self {
        Self {
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            log: config.log.clone(),
            trusted_proxies: config.listen.trusted_proxies.clone(),
            proxy_protocol: config.listen.proxy_protocol.clone(),
            upstream_tls,
            sticky,
            https_port: config.listen.https.first().map(std::net::SocketAddr::port),
        }
    }
}
