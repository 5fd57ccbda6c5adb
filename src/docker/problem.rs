//! What is wrong with a container, and how to mend it: for `status`.

use std::fmt;

/// One thing that keeps a container, a label or a route from being served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Name of the container.
    pub container: String,
    /// What is so.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Problem {
    pub(super) fn new(
        container: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            container: container.into(),
            what: what.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.container, self.what, self.fix)
    }
}
