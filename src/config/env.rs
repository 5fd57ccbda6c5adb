//! Where `${VAR}` comes from, and how a text with variables becomes one without.

use std::collections::BTreeMap;

/// The variables that a configuration may use: those of the process, or a fixed set.
#[derive(Clone, Debug)]
pub struct Env(Source);

#[derive(Clone, Debug)]
enum Source {
    Process,
    Fixed(BTreeMap<String, String>),
}

impl Env {
    /// The environment of this process, asked at every use.
    #[must_use]
    pub const fn process() -> Self {
        Self(Source::Process)
    }

    /// The variable's value; `None` when it is unset or not UTF-8.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<String> {
        match &self.0 {
            Source::Process => std::env::var(name).ok(),
            Source::Fixed(vars) => vars.get(name).cloned(),
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        let vars = vars.into_iter().map(|(k, v)| (k.into(), v.into()));
        Self(Source::Fixed(vars.collect()))
    }
}

/// A text after replacement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// What it says now.
    pub(super) text: String,
    /// Whether it was one `${...}` and nothing else, so that it may stand for a number,
    /// boolean or duration.
    pub(super) is_variable: bool,
}

/// Replaces `${VAR}` and `${VAR:-default}`; `$${` is a literal `${`. As in a shell, `:-` also
/// replaces an empty value. What a variable holds is not looked at again.
///
/// Errors: every variable that is unset without a default, or not a name.
pub(super) fn expand(text: &str, env: &Env) -> Result<Expanded, Vec<String>> {
    let mut out = String::with_capacity(text.len());
    let mut errors = Vec::new();
    let mut is_variable = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let Some(end) = inside.find('}') else {
            errors.push("`${` without `}`; write `$${` for a literal `${`".to_owned());
            break;
        };
        is_variable = at == 0 && rest.len() == text.len() && end + 3 == text.len();
        rest = &inside[end + 1..];
        match variable(&inside[..end], env) {
            Ok(value) => out.push_str(&value),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    out.push_str(rest);
    Ok(Expanded {
        text: out,
        is_variable,
    })
}

fn variable(inside: &str, env: &Env) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(first) || !name.chars().all(|c| first(c) || c.is_ascii_digit()) {
        return Err(format!(
            "`${{{inside}}}` names no variable; write ${{NAME}} or ${{NAME:-default}}, and `$${{` \
             for a literal `${{`"
        ));
    }
    let value = env
        .var(name)
        .filter(|value| default.is_none() || !value.is_empty());
    match (value, default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "the environment variable {name} is not set; set it, or write \
             ${{{name}:-default}}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        let env = Env::from_iter([("A", "1"), ("EMPTY", ""), ("NESTED", "${A}")]);
        match expand(text, &env) {
            Ok(done) => format!(
                "{}{}",
                done.text,
                if done.is_variable { " alone" } else { "" }
            ),
            Err(errors) => format!("{} error(s)", errors.len()),
        }
    }

    #[test]
    fn variables_are_replaced_once_and_escapes_stay() {
        let cases = [
            ("plain", "plain"),
            ("${A}", "1 alone"),
            ("${A}${A}", "11"),
            (" ${A}", " 1"),
            ("${A} ", "1 "),
            ("x${A}y", "x1y"),
            ("${B:-two}", "two alone"),
            ("${EMPTY:-two}", "two alone"),
            ("${EMPTY}", " alone"),
            ("${NESTED}", "${A} alone"),
            ("$${A}", "${A}"),
            ("$${A}${A}", "${A}1"),
            ("$A $ {A}", "$A $ {A}"),
            ("${B}", "1 error(s)"),
            ("${B}${C}", "2 error(s)"),
            ("${A", "1 error(s)"),
            ("${}", "1 error(s)"),
            ("${1}", "1 error(s)"),
            ("${A-b}", "1 error(s)"),
        ];
        for (text, wanted) in cases {
            assert_eq!(expanded(text), wanted, "{text}");
        }
    }
}
