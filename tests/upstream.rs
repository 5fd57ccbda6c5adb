//! How a service's upstreams are reached, with the real programs: TLS, retries, sticky sessions,
//! the PROXY protocol; and what is logged of it.

mod support;

#[path = "upstream/access_log.rs"]
mod access_log;
#[path = "upstream/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "upstream/retry.rs"]
mod retry;
#[path = "upstream/sticky.rs"]
mod sticky;
#[path = "upstream/tls.rs"]
mod tls;
