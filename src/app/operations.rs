//! Verbs that are done at once: who may pass the doors, and whether anything may be switched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use super::daemon::Daemon;
use super::deploy::denied;
use super::{deploy, notes};
use crate::admin::Actor;
use crate::admin::wire::{ControlError, Done, ErrorCode, Operation};
use crate::clock;
use crate::config::{Config, Site};
use crate::history::Entry;
use crate::kept;
use crate::model::ServiceName;
use crate::pool::{Closed, Notice};
use crate::switch::{Freeze, MaintenanceRecord, Switchboard};

/// Does it, and writes it into the history.
pub(super) async fn operate(
    daemon: &Arc<Daemon>,
    switchboard: &Switchboard,
    actor: &Actor,
    operation: Operation,
) -> Result<Done, ControlError> {
    let config = daemon.config.load_full();
    let mut entry = Entry {
        who: actor.to_string(),
        result: "done".to_owned(),
        ..Entry::default()
    };
    let done = match operation {
        Operation::Hold { services, max_ms } => {
            entry.what = "hold".to_owned();
            entry.services = named(&config, services)?;
            hold(daemon, &entry.services, Duration::from_millis(max_ms))
        }
        Operation::Resume { services } => {
            entry.what = "resume".to_owned();
            entry.services = named(&config, services)?;
            resume(daemon, &entry.services)?
        }
        Operation::Maintenance {
            on,
            services,
            sites,
            message,
        } => {
            let what = if on {
                "maintenance on"
            } else {
                "maintenance off"
            };
            entry.what = what.to_owned();
            entry.why = message.clone().unwrap_or_default();
            let record = on.then(|| MaintenanceRecord {
                message,
                by: actor.to_string(),
                since_ms: clock::epoch_ms(clock::wall()),
            });
            let keys = keys(&config, services, &sites)?;
            entry.services = keys
                .iter()
                .filter_map(|key| key.strip_prefix(SERVICE))
                .map(ServiceName::from)
                .collect();
            maintain(daemon, switchboard, &keys, record.as_ref()).await
        }
        Operation::Freeze { why, for_ms } => {
            entry.what = "freeze".to_owned();
            entry.why.clone_from(&why);
            let now = clock::epoch_ms(clock::wall());
            let freeze = Freeze {
                why,
                by: actor.to_string(),
                since_ms: now,
                until_ms: for_ms.map(|time| now.saturating_add(time)),
            };
            let saved = switchboard.freeze(Some(freeze)).await;
            told(vec!["switches are frozen".to_owned()], saved)
        }
        Operation::Unfreeze {} => {
            entry.what = "unfreeze".to_owned();
            if switchboard.notes().freeze.is_none() {
                return Ok(told(vec!["switches were not frozen".to_owned()], Ok(())));
            }
            let saved = switchboard.freeze(None).await;
            told(vec!["switches are allowed again".to_owned()], saved)
        }
        Operation::Cleanup {} => {
            entry.what = "cleanup".to_owned();
            deploy::cleanup(daemon).await.map_err(denied)?
        }
        Operation::Reset {} => {
            entry.what = "reset".to_owned();
            deploy::reset(daemon).await.map_err(denied)?
        }
        Operation::NotifyTest {} => {
            if config.notify.is_empty() {
                let why = "nobody is told anything: the configuration has no [[notify]]";
                return Err(ControlError::new(ErrorCode::Failed, why));
            }
            let said = notes::test(&daemon.notifier).await;
            return said.map_err(|each| {
                let why = "not every target took the test";
                ControlError::new(ErrorCode::Failed, why).with_details(each)
            });
        }
        Operation::Repair {} => {
            entry.what = "repair".to_owned();
            if switchboard.notes().damage.is_none() {
                return Ok(told(vec!["the journal is not damaged".to_owned()], Ok(())));
            }
            let journal = Arc::clone(&daemon.journal);
            let repair = move |book: &crate::switch::Book| {
                journal.repair(book).map_err(|error| error.to_string())
            };
            let done = switchboard.repair(repair).await;
            told(
                done.map_err(|why| ControlError::new(ErrorCode::Failed, why))?,
                Ok(()),
            )
        }
    };
    daemon.record(entry);
    Ok(done)
}

/// Before the name of a service that is closed for maintenance.
pub(super) const SERVICE: &str = "service:";
/// Before the first host of a site that is.
pub(super) const SITE: &str = "site:";

