//! The effective configuration as TOML, secrets masked.
//!
//! What it prints is read back as an equal [`Config`], but for secrets, and for
//! [`Config::warnings`], which speak of the file as it was written.
//! Keys of `[docker]` are printed only where they differ from their default,
//! so that the table alone turns discovery on.

mod deploy;
mod matcher;
mod site;
mod step;
mod text;
mod transport;

use std::fmt::{Display, Write as _};

pub(super) use self::text::in_words;
use self::text::{
    bare_or_quoted, duration, inline, inline_table, list, networks, number, path, size, text,
};
use super::{
    AccessLog, Acme, AfterAction, Balance, Config, Docker, DockerSocket, Eab, Health, History,
    Limits, Listen, Log, Maintenance, Notify, NotifyEvent, Probe, RescueBudget, Rollback,
    RuleAction, Service,
};
use crate::model::Color;

/// Stands for a secret that is a URL, and is one itself.
const MASKED_URL: &str = "https://***";

impl Config {
    /// What [`Config::render`] says, as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let table: Result<toml::Table, _> = self.render().parse();
        let json = table.ok().map(serde_json::to_value);
        json.and_then(Result::ok).unwrap_or_default()
    }

    /// The effective configuration as TOML, every default written out, secrets masked.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = Writer(String::new());
        out.key("state_dir", path(&self.state_dir));
        out.key("shutdown_grace", duration(self.shutdown_grace));
        out.key("shutdown_delay", duration(self.shutdown_delay));
        listen(&mut out, &self.listen);
        timeouts(&mut out, self);
        limits(&mut out, &self.limits);
        history(&mut out, &self.history);
        maintenance(&mut out, &self.maintenance);
        log(&mut out, &self.log);
        acme(&mut out, &self.acme);
        if let Some(docker) = &self.docker {
            render_docker(&mut out, docker);
        }
        deploy::render(&mut out, self);
        for notify in &self.notify {
            render_notify(&mut out, notify);
        }
        rollback(&mut out, "rollback", &self.rollback, &Rollback::default());
        for site in &self.sites {
            self.site(&mut out, site);
        }
        for service in &self.services {
            render_service(&mut out, service, &self.rollback);
        }
        out.0
    }
}

/// Lines of TOML.
struct Writer(String);

impl Writer {
    fn table(&mut self, header: impl Display) {
        writeln!(self.0, "\n{header}").expect("a String takes everything");
    }

    /// `value` is TOML already.
    fn key(&mut self, key: &str, value: impl Display) {
        writeln!(self.0, "{key} = {value}").expect("a String takes everything");
    }

    /// Keys that differ from their default, under a header that is there only with one of
    /// them.
    fn differing(&mut self, header: &str, keys: &[(&str, String, String)]) {
        let mut differing = keys
            .iter()
            .filter(|(_, value, default)| value != default)
            .peekable();
        if differing.peek().is_some() {
            self.table(header);
        }
        for (key, value, _) in differing {
            self.key(key, value);
        }
    }
}

fn listen(out: &mut Writer, listen: &Listen) {
    out.table("[listen]");
    out.key("http", list(listen.http.iter().map(text)));
    out.key("https", list(listen.https.iter().map(text)));
    out.key("ops", text(listen.ops));
    out.key("ops_allow", networks(&listen.ops_allow));
    out.key("admin", path(&listen.admin));
    out.key("trusted_proxies", networks(&listen.trusted_proxies));
    out.key("proxy_protocol", networks(&listen.proxy_protocol));
}

fn timeouts(out: &mut Writer, config: &Config) {
    let t = &config.timeouts;
    out.table("[timeouts]");
    for (key, value) in [
        ("tls_handshake", t.tls_handshake),
        ("request_head", t.request_head),
        ("request_body", t.request_body),
        ("keep_alive", t.keep_alive),
        ("client_write", t.client_write),
        ("connect", t.connect),
        ("upstream_read", t.upstream_read),
        ("upstream_write", t.upstream_write),
        ("upstream_idle", t.upstream_idle),
        ("stream_idle", t.stream_idle),
    ] {
        out.key(key, duration(value));
    }
}

