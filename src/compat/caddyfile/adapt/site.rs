//! Sites: which hosts and ports a block is for, and the whole document.

use std::collections::HashMap;

use super::super::ast::{Caddyfile, Directive, Site};
use super::super::lexer::Token;
use super::super::source::Pos;
use super::doc::{Comments, Table, Value};
use super::listen::{Address, Sockets, address};
use super::matcher::Scope;
use super::step::{self, Action, Step, answers};
use super::tls::SiteTls;
use super::{Cx, Place, block, log, order, sugar};

/// A block of the Caddyfile, with what is not a handler taken out.
struct Source<'a> {
    site: &'a Site,
    addresses: Vec<Address>,
    tls: SiteTls,
    tls_pos: Option<Pos>,
    bind: Vec<Token>,
    logs: Vec<&'a Directive>,
    errors: Vec<&'a Directive>,
    handlers: Vec<Directive>,
}

/// One `[[site]]`.
struct Target {
    /// Blocks that it is made from: several only when they differ in the path of their address.
    parts: Vec<Part>,
    hosts: Vec<(String, Pos)>,
    is_default: bool,
    port: u16,
    is_tls: bool,
    /// Served over plain HTTP as well.
    is_dual: bool,
    /// Only requests on its port.
    own_port: bool,
}

struct Part {
    source: usize,
    paths: Vec<(String, Pos)>,
}

impl Target {
    fn pos(&self) -> Pos {
        self.hosts.first().map_or(Pos::default(), |(_, pos)| *pos)
    }

    /// What its service is named after.
    fn name(&self) -> String {
        let host = match self.hosts.iter().find(|(host, _)| !host.is_empty()) {
            Some((host, _)) => host.clone(),
            None => "default".to_owned(),
        };
        match self.own_port {
            true => format!("{host}:{}", self.port),
            false => host,
        }
    }
}

/// The whole document.
pub(super) fn document(cx: &Cx<'_>, caddyfile: &Caddyfile) -> Table {
    let sources: Vec<Source<'_>> = caddyfile
        .sites
        .iter()
        .map(|site| source(cx, site))
        .collect();
    let targets = targets(cx, &sources);
    let mut sockets = Sockets::default();
    for target in &targets {
        listen(cx, &mut sockets, target, &sources);
    }
    let mut logs: Vec<_> = (sources.iter().map(|one| log::site(cx, &one.logs))).collect();
    let redact = redacted(&mut logs);
    let access = logs.iter().flatten().next().cloned();
    let mut sites = Vec::new();
    for target in &targets {
        sites.push(site(cx, target, &sources, &logs, access.as_ref()));
    }
    let names = cx.services.borrow().names();
    let tables = sites.into_iter().map(|site| site.table(&names)).collect();

    let mut document = cx.globals.document();
    sockets.write(&mut document, cx.globals.http_port, cx.globals.https_port);
    if let Some((pos, table)) = access {
        let mut inside = Table::at(pos);
        if !redact.is_empty() {
            inside.put(pos, log::REDACT, Value::List(redact));
        }
        inside.put(pos, "access", Value::Section(table));
        document.put(pos, "log", Value::Section(inside));
    }
    let first = targets.first().map_or(Pos::default(), Target::pos);
    if !names.is_empty() {
        patience(&mut document, first);
    }
    document.put(first, "site", Value::Sections(tables));
    let services = cx.services.borrow().table(&names);
    if !services.is_empty() {
        document.put(first, "service", Value::Section(services));
    }
    document
}

fn source<'a>(cx: &Cx<'_>, site: &'a Site) -> Source<'a> {
    let mut source = Source {
        site,
        addresses: Vec::new(),
        tls: SiteTls::default(),
        tls_pos: None,
        bind: Vec::new(),
        logs: Vec::new(),
        errors: Vec::new(),
        handlers: Vec::new(),
    };
    for line in &site.block.lines {
        match line.name() {
            "tls" => {
                source.tls_pos = source.tls_pos.or(Some(line.pos()));
                source.tls.read(cx, line);
            }
            "bind" => {
                source.bind.extend_from_slice(line.args());
                for sub in line.lines() {
                    cx.out
                        .error(sub.pos(), "the protocols of a listener are not chosen here");
                }
            }
            "log" => source.logs.push(line),
            "handle_errors" => source.errors.push(line),
            _ => source.handlers.push(line.clone()),
        }
    }
    if source.bind.is_empty() {
        source.bind.clone_from(&cx.globals.default_bind);
    }
    for key in &site.keys {
        let is_directive = order::DEFAULT.contains(&key.text.as_str())
            || matches!(
                key.text.as_str(),
                "tls" | "log" | "bind" | "handle_errors" | "import"
            );
        if is_directive {
            let message = format!(
                "{} is a directive and stands where an address should; put the site's address first",
                key.text
            );
            cx.out.error(key.pos, message);
        } else if !site.has_braces && key.pos.line != site.keys[0].pos.line {
            cx.out.error(key.pos, block::unknown(&key.text));
        } else {
            source
                .addresses
                .extend(address(cx, key, source.tls.is_given));
        }
    }
    source
}

