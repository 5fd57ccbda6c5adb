//! What a reload may change about the data plane, apart from routes and pools.

use crate::config::{Config, IpSet, Limits, Log, Timeouts};

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
    /// Where plain HTTP is redirected to; `None` without an https listener.
    pub https_port: Option<u16>,
}

impl Settings {
    /// The part of a configuration that the phases read.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            log: config.log.clone(),
            trusted_proxies: config.listen.trusted_proxies.clone(),
            https_port: config.listen.https.first().map(std::net::SocketAddr::port),
        }
    }
}
