//! The global options block, and what other directives set for the whole daemon.

use std::cell::RefCell;

use super::super::ast::{Block, Directive};
use super::super::lexer::Token;
use super::super::source::Pos;
use super::Cx;
use super::doc::{Comments, Table, Value};
use super::findings::Findings;
use super::order::DEFAULT;
use super::unit::{milliseconds, time_text};

/// `auto_https`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AutoHttps {
    pub(super) no_redirects: bool,
    pub(super) no_certificates: bool,
}

/// What the global options say.
#[derive(Debug)]
pub(super) struct Globals {
    pub(super) http_port: u16,
    pub(super) https_port: u16,
    pub(super) order: Vec<String>,
    pub(super) auto_https: AutoHttps,
    /// Every certificate is from the internal CA.
    pub(super) local_certs: bool,
    pub(super) default_bind: Vec<Token>,
    /// Sections of the document.
    document: RefCell<Table>,
    trusted: RefCell<Option<Vec<Value>>>,
}

impl Globals {
    /// Reads the block.
    pub(super) fn read(block: Option<&Block>, out: &Findings) -> Self {
        let mut globals = Self {
            http_port: 80,
            https_port: 443,
            order: DEFAULT.map(str::to_owned).to_vec(),
            auto_https: AutoHttps::default(),
            local_certs: false,
            default_bind: Vec::new(),
            document: RefCell::default(),
            trusted: RefCell::default(),
        };
        let Some(block) = block else {
            return globals;
        };
        let mut waiting = Vec::new();
        for line in &block.lines {
            waiting.extend(line.all_comments());
            let before = globals.size();
            globals.option(line, out);
            // Comments go with what their option became, else with what comes next.
            if globals.size() > before {
                globals.comment(std::mem::take(&mut waiting));
            }
        }
        waiting.extend(block.tail.iter().cloned());
        globals.document.borrow_mut().comments = Comments(waiting);
        globals
    }

    fn size(&self) -> usize {
        let document = self.document.borrow();
        let inside = |entry: &super::doc::Entry| match &entry.value {
            Value::Table(table) | Value::Section(table) => table.entries.len(),
            _ => 1,
        };
        document.entries.iter().map(inside).sum()
    }

    /// Puts comments before the last key that was set.
    fn comment(&self, comments: Vec<String>) {
        let mut document = self.document.borrow_mut();
        let mut newest: Option<(Pos, &mut Comments)> = None;
        for entry in &mut document.entries {
            let candidates: Vec<_> = match &mut entry.value {
                Value::Table(table) | Value::Section(table) => table
                    .entries
                    .iter_mut()
                    .map(|e| (e.origin, &mut e.comments))
                    .collect(),
                _ => vec![(entry.origin, &mut entry.comments)],
            };
            for (origin, slot) in candidates {
                let pos = origin.0.unwrap_or_default();
                if newest.as_ref().is_none_or(|(known, _)| pos >= *known) {
                    newest = Some((pos, slot));
                }
            }
        }
        if let Some((_, slot)) = newest {
            slot.0.extend(comments);
        }
    }

    /// The sections and keys that were set.
    pub(super) fn document(&self) -> Table {
        self.document.borrow().clone()
    }

    /// Sets a key of a section (empty: the top) that holds for everything. Reports it when it has another
    /// value already.
    fn put(&self, out: &Findings, section: &str, key: &str, value: Value, pos: Pos) {
        let mut document = self.document.borrow_mut();
        let table = match section {
            "" => &mut *document,
            "acme.fallback" => document.table(pos, "acme").table(pos, "fallback"),
            name => document.table(pos, name),
        };
        let Some(known) = table.entries.iter().find(|entry| entry.key == key) else {
            table.put(pos, key, value);
            return;
        };
        if known.value.bare() != value.bare() {
            let line = known.origin.0.map_or(0, |pos| pos.line);
            let message =
                format!("there is one value of this for everything, and line {line} gives another");
            out.error(pos, message);
        }
    }

    /// As [`Self::put`], from a directive of a site: said in a note.
    pub(super) fn set(
        &self,
        cx: &Cx<'_>,
        section: &'static str,
        key: &str,
        value: Value,
        pos: Pos,
    ) {
        self.put(&cx.out, section, key, value, pos);
        cx.note(
            pos,
            format!("{section}.{key} is set by this for every site and upstream"),
        );
    }

    /// As [`Self::set`], without a note.
    pub(super) fn set_quietly(
        &self,
        cx: &Cx<'_>,
        section: &str,
        key: &str,
        value: Value,
        pos: Pos,
    ) {
        self.put(&cx.out, section, key, value, pos);
    }

