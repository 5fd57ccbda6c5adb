//! What Caddyfiles become. The snapshots are beside, one for each theme.

use proptest::prelude::*;

use super::*;
use crate::config::Env;

fn parsed(text: &str) -> Result<Caddyfile, Problem> {
    let env = Env::from_iter([("HOST", "example.com"), ("LIST", "a b")]);
    parse("Caddyfile", text, Some(&env), &mut Sources::default())
}

fn adapted(text: &str) -> Adapted {
    let parsed = parsed(text).expect("a Caddyfile");
    let adapted = adapt(&parsed, Style::default());
    let toml = &adapted.toml.text;
    toml.parse::<toml::Table>()
        .unwrap_or_else(|error| panic!("{error}\n{toml}"));
    adapted
}

/// The configuration, then errors and notes.
fn shown(text: &str) -> String {
    let adapted = adapted(text);
    let mut out = adapted.toml.text;
    for (what, list) in [("error", adapted.errors), ("note", adapted.notes)] {
        for problem in list {
            let (line, column) = (problem.pos.line, problem.pos.column);
            out.push_str(&format!("{what} {line}:{column}: {}\n", problem.message));
        }
    }
    out
}

/// The body of the one site that has `text` as its lines.
fn site(text: &str) -> String {
    let whole = shown(&format!("a.com {{\n{text}\n}}\n"));
    whole.replace("[[site]]\nhosts = [\"a.com\"]\n", "")
}

macro_rules! snapshot {
    ($name:literal, $text:expr) => {
        insta::with_settings!({
            snapshot_path => "snapshots",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!($name, $text);
        });
    };
}

