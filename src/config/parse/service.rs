//! `[service.NAME]`, and the services that the short form of a site stands for.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use http::HeaderName;

use super::findings::Findings;
use super::rollback;
use super::section::Section;
use super::site::Head;
use super::transport;
use super::tree::{Entry, Node, Value, join, quoted};
use super::value::{self, Parsed};
use crate::config::render::in_words;
use crate::config::{
    Balance, DockerService, Eject, Health, Kind, Order, Probe, Rollback, Service, ServiceIndex,
    Slot, Switch, schema,
};
use crate::model::{AddressError, Color, Release, ServiceName, StackName, UpstreamAddr};

/// Every service of the file by name, so that references can be resolved before the services
/// are read.
pub(super) struct Names<'a> {
    out: &'a Findings<'a>,
    /// `[service.NAME]`, by name.
    written: BTreeMap<&'a str, &'a Entry>,
    /// In order; the position is the [`ServiceIndex`].
    all: BTreeMap<String, ServiceIndex>,
    /// Services that an `upstream` stands for: the line of the first that does, and its pool.
    implied: BTreeMap<String, Implied>,
    /// By the place of the list of upstreams: which of them it stands for.
    places: HashMap<usize, String>,
    /// What was resolved.
    used: RefCell<HashSet<ServiceIndex>>,
    /// `service` is there but is no table: which names it has is unknown.
    unreadable: bool,
}

/// A service that stands for the upstreams of a site, route or step.
struct Implied {
    at: usize,
    upstreams: Vec<UpstreamAddr>,
}

impl<'a> Names<'a> {
    /// Names of the tables, and those that stand for the upstreams of sites, routes and steps.
    pub(super) fn collect(root: &Section<'a>, sites: &[Head<'a>]) -> Self {
        let tables = root.table("service");
        let written: BTreeMap<_, _> = (tables.unwrap_or_default().iter())
            .map(|entry| (entry.name.as_str(), entry))
            .collect();
        let mut implied = BTreeMap::new();
        let mut places = HashMap::new();
        for head in sites {
            imply(head, &mut implied, &mut places);
        }
        let mut names: BTreeMap<_, _> = (written.keys().map(|name| (*name).to_owned()))
            .chain(implied.keys().cloned())
            .map(|name| (name, ServiceIndex(0)))
            .collect();
        for (n, index) in names.values_mut().enumerate() {
            *index = ServiceIndex(n);
        }
        Self {
            out: root.out,
            written,
            all: names,
            implied,
            places,
            used: RefCell::default(),
            unreadable: root.entry("service").is_some() && tables.is_none(),
        }
    }

    /// The service that the key `service` of a site or route names; reported when there is
    /// none.
    pub(super) fn resolve(&self, section: &Section<'_>) -> Option<ServiceIndex> {
        let name = section.value("service", value::text)?;
        if let Some(index) = self.all.get(&name) {
            self.used.borrow_mut().insert(*index);
            return Some(*index);
        }
        if self.unreadable {
            return None;
        }
        let near = self.out.nearest(&name, self.all.keys().map(String::as_str));
        let instead = match (near, self.all.len()) {
            (Some(near), _) => format!("; did you mean {}?", quoted(near)),
            (None, 0) => format!("; add [{}]", join("service", &name)),
            (None, 1..=8) => {
                let all: Vec<_> = self.all.keys().map(String::as_str).collect();
                format!("; the services are {}", all.join(", "))
            }
            (None, _) => String::new(),
        };
        let message = format!("there is no service {}{instead}", quoted(&name));
        let at = section.place("service");
        self.out.missing(at, &section.key("service"), message);
        None
    }

    /// As [`Self::resolve`], for what is about a service without leading to it.
    pub(super) fn named(&self, section: &Section<'_>) -> Option<ServiceName> {
        let was_used = self.used.borrow().clone();
        let index = self.resolve(section);
        *self.used.borrow_mut() = was_used;
        let index = index?;
        let found = self.all.iter().find(|(_, known)| **known == index);
        found.map(|(name, _)| ServiceName::from(name.as_str()))
    }

    /// The table of a service; `None` for one that a short form stands for.
    pub(super) fn entry(&self, name: &str) -> Option<&'a Entry> {
        self.written.get(name).copied()
    }

    /// The service that the key `upstream` of a table stands for; what is wrong with the list is
    /// reported.
    pub(super) fn implied(&self, section: &Section<'_>) -> Option<ServiceIndex> {
        slot(section, "upstream")?;
        let name = self.places.get(&section.place("upstream"))?;
        let index = self.all.get(name).copied()?;
        self.used.borrow_mut().insert(index);
        Some(index)
    }

    /// Whether something leads to a service.
    pub(super) fn is_used(&self, name: &ServiceName) -> bool {
        let index = self.all.get(name.as_str());
        index.is_some_and(|index| self.used.borrow().contains(index))
    }

    /// Where errors go.
    pub(super) fn out(&self) -> &'a Findings<'a> {
        self.out
    }
}

