//! The connection to a Docker engine: where it is, which version of its API is spoken, and which
//! calls it refuses.
//!
//! Everything that speaks to an engine begins with [`Client::connect`] and turns errors of the
//! library into [`DockerError`] by [`DockerError::of`], so that a call that a socket proxy refuses
//! is known by its name wherever it happens. The library leaves the version out of its paths; it is
//! put there here, so that an engine that is newer than this program answers in the form that this
//! program knows (Docker Engine API, "Versioned API and SDK").
//!
//! Not here: what containers mean (`discover`), when they are asked for (`watch`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::config::DockerSocket;

/// Longest wait for the head of an answer. A stop or a pull by `api` sends its head early.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longest wait for the answer to the first question.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The oldest version that has all that is asked for (Docker 20.10).
pub const OLDEST: ApiVersion = ApiVersion {
    major: 1,
    minor: 41,
};

/// A version of the engine's API, such as 1.41.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Before the dot.
    pub major: usize,
    /// After it.
    pub minor: usize,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self {
            major: major.parse().map_err(|_| ())?,
            minor: minor.parse().map_err(|_| ())?,
        })
    }
}

/// A connection to one engine. Cheap to clone; connections are opened as they are needed.
#[derive(Clone, Debug)]
pub struct Client {
    api: Docker,
    version: Option<ApiVersion>,
}

impl Client {
    /// Finds the engine and agrees on a version: the newest that both know. An engine that refuses
    /// to tell its version is spoken to without one, so in its own.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`], or [`DockerError::Version`] for an engine that is older than
    /// [`OLDEST`].
    pub async fn connect(socket: &DockerSocket) -> Result<Self, DockerError> {
        let seconds = PATIENCE.as_secs();
        let api = match socket {
            DockerSocket::Unix(path) => {
                Docker::connect_with_socket(&path.to_string_lossy(), seconds, API_DEFAULT_VERSION)
            }
            DockerSocket::Tcp(address) => {
                Docker::connect_with_http(&format!("tcp://{address}"), seconds, API_DEFAULT_VERSION)
            }
        };
        let api = api.map_err(|error| DockerError::of(Call::Version, error))?;
        let told = match tokio::time::timeout(FIRST_ANSWER, api.version()).await {
            Ok(told) => told.map_err(|error| DockerError::of(Call::Version, error)),
            Err(_) => Err(DockerError::Unreachable {
                why: format!("no answer in {} s", FIRST_ANSWER.as_secs()),
            }),
        };
        let told = match told {
            Ok(told) => told,
            Err(DockerError::Refused { .. }) => return Ok(Self { api, version: None }),
            Err(error) => return Err(error),
        };
        let version = agree(told.api_version.as_deref(), told.min_api_version.as_deref())?;
        Ok(Self {
            api: api.with_request_modifier(move |mut request| {
                if let Some(uri) = versioned(request.uri(), version) {
                    *request.uri_mut() = uri;
                }
                request
            }),
            version: Some(version),
        })
    }

    /// The version that is spoken; `None`: the engine's own, which it did not tell.
    #[must_use]
    pub const fn version(&self) -> Option<ApiVersion> {
        self.version
    }

    /// The library's own client, for calls that change something.
    #[must_use]
    pub const fn api(&self) -> &Docker {
        &self.api
    }
}

/// The newest version that both sides know.
fn agree(newest: Option<&str>, oldest: Option<&str>) -> Result<ApiVersion, DockerError> {
    let ours = ApiVersion {
        major: API_DEFAULT_VERSION.major_version,
        minor: API_DEFAULT_VERSION.minor_version,
    };
    let theirs: ApiVersion =
        newest
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| DockerError::Version {
                why: format!("it tells no version of its API, but {newest:?}"),
            })?;
    let least: Option<ApiVersion> = oldest.and_then(|text| text.parse().ok());
    if theirs < OLDEST {
        return Err(DockerError::Version {
            why: format!("its API is {theirs}; needed is {OLDEST} (Docker 20.10) or newer"),
        });
    }
    let agreed = theirs.min(ours);
    match least {
        Some(least) if agreed < least => Err(DockerError::Version {
            why: format!("it wants API {least} at least; this version knows {ours}"),
        }),
        _ => Ok(agreed),
    }
}

/// `/containers/json` as `/v1.41/containers/json`.
fn versioned(uri: &http::Uri, version: ApiVersion) -> Option<http::Uri> {
    let mut parts = uri.clone().into_parts();
    let path = parts.path_and_query.as_ref()?.as_str();
    if path.starts_with("/v1.") {
        return None;
    }
    parts.path_and_query = Some(format!("/v{version}{path}").parse().ok()?);
    http::Uri::from_parts(parts).ok()
}

/// What is asked of an engine. A socket proxy may refuse some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// Which version it is. Optional.
    Version,
    /// Which containers there are.
    Containers,
    /// All of one container: health, networks, exposed ports, stop signal.
    Inspect,
    /// What happens to them.
    Events,
    /// What a container uses. Optional: for the rules `memory` and `cpu`.
    Stats,
    /// What a container wrote. Optional: for the lines on a rollback's screen.
    Logs,
    /// Anything that changes something, by its own name.
    Change(&'static str),
}

