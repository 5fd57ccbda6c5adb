//! Route match: host, then path and conditions; the most specific wins.
//!
//! A host is looked up whole, then with its first label replaced by a star, then the default
//! site takes it. At each of the three the site that has the request's port for itself comes
//! before the one for any port. A port that a site names belongs to the sites that name it, unless
//! it is one of the two main ports: the first of `listen.http` and of `listen.https`. Within a site the order is: exact path, then the pattern with more literal
//! characters; for the same path more conditions first, then the order of the file. What no
//! route takes goes to the site's own service.
//!
//! Cost: one hash look-up for the host, one for an exact path, one for each different prefix
//! length of the site, and a walk over the site's globs. The number of sites and of plain
//! routes does not matter. Nothing is allocated.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;

use super::plan::Plan;
use crate::config::{
    AccessLog, ClientAuth, ClientAuthMode, Config, Route, ServiceIndex, Site, Tls, ValueMatch,
};
use crate::model::{HostPattern, PathPattern, ServiceName};

/// What a route looks at in a request.
pub trait RequestView {
    /// Path in the form of [`crate::model::normalize_path`].
    fn path(&self) -> &str;
    /// Method.
    fn method(&self) -> &Method;
    /// Whether any value of the header satisfies `accept`.
    fn any_header(&self, name: &HeaderName, accept: &dyn Fn(&str) -> bool) -> bool;
    /// Query without the question mark.
    fn query(&self) -> Option<&str>;
    /// The client's address, forwarding headers of trusted peers considered.
    fn client_ip(&self) -> IpAddr;
}

/// One site with its routes in matching order.
#[derive(Debug)]
pub struct SiteEntry {
    /// The first host, or `default`: for people.
    pub name: String,
    /// The only port whose requests it takes.
    pub port: Option<u16>,
    /// Certificate source: whether plain HTTP is redirected.
    pub tls: Tls,
    /// Whether plain HTTP is answered with a redirect to https.
    pub redirect: bool,
    /// `Strict-Transport-Security` of answers over TLS.
    pub hsts: Option<HeaderValue>,
    /// The log of its requests; `None`: that of all sites.
    pub log: Option<Arc<AccessLog>>,
    /// Whether a client without a certificate gets nothing, plain HTTP included.
    pub needs_client_certificate: bool,
    /// What is done before a route is looked for.
    pub plan: Plan,
    /// What answers errors.
    pub errors: Plan,
    /// Whether there is any step, those of routes included.
    pub has_steps: bool,
    /// Whether any condition looks at the method.
    pub looks_at_methods: bool,
    /// Names by [`ServiceIndex`], for steps that lead to a service later than their table lives.
    services: Arc<[ServiceName]>,
    exact: HashMap<String, Vec<Rule>>,
    prefixes: HashMap<String, Vec<Rule>>,
    /// Different lengths of prefixes, longest first.
    prefix_lengths: Vec<usize>,
    globs: Vec<(PathPattern, usize, Rule)>,
    any: Vec<Rule>,
    service: Option<ServiceIndex>,
}

#[derive(Clone, Debug)]
struct Rule {
    number: usize,
    route: Route,
    plan: Plan,
}

/// Where a site takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Number of the route in the file's order within the site; `None`: the site's own service.
    pub route: Option<usize>,
    /// What is done before that, with the route's own steps.
    pub plan: Option<&'a Plan>,
    /// The service; `None`: a step answers, else nothing is there.
    pub service: Option<ServiceIndex>,
}

/// One route that was looked at, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Number of the route in the file's order within the site.
    pub number: usize,
    /// Its path, or `any path`.
    pub path: String,
    /// Whether it was taken, or why not.
    pub verdict: &'static str,
}

/// All sites.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<String, Ports>,
    wildcard: HashMap<String, Ports>,
    default: Ports,
    /// Ports on which only the sites that name them are served.
    closed_ports: BTreeSet<u16>,
    sites: Vec<Arc<SiteEntry>>,
}

/// The sites of one host.
#[derive(Debug, Default)]
struct Ports {
    any: Option<usize>,
    /// Those that have a port for themselves. Nearly always empty, so a walk is as good as any.
    own: Vec<(u16, usize)>,
}

impl Ports {
    fn add(&mut self, port: Option<u16>, site: usize) {
        match port {
            None => self.any = Some(site),
            Some(port) => self.own.push((port, site)),
        }
    }

    fn site(&self, port: u16, closed: bool) -> Option<usize> {
        let own = self.own.iter().find(|(own, _)| *own == port);
        let any = if closed { None } else { self.any };
        own.map(|(_, site)| *site).or(any)
    }
}

