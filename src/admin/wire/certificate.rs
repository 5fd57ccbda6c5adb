//! `certs`: every certificate that is served, and what is planned for it.

use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/certificates`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// By host.
    pub certificates: Vec<CertificateStatus>,
}

/// What one host is served with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Name it answers for.
    pub host: String,
    /// Who signed it.
    pub issuer: Option<String>,
    /// End of its validity, RFC 3339.
    pub expires: Option<String>,
    /// Seconds until then; negative when it is over.
    pub expires_in_s: Option<i64>,
    /// Where it came from.
    pub origin: CertificateOrigin,
    /// The chain's file, if it has one of its own.
    #[serde(default)]
    pub file: Option<String>,
    /// Whether it only stands in for one that an order has not brought yet: clients do not
    /// trust it.
    #[serde(default)]
    pub stands_in: bool,
    /// When the next order is due, RFC 3339; null: now, or never for one that is not ordered.
    #[serde(default)]
    pub next_renewal: Option<String>,
    /// Seconds until then.
    #[serde(default)]
    pub next_renewal_in_s: Option<i64>,
    /// Why then; null for one that is not ordered.
    #[serde(default)]
    pub why: Option<String>,
    /// `http-01` or `tls-alpn-01`: how the last order proved control.
    #[serde(default)]
    pub challenge: Option<String>,
    /// Failed orders since the last certificate.
    #[serde(default)]
    pub failures: u32,
    /// The last failure, in the CA's own words where it spoke; or what is wrong with the file.
    #[serde(default)]
    pub error: Option<String>,
}

/// Where a certificate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateOrigin {
    /// Ordered.
    Acme,
    /// The site's own files.
    Files,
    /// The internal CA.
    Internal,
    /// Another program's folder.
    Adopted,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

/// `POST /v1/renew`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// The host.
    pub host: String,
    /// Even when the certificate is not due.
    #[serde(default)]
    pub force: bool,
    /// Whether to wait for the outcome.
    #[serde(default)]
    pub wait: bool,
}
