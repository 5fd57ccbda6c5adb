//! `[service.NAME]` and `[rollback]`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, Method};
use toml::de::DeValue;

use super::tree::{Node, Table};
use super::{
    AfterAction, Balance, DockerService, Eject, Health, Probe, Rollback, RollbackAfter,
    RollbackBaseline, RollbackErrors, RollbackFast, RollbackGate, RollbackLatency, RollbackMode,
    Service, Slot, Switch,
};
use crate::model::{AddressError, Color, Release, ServiceName, StackName, UpstreamAddr};

const COLORS: [(&str, Color); 2] = [("blue", Color::Blue), ("green", Color::Green)];

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            max_latency: None,
        }
    }
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            connect_failures: 3,
            server_errors: 10,
            base: Duration::from_secs(5),
            max: Duration::from_secs(60),
        }
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self {
            ready_timeout: Duration::from_secs(300),
            drain: Duration::from_secs(30),
            websocket_drain: Duration::from_secs(30),
            sse_drain: Duration::from_secs(30),
            observe: Duration::from_secs(300),
            observe_requests: 5_000,
            observe_max: Duration::from_secs(1_800),
        }
    }
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            mode: RollbackMode::Enforce,
            rescue: true,
            r#unsafe: false,
            alpha: 1e-4,
            baseline: RollbackBaseline {
                min_window: Duration::from_secs(600),
                min_requests: 100_000,
                max_window: Duration::from_secs(86_400),
                no_baseline_limit: 0.10,
            },
            errors: RollbackErrors {
                ratio: 1.5,
                floor: 0.005,
                min_errors: 5,
                min_bad_seconds: 5,
                restart_every: Duration::from_secs(15),
                alternatives: 8,
            },
            fast: RollbackFast {
                q: 0.9,
                min_span: Duration::from_secs(1),
            },
            latency: RollbackLatency {
                factor: 1.5,
                quantiles: vec![0.90, 0.99],
                ratio: 1.5,
                floor: vec![0.02, 0.005],
                warmup: Duration::from_secs(30),
            },
            gate: RollbackGate {
                methods: vec![Method::GET, Method::HEAD],
                clear: 3.0,
                block: 4.0,
                wait: [Duration::from_secs(10), Duration::from_secs(30)],
            },
            after: RollbackAfter {
                on_shared: AfterAction::Hold,
                on_ambiguous: AfterAction::Rollback,
                on_old_dead: AfterAction::Hold,
                on_no_traffic: AfterAction::Commit,
                quarantine: true,
                cooldown: Duration::from_secs(600),
            },
        }
    }
}

/// A service that only has blue upstreams and every default.
pub(super) fn bare(name: ServiceName, blue: Vec<UpstreamAddr>, rollback: Rollback) -> Service {
    Service {
        name,
        stack: StackName::from("default"),
        live: None,
        slots: [
            Some(Slot {
                upstreams: blue,
                release: None,
            }),
            None,
        ],
        docker: None,
        balance: Balance::default(),
        health: Health::default(),
        eject: Eject::default(),
        switch: Switch::default(),
        rollback,
    }
}

