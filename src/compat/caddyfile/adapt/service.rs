//! Services: what every `reverse_proxy` leads to, each once, and their names.
//!
//! A name must stay the same when something else in the file changes, because what is live is
//! remembered by it. What answers for a whole site is named after the site's first host; everything else after
//! its first upstream.

use std::collections::HashSet;

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::super::source::Pos;
use super::Cx;
use super::doc::{Table, Value};
use crate::model::{Endpoint, UpstreamAddr};

/// One service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Upstreams of its blue slot.
    pub(super) blue: Vec<(String, Pos)>,
    /// Its other keys.
    pub(super) options: Table,
    pub(super) pos: Pos,
    /// The site that it answers for as a whole.
    pub(super) site: Option<String>,
    /// Written as `upstream` of its site.
    pub(super) short: bool,
}

/// All services of a file.
#[derive(Debug)]
pub(super) struct Services {
    all: Vec<Service>,
    /// Each has a table of its own.
    long: bool,
}

impl Services {
    pub(super) const fn new(long: bool) -> Self {
        Self {
            all: Vec::new(),
            long,
        }
    }

    /// The number of a service; the same for the same upstreams with the same options.
    pub(super) fn add(&mut self, service: Service) -> usize {
        let same = |known: &Service| {
            known.options == service.options
                && known
                    .blue
                    .iter()
                    .map(|(up, _)| up)
                    .eq(service.blue.iter().map(|(up, _)| up))
        };
        if let Some(known) = self.all.iter().position(same) {
            return known;
        }
        self.all.push(service);
        self.all.len() - 1
    }

    /// A service answers for a whole site of this name. Its upstreams, if it can be written as
    /// `upstream` of the site; else it is written by its name.
    pub(super) fn answers_for(&mut self, number: usize, site: &str) -> Option<Value> {
        let long = self.long;
        let service = self.all.get_mut(number)?;
        if service.site.is_some() {
            return None;
        }
        service.site = Some(site.to_owned());
        service.short = !long && service.options.is_empty();
        service.short.then(|| blue(service))
    }

    /// As [`Self::answers_for`], for a service that needs more than its name.
    pub(super) fn answers_for_long(&mut self, number: usize, site: &str) {
        if let Some(service) = self.all.get_mut(number)
            && service.site.is_none()
        {
            service.site = Some(site.to_owned());
        }
    }

    /// The names, by number.
    pub(super) fn names(&self) -> Vec<String> {
        let mut taken: HashSet<String> = HashSet::new();
        let mut names = vec![String::new(); self.all.len()];
        for (name, service) in names.iter_mut().zip(&self.all) {
            if let Some(site) = &service.site {
                *name = free(site, &mut taken);
            }
        }
        for (name, service) in names.iter_mut().zip(&self.all) {
            if service.site.is_none() {
                let first = service.blue.first().map_or("", |(up, _)| up.as_str());
                let (short, long) = upstream_names(first);
                let wanted = if taken.contains(&short) { long } else { short };
                *name = free(&wanted, &mut taken);
            }
        }
        names
    }

    /// `[service.NAME]` of those that are not written as `upstream`.
    pub(super) fn table(&self, names: &[String]) -> Table {
        let mut table = Table::default();
        for (service, name) in self
            .all
            .iter()
            .zip(names)
            .filter(|(service, _)| !service.short)
        {
            let mut inside = Table::at(service.pos).with(service.pos, "blue", blue(service));
            inside
                .entries
                .extend(service.options.entries.iter().cloned());
            table.put(service.pos, name.clone(), Value::Section(inside));
        }
        table
    }
}

fn blue(service: &Service) -> Value {
    let text = |(up, pos): &(String, Pos)| Value::text(up.clone()).at(*pos);
    Value::List(service.blue.iter().map(text).collect())
}

/// A name that nothing else has.
fn free(wanted: &str, taken: &mut HashSet<String>) -> String {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.:*".contains(c);
    let base: String = wanted.chars().filter(|c| valid(*c)).take(200).collect();
    let base = if base.is_empty() {
        "service".to_owned()
    } else {
        base
    };
    let mut name = base.clone();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        number += 1;
        name = format!("{base}-{number}");
    }
    name
}

