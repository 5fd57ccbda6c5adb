//! From what a person asks for, what the file says and what is there, to a [`Plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::container::{Container, Hidden, label};
use super::job::{Images, JobRun};
use super::plan::{
    Displaced, Existing, Image, Limits, Member, New, Plan, PlannedJob, PlannedSmoke, Role,
};
use super::record::{Book, Installed};
use super::spec::{ContainerSpec, Release, SpecRefusal};
use crate::config::{Deploy, Job, JobStep, Kind, Resume, Service, When};
use crate::model::{Color, Endpoint, ServiceName, StackName, Strategy, UpstreamAddr};

/// What is there.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The configured services.
    pub services: &'a [Service],
    /// The configured jobs.
    pub jobs: &'a [Job],
    /// `[deploy]`.
    pub deploy: &'a Deploy,
    /// Live color of every service that takes requests.
    pub live: &'a BTreeMap<ServiceName, Color>,
    /// The first host that leads to each service.
    pub hosts: &'a BTreeMap<ServiceName, String>,
    /// What is remembered.
    pub book: &'a Book,
    /// The Compose project of the proxy's own container.
    pub own: Option<&'a str>,
    /// Every container of the engine, running or not.
    pub containers: &'a [Container],
    /// The engine's descriptions of their images, by id.
    pub images: &'a BTreeMap<String, Value>,
}

/// What a person asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// An image, or only a tag of the image that is live.
    pub image: String,
    /// Only these; empty: the stack.
    pub services: Vec<ServiceName>,
    /// `NAME=value` for the new containers.
    pub env: Hidden<Vec<String>>,
    /// What people call it; `None`: its tag.
    pub release: Option<String>,
    /// How the new containers take over.
    pub strategy: Strategy,
}

/// Why there is no plan. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A name that no service has.
    #[error("no service `{0}`")]
    UnknownService(ServiceName),
    /// Nothing runs in containers.
    #[error(
        "no service runs in containers that the proxy may manage: a service needs \
         docker = {{ service = \"...\" }}, or containers that its labels or its upstreams name"
    )]
    NothingToDeploy,
    /// More than one stack, and none was named.
    #[error("several stacks could be meant ({}): name one of its services with --service", .0.join("; "))]
    SeveralStacks(Vec<String>),
    /// More than one Compose project, and none was named.
    #[error(
        "containers of several Compose projects could be meant ({}): name each service with --service",
        .0.join("; ")
    )]
    SeveralProjects(Vec<String>),
    /// Services of several stacks.
    #[error("{} are not of one stack: deploy them one after the other", .0.join(", "))]
    DifferentStacks(Vec<String>),
    /// A service that was named has none.
    #[error("{service}: no container runs in its live color {color}")]
    NotRunning {
        /// The service.
        service: ServiceName,
        /// Its live color.
        color: Color,
    },
    /// An image that none of them runs.
    #[error("none of {} runs {image}: name the service with --service, or give only the tag", .services.join(", "))]
    OtherImage {
        /// As asked for.
        image: String,
        /// The services with their images.
        services: Vec<String>,
    },
    /// The live container was made from an id.
    #[error(
        "{service} was started from an image without a name: give the whole image, not only a tag"
    )]
    NoName {
        /// The service.
        service: ServiceName,
    },
    /// Services of the stack are not in the same color.
    #[error(
        "{} are not live in the same color: bring them together with `proxyctl switch COLOR --service S`, \
         or deploy them one by one with --service",
        .0.join(", ")
    )]
    Mixed(Vec<String>),
    /// A rolling deploy of a color that is made again where it stands.
    #[error(
        "{service}: its Compose files declare its colors ({container}), which cannot be replaced one by \
         one: deploy it with --strategy blue-green, or take the color out of the name"
    )]
    Declared {
        /// The service.
        service: ServiceName,
        /// A container of a declared color.
        container: String,
    },
    /// A rolling deploy of a service whose upstreams are written down.
    #[error(
        "{service}: its upstreams are in the file, so the pool would not follow its containers: put \
         docker = {{ service = \"...\" }} in the place of blue and green, or deploy it with \
         --strategy blue-green"
    )]
    InFile {
        /// The service.
        service: ServiceName,
    },
    /// What only one container can have.
    #[error("{}", lines(.0))]
    Refused(Vec<SpecRefusal>),
    /// Nothing to go back to.
    #[error("no release is kept to go back to")]
    NothingKept,
    /// Somebody removed them.
    #[error("the containers of the kept release are gone: {}", .0.join(", "))]
    Gone(Vec<String>),
}

