//! Paths as conditions see them, and Caddy's patterns for them.
//!
//! A condition must not be passed by by another spelling of the same path, so it looks at the decoded
//! path with empty and dot segments resolved. What is forwarded keeps its spelling.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Without escapes; what is no UTF-8 becomes U+FFFD.
pub(super) fn decoded(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// Dot segments resolved, and empty ones removed if `merge`; a slash at the end stays.
pub(super) fn clean(path: &str, merge: bool) -> Cow<'_, str> {
    let is_clean = path.starts_with('/') && !path.contains("/.") && !(merge && path.contains("//"));
    if is_clean {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    let body = path.strip_prefix('/').unwrap_or(path);
    let mut parts = body.split('/').peekable();
    let mut folder = false;
    while let Some(segment) = parts.next() {
        let last = parts.peek().is_none();
        match segment {
            "." => folder = false,
            ".." => {
                segments.pop();
                folder = false;
            }
            "" if last => folder = true,
            "" if merge => {}
            segment => segments.push(segment),
        }
    }
    let mut cleaned = String::with_capacity(path.len() + 1);
    for segment in &segments {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    if folder || cleaned.is_empty() {
        cleaned.push('/');
    }
    Cow::Owned(cleaned)
}

/// Whether a path, as it is forwarded, fits a pattern of Caddy's `path` condition: `*` at the start,
/// the end or both is any text, elsewhere any text without a slash. Case does not matter. A pattern
/// with an escape is compared with the path's own escapes.
pub(super) fn fits(pattern: &str, path: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let pattern = lower(pattern);
    let merge = !pattern.contains("//");
    if pattern.contains('%') {
        let path = lower(path);
        return glob(&units(&pattern, true), &units(&clean(&path, merge), false));
    }
    let path = decoded(path);
    let path = clean(&path, merge);
    let path = lower(&path);
    let stars = pattern.bytes().filter(|byte| *byte == b'*').count();
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*'), stars) {
        (Some(rest), Some(_), 2) => path.contains(&rest[..rest.len() - 1]),
        (Some(rest), _, 1) => path.ends_with(rest),
        (_, Some(rest), 1) => path.starts_with(rest),
        (_, _, 0) => pattern == path,
        _ => glob(&units(&pattern, true), &units(&path, false)),
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text
        .bytes()
        .all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
    {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.to_lowercase())
}

/// A piece of a pattern or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Byte(u8),
    /// `%2f`: this byte, written as an escape.
    Escape(u8),
    /// `*`: no slash, however it is written.
    Star,
    /// `%*`: no slash that is written as one.
    EscapedStar,
}

fn units(text: &str, is_pattern: bool) -> Vec<Unit> {
    let bytes = text.as_bytes();
    let mut units = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3);
        let escape = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (unit, length) = match (byte, escape) {
            (b'%', Some(escaped)) => (Unit::Escape(escaped), 3),
            (b'%', None) if is_pattern && bytes.get(at + 1) == Some(&b'*') => {
                (Unit::EscapedStar, 2)
            }
            (b'*', _) if is_pattern => (Unit::Star, 1),
            (byte, _) => (Unit::Byte(*byte), 1),
        };
        units.push(unit);
        at += length;
    }
    units
}

/// Backtracks to the last star only; linear in the product of both lengths at worst.
fn glob(pattern: &[Unit], path: &[Unit]) -> bool {
    let one = |wanted: Unit, found: Unit| match (wanted, found) {
        (Unit::Byte(wanted), Unit::Byte(found) | Unit::Escape(found)) => {
            wanted == found.to_ascii_lowercase()
        }
        (wanted, found) => wanted == found,
    };
    let passes = |star: Unit, found: Unit| match star {
        Unit::Star => !matches!(found, Unit::Byte(b'/') | Unit::Escape(b'/')),
        _ => found != Unit::Byte(b'/'),
    };
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(Unit, usize, usize)> = None;
    loop {
        match (pattern.get(p), path.get(t)) {
            (None, None) => return true,
            (Some(wanted @ (Unit::Star | Unit::EscapedStar)), _) => {
                p += 1;
                star = Some((*wanted, p, t));
                continue;
            }
            (Some(wanted), Some(found)) if one(*wanted, *found) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        match &mut star {
            Some((kind, after, from)) if path.get(*from).is_some_and(|at| passes(*kind, *at)) => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            _ => return false,
        }
    }
}

/// Takes `prefix` off an escaped path (Caddy's `strip_prefix`): compared without regard to case, an
/// escape in the path with what it stands for unless the prefix is escaped there too. The path must
/// be clean. `None`: it does not begin so.
pub(super) fn without_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = path;
    for byte in prefix.bytes() {
        let first = *rest.as_bytes().first()?;
        let hex = (first == b'%' && byte != b'%')
            .then(|| rest.get(1..3))
            .flatten();
        let escape = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (found, length) = escape.map_or((first, 1), |escaped| (escaped, 3));
        if !found.eq_ignore_ascii_case(&byte) {
            return None;
        }
        rest = rest.get(length..)?;
    }
    Some(rest)
}

