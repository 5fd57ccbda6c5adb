//! Who the client is, and what the upstream is told about it.
//!
//! A trusted peer's `X-Forwarded-For` is read from right to left and ends at the first address
//! that is not trusted: everything further left was written by someone unknown. From an
//! untrusted peer every field that could pass for ours is removed first.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::config::IpSet;
use crate::tls::ClientCertificate;

/// Removed when the peer is not trusted; set anew afterwards where it is ours to set.
const FORGEABLE: [&str; 6] = [
    "forwarded",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "proxy",
    "x-request-id",
];

/// What is known about the client of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The client's address.
    pub(super) ip: IpAddr,
    /// Whether the peer may speak for others.
    pub(super) trusted_peer: bool,
}

/// Finds the client behind `peer`.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &IpSet) -> Client {
    let peer = peer.to_canonical();
    if trusted.is_empty() || !trusted.contains(peer) {
        return Client {
            ip: peer,
            trusted_peer: false,
        };
    }
    let ip = if headers.contains_key("x-forwarded-for") {
        let listed = headers.get_all("x-forwarded-for").iter().rev();
        from_right(
            listed.flat_map(|value| value.as_bytes().rsplit(|b| *b == b',').map(address)),
            trusted,
        )
    } else {
        let listed = headers.get_all("forwarded").iter().rev();
        from_right(
            listed.flat_map(|value| value.as_bytes().rsplit(|b| *b == b',').map(forwarded_for)),
            trusted,
        )
    };
    Client {
        ip: ip.unwrap_or(peer),
        trusted_peer: true,
    }
}

/// The first untrusted address from the right; when all are trusted, the leftmost one. A
/// malformed or hidden entry ends the list: what is left of it can't be believed.
fn from_right(entries: impl Iterator<Item = Option<IpAddr>>, trusted: &IpSet) -> Option<IpAddr> {
    let mut last = None;
    for entry in entries {
        let ip = entry?;
        last = Some(ip);
        if !trusted.contains(ip) {
            break;
        }
    }
    last
}

/// An address, possibly with a port or brackets, as proxies write them.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let ip = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| {
            text.parse::<std::net::SocketAddr>()
                .ok()
                .map(|addr| addr.ip())
        })
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical())
}

/// The `for` parameter of one element of `Forwarded` (RFC 7239 §4).
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let value = text.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("for")
            .then_some(value.trim())
    })?;
    address(value.trim_matches('"').as_bytes())
}

/// Removes what an untrusted client could forge. Also field names with an underscore, which
/// CGI-like applications read as if they had a dash.
pub(super) fn remove_forgeable(request: &mut RequestHeader) {
    let forged: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.contains('_') || name.starts_with("x-forwarded-") || FORGEABLE.contains(&name)
        })
        .cloned()
        .collect();
    for name in forged {
        request.remove_header(&name);
    }
}

/// Removes the fields that the client names in `Connection` (RFC 9110 §7.6.1), so that it cannot have
/// one removed later that a step sets. What must not be named stays: the request is refused for it
/// when it is forwarded.
pub(super) fn remove_nominated(request: &mut RequestHeader) {
    let nominated: Vec<HeaderName> = request
        .headers
        .get_all(http::header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !["close", "keep-alive", "upgrade", "te"].contains(&name.as_str()))
        .collect();
    let is_kept =
        |name: &HeaderName| name == http::header::HOST || name.as_str().starts_with("x-forwarded-");
    if nominated.is_empty() || nominated.iter().any(is_kept) {
        return;
    }
    let upgrades = request.headers.contains_key(http::header::UPGRADE);
    for name in nominated {
        request.remove_header(&name);
    }
    request.remove_header(&http::header::CONNECTION);
    if upgrades {
        let upgrade = HeaderValue::from_static("Upgrade");
        // A name and a value that are known to be valid.
        let _ = request.insert_header(http::header::CONNECTION, upgrade);
    }
}

/// Fields that speak of a client's certificate: ours, and those of RFC 9440, which a proxy must
/// not let pass (§2.4). Nobody's are believed, not even a trusted peer's.
const CLIENT_CERTIFICATE: [&str; 4] = [
    "x-client-cert-subject",
    "x-client-cert-fingerprint",
    "client-cert",
    "client-cert-chain",
];

/// Removes every field that speaks of a client's certificate, however it is spelled.
pub(super) fn remove_client_certificate(request: &mut RequestHeader) {
    let forged: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| CLIENT_CERTIFICATE.contains(&&*name.as_str().replace('_', "-")))
        .cloned()
        .collect();
    for name in forged {
        request.remove_header(&name);
    }
}

/// Fields by which some frameworks take a request for one of another method.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Removes what would make the method that rules looked at another one.
pub(super) fn remove_method_overrides(request: &mut RequestHeader) {
    let overrides: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| METHOD_OVERRIDES.contains(&&*name.as_str().replace('_', "-")))
        .cloned()
        .collect();
    for name in overrides {
        request.remove_header(&name);
    }
}

/// What the upstream is told.
pub(super) struct Facts<'a> {
    /// The client's certificate, verified in the handshake.
    pub(super) certificate: Option<&'a ClientCertificate>,
    pub(super) peer: IpAddr,
    pub(super) client: Client,
    pub(super) host: &'a str,
    pub(super) https: bool,
    pub(super) port: u16,
    pub(super) request_id: &'a str,
}

