//! Where a word of a Caddyfile stands.

/// A place in one of the files that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// Which file, in [`Sources`].
    pub file: u32,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// The files that were read, the first one by name and those that it imports.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    names: Vec<String>,
    /// Variables that are not set and have no default.
    pub(super) unset: Vec<Problem>,
}

impl Sources {
    /// The number that stands for a file of this name.
    pub(super) fn add(&mut self, name: &str) -> u32 {
        let known = self.names.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Its name again.
    #[must_use]
    pub fn name(&self, file: u32) -> &str {
        let at = usize::try_from(file).unwrap_or(usize::MAX);
        self.names.get(at).map_or("", String::as_str)
    }

    /// Variables of the environment that are not set and have no default: they stand for nothing.
    #[must_use]
    pub fn unset(&self) -> &[Problem] {
        &self.unset
    }

    /// Names of all of them, in the order in which they were read.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Something that is wrong, or worth a word, at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub pos: Pos,
    /// What, and what to do about it.
    pub message: String,
}

impl Problem {
    /// At a place.
    pub(super) fn new(pos: Pos, message: impl Into<String>) -> Self {
        Self {
            pos,
            message: message.into(),
        }
    }
}
