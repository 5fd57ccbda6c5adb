//! What the container of a release is made from: the live one's whole description with a new
//! image.
//!
//! Pure. A description is the engine's JSON, in and out, as far as the library's model of the API goes:
//! fields are carried over without being named here. What the live container has from its image is
//! told from what was written for it by comparing with the image: the first comes from the new
//! image, the second is kept.
//!
//! A copy belongs to no Compose project: it has none of Compose's labels, so that no
//! `docker-compose up` takes it for its own. Its networks know it as `BASE-COLOR`; the plain names
//! stay with the release that is live and are taken over after the verdict
//! ([`ContainerSpec::plain`]). A color that the Compose files declare is another thing: that
//! container is made again where it stands ([`ContainerSpec::in_place`]), with everything it has.

mod refusal;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use refusal::SpecRefusal;

use super::container::{Container, Hidden, label};
use crate::model::{Color, ServiceName};

/// What a container of the release is made from, in the engine's terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// The body of `POST /containers/create`. It names one network at most: engines before API
    /// 1.44 take no more.
    pub body: Hidden<Value>,
    /// The other networks, to be connected before the start.
    pub more: Vec<Attachment>,
    /// Every network with the plain names, for after the verdict.
    pub plain: Vec<Attachment>,
    /// What is different from the container that it was copied from, one sentence each.
    pub notes: Vec<String>,
}

/// One network of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// The engine's `EndpointConfig`.
    pub endpoint: Value,
}

/// What the new container is.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The service of the configuration.
    pub service: &'a ServiceName,
    /// Its slot.
    pub color: Color,
    /// The image, as the engine knows it.
    pub image: &'a str,
    /// What people call it.
    pub label: &'a str,
    /// The deploy.
    pub deploy: &'a str,
    /// Which of how many, from 1.
    pub replica: (usize, usize),
    /// `NAME=value`, in place of what the live one has under that name.
    pub env: &'a [String],
}

impl ContainerSpec {
    /// Copies `live`, which runs `image` (the engine's `GET /images/{id}/json`).
    ///
    /// # Errors
    /// Everything that only one container can have.
    pub fn copy(
        live: &Container,
        image: &Value,
        release: Release<'_>,
    ) -> Result<Self, Vec<SpecRefusal>> {
        let refused = refusal::all(live);
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut notes = Vec::new();
        let mut body = configuration(live, image, release);
        let labels = labels(live, image, release);
        let plain = plain_aliases(live);
        let mut labels = labels;
        labels.insert(label::ALIASES.to_owned(), json!(json!(plain).to_string()));
        body.insert("Labels".to_owned(), Value::Object(labels));
        body.insert("HostConfig".to_owned(), host(live));
        notes.extend(anonymous_volumes(live));

        let colored = format!("{}-{}", live.base(), release.color);
        let attach = |aliases: Vec<String>, network: &String| Attachment {
            network: network.clone(),
            endpoint: endpoint(live, network, &aliases),
        };
        let networks = networks(live);
        let idle = networks
            .iter()
            .map(|one| attach(vec![colored.clone()], one));
        let mut idle: Vec<_> = idle.collect();
        let with_plain = networks.iter().map(|network| {
            let mut aliases = vec![colored.clone()];
            aliases.extend(plain.get(network).into_iter().flatten().cloned());
            attach(aliases, network)
        });
        let plain = with_plain.collect();
        first_network(&mut body, &mut idle);
        Ok(Self {
            name: name(live, release),
            body: Hidden(Value::Object(body)),
            more: idle,
            plain,
            notes,
        })
    }

    /// Makes `declared` again with another image: same name, same labels, same ports. The old one
    /// must be out of the way.
    #[must_use]
    pub fn in_place(declared: &Container, image: &Value, release: Release<'_>) -> Self {
        let mut body = configuration(declared, image, release);
        let from_image = image.pointer("/Config/Labels");
        let mut labels = Map::new();
        for (key, value) in &declared.labels {
            let of_image = from_image.and_then(|labels| labels.get(key));
            if of_image.and_then(Value::as_str) != Some(value) {
                labels.insert(key.clone(), json!(value));
            }
        }
        ours(&mut labels, declared, release);
        body.insert("Labels".to_owned(), Value::Object(labels));
        body.insert("HostConfig".to_owned(), host(declared));
        let networks = networks(declared);
        let attach = |network: &String| {
            let aliases = aliases(declared, network);
            let mut endpoint = endpoint(declared, network, &aliases);
            let settings = settings(declared, network);
            if let Some(address) = settings.and_then(|it| it.get("IPAMConfig")) {
                endpoint["IPAMConfig"] = address.clone();
            }
            Attachment {
                network: network.clone(),
                endpoint,
            }
        };
        let mut more: Vec<_> = networks.iter().map(attach).collect();
        let plain = more.clone();
        first_network(&mut body, &mut more);
        Self {
            name: declared.name.clone(),
            body: Hidden(Value::Object(body)),
            more,
            plain,
            notes: anonymous_volumes(declared),
        }
    }
}

