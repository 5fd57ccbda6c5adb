//! Who writes the certificate table.
//!
//! All writers take one lock, work out what every site is served with, build a whole table
//! from that and publish it in one store; readers take a snapshot and never wait. The calls
//! read files and sign: keep them off the threads that serve requests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::ca::Ca;
use super::certificate::{CertificateInfo, Pair, ServedCertificate, Source};
use super::error::{Fault, TlsError};
use super::policy;
use super::table::{Entry, Table};
use super::warning::{Warning, warnings};
use crate::config::{Site, Tls};
use crate::model::HostPattern;

/// The certificates of this process, by name.
pub struct Store {
    table: Arc<ArcSwap<Table>>,
    template: ServerConfig,
    state_dir: PathBuf,
    writer: Mutex<Writer>,
}

/// What a table is made of.
#[derive(Default)]
struct Writer {
    sites: Vec<Served>,
    ca: Option<Ca>,
    /// Leaves of the local CA by their names; kept over reloads until they are due.
    internal: BTreeMap<Vec<HostPattern>, Arc<ServedCertificate>>,
    /// What an issuer delivered, by name; kept over reloads.
    installed: BTreeMap<HostPattern, Arc<ServedCertificate>>,
}

/// One site and how it is served.
struct Served {
    hosts: Vec<HostPattern>,
    default: bool,
    from: Origin,
}

enum Origin {
    Off,
    Files(Arc<ServedCertificate>),
    Internal(Arc<ServedCertificate>),
    /// Internal where nothing is installed.
    Auto(Arc<ServedCertificate>),
}

