//! `tls`: where a site's certificate comes from, and who may come.

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::super::source::Pos;
use super::Cx;
use super::doc::{Comments, Table, Value};
use super::findings::Findings;

/// What `tls` lines say about a site: its keys. Whether there is one at all matters for ports.
#[derive(Debug, Default)]
pub(super) struct SiteTls {
    pub(super) table: Table,
    pub(super) is_given: bool,
}

const LATER_DNS: &str = "DNS-01 comes in a later version; certificates are ordered by HTTP-01 and TLS-ALPN-01. For wildcards \
     write `tls CERT_FILE KEY_FILE`, or name the hosts";

impl SiteTls {
    /// Reads one line.
    pub(super) fn read(&mut self, cx: &Cx<'_>, line: &Directive) {
        self.is_given = true;
        let before = self.table.entries.len();
        let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
        match line.args() {
            [] => {}
            [word] if word.text == "internal" => self.put(cx, line.pos(), "tls", text(word)),
            [word] if word.text == "force_automate" => {}
            [word] if word.text.contains('@') => {
                cx.globals
                    .set_quietly(cx, "acme", "email", text(word), word.pos);
            }
            [word] => cx.out.error(
                word.pos,
                "expected an e-mail address, internal, or a certificate and its key",
            ),
            [cert, key] => {
                let files = Table::at(line.pos())
                    .with(cert.pos, "cert", text(cert))
                    .with(key.pos, "key", text(key));
                self.put(cx, line.pos(), "tls", Value::Table(files));
            }
            [_, _, extra, ..] => cx
                .out
                .error(extra.pos, "expected `tls [EMAIL|internal|CERT KEY]`"),
        }
        for sub in line.lines() {
            self.line(cx, sub);
        }
        // Comments go with the first key that the line became.
        if let Some(entry) = self.table.entries.get_mut(before) {
            entry.comments = Comments(line.all_comments());
        }
    }

    fn put(&mut self, cx: &Cx<'_>, pos: Pos, key: &str, value: Value) {
        match self.table.find(key) {
            Some(known) if known != value.bare() => {
                cx.out
                    .error(pos, "this contradicts another tls line of the site");
            }
            Some(_) => {}
            None => self.table.put(pos, key, value),
        }
    }

    fn line(&mut self, cx: &Cx<'_>, line: &Directive) {
        let (pos, name, args) = (line.pos(), line.name(), line.args());
        let acme = |key: &str, value: Value| cx.globals.set_quietly(cx, "acme", key, value, pos);
        let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
        match (name, args) {
            ("protocols", versions @ ([_] | [_, _])) => self.protocols(cx, pos, versions),
            ("client_auth", []) => self.client_auth(cx, line),
            ("ca", [url]) => acme("directory", text(url)),
            ("ca_root", [file]) => acme("ca_file", text(file)),
            ("eab", [id, key]) => {
                acme("eab_key_id", text(id));
                acme("eab_key", text(key));
            }
            ("resolvers", [_, ..]) => acme("resolvers", Value::List(args.iter().map(text).collect())),
            ("issuer", [kind, ..]) if kind.text == "internal" => {
                self.put(cx, pos, "tls", Value::text("internal").at(kind.pos));
                for sub in line.lines() {
                    cx.note(sub.pos(), format!("{} of the internal CA is not set here", sub.name()));
                }
            }
            ("issuer", [kind, ..]) if kind.text == "acme" => {
                for (key, value, _) in acme_issuer(line, &cx.out) {
                    acme(key, value);
                }
            }
            ("issuer", _) => cx.out.error(pos, "certificates are from ACME or the internal CA; acme.fallback in a cutover.toml names a second one"),
            ("dns" | "propagation_delay" | "propagation_timeout" | "dns_ttl"
            | "dns_challenge_override_domain", _) => cx.out.error(pos, LATER_DNS),
            ("on_demand", _) => cx.out.error(pos, "certificates on demand come in a later version; name the hosts"),
            ("load", _) => cx.out.error(pos, "a site has one certificate; write `tls CERT KEY`"),
            ("get_certificate", _) => cx.out.error(pos, "certificates are from files, ACME or the internal CA"),
            ("insecure_secrets_log", _) => cx.out.error(pos, "secrets of connections are never written"),
            ("alpn", protocols) => {
                let known = |word: &Token| matches!(word.text.as_str(), "h2" | "http/1.1" | "h3");
                if !protocols.iter().all(known) || !protocols.iter().any(|word| word.text == "h2") {
                    cx.out.error(pos, "HTTP/2 and HTTP/1.1 are always offered; remove it");
                }
            }
            ("ciphers" | "curves" | "key_type" | "reuse_private_keys" | "force_automate"
            | "renewal_window_ratio", _) => {
                cx.note(pos, format!("{name} is not set here: suites, curves and keys are the current ones"));
            }
            _ => {
                let known = [
                    "protocols", "client_auth", "ca", "ca_root", "eab", "resolvers", "issuer", "dns",
                    "on_demand", "ciphers", "curves", "alpn", "key_type", "load",
                ];
                cx.out.unknown(line, &known);
            }
        }
    }