fn limits(out: &mut Writer, limits: &Limits) {
    out.table("[limits]");
    out.key("request_head", size(limits.request_head_bytes));
    out.key("request_target", size(limits.request_target_bytes));
    out.key("connections", limits.connections);
    if let Some(connections) = limits.connections_per_client {
        out.key("connections_per_client", connections);
    }
    out.key("upstream_keep_alive", limits.upstream_keep_alive);
    out.key("attempts", limits.attempts);
    out.key("held_requests", limits.held_requests);
    out.key("held_bytes", size(limits.held_bytes));
}

fn history(out: &mut Writer, history: &History) {
    out.table("[history]");
    out.key("keep", history.keep);
    out.key("age", duration(history.age));
}

fn maintenance(out: &mut Writer, maintenance: &Maintenance) {
    out.table("[maintenance]");
    out.key("allow", networks(&maintenance.allow));
    if let Some(page) = &maintenance.page {
        out.key("page", path(page));
    }
    out.key("retry_after", duration(maintenance.retry_after));
}

fn log(out: &mut Writer, log: &Log) {
    out.table("[log]");
    out.key("redact", list(log.redact_query.iter().map(text)));
    out.table("[log.access]");
    for (key, value) in access_log(&log.access) {
        out.key(&key, value);
    }
}

/// The keys of one log.
fn access_log(log: &AccessLog) -> Vec<(String, String)> {
    let key = |name: &str, value: String| (name.to_owned(), value);
    let statuses = log.skip.statuses.iter();
    let statuses = statuses.map(|(from, to)| text(format!("{from}-{to}")));
    let mut keys = vec![
        key("enabled", log.enabled.to_string()),
        key("sample", number(log.sample)),
        key("format", text(log.format.as_str())),
        key(
            "skip",
            list(log.skip.paths.iter().map(text).chain(statuses)),
        ),
    ];
    if let Some(file) = &log.file {
        keys.push(key("file", path(file)));
    }
    if let Some(rotate) = &log.rotate {
        let mut inside = vec![
            key("size", rotate.size.to_string()),
            key("keep", rotate.keep.to_string()),
            key("compress", rotate.compress.to_string()),
        ];
        if let Some(age) = rotate.age {
            inside.push(key("age", duration(age)));
        }
        keys.push(key("rotate", inline_table(&inside)));
    }
    keys
}

fn acme(out: &mut Writer, acme: &Acme) {
    let default = Acme::default();
    let keys = |acme: &Acme| {
        let ca_file = acme.ca_file.as_deref();
        let optional = |value: &Option<String>| value.as_ref().map_or_else(String::new, text);
        let [key_id, key] = eab(acme.eab.as_ref());
        [
            optional(&acme.email),
            text(&acme.directory),
            ca_file.map_or_else(String::new, path),
            list(acme.resolvers.iter().map(text)),
            optional(&acme.staging),
            optional(&acme.profile),
            optional(&acme.preferred_chain),
            key_id,
            key,
        ]
    };
    let names = [
        "email",
        "directory",
        "ca_file",
        "resolvers",
        "staging",
        "profile",
        "preferred_chain",
        "eab_key_id",
        "eab_key",
    ];
    differing(out, "[acme]", names, keys(acme), keys(&default));
    if let Some(fallback) = &acme.fallback {
        out.table("[acme.fallback]");
        out.key("directory", text(&fallback.directory));
        let [key_id, key] = eab(fallback.eab.as_ref());
        if fallback.eab.is_some() {
            out.key("eab_key_id", key_id);
            out.key("eab_key", key);
        }
    }
}

/// Both keys of a binding; the secret one shows itself as `***`.
fn eab(eab: Option<&Eab>) -> [String; 2] {
    eab.map_or_else(Default::default, |eab| [text(&eab.key_id), text(&eab.key)])
}

fn differing<const N: usize>(
    out: &mut Writer,
    header: &str,
    names: [&str; N],
    values: [String; N],
    defaults: [String; N],
) {
    let keys: Vec<_> = (names.into_iter().zip(values).zip(defaults))
        .map(|((name, value), default)| (name, value, default))
        .collect();
    out.differing(header, &keys);
}

fn render_docker(out: &mut Writer, docker: &Docker) {
    let default = Docker::default();
    out.table("[docker]");
    if docker.enabled != default.enabled {
        out.key("enabled", docker.enabled);
    }
    if docker.socket != default.socket {
        out.key(
            "socket",
            match &docker.socket {
                DockerSocket::Unix(socket) => path(socket),
                DockerSocket::Tcp(address) => text(format!("tcp://{address}")),
            },
        );
    }
    if let Some(network) = &docker.network {
        out.key("network", text(network));
    }
}

