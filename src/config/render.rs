//! The effective configuration as TOML: every default filled in, secrets masked.

use std::time::Duration;

use toml::{Table, Value};

use super::{
    AfterAction, Balance, Config, DockerSocket, Health, IpSet, NotifyKind, Probe, Rollback,
    RollbackMode, Route, Service, Site, Slot, Tls, ValueMatch,
};
use crate::model::Color;

impl Config {
    /// The configuration as a file that means the same, apart from secrets, which are `***`.
    #[must_use]
    pub fn render(&self) -> String {
        self.table().to_string()
    }

    /// The same as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self.table()).unwrap_or_default()
    }

    fn table(&self) -> Table {
        let mut root = Table::new();
        put(&mut root, "state_dir", self.state_dir.display().to_string());
        put(&mut root, "shutdown_grace", duration(self.shutdown_grace));
        put(&mut root, "listen", self.listen_table());
        put(&mut root, "timeouts", self.timeouts_table());
        put(&mut root, "limits", self.limits_table());
        put(&mut root, "log", self.log_table());
        put(&mut root, "acme", self.acme_table());
        if let Some(docker) = &self.docker {
            let mut table = Table::new();
            put(&mut table, "enabled", docker.enabled);
            let socket = match &docker.socket {
                DockerSocket::Unix(path) => path.display().to_string(),
                DockerSocket::Tcp(authority) => format!("tcp://{authority}"),
            };
            put(&mut table, "socket", socket);
            put(
                &mut table,
                "network",
                docker.network.clone().unwrap_or_default(),
            );
            put(&mut root, "docker", table);
        }
        let notify: Vec<Value> = self
            .notify
            .iter()
            .map(|notify| {
                let mut table = Table::new();
                let kind = match notify.kind {
                    NotifyKind::Json => "json",
                    NotifyKind::Slack => "slack",
                    NotifyKind::Discord => "discord",
                };
                put(&mut table, "kind", kind);
                put(&mut table, "url", notify.url.to_string());
                Value::Table(table)
            })
            .collect();
        if !notify.is_empty() {
            put(&mut root, "notify", notify);
        }
        let sites: Vec<Value> = self
            .sites
            .iter()
            .map(|site| self.site_table(site))
            .collect();
        put(&mut root, "site", sites);
        let mut services = Table::new();
        for service in &self.services {
            put(&mut services, service.name.as_str(), service_table(service));
        }
        put(&mut root, "service", services);
        root
    }

    /// Keys that differ from `new` and take effect only after a restart.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.listen, &new.listen);
        let checks = [
            ("state_dir", self.state_dir != new.state_dir),
            ("listen.http", a.http != b.http),
            ("listen.https", a.https != b.https),
            ("listen.ops", a.ops != b.ops),
            ("listen.admin", a.admin != b.admin),
        ];
        checks
            .into_iter()
            .filter_map(|(key, differs)| differs.then_some(key))
            .collect()
    }

    fn listen_table(&self) -> Table {
        let listen = &self.listen;
        let mut table = Table::new();
        put(&mut table, "http", texts(&listen.http));
        put(&mut table, "https", texts(&listen.https));
        put(&mut table, "ops", listen.ops.to_string());
        put(&mut table, "ops_allow", networks(&listen.ops_allow));
        put(&mut table, "admin", listen.admin.display().to_string());
        put(
            &mut table,
            "trusted_proxies",
            networks(&listen.trusted_proxies),
        );
        table
    }

    fn timeouts_table(&self) -> Table {
        let timeouts = &self.timeouts;
        let mut table = Table::new();
        for (name, value) in [
            ("tls_handshake", timeouts.tls_handshake),
            ("request_head", timeouts.request_head),
            ("request_body", timeouts.request_body),
            ("keep_alive", timeouts.keep_alive),
            ("client_write", timeouts.client_write),
            ("connect", timeouts.connect),
            ("upstream_read", timeouts.upstream_read),
            ("upstream_write", timeouts.upstream_write),
            ("upstream_idle", timeouts.upstream_idle),
            ("stream_idle", timeouts.stream_idle),
        ] {
            put(&mut table, name, duration(value));
        }
        table
    }

    fn limits_table(&self) -> Table {
        let limits = &self.limits;
        let mut table = Table::new();
        for (name, value) in [
            ("request_head", limits.request_head_bytes),
            ("request_target", limits.request_target_bytes),
            ("connections", limits.connections),
            ("upstream_keep_alive", limits.upstream_keep_alive),
            ("attempts", limits.attempts),
        ] {
            put(&mut table, name, integer(value as u64));
        }
        table
    }

    fn log_table(&self) -> Table {
        let mut access = Table::new();
        put(&mut access, "enabled", self.log.access.enabled);
        put(&mut access, "sample", self.log.access.sample);
        if let Some(file) = &self.log.access.file {
            put(&mut access, "file", file.display().to_string());
        }
        let mut table = Table::new();
        put(&mut table, "redact", texts(&self.log.redact_query));
        put(&mut table, "access", access);
        table
    }

    fn acme_table(&self) -> Table {
        let mut table = Table::new();
        put(
            &mut table,
            "email",
            self.acme.email.clone().unwrap_or_default(),
        );
        put(&mut table, "directory", self.acme.directory.clone());
        let ca_file = self.acme.ca_file.as_ref();
        put(
            &mut table,
            "ca_file",
            ca_file
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        );
        put(&mut table, "resolvers", texts(&self.acme.resolvers));
        table
    }

    fn site_table(&self, site: &Site) -> Value {
        let name = |index: super::ServiceIndex| {
            let service = self.services.get(index.0);
            service
                .map(|service| service.name.to_string())
                .unwrap_or_default()
        };
        let mut table = Table::new();
        if !site.hosts.is_empty() {
            put(&mut table, "hosts", texts(&site.hosts));
        }
        put(&mut table, "default", site.default);
        match &site.tls {
            Tls::Auto => put(&mut table, "tls", "auto"),
            Tls::Internal => put(&mut table, "tls", "internal"),
            Tls::Off => put(&mut table, "tls", "off"),
            Tls::Files { cert, key } => {
                let mut files = Table::new();
                put(&mut files, "cert", cert.display().to_string());
                put(&mut files, "key", key.display().to_string());
                put(&mut table, "tls", files);
            }
        }
        put(&mut table, "redirect", site.redirect);
        if let Some(service) = site.service {
            put(&mut table, "service", name(service));
        }
        let routes: Vec<Value> = site
            .routes
            .iter()
            .map(|route| route_table(route, name(route.service)))
            .collect();
        if !routes.is_empty() || site.service.is_none() {
            put(&mut table, "route", routes);
        }
        Value::Table(table)
    }
}

