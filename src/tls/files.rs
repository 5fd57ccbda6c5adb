//! What the table takes from files: certificates with their keys, and the policies of sites,
//! which may name a CA file. Both are watched, and the last good content stays in use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::certificate::{Pair, ServedCertificate, Source};
use super::error::TlsError;
use super::event::Event;
use super::policy::Policy;
use super::tickets::TicketKeys;
use super::upstream::Upstreams;
use super::warning::warnings;
use super::watch::{Look, Trouble, Watched};
use crate::clock;
use crate::config::{ClientAuth, Config, Site, Tls, TlsVersion};
use crate::model::HostPattern;

/// The paths of a chain and its key.
pub(super) type FilePair = (PathBuf, PathBuf);

/// Pairs of files that one call looks at, so that ten thousand sites cost little at a time.
const LOOKS_AT_ONCE: usize = 1000;

/// What is wrong now with the files of TLS that a configuration names: certificates and keys of sites,
/// CAs of their clients, and what services show to upstreams. `run` and `reload` refuse each of it.
/// Reads files, writes none.
#[must_use]
pub fn unusable(config: &Config) -> Vec<TlsError> {
    let now = clock::wall();
    let mut errors = Vec::new();
    Files::load(&config.sites, now, &mut errors);
    match TicketKeys::open(&config.state_dir, now) {
        Ok(keys) => drop(Policies::load(
            &config.sites,
            &Arc::new(keys),
            now,
            &mut errors,
        )),
        Err(error) => errors.push(error),
    }
    let of_upstreams = Upstreams::default().apply(&config.services, now);
    errors.extend(of_upstreams.err().unwrap_or_default());
    errors
}

/// The certificates of all sites with files of their own.
#[derive(Default)]
pub(super) struct Files {
    pairs: BTreeMap<FilePair, Loaded>,
    /// Where the next look begins.
    next: Option<FilePair>,
}

struct Loaded {
    hosts: Vec<HostPattern>,
    certificate: Arc<ServedCertificate>,
    watched: Watched,
}

impl Files {
    /// Reads the files of all sites; sites with the same ones share the certificate.
    pub(super) fn load(sites: &[Site], now: SystemTime, errors: &mut Vec<TlsError>) -> Self {
        let mut hosts: BTreeMap<FilePair, Vec<HostPattern>> = BTreeMap::new();
        for site in sites {
            if let Tls::Files { cert, key } = &site.tls {
                let group = hosts.entry((cert.clone(), key.clone())).or_default();
                group.extend(site.hosts.iter().cloned());
            }
        }
        let mut pairs = BTreeMap::new();
        for (pair, hosts) in hosts {
            let files = vec![pair.0.clone(), pair.1.clone()];
            match Watched::start(files, now, |texts| read(&pair, texts)) {
                Ok((watched, read)) => {
                    let certificate = serve(&pair, read, &hosts);
                    let loaded = Loaded {
                        hosts,
                        certificate,
                        watched,
                    };
                    pairs.insert(pair, loaded);
                }
                Err(error) => errors.push(error),
            }
        }
        Self { pairs, next: None }
    }

    pub(super) fn certificate(&self, pair: &FilePair) -> Option<&Arc<ServedCertificate>> {
        self.pairs.get(pair).map(|loaded| &loaded.certificate)
    }

    /// Looks at the next pairs, and around to the first.
    pub(super) fn look(&mut self, now: SystemTime) -> Vec<Event> {
        let mut events = Vec::new();
        let from = self.next.take();
        let mut looks = 0;
        for (pair, loaded) in &mut self.pairs {
            if from.as_ref().is_some_and(|from| pair < from) {
                continue;
            }
            if looks == LOOKS_AT_ONCE {
                self.next = Some(pair.clone());
                break;
            }
            looks += 1;
            events.extend(loaded.look(pair, now));
        }
        events
    }

    pub(super) fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        let all = self.pairs.values();
        all.filter_map(|loaded| loaded.watched.trouble())
    }
}

