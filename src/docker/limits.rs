//! What the labels of caddy-docker-proxy may not do here. Pure.
//!
//! They can say anything that a Caddyfile can, and come from whoever may start a container. So what
//! was made of them is gone through action by action: everything that touches files, keys,
//! variables or sockets of the proxy is refused. There is no list of forbidden words to forget one
//! in; an action that is new must be put on one side or the other to compile.

use crate::config::step::{Action, ForwardTo, Proxied, Step};
use crate::config::{Config, Service, Site, Tls};
use crate::model::{Endpoint, UpstreamAddr};

/// Placeholders that would show what is the proxy's own.
const PRIVATE: [&str; 4] = ["{env.", "{$", "{file.", "{system."];

/// Why a label may not be followed, by its own text.
#[must_use]
pub(super) fn of_label(name: &str, value: &str) -> Option<&'static str> {
    let name = name.replace("\\.", ".");
    let shows = |text: &str| PRIVATE.iter().any(|private| text.contains(private));
    if shows(&name) || shows(value) {
        return Some("labels read no variables or files of the proxy");
    }
    if value.to_ascii_lowercase().contains("unix/") || value.to_ascii_lowercase().contains("unix:")
    {
        return Some("labels lead to containers, not to unix sockets");
    }
    None
}

/// The first thing in a configuration made of labels that labels may not do.
#[must_use]
pub(super) fn of_config(config: &Config) -> Option<&'static str> {
    let sites = config.sites.iter().find_map(site);
    sites.or_else(|| config.services.iter().find_map(service))
}

fn site(site: &Site) -> Option<&'static str> {
    if site.hosts.is_empty() || site.default {
        return Some("a site needs a host: labels do not take what no site names");
    }
    match site.tls {
        Tls::Auto | Tls::Internal | Tls::Off => {}
        Tls::Files { .. } => return Some("labels name no files of TLS"),
    }
    if site.client_auth.is_some() {
        return Some("labels name no files of TLS");
    }
    if site
        .access_log
        .as_ref()
        .is_some_and(|log| log.file.is_some())
    {
        return Some("labels name no files of logs");
    }
    let routes = site.routes.iter().map(|route| &route.steps);
    let all = routes.chain([&site.steps, &site.errors]);
    all.flatten().find_map(step)
}

fn service(service: &Service) -> Option<&'static str> {
    let tls = &service.tls;
    if tls.ca.is_some() || tls.identity.is_some() {
        return Some("labels name no files of TLS");
    }
    let slots = service.slots.iter().flatten();
    let mut upstreams = slots.flat_map(|slot| &slot.upstreams);
    upstreams.find_map(upstream)
}

fn upstream(upstream: &UpstreamAddr) -> Option<&'static str> {
    match upstream.endpoint() {
        Endpoint::Socket(_) | Endpoint::Name { .. } => None,
        Endpoint::Unix(_) => Some("labels lead to containers, not to unix sockets"),
    }
}

fn step(step: &Step) -> Option<&'static str> {
    let within = |steps: &[Step]| steps.iter().find_map(self::step);
    match &step.action {
        Action::Root(_) | Action::Files(_) | Action::TryFiles(_) => {
            Some("labels serve no files of the proxy")
        }
        Action::Steps(steps) => within(steps),
        Action::ForwardAuth(auth) => match &auth.to {
            ForwardTo::Service(_) => None,
            ForwardTo::Upstream(to) => upstream(to),
        },
        Action::Proxy(proxy) => proxy
            .on_response
            .iter()
            .find_map(|answer| match &answer.then {
                Proxied::Status(_) => None,
                Proxied::Steps(steps) => within(steps),
            }),
        Action::Access(_)
        | Action::RateLimit(_)
        | Action::Concurrency(_)
        | Action::Cors(_)
        | Action::BasicAuth(_)
        | Action::BodyLimit(_)
        | Action::Vars(_)
        | Action::Map(_)
        | Action::RequestHeaders(_)
        | Action::ResponseHeaders(_)
        | Action::Rewrite(_)
        | Action::Encode(_)
        | Action::Log(_)
        | Action::Respond(_)
        | Action::Redirect(_)
        | Action::Error(_)
        | Action::Abort
        | Action::CopyResponse(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    fn said(site: &str) -> Option<&'static str> {
        let text = format!("[[site]]\nhosts = [\"a.example\"]\n{site}\n");
        of_config(&load_str("test", &text).expect("valid"))
    }

    #[test]
    fn files_of_the_proxy_are_out_of_reach() {
        for site in [
            "handle = [{ root = \"/\" }, { files = true }]",
            "files = { root = \"/etc\" }",
            "handle = [{ handle = [{ handle = [{ files = { root = \"/\" } }] }] }]",
            "[[site.route]]\npath = \"/x/*\"\nfiles = { root = \"/\" }",
        ] {
            assert_eq!(
                said(site),
                Some("labels serve no files of the proxy"),
                "{site}"
            );
        }
    }

    #[test]
    fn keys_and_sockets_are_out_of_reach() {
        let unix = said("upstream = [\"unix:/run/docker.sock\"]");
        assert_eq!(unix, Some("labels lead to containers, not to unix sockets"));
        let service =
            "service = \"s\"\n[service.s]\nblue = [\"https://b:1\"]\ntls = { ca = \"/x.pem\" }";
        assert_eq!(said(service), Some("labels name no files of TLS"));
        let everything = load_str("t", "[[site]]\ndefault = true\nrespond = \"x\"").expect("valid");
        assert!(of_config(&everything).is_some(), "a site for every host");
    }

    #[test]
    fn routing_is_allowed() {
        assert_eq!(said("upstream = [\"app:1\"]"), None);
        assert_eq!(
            said("handle = [{ rewrite = \"/x\" }, { respond = \"y\" }]"),
            None
        );
    }

    #[test]
    fn what_is_the_proxys_own_is_not_shown() {
        for (name, value) in [
            ("caddy.respond", "{env.HOME}"),
            ("caddy.respond", "x{$SECRET}"),
            ("caddy.header.{env\\.A}", "x"),
            ("caddy.respond", "{file./etc/shadow}"),
            ("caddy.reverse_proxy", "unix//run/docker.sock"),
        ] {
            assert!(of_label(name, value).is_some(), "{name}={value}");
        }
        assert_eq!(of_label("caddy.reverse_proxy", "{{upstreams 3000}}"), None);
        assert_eq!(of_label("caddy.header", "X-A {http.request.host}"), None);
    }
}
