//! What was decided before and must stay decided: which color a container got, which Compose project
//! came first with a host or a name. Pure; `app` keeps it on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::model::{Color, ServiceName};

/// How long a Compose project that is down keeps its hosts: longer than a redeploy takes.
const KEPT: Duration = Duration::from_secs(3600);

/// Decisions that outlive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Colors that were chosen, by the whole id of the container.
    #[serde(default)]
    pub colors: BTreeMap<String, Color>,
    /// Who holds a host.
    #[serde(default)]
    pub hosts: BTreeMap<String, HostClaim>,
    /// The project that holds the name of a service.
    #[serde(default)]
    pub services: BTreeMap<String, String>,
}

/// A host that a Compose project holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaim {
    /// The project, without a color at its end; empty: containers that have none.
    pub project: String,
    /// The services whose containers asked for it last.
    pub services: BTreeSet<ServiceName>,
    /// Since when no container asks for it, in milliseconds since 1970; `None`: one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
}

impl HostClaim {
    /// When another project may have the host, in milliseconds since 1970; `None`: it is in use.
    #[must_use]
    pub fn free_ms(&self) -> Option<u64> {
        Some(self.gone_ms?.saturating_add(clock::millis(KEPT)))
    }

    /// What is left of the claim when no container of the project asks for the host. A service that
    /// is away (`is_there` says no) may come back and keeps it for an hour; a project whose
    /// services are all there wants it no more. `None`: it is free.
    pub(super) fn without_containers(
        &self,
        now_ms: u64,
        is_there: impl FnMut(&ServiceName) -> bool,
    ) -> Option<Self> {
        if self.project.is_empty() || self.services.iter().all(is_there) {
            return None;
        }
        let gone = Self {
            gone_ms: Some(self.gone_ms.unwrap_or(now_ms)),
            ..self.clone()
        };
        gone.free_ms()
            .is_some_and(|free| now_ms < free)
            .then_some(gone)
    }
}

/// Who holds what, while everybody says what they want. Whoever held it before and still wants it
/// keeps it; else the first to ask gets it.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    before: &'a BTreeMap<String, String>,
    wanted: BTreeSet<(String, String)>,
    held: BTreeMap<String, String>,
}

impl<'a> Claims<'a> {
    /// `wanted`: every pair of what and who that will be asked for.
    pub(super) fn new(
        before: &'a BTreeMap<String, String>,
        wanted: BTreeSet<(String, String)>,
    ) -> Self {
        Self {
            before,
            wanted,
            held: BTreeMap::new(),
        }
    }

    /// Holds `what` for a project, unless another one does: that one is the error.
    pub(super) fn claim(&mut self, what: &str, project: &str) -> Result<(), String> {
        let before = self.before.get(what);
        let before = before.filter(|holder| {
            let pair = (what.to_owned(), (*holder).clone());
            self.wanted.contains(&pair)
        });
        let holder = self
            .held
            .entry(what.to_owned())
            .or_insert_with(|| before.map_or_else(|| project.to_owned(), Clone::clone));
        match holder == project {
            true => Ok(()),
            false => Err(holder.clone()),
        }
    }

    /// Who holds it, if it was asked for.
    pub(super) fn holder(&self, what: &str) -> Option<&str> {
        self.held.get(what).map(String::as_str)
    }

    /// What is held now.
    pub(super) fn held(self) -> BTreeMap<String, String> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(what, who)| ((*what).to_owned(), (*who).to_owned()))
            .collect()
    }

    #[test]
    fn the_first_project_holds_while_it_wants_it() {
        let before = BTreeMap::new();
        let mut claims = Claims::new(&before, wanted(&[("a", "shop"), ("a", "blog")]));
        assert_eq!(claims.claim("a", "shop"), Ok(()));
        assert_eq!(claims.claim("a", "shop"), Ok(()));
        assert_eq!(claims.claim("a", "blog"), Err("shop".to_owned()));
        let before = claims.held();
        // Another order changes nothing.
        let mut claims = Claims::new(&before, wanted(&[("a", "shop"), ("a", "blog")]));
        assert_eq!(claims.claim("a", "blog"), Err("shop".to_owned()));
        // Whoever wants it no more does not hold it.
        let mut claims = Claims::new(&before, wanted(&[("a", "blog")]));
        assert_eq!(claims.claim("a", "blog"), Ok(()));
        assert_eq!(claims.holder("a"), Some("blog"));
    }
}
