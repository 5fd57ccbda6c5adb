//! Which containers there are of which service, and whose: what a plan is made over.

use std::collections::{BTreeMap, BTreeSet};

use super::container::{Container, label};
use super::planner::{PlanError, Scene};
use crate::config::{Kind, Service};
use crate::model::{Color, Endpoint, ServiceName, StackName};

/// One service with its containers.
pub(super) struct Found<'a> {
    pub(super) service: &'a Service,
    pub(super) from: Color,
    pub(super) live: Vec<&'a Container>,
    pub(super) idle: Vec<&'a Container>,
    /// Stopped ones of the live color that an earlier rolling deploy has left.
    pub(super) spare: Vec<&'a Container>,
}

/// The services and their containers.
pub(super) fn choose<'a>(
    scene: Scene<'a>,
    asked: &[ServiceName],
) -> Result<(StackName, Vec<Found<'a>>), PlanError> {
    let mut found: Vec<_> = scene.services.iter().map(|s| find(scene, s)).collect();
    if let Some(unknown) = asked
        .iter()
        .find(|name| !found.iter().any(|one| one.service.name == **name))
    {
        return Err(PlanError::UnknownService(unknown.clone()));
    }
    if asked.is_empty() {
        found.retain(|one| !one.live.is_empty());
        one_project(scene.own, &mut found)?;
    } else {
        found.retain(|one| asked.contains(&one.service.name));
        if let Some(one) = found.iter().find(|one| one.live.is_empty()) {
            return Err(PlanError::NotRunning {
                service: one.service.name.clone(),
                color: one.from,
            });
        }
    }
    let stacks: BTreeSet<_> = found.iter().map(|one| &one.service.stack).collect();
    match (stacks.len(), stacks.first()) {
        (1, Some(stack)) => Ok(((*stack).clone(), found)),
        (0, _) | (_, None) => Err(PlanError::NothingToDeploy),
        _ if asked.is_empty() => {
            let of = |stack: &&StackName| {
                let all = found.iter().filter(|one| one.service.stack == **stack);
                let names: Vec<_> = all.map(|one| one.service.name.as_str()).collect();
                format!("{stack}: {}", names.join(", "))
            };
            Err(PlanError::SeveralStacks(stacks.iter().map(of).collect()))
        }
        _ => {
            let name = |one: &Found<'_>| format!("{} ({})", one.service.name, one.service.stack);
            Err(PlanError::DifferentStacks(found.iter().map(name).collect()))
        }
    }
}

/// Nobody means the containers of a Compose project that is discovered as well: the services of the
/// proxy's own project, if there are any, else those of the only one.
fn one_project(own: Option<&str>, found: &mut Vec<Found<'_>>) -> Result<(), PlanError> {
    let project = |one: &Found<'_>| {
        one.live
            .first()
            .map_or("", |live| bare_project(live))
            .to_owned()
    };
    let all = found.iter().map(project).filter(|name| !name.is_empty());
    let all: BTreeSet<_> = all.collect();
    if all.len() < 2 {
        return Ok(());
    }
    if let Some(own) = own.filter(|own| all.contains(*own)) {
        found.retain(|one| project(one) == own);
        return Ok(());
    }
    let of = |name: &String| {
        let services = found.iter().filter(|one| project(one) == *name);
        let services: Vec<_> = services.map(|one| one.service.name.as_str()).collect();
        format!("{name}: {}", services.join(", "))
    };
    Err(PlanError::SeveralProjects(all.iter().map(of).collect()))
}

fn find<'a>(scene: Scene<'a>, service: &'a Service) -> Found<'a> {
    let releases = scene.book.releases.get(&service.name);
    let remembered = releases.and_then(|releases| releases.live.as_ref());
    let from = match service.kind {
        Kind::Web => scene.live.get(&service.name).copied(),
        Kind::Worker { .. } => remembered.map(|live| live.color),
    };
    let mine = scene.containers.iter().filter(|c| belongs(service, c));
    let mine: Vec<_> = mine.collect();
    // The only color that a worker runs in is its live one, whatever it is called.
    let from = from.unwrap_or_else(|| {
        let up = mine.iter().filter(|container| container.is_up());
        let colors: BTreeSet<_> = up.filter_map(|c| slot_of(service, c)).collect();
        colors.first().copied().unwrap_or(Color::Blue)
    });
    let color = |container: &Container| {
        slot_of(service, container).unwrap_or_else(|| {
            let known = releases.and_then(|it| {
                let installed = [&it.live, &it.kept].into_iter().flatten();
                let mut mine = installed.filter(|it| it.containers.contains(&container.name));
                mine.next().map(|it| it.color)
            });
            match known {
                Some(color) => color,
                // Compose has made it beside what was deployed.
                None if remembered.is_some() => from.other(),
                None => from,
            }
        })
    };
    let (live, idle): (Vec<_>, Vec<_>) = mine.into_iter().partition(|c| color(c) == from);
    let (live, down): (Vec<_>, Vec<_>) = live.into_iter().partition(|it| it.is_up());
    let kept = releases.and_then(|releases| releases.kept.as_ref());
    let is_kept = |it: &&Container| kept.is_some_and(|kept| kept.containers.contains(&it.name));
    let is_spare = |it: &&Container| is_kept(it) || it.label(label::DEPLOY).is_some();
    Found {
        service,
        from,
        live,
        idle,
        spare: down.into_iter().filter(is_spare).collect(),
    }
}