/// Reads `[service.NAME]`. `rollback` holds the defaults of the top-level table.
pub(super) fn service(name: &str, node: &Node<'_>, rollback: &Rollback) -> Option<Service> {
    let table = node.table()?;
    let docker_node = table.key("docker");
    let docker = docker_node.as_ref().and_then(docker);
    let releases = table.key("release").map(|node| releases(&node));
    let slots = Color::ALL.map(|color| {
        let node = table.key(color.as_str())?;
        if docker_node.is_some() {
            node.error("cannot stand beside `docker`, whose containers fill both slots");
        }
        let upstreams = upstreams(&node);
        if upstreams.is_empty() && matches!(node.value, DeValue::Array(items) if items.is_empty()) {
            node.error(format!(
                "has no upstream, expected a list of {}",
                AddressError::FORM
            ));
        }
        let release = releases.as_ref().and_then(|r| r[color.index()].clone());
        Some(Slot { upstreams, release })
    });
    if slots.iter().all(Option::is_none) && docker_node.is_none() {
        node.error("has no upstreams, expected `blue`, `green` or `docker`");
    }
    let live_node = table.key("live");
    let live = live_node.as_ref().and_then(|node| node.choice(&COLORS));
    if let (Some(live), Some(node)) = (live, &live_node)
        && slots[live.index()].is_none()
        && docker.is_none()
    {
        node.error(format!(
            "`{live}` has no upstreams, expected the color of a filled slot"
        ));
    }
    let service = Service {
        name: ServiceName::from(name),
        stack: table
            .key("stack")
            .and_then(|node| node.filled("the name of a stack"))
            .map_or_else(|| StackName::from("default"), StackName::from),
        live,
        slots,
        docker,
        balance: table
            .key("balance")
            .and_then(|node| balance(&node))
            .unwrap_or_default(),
        health: table
            .key("health")
            .and_then(|node| health(&node))
            .unwrap_or_default(),
        eject: table
            .key("eject")
            .and_then(|node| eject(&node))
            .unwrap_or_default(),
        switch: table
            .key("switch")
            .and_then(|node| switch(&node))
            .unwrap_or_default(),
        rollback: match table.key("rollback") {
            Some(node) => read_rollback(&node, rollback.clone()),
            None => rollback.clone(),
        },
    };
    table.finish();
    Some(service)
}

/// A pool's upstreams, each once.
pub(super) fn upstreams(node: &Node<'_>) -> Vec<UpstreamAddr> {
    let mut found: Vec<UpstreamAddr> = Vec::new();
    for node in node.elements() {
        let Some(upstream) = node.parsed::<UpstreamAddr>(AddressError::FORM) else {
            continue;
        };
        if found.contains(&upstream) {
            node.error(format!("`{upstream}` is in this pool twice"));
        } else {
            found.push(upstream);
        }
    }
    found
}

fn releases(node: &Node<'_>) -> [Option<Release>; 2] {
    let Some(table) = node.table() else {
        return [None, None];
    };
    let releases = Color::ALL.map(|color| {
        let node = table.key(color.as_str())?;
        node.filled("a release such as v1.4.2").map(Release::from)
    });
    table.finish();
    releases
}

fn docker(node: &Node<'_>) -> Option<DockerService> {
    let table = node.table()?;
    let service = table
        .required("service", "the name of a Compose service")
        .and_then(|node| node.filled("the name of a Compose service"));
    let port = table
        .key("port")
        .and_then(|node| node.integer(1, 65_535))
        .and_then(|port| u16::try_from(port).ok());
    table.finish();
    node.inactive("containers are not discovered yet; the service has no upstreams until they are");
    Some(DockerService {
        service: service?,
        port,
    })
}

fn balance(node: &Node<'_>) -> Option<Balance> {
    const FORM: &str = "least_conn, round_robin, random, ip_hash, header:NAME or cookie";
    let text = node.text()?;
    Some(match text.as_str() {
        "least_conn" => Balance::LeastConn,
        "round_robin" => Balance::RoundRobin,
        "random" => Balance::Random,
        "ip_hash" => Balance::IpHash,
        "cookie" => Balance::Cookie,
        other => {
            let header = other
                .strip_prefix("header:")
                .and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            if let Some(header) = header {
                return Some(Balance::Header(header));
            }
            let names = ["least_conn", "round_robin", "random", "ip_hash", "cookie"];
            let meant = super::tree::nearest(other, names.into_iter())
                .map(|name| format!(" (did you mean `{name}`?)"))
                .unwrap_or_default();
            node.error(format!(
                "`{other}` is not a balance{meant}, expected {FORM}"
            ));
            return None;
        }
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Tcp,
    Grpc,
}

/// A key that only one type of probe has.
fn only_for<'c>(kind: Kind, wanted: Kind, node: Option<Node<'c>>) -> Option<Node<'c>> {
    let node = node?;
    if kind == wanted {
        return Some(node);
    }
    let wanted = match wanted {
        Kind::Http => "http",
        Kind::Tcp => "tcp",
        Kind::Grpc => "grpc",
    };
    node.error(format!("is only for `type = \"{wanted}\"`"));
    None
}

