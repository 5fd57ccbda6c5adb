//! `rewrite`: another method or target, as Caddy's `rewrite`, `uri` and `method` make it.
//!
//! A text may have a path, a query, or both. What placeholders bring into a path stays in the path,
//! and what they bring into a query stays in its parameter: a client's text never becomes a new
//! segment's end, a query or a fragment. Only `{uri}`, and variables, which the configuration sets,
//! may bring a query with them.

use http::Method;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use pingora::http::RequestHeader;

use super::failure::{Failure, not_possible};
use super::fields::expanded;
use super::path::{clean, without_prefix, without_suffix};
use super::query::{changed, form_encoded};
use super::run::{Flow, Walk};
use super::scope::{Scope, base_and_extension, dir, file, segment, target};
use super::target;
use crate::config::step::{Part, Rewrite, Template, Var};

/// What cannot stand in a path, and what would end it or be read as an escape.
const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Carries out a `rewrite` step.
pub(super) fn step(walk: &mut Walk<'_>, rewrite: &Rewrite) -> Flow {
    if let Some(method) = &rewrite.method {
        match method_of(&walk.fill(method)) {
            Some(method) => walk.handling().method = Some(method),
            None => return Flow::Fail(not_possible(&walk.handling().site, "rewrite: method")),
        }
    }
    let Some(target) = rewritten(rewrite, &walk.scope()) else {
        return Flow::Next;
    };
    match walk.set_target(&target) {
        Ok(()) => Flow::Next,
        Err(failure) => Flow::Fail(failure),
    }
}

/// Changes what an upstream gets, the rest of the request stays.
///
/// # Errors
/// The new target is too long.
pub(super) fn outgoing(
    rewrite: &Rewrite,
    scope: &Scope<'_>,
    request: &mut RequestHeader,
) -> Result<(), Failure> {
    match rewritten(rewrite, scope) {
        Some(target) => target::set(request, &target),
        None => Ok(()),
    }
}

/// A method in capitals; `None`: it is none.
pub(super) fn method_of(text: &str) -> Option<Method> {
    Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok()
}

/// The new target; `None`: it is not changed.
fn rewritten(rewrite: &Rewrite, scope: &Scope<'_>) -> Option<String> {
    let uri = &scope.request.uri;
    let mut path = uri.path().to_owned();
    let mut query = uri.query().map(str::to_owned);
    if let Some(to) = &rewrite.to {
        let new = New::of(to, scope);
        path = new.path.unwrap_or(path);
        query = new.query.or(query);
    }
    if let Some(prefix) = &rewrite.strip_prefix {
        let prefix = scope.fill(prefix);
        let prefix = if prefix.starts_with('/') {
            prefix
        } else {
            format!("/{prefix}").into()
        };
        let cleaned = clean(&path, !prefix.contains("//"));
        if let Some(rest) = without_prefix(&cleaned, &prefix) {
            path = rest.to_owned();
        }
    }
    if let Some(suffix) = &rewrite.strip_suffix {
        let suffix = scope.fill(suffix);
        let cleaned = clean(&path, !suffix.contains("//"));
        if let Some(rest) = without_suffix(&cleaned, &suffix) {
            path = rest.to_owned();
        }
    }
    if let Some(prefix) = &rewrite.add_prefix {
        let slash = if path.starts_with('/') { "" } else { "/" };
        path = format!("{}{slash}{path}", in_path(prefix, scope));
    }
    for (find, with, most) in &rewrite.replace {
        let with = scope.fill(with);
        let most = if *most == 0 { usize::MAX } else { *most };
        if find.is_empty() {
            continue;
        }
        path = clean(&path, !find.contains("//")).replacen(find, &with, most);
        query = query.map(|query| query.replacen(find, &with, most));
    }
    for (find, with) in &rewrite.path_regexp {
        let new = find
            .regex()
            .replace_all(&path, |groups: &regex::Captures<'_>| {
                expanded(scope, with, groups)
            });
        path = new.into_owned();
    }
    if !rewrite.query.is_empty() {
        query = Some(changed(query.as_deref(), &rewrite.query, scope));
    }
    if path == uri.path() && query.as_deref() == uri.query() {
        return None;
    }
    // What was put into the path stays there.
    let path = path.replace('?', "%3F").replace('#', "%23");
    let new = match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{}", query.replace('#', "%23")),
        None => path,
    };
    (new != target(uri)).then_some(new)
}

