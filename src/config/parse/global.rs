//! The tables that hold for the whole daemon.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::section::Section;
use super::tree::{Value, quoted};
use super::value::{self, Parsed};
use crate::config::{
    AccessLog, Acme, AcmeFallback, Config, Deploy, Docker, DockerSocket, Eab, History, IpSet,
    Limits, Listen, Log, LogFormat, Maintenance, Notify, NotifyEvent, NotifyKind, Rollback, Rotate,
    Timeouts, schema,
};
use crate::model::PathPattern;

/// Longest path of a unix socket: `sun_path` less its ending zero (unix(7)).
const SOCKET_PATH: usize = 107;

/// A configuration without sites and services, from everything else in the file.
pub(super) fn read(root: &Section<'_>) -> Config {
    let mut config = Config {
        state_dir: PathBuf::from("/data/cutover"),
        shutdown_grace: Duration::from_secs(30),
        shutdown_delay: Duration::ZERO,
        listen: listen(root.section("listen", &schema::LISTEN)),
        timeouts: timeouts(root.section("timeouts", &schema::TIMEOUTS)),
        limits: limits(root.section("limits", &schema::LIMITS)),
        history: history(root.section("history", &schema::HISTORY)),
        maintenance: maintenance(root.section("maintenance", &schema::MAINTENANCE)),
        log: log(root.section("log", &schema::LOG)),
        acme: acme(root.section("acme", &schema::ACME)),
        docker: root.section("docker", &schema::DOCKER).map(docker),
        deploy: Deploy::default(),
        jobs: Vec::new(),
        notify: root
            .sections("notify", &schema::NOTIFY)
            .into_iter()
            .filter_map(notify)
            .collect(),
        rollback: Rollback::default(),
        sites: Vec::new(),
        services: Vec::new(),
        secret_files: Vec::new(),
        warnings: Vec::new(),
    };
    root.set("state_dir", &mut config.state_dir, value::path);
    root.set(
        "shutdown_grace",
        &mut config.shutdown_grace,
        value::duration,
    );
    root.set(
        "shutdown_delay",
        &mut config.shutdown_delay,
        value::duration,
    );
    config
}

fn listen(section: Option<Section<'_>>) -> Listen {
    let mut listen = Listen::default();
    let Some(section) = section else {
        return listen;
    };
    let mut bound = Bound::default();
    for (key, slot) in [("http", &mut listen.http), ("https", &mut listen.https)] {
        let addresses = section.list(key, "addresses", value::listen);
        match addresses {
            Some(addresses) => {
                *slot = Vec::with_capacity(addresses.len());
                for (at, addr) in addresses {
                    bound.claim(&section, key, at, addr);
                    slot.push(addr);
                }
            }
            None => {
                for addr in slot.iter() {
                    bound.claim(&section, key, section.at, *addr);
                }
            }
        }
    }
    section.set("ops", &mut listen.ops, value::listen);
    bound.claim(&section, "ops", section.place("ops"), listen.ops);
    section.set_list(
        "ops_allow",
        &mut listen.ops_allow.0,
        "networks",
        value::network,
    );
    section.set("admin", &mut listen.admin, socket_path);
    let trusted = &mut listen.trusted_proxies;
    section.set_list(
        "trusted_proxies",
        &mut trusted.0,
        "networks",
        value::network,
    );
    if trusted.0.iter().any(|net| net.prefix_len() == 0) {
        section.warning(
            "trusted_proxies",
            "every client may now claim any address: a network of length 0 trusts the whole \
             Internet",
        );
    }
    let announced = &mut listen.proxy_protocol.0;
    section.set_list("proxy_protocol", announced, "networks", value::network);
    if announced.iter().any(|net| net.prefix_len() == 0) {
        section.warning(
            "proxy_protocol",
            "every client must begin with a header and may claim any address in it",
        );
    }
    listen
}