/// One site's certificate after [`Store::apply`].
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The certificate.
    pub certificate: CertificateInfo,
    /// What people should know of it.
    pub warnings: Vec<Warning>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("state_dir", &self.state_dir)
            .field("served", &self.served())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// An empty table: every handshake is refused. `state_dir` is where the local CA lives;
    /// nothing is written before a site needs it.
    ///
    /// # Errors
    /// The random source failed.
    pub fn new(state_dir: &Path) -> Result<Self, TlsError> {
        let template = policy::template()
            .map_err(|error| TlsError::new(state_dir, Fault::Setup(error.to_string())))?;
        Ok(Self {
            table: Arc::default(),
            template,
            state_dir: state_dir.to_owned(),
            writer: Mutex::default(),
        })
    }

    /// Replaces the whole table by what `sites` ask for. Files are read again, so this is also
    /// how a renewed file is picked up; leaves of the local CA and installed certificates stay.
    /// Sites that share files share the certificate. Blocks.
    ///
    /// # Errors
    /// Every file that cannot be used; the table is as before then. A reload that can fail in
    /// other places calls this last.
    pub fn apply(&self, sites: &[Site], now: SystemTime) -> Result<Vec<Loaded>, Vec<TlsError>> {
        let mut writer = self.lock();
        let mut errors = Vec::new();
        let files = self.load_files(sites, &mut errors);
        let internal = self.load_internal(&mut writer, sites, now, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        writer.sites = sites
            .iter()
            .map(|site| Served {
                hosts: site.hosts.clone(),
                default: site.default,
                from: source_of(site, &files, &internal),
            })
            .collect();
        writer.internal = internal;
        self.publish(&writer);
        Ok(sites
            .iter()
            .zip(&writer.sites)
            .filter_map(|(site, served)| loaded(site, served, now))
            .collect())
    }

    /// Serves `names` with a certificate that an issuer delivered, at once, wherever a site
    /// with `tls = "auto"` answers to them. Replaces what was installed for them before.
    ///
    /// # Errors
    /// Chain or key cannot be used, with `origin` as the file; nothing changes then.
    pub fn install(
        &self,
        names: &[HostPattern],
        origin: &Path,
        chain_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<CertificateInfo, TlsError> {
        let pair = Pair::from_pem((origin, chain_pem), (origin, key_pem))?;
        let certificate = self.serve(pair, names.to_vec(), Source::Installed);
        let mut writer = self.lock();
        for name in names {
            let certificate = Arc::clone(&certificate);
            writer.installed.insert(name.clone(), certificate);
        }
        self.publish(&writer);
        Ok(certificate.info().clone())
    }

    /// Renews the local CA's leaves that are past two thirds of their life, and its
    /// intermediate with them. Established connections keep theirs. Blocks. Returns what is new.
    ///
    /// # Errors
    /// The local CA cannot sign. The old certificates are served on; call again.
    pub fn renew_due(&self, now: SystemTime) -> Result<Vec<CertificateInfo>, TlsError> {
        let mut writer = self.lock();
        let due: Vec<_> = writer
            .internal
            .iter()
            .filter(|(_, certificate)| certificate.renew_at() <= now)
            .map(|(names, _)| names.clone())
            .collect();
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let mut renewed = BTreeMap::new();
        for names in due {
            let certificate = self.issue(&mut writer.ca, &names, now)?;
            renewed.insert(names, certificate);
        }
        for site in &mut writer.sites {
            if let Origin::Internal(certificate) | Origin::Auto(certificate) = &mut site.from
                && let Some(new) = renewed.get(&leaf_names(&site.hosts))
            {
                *certificate = Arc::clone(new);
            }
        }
        let infos = renewed.values().map(|new| new.info().clone()).collect();
        writer.internal.extend(renewed);
        self.publish(&writer);
        Ok(infos)
    }

    /// When [`Store::renew_due`] has something to do next; `None` without leaves of the local
    /// CA.
    #[must_use]
    pub fn next_renewal(&self) -> Option<SystemTime> {
        let writer = self.lock();
        writer.internal.values().map(|leaf| leaf.renew_at()).min()
    }

    /// Every certificate that is served, by its first name.
    #[must_use]
    pub fn served(&self) -> Vec<CertificateInfo> {
        let table = self.table.load();
        let mut all: Vec<_> = table
            .certificates()
            .into_iter()
            .map(|certificate| certificate.info().clone())
            .collect();
        all.sort_by(|a, b| a.names.cmp(&b.names));
        all
    }

    /// The table as every connection sees it.
    pub(super) fn table(&self) -> &Arc<ArcSwap<Table>> {
        &self.table
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // What a panicking writer leaves was published by nobody, or is complete.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, pair: Pair, hosts: Vec<HostPattern>, source: Source) -> Arc<ServedCertificate> {
        Arc::new(ServedCertificate::new(pair, hosts, source, &self.template))
    }

    fn load_files<'a>(&self, sites: &'a [Site], errors: &mut Vec<TlsError>) -> Files<'a> {
        let mut hosts: BTreeMap<_, Vec<HostPattern>> = BTreeMap::new();
        for site in sites {
            if let Tls::Files { cert, key } = &site.tls {
                let group = hosts.entry((cert.as_path(), key.as_path())).or_default();
                group.extend(site.hosts.iter().cloned());
            }
        }
        let mut files = BTreeMap::new();
        for ((cert, key), hosts) in hosts {
            match Pair::from_files(cert, key) {
                Ok(pair) => {
                    let source = Source::Files(cert.to_owned());
                    files.insert((cert, key), self.serve(pair, hosts, source));
                }
                Err(error) => errors.push(error),
            }
        }
        files
    }

    fn load_internal(
        &self,
        writer: &mut Writer,
        sites: &[Site],
        now: SystemTime,
        errors: &mut Vec<TlsError>,
    ) -> BTreeMap<Vec<HostPattern>, Arc<ServedCertificate>> {
        let mut internal = BTreeMap::new();
        for site in sites {
            if !matches!(site.tls, Tls::Internal | Tls::Auto) {
                continue;
            }
            let names = leaf_names(&site.hosts);
            let fresh = writer
                .internal
                .get(&names)
                .filter(|certificate| certificate.renew_at() > now);
            let certificate = match fresh {
                Some(certificate) => Ok(Arc::clone(certificate)),
                None => self.issue(&mut writer.ca, &names, now),
            };
            match certificate {
                Ok(certificate) => {
                    internal.insert(names, certificate);
                }
                Err(error) => {
                    // The same CA would fail for every other site as well.
                    errors.push(error);
                    break;
                }
            }
        }
        internal
    }

    fn issue(
        &self,
        slot: &mut Option<Ca>,
        names: &[HostPattern],
        now: SystemTime,
    ) -> Result<Arc<ServedCertificate>, TlsError> {
        let ca = match slot.take() {
            Some(ca) if !ca.is_due(now) => ca,
            _ => Ca::open(&self.state_dir, now)?,
        };
        let pair = slot.insert(ca).issue(names, now)?;
        Ok(self.serve(pair, names.to_vec(), Source::Internal))
    }

    fn publish(&self, writer: &Writer) {
        let mut table = Table::default();
        for site in &writer.sites {
            site.enter(&mut table, &writer.installed);
        }
        self.table.store(Arc::new(table));
    }
}

