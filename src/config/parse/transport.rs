//! The tables of a service that say how its upstreams are reached.

use super::section::Section;
use super::tree::{Value, quoted};
use super::value::{self, Parsed};
use crate::config::{
    Alpn, Balance, Retry, RetryOn, SameSite, Service, ServiceTimeouts, Sticky, UpstreamTls, schema,
};
use crate::model::Scheme;
use crate::model::proxy_protocol::Version;

/// Reads them all into `service`, whose slots are read already.
pub(super) fn read(section: &Section<'_>, service: &mut Service) {
    if let Some(tls) = section.section("tls", &schema::SERVICE_TLS) {
        service.tls = read_tls(&tls);
        if !has_https(service) && section.entry("docker").is_none() {
            section.warning("tls", "has no effect: no upstream begins with https://");
        }
    }
    if let Some(retry) = section.section("retry", &schema::RETRY) {
        service.retry = read_retry(&retry);
    }
    if let Some(sticky) = section.section("sticky", &schema::STICKY) {
        service.sticky = read_sticky(&sticky);
        if service.balance != Balance::Cookie {
            section.warning("sticky", "has no effect without balance = \"cookie\"");
        }
    }
    if let Some(timeouts) = section.section("timeouts", &schema::SERVICE_TIMEOUTS) {
        service.timeouts = read_timeouts(&timeouts);
    }
    let versions = [("v1", Version::V1), ("v2", Version::V2)];
    service.proxy_protocol = section.value("proxy_protocol", value::word(&versions));
    section.set("keep_alive", &mut service.keep_alive, value::boolean);
}

fn has_https(service: &Service) -> bool {
    let slots = service.slots.iter().flatten();
    let mut upstreams = slots.flat_map(|slot| &slot.upstreams);
    upstreams.any(|upstream| upstream.scheme() == Scheme::Https)
}

fn read_tls(section: &Section<'_>) -> UpstreamTls {
    let ca = section.value("ca", value::path);
    let given = |key| section.entry(key).is_some();
    let identity = match (
        section.value("cert", value::path),
        section.value("key", value::path),
    ) {
        (Some(cert), Some(key)) => Some((cert, key)),
        _ => {
            if given("cert") != given("key") {
                let (has, lacks) = if given("cert") {
                    ("cert", "key")
                } else {
                    ("key", "cert")
                };
                section.error(has, format!("needs {lacks} beside it"));
            }
            None
        }
    };
    let server_name = section.value("server_name", server_name);
    let mut insecure_skip_verify = false;
    section.set(
        "insecure_skip_verify",
        &mut insecure_skip_verify,
        value::boolean,
    );
    if insecure_skip_verify {
        section.warning(
            "insecure_skip_verify",
            "whoever is between here and the upstream can read and change everything; give ca \
             instead",
        );
        if ca.is_some() {
            section.warning(
                "ca",
                "has no effect: insecure_skip_verify takes every certificate",
            );
        }
    }
    UpstreamTls {
        ca,
        identity,
        server_name,
        insecure_skip_verify,
        alpn: alpn(section),
    }
}

fn server_name(value: &Value) -> Parsed<String> {
    let name = value::words(value)?;
    match rustls::pki_types::ServerName::try_from(name.as_str()) {
        Ok(_) => Ok(name),
        Err(_) => Err(format!(
            "{} is not a name that a certificate can have, such as \"app.internal\"",
            quoted(&name)
        )),
    }
}

fn alpn(section: &Section<'_>) -> Alpn {
    let words = [("h2", Alpn::H2), ("http/1.1", Alpn::Http1)];
    let Some(offered) = section.list("alpn", "\"h2\" and \"http/1.1\"", value::word(&words)) else {
        return Alpn::default();
    };
    let has = |one| offered.iter().any(|(_, alpn)| *alpn == one);
    match (has(Alpn::H2), has(Alpn::Http1)) {
        (true, false) => Alpn::H2,
        (false, true) => Alpn::Http1,
        (true, true) => Alpn::Any,
        (false, false) => {
            if section.length("alpn") == Some(0) {
                section.error("alpn", "must not be empty: \"h2\", \"http/1.1\" or both");
            }
            Alpn::default()
        }
    }
}

fn read_retry(section: &Section<'_>) -> Retry {
    let mut retry = Retry {
        attempts: section.value("attempts", value::whole(1..=10_usize)),
        per_try_timeout: section.value("per_try_timeout", value::some_time),
        ..Retry::default()
    };
    section.set("budget", &mut retry.budget.share, value::rate);
    let per_second = &mut retry.budget.per_second;
    section.set("budget_floor", per_second, value::whole(0..=1_000_000));
    if let Some(reasons) = section.list("on", "reasons such as \"connect\" and \"503\"", reason) {
        let mut on = RetryOn {
            connect: false,
            timeout: false,
            statuses: Vec::new(),
        };
        for (_, reason) in reasons {
            match reason {
                Reason::Connect => on.connect = true,
                Reason::Timeout => on.timeout = true,
                Reason::Status(range) => on.statuses.push(range),
            }
        }
        retry.on = on;
    }
    section.set("try_duration", &mut retry.try_duration, value::duration);
    section.set("try_interval", &mut retry.try_interval, value::some_time);
    retry
}

enum Reason {
    Connect,
    Timeout,
    Status((u16, u16)),
}

fn reason(value: &Value) -> Parsed<Reason> {
    const FORM: &str = "\"connect\", \"timeout\", or a status from 400 such as \"503\", \"5xx\" \
                        or \"502-504\"";
    let class = |text: &str| match text {
        "4xx" => Some((400, 499)),
        "5xx" => Some((500, 599)),
        _ => None,
    };
    let range = match value {
        Value::Text { text, .. } => match text.as_str() {
            "connect" => return Ok(Reason::Connect),
            "timeout" => return Ok(Reason::Timeout),
            text => class(text).or_else(|| value::status(value).ok()),
        },
        other => value::status(other).ok(),
    };
    match range {
        Some(range) if range.0 >= 400 => Ok(Reason::Status(range)),
        _ => Err(format!("expected {FORM}, found {}", value.describe())),
    }
}

fn read_sticky(section: &Section<'_>) -> Sticky {
    let sites = [
        ("lax", SameSite::Lax),
        ("strict", SameSite::Strict),
        ("none", SameSite::None),
    ];
    let mut sticky = Sticky {
        cookie: section.value("cookie", cookie_name),
        max_age: section.value("max_age", value::some_time),
        secure: section.value("secure", value::boolean),
        same_site: SameSite::default(),
    };
    section.set("same_site", &mut sticky.same_site, value::word(&sites));
    if sticky.same_site == SameSite::None && sticky.secure == Some(false) {
        section.error("secure", "browsers refuse same_site = \"none\" without it");
    }
    sticky
}

/// A token (RFC 6265 §4.1.1), without the names that browsers give a meaning to.
fn cookie_name(value: &Value) -> Parsed<String> {
    let name = value::words(value)?;
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.bytes().all(letter) || name.starts_with("__") {
        return Err(format!("{} is not a name for this cookie", quoted(&name)));
    }
    Ok(name)
}

fn read_timeouts(section: &Section<'_>) -> ServiceTimeouts {
    let some = |key| section.value(key, value::some_time);
    ServiceTimeouts {
        connect: some("connect"),
        upstream_read: some("upstream_read"),
        upstream_write: some("upstream_write"),
        upstream_idle: some("upstream_idle"),
        stream_idle: some("stream_idle"),
    }
}
