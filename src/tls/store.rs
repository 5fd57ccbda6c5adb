//! Who writes the certificate table.
//!
//! All writers take one lock, work out what every site is served with, build a whole table
//! from that and publish it in one store; readers take a snapshot and never wait. The calls
//! read files and sign: keep them off the threads that serve requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::adopt::Adopted;
use super::ca::Ca;
use super::certificate::{CertificateInfo, Pair, ServedCertificate, Source};
use super::error::TlsError;
use super::event::Event;
use super::files::{Demand, FilePair, Files, Policies};
use super::policy::Policy;
use super::presented::Presenter;
use super::table::{Entry, Table};
use super::tickets::TicketKeys;
use super::warning::{Warning, warnings};
use crate::clock;
use crate::config::{Site, Tls};
use crate::model::HostPattern;

/// The certificates of this process, by name.
pub struct Store {
    table: Arc<ArcSwap<Table>>,
    tickets: Arc<TicketKeys>,
    state_dir: PathBuf,
    writer: Mutex<Writer>,
}

type Leaves = BTreeMap<Vec<HostPattern>, Arc<ServedCertificate>>;

/// What a table is made of.
#[derive(Default)]
struct Writer {
    sites: Vec<Served>,
    files: Files,
    policies: Policies,
    ca: Option<Ca>,
    /// Leaves of the local CA by their names; kept over reloads until they are due.
    internal: Leaves,
    /// What an issuer delivered or was adopted, by name; kept over reloads.
    installed: BTreeMap<HostPattern, Arc<ServedCertificate>>,
    presenter: Presenter,
}

/// One site and how it is served.
struct Served {
    hosts: Vec<HostPattern>,
    default: bool,
    demand: Demand,
    from: Origin,
}

enum Origin {
    Off,
    Files(FilePair),
    /// The names of the leaf.
    Internal(Vec<HostPattern>),
    /// Internal where nothing is installed.
    Auto(Vec<HostPattern>),
}

