//! Deploys: the pure machine of [`crate::deploy`] with its hands.
//!
//! [`Deploys`] is the handle. One run at a time goes on in a task of its own ([`run`]), whatever
//! becomes of the client that asked for it; its actions are done by [`Hands`](hands::Hands) over
//! the engine, the switchboard and the pools. Jobs on a schedule have a task each ([`schedule`]).
//! What containers there are is looked at in the background ([`view`]), so that `status` waits for
//! nothing.

mod checks;
mod hands;
mod jobs;
mod rolling;
mod run;
mod schedule;
mod talk;
mod tidy;
mod traffic;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::{error, warn};

use super::daemon::Daemon;
use crate::admin::Actor;
use crate::clock;
use crate::config::{Config, DockerSocket};
use crate::deploy::{
    Ask, Book, Container, Outcome, Plan, PlanError, Run, Scene, Stage, Store, StoreError, ours,
    plan_deploy, plan_rollback,
};
use crate::docker::{Client, DockerError};
use crate::model::{Color, ServiceName, Strategy};

pub(super) use schedule::{run_now, start as start_schedule};
pub(super) use talk::{denied, deploy, follow, to_kept};
pub(super) use tidy::{cleanup, reset};
pub(super) use view::{View, keep as keep_looking, refresh};

/// News of one run.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// An action begins.
    Stage(Stage),
    /// More about the one that is being done; `true`: nothing but time went by.
    Line(String, bool),
    /// It is over. The last one.
    End(Outcome),
}

/// All deploys of the daemon.
pub(super) struct Deploys {
    store: Store,
    book: Arc<Mutex<Book>>,
    /// One write at a time, each of the book as it is then: none lands on a later one.
    writing: Arc<Mutex<()>>,
    /// Why nothing may be deployed.
    damage: Option<String>,
    running: Mutex<Option<Handle>>,
    /// Containers are tidied up.
    tidying: AtomicBool,
    client: tokio::sync::Mutex<Option<(DockerSocket, Client)>>,
    pub(super) view: View,
    /// One verb that changes containers at a time.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Jobs on a schedule that run now.
    jobs: Mutex<BTreeSet<String>>,
    /// The end of every run, for whoever asks again with its id.
    ended: Mutex<Vec<(String, Outcome)>>,
}

/// The run that goes on.
#[derive(Clone)]
struct Handle {
    id: String,
    command: Option<String>,
    actor: String,
    release: String,
    services: Vec<ServiceName>,
    strategy: Strategy,
    stage: watch::Receiver<Option<Stage>>,
    since_ms: u64,
    news: broadcast::Sender<Told>,
    abort: mpsc::UnboundedSender<String>,
    can_abort: watch::Receiver<bool>,
}

/// Why a deploy was not begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    /// Another one goes on.
    #[error("{0}")]
    Busy(String),
    /// It makes no sense as asked.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The engine.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Nothing may be deployed.
    #[error("{0}")]
    Locked(String),
}

/// Lines that a slow reader may lag behind.
const NEWS_KEPT: usize = 1_024;

/// Ends that are remembered for whoever asks again.
const ENDS_KEPT: usize = 64;