/// Names the services that the upstreams of a site stand for. Its own are named after its first
/// host; those of its routes and steps after that and their first upstream, so that an edit
/// elsewhere renames none: the journal knows services by name. The same upstreams in one site are
/// one service.
fn imply(
    head: &Head<'_>,
    implied: &mut BTreeMap<String, Implied>,
    places: &mut HashMap<usize, String>,
) {
    let own = head
        .section
        .entry("upstream")
        .map(|entry| (&entry.node, true));
    let others = head.scan.upstreams.iter().map(|list| (*list, false));
    for (list, is_own) in own.into_iter().chain(others) {
        let upstreams = addresses(list);
        let Some(first) = upstreams.first() else {
            continue;
        };
        let base = head.base_name();
        let wanted = match is_own {
            true => base,
            false => format!("{base}-{}", in_name(first)),
        };
        let is_free = |name: &String| {
            let known = implied.get(name);
            known.is_none_or(|known| known.upstreams == upstreams)
        };
        let numbered = (2..).map(|n| format!("{wanted}-{n}"));
        let name = std::iter::once(wanted.clone())
            .chain(numbered)
            .find(is_free);
        let name = name.unwrap_or(wanted);
        places.insert(list.at, name.clone());
        implied.entry(name).or_insert(Implied {
            at: list.at,
            upstreams,
        });
    }
}

/// The upstreams of a list, each once, without a word about wrong ones.
fn addresses(list: &Node) -> Vec<UpstreamAddr> {
    let mut upstreams = Vec::new();
    if let Value::List(items) = &list.value {
        for item in items {
            if let Value::Text { text, .. } = &item.value
                && let Ok(upstream) = text.parse()
                && !upstreams.contains(&upstream)
            {
                upstreams.push(upstream);
            }
        }
    }
    upstreams
}

/// An address in the letters of a name.
fn in_name(upstream: &UpstreamAddr) -> String {
    let text = upstream.to_string().replace("://", "-").replace(":/", "-");
    let bare = text.chars().filter(|c| !"[]".contains(*c));
    bare.map(|c| match c.is_ascii_alphanumeric() || "-_.:".contains(c) {
        true => c,
        false => '-',
    })
    .collect()
}

/// All services, in the order of their names.
pub(super) fn read(root: &Section<'_>, names: &Names<'_>, defaults: &Rollback) -> Vec<Service> {
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for (name, implied) in &names.implied {
        let mut service = empty(name, defaults);
        service.slots[Color::Blue.index()] = Some(implied.slot());
        services.insert(name, service);
    }
    for entry in names.written.values().copied() {
        let path = join("service", &entry.name);
        let Value::Table(entries) = &entry.node.value else {
            if !matches!(entry.node.value, Value::Broken) {
                let found = entry.node.value.describe();
                let message = format!("expected a table, [{path}], found {found}");
                root.out.error(entry.node.at, &path, message);
            }
            services.insert(&entry.name, empty(&entry.name, defaults));
            continue;
        };
        if !value::is_name(&entry.name) {
            let message = "not a name: up to 253 letters, digits and - _ . : *".to_owned();
            root.out.error(entry.at, &path, message);
        }
        let section = root.child(&schema::SERVICE, path, entry.at, entries);
        let implied = names.implied.get(&entry.name);
        services.insert(&entry.name, one(&section, &entry.name, defaults, implied));
    }
    services.into_values().collect()
}

