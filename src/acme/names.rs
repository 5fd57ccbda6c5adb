//! The names of one certificate.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::HostPattern;

/// Names that one certificate is ordered for: lower case, sorted, no doubles, never empty. Two
/// sites that ask for the same names share the set, and so the order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NameSet(Vec<String>);

impl NameSet {
    /// The set of these names; `None` without one.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Option<Self> {
        let mut names: Vec<_> = names
            .into_iter()
            .map(|name| name.as_ref().to_ascii_lowercase())
            .collect();
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(Self(names))
    }

    /// The names, ascending.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The names as the certificate table knows them.
    #[must_use]
    pub fn patterns(&self) -> Vec<HostPattern> {
        self.0.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Name of its folder: the name itself, or the first of several with a mark that tells sets
    /// apart. Stable over releases.
    #[must_use]
    pub fn folder(&self) -> String {
        let first = self.0.first().map_or("", String::as_str);
        match self.0.len() {
            1 => first.to_owned(),
            _ => format!("{first}+{:016x}", self.seed()),
        }
    }

    /// A number that is the same for the same names on every machine: spreads renewals of
    /// different certificates apart without randomness in the planner.
    pub(super) fn seed(&self) -> u64 {
        fnv1a(self.to_string().as_bytes())
    }
}

impl fmt::Display for NameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// FNV-1a (draft-eastlake-fnv): spreads, hides nothing.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// A fraction in 0..1 out of a seed and a round.
pub(super) fn fraction(seed: u64, round: u64) -> f64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..].copy_from_slice(&round.to_le_bytes());
    // The upper half of FNV is the well mixed one; 32 bits fit a f64 exactly.
    (fnv1a(&bytes) >> 32) as f64 / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_names_in_any_order_and_case_are_one_set() {
        let a = NameSet::new(["b.example", "A.example", "a.example"]).expect("names");
        let b = NameSet::new(["a.example", "B.EXAMPLE"]).expect("names");
        assert_eq!(a, b);
        assert_eq!(a.folder(), b.folder());
        assert_eq!(a.names(), ["a.example", "b.example"]);
        assert_eq!(NameSet::new([""; 0]), None);
    }

    #[test]
    fn a_folder_tells_sets_with_the_same_first_name_apart() {
        let one = NameSet::new(["a.example"]).expect("names");
        let two = NameSet::new(["a.example", "b.example"]).expect("names");
        let other = NameSet::new(["a.example", "c.example"]).expect("names");
        assert_eq!(one.folder(), "a.example");
        assert_ne!(two.folder(), other.folder());
    }
}
