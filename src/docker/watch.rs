//! Keeps an [`Inventory`] true: a full look at the start, after each reconnect and every minute;
//! events in between.
//!
//! One task owns the inventory. Events are taken as they come and never wait for a look at a container:
//! looks run beside, at most [`AT_ONCE`], and one that was overtaken by an event is thrown away and
//! done again. While the engine is away the last inventory stands.
//!
//! States: connecting, connected, lost (and connecting again after 100 ms to 5 s).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bollard::models::{ContainerSummary, EventMessage};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::client::{Call, Client, DockerError};
use super::event::Sign;
use super::inventory::{Container, Inventory, Place};
use super::own::{own_ids, subnets};
use super::read;
use super::watched::{Attention, Trouble};
use crate::clock;
use crate::config::DockerSocket;

/// First pause after a lost connection; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before the next try.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two full looks.
const RESYNC: Duration = Duration::from_secs(60);
/// The same where events are refused.
const WITHOUT_EVENTS: Duration = Duration::from_secs(5);
/// For one look; an engine that takes longer is as good as gone.
const LOOK: Duration = Duration::from_secs(20);
/// Looks at a time.
const AT_ONCE: usize = 32;
/// Events from before the list was asked for are asked for too, so that none is missed in between.
const OVERLAP: Duration = Duration::from_secs(1);

/// What is known of an engine now.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its containers; the last ones while it is away.
    pub inventory: Inventory,
    /// How the connection fares.
    pub link: Link,
    /// Calls that it refuses, with its words.
    pub refused: BTreeMap<Call, String>,
    /// Whether all containers were looked at once.
    pub is_complete: bool,
}

/// How a connection fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// The first try is not over.
    #[default]
    Connecting,
    /// Every change is seen.
    Connected {
        /// Version of the API; empty: it does not tell.
        api: String,
    },
    /// It is away; the last inventory stands.
    Lost {
        /// Why.
        error: DockerError,
    },
}

/// The task that watches an engine. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// What is known, newest only.
    pub views: watch::Receiver<Arc<View>>,
    /// Containers whose end and use of resources matter now.
    pub attention: Arc<Attention>,
    again: Arc<Notify>,
    task: tokio::task::AbortHandle,
}