impl Routes {
    /// Compiles the sites of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::renewed(config, &Self::default())
    }

    /// Compiles the sites of a configuration that replaces the one of `before`: steps that did
    /// not change keep what they remember.
    #[must_use]
    pub fn renewed(config: &Config, before: &Self) -> Self {
        let services: Arc<[ServiceName]> = (config.services.iter())
            .map(|service| service.name.clone())
            .collect();
        let listen = [&config.listen.http, &config.listen.https];
        let main = listen.map(|addresses| addresses.first().map(std::net::SocketAddr::port));
        let named = config.sites.iter().filter_map(|site| site.port);
        let mut routes = Self {
            closed_ports: named.filter(|port| !main.contains(&Some(*port))).collect(),
            ..Self::default()
        };
        for (at, site) in config.sites.iter().enumerate() {
            for host in &site.hosts {
                let sites = match host {
                    HostPattern::Exact(name) => routes.exact.entry(name.clone()),
                    HostPattern::Wildcard(rest) => routes.wildcard.entry(rest.clone()),
                };
                sites.or_default().add(site.port, at);
            }
            if site.default {
                routes.default.add(site.port, at);
            }
            let mut entry = SiteEntry::new(site, &services);
            let old = before.sites.iter();
            let old = old.map(Arc::as_ref).find(|old| old.is_same_place(&entry));
            entry.plan(site, old);
            routes.sites.push(Arc::new(entry));
        }
        routes
    }

    /// The site of a host in the form of [`host_of`], for a request that came in on `port`.
    #[must_use]
    pub fn site(&self, host: &str, port: u16) -> Option<&Arc<SiteEntry>> {
        let closed = self.closed_ports.contains(&port);
        let exact = self.exact.get(host);
        let exact = exact.and_then(|sites| sites.site(port, closed));
        let wildcard = || {
            let (_, rest) = host.split_once('.')?;
            self.wildcard.get(rest)?.site(port, closed)
        };
        let at = exact
            .or_else(wildcard)
            .or_else(|| self.default.site(port, closed))?;
        self.sites.get(at)
    }
}

impl SiteEntry {
    fn new(site: &Site, services: &Arc<[ServiceName]>) -> Self {
        let mut entry = Self {
            port: site.port,
            plan: Plan::default(),
            errors: Plan::default(),
            has_steps: false,
            looks_at_methods: site.looks_at_methods(),
            services: Arc::clone(services),
            name: site
                .hosts
                .first()
                .map_or_else(|| "default".to_owned(), ToString::to_string),
            tls: site.tls.clone(),
            redirect: site.tls != Tls::Off && site.redirect,
            hsts: (site.hsts).and_then(|hsts| HeaderValue::try_from(hsts.to_string()).ok()),
            log: site.access_log.clone(),
            needs_client_certificate: matches!(
                site.client_auth,
                Some(ClientAuth {
                    mode: ClientAuthMode::Require,
                    ..
                })
            ),
            exact: HashMap::new(),
            prefixes: HashMap::new(),
            prefix_lengths: Vec::new(),
            globs: Vec::new(),
            any: Vec::new(),
            service: site.service,
        };
        let mut rules: Vec<Rule> = site
            .routes
            .iter()
            .cloned()
            .enumerate()
            .map(|(number, route)| Rule {
                number,
                route,
                plan: Plan::default(),
            })
            .collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.route.conditions()));
        for rule in rules {
            match &rule.route.path {
                None => entry.any.push(rule),
                Some(PathPattern::Exact(path)) => {
                    entry.exact.entry(path.clone()).or_default().push(rule);
                }
                Some(PathPattern::Prefix(path)) => {
                    entry.prefixes.entry(path.clone()).or_default().push(rule);
                }
                Some(glob @ PathPattern::Glob(_)) => {
                    entry.globs.push((glob.clone(), glob.specificity().1, rule));
                }
            }
        }
        let lengths: BTreeSet<usize> = entry.prefixes.keys().map(String::len).collect();
        entry.prefix_lengths = lengths.into_iter().rev().collect();
        // Stable: rules of equal length keep "more conditions first, then the file's order".
        entry
            .globs
            .sort_by_key(|(_, literals, _)| std::cmp::Reverse(*literals));
        entry
    }

    /// Whether what steps remember may go from one to the other.
    fn is_same_place(&self, other: &Self) -> bool {
        self.name == other.name && self.port == other.port
    }

    /// Prepares the steps, with what those of `before` remember.
    fn plan(&mut self, site: &Site, before: Option<&Self>) {
        let none = Plan::default();
        self.plan = Plan::renewed(&site.steps, before.map_or(&none, |old| &old.plan));
        self.errors = Plan::renewed(&site.errors, before.map_or(&none, |old| &old.errors));
        let no_route_has_any = site.routes.iter().all(|route| route.steps.is_empty());
        self.has_steps = !(self.plan.is_empty() && self.errors.is_empty() && no_route_has_any);
        if no_route_has_any {
            return;
        }
        let mut old: HashMap<Option<&PathPattern>, Vec<&Rule>> = HashMap::new();
        for rule in before.into_iter().flat_map(Self::rules) {
            old.entry(rule.route.path.as_ref()).or_default().push(rule);
        }
        let exact = self.exact.values_mut().chain(self.prefixes.values_mut());
        let globs = self.globs.iter_mut().map(|(_, _, rule)| rule);
        for rule in exact.flatten().chain(globs).chain(&mut self.any) {
            let steps = std::mem::take(&mut rule.route.steps);
            let same_path = old.get(&rule.route.path.as_ref()).into_iter().flatten();
            let mut same_path = same_path.filter(|old| old.route == rule.route);
            rule.plan = Plan::renewed(&steps, same_path.next().map_or(&none, |old| &old.plan));
        }
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        let listed = self.exact.values().chain(self.prefixes.values()).flatten();
        let globs = self.globs.iter().map(|(_, _, rule)| rule);
        listed.chain(globs).chain(&self.any)
    }

    /// Name of a service that a step of this site leads to.
    #[must_use]
    pub fn service_name(&self, index: ServiceIndex) -> Option<&ServiceName> {
        self.services.get(index.0)
    }

    /// Where a request goes. `None`: the site has nothing for it.
    #[must_use]
    pub fn find(&self, request: &dyn RequestView) -> Option<Found<'_>> {
        match self.rule(request) {
            Some(rule) => Some(Found {
                route: Some(rule.number),
                plan: Some(&rule.plan).filter(|plan| !plan.is_empty()),
                service: rule.route.service,
            }),
            None => self.service.map(|service| Found {
                route: None,
                plan: None,
                service: Some(service),
            }),
        }
    }

    fn rule(&self, request: &dyn RequestView) -> Option<&Rule> {
        let path = request.path();
        let holds = |rule: &&Rule| rule.route.holds(request);
        if let Some(rule) = self
            .exact
            .get(path)
            .and_then(|rules| rules.iter().find(holds))
        {
            return Some(rule);
        }
        let glob = self
            .globs
            .iter()
            .find(|(glob, _, rule)| glob.matches(path) && holds(&rule));
        let beaten_by_glob = glob.map_or(0, |(_, literals, _)| *literals);
        let prefix = self
            .prefix_lengths
            .iter()
            .filter(|length| **length <= path.len() && **length >= beaten_by_glob)
            .filter_map(|length| path.get(..*length))
            .filter_map(|prefix| self.prefixes.get(prefix))
            .find_map(|rules| rules.iter().find(holds));
        prefix
            .or(glob.map(|(_, _, rule)| rule))
            .or_else(|| self.any.iter().find(holds))
    }

    /// Every route of the site, most specific first, with what became of it for this request.
    #[must_use]
    pub fn candidates(&self, request: &dyn RequestView) -> Vec<Candidate> {
        let taken = self.rule(request).map(|rule| rule.number);
        let mut rules: Vec<&Rule> = self.rules().collect();
        rules.sort_by_key(|rule| {
            let path = rule.route.path.as_ref().map(PathPattern::specificity);
            std::cmp::Reverse((path, rule.route.conditions(), usize::MAX - rule.number))
        });
        rules
            .into_iter()
            .map(|rule| Candidate {
                number: rule.number,
                path: rule
                    .route
                    .path
                    .as_ref()
                    .map_or_else(|| "any path".to_owned(), ToString::to_string),
                verdict: rule.route.verdict(request, taken == Some(rule.number)),
            })
            .collect()
    }
}

