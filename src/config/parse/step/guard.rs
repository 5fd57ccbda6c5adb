//! Actions that turn requests away: who may come, how often, with what.

use http::{HeaderName, HeaderValue, Method};

use super::{Scope, Value};
use crate::config::parse::global::networks;
use crate::config::parse::section::Section;
use crate::config::parse::tree::quoted;
use crate::config::parse::value::{self, Parsed};
use crate::config::schema::handlers;
use crate::config::step::{
    Access, Action, BasicAuth, BodyLimit, Concurrency, Cors, ForwardAuth, ForwardTo, Part, RateKey,
    RateLimit, Template, User, Var, is_framing,
};
use crate::model::{AddressError, UpstreamAddr};

use super::hash;

impl<'a> Scope<'_, 'a> {
    pub(super) fn access(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("access", &handlers::ACCESS)?;
        let (allow, deny) = (networks(&section, "allow"), networks(&section, "deny"));
        for key in ["allow", "deny"] {
            if section.length(key) == Some(0) {
                section.error(key, "an empty list holds nobody; remove it");
            }
        }
        if section.entry("allow").is_none() && section.entry("deny").is_none() {
            section.missing("does nothing; give allow or deny, such as allow = [\"10.0.0.0/8\"]");
        }
        Some(Action::Access(Access { allow, deny }))
    }

    pub(super) fn concurrency(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("concurrency", &handlers::CONCURRENCY)?;
        let requests = needed(
            &section,
            "requests",
            "how many at a time",
            value::whole(1..=u32::MAX),
        );
        let mut limit = Concurrency {
            requests: requests.unwrap_or(1),
            queue: 0,
            wait: std::time::Duration::from_secs(5),
            per_client: false,
        };
        section.set("queue", &mut limit.queue, value::whole(0..=1_000_000));
        section.set("wait", &mut limit.wait, value::some_time);
        section.set("per_client", &mut limit.per_client, value::boolean);
        if section.entry("wait").is_some() && limit.queue == 0 {
            section.warning("wait", "has no effect: without queue nobody waits");
        }
        Some(Action::Concurrency(limit))
    }

    pub(super) fn rate_limit(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("rate_limit", &handlers::RATE_LIMIT)?;
        let requests = needed(
            &section,
            "requests",
            "how many in a window",
            value::whole(1..=u32::MAX),
        );
        let requests = requests.unwrap_or(1);
        let mut limit = RateLimit {
            requests,
            window: std::time::Duration::from_secs(1),
            burst: requests,
            key: RateKey::Client,
        };
        section.set("window", &mut limit.window, value::some_time);
        section.set("burst", &mut limit.burst, value::whole(1..=u32::MAX));
        section.set("key", &mut limit.key, |value| self.rate_key(value));
        Some(Action::RateLimit(limit))
    }

    fn rate_key(&self, value: &Value) -> Parsed<RateKey> {
        let text = value::words(value)?;
        if let Some(name) = text.strip_prefix("header:") {
            return match HeaderName::try_from(name.trim()) {
                Ok(name) => Ok(RateKey::Header(name)),
                Err(_) => Err(format!("{} is not the name of a header", quoted(name))),
            };
        }
        match text.as_str() {
            "client" => Ok(RateKey::Client),
            "route" => Ok(RateKey::Route),
            _ if text.contains('{') => self.template(value).map(RateKey::Template),
            _ => Err(format!(
                "expected {}, or a text with placeholders such as \"{{header.X-Api-Key}}\"; found \
                 the text {}",
                value::one_of(["client", "route", "header:NAME"].into_iter(), value),
                quoted(&text)
            )),
        }
    }

    pub(super) fn cors(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("cors", &handlers::CORS)?;
        let mut cors = Cors {
            origins: texts(&section, "origins", origin),
            methods: ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
                .map(str::to_owned)
                .to_vec(),
            headers: texts(&section, "headers", field_name),
            expose: texts(&section, "expose", field_name),
            credentials: false,
            max_age: std::time::Duration::from_secs(600),
        };
        if section.entry("origins").is_none() || section.length("origins") == Some(0) {
            section.missing("needs origins, such as [\"https://app.example.com\"] or [\"*\"]");
        }
        section.set_list("methods", &mut cors.methods, "methods", |value| {
            value::method(value).map(|method: Method| method.to_string())
        });
        section.set("credentials", &mut cors.credentials, value::boolean);
        section.set("max_age", &mut cors.max_age, value::duration);
        if cors.credentials && cors.origins.iter().any(|origin| origin == "*") {
            section.error(
                "credentials",
                "with origins = [\"*\"] every page could act as its visitors; name the origins",
            );
        }
        Some(Action::Cors(cors))
    }

    pub(super) fn basic_auth(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("basic_auth", &handlers::BASIC_AUTH)?;
        let mut realm = "restricted".to_owned();
        section.set("realm", &mut realm, realm_text);
        if section.entry("users").is_none() {
            section.missing(
                "needs users, such as { alice = \"HASH\" }; proxyctl hash-password makes one",
            );
        }
        let mut users = Vec::new();
        for entry in section.table("users").unwrap_or_default() {
            let path = super::path_of(&section, "users", entry);
            if entry.name.is_empty() || entry.name.contains(|c: char| c == ':' || c.is_control()) {
                let message = "a user's name is not empty and has no colon (RFC 7617)".to_owned();
                section.out.error(entry.at, &path, message);
            }
            let Some(hash) = section.read(&entry.node, &path, hash::read) else {
                continue;
            };
            if let Some(warning) = hash::weakness(&hash) {
                section.out.warning(entry.node.at, &path, warning);
            }
            users.push(User {
                name: entry.name.clone(),
                hash,
            });
        }
        if section.table("users").is_some_and(<[_]>::is_empty) {
            section.error("users", "nobody could log in; give at least one user");
        }
        Some(Action::BasicAuth(BasicAuth { realm, users }))
    }

    pub(super) fn forward_auth(&self, at: &Section<'a>) -> Option<Action> {
        let section = at.section("forward_auth", &handlers::FORWARD_AUTH)?;
        let address = value::parsed::<UpstreamAddr>(AddressError::FORM);
        let service = self.names.resolve(&section).map(ForwardTo::Service);
        let upstream = section.value("upstream", address).map(ForwardTo::Upstream);
        match (section.entry("service"), section.entry("upstream")) {
            (Some(_), Some(_)) => {
                section.error("upstream", "give either service or upstream, not both");
            }
            (None, None) => section
                .missing("needs service = \"NAME\" or upstream = \"auth:9091\": who is asked"),
            _ => {}
        }
        let mut uri = Template(vec![Part::Var(Var::Uri)]);
        section.set("uri", &mut uri, |value| self.some_template(value));
        let copied = section
            .one_or_list("copy_headers", copied)
            .unwrap_or_default();
        let headers = section.section("headers", &handlers::REQUEST_HEADER);
        let mut timeout = std::time::Duration::from_secs(5);
        section.set("timeout", &mut timeout, value::some_time);
        Some(Action::ForwardAuth(Box::new(ForwardAuth {
            to: service.or(upstream)?,
            uri,
            copy_headers: copied.into_iter().map(|(_, names)| names).collect(),
            headers: headers
                .map(|section| self.header_ops(&section))
                .unwrap_or_default(),
            timeout,
        })))
    }

    pub(super) fn body_limit(&self, at: &Section<'a>) -> Option<Action> {
        let bytes = at.value("body_limit", value::size(0..=usize::MAX))?;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Some(Action::BodyLimit(BodyLimit { bytes }))
    }
}