/// Groups addresses into sites.
fn targets(cx: &Cx<'_>, sources: &[Source<'_>]) -> Vec<Target> {
    let (http, https) = (cx.globals.http_port, cx.globals.https_port);
    let mut targets: Vec<Target> = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let mut here: Vec<Target> = Vec::new();
        for address in &source.addresses {
            let path = (address.path.clone(), address.pos);
            let same = |t: &&mut Target| {
                t.port == address.port
                    && t.is_tls == address.is_tls
                    && (t.parts[0].paths[0].0 == path.0
                        || t.hosts.iter().any(|(h, _)| *h == address.host))
            };
            let target = match here.iter_mut().find(same) {
                Some(target) => target,
                None => {
                    here.push(Target {
                        parts: vec![Part {
                            source: number,
                            paths: Vec::new(),
                        }],
                        hosts: Vec::new(),
                        is_default: false,
                        port: address.port,
                        is_tls: address.is_tls,
                        is_dual: false,
                        own_port: false,
                    });
                    let last = here.len() - 1;
                    &mut here[last]
                }
            };
            if !target.hosts.iter().any(|(host, _)| *host == address.host) {
                target.hosts.push((address.host.clone(), address.pos));
            }
            let paths = &mut target.parts[0].paths;
            if !paths.iter().any(|(known, _)| *known == path.0) {
                paths.push(path);
            }
            target.is_default |= address.host.is_empty();
        }
        join_schemes(&mut here, http, https);
        targets.extend(here);
    }
    let mut targets = join_paths(cx, targets);
    own_ports(cx, &mut targets);
    targets
}

/// `http://a, https://a`: one site that serves both.
fn join_schemes(targets: &mut Vec<Target>, http: u16, https: u16) {
    let hosts = |target: &Target| {
        target
            .hosts
            .iter()
            .map(|(host, _)| host.clone())
            .collect::<Vec<_>>()
    };
    let Some(plain) = targets.iter().position(|t| t.port == http && !t.is_tls) else {
        return;
    };
    let plain_hosts = hosts(&targets[plain]);
    let secure = targets.iter_mut().find(|t| t.port == https && t.is_tls);
    if let Some(secure) = secure
        && hosts(secure) == plain_hosts
    {
        secure.is_dual = true;
        targets.remove(plain);
    }
}

/// Blocks whose addresses differ only in their paths are one site.
fn join_paths(cx: &Cx<'_>, targets: Vec<Target>) -> Vec<Target> {
    let mut joined: Vec<Target> = Vec::new();
    let mut taken: HashMap<(String, u16), usize> = HashMap::new();
    for target in targets {
        let has_path = |t: &Target| {
            t.parts
                .iter()
                .any(|part| part.paths.iter().any(|(p, _)| !p.is_empty()))
        };
        let clash = target.hosts.iter().find_map(|(host, pos)| {
            let first = taken.get(&(host.clone(), target.port))?;
            Some((host, *pos, *first))
        });
        if let Some((host, pos, first)) = clash {
            let same: Vec<_> = joined[first].hosts.iter().map(|(host, _)| host).collect();
            let may_join = (has_path(&target) || has_path(&joined[first]))
                && target.hosts.iter().map(|(host, _)| host).eq(same)
                && target.is_tls == joined[first].is_tls;
            if may_join {
                joined[first].parts.extend(target.parts);
                continue;
            }
            let line = joined[first].pos().line;
            let shown = if host.is_empty() {
                "every other host"
            } else {
                host
            };
            cx.out.error(
                pos,
                format!("{shown} is served by the site in line {line} already"),
            );
            continue;
        }
        for (host, _) in &target.hosts {
            taken.insert((host.clone(), target.port), joined.len());
        }
        joined.push(target);
    }
    for target in &mut joined {
        // The longest path is asked first.
        target.parts.sort_by_key(|part| {
            std::cmp::Reverse(part.paths.iter().map(|(path, _)| path.len()).max())
        });
    }
    joined
}

