//! What containers there are, looked at in the background.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::{LOOK, containers, live, of_ours, tidy};
use crate::admin::wire::{ContainerRole, ContainerStatus};
use crate::app::daemon::Daemon;
use crate::clock;
use crate::deploy::container::label;
use crate::deploy::{Book, Container, Health, Installed, State, owner};
use crate::docker::Client;
use crate::model::{Color, ServiceName};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// The last look.
#[derive(Default)]
pub(in crate::app) struct View {
    seen: ArcSwap<Vec<ContainerStatus>>,
    trouble: ArcSwap<Option<String>>,
    /// Time on a processor so far, and when that was asked.
    used: Mutex<BTreeMap<String, (u64, Instant)>>,
}

impl View {
    /// What was there.
    pub(in crate::app) fn containers(&self) -> Arc<Vec<ContainerStatus>> {
        self.seen.load_full()
    }

    /// Why nothing is known.
    pub(in crate::app) fn trouble(&self) -> Option<String> {
        Option::clone(&self.trouble.load())
    }
}

/// Looks again and again, if there are containers to look at.
pub(in crate::app) async fn keep(daemon: Arc<Daemon>) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        refresh(&daemon).await;
    }
}

/// Looks once.
pub(in crate::app) async fn refresh(daemon: &Daemon) {
    let view = &daemon.deploys.view;
    if !is_wanted(daemon) {
        view.seen.store(Arc::default());
        view.trouble.store(Arc::default());
        return;
    }
    let look = tokio::time::timeout(LOOK, look(daemon)).await;
    let trouble = match look {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("Docker does not answer for {} s", LOOK.as_secs())),
    };
    view.trouble.store(Arc::new(trouble));
}

fn is_wanted(daemon: &Daemon) -> bool {
    let config = daemon.config.load();
    let is_on = config.docker.as_ref().is_none_or(|docker| docker.enabled);
    let book = daemon.deploys.lock();
    let has_any = config.docker.is_some()
        || config
            .services
            .iter()
            .any(|service| service.docker.is_some())
        || !config.jobs.is_empty()
        || !book.releases.is_empty()
        || book.running.is_some();
    is_on && has_any
}

async fn look(daemon: &Daemon) -> Result<(), crate::docker::DockerError> {
    let client = daemon.deploys.engine(daemon).await?;
    let all = of_ours(daemon, containers(&client).await?);
    let (book, traffic) = (daemon.deploys.book(), Traffic::now(daemon));
    let mut shown = Vec::new();
    let services = daemon.config.load().services.clone();
    for one in &all {
        let service = owner(&services, one);
        let Some(role) = role(&book, &traffic, service.as_ref(), one) else {
            continue;
        };
        shown.push(status(daemon, &client, &book, service, role, one).await);
    }
    shown.sort_by(|a, b| (&a.service, a.role, &a.name).cmp(&(&b.service, b.role, &b.name)));
    daemon.deploys.view.seen.store(Arc::new(shown));
    Ok(())
}

/// Where requests go.
pub(super) struct Traffic {
    live: BTreeMap<ServiceName, Color>,
    /// Ids of the containers of live slots.
    serving: BTreeSet<String>,
}

impl Traffic {
    pub(super) fn now(daemon: &Daemon) -> Self {
        let live = live(daemon);
        let discovered = daemon.discovery.discovered();
        let members = discovered.members.iter();
        let serve = members.filter(|(_, slots)| {
            let mut slots = slots.iter();
            slots.any(|(service, color)| live.get(service) == Some(color))
        });
        let serving = serve.map(|(id, _)| id.clone()).collect();
        Self { live, serving }
    }

    /// Whether a container is one of a live slot, running or not.
    pub(super) fn is_of_live(&self, one: &Container) -> bool {
        self.serving.contains(&one.id)
    }

    /// Whether requests go to a container.
    pub(super) fn reaches(&self, one: &Container) -> bool {
        one.is_up() && self.is_of_live(one)
    }
}