impl Deploys {
    /// Reads what is remembered.
    pub(super) fn open(state_dir: &std::path::Path) -> Self {
        let store = Store::of(state_dir);
        let (book, damage) = match store.read() {
            Ok(book) => (book, None),
            Err(reason) => {
                error!(error = %reason, "deploys are locked");
                (Book::default(), Some(reason.to_string()))
            }
        };
        Self {
            store,
            book: Arc::new(Mutex::new(book)),
            writing: Arc::default(),
            damage,
            running: Mutex::default(),
            tidying: AtomicBool::new(false),
            client: tokio::sync::Mutex::default(),
            view: View::default(),
            turn: Arc::default(),
            jobs: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// What is remembered now.
    pub(super) fn book(&self) -> Book {
        self.lock().clone()
    }

    /// Why nothing may be deployed, if so.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The engine. A connection is tried again at every call.
    ///
    /// # Errors
    /// It is off by the configuration, or cannot be reached.
    pub(super) async fn engine(&self, daemon: &Daemon) -> Result<Client, DockerError> {
        let docker = daemon.config.load().docker.clone().unwrap_or_default();
        if !docker.enabled {
            return Err(DockerError::Unreachable {
                why: "docker.enabled is false".to_owned(),
            });
        }
        let mut known = self.client.lock().await;
        if let Some((socket, client)) = known.as_ref()
            && *socket == docker.socket
        {
            return Ok(client.clone());
        }
        let client = Client::connect(&docker.socket).await?;
        *known = Some((docker.socket, client.clone()));
        Ok(client)
    }

    /// Changes the book and has it on disk.
    ///
    /// # Errors
    /// It is not on disk; in memory it is changed.
    pub(super) async fn change(&self, change: impl FnOnce(&mut Book)) -> Result<(), StoreError> {
        change(&mut self.lock());
        let (book, writing) = (Arc::clone(&self.book), Arc::clone(&self.writing));
        let store = self.store.clone();
        let write = move || {
            let _one = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let book = book.lock().unwrap_or_else(PoisonError::into_inner).clone();
            store.save(&book)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(saved) => saved,
            // The runtime is going away.
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Handle> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.clone()
    }

    /// What goes on, for `status`.
    pub(super) fn progress(&self) -> Option<Progress> {
        let handle = self.running()?;
        let stage = handle.stage.borrow().clone();
        Some(Progress {
            id: handle.id,
            actor: handle.actor,
            release: handle.release,
            since_ms: handle.since_ms,
            stage,
        })
    }

    /// Calls off the run that goes on, if there was no cutover and it is not kept, and gives its news;
    /// `None`: it is too late, or there is none.
    pub(super) fn abort(&self, by: &Actor) -> Option<broadcast::Receiver<Told>> {
        let handle = self.running()?;
        if !*handle.can_abort.borrow() {
            return None;
        }
        let news = handle.news.subscribe();
        handle.abort.send(by.to_string()).ok().map(|()| news)
    }

    /// While it is held, nobody moves requests to what is tidied up.
    fn tidying(&self) -> Tidying<'_> {
        self.tidying.store(true, Ordering::SeqCst);
        Tidying(self)
    }

    /// Services of the deploy that goes on.
    pub(super) fn in_hand(&self) -> Vec<ServiceName> {
        self.running()
            .map_or_else(Vec::new, |handle| handle.services)
    }

    /// Why nobody may move the requests of these services (empty: of all): a deploy prepares their
    /// idle color, or it is tidied up.
    pub(super) fn holds(&self, services: &[ServiceName]) -> Option<String> {
        if self.tidying.load(Ordering::SeqCst) {
            return Some("containers are tidied up".to_owned());
        }
        let handle = self.running()?;
        let mut held = handle.services.iter();
        let is_held = services.is_empty() || held.any(|one| services.contains(one));
        let is_early = *handle.can_abort.borrow();
        (is_held && is_early).then(|| {
            let busy = busy(&handle);
            format!("{busy}; `proxyctl abort` calls it off")
        })
    }

    /// As [`Deploys::abort`], if it is a rolling one: there is no switch to undo.
    pub(super) fn abort_rolling(&self, by: &Actor) -> Option<broadcast::Receiver<Told>> {
        match self.running()?.strategy {
            Strategy::BlueGreen => None,
            Strategy::Rolling => self.abort(by),
        }
    }

    /// The end of a run that was asked for with this id, or its news.
    pub(super) fn known(&self, command: &str) -> Option<Known> {
        if let Some(handle) = self.running()
            && handle.command.as_deref() == Some(command)
        {
            return Some(Known::Running(handle.news.subscribe()));
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ended.iter().find(|(id, _)| id == command);
        found.map(|(_, outcome)| Known::Ended(outcome.clone()))
    }

    fn remember(&self, command: Option<&str>, outcome: &Outcome) {
        let Some(command) = command else {
            return;
        };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let more = (ended.len() + 1).saturating_sub(ENDS_KEPT);
        ended.drain(..more);
        ended.push((command.to_owned(), outcome.clone()));
    }
}

struct Tidying<'a>(&'a Deploys);

impl Drop for Tidying<'_> {
    fn drop(&mut self) {
        self.0.tidying.store(false, Ordering::SeqCst);
    }
}

/// A run that was asked for before.
pub(super) enum Known {
    /// It goes on.
    Running(broadcast::Receiver<Told>),
    /// It has ended.
    Ended(Outcome),
}

/// What goes on.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) id: String,
    pub(super) actor: String,
    pub(super) release: String,
    pub(super) since_ms: u64,
    pub(super) stage: Option<Stage>,
}