/// Which sites take requests on their own port alone.
fn own_ports(cx: &Cx<'_>, targets: &mut [Target]) {
    let (http, https) = (cx.globals.http_port, cx.globals.https_port);
    let any_tls = targets.iter().any(|target| target.is_tls);
    let secure: Vec<String> = (targets.iter())
        .filter(|target| target.is_tls && target.port == https)
        .flat_map(|target| target.hosts.iter().map(|(host, _)| host.clone()))
        .collect();
    let no_redirects = cx.globals.auto_https.no_redirects;
    for target in targets {
        let is_usual = target.port == if target.is_tls { https } else { http };
        let beside_secure = !target.is_tls
            && ((target.is_default && any_tls)
                || target.hosts.iter().any(|(host, _)| secure.contains(host)));
        target.own_port =
            !is_usual || beside_secure || (target.is_tls && no_redirects && !target.is_dual);
    }
}

fn listen(cx: &Cx<'_>, sockets: &mut Sockets, target: &Target, sources: &[Source<'_>]) {
    let bind = target
        .parts
        .first()
        .map_or(&[][..], |part| &sources[part.source].bind);
    sockets.add(cx, target.is_tls, target.port, bind, target.pos());
    if target.is_tls && (target.is_dual || !cx.globals.auto_https.no_redirects) {
        sockets.add(cx, false, cx.globals.http_port, bind, target.pos());
    }
}

/// Caddy waits for an upstream as long as its client does.
fn patience(document: &mut Table, pos: Pos) {
    let timeouts = document.table(pos, "timeouts");
    for key in ["upstream_read", "upstream_write"] {
        if timeouts.find(key).is_none() {
            timeouts.put(pos, key, Value::text("24h"));
        }
    }
}

/// A log, and where it stands.
type Log = (Pos, Table);

