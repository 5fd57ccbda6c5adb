//! What only one container can have, and which line to change.

use std::fmt;

use serde_json::Value;

use crate::deploy::container::{Container, label};

/// Why a container cannot be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecRefusal {
    /// Service and file, or the container.
    place: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Port { container: String, host: String },
    Name { name: String },
    Address { network: String, address: String },
    HostNetwork,
}

impl fmt::Display for SpecRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        match &self.what {
            What::Port { container, host } => write!(
                f,
                "{place}: remove `{host}:{container}` under `ports:`; a port of the host belongs \
                 to one container, and the proxy reaches both colors by their network"
            ),
            What::Name { name } => write!(
                f,
                "{place}: remove `container_name: {name}`; a name belongs to one container"
            ),
            What::Address { network, address } => write!(
                f,
                "{place}: remove the address {address} under `networks: {network}:` \
                 (`ipv4_address` or `ipv6_address`); an address belongs to one container"
            ),
            What::HostNetwork => write!(
                f,
                "{place}: remove `network_mode: host`; both colors would listen on the same port"
            ),
        }
    }
}

/// Everything at once.
pub(super) fn all(live: &Container) -> Vec<SpecRefusal> {
    let mut found = ports(live);
    found.extend(name(live));
    found.extend(addresses(live));
    let mode = live.inspect.pointer("/HostConfig/NetworkMode");
    if mode.and_then(Value::as_str) == Some("host") && has_port(live) {
        found.push(What::HostNetwork);
    }
    let refusal = |what| SpecRefusal {
        place: live.place(),
        what,
    };
    found.into_iter().map(refusal).collect()
}

/// Whether it says that it listens: a worker on the host's network disturbs nobody.
fn has_port(live: &Container) -> bool {
    let exposed = live.inspect.pointer("/Config/ExposedPorts");
    let exposed = exposed.and_then(Value::as_object);
    exposed.is_some_and(|ports| !ports.is_empty()) || live.label("cutover.port").is_some()
}

/// A port that the engine chooses is no obstacle: each container gets its own.
fn ports(live: &Container) -> Vec<What> {
    let bindings = live.inspect.pointer("/HostConfig/PortBindings");
    let bindings = bindings.and_then(Value::as_object).into_iter().flatten();
    let mut found = Vec::new();
    for (container, hosts) in bindings {
        for host in hosts.as_array().into_iter().flatten() {
            let text = |key| host.get(key).and_then(Value::as_str).unwrap_or_default();
            let (address, port) = (text("HostIp"), text("HostPort"));
            if port.is_empty() || port == "0" {
                continue;
            }
            let host = match address {
                "" | "0.0.0.0" => port.to_owned(),
                address => format!("{address}:{port}"),
            };
            let container = container.trim_end_matches("/tcp").to_owned();
            found.push(What::Port { container, host });
        }
    }
    found
}

/// Compose names its containers after project, service and number; any other name was written.
fn name(live: &Container) -> Option<What> {
    let project = live.label(label::COMPOSE_PROJECT)?;
    let service = live.label(label::COMPOSE_SERVICE)?;
    let usual = ['-', '_'].iter().any(|between| {
        let rest = live.name.strip_prefix(project);
        let rest = rest.and_then(|rest| rest.strip_prefix(*between));
        let rest = rest.and_then(|rest| rest.strip_prefix(service));
        let rest = rest.and_then(|rest| rest.strip_prefix(*between));
        rest.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    // While Compose makes a container again, the old one has its id before the name.
    let is_renamed = live.name.starts_with(&format!("{}_", live.short_id()));
    (!usual && !is_renamed).then(|| What::Name {
        name: live.name.clone(),
    })
}

fn addresses(live: &Container) -> Vec<What> {
    let networks = live.inspect.pointer("/NetworkSettings/Networks");
    let networks = networks.and_then(Value::as_object).into_iter().flatten();
    // The engine keeps the address that a plain name was moved with; nobody wrote that one.
    let is_ours = live.label(label::DEPLOY).is_some();
    let mut found = Vec::new();
    for (network, settings) in networks.filter(|_| !is_ours) {
        for key in ["IPv4Address", "IPv6Address"] {
            let address = settings.pointer(&format!("/IPAMConfig/{key}"));
            let address = address.and_then(Value::as_str).unwrap_or_default();
            if !address.is_empty() {
                found.push(What::Address {
                    network: short(live, network),
                    address: address.to_owned(),
                });
            }
        }
    }
    found
}

/// As it is called in the Compose file.
fn short(live: &Container, network: &str) -> String {
    let project = live.label(label::COMPOSE_PROJECT).unwrap_or_default();
    let bare = network.strip_prefix(project);
    let bare = bare.and_then(|bare| bare.strip_prefix('_'));
    bare.unwrap_or(network).to_owned()
}
