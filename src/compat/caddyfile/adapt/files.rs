//! Directives about files and compression: `root`, `file_server`, `try_files`, `encode`.

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::Cx;
use super::answer::status_value;
use super::block::Call;
use super::doc::{Table, Value};
use super::matcher::{Scope, is_matcher, policy};
use super::proxy::response_matcher;
use super::step::{Action, Step};

fn texts(words: &[Token]) -> Value {
    let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
    Value::List(words.iter().map(text).collect())
}

/// `root [MATCHER] PATH`; a single argument is the path.
pub(super) fn root(cx: &Cx<'_>, line: &Directive, scope: &Scope) -> Vec<Step> {
    cx.out.no_block(line);
    let (when, path) = match line.args() {
        [path] => (None, path),
        [matcher, path] if is_matcher(matcher) => (scope.find(matcher, &cx.out), path),
        _ => {
            cx.out.error(line.pos(), "expected `root [MATCHER] PATH`");
            return Vec::new();
        }
    };
    let value = Value::text(path.text.clone()).at(path.pos);
    vec![Step::new(
        "root",
        line.pos(),
        when,
        Action::Key("root", value),
    )]
}

/// `file_server [browse] { ... }`.
pub(super) fn file_server(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let mut table = Table::at(pos);
    let mut hide: Vec<Value> = Vec::new();
    match call.args {
        [] => {}
        [word] if word.text == "browse" => table.put(word.pos, "browse", Value::Boolean(true)),
        [word, ..] => cx.out.error(word.pos, "expected `file_server [browse]`"),
    }
    for line in call.line.lines() {
        let (pos, args) = (line.pos(), line.args());
        match (line.name(), args) {
            ("root", [root]) => table.put(pos, "root", Value::text(root.text.clone()).at(root.pos)),
            ("hide", [_, ..]) => {
                hide.extend(
                    args.iter()
                        .map(|arg| Value::text(arg.text.clone()).at(arg.pos)),
                );
            }
            ("index", [_, ..]) => table.put(pos, "index", texts(args)),
            ("browse", rest) => browse(cx, line, rest, &mut table),
            ("precompressed", _) => table.put(pos, "precompressed", encodings(args)),
            ("status", [status]) => table.put(pos, "status", status_value(status)),
            ("disable_canonical_uris", []) => table.put(pos, "canonical", Value::Boolean(false)),
            ("pass_thru", []) => table.put(pos, "pass_thru", Value::Boolean(true)),
            ("etag_file_extensions", _) => {
                cx.out
                    .error(pos, "ETags are made from size and time here; remove it");
            }
            ("fs", _) => cx
                .out
                .error(pos, "only the file system of the machine is served"),
            _ => {
                let known = [
                    "root",
                    "hide",
                    "index",
                    "browse",
                    "precompressed",
                    "status",
                    "disable_canonical_uris",
                    "pass_thru",
                ];
                cx.out.unknown(line, &known);
            }
        }
    }
    if !hide.is_empty() {
        table.put(pos, "hide", Value::List(hide));
    }
    let value = match table.is_empty() {
        true => Value::Boolean(true),
        false => Value::Table(table),
    };
    call.key("files", value)
}

fn browse(cx: &Cx<'_>, line: &Directive, args: &[Token], table: &mut Table) {
    let value = match args {
        [] => Value::Boolean(true),
        [template] => {
            let path = Value::text(template.text.clone()).at(template.pos);
            Value::Table(Table::at(template.pos).with(template.pos, "template", path))
        }
        _ => {
            cx.out.error(line.pos(), "expected `browse [TEMPLATE]`");
            return;
        }
    };
    for sub in line.lines() {
        let message = format!("{} of a listing has no equivalent; remove it", sub.name());
        cx.out.error(sub.pos(), message);
    }
    table.put(line.pos(), "browse", value);
}

/// Names of encodings; none given: all of them.
fn encodings(args: &[Token]) -> Value {
    match args {
        [] => Value::texts(["br", "zstd", "gzip"]),
        args => texts(args),
    }
}

/// `try_files FILE... { policy }`: one step for each run of files without a query, one for each with.
pub(super) fn try_files(cx: &Cx<'_>, line: &Directive) -> Vec<Step> {
    let pos = line.pos();
    let mut rule = None;
    for sub in line.lines() {
        match (sub.name(), sub.args()) {
            ("policy", [word]) => rule = Some(word),
            _ => cx.out.unknown(sub, &["policy"]),
        }
    }
    if line.args().is_empty() {
        cx.out.error(pos, "expected `try_files FILE...`");
        return Vec::new();
    }
    if rule.is_none() && line.args().iter().all(|file| !file.text.contains('?')) {
        let value = texts(line.args());
        return vec![Step::new(
            "try_files",
            pos,
            None,
            Action::Key("try_files", value),
        )];
    }
    let mut steps = Vec::new();
    let groups = line
        .args()
        .chunk_by(|a, b| !a.text.contains('?') && !b.text.contains('?'));
    for files in groups {
        let (tried, query): (Vec<Value>, &str) = match files {
            [one] if one.text.contains('?') => {
                let (file, _) = one.text.split_once('?').unwrap_or((&one.text, ""));
                (vec![Value::text(file).at(one.pos)], &one.text[file.len()..])
            }
            many => {
                let text = |file: &Token| Value::text(file.text.clone()).at(file.pos);
                (many.iter().map(text).collect(), "")
            }
        };
        let mut file = Table::at(pos).with(pos, "try", Value::List(tried));
        if let Some(word) = rule {
            file.put(
                word.pos,
                "policy",
                Value::text(policy(&word.text)).at(word.pos),
            );
        }
        let when = Table::at(pos).with(pos, "file", Value::Table(file));
        let to = Value::text(format!("{RELATIVE}{query}"));
        let table = Table::at(pos).with(pos, "to", to);
        let action = Action::Key("rewrite", super::answer::short(table, "to"));
        let mut step = Step::new("try_files", pos, Some(when), action);
        step.group = Some(format!("try_files-{}", pos.line));
        steps.push(step);
    }
    steps
}