impl ContainerSpec {
    /// With another restart policy.
    #[must_use]
    pub(super) fn with_policy(mut self, policy: &Value) -> Self {
        if !policy.is_null() {
            self.body["HostConfig"]["RestartPolicy"] = policy.clone();
        }
        self
    }
}

/// What a one-shot container has of a service: everything but its names. The networks beside the
/// first are to be connected before the start.
pub(super) fn surroundings(
    live: &Container,
    image: &Value,
) -> (Map<String, Value>, Vec<Attachment>) {
    let nothing = ServiceName::from("");
    let release = Release {
        service: &nothing,
        color: Color::Blue,
        image: "",
        label: "",
        deploy: "",
        replica: (1, 1),
        env: &[],
    };
    let mut body = configuration(live, image, release);
    body.insert("HostConfig".to_owned(), host(live));
    let attach = |network: &String| Attachment {
        network: network.clone(),
        endpoint: endpoint(live, network, &[]),
    };
    let mut networks: Vec<_> = networks(live).iter().map(attach).collect();
    first_network(&mut body, &mut networks);
    (body, networks)
}

/// `PROJECT-BASE-COLOR-DEPLOY`, with a number when there are several.
fn name(live: &Container, release: Release<'_>) -> String {
    let project = live.project().map(|name| format!("{name}-"));
    let (number, of) = release.replica;
    let number = if of > 1 {
        format!("-{number}")
    } else {
        String::new()
    };
    format!(
        "{}{}-{}-{}{number}",
        project.unwrap_or_default(),
        live.base(),
        release.color,
        release.deploy
    )
}

/// `Config` without what comes from the image or is one container's alone.
fn configuration(live: &Container, image: &Value, release: Release<'_>) -> Map<String, Value> {
    let config = live.inspect.get("Config").and_then(Value::as_object);
    let mut body = config.cloned().unwrap_or_default();
    let of_image = image.get("Config").cloned().unwrap_or_default();
    // The engine takes these from the image where they are not given.
    for key in [
        "Cmd",
        "Entrypoint",
        "WorkingDir",
        "User",
        "Healthcheck",
        "StopSignal",
        "Shell",
    ] {
        if body.get(key) == of_image.get(key) {
            body.remove(key);
        }
    }
    // An entry point of its own makes the engine ignore the command of the image, so a command
    // that is the image's is then part of what was written.
    if body.contains_key("Entrypoint")
        && let Some(command) = live.inspect.pointer("/Config/Cmd")
    {
        body.insert("Cmd".to_owned(), command.clone());
    }
    for key in ["ExposedPorts", "Volumes"] {
        if let Some(mine) = body.get_mut(key).and_then(Value::as_object_mut)
            && let Some(theirs) = of_image.get(key).and_then(Value::as_object)
        {
            mine.retain(|name, _| !theirs.contains_key(name));
        }
    }
    // Compose names the targets of its binds here as well.
    if let Some(volumes) = body.get_mut("Volumes").and_then(Value::as_object_mut) {
        let bound = bound(live);
        volumes.retain(|target, _| !bound.contains(target.as_str()));
    }
    if body.get("Hostname").and_then(Value::as_str) == Some(live.short_id()) {
        body.remove("Hostname");
    }
    for key in ["Image", "OnBuild", "MacAddress", "Labels"] {
        body.remove(key);
    }
    body.insert("Image".to_owned(), json!(release.image));
    body.insert(
        "Env".to_owned(),
        json!(environment(live, image, release.env)),
    );
    body
}

/// What was written for the live container, with what is written now in its place.
fn environment(live: &Container, image: &Value, new: &[String]) -> Vec<String> {
    let list = |value: Option<&Value>| -> Vec<String> {
        let all = value.and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let of_image = list(image.pointer("/Config/Env"));
    let variable = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let replaced: BTreeSet<_> = new.iter().map(|entry| variable(entry)).collect();
    let mut all = list(live.inspect.pointer("/Config/Env"));
    all.retain(|entry| !of_image.contains(entry) && !replaced.contains(&variable(entry)));
    all.extend(new.iter().cloned());
    all
}

/// `HostConfig` without the published ports, which a copy cannot have.
fn host(live: &Container) -> Value {
    let mut host = live.inspect.get("HostConfig").cloned().unwrap_or_default();
    if let Some(host) = host.as_object_mut() {
        // Written by the engine, or about the client that made it.
        host.remove("ContainerIDFile");
        host.remove("ConsoleSize");
    }
    host
}

fn labels(live: &Container, image: &Value, release: Release<'_>) -> Map<String, Value> {
    let from_image = image.pointer("/Config/Labels");
    let mut labels = Map::new();
    for (key, value) in &live.labels {
        let of_image = from_image.and_then(|labels| labels.get(key));
        if key.starts_with(label::COMPOSE) || of_image.and_then(Value::as_str) == Some(value) {
            continue;
        }
        labels.insert(key.clone(), json!(value));
    }
    ours(&mut labels, live, release);
    labels
}

fn ours(labels: &mut Map<String, Value>, live: &Container, release: Release<'_>) {
    let first = live.label(label::FIRST_NAME).unwrap_or(&live.name);
    for (key, value) in [
        (label::SERVICE, release.service.as_str()),
        (label::COLOR, release.color.as_str()),
        (label::RELEASE, release.label),
        (label::DEPLOY, release.deploy),
        (label::BASE, live.base()),
        (label::PROJECT, live.project().unwrap_or_default()),
        (label::FIRST_NAME, first),
    ] {
        labels.insert(key.to_owned(), json!(value));
    }
}

/// Names of the networks, the one that `NetworkMode` names first.
fn networks(live: &Container) -> Vec<String> {
    let all = live.inspect.pointer("/NetworkSettings/Networks");
    let all = all.and_then(Value::as_object).into_iter().flatten();
    let mut names: Vec<_> = all.map(|(name, _)| name.clone()).collect();
    let mode = live.inspect.pointer("/HostConfig/NetworkMode");
    let mode = mode.and_then(Value::as_str).unwrap_or_default();
    names.sort_by_key(|name| name != mode);
    // These have no names of their own to give.
    names.retain(|name| name != "host" && name != "none");
    names
}

fn settings<'a>(live: &'a Container, network: &str) -> Option<&'a Value> {
    let all = live.inspect.pointer("/NetworkSettings/Networks")?;
    all.get(network)
}

