//! The words that every layer shares: colors, services, generations, upstream addresses.
//!
//! Plain values without behaviour of their own: no I/O, no clock, no lock. Whatever can be
//! invalid is parsed here once ([`UpstreamAddr`], [`HostPattern`], [`PathPattern`]) and is
//! valid ever after.

mod address;
mod name;
mod pattern;
mod proxy_error;
pub mod proxy_protocol;
mod schedule;
mod strategy;

pub use address::{AddressError, Endpoint, Scheme, UpstreamAddr};
pub use name::{Release, ServiceName, StackName};
pub use pattern::{HostPattern, PathPattern, PatternError, normalize_path};
pub use proxy_error::ErrorType;
pub use schedule::{Schedule, ScheduleError};
pub use strategy::Strategy;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the two slots of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// The slot that is live when nothing says otherwise.
    Blue,
    /// The other slot.
    Green,
}

impl Color {
    /// Both colors, blue first; the order of every table and array indexed by color.
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    /// The other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// Position in an array of two, in the order of [`Color::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Blue => 0,
            Self::Green => 1,
        }
    }

    /// `blue` or `green`, as people type it and metrics show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// A name without the color at its end, and that color: `web-blue` is `web` and blue, `blue`
    /// is nothing and blue.
    #[must_use]
    pub fn ending(name: &str) -> (&str, Option<Self>) {
        for color in Self::ALL {
            let Some(rest) = name.strip_suffix(color.as_str()) else {
                continue;
            };
            if rest.is_empty() {
                return ("", Some(color));
            }
            if let Some(base) = rest.strip_suffix(['-', '_']) {
                return (base, Some(color));
            }
        }
        (name, None)
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Color {
    type Err = UnknownColor;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "blue" => Ok(Self::Blue),
            "green" => Ok(Self::Green),
            _ => Err(UnknownColor(s.to_owned())),
        }
    }
}

/// A word that is neither `blue` nor `green`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a color: blue or green")]
pub struct UnknownColor(pub String);

/// What a claim counts: drains and gauges treat the three apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An ordinary exchange: ends with its response.
    Request,
    /// A connection upgraded with `101 Switching Protocols` (RFC 9110 §15.2.2).
    WebSocket,
    /// A `text/event-stream` response: ends when somebody ends it.
    Sse,
}

impl Kind {
    /// All kinds, in the order of tables and packed counters.
    pub const ALL: [Self; 3] = [Self::Request, Self::WebSocket, Self::Sse];

    /// Position in [`Kind::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Request => 0,
            Self::WebSocket => 1,
            Self::Sse => 2,
        }
    }

    /// The value of the `kind` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
        }
    }
}

/// Number of one published pool. Grows with every cutover, never reused while the daemon's
/// state lives; an input that carries an older one is stale and changes nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
