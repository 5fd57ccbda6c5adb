//! A regular expression that can be compared, printed and cloned for free.

use regex::{Regex, RegexBuilder};

/// A compiled regular expression (RE2 syntax: linear time, no look-around). `.` stands for the end of
/// a line too: an escaped one in a path must not lead past a filter.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// It is not a regular expression, or its compiled form is above 10 MB.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        let compiled = RegexBuilder::new(text).dot_matches_new_line(true).build();
        compiled.map(Self)
    }

    /// The compiled form.
    #[must_use]
    pub const fn regex(&self) -> &Regex {
        &self.0
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}
