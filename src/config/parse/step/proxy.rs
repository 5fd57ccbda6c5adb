//! `proxy = { ... }`: to a service, and what is done with its answer.

use super::{Scope, Value};
use crate::config::ServiceIndex;
use crate::config::parse::section::Section;
use crate::config::schema::handlers;
use crate::config::step::{
    Action, HeaderOps, Proxied, Proxy, ResponseHeaders, ResponseStep, Rewrite,
};

impl<'a> Scope<'_, 'a> {
    /// `service = "NAME"`: short for a proxy without anything else.
    pub(super) fn only_service(&self, at: &Section<'a>) -> Option<Action> {
        let service = self.names.resolve(at)?;
        Some(Action::Proxy(Box::new(Proxy {
            service,
            rewrite: Rewrite::default(),
            request_headers: HeaderOps::default(),
            response_headers: Vec::new(),
            on_response: Vec::new(),
        })))
    }

    pub(super) fn proxy(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("proxy", &handlers::PROXY)?;
        let service = self.target_service(&section);
        if section.entry("service").is_none() && section.entry("upstream").is_none() {
            section.missing("leads nowhere; give service = \"NAME\" or upstream = [\"app:3000\"]");
        }
        let request_headers = section.section("request_header", &handlers::REQUEST_HEADER);
        let request_headers = request_headers.map(|section| self.header_ops(&section));
        let rewrite = self.rewrite(&section).unwrap_or_default();
        let response_headers = self.response_header_list(&section);
        let answers = section.sections("on_response", &handlers::ON_RESPONSE);
        let on_response = answers
            .iter()
            .filter_map(|answer| self.on_response(answer))
            .collect();
        Some(Action::Proxy(Box::new(Proxy {
            service: service?,
            rewrite,
            request_headers: request_headers.unwrap_or_default(),
            response_headers,
            on_response,
        })))
    }

    /// `service` or `upstream` of a table.
    pub(in crate::config::parse) fn target_service(
        &self,
        section: &Section<'a>,
    ) -> Option<ServiceIndex> {
        let named = self.names.resolve(section);
        let implied = self.names.implied(section);
        if section.entry("service").is_some() && section.entry("upstream").is_some() {
            section.error(
                "upstream",
                "stands for a service of its own; remove it or service",
            );
        }
        named.or(implied)
    }

    /// One table, or a list of them.
    fn response_header_list(&self, section: &Section<'a>) -> Vec<ResponseHeaders> {
        let is_list = matches!(
            section
                .entry("response_header")
                .map(|entry| &entry.node.value),
            Some(Value::List(_))
        );
        let sections = match is_list {
            true => section.sections("response_header", &handlers::RESPONSE_HEADER),
            false => section
                .section("response_header", &handlers::RESPONSE_HEADER)
                .into_iter()
                .collect(),
        };
        let read = |section: &Section<'a>| self.response_headers(section);
        sections.iter().map(read).collect()
    }

    fn on_response(&self, section: &Section<'a>) -> Option<ResponseStep> {
        let when = self.response_matcher(section).unwrap_or_default();
        let status = section.value("replace_status", |value| self.status(value));
        let steps = section
            .entry("handle")
            .map(|_| self.of_response().steps(section, "handle"));
        let then = match (section.entry("replace_status"), steps) {
            (Some(_), Some(_)) => {
                section.error(
                    "replace_status",
                    "give either replace_status or handle, not both",
                );
                return None;
            }
            (None, None) => {
                section.missing("does nothing; give replace_status or handle = [...]");
                return None;
            }
            (Some(_), None) => Proxied::Status(status?),
            (None, Some(steps)) => Proxied::Steps(steps),
        };
        Some(ResponseStep { when, then })
    }
}
