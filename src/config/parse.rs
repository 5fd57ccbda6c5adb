//! From TOML text to a validated [`Config`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Severity;
use super::service;
use super::site::{self, Services, Taken};
use super::tree::{Context, Node, Table};
use super::{
    AccessLog, Acme, Config, Diagnostics, Docker, DockerSocket, IpSet, Limits, Listen, Log, Notify,
    NotifyKind, Rollback, Secret, ServiceIndex, Timeouts,
};

/// Parameters and headers whose values are never logged, unless the file says otherwise.
pub(super) const REDACTED: [&str; 14] = [
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "authorization",
    "code",
    "cookie",
    "id_token",
    "password",
    "secret",
    "set-cookie",
    "sig",
    "signature",
    "token",
];

const OPS_ALLOW: [&str; 6] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

/// Let's Encrypt's production directory.
pub(super) const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// What a text means: the configuration, and every key that was asked for on the way.
pub(super) fn read(
    file: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> (
    Result<Config, Diagnostics>,
    std::collections::BTreeSet<String>,
) {
    let cx = Context::new(file, text, environment);
    let (tree, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().replace('\n', ", ");
        cx.report(Severity::Error, at, "", message);
    }
    let span = tree.span();
    let tree = Spanned::new(span, DeValue::Table(tree.into_inner()));
    let config = root(&Node::root(&cx, &tree));
    let keys = cx.known_keys();
    let (errors, warnings, inactive) = cx.into_findings();
    // A key that syntax errors hide is not missing: only what the parser says counts then.
    let errors = match errors.iter().any(|error| error.key.is_empty()) && !syntax.is_empty() {
        true => errors
            .into_iter()
            .filter(|error| error.key.is_empty())
            .collect(),
        false => errors,
    };
    let result = match config {
        Some(config) if errors.is_empty() => Ok(Config {
            warnings,
            inactive,
            ..config
        }),
        _ => Err(Diagnostics(errors)),
    };
    (result, keys)
}

fn root(node: &Node<'_>) -> Option<Config> {
    let table = node.table()?;
    let rollback = table
        .key("rollback")
        .map_or_else(Rollback::default, |node| {
            service::read_rollback(&node, Rollback::default())
        });
    let mut list: Vec<super::Service> = table
        .key("service")
        .and_then(|node| node.table())
        .map(|table| {
            let named = table.named().into_iter();
            named
                .filter_map(|(name, node)| {
                    if !is_name(&name) {
                        node.error(format!(
                            "`{name}` is not a service name, expected letters, digits, `-`, `_` and `.`"
                        ));
                    }
                    service::service(&name, &node, &rollback)
                })
                .collect()
        })
        .unwrap_or_default();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    let mut services = Services::new(list, rollback);
    let mut taken = Taken::default();
    let mut sites = table.key("site").map_or_else(Vec::new, |node| {
        let nodes = node.elements();
        nodes
            .iter()
            .filter_map(|node| site::site(node, &mut services, &mut taken))
            .collect()
    });
    let services = in_order(services.into_list(), &mut sites);
    let config = Config {
        state_dir: table
            .key("state_dir")
            .and_then(|node| node.path_buf())
            .unwrap_or_else(|| PathBuf::from("/data/cutover")),
        shutdown_grace: table
            .key("shutdown_grace")
            .and_then(|node| node.duration_or_zero())
            .unwrap_or(Duration::from_secs(30)),
        listen: listen(&table),
        timeouts: timeouts(&table),
        limits: limits(&table),
        log: log(&table),
        acme: acme(&table),
        docker: docker(&table),
        notify: notify(&table),
        sites,
        services,
        inactive: Vec::new(),
        warnings: Vec::new(),
    };
    table.finish();
    Some(config)
}

/// Sorts services by name, those of short sites among them, and lets sites point to their new
/// places.
fn in_order(services: Vec<super::Service>, sites: &mut [super::Site]) -> Vec<super::Service> {
    let mut numbered: Vec<(usize, super::Service)> = services.into_iter().enumerate().collect();
    numbered.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let mut places = vec![ServiceIndex(0); numbered.len()];
    for (new, (old, _)) in numbered.iter().enumerate() {
        places[*old] = ServiceIndex(new);
    }
    for site in sites {
        let routes = site.routes.iter_mut().map(|route| &mut route.service);
        for index in routes.chain(&mut site.service) {
            *index = places[index.0];
        }
    }
    numbered.into_iter().map(|(_, service)| service).collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn table<'c>(parent: &Table<'c>, name: &'static str) -> Option<Table<'c>> {
    parent.key(name).and_then(|node| node.table())
}

fn listen(root: &Table<'_>) -> Listen {
    let addr = |text: &str| text.parse::<SocketAddr>().ok();
    let defaults = |port: u16| vec![([0, 0, 0, 0], port).into(), ([0_u16; 8], port).into()];
    let mut listen = Listen {
        http: defaults(80),
        https: defaults(443),
        ops: addr("0.0.0.0:9180").unwrap_or_else(|| ([0, 0, 0, 0], 9180).into()),
        ops_allow: IpSet(
            OPS_ALLOW
                .iter()
                .filter_map(|net| net.parse().ok())
                .collect(),
        ),
        admin: PathBuf::from("/run/cutover/admin.sock"),
        trusted_proxies: IpSet::default(),
    };
    let Some(table) = table(root, "listen") else {
        return listen;
    };
    let http = table.key("http").map(|node| node.listeners());
    let https = table.key("https").map(|node| node.listeners());
    if let (Some(http), Some(https), Some(node)) = (&http, &https, table.key("https")) {
        for addr in https
            .iter()
            .filter(|addr| addr.port() != 0 && http.contains(addr))
        {
            node.error(format!("`{addr}` is an http listener already"));
        }
    }
    listen.http = http.unwrap_or(listen.http);
    listen.https = https.unwrap_or(listen.https);
    if let Some(ops) = table.key("ops").and_then(|node| node.listener()) {
        listen.ops = ops;
    }
    if let Some(node) = table.key("ops_allow") {
        listen.ops_allow = node.networks();
    }
    if let Some(admin) = table.key("admin").and_then(|node| node.absolute()) {
        listen.admin = admin;
    }
    if let Some(node) = table.key("trusted_proxies") {
        listen.trusted_proxies = node.networks();
    }
    table.finish();
    listen
}

fn timeouts(root: &Table<'_>) -> Timeouts {
    let seconds = Duration::from_secs;
    let mut timeouts = Timeouts {
        tls_handshake: seconds(10),
        request_head: seconds(10),
        request_body: seconds(60),
        keep_alive: seconds(75),
        client_write: seconds(60),
        connect: seconds(5),
        upstream_read: seconds(60),
        upstream_write: seconds(60),
        upstream_idle: seconds(50),
        stream_idle: seconds(3600),
    };
    let Some(table) = table(root, "timeouts") else {
        return timeouts;
    };
    let places = [
        ("tls_handshake", &mut timeouts.tls_handshake),
        ("request_head", &mut timeouts.request_head),
        ("request_body", &mut timeouts.request_body),
        ("keep_alive", &mut timeouts.keep_alive),
        ("client_write", &mut timeouts.client_write),
        ("connect", &mut timeouts.connect),
        ("upstream_read", &mut timeouts.upstream_read),
        ("upstream_write", &mut timeouts.upstream_write),
        ("upstream_idle", &mut timeouts.upstream_idle),
        ("stream_idle", &mut timeouts.stream_idle),
    ];
    for (name, place) in places {
        if let Some(duration) = table.key(name).and_then(|node| node.duration()) {
            *place = duration;
        }
    }
    table.finish();
    timeouts
}

fn limits(root: &Table<'_>) -> Limits {
    let mut limits = Limits {
        request_head_bytes: 64 << 10,
        request_target_bytes: 16 << 10,
        connections: 20_000,
        upstream_keep_alive: 512,
        attempts: 3,
    };
    let Some(table) = table(root, "limits") else {
        return limits;
    };
    if let Some(size) = table.key("request_head").and_then(|node| node.size()) {
        limits.request_head_bytes = size;
    }
    if let Some(size) = table.key("request_target").and_then(|node| node.size()) {
        limits.request_target_bytes = size;
    }
    let places = [
        ("connections", &mut limits.connections, 10_000_000),
        (
            "upstream_keep_alive",
            &mut limits.upstream_keep_alive,
            1_000_000,
        ),
        ("attempts", &mut limits.attempts, 8),
    ];
    for (name, place, most) in places {
        let read = table.key(name).and_then(|node| node.integer(1, most));
        if let Some(number) = read.and_then(|number| usize::try_from(number).ok()) {
            *place = number;
        }
    }
    table.finish();
    limits
}

fn log(root: &Table<'_>) -> Log {
    let mut log = Log {
        access: AccessLog {
            enabled: true,
            sample: 1.0,
            file: None,
        },
        redact_query: REDACTED.map(str::to_owned).to_vec(),
        redact_headers: header_names(&REDACTED.map(str::to_owned)),
    };
    let Some(table) = table(root, "log") else {
        return log;
    };
    if let Some(node) = table.key("redact") {
        let names: Vec<String> = node
            .elements()
            .iter()
            .filter_map(|node| node.filled("the name of a parameter or header"))
            .map(|name| name.to_ascii_lowercase())
            .collect();
        log.redact_headers = header_names(&names);
        log.redact_query = names;
    }
    if let Some(access) = table.key("access").and_then(|node| node.table()) {
        if let Some(enabled) = access.key("enabled").and_then(|node| node.boolean()) {
            log.access.enabled = enabled;
        }
        if let Some(sample) = access.key("sample").and_then(|node| node.rate()) {
            log.access.sample = sample;
        }
        log.access.file = access.key("file").and_then(|node| node.path_buf());
        access.finish();
    }
    table.finish();
    log
}

fn header_names(names: &[String]) -> Vec<HeaderName> {
    let names = names.iter();
    names
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
}

fn acme(root: &Table<'_>) -> Acme {
    let mut acme = Acme {
        email: None,
        directory: DIRECTORY.to_owned(),
        ca_file: None,
        resolvers: Vec::new(),
    };
    let Some(table) = table(root, "acme") else {
        return acme;
    };
    table.node.inactive("certificates are not ordered yet");
    acme.email = table.key("email").and_then(|node| {
        let email = node.text()?;
        let valid = email
            .split_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
        if !valid && !email.is_empty() {
            node.error(format!(
                "`{email}` is not an address, expected one such as me@example.com"
            ));
        }
        (!email.is_empty()).then_some(email)
    });
    if let Some(node) = table.key("directory")
        && let Some(url) = node.text()
    {
        if url.starts_with("https://") {
            acme.directory = url;
        } else {
            node.error(format!(
                "`{url}` is not an ACME directory, expected an https:// URL"
            ));
        }
    }
    acme.ca_file = table
        .key("ca_file")
        .and_then(|node| node.text())
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    if let Some(node) = table.key("resolvers") {
        let nodes = node.elements();
        let resolvers = nodes.iter().filter_map(|node| {
            let text = node.text()?;
            let ip = text
                .parse::<std::net::IpAddr>()
                .map(|ip| SocketAddr::new(ip, 53));
            let resolver = ip.or_else(|_| text.parse());
            if resolver.is_err() {
                node.error(format!(
                    "`{text}` is not a resolver, expected IP or IP:PORT"
                ));
            }
            resolver.ok()
        });
        acme.resolvers = resolvers.collect();
    }
    table.finish();
    acme
}

fn docker(root: &Table<'_>) -> Option<Docker> {
    let table = table(root, "docker")?;
    table.node.inactive("containers are not discovered yet");
    let docker = Docker {
        enabled: table
            .key("enabled")
            .and_then(|node| node.boolean())
            .unwrap_or(true),
        socket: table
            .key("socket")
            .and_then(|node| docker_socket(&node))
            .unwrap_or_else(|| DockerSocket::Unix(PathBuf::from("/var/run/docker.sock"))),
        network: table
            .key("network")
            .and_then(|node| node.text())
            .filter(|name| !name.is_empty()),
    };
    table.finish();
    Some(docker)
}

fn docker_socket(node: &Node<'_>) -> Option<DockerSocket> {
    let text = node.text()?;
    if let Some(authority) = text.strip_prefix("tcp://") {
        let port = authority
            .rsplit_once(':')
            .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
        if port.is_some() {
            return Some(DockerSocket::Tcp(authority.to_owned()));
        }
    } else {
        let path = text.strip_prefix("unix://").unwrap_or(&text);
        if path.starts_with('/') {
            return Some(DockerSocket::Unix(PathBuf::from(path)));
        }
    }
    node.error(format!(
        "`{text}` is not a Docker socket, expected an absolute path or tcp://HOST:PORT"
    ));
    None
}

fn notify(root: &Table<'_>) -> Vec<Notify> {
    let Some(node) = root.key("notify") else {
        return Vec::new();
    };
    let nodes = node.elements();
    if !nodes.is_empty() {
        node.inactive("notifications are not sent yet");
    }
    nodes.iter().filter_map(one_notify).collect()
}

fn one_notify(node: &Node<'_>) -> Option<Notify> {
    let table = node.table()?;
    let kinds = [
        ("json", NotifyKind::Json),
        ("slack", NotifyKind::Slack),
        ("discord", NotifyKind::Discord),
    ];
    let kind = match table.key("kind") {
        Some(node) => node.choice(&kinds),
        None => Some(NotifyKind::Json),
    };
    let url = match (table.key("url"), table.key("url_file")) {
        (Some(_), Some(file)) => {
            file.error("cannot stand beside `url`, expected one of the two");
            None
        }
        (Some(node), None) => node.filled("an https:// URL").map(Secret::new),
        (None, Some(node)) => node.secret_file(),
        (None, None) => {
            node.error("has no address, expected `url` or `url_file`");
            None
        }
    };
    if let Some(url) = &url
        && !(url.reveal().starts_with("https://") || url.reveal().starts_with("http://"))
    {
        // The value is a secret, so it is not repeated.
        node.error("its url is not one, expected https://...");
    }
    let secret = table.key("secret_file").and_then(|node| node.secret_file());
    table.finish();
    Some(Notify {
        kind: kind?,
        url: url?,
        secret,
    })
}