impl Route {
    fn holds(&self, request: &dyn RequestView) -> bool {
        self.failing(request).is_none()
    }

    /// The first condition beside the path that does not hold.
    fn failing(&self, request: &dyn RequestView) -> Option<&'static str> {
        if !self.methods.is_empty() && !self.methods.contains(request.method()) {
            return Some("another method");
        }
        let header = |(name, value): &(HeaderName, ValueMatch)| {
            request.any_header(name, &|text| value.matches(text))
        };
        if !self.headers.iter().all(header) {
            return Some("a header differs or is missing");
        }
        if !self
            .query
            .iter()
            .all(|(name, value)| has_parameter(request.query(), name, value))
        {
            return Some("a query parameter differs or is missing");
        }
        if !self.client_ip.is_empty() && !self.client_ip.contains(request.client_ip()) {
            return Some("another client address");
        }
        None
    }

    fn verdict(&self, request: &dyn RequestView, taken: bool) -> &'static str {
        if taken {
            return "taken";
        }
        if self
            .path
            .as_ref()
            .is_some_and(|path| !path.matches(request.path()))
        {
            return "another path";
        }
        self.failing(request)
            .unwrap_or("matches, but a more specific one was taken")
    }
}

/// Names and values are compared percent-decoded, `+` as a space (WHATWG URL, form encoding).
fn has_parameter(query: Option<&str>, name: &str, value: &ValueMatch) -> bool {
    query.unwrap_or_default().split('&').any(|pair| {
        let (key, text) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key) == name && value.matches(&decoded(text))
    })
}

fn decoded(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8_lossy()
        .into_owned()
        .into()
}

/// The form in which hosts are looked up: lower case, without port, brackets and trailing dot.
/// `buffer` takes the lower-case copy when one is needed. `None`: not a valid `Host`
/// (RFC 9112 §3.2).
#[must_use]
pub fn host_of<'a>(authority: &'a str, buffer: &'a mut [u8; 255]) -> Option<&'a str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            let port = match rest.strip_prefix(':') {
                None if rest.is_empty() => None,
                None => return None,
                port => port,
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if port.is_some_and(|port| port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%".contains(&b);
    if host.is_empty() || host.len() > 255 || !host.bytes().all(allowed) {
        return None;
    }
    if !host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(host);
    }
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