    fn protocols(&mut self, cx: &Cx<'_>, pos: Pos, versions: &[Token]) {
        for word in versions {
            if !matches!(word.text.as_str(), "tls1.2" | "tls1.3") {
                cx.out
                    .error(word.pos, format!("`{}` is not tls1.2 or tls1.3", word.text));
                return;
            }
        }
        if let [_, highest] = versions
            && highest.text != "tls1.3"
        {
            cx.out.error(highest.pos, "TLS 1.3 is always offered");
        }
        if versions[0].text == "tls1.3" {
            self.put(
                cx,
                pos,
                "min_version",
                Value::text("1.3").at(versions[0].pos),
            );
        }
    }

    fn client_auth(&mut self, cx: &Cx<'_>, line: &Directive) {
        let pos = line.pos();
        let mut table = Table::at(pos);
        let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
        let mut mode = "require";
        for sub in line.lines() {
            match (sub.name(), sub.args()) {
                ("mode", [word]) => match word.text.as_str() {
                    "require_and_verify" => {}
                    "verify_if_given" => mode = "optional",
                    _ => cx.out.error(
                        word.pos,
                        "a certificate that is not verified proves nothing: require_and_verify or verify_if_given",
                    ),
                },
                ("trusted_ca_cert_file", [file]) => self.ca(cx, &mut table, sub, text(file)),
                ("trust_pool", [kind, file]) if kind.text == "file" => {
                    self.ca(cx, &mut table, sub, text(file));
                }
                ("trust_pool", [kind]) if kind.text == "file" => {
                    let files = sub.lines().iter().filter(|line| line.name() == "pem_file");
                    for file in files.flat_map(Directive::args) {
                        self.ca(cx, &mut table, sub, text(file));
                    }
                }
                ("trusted_ca_cert_file" | "trusted_ca_cert" | "trust_pool", _) => {
                    cx.out.error(sub.pos(), "the CAs of clients are in a PEM file: `trust_pool file FILE`");
                }
                ("trusted_leaf_cert" | "trusted_leaf_cert_file" | "verifier", _) => {
                    cx.out.error(sub.pos(), "clients are known by the CA that signed their certificate");
                }
                _ => cx.out.unknown(sub, &["mode", "trust_pool", "trusted_ca_cert_file"]),
            }
        }
        let mode = Value::text(mode);
        table.put(pos, "mode", mode);
        if table.find("ca").is_none() {
            cx.out.error(
                pos,
                "client_auth needs the CA of the clients: `trust_pool file FILE`",
            );
        }
        self.put(cx, pos, "client_auth", Value::Table(table));
    }

    fn ca(&self, cx: &Cx<'_>, table: &mut Table, line: &Directive, file: Value) {
        if table.find("ca").is_some() {
            cx.out.error(
                line.pos(),
                "the CAs stand in one file here; put them together with cat",
            );
            return;
        }
        table.put(line.pos(), "ca", file);
    }
}

/// Keys of `[acme]` that an `issuer acme [URL] { ... }` gives.
pub(super) fn acme_issuer(line: &Directive, out: &Findings) -> Vec<(&'static str, Value, Pos)> {
    let mut keys = Vec::new();
    let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
    if let Some(url) = line.args().get(1) {
        keys.push(("directory", text(url), url.pos));
    }
    for sub in line.lines() {
        let pos = sub.pos();
        match (sub.name(), sub.args()) {
            ("dir", [url]) => keys.push(("directory", text(url), pos)),
            ("email", [email]) => keys.push(("email", text(email), pos)),
            ("trusted_roots", [file]) => keys.push(("ca_file", text(file), pos)),
            ("profile", [name]) => keys.push(("profile", text(name), pos)),
            ("eab", [id, key]) => {
                keys.push(("eab_key_id", text(id), pos));
                keys.push(("eab_key", text(key), pos));
            }
            ("test_dir", [url]) => keys.push(("staging", text(url), pos)),
            ("resolvers", args @ [_, ..]) => {
                keys.push((
                    "resolvers",
                    Value::List(args.iter().map(text).collect()),
                    pos,
                ));
            }
            ("dns" | "propagation_delay" | "propagation_timeout", _) => out.error(pos, LATER_DNS),
            (
                "timeout"
                | "disable_http_challenge"
                | "disable_tlsalpn_challenge"
                | "alt_http_port"
                | "alt_tlsalpn_port",
                _,
            ) => {
                out.note(pos, format!("{} is not set here", sub.name()));
            }
            _ => out.unknown(
                sub,
                &[
                    "dir",
                    "email",
                    "trusted_roots",
                    "eab",
                    "profile",
                    "resolvers",
                ],
            ),
        }
    }
    keys
}
