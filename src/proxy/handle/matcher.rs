//! Whether a condition holds.

use http::{HeaderMap, HeaderName, header};

use super::files;
use super::path::{clean, decoded, fits};
use super::scope::{Scope, host, parameters};
use super::state::{Captured, MatchedFile};
use crate::config::step::{Matcher, MatcherSet, Pattern, Template, TextMatch};
use crate::model::HostPattern;
use crate::proxy::request::is_grpc;

/// What a condition leaves for the placeholders of the steps after it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) captures: Vec<Captured>,
    pub(super) file: Option<MatchedFile>,
}

/// Whether one of the alternatives holds, and what it saw.
pub(super) fn holds(matcher: &Matcher, scope: &Scope<'_>) -> Option<Seen> {
    matcher.0.iter().find_map(|set| {
        let mut seen = Seen::default();
        set_holds(set, scope, &mut seen).then_some(seen)
    })
}

fn set_holds(set: &MatcherSet, scope: &Scope<'_>, seen: &mut Seen) -> bool {
    // The cheap ones first; those that leave something are asked only when the others hold.
    (set.method.is_empty() || set.method.contains(scope.method()))
        && (set.remote_ip.is_empty() || set.remote_ip.contains(scope.exchange.peer))
        && (set.client_ip.is_empty() || set.client_ip.contains(scope.exchange.client.ip))
        && set
            .protocol
            .as_deref()
            .is_none_or(|wanted| speaks(scope, wanted))
        && (set.host.is_empty() || set.host.iter().any(|wanted| is_host(wanted, scope)))
        && (set.path.is_empty() || path_holds(&set.path, scope))
        && headers_hold(&set.header, &scope.request.headers, Some(scope.authority()))
        && query_holds(&set.query, scope)
        && vars_hold(&set.vars, scope)
        && error_holds(&set.error_status, scope)
        && set.not.iter().all(|not| holds(not, scope).is_none())
        && path_regexp_holds(set, scope, seen)
        && (set.header_regexp.iter()).all(|(name, field, pattern)| {
            let values = values(&scope.request.headers, field, Some(scope.authority()));
            values
                .into_iter()
                .any(|value| finds(name, pattern, &value, seen))
        })
        && (set.vars_regexp.iter())
            .all(|(name, source, pattern)| finds(name, pattern, &scope.fill(source), seen))
        && set.file.as_ref().is_none_or(|file| {
            seen.file = files::find(file, scope);
            seen.file.is_some()
        })
}

fn path_holds(patterns: &[Template], scope: &Scope<'_>) -> bool {
    let path = scope.request.uri.path();
    patterns
        .iter()
        .any(|pattern| fits(&scope.fill(pattern), path))
}

fn path_regexp_holds(set: &MatcherSet, scope: &Scope<'_>, seen: &mut Seen) -> bool {
    set.path_regexp.as_ref().is_none_or(|(name, pattern)| {
        let path = decoded(scope.request.uri.path());
        finds(name, pattern, &clean(&path, true), seen)
    })
}

fn is_host(wanted: &HostPattern, scope: &Scope<'_>) -> bool {
    let host = host(scope.authority());
    let host = host.strip_suffix('.').unwrap_or(host);
    match wanted {
        HostPattern::Exact(name) => {
            let bare = host
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            name.eq_ignore_ascii_case(bare.unwrap_or(host))
        }
        HostPattern::Wildcard(rest) => {
            let below = host.split_once('.').map(|(_, below)| below);
            below.is_some_and(|below| below.eq_ignore_ascii_case(rest))
        }
    }
}

/// `http/1.1+`: at least that version.
fn speaks(scope: &Scope<'_>, wanted: &str) -> bool {
    let version = match scope.request.version {
        _ if scope.http2 => 20,
        http::Version::HTTP_10 => 10,
        _ => 11,
    };
    let number = |text: &str| match text {
        "http/1.0" => Some(10),
        "http/1.1" => Some(11),
        "http/2" => Some(20),
        "http/3" => Some(30),
        _ => None,
    };
    match wanted {
        "http" => !scope.exchange.https,
        "https" => scope.exchange.https,
        "grpc" => is_grpc(scope.request),
        wanted => match wanted.strip_suffix('+') {
            Some(least) => number(least).is_some_and(|least| version >= least),
            None => number(wanted) == Some(version),
        },
    }
}

/// Every field must have one of its texts.
pub(super) fn headers_hold(
    wanted: &[(HeaderName, Vec<TextMatch>)],
    headers: &HeaderMap,
    authority: Option<&str>,
) -> bool {
    wanted.iter().all(|(name, texts)| {
        let values = values(headers, name, authority);
        if values.is_empty() {
            return texts.contains(&TextMatch::Absent);
        }
        values
            .iter()
            .any(|value| texts.iter().any(|text| text.matches(value)))
    })
}