fn socket_path(value: &Value) -> Parsed<PathBuf> {
    let path = value::path(value)?;
    if path.as_os_str().len() > SOCKET_PATH {
        return Err(format!(
            "a path of a unix socket has at most {SOCKET_PATH} bytes, this one has {}",
            path.as_os_str().len()
        ));
    }
    Ok(path)
}

/// Addresses taken so far, by port: one socket cannot be bound twice, nor beside the
/// wildcard address of its family.
#[derive(Default)]
struct Bound(HashMap<u16, Vec<(IpAddr, String)>>);

impl Bound {
    fn claim(&mut self, section: &Section<'_>, key: &'static str, at: usize, addr: SocketAddr) {
        if addr.port() == 0 {
            return;
        }
        let ip = addr.ip();
        let taken = self.0.entry(addr.port()).or_default();
        let clash = taken.iter().find(|(other, _)| {
            *other == ip
                || (other.is_ipv4() == ip.is_ipv4()
                    && (other.is_unspecified() || ip.is_unspecified()))
        });
        match clash {
            Some((other, by)) => {
                let other = SocketAddr::new(*other, addr.port());
                let message = format!("{addr} is taken: {by} has {other}");
                section.out.error(at, &section.key(key), message);
            }
            None => taken.push((ip, section.key(key))),
        }
    }
}

fn timeouts(section: Option<Section<'_>>) -> Timeouts {
    let mut t = Timeouts::default();
    let Some(section) = section else {
        return t;
    };
    for (key, slot) in [
        ("tls_handshake", &mut t.tls_handshake),
        ("request_head", &mut t.request_head),
        ("request_body", &mut t.request_body),
        ("keep_alive", &mut t.keep_alive),
        ("client_write", &mut t.client_write),
        ("connect", &mut t.connect),
        ("upstream_read", &mut t.upstream_read),
        ("upstream_write", &mut t.upstream_write),
        ("upstream_idle", &mut t.upstream_idle),
        ("stream_idle", &mut t.stream_idle),
    ] {
        section.set(key, slot, value::some_time);
    }
    t
}

fn limits(section: Option<Section<'_>>) -> Limits {
    let mut limits = Limits::default();
    let Some(section) = section else {
        return limits;
    };
    let sizes = || value::size(1024..=1 << 20);
    section.set("request_head", &mut limits.request_head_bytes, sizes());
    section.set("request_target", &mut limits.request_target_bytes, sizes());
    if limits.request_target_bytes > limits.request_head_bytes {
        let message = format!(
            "larger than request_head ({} bytes), of which it is a part",
            limits.request_head_bytes
        );
        section.error("request_target", message);
    }
    let many = |from| whole_usize(from, 10_000_000);
    section.set("connections", &mut limits.connections, many(1));
    limits.connections_per_client = section.value("connections_per_client", many(1));
    section.set(
        "upstream_keep_alive",
        &mut limits.upstream_keep_alive,
        many(0),
    );
    section.set("attempts", &mut limits.attempts, whole_usize(1, 10));
    section.set("held_requests", &mut limits.held_requests, many(0));
    section.set(
        "held_bytes",
        &mut limits.held_bytes,
        value::size(0..=1 << 40),
    );
    limits
}

fn history(section: Option<Section<'_>>) -> History {
    let mut history = History::default();
    let Some(section) = section else {
        return history;
    };
    section.set("keep", &mut history.keep, whole_usize(1, 1_000_000));
    section.set("age", &mut history.age, value::some_time);
    history
}

fn maintenance(section: Option<Section<'_>>) -> Maintenance {
    let mut maintenance = Maintenance::default();
    let Some(section) = section else {
        return maintenance;
    };
    section.set_list(
        "allow",
        &mut maintenance.allow.0,
        "networks",
        value::network,
    );
    section.set("page", &mut maintenance.page, |value| {
        value::path(value).map(Some)
    });
    section.set(
        "retry_after",
        &mut maintenance.retry_after,
        value::some_time,
    );
    maintenance
}

fn whole_usize(from: usize, to: usize) -> impl Fn(&Value) -> Parsed<usize> {
    value::whole(from..=to)
}

