//! Start and stop of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::addresses::Addresses;
use super::adoption::Adoption;
use super::certification::{self, Certification};
use super::containers;
use super::control::DaemonControl;
use super::daemon::{Daemon, keep, lines, place_and_word};
use super::discovery::{self, Discovery};
use super::driver::PoolDriver;
use super::judge::{Evidence as Judge, Verdicts};
use super::memory::{self, Memories, Quarantine, Watches};
use super::notes;
use super::publisher::Publisher;
use super::witness::Witness;
use super::{demo, deploy, events, logging, operations, privileges, resolve};
use crate::admin::listen::AdminSocket;
use crate::admin::{ops, server, socket};
use crate::clock;
use crate::compat;
use crate::config::{self, Config, Service};
use crate::health::Prober;
use crate::history::{Entry, History};
use crate::http::{Client, Resolver};
use crate::metrics::Metrics;
use crate::model::{Scheme, ServiceName};
use crate::notify::Notifier;
use crate::pool::{Availability, Doors, LiveTable, Table};
use crate::proxy::{AccessLog, Edge, Outbound, Server, Settings, StickyKey, bind, open};
use crate::switch::{
    By, Journal, Layout, Phase, Setup, StackStatus, Switchboard, VerbRequest, recover,
};
use crate::tls;

/// Time between two looks at certificate files.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two looks at the certificates of the internal CA and the keys of tickets.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// Serves a configuration file until a signal ends it.
///
/// # Errors
/// The configuration has errors, a listener cannot be bound, or the state cannot be used.
pub fn run(path: &Path) -> anyhow::Result<()> {
    logging::start();
    let config = compat::load(path).map_err(|errors| {
        anyhow::anyhow!(
            "{} has errors, nothing was started\n{errors}",
            path.display()
        )
    })?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // As root, where it is: what another proxy left behind is root's as well.
    let adoption = Adoption::read();
    privileges::give_up_root(&config, Some(&path))?;
    runtime()?.block_on(serve(config, Some(path), adoption, None))
}

/// Whether containers could be discovered without any configuration: the usual socket is there.
#[must_use]
pub fn has_docker() -> bool {
    discovery::is_there(&config::Docker::default().socket)
}

/// The configuration where there is no file: discovery, and every other setting at its default.
///
/// # Errors
/// A variable of the environment that the defaults read is wrong.
pub fn without_a_file() -> Result<Config, config::Diagnostics> {
    config::load_str("no configuration file", "[docker]\n")
}

/// Serves what the labels of containers say, with every other setting at its default, until a signal
/// ends it.
///
/// # Errors
/// A listener cannot be bound, or the state cannot be used.
pub fn run_labels() -> anyhow::Result<()> {
    logging::start();
    let config = without_a_file()?;
    info!("there is no configuration file: the labels of containers say what is served");
    let adoption = Adoption::read();
    privileges::give_up_root(&config, None)?;
    runtime()?.block_on(serve(config, None, adoption, None))
}

