//! Host and path patterns, and the form of a path that they are matched against.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A host name that a site answers to. Lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `example.com`, `203.0.113.7` or `[2001:db8::1]` (brackets removed).
    Exact(String),
    /// `*.example.com`: exactly one label in place of the star (RFC 9525 §6.3). Holds
    /// `example.com`.
    Wildcard(String),
}

/// A path that a route takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathPattern {
    /// `/login`: that path alone.
    Exact(String),
    /// `/api/*`: everything below; holds `/api/`. Does not match `/api`, as in Caddy.
    Prefix(String),
    /// `/img/*.png`: `*` is any text without a slash, `**` any text.
    Glob(String),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A host with a scheme, port, path or space, or an empty one.
    #[error("`{0}` is not a host name: example.com, *.example.com or an IP address")]
    Host(String),
    /// A path that does not start with a slash.
    #[error("`{0}` is not a path: /exact, /prefix/* or a glob such as /img/*.png")]
    Path(String),
}

impl HostPattern {
    /// Whether no public CA certifies such a name: special use (RFC 6761, RFC 6762, RFC 8375,
    /// and `internal`, reserved by ICANN in 2024), without a dot, or an address.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let (Self::Exact(name) | Self::Wildcard(name)) = self;
        name.parse::<std::net::IpAddr>().is_ok()
            || !name.contains('.')
            || [".localhost", ".local", ".internal", ".home.arpa"]
                .iter()
                .any(|ending| name.ends_with(ending))
            || name == "home.arpa"
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || PatternError::Host(text.to_owned());
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<std::net::IpAddr>() {
            return Ok(Self::Exact(ip.to_string()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (wildcard, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name.as_str()),
        };
        let valid = !rest.is_empty()
            && rest.len() <= 253
            && rest.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        match (valid, wildcard) {
            (true, true) => Ok(Self::Wildcard(rest.to_owned())),
            (true, false) => Ok(Self::Exact(rest.to_owned())),
            (false, _) => Err(wrong()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(rest) => write!(f, "*.{rest}"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with('/') || text.contains(['?', '#', ' ']) {
            return Err(PatternError::Path(text.to_owned()));
        }
        // The pattern is brought to the form that request paths have when they are matched.
        let text = normalize_path(text).into_owned();
        Ok(match text.strip_suffix('*') {
            Some(prefix) if prefix.ends_with('/') && !prefix.contains('*') => {
                Self::Prefix(prefix.to_owned())
            }
            _ if text.contains('*') => Self::Glob(text),
            _ => Self::Exact(text),
        })
    }
}

impl PathPattern {
    /// Whether `path`, already normalised, is matched. Linear in the length of both.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Glob(glob) => glob_matches(glob.as_bytes(), path.as_bytes()),
        }
    }

    /// How specific: exact before all others, then by the number of literal characters.
    #[must_use]
    pub fn specificity(&self) -> (bool, usize) {
        match self {
            Self::Exact(path) => (true, path.len()),
            Self::Prefix(prefix) => (false, prefix.len()),
            Self::Glob(glob) => (false, glob.bytes().filter(|b| *b != b'*').count()),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) | Self::Glob(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// Backtracks to the last star only, and to the last double star when that fails.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let mut deep: Option<(usize, usize)> = None;
    loop {
        if glob[g..].starts_with(b"**") {
            g += 2;
            deep = Some((g, t));
            star = None;
            continue;
        }
        if glob.get(g) == Some(&b'*') {
            g += 1;
            star = Some((g, t));
            continue;
        }
        match (glob.get(g), text.get(t)) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b => {
                g += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        match (&mut star, &mut deep) {
            (Some((after, from)), _) if text.get(*from).is_some_and(|b| *b != b'/') => {
                *from += 1;
                (g, t) = (*after, *from);
            }
            (_, Some((after, from))) if *from < text.len() => {
                *from += 1;
                (g, t) = (*after, *from);
                star = None;
            }
            _ => return false,
        }
    }
}

/// The form in which a path is matched and forwarded: dot segments removed (RFC 3986 §5.2.4)
/// and escapes of unreserved characters resolved (§6.2.2.2). `//`, `%2F` and every other
/// escape stay. Borrows when nothing had to change, as for nearly every request.
#[must_use]
pub fn normalize_path(path: &str) -> Cow<'_, str> {
    let unescaped = resolve_unreserved(path);
    if !has_dot_segment(&unescaped) {
        return unescaped;
    }
    let mut segments: Vec<&str> = Vec::new();
    let body = unescaped.strip_prefix('/').unwrap_or(&unescaped);
    let mut ends_in_folder = false;
    for segment in body.split('/') {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut out = String::with_capacity(unescaped.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_folder || out.is_empty() {
        out.push('/');
    }
    Cow::Owned(out)
}

fn has_dot_segment(path: &str) -> bool {
    path.as_bytes().windows(2).any(|w| w == b"/.")
        && path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn resolve_unreserved(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let escape = rest.get(at + 1..at + 3);
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathPattern {
        text.parse().expect("a valid pattern")
    }

    #[test]
    fn a_prefix_does_not_match_its_own_folder_name() {
        assert!(path("/api/*").matches("/api/"));
        assert!(path("/api/*").matches("/api/v1/users"));
        assert!(!path("/api/*").matches("/api"));
        assert!(!path("/api/*").matches("/apis"));
        assert!(!path("/api/*").matches("/API/"));
    }

    #[test]
    fn one_star_stays_in_its_segment_and_two_do_not() {
        assert!(path("/img/*.png").matches("/img/a.b.png"));
        assert!(!path("/img/*.png").matches("/img/a/b.png"));
        assert!(path("/img/**.png").matches("/img/a/b.png"));
        assert!(path("/a/*/c").matches("/a/b/c"));
        assert!(!path("/a/*/c").matches("/a/b/b/c"));
        assert!(path("/a/**/z/*.js").matches("/a/b/c/z/x.js"));
        assert!(!path("/a/**/z/*.js").matches("/a/b/c/z/y/x.jsx"));
        assert!(path("/api*").matches("/apis"));
    }

    #[test]
    fn dot_segments_and_needless_escapes_are_resolved_and_nothing_else() {
        let cases = [
            ("/", "/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../etc", "/etc"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%61dmin", "/a/admin"),
            ("/a//b", "/a//b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a/%2e%2e%2fb", "/a/..%2fb"),
            ("/a/...", "/a/..."),
            ("/%", "/%"),
            ("/%zz%4", "/%zz%4"),
            ("/.well-known/x", "/.well-known/x"),
        ];
        for (from, to) in cases {
            assert_eq!(normalize_path(from), to, "{from}");
        }
    }

    #[test]
    fn hosts_are_lower_case_and_wildcards_take_one_label() {
        assert_eq!(
            "WWW.Example.com.".parse(),
            Ok(HostPattern::Exact("www.example.com".to_owned()))
        );
        assert_eq!(
            "*.example.com".parse(),
            Ok(HostPattern::Wildcard("example.com".to_owned()))
        );
        assert_eq!("[::1]".parse(), Ok(HostPattern::Exact("::1".to_owned())));
        for wrong in ["", "http://x", "a b", "*.*.x", "x:80", "a..b", "-a.com"] {
            assert!(wrong.parse::<HostPattern>().is_err(), "{wrong}");
        }
    }
}
