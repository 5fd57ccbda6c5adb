//! What steps would do with a request, as far as that can be told without carrying anything out: for
//! `proxyctl explain`.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, header};
use pingora::http::RequestHeader;

use super::fields;
use super::matcher;
use super::rewrite;
use super::scope::Scope;
use super::state::{Handling, Original, set};
use crate::config::ServiceIndex;
use crate::config::step::Action;
use crate::pool::{Plan, Planned, SiteEntry};
use crate::proxy::exchange::Exchange;

/// A request that nobody sent.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path in the form in which it is matched, and query.
    pub target: &'a str,
    /// Host and port.
    pub authority: &'a str,
    /// Fields.
    pub headers: &'a HeaderMap,
    /// Where it would come from.
    pub client: IpAddr,
    /// Whether over TLS.
    pub https: bool,
    /// Where it would come in.
    pub port: u16,
}

/// A request on its way through the steps of a site.
pub struct Rehearsal {
    request: RequestHeader,
    exchange: Exchange,
    told: Vec<String>,
}

/// How the steps of a list end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RehearsalEnd {
    /// The request goes on.
    Next,
    /// A step answers, with this status if it is known.
    Answered(Option<u16>),
    /// A step leads to this service.
    Service(ServiceIndex),
}

impl Rehearsal {
    /// Begins with a request. `None`: it cannot be one.
    #[must_use]
    pub fn new(site: &Arc<SiteEntry>, asked: &Asked<'_>) -> Option<Self> {
        let target = asked.target.as_bytes();
        let mut request = RequestHeader::build(asked.method.clone(), target, None).ok()?;
        request.insert_header(header::HOST, asked.authority).ok()?;
        let fields = asked
            .headers
            .iter()
            .filter(|(name, _)| *name != header::HOST);
        for (name, value) in fields {
            request.append_header(name.clone(), value.clone()).ok()?;
        }
        let original = Original {
            uri: request.uri.clone(),
            authority: asked.authority.to_owned(),
        };
        let mut exchange = Exchange::new();
        exchange.peer = asked.client;
        exchange.client.ip = asked.client;
        exchange.https = asked.https;
        exchange.local_port = asked.port;
        exchange.handling = Some(Box::new(Handling::new(Arc::clone(site), original)));
        Some(Self {
            request,
            exchange,
            told: Vec::new(),
        })
    }

    /// Goes through a list.
    pub fn run(&mut self, whose: &str, plan: &Plan) -> RehearsalEnd {
        let mut taken = Vec::new();
        for (at, step) in plan.steps().iter().enumerate() {
            let name = format!("{whose} step {} ({})", at + 1, name(&step.action));
            if step.group.is_some_and(|group| taken.contains(&group)) {
                continue;
            }
            if let Some(matcher) = &step.when {
                let scope = Scope::of(&self.request, &self.exchange);
                let Some(seen) = matcher::holds(matcher, &scope) else {
                    continue;
                };
                if let Some(handling) = self.exchange.handling.as_deref_mut() {
                    handling.saw(seen);
                }
            }
            taken.extend(step.group);
            match self.step(&name, step) {
                RehearsalEnd::Next => {}
                end => return end,
            }
        }
        RehearsalEnd::Next
    }

    fn step(&mut self, name: &str, step: &Arc<Planned>) -> RehearsalEnd {
        let scope = Scope::of(&self.request, &self.exchange);
        let status = |text| scope.fill(text).parse().ok();
        match &step.action {
            Action::Steps(_) => {
                self.told.push(format!("{name} matches"));
                let nested = step.nested.first().cloned().unwrap_or_default();
                return self.run(name, &nested);
            }
            Action::Rewrite(change) => {
                let mut changed = self.request.clone();
                let told = match rewrite::outgoing(change, &scope, &mut changed) {
                    Ok(()) => format!("{name} makes it {}", changed.uri),
                    Err(_) => format!("{name} makes its target too long"),
                };
                self.request = changed;
                self.told.push(told);
            }
            Action::RequestHeaders(ops) => {
                let mut changed = self.request.clone();
                let done = fields::apply(ops, &mut changed, &scope);
                if done.is_ok() {
                    self.request = changed;
                }
                self.told.push(format!("{name} changes its fields"));
            }
            Action::Vars(vars) => {
                for (name, value) in vars {
                    let scope = Scope::of(&self.request, &self.exchange);
                    let value = scope.fill(value).into_owned();
                    if let Some(handling) = self.exchange.handling.as_deref_mut() {
                        set(&mut handling.vars, name, value);
                    }
                }
                self.told.push(format!("{name} sets them"));
            }
            Action::Map(_) | Action::Root(_) => {
                let root = match &step.action {
                    Action::Root(root) => Some(scope.fill(root).into_owned()),
                    _ => None,
                };
                if let Some(handling) = self.exchange.handling.as_deref_mut() {
                    match root {
                        Some(root) => handling.root = Some(root),
                        None => handling.maps.push(Arc::clone(step)),
                    }
                }
                self.told.push(format!("{name} is set"));
            }
            Action::Respond(respond) => {
                let status = if respond.status.0.is_empty() {
                    Some(200)
                } else {
                    status(&respond.status)
                };
                self.told.push(format!("{name} answers"));
                return RehearsalEnd::Answered(status);
            }
            Action::Redirect(redirect) => {
                let to = scope.fill(&redirect.to).into_owned();
                self.told.push(format!("{name} answers with {to}"));
                return RehearsalEnd::Answered(Some(redirect.status.as_u16()));
            }
            Action::Error(error) => {
                let status = if error.status.0.is_empty() {
                    Some(500)
                } else {
                    status(&error.status)
                };
                self.told.push(format!("{name} fails it"));
                return RehearsalEnd::Answered(status);
            }
            Action::Abort => {
                self.told.push(format!("{name} closes the connection"));
                return RehearsalEnd::Answered(None);
            }
            Action::Files(files) if !files.pass_thru => {
                self.told
                    .push(format!("{name} answers with a file, or 404"));
                return RehearsalEnd::Answered(None);
            }
            Action::Proxy(proxy) => {
                self.told.push(format!("{name} leads to its service"));
                return RehearsalEnd::Service(proxy.service);
            }
            Action::ResponseHeaders(_) | Action::Encode(_) | Action::Log(_) => {
                self.told.push(format!("{name} is noted for the answer"));
            }
            _ => self.told.push(format!(
                "{name} matches and may answer; it is not carried out here"
            )),
        }
        RehearsalEnd::Next
    }

