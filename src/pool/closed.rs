//! What is closed for maintenance, and for whom it is open all the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::hold::Holds;
use crate::config::IpSet;
use crate::model::ServiceName;

/// What stands between a request and its pool.
#[derive(Debug, Default)]
pub struct Doors {
    /// Requests that wait.
    pub holds: Arc<Holds>,
    /// What is closed.
    pub closed: ArcSwap<Closed>,
}

/// What a visitor gets to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notice {
    /// What the person who closed it said.
    pub message: Option<String>,
}

/// Everything that is closed. Never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// By service.
    pub services: HashMap<ServiceName, Arc<Notice>>,
    /// By the first host of a site.
    pub sites: HashMap<String, Arc<Notice>>,
    /// Clients that are let in.
    pub allow: IpSet,
    /// Told in `Retry-After`.
    pub retry_after: Duration,
    /// HTML of the page in place of the built-in one.
    pub page: Option<Bytes>,
}

impl Closed {
    /// The notice for a request of `client` that a site takes to a service; `None`: it is open.
    #[must_use]
    pub fn notice(
        &self,
        site: &str,
        service: &ServiceName,
        client: IpAddr,
    ) -> Option<&Arc<Notice>> {
        if self.services.is_empty() && self.sites.is_empty() {
            return None;
        }
        let notice = self
            .sites
            .get(site)
            .or_else(|| self.services.get(service))?;
        (!self.allow.contains(client)).then_some(notice)
    }

    /// The notice for a request of `client` that a site answers itself; `None`: it is open.
    #[must_use]
    pub fn site(&self, site: &str, client: IpAddr) -> Option<&Arc<Notice>> {
        let notice = self.sites.get(site)?;
        (!self.allow.contains(client)).then_some(notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_or_a_service_is_closed_to_all_but_those_on_the_list() {
        let notice = || Arc::new(Notice::default());
        let closed = Closed {
            services: [("web".into(), notice())].into(),
            sites: [("example.com".to_owned(), notice())].into(),
            allow: IpSet(vec!["10.0.0.0/8".parse().expect("a network")]),
            ..Closed::default()
        };
        let (outside, inside) = (
            "192.0.2.1".parse().expect("ip"),
            "10.1.2.3".parse().expect("ip"),
        );
        let is_closed =
            |site, service: &str, client| closed.notice(site, &service.into(), client).is_some();
        assert!(is_closed("other.com", "web", outside));
        assert!(is_closed("example.com", "api", outside));
        assert!(!is_closed("other.com", "api", outside));
        assert!(!is_closed("example.com", "web", inside));
        assert!(closed.site("example.com", outside).is_some());
        assert!(closed.site("example.com", inside).is_none());
        assert!(closed.site("other.com", outside).is_none());
    }
}