impl Watch {
    /// Looks at all containers once more, soon.
    pub fn again(&self) {
        self.again.notify_one();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to watch an engine. Must be called inside a tokio runtime. `troubles` gets what happens to
/// containers that [`Attention`] is paid to.
#[must_use]
pub fn watch(socket: DockerSocket, troubles: mpsc::UnboundedSender<Trouble>) -> Watch {
    let (views, seen) = watch::channel(Arc::new(View::default()));
    let attention = Arc::new(Attention::new(troubles));
    let again = Arc::new(Notify::new());
    let watcher = Watcher {
        view: View::default(),
        views,
        attention: Arc::clone(&attention),
        again: Arc::clone(&again),
        place: OwnPlace::of_process(),
    };
    Watch {
        views: seen,
        attention,
        again,
        task: tokio::spawn(watcher.run(socket)).abort_handle(),
    }
}

/// What the system says about where this process runs.
#[derive(Clone, Debug)]
struct OwnPlace {
    in_container: bool,
    ids: Vec<String>,
}

impl OwnPlace {
    fn of_process() -> Self {
        let exists = |path: &str| Path::new(path).exists();
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let hostname = nix::unistd::gethostname().ok();
        let hostname = hostname.and_then(|name| name.into_string().ok());
        Self {
            in_container: exists("/.dockerenv") || exists("/run/.containerenv"),
            ids: own_ids(
                &read("/proc/self/mountinfo"),
                &read("/proc/self/cgroup"),
                &hostname.unwrap_or_default(),
            ),
        }
    }

    /// The container of this process among those of the engine.
    fn among(&self, containers: &[ContainerSummary]) -> Place {
        if !self.in_container {
            return Place::Host;
        }
        let is_it = |container: &&ContainerSummary, name: &String| {
            let id = container.id.as_deref().unwrap_or_default();
            let names = container.names.iter().flatten();
            id == name
                || (name.len() >= 12 && id.starts_with(name.as_str()))
                || names
                    .into_iter()
                    .any(|known| known.trim_start_matches('/') == name)
        };
        let found = self
            .ids
            .iter()
            .find_map(|name| containers.iter().find(|container| is_it(container, name)));
        let Some(container) = found.cloned().and_then(read::listed) else {
            return Place::Unknown;
        };
        match container.on_host {
            true => Place::Host,
            false => Place::Container {
                project: container.project().to_owned(),
                id: container.id,
                name: container.name,
                networks: container.networks.into_iter().map(|n| n.id).collect(),
            },
        }
    }
}

struct Watcher {
    view: View,
    views: watch::Sender<Arc<View>>,
    attention: Arc<Attention>,
    again: Arc<Notify>,
    place: OwnPlace,
}

impl Watcher {
    async fn run(mut self, socket: DockerSocket) {
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(error) = self.session(&socket).await;
            if matches!(self.view.link, Link::Connected { .. }) {
                pause = FIRST_PAUSE;
                warn!(%error, "Docker is away, the last known containers stay");
            } else if self.view.link == Link::Connecting {
                warn!(%error, "containers cannot be discovered");
            }
            self.view.link = Link::Lost { error };
            self.publish();
            tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// From connecting to the loss of the connection.
    async fn session(
        &mut self,
        socket: &DockerSocket,
    ) -> Result<std::convert::Infallible, DockerError> {
        let client = Client::connect(socket).await?;
        self.view.refused.clear();
        let mut session = Session {
            client,
            looks: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            ages: HashMap::new(),
            pending: None,
            no_inspect: false,
        };
        let since = clock::wall() - OVERLAP;
        let since = since
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut events = Some(session.events(since));
        let mut list: Option<Listing> = Some(session.list());
        let mut due = tokio::time::interval(RESYNC);
        due.reset();
        let attention = Arc::clone(&self.attention);
        let again = Arc::clone(&self.again);
        let stats = attention.measure(session.client.clone());
        let mut stats = std::pin::pin!(stats);
        loop {
            session.start_looks();
            tokio::select! {
                biased;
                event = next(&mut events) => match event {
                    Some(Ok(message)) => {
                        self.take(&mut session, message);
                        // What came in one piece is told in one piece.
                        while let Some(Some(Ok(message))) = next(&mut events).now_or_never() {
                            self.take(&mut session, message);
                        }
                        self.publish_if();
                    }
                    Some(Err(error)) => match DockerError::of(Call::Events, error) {
                        DockerError::Refused { message, .. } => {
                            self.view.refused.insert(Call::Events, message);
                            events = None;
                            due = tokio::time::interval(WITHOUT_EVENTS);
                            due.reset();
                            self.publish_if();
                        }
                        error => return Err(error),
                    },
                    None => return Err(DockerError::Unreachable {
                        why: "the stream of events ended".to_owned(),
                    }),
                },
                listed = wait(&mut list) => {
                    list = None;
                    self.listed(&mut session, listed?);
                    self.connected(&session);
                }
                Some((id, age, seen)) = session.looks.next(), if !session.looks.is_empty() => {
                    if self.looked(&mut session, id, age, seen)? && list.is_none() {
                        list = Some(session.list());
                    }
                    self.connected(&session);
                }
                _ = due.tick() => {
                    if list.is_none() {
                        list = Some(session.list());
                    }
                }
                () = again.notified() => {
                    if list.is_none() {
                        list = Some(session.list());
                    }
                }
                refused = &mut stats => {
                    // Only a refusal ends it.
                    self.view.refused.insert(Call::Stats, refused);
                    self.publish();
                    stats.set(Attention::never());
                }
            }
        }
    }

    fn take(&mut self, session: &mut Session, message: EventMessage) {
        let Some(event) = read::event(message) else {
            return;
        };
        let reaction = self.view.inventory.happened(&event);
        if let Place::Container { id, .. } = &self.view.inventory.own
            && event.kind == "network"
            && event.attributes.get("container") == Some(id)
        {
            // Which networks are shared is another question now.
            self.again.notify_one();
        }
        let id = event
            .attributes
            .get("container")
            .unwrap_or(&event.id)
            .clone();
        if event.kind == "container" || reaction.look.is_some() {
            *session.ages.entry(id).or_default() += 1;
        }
        if let Some(sign) = reaction.sign {
            let name = event.attributes.get("name").map_or("", String::as_str);
            self.attention
                .happened(&session.client, &event.id, name, sign);
        }
        if let Some(id) = reaction.look {
            session.look(id);
        }
    }

    /// Takes a list: containers that are gone leave, all others are looked at.
    fn listed(
        &mut self,
        session: &mut Session,
        (ages, list): (HashMap<String, u64>, Vec<ContainerSummary>),
    ) {
        let before = self.view.inventory.clone();
        self.view.inventory.own = self.place.among(&list);
        let mut there = BTreeSet::new();
        for summary in list {
            let labels = read::labels(&summary);
            let id = summary.id.clone().unwrap_or_default();
            there.insert(id.clone());
            if !read::is_of_interest(&labels) {
                continue;
            }
            if session.no_inspect {
                if let Some(mut container) = read::listed(summary) {
                    self.mark(&mut container);
                    self.view.inventory.seen(container);
                }
            } else {
                session.look(id);
            }
        }
        // One that an event spoke of meanwhile is looked at anyway.
        let is_same_age = |id: &String| session.ages.get(id) == ages.get(id);
        self.view
            .inventory
            .containers
            .retain(|id, _| there.contains(id) || !is_same_age(id));
        if self.view.inventory != before {
            self.publish_if();
        }
        let first: BTreeSet<String> = session.waiting.iter().cloned().collect();
        session.pending.get_or_insert(first);
    }

    /// Takes a look at one container. True: a list is needed in its place.
    fn looked(
        &mut self,
        session: &mut Session,
        id: String,
        age: u64,
        seen: Result<Option<Container>, DockerError>,
    ) -> Result<bool, DockerError> {
        let now = session.ages.get(&id).copied().unwrap_or_default();
        if now != age && !matches!(seen, Err(DockerError::Unreachable { .. })) {
            session.look(id);
            return Ok(false);
        }
        if let Some(pending) = &mut session.pending {
            pending.remove(&id);
        }
        match seen {
            Ok(Some(mut container)) => {
                self.mark(&mut container);
                if read::is_of_interest(&container.labels) {
                    let before = self.view.inventory.containers.get(&id);
                    let before = before.map(|before| (before.restarts, before.name.clone()));
                    let restarts = container.restarts;
                    if self.view.inventory.seen(container) {
                        self.publish_if();
                    }
                    if let Some((known, name)) = before.filter(|(known, _)| *known < restarts) {
                        let sign = Sign::Restarted(restarts - known);
                        self.attention.happened(&session.client, &id, &name, sign);
                    }
                }
            }
            Ok(None) | Err(DockerError::NotFound { .. }) => {
                if self.view.inventory.containers.remove(&id).is_some() {
                    self.publish_if();
                }
            }
            Err(DockerError::Refused { call, message }) => {
                self.view.refused.insert(call, message);
                session.no_inspect = true;
                session.waiting.clear();
                session.pending = None;
                return Ok(true);
            }
            Err(error @ (DockerError::Unreachable { .. } | DockerError::Version { .. })) => {
                return Err(error);
            }
            Err(error @ DockerError::Failed { .. }) => {
                warn!(container = id, %error, "a container could not be looked at");
            }
        }
        Ok(false)
    }

    /// Tells, when the first look at everything is over, that it is.
    fn connected(&mut self, session: &Session) {
        if matches!(self.view.link, Link::Connected { .. }) {
            return;
        }
        if session.pending.as_ref().is_some_and(BTreeSet::is_empty) {
            let api = session.client.version().map(|version| version.to_string());
            let api = api.unwrap_or_default();
            let containers = self.view.inventory.containers.len();
            info!(api, containers, "containers are discovered");
            self.view.link = Link::Connected { api };
            self.view.is_complete = true;
            self.publish();
        }
    }

    /// Where the engine does not know this container, its interfaces tell what is shared.
    fn mark(&self, container: &mut Container) {
        if self.view.inventory.own == Place::Unknown {
            read::mark_near(container, &subnets());
        }
    }

    /// Changes before the first look is over would show half a picture.
    fn publish_if(&self) {
        if self.view.is_complete {
            self.publish();
        }
    }

    fn publish(&self) {
        self.views.send_replace(Arc::new(self.view.clone()));
    }
}

type Listed = (HashMap<String, u64>, Vec<ContainerSummary>);
type Listing = Pin<Box<dyn Future<Output = Result<Listed, DockerError>> + Send>>;
type Look = (String, u64, Result<Option<Container>, DockerError>);
type Events = BoxStream<'static, Result<EventMessage, bollard::errors::Error>>;

/// What belongs to one connection.
struct Session {
    client: Client,
    looks: FuturesUnordered<Pin<Box<dyn Future<Output = Look> + Send>>>,
    waiting: VecDeque<String>,
    /// Events of each container so far.
    ages: HashMap<String, u64>,
    /// Containers of the first list that were not looked at yet.
    pending: Option<BTreeSet<String>>,
    /// Only lists are allowed.
    no_inspect: bool,
}

impl Session {
    fn look(&mut self, id: String) {
        if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    fn start_looks(&mut self) {
        if self.no_inspect {
            // The next list tells.
            self.waiting.clear();
        }
        while self.looks.len() < AT_ONCE
            && let Some(id) = self.waiting.pop_front()
        {
            let age = self.ages.get(&id).copied().unwrap_or_default();
            let client = self.client.clone();
            self.looks.push(Box::pin(async move {
                let seen = tokio::time::timeout(LOOK, client.api().inspect_container(&id, None));
                let seen = match seen.await {
                    Ok(seen) => seen
                        .map(read::inspected)
                        .map_err(|error| DockerError::of(Call::Inspect, error)),
                    Err(_) => Err(late(Call::Inspect)),
                };
                (id, age, seen)
            }));
        }
    }

    fn list(&self) -> Listing {
        let client = self.client.clone();
        let ages = self.ages.clone();
        Box::pin(async move {
            let options = ListContainersOptionsBuilder::new().all(true).build();
            let list = tokio::time::timeout(LOOK, client.api().list_containers(Some(options)));
            match list.await {
                Ok(list) => list
                    .map(|list| (ages, list))
                    .map_err(|error| DockerError::of(Call::Containers, error)),
                Err(_) => Err(late(Call::Containers)),
            }
        })
    }

    fn events(&self, since: u64) -> Events {
        let kinds = ["container", "network"].map(str::to_owned).to_vec();
        let filters = HashMap::from([("type".to_owned(), kinds)]);
        let options = EventsOptionsBuilder::new()
            .since(&since.to_string())
            .filters(&filters)
            .build();
        // The stream has what it needs of the client.
        self.client.api().events(Some(options)).boxed()
    }
}

fn late(call: Call) -> DockerError {
    DockerError::Unreachable {
        why: format!("no answer to {call} in {} s", LOOK.as_secs()),
    }
}

/// The next event; never where there are none.
async fn next(events: &mut Option<Events>) -> Option<Result<EventMessage, bollard::errors::Error>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

async fn wait(list: &mut Option<Listing>) -> Result<Listed, DockerError> {
    match list {
        Some(list) => list.await,
        None => std::future::pending().await,
    }
}