fn lines(refusals: &[SpecRefusal]) -> String {
    let each: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    each.join("\n")
}

/// One service with its containers.
struct Found<'a> {
    service: &'a Service,
    from: Color,
    live: Vec<&'a Container>,
    idle: Vec<&'a Container>,
    /// Stopped ones of the live color that an earlier rolling deploy has left.
    spare: Vec<&'a Container>,
}

/// A plan for a new release. `id` names the deploy, `at` is when it is planned.
///
/// # Errors
/// What has to be changed first.
pub fn plan_deploy(
    scene: Scene<'_>,
    ask: &Ask,
    id: &str,
    at: SystemTime,
) -> Result<Plan, PlanError> {
    let (stack, mut found) = choose(scene, &ask.services)?;
    let is_tag = is_tag(&ask.image);
    if !is_tag && ask.services.is_empty() && found.len() > 1 {
        let same = |one: &Found<'_>| {
            let live = one.live.first().map_or("", |live| live.image.as_str());
            repository(live) == repository(&ask.image)
        };
        let names = found.iter().map(|one| {
            let image = one.live.first().map_or("", |live| live.image.as_str());
            format!("{} ({image})", one.service.name)
        });
        let services = names.collect();
        found.retain(same);
        if found.is_empty() {
            let image = ask.image.clone();
            return Err(PlanError::OtherImage { image, services });
        }
    }
    one_color(&found)?;
    if ask.strategy == Strategy::Rolling {
        found.iter().try_for_each(can_roll)?;
    }
    let label = ask.release.clone();
    let label = label.unwrap_or_else(|| release_label(&ask.image));
    let mut images: Vec<Image> = Vec::new();
    let mut members = Vec::new();
    let mut refused = Vec::new();
    for one in &found {
        let reference = reference(one, &ask.image)?;
        let position = images.iter().position(|known| known.reference == reference);
        let image = position.unwrap_or_else(|| {
            images.push(Image {
                reference: reference.clone(),
            });
            images.len() - 1
        });
        match member(scene, one, image, &reference, &label, id, ask) {
            Ok(member) => members.push(member),
            Err(refusals) => refused.extend(refusals),
        }
    }
    if !refused.is_empty() {
        return Err(PlanError::Refused(refused));
    }
    let jobs = jobs(scene, &found, &members, &images, id, at, Some);
    let is_member = |service: &ServiceName| members.iter().any(|m| m.service == *service);
    let smoke = scene
        .deploy
        .smoke
        .iter()
        .filter(|one| is_member(&one.service));
    let smoke = smoke.map(|one| PlannedSmoke {
        service: one.service.clone(),
        path: one.path.clone(),
        host: one
            .host
            .clone()
            .or_else(|| scene.hosts.get(&one.service).cloned()),
        status: one.status,
        contains: one.contains.clone(),
        timeout_ms: millis(one.timeout),
    });
    let of = |service: &ServiceName| {
        let held = scene.book.quarantine.iter();
        held.filter(|one| one.service == *service)
            .cloned()
            .collect::<Vec<_>>()
    };
    let quarantine = members.iter().flat_map(|member| of(&member.service));
    Ok(Plan {
        stack,
        release: label,
        strategy: ask.strategy,
        quarantine: quarantine.collect(),
        limits: limits(scene.deploy, &found),
        smoke: smoke.collect(),
        members,
        images,
        jobs,
        is_rollback: false,
        prune: scene.deploy.prune,
        retry: scene.deploy.resume_after_crash == Resume::Retry,
        keep: scene.deploy.keep,
    })
}

