//! The list of keys, the parser, `config/full.toml` and `docs/config.md` say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cutover::config::schema::handlers::HANDLERS;
use cutover::config::schema::{Key, TABLES, Table};
use cutover::config::{Env, load_str_with};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("readable")
}

/// Path of a key in a file: a service has a name, and an answer is copied where there is one.
fn example(table: &Table, key: &Key) -> String {
    let path = table.path.replace("NAME", "web").replace(
        "site.handle.copy_response",
        "site.handle.proxy.on_response.handle.copy_response",
    );
    match path.is_empty() {
        true => key.name.to_owned(),
        false => format!("{path}.{}", key.name),
    }
}

fn keys() -> impl Iterator<Item = (&'static Table, &'static Key)> {
    (TABLES.iter()).flat_map(|table| table.keys.iter().map(move |key| (*table, key)))
}

/// Whether sites and routes share a key with steps; it is described once.
fn is_shared(table: &Table, key: &Key) -> bool {
    ["site", "site.route", "site.handle"].contains(&table.path)
        && HANDLERS.iter().any(|shared| shared.name == key.name)
}

/// Whether a path leads to a list of tables. What is said of a site holds for its steps.
fn is_list(path: &str) -> bool {
    let of_site = path.replacen("site.handle.", "site.", 1);
    let form = |path: &str| {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        keys()
            .find(|(known, key)| known.path == table && key.name == name)
            .map(|(_, key)| key.form)
    };
    form(path).or_else(|| form(&of_site)) == Some("list of tables")
}

/// `a.b.c = value` as nested tables and lists of them, with what they need beside it.
fn file_with(path: &str, value: &str) -> String {
    let (tables, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut text = format!("{key} = {value}");
    let mut rest = tables;
    while !rest.is_empty() {
        let (before, table) = rest.rsplit_once('.').unwrap_or(("", rest));
        text = match is_list(rest) {
            true => format!("{table} = [{{ {text} }}]"),
            false => format!("{table} = {{ {text} }}"),
        };
        text.push_str(match table {
            "match" => ", respond = 204",
            "on_response" => ", service = \"web\"",
            _ => "",
        });
        rest = before;
    }
    text
}

#[test]
fn the_parser_reads_every_key_of_the_schema() {
    for (table, key) in keys() {
        let path = example(table, key);
        let text = file_with(&path, "1979-05-27");
        let said = load_str_with("f", &text, &Env::from_iter([("", "")]))
            .err()
            .map_or_else(String::new, |errors| errors.to_string());
        let mut shown = String::new();
        let mut so_far = String::new();
        let parts: Vec<_> = path.split('.').collect();
        for (n, part) in parts.iter().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            so_far = format!("{so_far}{dot}{part}");
            shown = format!("{shown}{dot}{part}");
            if n + 1 < parts.len() && is_list(&so_far) {
                shown.push_str("[0]");
            }
        }
        let complaint = format!(": {shown}: ");
        assert!(
            said.lines()
                .any(|line| line.contains(&complaint) && !line.contains("unknown key")),
            "a date in {path} was taken: {said}"
        );
    }
}

/// What a table of handlers needs beside the key in question.
fn needs(table: &str) -> &'static str {
    match table {
        "site.concurrency" | "site.rate_limit" => "requests = 5",
        "site.cors" => "origins = \"https://a.test\"",
        "site.basic_auth" => "users = { a = \"$argon2id$***\" }",
        "site.forward_auth" => "service = \"web\"",
        "site.request_header.replace"
        | "site.rewrite.replace"
        | "site.rewrite.path_regexp"
        | "site.rewrite.query.replace" => "find = \"x\"",
        "site.response_header" => "set = { a = \"b\" }",
        "site.try_files" => "files = \"/a\"",
        "site.redirect" => "to = \"/x\"",
        "site.handle.match.path_regexp" => "pattern = \"x\"",
        "site.handle.match.header_regexp" => "field = \"a\", pattern = \"x\"",
        "site.handle.match.vars_regexp" => "value = \"{host}\", pattern = \"x\"",
        "site.handle.log" => "append = { a = \"b\" }",
        "site.route" => "path = \"/x\", service = \"web\"",
        "site.handle" => "respond = 204",
        _ => "",
    }
}

