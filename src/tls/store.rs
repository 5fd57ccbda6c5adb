//! The certificate table: name to certificate, replaced as a whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::authority::{Authority, AuthorityError};
use super::certificate::{CertificateError, Served, Source};
use crate::config::{Site, Tls};

/// Why the certificates of a configuration cannot be served. The old ones still are.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A site's files.
    #[error(transparent)]
    Files(#[from] CertificateError),
    /// The local CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// One certificate, for people and metrics.
#[derive(Clone, Debug)]
pub struct CertificateInfo {
    /// Host that it is served for.
    pub host: String,
    /// Who signed it.
    pub issuer: String,
    /// End of its validity.
    pub not_after: SystemTime,
    /// Where it came from.
    pub source: Source,
}

/// The certificates that handshakes see. Exact names before wildcards.
#[derive(Debug, Default)]
pub struct Store {
    table: ArcSwap<Table>,
    /// One writer at a time; readers never wait.
    writing: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    exact: HashMap<String, Arc<Served>>,
    wildcard: HashMap<String, Arc<Served>>,
    default: Option<Arc<Served>>,
}

impl Store {
    /// An empty table: every handshake is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the table with the certificates of `sites`; the local CA lives in `ca_folder`
    /// and is only made when a site needs it.
    ///
    /// # Errors
    /// The first certificate that cannot be served; then nothing changed.
    pub fn apply(&self, sites: &[Site], ca_folder: &Path) -> Result<(), StoreError> {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load();
        let mut authority = None;
        let mut table = Table::default();
        for site in sites {
            let mut names: Vec<String> = site.hosts.iter().map(ToString::to_string).collect();
            if names.is_empty() {
                names.push("localhost".to_owned());
            }
            let served = match &site.tls {
                Tls::Off => continue,
                Tls::Files { cert, key } => {
                    let served = Arc::new(Served::from_files(cert, key)?);
                    warn_about(&served, &names);
                    served
                }
                Tls::Internal | Tls::Auto => match old.reusable(&names) {
                    Some(kept) => kept,
                    None => {
                        let authority = match &mut authority {
                            Some(authority) => authority,
                            none => none.insert(Authority::open(ca_folder)?),
                        };
                        Arc::new(authority.issue(&names)?)
                    }
                },
            };
            for host in &names {
                table.insert(host, Arc::clone(&served));
            }
            if site.default {
                table.default = Some(served);
            }
        }
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// Puts one certificate in the place of those of its names.
    pub fn replace(&self, served: &Arc<Served>) {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.table.load());
        for name in served.names() {
            table.insert(name, Arc::clone(served));
        }
        self.table.store(Arc::new(table));
    }

    /// Makes every leaf of the local CA anew whose time has come. Returns how many.
    ///
    /// # Errors
    /// The local CA cannot be used; the old leaves stay.
    pub fn renew_due(
        &self,
        sites: &[Site],
        ca_folder: &Path,
        now: SystemTime,
    ) -> Result<usize, StoreError> {
        let due = {
            let table = self.table.load();
            let all = table.exact.values().chain(table.wildcard.values());
            all.filter(|served| Authority::is_due(served, now)).count()
        };
        if due > 0 {
            self.apply(sites, ca_folder)?;
            info!(names = due, "certificates of the internal CA renewed");
        }
        Ok(due)
    }

    /// The certificate for a handshake. Without a name: the one for the local address, else the
    /// default site's. An unknown name gets the default site's too.
    #[must_use]
    pub fn find(&self, name: Option<&str>, local: IpAddr) -> Option<(Arc<Served>, bool)> {
        let table = self.table.load();
        let named = match name {
            Some(name) => table.named(&name.to_ascii_lowercase()),
            None => table.exact.get(&local.to_canonical().to_string()).cloned(),
        };
        match named {
            Some(served) => Some((served, false)),
            None => table.default.clone().map(|served| (served, true)),
        }
    }

    /// Every host and its certificate, by name.
    #[must_use]
    pub fn served(&self) -> Vec<CertificateInfo> {
        let table = self.table.load();
        let wildcards = table
            .wildcard
            .iter()
            .map(|(rest, s)| (format!("*.{rest}"), s));
        let mut all: Vec<CertificateInfo> = table
            .exact
            .iter()
            .map(|(host, served)| (host.clone(), served))
            .chain(wildcards)
            .map(|(host, served)| CertificateInfo {
                host,
                issuer: served.issuer().to_owned(),
                not_after: served.not_after(),
                source: served.source().clone(),
            })
            .collect();
        all.sort_by(|a, b| a.host.cmp(&b.host));
        all
    }
}

impl Table {
    fn insert(&mut self, host: &str, served: Arc<Served>) {
        match host.strip_prefix("*.") {
            Some(rest) => self.wildcard.insert(rest.to_owned(), served),
            None => self.exact.insert(host.to_owned(), served),
        };
    }

    fn named(&self, name: &str) -> Option<Arc<Served>> {
        let parent = || {
            name.split_once('.')
                .and_then(|(_, rest)| self.wildcard.get(rest))
        };
        self.exact.get(name).or_else(parent).cloned()
    }

    /// A leaf of the local CA for exactly these names that is not due yet: a reload need not
    /// make another one.
    fn reusable(&self, names: &[String]) -> Option<Arc<Served>> {
        let first = names.first()?;
        let served = match first.strip_prefix("*.") {
            Some(rest) => self.wildcard.get(rest),
            None => self.exact.get(first),
        }?;
        let now = crate::clock::wall();
        let fits = *served.source() == Source::Internal
            && served.names() == names
            && !Authority::is_due(served, now);
        fits.then(|| Arc::clone(served))
    }
}

fn warn_about(served: &Served, hosts: &[String]) {
    for host in hosts
        .iter()
        .filter(|host| !served.covers(host) && !served.names().iter().any(|name| name == *host))
    {
        warn!(%host, names = ?served.names(), "the site's certificate does not cover its host");
    }
    if served.not_after() < crate::clock::wall() {
        warn!(?hosts, "the site's certificate has expired");
    }
}