fn render_notify(out: &mut Writer, notify: &Notify) {
    out.table("[[notify]]");
    out.key("kind", text(notify.kind.as_str()));
    out.key("url", text(MASKED_URL));
    if notify.secret.is_some() {
        out.key("secret", text("***"));
    }
    if notify.events != NotifyEvent::ALL {
        let events = notify.events.iter().map(|event| text(event.as_str()));
        out.key("events", list(events));
    }
}

fn render_service(out: &mut Writer, service: &Service, defaults: &Rollback) {
    let header = format!("service.{}", bare_or_quoted(service.name.as_str()));
    out.table(format!("[{header}]"));
    let mut releases = Vec::new();
    for (color, slot) in Color::ALL.into_iter().zip(&service.slots) {
        // Containers fill the slots of the others.
        let Some(slot) = slot.as_ref().filter(|_| service.docker.is_none()) else {
            continue;
        };
        out.key(color.as_str(), list(slot.upstreams.iter().map(text)));
        if let Some(release) = &slot.release {
            releases.push(format!("{color} = {}", text(release)));
        }
    }
    if !releases.is_empty() {
        out.key("release", format!("{{ {} }}", releases.join(", ")));
    }
    if let Some(docker) = &service.docker {
        let port = docker
            .port
            .map_or_else(String::new, |port| format!(", port = {port}"));
        let project = docker.project.as_ref().map_or_else(String::new, |project| {
            format!(", project = {}", text(project))
        });
        out.key(
            "docker",
            format!("{{ service = {}{project}{port} }}", text(&docker.service)),
        );
    }
    deploy::service(out, service);
    out.key("stack", text(&service.stack));
    if let Some(live) = service.live {
        out.key("live", text(live));
    }
    out.key(
        "balance",
        text(match &service.balance {
            Balance::LeastConn => "least_conn".to_owned(),
            Balance::RoundRobin => "round_robin".to_owned(),
            Balance::Random => "random".to_owned(),
            Balance::First => "first".to_owned(),
            Balance::IpHash => "ip_hash".to_owned(),
            Balance::Cookie => "cookie".to_owned(),
            Balance::Header(name) => format!("header:{name}"),
        }),
    );
    if let Some(sticky) = transport::sticky(&service.sticky) {
        out.key("sticky", sticky);
    }
    out.key("keep_alive", service.keep_alive);
    if let Some(version) = service.proxy_protocol {
        out.key("proxy_protocol", text(version.as_str()));
    }
    transport::render(out, &header, service);
    out.table(format!("[{header}.health]"));
    health(out, &service.health);
    let eject = &service.eject;
    out.table(format!("[{header}.eject]"));
    out.key("connect_failures", eject.connect_failures);
    out.key("server_errors", eject.server_errors);
    out.key("base", duration(eject.base));
    out.key("max", duration(eject.max));
    let switch = &service.switch;
    out.table(format!("[{header}.switch]"));
    out.key("ready_timeout", duration(switch.ready_timeout));
    out.key("drain", duration(switch.drain));
    out.key("websocket_drain", duration(switch.websocket_drain));
    out.key("sse_drain", duration(switch.sse_drain));
    out.key("observe", duration(switch.observe));
    out.key("observe_requests", switch.observe_requests);
    out.key("observe_max", duration(switch.observe_max));
    rollback(
        out,
        &format!("{header}.rollback"),
        &service.rollback,
        defaults,
    );
}

fn health(out: &mut Writer, health: &Health) {
    match &health.probe {
        Probe::Tcp => out.key("type", text("tcp")),
        Probe::Http {
            path,
            host,
            status: (from, to),
            json: fields,
        } => {
            out.key("type", text("http"));
            out.key("path", text(path));
            if let Some(host) = host {
                out.key("host", text(host));
            }
            out.key("status", text(format!("{from}-{to}")));
            if !fields.is_empty() {
                out.key("json", inline(fields.iter()));
            }
        }
        Probe::Grpc { service } => {
            out.key("type", text("grpc"));
            if !service.is_empty() {
                out.key("service", text(service));
            }
        }
    }
    out.key("interval", duration(health.interval));
    out.key("timeout", duration(health.timeout));
    out.key("rise", health.rise);
    out.key("fall", health.fall);
    if let Some(max) = health.max_latency {
        out.key("max_latency", duration(max));
    }
}