    /// Networks whose forwarding headers are believed, by a `reverse_proxy`.
    pub(super) fn trust(&self, cx: &Cx<'_>, pos: Pos, networks: Vec<Value>) {
        let known = self.trusted.borrow().clone();
        let same = |known: &Vec<Value>| {
            known.len() == networks.len()
                && known
                    .iter()
                    .zip(&networks)
                    .all(|(a, b)| a.bare() == b.bare())
        };
        match known {
            Some(known) if !same(&known) => cx.out.error(
                pos,
                "proxies are trusted for every site alike, and others are named elsewhere; name the same ones, or use the global option servers { trusted_proxies }",
            ),
            Some(_) => {}
            None => {
                cx.note(pos, "these proxies are trusted for every site: listen.trusted_proxies");
                self.put(&cx.out, "listen", "trusted_proxies", Value::List(networks.clone()), pos);
                *self.trusted.borrow_mut() = Some(networks);
            }
        }
    }

    fn option(&mut self, line: &Directive, out: &Findings) {
        let (pos, name, args) = (line.pos(), line.name(), line.args());
        let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
        let means_nothing = |why: &str| out.note(pos, format!("{name} means nothing here: {why}"));
        match (name, args) {
            ("email", [email]) => self.put(out, "acme", "email", text(email), pos),
            ("acme_ca", [url]) => self.put(out, "acme", "directory", text(url), pos),
            ("acme_ca_root", [file]) => self.put(out, "acme", "ca_file", text(file), pos),
            ("acme_eab", []) => eab(line, out).into_iter().for_each(|(key, value)| {
                self.put(out, "acme", key, value, pos);
            }),
            ("tls_resolvers", [_, ..]) => {
                let list = Value::List(args.iter().map(text).collect());
                self.put(out, "acme", "resolvers", list, pos);
            }
            ("preferred_chains", _) => self.preferred_chains(line, out),
            ("cert_issuer", [issuer, ..]) => self.issuer(line, issuer, out),
            ("http_port", [port]) => self.http_port = port_number(port, out).unwrap_or(80),
            ("https_port", [port]) => self.https_port = port_number(port, out).unwrap_or(443),
            ("default_bind", [_, ..]) => self.default_bind.extend_from_slice(args),
            ("auto_https", [_, ..]) => self.auto_https(args, out),
            ("local_certs", []) => self.local_certs = true,
            ("grace_period", [time]) => self.time(out, "shutdown_grace", time),
            ("shutdown_delay", [time]) => self.time(out, "shutdown_delay", time),
            ("order", [_, ..]) => self.reorder(args, out),
            ("servers", _) => self.servers(line, out),
            ("log", _) => super::log::global(line, out),
            ("debug", _) => means_nothing("RUST_LOG=debug in the environment makes this daemon say more"),
            ("admin", _) => means_nothing("the daemon is controlled by a unix socket, listen.admin"),
            ("storage", [kind, ..]) if kind.text == "file_system" => {
                means_nothing("what is kept is in state_dir; certificates that Caddy left behind are used, see docs/tls.md");
            }
            ("storage", _) => out.error(pos, "what is kept is in files, in state_dir; another storage has no equivalent"),
            ("metrics", _) => means_nothing("metrics are always on the ops listener"),
            ("default_sni" | "fallback_sni", _) => {
                means_nothing("a client that names no host is served with the certificate of the address it connected to, or that of the site with default = true in a cutover.toml; else its handshake fails");
            }
            ("key_type", _) => means_nothing("keys are P-256"),
            ("skip_install_trust" | "renew_interval" | "ocsp_interval" | "ocsp_stapling"
            | "storage_clean_interval" | "storage_check" | "persist_config" | "cert_lifetime"
            | "renewal_window_ratio", _) => means_nothing("it is done in another way, or not at all"),
            ("on_demand_tls", _) => out.error(pos, "certificates on demand come in a later version; name the hosts"),
            ("acme_dns" | "dns", _) => out.error(pos, "DNS-01 comes in a later version; certificates are ordered by HTTP-01 and TLS-ALPN-01; for wildcards write `tls CERT_FILE KEY_FILE` in the site, or name the hosts"),
            ("pki", _) => out.error(pos, "the internal CA has no options; `cutover trust` installs its root"),
            ("ech", _) => out.error(pos, "encrypted client hellos are not answered"),
            ("email" | "acme_ca" | "acme_ca_root" | "http_port" | "https_port" | "grace_period"
            | "shutdown_delay", _) => out.error(pos, format!("expected `{name} VALUE`")),
            _ => {
                let known = [
                    "email", "acme_ca", "acme_ca_root", "acme_eab", "http_port", "https_port",
                    "default_bind", "auto_https", "local_certs", "grace_period", "shutdown_delay",
                    "order", "servers", "log", "debug", "admin", "storage", "default_sni",
                    "on_demand_tls", "skip_install_trust",
                ];
                out.unknown(line, &known);
            }
        }
    }

