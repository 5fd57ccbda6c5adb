//! Answers that the proxy makes itself: errors and redirects.
//!
//! Every error carries `Proxy-Status` (RFC 9209) and, when waiting helps, `Retry-After`. The body
//! is HTML for browsers, JSON for API clients, else plain text. It never repeats anything that
//! the client sent.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType as Kind, Result};

use super::head::Refusal;
use super::request::finish_body;
use crate::model::ErrorType;
use crate::pool::Notice;

/// Seconds after which a client may try again when no upstream was available.
const RETRY_AFTER_SECONDS: u32 = 5;

/// Sends what is still buffered of an answer that breaks off, so that the client sees that it had
/// begun and does not ask again. HTTP/2 has no such buffer here.
pub(super) async fn flush(session: &mut Session, patience: Duration) {
    let downstream = session.as_downstream_mut();
    if downstream.is_http2() {
        return;
    }
    // The second task flushes and hands the error back; alone it would not flush.
    let end = HttpTask::Failed(Error::new_up(Kind::ConnectionClosed));
    let flushed = downstream.response_duplex_vec(vec![HttpTask::Body(None, false), end]);
    // A client that reads no more loses nothing by it.
    let _ = tokio::time::timeout(patience, flushed).await;
}

/// Status and RFC 9209 type of an error of pingora's. `None`: the client is gone, so there is
/// nobody to answer.
pub(super) fn classify(error: &Error) -> Option<Refusal> {
    let refusal = |status, kind, why| Some(Refusal::new(status, kind, why));
    let upstream = *error.esource() == ErrorSource::Upstream;
    match error.etype() {
        Kind::HTTPStatus(503) => refusal(
            503,
            ErrorType::DestinationUnavailable,
            "No upstream is available right now.",
        ),
        Kind::HTTPStatus(413) => refusal(
            413,
            ErrorType::HttpRequestError,
            "The request body is too large.",
        ),
        Kind::HTTPStatus(status) => refusal(
            *status,
            ErrorType::HttpRequestError,
            "The request was refused.",
        ),
        Kind::ConnectTimedout => refusal(
            504,
            ErrorType::ConnectionTimeout,
            "The upstream did not accept a connection in time.",
        ),
        Kind::ConnectRefused => refusal(
            502,
            ErrorType::ConnectionRefused,
            "The upstream refused the connection.",
        ),
        Kind::ConnectNoRoute => refusal(
            502,
            ErrorType::DestinationIpUnroutable,
            "The upstream cannot be reached.",
        ),
        Kind::InvalidCert => refusal(
            502,
            ErrorType::TlsCertificateError,
            "The upstream's certificate is not valid.",
        ),
        Kind::TLSHandshakeFailure if says(error, BAD_CERTIFICATE) => refusal(
            502,
            ErrorType::TlsCertificateError,
            "The upstream's certificate is not valid.",
        ),
        Kind::TLSHandshakeFailure | Kind::ReadError | Kind::WriteError
            if upstream && says(error, ALERT) =>
        {
            refusal(
                502,
                ErrorType::TlsAlertReceived,
                "The upstream refused TLS with this proxy.",
            )
        }
        Kind::TLSHandshakeFailure | Kind::TLSHandshakeTimedout | Kind::HandshakeError => refusal(
            502,
            ErrorType::TlsProtocolError,
            "TLS with the upstream failed.",
        ),
        Kind::ConnectError | Kind::ConnectProxyFailure | Kind::SocketError | Kind::BindError => {
            refusal(
                502,
                ErrorType::DestinationUnavailable,
                "The upstream cannot be reached.",
            )
        }
        Kind::ReadTimedout if upstream => refusal(
            504,
            ErrorType::ConnectionReadTimeout,
            "The upstream did not answer in time.",
        ),
        Kind::WriteTimedout if upstream => refusal(
            504,
            ErrorType::ConnectionWriteTimeout,
            "The upstream did not read the request in time.",
        ),
        Kind::ReadError | Kind::WriteError | Kind::ConnectionClosed if upstream => refusal(
            502,
            ErrorType::ConnectionTerminated,
            "The upstream closed the connection before it answered.",
        ),
        _ if upstream => refusal(
            502,
            ErrorType::HttpProtocolError,
            "The upstream's answer is not valid HTTP.",
        ),
        Kind::ReadTimedout if *error.esource() == ErrorSource::Downstream => refusal(
            408,
            ErrorType::HttpRequestError,
            "The request did not arrive in time.",
        ),
        Kind::ReadError | Kind::WriteError | Kind::WriteTimedout | Kind::ConnectionClosed
            if *error.esource() == ErrorSource::Downstream =>
        {
            None
        }
        // A stream that the client reset (RFC 9113 §8.1): gone as well.
        Kind::H2Error if *error.esource() == ErrorSource::Downstream => None,
        Kind::InvalidHTTPHeader => refusal(
            400,
            ErrorType::HttpRequestError,
            "The request head is not valid.",
        ),
        _ if *error.esource() == ErrorSource::Downstream => refusal(
            400,
            ErrorType::HttpRequestError,
            "The request is not valid.",
        ),
        _ => refusal(
            500,
            ErrorType::ProxyInternalError,
            "The proxy failed to handle the request.",
        ),
    }
}