/// A file with one table of handlers.
fn file_of(table: &Table, inside: &str) -> String {
    let path = table.path.replace("site.handle.", "site.");
    let path = match path.as_str() {
        "site.route" | "site.handle" => path,
        _ => path.replace("site.", "site.handle."),
    };
    let path = path.replace(
        "site.handle.copy_response",
        "site.handle.proxy.on_response.handle.copy_response",
    );
    let inside = match is_list(&path) {
        true => format!("[{{ {inside} }}]"),
        false => format!("{{ {inside} }}"),
    };
    let text = file_with(&path, &inside);
    let site = text.replacen(
        "site = [{ ",
        "site = [{ hosts = [\"a.test\"], service = \"web\", ",
        1,
    );
    format!("{site}\n[service.web]\nblue = [\"web:1\"]\n")
}

#[test]
fn the_defaults_of_handlers_are_those_of_the_parser() {
    let is_handler = |table: &Table| table.path.starts_with("site.");
    let others = [
        "site.tls",
        "site.client_auth",
        "site.hsts",
        "site.access_log",
        "site.encode.levels",
    ];
    let with_default = keys()
        .filter(|(table, key)| is_handler(table) && !key.default.is_empty())
        .filter(|(table, _)| !others.contains(&table.path));
    let mut compared = 0;
    for (table, key) in with_default {
        // In a step `false` does nothing, which is an error.
        if table.path == "site.handle" {
            continue;
        }
        let load = |inside: &str| {
            let text = file_of(table, inside);
            let mut config = load_str_with("f", &text, &Env::process())
                .unwrap_or_else(|errors| panic!("{text}: {errors}"));
            config.warnings.clear();
            config
        };
        let needed = needs(table.path);
        let separator = if needed.is_empty() { "" } else { ", " };
        let written = format!("{needed}{separator}{} = {}", key.name, key.default);
        assert_eq!(load(needed), load(&written), "{}.{}", table.path, key.name);
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_parser() {
    let base = "[[site]]\nhosts = [\"example.com\"]\nservice = \"web\"\n\
                [service.web]\nblue = [\"web:1\"]\n[service.web.health]\n";
    let plain = load_str_with("f", base, &Env::process()).expect("valid");
    for (table, key) in keys().filter(|(_, key)| !key.default.is_empty()) {
        let path = table.path.replace("NAME", "web");
        let line = format!("{} = {}\n", key.name, key.default);
        let text = match path.as_str() {
            "" => format!("{line}{base}"),
            "site" => base.replace("service = \"web\"\n", &format!("service = \"web\"\n{line}")),
            "service.web" => base.replace("blue =", &format!("{line}blue =")),
            "service.web.health" => format!("{base}{line}"),
            // Without its other key it is an error.
            "log.access.rotate" | "notify" | "acme.fallback" => continue,
            // Lists, with keys that each of them needs.
            "deploy.smoke" | "job" | "job.success" => continue,
            path if path.starts_with("site.") => continue,
            _ => format!("{base}[{path}]\n{line}"),
        };
        let mut config = load_str_with("f", &text, &Env::process())
            .unwrap_or_else(|errors| panic!("{text}: {errors}"));
        config.warnings.clone_from(&plain.warnings);
        if path == "docker" {
            assert_eq!(
                config.docker.take(),
                Some(cutover::config::Docker::default())
            );
        }
        assert_eq!(config, plain, "{path}.{}", key.name);
    }
}

/// Adds every `table.key = value` below `value`, with `NAME` for the names of services.
fn collect(path: &str, value: &toml::Value, out: &mut BTreeSet<(String, String)>) {
    let join = |key: &str| match path {
        "" => key.to_owned(),
        "service" => "service.NAME".to_owned(),
        "site.error" | "site.handle.handle" | "site.handle.proxy.on_response.handle" => {
            format!("site.handle.{key}")
        }
        _ => format!("{path}.{key}"),
    };
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                out.insert((join(key), value.to_string()));
                collect(&join(key), value, out);
            }
        }
        toml::Value::Array(items) => {
            for item in items {
                collect(path, item, out);
            }
        }
        _ => {}
    }
}

