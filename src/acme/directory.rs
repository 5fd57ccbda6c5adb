//! What a CA says of itself, and when it wants a certificate renewed (RFC 9773).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::DATE;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::plan::Window;
use super::wire::{Wire, http_date};

/// The parts of a directory (RFC 8555 §7.1.1) that are read here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    new_order: String,
    /// Where renewal information is, if the CA has it.
    pub(super) renewal_info: Option<String>,
    #[serde(default)]
    pub(super) meta: Meta,
    /// The CA's own time, from its `Date` header.
    #[serde(skip)]
    pub(super) date: Option<SystemTime>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    /// Names by which CAA records allow this CA.
    pub(super) caa_identities: Vec<String>,
    /// Whether an account needs a binding.
    pub(super) external_account_required: bool,
}

impl Directory {
    /// Reads the directory at `url`.
    ///
    /// # Errors
    /// Why not, for people. [`Wire::seen`] has what the CA said.
    pub(super) async fn fetch(wire: &Wire, url: &str) -> Result<Self, String> {
        let answer = (wire.get(url).await).map_err(|error| format!("{url}: {error}"))?;
        if !answer.status.is_success() {
            return Err(format!("{url}: answered {}", answer.status));
        }
        let mut directory: Self = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{url}: is no ACME directory: {error}"))?;
        if directory.new_order.is_empty() {
            return Err(format!("{url}: is no ACME directory: newOrder is empty"));
        }
        let date = answer.headers.get(DATE);
        directory.date = date.and_then(|date| http_date(date.to_str().ok()?));
        Ok(directory)
    }
}

/// `base64url(authority key identifier) "." base64url(serial)` of the first certificate in
/// `pem` (RFC 9773 §4.1); `None` when it has no authority key identifier.
pub(super) fn certificate_id(pem: &[u8]) -> Option<(String, String)> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let authority = certificate.extensions().iter().find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0)
            }
            _ => None,
        }
    })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some((encode(authority), encode(certificate.raw_serial())))
}

/// Asks when the certificate `(authority, serial)` is to be renewed, and when to ask again.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn renewal_window(
    wire: &Wire,
    renewal_info: &str,
    (authority, serial): &(String, String),
    now: SystemTime,
) -> Result<(Window, SystemTime), String> {
    let url = format!(
        "{}/{authority}.{serial}",
        renewal_info.trim_end_matches('/')
    );
    let answer = (wire.get(&url).await).map_err(|error| format!("{url}: {error}"))?;
    if !answer.status.is_success() {
        return Err(format!("{url}: answered {}", answer.status));
    }
    let window = parse_window(&answer.body).map_err(|error| format!("{url}: {error}"))?;
    let again = wire.seen().retry_at.unwrap_or(now + ASK_AGAIN);
    Ok((window, again.clamp(now + SOONEST, now + LATEST)))
}

fn parse_window(body: &[u8]) -> Result<Window, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RenewalInfo {
        suggested_window: Suggested,
    }
    #[derive(Deserialize)]
    struct Suggested {
        start: String,
        end: String,
    }
    let info: RenewalInfo = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let time = |text: &str| {
        let parsed = text.parse::<jiff::Timestamp>();
        parsed
            .map(SystemTime::from)
            .map_err(|error| error.to_string())
    };
    let start = time(&info.suggested_window.start)?;
    let end = time(&info.suggested_window.end)?;
    if end <= start {
        return Err("the suggested window ends before it starts".to_owned());
    }
    Ok(Window { start, end })
}

/// Without `Retry-After`, and after a failure: six hours, as RFC 9773 §4.3.2 wants at least.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_of_the_rfc_has_the_id_of_the_rfc() {
        // RFC 9773, appendix A, and its example in section 4.1.
        let pem = b"-----BEGIN CERTIFICATE-----\n\
            MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt\n\
            cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS\n\
            BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu\n\
            7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf\n\
            qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B\n\
            yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb\n\
            +FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK\n\
            -----END CERTIFICATE-----\n";
        let (authority, serial) = certificate_id(pem).expect("an id");
        assert_eq!(
            format!("{authority}.{serial}"),
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
        );
    }

    #[test]
    fn a_window_that_ends_before_it_starts_is_none() {
        let window = |start, end| {
            let body = format!(r#"{{"suggestedWindow":{{"start":"{start}","end":"{end}"}}}}"#);
            parse_window(body.as_bytes())
        };
        let (a, b) = ("2025-01-02T04:00:00Z", "2025-01-03T04:00:00Z");
        assert!(window(a, b).is_ok());
        assert!(window(b, a).is_err());
        assert!(window("yesterday", b).is_err());
    }
}
