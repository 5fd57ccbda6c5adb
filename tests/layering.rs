//! Keeps ARCHITECTURE.md true: the picture of who may import whom, the table of where a foreign
//! crate may be named, and that both speak of the modules that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_import_goes_down_the_picture() {
    let picture = Picture::parse(&architecture());
    let mut wrong = Vec::new();
    for file in sources() {
        for used in file.imports() {
            if let Err(why) = picture.allows(&file.module, &used) {
                wrong.push(format!("{}: {why}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_picture_and_the_sources_name_the_same_modules() {
    let drawn: BTreeSet<String> = Picture::parse(&architecture()).rows.into_keys().collect();
    let there: BTreeSet<String> = sources().into_iter().map(|file| file.module).collect();
    let missing: Vec<_> = there.difference(&drawn).collect();
    let stale: Vec<_> = drawn.difference(&there).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "\nin src/ but not in ARCHITECTURE.md's picture: {missing:?}\n\
         in the picture but not in src/: {stale:?}\n"
    );
}

#[test]
fn every_foreign_crate_stays_at_home() {
    let homes = homes(&architecture());
    let mut wrong = Vec::new();
    for file in sources() {
        for (name, modules) in &homes {
            if names_crate(&file.code, name) && !modules.contains(&file.module) {
                let path = file.path.display();
                wrong.push(format!(
                    "{path}: `{name}` is named only in {modules:?}, not in `{}`",
                    file.module
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The block of ARCHITECTURE.md that opens with the row of the binaries.
#[derive(Debug)]
struct Picture {
    /// Row of each module, the top row first.
    rows: BTreeMap<String, usize>,
    /// What a module may import beside the rows below.
    also: BTreeMap<String, BTreeSet<String>>,
    /// All that a module may import.
    only: BTreeMap<String, BTreeSet<String>>,
}

impl Picture {
    fn parse(text: &str) -> Self {
        let block = text.split("```text").nth(1).expect("a ```text block");
        let block = block.split("```").next().expect("its end");
        let mut picture = Self {
            rows: BTreeMap::new(),
            also: BTreeMap::new(),
            only: BTreeMap::new(),
        };
        for (row, line) in block.lines().enumerate() {
            let mut words = line.split_whitespace().map(str::to_owned);
            let rules = match words.next().as_deref() {
                None => continue,
                Some("also") => &mut picture.also,
                Some("only") => &mut picture.only,
                Some(_) => {
                    picture.rows.extend(words.map(|module| (module, row)));
                    continue;
                }
            };
            let module = words.next().expect("a module");
            assert_eq!(words.next().as_deref(), Some("->"), "in `{line}`");
            rules.entry(module).or_default().extend(words);
        }
        let mentioned = picture.also.iter().chain(&picture.only);
        for (module, used) in mentioned {
            for name in used.iter().chain([module]) {
                let drawn = picture.rows.contains_key(name);
                assert!(drawn, "`{name}` has a rule but stands in no row");
            }
        }
        picture
    }

    /// Whether `module` may import `used`; a name that is no module, such as `Result`, is fine.
    fn allows(&self, module: &str, used: &str) -> Result<(), String> {
        let (Some(row), Some(used_row)) = (self.rows.get(module), self.rows.get(used)) else {
            return Ok(());
        };
        let listed = |rules: &BTreeMap<String, BTreeSet<String>>| {
            rules.get(module).map(|allowed| allowed.contains(used))
        };
        if module == used || listed(&self.also) == Some(true) {
            return Ok(());
        }
        match listed(&self.only) {
            Some(true) => Ok(()),
            Some(false) => Err(format!("`only` lets no `{used}` into `{module}`")),
            None if used_row > row => Ok(()),
            None if used_row == row => Err(format!("`{module}` imports its neighbour `{used}`")),
            None => Err(format!("`{module}` imports `{used}` from a row above")),
        }
    }
}

/// Crate and the modules that may name it, from the table below the heading.
fn homes(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let heading = "## One foreign crate, one home";
    let section = text.split(heading).nth(1).expect("the section of homes");
    let section = section.split("\n## ").next().expect("its end");
    let mut homes = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').skip(1).map(quoted);
        let (crates, modules) = (cells.next(), cells.next().expect("two cells"));
        for name in crates.expect("two cells") {
            homes.insert(name, modules.clone());
        }
    }
    assert!(!homes.is_empty(), "the table of homes has no rows");
    homes
}

/// The texts between backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn architecture() -> String {
    fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md")
}

/// A source file that is compiled into the programs.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// Folder or file below `src/`, or the name of a binary below `src/bin/`.
    module: String,
    /// How many `super` lead from its top level to the root of the crate.
    depth: usize,
    /// Its text without comments, literals and whatever is only compiled for tests.
    code: String,
}

impl Source {
    /// First path segments that it takes from the root of the crate: modules, or other names.
    fn imports(&self) -> BTreeSet<String> {
        let is_binary = self.module == "main" || self.path.starts_with("src/bin");
        // In a binary `crate::` is the binary itself.
        let mut roots = vec![if is_binary { "cutover" } else { "crate" }.to_owned()];
        if !is_binary {
            roots.push(vec!["super"; self.depth].join("::"));
        }
        roots
            .iter()
            .flat_map(|root| paths_from(&self.code, root))
            .collect()
    }
}

/// First segments after `root::`, braces opened: `root::{a::b, c}` gives `a` and `c`.
fn paths_from(code: &str, root: &str) -> BTreeSet<String> {
    let root = format!("{root}::");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(&root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| is_word(c) || c == ':') {
            continue;
        }
        let after = code[at + root.len()..].trim_start();
        match after.strip_prefix('{') {
            Some(list) => found.extend(top_level(list).iter().map(|item| first_word(item))),
            None => {
                found.insert(first_word(after));
            }
        }
    }
    found.remove("");
    found
}

/// The items of a brace list up to its closing brace, inner lists left whole.
fn top_level(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0_usize;
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(String::new());
                continue;
            }
            _ => {}
        }
        items.last_mut().expect("one at least").push(c);
    }
    items
}

fn first_word(text: &str) -> String {
    let text = text.trim_start();
    text.chars().take_while(|c| is_word(*c)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the code has a path that starts at the crate `name`, or a crate that is called after
/// it (`pingora_core` for `pingora`).
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].trim_end();
        let path_starts = !code[..at].chars().next_back().is_some_and(is_word)
            && (!before.ends_with("::") || before.ends_with(" ::"));
        let rest = code[at + name.len()..].trim_start_matches(is_word);
        let whole = rest.starts_with("::") || before.ends_with("use") && rest.starts_with(';');
        let longer = code[at + name.len()..].chars().next().is_some_and(is_word);
        path_starts && whole && (!longer || code[at + name.len()..].starts_with('_'))
    })
}