fn health(node: &Node<'_>) -> Option<Health> {
    let table = node.table()?;
    let default = Health::default();
    let kind = table
        .key("type")
        .and_then(|node| {
            node.choice(&[
                ("http", Kind::Http),
                ("tcp", Kind::Tcp),
                ("grpc", Kind::Grpc),
            ])
        })
        .unwrap_or(Kind::Http);
    let path = only_for(kind, Kind::Http, table.key("path")).and_then(|node| {
        let path = node.text()?;
        if !path.starts_with('/') || path.contains(' ') {
            node.error(format!(
                "`{path}` is not a path, expected one such as /healthz"
            ));
            return None;
        }
        Some(path)
    });
    let host =
        only_for(kind, Kind::Http, table.key("host")).and_then(|node| node.filled("a host name"));
    let status =
        only_for(kind, Kind::Http, table.key("status")).and_then(|node| status_range(&node));
    let json = only_for(kind, Kind::Http, table.key("json"))
        .map(|node| json_fields(&node))
        .unwrap_or_default();
    let grpc = only_for(kind, Kind::Grpc, table.key("service")).and_then(|node| node.text());
    let probe = match kind {
        Kind::Tcp => Probe::Tcp,
        Kind::Grpc => Probe::Grpc {
            service: grpc.unwrap_or_default(),
        },
        Kind::Http => Probe::Http {
            path: path.unwrap_or_else(|| "/healthz".to_owned()),
            host,
            status: status.unwrap_or((200, 299)),
            json,
        },
    };
    let health = Health {
        probe,
        interval: duration(&table, "interval", default.interval),
        timeout: duration(&table, "timeout", default.timeout),
        rise: count(&table, "rise", default.rise, 1),
        fall: count(&table, "fall", default.fall, 1),
        max_latency: table.key("max_latency").and_then(|node| node.duration()),
    };
    table.finish();
    Some(health)
}

fn status_range(node: &Node<'_>) -> Option<(u16, u16)> {
    let text = match node.value {
        DeValue::Integer(number) => number.as_str().to_owned(),
        _ => node.text()?,
    };
    let (low, high) = text.split_once('-').unwrap_or((&text, &text));
    let code = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|c| (100..=599).contains(c))
    };
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Some((low, high)),
        _ => {
            node.error(format!(
                "`{text}` is not a status range, expected one such as 200-299 or 204"
            ));
            None
        }
    }
}

fn json_fields(node: &Node<'_>) -> BTreeMap<String, serde_json::Value> {
    let Some(table) = node.table() else {
        return BTreeMap::new();
    };
    let fields = table.named().into_iter().filter_map(|(name, node)| {
        let value = match node.value {
            DeValue::String(_) => node.text().map(serde_json::Value::from),
            DeValue::Boolean(value) => Some(serde_json::Value::from(*value)),
            DeValue::Integer(number) => serde_json::from_str(number.as_str()).ok(),
            DeValue::Float(number) => serde_json::from_str(number.as_str()).ok(),
            other => {
                node.error(format!(
                    "is {}, expected a string, number or boolean",
                    super::tree::kind(other)
                ));
                None
            }
        };
        value.map(|value| (name, value))
    });
    fields.collect()
}

fn eject(node: &Node<'_>) -> Option<Eject> {
    let table = node.table()?;
    let default = Eject::default();
    let eject = Eject {
        connect_failures: count(&table, "connect_failures", default.connect_failures, 0),
        server_errors: count(&table, "server_errors", default.server_errors, 0),
        base: duration(&table, "base", default.base),
        max: duration(&table, "max", default.max),
    };
    if eject.base > eject.max {
        node.error("`base` is longer than `max`");
    }
    table.finish();
    Some(eject)
}