    fn time(&self, out: &Findings, key: &str, word: &Token) {
        match milliseconds(&word.text) {
            Some(time) => {
                let value = Value::text(time_text(time)).at(word.pos);
                self.put(out, "", key, value, word.pos);
            }
            None => out.error(
                word.pos,
                format!("`{}` is not a time such as 30s", word.text),
            ),
        }
    }

    fn preferred_chains(&self, line: &Directive, out: &Findings) {
        let inside = line
            .lines()
            .iter()
            .find(|line| matches!(line.name(), "root_common_name" | "any_common_name"));
        match inside.map(Directive::args) {
            Some([name]) => {
                let value = Value::text(name.text.clone()).at(name.pos);
                self.put(out, "acme", "preferred_chain", value, name.pos);
            }
            _ => out.error(line.pos(), "only one root_common_name has an equivalent"),
        }
    }

    fn issuer(&mut self, line: &Directive, issuer: &Token, out: &Findings) {
        match issuer.text.as_str() {
            "internal" => self.local_certs = true,
            "acme" => {
                for (key, value, pos) in super::tls::acme_issuer(line, out) {
                    self.put(out, "acme", key, value, pos);
                }
            }
            _ => out.error(
                issuer.pos,
                "certificates are from ACME or the internal CA; acme.fallback names a second one",
            ),
        }
    }

    fn auto_https(&mut self, args: &[Token], out: &Findings) {
        for arg in args {
            match arg.text.as_str() {
                "off" => {
                    self.auto_https = AutoHttps {
                        no_redirects: true,
                        no_certificates: true,
                    }
                }
                "disable_redirects" => self.auto_https.no_redirects = true,
                "disable_certs" => self.auto_https.no_certificates = true,
                "ignore_loaded_certs" => out.error(
                    arg.pos,
                    "a site with a certificate of its own gets no other one",
                ),
                other => out.error(
                    arg.pos,
                    format!("`{other}` is not off, disable_redirects or disable_certs"),
                ),
            }
        }
    }

    /// `order NAME first|last|before OTHER|after OTHER`.
    fn reorder(&mut self, args: &[Token], out: &Findings) {
        let (name, place) = match args {
            [name, place @ ..] => (name, place),
            [] => return,
        };
        let words: Vec<_> = place.iter().map(|word| word.text.as_str()).collect();
        let mut order = self.order.clone();
        order.retain(|known| *known != name.text);
        let other = |other: &str| order.iter().position(|known| known == other);
        let at = match words.as_slice() {
            ["first"] => Some(0),
            ["last"] => Some(order.len()),
            ["before", place] => other(place),
            ["after", place] => other(place).map(|at| at + 1),
            _ => {
                out.error(
                    name.pos,
                    "expected `order NAME first|last|before NAME|after NAME`",
                );
                return;
            }
        };
        match at {
            Some(at) => {
                order.insert(at, name.text.clone());
                self.order = order;
            }
            None => out.error(
                name.pos,
                format!("{} has no place in the order", words.last().unwrap_or(&"")),
            ),
        }
    }

    fn servers(&self, line: &Directive, out: &Findings) {
        if let Some(address) = line.args().first() {
            out.note(address.pos, "these options hold for all listeners here");
        }
        for sub in line.lines() {
            self.server(sub, out);
        }
    }