/// The same at the end of the path.
pub(super) fn without_suffix<'a>(path: &'a str, suffix: &str) -> Option<&'a str> {
    // The suffix may be longer in the path than it is written, by its escapes.
    let shortest = path.len().checked_sub(suffix.len())?;
    let longest = path.len().saturating_sub(suffix.len() * 3);
    let starts = (longest..=shortest).rev();
    let mut starts = starts.filter(|at| path.is_char_boundary(*at));
    let at = starts.find(|at| without_prefix(&path[*at..], suffix) == Some(""))?;
    Some(&path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_at_the_ends_are_any_text_and_inside_no_slash() {
        for (pattern, path, expected) in [
            ("/api/*", "/api/", true),
            ("/api/*", "/api", false),
            ("/api*", "/apis/x", true),
            ("*.php", "/a/b.PHP", true),
            ("*/wp-admin/*", "/blog/wp-admin/x", true),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/a/*/c*", "/a/b/cd", true),
            ("/exact", "/exact", true),
            ("/exact", "/exact/", false),
            ("*", "/anything", true),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn another_spelling_of_a_path_is_the_same_path() {
        for path in [
            "/admin/x",
            "/ADMIN/x",
            "//admin/x",
            "/admin//x",
            "/%61dmin/x",
            "/admin%2Fx",
            "/a/..%2Fadmin/x",
            "/%2e/admin/x",
            "/./admin/x",
        ] {
            assert!(fits("/admin/*", path), "{path}");
        }
        assert!(!fits("/admin/*", "/administrator/x"));
        assert!(!fits("/public/*", "/public/..%2Fadmin"));
        assert!(fits("//a/*", "//a/x"));
        assert!(!fits("//a/*", "/a/x"));
    }

    #[test]
    fn an_escape_in_a_pattern_is_compared_as_it_is_written() {
        assert!(fits("/a%2Fb", "/a%2fb"));
        assert!(!fits("/a%2Fb", "/a/b"));
        assert!(fits("/%40me/*", "/%40me/x"));
        assert!(!fits("/bands/*/x%20", "/bands/a/b/x%20"));
        assert!(fits("/bands/%*/x%20", "/bands/a%2Fb/x%20"));
        assert!(!fits("/bands/*/x%20", "/bands/a%2Fb/x%20"));
    }

    #[test]
    fn cleaning_keeps_the_last_slash_and_never_leaves_the_root() {
        for (path, cleaned) in [
            ("/a//b/", "/a/b/"),
            ("/..", "/"),
            ("/a/../../b", "/b"),
            ("/a/.", "/a"),
            ("", "/"),
            ("//", "/"),
        ] {
            assert_eq!(clean(path, true), cleaned, "{path}");
        }
        assert_eq!(clean("/a//b/../c", false), "/a//c");
    }

    #[test]
    fn prefixes_and_suffixes_are_taken_off_as_caddy_does() {
        for (path, prefix, rest) in [
            ("/prefix/foo", "/prefix", Some("/foo")),
            ("/PREFIX/foo", "/prefix", Some("/foo")),
            ("/pre%66ix/foo", "/prefix", Some("/foo")),
            ("/prefix%2Ffoo", "/prefix", Some("%2Ffoo")),
            ("/a%2Fb/c", "/a%2Fb", Some("/c")),
            ("/a/b/c", "/a%2Fb", None),
            ("/a%2Fb/c", "/a/b", Some("/c")),
            ("/pre", "/prefix", None),
            ("/other", "/prefix", None),
        ] {
            assert_eq!(without_prefix(path, prefix), rest, "{path} {prefix}");
        }
        for (path, suffix, rest) in [
            ("/foo/suffix", "/suffix", Some("/foo")),
            ("/foo/SUFF%69x", "suffix", Some("/foo/")),
            ("/foo%2Fsuffix", "/suffix", Some("/foo")),
            ("/é", "x", None),
            ("/foo", "/foo/bar", None),
        ] {
            assert_eq!(without_suffix(path, suffix), rest, "{path} {suffix}");
        }
    }
}
