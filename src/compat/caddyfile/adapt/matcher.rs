//! `@name`, `/path` and `*`: which requests a directive is for.

use std::collections::HashMap;

use super::super::ast::Directive;
use super::super::lexer::{Quote, Token};
use super::super::source::Pos;
use super::cel;
use super::doc::{Table, Value};
use super::findings::Findings;

/// `private_ranges`, as Caddy has it.
pub(super) const PRIVATE_RANGES: [&str; 6] = [
    "192.168.0.0/16",
    "172.16.0.0/12",
    "10.0.0.0/8",
    "127.0.0.0/8",
    "fd00::/8",
    "::1",
];

/// The matchers that can be named at some point: those of the block and of the blocks around it.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    named: HashMap<String, Table>,
}

impl Scope {
    /// Adds the definitions of a block. Those of a block around it may be hidden by them, but no
    /// name may be given twice in one block.
    pub(super) fn define(&self, lines: &[Directive], out: &Findings) -> Self {
        let mut scope = self.clone();
        let mut here: HashMap<&str, Pos> = HashMap::new();
        for line in lines.iter().filter(|line| line.name().starts_with('@')) {
            if let Some(first) = here.insert(line.name(), line.pos()) {
                let message = format!("{} is defined in line {} already", line.name(), first.line);
                out.error(line.pos(), message);
            }
            let table = definition(line, out);
            scope.named.insert(line.name().to_owned(), table);
        }
        scope
    }

    /// The matcher that a directive begins with, and its other arguments.
    pub(super) fn split<'a>(
        &self,
        args: &'a [Token],
        out: &Findings,
    ) -> (Option<Table>, &'a [Token]) {
        match args.split_first() {
            Some((first, rest)) if is_matcher(first) => (self.find(first, out), rest),
            _ => (None, args),
        }
    }

    /// What a matcher word stands for; `None`: every request.
    pub(super) fn find(&self, word: &Token, out: &Findings) -> Option<Table> {
        if word.text.starts_with('/') {
            return Some(paths(std::slice::from_ref(word)));
        }
        let found = self.named.get(&word.text);
        if found.is_none() && word.text != "*" {
            out.error(word.pos, format!("there is no matcher {}", word.text));
        }
        found.cloned().filter(|table| !table.is_empty())
    }
}

/// Whether a first argument is a matcher.
pub(super) fn is_matcher(word: &Token) -> bool {
    word.text == "*" || word.text.starts_with(['/', '@'])
}

fn paths(words: &[Token]) -> Table {
    let pos = words.first().map_or(Pos::default(), |word| word.pos);
    Table::at(pos).with(pos, "path", texts(words))
}

fn texts(words: &[Token]) -> Value {
    let text = |word: &Token| Value::text(word.text.clone()).at(word.pos);
    Value::List(words.iter().map(text).collect())
}

/// `@name matcher args...` or `@name { ... }` or `` @name `expression` ``.
fn definition(line: &Directive, out: &Findings) -> Table {
    let name = line.name().trim_start_matches('@');
    match line.args() {
        [] => set(line.lines(), name, out),
        [word] if word.quote != Quote::None => cel::parse(word, name, out).unwrap_or_default(),
        words => {
            let one = Directive {
                words: words.to_vec(),
                block: line.block.clone(),
                comments: Vec::new(),
            };
            set(std::slice::from_ref(&one), name, out)
        }
    }
}

