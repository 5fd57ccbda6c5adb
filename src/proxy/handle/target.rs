//! Puts a new target into a request so that it stays one.
//!
//! Templates may bring in any text, so what cannot stand in a target (RFC 9112 §3.2.1) is escaped,
//! and the path gets the form in which paths are matched: what a later condition sees is what the
//! upstream gets.

use http::Uri;
use pingora::http::RequestHeader;

use super::failure::Failure;
use super::run::Walk;
use crate::model::{ErrorType, normalize_path};

impl Walk<'_> {
    /// Gives the request a new path and, after a question mark, a new query; scheme and authority
    /// stay.
    ///
    /// # Errors
    /// See [`set`].
    pub(super) fn set_target(&mut self, target: &str) -> Result<(), Failure> {
        set(self.session.req_header_mut(), target)
    }
}

/// Gives a request a new target.
///
/// # Errors
/// It is too long: 414.
pub(super) fn set(request: &mut RequestHeader, target: &str) -> Result<(), Failure> {
    let target = escaped(target);
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_| TOO_LONG)?);
    request.set_uri(Uri::from_parts(parts).map_err(|_| TOO_LONG)?);
    Ok(())
}

/// The only reason why an escaped text is no target: an URI has at most 64 KiB.
const TOO_LONG: Failure = Failure::new(
    414,
    ErrorType::HttpRequestError,
    "The rewritten target is too long.",
);

/// The target in the form in which it may be sent.
fn escaped(target: &str) -> String {
    let (target, _fragment) = target.split_once('#').unwrap_or((target, ""));
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut escaped = String::with_capacity(target.len() + 1);
    if !path.starts_with('/') {
        escaped.push('/');
    }
    push_escaped(&mut escaped, path);
    let mut escaped = normalize_path(&escaped).into_owned();
    if let Some(query) = query {
        escaped.push('?');
        push_escaped(&mut escaped, query);
    }
    escaped
}

fn push_escaped(to: &mut String, text: &str) {
    for byte in text.bytes() {
        let stands = byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte);
        if stands {
            to.push(char::from(byte));
        } else {
            to.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(from: &str, to: &str) -> String {
        let mut request = RequestHeader::build("GET", from.as_bytes(), None).unwrap();
        set(&mut request, to).unwrap();
        request.uri.to_string()
    }

    #[test]
    fn whatever_is_put_in_is_a_target() {
        for (to, becomes) in [
            ("/a?b=c", "/a?b=c"),
            ("a", "/a"),
            ("", "/"),
            ("?a=b", "/?a=b"),
            ("/a/../b/./c", "/b/c"),
            ("/%2e%2e/a", "/a"),
            ("/a b\r\nHost: x", "/a%20b%0D%0AHost:%20x"),
            ("/é?é", "/%C3%A9?%C3%A9"),
            ("/a#b", "/a"),
            ("//a", "//a"),
            ("/a?b?c", "/a?b?c"),
            ("/{}|\"", "/%7B%7D%7C%22"),
        ] {
            assert_eq!(target("/old?query", to), becomes, "{to}");
        }
    }

    #[test]
    fn a_target_that_is_too_long_is_refused() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let long = format!("/{}", "é".repeat(22_000));
        assert_eq!(set(&mut request, &long).unwrap_err().status, 414);
        assert_eq!(request.uri.path(), "/");
    }
}
