//! The parts of a running daemon and what connects them: configuration, table, probes, names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tracing::{debug, error, info, warn};

use super::addresses::Addresses;
use super::adoption::Adoption;
use super::certification::Certification;
use super::deploy::Deploys;
use super::discovery::{self, Discovery};
use super::judge::Verdicts;
use super::memory::{Memories, Quarantine, Watches};
use super::notes;
use super::publisher::{Publisher, fill};
use super::witness::Witness;
use super::{operations, resolve, status};
use crate::acme::{Issuer, IssuerError};
use crate::clock;
use crate::config::{Config, Diagnostic, Diagnostics, IpSet, Service};
use crate::health::{ProbeTarget, Prober};
use crate::history::{Entry, History, Keep};
use crate::http::{Client, Resolver};
use crate::metrics::{LiveColor, LiveService, LiveState, Metrics, Outcome};
use crate::model::proxy_protocol::Header;
use crate::model::{Color, ServiceName};
use crate::notify::{EventKind, Note, Notifier};
use crate::pool::{Availability, Doors, Pool, Slot, Target, Upstream};
use crate::proxy::{AccessLog, Settings, StickyKey};
use crate::switch::{Journal, Layout, Live, Phase, Switchboard};
use crate::tls;

/// How often a removed service's pool is asked whether its requests have ended.
const REMOVED_POLL: Duration = Duration::from_millis(100);

/// Longest time between two probes of a slot whose service is under watch, and for one of them.
const WATCHED_PROBES: Duration = Duration::from_secs(1);

/// Everything that outlives a request and is shared by the control API and the reload.
pub(super) struct Daemon {
    /// `None`: the demo, which has no file.
    pub(super) file: Option<PathBuf>,
    pub(super) config: ArcSwap<Config>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) client: Client,
    pub(super) prober: Prober,
    pub(super) switchboard: OnceLock<Switchboard>,
    pub(super) certificates: Arc<tls::Store>,
    pub(super) certification: Certification,
    pub(super) adoption: Adoption,
    pub(super) acceptor: Arc<tls::Acceptor>,
    pub(super) upstream_tls: Arc<tls::Upstreams>,
    pub(super) sticky: Arc<StickyKey>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) access_log: AccessLog,
    pub(super) ops_allow: Arc<ArcSwap<IpSet>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) doors: Arc<Doors>,
    pub(super) history: History,
    pub(super) notifier: Notifier,
    /// What the judge sees, for people.
    pub(super) verdicts: Verdicts,
    /// Services whose new release is under watch.
    pub(super) watched: std::sync::Mutex<BTreeSet<ServiceName>>,
    /// What earlier processes counted, until a pool asks for it.
    pub(super) memories: Memories,
    pub(super) watches: Arc<Watches>,
    pub(super) quarantine: Quarantine,
    /// What containers add to the configuration.
    pub(super) discovery: Arc<Discovery>,
    /// What is known of containers under watch.
    pub(super) containers: Arc<Witness>,
    /// Held while a configuration is published, or the upstreams of one are changed.
    pub(super) publishing: std::sync::Mutex<()>,
    pub(super) journal: Arc<Journal>,
    pub(super) deploys: Deploys,
    pub(super) names: watch::Sender<BTreeSet<Arc<str>>>,
    pub(super) started: Instant,
    pub(super) bound: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) reloading: Mutex<()>,
    /// Hosts whose certificates `/metrics` shows.
    pub(super) shown: std::sync::Mutex<BTreeSet<String>>,
}