/// The values of a field; the Host of HTTP/2 is not among the fields.
fn values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    authority: Option<&'a str>,
) -> Vec<std::borrow::Cow<'a, str>> {
    if *name == header::HOST
        && let Some(authority) = authority
    {
        return vec![authority.into()];
    }
    let values = headers.get_all(name).iter();
    values
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect()
}

/// Every parameter must have one of its values.
fn query_holds(wanted: &[(String, Template)], scope: &Scope<'_>) -> bool {
    wanted.iter().all(|(name, _)| {
        let values = wanted.iter().filter(|(other, _)| other == name);
        values.into_iter().any(|(_, value)| {
            let value = scope.fill(value);
            let mut sent = parameters(scope.request.uri.query());
            sent.any(|(known, text)| known == *name && (value == "*" || value == text))
        })
    })
}

fn vars_hold(wanted: &[(Template, Vec<Template>)], scope: &Scope<'_>) -> bool {
    wanted.iter().all(|(source, texts)| {
        let value = scope.fill(source);
        texts.iter().any(|text| scope.fill(text) == value)
    })
}

fn error_holds(wanted: &[(u16, u16)], scope: &Scope<'_>) -> bool {
    let failure = scope
        .handling()
        .and_then(|handling| handling.failure.as_ref());
    wanted.is_empty() || failure.is_some_and(|failure| in_ranges(wanted, failure.status))
}

/// Whether a status is in one of the ranges, which are inclusive.
pub(super) fn in_ranges(ranges: &[(u16, u16)], status: u16) -> bool {
    ranges
        .iter()
        .any(|(from, to)| (*from..=*to).contains(&status))
}

