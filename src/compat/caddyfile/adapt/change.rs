//! Directives that change the request or the answer's head: `header`, `request_header`, `rewrite`, `uri`,
//! `method`.

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::super::source::Pos;
use super::Cx;
use super::block::Call;
use super::doc::{Table, Value};
use super::matcher::{Scope, is_matcher};
use super::proxy::response_matcher;
use super::step::{Action, Step};

/// Changes of fields on their way into a table of `set`, `add`, `default`, `remove` and `replace`.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) table: Table,
    /// Caddy applies the whole directive when the head is written.
    pub(super) deferred: bool,
    /// `?Field value`.
    defaults: Vec<(Pos, String, Value)>,
}

impl Fields {
    /// One change. `name` has its sign: `+`, `-`, `?` or `>`.
    pub(super) fn change(&mut self, cx: &Cx<'_>, words: &[Token], is_response: bool) {
        let Some((first, rest)) = words.split_first() else {
            return;
        };
        let pos = first.pos;
        // Written as for curl.
        let name = first.text.strip_suffix(':').unwrap_or(&first.text);
        let bare = name.trim_start_matches(['+', '-', '?', '>']).to_owned();
        if bare.is_empty() {
            cx.out.error(pos, "a field needs a name");
            return;
        }
        let text = |word: &Token| Value::text(cx.kept_text(word)).at(word.pos);
        let value = rest.first().map_or(Value::text(""), text);
        match (name.chars().next(), rest) {
            (_, [_, _, extra, ..]) => cx.out.error(
                extra.pos,
                "one word too many; put a value with spaces in quotes",
            ),
            (Some('+'), [_]) => many(self.table.table(pos, "add"), pos, bare, value),
            (Some('-'), []) => {
                self.deferred = true;
                append(&mut self.table, pos, "remove", Value::text(bare).at(pos));
            }
            (Some('?'), [_]) if is_response => self.defaults.push((pos, bare, value)),
            (Some('?'), _) if !is_response => {
                cx.out.error(
                    pos,
                    "`?` is only for fields of the answer; use a matcher for the request's",
                );
            }
            (Some('-' | '+' | '?'), _) => {
                cx.out.error(
                    pos,
                    format!("`{}` has the wrong number of values", first.text),
                );
            }
            (sign, [find, with]) => {
                self.deferred |= sign == Some('>');
                let item = Table::at(pos)
                    .with(pos, "name", Value::text(bare))
                    .with(find.pos, "find", Value::text(find.text.clone()))
                    .with(with.pos, "with", text(with));
                append(&mut self.table, pos, "replace", Value::Table(item));
            }
            (sign, _) => {
                self.deferred |= sign == Some('>');
                let set = self.table.table(pos, "set");
                set.entries
                    .retain(|entry| !entry.key.eq_ignore_ascii_case(&bare));
                set.put(pos, bare, value);
            }
        }
    }
}

/// Adds a value of a field, of which there may be several.
fn many(table: &mut Table, pos: Pos, name: String, value: Value) {
    let known = |entry: &&mut super::doc::Entry| entry.key.eq_ignore_ascii_case(&name);
    match table.entries.iter_mut().find(known) {
        None => table.put(pos, name, value),
        Some(entry) => match &mut entry.value {
            Value::List(list) => list.push(value),
            one => *one = Value::List(vec![one.clone(), value]),
        },
    }
}

fn append(table: &mut Table, pos: Pos, key: &str, value: Value) {
    let known = table.entries.iter_mut().find(|entry| entry.key == key);
    match known.map(|entry| &mut entry.value) {
        Some(Value::List(list)) => list.push(value),
        _ => table.put(pos, key, Value::List(vec![value])),
    }
}