/// Whether `words` are in what the connector said. It passes no cause on, only the text.
fn says(error: &Error, words: &str) -> bool {
    error.to_string().contains(words)
}

/// How rustls begins what it says of a certificate that it does not accept.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// How rustls begins what it says of an alert; after a handshake of TLS 1.3 that is how an
/// upstream refuses the certificate of a client (RFC 8446 §4.4.2.4).
const ALERT: &str = "received fatal alert";

/// Writes an error answer. The connection stays usable when the request's body was read.
pub(super) async fn refuse(session: &mut Session, refusal: &Refusal) -> Result<()> {
    let (head, body) = page(session.req_header(), refusal)?;
    if matches!(refusal.status, 400 | 408 | 413 | 414 | 431) {
        session.set_keepalive(None);
    }
    write(session, head, body).await
}

/// The built-in answer to an error, in the form that the client asks for.
pub(super) fn page(request: &RequestHeader, refusal: &Refusal) -> Result<(ResponseHeader, Bytes)> {
    let form = Form::wanted(&request.headers);
    let body = Bytes::from(form.body(refusal));
    let mut head = ResponseHeader::build(refusal.status, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, form.content_type())?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    head.insert_header(
        "Proxy-Status",
        format!("cutover; error={}", refusal.error.as_str()),
    )?;
    if refusal.status == 503 {
        head.insert_header("Retry-After", RETRY_AFTER_SECONDS)?;
    }
    Ok((head, body))
}

