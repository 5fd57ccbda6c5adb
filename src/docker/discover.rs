//! From containers to services, slots and sites. Pure: an inventory, what the configuration file
//! says and what was decided before go in; what is to be served and what is wrong come out.
//!
//! A container belongs to a service by the file (`docker = { service = "web" }` names its Compose
//! service), by its `cutover.*` labels, or by those of caddy-docker-proxy. The Compose project,
//! without a color at its end, owns names and hosts: whoever came first keeps them, hosts for an hour
//! even without a container, and the file comes before everybody. What cannot be served is a [`Problem`] and changes nothing about the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::address::{address, port};
use super::caddy::{self, Compiled, Unit};
use super::color;
use super::group::{Group, Groups, Member};
use super::inventory::{Container, Health, Inventory, Place};
use super::labels::{self, Labels, Made};
use super::memory::Memory;
use super::problem::Problem;
use super::sites::{CaddySite, Hosts, Wish};
use crate::config::{Config, DockerService, JoinedSite, Service, Slot};
use crate::model::{Color, Endpoint, Release, Scheme, ServiceName, UpstreamAddr};

/// What is known beside the containers.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What the configuration file says, without anything found.
    pub file: &'a Config,
    /// `[docker] network`.
    pub network: Option<&'a str>,
    /// Which slot of a service is live; `None`: it was never served.
    pub live: &'a dyn Fn(&ServiceName) -> Option<Color>,
    /// Whether a slot must stay though nothing runs there: its service is being switched.
    pub keep: &'a dyn Fn(&ServiceName, Color) -> bool,
    /// Wall clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovered {
    /// Services whose slots are filled by containers, those of the file as well.
    pub services: Vec<Service>,
    /// Sites of labels.
    pub sites: Vec<JoinedSite>,
    /// Which container is behind an upstream.
    pub origins: BTreeMap<UpstreamAddr, Origin>,
    /// The slots that each container fills, by its id.
    pub members: BTreeMap<String, Vec<(ServiceName, Color)>>,
    /// Services whose live slot has no container that runs or will.
    pub deserted: BTreeSet<ServiceName>,
    /// What is wrong, in the order of the containers' names.
    pub problems: Vec<Problem>,
}

/// The container behind an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was started: another start is another upstream.
    pub started: String,
    /// What its HEALTHCHECK says.
    pub health: Option<Health>,
}

impl Discovered {
    /// The file with what was found.
    #[must_use]
    pub fn merged(&self, file: &Config) -> Config {
        file.clone()
            .joined(self.services.clone(), self.sites.clone())
    }
}

/// Discovers again and again, and reads what did not change only once.
#[derive(Debug, Default)]
pub struct Discoverer {
    /// What was decided so far.
    pub memory: Memory,
    labels: HashMap<(String, String), Arc<Labels>>,
    compiled: HashMap<String, (Vec<Unit>, Arc<Compiled>)>,
    made: Made,
    hosts: Hosts,
}

/// Where the upstreams of a service come from.
#[derive(Clone, Debug)]
struct Source {
    group: String,
    /// Of a label of caddy-docker-proxy; `None`: by label, file or what is exposed.
    port: Option<u16>,
    scheme: Scheme,
}

/// A service before its slots are filled.
#[derive(Clone, Debug)]
struct Plan {
    service: Service,
    sources: Vec<Source>,
    /// Upstreams that no container is behind.
    others: Vec<UpstreamAddr>,
}

impl Discoverer {
    /// Begins with what was decided before.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