/// `header [+-?>]FIELD [VALUE [WITH]] { ... }`: one step, and one for its defaults.
pub(super) fn header(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut fields = Fields::default();
    let mut condition = Table::default();
    fields.change(cx, call.args, true);
    for line in call.line.lines() {
        match line.name() {
            "defer" if line.args().is_empty() => fields.deferred = true,
            "match" => condition = response_matcher(line, &cx.out),
            _ if !call.args.is_empty() => {
                cx.out.error(
                    line.pos(),
                    "fields stand either on the line or in the block, not in both",
                );
            }
            _ => fields.change(cx, &line.words, true),
        }
    }
    let pos = call.line.pos();
    let mut steps = Vec::new();
    if fields.table.is_empty() && fields.defaults.is_empty() {
        cx.out.error(pos, "expected `header FIELD VALUE`");
    }
    if !fields.table.is_empty() {
        let mut table = fields.table;
        table.origin = super::doc::Origin(Some(pos));
        let is_conditional = !condition.is_empty();
        table.entries.extend(condition.entries);
        // At once, so that what answers can overwrite them.
        if !fields.deferred && !is_conditional {
            table.put(pos, "defer", Value::Boolean(false));
        }
        steps.extend(call.key("response_header", Value::Table(table)));
    }
    if let [(pos, name, value)] = fields.defaults.as_slice() {
        let inside = Table::at(*pos).with(*pos, name.clone(), value.clone());
        let table = Table::at(*pos).with(*pos, "default", Value::Table(inside));
        steps.extend(call.key("response_header", Value::Table(table)));
    } else if !fields.defaults.is_empty() {
        // Several are set together, and only when all of them are missing.
        let (mut set, mut missing) = (Table::at(pos), Table::at(pos));
        for (pos, name, value) in fields.defaults {
            missing.put(pos, name.clone(), Value::text("!"));
            set.put(pos, name, value);
        }
        let table = Table::at(pos).with(pos, "set", Value::Table(set)).with(
            pos,
            "header",
            Value::Table(missing),
        );
        steps.extend(call.key("response_header", Value::Table(table)));
    }
    steps
}

/// `request_header [+-]FIELD [VALUE [WITH]]`, or a block of those.
pub(super) fn request_header(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut fields = Fields::default();
    fields.change(cx, call.args, false);
    for line in call.line.lines() {
        fields.change(cx, &line.words, false);
    }
    if fields.table.is_empty() {
        if call.args.is_empty() && call.line.lines().is_empty() {
            cx.out
                .error(call.line.pos(), "expected `request_header FIELD VALUE`");
        }
        return Vec::new();
    }
    fields.table.origin = super::doc::Origin(Some(call.line.pos()));
    call.key("request_header", Value::Table(fields.table))
}

/// `rewrite [MATCHER] TO`; a single argument is where to.
pub(super) fn rewrite(cx: &Cx<'_>, line: &Directive, scope: &Scope) -> Vec<Step> {
    cx.out.no_block(line);
    let (when, to) = match line.args() {
        [to] => (None, to),
        [matcher, to] if is_matcher(matcher) => (scope.find(matcher, &cx.out), to),
        _ => {
            cx.out.error(line.pos(), "expected `rewrite [MATCHER] TO`");
            return Vec::new();
        }
    };
    let value = Value::text(to.text.clone()).at(to.pos);
    let table = Table::at(line.pos()).with(to.pos, "to", value);
    let action = Action::Key("rewrite", super::answer::short(table, "to"));
    vec![Step::new("rewrite", line.pos(), when, action)]
}

/// `method NAME`.
pub(super) fn method(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    cx.out.no_block(call.line);
    let Some([method]) = cx.out.args(call.line, call.args, "method NAME") else {
        return Vec::new();
    };
    let value = method_name(method);
    let table = Table::at(method.pos).with(method.pos, "method", value);
    call.key("rewrite", Value::Table(table))
}

/// A method in capitals; a placeholder keeps its name.
pub(super) fn method_name(word: &Token) -> Value {
    let text = match word.text.contains('{') {
        true => word.text.clone(),
        false => word.text.to_ascii_uppercase(),
    };
    Value::text(text).at(word.pos)
}