/// Serves the demo until a signal ends it.
///
/// # Errors
/// One of its fixed ports is taken.
pub fn run_demo() -> anyhow::Result<()> {
    logging::start();
    runtime()?.block_on(async {
        let apps = demo::start_apps()
            .await
            .context("cannot start the demo apps")?;
        let admin = socket::demo_path();
        let state_dir = demo::state_dir(&admin);
        // Every demo begins with blue live.
        let _ = std::fs::remove_dir_all(&state_dir);
        let text = demo::config_text(apps, &state_dir, &admin);
        let config = config::load_str("demo", &text)?;
        let banner = Some(demo::things_to_try(&admin));
        let served = serve(config, None, Adoption::default(), banner).await;
        let _ = std::fs::remove_dir_all(&state_dir);
        served
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .thread_name("cutover")
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Worker threads: `$CUTOVER_THREADS`, else one for each core.
fn threads() -> usize {
    let wanted = std::env::var("CUTOVER_THREADS").ok();
    let wanted = wanted.and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into))
}

async fn serve(
    config: Config,
    file: Option<std::path::PathBuf>,
    adoption: Adoption,
    banner: Option<String>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot take signals")?;
    raise_descriptor_limit();
    say_warnings(&config);

    // First of all: what another daemon has is left alone.
    make_private(&config.state_dir)
        .with_context(|| format!("cannot use state_dir {}", config.state_dir.display()))?;
    let (journal, found) =
        Journal::open(&config.state_dir).context("the record of live colors cannot be used")?;
    if let Some(damage) = &found.damage {
        error!(%damage, "the journal is damaged: its newest good record is served, switches are locked until `proxyctl doctor --repair`");
    }
    if let Some(why) = &found.unwritable {
        error!(%why, "the journal cannot be written: switches are refused until it can");
    }
    // Everything that can fail does so before the first listener accepts.
    let http = bind(&config.listen.http, false).map_err(bind_error)?;
    let https = bind(&config.listen.https, true).map_err(bind_error)?;
    let ops_listener = open(config.listen.ops)
        .and_then(tokio::net::TcpListener::from_std)
        .with_context(|| format!("cannot listen on {} (listen.ops)", config.listen.ops))?;
    let admin = bind_admin(&config)?;
    let journal = Arc::new(journal);
    let live = found.book.iter().flat_map(|book| &book.services);
    let live = live.map(|(name, record)| (name.clone(), record.live.color));
    let (troubles, witnessed) = tokio::sync::mpsc::unbounded_channel();
    let discovery = Arc::new(Discovery::open(&config, live.collect(), troubles));
    let is_demo = banner.is_some();
    if !is_demo {
        discovery.follow(discovery::settings(&config, file.as_deref()));
        discovery.first_look().await;
    }
    let config = discovery.merged(&config, &BTreeMap::new(), &BTreeSet::new());
    let history = History::open(&config.state_dir, keep(&config));
    let recovered = recover(found.book, &config.services);
    let recovery = recovered.warnings.clone();
    for warning in &recovery {
        warn!("{warning}");
        history.add(Entry {
            what: "recovery".to_owned(),
            who: "cutover".to_owned(),
            result: "done".to_owned(),
            why: warning.clone(),
            ..Entry::default()
        });
    }

    let metrics = Metrics::new();
    check_roots(&config)?;
    let certificates = Arc::new(tls::Store::new(&config.state_dir)?);
    adoption.serve(&certificates, &[], &config.sites);
    // What is stored is served before anything is made in its place. The sockets listen, so
    // that an order's challenges wait there.
    let certification = Certification::new(adoption.accounts());
    certification
        .follow(&config, &certificates, &metrics)
        .await?;
    let loaded = certificates
        .apply(&config.sites, clock::wall())
        .map_err(|errors| anyhow::anyhow!("cannot serve the certificates\n{}", lines(&errors)))?;
    for warning in loaded.iter().flat_map(|loaded| &loaded.warnings) {
        warn!("{warning}");
    }
    let acceptor = tls::Acceptor::new(Arc::clone(&certificates), config.timeouts.tls_handshake);
    let table = Arc::new(LiveTable::new(Table::default()));
    let upstream_tls: Arc<tls::Upstreams> = Arc::default();
    upstream_tls
        .apply(&config.services, clock::wall())
        .map_err(|errors| {
            anyhow::anyhow!(
                "cannot use the files of service.NAME.tls\n{}",
                lines(&errors)
            )
        })?;
    let (sticky, trouble) = StickyKey::open(&config.state_dir);
    if let Some(error) = trouble {
        warn!(%error, "sticky sessions begin anew");
    }
    let sticky = Arc::new(sticky);
    let settings = Settings::new(&config, Arc::clone(&upstream_tls), Arc::clone(&sticky));
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let leaving = Arc::new(AtomicBool::new(false));
    let access_log = AccessLog::start(config.access_logs()).context("cannot open an access log")?;
    acceptor.answer_challenges(certification.challenges());
    let doors: Arc<Doors> = Arc::default();
    let resolver = Arc::new(Resolver::system());
    let edge = Edge::new(
        Arc::clone(&table),
        Arc::clone(&settings),
        Arc::clone(&metrics),
        access_log.clone(),
        Arc::clone(&leaving),
        Arc::clone(&doors),
        certification.answers(),
        Outbound::new(Client::system(), Arc::clone(&resolver)),
    );
    let notifier = Notifier::new(
        config.state_dir.join("notify"),
        Client::system(),
        Arc::clone(&resolver),
    );
    let daemon = Arc::new(Daemon {
        file,
        publisher: Arc::new(Publisher::new(table, Arc::clone(&metrics))),
        addresses: Arc::new(Addresses::default()),
        resolver,
        client: Client::system(),
        prober: Prober::new(),
        switchboard: OnceLock::new(),
        certificates,
        certification,
        adoption,
        acceptor: Arc::new(acceptor),
        upstream_tls,
        sticky,
        settings: Arc::clone(&settings),
        access_log,
        ops_allow: Arc::new(ArcSwap::from_pointee(config.listen.ops_allow.clone())),
        metrics: Arc::clone(&metrics),
        doors,
        verdicts: Verdicts::default(),
        watched: std::sync::Mutex::default(),
        memories: Memories::open(&config.state_dir),
        watches: Arc::new(Watches::open(&config.state_dir)),
        quarantine: Quarantine::open(&config.state_dir),
        containers: Arc::new(Witness::new(Arc::clone(&discovery))),
        discovery,
        publishing: std::sync::Mutex::default(),
        history: history.clone(),
        notifier,
        journal: Arc::clone(&journal),
        deploys: deploy::Deploys::open(&config.state_dir),
        names: watch::channel(BTreeSet::new()).0,
        started: clock::now(),
        bound: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
        reloading: tokio::sync::Mutex::default(),
        shown: std::sync::Mutex::default(),
        config: ArcSwap::from_pointee(config.clone()),
    });

    // Nobody has asked them anything yet.
    if let Some(run) = daemon.deploys.book().running {
        for name in run.held_back() {
            daemon.addresses.hold(name, true);
        }
    }
    resolve::first_lookups(&config, &daemon.resolver, &daemon.addresses).await;
    let services = config.services.clone();
    let layout = Layout {
        live: recovered.live.clone(),
        standby: Vec::new(),
    };
    daemon.install(config, &layout);
    let switchboard = Switchboard::start(Setup {
        services,
        recovered,
        driver: Arc::new(PoolDriver(Arc::clone(&daemon.publisher))),
        judge: Box::new(Judge::new(Arc::clone(&daemon))),
        save: journal,
        damage: found.damage,
    });
    tokio::spawn(events::follow(
        Arc::clone(&daemon),
        switchboard.clone(),
        switchboard.subscribe(),
    ));
    let _ = daemon.switchboard.set(switchboard.clone());
    operations::sync(&daemon, &switchboard);
    for pool in daemon.publisher.pools() {
        daemon.remember(&pool);
    }
    tokio::spawn(containers::listen(
        Arc::clone(&daemon.containers),
        witnessed,
    ));
    tokio::spawn(containers::follow(Arc::clone(&daemon), switchboard.clone()));
    tokio::spawn(containers::adopt(Arc::clone(&daemon)));
    tokio::spawn(memory::keep(Arc::clone(&daemon)));
    spawn_upkeep(&daemon);
    deploy::take_up(&daemon);
    tokio::spawn(deploy::keep_looking(Arc::clone(&daemon)));
    tokio::spawn(deploy::start_schedule(Arc::clone(&daemon)));
    tokio::spawn(certification::show(Arc::clone(&daemon)));
    tokio::spawn(notes::orders(Arc::clone(&daemon)));
    for warning in &recovery {
        daemon.notifier.tell(notes::recovered(warning));
    }
    tokio::spawn(give_way(Arc::clone(&daemon), switchboard.clone()));

    let proxy = Server::new(
        edge,
        Arc::clone(&daemon.acceptor),
        settings,
        metrics,
        leaving,
        threads(),
    );
    for bound in http.iter().chain(&https) {
        info!(address = %bound.address(), "listening");
    }
    proxy
        .serve(http.into_iter().chain(https).collect())
        .context("cannot accept from a listener")?;
    let (stop, stopped) = watch::channel(false);
    let control = Arc::new(DaemonControl(Arc::clone(&daemon)));
    let admin = tokio::spawn(server::serve(admin, control, until(stopped.clone())));
    let allow = Arc::clone(&daemon.ops_allow);
    let source: Arc<dyn ops::OpsSource> = daemon.clone();
    let ops = tokio::spawn(ops::serve(ops_listener, source, allow, until(stopped)));
    daemon.bound.store(true, Ordering::Relaxed);
    info!(version = env!("CARGO_PKG_VERSION"), "ready");
    if let Some(banner) = banner {
        print!("{banner}");
        tokio::spawn(demo::traffic(Client::system()));
    }

    signals.wait_for_stop(&daemon).await;
    daemon.stopping.store(true, Ordering::Relaxed);
    let (delay, grace) = {
        let config = daemon.config.load();
        (config.shutdown_delay, config.shutdown_grace)
    };
    info!(
        delay_s = delay.as_secs_f64(),
        grace_s = grace.as_secs_f64(),
        "stopping, requests in flight may finish"
    );
    let left = tokio::select! {
        left = async {
            tokio::time::sleep(delay).await;
            proxy.stop(grace).await
        } => left,
        () = signals.second() => {
            warn!("second signal, exiting at once");
            proxy.connections()
        }
    };
    if left > 0 {
        warn!(connections = left, "connections were still open at the end");
    }
    daemon.certification.stop().await;
    memory::save(&daemon);
    daemon.notifier.flush();
    switchboard.goodbye().await;
    stop.send_replace(true);
    // The socket is removed and open answers get their end.
    let _ = admin.await;
    let _ = ops.await;
    info!("stopped");
    Ok(())
}

fn bind_error(error: crate::proxy::BindError) -> anyhow::Error {
    let hint = match error.source.kind() {
        std::io::ErrorKind::AddrInUse => {
            " (another program listens there: stop it, or change [listen])"
        }
        std::io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
        }
        _ => "",
    };
    anyhow::anyhow!("{error}: {}{hint}", error.source)
}