/// How much of the history is kept.
pub(super) const fn keep(config: &Config) -> Keep {
    Keep {
        entries: config.history.keep,
        age: config.history.age,
    }
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error("the demo has no configuration file to read again")]
    NoFile,
    #[error("the configuration has errors, nothing was changed")]
    Invalid(#[from] Diagnostics),
    #[error("{} can only change with a restart, nothing was changed", .0.join(", "))]
    RestartNeeded(Vec<&'static str>),
    #[error("a certificate cannot be served, nothing was changed")]
    Certificates(Vec<tls::TlsError>),
    #[error("no certificate could be ordered, nothing was changed")]
    Issuer(#[from] IssuerError),
    #[error("the access log {} cannot be opened, nothing was changed", .0.display())]
    AccessLog(PathBuf, #[source] std::io::Error),
    #[error("the daemon is stopping")]
    Stopping,
}

impl Daemon {
    /// Whether the daemon should be sent traffic.
    pub(super) fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("shutting down".to_owned());
        }
        if !self.bound.load(Ordering::Relaxed) {
            return Err("listeners are not bound yet".to_owned());
        }
        Ok(())
    }

    /// Reads the file again and takes it over, or changes nothing. Gives what is different and
    /// what to warn of.
    pub(super) async fn reload(
        self: &Arc<Self>,
        who: &str,
    ) -> Result<(Vec<String>, Vec<String>), ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let before = self.config.load_full();
        let result = self.read_and_apply().await;
        let changes = status::changes(&before, &self.config.load());
        let (word, why) = match &result {
            Ok(_) => ("done", changes.join("; ")),
            Err(error) => ("failed", error.to_string()),
        };
        self.record(Entry {
            what: "reload".to_owned(),
            who: who.to_owned(),
            result: word.to_owned(),
            why,
            ..Entry::default()
        });
        let outcome = if result.is_ok() {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        self.metrics.reload(outcome);
        match &result {
            Ok(_) => {
                let note = Note::new(EventKind::Config, "the configuration was read again");
                self.notifier.tell(note);
            }
            Err(error) => {
                let details = match error {
                    ReloadError::Invalid(found) => {
                        found.0.iter().map(ToString::to_string).collect()
                    }
                    ReloadError::Certificates(found) => {
                        found.iter().map(ToString::to_string).collect()
                    }
                    ReloadError::NoFile
                    | ReloadError::RestartNeeded(_)
                    | ReloadError::Issuer(_)
                    | ReloadError::AccessLog(..)
                    | ReloadError::Stopping => Vec::new(),
                };
                self.notifier
                    .tell(notes::rejected(&error.to_string(), details));
            }
        }
        result.map(|warnings| (changes, warnings))
    }

    async fn read_and_apply(self: &Arc<Self>) -> Result<Vec<String>, ReloadError> {
        let file = match self.file.clone() {
            Some(file) => tokio::task::spawn_blocking(move || crate::compat::load(&file))
                .await
                .map_err(|_| ReloadError::Stopping)??,
            // Labels alone: there is nothing to read again but them.
            None if self.discovery.views().is_some() => Config::clone(&self.discovery.file.load()),
            None => return Err(ReloadError::NoFile),
        };
        let config = self.with_containers(&file);
        let warnings = self.apply(config).await?;
        let settings = discovery::settings(&file, self.file.as_deref());
        self.discovery.file.store(Arc::new(file));
        self.discovery.follow(settings);
        Ok(warnings)
    }

    /// A file with the containers of this moment.
    fn with_containers(&self, file: &Config) -> Config {
        let table = self.publisher.table().load();
        let entries = table.services.iter();
        let live = entries.map(|entry| (entry.name.clone(), entry.live));
        let stacks = self.switchboard.get().map(Switchboard::status);
        let stacks = stacks.iter().flat_map(|stacks| stacks.iter());
        let switching = stacks
            .filter(|stack| stack.phase != Phase::Idle)
            .filter_map(|stack| stack.run.as_ref())
            .flat_map(|run| run.services.iter().cloned());
        self.discovery
            .merged(file, &live.collect(), &switching.collect())
    }

    /// Containers came or went: those of slots that are there are in or out when this returns.
    pub(super) fn containers_changed(&self) {
        let _one_at_a_time = self.one_publisher();
        let merged = self.with_containers(&self.discovery.file.load_full());
        let now = self.config.load_full();
        let patched = self.discovery.patched(&now, &merged);
        let is_whole = patched.services == merged.services && patched.sites == merged.sites;
        self.addresses.set_containers(self.discovery.containers());
        if patched.services != now.services {
            self.config.store(Arc::new(patched));
        }
        self.fill();
        if !is_whole {
            self.discovery.adopt.notify_one();
        }
    }

    /// Takes over services and sites that came or went with containers.
    ///
    /// Errors: why they cannot be; nothing was changed.
    pub(super) async fn adopt_found(self: &Arc<Self>) -> Result<(), String> {
        let _one_at_a_time = self.reloading.lock().await;
        let merged = self.with_containers(&self.discovery.file.load_full());
        let before = self.config.load_full();
        if merged.services == before.services && merged.sites == before.sites {
            return Ok(());
        }
        let warnings = self.apply(merged).await.map_err(|error| match &error {
            ReloadError::Certificates(errors) => format!("{error}: {}", lines(errors)),
            _ => error.to_string(),
        })?;
        for warning in warnings {
            warn!("{warning}");
        }
        for change in status::changes(&before, &self.config.load()) {
            info!("{change}");
        }
        Ok(())
    }

    /// Looks at the containers of services that are being switched or watched.
    pub(super) fn attend(&self, switchboard: &Switchboard) {
        let stacks = switchboard.status();
        let runs = stacks.iter().filter_map(|stack| stack.run.as_ref());
        let mut services: BTreeSet<_> = runs.flat_map(|run| run.services.clone()).collect();
        services.extend(self.watched().iter().cloned());
        self.containers.attend(&services);
    }

    /// Takes over a configuration, or changes nothing. Gives what to warn of.
    async fn apply(self: &Arc<Self>, config: Config) -> Result<Vec<String>, ReloadError> {
        let restart = self.config.load().restart_needed(&config);
        if !restart.is_empty() {
            return Err(ReloadError::RestartNeeded(restart));
        }
        // Before anything changes.
        for file in config.access_logs().filter_map(|log| log.file.as_ref()) {
            AccessLog::check(file).map_err(|error| ReloadError::AccessLog(file.clone(), error))?;
        }
        Issuer::from_config(&config.acme)?;
        // Certificates first: a new host must not be routed before it can be served.
        let before = self.config.load_full();
        self.adoption
            .serve(&self.certificates, &before.sites, &config.sites);
        let certificates = Arc::clone(&self.certificates);
        let upstreams = Arc::clone(&self.upstream_tls);
        let (sites, services) = (config.sites.clone(), config.services.clone());
        let apply = move || {
            let loaded = certificates.apply(&sites, clock::wall())?;
            upstreams.apply(&services, clock::wall())?;
            Ok(loaded)
        };
        let loaded = tokio::task::spawn_blocking(apply)
            .await
            .map_err(|_| ReloadError::Stopping)?
            .map_err(ReloadError::Certificates)?;
        let mut warnings: Vec<String> = config.warnings.iter().map(place_and_word).collect();
        warnings.extend(
            loaded
                .iter()
                .flat_map(|l| &l.warnings)
                .map(ToString::to_string),
        );
        self.certification
            .follow(&config, &self.certificates, &self.metrics)
            .await?;
        let switchboard = self.switchboard.get().ok_or(ReloadError::Stopping)?;
        resolve::first_lookups(&config, &self.resolver, &self.addresses).await;
        let (daemon, services) = (Arc::clone(self), config.services.clone());
        let install = move |layout: &Layout| daemon.install(config, layout);
        let moved = switchboard.reconfigure(services, install).await;
        warnings.extend(moved.map_err(|_| ReloadError::Stopping)?);
        Ok(warnings)
    }

    /// Publishes a configuration and lets every part follow it. Must not block.
    pub(super) fn install(&self, mut config: Config, layout: &Layout) {
        let _one_at_a_time = self.one_publisher();
        // Containers may have come and gone since it was made.
        if self.switchboard.get().is_some() {
            let merged = self.with_containers(&self.discovery.file.load_full());
            config = self.discovery.patched(&config, &merged);
        }
        self.addresses.set_containers(self.discovery.containers());
        let live = |service: &Service| {
            layout.live.get(&service.name).copied().unwrap_or(Live {
                color: service.first_live(),
                generation: crate::model::Generation::default(),
            })
        };
        // Before any request is led by it.
        self.access_log.follow(config.access_logs());
        let gone = self.publisher.apply(&config, &self.addresses, &live);
        for pool in gone {
            self.drain_removed(pool);
        }
        let names = config.services.iter().map(|service| service.name.clone());
        self.metrics.retain(&names.collect());
        self.acceptor.set_deadline(config.timeouts.tls_handshake);
        self.settings.store(Arc::new(Settings::new(
            &config,
            Arc::clone(&self.upstream_tls),
            Arc::clone(&self.sticky),
        )));
        self.notifier.follow(&config.notify);
        self.history.follow(keep(&config));
        self.ops_allow
            .store(Arc::new(config.listen.ops_allow.clone()));
        self.names.send_replace(resolve::names(&config));
        self.config.store(Arc::new(config));
        self.show_certificates();
        self.sync_probes();
        if let Some(switchboard) = self.switchboard.get() {
            operations::sync(self, switchboard);
        }
    }

    /// New addresses behind a name, other containers: fills the slots again and probes what is new.
    /// Connections to containers that cannot answer any more are ended, so that what waits for them is
    /// tried elsewhere.
    pub(super) fn refill(&self) {
        let _one_at_a_time = self.one_publisher();
        self.fill();
    }

    /// The same, for who holds the lock of what is published.
    fn fill(&self) {
        let config = self.config.load();
        for slot in self.publisher.slots() {
            let Some(configured) = configured(&config, &slot) else {
                continue;
            };
            let before = slot.upstreams();
            if !fill(&slot, configured, &self.addresses) {
                continue;
            }
            let after = slot.upstreams();
            let has_left =
                |old: &&Arc<Upstream>| !after.iter().any(|new| new.target() == old.target());
            let is_dead = |old: &&Arc<Upstream>| {
                old.behind()
                    .is_some_and(|behind| self.discovery.is_dead(behind))
            };
            let dead: Vec<_> = before
                .iter()
                .filter(has_left)
                .filter(is_dead)
                .filter_map(|old| match old.target() {
                    Target::Socket(address) => Some(*address),
                    Target::Unix(_) => None,
                })
                .collect();
            if !dead.is_empty() {
                let ended = self.publisher.end_to(&slot, &dead);
                debug!(service = %slot.service(), ended, "connections to containers that are gone");
            }
        }
        self.sync_probes();
    }

    /// Keeps every request away from a container, or no longer: it is so when this returns.
    pub(super) fn hold(&self, container: &str, held: bool) {
        let _one_at_a_time = self.one_publisher();
        self.addresses.hold(container, held);
        self.fill();
    }

    /// Keeps requests away from no container.
    pub(super) fn hold_none(&self) {
        let _one_at_a_time = self.one_publisher();
        self.addresses.hold_none();
        self.fill();
    }

    /// Held by whoever changes what is published.
    fn one_publisher(&self) -> MutexGuard<'_, ()> {
        self.publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the history, and tells whoever wants to know.
    pub(super) fn record(&self, entry: Entry) {
        if let Some(note) = notes::of_entry(&entry) {
            self.notifier.tell(note);
        }
        self.history.add(entry);
    }

    /// Services whose new release is under watch.
    fn watched(&self) -> MutexGuard<'_, BTreeSet<ServiceName>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of which services are under watch: both of their slots are probed more often.
    /// What is no longer watched is no longer rescued, but for what is still under way on a
    /// release that was left: its users are helped to the last.
    pub(super) fn set_watched(&self, now: BTreeSet<ServiceName>) {
        let before = std::mem::replace(&mut *self.watched(), now.clone());
        if before == now {
            return;
        }
        for pool in self.publisher.pools() {
            let service = pool.slot().service();
            let over = before.contains(service) && !now.contains(service);
            if over && self.publisher.is_live(&pool) {
                pool.evidence().unwatch();
            }
        }
        for service in before.difference(&now) {
            self.verdicts.close(service);
        }
        self.sync_probes();
    }

    /// Gives a pool back what an earlier process counted for it.
    pub(super) fn remember(&self, pool: &Pool) {
        if let Some(minutes) = self.memories.take(pool.slot().service(), pool.generation()) {
            pool.evidence().remember_minutes(minutes);
        }
    }

    /// Probes every upstream of both slots of every service.
    fn sync_probes(&self) {
        let config = self.config.load();
        let by_name: BTreeMap<_, _> = config.services.iter().map(|s| (&s.name, s)).collect();
        let mut targets = Vec::new();
        let watched = self.watched().clone();
        for slot in self.publisher.slots() {
            let Some(service) = by_name.get(slot.service()) else {
                continue;
            };
            let client = client_of(&self.client, &self.upstream_tls, &slot);
            let mut health = service.health.clone();
            if watched.contains(slot.service()) {
                health.interval = health.interval.min(WATCHED_PROBES);
                health.timeout = health.timeout.min(WATCHED_PROBES);
            }
            for upstream in slot.upstreams().iter() {
                targets.push(ProbeTarget {
                    upstream: Arc::clone(upstream),
                    health: health.clone(),
                    service: service.name.clone(),
                    color: slot.color(),
                    client: client.clone(),
                });
            }
        }
        self.prober.sync(targets);
    }

    /// Lets the requests of a removed service finish, then ends its connections.
    fn drain_removed(&self, pool: Arc<Pool>) {
        let publisher = Arc::clone(&self.publisher);
        let old = self.config.load();
        let service = old
            .services
            .iter()
            .find(|s| s.name == *pool.slot().service());
        let window = service.map_or(Duration::from_secs(30), |service| service.switch.drain);
        pool.claims().begin_drain();
        info!(service = %pool.slot().service(), "service removed, its requests may finish");
        tokio::spawn(async move {
            let deadline = clock::now() + window;
            while !pool.claims().is_drained() && clock::now() < deadline {
                tokio::time::sleep(REMOVED_POLL).await;
            }
            publisher.retire(pool.slot().service(), pool.generation());
        });
    }

    /// Names whose certificate is gone lose their series.
    pub(super) fn show_certificates(&self) {
        let mut gone =
            std::mem::take(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner));
        let mut shown = BTreeSet::new();
        for certificate in self.certificates.served() {
            let end = certificate
                .not_after
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let seconds = i64::try_from(end.as_secs()).unwrap_or(i64::MAX);
            for name in certificate.names.iter().map(ToString::to_string) {
                self.metrics.certificate_expiry(&name, Some(seconds));
                gone.remove(&name);
                shown.insert(name);
            }
        }
        for name in gone {
            self.metrics.certificate_expiry(&name, None);
        }
        let missing = self.certificates.uncertified();
        let missing = missing.iter().map(ToString::to_string).collect();
        self.metrics.certificates_missing(missing);
        let rejected = self.certificates.rejected().len();
        self.metrics
            .certificate_files_rejected(u64::try_from(rejected).unwrap_or(u64::MAX));
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// Serves certificate files that changed, and tells of those that cannot be served.
    pub(super) fn watch_certificates(&self) {
        let mut events = self.certificates.watch(clock::wall());
        let upstreams = self.upstream_tls.watch(clock::wall());
        if !upstreams.is_empty() {
            self.sync_probes();
        }
        events.extend(upstreams);
        for event in &events {
            if let Some(note) = notes::of_files(event) {
                self.notifier.tell(note);
            }
            if event.is_alarm() {
                error!("{event}");
            } else {
                info!("{event}");
            }
            if let tls::Event::Reloaded { warnings, .. } = event {
                for warning in warnings {
                    warn!("{warning}");
                }
            }
        }
        if !events.is_empty() {
            self.show_certificates();
        }
    }

    /// Makes ticket keys and leaves of the internal CA anew when their time comes.
    pub(super) fn renew_certificates(&self) {
        match self.certificates.rotate_tickets(clock::wall()) {
            Ok(rotated) => debug!(rotated, "keys of session tickets looked at"),
            Err(error) => warn!(%error, "keys of session tickets"),
        }
        match self.certificates.renew_due(clock::wall()) {
            Ok(renewed) if renewed.is_empty() => {}
            Ok(renewed) => {
                info!(
                    certificates = renewed.len(),
                    "certificates of the internal CA renewed"
                );
                self.show_certificates();
            }
            Err(error) => warn!(%error, "certificates of the internal CA were not renewed"),
        }
    }

    /// The state that `/metrics` shows beside the counters.
    pub(super) fn live_state(&self) -> LiveState {
        let table = self.publisher.table().load();
        let held = self.doors.holds.states();
        let services = table.services.iter().map(|entry| LiveService {
            name: entry.name.clone(),
            live: entry.live,
            held: held
                .get(&entry.name)
                .map_or(0, |state| u64::try_from(state.waiting).unwrap_or(u64::MAX)),
            colors: Color::ALL.map(|color| {
                let slot = self.publisher.slot(&entry.name, color)?;
                Some(live_color(&slot))
            }),
        });
        LiveState {
            services: services.collect(),
        }
    }
}

impl crate::admin::ops::OpsSource for Daemon {
    fn metrics(&self) -> String {
        self.metrics.render(clock::now(), &self.live_state())
    }

    fn ready(&self) -> Result<(), String> {
        Self::ready(self)
    }
}

/// A warning where everybody can see that it is one.
pub(super) fn place_and_word(warning: &Diagnostic) -> String {
    warning.to_string().replacen(": warning: ", ": ", 1)
}

/// Errors, one a line.
pub(super) fn lines(errors: &[tls::TlsError]) -> String {
    let each: Vec<String> = errors.iter().map(ToString::to_string).collect();
    each.join("\n")
}

/// Who asks the upstreams of a service: `client`, with the service's own TLS, and with what its
/// connections begin with.
pub(super) fn client_of(client: &Client, upstreams: &tls::Upstreams, slot: &Slot) -> Client {
    let client = match upstreams.of(slot.service()) {
        Some(tls) => Client::with_tls(tls.probe_configs(), tls.server_name()),
        None => client.clone(),
    };
    match slot.settings().proxy_protocol {
        // Nobody's connection but ours.
        Some(version) => client.beginning_with(Header::Local.encode(version)),
        None => client,
    }
}

fn configured<'c>(config: &'c Config, slot: &Slot) -> Option<&'c [crate::model::UpstreamAddr]> {
    let service = config.services.iter().find(|s| s.name == *slot.service())?;
    let slot = service.slots[slot.color().index()].as_ref()?;
    Some(&slot.upstreams)
}

/// A configured upstream is healthy when all its addresses are.
fn live_color(slot: &Slot) -> LiveColor {
    let mut upstreams: BTreeMap<String, bool> = BTreeMap::new();
    for upstream in slot.upstreams().iter() {
        let healthy = upstream.availability() == Availability::Healthy;
        upstreams
            .entry(upstream.label().to_string())
            .and_modify(|all| *all &= healthy)
            .or_insert(healthy);
    }
    LiveColor {
        release: slot.release().map(|release| (*release).clone()),
        in_flight: slot.in_flight(),
        drain_remaining: slot.draining(),
        upstreams: upstreams.into_iter().collect(),
    }
}