    /// The request as the steps left it: path and query.
    #[must_use]
    pub fn target(&self) -> &Uri {
        &self.request.uri
    }

    /// What was found, a line each.
    #[must_use]
    pub fn told(self) -> Vec<String> {
        self.told
    }
}

/// The action's key in the configuration.
const fn name(action: &Action) -> &'static str {
    match action {
        Action::Access(_) => "access",
        Action::RateLimit(_) => "rate_limit",
        Action::Concurrency(_) => "concurrency",
        Action::Cors(_) => "cors",
        Action::BasicAuth(_) => "basic_auth",
        Action::ForwardAuth(_) => "forward_auth",
        Action::BodyLimit(_) => "body_limit",
        Action::Vars(_) => "vars",
        Action::Map(_) => "map",
        Action::Root(_) => "root",
        Action::RequestHeaders(_) => "request_header",
        Action::ResponseHeaders(_) => "response_header",
        Action::Rewrite(_) => "rewrite",
        Action::TryFiles(_) => "try_files",
        Action::Encode(_) => "encode",
        Action::Log(_) => "log",
        Action::Steps(_) => "handle",
        Action::Respond(_) => "respond",
        Action::Redirect(_) => "redirect",
        Action::Error(_) => "error",
        Action::Abort => "abort",
        Action::Files(_) => "files",
        Action::Proxy(_) => "proxy",
        Action::CopyResponse(_) => "copy_response",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::{Matcher, MatcherSet, Respond, Rewrite, Step, Template};
    use crate::proxy::handle::test::exchange;

    fn text(text: &str) -> Template {
        Template::parse(text, &[]).expect("a template")
    }

    fn on(path: &str, group: Option<u32>, action: Action) -> Step {
        Step {
            when: Some(Matcher(vec![MatcherSet {
                path: vec![text(path)],
                ..MatcherSet::default()
            }])),
            group,
            action,
        }
    }

    fn respond(status: &str) -> Action {
        Action::Respond(Respond {
            status: text(status),
            body: text(""),
            close: false,
        })
    }

    fn told(target: &str, steps: &[Step]) -> (Vec<String>, RehearsalEnd) {
        let exchange = exchange();
        let handling = exchange.handling.as_ref().expect("steps");
        let asked = Asked {
            method: &Method::GET,
            target,
            authority: "h",
            headers: &HeaderMap::new(),
            client: IpAddr::from([127, 0, 0, 1]),
            https: false,
            port: 80,
        };
        let mut rehearsal = Rehearsal::new(&handling.site, &asked).expect("a request");
        let end = rehearsal.run("site", &Plan::new(steps));
        (rehearsal.told(), end)
    }

    #[test]
    fn steps_are_told_in_order_and_see_what_the_ones_before_made() {
        let rewrite = Action::Rewrite(Rewrite {
            strip_prefix: Some(text("/api")),
            ..Rewrite::default()
        });
        let steps = [
            on("/other", None, respond("204")),
            on(
                "/api/*",
                Some(1),
                Action::Steps(vec![Step::always(rewrite), on("/x", None, respond("404"))]),
            ),
            on("/x", Some(1), respond("500")),
            on("/y", None, respond("")),
        ];
        let (lines, end) = told("/api/x", &steps);
        assert_eq!(
            lines,
            [
                "site step 2 (handle) matches",
                "site step 2 (handle) step 1 (rewrite) makes it /x",
                "site step 2 (handle) step 2 (respond) answers",
            ]
        );
        assert_eq!(end, RehearsalEnd::Answered(Some(404)));
        let (lines, end) = told("/api/y", &steps);
        assert_eq!(lines.len(), 3, "the group ran: {lines:?}");
        assert_eq!(end, RehearsalEnd::Answered(Some(200)));
        assert_eq!(told("/z", &steps), (Vec::new(), RehearsalEnd::Next));
    }
}
