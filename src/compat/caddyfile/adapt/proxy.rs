//! `reverse_proxy`.

use std::collections::HashMap;

use super::super::ast::Directive;
use super::block::Call;
use super::change::Fields;
use super::doc::{Origin, Table, Value};
use super::findings::Findings;
use super::matcher::Scope;
use super::service::{Builder, status_range};
use super::step::{Action, Exchange, Reaction, Step};
use super::{Cx, Place};

/// Subdirectives that are not about the service itself.
const KNOWN: [&str; 19] = [
    "to",
    "lb_policy",
    "lb_retries",
    "lb_try_duration",
    "health_uri",
    "health_interval",
    "fail_duration",
    "max_fails",
    "unhealthy_status",
    "flush_interval",
    "header_up",
    "header_down",
    "method",
    "rewrite",
    "transport",
    "trusted_proxies",
    "handle_response",
    "replace_status",
    "dynamic",
];

/// `reverse_proxy [UPSTREAM...] { ... }`.
pub(super) fn reverse_proxy(cx: &Cx<'_>, call: &Call<'_>, scope: &Scope) -> Vec<Step> {
    let pos = call.line.pos();
    let mut builder = Builder::new(pos);
    builder.upstreams(cx, call.args);
    let (mut up, mut down) = (Fields::default(), Fields::default());
    let mut rewrite = Table::at(pos);
    let mut named: HashMap<&str, Table> = HashMap::new();
    let mut reactions: Vec<(bool, Table, Reaction)> = Vec::new();
    let mut comments = Vec::new();
    for line in call.line.lines() {
        if line.name() != "handle_response" {
            comments.extend(line.all_comments());
        }
        match (line.name(), line.args()) {
            (name, _) if name.starts_with('@') => {
                named.insert(name, response_matcher(line, &cx.out));
            }
            ("header_up", [_, ..]) => up.change(cx, line.args(), false),
            ("header_down", [_, ..]) => down.change(cx, line.args(), false),
            ("method", [method]) => {
                let method = super::change::method_name(method);
                rewrite.put(line.pos(), "method", method);
            }
            ("rewrite", [to]) => {
                rewrite.put(line.pos(), "to", Value::text(to.text.clone()).at(to.pos));
            }
            ("replace_status" | "handle_response", args) => {
                if let Some(reaction) = reaction(cx, line, args, &named, scope) {
                    reactions.push(reaction);
                }
            }
            _ => {
                if !builder.option(cx, line) {
                    cx.out.unknown(line, &KNOWN);
                }
            }
        }
    }
    comments.extend(
        call.line
            .block
            .iter()
            .flat_map(|block| block.tail.iter().cloned()),
    );
    let mut exchange = Exchange::default();
    if !rewrite.is_empty() {
        exchange
            .changes
            .put(pos, "rewrite", super::answer::short(rewrite, "to"));
    }
    for (key, mut fields) in [("request_header", up), ("response_header", down)] {
        if !fields.table.is_empty() {
            fields.table.origin = Origin(Some(pos));
            exchange.changes.put(pos, key, Value::Table(fields.table));
        }
    }
    // Those without a condition take what the others leave.
    reactions.sort_by_key(|(is_conditional, ..)| !is_conditional);
    exchange.on_response = reactions
        .into_iter()
        .map(|(_, when, then)| (when, then))
        .collect();
    let Some(service) = builder.finish(cx) else {
        return Vec::new();
    };
    let number = cx.services.borrow_mut().add(service);
    let mut step = call.step(Action::Proxy(number, Box::new(exchange)));
    step.comments = comments;
    vec![step]
}

fn reaction(
    cx: &Cx<'_>,
    line: &Directive,
    args: &[super::super::lexer::Token],
    named: &HashMap<&str, Table>,
    scope: &Scope,
) -> Option<(bool, Table, Reaction)> {
    let (matcher, args) = match args.split_first() {
        Some((first, rest)) if first.text.starts_with('@') => (Some(first), rest),
        _ => (None, args),
    };
    let when = match matcher {
        None => Table::at(line.pos()),
        Some(word) => match named.get(word.text.as_str()) {
            Some(table) => table.clone(),
            None => {
                let message = format!("there is no {} above in this reverse_proxy", word.text);
                cx.out.error(word.pos, message);
                return None;
            }
        },
    };
    let is_conditional = matcher.is_some();
    if line.name() == "replace_status" {
        cx.out.no_block(line);
        let [status] = cx
            .out
            .args(line, args, "replace_status [@MATCHER] STATUS")?;
        let status = super::answer::status_value(status);
        return Some((is_conditional, when, Reaction::Status(status)));
    }
    if let Some(extra) = args.first() {
        cx.out
            .error(extra.pos, "expected `handle_response [@MATCHER] { ... }`");
    }
    let place = Place { is_response: true };
    let mut steps = cx.steps(line.lines(), scope, &place, true);
    let mut comments = line.comments.clone();
    if let Some(first) = steps.first_mut() {
        comments.append(&mut first.comments);
        first.comments = comments;
    }
    if let (Some(last), Some(block)) = (steps.last_mut(), &line.block) {
        last.tail.extend(block.tail.iter().cloned());
    }
    Some((is_conditional, when, Reaction::Steps(steps)))
}

/// `@name { status CODE..., header FIELD [VALUE] }`, or one of them on the line: keys `status` and
/// `header`.
pub(super) fn response_matcher(line: &Directive, out: &Findings) -> Table {
    let one;
    let lines = match line.args() {
        [] => line.lines(),
        words => {
            one = Directive {
                words: words.to_vec(),
                block: None,
                comments: Vec::new(),
            };
            std::slice::from_ref(&one)
        }
    };
    let mut status = Vec::new();
    let mut header = Table::at(line.pos());
    for line in lines {
        match (line.name(), line.args()) {
            ("status", codes @ [_, ..]) => {
                status.extend(
                    codes
                        .iter()
                        .map(|code| Value::text(status_range(&code.text)).at(code.pos)),
                );
            }
            ("header", [field]) if field.text.starts_with('!') => {
                header.put(field.pos, field.text[1..].to_owned(), Value::text("!"));
            }
            ("header", [field]) => header.put(field.pos, field.text.clone(), Value::text("*")),
            ("header", [field, value]) => {
                let value = Value::text(value.text.clone()).at(value.pos);
                let known =
                    |entry: &&mut super::doc::Entry| entry.key.eq_ignore_ascii_case(&field.text);
                match header
                    .entries
                    .iter_mut()
                    .find(known)
                    .map(|entry| &mut entry.value)
                {
                    Some(Value::List(list)) => list.push(value),
                    Some(one) => *one = Value::List(vec![one.clone(), value]),
                    None => header.put(field.pos, field.text.clone(), value),
                }
            }
            _ => out.unknown(line, &["status", "header"]),
        }
    }
    let pos = line.pos();
    let mut table = Table::at(pos);
    if !status.is_empty() {
        table.put(pos, "status", Value::List(status));
    }
    if !header.is_empty() {
        table.put(pos, "header", Value::Table(header));
    }
    table
}