/// The admin socket where the configuration wants it; where the usual folder for it cannot be
/// made, as on a read-only root without a tmpfs at /run, the one in `state_dir` that `proxyctl`
/// looks for as well.
fn bind_admin(config: &Config) -> anyhow::Result<AdminSocket> {
    let wanted = &config.listen.admin;
    let error = match AdminSocket::bind(wanted) {
        Ok(bound) => return Ok(bound),
        Err(error) => error,
    };
    if *wanted != socket::default_path() || !error.is_no_place() {
        return Err(error.into());
    }
    let path = socket::in_state_dir(&config.state_dir);
    let bound = AdminSocket::bind(&path)
        .with_context(|| format!("{error}, and neither can another one be made"))?;
    warn!(path = %path.display(), "{error}: the admin socket is in state_dir; give /run/cutover a tmpfs, or set listen.admin");
    Ok(bound)
}

/// Upstreams over TLS need root certificates; a variable that names none is fatal at once.
fn check_roots(config: &Config) -> anyhow::Result<()> {
    let by_system =
        |service: &&Service| service.tls.ca.is_none() && !service.tls.insecure_skip_verify;
    let slots = config
        .services
        .iter()
        .filter(by_system)
        .flat_map(|service| service.slots.iter().flatten());
    let needed = slots
        .flat_map(|slot| &slot.upstreams)
        .any(|upstream| upstream.scheme() == Scheme::Https);
    match tls::check_system_roots() {
        Ok(_) => Ok(()),
        Err(error @ tls::RootsError::Variable { .. }) => Err(error.into()),
        Err(error) if needed => Err(error).context("an upstream uses https"),
        Err(error) => {
            warn!(%error, "upstreams over https will not be verifiable");
            Ok(())
        }
    }
}