    /// What these containers mean.
    pub fn discover(&mut self, inventory: &Inventory, cx: &Context<'_>) -> Discovered {
        let mut found = Discovered::default();
        let containers = in_order(inventory);
        let read = self.read(&containers);
        let groups = Groups::form(
            &containers,
            &read,
            &inventory.own,
            cx.file,
            &mut self.memory,
            &mut found.problems,
        );
        let lives = Lives::of(&groups, &self.memory, cx);
        let colors = self.colors(&groups, &lives);
        let known: BTreeSet<&str> = inventory.containers.keys().map(String::as_str).collect();
        self.memory
            .colors
            .retain(|id, _| known.contains(id.as_str()));

        let (mut plans, caddy_sites) = self.caddy(&groups, cx, &mut found.problems);
        let made = &mut self.made;
        plans.extend(groups.iter().filter_map(|(name, group)| {
            let problems = &mut found.problems;
            let service = by_labels(name, group, &colors, &lives, cx, made, problems)?;
            Some(Plan {
                service,
                sources: vec![Source {
                    group: name.clone(),
                    port: None,
                    scheme: Scheme::Http,
                }],
                others: Vec::new(),
            })
        }));
        let wishes = wishes(&groups);
        found.sites = self.hosts.settle(
            (&wishes, &caddy_sites),
            cx.file,
            &groups,
            &mut self.memory.hosts,
            cx.now_ms,
            &mut found.problems,
        );
        let led_to: BTreeSet<&ServiceName> =
            found.sites.iter().flat_map(|site| &site.services).collect();
        plans.retain(|plan| {
            led_to.contains(&plan.service.name)
                || cx.file.services.iter().any(|s| s.name == plan.service.name)
        });
        let mut filler = Filler {
            inventory,
            cx,
            groups: &groups,
            colors: &colors,
            lives: &lives,
            told: BTreeSet::new(),
        };
        for plan in plans {
            let service = filler.fill(plan, &mut found);
            found.services.push(service);
        }
        empty_ones_of_the_file(&lives, cx, &mut found);
        found.services.sort_by(|a, b| a.name.cmp(&b.name));
        found.problems.sort();
        found.problems.dedup();
        found
    }

    fn read(&mut self, containers: &[&Container]) -> Vec<Arc<Labels>> {
        let mut kept = HashMap::with_capacity(containers.len());
        let mut read = Vec::with_capacity(containers.len());
        for container in containers {
            let key = (container.id.clone(), container.name.clone());
            let known = self.labels.remove(&key);
            let labels = known.unwrap_or_else(|| Arc::new(labels::read(container)));
            kept.insert(key, Arc::clone(&labels));
            read.push(labels);
        }
        self.labels = kept;
        read
    }

    /// The color of every container of a group, by its id.
    fn colors(&mut self, groups: &Groups<'_>, lives: &Lives<'_>) -> BTreeMap<String, Color> {
        let mut colors = BTreeMap::new();
        let before = self.memory.colors.clone();
        for (name, group) in groups.iter() {
            let live = lives.get(&name.as_str().into());
            let mut slots = color::Slots::new(live, &before);
            // As they were made: what came later had not been there to join.
            for member in &group.members {
                let id = &member.container.id;
                let written = color::written(member.container, member.labels.color);
                let color = match written.or_else(|| slots.chosen.get(id).copied()) {
                    Some(color) => {
                        slots.holds(member.container, color);
                        color
                    }
                    None => {
                        let color = slots.choose(member.container);
                        self.memory.colors.insert(id.clone(), color);
                        color
                    }
                };
                colors.insert(id.clone(), color);
            }
        }
        colors
    }

    /// Services and sites of the labels of caddy-docker-proxy, project by project.
    fn caddy(
        &mut self,
        groups: &Groups<'_>,
        cx: &Context<'_>,
        problems: &mut Vec<Problem>,
    ) -> (Vec<Plan>, Vec<CaddySite>) {
        let mut by_project: BTreeMap<&str, Vec<Unit>> = BTreeMap::new();
        let mut ranks: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, group) in groups.iter() {
            for member in group.members.iter().filter(|member| member.is_caddy) {
                let unit = Unit {
                    container: member.container.name.clone(),
                    service: name.clone(),
                    labels: caddy::labels(member.container),
                };
                let rank = ranks.entry(&group.project).or_insert(member.rank);
                *rank = member.rank.min(*rank);
                let units = by_project.entry(&group.project).or_default();
                let same =
                    |known: &Unit| known.service == unit.service && known.labels == unit.labels;
                if !units.iter().any(same) {
                    units.push(unit);
                }
            }
        }
        let mut kept = HashMap::new();
        let (mut plans, mut sites) = (Vec::new(), Vec::new());
        for (project, units) in by_project {
            let mut services: Vec<String> = units.iter().map(|unit| unit.service.clone()).collect();
            services.sort();
            services.dedup();
            let known = self.compiled.remove(project);
            let known = known.filter(|(before, _)| *before == units);
            let (units, compiled) = known.unwrap_or_else(|| {
                let compiled = caddy::compile(&units, &services);
                (units, Arc::new(compiled))
            });
            problems.extend(compiled.problems.iter().cloned());
            if let Some(config) = &compiled.config {
                let named = name_services(config, &services);
                let names: Vec<_> = named.iter().map(|plan| plan.service.name.clone()).collect();
                sites.extend(config.sites.iter().map(|site| {
                    let site = JoinedSite {
                        site: site.clone(),
                        services: names.clone(),
                    };
                    CaddySite {
                        project: project.to_owned(),
                        rank: ranks.get(project).copied().unwrap_or_default(),
                        site,
                    }
                }));
                for mut plan in named {
                    plan.service.rollback = cx.file.rollback.clone();
                    let group = plan.sources.first().map(|source| source.group.clone());
                    if let Some(group) = group.and_then(|name| groups.get(&name)) {
                        let keys = group.keys();
                        apply_keys(
                            &mut plan.service,
                            &keys,
                            group,
                            cx.file,
                            &mut self.made,
                            problems,
                        );
                    }
                    plans.push(plan);
                }
            }
            kept.insert(project.to_owned(), (units, compiled));
        }
        self.compiled = kept;
        (plans, sites)
    }
}

