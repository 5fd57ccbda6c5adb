//! What a request head must be before anything is decided with it.
//!
//! Pingora's parser already refuses what is ambiguous by framing (two lengths, an unknown
//! transfer coding, folded fields) and drops a `Content-Length` beside `Transfer-Encoding`. Here
//! is what it leaves open: the size of the head and target, a missing `Host`, a form of target
//! that is not for a proxy.

use http::{HeaderMap, Method, Uri, Version};
use pingora::http::RequestHeader;

use crate::config::Limits;
use crate::model::ErrorType;

/// An answer instead of the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) error: ErrorType,
    /// One sentence for a person, without anything the client sent.
    pub(super) why: &'static str,
}

impl Refusal {
    pub(super) const fn new(status: u16, error: ErrorType, why: &'static str) -> Self {
        Self { status, error, why }
    }

    pub(super) const fn bad(why: &'static str) -> Self {
        Self::new(400, ErrorType::HttpRequestError, why)
    }
}

/// Checks sizes and the target's form. Returns the authority that the request is for, empty for
/// an HTTP/1.0 request without `Host`.
pub(super) fn check<'a>(
    method: &Method,
    uri: &'a Uri,
    raw_path_bytes: usize,
    version: Version,
    headers: &'a HeaderMap,
    limits: &Limits,
) -> Result<&'a str, Refusal> {
    if raw_path_bytes > limits.request_target_bytes {
        return Err(Refusal::new(
            414,
            ErrorType::HttpRequestError,
            "The request target is too long.",
        ));
    }
    // Four bytes of each field are the colon, the space and the line end.
    let fields: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if raw_path_bytes + fields > limits.request_head_bytes {
        return Err(Refusal::new(
            431,
            ErrorType::HttpRequestError,
            "The request head is too large.",
        ));
    }
    if uri.path() == "*" || (uri.path().is_empty() && *method == Method::OPTIONS) {
        // `OPTIONS *` asks the proxy itself (RFC 9110 §9.3.7), which has no options to tell.
        return Err(Refusal::bad("OPTIONS * is not for an upstream."));
    }
    let mut hosts = headers.get_all(http::header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::bad("The request has more than one Host."));
    }
    let host = match host {
        Some(host) => Some(
            host.to_str()
                .map_err(|_| Refusal::bad("The Host is not a host name."))?,
        ),
        None => None,
    };
    match (uri.authority(), host) {
        (Some(authority), _) if authority.as_str().contains('@') => {
            Err(Refusal::bad("User information is not allowed in a target."))
        }
        (Some(authority), _) => Ok(authority.as_str()),
        (None, Some(host)) => Ok(host),
        (None, None) if version == Version::HTTP_10 => Ok(""),
        (None, None) => Err(Refusal::bad("The request has no Host.")),
    }
}

/// Whether a target is in origin-form, asterisk-form or absolute-form (RFC 9112 §3.2). Of any other
/// one pingora makes the path `/`, but forwards it as it came.
pub(super) fn is_target(raw: &[u8]) -> bool {
    let starts = |scheme: &[u8]| {
        (raw.get(..scheme.len())).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let form = raw.first() == Some(&b'/') || raw == b"*";
    (form || starts(b"http://") || starts(b"https://")) && std::str::from_utf8(raw).is_ok()
}

/// The authority of a request that passed [`check`].
pub(super) fn authority(request: &RequestHeader) -> &str {
    match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => request
            .headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            request_head_bytes: 200,
            request_target_bytes: 50,
            connections: 1,
            upstream_keep_alive: 1,
            attempts: 1,
            ..Limits::default()
        }
    }

    fn status(uri: &str, version: Version, fields: &[(&'static str, &str)]) -> Result<String, u16> {
        let uri: Uri = uri.parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let length = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        check(&Method::GET, &uri, length, version, &headers, &limits())
            .map(str::to_owned)
            .map_err(|refusal| refusal.status)
    }

    #[test]
    fn http_1_1_needs_one_host_and_1_0_none() {
        assert_eq!(status("/", Version::HTTP_11, &[]), Err(400));
        assert_eq!(status("/", Version::HTTP_10, &[]), Ok(String::new()));
        assert_eq!(
            status("/", Version::HTTP_11, &[("host", "a")]),
            Ok("a".to_owned())
        );
        assert_eq!(
            status("/", Version::HTTP_11, &[("host", "a"), ("host", "a")]),
            Err(400)
        );
        assert_eq!(
            status("http://b/x", Version::HTTP_2, &[]),
            Ok("b".to_owned())
        );
        assert_eq!(
            status("http://u@b/x", Version::HTTP_11, &[("host", "b")]),
            Err(400)
        );
    }

    #[test]
    fn sizes_are_bounded_each_with_its_own_status() {
        let long_path = format!("/{}", "a".repeat(50));
        assert_eq!(
            status(&long_path, Version::HTTP_11, &[("host", "a")]),
            Err(414)
        );
        let long_value = "v".repeat(190);
        let fields = [("host", "a"), ("x-long", long_value.as_str())];
        assert_eq!(status("/", Version::HTTP_11, &fields), Err(431));
    }
}
