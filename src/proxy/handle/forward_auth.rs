//! `forward_auth`: another server is asked whether a request may go on.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::failure::Failure;
use super::fields;
use super::run::{Flow, Outcome, Walk};
use super::write::Body;
use crate::config::step::{ForwardAuth, ForwardTo};
use crate::http::Answer;
use crate::model::ErrorType;
use crate::proxy::forwarded;
use crate::proxy::front::Connection;
use crate::proxy::guard::{Question, Unanswered, answer_fields, hop_by_hop};
use crate::proxy::head;
use crate::proxy::request::client_leaves;

/// Longest body of an answer that becomes the client's, in bytes.
const BODY_BYTES: usize = 1 << 20;

/// Asks; 2xx: the copied fields are put into the request and it goes on. Any other answer is the
/// client's; none is 502, 503 or 504.
pub(super) async fn ask(walk: &mut Walk<'_>, auth: &ForwardAuth) -> Outcome {
    let question = question(walk, auth)?;
    let edge = walk.edge;
    let client = walk.exchange.client.ip;
    let site = Arc::clone(&walk.handling().site);
    let asked = async {
        match &auth.to {
            ForwardTo::Upstream(upstream) => edge.outbound().ask(upstream, &question).await,
            ForwardTo::Service(service) => {
                let service = site.service_name(*service).ok_or(Unanswered::Nobody)?;
                let outbound = edge.outbound();
                outbound
                    .ask_service(edge.table(), service, client, &question)
                    .await
            }
        }
    };
    let answer = tokio::select! {
        biased;
        answer = asked => answer,
        left = client_leaves(walk.session) => return Err(left),
    };
    match answer {
        Ok(answer) if answer.status.is_success() => {
            let request = walk.session.req_header_mut();
            copy(request, &answer.headers, &auth.copy_headers)?;
            Ok(Flow::Next)
        }
        Ok(answer) if answer.truncated => {
            tracing::warn!(site = %site.name, status = answer.status.as_u16(), "the answer of forward_auth is too long");
            Ok(Flow::Fail(Failure::new(
                502,
                ErrorType::HttpResponseBodySize,
                "The answer of the authorization server is too long.",
            )))
        }
        Ok(answer) => pass_on(walk, answer).await,
        Err(error) => {
            tracing::warn!(site = %site.name, %error, "forward_auth got no answer");
            Ok(Flow::Fail(failure(&error)))
        }
    }
}

/// The request's head as a question.
fn question(walk: &Walk<'_>, auth: &ForwardAuth) -> Result<Question> {
    let request = walk.session.req_header();
    let (method, target) = (request.method.clone(), target(request));
    let host = head::authority(request).to_owned();
    let mut asked = request.clone();
    for name in hop_by_hop(&request.headers) {
        asked.remove_header(&name);
    }
    let exchange = &walk.exchange;
    let tls = Connection::of(walk.session).and_then(|connection| connection.tls.as_ref());
    forwarded::set(
        &mut asked,
        &forwarded::Facts {
            certificate: tls.and_then(|tls| tls.client.as_ref()),
            peer: exchange.peer,
            client: exchange.client,
            host: &host,
            https: exchange.https,
            port: exchange.local_port,
            request_id: &exchange.request_id,
        },
    )?;
    asked.insert_header("X-Forwarded-Method", method.as_str())?;
    asked.insert_header("X-Forwarded-Uri", target)?;
    asked.insert_header(http::header::HOST, host)?;
    if !asked.headers.contains_key(http::header::USER_AGENT) {
        // The client's, which named none.
        asked.insert_header(http::header::USER_AGENT, "")?;
    }
    fields::apply(&auth.headers, &mut asked, &walk.scope())?;
    Ok(Question {
        path: walk.fill(&auth.uri),
        headers: asked.headers.clone(),
        deadline: auth.timeout,
        body_limit: BODY_BYTES,
    })
}

fn target(request: &RequestHeader) -> String {
    let target = request.uri.path_and_query();
    target.map_or_else(|| "/".to_owned(), ToString::to_string)
}

/// Puts fields of the answer into the request in place of those that the client sent, however it
/// spelled them: applications that speak CGI read `_` as `-`.
fn copy(
    request: &mut RequestHeader,
    answer: &HeaderMap,
    fields: &[(HeaderName, HeaderName)],
) -> Result<()> {
    for (from, to) in fields {
        let same =
            |name: &&HeaderName| name.as_str().replace('_', "-") == to.as_str().replace('_', "-");
        let sent: Vec<HeaderName> = request.headers.keys().filter(same).cloned().collect();
        for name in sent {
            request.remove_header(&name);
        }
        for value in answer.get_all(from) {
            request.append_header(to.clone(), value.clone())?;
        }
    }
    Ok(())
}

async fn pass_on(walk: &mut Walk<'_>, answer: Answer) -> Outcome {
    let fields = answer_fields(&answer.headers);
    let mut head = ResponseHeader::build(answer.status, Some(fields.len() + 1))?;
    for (name, value) in fields {
        head.append_header(name, value)?;
    }
    walk.answer(head, Body::Bytes(Bytes::clone(&answer.body)))
        .await
}

fn failure(error: &Unanswered) -> Failure {
    match error {
        late if late.is_late() => Failure::new(
            504,
            ErrorType::HttpResponseTimeout,
            "The authorization server did not answer in time.",
        ),
        Unanswered::Nobody => Failure::new(
            503,
            ErrorType::DestinationUnavailable,
            "No authorization server is available right now.",
        ),
        Unanswered::Lookup(_) => Failure::new(
            502,
            ErrorType::DnsError,
            "The authorization server cannot be found.",
        ),
        Unanswered::Failed(_) => Failure::new(
            502,
            ErrorType::DestinationUnavailable,
            "The authorization server cannot be reached.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::{Failure as Late, LookupError, Phase};

    #[test]
    fn copied_fields_are_the_answers_alone_however_the_client_spelled_them() {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for name in ["Remote-User", "remote_user", "Remote-Groups", "X-Kept"] {
            request.append_header(name, "client").expect("a field");
        }
        let mut answer = HeaderMap::new();
        answer.append("remote-user", "alice".parse().expect("a value"));
        let name = |text: &'static str| HeaderName::from_static(text);
        let fields = [
            (name("remote-user"), name("remote-user")),
            (name("remote-groups"), name("remote-groups")),
        ];
        copy(&mut request, &answer, &fields).expect("copied");
        let left: Vec<(&str, &[u8])> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.contains(&("remote-user", b"alice")));
        assert!(left.contains(&("x-kept", b"client")));
    }

    #[test]
    fn no_answer_is_504_when_it_is_late_and_502_when_there_is_nobody() {
        let status = |error| failure(&error).status;
        let late = Unanswered::Failed(Late::Timeout(Phase::Head, Duration::from_secs(5)));
        assert_eq!(status(late), 504);
        assert_eq!(status(Unanswered::Failed(Late::Connect("refused"))), 502);
        assert_eq!(status(Unanswered::Lookup(LookupError::NoSuchName)), 502);
        assert_eq!(status(Unanswered::Nobody), 503);
    }
}