/// A name without and with the port. An address alone says little, so its port always belongs to it.
fn upstream_names(upstream: &str) -> (String, String) {
    let Ok(address) = upstream.parse::<UpstreamAddr>() else {
        return (upstream.to_owned(), upstream.to_owned());
    };
    match address.endpoint() {
        Endpoint::Name { host, port } if &**host == "localhost" => {
            let name = format!("{host}:{port}");
            (name.clone(), name)
        }
        Endpoint::Name { host, port } => (host.to_string(), format!("{host}:{port}")),
        Endpoint::Socket(address) => (address.to_string(), address.to_string()),
        Endpoint::Unix(path) => {
            let name = path
                .file_stem()
                .map_or("unix".into(), |name| name.to_string_lossy());
            (name.clone().into_owned(), name.into_owned())
        }
    }
}

/// A service on its way from the lines of a `reverse_proxy`.
pub(super) struct Builder {
    pub(super) pos: Pos,
    upstreams: Vec<Upstream>,
    /// Whether something that should be an upstream is none, and was told.
    has_wrong: bool,
    /// Keys of the service; tables are filled by name.
    pub(super) options: Table,
    /// `https` or `h2c`, by the transport.
    pub(super) scheme: Option<(&'static str, Pos)>,
    health: Health,
    /// Names of passive checks, with what they ask for.
    passive: Vec<(String, Pos, Vec<Token>)>,
    /// `lb_retries`, `lb_try_duration`, `lb_try_interval`.
    retries: Vec<(String, Token)>,
}

/// What active checks ask for.
#[derive(Default)]
struct Health {
    table: Table,
    pos: Option<Pos>,
    has_target: bool,
}

struct Upstream {
    scheme: Option<String>,
    rest: String,
    pos: Pos,
}

impl Builder {
    pub(super) fn new(pos: Pos) -> Self {
        Self {
            pos,
            upstreams: Vec::new(),
            has_wrong: false,
            options: Table::at(pos),
            scheme: None,
            health: Health::default(),
            passive: Vec::new(),
            retries: Vec::new(),
        }
    }

    /// Adds addresses.
    pub(super) fn upstreams(&mut self, cx: &Cx<'_>, words: &[Token]) {
        for word in words {
            match addresses(&word.text) {
                Ok(found) => self
                    .upstreams
                    .extend(found.into_iter().map(|(scheme, rest)| Upstream {
                        scheme,
                        rest,
                        pos: word.pos,
                    })),
                Err(message) => {
                    self.has_wrong = true;
                    cx.out.error(word.pos, message);
                }
            }
        }
    }

    /// Reads a line about the service itself. False: it is not one.
    pub(super) fn option(&mut self, cx: &Cx<'_>, line: &Directive) -> bool {
        let (pos, name, args) = (line.pos(), line.name(), line.args());
        match name {
            "to" => self.upstreams(cx, args),
            "dynamic" => {
                self.has_wrong = true;
                cx.out.error(
                    pos,
                    "upstreams are names or addresses here: a name is looked up again as its records age, \
                     and all of its addresses are used; write `to NAME:PORT`",
                );
            }
            "lb_policy" => self.policy(cx, line),
            "lb_retries" | "lb_try_duration" | "lb_try_interval" => {
                if let Some([value]) = cx.out.args(line, args, &format!("{name} VALUE")) {
                    self.retries.push((name.to_owned(), value.clone()));
                }
            }
            "lb_retry_match" => cx.out.error(
                pos,
                "GET and HEAD are tried again, and what was not sent yet; there is no other choice",
            ),
            _ if name.starts_with("health_") => self.active(cx, line),
            "fail_duration"
            | "max_fails"
            | "unhealthy_status"
            | "unhealthy_latency"
            | "unhealthy_request_count" => {
                self.passive.push((name.to_owned(), pos, args.to_vec()));
            }
            "transport" => self.transport(cx, line),
            "trusted_proxies" => cx.globals.trust(cx, pos, super::matcher::ranges(args)),
            "flush_interval" => cx.note(
                pos,
                "flush_interval is not needed: every piece of an answer is sent on as it comes",
            ),
            "verbose_logs" => cx.note(
                pos,
                "verbose_logs means nothing here; the access log has the times of the upstream",
            ),
            "stream_close_delay" => cx.note(
                pos,
                "stream_close_delay is not needed: a reload closes no connection",
            ),
            "stream_buffer_size" => cx.note(pos, "stream_buffer_size means nothing here"),
            "stream_timeout" => cx.out.error(
                pos,
                "streams have no longest time; [timeouts] stream_idle closes silent ones",
            ),
            "request_buffers" | "response_buffers" | "buffer_requests" | "buffer_responses"
            | "max_buffer_size" => {
                cx.out.error(
                    pos,
                    "bodies are not held back here: they are sent on as they come; remove it",
                );
            }
            _ => return false,
        }
        true
    }