fn log(section: Option<Section<'_>>) -> Log {
    let mut log = Log::default();
    let Some(section) = section else {
        return log;
    };
    for (_, name) in section
        .list("redact", "names of parameters and headers", value::words)
        .unwrap_or_default()
    {
        log.redact(&name);
    }
    if let Some(access) = section.section("access", &schema::LOG_ACCESS) {
        log.access = Arc::new(access_log(&access));
    }
    log
}

/// `[log.access]`, or that of a site.
pub(super) fn access_log(section: &Section<'_>) -> AccessLog {
    let mut access = AccessLog::default();
    section.set("enabled", &mut access.enabled, value::boolean);
    section.set("sample", &mut access.sample, value::rate);
    access.file = section.value("file", value::path);
    let formats = [
        LogFormat::Cutover,
        LogFormat::Common,
        LogFormat::Combined,
        LogFormat::Caddy,
    ];
    let formats = formats.map(|format| (format.as_str(), format));
    section.set("format", &mut access.format, value::word(&formats));
    let skipped = section.list("skip", "paths and statuses", skipped);
    for (_, skipped) in skipped.unwrap_or_default() {
        match skipped {
            Skipped::Path(path) => access.skip.paths.push(path),
            Skipped::Status(range) => access.skip.statuses.push(range),
        }
    }
    access.rotate = section
        .section("rotate", &schema::LOG_ROTATE)
        .map(|rotate| {
            if access.file.is_none() {
                section.warning("rotate", "has no effect without file");
            }
            read_rotate(&rotate)
        });
    access
}

enum Skipped {
    Path(PathPattern),
    Status((u16, u16)),
}

fn skipped(value: &Value) -> Parsed<Skipped> {
    match value {
        Value::Text { text, .. } if text.starts_with('/') => {
            value::parsed::<PathPattern>("")(value).map(Skipped::Path)
        }
        _ => value::status(value).map(Skipped::Status).map_err(|_| {
            let found = value.describe();
            format!("expected a path such as \"/healthz\" or a status such as \"200-299\", found {found}")
        }),
    }
}

fn read_rotate(section: &Section<'_>) -> Rotate {
    let mut rotate = Rotate::default();
    let size = section.value("size", value::size(1024..=1 << 40));
    if let Some(size) = size.and_then(|size| u64::try_from(size).ok()) {
        rotate.size = size;
    }
    rotate.age = section.value("age", value::some_time);
    section.set("keep", &mut rotate.keep, whole_usize(0, 100_000));
    section.set("compress", &mut rotate.compress, value::boolean);
    rotate
}

fn acme(section: Option<Section<'_>>) -> Acme {
    let mut acme = Acme::default();
    let Some(section) = section else {
        return acme;
    };
    acme.email = section.value("email", |value| {
        let email = value::words(value)?;
        match email.split_once('@') {
            Some((name, host)) if !name.is_empty() && !host.is_empty() => Ok(email),
            _ => Err(format!("{} is not an e-mail address", quoted(&email))),
        }
    });
    section.set("directory", &mut acme.directory, url);
    section.set("ca_file", &mut acme.ca_file, value::optional_path);
    let port_53 = |value: &Value| {
        const FORM: &str = r#"an IP address, with a port unless it is 53, such as "1.1.1.1""#;
        match value {
            Value::Text { text, .. } => {
                let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
                text.parse().or_else(|_| bare()).ok()
            }
            _ => None,
        }
        .ok_or_else(|| format!("expected {FORM}, found {}", value.describe()))
    };
    section.set_list("resolvers", &mut acme.resolvers, "addresses", port_53);
    acme.staging = section.value("staging", url);
    acme.profile = section.value("profile", value::words);
    acme.preferred_chain = section.value("preferred_chain", value::words);
    acme.eab = eab(&section);
    acme.fallback = (section.section("fallback", &schema::ACME_FALLBACK)).map(|section| {
        let mut directory = AcmeFallback::ZERO_SSL.to_owned();
        section.set("directory", &mut directory, url);
        let eab = eab(&section);
        let bound = ["eab_key_id", "eab_key", "eab_key_file"];
        let bound = bound.iter().any(|key| section.entry(key).is_some());
        if !bound && directory == AcmeFallback::ZERO_SSL {
            section.missing("ZeroSSL needs eab_key_id and eab_key or eab_key_file");
        }
        AcmeFallback { directory, eab }
    });
    acme
}

