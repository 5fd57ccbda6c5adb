//! One target: what a note looks like there, and how it is sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use serde_json::json;

use super::note::{EventKind, Note};
use crate::config::{Notify, NotifyKind, Secret};
use crate::http::{Client, Resolver};

/// For one attempt, the name look-up included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer, what is read.
const ANSWER_LIMIT: usize = 4 * 1024;
/// Discord refuses longer messages.
const DISCORD_LIMIT: usize = 2_000;
/// What a note to a chat or a phone is cut to.
const TEXT_LIMIT: usize = 3_500;

/// What a target said to a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It took it.
    Yes,
    /// It did not, for this reason; the target's address is not in it.
    No {
        /// For people.
        reason: String,
        /// How long it asked to be left alone (RFC 9110 §10.2.3).
        after: Option<Duration>,
    },
}

/// Sends a note once.
pub(super) async fn send(
    client: &Client,
    resolver: &Resolver,
    target: &Notify,
    note: &Note,
    now: SystemTime,
) -> Delivered {
    let no = |reason: String| Delivered::No {
        reason,
        after: None,
    };
    let Some(request) = request(target, note, now) else {
        return no("its url is not one that can be asked".to_owned());
    };
    match client
        .fetch(resolver, request, PATIENCE, ANSWER_LIMIT)
        .await
    {
        Ok(answer) if answer.status.is_success() => Delivered::Yes,
        Ok(answer) => Delivered::No {
            reason: said(answer.status, &answer.body),
            after: answer
                .headers
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs),
        },
        // What cannot be reached is named by its address, which may hold the secret.
        Err(failure) => no(failure.to_string().replace(target.url.reveal(), "the url")),
    }
}

fn said(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(200).collect();
    if words.is_empty() {
        format!("it answered {status}")
    } else {
        format!("it answered {status}: {words}")
    }
}