/// What an issuer delivered, for [`Store::install_all`].
pub struct Delivered {
    /// The names it is served for.
    pub names: Vec<HostPattern>,
    /// What errors call it.
    pub origin: PathBuf,
    /// Leaf first.
    pub chain_pem: Vec<u8>,
    /// The leaf's key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for Delivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivered")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
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
    /// An empty table: every handshake is refused. `state_dir` is where the local CA lives and
    /// the keys of session tickets are; the latter are read here, and nothing is written
    /// before a site needs it or [`Store::rotate_tickets`] is called.
    ///
    /// # Errors
    /// The random source failed.
    pub fn new(state_dir: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            table: Arc::default(),
            tickets: Arc::new(TicketKeys::open(state_dir, clock::wall())?),
            state_dir: state_dir.to_owned(),
            writer: Mutex::default(),
        })
    }

    /// Replaces the whole table by what `sites` ask for. Files are read again; leaves of the
    /// local CA and installed certificates stay. Sites that share files share the certificate.
    /// Blocks.
    ///
    /// # Errors
    /// Every file that cannot be used; the table is as before then. A reload that can fail in
    /// other places calls this last.
    pub fn apply(&self, sites: &[Site], now: SystemTime) -> Result<Vec<Loaded>, Vec<TlsError>> {
        let mut writer = self.lock();
        let mut errors = Vec::new();
        let files = Files::load(sites, now, &mut errors);
        let policies = Policies::load(sites, &self.tickets, now, &mut errors);
        let internal = self.load_internal(&mut writer, sites, now, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        writer.sites = sites.iter().map(Served::from).collect();
        writer.files = files;
        writer.policies = policies;
        writer.internal = internal;
        self.publish(&mut writer);
        Ok(sites
            .iter()
            .zip(&writer.sites)
            .filter_map(|(site, served)| loaded(site, served, &writer, now))
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
        let delivered = Delivered {
            names: names.to_vec(),
            origin: origin.to_owned(),
            chain_pem: chain_pem.to_vec(),
            key_pem: key_pem.to_vec(),
        };
        let mut results = self.install_all(vec![delivered]);
        results.pop().expect("one for each")
    }

    /// [`Store::install`] for many at once: the table is built and published once. One result
    /// for each, in their order. Blocks.
    pub fn install_all(&self, all: Vec<Delivered>) -> Vec<Result<CertificateInfo, TlsError>> {
        let read = |delivered: Delivered| {
            let origin = delivered.origin.as_path();
            let chain = (origin, delivered.chain_pem.as_slice());
            let pair = Pair::from_pem(chain, (origin, &delivered.key_pem))?;
            let certificate = ServedCertificate::new(pair, delivered.names, Source::Installed);
            Ok(Arc::new(certificate))
        };
        let all: Vec<Result<_, TlsError>> = all.into_iter().map(read).collect();
        let mut writer = self.lock();
        for certificate in all.iter().flatten() {
            for name in &certificate.info().names {
                let certificate = Arc::clone(certificate);
                writer.installed.insert(name.clone(), certificate);
            }
        }
        self.publish(&mut writer);
        let info = |certificate: Arc<ServedCertificate>| certificate.info().clone();
        all.into_iter().map(|result| result.map(info)).collect()
    }

    /// What an issuer delivered for `name`, or another program left behind.
    #[must_use]
    pub fn installed(&self, name: &HostPattern) -> Option<CertificateInfo> {
        let writer = self.lock();
        let certificate = writer.installed.get(name)?;
        Some(certificate.info().clone())
    }

    /// Serves certificates that another program left behind ([`super::adopt::Legacy`]), wherever
    /// a site with `tls = "auto"` answers to their names and nothing was installed. Call it
    /// before the first [`Store::apply`]: names that have a certificate then need none from
    /// the local CA. Returns what is served.
    pub fn adopt(&self, found: Vec<Adopted>) -> Vec<CertificateInfo> {
        let mut writer = self.lock();
        let mut infos = Vec::with_capacity(found.len());
        for adopted in found {
            let source = Source::Adopted(adopted.cert);
            let certificate = ServedCertificate::new(adopted.pair, adopted.names, source);
            let certificate = Arc::new(certificate);
            for name in &certificate.info().names {
                let entry = writer.installed.entry(name.clone());
                entry.or_insert_with(|| Arc::clone(&certificate));
            }
            infos.push(certificate.info().clone());
        }
        self.publish(&mut writer);
        infos
    }

    /// Looks at the files of certificates and client CAs, and serves what is new. Content that
    /// cannot be used changes nothing and is told once, when two looks have found it, so that
    /// nobody is alarmed between the writing of a certificate and of its key. Call it every few
    /// seconds; a call looks at a bounded number of files, the next one goes on. Blocks.
    pub fn watch(&self, now: SystemTime) -> Vec<Event> {
        let mut writer = self.lock();
        let mut events = writer.files.look(now);
        events.extend(writer.policies.look(&self.tickets, now));
        let news = |event: &Event| {
            matches!(
                event,
                Event::Reloaded { .. } | Event::ClientCasReloaded { .. }
            )
        };
        if events.iter().any(news) {
            self.publish(&mut writer);
        }
        events
    }

    /// The files that are broken now, each with what is wrong; their last good content is in
    /// use.
    #[must_use]
    pub fn rejected(&self) -> Vec<(PathBuf, String)> {
        let writer = self.lock();
        let (files, policies) = (writer.files.troubles(), writer.policies.troubles());
        files
            .chain(policies)
            .map(|trouble| (trouble.file.clone(), trouble.error.clone()))
            .collect()
    }

    /// Sites with `tls = "auto"` whose hosts no issuer has certified yet: the local CA's
    /// certificate is served, which clients do not trust.
    #[must_use]
    pub fn uncertified(&self) -> Vec<HostPattern> {
        let writer = self.lock();
        let auto = writer
            .sites
            .iter()
            .filter(|site| matches!(site.from, Origin::Auto(_)));
        auto.flat_map(|site| site.uncertified(&writer.installed))
            .cloned()
            .collect()
    }

    /// Makes a new key for session tickets when the newest is 12 h old, and writes the keys if
    /// the disk does not have them. Call it at start and every few minutes. Blocks. Returns
    /// whether tickets are sealed with another key now.
    ///
    /// # Errors
    /// The keys cannot be written, or what was there could not be read and was replaced. They
    /// are in use all the same.
    pub fn rotate_tickets(&self, now: SystemTime) -> Result<bool, TlsError> {
        self.tickets.rotate(now)
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
        let mut renewed = Leaves::new();
        for names in due {
            let certificate = self.issue(&mut writer.ca, &names, now)?;
            renewed.insert(names, certificate);
        }
        let infos = renewed.values().map(|new| new.info().clone()).collect();
        writer.internal.extend(renewed);
        self.publish(&mut writer);
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

    /// The certificate that a client is shown that asks for `name`; `None`: it is refused.
    #[must_use]
    pub fn certificate_for(&self, name: &str) -> Option<Arc<ServedCertificate>> {
        let table = self.table.load();
        let picked = table.pick(Some(name), None)?;
        Some(Arc::clone(picked.presented.certificate()))
    }

    /// The table as every connection sees it.
    pub(super) fn table(&self) -> &Arc<ArcSwap<Table>> {
        &self.table
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // What a panicking writer leaves was published by nobody, or is complete.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_internal(
        &self,
        writer: &mut Writer,
        sites: &[Site],
        now: SystemTime,
        errors: &mut Vec<TlsError>,
    ) -> Leaves {
        let mut internal = Leaves::new();
        for site in sites {
            let wanted = match site.tls {
                Tls::Internal => true,
                Tls::Auto => {
                    let installed = |host| writer.installed.contains_key(host);
                    site.hosts.is_empty() || !site.hosts.iter().all(installed)
                }
                Tls::Off | Tls::Files { .. } => false,
            };
            if !wanted {
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
        let certificate = ServedCertificate::new(pair, names.to_vec(), Source::Internal);
        Ok(Arc::new(certificate))
    }

    fn publish(&self, writer: &mut Writer) {
        let mut table = Table::default();
        let mut presenter = std::mem::take(&mut writer.presenter);
        presenter.begin();
        for site in &writer.sites {
            site.enter(&mut table, writer, &mut presenter);
        }
        presenter.end();
        writer.presenter = presenter;
        self.table.store(Arc::new(table));
    }
}

impl From<&Site> for Served {
    fn from(site: &Site) -> Self {
        Self {
            hosts: site.hosts.clone(),
            default: site.default,
            demand: Demand::of(site),
            from: match &site.tls {
                Tls::Off => Origin::Off,
                Tls::Internal => Origin::Internal(leaf_names(&site.hosts)),
                Tls::Auto => Origin::Auto(leaf_names(&site.hosts)),
                Tls::Files { cert, key } => Origin::Files((cert.clone(), key.clone())),
            },
        }
    }
}

impl Served {
    fn enter(&self, table: &mut Table, writer: &Writer, presenter: &mut Presenter) {
        let policy = writer.policies.policy(&self.demand);
        let own = self.certificate(writer);
        let mut entry = |host: Option<&HostPattern>| {
            let certificate = self.for_host(host, own, writer);
            present(certificate, policy, presenter)
        };
        for host in &self.hosts {
            let entry = entry(Some(host));
            table.insert(host, entry);
        }
        if self.default
            && let Entry::Certificate(presented) = entry(self.hosts.first())
        {
            table.set_default(presented);
        }
    }

    /// What `host` is served with; `own` is what the site has for all of its hosts.
    fn for_host<'a>(
        &self,
        host: Option<&HostPattern>,
        own: Option<&'a Arc<ServedCertificate>>,
        writer: &'a Writer,
    ) -> Option<&'a Arc<ServedCertificate>> {
        match &self.from {
            Origin::Auto(_) => host.and_then(|host| writer.installed.get(host)).or(own),
            Origin::Off | Origin::Files(_) | Origin::Internal(_) => own,
        }
    }

    fn certificate<'a>(&self, writer: &'a Writer) -> Option<&'a Arc<ServedCertificate>> {
        match &self.from {
            Origin::Off => None,
            Origin::Files(pair) => writer.files.certificate(pair),
            Origin::Internal(names) | Origin::Auto(names) => writer.internal.get(names),
        }
    }

    fn uncertified<'a>(
        &'a self,
        installed: &'a BTreeMap<HostPattern, Arc<ServedCertificate>>,
    ) -> impl Iterator<Item = &'a HostPattern> {
        let hosts = self.hosts.iter().filter(|host| !host.is_private());
        hosts.filter(|host| !installed.contains_key(host))
    }
}

