//! The `proxy` action: what it changes about the request that an upstream gets and about its answer.

use std::sync::Arc;

use http::{Method, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType as Fault, Result};

use super::failure::{Failure, not_possible};
use super::fields;
use super::matcher::{headers_hold, in_ranges};
use super::response;
use super::rewrite;
use super::run::{Flow, Walk};
use super::scope::Scope;
use super::state::UpstreamAnswer;
use crate::config::ServiceIndex;
use crate::config::step::{Action, CopyResponse, Proxied, Proxy, ResponseMatcher};
use crate::model::ErrorType;
use crate::pool::Planned;
use crate::proxy::exchange::Exchange;

/// What becomes of an upstream's answer.
#[derive(Debug)]
pub(in crate::proxy) enum Answer {
    /// It goes to the client, as it was changed.
    Pass,
    /// Steps have answered instead.
    Over,
    /// The connection of the client is to be closed.
    Abort,
    /// Another service is asked instead.
    Ask(ServiceIndex),
}

/// Changes the request to an upstream, after the forwarding fields were set.
pub(in crate::proxy) fn request(
    session: &Session,
    exchange: &mut Exchange,
    request: &mut RequestHeader,
) -> Result<()> {
    let Some(handling) = exchange.handling.as_deref_mut() else {
        return Ok(());
    };
    let step = handling.proxy.clone();
    let proxy = step.as_deref().and_then(proxy_of);
    if let Some(method) = proxy.and_then(|proxy| proxy.rewrite.method.as_ref()) {
        let method = rewrite::method_of(&Scope::new(session, exchange).fill(method));
        let handling = exchange.handling.as_deref_mut();
        if let (Some(handling), Some(method)) = (handling, method) {
            // A body has no meaning there (RFC 9110 §9.3.1).
            handling.drops_body = [Method::GET, Method::HEAD].contains(&method);
            handling.method = Some(method);
        }
    }
    let handling = exchange.handling.as_deref();
    if handling.is_some_and(|handling| handling.drops_body) {
        for name in [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::EXPECT,
        ] {
            request.remove_header(&name);
        }
    }
    let scope = Scope::new(session, exchange);
    request.set_method(scope.method().clone());
    if let Some(proxy) = proxy {
        rewrite::outgoing(&proxy.rewrite, &scope, request)
            .map_err(|failure| Error::new_in(Fault::HTTPStatus(failure.status)))?;
        fields::apply(&proxy.request_headers, request, &scope)?;
    }
    Ok(())
}

fn proxy_of(step: &Planned) -> Option<&Proxy> {
    match &step.action {
        Action::Proxy(proxy) => Some(proxy),
        _ => None,
    }
}

/// Whether an answer is one of those.
pub(super) fn answer_fits(when: &ResponseMatcher, head: &ResponseHeader) -> bool {
    let status = head.status.as_u16();
    (when.status.is_empty() || in_ranges(&when.status, status))
        && headers_hold(&when.headers, &head.headers, None)
}

