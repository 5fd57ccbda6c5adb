//! Directives that set values: `vars`, `map`, `log_append`, `log_skip`; and placeholders.

use super::super::ast::Directive;
use super::Cx;
use super::block::Call;
use super::doc::{Table, Value};
use super::step::Step;
use crate::config::step::Var;

/// `vars [NAME VALUE] { NAME VALUE }`.
pub(super) fn vars(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut table = Table::at(call.line.pos());
    let below = call.line.lines().iter().map(|line| line.words.as_slice());
    for words in std::iter::once(call.args).chain(below) {
        match words {
            [] => {}
            [name, value] => {
                let value = Value::text(value.text.clone()).at(value.pos);
                table.entries.retain(|entry| entry.key != name.text);
                table.put(name.pos, name.text.clone(), value);
            }
            [first, ..] => cx.out.error(first.pos, "expected `NAME VALUE`"),
        }
    }
    if table.is_empty() {
        cx.out.error(call.line.pos(), "expected `vars NAME VALUE`");
        return Vec::new();
    }
    call.key("vars", Value::Table(table))
}

/// `map SOURCE DESTINATION... { INPUT OUTPUT..., default OUTPUT... }`.
pub(super) fn map(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let [source, names @ ..] = call.args else {
        cx.out
            .error(pos, "expected `map SOURCE {DESTINATION}... { ... }`");
        return Vec::new();
    };
    if names.is_empty() {
        cx.out.error(
            pos,
            "a map needs a placeholder that it sets, such as `map {host} {backend} { ... }`",
        );
        return Vec::new();
    }
    let mut destinations = Vec::new();
    for name in names {
        let inside = name
            .text
            .strip_prefix('{')
            .and_then(|inside| inside.strip_suffix('}'));
        match inside {
            Some(inside) if Var::parse(inside, &[]).is_none() => destinations.push(inside),
            Some(_) => cx.out.error(
                name.pos,
                format!("{} has a meaning already; choose another name", name.text),
            ),
            None => cx.out.error(
                name.pos,
                format!("`{}` is no placeholder; write {{{}}}", name.text, name.text),
            ),
        }
    }
    let set = |line: &Directive, skips: bool| {
        let mut set = Table::at(line.pos());
        for (name, value) in destinations.iter().zip(line.args()) {
            // `-` is no value: what comes after may have one, else the default.
            if !(skips && value.text == "-") {
                // `${1}` is a capture and no placeholder.
                set.put(
                    value.pos,
                    *name,
                    Value::text(cx.kept_text(value)).at(value.pos),
                );
            }
        }
        set
    };
    let mut table = Table::at(pos).with(source.pos, "source", Value::text(source.text.clone()));
    let mut default = None;
    let mut entries = Vec::new();
    for line in call.line.lines() {
        if let Some(extra) = line.args().get(names.len()) {
            cx.out
                .error(extra.pos, "there are more outputs than destinations");
            continue;
        }
        if line.name() == "default" {
            if default.is_some() {
                cx.out.error(line.pos(), "the defaults are given already");
            }
            default = Some(set(line, false));
            continue;
        }
        let (key, input) = match line.name().strip_prefix('~') {
            Some(pattern) => ("pattern", pattern),
            None => ("input", line.name()),
        };
        let item = Table::at(line.pos())
            .with(line.pos(), key, Value::text(input))
            .with(line.pos(), "set", Value::Table(set(line, true)));
        entries.push(item);
    }
    // A destination that nothing sets has the empty text.
    let mut all = default.unwrap_or_else(|| Table::at(pos));
    for name in destinations {
        if all.find(name).is_none() {
            all.put(pos, name, Value::text(""));
        }
    }
    table.put(pos, "entries", Value::Sections(entries));
    table.put(pos, "default", Value::Table(all));
    call.key("map", Value::Table(table))
}

/// `log_skip`.
pub(super) fn log_skip(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    cx.out.no_block(call.line);
    if let Some(extra) = call.args.first() {
        cx.out
            .error(extra.pos, "log_skip takes nothing but a matcher");
    }
    let pos = call.line.pos();
    let table = Table::at(pos).with(pos, "skip", Value::Boolean(true));
    call.key("log", Value::Table(table))
}

/// `log_append FIELD VALUE`.
pub(super) fn log_append(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    cx.out.no_block(call.line);
    let Some([name, value]) = cx.out.args(call.line, call.args, "log_append FIELD VALUE") else {
        return Vec::new();
    };
    // A bare name may stand for a variable in Caddy; a text does in ours.
    let value = Value::text(value.text.clone()).at(value.pos);
    let fields = Table::at(name.pos).with(name.pos, name.text.clone(), value);
    let pos = call.line.pos();
    let table = Table::at(pos).with(pos, "append", Value::Table(fields));
    call.key("log", Value::Table(table))
}

/// Names with these beginnings are Caddy's own; one that is not known here is an error.
const NAMESPACES: [&str; 17] = [
    "http.", "tls.", "tls_", "system.", "time.", "env.", "file.", "vars.", "re.", "rp.", "err.",
    "path.", "query.", "header.", "cookie.", "labels.", "resp.",
];

/// Where Caddy leaves what is no placeholder as it stands, so do we: its braces are literal.
pub(super) fn escape_unknown(text: &str, mapped: &[String]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '\\']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('\\') {
            let length = rest.chars().take(2).map(char::len_utf8).sum();
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-?/$:".contains(b);
        let length = rest.bytes().skip(1).take_while(allowed).count();
        let name = &rest[1..=length];
        let looks_like_one = !name.is_empty() && rest[length + 1..].starts_with('}');
        let is_one = Var::parse(name, mapped).is_some()
            || NAMESPACES.iter().any(|before| name.starts_with(before));
        if looks_like_one && !is_one {
            out.push('\\');
        }
        out.push('{');
        rest = &rest[1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::Template;

    #[test]
    fn what_is_no_placeholder_stays_as_it_stands() {
        for (text, wanted) in [
            ("{host} {unknown}", "{host} \\{unknown}"),
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("\\{host\\}", "\\{host\\}"),
            ("{http.nothing}", "{http.nothing}"),
            ("{mine}", "{mine}"),
            ("{", "{"),
        ] {
            assert_eq!(escape_unknown(text, &["mine".to_owned()]), wanted);
        }
        let text = escape_unknown("Hello {name}", &[]);
        assert_eq!(
            Template::parse(&text, &[]),
            Ok(Template::text("Hello {name}"))
        );
    }
}
