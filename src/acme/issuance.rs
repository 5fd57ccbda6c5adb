//! The loop around the plan.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::task::{self, JoinHandle, JoinSet};

use super::challenges::Challenges;
use super::directory::{ASK_AGAIN, Directory, certificate_id, renewal_window};
use super::issuer::Issuer;
use super::names::NameSet;
use super::order::Work;
use super::plan::{
    Attempt, CHECK, Decision, FailureKind, IssuerRules, Method, Outcome, Plan, Rules, Validity,
    Window,
};
use super::preflight::{self, Stop};
use super::shelf::{Lock, Mark, Shelf};
use super::status::{Event, RenewRefused, Status};
use super::wire::Wire;
use crate::clock;
use crate::config::{Site, Tls};
use crate::http::Resolver;
use crate::metrics::{Metrics, Outcome as Counted};
use crate::model::HostPattern;
use crate::tls::adopt::Account;
use crate::tls::{CertificateInfo, Delivered, Store};

/// What an [`Issuance`] is started with.
pub struct Settings {
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// CAs in the order of preference; never empty.
    pub issuers: Vec<Issuer>,
    /// Challenges that a listener of this process can answer, preferred first: HTTP-01 with a
    /// listener for plain HTTP, TLS-ALPN-01 with one for HTTPS.
    pub methods: Vec<Method>,
    /// For pre-flight and CAA: `acme.resolvers`, else the system's.
    pub resolver: Arc<Resolver>,
    /// For the CA's own name.
    pub ca_resolver: Arc<Resolver>,
    /// The time that the plan goes by.
    pub now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// Accounts that another program left behind: with one of them at a CA none is made there.
    pub accounts: Vec<Account>,
    /// For one exchange with the CA. Default 30 s.
    pub deadline: Duration,
    /// For the CA to validate, and again to issue, before the order is left for the next
    /// attempt to go on with. Default 5 min.
    pub patience: Duration,
    /// Orders at a time. Default 4.
    pub concurrent: usize,
    /// Whether the challenge's port is tried from here before an order; a failure is logged
    /// only. Default true.
    pub reach: bool,
}

impl Settings {
    /// Defaults around what has none.
    #[must_use]
    pub fn new(state_dir: PathBuf, issuers: Vec<Issuer>, methods: Vec<Method>) -> Self {
        let resolver = Arc::new(Resolver::system());
        Self {
            state_dir,
            issuers,
            methods,
            ca_resolver: Arc::clone(&resolver),
            resolver,
            now: Arc::new(clock::wall),
            accounts: Vec::new(),
            deadline: Duration::from_secs(30),
            patience: Duration::from_secs(300),
            concurrent: 4,
            reach: true,
        }
    }
}

/// Sets of names that the sites with `tls = "auto"` need certificates for: one for each host,
/// so that a host whose DNS is wrong holds up no other. Wildcards need DNS-01 and are not
/// among them, nor are names that no public CA certifies.
#[must_use]
pub fn wanted(sites: &[Site]) -> Vec<NameSet> {
    sites
        .iter()
        .filter(|site| site.tls == Tls::Auto)
        .flat_map(|site| &site.hosts)
        .filter(|host| !host.is_private())
        .filter_map(|host| match host {
            HostPattern::Exact(host) => NameSet::new([host]),
            HostPattern::Wildcard(_) => None,
        })
        .collect()
}

/// Orders and renews until stopped.
pub struct Issuance {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    settings: Settings,
    shelf: Shelf,
    store: Arc<Store>,
    challenges: Arc<Challenges>,
    metrics: Arc<Metrics>,
    events: mpsc::UnboundedSender<Event>,
    state: Mutex<State>,
    accounts: tokio::sync::Mutex<()>,
    wake: Notify,
}

struct State {
    plan: Plan,
    /// Whether this process holds the lock, so it may order.
    lock: Option<Lock>,
    told_of_other: bool,
    /// Issuer of the installed certificate.
    issuers: BTreeMap<NameSet, String>,
    /// Which files are installed.
    marks: BTreeMap<NameSet, (Mark, Validity)>,
    /// When to ask the CA for its window.
    ask_at: BTreeMap<NameSet, SystemTime>,
}

