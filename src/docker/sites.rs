//! Which host belongs to whom, and the sites that come of it. Pure.
//!
//! A host that the configuration file has, or a wildcard of it covers, is the file's; one that
//! another Compose project asked for first is that project's, for an hour also while that is down.
//! Within one project, several services may share a host by path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, UNIX_EPOCH};

use super::group::{Groups, of_project};
use super::memory::{Claims, HostClaim};
use super::problem::Problem;
use crate::clock;
use crate::config::{self, Config, Env, JoinedSite};
use crate::model::{HostPattern, PathPattern, ServiceName};

/// A host, and paths of it, that a container's labels ask for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) host: HostPattern,
    /// Empty: every path.
    pub(super) paths: Vec<PathPattern>,
    pub(super) tls: Option<String>,
    pub(super) service: ServiceName,
    pub(super) project: String,
    pub(super) container: String,
    /// The lower one comes first.
    pub(super) rank: usize,
}

/// A site of caddy-docker-proxy's labels.
#[derive(Clone, Debug)]
pub(super) struct CaddySite {
    pub(super) project: String,
    /// The lower one comes first.
    pub(super) rank: usize,
    pub(super) site: JoinedSite,
}

/// Sites that were made before, by their text.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Result<JoinedSite, String>>);

/// A host while its paths are given away.
#[derive(Debug, Default)]
struct Host {
    container: String,
    tls: Option<String>,
    /// Of each path; `None`: of all others.
    routes: Vec<(Option<PathPattern>, ServiceName)>,
}

impl Hosts {
    /// Gives every host to whom it belongs. `held`: who holds which, before and after; `now_ms`: wall
    /// clock, in milliseconds since 1970.
    pub(super) fn settle(
        &mut self,
        (wishes, caddy): (&[Wish], &[CaddySite]),
        file: &Config,
        groups: &Groups<'_>,
        held: &mut BTreeMap<String, HostClaim>,
        now_ms: u64,
        problems: &mut Vec<Problem>,
    ) -> Vec<JoinedSite> {
        let asked = asked(wishes, caddy);
        let before = std::mem::take(held);
        let gone = gone(&before, &asked, groups, now_ms);
        let holders: BTreeMap<String, String> = before
            .into_iter()
            .map(|(host, claim)| (host, claim.project))
            .collect();
        let reserved = gone
            .iter()
            .map(|(host, claim)| (host.clone(), claim.project.clone()));
        let wanted: BTreeSet<_> = asked.keys().cloned().chain(reserved).collect();
        let mut giver = Giver {
            file,
            claims: Claims::new(&holders, wanted.clone()),
            gone: &gone,
        };
        // Those who hold a wildcard must be known before others ask for what it covers.
        for (host, project) in wanted
            .iter()
            .filter(|pair| holders.get(&pair.0) == Some(&pair.1))
        {
            let _ = giver.claims.claim(host, project);
        }
        // Then those who came first, whatever their kind of labels.
        let mut in_order: Vec<_> = wishes
            .iter()
            .map(|wish| {
                (
                    wish.rank,
                    &wish.host,
                    &wish.project,
                    std::slice::from_ref(&wish.service),
                )
            })
            .chain(caddy.iter().flat_map(|one| {
                let hosts = one.site.site.hosts.iter();
                hosts.map(|host| (one.rank, host, &one.project, &*one.site.services))
            }))
            .collect();
        in_order.sort_by_key(|(rank, ..)| *rank);
        for (_, host, project, services) in in_order {
            // Who does not get it is told below.
            let _ = giver.may_have(host, project, services);
        }
        let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
        for wish in wishes {
            let leads_there = [wish.service.clone()];
            match giver.may_have(&wish.host, &wish.project, &leads_there) {
                Ok(true) => give(
                    hosts.entry(wish.host.to_string()).or_default(),
                    wish,
                    problems,
                ),
                Ok(false) => {}
                Err((what, fix)) => problems.push(Problem::new(&wish.container, what, fix)),
            }
        }
        let mut sites = self.build(&hosts, problems);
        for CaddySite { project, site, .. } in caddy {
            let mut site = site.clone();
            site.site.hosts.retain(|host| {
                let name = host.to_string();
                let given = match hosts.contains_key(&name) {
                    true => Err((
                        format!("the host {name} is given by cutover.host and by caddy labels"),
                        "use one kind of labels for a host",
                    )),
                    false => giver.may_have(host, project, &site.services),
                };
                match given {
                    Ok(has) => has,
                    Err((what, fix)) => {
                        problems.push(Problem::new(of_project(project), what, fix));
                        false
                    }
                }
            });
            // 80 and 443 are wherever [listen] has them.
            site.site.port = None;
            if !site.site.hosts.is_empty() {
                sites.push(site);
            }
        }
        *held = now_held(giver.claims, &asked, &gone);
        sites
    }

