//! Errors of TOML itself, as few as a person needs.
//!
//! A bracket that nobody closed swallows the rest of the file, and the TOML parser complains
//! about each word of it. Only the place where the swallowing begins is worth a line.

use toml::de::Error;

use super::findings::Findings;

/// Reports them; `end` is the length of the file.
pub(super) fn report(mut errors: Vec<Error>, end: usize, out: &Findings<'_>) {
    let at = |error: &Error| error.span().map_or(end, |span| span.start);
    errors.sort_by_key(at);
    let mut rest = &errors[..];
    while let Some((first, others)) = rest.split_first() {
        out.torn(at(first));
        let run = rest.iter().take_while(|e| is_inside_brackets(e)).count();
        let unclosed = rest[..run].iter().position(is_unclosed).filter(|n| *n > 0);
        let Some(unclosed) = unclosed else {
            out.syntax(at(first), first.message());
            rest = others;
            continue;
        };
        for swallowed in &rest[..=unclosed] {
            out.torn(at(swallowed));
        }
        let message = rest[unclosed].message();
        out.syntax(at(first), &format!("{message} before this"));
        rest = &rest[unclosed + 1..];
    }
}

fn is_unclosed(error: &Error) -> bool {
    let message = error.message();
    message.starts_with("unclosed array,") || message.starts_with("unclosed inline table")
}

fn is_inside_brackets(error: &Error) -> bool {
    let kinds = [
        "in array",
        "array elements",
        "array opening",
        "must be quoted",
        "inline table",
        "between key-value pairs",
    ];
    is_unclosed(error) || kinds.iter().any(|kind| error.message().contains(kind))
}
