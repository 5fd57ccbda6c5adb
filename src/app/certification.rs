//! Certificates that are ordered: begun, followed over reloads, told.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::task;

use super::daemon::Daemon;
use super::status::seconds_until;
use crate::acme::{
    Challenges, Event, Issuance, Issuer, IssuerError, Method, NameSet, RenewRefused, Settings,
    Status, wanted,
};
use crate::admin::wire::{
    CertificateOrigin, CertificateReport, CertificateStatus, ControlError, Done, ErrorCode,
    RenewRequest,
};
use crate::clock;
use crate::config::{Acme, Config};
use crate::http::Resolver;
use crate::metrics::Metrics;
use crate::proxy::ChallengeAnswers;
use crate::tls;
use crate::tls::adopt::Account;

/// Events that a slow reader may be behind.
const EVENTS: usize = 1024;

/// How long `certs renew` waits for the CA.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(600);

/// Orders certificates for as long as the daemon runs.
pub(super) struct Certification {
    challenges: Arc<Challenges>,
    /// Those of another program.
    accounts: Vec<Account>,
    running: Mutex<Option<Running>>,
    events: broadcast::Sender<Event>,
}

struct Running {
    issuance: Arc<Issuance>,
    asked: Asked,
}

/// What an [`Issuance`] cannot change while it runs.
#[derive(Clone, PartialEq)]
struct Asked {
    acme: Acme,
    methods: Vec<Method>,
}

impl Asked {
    fn of(config: &Config) -> Self {
        let methods = [
            (Method::Http01, !config.listen.http.is_empty()),
            (Method::TlsAlpn01, !config.listen.https.is_empty()),
        ];
        Self {
            acme: config.acme.clone(),
            methods: methods
                .into_iter()
                .filter_map(|(method, can)| can.then_some(method))
                .collect(),
        }
    }
}

impl Certification {
    /// `accounts` of another program are used instead of making new ones.
    pub(super) fn new(accounts: Vec<Account>) -> Self {
        Self {
            accounts,
            challenges: Arc::default(),
            running: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        }
    }