/// Matchers that must all hold. The same one on several lines counts as one with all their values.
fn set(lines: &[Directive], name: &str, out: &Findings) -> Table {
    let mut all = Table::default();
    let mut merged: Vec<Directive> = Vec::new();
    for line in lines {
        let same = |other: &&mut Directive| other.name() == line.name();
        let can_merge = matches!(
            line.name(),
            "path" | "host" | "method" | "query" | "remote_ip" | "client_ip"
        );
        match merged.iter_mut().find(same) {
            Some(first) if can_merge => first.words.extend_from_slice(line.args()),
            _ => merged.push(line.clone()),
        }
    }
    let mut headers: Option<Table> = None;
    let mut vars: Vec<(Token, Vec<Token>)> = Vec::new();
    for line in &merged {
        match line.name() {
            "header" => header(
                line,
                headers.get_or_insert_with(|| Table::at(line.pos())),
                out,
            ),
            "vars" => match line.args() {
                [field, values @ ..] if !values.is_empty() => {
                    match vars.iter_mut().find(|(known, _)| known.text == field.text) {
                        Some((_, known)) => known.extend_from_slice(values),
                        None => vars.push((field.clone(), values.to_vec())),
                    }
                }
                _ => out.error(line.pos(), "expected `vars NAME VALUE...`"),
            },
            _ => {
                if let Some(table) = one(line, name, out) {
                    all = both(all, table);
                }
            }
        }
        if line.name() != "not" && line.name() != "file" {
            out.no_block(line);
        }
    }
    if let Some(headers) = headers.filter(|headers| !headers.is_empty()) {
        let pos = headers.origin.0.unwrap_or_default();
        all = both(
            all,
            Table::at(pos).with(pos, "header", Value::Table(headers)),
        );
    }
    if let Some(pos) = vars.first().map(|(field, _)| field.pos) {
        let items = vars.iter().map(|(field, values)| {
            let value = Value::text(variable(&field.text));
            let item = Table::at(field.pos).with(field.pos, "value", value);
            Value::Table(item.with(field.pos, "is", texts(values)))
        });
        let items = Value::List(items.collect());
        all = both(all, Table::at(pos).with(pos, "vars", items));
    }
    all
}

/// A name of a variable as a template; a placeholder stands for itself.
fn variable(name: &str) -> String {
    if name.starts_with('{') && name.ends_with('}') {
        name.to_owned()
    } else {
        format!("{{vars.{name}}}")
    }
}

fn header(line: &Directive, into: &mut Table, out: &Findings) {
    let pos = line.pos();
    match line.args() {
        [field] if field.text.starts_with('!') && field.text.len() > 1 => {
            into.put(
                pos,
                field.text[1..].to_owned(),
                Value::text("!").at(field.pos),
            );
        }
        [field, value] if !field.text.starts_with('!') => {
            let value = Value::text(value.text.clone()).at(value.pos);
            let known = into
                .entries
                .iter_mut()
                .find(|entry| entry.key.eq_ignore_ascii_case(&field.text));
            match known {
                Some(entry) => match &mut entry.value {
                    Value::List(values) => values.push(value),
                    other => *other = Value::List(vec![other.clone(), value]),
                },
                None => into.put(field.pos, field.text.clone(), Value::List(vec![value])),
            }
        }
        _ => out.error(pos, "expected `header NAME VALUE` or `header !NAME`"),
    }
}

fn one(line: &Directive, name: &str, out: &Findings) -> Option<Table> {
    let (pos, args) = (line.pos(), line.args());
    let single = |key: &str, value: Value| Some(Table::at(pos).with(pos, key, value));
    let needs_one = |form: &str| {
        if args.is_empty() {
            out.error(pos, format!("expected `{form}`"));
        }
        !args.is_empty()
    };
    match line.name() {
        "path" if needs_one("path PATH...") => single("path", texts(args)),
        "host" if needs_one("host NAME...") => single("host", texts(args)),
        "method" if needs_one("method METHOD...") => single("method", texts(args)),
        "path" | "host" | "method" => None,
        "protocol" => {
            let [protocol] = out.args(line, args, "protocol NAME")?;
            single(
                "protocol",
                Value::text(protocol.text.clone()).at(protocol.pos),
            )
        }
        "remote_ip" | "client_ip" => ip(line, out),
        "path_regexp" => match args {
            [pattern] => single("path_regexp", pattern_of(pos, name, pattern)),
            [name, pattern] => single("path_regexp", pattern_of(pos, &name.text, pattern)),
            _ => {
                out.error(pos, "expected `path_regexp [NAME] EXPRESSION`");
                None
            }
        },
        "header_regexp" | "vars_regexp" => {
            let (name, field, pattern) = match args {
                [field, pattern] => (name, field, pattern),
                [name, field, pattern] => (name.text.as_str(), field, pattern),
                _ => {
                    let form = format!("expected `{} [NAME] FIELD EXPRESSION`", line.name());
                    out.error(pos, form);
                    return None;
                }
            };
            let item = Table::at(pos).with(pos, "name", Value::text(name));
            let item = match line.name() {
                "header_regexp" => item.with(field.pos, "field", Value::text(field.text.clone())),
                _ => item.with(field.pos, "value", Value::text(variable(&field.text))),
            };
            let pattern = Value::text(pattern.text.clone()).at(pattern.pos);
            let item = item.with(pos, "pattern", pattern);
            single(line.name(), Value::List(vec![Value::Table(item)]))
        }
        "query" => query(line, out),
        "expression" => expression(line, name, out),
        "file" => Some(file(line, out)),
        "not" => Some(not(line, name, out)),
        "tls" | "fs" => {
            out.error(
                pos,
                format!("the matcher {} has no equivalent", line.name()),
            );
            None
        }
        _ => {
            let known = [
                "path",
                "path_regexp",
                "host",
                "header",
                "header_regexp",
                "method",
                "query",
                "remote_ip",
                "client_ip",
                "protocol",
                "not",
                "vars",
                "vars_regexp",
                "file",
                "expression",
            ];
            out.unknown(line, &known);
            None
        }
    }
}

