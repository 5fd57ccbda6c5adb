//! `{$NAME}` and `{$NAME:default}`, replaced before anything else is read.
//!
//! What a variable holds is read like the rest of the file, so it may be several words or lines.
//! Every character keeps the place that a person would look for: those of a value stand where
//! the variable does.

use super::source::{Pos, Problem};
use crate::config::Env;

/// A character and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Char {
    pub(super) letter: char,
    pub(super) pos: Pos,
}

/// The characters of a file with its variables replaced. One that is not set and has no default
/// is the empty text, and told in `unset`; a value is not looked at again. Without `env` nothing is
/// replaced.
pub(super) fn characters(
    file: u32,
    text: &str,
    env: Option<&Env>,
    unset: &mut Vec<Problem>,
) -> Vec<Char> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::with_capacity(text.len());
    let mut pos = Pos {
        file,
        line: 1,
        column: 1,
    };
    let mut rest = text;
    let last_brace = text.rfind('}').unwrap_or(0);
    while let Some(letter) = rest.chars().next() {
        let is_open = text.len() - rest.len() < last_brace;
        let name = rest.strip_prefix("{$").filter(|_| is_open);
        let name = name.and_then(|inside| {
            let end = inside.find('}')?;
            Some(&inside[..end]).filter(|name| !name.is_empty())
        });
        let (Some(name), Some(env)) = (name, env) else {
            out.push(Char { letter, pos });
            step(&mut pos, letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        };
        let (name_only, default) = match name.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        let value = env.var(name_only).or(default.map(str::to_owned));
        let value = value.unwrap_or_else(|| {
            if !is_in_comment(text, rest) {
                let message = format!("{{${name}}} stands for nothing: the variable is not set");
                unset.push(Problem::new(pos, message));
            }
            String::new()
        });
        out.extend(value.chars().map(|letter| Char { letter, pos }));
        let length = name.len() + "{$}".len();
        rest[..length].chars().for_each(|c| step(&mut pos, c));
        rest = &rest[length..];
    }
    out
}

/// Whether a comment stands before `rest` on its line, as far as can be seen before words are read.
fn is_in_comment(text: &str, rest: &str) -> bool {
    let before = &text[..text.len() - rest.len()];
    let line = before.rsplit('\n').next().unwrap_or_default();
    line.starts_with('#') || line.contains(" #") || line.contains("\t#")
}

fn step(pos: &mut Pos, letter: char) {
    if letter == '\n' {
        pos.line = pos.line.saturating_add(1);
        pos.column = 1;
    } else {
        pos.column = pos.column.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> String {
        let env = Env::from_iter([("HOST", "example.com"), ("EMPTY", ""), ("OTHER", "{$HOST}")]);
        let characters = characters(0, text, Some(&env), &mut Vec::new());
        characters.iter().map(|c| c.letter).collect()
    }

    #[test]
    fn variables_are_replaced_once_and_defaults_only_when_unset() {
        for (text, wanted) in [
            ("{$HOST}:443", "example.com:443"),
            ("{$NONE}", ""),
            ("{$NONE:a:b}", "a:b"),
            ("{$EMPTY:x}", ""),
            ("{$OTHER}", "{$HOST}"),
            ("{$}", "{$}"),
            ("{$HOST", "{$HOST"),
            ("{env.HOST}", "{env.HOST}"),
            ("\u{feff}a", "a"),
        ] {
            assert_eq!(replaced(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_told_where_it_counts() {
        let env = Env::from_iter([("SET", "a"), ("EMPTY", "")]);
        let text = "{$SET} {$EMPTY} {$A:b}\n  {$NONE}\n# {$IN_A_COMMENT}\n";
        let mut unset = Vec::new();
        characters(3, text, Some(&env), &mut unset);
        let told: Vec<_> = unset
            .iter()
            .map(|problem| {
                (
                    problem.pos.line,
                    problem.pos.column,
                    problem.message.as_str(),
                )
            })
            .collect();
        let message = "{$NONE} stands for nothing: the variable is not set";
        assert_eq!(told, [(2, 3, message)]);
    }

    #[test]
    fn what_comes_after_a_variable_keeps_its_column() {
        let env = Env::from_iter([("X", "a\nb")]);
        let characters = characters(0, "{$X} é\nz", Some(&env), &mut Vec::new());
        let at = |letter| {
            let found = characters.iter().find(|c| c.letter == letter);
            let pos = found.expect("the letter").pos;
            (pos.line, pos.column)
        };
        assert_eq!(at('b'), (1, 1));
        assert_eq!(at('é'), (1, 6));
        assert_eq!(at('z'), (2, 1));
    }
}