/// A plan for going back to the release that was kept.
///
/// # Errors
/// There is none, or it is gone.
pub fn plan_rollback(
    scene: Scene<'_>,
    services: &[ServiceName],
    id: &str,
    at: SystemTime,
) -> Result<Plan, PlanError> {
    let is_asked = |name: &ServiceName| services.is_empty() || services.contains(name);
    let kept = |name: &ServiceName| scene.book.releases.get(name)?.kept.as_ref();
    let of_kept = scene.services.iter().filter(|s| kept(&s.name).is_some());
    let names: Vec<_> = (of_kept.map(|service| service.name.clone()))
        .filter(is_asked)
        .collect();
    if names.is_empty() {
        return Err(PlanError::NothingKept);
    }
    let (stack, found) = choose(scene, &names)?;
    let strategy = way_back(&found, &kept)?;
    let mut members = Vec::new();
    let mut images: Vec<Image> = Vec::new();
    let mut gone = Vec::new();
    let mut release = String::new();
    for one in &found {
        let Some(installed) = kept(&one.service.name) else {
            continue;
        };
        let there = |name: &&String| scene.containers.iter().any(|c| c.name == **name);
        gone.extend(
            installed
                .containers
                .iter()
                .filter(|name| !there(name))
                .cloned(),
        );
        release.clone_from(&installed.release);
        images.push(Image {
            reference: installed.image.clone(),
        });
        let new = installed.containers.iter().map(|name| New {
            name: name.clone(),
            spec: None,
            policy: policy(installed, name),
        });
        members.push(Member {
            to: installed.color,
            image: images.len() - 1,
            new: new.collect(),
            displaced: Vec::new(),
            surplus: Vec::new(),
            ..skeleton(scene, one, strategy)
        });
    }
    if !gone.is_empty() {
        return Err(PlanError::Gone(gone));
    }
    let jobs = jobs(scene, &found, &members, &images, id, at, |step| {
        // It is the rollback that these wait for.
        (step == JobStep::OnRollback).then_some(JobStep::After)
    });
    Ok(Plan {
        stack,
        release,
        strategy,
        quarantine: Vec::new(),
        limits: limits(scene.deploy, &found),
        smoke: Vec::new(),
        members,
        images,
        jobs,
        is_rollback: true,
        prune: false,
        retry: true,
        keep: 1,
    })
}

/// A release that is kept in the live color is gone back to as it was left: one by one.
fn way_back<'a>(
    found: &[Found<'_>],
    kept: &impl Fn(&ServiceName) -> Option<&'a Installed>,
) -> Result<Strategy, PlanError> {
    let is_same = |one: &Found<'_>| {
        kept(&one.service.name).is_some_and(|installed| installed.color == one.from)
    };
    let same = found.iter().filter(|one| is_same(one)).count();
    match same {
        0 => Ok(Strategy::BlueGreen),
        all if all == found.len() => Ok(Strategy::Rolling),
        _ => {
            let name = |one: &Found<'_>| format!("{} ({})", one.service.name, one.from);
            Err(PlanError::Mixed(found.iter().map(name).collect()))
        }
    }
}

/// Whether the containers of a service can be replaced one by one.
fn can_roll(one: &Found<'_>) -> Result<(), PlanError> {
    let service = one.service;
    if service.kind != Kind::Web {
        return Ok(());
    }
    let all = one.live.iter().chain(&one.idle);
    if let Some(declared) = all.into_iter().find(|it| it.declared_color().is_some()) {
        return Err(PlanError::Declared {
            service: service.name.clone(),
            container: declared.name.clone(),
        });
    }
    let slot = service.slots[one.from.index()].as_ref();
    let upstreams = slot.map(|slot| slot.upstreams.as_slice());
    let is_written = |upstream: &UpstreamAddr| match upstream.endpoint() {
        Endpoint::Name { .. } | Endpoint::Unix(_) => true,
        Endpoint::Socket(_) => false,
    };
    match upstreams.unwrap_or_default().iter().any(is_written) {
        true => Err(PlanError::InFile {
            service: service.name.clone(),
        }),
        false => Ok(()),
    }
}

fn policy(installed: &Installed, name: &str) -> Value {
    let policy = installed.policies.get(name);
    policy.cloned().unwrap_or(Value::Null)
}

/// The services and their containers.
fn choose<'a>(
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