    fn policy(&mut self, cx: &Cx<'_>, line: &Directive) {
        let pos = line.pos();
        let Some((name, args)) = line.args().split_first() else {
            cx.out.error(pos, "expected `lb_policy NAME`");
            return;
        };
        for sub in line.lines() {
            match (name.text.as_str(), sub.name(), sub.args()) {
                ("cookie", "max_age", [time]) => {
                    if let Some(time) = cx.some_time(time) {
                        self.options
                            .table(pos, "sticky")
                            .put(sub.pos(), "max_age", time);
                    }
                }
                (_, "fallback", [policy]) if policy.text == "random" => {}
                _ => cx.out.error(
                    sub.pos(),
                    format!("{} of a policy has no equivalent; remove it", sub.name()),
                ),
            }
        }
        let balance = match (name.text.as_str(), args) {
            ("random" | "round_robin" | "least_conn" | "ip_hash", []) => name.text.clone(),
            ("client_ip_hash", []) => "ip_hash".to_owned(),
            ("random_choose", []) => "least_conn".to_owned(),
            ("random_choose", [count]) if count.text == "2" => "least_conn".to_owned(),
            ("header", [field]) => format!("header:{}", field.text),
            ("cookie", _) => {
                if let Some(cookie) = args.first() {
                    let cookie_name = Value::text(cookie.text.clone()).at(cookie.pos);
                    self.options
                        .table(pos, "sticky")
                        .put(pos, "cookie", cookie_name);
                }
                if let Some(secret) = args.get(1) {
                    cx.note(
                        secret.pos,
                        "the cookie is signed by a secret that is made here",
                    );
                }
                "cookie".to_owned()
            }
            ("first", []) => "first".to_owned(),
            _ => {
                let message = format!(
                    "the policy {} has no equivalent; there are random, round_robin, least_conn, \
                     ip_hash, header, cookie and first",
                    name.text
                );
                cx.out.error(name.pos, message);
                return;
            }
        };
        self.options
            .put(pos, "balance", Value::text(balance).at(name.pos));
    }

    fn active(&mut self, cx: &Cx<'_>, line: &Directive) {
        let (pos, name, args) = (line.pos(), line.name(), line.args());
        self.health.pos = self.health.pos.or(Some(pos));
        let health = &mut self.health;
        match (name, args) {
            ("health_uri" | "health_path", [uri]) => {
                health.has_target = true;
                let slash = if uri.text.starts_with('/') { "" } else { "/" };
                let path = Value::text(format!("{slash}{}", uri.text)).at(uri.pos);
                health.table.put(pos, "path", path);
            }
            ("health_port", _) => {
                health.has_target = true;
                cx.out.error(pos, "probes go to the upstream's own port; give a path there");
            }
            ("health_interval", [time]) => {
                if let Some(time) = cx.some_time(time) {
                    health.table.put(pos, "interval", time);
                }
            }
            ("health_timeout", [time]) => {
                if let Some(time) = cx.some_time(time) {
                    health.table.put(pos, "timeout", time);
                }
            }
            ("health_passes", [count]) => {
                if let Some(number) = cx.number(count) {
                    health.table.put(pos, "rise", Value::Number(number).at(count.pos));
                }
            }
            ("health_fails", [count]) => {
                if let Some(number) = cx.number(count) {
                    health.table.put(pos, "fall", Value::Number(number).at(count.pos));
                }
            }
            ("health_status", [status]) => {
                let range = status_range(&status.text);
                health.table.put(pos, "status", Value::text(range).at(status.pos));
            }
            ("health_headers", []) => {
                for field in line.lines() {
                    match (field.name().to_ascii_lowercase().as_str(), field.args()) {
                        ("host", [host]) => {
                            let host = Value::text(host.text.clone()).at(host.pos);
                            health.table.put(field.pos(), "host", host);
                        }
                        _ => cx.out.error(field.pos(), "a probe has no fields of its own but `Host NAME`"),
                    }
                }
            }
            ("health_method", [method]) if method.text.eq_ignore_ascii_case("GET") => {}
            ("health_method" | "health_request_body", _) => {
                cx.out.error(pos, "probes are GETs without a body; give the application a path for them");
            }
            ("health_body", _) => cx.out.error(
                pos,
                "the body of a probe is compared as JSON: health.json in a cutover.toml beside the Caddyfile",
            ),
            ("health_follow_redirects", []) => {
                cx.out.error(pos, "probes follow no redirect; give the path that it leads to");
            }
            ("health_upstream", _) => {
                cx.out.error(pos, "every upstream is probed itself; remove it");
            }
            _ => {
                let known = [
                    "health_uri", "health_port", "health_interval", "health_timeout", "health_passes",
                    "health_fails", "health_status", "health_headers", "health_body",
                ];
                cx.out.unknown(line, &known);
            }
        }
    }