type Files<'a> = BTreeMap<(&'a Path, &'a Path), Arc<ServedCertificate>>;

impl Served {
    fn enter(&self, table: &mut Table, installed: &BTreeMap<HostPattern, Arc<ServedCertificate>>) {
        let for_host = |host: &HostPattern| match &self.from {
            Origin::Off => Entry::Off,
            Origin::Files(certificate) | Origin::Internal(certificate) => {
                Entry::Certificate(Arc::clone(certificate))
            }
            Origin::Auto(internal) => {
                Entry::Certificate(Arc::clone(installed.get(host).unwrap_or(internal)))
            }
        };
        for host in &self.hosts {
            table.insert(host, for_host(host));
        }
        if !self.default {
            return;
        }
        let first = self.hosts.first().map(for_host);
        match (first, self.certificate()) {
            (Some(Entry::Certificate(certificate)), _) => table.set_default(certificate),
            (None, Some(certificate)) => table.set_default(Arc::clone(certificate)),
            (Some(Entry::Off), _) | (None, None) => {}
        }
    }

    fn certificate(&self) -> Option<&Arc<ServedCertificate>> {
        match &self.from {
            Origin::Off => None,
            Origin::Files(certificate)
            | Origin::Internal(certificate)
            | Origin::Auto(certificate) => Some(certificate),
        }
    }
}

/// The names of a site's leaf. A default site without hosts gets those of this machine, so
/// that it can answer at all.
fn leaf_names(hosts: &[HostPattern]) -> Vec<HostPattern> {
    if hosts.is_empty() {
        return ["localhost", "127.0.0.1", "::1"]
            .map(|name| HostPattern::Exact(name.to_owned()))
            .to_vec();
    }
    let mut names = hosts.to_vec();
    names.sort();
    names.dedup();
    names
}

fn source_of(
    site: &Site,
    files: &Files<'_>,
    internal: &BTreeMap<Vec<HostPattern>, Arc<ServedCertificate>>,
) -> Origin {
    let leaf = || internal.get(&leaf_names(&site.hosts)).map(Arc::clone);
    let from = match &site.tls {
        Tls::Off => Some(Origin::Off),
        Tls::Internal => leaf().map(Origin::Internal),
        Tls::Auto => leaf().map(Origin::Auto),
        Tls::Files { cert, key } => files
            .get(&(cert.as_path(), key.as_path()))
            .map(|certificate| Origin::Files(Arc::clone(certificate))),
    };
    from.expect("without errors, every site that asks for a certificate has one")
}

fn loaded(site: &Site, served: &Served, now: SystemTime) -> Option<Loaded> {
    let certificate = served.certificate()?;
    let warnings = match &site.tls {
        Tls::Files { cert, key } => warnings(certificate, &site.hosts, cert, key, now),
        _ => Vec::new(),
    };
    Some(Loaded {
        certificate: certificate.info().clone(),
        warnings,
    })
}
