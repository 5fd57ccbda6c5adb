//! What is compared of an exchange, and how two of them differ.
//!
//! An exchange becomes lines: the status, each field of the answer, its decoded body, and what the
//! upstreams got. What has no meaning in a comparison is left out or brought to one form here, and
//! nowhere else:
//!
//! | left out | why |
//! |---|---|
//! | `Date`, `Server`, `Alt-Svc`, `Via` | the clock, the product, HTTP/3 |
//! | `Content-Length`, `Transfer-Encoding`, `Connection`, `Keep-Alive` | framing; the body is compared |
//! | `Proxy-Status` | RFC 9209, an addition of ours |
//! | `X-Request-Id`, `X-Real-IP`, `X-Forwarded-Port` at the upstream | additions of ours |
//! | `Accept-Encoding: gzip` at the upstream that the client did not send | Go's HTTP client asks for it and undoes it |
//!
//! An `ETag` is compared by its form (weak or strong), `Vary` and `Allow` as sets, a multipart
//! boundary by its presence, repeated fields in their order.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::case::{Expected, Request};
use super::client::Answer;
use super::echo::Received;

/// One request's way.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub answer: Answer,
    pub received: Vec<Received>,
}

/// What is compared, by aspect: `status`, `body`, `header NAME`, `upstream N line`,
/// `upstream N header NAME`, `upstream N body`.
pub type Aspects = BTreeMap<String, String>;

const IGNORED: [&str; 10] = [
    "date",
    "server",
    "alt-svc",
    "via",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-status",
    "trailer",
];

const IGNORED_UPSTREAM: [&str; 7] = [
    "x-request-id",
    "x-real-ip",
    "x-forwarded-port",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
];

impl Exchange {
    /// Everything that counts.
    pub fn aspects(&self, request: &Request) -> Aspects {
        let mut aspects = Aspects::new();
        let answer = &self.answer;
        aspects.insert("status".to_owned(), answer.status.to_string());
        let boundary = answer
            .header("content-type")
            .and_then(|kind| kind.split_once("boundary="))
            .map(|(_, boundary)| boundary.trim_matches('"').to_owned());
        let plain = |text: &str| match &boundary {
            Some(boundary) => text.replace(boundary.as_str(), "BOUNDARY"),
            None => text.to_owned(),
        };
        for (name, value) in &answer.headers {
            if IGNORED.contains(&name.as_str()) {
                continue;
            }
            add(
                &mut aspects,
                format!("header {name}"),
                &plain(&form(name, value)),
            );
        }
        for name in ["header vary", "header allow"] {
            if let Some(value) = aspects.get_mut(name) {
                *value = as_set(value);
            }
        }
        aspects.insert("body".to_owned(), plain(&shown(&decoded(answer))));
        aspects.insert(
            "upstream requests".to_owned(),
            self.received.len().to_string(),
        );
        for (index, received) in self.received.iter().enumerate() {
            let Received {
                at, method, target, ..
            } = received;
            let key = |what: &str| format!("upstream {index} {what}");
            aspects.insert(key("line"), format!("{at}: {method} {target}"));
            aspects.insert(key("body"), shown(&received.body));
            for (name, value) in &received.headers {
                let theirs =
                    name == "accept-encoding" && value == "gzip" && !asks_encoding(request);
                if !IGNORED_UPSTREAM.contains(&name.as_str()) && !theirs {
                    add(&mut aspects, key(&format!("header {name}")), value);
                }
            }
        }
        aspects
    }

