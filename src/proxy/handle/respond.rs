//! `respond`, `redirect`, `error`: answers that are written in the configuration.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header;
use pingora::http::ResponseHeader;

use super::failure::{Failure, not_possible};
use super::fields;
use super::run::{Flow, Outcome, Walk};
use super::write::Body;
use crate::config::step::{ErrorAnswer, Redirect, Respond};
use crate::model::ErrorType;

/// Answers with a status and a text. Without a status: 200, or that of the error that is answered.
pub(super) async fn respond(walk: &mut Walk<'_>, respond: &Respond) -> Outcome {
    let failure = walk.handling().failure.as_ref();
    let default = failure.map_or(200, |failure| failure.status);
    let Some(status) = status(&walk.fill(&respond.status), default) else {
        return Ok(Flow::Fail(not_possible(
            &walk.handling().site,
            "respond: status",
        )));
    };
    let body = walk.fill(&respond.body);
    let mut head = ResponseHeader::build(status, Some(4))?;
    if !body.is_empty() && !walk.handling().early.contains_key(header::CONTENT_TYPE) {
        head.insert_header(header::CONTENT_TYPE, content_type(&body))?;
    }
    if respond.close {
        walk.session.set_keepalive(None);
    }
    walk.answer(head, Body::Bytes(Bytes::from(body))).await
}

/// JSON is told as such, as in Caddy.
fn content_type(body: &str) -> &'static str {
    let body = body.trim();
    let framed = (body.starts_with('{') && body.ends_with('}'))
        || (body.starts_with('[') && body.ends_with(']'));
    let json = framed && serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
    if json && body.len() > 2 {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    }
}

/// Answers with a place to go to.
pub(super) async fn redirect(walk: &mut Walk<'_>, redirect: &Redirect) -> Outcome {
    let to = location(&walk.fill(&redirect.to));
    let mut head = ResponseHeader::build(redirect.status, Some(4))?;
    let body = if redirect.html {
        head.insert_header(header::CONTENT_TYPE, "text/html; charset=utf-8")?;
        page(&to)
    } else {
        String::new()
    };
    if !redirect.html || redirect.status.is_redirection() {
        head.insert_header(header::LOCATION, fields::value(&to))?;
    }
    walk.answer(head, Body::Bytes(Bytes::from(body))).await
}

/// What cannot stand in a reference (RFC 3986 §4.1) is escaped, so that what a placeholder brings in
/// makes no other field.
fn location(text: &str) -> String {
    let mut location = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            location.push(char::from(byte));
        } else {
            let _ = write!(location, "%{byte:02X}");
        }
    }
    location
}

/// A page that goes there by itself; to other programs it is a page. As in Caddy, but for escapes.
fn page(to: &str) -> String {
    // Quotes, angle brackets and backslashes were escaped, so the text cannot end the script.
    let script = to;
    let to = to.replace('&', "&amp;").replace('\'', "&#39;");
    format!(
        "<!DOCTYPE html>\n<html>\n\t<head>\n\t\t<title>Redirecting...</title>\n\
         \t\t<script>window.location.replace(\"{script}\");</script>\n\
         \t\t<meta http-equiv=\"refresh\" content=\"0; URL='{to}'\">\n\t</head>\n\
         \t<body>Redirecting to <a href=\"{to}\">{to}</a>...</body>\n</html>\n"
    )
}

/// Fails as the configuration says.
pub(super) fn error(walk: &mut Walk<'_>, error: &ErrorAnswer) -> Flow {
    let status = status(&walk.fill(&error.status), 500).filter(|status| *status >= 400);
    let Some(status) = status else {
        return Flow::Fail(not_possible(&walk.handling().site, "error: status"));
    };
    let (kind, why) = match status {
        404 => (
            ErrorType::DestinationNotFound,
            "Nothing is served under this path.",
        ),
        400..=499 => (ErrorType::HttpRequestDenied, "The request was refused."),
        _ => (
            ErrorType::ProxyInternalResponse,
            "The request cannot be answered now.",
        ),
    };
    let mut failure = Failure::new(status, kind, why);
    let message = walk.fill(&error.message);
    failure.message = Some(message);
    Flow::Fail(failure)
}

/// A status that an answer may have; empty: `default`.
fn status(text: &str, default: u16) -> Option<u16> {
    if text.is_empty() {
        return Some(default);
    }
    let status = text.parse().ok();
    status.filter(|status| (200..=599).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_what_it_is() {
        assert_eq!(content_type(" {\"a\": 1} "), "application/json");
        assert_eq!(content_type("[1]"), "application/json");
        for text in ["{a}", "{}", "[1", "1", "hello"] {
            assert_eq!(content_type(text), "text/plain; charset=utf-8", "{text}");
        }
    }

    #[test]
    fn a_place_makes_no_other_field_and_no_other_element() {
        assert_eq!(
            location("/a b\r\nSet-Cookie: x\"<é>"),
            "/a%20b%0D%0ASet-Cookie:%20x%22%3C%C3%A9%3E"
        );
        assert_eq!(location("https://h/a?b=%20#c"), "https://h/a?b=%20#c");
        let page = page(&location("/x</script><script>'\"&y"));
        assert!(!page.contains("</script><script>"), "{page}");
        assert!(
            page.contains("href=\"/x%3C/script%3E%3Cscript%3E&#39;%22&amp;y\""),
            "{page}"
        );
    }

    #[test]
    fn a_status_is_a_final_one() {
        assert_eq!(status("", 404), Some(404));
        assert_eq!(status("204", 200), Some(204));
        for wrong in ["100", "101", "199", "600", "x", "-1", "99999"] {
            assert_eq!(status(wrong, 200), None, "{wrong}");
        }
    }
}