/// Reads every case of a file: parts begin with `==` and a title.
fn cases(text: &str, show: impl Fn(&str) -> String) -> String {
    let parts = text.split("\n== ").filter(|part| !part.trim().is_empty());
    let shown = parts.map(|part| {
        let (title, body) = part.split_once('\n').unwrap_or((part, ""));
        format!("== {}\n{}", title.trim_start_matches("== "), show(body))
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn directives_become_keys_and_steps() {
    snapshot!(
        "directives",
        cases(include_str!("snapshots/directives.caddyfile"), site)
    );
}

#[test]
fn matchers_become_conditions() {
    snapshot!(
        "matchers",
        cases(include_str!("snapshots/matchers.caddyfile"), site)
    );
}

#[test]
fn proxies_become_services() {
    snapshot!(
        "proxies",
        cases(include_str!("snapshots/proxies.caddyfile"), site)
    );
}

#[test]
fn addresses_and_options_become_sites_and_sockets() {
    snapshot!(
        "sites",
        cases(include_str!("snapshots/sites.caddyfile"), shown)
    );
}

#[test]
fn what_has_no_equivalent_is_told_with_its_place() {
    snapshot!(
        "errors",
        cases(include_str!("snapshots/errors.caddyfile"), |text| {
            let adapted = adapted(text);
            let lines = adapted.errors.iter().map(|problem| {
                format!(
                    "{}:{}: {}\n",
                    problem.pos.line, problem.pos.column, problem.message
                )
            });
            lines.collect()
        })
    );
}

#[test]
fn what_is_no_caddyfile_is_told_with_its_place() {
    snapshot!(
        "syntax",
        cases(include_str!("snapshots/syntax.caddyfile"), |text| {
            match parsed(text) {
                Ok(caddyfile) => format!("{caddyfile}"),
                Err(problem) => format!(
                    "{}:{}: {}\n",
                    problem.pos.line, problem.pos.column, problem.message
                ),
            }
        })
    );
}

#[test]
fn every_comment_is_kept() {
    let text = "# c0\n{\n\t# c1\n\temail a@b.c # c2\n\tdebug\n\t# c3\n}\n# c4\n(s) {\n\t# c5\n\tencode gzip # c6\n}\n\
        # c7\na.com {\n\t# c8\n\timport s # c9\n\t# c10\n\t@m path /x # c11\n\t# c12\n\thandle @m {\n\t\t# c13\n\t\t\
        respond 1 # c14\n\t\t# c15\n\t}\n\t# c16\n\treverse_proxy b:1 {\n\t\t# c17\n\t\theader_up A b # c18\n\t}\n\t\
        # c19\n\ttls internal # c20\n\tlog # c21\n\thandle_errors {\n\t\t# c22\n\t\trespond x\n\t}\n\t# c23\n}\n# c24\n";
    let toml = adapted(text).toml.text;
    for number in 0..=24 {
        let comment = format!("# c{number}\n");
        assert!(toml.contains(&comment), "{comment} is missing in\n{toml}");
    }
}

#[test]
fn every_line_of_the_output_knows_where_it_came_from() {
    let text =
        "a.com {\n\tencode gzip\n\thandle /x {\n\t\trespond 200\n\t}\n\treverse_proxy b:1\n}\n";
    let toml = adapted(text).toml;
    let line_of = |start: &str| {
        let at = toml.text.lines().position(|line| line.starts_with(start));
        toml.origin(at.expect("the line") + 1, 1)
            .expect("a place")
            .line
    };
    assert_eq!(line_of("hosts"), 1);
    assert_eq!(line_of("encode"), 2);
    assert_eq!(line_of("[[site.handle]]"), 3);
    assert_eq!(line_of("respond"), 4);
    assert_eq!(line_of("upstream ="), 6);
}

#[test]
fn snippets_that_multiply_and_circles_end() {
    let mut text = String::from("(a0) {\n\trespond x\n\trespond y\n}\n");
    for n in 1..40 {
        text.push_str(&format!(
            "(a{n}) {{\n\timport a{}\n\timport a{}\n}}\n",
            n - 1,
            n - 1
        ));
    }
    text.push_str("a.com {\n\timport a39\n}\n");
    assert!(parsed(&text).is_err());
    let circle = "(a) {\n\timport b\n}\n(b) {\n\timport a\n}\nx.com {\n\timport a\n}\n";
    assert!(
        parsed(circle)
            .expect_err("a circle")
            .message
            .contains("imports itself")
    );
    let deep = format!("a.com {{\n{}", "handle {\n".repeat(1000));
    assert!(parsed(&deep).is_err());
    let routes = "&(a) {\n\tinvoke a\n}\nx.com {\n\tinvoke a\n}\n";
    assert!(adapted(routes).errors[0].message.contains("invokes itself"));
}

/// Pieces of Caddyfiles, put together in any way.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{"),
        Just("}"),
        Just("\n"),
        Just("\n"),
        Just("\n"),
        Just(" "),
        Just("\""),
        Just("`"),
        Just("\\"),
        Just("<<END\n"),
        Just("END"),
        Just("#"),
        Just("a.com "),
        Just("http://b:80 "),
        Just(":8080 "),
        Just("import "),
        Just("(s) "),
        Just("&(r) "),
        Just("invoke r"),
        Just("@m "),
        Just("/x* "),
        Just("* "),
        Just("handle "),
        Just("route "),
        Just("handle_path /a/* "),
        Just("reverse_proxy "),
        Just("app:3000 "),
        Just("header "),
        Just("-X "),
        Just("?Y z "),
        Just("rewrite "),
        Just("uri "),
        Just("strip_prefix "),
        Just("query "),
        Just("respond "),
        Just("200 "),
        Just("redir "),
        Just("try_files "),
        Just("{path} "),
        Just("/i.php?{query} "),
        Just("map {host} {x} {"),
        Just("basic_auth "),
        Just("encode "),
        Just("tls "),
        Just("log "),
        Just("not "),
        Just("path "),
        Just("expression "),
        Just("{method} == 'GET' && !path('/x') "),
        Just("handle_errors 5xx "),
        Just("handle_response "),
        Just("status 2xx "),
        Just("transport http "),
        Just("to "),
        Just("lb_policy "),
        Just("health_uri /h "),
        Just("{$HOST} "),
        Just("{args[0]} "),
        Just("{args[:]} "),
        Just("{block} "),
        Just("é"),
        Just("\u{85}"),
        Just(", "),
        Just("~"),
        Just("default "),
        Just("- "),
        Just("file_server "),
        Just("root "),
        Just("servers "),
        Just("order "),
        Just("before "),
        Just("forward_auth "),
        Just("copy_headers "),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_read_and_written_without_a_panic(text in text()) {
        if let Ok(caddyfile) = parsed(&text) {
            let adapted = adapt(&caddyfile, Style::default());
            let toml = adapted.toml.text.parse::<toml::Table>();
            prop_assert!(toml.is_ok(), "{:?}\n{}", toml, adapted.toml.text);
        }
    }

    #[test]
    fn any_characters_are_read_without_a_panic(text in "\\PC{0,200}") {
        let _ = parsed(&text);
    }

    #[test]
    fn what_is_printed_is_read_back(text in text()) {
        if let Ok(caddyfile) = parsed(&text) {
            let printed = caddyfile.to_string();
            let again = parse("Caddyfile", &printed, None, &mut Sources::default());
            let again = again.map_err(|problem| TestCaseError::fail(format!("{problem:?}\n{printed}")))?;
            prop_assert_eq!(again.to_string(), printed);
        }
    }
}