    fn build(
        &mut self,
        hosts: &BTreeMap<String, Host>,
        problems: &mut Vec<Problem>,
    ) -> Vec<JoinedSite> {
        let mut kept = HashMap::with_capacity(hosts.len());
        let mut sites = Vec::with_capacity(hosts.len());
        for (name, host) in hosts {
            let text = text(name, host);
            let made = self.0.remove(&text).unwrap_or_else(|| made(&text));
            match &made {
                Ok(site) => sites.push(site.clone()),
                Err(why) => problems.push(Problem::new(
                    &host.container,
                    format!("the host {name}: {why}"),
                    "see docs/docker.md",
                )),
            }
            kept.insert(text, made);
        }
        self.0 = kept;
        sites
    }
}

/// Hosts with the projects that ask for them, and the services whose containers do.
type Asked = BTreeMap<(String, String), BTreeSet<ServiceName>>;

fn asked(wishes: &[Wish], caddy: &[CaddySite]) -> Asked {
    let mut asked = Asked::new();
    for wish in wishes {
        let pair = (wish.host.to_string(), wish.project.clone());
        asked.entry(pair).or_default().insert(wish.service.clone());
    }
    for one in caddy {
        for host in &one.site.site.hosts {
            let pair = (host.to_string(), one.project.clone());
            let services = one.site.services.iter().cloned();
            asked.entry(pair).or_default().extend(services);
        }
    }
    asked
}

/// What is kept for projects that were there before and do not ask any more.
fn gone(
    before: &BTreeMap<String, HostClaim>,
    asked: &Asked,
    groups: &Groups<'_>,
    now_ms: u64,
) -> BTreeMap<String, HostClaim> {
    let kept = |(host, claim): (&String, &HostClaim)| {
        if asked.contains_key(&(host.clone(), claim.project.clone())) {
            return None;
        }
        let is_there = |service: &ServiceName| {
            let group = groups.get(service.as_str());
            group.is_some_and(|group| group.project == claim.project)
        };
        Some((host.clone(), claim.without_containers(now_ms, is_there)?))
    };
    before.iter().filter_map(kept).collect()
}

/// Who holds which host from now on.
fn now_held(
    claims: Claims<'_>,
    asked: &Asked,
    gone: &BTreeMap<String, HostClaim>,
) -> BTreeMap<String, HostClaim> {
    let claim = |(host, project): (String, String)| {
        let pair = (host, project);
        let claim = match (asked.get(&pair), gone.get(&pair.0)) {
            (None, Some(gone)) => gone.clone(),
            (services, _) => HostClaim {
                project: pair.1,
                services: services.cloned().unwrap_or_default(),
                gone_ms: None,
            },
        };
        (pair.0, claim)
    };
    claims.held().into_iter().map(claim).collect()
}

/// Why a host is not given, and what to do.
type Refusal = (String, &'static str);

/// Says who may have which host.
struct Giver<'a> {
    file: &'a Config,
    claims: Claims<'a>,
    /// Hosts of projects that are down.
    gone: &'a BTreeMap<String, HostClaim>,
}

