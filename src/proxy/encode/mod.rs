//! Compression of answers on their way to the client.
//!
//! Whether an answer is compressed is decided by [`decide`] when its head is complete, from heads
//! alone. A compressed body loses its length and its ranges, and its strong entity tag becomes a
//! weak one (RFC 9110 §8.8.1): the bytes differ, but a condition still finds the version.
//! What could have been compressed has `Vary: Accept-Encoding` whether it was or not, so that a
//! cache keeps the forms apart.
//!
//! Never compressed: what is encoded already, parts (206), event streams and gRPC, whose clients
//! wait for single messages, what says `no-transform` (RFC 9111 §5.2.2.6), and answers to
//! HTTP/1.0, which knows no chunks. An answer to HEAD gets the head of that to GET.

mod encoder;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

pub(super) use encoder::Encoder;

use crate::config::step::{Encode, Encoding, ResponseMatcher, TextMatch};
use crate::files::Accepted;

/// What is done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is none that is compressed for anybody.
    Leave,
    /// It stays as it is for this client.
    Vary,
    /// It is compressed, with this level if one is configured.
    Compress(Encoding, Option<u32>),
}

/// The request that is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
}

/// Decides by the heads of both.
pub(super) fn decide(
    step: &Encode,
    client: Client<'_>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Decision {
    let bodiless = status.is_informational()
        || matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        );
    let special = [
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRAILER,
    ];
    if bodiless
        || special.iter().any(|name| headers.contains_key(name))
        || length(headers).is_some_and(|length| length < step.min_length)
        || lists(headers, &header::CACHE_CONTROL, "no-transform")
        || !is_wanted(&step.when, status, headers)
    {
        return Decision::Leave;
    }
    let offered = step.encodings.iter().map(|(coding, _)| *coding);
    let best = Accepted::new(client.headers, offered).iter().next();
    match best {
        Some(best) if client.version >= Version::HTTP_11 => {
            let configured = step.encodings.iter().find(|(coding, _)| *coding == best);
            Decision::Compress(best, configured.and_then(|(_, level)| *level))
        }
        _ => Decision::Vary,
    }
}

/// The announced length of a body.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Whether a field that is a list of words has this one.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|entry| entry.trim().eq_ignore_ascii_case(word))
}

/// An entity tag for the compressed form; `None`: it is weak already.
pub(super) fn weakened(etag: &HeaderValue) -> Option<String> {
    let etag = etag.to_str().ok()?;
    etag.starts_with('"').then(|| format!("W/{etag}"))
}

/// The configured answers; by default those of [`TYPES`].
fn is_wanted(when: &ResponseMatcher, status: StatusCode, headers: &HeaderMap) -> bool {
    let Some(kind) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
    else {
        return false;
    };
    let kind = kind.trim().to_ascii_lowercase();
    if kind.starts_with("text/event-stream") || kind.starts_with("application/grpc") {
        return false;
    }
    let code = status.as_u16();
    if !when.status.is_empty() && !when.status.iter().any(|(a, z)| (*a..=*z).contains(&code)) {
        return false;
    }
    if when.headers.is_empty() {
        return TYPES.iter().any(|known| kind.starts_with(known));
    }
    when.headers.iter().all(|(name, texts)| {
        let mut values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .peekable();
        if values.peek().is_none() {
            return texts.contains(&TextMatch::Absent);
        }
        values.any(|value| texts.iter().any(|text| text.matches(value)))
    })
}

