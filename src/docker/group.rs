//! Which service each container belongs to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::caddy;
use super::inventory::{Container, Place};
use super::labels::Labels;
use super::memory::{Claims, Memory};
use super::problem::Problem;
use crate::config::{Config, Kind, Service};
use crate::model::Color;

/// A container of a service.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) container: &'a Container,
    pub(super) labels: Arc<Labels>,
    /// Labels of caddy-docker-proxy describe it, and none of ours.
    pub(super) is_caddy: bool,
    /// Its place among all containers.
    pub(super) rank: usize,
}

/// The containers of one service.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    /// Their Compose project, without a color at its end; empty: none.
    pub(super) project: String,
    /// Their Compose service, without a color at its end.
    pub(super) compose: String,
    /// In order; at least one.
    pub(super) members: Vec<Member<'a>>,
}

impl<'a> Group<'a> {
    /// Keys of all members; the youngest wins.
    pub(super) fn keys(&self) -> BTreeMap<String, String> {
        self.keys_of(self.members.iter())
    }

    /// Keys of some members; the youngest wins.
    pub(super) fn keys_of<'m>(
        &self,
        members: impl Iterator<Item = &'m Member<'a>>,
    ) -> BTreeMap<String, String>
    where
        'a: 'm,
    {
        let mut keys = BTreeMap::new();
        for member in members {
            keys.extend(member.labels.keys.clone());
        }
        keys
    }
}

/// All services that have containers, by name.
#[derive(Debug, Default)]
pub(super) struct Groups<'a>(BTreeMap<String, Group<'a>>);

/// A container that is to be served, before its service has a name.
struct Candidate<'a> {
    member: Member<'a>,
    project: String,
    compose: String,
    name: Name,
    nearness: Nearness,
}

/// How near a container is to the proxy: where several projects have a Compose service of the name
/// that the file says, only those of the nearest can be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    /// It is of the proxy's own Compose project.
    Own,
    /// It can be reached.
    Near,
    /// It is on no network of the proxy.
    Far,
}

impl Nearness {
    fn of(container: &Container, own: &Place) -> Self {
        let Place::Container { networks, .. } = own else {
            return Self::Near;
        };
        let mut attached = container.networks.iter();
        match own.project() == Some(Color::ending(container.project()).0) {
            true => Self::Own,
            false if attached.any(|network| networks.contains(&network.id)) => Self::Near,
            false => Self::Far,
        }
    }
}

/// For each service of the file, the projects whose containers can be meant.
struct Meant(BTreeMap<String, BTreeSet<String>>);

impl Meant {
    fn of(
        candidates: &[Candidate<'_>],
        own: &Place,
        file: &Config,
        before: &BTreeMap<String, String>,
    ) -> Self {
        let mut nearest: BTreeMap<&str, Nearness> = BTreeMap::new();
        let by_file = || {
            candidates
                .iter()
                .filter(|c| matches!(c.name, Name::File(_)))
        };
        for candidate in by_file() {
            let nearness = match is_own_by_right(candidate.wanted(), own, file, before) {
                true => Nearness::Own,
                false => candidate.nearness,
            };
            let known = nearest.entry(candidate.wanted()).or_insert(nearness);
            *known = nearness.min(*known);
        }
        let mut meant: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for candidate in by_file() {
            let projects = meant.entry(candidate.wanted().to_owned()).or_default();
            match nearest.get(candidate.wanted()) {
                Some(Nearness::Own) => projects.extend(own.project().map(str::to_owned)),
                Some(nearest) if candidate.nearness == *nearest => {
                    projects.insert(candidate.project.clone());
                }
                Some(_) | None => {}
            }
        }
        Self(meant)
    }

    fn has(&self, candidate: &Candidate<'_>) -> bool {
        let projects = match candidate.name {
            Name::File(_) => self.0.get(candidate.wanted()),
            Name::Label(_) | Name::Own => None,
        };
        projects.is_none_or(|projects| projects.contains(&candidate.project))
    }

    /// One of the projects that are meant in place of that of a container.
    fn one(&self, candidate: &Candidate<'_>) -> &str {
        let projects = self.0.get(candidate.wanted());
        let first = projects.and_then(BTreeSet::first);
        first.map_or("", String::as_str)
    }
}

/// Whether a service of the file was that of the proxy's own project, and the file does not say that it
/// is another's.
fn is_own_by_right(
    name: &str,
    own: &Place,
    file: &Config,
    before: &BTreeMap<String, String>,
) -> bool {
    let Some(own) = own.project() else {
        return false;
    };
    let service = file.services.iter().find(|s| s.name.as_str() == name);
    let docker = service.and_then(|service| service.docker.as_ref());
    let may_be = docker.is_some_and(|it| it.project.as_ref().is_none_or(|wanted| wanted == own));
    may_be && before.get(name).is_some_and(|holder| holder == own)
}

enum Name {
    /// A service of the file.
    File(String),
    /// A label says so.
    Label(String),
    /// That of its Compose service.
    Own,
}

impl<'a> Groups<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Group<'a>> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Group<'a>)> {
        self.0.iter()
    }

    /// Sorts containers into services. `read`: the labels of each.
    pub(super) fn form(
        containers: &[&'a Container],
        read: &[Arc<Labels>],
        own: &Place,
        file: &Config,
        memory: &mut Memory,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut candidates = Vec::new();
        for (rank, (container, labels)) in containers.iter().zip(read).enumerate() {
            let nearness = Nearness::of(container, own);
            let found = candidate(container, labels, rank, file, problems);
            candidates.extend(found.map(|found| Candidate { nearness, ..found }));
        }
        let before = std::mem::take(&mut memory.services);
        let meant = Meant::of(&candidates, own, file, &before);
        let (candidates, others): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|c| meant.has(c));
        let wanted = candidates
            .iter()
            .map(|c| (c.wanted().to_owned(), c.project.clone()));
        let mut claims = Claims::new(&before, wanted.collect());
        problems.extend(others.iter().map(|c| c.is_of_another(meant.one(c))));
        let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
        for candidate in candidates {
            match candidate.named(&mut claims, file) {
                Ok(name) => {
                    let Candidate {
                        member,
                        project,
                        compose,
                        ..
                    } = candidate;
                    let group = groups.entry(name).or_insert_with(|| Group {
                        project,
                        compose,
                        members: Vec::new(),
                    });
                    group.members.push(member);
                }
                Err(problem) => problems.push(problem),
            }
        }
        memory.services = claims.held();
        // Its own containers may be away for a moment: nobody else's are meant then.
        for (name, project) in &before {
            if !is_own_by_right(name, own, file, &before) {
                continue;
            }
            let holder = memory.services.entry(name.clone());
            holder.or_insert_with(|| project.clone());
        }
        Self(groups)
    }
}

