//! `encode`: compresses answers.

use bytes::Bytes;
use http::{HeaderName, Method, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType as Fault};

use crate::config::step::Encode;
use crate::proxy::encode::{self, Client, Decision};

/// Compresses one body.
#[derive(Debug)]
pub(super) struct Encoder(encode::Encoder);

/// Decides for one answer by the request's `Accept-Encoding` and the answer's head, and changes the
/// latter: `Content-Encoding`, `Vary`, no `Content-Length`, a weak `ETag`. `None`: the body stays as
/// it is, or there is none.
pub(super) fn begin(
    step: &Encode,
    request: &RequestHeader,
    head: &mut ResponseHeader,
) -> Option<Encoder> {
    let client = Client {
        version: request.version,
        headers: &request.headers,
    };
    let (coding, level) = match encode::decide(step, client, head.status, &head.headers) {
        Decision::Leave => return None,
        Decision::Vary => {
            vary(head);
            return None;
        }
        Decision::Compress(coding, level) => (coding, level),
    };
    let length = encode::length(&head.headers);
    // Made before the head is changed: without one the answer stays as it is.
    let encoder = if request.method == Method::HEAD {
        None
    } else {
        match encode::Encoder::new(coding, level, length) {
            Ok(encoder) => Some(Encoder(encoder)),
            Err(error) => {
                tracing::warn!(%error, "an answer is not compressed");
                return None;
            }
        }
    };
    vary(head);
    for gone in [header::CONTENT_LENGTH, header::ACCEPT_RANGES] {
        head.remove_header(&gone);
    }
    // Of the bytes before.
    for digest in ["content-digest", "content-md5", "digest", "repr-digest"] {
        head.remove_header(digest);
    }
    if let Some(etag) = head.headers.get(header::ETAG).and_then(encode::weakened) {
        insert(head, header::ETAG, &etag);
    }
    insert(head, header::CONTENT_ENCODING, crate::files::token(coding));
    // A proxied answer is framed already when it comes here.
    if encoder.is_some() && request.version == Version::HTTP_11 {
        insert(head, header::TRANSFER_ENCODING, "chunked");
    }
    encoder
}

fn vary(head: &mut ResponseHeader) {
    let known = ["accept-encoding", "*"];
    if !(known.iter()).any(|word| encode::lists(&head.headers, &header::VARY, word)) {
        // Of two texts that are names neither can be refused.
        let _ = head.append_header(header::VARY, "Accept-Encoding");
    }
}

fn insert(head: &mut ResponseHeader, name: HeaderName, value: &str) {
    if let Err(error) = head.insert_header(name, value) {
        tracing::debug!(%error, "a field of a compressed answer is left out");
    }
}

impl Encoder {
    /// Replaces a piece of the body by what is to be sent for it, `None` for nothing yet. `end`:
    /// it is the last one.
    pub(super) fn push(&mut self, piece: &mut Option<Bytes>, end: bool) -> pingora::Result<()> {
        (self.0.pass(piece, end)).map_err(failed)
    }

    /// The rest, for a body that ends with trailers.
    pub(super) fn finish(&mut self) -> pingora::Result<Option<Bytes>> {
        self.0.finish().map_err(failed)
    }
}

fn failed(error: std::io::Error) -> Box<Error> {
    Error::because(Fault::InternalError, "compressing an answer", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::{Encoding, ResponseMatcher};

    fn begun(method: &str, fields: &[(&'static str, &str)]) -> (Option<Encoder>, ResponseHeader) {
        let step = Encode {
            encodings: vec![(Encoding::Gzip, None)],
            min_length: 512,
            when: ResponseMatcher::default(),
        };
        let mut request = RequestHeader::build(method, b"/", None).expect("a request");
        request
            .insert_header("accept-encoding", "gzip")
            .expect("a field");
        let mut head = ResponseHeader::build(200, None).expect("a head");
        for (name, value) in fields {
            head.append_header(*name, *value).expect("a field");
        }
        let encoder = begin(&step, &request, &mut head);
        (encoder, head)
    }

    fn field<'a>(head: &'a ResponseHeader, name: &str) -> Option<&'a str> {
        head.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }

    const TEXT: [(&str, &str); 5] = [
        ("content-type", "text/plain"),
        ("content-length", "1000"),
        ("accept-ranges", "bytes"),
        ("etag", "\"a\""),
        ("vary", "Origin"),
    ];

    #[test]
    fn the_head_of_a_compressed_answer_says_so() {
        let (encoder, head) = begun("GET", &TEXT);
        assert!(encoder.is_some());
        assert_eq!(field(&head, "content-encoding"), Some("gzip"));
        assert_eq!(field(&head, "content-length"), None);
        assert_eq!(field(&head, "accept-ranges"), None);
        assert_eq!(field(&head, "etag"), Some("W/\"a\""));
        let vary: Vec<_> = head.headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["Origin", "Accept-Encoding"]);
    }

    #[test]
    fn a_head_request_gets_the_head_alone() {
        let (encoder, head) = begun("HEAD", &TEXT);
        assert!(encoder.is_none());
        assert_eq!(field(&head, "content-encoding"), Some("gzip"));
        assert_eq!(field(&head, "transfer-encoding"), None);
    }

    #[test]
    fn vary_is_not_said_twice() {
        let (_, head) = begun(
            "GET",
            &[("content-type", "text/plain"), ("vary", "accept-encoding")],
        );
        assert_eq!(head.headers.get_all("vary").iter().count(), 1);
    }

    #[test]
    fn what_stays_is_not_touched() {
        let (encoder, head) = begun("GET", &[("content-type", "image/png"), ("etag", "\"a\"")]);
        assert!(encoder.is_none());
        assert_eq!(field(&head, "etag"), Some("\"a\""));
        assert_eq!(field(&head, "vary"), None);
    }
}