/// Beginnings of media types that get shorter. Caddy's list, without the fonts that are
/// compressed in themselves.
const TYPES: &[&str] = &[
    "text/",
    "application/atom+xml",
    "application/eot",
    "application/font-sfnt",
    "application/geo+json",
    "application/graphql+json",
    "application/graphql-response+json",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/opentype",
    "application/otf",
    "application/problem+json",
    "application/rss+xml",
    "application/truetype",
    "application/ttf",
    "application/vnd.api+json",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-httpd-cgi",
    "application/x-javascript",
    "application/x-opentype",
    "application/x-otf",
    "application/x-perl",
    "application/x-protobuf",
    "application/x-ttf",
    "application/xhtml+xml",
    "application/xml",
    "font/collection",
    "font/otf",
    "font/sfnt",
    "font/ttf",
    "image/svg+xml",
    "image/vnd.microsoft.icon",
    "image/x-icon",
    "multipart/bag",
    "multipart/mixed",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Encode {
        Encode {
            encodings: vec![(Encoding::Zstd, None), (Encoding::Gzip, Some(6))],
            min_length: 512,
            when: ResponseMatcher::default(),
        }
    }

    fn map(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn decided(step: &Encode, status: u16, fields: &[(HeaderName, &'static str)]) -> Decision {
        let asked = map(&[(header::ACCEPT_ENCODING, "gzip, br")]);
        let client = Client {
            version: Version::HTTP_11,
            headers: &asked,
        };
        let status = StatusCode::from_u16(status).expect("a status");
        decide(step, client, status, &map(fields))
    }

    const HTML: (HeaderName, &str) = (header::CONTENT_TYPE, "Text/HTML; charset=utf-8");
    const GZIP: Decision = Decision::Compress(Encoding::Gzip, Some(6));

    #[test]
    fn texts_of_some_length_are_compressed_as_the_client_takes_it() {
        let step = step();
        assert_eq!(decided(&step, 200, &[HTML]), GZIP);
        assert_eq!(
            decided(&step, 404, &[HTML, (header::CONTENT_LENGTH, "512")]),
            GZIP
        );
        let short = decided(&step, 200, &[HTML, (header::CONTENT_LENGTH, "511")]);
        assert_eq!(short, Decision::Leave);
    }

    #[test]
    fn types_that_do_not_get_shorter_stay() {
        for (kind, expected) in [
            ("application/json", GZIP),
            ("image/svg+xml", GZIP),
            ("font/ttf", GZIP),
            ("font/woff2", Decision::Leave),
            ("image/png", Decision::Leave),
            ("application/octet-stream", Decision::Leave),
        ] {
            let decision = decided(&step(), 200, &[(header::CONTENT_TYPE, kind)]);
            assert_eq!(decision, expected, "{kind}");
        }
        assert_eq!(decided(&step(), 200, &[]), Decision::Leave, "no type");
    }

    #[test]
    fn what_is_encoded_partial_streamed_or_bodiless_stays() {
        let step = step();
        for fields in [
            [HTML, (header::CONTENT_ENCODING, "br")],
            [HTML, (header::CONTENT_RANGE, "bytes 0-1/2")],
            [HTML, (header::CACHE_CONTROL, "public, No-Transform")],
            [HTML, (header::TRAILER, "x")],
        ] {
            assert_eq!(decided(&step, 200, &fields), Decision::Leave, "{fields:?}");
        }
        for status in [100, 101, 103, 204, 205, 206, 304] {
            assert_eq!(decided(&step, status, &[HTML]), Decision::Leave, "{status}");
        }
        for kind in [
            "text/event-stream",
            "TEXT/event-stream;charset=utf-8",
            "application/grpc",
        ] {
            let every = Encode {
                when: ResponseMatcher {
                    status: Vec::new(),
                    headers: vec![(header::CONTENT_TYPE, vec![TextMatch::Present])],
                },
                ..step.clone()
            };
            let decision = decided(&every, 200, &[(header::CONTENT_TYPE, kind)]);
            assert_eq!(decision, Decision::Leave, "{kind}");
        }
    }

    #[test]
    fn a_client_that_takes_none_still_makes_the_answer_vary() {
        for (version, taken) in [
            (Version::HTTP_11, "br"),
            (Version::HTTP_11, "identity, gzip;q=0.1"),
            (Version::HTTP_10, "gzip"),
        ] {
            let asked = map(&[(header::ACCEPT_ENCODING, taken)]);
            let client = Client {
                version,
                headers: &asked,
            };
            let decision = decide(&step(), client, StatusCode::OK, &map(&[HTML]));
            assert_eq!(decision, Decision::Vary, "{version:?} {taken}");
        }
    }

    #[test]
    fn a_configured_matcher_replaces_the_list_of_types() {
        let step = Encode {
            when: ResponseMatcher {
                status: vec![(200, 299)],
                headers: vec![(
                    header::CONTENT_TYPE,
                    vec![TextMatch::Prefix("image/".to_owned())],
                )],
            },
            ..step()
        };
        let image = (header::CONTENT_TYPE, "image/bmp");
        assert_eq!(decided(&step, 200, std::slice::from_ref(&image)), GZIP);
        assert_eq!(decided(&step, 404, &[image]), Decision::Leave);
        assert_eq!(decided(&step, 200, &[HTML]), Decision::Leave);
    }

    #[test]
    fn strong_tags_become_weak() {
        let weak = |etag: &'static str| weakened(&etag.parse().expect("a value"));
        assert_eq!(weak("\"a\"").as_deref(), Some("W/\"a\""));
        assert_eq!(weak("W/\"a\""), None);
    }
}