impl Walk<'_> {
    /// Handles an upstream's answer and carries out the changes that steps asked for.
    pub(in crate::proxy) async fn upstream_answered(
        &mut self,
        head: &mut ResponseHeader,
    ) -> Result<Answer> {
        if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
            response::deferred(self.session, self.exchange, head)?;
            return Ok(Answer::Pass);
        }
        let step = self.handling().proxy.clone();
        if let Some(step) = &step
            && let Some(proxy) = proxy_of(step)
        {
            let on_response = proxy.on_response.iter().zip(&step.nested);
            let mut fitting = on_response.filter(|(entry, _)| answer_fits(&entry.when, head));
            if let Some((entry, plan)) = fitting.next() {
                match &entry.then {
                    Proxied::Status(status) => {
                        let scope = Scope::new(self.session, self.exchange);
                        let scope = scope.with_answer(head);
                        let status = scope.fill(status).parse().ok();
                        let status =
                            status.and_then(|status| http::StatusCode::from_u16(status).ok());
                        // What is no status leaves the upstream's.
                        let status = status.filter(|status| !status.is_informational());
                        head.set_status(status.unwrap_or(head.status))?;
                    }
                    Proxied::Steps(_) => match self.respond_instead(plan, head).await? {
                        Answer::Pass => {}
                        other => return Ok(other),
                    },
                }
            }
            response::of_proxy(self.session, self.exchange, &proxy.response_headers, head)?;
        }
        response::beside(self.exchange, head)?;
        response::deferred(self.session, self.exchange, head)?;
        self.match_method(head)?;
        Ok(Answer::Pass)
    }

    /// Runs the steps for an upstream's answer. What they leave unanswered is passed on.
    async fn respond_instead(
        &mut self,
        plan: &crate::pool::Plan,
        head: &mut ResponseHeader,
    ) -> Result<Answer> {
        self.handling().upstream = Some(UpstreamAnswer {
            status: head.status.as_u16(),
            headers: head.headers.clone(),
        });
        let mut flow = self.run(plan).await?;
        if let Flow::Fail(failure) = flow {
            flow = self.fail(failure).await?;
        }
        Ok(match flow {
            Flow::Next | Flow::Fail(_) => Answer::Pass,
            Flow::Answered => Answer::Over,
            Flow::Abort => Answer::Abort,
            Flow::Copy(step) => {
                if let Action::CopyResponse(copy) = &step.action {
                    self.copy(copy, head)?;
                }
                Answer::Pass
            }
            Flow::Proxy(step) => {
                self.handling().upstream = None;
                match self.chosen(step) {
                    Some(service) => Answer::Ask(service),
                    None => Answer::Pass,
                }
            }
        })
    }

    /// Keeps of an upstream's fields what a `copy_response` step lets through.
    fn copy(&mut self, copy: &CopyResponse, head: &mut ResponseHeader) -> Result<()> {
        if let Some(status) = &copy.status {
            let status = self.fill(status).parse().ok();
            if let Some(status) = status.and_then(|status| http::StatusCode::from_u16(status).ok())
            {
                head.set_status(status)?;
            }
        }
        let framing = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ];
        let names = head.headers.keys().filter(|name| !framing.contains(name));
        let dropped = names.filter(|name| !is_copied(copy, name));
        for name in dropped.cloned().collect::<Vec<_>>() {
            head.remove_header(&name);
        }
        Ok(())
    }

    /// `copy_response` with the head alone: the next steps answer with these fields.
    pub(super) fn copy_fields(&mut self, copy: &CopyResponse) -> Flow {
        let handling = self.handling();
        let Some(upstream) = &handling.upstream else {
            return Flow::Fail(not_possible(
                &handling.site,
                "copy_response: no upstream answered",
            ));
        };
        let framing = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ];
        let fields = upstream.headers.iter();
        for (name, value) in fields.filter(|(name, _)| !framing.contains(name)) {
            if is_copied(copy, name) {
                handling.early.append(name.clone(), value.clone());
            }
        }
        Flow::Next
    }

    /// A GET that the upstream got as a HEAD has no body, whatever the upstream's fields say.
    fn match_method(&mut self, head: &mut ResponseHeader) -> Result<()> {
        let request = self.session.req_header();
        let sent = self.exchange.method(request);
        if *sent == Method::HEAD && request.method != Method::HEAD {
            head.remove_header(&header::TRANSFER_ENCODING);
            head.insert_header(header::CONTENT_LENGTH, 0)?;
        }
        Ok(())
    }

    /// Whether the `errors` steps of the site may ask a service, and have not run yet.
    pub(in crate::proxy) fn forwards_errors(&mut self) -> bool {
        let handling = self.handling();
        let errors = &handling.site.errors;
        handling.failure.is_none() && errors.any(&|action| matches!(action, Action::Proxy(_)))
    }

    /// Claims a place on the live pool of a service. `None`: it has none.
    pub(in crate::proxy) fn claim(&mut self, service: ServiceIndex) -> Option<()> {
        let site = Arc::clone(&self.handling().site);
        let claim = self.edge.claim(site.service_name(service)?)?;
        self.exchange.claimed(claim, self.session.req_header());
        Some(())
    }

    /// Remembers the `proxy` step that was reached, and gives its service.
    pub(in crate::proxy) fn chosen(&mut self, step: Arc<Planned>) -> Option<ServiceIndex> {
        let service = proxy_of(&step)?.service;
        self.handling().proxy = Some(step);
        Some(service)
    }
}

fn is_copied(copy: &CopyResponse, name: &header::HeaderName) -> bool {
    (copy.include.is_empty() || copy.include.contains(name)) && !copy.exclude.contains(name)
}

/// Another service was to be asked: its slot is empty, or the request's body is too far gone.
pub(in crate::proxy) const CANNOT_ASK_ANOTHER: Failure = Failure::new(
    502,
    ErrorType::ProxyInternalResponse,
    "The request cannot be sent to another service.",
);
