//! Why an exchange failed, in words for `status`, logs and switch gates.
//!
//! Foreign errors are translated here once and do not travel further: hyper, rustls and the
//! system each name the same event differently.

use std::error::Error;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// How far an exchange had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening the connection.
    Connect,
    /// TLS handshake.
    Tls,
    /// From the request to the end of the response head.
    Head,
    /// Response body.
    Body,
}

/// Why there was no answer. `Display` is the reason that people read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The deadline passed in this phase.
    #[error("{}", timed_out(*.0, *.1))]
    Timeout(Phase, Duration),
    /// No connection.
    #[error("{0}")]
    Connect(&'static str),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer closed or reset the connection in this phase.
    #[error("connection {how} {}", when(*.phase))]
    Gone {
        /// `closed` or `reset`.
        how: &'static str,
        /// In which phase.
        phase: Phase,
    },
    /// What came is not what the protocol allows.
    #[error("{0}")]
    Protocol(String),
    /// The request itself can't be sent, for instance because its path is none.
    #[error("{0}")]
    Request(String),
    /// This process or host is out of something: says nothing about the peer.
    #[error("not tried: {0} on the proxy's side")]
    Local(&'static str),
}

impl Failure {
    /// Whether the cause lies on our side, so that nothing was learned about the peer.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    pub(super) fn from_connect(error: &io::Error) -> Self {
        if let Some(failure) = local(error) {
            return failure;
        }
        Self::Connect(match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused",
            io::ErrorKind::ConnectionReset => "connection reset",
            io::ErrorKind::HostUnreachable => "host unreachable",
            io::ErrorKind::NetworkUnreachable => "network unreachable",
            io::ErrorKind::TimedOut => "connect timed out",
            io::ErrorKind::NotFound => "no such socket",
            io::ErrorKind::PermissionDenied => "permission denied",
            _ => "connect failed",
        })
    }

    pub(super) fn from_tls(error: &io::Error, name: &str) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(error) => Self::Tls(tls_reason(error, name)),
            None => {
                gone(error, Phase::Tls).unwrap_or_else(|| Self::Tls("handshake failed".to_owned()))
            }
        }
    }

    pub(super) fn from_hyper(error: &hyper::Error, phase: Phase) -> Self {
        if error.is_parse_too_large() {
            return Self::Protocol("response head is too large".to_owned());
        }
        if error.is_parse() {
            return Self::Protocol(match phase {
                Phase::Body => "response body is malformed".to_owned(),
                _ => "answer is not HTTP/1".to_owned(),
            });
        }
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::Gone {
                how: "closed",
                phase,
            };
        }
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return gone(io, phase)
                    .or_else(|| tls_alert(io))
                    .unwrap_or_else(|| Self::Protocol("connection failed".to_owned()));
            }
            if error.source().is_none() {
                return Self::Protocol(http2_reason(&error.to_string()));
            }
            cause = error.source();
        }
        Self::Protocol("answer is not HTTP".to_owned())
    }
}

/// The crate's own error type is not ours to name, only its text: "detected" means that we found
/// the fault, which on a fresh connection is a peer that speaks something else.
fn http2_reason(text: &str) -> String {
    match text.strip_prefix("connection error detected: ") {
        Some(fault) => format!("answer is not HTTP/2 ({fault})"),
        None => format!("HTTP/2: {text}"),
    }
}

fn timed_out(phase: Phase, limit: Duration) -> String {
    match phase {
        Phase::Connect => format!("connect timed out after {limit:?}"),
        Phase::Tls => format!("no TLS handshake within {limit:?}"),
        Phase::Head => format!("no answer within {limit:?}"),
        Phase::Body => format!("body not complete within {limit:?}"),
    }
}

const fn when(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "before it was open",
        Phase::Tls => "in the TLS handshake",
        Phase::Head => "before the answer",
        Phase::Body => "in the middle of the body",
    }
}

fn gone(error: &io::Error, phase: Phase) -> Option<Failure> {
    let how = match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "reset",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
            "closed"
        }
        _ => return None,
    };
    Some(Failure::Gone { how, phase })
}

/// With TLS 1.3 a server refuses a client only after the client's side of the handshake is done.
fn tls_alert(error: &io::Error) -> Option<Failure> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(Failure::Tls(tls_reason(error, "")))
}

fn tls_reason(error: &rustls::Error, name: &str) -> String {
    use rustls::{CertificateError as Bad, Error as E};
    match error {
        E::InvalidCertificate(bad) => match bad {
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                format!("certificate is not valid for `{name}`")
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "certificate has expired".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "certificate is not valid yet".to_owned()
            }
            Bad::UnknownIssuer => "certificate is from an unknown issuer".to_owned(),
            other => format!("certificate is not valid: {other}"),
        },
        E::InvalidMessage(_) | E::InappropriateMessage { .. } => "answer is not TLS".to_owned(),
        E::AlertReceived(alert) => format!("handshake refused ({alert:?})"),
        E::PeerIncompatible(_) => "no common version or cipher".to_owned(),
        other => other.to_string(),
    }
}

fn local(error: &io::Error) -> Option<Failure> {
    let what = match Errno::from_raw(error.raw_os_error()?) {
        Errno::EMFILE | Errno::ENFILE => "no free file descriptor",
        Errno::EADDRNOTAVAIL => "no free local port",
        Errno::ENOMEM | Errno::ENOBUFS => "no memory",
        _ => return None,
    };
    Some(Failure::Local(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_is_not_the_peers_fault() {
        let error = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        let failure = Failure::from_connect(&error);
        assert!(failure.is_local());
        assert_eq!(
            failure.to_string(),
            "not tried: no free file descriptor on the proxy's side"
        );
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(!Failure::from_connect(&refused).is_local());
    }

    #[test]
    fn a_deadline_says_what_it_waited_for() {
        let at = |phase| Failure::Timeout(phase, Duration::from_millis(1500)).to_string();
        assert_eq!(at(Phase::Connect), "connect timed out after 1.5s");
        assert_eq!(at(Phase::Tls), "no TLS handshake within 1.5s");
        assert_eq!(at(Phase::Head), "no answer within 1.5s");
        assert_eq!(at(Phase::Body), "body not complete within 1.5s");
    }
}