#[test]
fn the_full_example_has_every_key_with_its_default() {
    let uncommented: Vec<_> = read("config/full.toml")
        .lines()
        .map(|line| {
            let inside = line.strip_prefix("# ").unwrap_or(line);
            let word = inside.split(' ').next().unwrap_or_default();
            let is_key = inside.split(' ').nth(1) == Some("=")
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let is_table = inside.starts_with('[');
            let wanted = is_key || is_table;
            if wanted {
                inside.to_owned()
            } else {
                String::new()
            }
        })
        .collect();
    let text = uncommented.join("\n");
    let parsed: toml::Table = text.parse().expect("TOML");
    let mut found = BTreeSet::new();
    collect("", &toml::Value::Table(parsed), &mut found);
    for (table, key) in keys() {
        let path = match table.path {
            "" => key.name.to_owned(),
            path => format!("{path}.{}", key.name),
        };
        // Described once, and not again for each place where it may stand.
        let again = is_shared(table, key) && table.path != "site";
        if path == "service.NAME.rollback" || again {
            continue;
        }
        let in_step = path.replacen("site.", "site.handle.", 1);
        let values: Vec<_> = (found.iter())
            .filter(|(known, _)| *known == path || *known == in_step)
            .map(|(_, value)| value.clone())
            .collect();
        assert!(!values.is_empty(), "{path} is missing");
        let only_tables = values.iter().all(|value| value.starts_with('{'));
        if !key.default.is_empty() && !only_tables {
            let default: toml::Table = format!("x = {}", key.default).parse().expect("TOML");
            let default = default["x"].to_string();
            assert!(
                values.contains(&default),
                "{path}: {values:?}, not {default}"
            );
        }
    }
}

/// Rows of the tables of the documentation: heading, key, form, default.
fn documented() -> BTreeSet<[String; 4]> {
    let mut heading = String::new();
    let mut rows = BTreeSet::new();
    for line in read("docs/config.md").lines() {
        if line.starts_with('#') {
            heading = line.trim_matches(['#', ' ', '`', '[', ']']).to_owned();
        }
        let cells: Vec<_> = line.split(" | ").map(str::trim).collect();
        let key = cells.first().and_then(|cell| cell.strip_prefix("| `"));
        if let (Some(key), [_, form, default, ..]) = (key, &cells[..]) {
            let bare = |cell: &str| cell.trim_matches('`').to_owned();
            rows.insert([heading.clone(), bare(key), bare(form), bare(default)]);
        }
    }
    rows
}

#[test]
fn the_documentation_names_every_key_with_its_form_and_default_and_no_other() {
    let row = |(table, key): (&Table, &Key)| {
        let heading = match table.path {
            "" => "The top of the file",
            _ if is_shared(table, key) => "Handlers",
            path => path,
        };
        [heading, key.name, key.form, key.default].map(str::to_owned)
    };
    let known: BTreeSet<_> = keys().map(row).collect();
    // What is a table may have a section instead of a row.
    let needed: BTreeSet<_> = keys()
        .filter(|(_, key)| !key.is_table() || key.name == "json")
        .map(row)
        .collect();
    let documented = documented();
    let missing: Vec<_> = needed.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in docs/config.md: {missing:#?}\nnot in the schema: {unknown:#?}"
    );
    let text = read("docs/config.md");
    for table in TABLES.iter().filter(|table| !table.path.is_empty()) {
        let heading = |line: &str| line.trim_matches(['#', ' ', '`', '[', ']']) == table.path;
        assert!(
            text.lines()
                .any(|line| line.starts_with('#') && heading(line)),
            "no section [{}]",
            table.path
        );
    }
}

#[test]
fn the_examples_of_the_documentation_lack_nothing_but_their_surroundings() {
    let text = read("docs/config.md");
    let blocks: Vec<_> = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() > 20, "{} examples", blocks.len());
    let surroundings = [
        "there is no service",
        "leads nowhere",
        "has no hosts",
        "has no upstreams",
    ];
    let secret = "cannot be read";
    for block in blocks {
        // A part of a site.
        let is_part = ["[site.", "[[site."]
            .iter()
            .any(|part| block.starts_with(part));
        let site = if is_part {
            "[[site]]\nhosts = [\"example.com\"]\n"
        } else {
            ""
        };
        let block = &format!("{site}{block}");
        let Err(errors) = load_str_with("f", block, &Env::from_iter([("", "")])) else {
            continue;
        };
        for error in &errors.0 {
            let lacks = |what: &&str| error.message.contains(what);
            let is_fine = surroundings.iter().chain([&secret]).any(lacks);
            assert!(is_fine, "{error}\n{block}");
        }
    }
}
