//! What a line looks like: ours, the two of Apache that every tool reads, or Caddy's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, header};
use pingora::http::{RequestHeader, ResponseHeader};
use serde::Serialize;

use super::{Line, logged_path};
use crate::clock;
use crate::config::{Log, LogFormat};
use crate::tls::TlsInfo;

/// One request, as far as any form shows it.
pub(in crate::proxy) struct Entry<'a> {
    pub(in crate::proxy) line: Line<'a>,
    pub(in crate::proxy) at: SystemTime,
    pub(in crate::proxy) request: &'a RequestHeader,
    pub(in crate::proxy) response: Option<&'a ResponseHeader>,
    /// Who passed `basic_auth`.
    pub(in crate::proxy) user: Option<&'a str>,
    /// Who connected.
    pub(in crate::proxy) peer: (IpAddr, u16),
    pub(in crate::proxy) tls: Option<&'a TlsInfo>,
    /// What `log` steps add.
    pub(in crate::proxy) more: &'a [(String, String)],
    /// What is not shown.
    pub(in crate::proxy) rules: &'a Log,
}

impl Entry<'_> {
    /// The line, with its end. `None`: it cannot be written, which no request can bring about.
    pub(super) fn bytes(&self, format: LogFormat) -> Option<Vec<u8>> {
        let mut bytes = match format {
            LogFormat::Cutover => self.with_more(serde_json::to_vec(&self.line).ok()?),
            LogFormat::Common => self.common().into_bytes(),
            LogFormat::Combined => self.combined().into_bytes(),
            LogFormat::Caddy => self.with_more(serde_json::to_vec(&self.caddy()).ok()?),
        };
        bytes.push(b'\n');
        Some(bytes)
    }

    /// An object with what `log` steps add; a field that is there already comes twice, and readers
    /// take the last one.
    fn with_more(&self, mut object: Vec<u8>) -> Vec<u8> {
        if self.more.is_empty() || object.pop() != Some(b'}') {
            return object;
        }
        for (name, value) in self.more {
            let pair = [name, value].map(|text| serde_json::Value::from(text.as_str()));
            let [name, value] = pair;
            object.extend(format!(",{name}:{value}").into_bytes());
        }
        object.push(b'}');
        object
    }

    /// `ADDRESS - USER [TIME] "METHOD TARGET PROTOCOL" STATUS BYTES`
    fn common(&self) -> String {
        let line = &self.line;
        let mut text = String::with_capacity(160);
        let user = self.user.map_or_else(|| "-".to_owned(), quotable);
        let time = clock::common_log(self.at);
        let (method, path) = (quotable(line.method), quotable(line.path));
        write!(
            text,
            "{} - {user} [{time}] \"{method} {path} {}\" {} {}",
            line.client_ip, line.protocol, line.status, line.bytes_out
        )
        .expect("a String takes everything");
        text
    }

    /// The same with where the client came from, and what it says that it is.
    fn combined(&self) -> String {
        let mut text = self.common();
        for name in [header::REFERER, header::USER_AGENT] {
            let value = self
                .field(&name)
                .map_or_else(|| "-".to_owned(), |v| quotable(&v));
            write!(text, " \"{value}\"").expect("a String takes everything");
        }
        text
    }

    /// A field of the request as it may be shown. What looks like an address of a page has the
    /// secrets of its query masked.
    fn field(&self, name: &HeaderName) -> Option<String> {
        let value = self.request.headers.get(name)?;
        if self.rules.redact_headers.contains(name) {
            return Some("***".to_owned());
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        Some(match value.split_once('?') {
            Some((path, query)) if *name == header::REFERER => {
                logged_path(path, Some(query), &self.rules.redact_query)
            }
            _ => value.into_owned(),
        })
    }

    /// Names and nesting of caddyserver.com/docs/logging, `http.log.access`.
    fn caddy(&self) -> Caddy<'_> {
        let line = &self.line;
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH);
        Caddy {
            level: if line.status >= 500 { "error" } else { "info" },
            ts: since.unwrap_or_default().as_secs_f64(),
            logger: "http.log.access",
            msg: "handled request",
            request: CaddyRequest {
                remote_ip: self.peer.0.to_string(),
                remote_port: self.peer.1.to_string(),
                client_ip: &line.client_ip,
                proto: line.protocol,
                method: line.method,
                host: line.host,
                uri: line.path,
                headers: self.fields(&self.request.headers),
                tls: self.tls.map(|tls| CaddyTls {
                    resumed: tls.resumed,
                    version: if tls.version == "TLSv1.3" { 772 } else { 771 },
                    cipher_suite: tls.cipher_suite,
                    proto: if line.protocol == "HTTP/2.0" {
                        "h2"
                    } else {
                        "http/1.1"
                    },
                    server_name: tls.sni.as_deref().unwrap_or_default(),
                }),
            },
            bytes_read: line.bytes_in,
            user_id: self.user.unwrap_or_default(),
            duration: line.duration_ms / 1e3,
            size: line.bytes_out,
            status: line.status,
            resp_headers: self
                .response
                .map(|response| self.fields(&response.headers))
                .unwrap_or_default(),
        }
    }

    fn fields(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let shown = if self.rules.redact_headers.contains(name) {
                "REDACTED".to_owned()
            } else if *name == header::REFERER {
                self.field(name).unwrap_or_default()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            fields
                .entry(canonical(name.as_str()))
                .or_default()
                .push(shown);
        }
        fields
    }
}

