//! Which service each container belongs to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::caddy;
use super::inventory::Container;
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
        file: &Config,
        memory: &mut Memory,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut candidates = Vec::new();
        for (rank, (container, labels)) in containers.iter().zip(read).enumerate() {
            candidates.extend(candidate(container, labels, rank, file, problems));
        }
        let wanted = |c: &Candidate<'_>| (c.wanted().to_owned(), c.project.clone());
        let wanted: BTreeSet<_> = candidates.iter().map(wanted).collect();
        let before = std::mem::take(&mut memory.services);
        let mut claims = Claims::new(&before, wanted);
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
            docker.service == compose || (!base.is_empty() && docker.service == base)
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
    })
}

impl Candidate<'_> {
    fn wanted(&self) -> &str {
        match &self.name {
            Name::File(name) | Name::Label(name) => name,
            Name::Own => &self.compose,
        }
    }

    /// The name of its service.
    fn named(&self, claims: &mut Claims<'_>, file: &Config) -> Result<String, Problem> {
        let wanted = self.wanted();
        let in_file = file.services.iter().any(|s| s.name.as_str() == wanted);
        let container = &self.member.container.name;
        let project = of_project(&self.project);
        match &self.name {
            Name::File(_) => claims.claim(wanted, &self.project).map_err(|holder| {
                Problem::new(
                    container,
                    format!(
                        "the service {wanted} of the configuration file has the containers of {}, not those of {project}",
                        of_project(&holder)
                    ),
                    "give one of the two Compose services another name",
                )
            })?,
            Name::Label(_) if in_file => {
                return Err(Problem::new(
                    container,
                    format!("label cutover.service: {wanted} is a service of the configuration file"),
                    format!(
                        "let the file take it: docker = {{ service = \"{}\" }}, or choose another name",
                        self.compose
                    ),
                ));
            }
            Name::Label(_) => claims.claim(wanted, &self.project).map_err(|holder| {
                Problem::new(
                    container,
                    format!("label cutover.service: {wanted} is a service of {}", of_project(&holder)),
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
