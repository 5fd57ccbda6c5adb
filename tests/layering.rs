//! Keeps the picture in ARCHITECTURE.md true: who may import whom, and where a foreign crate may
//! be named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module and the row it stands in, the top row first.
fn rows(text: &str) -> BTreeMap<String, usize> {
    let picture = text
        .split("```text")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("ARCHITECTURE.md has a picture");
    let lines = picture.lines().filter(|line| !line.trim().is_empty());
    let mut rows = BTreeMap::new();
    for (row, line) in lines.enumerate() {
        for module in line.split_whitespace().skip(1) {
            rows.insert(module.to_owned(), row);
        }
    }
    rows
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

/// The module that a file belongs to: the folder or file below `src/`.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix("src").expect("a file below src");
    let mut parts = below.iter().map(|part| part.to_string_lossy().into_owned());
    let first = parts.next().expect("a first part");
    match (first.as_str(), parts.next()) {
        ("bin", Some(bin)) => bin.trim_end_matches(".rs").to_owned(),
        _ => first.trim_end_matches(".rs").to_owned(),
    }
}

/// A file that is only compiled for tests.
fn is_test(path: &Path) -> bool {
    let name = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    name == "tests"
        || name.ends_with("_tests")
        || name == "properties"
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Modules of this crate that a source text names, its unit tests left out.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        for prefix in ["crate::", "cutover::"] {
            for after in line.split(prefix).skip(1) {
                if let Some(names) = after.strip_prefix('{') {
                    let names = names.split(['}', ';']).next().unwrap_or_default();
                    found.extend(names.split(',').map(|name| first_name(name.trim())));
                } else {
                    found.insert(first_name(after));
                }
            }
        }
    }
    found.remove("");
    found
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

/// `module` may use `used`, which stands in its own row.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("config", "model"),
    ("metrics", "model"),
    ("metrics", "clock"),
];

#[test]
fn every_import_goes_down_the_picture() {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md");
    let rows = rows(&text);
    let mut wrong = Vec::new();
    for path in rust_files(Path::new("src")) {
        let module = module_of(&path);
        let is_test = path.components().any(|part| part.as_os_str() == "tests")
            || path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains("test"));
        if module == "lib" || is_test {
            continue;
        }
        let Some(row) = rows.get(&module) else {
            wrong.push(format!(
                "{}: `{module}` is not in the picture",
                path.display()
            ));
            continue;
        };
        let text = fs::read_to_string(&path).expect("a source file");
        for used in imports(&text) {
            let Some(used_row) = rows.get(&used) else {
                continue;
            };
            let allowed = EXCEPTIONS.contains(&(module.as_str(), used.as_str()));
            if used != module && used_row <= row && !allowed {
                wrong.push(format!("{}: `{module}` imports `{used}`", path.display()));
            }
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
    let folders: BTreeSet<String> = rust_files(Path::new("src"))
        .iter()
        .map(|path| module_of(path))
        .filter(|module| module != "lib")
        .collect();
    let drawn: BTreeSet<String> = rows.into_keys().collect();
    assert_eq!(drawn, folders, "the picture and src/ name the same modules");
}

/// A foreign crate and the modules that may name it.
const HOMES: [(&str, &[&str]); 8] = [
    ("pingora", &["proxy", "tls"]),
    ("hyper", &["admin", "http", "app"]),
    ("prometheus", &["metrics"]),
    ("rcgen", &["tls"]),
    ("hickory_resolver", &["http"]),
    ("x509_parser", &["tls"]),
    ("toml", &["config"]),
    ("clap", &["main", "proxyctl"]),
];

#[test]
fn every_foreign_crate_has_one_home() {
    let mut wrong = Vec::new();
    for path in rust_files(Path::new("src")) {
        let module = module_of(&path);
        if is_test(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        for (name, homes) in HOMES {
            let named = text.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && (line.starts_with(&format!("use {name}::"))
                        || line.contains(&format!(" {name}::")))
            });
            if named && !homes.contains(&module.as_str()) {
                wrong.push(format!("{}: `{name}` outside of {homes:?}", path.display()));
            }
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::{pool, switch::Driver};\nlet x = crate::clock::now();\n// crate::admin\n\
                #[cfg(test)]\nmod tests { use crate::proxy; }";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["clock", "pool", "switch"]);
}