    /// The service, when it has upstreams.
    pub(super) fn finish(mut self, cx: &Cx<'_>) -> Option<Service> {
        let blue = self.blue(cx);
        if blue.is_empty() {
            // Wrong ones are reported already.
            if self.upstreams.is_empty() && !self.has_wrong {
                cx.out
                    .error(self.pos, "no upstream; write `reverse_proxy HOST:PORT`");
            }
            return None;
        }
        if blue.len() > 1 && self.options.find("balance").is_none() {
            // Caddy's default.
            self.options.put(self.pos, "balance", Value::text("random"));
        }
        self.finish_health(cx);
        self.finish_passive(cx);
        self.finish_retries(cx);
        Some(Service {
            blue,
            options: self.options,
            pos: self.pos,
            site: None,
            short: false,
        })
    }

    fn blue(&self, cx: &Cx<'_>) -> Vec<(String, Pos)> {
        let mut blue: Vec<(String, Pos)> = Vec::new();
        for upstream in &self.upstreams {
            let scheme = match (&upstream.scheme, self.scheme) {
                (Some(scheme), Some((wanted, pos))) if scheme != wanted && scheme != "unix" => {
                    let message =
                        format!("the transport speaks {wanted}, the upstream is {scheme}://");
                    cx.out.error(pos, message);
                    continue;
                }
                (Some(scheme), Some((_, pos))) if scheme == "unix" => {
                    cx.out.error(pos, "unix sockets are plain HTTP/1.1 here");
                    continue;
                }
                (Some(scheme), _) => scheme.as_str(),
                (None, Some((wanted, _))) => wanted,
                (None, None) => "",
            };
            let text = match scheme {
                "" => upstream.rest.clone(),
                "unix" => format!("unix:{}", upstream.rest),
                scheme => format!("{scheme}://{}", upstream.rest),
            };
            if !blue.iter().any(|(known, _)| *known == text) {
                blue.push((text, upstream.pos));
            }
        }
        blue
    }

    fn finish_health(&mut self, cx: &Cx<'_>) {
        let Some(pos) = self.health.pos else {
            return;
        };
        let mut table = std::mem::take(&mut self.health.table);
        if !self.health.has_target {
            cx.note(pos, "without health_uri there are no active checks in Caddy; here upstreams are probed by a TCP connection");
            return;
        }
        // Caddy's defaults, where they are not ours.
        for (key, value) in [
            ("path", Value::text("/")),
            ("interval", Value::text("30s")),
            ("timeout", Value::text("5s")),
            ("rise", Value::Number(1)),
            ("fall", Value::Number(1)),
        ] {
            if table.find(key).is_none() {
                table.put(pos, key, value);
            }
        }
        self.options.put(pos, "health", Value::Table(table));
    }