/// A live container of a service.
#[must_use]
pub fn live_container<'a>(scene: Scene<'a>, service: &ServiceName) -> Option<&'a Container> {
    let service = scene.services.iter().find(|one| one.name == *service)?;
    find(scene, service).live.first().copied()
}

/// The service that a container is one of, if any.
#[must_use]
pub fn owner(services: &[Service], container: &Container) -> Option<ServiceName> {
    let mut services = services.iter();
    let found = services.find(|service| belongs(service, container));
    let found = found.map(|service| service.name.clone());
    // Of a job, its label says.
    found.or_else(|| container.label(label::SERVICE).map(ServiceName::from))
}

/// Without the containers of other people: two Compose projects, or two proxies, may both call a
/// service `web`. It belongs to the project whose containers are served. One of which none is, such as
/// a worker, belongs to a project that has another service, or is the proxy's `own`, if one has such
/// containers; else they may be anybody's. `served`: the services of each container that is, by its id.
#[must_use]
pub fn ours(
    services: &[Service],
    own: Option<&str>,
    served: &BTreeMap<String, BTreeSet<ServiceName>>,
    containers: Vec<Container>,
) -> Vec<Container> {
    let service = |one: &Container| owner(services, one).filter(|_| !one.is_one_off());
    let mut holders: BTreeMap<ServiceName, BTreeSet<String>> = BTreeMap::new();
    for one in &containers {
        for service in served.get(&one.id).into_iter().flatten() {
            let projects = holders.entry(service.clone()).or_default();
            projects.insert(bare_project(one).to_owned());
        }
    }
    let mut known: BTreeSet<_> = holders.values().flatten().cloned().collect();
    known.extend(own.map(str::to_owned));
    let served: BTreeSet<_> = holders.keys().cloned().collect();
    for one in containers
        .iter()
        .filter(|one| known.contains(bare_project(one)))
    {
        if let Some(service) = service(one).filter(|service| !served.contains(service)) {
            let projects = holders.entry(service).or_default();
            projects.insert(bare_project(one).to_owned());
        }
    }
    let is_ours = |one: &Container| {
        let holders = service(one).and_then(|service| holders.get(&service));
        holders.is_none_or(|projects| projects.contains(bare_project(one)))
    };
    containers.into_iter().filter(is_ours).collect()
}

/// The Compose project of a container; `-p blue` and `-p green` are one.
#[must_use]
pub fn bare_project(container: &Container) -> &str {
    Color::ending(container.project().unwrap_or_default()).0
}

/// Whether a container is one of a service.
fn belongs(service: &Service, container: &Container) -> bool {
    if container.is_one_off() {
        return false;
    }
    let noted = container.label(label::SERVICE);
    if let Some(name) = noted.or_else(|| container.label(label::OWN_SERVICE)) {
        return name == service.name.as_str();
    }
    if let Some(docker) = &service.docker {
        let project = docker.project.as_deref();
        let is_of_it = project.is_none_or(|project| project == bare_project(container));
        return is_of_it && container.base() == docker.service;
    }
    // Found by its labels alone, it is called like its Compose service.
    let by_labels = container.label(label::HOST).is_some();
    let is_called = container.base() == service.name.as_str();
    upstream_slot(service, container).is_some() || (by_labels && is_called)
}

/// The slot that its label says, else that of the upstream that names it, else that of its name.
fn slot_of(service: &Service, container: &Container) -> Option<Color> {
    if container.label(label::COLOR).is_some() {
        return container.color();
    }
    upstream_slot(service, container).or_else(|| container.color())
}

/// The slot that has an upstream called like the container, its Compose service or one of its
/// aliases.
fn upstream_slot(service: &Service, container: &Container) -> Option<Color> {
    let compose = container.label(label::COMPOSE_SERVICE);
    let aliases = container.aliases();
    let is_called =
        |host: &str| host == container.name || compose == Some(host) || aliases.contains(host);
    Color::ALL.into_iter().find(|color| {
        let slot = service.slots[color.index()].as_ref();
        let upstreams = slot.map(|slot| slot.upstreams.as_slice());
        let mut upstreams = upstreams.unwrap_or_default().iter();
        upstreams.any(|upstream| match upstream.endpoint() {
            Endpoint::Name { host, .. } => is_called(host),
            Endpoint::Socket(_) | Endpoint::Unix(_) => false,
        })
    })
}

pub(super) fn one_color(found: &[Found<'_>]) -> Result<(), PlanError> {
    let web = || found.iter().filter(|one| one.service.kind == Kind::Web);
    let colors: BTreeSet<_> = web().map(|one| one.from).collect();
    if colors.len() < 2 {
        return Ok(());
    }
    let told = web().map(|one| format!("{} ({})", one.service.name, one.from));
    Err(PlanError::Mixed(told.collect()))
}
