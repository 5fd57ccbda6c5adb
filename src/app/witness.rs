//! What is known of the containers of a release under watch: that one ended, what they use, and what
//! those wrote last that something speaks against.
//!
//! The rule `container` takes each end once, and at once. The account of a rollback, whatever caused
//! that, has every container of the new slot that ended, was restarted, ran out of memory or became
//! unhealthy since the switch was asked for. Only an account waits: for the log, and for the engine,
//! which may tell of an end after clients noticed it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;

use super::discovery::Discovery;
use crate::clock;
use crate::docker::{LastLines, Trouble};
use crate::model::{Color, ServiceName};
use crate::switch::Containers;
use crate::switch::evidence::alerts::Usage;

/// How long the end of a container speaks against its release. The judge looks four times a second.
const FRESH: Duration = Duration::from_secs(5);
/// How long the engine may take to tell of an end that undid a release by its failed requests.
const SETTLE: Duration = Duration::from_millis(500);
/// Containers of an account whose lines are shown: a screen has an end.
const SHOWN: usize = 3;

/// What is known of containers under watch.
pub(super) struct Witness {
    discovery: Arc<Discovery>,
    known: Mutex<Known>,
    /// Wakes whoever waits for an account.
    happened: Notify,
}

#[derive(Default)]
struct Known {
    /// The slots of containers under watch; of those that are gone too.
    slots: HashMap<String, Vec<(ServiceName, Color)>>,
    /// Ends that the rule has not taken yet.
    fresh: Vec<Trouble>,
    /// Of each service that was switched, its last switch.
    accounts: BTreeMap<ServiceName, Account>,
}

/// What speaks against the containers of a release.
struct Account {
    /// The slot that the switch went to.
    color: Color,
    suspects: Vec<Suspect>,
}

/// A container that something speaks against.
#[derive(Clone)]
struct Suspect {
    id: String,
    name: String,
    /// In the order they happened, each once.
    signs: Vec<String>,
    /// As of the last of them.
    log: LastLines,
}

impl Witness {
    pub(super) fn new(discovery: Arc<Discovery>) -> Self {
        Self {
            discovery,
            known: Mutex::default(),
            happened: Notify::new(),
        }
    }

    /// Looks at the containers of these services from now on.
    pub(super) fn attend(&self, services: &BTreeSet<ServiceName>) {
        let attended = self.discovery.attend(services);
        let mut known = self.lock();
        known
            .slots
            .retain(|_, slots| slots.iter().any(|(service, _)| services.contains(service)));
        known.slots.extend(attended);
    }

    /// A switch of these services to that color begins, and their accounts with it.
    pub(super) fn begin(&self, services: &[ServiceName], color: Color) {
        let begun = services.iter().map(|service| {
            let account = Account {
                color,
                suspects: Vec::new(),
            };
            (service.clone(), account)
        });
        self.lock().accounts.extend(begun);
    }

    /// Takes note of something that speaks against a container.
    pub(super) fn happened(&self, trouble: Trouble) {
        let (id, sign) = (&trouble.id, &trouble.sign);
        warn!(container = trouble.name, id, "the container {sign}");
        let mut known = self.lock();
        let Known {
            slots,
            fresh,
            accounts,
        } = &mut *known;
        for (service, color) in slots.get(id).into_iter().flatten() {
            let account = accounts.get_mut(service);
            if let Some(account) = account.filter(|account| account.color == *color) {
                account.add(&trouble);
            }
        }
        if sign.is_end() {
            fresh.push(trouble);
        }
        drop(known);
        self.happened.notify_waiters();
    }

    /// Waits until something speaks against a container of what these services were switched to,
    /// 500 ms at most. Not at all where that has no containers.
    pub(super) async fn settle(&self, services: &[ServiceName]) {
        let told = async {
            loop {
                let mut happened = std::pin::pin!(self.happened.notified());
                happened.as_mut().enable();
                if !self.may_hear_of(services) {
                    return;
                }
                happened.await;
            }
        };
        let _ = tokio::time::timeout(SETTLE, told).await;
    }

    /// Whether there are containers of which nothing is known yet.
    fn may_hear_of(&self, services: &[ServiceName]) -> bool {
        let known = self.lock();
        let accounts = services
            .iter()
            .filter_map(|service| Some((service, known.accounts.get(service)?)));
        let has_containers = |(service, account): &(&ServiceName, &Account)| {
            let mut slots = known.slots.values().flatten();
            slots.any(|(name, color)| name == *service && *color == account.color)
        };
        let is_silent = accounts
            .clone()
            .all(|(_, account)| account.suspects.is_empty());
        is_silent && accounts.clone().any(|one| has_containers(&one))
    }

