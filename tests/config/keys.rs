//! The list of keys, the parser, `config/full.toml` and `docs/config.md` say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cutover::config::schema::{Key, TABLES, Table};
use cutover::config::{Env, load_str_with};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("readable")
}

/// Path of a key in a file: `site` and `notify` are lists, a service has a name.
fn example(table: &Table, key: &Key) -> String {
    let path = table.path.replace("NAME", "web");
    match path.is_empty() {
        true => key.name.to_owned(),
        false => format!("{path}.{}", key.name),
    }
}

fn keys() -> impl Iterator<Item = (&'static Table, &'static Key)> {
    (TABLES.iter()).flat_map(|table| table.keys.iter().map(move |key| (*table, key)))
}

/// `a.b.c = value` with `site`, `route` and `notify` as lists.
fn file_with(path: &str, value: &str) -> String {
    let (tables, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut text = format!("{key} = {value}");
    for table in tables.rsplit('.').filter(|table| !table.is_empty()) {
        let is_list = matches!(table, "site" | "route" | "notify");
        text = match is_list {
            true => format!("{table} = [{{ {text} }}]"),
            false => format!("{table} = {{ {text} }}"),
        };
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
        let shown = path
            .replace("site.route.", "site[0].route[0].")
            .replace("site.", "site[0].")
            .replace("notify.", "notify[0].");
        let complaint = format!(": {shown}: ");
        assert!(
            said.lines()
                .any(|line| line.contains(&complaint) && !line.contains("unknown key")),
            "a date in {path} was taken: {said}"
        );
    }
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
            "notify" | "site.client_auth" | "site.hsts" | "acme.fallback" => continue,
            _ => format!("{base}[{path}]\n{line}"),
        };
        let mut config = load_str_with("f", &text, &Env::process())
            .unwrap_or_else(|errors| panic!("{text}: {errors}"));
        config.inactive.clone_from(&plain.inactive);
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
        if path == "service.NAME.rollback" {
            continue;
        }
        let values: Vec<_> = (found.iter())
            .filter(|(known, _)| *known == path)
            .map(|(_, value)| value.clone())
            .collect();
        assert!(!values.is_empty(), "{path} is missing");
        if !key.default.is_empty() && !key.is_table() {
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
    let known: BTreeSet<_> = keys()
        .filter(|(_, key)| !key.is_table() || key.name == "json")
        .map(|(table, key)| {
            let heading = match table.path {
                "" => "The top of the file",
                path => path,
            };
            [heading, key.name, key.form, key.default].map(str::to_owned)
        })
        .collect();
    let documented = documented();
    let missing: Vec<_> = known.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in docs/config.md: {missing:#?}\nnot in the schema: {unknown:#?}"
    );
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