    fn server(&self, line: &Directive, out: &Findings) {
        let (pos, name, args) = (line.pos(), line.name(), line.args());
        let means_nothing = |why: &str| out.note(pos, format!("{name} means nothing here: {why}"));
        match (name, args) {
            ("trusted_proxies", [kind, networks @ ..]) if kind.text == "static" => {
                let networks = super::matcher::ranges(networks);
                *self.trusted.borrow_mut() = Some(networks.clone());
                self.put(out, "listen", "trusted_proxies", Value::List(networks), pos);
            }
            ("trusted_proxies", _) => out.error(
                pos,
                "only `trusted_proxies static NETWORK...` has an equivalent",
            ),
            ("trusted_proxies_strict", _) => means_nothing("lists are always read from the right"),
            ("client_ip_headers", names) => {
                // Who sends one of these says the same in X-Forwarded-For.
                const BESIDE: [&str; 2] = ["cf-connecting-ip", "true-client-ip"];
                for word in names {
                    let name = word.text.to_ascii_lowercase();
                    if BESIDE.contains(&name.as_str()) {
                        out.note(
                            word.pos,
                            format!("{} is not read: the client's address is taken from X-Forwarded-For, which those who send it set as well", word.text),
                        );
                    } else if name != "x-forwarded-for" {
                        out.error(
                            word.pos,
                            format!("the client's address is taken from X-Forwarded-For and Forwarded alone; let the proxy in front set one of them in place of {}", word.text),
                        );
                    }
                }
            }
            ("timeouts", []) => {
                for sub in line.lines() {
                    let key = match sub.name() {
                        "read_body" | "read_body_idle" => "request_body",
                        "read_header" => "request_head",
                        "write" | "write_idle" => "client_write",
                        "idle" => "keep_alive",
                        _ => {
                            out.unknown(sub, &["read_body", "read_header", "write", "idle"]);
                            continue;
                        }
                    };
                    match sub.args() {
                        [time] if milliseconds(&time.text).is_some_and(|time| time > 0) => {
                            let time_value = time_text(milliseconds(&time.text).unwrap_or(0));
                            let value = Value::text(time_value).at(time.pos);
                            self.put(out, "timeouts", key, value, sub.pos());
                        }
                        _ => out.error(sub.pos(), "expected a time such as 30s; none is unlimited"),
                    }
                }
            }
            ("max_header_size", [size]) => {
                let text = Value::text(size.text.clone()).at(size.pos);
                self.put(out, "limits", "request_head", text, pos);
            }
            ("protocols", protocols) => protocols_of(protocols, out),
            ("listener_wrappers", []) => self.wrappers(line, out),
            ("strict_sni_host", _) => {
                means_nothing("a Host that the certificate does not cover always gets 421")
            }
            (
                "name" | "metrics" | "keepalive_interval" | "keepalive_idle" | "keepalive_count"
                | "enable_full_duplex" | "trace" | "0rtt",
                _,
            ) => means_nothing("there is no such choice"),
            ("log_credentials", _) => out.error(pos, "credentials are never logged"),
            _ => {
                let known = [
                    "trusted_proxies",
                    "client_ip_headers",
                    "timeouts",
                    "max_header_size",
                    "protocols",
                    "listener_wrappers",
                    "strict_sni_host",
                ];
                out.unknown(line, &known);
            }
        }
    }

    fn wrappers(&self, line: &Directive, out: &Findings) {
        for sub in line.lines() {
            match sub.name() {
                "tls" | "http_redirect" => {}
                "proxy_protocol" => {
                    let allow = sub.lines().iter().filter(|line| line.name() == "allow");
                    let allow: Vec<Token> = allow.flat_map(Directive::args).cloned().collect();
                    for other in sub.lines().iter().filter(|line| line.name() != "allow") {
                        out.note(
                            other.pos(),
                            format!("{} of proxy_protocol is not set here", other.name()),
                        );
                    }
                    let value = match allow.is_empty() {
                        true => {
                            out.error(sub.pos(), "name who sends it: `allow NETWORK...`; from anybody else it would be believed too");
                            continue;
                        }
                        false => Value::List(super::matcher::ranges(&allow)),
                    };
                    self.put(out, "listen", "proxy_protocol", value, sub.pos());
                }
                name => out.error(
                    sub.pos(),
                    format!("the listener wrapper {name} has no equivalent"),
                ),
            }
        }
    }
}

fn protocols_of(protocols: &[Token], out: &Findings) {
    for word in protocols {
        match word.text.as_str() {
            "h1" | "h2" | "h2c" => {}
            "h3" => out.note(word.pos, "HTTP/3 is not served in this version"),
            other => out.error(word.pos, format!("`{other}` is no protocol: h1, h2, h3")),
        }
    }
    let has = |name: &str| protocols.iter().any(|word| word.text == name);
    if let Some(first) = protocols.first()
        && !(has("h1") && has("h2"))
    {
        out.error(
            first.pos,
            "HTTP/1.1 and HTTP/2 are always served; write `protocols h1 h2`",
        );
    }
}

fn port_number(word: &Token, out: &Findings) -> Option<u16> {
    let port = word.text.parse().ok().filter(|port| *port > 0);
    if port.is_none() {
        out.error(word.pos, format!("`{}` is no port", word.text));
    }
    port
}

/// `acme_eab { key_id, mac_key }`.
fn eab(line: &Directive, out: &Findings) -> Vec<(&'static str, Value)> {
    let mut keys = Vec::new();
    for sub in line.lines() {
        let key = match sub.name() {
            "key_id" => "eab_key_id",
            "mac_key" => "eab_key",
            _ => {
                out.unknown(sub, &["key_id", "mac_key"]);
                continue;
            }
        };
        match sub.args() {
            [value] => keys.push((key, Value::text(value.text.clone()).at(value.pos))),
            _ => out.error(sub.pos(), format!("expected `{} VALUE`", sub.name())),
        }
    }
    keys
}
