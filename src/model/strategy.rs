//! How the containers of a new release take over from those of the one before.

use serde::{Deserialize, Serialize};

/// One of the two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All at once, in the other color, and judged by what users get.
    #[default]
    BlueGreen,
    /// One after the other within the live color.
    Rolling,
}

impl Strategy {
    /// As people type it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlueGreen => "blue-green",
            Self::Rolling => "rolling",
        }
    }
}
