//! The library's models as an [`Inventory`](super::inventory::Inventory). Pure: nothing is asked.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerStatsResponse, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, EventMessage, EventMessageTypeEnum,
    HealthStatusEnum,
};
use ipnet::IpNet;

use super::event::Event;
use super::inventory::{Attached, Container, Health, SERVICE, State};

/// Whether a container may be served at all, by its labels.
pub(super) fn is_of_interest(labels: &BTreeMap<String, String>) -> bool {
    labels
        .keys()
        .any(|name| name == SERVICE || name.starts_with("cutover.") || name.starts_with("caddy"))
}

/// Labels of a container in a list.
pub(super) fn labels(summary: &ContainerSummary) -> BTreeMap<String, String> {
    summary
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect()
}

/// All of one container.
pub(super) fn inspected(seen: ContainerInspectResponse) -> Option<Container> {
    let config = seen.config.unwrap_or_default();
    let host = seen.host_config.unwrap_or_default();
    let state = seen.state.unwrap_or_default();
    let networks = seen.network_settings.unwrap_or_default().networks;
    let positive = |number: Option<i64>| {
        number
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0)
    };
    #[allow(clippy::cast_precision_loss, reason = "billionths of a CPU")]
    let by_nano = positive(host.nano_cpus).map(|nano| nano as f64 / 1e9);
    #[allow(clippy::cast_precision_loss, reason = "microseconds")]
    let by_quota = positive(host.cpu_quota)
        .map(|quota| quota as f64 / positive(host.cpu_period).unwrap_or(100_000) as f64);
    Some(Container {
        id: seen.id?,
        name: bare(&seen.name.unwrap_or_default()),
        image: config.image.unwrap_or_default(),
        image_id: seen.image.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        networks: attached(networks.unwrap_or_default()),
        on_host: host.network_mode.as_deref() == Some("host"),
        exposed: config
            .exposed_ports
            .unwrap_or_default()
            .iter()
            .filter_map(|port| match port.split_once('/') {
                Some((port, "tcp")) => port.parse().ok(),
                Some(_) => None,
                None => port.parse().ok(),
            })
            .collect(),
        state: state.status.map(of_inspect).unwrap_or_default(),
        health: state
            .health
            .and_then(|health| health.status)
            .and_then(health),
        is_stopping: false,
        stop_signal: config.stop_signal.unwrap_or_default(),
        created: seen.created.unwrap_or_default(),
        started: state.started_at.unwrap_or_default(),
        restarts: positive(seen.restart_count).unwrap_or_default(),
        memory_limit: positive(host.memory),
        cpu_limit: by_nano.or(by_quota),
    })
}

/// What a list tells of a container, where all of it is refused: no stop signal, no count of
/// restarts, health from the line that people read.
pub(super) fn listed(summary: ContainerSummary) -> Option<Container> {
    let labels = labels(&summary);
    let status = summary.status.unwrap_or_default();
    let health = [
        ("(healthy)", Health::Healthy),
        ("(unhealthy)", Health::Unhealthy),
        ("(health: starting)", Health::Starting),
    ]
    .into_iter()
    .find_map(|(text, health)| status.contains(text).then_some(health));
    let networks = summary.network_settings.unwrap_or_default().networks;
    let host = summary.host_config.unwrap_or_default();
    Some(Container {
        id: summary.id?,
        name: bare(
            summary
                .names
                .unwrap_or_default()
                .first()
                .map_or("", String::as_str),
        ),
        image: summary.image.unwrap_or_default(),
        image_id: summary.image_id.unwrap_or_default(),
        labels,
        networks: attached(networks.unwrap_or_default()),
        on_host: host.network_mode.as_deref() == Some("host"),
        exposed: summary
            .ports
            .unwrap_or_default()
            .iter()
            .filter(|port| {
                port.typ
                    .as_ref()
                    .is_none_or(|kind| kind.to_string() == "tcp")
            })
            .map(|port| port.private_port)
            .collect(),
        state: summary.state.map(of_list).unwrap_or_default(),
        health,
        created: summary
            .created
            .map(|at| format!("{at:020}"))
            .unwrap_or_default(),
        ..Container::default()
    })
}

/// Says of each network whether one of these subnets is in it.
pub(super) fn mark_near(container: &mut Container, subnets: &[IpNet]) {
    for network in &mut container.networks {
        let is_near = |address: &IpAddr| subnets.iter().any(|subnet| subnet.contains(address));
        network.is_near = network.addresses.iter().any(is_near);
    }
}

/// Docker writes `/name`.
fn bare(name: &str) -> String {
    name.trim_start_matches('/').to_owned()
}

fn attached(networks: HashMap<String, EndpointSettings>) -> Vec<Attached> {
    let address = |text: Option<String>| text.and_then(|text| text.parse::<IpAddr>().ok());
    let mut attached: Vec<_> = networks
        .into_iter()
        .map(|(name, endpoint)| Attached {
            name,
            id: endpoint.network_id.unwrap_or_default(),
            addresses: [
                address(endpoint.ip_address),
                address(endpoint.global_ipv6_address),
            ]
            .into_iter()
            .flatten()
            .collect(),
            is_near: false,
        })
        .collect();
    attached.sort_by(|a, b| a.name.cmp(&b.name));
    attached
}