/// Writes head and body, the latter only if the method asks for one.
async fn write(session: &mut Session, head: ResponseHeader, body: Bytes) -> Result<()> {
    finish_body(session).await;
    let head_only = session.req_header().method == Method::HEAD;
    session
        .write_response_header(Box::new(head), head_only)
        .await?;
    if !head_only {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// What an ACME server came for (RFC 8555 §8.3).
pub(super) async fn challenge(session: &mut Session, body: String) -> Result<()> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    write(session, head, body.into()).await
}

/// Writes the maintenance page.
pub(super) async fn closed(
    session: &mut Session,
    notice: &Notice,
    page: Option<&Bytes>,
    retry_after: Duration,
) -> Result<()> {
    const DEFAULT: &str = "This service is down for maintenance and will be back soon.";
    let request = session.req_header();
    let form = Form::wanted(&request.headers);
    let message = notice.message.as_deref().unwrap_or(DEFAULT);
    let body = match (form, page) {
        (Form::Html, Some(page)) => page.clone(),
        (Form::Html, None) => Bytes::from(form.page(503, "Maintenance", &escaped(message))),
        (Form::Text, _) => Bytes::from(format!("{message}\n")),
        (Form::Json, _) => Bytes::from(format!(
            "{}\n",
            serde_json::json!({"error": {
                "status": 503,
                "code": ErrorType::DestinationUnavailable.as_str(),
                "message": message,
            }})
        )),
    };
    let mut head = ResponseHeader::build(503, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, form.content_type())?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    head.insert_header(
        "Proxy-Status",
        format!(
            "cutover; error={}; details=\"maintenance\"",
            ErrorType::DestinationUnavailable.as_str()
        ),
    )?;
    head.insert_header("Retry-After", retry_after.as_secs().max(1))?;
    write(session, head, body).await
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Writes a permanent redirect that keeps method and body (RFC 9110 §15.4.9).
pub(super) async fn redirect(session: &mut Session, location: &str) -> Result<()> {
    let mut head = ResponseHeader::build(308, Some(3))?;
    head.insert_header("Location", location)?;
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    finish_body(session).await;
    session.write_response_header(Box::new(head), true).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Html,
    Json,
}

impl Form {
    /// By the first of the three that `Accept` names; quality values are not weighed, because
    /// the clients that matter name what they want first.
    fn wanted(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT);
        let media = accepted
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|entry| entry.split(';').next().unwrap_or_default().trim());
        for kind in media {
            match kind {
                "text/html" | "application/xhtml+xml" => return Self::Html,
                "text/plain" => return Self::Text,
                "application/json" => return Self::Json,
                kind if kind.ends_with("+json") => return Self::Json,
                _ => {}
            }
        }
        let sends_json = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/json"));
        if sends_json { Self::Json } else { Self::Text }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
        }
    }

    /// The built-in page. `text` is HTML.
    fn page(self, status: u16, title: &str, text: &str) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{status} {title}</title>\
             <style>body{{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;\
             max-width:32rem;padding:0 1rem;color:#222;background:#fff}}\
             h1{{font-size:1.5rem}}@media(prefers-color-scheme:dark)\
             {{body{{color:#ddd;background:#181818}}}}</style></head>\n\
             <body><h1>{status} {title}</h1><p>{text}</p></body>\n</html>\n"
        )
    }

    fn body(self, refusal: &Refusal) -> String {
        let Refusal { status, error, why } = refusal;
        let reason = StatusCode::from_u16(*status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Error");
        match self {
            Self::Text => format!("{status} {reason}\n{why}\n"),
            Self::Html => self.page(*status, reason, why),
            Self::Json => format!(
                "{{\"error\":{{\"status\":{status},\"code\":\"{}\",\"message\":\"{why}\"}}}}\n",
                error.as_str()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&'static str, &'static str)]) -> Form {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        Form::wanted(&headers)
    }

    #[test]
    fn browsers_get_html_and_api_clients_json() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(form(&[("accept", browser)]), Form::Html);
        assert_eq!(form(&[("accept", "*/*")]), Form::Text);
        assert_eq!(form(&[]), Form::Text);
        assert_eq!(form(&[("accept", "application/problem+json")]), Form::Json);
        assert_eq!(form(&[("content-type", "application/json")]), Form::Json);
    }

    #[test]
    fn what_a_person_wrote_is_shown_and_not_run() {
        assert_eq!(escaped("<b>&\"x\""), "&lt;b&gt;&amp;&quot;x&quot;");
    }

    #[test]
    fn the_json_body_is_json() {
        let refusal = Refusal::new(503, ErrorType::DestinationUnavailable, "Nobody home.");
        let body: serde_json::Value = serde_json::from_str(&Form::Json.body(&refusal)).unwrap();
        assert_eq!(body["error"]["code"], "destination_unavailable");
        assert_eq!(body["error"]["status"], 503);
    }

    #[test]
    fn an_upstream_that_dies_is_502_and_one_that_hangs_504() {
        let status = |mut error: Box<Error>| {
            error.as_up();
            classify(&error).map(|refusal| (refusal.status, refusal.error.as_str()))
        };
        assert_eq!(
            status(Error::new(Kind::ConnectionClosed)),
            Some((502, "connection_terminated"))
        );
        assert_eq!(
            status(Error::new(Kind::ReadTimedout)),
            Some((504, "connection_read_timeout"))
        );
        assert_eq!(
            status(Error::new(Kind::ConnectTimedout)),
            Some((504, "connection_timeout"))
        );
        assert_eq!(
            classify(&Error::new_down(Kind::ConnectionClosed)).map(|r| r.status),
            None
        );
    }
}
