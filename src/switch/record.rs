//! What is remembered of switches: the shapes on disk.
//!
//! Runtime shapes of their own, never the configuration's: a file that drops a service does not
//! make the daemon forget which of its colors was live.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Color, Generation, Release, ServiceName, StackName};

/// One published pool: a color and the number of its publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The slot.
    pub color: Color,
    /// Which publication of that slot.
    pub generation: Generation,
}

/// One service's part in a cutover or a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The service that moves.
    pub service: ServiceName,
    /// Live before.
    pub from: Live,
    /// Live after.
    pub to: Live,
}

/// The last cutover of a stack: what `rollback` undoes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cutover {
    /// Every service that moved, and only those.
    pub moves: Vec<Move>,
    /// Who asked for it.
    pub actor: String,
    /// Whether its verdict was to keep it; false while it is observed.
    pub kept: bool,
}

/// A publication that was about to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Intent {
    /// Found on start, it did not happen: the colors before it are live.
    CutOver {
        /// What would have moved.
        moves: Vec<Move>,
    },
    /// Found on start, it is finished: the colors after it are live.
    RollBack {
        /// What moves back.
        moves: Vec<Move>,
    },
}

/// What is remembered of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The live pool.
    pub live: Live,
    /// What runs in each slot, as far as anybody said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub releases: BTreeMap<Color, Release>,
}

/// What is remembered of one stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRecord {
    /// The cutover that `rollback` would undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Cutover>,
    /// Written ahead, not yet done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Intent>,
}

/// Everything that survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Version of this shape; [`Book::VERSION`] is the only one known.
    pub version: u32,
    /// The highest generation given away so far.
    pub generation: Generation,
    /// Every service ever seen, configured or not.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, ServiceRecord>,
    /// Every stack ever switched.
    #[serde(default)]
    pub stacks: BTreeMap<StackName, StackRecord>,
}

impl Book {
    /// The version that this code writes and reads.
    pub const VERSION: u32 = 1;

    /// Gives away the next generation.
    pub fn allot(&mut self) -> Generation {
        self.generation = self.generation.next();
        self.generation
    }
}

impl Default for Book {
    fn default() -> Self {
        Self {
            version: Self::VERSION,
            generation: Generation(0),
            services: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }
}