fn pattern_of(pos: Pos, name: &str, pattern: &Token) -> Value {
    let pattern = Value::text(pattern.text.clone()).at(pattern.pos);
    let table = Table::at(pos).with(pos, "name", Value::text(name));
    Value::Table(table.with(pos, "pattern", pattern))
}

fn ip(line: &Directive, out: &Findings) -> Option<Table> {
    let (mut key, mut args) = (line.name(), line.args());
    if let Some((first, rest)) = args.split_first()
        && first.text == "forwarded"
    {
        // What `remote_ip forwarded` meant is `client_ip` since Caddy 2.7.
        (key, args) = ("client_ip", rest);
    }
    let ranges = ranges(args);
    if ranges.is_empty() {
        out.error(line.pos(), format!("expected `{key} NETWORK...`"));
        return None;
    }
    Some(Table::at(line.pos()).with(line.pos(), key, Value::List(ranges)))
}

/// Networks, with `private_ranges` written out.
pub(super) fn ranges(args: &[Token]) -> Vec<Value> {
    let mut ranges = Vec::new();
    for arg in args {
        match arg.text.as_str() {
            "private_ranges" => {
                ranges.extend(PRIVATE_RANGES.map(|net| Value::text(net).at(arg.pos)));
            }
            text => ranges.push(Value::text(network(text)).at(arg.pos)),
        }
    }
    ranges
}

/// Without address bits below the prefix, which Caddy ignores and we refuse.
fn network(text: &str) -> String {
    match text.parse::<ipnet::IpNet>() {
        Ok(net) => net.trunc().to_string(),
        Err(_) => text.to_owned(),
    }
}

/// Each parameter must have one of its values.
fn query(line: &Directive, out: &Findings) -> Option<Table> {
    let mut parameters: Vec<(&str, Vec<Value>)> = Vec::new();
    for arg in line.args().iter().filter(|arg| !arg.text.is_empty()) {
        let Some((name, value)) = arg.text.split_once('=') else {
            out.error(arg.pos, "expected `query NAME=VALUE...`");
            continue;
        };
        let value = Value::text(value).at(arg.pos);
        match parameters.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => parameters.push((name, vec![value])),
        }
    }
    let pos = line.pos();
    if parameters.is_empty() {
        if line.args().iter().any(|arg| !arg.text.is_empty()) {
            return None;
        }
        // `query ""`: no query at all.
        let none = Table::at(pos)
            .with(pos, "value", Value::text("{query}"))
            .with(pos, "is", Value::texts([""]));
        return Some(Table::at(pos).with(pos, "vars", Value::List(vec![Value::Table(none)])));
    }
    let tables = parameters.into_iter().map(|(name, mut values)| {
        let value = match values.len() {
            1 => values.remove(0),
            _ => Value::List(values),
        };
        let inside = Table::at(pos).with(pos, name, value);
        Table::at(pos).with(pos, "query", Value::Table(inside))
    });
    tables.reduce(both)
}

fn expression(line: &Directive, name: &str, out: &Findings) -> Option<Table> {
    let (first, rest) = line.args().split_first().or_else(|| {
        out.error(line.pos(), "expected `expression EXPRESSION`");
        None
    })?;
    let mut whole = first.clone();
    if !rest.is_empty() && first.quote != Quote::None {
        whole.text = format!("{:?}", first.text);
    }
    for word in rest {
        whole.text.push(' ');
        // Quotes that held a word together are quotes of the expression.
        match word.quote {
            Quote::None => whole.text.push_str(&word.text),
            _ => whole.text.push_str(&format!("{:?}", word.text)),
        }
    }
    cel::parse(&whole, name, out)
}