fn candidate<'a>(
    container: &'a Container,
    labels: &Arc<Labels>,
    rank: usize,
    file: &Config,
    problems: &mut Vec<Problem>,
) -> Option<Candidate<'a>> {
    let compose = container.compose_service().unwrap_or(container.bare_name());
    let project = Color::ending(container.project()).0.to_owned();
    let base = Color::ending(compose).0;
    let by_file = |service: &&Service| {
        let docker = service.docker.as_ref();
        docker.is_some_and(|docker| {
            let is_called =
                docker.service == compose || (!base.is_empty() && docker.service == base);
            is_called
                && docker
                    .project
                    .as_ref()
                    .is_none_or(|wanted| *wanted == project)
        })
    };
    let in_file = file.services.iter().find(by_file);
    if in_file.is_some_and(|service| service.kind != Kind::Web) {
        // A worker takes no requests, whatever its image exposes.
        return None;
    }
    let has_caddy = !caddy::labels(container).is_empty();
    let is_ours = !labels.hosts.is_empty() || labels.service.is_some();
    problems.extend(labels.problems.iter().cloned());
    if labels.is_refused || (in_file.is_none() && !has_caddy && !is_ours) {
        return None;
    }
    let name = match (in_file, &labels.service) {
        (Some(service), _) => Name::File(service.name.to_string()),
        (None, Some(name)) => Name::Label(name.clone()),
        (None, None) => Name::Own,
    };
    let compose = match (base, project.as_str()) {
        ("", "") => "app".to_owned(),
        ("", project) => project.to_owned(),
        (base, _) => base.to_owned(),
    };
    Some(Candidate {
        member: Member {
            container,
            labels: Arc::clone(labels),
            is_caddy: has_caddy && labels.hosts.is_empty() && in_file.is_none(),
            rank,
        },
        project,
        compose,
        name,
        nearness: Nearness::Near,
    })
}

impl Candidate<'_> {
    fn wanted(&self) -> &str {
        match &self.name {
            Name::File(name) | Name::Label(name) => name,
            Name::Own => &self.compose,
        }
    }

    /// Another project has the service that it would be one of.
    fn is_of_another(&self, holder: &str) -> Problem {
        let (wanted, project) = (self.wanted(), of_project(&self.project));
        Problem::new(
            &self.member.container.name,
            format!(
                "the service {wanted} of the configuration file has the containers of {}, not those of {project}",
                of_project(holder)
            ),
            format!(
                "say whose it is, docker = {{ service = \"{}\", project = \"...\" }}, or give one of the two \
                 Compose services another name",
                self.compose
            ),
        )
    }

    /// The name of its service.
    fn named(&self, claims: &mut Claims<'_>, file: &Config) -> Result<String, Problem> {
        let wanted = self.wanted();
        let in_file = file.services.iter().any(|s| s.name.as_str() == wanted);
        let container = &self.member.container.name;
        match &self.name {
            Name::File(_) => claims
                .claim(wanted, &self.project)
                .map_err(|holder| self.is_of_another(&holder))?,
            Name::Label(_) if in_file => {
                return Err(Problem::new(
                    container,
                    format!(
                        "label cutover.service: {wanted} is a service of the configuration file"
                    ),
                    format!(
                        "let the file take it: docker = {{ service = \"{}\" }}, or choose another name",
                        self.compose
                    ),
                ));
            }
            Name::Label(_) => claims.claim(wanted, &self.project).map_err(|holder| {
                Problem::new(
                    container,
                    format!(
                        "label cutover.service: {wanted} is a service of {}",
                        of_project(&holder)
                    ),
                    "choose another name",
                )
            })?,
            Name::Own if in_file || claims.claim(wanted, &self.project).is_err() => {
                let long = match self.project.is_empty() {
                    true => format!("{wanted}-containers"),
                    false => format!("{}-{wanted}", self.project),
                };
                let is_taken = file.services.iter().any(|s| s.name.as_str() == long)
                    || claims.claim(&long, &self.project).is_err();
                if is_taken {
                    return Err(Problem::new(
                        container,
                        format!("another service is called {wanted} already"),
                        "name it: cutover.service=NAME",
                    ));
                }
                return Ok(long);
            }
            Name::Own => {}
        }
        Ok(wanted.to_owned())
    }
}

/// A project for people.
pub(super) fn of_project(project: &str) -> String {
    match project {
        "" => "containers without a Compose project".to_owned(),
        name => format!("the Compose project {name}"),
    }
}
