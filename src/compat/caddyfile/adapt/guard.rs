//! Directives that keep requests out: `basic_auth`, `forward_auth`, `request_body`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::lexer::Token;
use super::Cx;
use super::block::Call;
use super::change::Fields;
use super::doc::{Table, Value};
use super::service::Builder;
use super::step::{Action, Step};
use super::unit::bytes;

/// `request_body { max_size }`.
pub(super) fn request_body(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut limit = None;
    for line in call.line.lines() {
        match (line.name(), line.args()) {
            // No limit.
            ("max_size", [size]) if bytes(&size.text) == Some(0) => limit = None,
            ("max_size", [size]) => limit = cx.size(size),
            ("read_timeout" | "write_timeout", _) => cx.out.error(
                line.pos(),
                "times are global here: [timeouts] request_body and client_write in a cutover.toml beside the Caddyfile",
            ),
            ("set", _) => cx.out.error(line.pos(), "a body cannot be replaced here"),
            _ => cx.out.unknown(line, &["max_size"]),
        }
    }
    if call.line.lines().is_empty() {
        cx.out
            .error(call.line.pos(), "expected `request_body { max_size SIZE }`");
    }
    limit.map_or_else(Vec::new, |limit| call.key("body_limit", limit))
}

/// `basic_auth [ALGORITHM [REALM]] { USER HASH }`.
pub(super) fn basic_auth(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let mut table = Table::at(pos);
    if let Some(algorithm) = call.args.first()
        && !matches!(algorithm.text.as_str(), "bcrypt" | "argon2id")
    {
        let message = format!(
            "{} is not checked here; hash the passwords anew with `proxyctl hash-password`",
            algorithm.text
        );
        cx.out.error(algorithm.pos, message);
    }
    match call.args {
        [] | [_] => {}
        [_, realm] => table.put(realm.pos, "realm", Value::text(realm.text.clone())),
        [_, _, extra, ..] => cx
            .out
            .error(extra.pos, "expected `basic_auth [ALGORITHM [REALM]]`"),
    }
    let mut users = Table::at(pos);
    for line in call.line.lines() {
        match (line.words.as_slice(), line.block.is_some()) {
            ([name, hash], false) => {
                let value = Value::text(hash_text(hash)).at(hash.pos);
                users.put(name.pos, name.text.clone(), value);
            }
            _ => cx.out.error(
                line.pos(),
                "expected `USER HASH`; salts of old versions are not read",
            ),
        }
    }
    if users.is_empty() {
        cx.out.error(pos, "expected `basic_auth { USER HASH }`");
        return Vec::new();
    }
    table.put(pos, "users", Value::Table(users));
    call.key("basic_auth", Value::Table(table))
}

/// Caddy before 2.8 wrote hashes in base64.
fn hash_text(hash: &Token) -> String {
    let decoded = STANDARD.decode(&hash.text).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded {
        Some(text) if text.starts_with('$') => text,
        _ => hash.text.clone(),
    }
}

/// The question is asked at a rewritten address, which keeps the query where it says none.
fn question(uri: &str) -> String {
    match uri.contains(['?', '{']) {
        true => uri.to_owned(),
        false => format!("{uri}{{?query}}"),
    }
}

/// `forward_auth UPSTREAM { uri, copy_headers, ... }`.
pub(super) fn forward_auth(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let mut builder = Builder::new(pos);
    builder.upstreams(cx, call.args);
    let (mut uri, mut copied, mut fields, mut timeout) =
        (None, Vec::new(), Fields::default(), None);
    for line in call.line.lines() {
        match (line.name(), line.args()) {
            ("uri", [to]) => uri = Some(Value::text(question(&to.text)).at(to.pos)),
            ("copy_headers", args) => {
                let below = line.lines().iter().flat_map(|line| &line.words);
                copied.extend(args.iter().chain(below).map(copied_header));
            }
            ("header_up", args) => fields.change(cx, args, false),
            ("transport", _) => {
                if let Some(time) = builder.transport_of_auth(cx, line) {
                    timeout = Some(time);
                }
            }
            ("method", _) => cx.out.error(line.pos(), "the question is always a GET"),
            ("handle_response" | "replace_status" | "header_down" | "rewrite", _) => cx.out.error(
                line.pos(),
                "not in a forward_auth: what is not 2xx is answered as the other server answers",
            ),
            _ => {
                if !builder.option(cx, line) {
                    let known = ["uri", "copy_headers", "header_up", "to", "transport"];
                    cx.out.unknown(line, &known);
                }
            }
        }
    }
    let mut table = Table::at(pos);
    match uri {
        Some(uri) => table.put(pos, "uri", uri),
        None => cx.out.error(pos, "forward_auth needs `uri PATH`"),
    }
    if !copied.is_empty() {
        table.put(pos, "copy_headers", Value::List(copied));
    }
    if !fields.table.is_empty() {
        fields.table.origin = super::doc::Origin(Some(pos));
        table.put(pos, "headers", Value::Table(fields.table));
    }
    if let Some(timeout) = timeout {
        table.put(pos, "timeout", timeout);
    }
    let step = |action| {
        vec![Step {
            directive: "forward_auth".to_owned(),
            ..call.step(action)
        }]
    };
    let Some(service) = builder.finish(cx) else {
        return Vec::new();
    };
    if let [one] = service.blue.as_slice()
        && service.options.is_empty()
    {
        let upstream = Value::text(one.0.clone()).at(one.1);
        let mut all = Table::at(pos).with(pos, "upstream", upstream);
        all.entries.extend(table.entries);
        return step(Action::Key("forward_auth", Value::Table(all)));
    }
    let number = cx.services.borrow_mut().add(service);
    step(Action::ForwardAuth(number, table))
}

fn copied_header(word: &Token) -> Value {
    Value::text(word.text.clone()).at(word.pos)
}
