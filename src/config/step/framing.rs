//! Fields that frame a message or belong to one connection.

use http::{HeaderName, header};

/// Whether a field is the proxy's own to set, on each connection anew (RFC 9110 §7.6.1, RFC 9112 §6):
/// no step changes it.
#[must_use]
pub fn is_framing(name: &HeaderName) -> bool {
    const MORE: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ]
    .contains(name)
        || MORE.contains(&name.as_str())
}