    /// What the listener of TLS asks.
    pub(super) fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.challenges)
    }

    /// What the listener of HTTP asks.
    pub(super) fn answers(&self) -> Arc<dyn ChallengeAnswers> {
        Arc::new(Http01(self.challenges()))
    }

    /// What happens to ordered certificates, from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Orders what the sites of `config` want. What is stored is served when this returns.
    /// Needs a runtime of several threads.
    pub(super) async fn follow(
        &self,
        config: &Config,
        store: &Arc<tls::Store>,
        metrics: &Arc<Metrics>,
    ) -> Result<(), IssuerError> {
        let asked = Asked::of(config);
        let sets = wanted(&config.sites);
        let old = {
            let mut running = self.running();
            match running.take() {
                Some(same) if same.asked == asked => {
                    let issuance = Arc::clone(&same.issuance);
                    *running = Some(same);
                    drop(running);
                    task::block_in_place(|| issuance.want(sets));
                    return Ok(());
                }
                old => old,
            }
        };
        if let Some(old) = old {
            old.issuance.stop().await;
        }
        let start = || self.start(config, &asked, sets, store, metrics);
        let issuance = task::block_in_place(start)?;
        *self.running() = Some(Running {
            issuance: Arc::new(issuance),
            asked,
        });
        Ok(())
    }

    fn start(
        &self,
        config: &Config,
        asked: &Asked,
        sets: Vec<NameSet>,
        store: &Arc<tls::Store>,
        metrics: &Arc<Metrics>,
    ) -> Result<Issuance, IssuerError> {
        let issuers = Issuer::from_config(&asked.acme)?;
        let methods = asked.methods.clone();
        let mut settings = Settings::new(config.state_dir.clone(), issuers, methods);
        if !asked.acme.resolvers.is_empty() {
            match Resolver::with_servers(&asked.acme.resolvers) {
                Ok(resolver) => settings.resolver = Arc::new(resolver),
                Err(error) => tracing::warn!(%error, "acme.resolvers; the system's are used"),
            }
        }
        settings.accounts.clone_from(&self.accounts);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let events = self.events.clone();
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                // Nobody listening is nobody's error.
                let _ = events.send(event);
            }
        });
        Ok(Issuance::start(
            settings,
            sets,
            Arc::clone(store),
            self.challenges(),
            Arc::clone(metrics),
            sender,
        ))
    }

    /// Ends it; an order that runs is gone on with at the next start.
    pub(super) async fn stop(&self) {
        let running = self.running().take();
        if let Some(running) = running {
            running.issuance.stop().await;
        }
    }

    /// Every wanted set of names.
    pub(super) fn status(&self) -> Vec<Status> {
        let issuance = self.issuance();
        issuance.map_or_else(Vec::new, |issuance| issuance.status())
    }

    /// Orders a certificate now and waits for what comes of it.
    pub(super) async fn renew(&self, request: &RenewRequest) -> Result<Done, ControlError> {
        let host = request
            .host
            .trim()
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let mut events = self.subscribe();
        let issuance = self.issuance().ok_or_else(|| {
            ControlError::new(ErrorCode::NotReady, "the daemon is starting or stopping")
        })?;
        issuance.renew(&host, request.force).map_err(|refused| {
            let code = match refused {
                RenewRefused::Unknown(_) => ErrorCode::Usage,
                RenewRefused::Fresh { .. } => ErrorCode::Refused,
            };
            ControlError::new(code, refused.to_string())
        })?;
        if !request.wait {
            let done = vec![format!("a certificate for {host} is ordered")];
            return Ok(Done {
                done,
                ..Done::default()
            });
        }
        let mut done = Vec::new();
        let outcome = tokio::time::timeout(RENEWAL_PATIENCE, async {
            loop {
                match events.recv().await {
                    Ok(event) if concerns(&event, &host) => match told(&event) {
                        Told::Step(line) => done.push(line),
                        Told::Done(line) => {
                            done.push(line);
                            return Ok(());
                        }
                        Told::Failed(line) => return Err(line),
                    },
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err("the daemon is stopping".to_owned());
                    }
                }
            }
        })
        .await;
        match outcome {
            Ok(Ok(())) => Ok(Done {
                done,
                ..Done::default()
            }),
            Ok(Err(why)) => Err(ControlError::new(ErrorCode::Failed, why).with_details(done)),
            Err(_) => {
                let why = "no answer in 10 min; the order goes on, see `proxyctl certs`";
                Err(ControlError::new(ErrorCode::Failed, why).with_details(done))
            }
        }
    }

    fn issuance(&self) -> Option<Arc<Issuance>> {
        let running = self.running();
        running
            .as_ref()
            .map(|running| Arc::clone(&running.issuance))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows on `/metrics` what events change.
pub(super) async fn show(daemon: Arc<Daemon>) {
    let mut events = daemon.certification.subscribe();
    loop {
        match events.recv().await {
            Ok(Event::CertificateIssued { .. }) | Err(broadcast::error::RecvError::Lagged(_)) => {
                daemon.show_certificates();
            }
            Ok(_) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

enum Told {
    Step(String),
    Done(String),
    Failed(String),
}

fn concerns(event: &Event, host: &str) -> bool {
    let names = match event {
        Event::OrderBegun { names, .. }
        | Event::CertificateIssued { names, .. }
        | Event::StagingPassed { names }
        | Event::OrderFailed { names, .. } => names,
        Event::AnotherOrders => return true,
    };
    names.names().iter().any(|name| name == host)
}

fn told(event: &Event) -> Told {
    match event {
        Event::OrderBegun {
            names,
            directory,
            method,
        } => Told::Step(format!("ordering {names} at {directory} with {method}")),
        Event::StagingPassed { names } => Told::Step(format!(
            "{names}: the staging directory would have given one"
        )),
        Event::CertificateIssued {
            names,
            issuer,
            not_after,
            ..
        } => Told::Done(format!(
            "{names}: issued by {issuer}, valid until {}",
            clock::rfc3339(*not_after)
        )),
        Event::OrderFailed {
            names,
            error,
            retry_at,
            ..
        } => {
            let again = retry_at.map_or_else(String::new, |at| {
                format!("; tried again at {}", clock::rfc3339(at))
            });
            Told::Failed(format!("{names}: {error}{again}"))
        }
        Event::AnotherOrders => Told::Failed(
            "another process on this state_dir orders certificates; ask that one".to_owned(),
        ),
    }
}

/// Everything that is served or wanted, by name.
pub(super) fn report(daemon: &Daemon) -> CertificateReport {
    let now = clock::wall();
    let ordered = daemon.certification.status();
    let rejected = daemon.certificates.rejected();
    let mut certificates = Vec::new();
    for served in daemon.certificates.served() {
        // One certificate of the local CA stands in for hosts that orders are made for.
        for name in &served.names {
            let host = name.to_string();
            let order = ordered
                .iter()
                .find(|status| status.names.names().contains(&host));
            let origin = match &served.source {
                tls::Source::Files(_) => CertificateOrigin::Files,
                tls::Source::Internal => CertificateOrigin::Internal,
                tls::Source::Installed => CertificateOrigin::Acme,
                tls::Source::Adopted(_) => CertificateOrigin::Adopted,
            };
            let file = match &served.source {
                tls::Source::Files(file) | tls::Source::Adopted(file) => {
                    Some(file.display().to_string())
                }
                tls::Source::Internal | tls::Source::Installed => None,
            };
            let broken = file.as_ref().and_then(|file| {
                let broken = rejected
                    .iter()
                    .find(|(path, _)| path.display().to_string() == *file);
                broken.map(|(_, error)| error.clone())
            });
            certificates.push(CertificateStatus {
                host,
                issuer: Some(served.issuer.clone()),
                expires: Some(clock::rfc3339(served.not_after)),
                expires_in_s: seconds_until(served.not_after, now),
                origin,
                file,
                stands_in: order.is_some() && origin == CertificateOrigin::Internal,
                next_renewal: order.and_then(|order| order.next).map(clock::rfc3339),
                next_renewal_in_s: order
                    .and_then(|order| order.next)
                    .and_then(|next| seconds_until(next, now)),
                why: order.map(|order| order.why.to_owned()),
                challenge: order.and_then(|order| order.method).map(ToOwned::to_owned),
                failures: order.map_or(0, |order| order.failures),
                error: broken.or_else(|| order.and_then(|order| order.last_error.clone())),
            });
        }
    }
    certificates.sort_by(|a, b| a.host.cmp(&b.host));
    CertificateReport { certificates }
}

/// HTTP-01 for the listeners (RFC 8555 §8.3).
struct Http01(Arc<Challenges>);

impl fmt::Debug for Http01 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http01")
    }
}

impl ChallengeAnswers for Http01 {
    fn key_authorization(&self, token: &str, host: &str) -> Option<String> {
        self.0.http01(token, host)
    }
}
