//! `grpc.health.v1.Health/Check`, the gRPC health checking protocol.
//!
//! Two messages of one field each, so they are written and read by hand: a length-prefixed
//! protobuf in an HTTP/2 `POST`, the outcome in `grpc-status` (trailers, or the head when there
//! is nothing else). Sources: gRPC's "PROTOCOL-HTTP2" and "GRPC Health Checking Protocol".

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;

use super::client::{Client, Origin};
use super::failure::{Failure, Phase};
use super::wire::{Alpn, read_body};
use crate::clock;

/// What a server says about one of its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServingStatus {
    /// The server does not know.
    Unknown,
    /// The only one that is healthy.
    Serving,
    /// Up, but not taking requests.
    NotServing,
    /// There is no such service.
    ServiceUnknown,
    /// A number of a later protocol version.
    Other(u64),
}

impl ServingStatus {
    /// The name in the protocol's enumeration.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Unknown => "UNKNOWN".to_owned(),
            Self::Serving => "SERVING".to_owned(),
            Self::NotServing => "NOT_SERVING".to_owned(),
            Self::ServiceUnknown => "SERVICE_UNKNOWN".to_owned(),
            Self::Other(number) => number.to_string(),
        }
    }
}

impl Client {
    /// Asks `service` (empty: the server as a whole) for its status, over HTTP/2: by ALPN with
    /// TLS, by prior knowledge without. Returns it and how long the whole exchange took.
    ///
    /// # Errors
    /// No answer within `deadline`, or one that is not a health response, for instance because
    /// the server has no health service. Cancel-safe: closes on drop.
    pub async fn grpc_health(
        &self,
        origin: &Origin,
        service: &str,
        deadline: Duration,
    ) -> Result<(ServingStatus, Duration), Failure> {
        let start = clock::now();
        let mut phase = Phase::Connect;
        let check = self.check(origin, service, deadline, &mut phase);
        let outcome = tokio::time::timeout(deadline, check).await;
        let status = outcome.map_err(|_| Failure::Timeout(phase, deadline))??;
        Ok((status, clock::now().saturating_duration_since(start)))
    }

    async fn check(
        &self,
        origin: &Origin,
        service: &str,
        deadline: Duration,
        phase: &mut Phase,
    ) -> Result<ServingStatus, Failure> {
        let mut request = Request::new(Full::new(encode_request(service)));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // At most eight digits, which as milliseconds is more than a day.
        let millis = deadline.as_millis().min(99_999_999);
        if let Ok(timeout) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert("grpc-timeout", timeout);
        }
        let wire = self.open(origin, Alpn::H2Only, phase).await?;
        let (exchange, response) = wire.send(origin, METHOD, request, phase).await?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let status = head.status.as_u16();
            return Err(Failure::Protocol(format!("status {status}, expected 200")));
        }
        if head.headers.contains_key(GRPC_STATUS) {
            grpc_status(&head.headers)?;
            return Err(Failure::Protocol(
                "gRPC answer without a message".to_owned(),
            ));
        }
        *phase = Phase::Body;
        let (message, truncated, trailers) = read_body(body, MESSAGE_LIMIT_BYTES).await?;
        drop(exchange);
        if truncated {
            return Err(Failure::Protocol(NOT_A_HEALTH_RESPONSE.to_owned()));
        }
        match trailers {
            Some(trailers) => grpc_status(&trailers)?,
            None => return Err(Failure::Protocol("answer is not gRPC".to_owned())),
        }
        decode_response(&message).ok_or_else(|| Failure::Protocol(NOT_A_HEALTH_RESPONSE.to_owned()))
    }
}

/// `Ok` for status 0; the meaning of the others as far as an operator can act on it.
fn grpc_status(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text(GRPC_STATUS).unwrap_or("missing");
    let reason = match code {
        "0" => return Ok(()),
        "5" => "no such gRPC service (NOT_FOUND)".to_owned(),
        "12" => "server has no grpc.health.v1.Health (UNIMPLEMENTED)".to_owned(),
        _ => match text("grpc-message") {
            Some(message) => {
                let message: String = message.chars().take(MESSAGE_SHOWN).collect();
                format!("gRPC status {code}: {message}")
            }
            None => format!("gRPC status {code}"),
        },
    };
    Err(Failure::Protocol(reason))
}

/// `HealthCheckRequest { string service = 1; }` behind the five-byte prefix.
fn encode_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a); // field 1, length-delimited
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; `None` if it is not one. Unknown fields
/// are skipped, an absent status is 0, the last of several wins (protobuf encoding).
fn decode_response(framed: &[u8]) -> Option<ServingStatus> {
    let (prefix, mut message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    if prefix[0] != 0 || length != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = take_varint(&mut message)?,
            (_, 0) => {
                take_varint(&mut message)?;
            }
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(match status {
        0 => ServingStatus::Unknown,
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        3 => ServingStatus::ServiceUnknown,
        other => ServingStatus::Other(other),
    })
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

const METHOD: &str = "/grpc.health.v1.Health/Check";
const GRPC_STATUS: &str = "grpc-status";
const NOT_A_HEALTH_RESPONSE: &str = "answer is not a gRPC health response";

/// The response is seven bytes; what is much larger is something else.
const MESSAGE_LIMIT_BYTES: usize = 4096;

/// Characters of a server's own message that are repeated in a reason.
const MESSAGE_SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_request_is_the_bytes_of_the_protocol() {
        assert_eq!(&encode_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &encode_request("ab")[..],
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
        let long = encode_request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_the_number_one_is_serving() {
        let status = |bytes: &[u8]| decode_response(bytes);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(ServingStatus::Serving));
        assert_eq!(
            status(&[0, 0, 0, 0, 2, 8, 2]),
            Some(ServingStatus::NotServing)
        );
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(ServingStatus::Unknown));
        assert_eq!(
            status(&[0, 0, 0, 0, 5, 0x12, 1, 0xff, 8, 1]),
            Some(ServingStatus::Serving),
            "unknown fields are skipped"
        );
        assert_eq!(status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        assert_eq!(status(&[0, 0, 0, 0, 9, 8, 1]), None, "cut short");
        assert_eq!(status(&[0, 0, 0, 0, 1, 8]), None, "no value");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
            framed.extend(&bytes);
            // The claim is that both return at all; a serving status needs its field's bytes.
            if decode_response(&framed) == Some(ServingStatus::Serving) {
                prop_assert!(bytes.contains(&8) || bytes.contains(&0x88));
            }
            let _ = decode_response(&bytes);
        }
    }
}