fn switch(node: &Node<'_>) -> Option<Switch> {
    let table = node.table()?;
    let default = Switch::default();
    let or_zero = |name, default| {
        table
            .key(name)
            .and_then(|node| node.duration_or_zero())
            .unwrap_or(default)
    };
    let switch = Switch {
        ready_timeout: duration(&table, "ready_timeout", default.ready_timeout),
        drain: or_zero("drain", default.drain),
        websocket_drain: or_zero("websocket_drain", default.websocket_drain),
        sse_drain: or_zero("sse_drain", default.sse_drain),
        observe: or_zero("observe", default.observe),
        observe_requests: table
            .key("observe_requests")
            .and_then(|node| node.integer(0, u64::MAX))
            .unwrap_or(default.observe_requests),
        observe_max: or_zero("observe_max", default.observe_max),
    };
    if switch.observe > switch.observe_max {
        let at = table.key("observe").unwrap_or_else(|| node.clone());
        at.error("is longer than `observe_max` (default 30m)");
    }
    table.finish();
    Some(switch)
}

const MODES: [(&str, RollbackMode); 3] = [
    ("enforce", RollbackMode::Enforce),
    ("observe", RollbackMode::Observe),
    ("off", RollbackMode::Off),
];

const ACTIONS: [(&str, AfterAction); 3] = [
    ("hold", AfterAction::Hold),
    ("rollback", AfterAction::Rollback),
    ("commit", AfterAction::Commit),
];

