//! Sites and routes as TOML.

use super::step::steps;
use super::text::{duration, inline_table, list, matches, networks, path, text};
use super::{Writer, access_log};
use crate::config::{
    ClientAuth, ClientAuthMode, Config, Route, ServiceIndex, Site, Tls, TlsVersion,
};

impl Config {
    pub(super) fn site(&self, out: &mut Writer, site: &Site) {
        out.table("[[site]]");
        out.key("hosts", list(site.hosts.iter().map(text)));
        if site.default {
            out.key("default", true);
        }
        if let Some(port) = site.port {
            out.key("port", port);
        }
        out.key(
            "tls",
            match &site.tls {
                Tls::Auto => text("auto"),
                Tls::Internal => text("internal"),
                Tls::Off => text("off"),
                Tls::Files { cert, key } => {
                    format!("{{ cert = {}, key = {} }}", path(cert), path(key))
                }
            },
        );
        if site.tls != Tls::Off {
            let version = match site.min_version {
                TlsVersion::V1_2 => "1.2",
                TlsVersion::V1_3 => "1.3",
            };
            out.key("min_version", text(version));
        }
        if let Some(ClientAuth { mode, ca }) = &site.client_auth {
            let mode = match mode {
                ClientAuthMode::Require => "require",
                ClientAuthMode::Optional => "optional",
            };
            out.key(
                "client_auth",
                format!("{{ mode = {}, ca = {} }}", text(mode), path(ca)),
            );
        }
        if let Some(hsts) = site.hsts {
            let (max_age, subdomains, preload) =
                (duration(hsts.max_age), hsts.subdomains, hsts.preload);
            out.key(
                "hsts",
                format!(
                    "{{ max_age = {max_age}, subdomains = {subdomains}, preload = {preload} }}"
                ),
            );
        }
        out.key("redirect", site.redirect);
        if let Some(log) = &site.access_log {
            out.key("access_log", inline_table(&access_log(log)));
        }
        if let Some(index) = site.service {
            out.key("service", self.service_name(index));
        }
        let name = |index| self.service_name(index);
        steps(out, "site.handle", &site.steps, &name);
        steps(out, "site.error", &site.errors, &name);
        for route in &site.routes {
            self.route(out, route);
        }
    }

    fn route(&self, out: &mut Writer, route: &Route) {
        out.table("[[site.route]]");
        if let Some(path) = &route.path {
            out.key("path", text(path));
        }
        if !route.methods.is_empty() {
            out.key("method", list(route.methods.iter().map(text)));
        }
        let headers = route
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value));
        let query = route
            .query
            .iter()
            .map(|(name, value)| (name.as_str(), value));
        for (key, matches) in [("header", matches(headers)), ("query", matches(query))] {
            if let Some(matches) = matches {
                out.key(key, matches);
            }
        }
        if !route.client_ip.is_empty() {
            out.key("client_ip", networks(&route.client_ip));
        }
        if let Some(index) = route.service {
            out.key("service", self.service_name(index));
        }
        let name = |index| self.service_name(index);
        steps(out, "site.route.handle", &route.steps, &name);
    }

    fn service_name(&self, ServiceIndex(n): ServiceIndex) -> String {
        self.services
            .get(n)
            .map_or_else(String::new, |service| text(&service.name))
    }
}