/// What the filters of logs hide. It is hidden in all of them.
fn redacted(logs: &mut [Option<Log>]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (_, table) in logs.iter_mut().flatten() {
        if let Some(Value::List(names)) = table.take(log::REDACT) {
            for name in names {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
    }
    all
}

/// A site whose services have no names yet.
struct Draft {
    table: Table,
    steps: Vec<Step>,
    errors: Vec<Step>,
}

impl Draft {
    fn table(mut self, names: &[String]) -> Table {
        let pos = self.table.origin.0.unwrap_or_default();
        for entry in &mut self.table.entries {
            // See `sugar`.
            if entry.key == "service"
                && let Value::Number(number) = entry.value
            {
                let name = usize::try_from(number).ok().and_then(|n| names.get(n));
                entry.value = Value::text(name.cloned().unwrap_or_default());
            }
        }
        if !self.steps.is_empty() {
            self.table
                .put(pos, "handle", step::sections(&self.steps, names));
        }
        if !self.errors.is_empty() {
            self.table
                .put(pos, "error", step::sections(&self.errors, names));
        }
        self.table
    }
}

fn site(
    cx: &Cx<'_>,
    target: &Target,
    sources: &[Source<'_>],
    logs: &[Option<Log>],
    access: Option<&Log>,
) -> Draft {
    let pos = target.pos();
    let parts: Vec<&Source<'_>> = target
        .parts
        .iter()
        .map(|part| &sources[part.source])
        .collect();
    let mut table = Table::at(pos);
    table.comments = Comments(
        parts
            .iter()
            .flat_map(|part| part.site.comments.clone())
            .collect(),
    );
    table.tail = Comments(
        parts
            .iter()
            .flat_map(|part| part.site.block.tail.clone())
            .collect(),
    );
    let hosts: Vec<Value> = (target.hosts.iter())
        .filter(|(host, _)| !host.is_empty())
        .map(|(host, pos)| Value::text(host.clone()).at(*pos))
        .collect();
    if !hosts.is_empty() {
        table.put(pos, "hosts", Value::List(hosts));
    }
    if target.is_default {
        table.put(pos, "default", Value::Boolean(true));
    }
    if target.own_port {
        table.put(pos, "port", Value::Number(target.port.into()));
    }
    tls(cx, target, &parts, &mut table);
    for part in &parts {
        for line in &part.logs {
            table.comments.0.extend(line.all_comments());
        }
    }

    let name = target.name();
    let place = Place { is_response: false };
    let (mut steps, mut errors) = (Vec::new(), Vec::new());
    for (part, source) in target.parts.iter().zip(&parts) {
        steps.extend(by_path(
            part,
            cx.steps(&source.handlers, &Scope::default(), &place, true),
        ));
        errors.extend(by_path(part, error_steps(cx, source, &place)));
    }
    let mut steps = step::simplify(steps);
    if steps.iter().any(Step::leads_to_upstream) {
        super::files::leave_what_is_no_file(&mut steps);
    }
    let mut own = target
        .parts
        .iter()
        .filter_map(|part| logs[part.source].as_ref());
    match (own.next(), access) {
        (Some((pos, log)), Some((_, first))) => {
            if let Some((other, _)) = own.find(|(_, other)| other != log) {
                let message =
                    "these addresses are one site, whose log is set up in another way before";
                cx.out.error(*other, message);
            }
            if log != first {
                table.put(*pos, "access_log", Value::Table(log.clone()));
            }
        }
        (None, Some(_)) => {
            let silent = Action::Key("log", Value::Boolean(false));
            steps.insert(0, Step::new("log_skip", pos, None, silent));
        }
        (_, None) => {}
    }
    if !answers(&steps) {
        // What nothing takes is an empty 200 in Caddy.
        let empty = Action::Key("respond", Value::Number(200));
        steps.push(Step::new("respond", pos, None, empty));
    }
    sugar::take(cx, &mut table, &mut steps, &name);
    Draft {
        table,
        steps,
        errors: step::simplify(errors),
    }
}

/// Steps of a block whose addresses have a path are for that path alone.
fn by_path(part: &Part, steps: Vec<Step>) -> Vec<Step> {
    let paths: Vec<Value> = (part.paths.iter())
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, pos)| Value::text(path.clone()).at(*pos))
        .collect();
    if steps.is_empty() {
        return steps;
    }
    let pos = part.paths.first().map_or(Pos::default(), |(_, pos)| *pos);
    let is_all = part.paths.iter().any(|(path, _)| path.is_empty());
    let when = (!is_all).then(|| Table::at(pos).with(pos, "path", Value::List(paths)));
    let mut step = Step::new("handle", pos, when, Action::Steps(steps));
    step.group = Some("address".to_owned());
    vec![step]
}

fn error_steps(cx: &Cx<'_>, source: &Source<'_>, place: &Place) -> Vec<Step> {
    let scope = Scope::default().define(&source.handlers, &cx.out);
    let mut steps: Vec<Step> = source
        .errors
        .iter()
        .map(|line| {
            let ranges: Vec<Value> = line
                .args()
                .iter()
                .filter_map(|word| {
                    let is_code = word.text.len() == 3 && word.text.parse::<u16>().is_ok();
                    let is_class = matches!(word.text.as_bytes(), [b'1'..=b'5', b'x', b'x']);
                    if !is_code && !is_class {
                        cx.out.error(
                            word.pos,
                            format!("`{}` is no status such as 404 or 5xx", word.text),
                        );
                        return None;
                    }
                    Some(Value::text(word.text.clone()).at(word.pos))
                })
                .collect();
            let when = (!ranges.is_empty()).then(|| {
                Table::at(line.pos()).with(line.pos(), "error_status", Value::List(ranges))
            });
            let inside = cx.steps(line.lines(), &scope, place, true);
            let mut step = Step::new("handle_errors", line.pos(), when, Action::Steps(inside));
            step.comments.clone_from(&line.comments);
            if let Some(block) = &line.block {
                step.tail.clone_from(&block.tail);
            }
            step
        })
        .collect();
    steps.retain(|step| step.action != Action::Steps(Vec::new()));
    // What is for every error comes last.
    steps.sort_by_key(|step| step.when.is_none());
    steps
}

fn tls(cx: &Cx<'_>, target: &Target, parts: &[&Source<'_>], table: &mut Table) {
    let pos = target.pos();
    let given = parts.iter().find(|part| part.tls.is_given);
    if !target.is_tls {
        table.put(pos, "tls", Value::text("off"));
        if let Some(pos) = given.and_then(|part| part.tls_pos) {
            cx.out.error(
                pos,
                format!(
                    "port {} speaks plain HTTP; tls has no place there",
                    target.port
                ),
            );
        }
        return;
    }
    let has_tls = given.is_some_and(|part| part.tls.table.find("tls").is_some());
    if let Some(part) = given {
        table.entries.extend(part.tls.table.entries.iter().cloned());
    }
    if !has_tls {
        if cx.globals.local_certs {
            table.put(pos, "tls", Value::text("internal"));
        } else if cx.globals.auto_https.no_certificates {
            cx.out.error(pos, "auto_https orders no certificates, and this site has none: write http:// before the host, or `tls CERT KEY`");
        } else if target.hosts.iter().all(|(host, _)| host.is_empty()) {
            table.put(pos, "tls", Value::text("internal"));
            cx.note(
                pos,
                "no host is named here, so its certificates are from the internal CA",
            );
        }
    }
    if target.is_dual {
        table.put(pos, "redirect", Value::Boolean(false));
    }
}