impl Implied {
    fn slot(&self) -> Slot {
        Slot {
            upstreams: self.upstreams.clone(),
            release: None,
        }
    }
}

fn empty(name: &str, rollback: &Rollback) -> Service {
    Service {
        rollback: rollback.clone(),
        ..Service::new(name)
    }
}

fn one(
    section: &Section<'_>,
    name: &str,
    defaults: &Rollback,
    implied: Option<&Implied>,
) -> Service {
    let mut service = empty(name, defaults);
    service.slots = [slot(section, "blue"), slot(section, "green")];
    if let Some(implied) = implied {
        let line = section.out.line(implied.at);
        for key in ["blue", "docker"] {
            if section.entry(key).is_some() {
                let message = format!(
                    "the upstream in line {line} is the blue slot of this service; remove one of \
                     them, or rename this service"
                );
                section.error(key, message);
            }
        }
        service.slots[Color::Blue.index()] = Some(implied.slot());
    }
    service.docker = docker(section);
    service.kind = kind(section);
    section.set("stop_grace", &mut service.stop_grace, |value| {
        value::duration(value).map(Some)
    });
    releases(section, &mut service);
    section.set("stack", &mut service.stack, |v| {
        value::name(v).map(StackName::from)
    });
    section.set("balance", &mut service.balance, balance);
    let colors = [("blue", Color::Blue), ("green", Color::Green)];
    service.live = section.value("live", value::word(&colors));
    check_slots(section, &service, implied.is_some());
    transport::read(section, &mut service);
    if let Some(health) = section.section("health", &schema::HEALTH) {
        service.health = read_health(&health);
    }
    if let Some(eject) = section.section("eject", &schema::EJECT) {
        service.eject = read_eject(&eject);
    }
    if let Some(switch) = section.section("switch", &schema::SWITCH) {
        service.switch = read_switch(&switch);
    }
    let rollback = section.section("rollback", &schema::ROLLBACK);
    service.rollback = rollback::read(rollback, defaults);
    service
}

/// The upstreams of one key; at least one, each once.
pub(super) fn slot(section: &Section<'_>, key: &'static str) -> Option<Slot> {
    let address = value::parsed::<UpstreamAddr>(AddressError::FORM);
    let list = section.list(key, "upstreams, such as [\"app:3000\"]", address)?;
    if section.length(key) == Some(0) {
        section.error(
            key,
            "a pool needs at least one upstream, such as [\"app:3000\"]",
        );
    }
    let mut seen = HashSet::with_capacity(list.len());
    let mut upstreams = Vec::with_capacity(list.len());
    for (at, upstream) in list {
        if seen.insert(upstream.clone()) {
            upstreams.push(upstream);
        } else {
            let message = format!("{upstream} is in this pool already");
            section.out.error(at, &section.key(key), message);
        }
    }
    Some(Slot {
        upstreams,
        release: None,
    })
}

fn docker(section: &Section<'_>) -> Option<DockerService> {
    let docker = section.section("docker", &schema::SERVICE_DOCKER)?;
    for color in ["blue", "green"] {
        if section.entry(color).is_some() {
            let message = format!("stands instead of blue and green; remove it or {color}");
            section.error("docker", message);
            break;
        }
    }
    if docker.entry("service").is_none() {
        docker.missing("needs service, the name of a Compose service");
    }
    let service = docker.value("service", value::words);
    let project = docker.value("project", value::words);
    let port = docker.value("port", value::whole(1..=u16::MAX));
    Some(DockerService {
        service: service.unwrap_or_default(),
        project,
        port,
    })
}

/// `type` and, of a worker, `order`.
fn kind(section: &Section<'_>) -> Kind {
    let orders = [Order::StartFirst, Order::StopFirst].map(|order| (order.as_str(), order));
    let mut order = Order::default();
    section.set("order", &mut order, value::word(&orders));
    let kinds = [("web", Kind::Web), ("worker", Kind::Worker { order })];
    let mut kind = Kind::default();
    section.set("type", &mut kind, value::word(&kinds));
    if kind == Kind::Web && order != Order::default() {
        section.warning(
            "order",
            "has no effect: only a type = \"worker\" has an order",
        );
    }
    kind
}