/// Without a certificate or a policy nobody can be served; both are there unless TLS is off.
fn present(
    certificate: Option<&Arc<ServedCertificate>>,
    policy: Option<&Arc<Policy>>,
    presenter: &mut Presenter,
) -> Entry {
    match (certificate, policy) {
        (Some(certificate), Some(policy)) => {
            Entry::Certificate(presenter.present(certificate, policy))
        }
        _ => Entry::Off,
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
    let names: BTreeSet<_> = hosts.iter().cloned().collect();
    names.into_iter().collect()
}

fn loaded(site: &Site, served: &Served, writer: &Writer, now: SystemTime) -> Option<Loaded> {
    let own = served.certificate(writer);
    let certificate = served.for_host(site.hosts.first(), own, writer)?;
    let warnings = match &site.tls {
        Tls::Files { cert, key } => warnings(certificate, &site.hosts, cert, key, now),
        Tls::Auto => {
            let hosts: Vec<_> = served.uncertified(&writer.installed).cloned().collect();
            let warning = (!hosts.is_empty()).then_some(Warning::Uncertified { hosts });
            warning.into_iter().collect()
        }
        Tls::Internal | Tls::Off => Vec::new(),
    };
    Some(Loaded {
        certificate: certificate.info().clone(),
        warnings,
    })
}