impl Loaded {
    fn look(&mut self, pair: &FilePair, now: SystemTime) -> Option<Event> {
        let (cert, key) = (&pair.0, &pair.1);
        match self.watched.look(now, |texts| read(pair, texts)) {
            Look::New(new) => {
                self.certificate = serve(pair, new, &self.hosts);
                Some(Event::Reloaded {
                    certificate: self.certificate.info().clone(),
                    warnings: warnings(&self.certificate, &self.hosts, cert, key, now),
                })
            }
            Look::Same => None,
            Look::Rejected(trouble) => Some(rejected(trouble)),
            Look::Mended => Some(Event::Mended {
                files: vec![cert.clone(), key.clone()],
            }),
        }
    }
}

fn rejected(trouble: Trouble) -> Event {
    Event::Rejected {
        file: trouble.file,
        error: trouble.error,
    }
}

fn read((cert, key): &FilePair, texts: &[Vec<u8>]) -> Result<Pair, TlsError> {
    let text = |at: usize| texts.get(at).map_or(&[][..], Vec::as_slice);
    Pair::from_pem((cert, text(0)), (key, text(1)))
}

fn serve((cert, _): &FilePair, pair: Pair, hosts: &[HostPattern]) -> Arc<ServedCertificate> {
    let source = Source::Files(cert.clone());
    Arc::new(ServedCertificate::new(pair, hosts.to_vec(), source))
}

/// What a site asks of its connections, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Demand {
    min_version: TlsVersion,
    client_auth: Option<ClientAuth>,
}

impl Demand {
    pub(super) fn of(site: &Site) -> Self {
        Self {
            min_version: site.min_version,
            client_auth: site.client_auth.clone(),
        }
    }

    fn policy(&self, texts: &[Vec<u8>], keys: &Arc<TicketKeys>) -> Result<Policy, TlsError> {
        let text = texts.first().map_or(&[][..], Vec::as_slice);
        let auth = self.client_auth.as_ref().map(|auth| (auth, text));
        Policy::new(self.min_version, auth, keys)
    }
}

/// The policies of all sites that have TLS.
#[derive(Default)]
pub(super) struct Policies(BTreeMap<Demand, (Arc<Policy>, Watched)>);

impl Policies {
    pub(super) fn load(
        sites: &[Site],
        keys: &Arc<TicketKeys>,
        now: SystemTime,
        errors: &mut Vec<TlsError>,
    ) -> Self {
        let mut policies = BTreeMap::new();
        for site in sites.iter().filter(|site| site.tls != Tls::Off) {
            let demand = Demand::of(site);
            if policies.contains_key(&demand) {
                continue;
            }
            let file = demand.client_auth.iter().map(|auth| auth.ca.clone());
            match Watched::start(file.collect(), now, |texts| demand.policy(texts, keys)) {
                Ok((watched, policy)) => {
                    policies.insert(demand, (Arc::new(policy), watched));
                }
                Err(error) => errors.push(error),
            }
        }
        Self(policies)
    }

    pub(super) fn policy(&self, demand: &Demand) -> Option<&Arc<Policy>> {
        self.0.get(demand).map(|(policy, _)| policy)
    }

    pub(super) fn look(&mut self, keys: &Arc<TicketKeys>, now: SystemTime) -> Vec<Event> {
        let mut events = Vec::new();
        for (demand, (policy, watched)) in &mut self.0 {
            let Some(auth) = &demand.client_auth else {
                continue;
            };
            let file: &Path = &auth.ca;
            match watched.look(now, |texts| demand.policy(texts, keys)) {
                Look::New(new) => {
                    *policy = Arc::new(new);
                    let file = file.to_owned();
                    events.push(Event::ClientCasReloaded { file });
                }
                Look::Same => {}
                Look::Rejected(trouble) => events.push(rejected(trouble)),
                Look::Mended => events.push(Event::Mended {
                    files: vec![file.to_owned()],
                }),
            }
        }
        events
    }

    pub(super) fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.0.values().filter_map(|(_, watched)| watched.trouble())
    }
}
