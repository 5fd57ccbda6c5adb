//! `log`: which requests are logged, and where to. The first log of a file is that of all sites; a site
//! whose log is another one gets its own.

use super::super::ast::Directive;
use super::super::source::Pos;
use super::Cx;
use super::doc::{Table, Value};
use super::findings::Findings;
use super::unit::{milliseconds, time_text};

/// The `log` lines of a site: keys of `[log.access]` or `[site.access_log]`.
pub(super) fn site(cx: &Cx<'_>, lines: &[&Directive]) -> Option<(Pos, Table)> {
    let (first, others) = lines.split_first()?;
    if let Some(second) = others.first() {
        cx.out.error(
            second.pos(),
            "a site is logged once; remove one of its logs",
        );
    }
    Some((first.pos(), read(first, &cx.out)))
}

/// The global option: what the daemon says of itself.
pub(super) fn global(line: &Directive, out: &Findings) {
    out.note(
        line.pos(),
        "log means nothing here: the daemon writes to stderr, and RUST_LOG says how much; access logs are those of the sites",
    );
}

fn read(line: &Directive, out: &Findings) -> Table {
    let mut table = Table::at(line.pos());
    // Caddy's default form.
    table.put(line.pos(), "format", Value::text("caddy"));
    if let Some(name) = line.args().first() {
        out.note(name.pos, "a log needs no name here");
    }
    for sub in line.lines() {
        let (pos, args) = (sub.pos(), sub.args());
        match (sub.name(), args) {
            ("output", [kind, rest @ ..]) => match (kind.text.as_str(), rest) {
                ("stdout", []) => {}
                ("stderr", []) => out.note(pos, "the access log goes to stdout"),
                ("discard", []) => table.put(pos, "enabled", Value::Boolean(false)),
                ("file", [path]) => {
                    table.put(pos, "file", Value::text(path.text.clone()).at(path.pos));
                    rotation(sub, out, &mut table);
                }
                _ => out.error(kind.pos, format!("the output {} has no equivalent: stdout, file or discard", kind.text)),
            },
            ("format", [kind, ..]) => format(sub, &kind.text, out, &mut table),
            ("level", _) => out.note(pos, "level means nothing here: every request is logged"),
            ("hostnames" | "no_hostname" | "include" | "exclude" | "core", _) => {
                out.error(pos, format!("{} has no equivalent: a site has one log, of all its hosts", sub.name()));
            }
            ("sampling", _) => out.error(pos, "sampling is a share here: log.access.sample in a cutover.toml beside the Caddyfile"),
            _ => out.unknown(sub, &["output", "format", "level"]),
        }
    }
    table
}

fn format(line: &Directive, kind: &str, out: &Findings, table: &mut Table) {
    match kind {
        "json" => {}
        "console" => out.note(line.pos(), "console is for people at a terminal; the log is JSON"),
        "filter" => return filter(line, out, table),
        "append" => {
            out.error(line.pos(), "more fields are what log_append gives: `log_append NAME VALUE` in the site");
            return;
        }
        "transform" | "formatted" => out.error(line.pos(), "the plugin's form is not read; log.access.format = \"common\" is the Common Log Format"),
        _ => out.error(line.pos(), format!("the format {kind} has no equivalent")),
    }
    for sub in line.lines() {
        match sub.name() {
            // How things are spelled, not what is said.
            name if name.starts_with("time_")
                || name.ends_with("_key")
                || name.ends_with("_format") =>
            {
                out.note(
                    sub.pos(),
                    format!("{name} has no equivalent: the fields are Caddy's by default"),
                );
            }
            name => out.error(
                sub.pos(),
                format!("{name} of a format has no equivalent; remove it"),
            ),
        }
    }
}

/// `format filter`: what must not be read is redacted, and every other field stays.
fn filter(line: &Directive, out: &Findings, table: &mut Table) {
    let mut names: Vec<Value> = Vec::new();
    for sub in line.lines() {
        match (sub.name(), sub.args()) {
            ("wrap", [kind, ..]) if kind.text != "filter" => format(sub, &kind.text, out, table),
            ("fields", []) => {
                for field in sub.lines() {
                    names.extend(redacted(field, out));
                }
            }
            // Since Caddy 2.8 fields stand there as well.
            (name, [_, ..]) if name.contains('>') => names.extend(redacted(sub, out)),
            _ => out.unknown(sub, &["wrap", "fields"]),
        }
    }
    if !names.is_empty() {
        table.put(line.pos(), REDACT, Value::List(names));
    }
}

/// Where `log.redact` stands in the table until the document is made.
pub(super) const REDACT: &str = "redact";

/// The headers and parameters that a filter of a field hides.
fn redacted(field: &Directive, out: &Findings) -> Vec<Value> {
    let (pos, name) = (field.pos(), field.name());
    let action = field.args().first().map_or("", |word| word.text.as_str());
    let hides = |action: &str| matches!(action, "delete" | "replace" | "hash");
    if let Some(header) = name.strip_prefix("request>headers>")
        && hides(action)
    {
        return vec![Value::text(header).at(pos)];
    }
    if matches!(name, "request>uri" | "uri") && action == "query" {
        let mut names = Vec::new();
        for line in field.lines() {
            match (line.name(), line.args()) {
                (action, [parameter, ..]) if hides(action) => {
                    names.push(Value::text(parameter.text.clone()).at(parameter.pos));
                }
                _ => out.unknown(line, &["delete", "replace", "hash"]),
            }
        }
        return names;
    }
    out.error(
        pos,
        format!("only headers and query parameters of the request are hidden in the log, by delete, replace or hash; remove {name}"),
    );
    Vec::new()
}

/// `roll_size 100MiB`, `roll_keep 10`, `roll_keep_for 90d`.
fn rotation(line: &Directive, out: &Findings, table: &mut Table) {
    let mut rotate = Table::at(line.pos());
    let mut is_off = false;
    // Caddy's defaults.
    let (mut size, mut keep, mut age) = (
        Value::text("100MiB"),
        Value::Number(10),
        Value::text("2160h"),
    );
    for sub in line.lines() {
        let pos = sub.pos();
        match (sub.name(), sub.args()) {
            ("roll_disabled", []) => is_off = true,
            ("roll_size", [word]) => size = Value::text(word.text.clone()).at(word.pos),
            ("roll_keep", [word]) => match word.text.parse() {
                Ok(number) => keep = Value::Number(number).at(word.pos),
                Err(_) => out.error(word.pos, format!("`{}` is not a whole number", word.text)),
            },
            ("roll_keep_for", [word]) => match milliseconds(&word.text) {
                Some(time) => age = Value::text(time_text(time)).at(word.pos),
                None => out.error(
                    word.pos,
                    format!("`{}` is not a time such as 90d", word.text),
                ),
            },
            (
                "roll_uncompressed" | "roll_gzip" | "roll_compression" | "roll_local_time"
                | "roll_at" | "roll_minutes" | "roll_interval" | "mode" | "dir_mode",
                _,
            ) => {
                out.note(pos, format!("{} is not set here", sub.name()));
            }
            _ => out.unknown(
                sub,
                &["roll_disabled", "roll_size", "roll_keep", "roll_keep_for"],
            ),
        }
    }
    if is_off {
        return;
    }
    rotate.put(line.pos(), "size", size);
    rotate.put(line.pos(), "keep", keep);
    rotate.put(line.pos(), "age", age);
    table.put(line.pos(), "rotate", Value::Table(rotate));
}
