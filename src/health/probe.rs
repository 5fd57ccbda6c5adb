//! One probe of one upstream, with the reason in words when it fails.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::judge::judge;
use crate::config::{Health, Probe};
use crate::http::{Client, Dial, Failure, Get, Origin, ServingStatus};
use crate::model::{Endpoint, Scheme, UpstreamAddr};
use crate::pool::{Target, Upstream};

/// Why a probe did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The upstream's fault; counts.
    Failed(String),
    /// The proxy's own fault; nothing was learned and nothing is counted.
    NotTried(String),
}

/// Asks `upstream` once what `health` says, within `health.timeout`. Returns the time from the
/// start of the connect to the end of the answer; a slow answer in time is a pass, whatever
/// `max_latency` says. Cancel-safe: closes the connection on drop.
///
/// # Errors
/// [`Miss`], with a reason for people.
pub async fn probe(
    client: &Client,
    upstream: &Upstream,
    health: &Health,
) -> Result<Duration, Miss> {
    match &health.probe {
        Probe::Tcp => Ok(client
            .connect(&dial(upstream.target()), health.timeout)
            .await?),
        Probe::Http {
            path,
            host,
            status,
            json,
        } => {
            let origin = origin(upstream, host.as_deref());
            let answer = client
                .get(Get {
                    origin: &origin,
                    path,
                    headers: &[],
                    deadline: health.timeout,
                    body_limit: BODY_LIMIT_BYTES,
                })
                .await?;
            let code = answer.status.as_u16();
            judge(code, &answer.body, answer.truncated, *status, json).map_err(Miss::Failed)?;
            Ok(answer.elapsed)
        }
        Probe::Grpc { service } => {
            let origin = origin(upstream, None);
            let (status, elapsed) = client.grpc_health(&origin, service, health.timeout).await?;
            match status {
                ServingStatus::Serving => Ok(elapsed),
                other => Err(Miss::Failed(format!(
                    "gRPC health is {}, expected SERVING",
                    other.name()
                ))),
            }
        }
    }
}

/// Asks `upstream` for a path, with nothing of any client in it. Its status and the time to the
/// head of the answer; `None`: there was no whole answer.
pub async fn replay(client: &Client, upstream: &Upstream, path: &str) -> Option<(u16, Duration)> {
    let origin = origin(upstream, None);
    let mark = [(
        HeaderName::from_static("x-cutover-probe"),
        HeaderValue::from_static("1"),
    )];
    let answer = client.get(Get {
        origin: &origin,
        path,
        headers: &mark,
        deadline: REPLAY_PATIENCE,
        body_limit: BODY_LIMIT_BYTES,
    });
    let answer = answer.await.ok()?;
    Some((answer.status.as_u16(), answer.waited))
}

/// For the answer to a replay.
const REPLAY_PATIENCE: Duration = Duration::from_secs(5);

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        if failure.is_local() {
            Self::NotTried(failure.to_string())
        } else {
            Self::Failed(failure.to_string())
        }
    }
}

fn origin(upstream: &Upstream, host: Option<&str>) -> Origin {
    let configured = upstream.configured();
    Origin {
        dial: dial(upstream.target()),
        scheme: configured.scheme(),
        authority: host.map_or_else(|| authority(configured), str::to_owned),
        tls_name: configured.tls_name(),
    }
}

fn dial(target: &Target) -> Dial {
    match target {
        Target::Socket(addr) => Dial::Tcp(*addr),
        Target::Unix(path) => Dial::Unix(path.clone()),
    }
}

/// The upstream's own name as a `Host`, without the port where the scheme implies it.
fn authority(configured: &UpstreamAddr) -> String {
    let (host, port) = match configured.endpoint() {
        Endpoint::Socket(addr) if addr.is_ipv6() => (format!("[{}]", addr.ip()), addr.port()),
        Endpoint::Socket(addr) => (addr.ip().to_string(), addr.port()),
        Endpoint::Name { host, port } => (host.to_string(), *port),
        Endpoint::Unix(_) => ("localhost".to_owned(), Scheme::Http.default_port()),
    };
    if port == configured.scheme().default_port() {
        host
    } else {
        format!("{host}:{port}")
    }
}

/// As much of a body as is read. Without `json` the rest does not matter and the probe passes.
const BODY_LIMIT_BYTES: usize = 64 * 1024;

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