fn url(value: &Value) -> Parsed<String> {
    let url = value::text(value)?;
    value::web_url(&url).map(|()| url)
}

/// An external account binding, if any of its keys is there.
fn eab(section: &Section<'_>) -> Option<Eab> {
    let given = |key| section.entry(key).is_some();
    if !given("eab_key_id") && !given("eab_key") && !given("eab_key_file") {
        return None;
    }
    let key_id = section.value("eab_key_id", value::words);
    let key = section.secret("eab_key", "eab_key_file", |text| match text.is_empty() {
        true => Err("the key of the binding is empty".to_owned()),
        false => Ok(()),
    });
    if !given("eab_key_id") {
        section.missing("needs eab_key_id with eab_key");
    }
    Some(Eab {
        key_id: key_id?,
        key: key?,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "maps an Option")]
fn docker(section: Section<'_>) -> Docker {
    let mut docker = Docker::default();
    section.set("enabled", &mut docker.enabled, value::boolean);
    section.set("socket", &mut docker.socket, docker_socket);
    section.set("network", &mut docker.network, |value| match value {
        Value::Text { text, .. } if text.is_empty() => Ok(None),
        other => value::words(other).map(Some),
    });
    docker
}

fn docker_socket(value: &Value) -> Parsed<DockerSocket> {
    const FORM: &str = "expected the path of a unix socket, or tcp://HOST:PORT";
    let text = value::words(value)?;
    if let Some(address) = text.strip_prefix("tcp://") {
        return match address.parse::<http::uri::Authority>() {
            Ok(authority) if authority.port_u16().is_some() && !address.contains('@') => {
                Ok(DockerSocket::Tcp(address.to_owned()))
            }
            _ => Err(format!("{FORM}, found {}", quoted(&text))),
        };
    }
    let path = text.strip_prefix("unix://").unwrap_or(&text);
    if path.starts_with('/') {
        Ok(DockerSocket::Unix(PathBuf::from(path)))
    } else {
        Err(format!("{FORM}, found {}", quoted(&text)))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "maps a list")]
fn notify(section: Section<'_>) -> Option<Notify> {
    let mut kind = NotifyKind::Json;
    let kinds = [
        NotifyKind::Json,
        NotifyKind::Slack,
        NotifyKind::Discord,
        NotifyKind::Ntfy,
    ];
    let kinds = kinds.map(|kind| (kind.as_str(), kind));
    section.set("kind", &mut kind, value::word(&kinds));
    let takes_secret = matches!(kind, NotifyKind::Json | NotifyKind::Ntfy);
    let secret_key = section.first_of("secret", "secret_file");
    let secret = match section.entry(secret_key) {
        None => None,
        Some(_) if !takes_secret => {
            let message = format!("{} takes no secret: it is in the url", kind.as_str());
            section.error(secret_key, message);
            None
        }
        Some(_) => section.secret("secret", "secret_file", not_empty),
    };
    let mut events = NotifyEvent::ALL.to_vec();
    let words = NotifyEvent::ALL.map(|event| (event.as_str(), event));
    section.set_list("events", &mut events, "events", value::word(&words));
    let url = section.secret("url", "url_file", value::web_url)?;
    Some(Notify {
        kind,
        url,
        secret,
        events,
    })
}

fn not_empty(text: &str) -> Parsed<()> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(())
}

/// Networks of one key that takes a single one as well as a list.
pub(super) fn networks(section: &Section<'_>, key: &'static str) -> IpSet {
    let list = section.one_or_list(key, value::network).unwrap_or_default();
    IpSet(list.into_iter().map(|(_, net)| net).collect())
}