/// As Go spells the name of a field: `x-real-ip` is `X-Real-Ip`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    let letter = |c: char| {
        let shown = if upper { c.to_ascii_uppercase() } else { c };
        upper = c == '-';
        shown
    };
    name.chars().map(letter).collect()
}

/// What may stand between quotes: as Apache does, so that no value can end its field or its line.
fn quotable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                write!(out, "\\x{:02x}", u32::from(c)).expect("a String takes everything");
            }
            c => out.push(c),
        }
    }
    out
}

#[derive(Serialize)]
struct Caddy<'a> {
    level: &'static str,
    ts: f64,
    logger: &'static str,
    msg: &'static str,
    request: CaddyRequest<'a>,
    bytes_read: u64,
    user_id: &'a str,
    duration: f64,
    size: u64,
    status: u16,
    resp_headers: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize)]
struct CaddyRequest<'a> {
    remote_ip: String,
    remote_port: String,
    client_ip: &'a str,
    proto: &'static str,
    method: &'a str,
    host: &'a str,
    uri: &'a str,
    headers: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<CaddyTls<'a>>,
}

#[derive(Serialize)]
struct CaddyTls<'a> {
    resumed: bool,
    version: u16,
    cipher_suite: u16,
    proto: &'static str,
    server_name: &'a str,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn logged(
        format: LogFormat,
        request: &RequestHeader,
        path: &str,
        user: Option<&str>,
    ) -> String {
        let rules = Log::default();
        let response = {
            let mut head = ResponseHeader::build(200, None).unwrap();
            head.append_header("set-cookie", "id=secret").unwrap();
            head.append_header("content-type", "text/plain").unwrap();
            head
        };
        let entry = Entry {
            line: Line {
                client_ip: "203.0.113.7".to_owned(),
                method: "GET",
                host: "example.com",
                path,
                protocol: "HTTP/1.1",
                status: 200,
                bytes_in: 3,
                bytes_out: 2326,
                duration_ms: 1.5,
                ..Line::default()
            },
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(971_211_336_250),
            request,
            response: Some(&response),
            user,
            peer: ("127.0.0.1".parse().unwrap(), 4711),
            tls: None,
            more: &[("team".to_owned(), "a\"b".to_owned())],
            rules: &rules,
        };
        String::from_utf8(entry.bytes(format).unwrap()).unwrap()
    }

    #[test]
    fn common_and_combined_are_those_of_apache() {
        let head = request(&[
            ("referer", "http://e.com/?token=x&a=1"),
            ("user-agent", "Mozilla/4.08"),
        ]);
        assert_eq!(
            logged(LogFormat::Common, &head, "/a.gif?x=1", Some("frank")),
            "203.0.113.7 - frank [10/Oct/2000:20:55:36 +0000] \"GET /a.gif?x=1 HTTP/1.1\" 200 2326\n"
        );
        assert_eq!(
            logged(LogFormat::Combined, &head, "/", None),
            "203.0.113.7 - - [10/Oct/2000:20:55:36 +0000] \"GET / HTTP/1.1\" 200 2326 \
             \"http://e.com/?token=***&a=1\" \"Mozilla/4.08\"\n"
        );
        let bare = logged(LogFormat::Combined, &request(&[]), "/", None);
        assert!(bare.ends_with(" \"-\" \"-\"\n"), "{bare}");
    }

    #[test]
    fn no_value_ends_its_field_or_its_line() {
        let head = request(&[("user-agent", "a\" 200 1 \\ \u{e9}\tb")]);
        let line = logged(LogFormat::Combined, &head, "/\"x", Some("fr\"\nank"));
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains("\"GET /\\\"x HTTP/1.1\""), "{line}");
        assert!(line.contains("- fr\\\"\\x0aank ["), "{line}");
        assert!(
            line.ends_with("\"a\\\" 200 1 \\\\ \u{e9}\\x09b\"\n"),
            "{line}"
        );
    }

    #[test]
    fn caddys_names_and_nesting_with_secrets_redacted() {
        let head = request(&[
            ("cookie", "id=1"),
            ("x-real-ip", "1.2.3.4"),
            ("accept", "a"),
            ("accept", "b"),
        ]);
        let line = logged(LogFormat::Caddy, &head, "/x", Some("frank"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "level": "info", "ts": 971_211_336.25, "logger": "http.log.access",
            "msg": "handled request",
            "request": {
                "remote_ip": "127.0.0.1", "remote_port": "4711", "client_ip": "203.0.113.7",
                "proto": "HTTP/1.1", "method": "GET", "host": "example.com", "uri": "/x",
                "headers": {"Cookie": ["REDACTED"], "X-Real-Ip": ["1.2.3.4"], "Accept": ["a", "b"]},
            },
            "bytes_read": 3, "user_id": "frank", "duration": 0.0015, "size": 2326, "status": 200,
            "resp_headers": {"Set-Cookie": ["REDACTED"], "Content-Type": ["text/plain"]},
            "team": "a\"b",
        });
        assert_eq!(value, expected);
    }
}