/// `uri strip_prefix|strip_suffix|replace|path_regexp|query ...`.
pub(super) fn uri(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
    let Some((kind, args)) = call.args.split_first() else {
        cx.out.error(
            pos,
            "expected `uri strip_prefix|strip_suffix|replace|path_regexp|query ...`",
        );
        return Vec::new();
    };
    let value = match (kind.text.as_str(), args) {
        ("strip_prefix", [prefix]) => {
            let slash = if prefix.text.starts_with(['/', '{']) {
                ""
            } else {
                "/"
            };
            Value::text(format!("{slash}{}", prefix.text)).at(prefix.pos)
        }
        ("strip_suffix", [suffix]) => text(suffix),
        ("replace", [find, with, limit @ ..]) if limit.len() < 2 => {
            let mut item = Table::at(pos).with(find.pos, "find", text(find)).with(
                with.pos,
                "with",
                text(with),
            );
            if let Some(limit) = limit.first()
                && let Some(number) = cx.number(limit)
            {
                item.put(limit.pos, "limit", Value::Number(number));
            }
            Value::List(vec![Value::Table(item)])
        }
        ("path_regexp", [find, with]) => {
            let with_text = Value::text(cx.kept_text(with)).at(with.pos);
            let item = Table::at(pos)
                .with(find.pos, "find", text(find))
                .with(with.pos, "with", with_text);
            Value::List(vec![Value::Table(item)])
        }
        ("query", args) => match query(cx, call.line, args) {
            Some(value) => value,
            None => return Vec::new(),
        },
        ("strip_prefix" | "strip_suffix" | "replace" | "path_regexp", _) => {
            let message = format!("`uri {}` has the wrong number of arguments", kind.text);
            cx.out.error(kind.pos, message);
            return Vec::new();
        }
        (other, _) => {
            cx.out
                .error(kind.pos, format!("`uri {other}` is not known"));
            return Vec::new();
        }
    };
    if kind.text != "query" {
        cx.out.no_block(call.line);
    }
    let key = kind.text.clone();
    let table = Table::at(pos).with(kind.pos, key, value);
    call.key("rewrite", Value::Table(table))
}

/// Changes of the query: `-a`, `+a b`, `a>b`, `a find with`, `a b`.
fn query(cx: &Cx<'_>, line: &Directive, args: &[Token]) -> Option<Value> {
    let lines = line.lines().iter().map(|line| line.words.as_slice());
    let all: Vec<&[Token]> = match args {
        [] => lines.collect(),
        args => vec![args],
    };
    if !args.is_empty() && line.block.is_some() {
        cx.out.error(
            line.pos(),
            "changes stand either on the line or in the block, not in both",
        );
    }
    let mut table = Table::at(line.pos());
    for words in all {
        let Some((first, rest)) = words.split_first() else {
            continue;
        };
        let pos = first.pos;
        let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
        match (first.text.as_str(), rest) {
            (name, []) if name.starts_with('-') => {
                let name = Value::text(name.trim_start_matches('-')).at(pos);
                append(&mut table, pos, "delete", name);
            }
            (name, [value]) if name.starts_with('+') => {
                let name = name.trim_start_matches('+').to_owned();
                many(table.table(pos, "add"), pos, name, text(value));
            }
            (name, []) if name.contains('>') => {
                let (from, to) = name.split_once('>').unwrap_or((name, ""));
                table.table(pos, "rename").put(pos, from, Value::text(to));
            }
            (name, [find, with]) => {
                let op = Table::at(pos)
                    .with(pos, "name", Value::text(name))
                    .with(find.pos, "find", text(find))
                    .with(
                        with.pos,
                        "with",
                        Value::text(cx.kept_text(with)).at(with.pos),
                    );
                append(&mut table, pos, "replace", Value::Table(op));
            }
            (name, [value]) => table.table(pos, "set").put(pos, name, text(value)),
            _ => cx.out.error(
                pos,
                "expected `NAME VALUE`, `+NAME VALUE`, `-NAME`, `OLD>NEW` or `NAME FIND WITH`",
            ),
        }
    }
    if table.is_empty() {
        cx.out.error(line.pos(), "expected `uri query NAME VALUE`");
        return None;
    }
    Some(Value::Table(table))
}
