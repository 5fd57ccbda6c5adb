//! Errors as data: a code that scripts compare, a sentence that people read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a verb did not do what was asked. Shown as `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// What scripts compare.
    pub code: ErrorCode,
    /// One sentence for people: what happened and what to do next. No trailing full stop.
    pub message: String,
    /// More lines, such as every error of a configuration file or every failed gate check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl ControlError {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// The same error with more lines.
    #[must_use]
    pub fn with_details(mut self, details: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.details = details.into_iter().map(Into::into).collect();
        self
    }
}

/// The envelope of a [`ControlError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ControlError,
}

/// Class of a [`ControlError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense: bad value, bad JSON, unknown path.
    Usage,
    /// No service of that name.
    UnknownService,
    /// A verb or option that is not part of this version.
    Unsupported,
    /// The target did not pass the gate in time.
    GateNotPassed,
    /// A freeze is on.
    Frozen,
    /// Another switch is running.
    Busy,
    /// `rollback` without a cutover, `promote` or `abort` without a running switch.
    NothingToUndo,
    /// The target slot has no upstreams.
    EmptySlot,
    /// Refused for another reason.
    Refused,
    /// The configuration has errors; `details` lists them. Nothing was changed.
    InvalidConfig,
    /// The new configuration changes what only a restart can. Nothing was changed.
    RestartNeeded,
    /// The daemon is starting or stopping.
    NotReady,
    /// It was tried and did not work.
    Failed,
    /// A bug or a broken machine.
    Internal,
    /// The peer's user may not use the socket.
    Forbidden,
    /// No answer over the socket. Made by the client, never sent.
    Unreachable,
    /// A code of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Exit code of `proxyctl`: 1 failed, 2 usage, 3 refused, 5 cannot be reached.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::InvalidConfig
            | Self::RestartNeeded
            | Self::NotReady
            | Self::Failed
            | Self::Internal
            | Self::Unknown => 1,
            Self::Usage | Self::UnknownService | Self::Unsupported => 2,
            Self::GateNotPassed
            | Self::Frozen
            | Self::Busy
            | Self::NothingToUndo
            | Self::EmptySlot
            | Self::Refused => 3,
            Self::Forbidden | Self::Unreachable => 5,
        }
    }

    /// HTTP status of an answer that consists of this error (RFC 9110 §15).
    #[must_use]
    pub const fn status(self) -> http::StatusCode {
        match self {
            Self::Usage => http::StatusCode::BAD_REQUEST,
            Self::UnknownService => http::StatusCode::NOT_FOUND,
            Self::Unsupported => http::StatusCode::NOT_IMPLEMENTED,
            Self::GateNotPassed
            | Self::Frozen
            | Self::Busy
            | Self::NothingToUndo
            | Self::EmptySlot
            | Self::Refused => http::StatusCode::CONFLICT,
            Self::InvalidConfig | Self::RestartNeeded => http::StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotReady | Self::Unreachable => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Forbidden => http::StatusCode::FORBIDDEN,
            Self::Failed | Self::Internal | Self::Unknown => {
                http::StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_of_a_newer_daemon_is_still_an_error() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"error":{"code":"eclipse","message":"no sun"}}"#).unwrap();
        assert_eq!(body.error.code, ErrorCode::Unknown);
        assert_eq!(body.error.code.exit_code(), 1);
        assert_eq!(body.error.message, "no sun");
    }

    #[test]
    fn codes_are_snake_case_words() {
        assert_eq!(ErrorCode::GateNotPassed.to_string(), "gate_not_passed");
        let body = ErrorBody {
            error: ControlError::new(ErrorCode::Busy, "another switch is running"),
        };
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"error":{"code":"busy","message":"another switch is running"}}"#
        );
    }
}
