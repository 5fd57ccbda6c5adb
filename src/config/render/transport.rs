//! How a service's upstreams are reached, as TOML.

use super::Writer;
use super::text::{duration, list, number, path, text};
use crate::config::{Alpn, Retry, SameSite, Service, ServiceTimeouts, Sticky, UpstreamTls};

/// Its tables, those alone that are there.
pub(super) fn render(out: &mut Writer, header: &str, service: &Service) {
    if service.tls != UpstreamTls::default() {
        out.table(format!("[{header}.tls]"));
        tls(out, &service.tls);
    }
    out.table(format!("[{header}.retry]"));
    retry(out, &service.retry);
    let timeouts = overrides(&service.timeouts);
    if !timeouts.is_empty() {
        out.table(format!("[{header}.timeouts]"));
    }
    for (key, time) in timeouts {
        out.key(key, duration(time));
    }
}

fn tls(out: &mut Writer, tls: &UpstreamTls) {
    if let Some(ca) = &tls.ca {
        out.key("ca", path(ca));
    }
    if let Some((cert, key)) = &tls.identity {
        out.key("cert", path(cert));
        out.key("key", path(key));
    }
    if let Some(name) = &tls.server_name {
        out.key("server_name", text(name));
    }
    out.key("insecure_skip_verify", tls.insecure_skip_verify);
    let offered: &[&str] = match tls.alpn {
        Alpn::Any => &["h2", "http/1.1"],
        Alpn::Http1 => &["http/1.1"],
        Alpn::H2 => &["h2"],
    };
    out.key("alpn", list(offered.iter().map(text)));
}

fn retry(out: &mut Writer, retry: &Retry) {
    if let Some(attempts) = retry.attempts {
        out.key("attempts", attempts);
    }
    out.key("budget", number(retry.budget.share));
    out.key("budget_floor", retry.budget.per_second);
    if let Some(time) = retry.per_try_timeout {
        out.key("per_try_timeout", duration(time));
    }
    let words = [(retry.on.connect, "connect"), (retry.on.timeout, "timeout")];
    let words = words
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, word)| text(word));
    let statuses = retry.on.statuses.iter();
    let statuses = statuses.map(|(from, to)| text(format!("{from}-{to}")));
    out.key("on", list(words.chain(statuses)));
    out.key("try_duration", duration(retry.try_duration));
    out.key("try_interval", duration(retry.try_interval));
}

/// `sticky` as an inline table, if it says anything.
pub(super) fn sticky(sticky: &Sticky) -> Option<String> {
    let mut keys = Vec::new();
    if let Some(cookie) = &sticky.cookie {
        keys.push(format!("cookie = {}", text(cookie)));
    }
    if let Some(time) = sticky.max_age {
        keys.push(format!("max_age = {}", duration(time)));
    }
    if let Some(secure) = sticky.secure {
        keys.push(format!("secure = {secure}"));
    }
    match sticky.same_site {
        SameSite::Lax => {}
        SameSite::Strict => keys.push("same_site = \"strict\"".to_owned()),
        SameSite::None => keys.push("same_site = \"none\"".to_owned()),
    }
    (!keys.is_empty()).then(|| format!("{{ {} }}", keys.join(", ")))
}

fn overrides(timeouts: &ServiceTimeouts) -> Vec<(&'static str, std::time::Duration)> {
    let all = [
        ("connect", timeouts.connect),
        ("upstream_read", timeouts.upstream_read),
        ("upstream_write", timeouts.upstream_write),
        ("upstream_idle", timeouts.upstream_idle),
        ("stream_idle", timeouts.stream_idle),
    ];
    let given = all.into_iter();
    given.filter_map(|(key, time)| Some((key, time?))).collect()
}