fn finds(name: &str, pattern: &Pattern, text: &str, seen: &mut Seen) -> bool {
    let regex = pattern.regex();
    let Some(found) = regex.captures(text) else {
        return false;
    };
    let groups = regex
        .capture_names()
        .zip(found.iter())
        .map(|(name, group)| {
            let text = group.map_or("", |group| group.as_str());
            (name.map(str::to_owned), text.to_owned())
        });
    seen.captures.push(Captured {
        name: name.to_owned(),
        groups: groups.collect(),
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IpSet;
    use crate::proxy::exchange::Exchange;
    use crate::proxy::handle::failure::Failure;
    use crate::proxy::handle::test::{exchange, request};

    fn template(text: &str) -> Template {
        Template::parse(text, &[]).expect("a template")
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).expect("an expression")
    }

    fn asked(set: MatcherSet, target: &str, fields: &[(&'static str, &str)]) -> Option<Seen> {
        asked_with(set, target, fields, &exchange())
    }

    fn asked_with(
        set: MatcherSet,
        target: &str,
        fields: &[(&'static str, &str)],
        exchange: &Exchange,
    ) -> Option<Seen> {
        let mut all = vec![("host", "h.test:8080")];
        all.extend_from_slice(fields);
        let request = request("GET", target, &all);
        holds(&Matcher(vec![set]), &Scope::of(&request, exchange))
    }

    #[test]
    fn all_conditions_of_a_set_must_hold_and_one_set_is_enough() {
        let both = || MatcherSet {
            path: vec![template("/a"), template("/b/*")],
            method: vec![http::Method::GET, http::Method::HEAD],
            host: vec![
                "h.test".parse().expect("a host"),
                "*.i.test".parse().expect("a host"),
            ],
            ..MatcherSet::default()
        };
        assert!(asked(both(), "/a", &[]).is_some());
        assert!(asked(both(), "/b/x", &[]).is_some());
        assert!(asked(both(), "/c", &[]).is_none());
        let post = MatcherSet {
            method: vec![http::Method::POST],
            ..both()
        };
        assert!(asked(post.clone(), "/a", &[]).is_none());
        let exchange = exchange();
        let request = request("GET", "/a", &[("host", "h.test")]);
        let scope = Scope::of(&request, &exchange);
        assert!(holds(&Matcher(vec![post, both()]), &scope).is_some());
        assert!(
            holds(&Matcher(Vec::new()), &scope).is_none(),
            "no alternative"
        );
    }

    #[test]
    fn fields_are_compared_by_each_of_their_values() {
        let set = |texts: &[&str]| MatcherSet {
            header: vec![(
                HeaderName::from_static("x-a"),
                texts.iter().map(|text| TextMatch::new(text)).collect(),
            )],
            ..MatcherSet::default()
        };
        let two = [("x-a", "one"), ("x-a", "two")];
        assert!(asked(set(&["two"]), "/", &two).is_some());
        assert!(asked(set(&["t*", "x"]), "/", &two).is_some());
        assert!(asked(set(&["three"]), "/", &two).is_none());
        assert!(asked(set(&["*"]), "/", &[]).is_none());
        let missing = || MatcherSet {
            header: vec![(HeaderName::from_static("x-a"), vec![TextMatch::Absent])],
            ..MatcherSet::default()
        };
        assert!(asked(missing(), "/", &[]).is_some());
        assert!(asked(missing(), "/", &two).is_none());
        let host = MatcherSet {
            header: vec![(header::HOST, vec![TextMatch::new("h.test:*")])],
            ..MatcherSet::default()
        };
        assert!(asked(host, "/", &[]).is_some());
    }

    #[test]
    fn parameters_are_all_asked_for_and_may_have_several_values() {
        let set = || MatcherSet {
            query: vec![
                ("a".to_owned(), template("1")),
                ("a".to_owned(), template("2 3")),
                ("b".to_owned(), template("*")),
            ],
            ..MatcherSet::default()
        };
        assert!(asked(set(), "/?a=1&b", &[]).is_some());
        assert!(asked(set(), "/?b=x&a=9&a=2+3", &[]).is_some());
        assert!(asked(set(), "/?a=1", &[]).is_none());
        assert!(asked(set(), "/?b=1", &[]).is_none());
    }

    #[test]
    fn expressions_leave_their_groups() {
        let set = MatcherSet {
            path_regexp: Some(("p".to_owned(), pattern("^/(?<kind>\\w+)/(\\d+)$"))),
            header_regexp: vec![(
                "h".to_owned(),
                HeaderName::from_static("x-a"),
                pattern("^v(\\d)$"),
            )],
            vars_regexp: vec![(String::new(), template("{query}"), pattern("q=(.)"))],
            ..MatcherSet::default()
        };
        let fields = [("x-a", "w1"), ("x-a", "v2")];
        let seen = asked(set.clone(), "//it%65m/17?q=z", &fields).expect("it holds");
        let texts: Vec<Vec<&str>> = (seen.captures.iter())
            .map(|capture| {
                capture
                    .groups
                    .iter()
                    .map(|(_, text)| text.as_str())
                    .collect()
            })
            .collect();
        assert_eq!(
            texts,
            [
                vec!["/item/17", "item", "17"],
                vec!["v2", "2"],
                vec!["q=z", "z"]
            ]
        );
        assert_eq!(seen.captures[0].groups[1].0.as_deref(), Some("kind"));
        assert!(asked(set, "/item/17?q=z", &[]).is_none());
    }

    #[test]
    fn nothing_of_not_may_hold() {
        let path = |text: &str| MatcherSet {
            path: vec![template(text)],
            ..MatcherSet::default()
        };
        let set = MatcherSet {
            not: vec![
                Matcher(vec![path("/a"), path("/b")]),
                Matcher(vec![path("/c")]),
            ],
            ..MatcherSet::default()
        };
        for refused in ["/a", "/b", "/c", "/C", "//c", "/%63"] {
            assert!(asked(set.clone(), refused, &[]).is_none(), "{refused}");
        }
        assert!(asked(set, "/d", &[]).is_some());
    }

    #[test]
    fn addresses_protocols_and_values_are_compared() {
        let networks = |text: &str| IpSet(vec![text.parse().expect("a network")]);
        let remote = MatcherSet {
            remote_ip: networks("192.0.2.0/24"),
            ..MatcherSet::default()
        };
        assert!(asked(remote, "/", &[]).is_some());
        let client = MatcherSet {
            client_ip: networks("10.0.0.0/8"),
            ..MatcherSet::default()
        };
        assert!(asked(client, "/", &[]).is_none());
        for (protocol, expected) in [
            ("http", true),
            ("https", false),
            ("http/1.1", true),
            ("http/1.0+", true),
            ("http/2", false),
            ("http/2+", false),
            ("grpc", false),
        ] {
            let set = MatcherSet {
                protocol: Some(protocol.to_owned()),
                ..MatcherSet::default()
            };
            assert_eq!(asked(set, "/", &[]).is_some(), expected, "{protocol}");
        }
        let vars = MatcherSet {
            vars: vec![(
                template("{query.a}-{method}"),
                vec![template("x"), template("1-GET")],
            )],
            ..MatcherSet::default()
        };
        assert!(asked(vars.clone(), "/?a=1", &[]).is_some());
        assert!(asked(vars, "/?a=2", &[]).is_none());
    }

    #[test]
    fn a_status_is_compared_while_an_error_is_answered_alone() {
        let set = || MatcherSet {
            error_status: vec![(404, 404), (500, 599)],
            ..MatcherSet::default()
        };
        assert!(asked(set(), "/", &[]).is_none());
        let mut exchange = exchange();
        for (status, expected) in [(404, true), (403, false), (502, true)] {
            let error = crate::model::ErrorType::ProxyInternalError;
            let handling = exchange.handling.as_deref_mut().expect("steps");
            handling.failure = Some(Failure::new(status, error, ""));
            assert_eq!(
                asked_with(set(), "/", &[], &exchange).is_some(),
                expected,
                "{status}"
            );
        }
    }
}
