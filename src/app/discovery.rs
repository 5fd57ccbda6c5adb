//! What containers add to the configuration: kept, merged with the file, remembered on disk.
//!
//! There are two ways for a change to the table. Containers that come and go change the upstreams of
//! slots that are there: that is done at once. A service, slot or site that comes or goes is taken
//! over as a reload is, between two steps of the switchboard, by `containers`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use crate::clock;
use crate::compat;
use crate::config::{Config, Docker, DockerSocket};
use crate::disk;
use crate::docker::{
    self, Context, Discovered, Discoverer, Health, HostClaim, Link, Memory, Problem,
    State as Doing, Trouble, View, Watch,
};
use crate::model::{Color, ServiceName, UpstreamAddr};
use crate::pool::{Behind, Reported};

/// How long a start waits for the first look at the containers.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Discovery, whether it is on or not.
pub(super) struct Discovery {
    /// What the file says, without anything found.
    pub(super) file: ArcSwap<Config>,
    /// Wakes whoever follows the containers: another engine, or another look.
    pub(super) changed: Notify,
    /// Wakes whoever takes over services and sites.
    pub(super) adopt: Notify,
    memory: Remembered,
    troubles: mpsc::UnboundedSender<Trouble>,
    state: Mutex<State>,
}

struct State {
    settings: Option<Docker>,
    watch: Option<Watch>,
    view: Arc<View>,
    discoverer: Discoverer,
    discovered: Arc<Discovered>,
    /// Live colors of services that are in no table (yet).
    live: BTreeMap<ServiceName, Color>,
    failed: Option<String>,
    /// Names of containers that are out of a network for a moment.
    moving: BTreeSet<String>,
}

/// The file of [`Memory`].
#[derive(Clone, Debug)]
struct Remembered(PathBuf);

impl Remembered {
    fn read(&self) -> Memory {
        let Ok(bytes) = std::fs::read(&self.0) else {
            return Memory::default();
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(file = %self.0.display(), %error, "damaged, and begun anew");
            Memory::default()
        })
    }

    /// Blocks.
    fn write(&self, memory: &Memory) {
        let written = serde_json::to_vec(memory)
            .map_err(std::io::Error::from)
            .and_then(|bytes| disk::replace(&self.0, &bytes));
        if let Err(error) = written {
            warn!(file = %self.0.display(), %error, "not written; a restart would choose colors anew");
        }
    }
}

/// Which engine is asked: with `[docker]`, or where a service needs one; else, without a file or with
/// a Caddyfile, the usual one if it is there.
pub(super) fn settings(config: &Config, file: Option<&Path>) -> Option<Docker> {
    match &config.docker {
        Some(docker) => docker.enabled.then(|| docker.clone()),
        None if config.services.iter().any(|s| s.docker.is_some()) => Some(Docker::default()),
        None if file.is_none_or(compat::is_caddyfile) => {
            let usual = Docker::default();
            is_there(&usual.socket).then_some(usual)
        }
        None => None,
    }
}

/// Whether there is something to connect to.
pub(super) fn is_there(socket: &DockerSocket) -> bool {
    match socket {
        DockerSocket::Unix(path) => path.exists(),
        DockerSocket::Tcp(_) => true,
    }
}

impl Discovery {
    /// Knows no container yet. `live`: the live colors that the journal knows.
    pub(super) fn open(
        file: &Config,
        live: BTreeMap<ServiceName, Color>,
        troubles: mpsc::UnboundedSender<Trouble>,
    ) -> Self {
        let memory = Remembered(file.state_dir.join("docker.json"));
        Self {
            file: ArcSwap::from_pointee(file.clone()),
            changed: Notify::new(),
            adopt: Notify::new(),
            troubles,
            state: Mutex::new(State {
                settings: None,
                watch: None,
                view: Arc::default(),
                discoverer: Discoverer::new(memory.read()),
                discovered: Arc::default(),
                live,
                failed: None,
                moving: BTreeSet::new(),
            }),
            memory,
        }
    }