/// Every file below `src/` but the crate's root, without those that only tests compile.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(Path::new("src"), &mut paths);
    let texts: BTreeMap<PathBuf, String> = paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file");
            (path, without_literals(&text))
        })
        .collect();
    let test_modules: BTreeSet<PathBuf> = texts
        .iter()
        .flat_map(|(path, code)| {
            let items = test_items(code).into_iter();
            items.filter_map(|(start, end)| test_module(path, &code[start..end]))
        })
        .collect();
    let is_test = |path: &Path| {
        let module = folder_of(path);
        module.ancestors().any(|part| test_modules.contains(part))
    };
    texts
        .iter()
        .filter(|(path, _)| !path.ends_with("src/lib.rs") && !is_test(path))
        .map(|(path, code)| {
            let (module, depth) = place(path);
            Source {
                path: path.clone(),
                module,
                depth,
                code: without_test_items(code),
            }
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            paths.push(path);
        }
    }
}

/// Where the children of a file's module are: `src/a` for `src/a.rs` and `src/a/mod.rs`.
fn folder_of(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a file");
    if name == "mod.rs" || name == "lib.rs" || name == "main.rs" {
        path.parent().expect("a folder").to_owned()
    } else {
        path.with_extension("")
    }
}

/// Where the module is that `item` of the file `path` declares, if it is `mod name;`.
fn test_module(path: &Path, item: &str) -> Option<PathBuf> {
    let (attributes, name) = item.strip_suffix(';')?.rsplit_once("mod ")?;
    match attributes.split_once("path = \"") {
        Some((_, file)) => {
            let file = file.split('"').next().expect("a first part");
            Some(folder_of(&path.with_file_name(file)))
        }
        None => Some(folder_of(path).join(name.trim())),
    }
}