const fn of_inspect(state: ContainerStateStatusEnum) -> State {
    use ContainerStateStatusEnum as S;
    match state {
        S::RUNNING => State::Running,
        S::PAUSED => State::Paused,
        S::RESTARTING => State::Restarting,
        S::CREATED => State::Created,
        S::EMPTY | S::REMOVING | S::EXITED | S::DEAD | S::STOPPING => State::Ended,
    }
}

const fn of_list(state: ContainerSummaryStateEnum) -> State {
    use ContainerSummaryStateEnum as S;
    match state {
        S::RUNNING => State::Running,
        S::PAUSED => State::Paused,
        S::RESTARTING => State::Restarting,
        S::CREATED => State::Created,
        S::EMPTY | S::REMOVING | S::EXITED | S::DEAD | S::STOPPING => State::Ended,
    }
}

const fn health(status: HealthStatusEnum) -> Option<Health> {
    match status {
        HealthStatusEnum::STARTING => Some(Health::Starting),
        HealthStatusEnum::HEALTHY => Some(Health::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
    }
}

/// An event in our words; `None`: about something else.
pub(super) fn event(message: EventMessage) -> Option<Event> {
    let kind = match message.typ? {
        EventMessageTypeEnum::CONTAINER => "container",
        EventMessageTypeEnum::NETWORK => "network",
        _ => return None,
    };
    let actor = message.actor.unwrap_or_default();
    Some(Event {
        kind: kind.to_owned(),
        action: message.action?,
        id: actor.id?,
        attributes: actor.attributes.unwrap_or_default().into_iter().collect(),
    })
}

/// Bytes that a container really needs, as `docker stats` counts them: without the cache that can be
/// dropped.
pub(super) fn memory(stats: &ContainerStatsResponse) -> Option<u64> {
    let memory = stats.memory_stats.as_ref()?;
    let stats = memory.stats.as_ref();
    // The first is of cgroup v1, where the other one leaves out what is below it; the second of v2.
    // As docker/cli has it (`calculateMemUsageUnixNoCache`).
    let cache = ["total_inactive_file", "inactive_file"]
        .into_iter()
        .find_map(|name| stats?.get(name).copied());
    Some(memory.usage?.saturating_sub(cache.unwrap_or_default()))
}

/// Nanoseconds of CPU since a container's start.
pub(super) fn cpu(stats: &ContainerStatsResponse) -> Option<u64> {
    stats.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inspected_container_is_read() {
        let json = serde_json::json!({
            "Id": "abc", "Name": "/shop-web-1", "Image": "sha256:1", "RestartCount": 2,
            "Created": "2026-01-02T03:04:05.6Z",
            "State": {"Status": "running", "StartedAt": "2026-01-02T03:04:06Z", "Health": {"Status": "starting"}},
            "Config": {"Image": "web:v2", "Labels": {"a": "b"}, "StopSignal": "SIGQUIT",
                "ExposedPorts": {"3000/tcp": {}, "53/udp": {}}},
            "HostConfig": {"NetworkMode": "shop_default", "Memory": 1024, "NanoCpus": 1_500_000_000},
            "NetworkSettings": {"Networks": {"shop_default": {"NetworkID": "n1", "IPAddress": "172.18.0.2", "GlobalIPv6Address": ""}}}
        });
        let container =
            inspected(serde_json::from_value(json).expect("a container")).expect("an id");
        assert_eq!(container.name, "shop-web-1");
        assert_eq!(container.exposed, [3000].into());
        assert_eq!(container.health, Some(Health::Starting));
        assert_eq!(container.state, State::Running);
        assert_eq!(container.memory_limit, Some(1024));
        assert_eq!(container.cpu_limit, Some(1.5));
        assert_eq!(container.networks[0].addresses.len(), 1);
        assert!(container.is_ended_by("SIGQUIT"));
    }

    #[test]
    fn a_list_alone_is_enough_to_serve() {
        let json = serde_json::json!({
            "Id": "abc", "Names": ["/web"], "Image": "web:v2", "ImageID": "sha256:1", "Created": 5,
            "Labels": {"cutover.host": "a"}, "State": "running", "Status": "Up 2 minutes (unhealthy)",
            "Ports": [{"PrivatePort": 3000, "Type": "tcp"}, {"PrivatePort": 53, "Type": "udp"}],
            "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "n", "IPAddress": "172.17.0.2"}}}
        });
        let container = listed(serde_json::from_value(json).expect("a container")).expect("an id");
        assert_eq!(
            (container.name.as_str(), container.health),
            ("web", Some(Health::Unhealthy))
        );
        assert_eq!(container.exposed, [3000].into());
        assert!(container.takes_requests());
    }
}