    /// Asks that engine from now on; `None`: none. Must be called inside a runtime.
    pub(super) fn follow(&self, settings: Option<Docker>) {
        let mut state = self.lock();
        let same_engine = match (&state.settings, &settings) {
            (Some(old), Some(new)) => old.socket == new.socket,
            (None, None) => true,
            _ => false,
        };
        if !same_engine {
            state.view = Arc::default();
            state.watch = settings
                .as_ref()
                .map(|docker| docker::watch(docker.socket.clone(), self.troubles.clone()));
        } else if let Some(watch) = &state.watch {
            // Another file may want other containers.
            watch.again();
        }
        state.settings = settings;
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the first look at the containers, but not for long: who is not found in time is
    /// served as soon as it is.
    pub(super) async fn first_look(&self) {
        let Some(mut views) = self.views() else {
            return;
        };
        let seen =
            views.wait_for(|view| view.is_complete || matches!(view.link, Link::Lost { .. }));
        let _ = tokio::time::timeout(FIRST_LOOK, seen).await;
    }

    /// What is seen of the engine; `None`: discovery is off.
    pub(super) fn views(&self) -> Option<tokio::sync::watch::Receiver<Arc<View>>> {
        let state = self.lock();
        state.watch.as_ref().map(|watch| watch.views.clone())
    }

    /// The file with the containers of this moment. `table`: the live colors of services that are
    /// served. `switching`: services whose slots must stay.
    pub(super) fn merged(
        &self,
        file: &Config,
        table: &BTreeMap<ServiceName, Color>,
        switching: &BTreeSet<ServiceName>,
    ) -> Config {
        let mut state = self.lock();
        let State {
            settings,
            watch,
            view,
            discoverer,
            live,
            moving,
            ..
        } = &mut *state;
        if let Some(watch) = watch {
            let seen = watch.views.borrow().clone();
            *view = match moving.is_empty() {
                true => seen,
                false => Arc::new(still_attached(view, &seen, moving)),
            };
        }
        live.extend(table.iter().map(|(name, color)| (name.clone(), *color)));
        let before = discoverer.memory.clone();
        let live_of = |name: &ServiceName| live.get(name).copied();
        let context = Context {
            file,
            network: settings
                .as_ref()
                .and_then(|docker| docker.network.as_deref()),
            live: &live_of,
            keep: &|name, _| switching.contains(name),
            now_ms: clock::epoch_ms(clock::wall()),
        };
        let discovered = discoverer.discover(&view.inventory, &context);
        // Colors of containers are forgotten with them, so an engine that is not seen yet must not
        // make them be.
        if !view.is_complete {
            discoverer.memory = before.clone();
        }
        let memory = discoverer.memory.clone();
        let merged = discovered.merged(file);
        for problem in new_ones(&state.discovered.problems, &discovered.problems) {
            warn!(
                container = problem.container,
                fix = problem.fix,
                "{}",
                problem.what
            );
        }
        state.discovered = Arc::new(discovered);
        drop(state);
        if memory != before {
            let file = self.memory.clone();
            tokio::task::spawn_blocking(move || file.write(&memory));
        }
        merged
    }

    /// A container is taken out of a network and put back: until [`Discovery::moved`] it counts as
    /// being where it was, so that its requests have somewhere to go.
    pub(super) fn moving(&self, name: &str) {
        self.lock().moving.insert(name.to_owned());
    }

    /// It is where it is seen.
    pub(super) fn moved(&self, name: &str) {
        self.lock().moving.remove(name);
        self.changed.notify_one();
    }

    /// Hosts of Compose projects that are down, and when others may have them, in milliseconds since 1970.
    pub(super) fn reserved(&self) -> Vec<(String, HostClaim, u64)> {
        let state = self.lock();
        let hosts = state.discoverer.memory.hosts.iter();
        hosts
            .filter_map(|(host, claim)| Some((host.clone(), claim.clone(), claim.free_ms()?)))
            .collect()
    }

    /// Whether a reserved host became free, of which no event tells.
    pub(super) fn is_due(&self) -> bool {
        let now = clock::epoch_ms(clock::wall());
        let state = self.lock();
        let mut hosts = state.discoverer.memory.hosts.values();
        state.view.is_complete && hosts.any(|claim| claim.free_ms().is_some_and(|free| free <= now))
    }

    /// What was found last.
    pub(super) fn discovered(&self) -> Arc<Discovered> {
        Arc::clone(&self.lock().discovered)
    }

    /// The Compose project of the proxy's own container.
    pub(super) fn own_project(&self) -> Option<String> {
        let state = self.lock();
        state.view.inventory.own.project().map(str::to_owned)
    }

    /// The container behind every upstream, and how it is.
    pub(super) fn containers(&self) -> HashMap<UpstreamAddr, (Behind, Option<Reported>)> {
        let discovered = self.discovered();
        let origins = discovered.origins.iter();
        origins
            .map(|(upstream, origin)| {
                let behind = Behind {
                    name: origin.name.as_str().into(),
                    run: format!("{} {}", origin.id, origin.started).into(),
                };
                let reported = origin.health.map(|health| match health {
                    Health::Healthy => Reported::Healthy,
                    Health::Starting => Reported::Starting,
                    Health::Unhealthy => Reported::Unhealthy,
                });
                (upstream.clone(), (behind, reported))
            })
            .collect()
    }

    /// Whether a container can answer nothing any more: it ended, is paused, or was started anew.
    pub(super) fn is_dead(&self, behind: &Behind) -> bool {
        let state = self.lock();
        let (id, started) = behind.run.split_once(' ').unwrap_or((&behind.run, ""));
        let container = state.view.inventory.containers.get(id);
        container.is_none_or(|container| {
            container.state != Doing::Running || container.started != started
        })
    }

    /// Whether the upstreams of a service are containers.
    fn is_dynamic(&self, name: &ServiceName) -> bool {
        let in_file = |service: &crate::config::Service| service.name == *name;
        !self.file.load().services.iter().any(in_file)
            || (self.discovered().services.iter()).any(|service| service.name == *name)
    }

    /// `now` with the upstreams of `merged` where both have the slot: what can be changed at once.
    pub(super) fn patched(&self, now: &Config, merged: &Config) -> Config {
        let mut patched = now.clone();
        for service in &mut patched.services {
            if !self.is_dynamic(&service.name) {
                continue;
            }
            let found = merged.services.iter().find(|s| s.name == service.name);
            for (at, slot) in service.slots.iter_mut().enumerate() {
                let found = found.and_then(|found| found.slots[at].as_ref());
                if let Some(slot) = slot {
                    slot.upstreams = found.map_or_else(Vec::new, |found| found.upstreams.clone());
                }
            }
        }
        patched
    }

    /// What was found cannot be served as it is; `None`: it can.
    pub(super) fn set_failed(&self, why: Option<String>) {
        self.lock().failed = why;
    }

    /// With what to look at the engine's state: whether it is on, what is seen, what failed.
    pub(super) fn shown(&self) -> Option<(Arc<View>, Option<String>)> {
        let state = self.lock();
        let view = state.watch.as_ref()?.views.borrow().clone();
        Some((view, state.failed.clone()))
    }

    /// Pays attention to what is under watch.
    pub(super) fn attend(
        &self,
        services: &BTreeSet<ServiceName>,
    ) -> HashMap<String, Vec<(ServiceName, Color)>> {
        let state = self.lock();
        let mut attended = HashMap::new();
        let Some(watch) = &state.watch else {
            return attended;
        };
        let mut limits = BTreeMap::new();
        for (id, slots) in &state.discovered.members {
            let slots: Vec<_> = slots
                .iter()
                .filter(|(service, _)| services.contains(service))
                .cloned()
                .collect();
            if slots.is_empty() {
                continue;
            }
            let container = state.view.inventory.containers.get(id);
            let limit = container.map(|container| docker::Limits {
                memory: container.memory_limit,
                cpu: container.cpu_limit,
            });
            limits.insert(id.clone(), limit.unwrap_or_default());
            attended.insert(id.clone(), slots);
        }
        watch.attention.pay(limits);
        attended
    }

    /// What a container uses.
    pub(super) fn used(&self, id: &str) -> Option<docker::Used> {
        let state = self.lock();
        state.watch.as_ref()?.attention.used(id)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is seen, with the addresses that the moving containers had before.
fn still_attached(before: &View, seen: &View, moving: &BTreeSet<String>) -> View {
    let mut view = seen.clone();
    for (id, container) in &mut view.inventory.containers {
        let Some(known) = before.inventory.containers.get(id) else {
            continue;
        };
        let has = |one: &docker::Attached| {
            let now = container.networks.iter().find(|now| now.name == one.name);
            one.addresses.is_empty() || now.is_some_and(|now| !now.addresses.is_empty())
        };
        let is_moving = moving.contains(&container.name) && container.state == Doing::Running;
        if is_moving && !known.networks.iter().all(has) {
            Arc::make_mut(container)
                .networks
                .clone_from(&known.networks);
        }
    }
    view
}

/// Problems that were not there before: each is logged once.
fn new_ones<'a>(before: &[Problem], now: &'a [Problem]) -> Vec<&'a Problem> {
    now.iter()
        .filter(|problem| !before.contains(problem))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    #[test]
    fn a_container_that_is_put_back_keeps_its_place_meanwhile() {
        let attached = docker::Attached {
            name: "net".to_owned(),
            addresses: vec![[10, 0, 0, 2].into()],
            ..docker::Attached::default()
        };
        let view = |networks: Vec<docker::Attached>| {
            let container = docker::Container {
                id: "1".to_owned(),
                name: "web".to_owned(),
                networks,
                state: Doing::Running,
                ..docker::Container::default()
            };
            let mut view = View::default();
            let containers = &mut view.inventory.containers;
            containers.insert("1".to_owned(), Arc::new(container));
            view
        };
        let moved = docker::Attached {
            addresses: vec![[10, 0, 0, 9].into()],
            ..attached.clone()
        };
        let networks = |seen: Vec<docker::Attached>, name: &str| {
            let moving = [name.to_owned()].into();
            let view = still_attached(&view(vec![attached.clone()]), &view(seen), &moving);
            view.inventory.containers["1"].networks.clone()
        };
        assert_eq!(networks(vec![], "web"), std::slice::from_ref(&attached));
        assert_eq!(networks(vec![], "other"), []);
        // Another address is a fact.
        assert_eq!(networks(vec![moved.clone()], "web"), [moved]);
    }

    #[test]
    fn discovery_is_on_with_its_table_without_a_file_and_for_services_that_need_it() {
        let config = |text: &str| load_str("t", text).expect("valid");
        let toml = Some(Path::new("/etc/cutover/cutover.toml"));
        let on = |text: &str| settings(&config(text), toml).is_some();
        assert!(on("[docker]\n"));
        assert!(!on("[docker]\nenabled = false\n"));
        assert!(!on(""), "a file in TOML asks for it");
        let service = "[[site]]\nhosts = [\"a\"]\nservice = \"w\"\n[service.w]\ndocker = { service = \"web\" }\n";
        assert!(on(service));
        assert!(!on(&format!("[docker]\nenabled = false\n{service}")));
        let usual = is_there(&Docker::default().socket);
        assert_eq!(settings(&config(""), None).is_some(), usual);
        let caddyfile = Some(Path::new("/etc/caddy/Caddyfile"));
        assert_eq!(settings(&config(""), caddyfile).is_some(), usual);
    }
}