fn say_warnings(config: &Config) {
    for warning in &config.warnings {
        warn!("{}", place_and_word(warning));
    }
}

fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// As many descriptors as the system allows: a connection takes two.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit on open files could not be raised");
    }
}

/// How long a color that was under watch when the daemon stopped may take to come up.
const COME_UP: Duration = Duration::from_secs(60);

/// After the machine went down in the middle of a watch, the new release may not come up again:
/// then the old one takes over, if it did.
async fn give_way(daemon: Arc<Daemon>, switchboard: Switchboard) {
    let is_watched = |stack: &StackStatus| matches!(stack.phase, Phase::Observing | Phase::Held);
    let resumed: Vec<_> = switchboard
        .status()
        .iter()
        .filter(|stack| is_watched(stack))
        .map(|stack| stack.stack.clone())
        .collect();
    if resumed.is_empty() {
        return;
    }
    tokio::time::sleep(COME_UP).await;
    let is_dead = |service: &ServiceName, color| {
        let upstreams = daemon.publisher.slot(service, color);
        let upstreams = upstreams.map(|slot| slot.upstreams()).unwrap_or_default();
        upstreams
            .iter()
            .all(|upstream| upstream.probe().state == Availability::Down)
    };
    for stack in switchboard.status().iter() {
        let dead = stack
            .undo
            .iter()
            .find(|moved| is_dead(&moved.service, moved.to.color));
        let (Some(dead), true) = (dead, resumed.contains(&stack.stack) && is_watched(stack)) else {
            continue;
        };
        let why = format!(
            "{} of {} did not come up within {} s of the start",
            dead.to.color,
            dead.service,
            COME_UP.as_secs()
        );
        error!(stack = %stack.stack, "{why}");
        // Refused unless the old color is up.
        let request = VerbRequest {
            services: vec![dead.service.clone()],
            by: By {
                id: None,
                actor: "cutover".to_owned(),
                why: Some(why),
            },
        };
        let outcome = switchboard.rollback(request).await;
        info!(stack = %stack.stack, %outcome, "the other color");
    }
}