fn one_color(found: &[Found<'_>]) -> Result<(), PlanError> {
    let web = || found.iter().filter(|one| one.service.kind == Kind::Web);
    let colors: BTreeSet<_> = web().map(|one| one.from).collect();
    if colors.len() < 2 {
        return Ok(());
    }
    let told = web().map(|one| format!("{} ({})", one.service.name, one.from));
    Err(PlanError::Mixed(told.collect()))
}

/// What a member is before it is known what becomes of it.
fn skeleton(scene: Scene<'_>, one: &Found<'_>, strategy: Strategy) -> Member {
    let old = one.live.iter().map(|container| Existing {
        name: container.name.clone(),
        policy: container.restart_policy(),
    });
    let first = one.live.first();
    let remembered = scene.book.releases.get(&one.service.name);
    let remembered = remembered.and_then(|releases| releases.live.as_ref());
    let label = first.and_then(|live| live.label(label::RELEASE));
    let label = label.map(str::to_owned);
    let label = label.or_else(|| remembered.map(|live| live.release.clone()));
    let image = first.map(|live| live.image.clone()).unwrap_or_default();
    Member {
        service: one.service.name.clone(),
        role: match one.service.kind {
            Kind::Web => Role::Web,
            Kind::Worker { order } => Role::Worker(order),
        },
        from: one.from,
        to: match strategy {
            Strategy::BlueGreen => one.from.other(),
            Strategy::Rolling => one.from,
        },
        image: 0,
        old: old.collect(),
        old_image: first.map(|live| live.image_id.clone()).unwrap_or_default(),
        old_release: label.unwrap_or_else(|| release_label(&image)),
        old_reference: image,
        old_digest: remembered.and_then(|live| live.digest.clone()),
        new: Vec::new(),
        displaced: Vec::new(),
        surplus: Vec::new(),
        grace_s: one.service.stop_grace.map(|grace| grace.as_secs()),
    }
}

fn member(
    scene: Scene<'_>,
    one: &Found<'_>,
    image: usize,
    reference: &str,
    label: &str,
    id: &str,
    ask: &Ask,
) -> Result<Member, Vec<SpecRefusal>> {
    let base = skeleton(scene, one, ask.strategy);
    let none = Value::Null;
    let described = |container: &Container| scene.images.get(&container.image_id).unwrap_or(&none);
    let to = base.to;
    let release = |replica| Release {
        service: &one.service.name,
        color: to,
        image: reference,
        label,
        deploy: id,
        replica,
        env: &ask.env,
    };
    let declared: Vec<_> = (one.idle.iter())
        .filter(|container| container.declared_color() == Some(to))
        .collect();
    let made = |spec: ContainerSpec, policy: Value| New {
        name: spec.name.clone(),
        spec: Some(spec),
        policy,
    };
    let mut new = Vec::new();
    let mut displaced = Vec::new();
    let mut surplus = Vec::new();
    if declared.is_empty() {
        let mut refused = Vec::new();
        let count = one.live.len();
        for (n, live) in one.live.iter().enumerate() {
            match ContainerSpec::copy(live, described(live), release((n + 1, count))) {
                Ok(spec) => new.push(made(spec, live.restart_policy())),
                Err(refusals) => refused.extend(refusals),
            }
        }
        if !refused.is_empty() {
            return Err(refused);
        }
    } else {
        for container in &declared {
            let spec = ContainerSpec::in_place(container, described(container), release((1, 1)));
            let kept = scene.book.releases.get(&one.service.name);
            let kept = kept.and_then(|releases| releases.kept.as_ref());
            // A parked one was told not to restart.
            let known = kept.and_then(|kept| kept.policies.get(&container.name));
            let policy = known.cloned().unwrap_or_else(|| container.restart_policy());
            new.push(made(spec.with_policy(&policy), policy));
        }
    }
    for container in &one.idle {
        let is_declared = declared.iter().any(|known| known.id == container.id);
        let aside = match is_declared {
            true => format!("{}-before-{id}", container.name),
            false => container.name.clone(),
        };
        if is_declared || container.is_up() {
            displaced.push(Displaced {
                name: container.name.clone(),
                aside: aside.clone(),
                ran: container.is_up(),
                policy: container.restart_policy(),
            });
        }
        surplus.push(aside);
    }
    surplus.extend(one.spare.iter().map(|spare| spare.name.clone()));
    if scene.deploy.keep == 0 {
        let of_compose = |name: &&Existing| {
            let found = one.live.iter().find(|live| live.name == name.name);
            found.is_some_and(|live| live.declared_color().is_some())
        };
        let old = base.old.iter().filter(|name| !of_compose(name));
        surplus.extend(old.map(|old| old.name.clone()));
    }
    Ok(Member {
        image,
        new,
        displaced,
        surplus,
        ..base
    })
}

fn jobs(
    scene: Scene<'_>,
    found: &[Found<'_>],
    members: &[Member],
    images: &[Image],
    id: &str,
    at: SystemTime,
    place: impl Fn(JobStep) -> Option<JobStep>,
) -> Vec<PlannedJob> {
    let mut planned = Vec::new();
    for job in scene.jobs {
        let When::Step(step) = &job.when else {
            continue;
        };
        let Some(step) = place(*step) else {
            continue;
        };
        let member = members.iter().find(|member| member.service == job.service);
        let one = found.iter().find(|one| one.service.name == job.service);
        let (Some(member), Some(live)) = (member, one.and_then(|one| one.live.first())) else {
            continue;
        };
        let new = images
            .get(member.image)
            .map_or("", |image| image.reference.as_str());
        let images = Images {
            new,
            old: &member.old_image,
        };
        let project = live.project().map(|name| format!("{name}-"));
        let project = project.unwrap_or_default();
        let container = format!("{project}{}-{id}", job.name);
        let none = Value::Null;
        let described = scene.images.get(&live.image_id).unwrap_or(&none);
        let mut run = JobRun::new(job, live, described, images, container, at);
        run.mark(id);
        planned.push(PlannedJob { step, job: run });
    }
    planned
}

fn limits(deploy: &Deploy, found: &[Found<'_>]) -> Limits {
    let longest =
        |of: &dyn Fn(&Found<'_>) -> Duration| found.iter().map(of).max().unwrap_or_default();
    let stop = |one: &Found<'_>| {
        let own = one.live.iter().filter_map(|container| {
            let seconds = container.inspect.pointer("/Config/StopTimeout");
            seconds.and_then(Value::as_u64)
        });
        let own = own.max().map_or(ENGINE_GRACE, Duration::from_secs);
        one.service.stop_grace.unwrap_or(own)
    };
    let drain = |one: &Found<'_>| {
        let switch = &one.service.switch;
        let all = [switch.drain, switch.websocket_drain, switch.sse_drain];
        all.into_iter().max().unwrap_or_default()
    };
    Limits {
        pull_ms: millis(deploy.pull_timeout),
        start_ms: millis(deploy.start_timeout),
        gate_ms: millis(longest(&|one| one.service.switch.ready_timeout)),
        drain_ms: millis(longest(&drain)),
        stop_ms: millis(longest(&stop)),
    }
}

/// What the engine gives a container between SIGTERM and SIGKILL that says nothing itself.
const ENGINE_GRACE: Duration = Duration::from_secs(10);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The image of one service: as it was asked for, or with the tag that was.
fn reference(one: &Found<'_>, image: &str) -> Result<String, PlanError> {
    if !is_tag(image) {
        return Ok(image.to_owned());
    }
    let live = one.live.first().map_or("", |live| live.image.as_str());
    match repository(live) {
        "" => Err(PlanError::NoName {
            service: one.service.name.clone(),
        }),
        repository => Ok(format!("{repository}:{image}")),
    }
}

/// Whether it is only the part after the colon (distribution's `reference` grammar).
fn is_tag(image: &str) -> bool {
    let first = image.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && image.len() <= 128
        && image
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// An image without tag and digest; empty for a bare id.
#[must_use]
pub fn repository(image: &str) -> &str {
    if image.starts_with("sha256:") {
        return "";
    }
    let bare = image.split('@').next().unwrap_or_default();
    let name = bare.rfind('/').map_or(0, |slash| slash + 1);
    // A colon before the last slash is that of a port.
    match bare[name..].find(':') {
        Some(colon) => &bare[..name + colon],
        None => bare,
    }
}

/// What people call an image: its tag, else the beginning of its digest.
#[must_use]
pub fn release_label(image: &str) -> String {
    if is_tag(image) {
        return image.to_owned();
    }
    let bare = image.split('@').next().unwrap_or_default();
    let repository = repository(image);
    let tag = bare
        .get(repository.len() + 1..)
        .filter(|tag| !tag.is_empty());
    if let Some(tag) = tag
        && !repository.is_empty()
    {
        return tag.to_owned();
    }
    match image.rsplit_once("sha256:") {
        Some((_, digest)) => digest.chars().take(12).collect(),
        None => "latest".to_owned(),
    }
}

#[cfg(test)]
mod tests;