/// The request that carries a note to a target.
fn request(target: &Notify, note: &Note, now: SystemTime) -> Option<Request<Bytes>> {
    let request = Request::post(target.url.reveal());
    let json_body = |value: serde_json::Value| Bytes::from(value.to_string());
    let json = |request: http::request::Builder, body: Bytes| {
        let request = request.header(header::CONTENT_TYPE, "application/json");
        request.body(body).ok()
    };
    match target.kind {
        NotifyKind::Json => {
            let body = Bytes::from(serde_json::to_vec(note).ok()?);
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let timestamp = since.as_secs().to_string();
            let mut request = request
                .header("webhook-id", &note.id)
                .header("webhook-timestamp", &timestamp);
            if let Some(secret) = &target.secret {
                let signature = signature(secret, &note.id, &timestamp, &body);
                request = request.header("webhook-signature", signature);
            }
            json(request, body)
        }
        NotifyKind::Slack => {
            let text = cut(&note.message(), TEXT_LIMIT);
            // Slack's three control characters.
            let text = text
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            json(request, json_body(json!({ "text": text })))
        }
        NotifyKind::Discord => {
            let content = cut(&note.message(), DISCORD_LIMIT);
            let nobody = json!({ "parse": [] });
            let body = json!({ "content": content, "allowed_mentions": nobody });
            json(request, json_body(body))
        }
        NotifyKind::Ntfy => {
            let mut lines = vec![note.text.as_str()];
            lines.extend(note.details.iter().map(String::as_str));
            let body = cut(&lines.join("\n"), TEXT_LIMIT);
            let mut request = request
                .header("title", plain(&note.title))
                .header("priority", priority(note.event))
                .header("tags", tag(note.event));
            if let Some(token) = &target.secret {
                let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
                let mut value = value.ok()?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            request.body(Bytes::from(body)).ok()
        }
    }
}

/// `v1,` and the base64 of HMAC-SHA256 over id, time and body (Standard Webhooks 1.0). A secret
/// that begins with `whsec_` is base64 itself, any other is used as it is.
fn signature(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> String {
    let text = secret.reveal();
    let coded = text.strip_prefix("whsec_");
    let key = coded
        .and_then(|coded| STANDARD.decode(coded).ok())
        .unwrap_or_else(|| text.as_bytes().to_vec());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mut context = hmac::Context::with_key(&key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// ntfy's scale from 1 to 5.
const fn priority(event: EventKind) -> &'static str {
    match event {
        EventKind::RolledBack | EventKind::Held | EventKind::StillBad => "5",
        EventKind::Suspicious
        | EventKind::Alert
        | EventKind::Refused
        | EventKind::Recovered
        | EventKind::DeployFailed
        | EventKind::JobFailed
        | EventKind::CertificateError
        | EventKind::ConfigError => "4",
        EventKind::Switched
        | EventKind::Committed
        | EventKind::Aborted
        | EventKind::Override
        | EventKind::Certificate
        | EventKind::Config
        | EventKind::Test => "3",
    }
}

/// ntfy shows it as a sign.
const fn tag(event: EventKind) -> &'static str {
    match event {
        EventKind::RolledBack | EventKind::StillBad => "rotating_light",
        EventKind::Held
        | EventKind::Suspicious
        | EventKind::Alert
        | EventKind::Refused
        | EventKind::DeployFailed
        | EventKind::JobFailed
        | EventKind::CertificateError
        | EventKind::ConfigError => "warning",
        EventKind::Committed => "white_check_mark",
        EventKind::Switched
        | EventKind::Aborted
        | EventKind::Recovered
        | EventKind::Override
        | EventKind::Certificate
        | EventKind::Config
        | EventKind::Test => "information_source",
    }
}

/// What may stand in a header field.
fn plain(text: &str) -> String {
    let shown = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    text.chars().map(shown).take(250).collect()
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(limit - 1).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: NotifyKind, secret: Option<&str>) -> Notify {
        Notify {
            kind,
            url: Secret::new("https://hooks.test/T/abc"),
            secret: secret.map(Secret::new),
            events: EventKind::ALL.to_vec(),
        }
    }

    fn note() -> Note {
        Note {
            id: "1-2".to_owned(),
            text: "46 of 872 requests failed <b>".to_owned(),
            details: vec!["/orders/*: 500, 40 times".to_owned()],
            ..Note::new(EventKind::RolledBack, "web: rolled back to blue")
        }
    }

    fn field<'a>(request: &'a Request<Bytes>, name: &str) -> &'a str {
        let value = request.headers().get(name).expect("a field");
        value.to_str().expect("text")
    }

    fn body(request: &Request<Bytes>) -> serde_json::Value {
        serde_json::from_slice(request.body()).expect("JSON")
    }

    /// The example of the specification.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(
            signature(&secret, id, "1614265330", body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_webhook_has_the_whole_note_and_is_signed() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let signed = request(&target(NotifyKind::Json, Some("s")), &note(), now);
        let signed = signed.expect("a request");
        assert_eq!(field(&signed, "webhook-id"), "1-2");
        assert_eq!(field(&signed, "webhook-timestamp"), "1800000000");
        assert!(field(&signed, "webhook-signature").starts_with("v1,"));
        assert_eq!(field(&signed, "content-type"), "application/json");
        let sent: Note = serde_json::from_slice(signed.body()).expect("a note");
        assert_eq!(sent, note());
        assert_eq!(body(&signed)["event"], "rolled_back");
        let plain = request(&target(NotifyKind::Json, None), &note(), now);
        assert!(
            !plain
                .expect("one")
                .headers()
                .contains_key("webhook-signature")
        );
    }

    #[test]
    fn chats_and_phones_get_what_they_understand() {
        let of = |kind, secret| request(&target(kind, secret), &note(), UNIX_EPOCH).expect("one");
        let slack = of(NotifyKind::Slack, None);
        let text = body(&slack)["text"].as_str().expect("text").to_owned();
        assert!(
            text.starts_with("web: rolled back to blue\n46 of 872"),
            "{text}"
        );
        assert!(text.contains("&lt;b&gt;\n/orders"), "{text}");
        let discord = of(NotifyKind::Discord, None);
        assert!(
            body(&discord)["content"]
                .as_str()
                .expect("text")
                .contains("<b>")
        );
        assert_eq!(body(&discord)["allowed_mentions"]["parse"], json!([]));
        let ntfy = of(NotifyKind::Ntfy, Some("tk_1"));
        assert_eq!(field(&ntfy, "title"), "web: rolled back to blue");
        assert_eq!(field(&ntfy, "priority"), "5");
        assert_eq!(field(&ntfy, "authorization"), "Bearer tk_1");
        assert!(ntfy.body().starts_with(b"46 of 872"));
    }

    #[test]
    fn long_texts_are_cut_and_titles_are_plain() {
        let mut long = note();
        long.text = "ü".repeat(5_000);
        let request = request(&target(NotifyKind::Discord, None), &long, UNIX_EPOCH);
        let content = body(&request.expect("one"))["content"]
            .as_str()
            .map(str::to_owned);
        assert_eq!(content.expect("text").chars().count(), DISCORD_LIMIT);
        assert_eq!(plain("a\r\nb: ü"), "a??b: ?");
    }

    #[test]
    fn what_a_target_says_is_told_in_a_line() {
        let said = said(StatusCode::NOT_FOUND, b"no_team\n\n <html>");
        assert_eq!(said, "it answered 404 Not Found: no_team <html>");
    }
}