/// The parts of a target that a text gives.
#[derive(Debug, Default)]
struct New {
    path: Option<String>,
    query: Option<String>,
}

impl New {
    fn of(to: &Template, scope: &Scope<'_>) -> Self {
        let (path, query) = split(to);
        let mut new = Self::default();
        if !path.0.is_empty() {
            let path = in_path(&path, scope);
            match path.split_once('?') {
                Some((path, query)) => {
                    new.path = Some(path.to_owned());
                    new.query = Some(query.to_owned());
                }
                None => new.path = Some(path),
            }
        }
        if let Some(query) = query {
            new.query = Some(in_query(&query, scope));
        }
        new
    }
}

/// Before and after the first question mark that the configuration itself says; a fragment is
/// dropped, as it is never sent (RFC 9110 §7.1).
fn split(to: &Template) -> (Template, Option<Template>) {
    let (mut path, mut query) = (Vec::new(), None::<Vec<Part>>);
    for part in &to.0 {
        let Part::Text(text) = part else {
            query.as_mut().unwrap_or(&mut path).push(part.clone());
            continue;
        };
        let (text, fragment) = match text.split_once('#') {
            Some((text, _)) => (text, true),
            None => (text.as_str(), false),
        };
        let push = |list: &mut Vec<Part>, text: &str| {
            if !text.is_empty() {
                list.push(Part::Text(text.to_owned()));
            }
        };
        match (&mut query, text.split_once('?')) {
            (Some(query), _) => push(query, text),
            (None, Some((before, after))) => {
                push(&mut path, before);
                let mut list = Vec::new();
                push(&mut list, after);
                query = Some(list);
            }
            (None, None) => push(&mut path, text),
        }
        if fragment {
            break;
        }
    }
    (Template(path), query.map(Template))
}

/// A text as a path. Parts of the request's own path keep their escapes.
pub(super) fn in_path(text: &Template, scope: &Scope<'_>) -> String {
    let own = scope.request.uri.path();
    let original = scope.original();
    let mut path = String::new();
    for part in &text.0 {
        let var = match part {
            Part::Text(text) => {
                path.push_str(text);
                continue;
            }
            Part::Var(var) => var,
        };
        match var {
            Var::Path => path.push_str(own),
            Var::Segment(n) => path.push_str(segment(own, *n)),
            Var::Dir => path.push_str(dir(own)),
            Var::File => path.push_str(file(own)),
            Var::FileBase => path.push_str(base_and_extension(file(own)).0),
            Var::FileExtension => path.push_str(base_and_extension(file(own)).1),
            Var::OriginalPath => path.push_str(original.path()),
            Var::OriginalDir => path.push_str(dir(original.path())),
            Var::OriginalFile => path.push_str(file(original.path())),
            Var::Uri
            | Var::OriginalUri
            | Var::PrefixedQuery
            | Var::Variable(_)
            | Var::Mapped(_)
            | Var::Env(_)
            | Var::FileContents(_) => path.push_str(&scope.value(var)),
            var => path.extend(utf8_percent_encode(&scope.value(var), IN_PATH)),
        }
    }
    path
}

