//! From what a person asks for, what the file says and what is there, to a [`Plan`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::container::{Container, Hidden, label};
use super::found::{Found, choose, one_color};
use super::job::{Images, JobRun};
use super::plan::{
    Displaced, Existing, Image, Limits, Member, New, Plan, PlannedJob, PlannedSmoke, Role,
};
use super::record::{Book, Installed};
use super::reference::{is_tag, release_label, repository};
use super::spec::{ContainerSpec, Release, SpecRefusal};
use crate::clock::millis;
use crate::config::{Deploy, Job, JobStep, Kind, Resume, Service, When};
use crate::model::{Color, Endpoint, ServiceName, Strategy, UpstreamAddr};

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

#[cfg(test)]
mod tests;