impl Call {
    /// As it is written in the rules of a socket proxy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "GET /version",
            Self::Containers => "GET /containers/json",
            Self::Inspect => "GET /containers/ID/json",
            Self::Events => "GET /events",
            Self::Stats => "GET /containers/ID/stats",
            Self::Logs => "GET /containers/ID/logs",
            Self::Change(name) => name,
        }
    }

    /// What does not work without it.
    #[must_use]
    pub const fn needed_for(self) -> &'static str {
        match self {
            Self::Version => "the version of its API is not agreed on",
            Self::Containers => "no container is found",
            Self::Inspect => "health checks, exposed ports and stop signals are not known",
            Self::Events => "changes are seen every 5 s only",
            Self::Stats => "the rules memory and cpu see nothing",
            Self::Logs => "a rollback does not show the last lines of its container",
            Self::Change(_) => "nothing can be deployed",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerError {
    /// No socket, nobody behind it, or the connection broke. It may be better later.
    #[error("Docker cannot be reached: {why}")]
    Unreachable {
        /// In the system's words.
        why: String,
    },
    /// A socket proxy, or the rights of this user, allow everything else perhaps, but not this.
    #[error("Docker refuses {call}: {message}")]
    Refused {
        /// What was asked.
        call: Call,
        /// What it said.
        message: String,
    },
    /// There is no such container (any more).
    #[error("Docker does not know it: {message}")]
    NotFound {
        /// What it said.
        message: String,
    },
    /// Both know no version of the API.
    #[error("Docker's version does not fit: {why}")]
    Version {
        /// Which one it has, which one is needed.
        why: String,
    },
    /// Anything else that the engine said.
    #[error("Docker failed at {call}: {message}")]
    Failed {
        /// What was asked.
        call: Call,
        /// What it said.
        message: String,
    },
}

impl DockerError {
    /// The library's error in these words. `call` is what was asked.
    #[must_use]
    pub fn of(call: Call, error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::answered(call, status_code, message),
            Error::SocketNotFoundError(path) => Self::Unreachable {
                why: format!("there is no socket {path}"),
            },
            Error::RequestTimeoutError => Self::Unreachable {
                why: format!("no answer to {call}"),
            },
            Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. } => Self::Unreachable {
                why: innermost(&error),
            },
            other => Self::Failed {
                call,
                message: other.to_string(),
            },
        }
    }

    fn answered(call: Call, status: u16, message: String) -> Self {
        let message = match message.trim() {
            "" => format!("status {status}"),
            text => text.chars().take(200).collect(),
        };
        match status {
            401 | 403 | 405 => Self::Refused { call, message },
            404 => Self::NotFound { message },
            _ => Self::Failed { call, message },
        }
    }

    /// Whether it is the socket's own permissions that forbid it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Unreachable { why } if why.contains("ermission denied"))
    }
}

/// The cause that says most: the outer ones only say that there was one.
fn innermost(error: &Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        let spoken = |newest, oldest| agree(Some(newest), Some(oldest)).map(|v| v.to_string());
        assert_eq!(spoken("1.41", "1.12"), Ok("1.41".to_owned()));
        assert_eq!(spoken("1.47", "1.24"), Ok("1.47".to_owned()));
        let ours = spoken("1.99", "1.44").expect("ours");
        assert_eq!(ours, format!("1.{}", API_DEFAULT_VERSION.minor_version));
        for (newest, oldest, word) in [
            ("1.40", "1.12", "1.41"),
            ("1.99", "1.98", "at least"),
            ("soon", "1.12", "no version"),
        ] {
            let error = spoken(newest, oldest).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_version_stands_before_the_path_once() {
        let version = OLDEST;
        for (before, after) in [
            (
                "http://h/events?since=1",
                Some("http://h/v1.41/events?since=1"),
            ),
            (
                "unix://2f72/containers/json",
                Some("unix://2f72/v1.41/containers/json"),
            ),
            ("http://h/v1.41/events", None),
        ] {
            let uri = versioned(&before.parse().expect("a URI"), version);
            assert_eq!(uri.map(|uri| uri.to_string()).as_deref(), after, "{before}");
        }
    }

    #[test]
    fn a_refused_call_is_known_by_its_name() {
        let said = |status| DockerError::answered(Call::Events, status, String::new());
        assert_eq!(
            said(403).to_string(),
            "Docker refuses GET /events: status 403"
        );
        assert!(matches!(said(404), DockerError::NotFound { .. }));
        assert!(matches!(said(500), DockerError::Failed { .. }));
        let denied = DockerError::of(
            Call::Version,
            Error::IOError {
                err: std::io::Error::from(std::io::ErrorKind::PermissionDenied),
            },
        );
        assert!(denied.is_forbidden(), "{denied}");
    }
}
