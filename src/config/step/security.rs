//! `security_headers = true`: fields that hardly any application is the worse for.

use http::HeaderName;
use http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};

use super::{HeaderOp, HeaderOps, ResponseHeaders, Template};

/// Each with what it is set to where the application says nothing else; in the order of their names,
/// as a table of the file has them.
const FIELDS: [(HeaderName, &str); 5] = [
    // No foreign page holds a handle of this one's window, but sign-in windows work (HTML §7.1.3).
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin-allow-popups",
    ),
    // Other origins learn the origin alone (W3C Referrer Policy §3.7).
    (REFERRER_POLICY, "strict-origin-when-cross-origin"),
    // A text is not run as a script (WHATWG Fetch §3.6).
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // No foreign page shows this one in a frame (RFC 7034).
    (X_FRAME_OPTIONS, "SAMEORIGIN"),
    // Adobe's readers take no policy files from here.
    (
        HeaderName::from_static("x-permitted-cross-domain-policies"),
        "none",
    ),
];

impl ResponseHeaders {
    /// The preset: defaults, so that a field of the application's own wins.
    #[must_use]
    pub fn security() -> Self {
        let default = |(name, value)| HeaderOp::Default(name, Template::text(value));
        Self {
            ops: HeaderOps(FIELDS.into_iter().map(default).collect()),
            when: None,
            deferred: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preset_only_fills_gaps_and_waits_for_the_application() {
        let preset = ResponseHeaders::security();
        assert!(preset.deferred, "or the application could not win");
        assert!(preset.when.is_none());
        let fills = |op: &HeaderOp| matches!(op, HeaderOp::Default(..));
        assert!(preset.ops.0.iter().all(fills));
        let nosniff = HeaderOp::Default(X_CONTENT_TYPE_OPTIONS, Template::text("nosniff"));
        assert!(preset.ops.0.contains(&nosniff));
    }
}