/// Which slot of each service is live.
struct Lives<'a> {
    cx: &'a Context<'a>,
    /// Of services that were never served.
    first: BTreeMap<ServiceName, Color>,
}

impl<'a> Lives<'a> {
    /// A service that was never served begins as the file says, else with blue, else with the only
    /// slot that has containers.
    fn of(groups: &Groups<'_>, memory: &Memory, cx: &'a Context<'a>) -> Self {
        let mut first = BTreeMap::new();
        for (name, group) in groups.iter() {
            let name = ServiceName::from(name.as_str());
            let color = |member: &Member<'_>| {
                let written = color::written(member.container, member.labels.color);
                written.or_else(|| memory.colors.get(&member.container.id).copied())
            };
            let all_green = group
                .members
                .iter()
                .all(|one| color(one) == Some(Color::Green));
            if all_green {
                first.insert(name, Color::Green);
            }
        }
        Self { cx, first }
    }

    fn get(&self, name: &ServiceName) -> Color {
        let in_file = || {
            let mut services = self.cx.file.services.iter();
            services.find(|service| service.name == *name)?.live
        };
        (self.cx.live)(name)
            .or_else(in_file)
            .or_else(|| self.first.get(name).copied())
            .unwrap_or(Color::Blue)
    }
}

/// All containers that may serve, those of the proxy's own project first, then by age.
fn in_order(inventory: &Inventory) -> Vec<&Container> {
    let (own, project) = match &inventory.own {
        Place::Container { id, project, .. } => (id.as_str(), Color::ending(project).0),
        Place::Host | Place::Unknown => ("", ""),
    };
    let mut containers: Vec<_> = inventory
        .containers
        .values()
        .map(|container| &**container)
        .filter(|c| c.id != own && !c.is_one_off())
        .collect();
    containers.sort_by_key(|c| {
        let is_strange = project.is_empty() || Color::ending(c.project()).0 != project;
        (is_strange, &c.created, &c.id)
    });
    containers
}

/// The services of a compiled configuration under the names of the Compose services that they lead to.
fn name_services(config: &Config, services: &[String]) -> Vec<Plan> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let plans = config.services.iter().map(|service| {
        let (mut sources, mut others) = (Vec::new(), Vec::new());
        let slots = service.slots.iter().flatten();
        for upstream in slots.flat_map(|slot| &slot.upstreams) {
            let source = match upstream.endpoint() {
                Endpoint::Name { host, port } => caddy::number(host)
                    .and_then(|number| services.get(number))
                    .map(|group| Source {
                        group: group.clone(),
                        port: Some(*port),
                        scheme: upstream.scheme(),
                    }),
                Endpoint::Socket(_) | Endpoint::Unix(_) => None,
            };
            match source {
                Some(source) => sources.push(source),
                None => others.push(upstream.clone()),
            }
        }
        let mut service = service.clone();
        if let Some(Source { group, port, .. }) = sources.first() {
            let long = format!("{group}-{}", port.unwrap_or_default());
            let numbered = (2..).map(|n| format!("{long}-{n}"));
            let mut names = [group.clone(), long.clone()].into_iter().chain(numbered);
            let name = names.find(|name| taken.insert(name.clone()));
            service.name = name.unwrap_or(long).into();
        }
        Plan {
            service,
            sources,
            others,
        }
    });
    plans.collect()
}