    /// Why this is not what the case says, a line each.
    ///
    /// Where a request names accepted differences, the case says what Caddy does; `ours` is then
    /// held to its status alone.
    pub fn unexpected(
        &self,
        request: &Request,
        ours: bool,
        fill: impl Fn(&str) -> String,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |what: String, there: Option<&str>, wanted: Option<&str>| {
            if there != wanted {
                wrong.push(format!("{what}: expected {wanted:?}, got {there:?}"));
            }
        };
        let status = self.answer.status.to_string();
        let wanted = if ours { request.cutover_status } else { None };
        let wanted = wanted.unwrap_or(request.status).to_string();
        expect("status".to_owned(), Some(&status), Some(&wanted));
        if ours && !request.differs.is_empty() {
            return wrong;
        }
        let body = shown(&decoded(&self.answer));
        let last = self.received.last();
        for expected in &request.expected {
            match expected {
                Expected::Header(name, value) => {
                    let value = fill(value);
                    let there: Vec<&str> = values(&self.answer.headers, name);
                    let there = (!there.is_empty()).then(|| there.join("|"));
                    let wanted = (!value.is_empty()).then_some(value.as_str());
                    expect(format!("header {name}"), there.as_deref(), wanted);
                }
                Expected::Body(text) => {
                    let text = fill(text);
                    expect(
                        "body".to_owned(),
                        Some(body.trim_end()),
                        Some(text.trim_end()),
                    );
                }
                Expected::Part(text) => {
                    let text = fill(text);
                    let there = if body.contains(&text) { &text } else { &body };
                    expect("body".to_owned(), Some(there), Some(&text));
                }
                Expected::UpstreamLine(line) if line == "none" => {
                    expect("upstream".to_owned(), last.map(|r| r.target.as_str()), None);
                }
                Expected::UpstreamLine(line) => {
                    let there = last.map(|r| format!("{} {}", r.method, r.target));
                    expect("upstream".to_owned(), there.as_deref(), Some(&fill(line)));
                }
                Expected::UpstreamHeader(name, value) => {
                    let value = fill(value);
                    let there = last.map(|r| values(&r.headers, name)).unwrap_or_default();
                    let there = (!there.is_empty()).then(|| there.join("|"));
                    let wanted = (!value.is_empty()).then_some(value.as_str());
                    expect(format!("upstream header {name}"), there.as_deref(), wanted);
                }
            }
        }
        wrong
    }
}

/// The aspects in which two exchanges differ: name, first, second.
pub fn differences(first: &Aspects, second: &Aspects) -> Vec<(String, String, String)> {
    let names: std::collections::BTreeSet<_> = first.keys().chain(second.keys()).collect();
    let missing = "(none)".to_owned();
    let pairs = names.into_iter().map(|name| {
        let value = |aspects: &Aspects| aspects.get(name).unwrap_or(&missing).clone();
        (name.clone(), value(first), value(second))
    });
    pairs.filter(|(_, first, second)| first != second).collect()
}

fn values<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let of_name = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    of_name.map(|(_, value)| value.as_str()).collect()
}

fn add(aspects: &mut Aspects, name: String, value: &str) {
    let entry = aspects.entry(name).or_default();
    if !entry.is_empty() {
        entry.push_str(" | ");
    }
    entry.push_str(value);
}

fn asks_encoding(request: &Request) -> bool {
    request
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("accept-encoding"))
}

fn form(name: &str, value: &str) -> String {
    match name {
        "etag" if value.starts_with("W/\"") => "weak".to_owned(),
        "etag" if value.starts_with('"') && value.len() > 2 => "strong".to_owned(),
        _ => value.to_owned(),
    }
}

fn as_set(value: &str) -> String {
    let mut words: Vec<_> = value
        .split([',', '|'])
        .map(|w| w.trim().to_ascii_lowercase())
        .collect();
    words.sort();
    words.dedup();
    words.join(", ")
}

/// Without content coding.
fn decoded(answer: &Answer) -> Vec<u8> {
    let body = answer.body.as_slice();
    let mut plain = Vec::new();
    let done = match answer.header("content-encoding") {
        _ if body.is_empty() => return Vec::new(),
        Some("gzip") => flate2::read::MultiGzDecoder::new(body)
            .read_to_end(&mut plain)
            .map(drop),
        Some("br") => brotli::Decompressor::new(body, 4096)
            .read_to_end(&mut plain)
            .map(drop),
        Some("zstd") => zstd::decode_all(body).map(|all| plain = all),
        _ => return body.to_vec(),
    };
    match done {
        Ok(()) => plain,
        Err(error) => format!("cannot be decoded: {error}").into_bytes(),
    }
}

/// As text; what is long by its length and a checksum.
fn shown(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=8192 => String::from_utf8_lossy(bytes).into_owned(),
        length => format!("{length} bytes, checksum {:08x}", crc32fast::hash(bytes)),
    }
}
