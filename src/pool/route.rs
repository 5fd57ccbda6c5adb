//! Route match: host, then path and conditions; the most specific wins.
//!
//! A host is looked up whole, then with its first label replaced by a star, then the default
//! site takes it. Within a site the order is: exact path, then the pattern with more literal
//! characters; for the same path more conditions first, then the order of the file. What no
//! route takes goes to the site's own service.
//!
//! Cost: one hash look-up for the host, one for an exact path, one for each different prefix
//! length of the site, and a walk over the site's globs. The number of sites and of plain
//! routes does not matter. Nothing is allocated.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;

use crate::config::{
    ClientAuth, ClientAuthMode, Config, Route, ServiceIndex, Site, Tls, ValueMatch,
};
use crate::model::{HostPattern, PathPattern};

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
    /// Certificate source: whether plain HTTP is redirected.
    pub tls: Tls,
    /// Whether plain HTTP is answered with a redirect to https.
    pub redirect: bool,
    /// `Strict-Transport-Security` of answers over TLS.
    pub hsts: Option<HeaderValue>,
    /// Whether a client without a certificate gets nothing, plain HTTP included.
    pub needs_client_certificate: bool,
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
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The site.
    pub site: &'a SiteEntry,
    /// Number of the route in the file's order within the site; `None`: the site's own service.
    pub route: Option<usize>,
    /// The service.
    pub service: ServiceIndex,
}

/// Why a request goes nowhere: 404.
#[derive(Clone, Copy, Debug)]
pub enum NotFound<'a> {
    /// No site has that host and there is no default site.
    Host,
    /// The site has nothing for that path.
    Path(&'a SiteEntry),
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
    exact: HashMap<String, usize>,
    wildcard: HashMap<String, usize>,
    default: Option<usize>,
    sites: Vec<SiteEntry>,
}

impl Routes {
    /// Compiles the sites of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut routes = Self::default();
        for (at, site) in config.sites.iter().enumerate() {
            for host in &site.hosts {
                match host {
                    HostPattern::Exact(name) => routes.exact.insert(name.clone(), at),
                    HostPattern::Wildcard(rest) => routes.wildcard.insert(rest.clone(), at),
                };
            }
            if site.default {
                routes.default = Some(at);
            }
            routes.sites.push(SiteEntry::new(site));
        }
        routes
    }

    /// The site of a host in the form of [`host_of`].
    #[must_use]
    pub fn site(&self, host: &str) -> Option<&SiteEntry> {
        let at = self
            .exact
            .get(host)
            .or_else(|| {
                let (_, rest) = host.split_once('.')?;
                self.wildcard.get(rest)
            })
            .copied()
            .or(self.default)?;
        self.sites.get(at)
    }

    /// Where a request goes.
    ///
    /// # Errors
    /// [`NotFound`] for an unknown host, or a path that the site has nothing for.
    pub fn find(&self, host: &str, request: &dyn RequestView) -> Result<Found<'_>, NotFound<'_>> {
        let site = self.site(host).ok_or(NotFound::Host)?;
        let rule = site.find(request);
        match rule.map(|rule| rule.route.service).or(site.service) {
            Some(service) => Ok(Found {
                site,
                route: rule.map(|rule| rule.number),
                service,
            }),
            None => Err(NotFound::Path(site)),
        }
    }
}

impl SiteEntry {
    fn new(site: &Site) -> Self {
        let mut entry = Self {
            name: site
                .hosts
                .first()
                .map_or_else(|| "default".to_owned(), ToString::to_string),
            tls: site.tls.clone(),
            redirect: site.tls != Tls::Off && site.redirect,
            hsts: (site.hsts).and_then(|hsts| HeaderValue::try_from(hsts.to_string()).ok()),
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
            .map(|(number, route)| Rule { number, route })
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

    fn find(&self, request: &dyn RequestView) -> Option<&Rule> {
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
        let taken = self.find(request).map(|rule| rule.number);
        let mut rules: Vec<&Rule> = self
            .exact
            .values()
            .chain(self.prefixes.values())
            .flatten()
            .chain(self.globs.iter().map(|(_, _, rule)| rule))
            .chain(&self.any)
            .collect();
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