/// What a container is for; `None`: it has nothing to do with any service.
pub(super) fn role(
    book: &Book,
    traffic: &Traffic,
    service: Option<&ServiceName>,
    one: &Container,
) -> Option<ContainerRole> {
    if one.label(label::JOB).is_some() {
        return Some(ContainerRole::Job);
    }
    if let Some(run) = &book.running {
        let mut new = run.plan.members.iter().flat_map(|member| &member.new);
        if new.any(|new| new.name == one.name) {
            return Some(ContainerRole::New);
        }
    }
    if traffic.reaches(one) {
        return Some(ContainerRole::Live);
    }
    let known = service.and_then(|service| book.releases.get(service));
    let color = service.and_then(|service| traffic.live.get(service).copied());
    let is_in = |installed: &&Installed| installed.containers.contains(&one.name);
    if let Some(installed) = known.and_then(|it| it.live.as_ref()).filter(is_in) {
        // Unless somebody has switched since.
        return Some(match color.is_none_or(|color| color == installed.color) {
            true => ContainerRole::Live,
            false => ContainerRole::Idle,
        });
    }
    if known
        .and_then(|it| it.kept.as_ref())
        .filter(is_in)
        .is_some()
    {
        return Some(ContainerRole::Kept);
    }
    if tidy::is_left_over(book, one).is_some() {
        return Some(ContainerRole::LeftOver);
    }
    service?;
    let is_live = match (one.color(), color) {
        (Some(own), Some(color)) => own == color,
        // Nothing was ever deployed: the only one there is.
        _ => known.is_none(),
    };
    Some(match is_live && one.is_up() {
        true => ContainerRole::Live,
        false => ContainerRole::Idle,
    })
}

async fn status(
    daemon: &Daemon,
    client: &Client,
    book: &Book,
    service: Option<ServiceName>,
    role: ContainerRole,
    one: &Container,
) -> ContainerStatus {
    let usage = match one.is_up() {
        true => client.usage(&one.name).await.ok().flatten(),
        false => None,
    };
    let cpu = usage.and_then(|usage| cpu(daemon, &one.id, usage.cpu_ns));
    let started = one.started_at.parse::<jiff::Timestamp>().ok();
    let started = started
        .map(std::time::SystemTime::from)
        .filter(|_| one.is_up());
    let age = started.and_then(|started| clock::wall().duration_since(started).ok());
    let known = service
        .as_ref()
        .and_then(|service| book.releases.get(service));
    let installed = known
        .into_iter()
        .flat_map(|known| known.live.iter().chain(&known.kept));
    let mut installed = installed.filter(|it| it.containers.contains(&one.name));
    let installed = installed.next();
    ContainerStatus {
        name: one.name.clone(),
        service,
        color: one.color().or(installed.map(|it| it.color)),
        role,
        release: one
            .label(label::RELEASE)
            .map(str::to_owned)
            .or_else(|| installed.map(|it| it.release.clone())),
        image: one.image.clone(),
        image_id: one.image_id.clone(),
        digest: installed.and_then(|it| it.digest.clone()),
        state: match one.state {
            State::Created => "created".to_owned(),
            State::Running => "running".to_owned(),
            State::Restarting => "restarting".to_owned(),
            State::Exited { code } => format!("exited ({code})"),
            State::Dead => "dead".to_owned(),
        },
        health: one.health.map(|health| {
            match health {
                Health::Starting => "starting",
                Health::Healthy => "healthy",
                Health::Unhealthy => "unhealthy",
            }
            .to_owned()
        }),
        age_s: age.map(|age| age.as_secs()),
        restarts: one.restarts,
        memory_bytes: usage.map(|usage| usage.memory_bytes),
        memory_limit_bytes: usage
            .map(|usage| usage.memory_limit_bytes)
            .filter(|limit| *limit > 0),
        cpu,
    }
}

/// Share of one core since the last look.
fn cpu(daemon: &Daemon, id: &str, cpu_ns: u64) -> Option<f64> {
    let now = clock::now();
    let used = &daemon.deploys.view.used;
    let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
    used.retain(|_, (_, at)| now.saturating_duration_since(*at) < 12 * EVERY);
    let (before, at) = used.insert(id.to_owned(), (cpu_ns, now))?;
    let busy = Duration::from_nanos(cpu_ns.checked_sub(before)?);
    let passed = now.saturating_duration_since(at);
    (!passed.is_zero()).then(|| busy.as_secs_f64() / passed.as_secs_f64())
}