/// What runs beside the loop.
#[derive(Default)]
struct Tasks {
    set: JoinSet<Done>,
    attempts: HashMap<task::Id, Attempt>,
}

enum Done {
    Attempt(Outcome),
    Windows(Vec<(NameSet, Option<Window>, SystemTime)>),
}

impl fmt::Debug for Issuance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuance").finish_non_exhaustive()
    }
}

impl Issuance {
    /// Installs what is stored for `sets` and begins to order what is due. The first pass over
    /// the disk happens here, so when this returns stored certificates are served. Blocks for
    /// that; needs a Tokio runtime.
    #[must_use]
    pub fn start(
        settings: Settings,
        sets: Vec<NameSet>,
        store: Arc<Store>,
        challenges: Arc<Challenges>,
        metrics: Arc<Metrics>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let shelf = Shelf::new(&settings.state_dir);
        let rules = rules(&settings);
        let state = State {
            plan: Plan::new(rules, shelf.journal()),
            lock: None,
            told_of_other: false,
            issuers: BTreeMap::new(),
            marks: BTreeMap::new(),
            ask_at: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            settings,
            shelf,
            store,
            challenges,
            metrics,
            events,
            state: Mutex::new(state),
            accounts: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        });
        shared.want(sets);
        let task = tokio::spawn(Arc::clone(&shared).run());
        Self {
            shared,
            task: Mutex::new(Some(task)),
        }
    }

    /// Replaces the wanted sets, after a reload and after [`Store::apply`]; stored certificates
    /// of new ones are installed before this returns. Orders that run are finished. Blocks for
    /// the disk.
    pub fn want(&self, sets: Vec<NameSet>) {
        self.shared.want(sets);
        self.wake();
    }

    /// Looks at the plan now instead of at the next deadline.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Orders a certificate for `host` now, whatever the last attempt's backoff says; the
    /// limits of the CA hold. With `force` also when the one that is there is not yet due.
    ///
    /// # Errors
    /// See [`RenewRefused`].
    pub fn renew(&self, host: &str, force: bool) -> Result<(), RenewRefused> {
        let now = (self.shared.settings.now)();
        let mut state = self.shared.state();
        let named = |names: &&NameSet| names.names().iter().any(|n| n.eq_ignore_ascii_case(host));
        let names = state.plan.sets().find(named).cloned();
        let names = names.ok_or_else(|| RenewRefused::Unknown(host.to_owned()))?;
        if !force && let Some(due) = state.plan.due(&names).filter(|due| *due > now) {
            return Err(RenewRefused::Fresh {
                host: host.to_owned(),
                due: clock::rfc3339(due),
            });
        }
        state.plan.force(&names);
        drop(state);
        self.wake();
        Ok(())
    }

    /// Every wanted set.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let now = (self.shared.settings.now)();
        let state = self.shared.state();
        state
            .plan
            .sets()
            .map(|names| {
                let record = state.plan.record(names);
                let (next, why) = match state.plan.next(names, now) {
                    Decision::Wait { until, why } => (Some(until), why.as_str()),
                    Decision::Order(_) => (None, "due"),
                };
                Status {
                    names: names.clone(),
                    issuer: state.issuers.get(names).cloned(),
                    not_after: state
                        .plan
                        .validity(names)
                        .map(|validity| validity.not_after),
                    next,
                    why,
                    failures: record.failures,
                    last_error: record.last_error,
                    method: record.method.map(Method::as_str),
                }
            })
            .collect()
    }

    /// Ends the loop and gives the lock back. An order that runs is left as it is on disk; the
    /// next start goes on with it.
    pub async fn stop(&self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            task.abort();
            // A cancelled task is what was asked for.
            let _ = task.await;
        }
        self.shared.state().lock = None;
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut tasks = Tasks::default();
        let mut asking = false;
        loop {
            self.begin(&mut tasks);
            if !asking {
                asking = self.ask(&mut tasks);
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                () = self.wake.notified() => {}
                Some(done) = tasks.set.join_next_with_id() => match done {
                    Ok((id, Done::Attempt(outcome))) => {
                        if let Some(attempt) = tasks.attempts.remove(&id) {
                            self.finish(&attempt, outcome);
                        }
                    }
                    Ok((_, Done::Windows(windows))) => {
                        asking = false;
                        self.suggest(windows);
                    }
                    Err(error) => match tasks.attempts.remove(&error.id()) {
                        Some(attempt) => self.finish(&attempt, Outcome::Failed {
                            kind: FailureKind::Unavailable(None),
                            message: format!("a fault of this program: {error}"),
                        }),
                        None => asking = false,
                    },
                },
            }
        }
    }

    fn now(&self) -> SystemTime {
        (self.settings.now)()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The plan is changed by whole calls, none of which panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, sets: Vec<NameSet>) {
        let mut state = self.state();
        state.plan.want(sets);
        self.load(&mut state);
    }

    /// Serves every stored certificate that is not served yet, and lets the plan know of
    /// those that another program left behind.
    fn load(&self, state: &mut State) {
        let sets: Vec<_> = state.plan.sets().cloned().collect();
        self.load_some(state, sets);
    }

    fn load_some(&self, state: &mut State, sets: Vec<NameSet>) {
        let (mut stored, mut all) = (Vec::new(), Vec::new());
        for names in sets {
            let mark = self.shelf.mark(&names);
            if let Some((before, validity)) = state.marks.get(&names).copied()
                && Some(before) == mark
            {
                // A plan that was made anew does not know.
                state.plan.has(&names, validity);
                continue;
            }
            match self.shelf.certificate(&names) {
                Ok(Some(pem)) => {
                    all.push(Delivered {
                        names: names.patterns(),
                        origin: self.shelf.certificate_file(&names),
                        chain_pem: pem.clone(),
                        key_pem: pem,
                    });
                    stored.push((names, mark));
                }
                Ok(None) => {
                    let patterns = names.patterns();
                    let infos = patterns.iter().map(|name| self.store.installed(name));
                    // Adopted ones count when they are for all of the names.
                    let infos: Option<Vec<_>> = infos.collect();
                    let first =
                        infos.and_then(|infos| infos.into_iter().min_by_key(|info| info.not_after));
                    if let Some(info) = first {
                        known(state, names, info);
                    }
                }
                Err(error) => tracing::error!(%names, %error, "certificate cannot be read"),
            }
        }
        if all.is_empty() {
            return;
        }
        for ((names, mark), result) in stored.into_iter().zip(self.store.install_all(all)) {
            match result {
                Ok(info) => {
                    let validity = known(state, names.clone(), info);
                    state
                        .marks
                        .extend(mark.map(|mark| (names, (mark, validity))));
                }
                // It will be ordered anew.
                Err(error) => tracing::error!(%names, %error, "stored certificate is not served"),
            }
        }
    }

    /// Whether this process may order; takes the lock when it is free.
    fn may_order(&self, state: &mut State) -> bool {
        if state.lock.is_some() {
            return true;
        }
        match self.shelf.try_lock() {
            Ok(Some(lock)) => {
                state.lock = Some(lock);
                // Whoever had it may have stored and spent since.
                let sets: Vec<_> = state.plan.sets().cloned().collect();
                state.plan = Plan::new(rules(&self.settings), self.shelf.journal());
                state.plan.want(sets);
                self.load(state);
                true
            }
            Ok(None) => {
                if !state.told_of_other {
                    state.told_of_other = true;
                    tracing::info!("another process on this state_dir orders certificates");
                    self.tell(Event::AnotherOrders);
                }
                self.load(state);
                false
            }
            Err(error) => {
                let state_dir = self.settings.state_dir.display();
                tracing::error!(%state_dir, %error, "no certificate can be ordered: storage");
                false
            }
        }
    }

    fn begin(self: &Arc<Self>, tasks: &mut Tasks) {
        let now = self.now();
        let mut state = self.state();
        if state.plan.sets().next().is_none() || !self.may_order(&mut state) {
            return;
        }
        let attempts = state.plan.begin(now);
        if attempts.is_empty() {
            return;
        }
        let kept = self.shelf.put_journal(state.plan.journal());
        drop(state);
        for attempt in attempts {
            let names = &attempt.names;
            if let Err(error) = &kept {
                // Tokens that are not written down are not spent.
                let outcome = Outcome::Failed {
                    kind: FailureKind::Preflight,
                    message: format!("the journal cannot be written: {error}"),
                };
                self.finish(&attempt, outcome);
                continue;
            }
            let directory = self.settings.issuers[attempt.issuer].directory(attempt.staging);
            let method = attempt.method.as_str();
            tracing::info!(%names, directory, method, "certificate order begun");
            self.tell(Event::OrderBegun {
                names: names.clone(),
                directory: directory.to_owned(),
                method,
            });
            let shared = Arc::clone(self);
            let begun = attempt.clone();
            let task =
                (tasks.set).spawn(async move { Done::Attempt(shared.attempt(&begun).await) });
            tasks.attempts.insert(task.id(), attempt);
        }
    }

    async fn attempt(&self, attempt: &Attempt) -> Outcome {
        match self.order(attempt).await {
            Ok(outcome) => outcome,
            Err(Stop { kind, message }) => Outcome::Failed { kind, message },
        }
    }

    async fn order(&self, attempt: &Attempt) -> Result<Outcome, Stop> {
        let settings = &self.settings;
        let issuer = &settings.issuers[attempt.issuer];
        preflight::storage(&self.shelf, &settings.state_dir)?;
        preflight::time(self.now(), None)?;
        let wire = self.wire(issuer);
        let url = issuer.directory(attempt.staging);
        let directory = Directory::fetch(&wire, url).await.map_err(|message| Stop {
            kind: FailureKind::Unavailable(wire.seen().retry_at),
            message,
        })?;
        preflight::time(self.now(), directory.date)?;
        let names = &attempt.names;
        preflight::dns(&settings.resolver, names, &directory.meta.caa_identities).await?;
        if settings.reach {
            let (client, resolver) = (&issuer.client, &settings.resolver);
            preflight::reachable(client, resolver, names, attempt.method).await;
        }
        let work = Work {
            attempt,
            issuer,
            directory: &directory,
            wire: &wire,
            shelf: &self.shelf,
            accounts: &self.accounts,
            adopted: &settings.accounts,
            challenges: &self.challenges,
            patience: settings.patience,
        };
        let delivered = work.run().await?;
        if attempt.staging {
            work.done();
            return Ok(Outcome::Staged);
        }
        let stored = self
            .shelf
            .put_certificate(names, &delivered.key, &delivered.chain);
        let unusable = |message| Stop {
            kind: FailureKind::Lost,
            message,
        };
        stored.map_err(|error| unusable(format!("the certificate cannot be stored: {error}")))?;
        work.done();
        let mut state = self.state();
        state.marks.remove(names);
        self.load_some(&mut state, vec![names.clone()]);
        match state.plan.validity(names) {
            Some(validity) => Ok(Outcome::Issued(validity)),
            None => Err(unusable("the certificate cannot be served".to_owned())),
        }
    }

    fn wire(&self, issuer: &Issuer) -> Wire {
        let resolver = Arc::clone(&self.settings.ca_resolver);
        Wire::new(issuer.client.clone(), resolver, self.settings.deadline)
    }

    /// Books how an attempt ended, and tells it.
    fn finish(&self, attempt: &Attempt, outcome: Outcome) {
        let now = self.now();
        let names = attempt.names.clone();
        let mut state = self.state();
        state.plan.finish(attempt, outcome.clone(), now);
        if let Err(error) = self.shelf.put_journal(state.plan.journal()) {
            tracing::error!(%error, "ACME journal not written; a restart would forget waits");
        }
        let record = state.plan.record(&names);
        let issuer = state.issuers.get(&names).cloned().unwrap_or_default();
        let not_after = state
            .plan
            .validity(&names)
            .map(|validity| validity.not_after);
        drop(state);
        match outcome {
            Outcome::Issued(Validity { not_after, .. }) => {
                self.metrics.acme_order(Counted::Success);
                let until = clock::rfc3339(not_after);
                tracing::info!(%names, issuer, until, "certificate issued");
                let renewal = attempt.renewal;
                self.tell(Event::CertificateIssued {
                    names,
                    issuer,
                    not_after,
                    renewal,
                });
            }
            Outcome::Staged => {
                tracing::info!(%names, "staging order passed; the real one is next");
                self.tell(Event::StagingPassed { names });
            }
            Outcome::Failed { message, .. } => {
                self.metrics.acme_order(Counted::Failure);
                let issuer = &self.settings.issuers[attempt.issuer];
                let directory = issuer.directory(attempt.staging).to_owned();
                let retry = record.retry_at.map(clock::rfc3339);
                let failures = record.failures;
                tracing::error!(%names, directory, failures, retry, error = message, "certificate order failed");
                self.tell(Event::OrderFailed {
                    names,
                    directory,
                    error: message,
                    failures,
                    not_after,
                    retry_at: record.retry_at,
                });
            }
        }
    }

    /// Begins to ask the CA for the windows that are due; whether it did.
    fn ask(self: &Arc<Self>, tasks: &mut Tasks) -> bool {
        let now = self.now();
        let mut state = self.state();
        if state.lock.is_none() {
            return false;
        }
        let sets: Vec<_> = state
            .plan
            .sets()
            .filter(|names| state.plan.validity(names).is_some())
            .filter(|names| state.ask_at.get(*names).is_none_or(|at| *at <= now))
            .cloned()
            .collect();
        for names in &sets {
            // Until there is an answer.
            state.ask_at.insert(names.clone(), now + ASK_AGAIN);
        }
        drop(state);
        if sets.is_empty() {
            return false;
        }
        let shared = Arc::clone(self);
        tasks
            .set
            .spawn(async move { Done::Windows(shared.windows(sets, now).await) });
        true
    }

    /// Asks the first CA; a certificate of another one it does not know is renewed at two
    /// thirds of its life.
    async fn windows(
        &self,
        sets: Vec<NameSet>,
        now: SystemTime,
    ) -> Vec<(NameSet, Option<Window>, SystemTime)> {
        let later = now + ASK_AGAIN;
        let issuer = &self.settings.issuers[0];
        let wire = self.wire(issuer);
        let directory = Directory::fetch(&wire, &issuer.directory).await;
        let url = directory.ok().and_then(|directory| directory.renewal_info);
        let mut windows = Vec::with_capacity(sets.len());
        for names in sets {
            let id = self.shelf.certificate(&names).ok().flatten();
            let id = id.and_then(|pem| certificate_id(&pem));
            let (window, again) = match (&url, id) {
                (Some(url), Some(id)) => match renewal_window(&wire, url, &id, now).await {
                    Ok((window, again)) => (Some(window), again),
                    Err(error) => {
                        tracing::debug!(%names, error, "no renewal information");
                        (None, later)
                    }
                },
                _ => (None, later),
            };
            windows.push((names, window, again));
        }
        windows
    }

    fn suggest(&self, windows: Vec<(NameSet, Option<Window>, SystemTime)>) {
        let mut state = self.state();
        for (names, window, again) in windows {
            // A failed question keeps the last answer.
            if window.is_some() {
                state.plan.suggest(&names, window);
            }
            state.ask_at.insert(names, again);
        }
    }

    fn pause(&self) -> Duration {
        let now = self.now();
        let state = self.state();
        let ask = state.ask_at.values().min().copied();
        let next = [state.plan.deadline(now), ask].into_iter().flatten().min();
        let wait = next.and_then(|next| next.duration_since(now).ok());
        wait.unwrap_or(CHECK).clamp(SOONEST, CHECK)
    }

    fn tell(&self, event: Event) {
        // Nobody listening is nobody's error.
        let _ = self.events.send(event);
    }
}

/// The certificate that is served for a set.
fn known(state: &mut State, names: NameSet, info: CertificateInfo) -> Validity {
    let validity = Validity {
        not_before: info.not_before,
        not_after: info.not_after,
    };
    if state.plan.validity(&names) != Some(validity) {
        state.plan.has(&names, validity);
        state.ask_at.remove(&names);
    }
    state.issuers.insert(names, info.issuer);
    validity
}

fn rules(settings: &Settings) -> Rules {
    Rules {
        issuers: settings
            .issuers
            .iter()
            .map(|issuer| IssuerRules {
                directory: issuer.directory.clone(),
                staging: issuer.staging.is_some(),
                limits: issuer.limits,
            })
            .collect(),
        methods: settings.methods.clone(),
        concurrent: settings.concurrent,
    }
}

/// A deadline that has passed but begins nothing is looked at again after this.
const SOONEST: Duration = Duration::from_millis(100);