/// Everything that a plan is made from.
struct Gathered {
    live: BTreeMap<ServiceName, Color>,
    hosts: BTreeMap<ServiceName, String>,
    book: Book,
    own: Option<String>,
    containers: Vec<Container>,
    images: BTreeMap<String, Value>,
}

/// What is there now.
pub(super) async fn containers(client: &Client) -> Result<Vec<Container>, DockerError> {
    let all = client.containers().await?;
    let read = all.into_iter().filter_map(|inspect| {
        let read = Container::from_inspect(inspect);
        read.map_err(|error| warn!(%error, "a container is left out"))
            .ok()
    });
    Ok(read.collect())
}

/// Without the containers of other people.
fn of_ours(daemon: &Daemon, containers: Vec<Container>) -> Vec<Container> {
    let config = daemon.config.load();
    let discovered = daemon.discovery.discovered();
    let services = |(id, slots): (&String, &Vec<(ServiceName, Color)>)| {
        let services = slots.iter().map(|(service, _)| service.clone());
        (id.clone(), services.collect())
    };
    let served = discovered.members.iter().map(services).collect();
    let own = daemon.discovery.own_project();
    ours(&config.services, own.as_deref(), &served, containers)
}

async fn gather(daemon: &Daemon, client: &Client) -> Result<Gathered, DockerError> {
    let containers = of_ours(daemon, containers(client).await?);
    let mut images = BTreeMap::new();
    for container in &containers {
        if images.contains_key(&container.image_id) || container.is_one_off() {
            continue;
        }
        // One whose image was removed is compared with nothing: all of it is kept.
        if let Some(image) = client.image(&container.image_id).await? {
            images.insert(container.image_id.clone(), image);
        }
    }
    Ok(Gathered {
        live: live(daemon),
        hosts: hosts(daemon),
        book: daemon.deploys.book(),
        own: daemon.discovery.own_project(),
        containers,
        images,
    })
}

impl Gathered {
    fn scene<'a>(&'a self, config: &'a Config) -> Scene<'a> {
        Scene {
            services: &config.services,
            jobs: &config.jobs,
            deploy: &config.deploy,
            live: &self.live,
            hosts: &self.hosts,
            book: &self.book,
            own: self.own.as_deref(),
            containers: &self.containers,
            images: &self.images,
        }
    }
}

/// The live color of every service that is served.
fn live(daemon: &Daemon) -> BTreeMap<ServiceName, Color> {
    let table = daemon.publisher.table().load();
    let services = table.services.iter();
    services
        .map(|entry| (entry.name.clone(), entry.live))
        .collect()
}

/// The first host of a site that leads to each service.
fn hosts(daemon: &Daemon) -> BTreeMap<ServiceName, String> {
    let config = daemon.config.load();
    let mut hosts = BTreeMap::new();
    for site in &config.sites {
        let Some(host) = site.hosts.first() else {
            continue;
        };
        let routes = site.routes.iter().filter_map(|route| route.service);
        for index in site.service.into_iter().chain(routes) {
            if let Some(service) = config.services.get(index.0) {
                let host = host.to_string();
                hosts.entry(service.name.clone()).or_insert(host);
            }
        }
    }
    hosts
}

/// What is to be done.
pub(super) enum Wanted {
    /// A new release.
    Deploy(Ask),
    /// The kept one, of these services (empty: all that have one).
    Kept(Vec<ServiceName>),
}

/// A plan for what is wanted, with the id that its containers carry.
pub(super) async fn plan(daemon: &Daemon, wanted: &Wanted) -> Result<(String, Plan), Denied> {
    if let Some(damage) = daemon.deploys.damage() {
        return Err(Denied::Locked(damage.to_owned()));
    }
    let client = daemon.deploys.engine(daemon).await?;
    let there = gather(daemon, &client).await?;
    let config = daemon.config.load();
    let scene = there.scene(&config);
    let id = new_id(there.book.last + 1);
    let plan = match wanted {
        Wanted::Deploy(ask) => plan_deploy(scene, ask, &id, clock::wall())?,
        Wanted::Kept(services) => plan_rollback(scene, services, &id, clock::wall())?,
    };
    Ok((id, plan))
}