/// A text as a query. The request's own query stands as it is where a parameter begins.
fn in_query(text: &Template, scope: &Scope<'_>) -> String {
    let mut query = String::new();
    for part in &text.0 {
        let begins = !query.rsplit('&').next().unwrap_or_default().contains('=');
        match part {
            Part::Text(text) => query.push_str(text),
            Part::Var(Var::Query | Var::PrefixedQuery) if begins => {
                query.push_str(scope.request.uri.query().unwrap_or_default());
            }
            Part::Var(Var::OriginalQuery) if begins => {
                query.push_str(scope.original().query().unwrap_or_default());
            }
            Part::Var(var) => query.push_str(&form_encoded(&scope.value(var))),
        }
    }
    let parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    parts.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::Pattern;
    use crate::proxy::handle::state::{Captured, set};
    use crate::proxy::handle::test::{exchange, request};

    fn text(text: &str) -> Template {
        Template::parse(text, &[]).expect("a template")
    }

    fn after(target: &str, rewrite: &Rewrite) -> String {
        let mut request = request("GET", target, &[("host", "h"), ("x-a", "a?b#c%2e/../d")]);
        let mut exchange = exchange();
        let handling = exchange.handling.as_deref_mut().expect("steps");
        set(&mut handling.vars, "to", "/var?v=1".to_owned());
        handling.captures.push(Captured {
            name: "c".to_owned(),
            groups: vec![(None, String::new()), (None, "x?y%z é".to_owned())],
        });
        let old = request.clone();
        outgoing(rewrite, &Scope::of(&old, &exchange), &mut request).expect("a target");
        request.uri.to_string()
    }

    fn to(target: &str, to: &str) -> String {
        let rewrite = Rewrite {
            to: Some(text(to)),
            ..Rewrite::default()
        };
        after(target, &rewrite)
    }

    #[test]
    fn a_text_gives_a_path_a_query_or_both() {
        for (target, template, expected) in [
            ("/a?b=c", "/new", "/new?b=c"),
            ("/a?b=c", "/new?x=y", "/new?x=y"),
            ("/a?b=c", "?x=y", "/a?x=y"),
            ("/a?b=c", "/new?", "/new"),
            ("/a?b=c", "/new{uri}", "/new/a?b=c"),
            ("/a?b=c", "/new{path}?{query}&x=y", "/new/a?b=c&x=y"),
            ("/a", "/new{path}?{query}&x=y", "/new/a?x=y"),
            ("/a?b=c", "/new?q={query}", "/new?q=b%3Dc"),
            ("/a?b=c", "/new{?query}", "/new?b=c"),
            ("/a?b=c", "/new#frag?x", "/new?b=c"),
            ("/a/b%20c/d.x?q", "{dir}new{file.ext}", "/a/b%20c/new.x?q"),
            ("/a", "{orig_path}?{orig_query}", "/old?q"),
            ("/a?b", "{vars.to}", "/var?v=1"),
            ("/a", "relative", "/relative"),
        ] {
            assert_eq!(to(target, template), expected, "{target} {template}");
        }
    }

    #[test]
    fn what_a_client_sends_stays_where_it_is_put() {
        assert_eq!(to("/a?q", "/x/{header.x-a}"), "/x/d?q");
        assert_eq!(
            to("/a", "/x?y={header.x-a}&z"),
            "/x?y=a%3Fb%23c%252e%2F..%2Fd&z"
        );
        assert_eq!(to("/a", "/x/{re.c.1}"), "/x/x%3Fy%25z%20%C3%A9");
        assert_eq!(to("/a%3Fb%23", "/x{path}"), "/x/a%3Fb%23");
        assert_eq!(to("/a", "/x?{query}&y={method}"), "/x?y=GET");
        assert_eq!(to("/a?b=%26c", "/x?{query}"), "/x?b=%26c");
    }

    #[test]
    fn prefixes_suffixes_texts_and_expressions_are_taken_in_order() {
        let rewrite = Rewrite {
            strip_prefix: Some(text("/api")),
            strip_suffix: Some(text(".php")),
            add_prefix: Some(text("/v{query.v}")),
            replace: vec![("foo".to_owned(), text("bar"), 1)],
            path_regexp: vec![(Pattern::new("/{2,}").expect("an expression"), text("/"))],
            ..Rewrite::default()
        };
        assert_eq!(after("/API/foo/foo.php?v=2", &rewrite), "/v2/bar/foo?v=2");
        assert_eq!(after("/other", &rewrite), "/v/other");
        let strip = Rewrite {
            strip_prefix: Some(text("api")),
            ..Rewrite::default()
        };
        assert_eq!(after("/api", &strip), "/");
        assert_eq!(after("//api/x", &strip), "/x");
        assert_eq!(after("/%61pi/x", &strip), "/x");
        assert_eq!(
            after("//x//y", &strip),
            "//x//y",
            "what has no prefix stays as it is"
        );
        let groups = Rewrite {
            path_regexp: vec![(
                Pattern::new("^/u/(\\d+)").expect("an expression"),
                text("/user?id=$1"),
            )],
            ..Rewrite::default()
        };
        assert_eq!(after("/u/17/x", &groups), "/user%3Fid=17/x");
    }

    #[test]
    fn a_method_is_a_token_in_capitals() {
        assert_eq!(method_of("post"), Some(Method::POST));
        assert_eq!(method_of("GET / HTTP/1.1\r\n"), None);
        assert_eq!(method_of(""), None);
    }
}
