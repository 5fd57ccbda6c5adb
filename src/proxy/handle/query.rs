//! Changes of query parameters.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::fields::expanded;
use super::scope::{Scope, parameters};
use crate::config::step::QueryOp;

/// What stands in an encoded form as it is (WHATWG URL §1.3), but for the space.
const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'*')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A text as a part of a query: a space becomes a plus sign.
pub(super) fn form_encoded(text: &str) -> String {
    let encoded: Cow<'_, str> = utf8_percent_encode(text, FORM).into();
    encoded.replace("%20", "+")
}

/// A query after its changes; in the order of the names, as Caddy writes it.
pub(super) fn changed(query: Option<&str>, ops: &[QueryOp], scope: &Scope<'_>) -> String {
    let sent = parameters(query);
    let mut pairs: Vec<(String, String)> = sent
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    for op in ops {
        change(&mut pairs, op, scope);
    }
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let written = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", form_encoded(name), form_encoded(value)));
    written.collect::<Vec<_>>().join("&")
}

fn change(pairs: &mut Vec<(String, String)>, op: &QueryOp, scope: &Scope<'_>) {
    match op {
        QueryOp::Set(name, value) => {
            let name = scope.fill(name);
            pairs.retain(|(known, _)| *known != name);
            pairs.push((name.into_owned(), scope.fill(value).into_owned()));
        }
        QueryOp::Add(name, value) => {
            pairs.push((
                scope.fill(name).into_owned(),
                scope.fill(value).into_owned(),
            ));
        }
        QueryOp::Delete(name) => {
            let name = scope.fill(name);
            pairs.retain(|(known, _)| *known != name);
        }
        QueryOp::Rename(from, to) => {
            let (from, to) = (scope.fill(from), scope.fill(to));
            if from == to || to.is_empty() || !pairs.iter().any(|(known, _)| *known == from) {
                return;
            }
            pairs.retain(|(known, _)| *known != to);
            for (name, _) in pairs.iter_mut().filter(|(known, _)| *known == from) {
                *name = to.clone().into_owned();
            }
        }
        QueryOp::Replace(name, find, with) => {
            let name = scope.fill(name);
            for (_, value) in pairs
                .iter_mut()
                .filter(|(known, _)| name == "*" || *known == name)
            {
                let new = find
                    .regex()
                    .replace_all(value, |groups: &regex::Captures<'_>| {
                        expanded(scope, with, groups)
                    });
                *value = new.into_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::{Pattern, Template};
    use crate::proxy::handle::test::{exchange, request};

    fn after(query: &str, ops: &[QueryOp]) -> String {
        let request = request("GET", &format!("/p?{query}"), &[("host", "h")]);
        changed(request.uri.query(), ops, &Scope::of(&request, &exchange()))
    }

    fn text(text: &str) -> Template {
        Template::parse(text, &[]).expect("a template")
    }

    #[test]
    fn parameters_are_set_added_deleted_renamed_and_replaced() {
        let find = Pattern::new("([0-9])").expect("an expression");
        for (op, expected) in [
            (QueryOp::Set(text("a"), text("{host} &x")), "a=h+%26x&b=3"),
            (QueryOp::Add(text("a"), text("é")), "a=1&a=2&a=%C3%A9&b=3"),
            (QueryOp::Delete(text("a")), "b=3"),
            (QueryOp::Rename(text("a"), text("b")), "b=1&b=2"),
            (QueryOp::Rename(text("x"), text("b")), "a=1&a=2&b=3"),
            (
                QueryOp::Replace(text("a"), find.clone(), text("<$1>")),
                "a=%3C1%3E&a=%3C2%3E&b=3",
            ),
            (QueryOp::Replace(text("*"), find, text("")), "a=&a=&b="),
        ] {
            assert_eq!(
                after("b=3&a=1&a=2", std::slice::from_ref(&op)),
                expected,
                "{op:?}"
            );
        }
    }
}