/// The service of a group by the file and its labels. `None`: labels of caddy-docker-proxy describe
/// it.
fn by_labels(
    name: &str,
    group: &Group<'_>,
    colors: &BTreeMap<String, Color>,
    lives: &Lives<'_>,
    cx: &Context<'_>,
    made: &mut Made,
    problems: &mut Vec<Problem>,
) -> Option<Service> {
    if let Some(service) = cx.file.services.iter().find(|s| s.name.as_str() == name) {
        for member in &group.members {
            if let Some(key) = member.labels.keys.keys().next() {
                problems.push(Problem::new(
                    &member.container.name,
                    format!("label cutover.{key}: the service {name} is in the configuration file"),
                    "set it there",
                ));
            }
        }
        return Some(service.clone());
    }
    if !group.members.iter().any(|member| !member.is_caddy) {
        return None;
    }
    let live = lives.get(&name.into());
    let mut service = Service {
        docker: Some(DockerService {
            service: group.compose.clone(),
            project: None,
            port: None,
        }),
        rollback: cx.file.rollback.clone(),
        ..Service::new(name)
    };
    // The live slot says how the service is, not what may follow it.
    let is_live = |member: &&Member<'_>| colors.get(&member.container.id) == Some(&live);
    // Of what runs, if anything does: a release that is kept there says nothing.
    let runs = |member: &&Member<'_>| is_live(member) && member.container.may_serve();
    let keys = [
        group.keys_of(group.members.iter().filter(runs)),
        group.keys_of(group.members.iter().filter(is_live)),
    ];
    let keys = keys.into_iter().find(|keys| !keys.is_empty());
    let keys = keys.unwrap_or_else(|| group.keys());
    apply_keys(&mut service, &keys, group, cx.file, made, problems);
    Some(service)
}

/// Sets the keys of labels, each of which is right alone.
fn apply_keys(
    service: &mut Service,
    keys: &BTreeMap<String, String>,
    group: &Group<'_>,
    file: &Config,
    made: &mut Made,
    problems: &mut Vec<Problem>,
) {
    if keys.is_empty() {
        return;
    }
    match &*made.service(keys, &file.rollback) {
        Ok(read) => {
            let read = read.clone();
            let has = |table: &str| keys.keys().any(|key| key.split('.').next() == Some(table));
            if has("balance") {
                service.balance = read.balance;
            }
            if has("sticky") {
                service.sticky = read.sticky;
            }
            if has("health") {
                service.health = read.health;
            }
            if has("eject") {
                service.eject = read.eject;
            }
            if has("switch") {
                service.switch = read.switch;
            }
            if has("rollback") {
                service.rollback = read.rollback;
            }
        }
        Err(errors) => {
            let name = group
                .members
                .first()
                .map_or("", |m| m.container.name.as_str());
            problems.push(Problem::new(
                name,
                format!("its labels contradict each other: {}", errors.join("; ")),
                "see [service.NAME] in docs/config.md",
            ));
        }
    }
}

/// Hosts and paths that `cutover.*` labels ask for.
fn wishes(groups: &Groups<'_>) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for (name, group) in groups.iter() {
        for member in &group.members {
            for host in &member.labels.hosts {
                wishes.push(Wish {
                    host: host.clone(),
                    paths: member.labels.paths.clone(),
                    tls: member.labels.tls.clone(),
                    service: name.as_str().into(),
                    project: group.project.clone(),
                    container: member.container.name.clone(),
                    rank: member.rank,
                });
            }
        }
    }
    wishes.sort_by_key(|wish| wish.rank);
    wishes
}

/// Puts containers into slots.
struct Filler<'a> {
    inventory: &'a Inventory,
    cx: &'a Context<'a>,
    groups: &'a Groups<'a>,
    colors: &'a BTreeMap<String, Color>,
    lives: &'a Lives<'a>,
    /// Containers whose address or port is told to be missing.
    told: BTreeSet<String>,
}

