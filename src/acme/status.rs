//! What people are told.

use std::time::SystemTime;

use super::names::NameSet;

/// One set of names, for `proxyctl certs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The names.
    pub names: NameSet,
    /// Who issued the certificate that is there; `None`: there is none.
    pub issuer: Option<String>,
    /// When it ends.
    pub not_after: Option<SystemTime>,
    /// When the next order is due; `None`: now, or one is running.
    pub next: Option<SystemTime>,
    /// Why then.
    pub why: &'static str,
    /// Failed attempts since the last certificate.
    pub failures: u32,
    /// The last failure, in the CA's own words where it spoke.
    pub last_error: Option<String>,
    /// `http-01` or `tls-alpn-01`: how the last attempt proved control.
    pub method: Option<&'static str>,
}

/// What happened, for whoever notifies people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An order was begun.
    OrderBegun {
        /// For these names.
        names: NameSet,
        /// At this directory.
        directory: String,
        /// `http-01` or `tls-alpn-01`.
        method: &'static str,
    },
    /// A certificate is stored and served.
    CertificateIssued {
        /// For these names.
        names: NameSet,
        /// Who issued it.
        issuer: String,
        /// When it ends.
        not_after: SystemTime,
        /// Whether it replaced one.
        renewal: bool,
    },
    /// The staging directory would have given a certificate; the real one is asked next.
    StagingPassed {
        /// For these names.
        names: NameSet,
    },
    /// An attempt failed; what was served is served on.
    OrderFailed {
        /// For these names.
        names: NameSet,
        /// At this directory.
        directory: String,
        /// In the CA's own words where it spoke.
        error: String,
        /// Failures since the last certificate.
        failures: u32,
        /// When the certificate that is there ends; `None`: there is none.
        not_after: Option<SystemTime>,
        /// When it is tried again.
        retry_at: Option<SystemTime>,
    },
    /// Another process on the same `state_dir` orders; this one serves what it stores.
    AnotherOrders,
}

/// Why a renewal that was asked for is not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewRefused {
    /// No site with `tls = "auto"` has this host.
    #[error("no certificate is ordered for {0}")]
    Unknown(String),
    /// The certificate is fresh; `--force` orders anyway.
    #[error("the certificate for {host} is not due before {due}; --force orders anyway")]
    Fresh {
        /// The host.
        host: String,
        /// When it is due.
        due: String,
    },
}