/// A key that must be there.
fn needed<T>(
    section: &Section<'_>,
    key: &'static str,
    what: &str,
    parse: impl FnOnce(&Value) -> Parsed<T>,
) -> Option<T> {
    if section.entry(key).is_none() {
        section.missing(format!("needs {key}: {what}"));
    }
    section.value(key, parse)
}

fn texts(
    section: &Section<'_>,
    key: &'static str,
    parse: impl Fn(&Value) -> Parsed<String>,
) -> Vec<String> {
    let list = section.one_or_list(key, parse).unwrap_or_default();
    list.into_iter().map(|(_, text)| text).collect()
}

/// `*`, `https://app.example.com[:port]` or `https://*.example.com`.
fn origin(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    let rest = text.split_once("://");
    let host = rest.map(|(_, host)| host.strip_prefix("*.").unwrap_or(host));
    let is_host = |host: &str| {
        !host.is_empty()
            && (host.bytes()).all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
    };
    if text == "*" || text == "null" || host.is_some_and(is_host) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "{} is not an origin: \"https://app.example.com\" without a path, \"https://*.example.com\" \
         or \"*\"",
        quoted(&text)
    ))
}

/// The name of a field as it was written.
fn field_name(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    match HeaderName::try_from(text.as_str()) {
        Ok(_) => Ok(text),
        Err(_) if text == "*" => Ok(text),
        Err(_) => Err(format!("{} is not the name of a header", quoted(&text))),
    }
}

/// A quoted string of RFC 9110 §5.6.4 without escapes.
fn realm_text(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    match HeaderValue::from_str(&text) {
        Ok(_) if !text.contains(['"', '\\']) => Ok(text),
        _ => Err("must have no quotes, backslashes or control characters".to_owned()),
    }
}

/// `Name` or `From>To`.
fn copied(value: &Value) -> Parsed<(HeaderName, HeaderName)> {
    let text = value::words(value)?;
    let (from, to) = text.split_once('>').unwrap_or((&text, &text));
    let name = |name: &str| HeaderName::try_from(name.trim());
    match (name(from), name(to)) {
        (Ok(_), Ok(to)) if is_framing(&to) => Err(format!(
            "{} frames the request and is not taken from another server",
            quoted(to.as_str())
        )),
        (Ok(from), Ok(to)) => Ok((from, to)),
        _ => Err(format!(
            "{} is not the name of a header, nor \"From>To\"",
            quoted(&text)
        )),
    }
}