fn route_table(route: &Route, service: String) -> Value {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Present => "*".to_owned(),
        ValueMatch::Exact(text) => text.clone(),
        ValueMatch::Prefix(text) => format!("{text}*"),
    };
    let mut table = Table::new();
    if let Some(path) = &route.path {
        put(&mut table, "path", path.to_string());
    }
    if !route.methods.is_empty() {
        put(&mut table, "method", texts(&route.methods));
    }
    let mut headers = Table::new();
    for (name, wanted) in &route.headers {
        put(&mut headers, name.as_str(), value(wanted));
    }
    if !headers.is_empty() {
        put(&mut table, "header", headers);
    }
    let mut query = Table::new();
    for (name, wanted) in &route.query {
        put(&mut query, name, value(wanted));
    }
    if !query.is_empty() {
        put(&mut table, "query", query);
    }
    if !route.client_ip.is_empty() {
        put(&mut table, "client_ip", networks(&route.client_ip));
    }
    put(&mut table, "service", service);
    Value::Table(table)
}

fn service_table(service: &Service) -> Table {
    let mut table = Table::new();
    put(&mut table, "stack", service.stack.to_string());
    if let Some(live) = service.live {
        put(&mut table, "live", live.as_str());
    }
    let mut releases = Table::new();
    for (color, slot) in Color::ALL.into_iter().zip(&service.slots) {
        let Some(Slot { upstreams, release }) = slot else {
            continue;
        };
        put(&mut table, color.as_str(), texts(upstreams));
        if let Some(release) = release {
            put(&mut releases, color.as_str(), release.to_string());
        }
    }
    if !releases.is_empty() {
        put(&mut table, "release", releases);
    }
    if let Some(docker) = &service.docker {
        let mut inner = Table::new();
        put(&mut inner, "service", docker.service.clone());
        if let Some(port) = docker.port {
            put(&mut inner, "port", integer(u64::from(port)));
        }
        put(&mut table, "docker", inner);
    }
    let balance = match &service.balance {
        Balance::LeastConn => "least_conn".to_owned(),
        Balance::RoundRobin => "round_robin".to_owned(),
        Balance::Random => "random".to_owned(),
        Balance::IpHash => "ip_hash".to_owned(),
        Balance::Cookie => "cookie".to_owned(),
        Balance::Header(name) => format!("header:{name}"),
    };
    put(&mut table, "balance", balance);
    put(&mut table, "health", health_table(&service.health));
    let mut eject = Table::new();
    put(
        &mut eject,
        "connect_failures",
        integer(u64::from(service.eject.connect_failures)),
    );
    put(
        &mut eject,
        "server_errors",
        integer(u64::from(service.eject.server_errors)),
    );
    put(&mut eject, "base", duration(service.eject.base));
    put(&mut eject, "max", duration(service.eject.max));
    put(&mut table, "eject", eject);
    let mut switch = Table::new();
    for (name, value) in [
        ("ready_timeout", service.switch.ready_timeout),
        ("drain", service.switch.drain),
        ("websocket_drain", service.switch.websocket_drain),
        ("sse_drain", service.switch.sse_drain),
        ("observe", service.switch.observe),
        ("observe_max", service.switch.observe_max),
    ] {
        put(&mut switch, name, duration(value));
    }
    put(
        &mut switch,
        "observe_requests",
        integer(service.switch.observe_requests),
    );
    put(&mut table, "switch", switch);
    put(&mut table, "rollback", rollback_table(&service.rollback));
    table
}

