//! `transport http { ... }`: how an upstream is spoken to.

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::Cx;
use super::doc::Value;
use super::service::Builder;

impl Builder {
    /// Reads the whole block.
    pub(super) fn transport(&mut self, cx: &Cx<'_>, line: &Directive) {
        if !is_http(cx, line) {
            return;
        }
        for sub in line.lines() {
            self.transport_line(cx, sub);
        }
    }

    /// As [`Self::transport`] for a `forward_auth`, which has a time of its own: returned.
    pub(super) fn transport_of_auth(&mut self, cx: &Cx<'_>, line: &Directive) -> Option<Value> {
        let mut timeout = None;
        if !is_http(cx, line) {
            return None;
        }
        for sub in line.lines() {
            match (sub.name(), sub.args()) {
                ("response_header_timeout", [time]) => timeout = cx.some_time(time),
                _ => self.transport_line(cx, sub),
            }
        }
        timeout
    }

    fn transport_line(&mut self, cx: &Cx<'_>, line: &Directive) {
        let (pos, args) = (line.pos(), line.args());
        match (line.name(), args) {
            ("tls", []) => self.scheme = Some(("https", pos)),
            ("tls_insecure_skip_verify", []) => {
                self.tls(line, "insecure_skip_verify", Value::Boolean(true));
            }
            ("tls_server_name", [name]) => self.tls(line, "server_name", text(name)),
            ("tls_trusted_ca_certs", [file]) => self.tls(line, "ca", text(file)),
            ("tls_trusted_ca_certs", _) => {
                cx.out.error(pos, "the CAs stand in one file here; put them together with cat");
            }
            ("tls_trust_pool", [kind, file]) if kind.text == "file" => {
                self.tls(line, "ca", text(file));
            }
            ("tls_trust_pool", [kind]) if kind.text == "file" => {
                match line.lines().iter().flat_map(Directive::args).collect::<Vec<_>>().as_slice() {
                    [file] => self.tls(line, "ca", text(file)),
                    _ => cx.out.error(pos, "the CAs stand in one file here; put them together with cat"),
                }
            }
            ("tls_trust_pool", _) => {
                cx.out.error(pos, "only `tls_trust_pool file FILE` has an equivalent");
            }
            ("tls_client_auth", [cert, key]) => {
                self.tls(line, "cert", text(cert));
                self.tls(line, "key", text(key));
            }
            ("tls_client_auth", _) => {
                cx.out.error(pos, "a certificate for upstreams is not ordered here; give `tls_client_auth CERT KEY`");
            }
            ("versions", [_, ..]) => self.versions(cx, line),
            ("proxy_protocol", [version]) => {
                self.options.put(pos, "proxy_protocol", text(version));
            }
            ("dial_timeout", [time]) => self.timeout(cx, line, "connect", time),
            ("read_timeout" | "response_header_timeout", [time]) => {
                self.timeout(cx, line, "upstream_read", time);
            }
            ("write_timeout", [time]) => self.timeout(cx, line, "upstream_write", time),
            ("keepalive", [time]) if time.text == "off" => {
                self.options.put(pos, "keep_alive", Value::Boolean(false).at(time.pos));
            }
            ("keepalive", [time]) => self.timeout(cx, line, "upstream_idle", time),
            ("keepalive_idle_conns", [count]) => {
                if let Some(number) = cx.number(count) {
                    cx.globals.set(cx, "limits", "upstream_keep_alive", Value::Number(number), count.pos);
                }
            }
            ("compression", _) => cx.note(pos, "compression of the transport means nothing here: Accept-Encoding is passed on as it came"),
            ("read_buffer" | "write_buffer" | "max_response_header" | "dial_fallback_delay"
            | "expect_continue_timeout" | "keepalive_interval" | "keepalive_idle_conns_per_host"
            | "tls_timeout" | "tls_renegotiation" | "tls_curves", _) => {
                cx.note(pos, format!("{} is not set here and means nothing", line.name()));
            }
            ("resolvers" | "local_address" | "forward_proxy_url" | "network_proxy"
            | "max_conns_per_host" | "tls_except_ports", _) => {
                cx.out.error(pos, format!("{} has no equivalent; remove it", line.name()));
            }
            _ => {
                let known = [
                    "tls", "tls_insecure_skip_verify", "tls_server_name", "tls_trusted_ca_certs",
                    "tls_trust_pool", "tls_client_auth", "versions", "proxy_protocol", "dial_timeout",
                    "read_timeout", "response_header_timeout", "write_timeout", "keepalive",
                ];
                cx.out.unknown(line, &known);
            }
        }
    }

    /// A key of the service's TLS, which means that there is TLS.
    fn tls(&mut self, line: &Directive, key: &str, value: Value) {
        let pos = line.pos();
        self.scheme = self.scheme.or(Some(("https", pos)));
        self.options.table(pos, "tls").put(pos, key, value);
    }

    fn versions(&mut self, cx: &Cx<'_>, line: &Directive) {
        let pos = line.pos();
        let has = |version: &str| line.args().iter().any(|arg| arg.text == version);
        if has("3") {
            cx.out.error(pos, "HTTP/3 is not spoken to upstreams");
        }
        if has("h2c") {
            self.scheme = Some(("h2c", pos));
        } else if has("1.1") && !has("2") {
            self.alpn(pos, "http/1.1");
        } else if has("2") && !has("1.1") {
            self.alpn(pos, "h2");
        }
    }

    fn alpn(&mut self, pos: super::super::source::Pos, version: &str) {
        // Without TLS there is nothing to agree on: it is HTTP/1.1 anyway.
        self.options
            .table(pos, "tls")
            .put(pos, "alpn", Value::texts([version]));
    }

    fn timeout(&mut self, cx: &Cx<'_>, line: &Directive, key: &str, time: &Token) {
        let Some(value) = cx.some_time(time) else {
            return;
        };
        let table = self.options.table(line.pos(), "timeouts");
        if table.find(key).is_some() {
            cx.out.note(
                line.pos(),
                format!("{key} of the service is given already; the first one counts"),
            );
        } else {
            table.put(line.pos(), key, value);
        }
    }
}

fn text(word: &Token) -> Value {
    Value::text(word.text.clone()).at(word.pos)
}

fn is_http(cx: &Cx<'_>, line: &Directive) -> bool {
    match line.args() {
        [name] if name.text == "http" => return true,
        [name] if name.text == "fastcgi" => {
            cx.out.error(name.pos, super::block::unknown("php_fastcgi"));
        }
        [name, ..] => cx.out.error(
            name.pos,
            format!(
                "the transport {} has no equivalent; there is `transport http`",
                name.text
            ),
        ),
        [] => cx
            .out
            .error(line.pos(), "expected `transport http { ... }`"),
    }
    false
}