fn releases(section: &Section<'_>, service: &mut Service) {
    let Some(releases) = section.section("release", &schema::RELEASE) else {
        return;
    };
    for (color, slot) in ["blue", "green"].into_iter().zip(&mut service.slots) {
        let Some(release) = releases.value(color, value::words) else {
            continue;
        };
        match slot {
            Some(slot) => slot.release = Some(Release::from(release)),
            None if section.entry(color).is_none() => {
                releases.error(color, format!("the slot {color} has no upstreams"));
            }
            None => {}
        }
    }
}

fn check_slots(section: &Section<'_>, service: &Service, has_blue: bool) {
    let written = |color: &'static str| {
        section.entry(color).is_some() || (has_blue && color == Color::Blue.as_str())
    };
    let by_docker = section.entry("docker").is_some();
    if matches!(service.kind, Kind::Worker { .. }) {
        if !by_docker {
            section.missing("is a worker: it needs docker = { service = \"...\" }");
        }
        return;
    }
    if !written("blue") && !written("green") && !by_docker {
        section.missing("has no upstreams; give blue = [\"app:3000\"], and green to switch to");
    }
    if let Some(live) = service.live
        && !by_docker
        && !written(live.as_str())
    {
        section.error("live", format!("the slot {live} has no upstreams"));
    }
    if section.entry("stack").is_some() && !by_docker && written("blue") != written("green") {
        section.warning(
            "stack",
            "has no effect: a service with one slot never switches",
        );
    }
    if let [Some(blue), Some(green)] = &service.slots {
        let blue: HashSet<_> = blue.upstreams.iter().collect();
        if let Some(both) = green.upstreams.iter().find(|up| blue.contains(up)) {
            let message = format!("{both} is in blue too; a switch would not move its requests");
            section.warning("green", message);
        }
    }
}