    fn finish_passive(&mut self, cx: &Cx<'_>) {
        let passive = std::mem::take(&mut self.passive);
        let find = |name: &str| passive.iter().find(|(known, ..)| known == name);
        let Some((_, pos, time)) = find("fail_duration") else {
            for (name, pos, _) in &passive {
                cx.note(
                    *pos,
                    format!("{name} does nothing here without fail_duration"),
                );
            }
            return;
        };
        let mut table = Table::at(*pos);
        let fails = match find("max_fails") {
            Some((_, _, args)) => args.first().and_then(|word| cx.number(word)).unwrap_or(1),
            None => 1,
        };
        table.put(*pos, "connect_failures", Value::Number(fails));
        let status = find("unhealthy_status");
        if let Some((_, pos, args)) = status {
            let is_server_error = |word: &Token| word.text.starts_with('5') && word.text.len() == 3;
            if args.is_empty() || !args.iter().all(is_server_error) {
                cx.out
                    .error(*pos, "only 5xx answers count against an upstream");
            } else if args.iter().any(|word| word.text != "5xx") {
                cx.note(
                    *pos,
                    "every 5xx answer counts against an upstream, not single ones",
                );
            }
        }
        let errors = if status.is_some() { fails } else { 0 };
        table.put(*pos, "server_errors", Value::Number(errors));
        if let [time] = time.as_slice() {
            if let Some(time) = cx.some_time(time) {
                table.put(*pos, "base", time.clone());
                table.put(*pos, "max", time);
            }
        } else {
            cx.out.error(*pos, "expected `fail_duration TIME`");
        }
        for name in ["unhealthy_latency", "unhealthy_request_count"] {
            if let Some((_, pos, _)) = find(name) {
                cx.out
                    .error(*pos, format!("{name} has no equivalent; remove it"));
            }
        }
        self.options.put(*pos, "eject", Value::Table(table));
    }

    fn finish_retries(&mut self, cx: &Cx<'_>) {
        for (name, word) in std::mem::take(&mut self.retries) {
            let (key, value) = match name.as_str() {
                "lb_retries" => {
                    // The first attempt is none of the retries.
                    let number = cx.number(&word).map(|n| Value::Number(n.saturating_add(1)));
                    ("attempts", number.map(|number| number.at(word.pos)))
                }
                "lb_try_duration" => ("try_duration", cx.time(&word)),
                _ => ("try_interval", cx.time(&word)),
            };
            if let Some(value) = value {
                self.options
                    .table(word.pos, "retry")
                    .put(word.pos, key, value);
            }
        }
    }
}

/// `2xx`, `2` or `200` as a range.
pub(super) fn status_range(text: &str) -> String {
    let class = text.strip_suffix("xx").unwrap_or(text);
    match class.len() {
        1 => format!("{class}00-{class}99"),
        _ => text.to_owned(),
    }
}

/// Scheme and the rest of each address that a word stands for.
fn addresses(text: &str) -> Result<Vec<(Option<String>, String)>, String> {
    if text.contains('{') {
        return Err(format!(
            "`{text}`: an upstream cannot be a placeholder; write one reverse_proxy for each, with a matcher"
        ));
    }
    if let Some(path) = text.strip_prefix("unix/") {
        return Ok(vec![(Some("unix".to_owned()), path.to_owned())]);
    }
    if text.starts_with("unix+h2c/") {
        return Err("unix sockets are plain HTTP/1.1 here".to_owned());
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https" | "h2c"), rest)) => (Some(scheme), rest),
        Some((scheme, _)) => {
            return Err(format!(
                "{scheme}:// is no scheme of an upstream: http, https or h2c"
            ));
        }
        None => (None, text.strip_prefix("tcp/").unwrap_or(text)),
    };
    if rest.contains('/') {
        return Err("an upstream has no path; use rewrite or handle_path for that".to_owned());
    }
    // Plain HTTP is what an address without a scheme means.
    let scheme = scheme.filter(|scheme| *scheme != "http").map(str::to_owned);
    let colon = rest.rfind(':').filter(|at| !rest[*at..].contains(']'));
    let Some(colon) = colon else {
        let port = if scheme.is_some() { "" } else { ":80" };
        return Ok(vec![(scheme, format!("{rest}{port}"))]);
    };
    let (host, ports) = (&rest[..colon], &rest[colon + 1..]);
    let host = if host.is_empty() { "localhost" } else { host };
    let Some((from, to)) = ports.split_once('-') else {
        return Ok(vec![(scheme, format!("{host}:{ports}"))]);
    };
    match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from), Ok(to)) if from <= to && to - from < 1000 => Ok((from..=to)
            .map(|port| (scheme.clone(), format!("{host}:{port}")))
            .collect()),
        _ => Err(format!("`{ports}` is no range of ports")),
    }
}