fn hold(daemon: &Daemon, services: &[ServiceName], max: Duration) -> Done {
    let now = clock::now();
    for service in services {
        daemon.doors.holds.hold(service, now, max);
    }
    let line = |service| {
        format!(
            "requests of {service} wait at the edge, each for at most {:.0}s, until `resume`",
            max.as_secs_f64()
        )
    };
    told(services.iter().map(line).collect(), Ok(()))
}

fn resume(daemon: &Daemon, services: &[ServiceName]) -> Result<Done, ControlError> {
    let resumed: Vec<_> = services
        .iter()
        .filter_map(|service| {
            let waiting = daemon.doors.holds.resume(service)?;
            Some(format!("{waiting} requests of {service} go on"))
        })
        .collect();
    if resumed.is_empty() {
        return Err(ControlError::new(
            ErrorCode::NothingToUndo,
            "no request is held",
        ));
    }
    Ok(told(resumed, Ok(())))
}

async fn maintain(
    daemon: &Daemon,
    switchboard: &Switchboard,
    keys: &[String],
    record: Option<&MaintenanceRecord>,
) -> Done {
    let change = |key: &String| (key.clone(), record.cloned());
    let saved = switchboard
        .maintain(keys.iter().map(change).collect())
        .await;
    sync(daemon, switchboard);
    let state = if record.is_some() {
        "is closed for maintenance"
    } else {
        "is open"
    };
    let line = |key: &String| {
        let name = key.replacen(':', " ", 1);
        format!("{name} {state}")
    };
    told(keys.iter().map(line).collect(), saved)
}

fn told(done: Vec<String>, saved: Result<(), String>) -> Done {
    let warning = |why| format!("NOT ON DISK ({why}): a restart would forget it");
    Done {
        done,
        warnings: saved.err().map(warning).into_iter().collect(),
    }
}

/// The doors as the notes and the configuration want them.
pub(super) fn sync(daemon: &Daemon, switchboard: &Switchboard) {
    let config = daemon.config.load();
    let mut closed = Closed {
        services: HashMap::new(),
        sites: HashMap::new(),
        allow: config.maintenance.allow.clone(),
        retry_after: config.maintenance.retry_after,
        page: None,
    };
    if let Some(path) = &config.maintenance.page {
        match kept::read(path) {
            Ok(page) => closed.page = Some(Bytes::from(page)),
            Err(error) => {
                warn!(%error, path = %path.display(), "the maintenance page cannot be read: the built-in one is shown");
            }
        }
    }
    for (key, record) in switchboard.notes().maintenance {
        let notice = Arc::new(Notice {
            message: record.message,
        });
        if let Some(service) = key.strip_prefix(SERVICE) {
            closed.services.insert(service.into(), notice);
        } else if let Some(site) = key.strip_prefix(SITE) {
            closed.sites.insert(site.to_owned(), notice);
        }
    }
    daemon.doors.closed.store(Arc::new(closed));
}

/// Every service that was named; all of them when none was.
fn named(config: &Config, services: Vec<ServiceName>) -> Result<Vec<ServiceName>, ControlError> {
    let known: Vec<_> = config
        .services
        .iter()
        .map(|service| &service.name)
        .collect();
    if services.is_empty() {
        return Ok(known.into_iter().cloned().collect());
    }
    match services.iter().find(|service| !known.contains(service)) {
        Some(unknown) => Err(ControlError::new(
            ErrorCode::UnknownService,
            format!("no service `{unknown}`"),
        )),
        None => Ok(services),
    }
}

fn keys(
    config: &Config,
    services: Vec<ServiceName>,
    sites: &[String],
) -> Result<Vec<String>, ControlError> {
    let mut keys = Vec::new();
    if sites.is_empty() || !services.is_empty() {
        let services = named(config, services)?;
        keys.extend(services.iter().map(|service| format!("{SERVICE}{service}")));
    }
    for host in sites {
        let has = |site: &&Site| {
            site.hosts
                .iter()
                .any(|pattern| pattern.to_string() == *host)
        };
        let site = config.sites.iter().find(has).ok_or_else(|| {
            ControlError::new(ErrorCode::Usage, format!("no site has the host `{host}`"))
        })?;
        let first = site.hosts.first().map(ToString::to_string);
        keys.push(format!(
            "{SITE}{}",
            first.unwrap_or_else(|| "default".to_owned())
        ));
    }
    Ok(keys)
}