fn file(line: &Directive, out: &Findings) -> Table {
    let mut files = line.args().to_vec();
    let mut table = Table::at(line.pos());
    for sub in line.lines() {
        let (pos, args) = (sub.pos(), sub.args());
        match sub.name() {
            "try_files" => files.extend_from_slice(args),
            "root" | "try_policy" => {
                if let Some([value]) = out.args(sub, args, &format!("{} VALUE", sub.name())) {
                    let key = if sub.name() == "root" {
                        "root"
                    } else {
                        "policy"
                    };
                    let text = policy(&value.text);
                    table.put(pos, key, Value::text(text).at(value.pos));
                }
            }
            "split_path" => table.put(pos, "split", texts(args)),
            _ => out.unknown(sub, &["root", "try_files", "try_policy", "split_path"]),
        }
    }
    let tried = match files.is_empty() {
        true => Value::texts(["{path}"]),
        false => texts(&files),
    };
    table.put(line.pos(), "try", tried);
    Table::at(line.pos()).with(line.pos(), "file", Value::Table(table))
}

/// Our word for a policy of Caddy's.
pub(super) fn policy(name: &str) -> &str {
    match name {
        "first_exist_fallback" => "first_exist",
        other => other,
    }
}

fn not(line: &Directive, name: &str, out: &Findings) -> Table {
    let inside = match line.args() {
        [] => set(line.lines(), name, out),
        words => {
            let one = Directive {
                words: words.to_vec(),
                block: line.block.clone(),
                comments: Vec::new(),
            };
            set(std::slice::from_ref(&one), name, out)
        }
    };
    negate(inside, line.pos())
}

/// The opposite.
pub(super) fn negate(mut table: Table, pos: Pos) -> Table {
    // None of the alternatives.
    if table.entries.len() == 1 && table.entries[0].key == "any" {
        table.entries[0].key = "not".to_owned();
        return table;
    }
    if let [entry] = table.entries.as_slice()
        && entry.key == "not"
        && let Value::List(list) = &entry.value
        && let [Value::Table(inside)] = list.as_slice()
    {
        return inside.clone();
    }
    Table::at(pos).with(pos, "not", Value::List(vec![Value::Table(table)]))
}

/// Both must hold. Where one condition cannot stand beside the other in a table, the second becomes
/// the opposite of its opposite.
pub(super) fn both(a: Table, b: Table) -> Table {
    let pos = b.origin.0.or(a.origin.0).unwrap_or_default();
    if a.is_empty() || b.is_empty() {
        return if a.is_empty() { b } else { a };
    }
    let (mut a, b) = (without_any(a, pos), without_any(b, pos));
    let mut left = Table::at(pos);
    for entry in b.entries {
        let Some(known) = a.entries.iter_mut().find(|known| known.key == entry.key) else {
            a.entries.push(entry);
            continue;
        };
        let adds = matches!(
            entry.key.as_str(),
            "not" | "vars" | "header_regexp" | "vars_regexp"
        );
        match (&mut known.value, entry.value) {
            (Value::List(all), Value::List(more)) if adds => all.extend(more),
            (Value::Table(all), Value::Table(more))
                if entry.key == "header"
                    && more.entries.iter().all(|e| all.find(&e.key).is_none()) =>
            {
                all.entries.extend(more.entries);
            }
            (_, value) => left.entries.push(super::doc::Entry { value, ..entry }),
        }
    }
    a.origin = super::doc::Origin(a.origin.0.or(Some(pos)));
    if left.is_empty() {
        return a;
    }
    let opposite = Table::at(pos).with(pos, "not", Value::List(vec![Value::Table(left)]));
    let twice = Table::at(pos).with(pos, "not", Value::List(vec![Value::Table(opposite)]));
    both(a, twice)
}

/// Alternatives stand alone in a table: beside others they are the opposite of none of them.
fn without_any(table: Table, pos: Pos) -> Table {
    match table.entries.as_slice() {
        [entry] if entry.key == "any" => {
            let none = negate(table, pos);
            Table::at(pos).with(pos, "not", Value::List(vec![Value::Table(none)]))
        }
        _ => table,
    }
}

/// One of them must hold.
pub(super) fn either(a: Table, b: Table, pos: Pos) -> Table {
    let alternatives = |mut table: Table| {
        let is_any = table.entries.len() == 1 && table.entries[0].key == "any";
        match table.entries.pop() {
            Some(entry) if is_any => match entry.value {
                Value::List(list) => list,
                _ => Vec::new(),
            },
            last => {
                table.entries.extend(last);
                vec![Value::Table(table)]
            }
        }
    };
    let mut list = alternatives(a);
    list.extend(alternatives(b));
    Table::at(pos).with(pos, "any", Value::List(list))
}