fn balance(value: &Value) -> Parsed<Balance> {
    if let Value::Text { text, .. } = value
        && let Some(name) = text.strip_prefix("header:")
    {
        return match HeaderName::try_from(name.trim()) {
            Ok(name) => Ok(Balance::Header(name)),
            Err(_) => Err(format!("{} is not the name of a header", quoted(name))),
        };
    }
    let choices = [
        ("least_conn", Some(Balance::LeastConn)),
        ("round_robin", Some(Balance::RoundRobin)),
        ("random", Some(Balance::Random)),
        ("first", Some(Balance::First)),
        ("ip_hash", Some(Balance::IpHash)),
        ("cookie", Some(Balance::Cookie)),
        // Never chosen: the form is taken above, the entry only names it.
        ("header:NAME", None),
    ];
    value::word(&choices)(value).map(Option::unwrap_or_default)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ProbeType {
    Tcp,
    Http,
    Grpc,
}

fn read_health(section: &Section<'_>) -> Health {
    let mut health = Health::default();
    let types = [
        ("http", ProbeType::Http),
        ("tcp", ProbeType::Tcp),
        ("grpc", ProbeType::Grpc),
    ];
    let mut kind = ProbeType::Http;
    section.set("type", &mut kind, value::word(&types));
    let http = http_probe(section);
    let service = section.value("service", value::words).unwrap_or_default();
    for key in ["path", "host", "status", "json"] {
        if kind != ProbeType::Http && section.entry(key).is_some() {
            section.error(key, "is only for type = \"http\"");
        }
    }
    if kind != ProbeType::Grpc && section.entry("service").is_some() {
        section.error("service", "is only for type = \"grpc\"");
    }
    health.probe = match kind {
        ProbeType::Tcp => Probe::Tcp,
        ProbeType::Http => http,
        ProbeType::Grpc => Probe::Grpc { service },
    };
    section.set("interval", &mut health.interval, value::some_time);
    section.set("timeout", &mut health.timeout, value::some_time);
    section.set("rise", &mut health.rise, value::whole(1..=1000));
    section.set("fall", &mut health.fall, value::whole(1..=1000));
    health.max_latency = section.value("max_latency", value::some_time);
    if health.timeout > health.interval {
        let key = section.first_of("timeout", "interval");
        section.warning(
            key,
            "timeout is longer than interval: a slow probe delays the next one",
        );
    }
    if health.max_latency.is_some_and(|max| max > health.timeout) {
        section.warning("max_latency", "has no effect: it is longer than timeout");
    }
    health
}

fn http_probe(section: &Section<'_>) -> Probe {
    let path = section.value("path", |value| {
        let path = value::words(value)?;
        match path.parse::<http::uri::PathAndQuery>() {
            Ok(_) if path.starts_with('/') && !path.contains('#') => Ok(path),
            _ => Err(format!(
                "{} is not a path such as \"/healthz\"",
                quoted(&path)
            )),
        }
    });
    let host = section.value("host", |value| {
        let host = value::words(value)?;
        match host.parse::<http::uri::Authority>() {
            Ok(_) if !host.contains('@') => Ok(host),
            _ => Err(format!(
                "{} is not a host such as \"example.com\"",
                quoted(&host)
            )),
        }
    });
    let mut status = (200, 299);
    section.set("status", &mut status, value::status);
    let mut fields = BTreeMap::new();
    for field in section.table("json").unwrap_or_default() {
        let path = join(&section.key("json"), &field.name);
        if let Some(value) = section.read(&field.node, &path, json) {
            fields.insert(field.name.clone(), value);
        }
    }
    Probe::Http {
        path: path.unwrap_or_else(|| "/healthz".to_owned()),
        host,
        status,
        json: fields,
    }
}

fn json(value: &Value) -> Parsed<serde_json::Value> {
    let below = |node: &Node| json(&node.value);
    Ok(match value {
        Value::Text { text, .. } => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Boolean(value) => (*value).into(),
        Value::Float(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => serde_json::Value::Number(number),
            None => return Err(format!("JSON has no {number}")),
        },
        Value::Date => return Err("JSON has no dates; write it in quotes".to_owned()),
        Value::List(items) => {
            serde_json::Value::Array(items.iter().map(below).collect::<Parsed<_>>()?)
        }
        Value::Table(entries) => serde_json::Value::Object(
            (entries.iter())
                .map(|entry| Ok((entry.name.clone(), below(&entry.node)?)))
                .collect::<Parsed<_>>()?,
        ),
        Value::Broken => serde_json::Value::Null,
    })
}

fn read_eject(section: &Section<'_>) -> Eject {
    let mut eject = Eject::default();
    let count = || value::whole(0..=100_000);
    section.set("connect_failures", &mut eject.connect_failures, count());
    section.set("server_errors", &mut eject.server_errors, count());
    section.set("base", &mut eject.base, value::some_time);
    section.set("max", &mut eject.max, value::some_time);
    if eject.base > eject.max {
        let key = section.first_of("base", "max");
        let (base, max) = (in_words(eject.base), in_words(eject.max));
        section.error(key, format!("base ({base}) is longer than max ({max})"));
    }
    eject
}

fn read_switch(section: &Section<'_>) -> Switch {
    let mut s = Switch::default();
    section.set("ready_timeout", &mut s.ready_timeout, value::some_time);
    section.set("drain", &mut s.drain, value::duration);
    section.set("websocket_drain", &mut s.websocket_drain, value::duration);
    section.set("sse_drain", &mut s.sse_drain, value::duration);
    section.set("observe", &mut s.observe, value::duration);
    section.set(
        "observe_requests",
        &mut s.observe_requests,
        value::whole(0..=1_000_000_000_u64),
    );
    section.set("observe_max", &mut s.observe_max, value::duration);
    if s.observe > s.observe_max {
        let key = section.first_of("observe", "observe_max");
        let (observe, max) = (in_words(s.observe), in_words(s.observe_max));
        section.error(
            key,
            format!("observe ({observe}) is longer than observe_max ({max})"),
        );
    }
    s
}