/// Where something else than files may answer, a path that leads to no file must stay as it is: each
/// `try_files` whose last entry would be taken in any case becomes a matcher.
pub(super) fn leave_what_is_no_file(steps: &mut [Step]) {
    for step in steps {
        match &mut step.action {
            Action::Steps(inner) => leave_what_is_no_file(inner),
            Action::Key("try_files", value) => {
                let tried = match value.bare() {
                    Value::List(tried) => tried.clone(),
                    one => vec![one.clone()],
                };
                let ends = |last: &Value| matches!(last.bare(), Value::Text(text) if text.starts_with('='));
                let is_known = |when: &Table| when.find("file").is_some();
                if tried.last().is_some_and(ends) || step.when.as_ref().is_some_and(is_known) {
                    continue;
                }
                let file = Table::at(step.pos).with(step.pos, "try", Value::List(tried));
                let when = step.when.take().unwrap_or_else(|| Table::at(step.pos));
                step.when = Some(when.with(step.pos, "file", Value::Table(file)));
                step.action = Action::Key("rewrite", Value::text(RELATIVE));
            }
            Action::Key(..) | Action::Proxy(..) | Action::ForwardAuth(..) => {}
        }
    }
}

/// The file that a matcher has found.
const RELATIVE: &str = "{file_match.relative}";

/// `encode FORMAT... { ... }`.
pub(super) fn encode(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let mut table = Table::at(pos);
    let mut levels = Table::at(pos);
    let mut formats: Vec<(String, super::super::source::Pos)> = Vec::new();
    let mut condition = Table::default();
    for line in call.line.lines() {
        match (line.name(), line.args()) {
            ("minimum_length", [length]) => {
                if let Some(number) = cx.number(length) {
                    table.put(length.pos, "min_length", Value::Number(number));
                }
            }
            ("match", _) => {
                condition = response_matcher(line, &cx.out);
                if condition.find("header").is_none() {
                    // A matcher stands in the place of the usual types.
                    let any =
                        Table::at(line.pos()).with(line.pos(), "Content-Type", Value::text("*"));
                    condition.put(line.pos(), "header", Value::Table(any));
                }
            }
            (name @ ("gzip" | "zstd" | "br"), args) => {
                let level = args.first().or_else(|| {
                    let inside = line.lines().iter().find(|line| line.name() == "level");
                    inside.and_then(|line| line.args().first())
                });
                for sub in line.lines().iter().filter(|sub| sub.name() != "level") {
                    let message = format!("{} has no equivalent; remove it", sub.name());
                    cx.out.error(sub.pos(), message);
                }
                if let Some(level) = level
                    && let Some(number) = level_number(cx, level)
                {
                    levels.put(level.pos, name, Value::Number(number));
                }
                formats.push((name.to_owned(), line.pos()));
            }
            _ => cx
                .out
                .unknown(line, &["gzip", "zstd", "br", "minimum_length", "match"]),
        }
    }
    formats.extend(call.args.iter().map(|arg| (arg.text.clone(), arg.pos)));
    if formats.is_empty() {
        formats = vec![("zstd".to_owned(), pos), ("gzip".to_owned(), pos)];
    }
    let mut seen: Vec<String> = Vec::new();
    formats.retain(|(name, _)| {
        let is_new = !seen.contains(name);
        seen.push(name.clone());
        is_new
    });
    let list = formats
        .into_iter()
        .map(|(name, pos)| Value::text(name).at(pos))
        .collect();
    let mut all = Table::at(pos).with(pos, "formats", Value::List(list));
    if !levels.is_empty() {
        all.put(pos, "levels", Value::Table(levels));
    }
    all.entries.extend(table.entries);
    all.entries.extend(condition.entries);
    call.key("encode", Value::Table(all))
}

/// A level of zstd may have a name in Caddy.
fn level_number(cx: &Cx<'_>, level: &Token) -> Option<u64> {
    match level.text.as_str() {
        "fastest" => Some(1),
        "default" => Some(3),
        "better" => Some(7),
        "best" => Some(11),
        _ => cx.number(level),
    }
}