fn spawn_upkeep(daemon: &Arc<Daemon>) {
    let changed = Arc::clone(daemon);
    tokio::spawn(resolve::keep_fresh(
        Arc::clone(&daemon.resolver),
        Arc::clone(&daemon.addresses),
        daemon.names.subscribe(),
        move || changed.refill(),
    ));
    let watching = Arc::clone(daemon);
    tokio::spawn(async move {
        let mut ticker = tokio::time::interval(WATCH_INTERVAL);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            let daemon = Arc::clone(&watching);
            let _ = tokio::task::spawn_blocking(move || daemon.watch_certificates()).await;
        }
    });
    let daemon = Arc::clone(daemon);
    tokio::spawn(async move {
        let mut ticker = tokio::time::interval(RENEWAL_CHECK);
        loop {
            ticker.tick().await;
            let daemon = Arc::clone(&daemon);
            let _ = tokio::task::spawn_blocking(move || daemon.renew_certificates()).await;
        }
    });
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP until SIGTERM or SIGINT comes.
    async fn wait_for_stop(&mut self, daemon: &Arc<Daemon>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => match daemon.reload("SIGHUP").await {
                    Ok(_) => info!("configuration reloaded"),
                    Err(failed) => {
                        // Whoever moved the log away does not know of the configuration.
                        daemon.access_log.reopen();
                        let cause = std::error::Error::source(&failed).map(ToString::to_string);
                        error!(cause, "reload: {failed}");
                    }
                },
            }
        }
    }

    async fn second(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