/// A number that grows, and letters so that no two state folders make the same one.
fn new_id(number: u64) -> String {
    let letters: String = (0..4).map(|_| fastrand::lowercase()).collect();
    format!("d{number}{letters}")
}

/// Begins what is wanted. The news end with [`Told::End`].
pub(super) async fn begin(
    daemon: &Arc<Daemon>,
    actor: &Actor,
    command: Option<String>,
    why: Option<String>,
    force: bool,
    wanted: &Wanted,
) -> Result<broadcast::Receiver<Told>, Denied> {
    let turn = turn(daemon).await?;
    let (id, plan) = plan(daemon, wanted).await?;
    if let Some(why) = unsettled(daemon, &plan) {
        return Err(Denied::Busy(why));
    }
    let run = Run {
        id,
        command,
        actor: actor.to_string(),
        why,
        at_ms: clock::epoch_ms(clock::wall()),
        force,
        plan,
        done: 0,
        back: None,
        facts: crate::deploy::Facts::default(),
        crashes: 0,
    };
    Ok(run::start(daemon, run, false, turn))
}

/// The turn of a verb that changes containers. One that has just told its end is waited for.
///
/// # Errors
/// Somebody else has it.
async fn turn(daemon: &Daemon) -> Result<tokio::sync::OwnedMutexGuard<()>, Denied> {
    const LAST_WORDS: Duration = Duration::from_secs(5);
    if let Some(handle) = daemon.deploys.running() {
        return Err(Denied::Busy(busy(&handle)));
    }
    let turn = Arc::clone(&daemon.deploys.turn).lock_owned();
    let turn = tokio::time::timeout(LAST_WORDS, turn).await;
    turn.map_err(|_| match daemon.deploys.running() {
        Some(handle) => Denied::Busy(busy(&handle)),
        None => Denied::Busy("a deploy begins, or containers are tidied up".to_owned()),
    })
}

/// Why the idle color of a stack may not be touched: requests may have to go back to it, or are in it.
fn unsettled(daemon: &Daemon, plan: &Plan) -> Option<String> {
    let stacks = daemon.switchboard.get()?.status();
    let stack = stacks.iter().find(|stack| stack.stack == plan.stack)?;
    if let Some(run) = &stack.run {
        let (actor, phase) = (&run.actor, stack.phase.as_str());
        return Some(format!("a switch by {actor} is running: {phase}"));
    }
    let drain = stack.drains.first()?;
    let left = drain.deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(clock::now());
        format!(", for at most {} s", left.as_secs())
    });
    Some(format!(
        "the color that {} was switched from still finishes its requests{}",
        drain.service,
        left.unwrap_or_default()
    ))
}

fn busy(handle: &Handle) -> String {
    let stage = handle.stage.borrow();
    let stage = stage
        .as_ref()
        .map_or("it begins", |stage| stage.text.as_str());
    let age = clock::epoch_ms(clock::wall()).saturating_sub(handle.since_ms) / 1_000;
    format!(
        "a deploy of {} by {} is running for {age} s: {stage}",
        handle.release, handle.actor
    )
}

/// Goes on with what a restart found. Waits until the engine can be reached.
pub(super) fn take_up(daemon: &Arc<Daemon>) {
    let Some(run) = daemon.deploys.book().running else {
        return;
    };
    let turn = Arc::clone(&daemon.deploys.turn);
    let Ok(turn) = turn.try_lock_owned() else {
        return;
    };
    warn!(
        id = run.id,
        release = run.plan.release,
        "a deploy was interrupted and is taken up"
    );
    drop(run::start(daemon, run, true, turn));
}

/// How long a look at the engine may take before `status` says that it does not answer.
const LOOK: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_on_disk_is_the_book_with_the_last_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let deploys = Arc::new(Deploys::open(folder.path()));
        for round in 0..50 {
            let changes = (0..4).map(|n| {
                let deploys = Arc::clone(&deploys);
                tokio::spawn(async move { deploys.change(|book| book.last += n).await })
            });
            for change in changes.collect::<Vec<_>>() {
                change.await.expect("no panic").expect("on disk");
            }
            let read = Store::of(folder.path()).read().expect("whole");
            assert_eq!(read, deploys.book(), "round {round}");
        }
    }
}
