//! `basic_auth`: names and passwords (RFC 7617).

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

use super::failure::Failure;
use super::run::{Flow, Outcome, Walk};
use crate::config::step::BasicAuth;
use crate::model::ErrorType;
use crate::pool::Planned;
use crate::proxy::guard::{Credentials, Verdict, Verifier};
use crate::proxy::request::client_leaves;

/// Lets known users pass and remembers who it is; else 401. The upstream gets the credentials too,
/// as of Caddy.
pub(super) async fn check(walk: &mut Walk<'_>, step: &Planned, auth: &BasicAuth) -> Outcome {
    let verdict = match Credentials::of(&walk.session.req_header().headers) {
        None => Verdict::Wrong,
        Some(sent) => {
            let verifier = step.state(Verifier::new);
            tokio::select! {
                biased;
                verdict = verifier.check(auth, sent) => verdict,
                left = client_leaves(walk.session) => return Err(left),
            }
        }
    };
    match verdict {
        Verdict::Right(name) => {
            walk.handling().user = Some(name);
            Ok(Flow::Next)
        }
        Verdict::Wrong => Ok(Flow::Fail(
            Failure::new(
                401,
                ErrorType::HttpRequestDenied,
                "A name and a password are needed here.",
            )
            .with(WWW_AUTHENTICATE, challenge(&auth.realm)),
        )),
        Verdict::Busy => Ok(Flow::Fail(Failure::new(
            503,
            ErrorType::ConnectionLimitReached,
            "Too many passwords are being checked; try again soon.",
        ))),
    }
}

/// RFC 7617 §2, the realm as a quoted string (RFC 9110 §5.6.4).
fn challenge(realm: &str) -> HeaderValue {
    let mut value = String::from("Basic realm=\"");
    for letter in realm.chars().filter(|letter| !letter.is_control()) {
        if matches!(letter, '"' | '\\') {
            value.push('\\');
        }
        value.push(letter);
    }
    value.push('"');
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("Basic realm=\"restricted\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_stays_within_its_quotes() {
        assert_eq!(challenge("restricted"), "Basic realm=\"restricted\"");
        assert_eq!(
            challenge("a\"b\\c\r\nX: y"),
            "Basic realm=\"a\\\"b\\\\cX: y\""
        );
    }
}
