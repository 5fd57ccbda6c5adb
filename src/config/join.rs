//! A configuration with services and sites from somewhere else.
//!
//! References are positions among the services in the order of their names, so a service that comes
//! in between moves all that follow. This is the one place that renumbers them.

use std::collections::HashMap;

use super::step::{Action, ForwardTo, Proxied, Step};
use super::{Config, Service, ServiceIndex, Site};
use crate::model::ServiceName;

/// A site from elsewhere, with the names that its references stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinedSite {
    /// The site.
    pub site: Site,
    /// Names by [`ServiceIndex`].
    pub services: Vec<ServiceName>,
}

impl Config {
    /// Adds services, and sites that lead to them. A service whose name is there already replaces
    /// it. A site that leads to a service which is nowhere is left out.
    #[must_use]
    pub fn joined(mut self, services: Vec<Service>, sites: Vec<JoinedSite>) -> Self {
        let before: Vec<ServiceName> = self.services.iter().map(|s| s.name.clone()).collect();
        for service in services {
            match self
                .services
                .iter_mut()
                .find(|known| known.name == service.name)
            {
                Some(known) => *known = service,
                None => self.services.push(service),
            }
        }
        self.services.sort_by(|a, b| a.name.cmp(&b.name));
        let places: HashMap<ServiceName, ServiceIndex> = (self.services.iter().enumerate())
            .map(|(at, service)| (service.name.clone(), ServiceIndex(at)))
            .collect();
        for site in &mut self.sites {
            // Services are only added, so each is still there.
            renumber(site, &before, &places);
        }
        for JoinedSite { mut site, services } in sites {
            if renumber(&mut site, &services, &places) {
                self.sites.push(site);
            }
        }
        self
    }
}

/// Gives every reference of a site its new number. False: one leads nowhere.
fn renumber(
    site: &mut Site,
    names: &[ServiceName],
    places: &HashMap<ServiceName, ServiceIndex>,
) -> bool {
    let mut whole = true;
    let mut change = |index: &mut ServiceIndex| {
        let place = names.get(index.0).and_then(|name| places.get(name));
        match place {
            Some(place) => *index = *place,
            None => whole = false,
        }
    };
    if let Some(service) = &mut site.service {
        change(service);
    }
    in_steps(&mut site.steps, &mut change);
    in_steps(&mut site.errors, &mut change);
    for route in &mut site.routes {
        if let Some(service) = &mut route.service {
            change(service);
        }
        in_steps(&mut route.steps, &mut change);
    }
    whole
}

fn in_steps(steps: &mut [Step], change: &mut dyn FnMut(&mut ServiceIndex)) {
    for step in steps {
        match &mut step.action {
            Action::Steps(steps) => in_steps(steps, change),
            Action::ForwardAuth(auth) => {
                if let ForwardTo::Service(service) = &mut auth.to {
                    change(service);
                }
            }
            Action::Proxy(proxy) => {
                change(&mut proxy.service);
                for answer in &mut proxy.on_response {
                    if let Proxied::Steps(steps) = &mut answer.then {
                        in_steps(steps, change);
                    }
                }
            }
            Action::Access(_)
            | Action::RateLimit(_)
            | Action::Concurrency(_)
            | Action::Cors(_)
            | Action::BasicAuth(_)
            | Action::BodyLimit(_)
            | Action::Vars(_)
            | Action::Map(_)
            | Action::Root(_)
            | Action::RequestHeaders(_)
            | Action::ResponseHeaders(_)
            | Action::Rewrite(_)
            | Action::TryFiles(_)
            | Action::Encode(_)
            | Action::Log(_)
            | Action::Respond(_)
            | Action::Redirect(_)
            | Action::Error(_)
            | Action::Abort
            | Action::Files(_)
            | Action::CopyResponse(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    fn config(text: &str) -> Config {
        load_str("test", text).expect("valid")
    }

    fn target(config: &Config, site: usize) -> &str {
        let index = config.sites[site].service.expect("a service");
        config.services[index.0].name.as_str()
    }

    const FILE: &str = "[[site]]\nhosts = [\"m.example\"]\nservice = \"m\"\n\
        [[site.route]]\npath = \"/x/*\"\n[[site.route.handle]]\nproxy = { service = \"z\" }\n\
        [service.m]\nblue = [\"m:1\"]\n[service.z]\nblue = [\"z:1\"]\n";

    #[test]
    fn references_follow_their_services() {
        let file = config(FILE);
        let added = config(
            "[[site]]\nhosts = [\"b.example\"]\nservice = \"b\"\n[service.a]\nblue = [\"a:1\"]\n[service.b]\nblue = [\"b:1\"]\n",
        );
        let services: Vec<_> = added.services.iter().map(|s| s.name.clone()).collect();
        let site = JoinedSite {
            site: added.sites[0].clone(),
            services,
        };
        let lost = JoinedSite {
            services: vec!["a".into(), "nowhere".into()],
            ..site.clone()
        };
        let joined = file.joined(added.services, vec![site, lost]);
        assert_eq!(joined.sites.len(), 2, "the lost one is left out");
        assert_eq!((target(&joined, 0), target(&joined, 1)), ("m", "b"));
        let Action::Proxy(proxy) = &joined.sites[0].routes[0].steps[0].action else {
            panic!("a proxy step");
        };
        assert_eq!(joined.services[proxy.service.0].name.as_str(), "z");
    }

    #[test]
    fn a_service_of_the_same_name_is_replaced() {
        let file = config(FILE);
        let mut other = file.services[0].clone();
        other.live = Some(crate::model::Color::Green);
        let joined = file.joined(vec![other.clone()], Vec::new());
        assert_eq!(joined.services.len(), 2);
        assert_eq!(joined.services[0], other);
    }
}