impl Giver<'_> {
    /// Whether a host may be had. False: the file leads it to the same service already.
    fn may_have(
        &mut self,
        host: &HostPattern,
        project: &str,
        services: &[ServiceName],
    ) -> Result<bool, Refusal> {
        for site in &self.file.sites {
            let Some(own) = site.hosts.iter().find(|own| covers(own, host)) else {
                continue;
            };
            let targets = site.routes.iter().filter_map(|route| route.service);
            let mut targets = targets.chain(site.service);
            let is_same = own == host
                && targets.any(|at| {
                    let target = self.file.services.get(at.0);
                    target.is_some_and(|target| services.contains(&target.name))
                });
            return match is_same {
                true => Ok(false),
                false => Err((
                    format!("the host {host} belongs to the configuration file ({own})"),
                    "remove the label, or the host from the file",
                )),
            };
        }
        let name = host.to_string();
        if let HostPattern::Exact(exact) = host
            && let Some((_, rest)) = exact.split_once('.')
        {
            let wildcard = format!("*.{rest}");
            let holder = self.claims.holder(&wildcard);
            if let Some(holder) = holder.filter(|holder| *holder != project) {
                return Err(self.taken(host, holder, &wildcard));
            }
        }
        match self.claims.claim(&name, project) {
            Ok(()) => Ok(true),
            Err(holder) => Err(self.taken(host, &holder, &name)),
        }
    }

    /// `by`: the host of the holder, which may be a wildcard of this one.
    fn taken(&self, host: &HostPattern, holder: &str, by: &str) -> Refusal {
        let mut what = format!("the host {host} belongs to {}", of_project(holder));
        if by != host.to_string() {
            what.push_str(&format!(" ({by})"));
        }
        match self.gone.get(by).and_then(HostClaim::free_ms) {
            Some(free) => {
                let free = clock::rfc3339(UNIX_EPOCH + Duration::from_millis(free));
                what.push_str(&format!(", which is down and keeps it until {free}"));
                (
                    what,
                    "wait until then, choose another host, or name the host in the configuration file",
                )
            }
            None => (what, "choose another host, or remove the label there"),
        }
    }
}

/// Whether requests for `host` come to a site with `own`.
fn covers(own: &HostPattern, host: &HostPattern) -> bool {
    match (own, host) {
        (HostPattern::Wildcard(own), HostPattern::Exact(host)) => {
            host.split_once('.').is_some_and(|(_, rest)| rest == own)
        }
        (own, host) => own == host,
    }
}

fn give(host: &mut Host, wish: &Wish, problems: &mut Vec<Problem>) {
    if host.routes.is_empty() {
        host.container.clone_from(&wish.container);
        host.tls.clone_from(&wish.tls);
    }
    let every = [None];
    let some: Vec<_> = wish.paths.iter().cloned().map(Some).collect();
    let paths = if some.is_empty() { &every[..] } else { &some };
    for path in paths {
        match host.routes.iter().find(|(known, _)| known == path) {
            None => host.routes.push((path.clone(), wish.service.clone())),
            Some((_, service)) if *service == wish.service => {}
            Some((_, service)) => {
                let path = path.as_ref().map_or_else(String::new, ToString::to_string);
                problems.push(Problem::new(
                    &wish.container,
                    format!("{}{path} leads to the service {service} already", wish.host),
                    "give one of the two another cutover.path, or both the same cutover.service",
                ));
            }
        }
    }
}

/// The site of a host as TOML.
fn text(name: &str, host: &Host) -> String {
    let quoted = |text: &str| super::labels::escaped(&config::text_value(text));
    let mut text = format!("[[site]]\nhosts = [{}]\n", quoted(name));
    if let Some(tls) = &host.tls {
        text.push_str(&format!("tls = {}\n", quoted(tls)));
    }
    for (_, service) in host.routes.iter().filter(|(path, _)| path.is_none()) {
        text.push_str(&format!("service = {}\n", quoted(service.as_str())));
    }
    for (path, service) in &host.routes {
        if let Some(path) = path {
            let (path, service) = (quoted(&path.to_string()), quoted(service.as_str()));
            text.push_str(&format!(
                "[[site.route]]\npath = {path}\nservice = {service}\n"
            ));
        }
    }
    let services: BTreeSet<_> = host.routes.iter().map(|(_, service)| service).collect();
    for service in services {
        let service = quoted(service.as_str());
        text.push_str(&format!("[service.{service}]\nblue = [\"127.0.0.1:1\"]\n"));
    }
    text
}

fn made(text: &str) -> Result<JoinedSite, String> {
    let nothing = Env::from_iter::<[(String, String); 0]>([]);
    let read = config::load_str_with("labels", text, &nothing);
    let mut config = read.map_err(|errors| {
        let first = errors.0.into_iter().next();
        first.map_or_else(String::new, |error| error.message)
    })?;
    let site = config.sites.pop().ok_or("no site")?;
    Ok(JoinedSite {
        site,
        services: config.services.into_iter().map(|s| s.name).collect(),
    })
}