/// Sets the forwarding fields. Those that a trusted peer sent are kept; its address is appended
/// to the list of `X-Forwarded-For`.
pub(super) fn set(request: &mut RequestHeader, facts: &Facts<'_>) -> pingora::Result<()> {
    remove_client_certificate(request);
    if let Some(certificate) = facts.certificate {
        request.insert_header("X-Client-Cert-Subject", certificate.subject.as_str())?;
        request.insert_header("X-Client-Cert-Fingerprint", &certificate.fingerprint)?;
    }
    let trusted = facts.client.trusted_peer;
    let peer = facts.peer.to_canonical().to_string();
    request.insert_header(
        "X-Real-IP",
        if trusted {
            facts.client.ip.to_string()
        } else {
            peer.clone()
        },
    )?;
    let list = if trusted {
        let mut listed: Vec<String> = request
            .headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        listed.push(peer);
        listed.join(", ")
    } else {
        peer
    };
    request.insert_header("X-Forwarded-For", list)?;
    let keep = |request: &RequestHeader, name: &str| trusted && request.headers.contains_key(name);
    if !keep(request, "x-forwarded-proto") {
        request.insert_header(
            "X-Forwarded-Proto",
            if facts.https { "https" } else { "http" },
        )?;
    }
    if !keep(request, "x-forwarded-host")
        && let Ok(host) = HeaderValue::from_str(facts.host)
    {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    if !keep(request, "x-forwarded-port") {
        request.insert_header("X-Forwarded-Port", facts.port.to_string())?;
    }
    request.insert_header("X-Request-Id", facts.request_id)?;
    join_cookies(request)
}

/// HTTP/2 may send cookies in fields of their own, and they must be one again for HTTP/1
/// (RFC 9113 §8.2.3).
fn join_cookies(request: &mut RequestHeader) -> pingora::Result<()> {
    let cookies: Vec<&[u8]> = (request.headers.get_all(http::header::COOKIE).iter())
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() < 2 {
        return Ok(());
    }
    let joined = cookies.join(&b"; "[..]);
    request.insert_header(http::header::COOKIE, joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> IpSet {
        IpSet(vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
        ])
    }

    fn seen(peer: &str, fields: &[(&'static str, &str)]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let client = client(peer.parse().unwrap(), &headers, &trusted());
        (client.ip.to_string(), client.trusted_peer)
    }

    #[test]
    fn an_untrusted_peer_speaks_for_itself_alone() {
        assert_eq!(
            seen("203.0.113.9", &[("x-forwarded-for", "1.1.1.1")]),
            ("203.0.113.9".to_owned(), false)
        );
    }

    #[test]
    fn a_trusted_list_ends_at_the_first_untrusted_address_from_the_right() {
        let list = [("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.1.1.1")];
        assert_eq!(seen("10.0.0.1", &list).0, "203.0.113.7");
        let two = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "203.0.113.7:55, 10.2.2.2"),
        ];
        assert_eq!(seen("10.0.0.1", &two).0, "203.0.113.7");
        let all_trusted = [("x-forwarded-for", "10.9.9.9, 10.1.1.1")];
        assert_eq!(seen("10.0.0.1", &all_trusted).0, "10.9.9.9");
        let broken = [("x-forwarded-for", "6.6.6.6, unknown, 10.1.1.1")];
        assert_eq!(seen("10.0.0.1", &broken).0, "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &[]).0, "10.0.0.1");
        assert_eq!(seen("::ffff:10.0.0.1", &list).0, "203.0.113.7");
    }

    #[test]
    fn the_standard_field_is_read_where_the_older_one_is_missing() {
        let list = [(
            "forwarded",
            "for=6.6.6.6, For=\"[2001:db8::7]:4711\";proto=https, for=10.1.1.1",
        )];
        assert_eq!(seen("10.0.0.1", &list).0, "2001:db8::7");
        assert_eq!(
            seen("10.0.0.1", &[("forwarded", "for=_hidden")]).0,
            "10.0.0.1"
        );
    }

    #[test]
    fn fields_that_are_named_in_connection_are_gone_before_any_step() {
        let named = |connection: &str| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for (name, value) in [
                ("Connection", connection),
                ("Upgrade", "websocket"),
                ("X-User", "me"),
                ("X-Kept", "1"),
            ] {
                request.append_header(name.to_owned(), value).unwrap();
            }
            remove_nominated(&mut request);
            request
        };
        let request = named("keep-alive, X-User, Upgrade");
        assert!(!request.headers.contains_key("x-user"));
        assert_eq!(request.headers["x-kept"], "1");
        assert_eq!(request.headers["connection"], "Upgrade");
        assert_eq!(named("Upgrade").headers["connection"], "Upgrade");
        let refused = named("X-User, Host");
        assert_eq!(refused.headers["connection"], "X-User, Host");
    }

    #[test]
    fn what_could_be_forged_does_not_pass() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in [
            "X-Forwarded-For",
            "X-Forwarded-Foo",
            "Forwarded",
            "X-Real-IP",
            "Proxy",
            "X_Real_Ip",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-Request-Id",
        ] {
            request.insert_header(name, "6.6.6.6").unwrap();
        }
        request.insert_header("X-Kept", "1").unwrap();
        remove_forgeable(&mut request);
        let left: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-kept"]);
    }
}