fn health_table(health: &Health) -> Table {
    let mut table = Table::new();
    match &health.probe {
        Probe::Tcp => put(&mut table, "type", "tcp"),
        Probe::Grpc { service } => {
            put(&mut table, "type", "grpc");
            put(&mut table, "service", service.clone());
        }
        Probe::Http {
            path,
            host,
            status: (low, high),
            json,
        } => {
            put(&mut table, "type", "http");
            put(&mut table, "path", path.clone());
            if let Some(host) = host {
                put(&mut table, "host", host.clone());
            }
            put(&mut table, "status", format!("{low}-{high}"));
            let mut fields = Table::new();
            for (name, value) in json {
                if let Ok(value) = Value::try_from(value) {
                    fields.insert(name.clone(), value);
                }
            }
            if !fields.is_empty() {
                put(&mut table, "json", fields);
            }
        }
    }
    put(&mut table, "interval", duration(health.interval));
    put(&mut table, "timeout", duration(health.timeout));
    put(&mut table, "rise", integer(u64::from(health.rise)));
    put(&mut table, "fall", integer(u64::from(health.fall)));
    if let Some(latency) = health.max_latency {
        put(&mut table, "max_latency", duration(latency));
    }
    table
}

fn rollback_table(rollback: &Rollback) -> Table {
    let mut table = Table::new();
    let mode = match rollback.mode {
        RollbackMode::Enforce => "enforce",
        RollbackMode::Observe => "observe",
        RollbackMode::Off => "off",
    };
    put(&mut table, "mode", mode);
    put(&mut table, "rescue", rollback.rescue);
    put(&mut table, "unsafe", rollback.r#unsafe);
    put(&mut table, "alpha", rollback.alpha);
    let mut baseline = Table::new();
    put(
        &mut baseline,
        "min_window",
        duration(rollback.baseline.min_window),
    );
    put(
        &mut baseline,
        "min_requests",
        integer(rollback.baseline.min_requests),
    );
    put(
        &mut baseline,
        "max_window",
        duration(rollback.baseline.max_window),
    );
    put(
        &mut baseline,
        "no_baseline_limit",
        rollback.baseline.no_baseline_limit,
    );
    put(&mut table, "baseline", baseline);
    let mut errors = Table::new();
    put(&mut errors, "ratio", rollback.errors.ratio);
    put(&mut errors, "floor", rollback.errors.floor);
    put(
        &mut errors,
        "min_errors",
        integer(rollback.errors.min_errors),
    );
    put(
        &mut errors,
        "min_bad_seconds",
        integer(u64::from(rollback.errors.min_bad_seconds)),
    );
    put(
        &mut errors,
        "restart_every",
        duration(rollback.errors.restart_every),
    );
    put(
        &mut errors,
        "alternatives",
        integer(u64::from(rollback.errors.alternatives)),
    );
    put(&mut table, "errors", errors);
    let mut fast = Table::new();
    put(&mut fast, "q", rollback.fast.q);
    put(&mut fast, "min_span", duration(rollback.fast.min_span));
    put(&mut table, "fast", fast);
    let mut latency = Table::new();
    put(&mut latency, "factor", rollback.latency.factor);
    put(
        &mut latency,
        "quantiles",
        numbers(&rollback.latency.quantiles),
    );
    put(&mut latency, "ratio", rollback.latency.ratio);
    put(&mut latency, "floor", numbers(&rollback.latency.floor));
    put(&mut latency, "warmup", duration(rollback.latency.warmup));
    put(&mut table, "latency", latency);
    let mut gate = Table::new();
    put(&mut gate, "methods", texts(&rollback.gate.methods));
    put(&mut gate, "clear", rollback.gate.clear);
    put(&mut gate, "block", rollback.gate.block);
    let wait: Vec<Value> = rollback
        .gate
        .wait
        .map(|wait| Value::from(duration(wait)))
        .to_vec();
    put(&mut gate, "wait", wait);
    put(&mut table, "gate", gate);
    let mut after = Table::new();
    for (name, action) in [
        ("on_shared", rollback.after.on_shared),
        ("on_ambiguous", rollback.after.on_ambiguous),
        ("on_old_dead", rollback.after.on_old_dead),
        ("on_no_traffic", rollback.after.on_no_traffic),
    ] {
        let text = match action {
            AfterAction::Hold => "hold",
            AfterAction::Rollback => "rollback",
            AfterAction::Commit => "commit",
        };
        put(&mut after, name, text);
    }
    put(&mut after, "quarantine", rollback.after.quarantine);
    put(&mut after, "cooldown", duration(rollback.after.cooldown));
    put(&mut table, "after", after);
    table
}

fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    // `$` begins a variable in a file, so a literal one is doubled.
    let value = match value.into() {
        Value::String(text) => Value::String(text.replace("${", "$${")),
        other => other,
    };
    table.insert(key.to_owned(), value);
}

fn texts<T: ToString>(items: &[T]) -> Vec<Value> {
    items
        .iter()
        .map(|item| Value::from(item.to_string()))
        .collect()
}

fn numbers(items: &[f64]) -> Vec<Value> {
    items.iter().copied().map(Value::from).collect()
}

fn networks(set: &IpSet) -> Vec<Value> {
    texts(&set.0)
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The longest unit that says it exactly.
fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis != 0 && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}