/// Only what differs from `default`.
fn rollback(out: &mut Writer, header: &str, rollback: &Rollback, default: &Rollback) {
    for ((table, values), (_, defaults)) in tables(rollback).into_iter().zip(tables(default)) {
        let keys: Vec<_> = (values.into_iter().zip(defaults))
            .map(|((key, value), (_, default))| (key, value, default))
            .collect();
        out.differing(&format!("[{header}{table}]"), &keys);
    }
}

/// `[rollback]` as TOML; empty when all of it is the default.
#[must_use]
pub fn rollback_text(settings: &Rollback) -> String {
    let mut out = Writer(String::new());
    rollback(&mut out, "rollback", settings, &Rollback::default());
    out.0
}

type Keys = Vec<(&'static str, String)>;

fn tables(r: &Rollback) -> [(&'static str, Keys); 8] {
    let budget = match r.gate.budget {
        RescueBudget::Auto => "auto".to_owned(),
        RescueBudget::Share { share, per_second } => format!("{share} + {per_second}/s"),
    };
    let numbers = |numbers: &[f64]| list(numbers.iter().copied().map(number));
    [
        (
            "",
            vec![
                ("mode", text(r.mode.as_str())),
                ("rescue", r.rescue.to_string()),
                ("unsafe", r.r#unsafe.to_string()),
                ("alpha", number(r.alpha)),
            ],
        ),
        (
            ".baseline",
            vec![
                ("min_window", duration(r.baseline.min_window)),
                ("min_requests", r.baseline.min_requests.to_string()),
                ("max_window", duration(r.baseline.max_window)),
                ("no_baseline_limit", number(r.baseline.no_baseline_limit)),
            ],
        ),
        (
            ".errors",
            vec![
                ("ratio", number(r.errors.ratio)),
                ("floor", number(r.errors.floor)),
                ("min_errors", r.errors.min_errors.to_string()),
                ("min_bad_seconds", r.errors.min_bad_seconds.to_string()),
                ("restart_every", duration(r.errors.restart_every)),
                ("alternatives", r.errors.alternatives.to_string()),
            ],
        ),
        (
            ".fast",
            vec![
                ("q", number(r.fast.q)),
                ("min_span", duration(r.fast.min_span)),
            ],
        ),
        (
            ".latency",
            vec![
                ("factor", number(r.latency.factor)),
                ("quantiles", numbers(&r.latency.quantiles)),
                ("ratio", number(r.latency.ratio)),
                ("floor", numbers(&r.latency.floor)),
                ("warmup", duration(r.latency.warmup)),
            ],
        ),
        (
            ".gate",
            vec![
                ("methods", list(r.gate.methods.iter().map(text))),
                ("budget", text(budget)),
                ("replay", r.gate.replay.to_string()),
                ("clear", number(r.gate.clear)),
                ("block", number(r.gate.block)),
                ("wait", list(r.gate.wait.into_iter().map(duration))),
            ],
        ),
        (
            ".after",
            vec![
                ("on_shared", action(r.after.on_shared)),
                ("on_ambiguous", action(r.after.on_ambiguous)),
                ("on_old_dead", action(r.after.on_old_dead)),
                ("on_no_traffic", action(r.after.on_no_traffic)),
                ("quarantine", r.after.quarantine.to_string()),
                ("cooldown", duration(r.after.cooldown)),
            ],
        ),
        (
            ".rules",
            vec![
                ("health", rule(r.rules.health)),
                ("container", rule(r.rules.container)),
                ("absolute", rule(r.rules.absolute)),
                ("server_errors", rule(r.rules.server_errors)),
                ("p99", rule(r.rules.p99)),
                ("memory", rule(r.rules.memory)),
                ("cpu", rule(r.rules.cpu)),
                ("health_latency", rule(r.rules.health_latency)),
            ],
        ),
    ]
}

fn rule(action: RuleAction) -> String {
    text(match action {
        RuleAction::Rollback => "rollback",
        RuleAction::Alert => "alert",
        RuleAction::Off => "off",
    })
}

fn action(action: AfterAction) -> String {
    text(match action {
        AfterAction::Hold => "hold",
        AfterAction::Rollback => "rollback",
        AfterAction::Commit => "commit",
    })
}