/// Module of a file and how many `super` lead from it to the root of its crate.
fn place(path: &Path) -> (String, usize) {
    if path == Path::new("src/main.rs") {
        return ("main".to_owned(), 0);
    }
    let folder = folder_of(path);
    let below = folder.strip_prefix("src").expect("a file below src");
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    let (first, depth) = match parts.as_slice() {
        [bin, name, rest @ ..] if bin == "bin" => (name, rest.len()),
        [name, ..] => (name, parts.len()),
        [] => panic!("{} has no module", path.display()),
    };
    (first.clone().into_owned(), depth)
}

/// Byte ranges of the items below a `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mark = "#[cfg(test)]";
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find(mark) {
        let start = from + found;
        let mut depth = 0_usize;
        let end = code[start + mark.len()..]
            .char_indices()
            .find_map(|(at, c)| {
                match c {
                    '{' | '(' | '[' => depth += 1,
                    '}' | ')' | ']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                (depth == 0 && (c == ';' || c == '}')).then_some(start + mark.len() + at + 1)
            })
            .unwrap_or(code.len());
        items.push((start, end));
        from = end;
    }
    items
}

fn without_test_items(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut from = 0;
    for (start, end) in test_items(code) {
        kept.push_str(&code[from..start]);
        from = end;
    }
    kept.push_str(&code[from..]);
    kept
}

/// The text without comments, strings and characters; only the file of a `#[path = "..."]` stays.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = raw_string(rest);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw {
            length
        } else if c == '"' {
            let length = string(rest);
            if code.ends_with("path = ") {
                code.push_str(&rest[..length]);
            }
            length
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of a string literal at the start of `text`.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a raw string at the start of `text`, such as `r#"..."#`.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let content = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = content.find(&close)?;
    Some(1 + hashes + 1 + end + close.len())
}

/// Length of a character literal at the start of `text`; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => chars
            .find(|(_, c)| *c == '\'')
            .map_or(0, |(end, _)| end + 1),
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 0,
    }
}

#[test]
fn the_picture_refuses_neighbours_and_rows_above() {
    let picture = Picture::parse(
        "```text\nbin main\nplanes proxy switch\nwords model config clock\n\n\
         also config -> model\nonly main -> proxy\n```",
    );
    assert_eq!(picture.allows("proxy", "model"), Ok(()));
    assert_eq!(picture.allows("proxy", "proxy"), Ok(()));
    assert_eq!(picture.allows("config", "model"), Ok(()));
    assert_eq!(picture.allows("main", "proxy"), Ok(()));
    assert_eq!(picture.allows("proxy", "Error"), Ok(()));
    assert!(picture.allows("proxy", "switch").is_err());
    assert!(picture.allows("model", "proxy").is_err());
    assert!(picture.allows("model", "config").is_err());
    assert!(picture.allows("main", "model").is_err());
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::{\n    pool::{Claim, Table},\n    switch,\n};\n\
                // crate::comment\n/* crate::block */\n#[cfg(test)]\nmod tests;\n\
                fn f<'a>() { let c = '\"'; crate::clock::now(); \"crate::text\"; r#\"crate::raw\"#; }\n\
                use super::super::health;\n#[cfg(test)]\nmod more { use crate::proxy; }\n\
                pub(crate) use crate::tls;\nuse mycrate::no;\n";
    let source = Source {
        path: "src/a/b.rs".into(),
        module: "a".to_owned(),
        depth: 2,
        code: without_test_items(&without_literals(text)),
    };
    let found: Vec<String> = source.imports().into_iter().collect();
    assert_eq!(found, ["clock", "health", "pool", "switch", "tls"]);
}

#[test]
fn a_crate_is_seen_in_use_lines_and_in_paths() {
    for code in [
        "use hyper::body;",
        "use hyper;",
        "fn f(b: hyper::Body)",
        "use hyper_util::rt::TokioIo;",
    ] {
        assert!(names_crate(code, "hyper"), "{code}");
    }
    for code in [
        "let hyper = 1;",
        "use crate::http::hyper::X;",
        "superhyper::x",
        "hyperion::x",
    ] {
        assert!(!names_crate(code, "hyper"), "{code}");
    }
}
