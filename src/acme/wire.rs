//! The CA over our own outbound client: one deadline for each exchange, a bound on the body,
//! and a memory of what instant-acme does not hand out: status, `Retry-After`, alternate chains.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{LINK, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::http::{Answer, Client, Failure, Resolver};

/// Exchanges with one CA.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client,
    resolver: Arc<Resolver>,
    deadline: Duration,
    now: fn() -> SystemTime,
    seen: Arc<Mutex<Seen>>,
}

/// Of the last answer.
#[derive(Default)]
pub(super) struct Seen {
    /// Its status; `None`: there was no answer.
    pub(super) status: Option<StatusCode>,
    /// When to come back, if it said.
    pub(super) retry_at: Option<SystemTime>,
    /// URLs of other chains for the same certificate (RFC 8555 §7.4.2).
    pub(super) alternates: Vec<String>,
    /// Its body.
    pub(super) body: Bytes,
}

impl Wire {
    pub(super) fn new(client: Client, resolver: Arc<Resolver>, deadline: Duration) -> Self {
        Self {
            client,
            resolver,
            deadline,
            now: crate::clock::wall,
            seen: Arc::default(),
        }
    }

    /// What is known of the last answer.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unsigned `GET`.
    pub(super) async fn get(&self, url: &str) -> Result<Answer, Failure> {
        let request = Request::get(url).body(Bytes::new());
        let request = request.map_err(|_| Failure::Request(format!("`{url}` is not a URL")))?;
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        *self.seen() = Seen::default();
        let answer = self
            .client
            .fetch(&self.resolver, request, self.deadline, BODY_LIMIT_BYTES)
            .await?;
        *self.seen() = Seen {
            status: Some(answer.status),
            retry_at: retry_at(&answer.headers, (self.now)()),
            alternates: alternates(&answer.headers),
            body: answer.body.clone(),
        };
        Ok(answer)
    }
}

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let wire = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(head, body.to_bytes());
            let answer = (wire.exchange(request).await)
                .map_err(|failure| Error::Other(Box::new(failure)))?;
            let mut response = http::Response::new(Full::new(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(response.into())
        })
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110 §10.2.3).
pub(super) fn retry_at(headers: &HeaderMap, now: SystemTime) -> Option<SystemTime> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Some(now + Duration::from_secs(seconds.into())),
        Err(_) => http_date(text),
    }
}

/// An IMF-fixdate (RFC 9110 §5.6.7).
pub(super) fn http_date(text: &str) -> Option<SystemTime> {
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()?;
    Some(SystemTime::from(zoned))
}

fn alternates(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|link| link.contains("rel=\"alternate\"") || link.contains("rel=alternate"))
        .filter_map(|link| Some(link.split_once('<')?.1.split_once('>')?.0.to_owned()))
        .collect()
}

/// Far above every object and chain of RFC 8555.
const BODY_LIMIT_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (text, seconds) in [
            ("120", Some(1_000_120)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(1_445_412_480)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            let expected = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(retry_at(&headers, now), expected, "{text}");
        }
    }

    #[test]
    fn alternate_chains_are_found_among_other_links() {
        let mut headers = HeaderMap::new();
        let links = "<https://ca/dir>;rel=\"index\", <https://ca/cert/1/1>;rel=\"alternate\"";
        headers.append(LINK, HeaderValue::from_static(links));
        let more = "<https://ca/cert/1/2>;rel=\"alternate\"";
        headers.append(LINK, HeaderValue::from_static(more));
        assert_eq!(
            alternates(&headers),
            ["https://ca/cert/1/1", "https://ca/cert/1/2"]
        );
    }
}
