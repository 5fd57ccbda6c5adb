//! Changes of fields, of a request or of an answer.
//!
//! Fields that say where a message ends or belong to one connection (RFC 9110 §7.6.1, RFC 9112 §6)
//! are the proxy's own: no change touches them, or a configuration could make a message that two
//! sides read differently.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::scope::Scope;
use crate::config::step::{HeaderOp, HeaderOps, Part, Pattern, Template, Var, is_framing};

/// A head whose fields are changed.
pub(super) trait Fields {
    fn headers(&self) -> &HeaderMap;
    fn set(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()>;
    fn append(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()>;
    fn remove(&mut self, name: &HeaderName);
}

impl Fields for ResponseHeader {
    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()> {
        self.insert_header(name.clone(), value)
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()> {
        self.append_header(name.clone(), value).map(drop)
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

impl Fields for RequestHeader {
    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()> {
        if *name == header::HOST {
            return set_host(self, value);
        }
        self.insert_header(name.clone(), value)
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()> {
        if *name == header::HOST {
            // There is one (RFC 9112 §3.2).
            return set_host(self, value);
        }
        self.append_header(name.clone(), value).map(drop)
    }

    fn remove(&mut self, name: &HeaderName) {
        // A request without a Host would be for nobody.
        if *name != header::HOST {
            self.remove_header(name);
        }
    }
}

impl Fields for HeaderMap {
    fn headers(&self) -> &HeaderMap {
        self
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()> {
        self.insert(name.clone(), value);
        Ok(())
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) -> Result<()> {
        HeaderMap::append(self, name.clone(), value);
        Ok(())
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }
}

/// Also in the target, where HTTP/2 has it. What is no authority changes nothing.
fn set_host(request: &mut RequestHeader, host: HeaderValue) -> Result<()> {
    let Ok(authority) = http::uri::Authority::try_from(host.as_bytes()) else {
        return Ok(());
    };
    if request.uri.authority().is_some() {
        let mut parts = request.uri.clone().into_parts();
        parts.authority = Some(authority);
        let Ok(uri) = Uri::from_parts(parts) else {
            return Ok(());
        };
        request.set_uri(uri);
        if !request.headers.contains_key(header::HOST) {
            return Ok(());
        }
    }
    request.insert_header(header::HOST, host)
}

/// A text as a value. What cannot stand in one, such as a line end, becomes a space.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        let printable = |byte: u8| {
            if byte < 0x20 && byte != b'\t' || byte == 0x7f {
                b' '
            } else {
                byte
            }
        };
        let bytes: Vec<u8> = text.bytes().map(printable).collect();
        HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
    })
}

/// Carries out one change after the other.
pub(super) fn apply<H: Fields>(ops: &HeaderOps, head: &mut H, scope: &Scope<'_>) -> Result<()> {
    for op in &ops.0 {
        match op {
            HeaderOp::Set(name, _) | HeaderOp::Add(name, _) | HeaderOp::Default(name, _)
                if is_framing(name) => {}
            HeaderOp::Set(name, text) => head.set(name, value(&scope.fill(text)))?,
            HeaderOp::Add(name, text) => head.append(name, value(&scope.fill(text)))?,
            HeaderOp::Default(name, _) if head.headers().contains_key(name) => {}
            HeaderOp::Default(name, text) => head.set(name, value(&scope.fill(text)))?,
            HeaderOp::Remove(pattern) => remove(head, pattern),
            HeaderOp::Replace { name, find, with } => {
                for (name, values) in replaced(head.headers(), name.as_ref(), find, with, scope) {
                    head.remove(&name);
                    for (at, value) in values.into_iter().enumerate() {
                        match at {
                            0 => head.set(&name, value)?,
                            _ => head.append(&name, value)?,
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether a change speaks of the upstream's answer.
pub(super) fn speak_of_upstream(ops: &HeaderOps) -> bool {
    ops.0.iter().any(|op| match op {
        HeaderOp::Remove(_) => false,
        HeaderOp::Set(_, text)
        | HeaderOp::Add(_, text)
        | HeaderOp::Default(_, text)
        | HeaderOp::Replace { with: text, .. } => text.0.iter().any(|part| {
            matches!(
                part,
                Part::Var(Var::UpstreamHeader(_) | Var::UpstreamStatus)
            )
        }),
    })
}

fn remove<H: Fields>(head: &mut H, pattern: &str) {
    let pattern = pattern.to_ascii_lowercase();
    let fits = |name: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => true,
        (Some(rest), Some(_)) => name.contains(rest.strip_suffix('*').unwrap_or(rest)),
        (Some(rest), None) => name.ends_with(rest),
        (None, Some(rest)) => name.starts_with(rest),
        (None, None) => name == pattern,
    };
    let names = head.headers().keys();
    let names = names.filter(|name| !is_framing(name) && fits(name.as_str()));
    for name in names.cloned().collect::<Vec<_>>() {
        head.remove(&name);
    }
}

/// The fields that change, with all their values.
fn replaced(
    headers: &HeaderMap,
    name: Option<&HeaderName>,
    find: &Pattern,
    with: &Template,
    scope: &Scope<'_>,
) -> Vec<(HeaderName, Vec<HeaderValue>)> {
    let names = headers
        .keys()
        .filter(|known| name.is_none_or(|name| name == *known));
    let mut changed = Vec::new();
    for name in names.filter(|name| !is_framing(name)) {
        let values = headers.get_all(name).iter();
        let texts: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        if !texts.iter().any(|text| find.regex().is_match(text)) {
            continue;
        }
        let values = texts.iter().map(|text| {
            let text = find
                .regex()
                .replace_all(text, |groups: &regex::Captures<'_>| {
                    expanded(scope, with, groups)
                });
            value(&text)
        });
        changed.push((name.clone(), values.collect()));
    }
    changed
}

/// A replacement. `$1` is expanded where the configuration says it, not in what a placeholder
/// brings in.
pub(super) fn expanded(scope: &Scope<'_>, with: &Template, groups: &regex::Captures<'_>) -> String {
    let mut text = String::new();
    for part in &with.0 {
        match part {
            Part::Text(literal) => groups.expand(literal, &mut text),
            Part::Var(var) => text.push_str(&scope.value(var)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::handle::test::{exchange, request};

    fn template(text: &str) -> Template {
        Template::parse(text, &[]).expect("a template")
    }

    fn name(text: &str) -> HeaderName {
        text.parse().expect("a name")
    }

    fn set(field: &str, text: &str) -> HeaderOp {
        HeaderOp::Set(name(field), template(text))
    }

    fn changed(ops: Vec<HeaderOp>, fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        let request = request("GET", "/p%0d%0aX:y?a=$1", &[("host", "h")]);
        let exchange = exchange();
        let scope = Scope::of(&request, &exchange);
        apply(&HeaderOps(ops), &mut head, &scope).unwrap();
        let shown = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let mut lines: Vec<String> = head.headers.iter().map(shown).collect();
        lines.sort();
        lines
    }

    #[test]
    fn fields_are_set_added_defaulted_and_removed_in_order() {
        let ops = vec![
            set("x-a", "{host}"),
            HeaderOp::Add(name("x-b"), template("2")),
            HeaderOp::Default(name("x-b"), template("3")),
            HeaderOp::Default(name("x-c"), template("4")),
            HeaderOp::Remove("x-old-*".to_owned()),
            HeaderOp::Remove("*-gone".to_owned()),
            HeaderOp::Remove("*mid*".to_owned()),
            HeaderOp::Remove("Server".to_owned()),
        ];
        let fields = [
            ("x-a", "0"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-old-1", "1"),
            ("is-gone", "1"),
            ("a-mid-b", "1"),
            ("server", "1"),
        ];
        assert_eq!(
            changed(ops, &fields),
            ["x-a: h", "x-b: 1", "x-b: 2", "x-c: 4"]
        );
    }

    #[test]
    fn each_value_is_replaced_with_groups() {
        let replace = |field: Option<&str>, find: &str, with: &str| HeaderOp::Replace {
            name: field.map(name),
            find: Pattern::new(find).expect("an expression"),
            with: template(with),
        };
        let fields = [("location", "http://a/1"), ("x", "http://a/2"), ("x", "y")];
        assert_eq!(
            changed(
                vec![replace(
                    Some("location"),
                    "^http://(\\w+)",
                    "https://$1.{host}"
                )],
                &fields
            ),
            ["location: https://a.h/1", "x: http://a/2", "x: y"]
        );
        assert_eq!(
            changed(vec![replace(None, "(http)", "{query.a}${1}")], &fields),
            ["location: $1http://a/1", "x: $1http://a/2", "x: y"],
            "what a client sends is not expanded"
        );
    }

    #[test]
    fn no_value_makes_another_field() {
        assert_eq!(changed(vec![set("x-a", "{path}")], &[]), ["x-a: /p  X:y"]);
    }

    #[test]
    fn what_frames_a_message_is_left_alone() {
        let ops = vec![
            set("content-length", "1"),
            set("transfer-encoding", "chunked"),
            HeaderOp::Add(name("connection"), template("x")),
            HeaderOp::Remove("*".to_owned()),
        ];
        let fields = [("content-length", "5"), ("x-a", "1")];
        assert_eq!(changed(ops, &fields), ["content-length: 5"]);
    }

    #[test]
    fn a_host_is_set_where_the_protocol_has_it() {
        let mut old = request("GET", "/", &[("host", "a")]);
        old.set(&header::HOST, HeaderValue::from_static("b:1"))
            .unwrap();
        old.remove(&header::HOST);
        assert_eq!(old.headers[header::HOST], "b:1");
        let mut new = request("GET", "/", &[]);
        new.set_uri(Uri::from_static("https://a/x?y"));
        new.set(&header::HOST, HeaderValue::from_static("b"))
            .unwrap();
        assert_eq!(new.uri.to_string(), "https://b/x?y");
        new.set(&header::HOST, HeaderValue::from_static("no host"))
            .unwrap();
        assert_eq!(new.uri.to_string(), "https://b/x?y");
    }
}