/// Reads a rollback table over `base`.
pub(super) fn read_rollback(node: &Node<'_>, mut base: Rollback) -> Rollback {
    let Some(table) = node.table() else {
        return base;
    };
    node.inactive("a release is not judged yet; nothing is rolled back by itself");
    set(
        &mut base.mode,
        table.key("mode").and_then(|n| n.choice(&MODES)),
    );
    set(
        &mut base.rescue,
        table.key("rescue").and_then(|n| n.boolean()),
    );
    set(
        &mut base.r#unsafe,
        table.key("unsafe").and_then(|n| n.boolean()),
    );
    set(
        &mut base.alpha,
        table.key("alpha").and_then(|n| n.float(1e-12, 0.5)),
    );
    for (name, instead) in [
        (
            "bake",
            "switch.observe, switch.observe_requests and switch.observe_max",
        ),
        ("drain", "switch.drain"),
    ] {
        if let Some(node) = table.key(name) {
            node.error(format!("is not a table here, use {instead} of the service"));
        }
    }
    within(&table, "baseline", |t| {
        let b = &mut base.baseline;
        set(
            &mut b.min_window,
            t.key("min_window").and_then(|n| n.duration()),
        );
        set(
            &mut b.min_requests,
            t.key("min_requests").and_then(|n| n.integer(1, u64::MAX)),
        );
        set(
            &mut b.max_window,
            t.key("max_window").and_then(|n| n.duration()),
        );
        set(
            &mut b.no_baseline_limit,
            t.key("no_baseline_limit").and_then(|n| n.rate()),
        );
        if b.min_window > b.max_window {
            t.node.error("`min_window` is longer than `max_window`");
        }
    });
    within(&table, "errors", |t| {
        let e = &mut base.errors;
        set(
            &mut e.ratio,
            t.key("ratio").and_then(|n| n.float(1.0, 1000.0)),
        );
        set(&mut e.floor, t.key("floor").and_then(|n| n.rate()));
        set(
            &mut e.min_errors,
            t.key("min_errors").and_then(|n| n.integer(1, u64::MAX)),
        );
        e.min_bad_seconds = count(t, "min_bad_seconds", e.min_bad_seconds, 1);
        set(
            &mut e.restart_every,
            t.key("restart_every").and_then(|n| n.duration()),
        );
        e.alternatives = count(t, "alternatives", e.alternatives, 1);
    });
    within(&table, "fast", |t| {
        let f = &mut base.fast;
        set(&mut f.q, t.key("q").and_then(|n| n.rate()));
        set(
            &mut f.min_span,
            t.key("min_span").and_then(|n| n.duration_or_zero()),
        );
    });
    within(&table, "latency", |t| {
        let l = &mut base.latency;
        set(
            &mut l.factor,
            t.key("factor").and_then(|n| n.float(1.0, 1000.0)),
        );
        set(&mut l.quantiles, t.key("quantiles").map(|n| rates(&n)));
        set(
            &mut l.ratio,
            t.key("ratio").and_then(|n| n.float(1.0, 1000.0)),
        );
        set(&mut l.floor, t.key("floor").map(|n| rates(&n)));
        set(
            &mut l.warmup,
            t.key("warmup").and_then(|n| n.duration_or_zero()),
        );
        if l.quantiles.len() != l.floor.len() {
            t.node.error(format!(
                "`quantiles` has {} entries and `floor` {}, expected one floor for each quantile",
                l.quantiles.len(),
                l.floor.len()
            ));
        }
    });
    within(&table, "gate", |t| {
        let g = &mut base.gate;
        set(&mut g.methods, t.key("methods").map(|n| methods(&n)));
        set(
            &mut g.clear,
            t.key("clear").and_then(|n| n.float(0.0, 100.0)),
        );
        set(
            &mut g.block,
            t.key("block").and_then(|n| n.float(0.0, 100.0)),
        );
        if let Some(node) = t.key("wait") {
            let waits: Vec<Duration> = node.elements().iter().filter_map(Node::duration).collect();
            match waits[..] {
                [first, second] if first <= second => g.wait = [first, second],
                _ => node.error(
                    "is not two durations in order, expected one such as [\"10s\", \"30s\"]",
                ),
            }
        }
    });
    within(&table, "after", |t| {
        let a = &mut base.after;
        let action = |name| t.key(name).and_then(|n| n.choice(&ACTIONS));
        set(&mut a.on_shared, action("on_shared"));
        set(&mut a.on_ambiguous, action("on_ambiguous"));
        set(&mut a.on_old_dead, action("on_old_dead"));
        set(&mut a.on_no_traffic, action("on_no_traffic"));
        set(
            &mut a.quarantine,
            t.key("quarantine").and_then(|n| n.boolean()),
        );
        set(
            &mut a.cooldown,
            t.key("cooldown").and_then(|n| n.duration_or_zero()),
        );
    });
    table.finish();
    base
}

fn within(table: &Table<'_>, name: &'static str, read: impl FnOnce(&Table<'_>)) {
    if let Some(inner) = table.key(name).and_then(|node| node.table()) {
        read(&inner);
        inner.finish();
    }
}

fn rates(node: &Node<'_>) -> Vec<f64> {
    node.elements().iter().filter_map(Node::rate).collect()
}

/// Methods, as a text or a list of texts.
pub(super) fn methods(node: &Node<'_>) -> Vec<Method> {
    let nodes = node.one_or_more();
    let read = nodes.iter().filter_map(|node| {
        let text = node.text()?;
        match Method::from_bytes(text.to_ascii_uppercase().as_bytes()) {
            Ok(method) => Some(method),
            Err(_) => {
                node.error(format!(
                    "`{text}` is not a method, expected one such as GET"
                ));
                None
            }
        }
    });
    read.collect()
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn duration(table: &Table<'_>, name: &'static str, default: Duration) -> Duration {
    table
        .key(name)
        .and_then(|node| node.duration())
        .unwrap_or(default)
}

fn count(table: &Table<'_>, name: &'static str, default: u32, least: u64) -> u32 {
    table
        .key(name)
        .and_then(|node| node.integer(least, 1_000_000))
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(default)
}