/// The names that `live` has in a network, without the one that the engine makes of its id.
fn aliases(live: &Container, network: &str) -> Vec<String> {
    let list = settings(live, network).and_then(|it| it.get("Aliases"));
    let list = list.and_then(Value::as_array).into_iter().flatten();
    let list = list.filter_map(Value::as_str);
    list.filter(|name| *name != live.short_id())
        .map(str::to_owned)
        .collect()
}

/// The names by which others find the service, whatever its color: as the first container was
/// given them.
fn plain_aliases(live: &Container) -> BTreeMap<String, Vec<String>> {
    if let Some(text) = live.label(label::ALIASES)
        && let Ok(known) = serde_json::from_str(text)
    {
        return known;
    }
    let base = live.base();
    let colored = Color::ALL.map(|color| [format!("{base}-{color}"), format!("{base}_{color}")]);
    let colored: BTreeSet<_> = colored.iter().flatten().collect();
    let of = |network: String| {
        // The engine resolves no names in its default bridge.
        if network == "bridge" {
            return (network, Vec::new());
        }
        let mut names = aliases(live, &network);
        names.retain(|name| !colored.contains(name));
        // Outside Compose, the name of the container is what others call it.
        if !live.is_of_compose() && !names.iter().any(|name| name == base) {
            names.push(base.to_owned());
        }
        (network, names)
    };
    networks(live).into_iter().map(of).collect()
}

fn endpoint(live: &Container, network: &str, aliases: &[String]) -> Value {
    let mut endpoint = Map::new();
    if network != "bridge" {
        endpoint.insert("Aliases".to_owned(), json!(aliases));
    }
    let settings = settings(live, network);
    for key in ["Links", "DriverOpts", "GwPriority"] {
        let value = settings.and_then(|settings| settings.get(key));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            endpoint.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(endpoint)
}

/// The first network goes into the body, the others are connected afterwards.
fn first_network(body: &mut Map<String, Value>, networks: &mut Vec<Attachment>) {
    if networks.is_empty() {
        return;
    }
    let first = networks.remove(0);
    let endpoints = json!({ "EndpointsConfig": { first.network: first.endpoint } });
    body.insert("NetworkingConfig".to_owned(), endpoints);
}

/// Where something is bound, by `Binds` or by `Mounts`.
fn bound(live: &Container) -> BTreeSet<&str> {
    let list = |pointer| live.inspect.pointer(pointer).and_then(Value::as_array);
    let binds = list("/HostConfig/Binds").into_iter().flatten();
    let binds = binds.filter_map(|bind| bind.as_str()?.split(':').nth(1));
    let mounts = list("/HostConfig/Mounts").into_iter().flatten();
    let mounts = mounts.filter_map(|mount| mount.get("Target")?.as_str());
    binds.chain(mounts).collect()
}

/// Volumes without a name are the container's own: a copy begins with empty ones, or with what its
/// image has there.
fn anonymous_volumes(live: &Container) -> Vec<String> {
    let bound = bound(live);
    let mounts = live.inspect.get("Mounts").and_then(Value::as_array);
    let mounts = mounts.into_iter().flatten();
    let targets = mounts.filter_map(|mount| {
        let text = |key| mount.get(key).and_then(Value::as_str);
        let target = text("Destination")?;
        (text("Type") == Some("volume") && !bound.contains(target)).then_some(target)
    });
    targets
        .map(|target| {
            format!(
                "the volume at {target} has no name, so the new container begins with its own; \
                 give it a name under `volumes:` to keep what is in it ({})",
                live.place()
            )
        })
        .collect()
}
