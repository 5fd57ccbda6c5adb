//! The question of `forward_auth`, and what of its answer a client gets: fields alone.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields of one hop (RFC 9110 §7.6.1) beside those that `Connection` names.
const OF_ONE_HOP: [HeaderName; 7] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The fields of a request that are no part of a question: those of one hop, and those of a body,
/// which a question has not.
pub(in crate::proxy) fn hop_by_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = of_this_hop(headers);
    names.extend([CONTENT_LENGTH, EXPECT, HOST]);
    names
}

/// The fields of an answer that the client gets; the length is that of the body that is sent.
pub(in crate::proxy) fn answer_fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let dropped = of_this_hop(headers);
    let is_kept = |name: &HeaderName| *name != CONTENT_LENGTH && !dropped.contains(name);
    let kept = headers.iter().filter(|(name, _)| is_kept(name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn of_this_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    let named = headers.get_all(CONNECTION).iter();
    let named = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok());
    OF_ONE_HOP.into_iter().chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn what_belongs_to_a_connection_or_a_body_is_not_asked_with() {
        let headers = head(&[
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("cookie", "a=b"),
            ("content-length", "3"),
        ]);
        let dropped = hop_by_hop(&headers);
        for name in [
            "connection",
            "x-own",
            "content-length",
            "transfer-encoding",
            "upgrade",
            "host",
        ] {
            assert!(dropped.iter().any(|dropped| dropped == name), "{name}");
        }
        assert!(!dropped.iter().any(|dropped| dropped == "cookie"));
    }

    #[test]
    fn an_answer_keeps_every_cookie_and_loses_its_framing() {
        let headers = head(&[
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("location", "/login"),
            ("content-length", "99"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ]);
        let kept = answer_fields(&headers);
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["set-cookie", "set-cookie", "location"]);
    }
}