impl Filler<'_> {
    fn fill(&mut self, plan: Plan, found: &mut Discovered) -> Service {
        let Plan {
            mut service,
            sources,
            others,
        } = plan;
        let live = self.lives.get(&service.name);
        let mut upstreams: [Vec<UpstreamAddr>; 2] = Default::default();
        let mut releases: [Option<Release>; 2] = Default::default();
        let mut present = [false; 2];
        let mut serves = [false; 2];
        upstreams[live.index()].extend(others.iter().cloned());
        present[live.index()] |= !others.is_empty();
        serves[live.index()] |= !others.is_empty();
        for source in &sources {
            let Some(group) = self.groups.get(&source.group) else {
                continue;
            };
            for member in &group.members {
                let container = member.container;
                let Some(color) = self.colors.get(&container.id).copied() else {
                    continue;
                };
                let at = color.index();
                present[at] = true;
                let of_it = found.members.entry(container.id.clone()).or_default();
                of_it.push((service.name.clone(), color));
                // The youngest is what was released last; of what runs, if anything does.
                if container.may_serve() || !serves[at] {
                    releases[at] = Some(release(container, &member.labels));
                }
                serves[at] |= container.may_serve();
                if !container.takes_requests() {
                    continue;
                }
                match self.upstream(&service, source, member) {
                    Ok(upstream) => {
                        found.origins.insert(
                            upstream.clone(),
                            Origin {
                                id: container.id.clone(),
                                name: container.name.clone(),
                                started: container.started.clone(),
                                health: container.health,
                            },
                        );
                        if !upstreams[at].contains(&upstream) {
                            upstreams[at].push(upstream);
                        }
                    }
                    Err(problem) => {
                        if self.told.insert(container.id.clone()) {
                            found.problems.push(problem);
                        }
                    }
                }
            }
        }
        if !serves[live.index()] {
            found.deserted.insert(service.name.clone());
        }
        for (color, (upstreams, release)) in Color::ALL
            .into_iter()
            .zip(upstreams.into_iter().zip(releases))
        {
            let stays =
                present[color.index()] || color == live || (self.cx.keep)(&service.name, color);
            service.slots[color.index()] = stays.then_some(Slot { upstreams, release });
        }
        service
    }

    fn upstream(
        &self,
        service: &Service,
        source: &Source,
        member: &Member<'_>,
    ) -> Result<UpstreamAddr, Problem> {
        let container = member.container;
        let label = member.labels.network.as_deref();
        let ingress = container.label("caddy_ingress_network");
        let wanted = label.or(ingress).or(self.cx.network);
        let address = address(container, &self.inventory.own, wanted)?;
        let in_file = service.docker.as_ref().and_then(|docker| docker.port);
        let named = member.labels.port.or(source.port).or(in_file);
        let port = port(container, named)?;
        let scheme = match source.scheme {
            Scheme::Http => "",
            Scheme::Https => "https://",
            Scheme::H2c => "h2c://",
        };
        let at = std::net::SocketAddr::new(address, port);
        format!("{scheme}{at}").parse().map_err(|error| {
            Problem::new(
                &container.name,
                format!("{at}: {error}"),
                "name another port",
            )
        })
    }
}

/// Services of the file that no container fills are there all the same: their sites answer 503.
fn empty_ones_of_the_file(lives: &Lives<'_>, cx: &Context<'_>, found: &mut Discovered) {
    for service in &cx.file.services {
        let is_found = found
            .services
            .iter()
            .any(|known| known.name == service.name);
        if service.docker.is_none() || is_found {
            continue;
        }
        let mut service = service.clone();
        let live = lives.get(&service.name);
        for color in Color::ALL {
            let stays = color == live || (cx.keep)(&service.name, color);
            service.slots[color.index()] = stays.then(|| Slot {
                upstreams: Vec::new(),
                release: None,
            });
        }
        found.services.push(service);
    }
}

/// What runs in a container: its label, else its image; with the image's id where the tag says
/// nothing of the version.
fn release(container: &Container, labels: &Labels) -> Release {
    if let Some(release) = &labels.release {
        return release.as_str().into();
    }
    let image = container.image.as_str();
    let id = container.image_id.trim_start_matches("sha256:");
    let id: String = id.chars().take(12).collect();
    let last = image.rsplit('/').next().unwrap_or(image);
    let has_version = last.contains('@') || (last.contains(':') && !last.ends_with(":latest"));
    match has_version || id.is_empty() {
        true => image.into(),
        false => {
            let name = image.trim_end_matches(":latest");
            format!("{name}@{id}").into()
        }
    }
}

impl Container {
    /// Whether it runs, or will without anybody's doing.
    fn may_serve(&self) -> bool {
        use super::inventory::State;
        match self.state {
            State::Running | State::Paused | State::Restarting => true,
            State::Created | State::Ended => false,
        }
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