    /// What speaks against the containers of what these services were switched to, and what those
    /// wrote last; a line each.
    pub(super) async fn last_words(&self, services: &[ServiceName]) -> Vec<String> {
        let mut suspects: Vec<Suspect> = Vec::new();
        {
            let known = self.lock();
            let accounts = services.iter().filter_map(|name| known.accounts.get(name));
            for suspect in accounts.flat_map(|account| &account.suspects) {
                // One container may be behind two services.
                if !suspects.iter().any(|other| other.id == suspect.id) {
                    suspects.push(suspect.clone());
                }
            }
        }
        let mut lines = Vec::new();
        for Suspect {
            name, signs, log, ..
        } in suspects.iter().take(SHOWN)
        {
            lines.extend(told(name, signs, log.read().await));
        }
        let more = suspects.iter().skip(SHOWN);
        lines.extend(more.map(|Suspect { name, signs, .. }| sentence(name, signs)));
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn add(&mut self, trouble: &Trouble) {
        let sign = trouble.sign.to_string();
        let known = self.suspects.iter_mut().find(|one| one.id == trouble.id);
        match known {
            Some(suspect) => {
                if !suspect.signs.contains(&sign) {
                    suspect.signs.push(sign);
                }
                suspect.log = trouble.log.clone();
            }
            None => self.suspects.push(Suspect {
                id: trouble.id.clone(),
                name: trouble.name.clone(),
                signs: vec![sign],
                log: trouble.log.clone(),
            }),
        }
    }
}

fn sentence(name: &str, signs: &[String]) -> String {
    format!("the container {name} {}", signs.join(", "))
}

/// A container's part of an account.
fn told(name: &str, signs: &[String], log: Result<Vec<String>, String>) -> Vec<String> {
    let sentence = sentence(name, signs);
    match log {
        Ok(log) if log.is_empty() => vec![format!("{sentence}; it wrote nothing")],
        Ok(log) => {
            let first = format!("{sentence}; its last lines:");
            let log = log.into_iter().map(|line| format!("  {line}"));
            std::iter::once(first).chain(log).collect()
        }
        Err(why) => vec![format!("{sentence}; its log is not known: {why}")],
    }
}

impl Containers for Witness {
    fn trouble(&self, service: &ServiceName, color: Color) -> Option<String> {
        let now = clock::now();
        let mut known = self.lock();
        let Known { slots, fresh, .. } = &mut *known;
        fresh.retain(|trouble| now.saturating_duration_since(trouble.at) < FRESH);
        let is_of_slot = |trouble: &Trouble| {
            let slots = slots.get(&trouble.id).into_iter().flatten();
            slots
                .clone()
                .any(|(name, of)| name == service && *of == color)
        };
        let at = fresh.iter().position(is_of_slot)?;
        let Trouble { name, sign, .. } = fresh.remove(at);
        Some(sentence(&name, &[sign.to_string()]))
    }

    fn usage(&self, service: &ServiceName, color: Color) -> Usage {
        let known = self.lock();
        let of_slot = known.slots.iter().filter(|(_, slots)| {
            slots
                .iter()
                .any(|(name, of)| name == service && *of == color)
        });
        let used = of_slot.filter_map(|(id, _)| self.discovery.used(id));
        let fuller = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        used.fold(Usage::default(), |sum, used| Usage {
            memory: fuller(sum.memory, used.memory),
            cpu: fuller(sum.cpu, used.cpu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_says_what_happened_and_then_the_lines_or_why_there_are_none() {
        let signs = ["ran out of memory (OOM)", "exited with code 137"].map(str::to_owned);
        let said = |log| told("web-1", &signs, log);
        let what = "the container web-1 ran out of memory (OOM), exited with code 137";
        assert_eq!(
            said(Ok(vec!["one".to_owned(), "two".to_owned()])),
            [&format!("{what}; its last lines:"), "  one", "  two"]
        );
        assert_eq!(said(Ok(Vec::new())), [format!("{what}; it wrote nothing")]);
        let refused = said(Err("refused".to_owned()));
        assert_eq!(refused, [format!("{what}; its log is not known: refused")]);
    }
}
