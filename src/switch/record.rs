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
    /// What it takes to watch on after a restart; only while it is observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
}

/// A cutover under watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The color that it made live.
    pub target: Color,
    /// Why, as the person who asked put it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When, in milliseconds since 1970; 0: not yet stamped.
    #[serde(default)]
    pub since_ms: u64,
    /// How often the daemon died under it.
    #[serde(default)]
    pub crashes: u32,
    /// Why it waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Undone unless it is confirmed so many milliseconds after `since_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_ms: Option<u64>,
}

/// Why nothing may be switched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// The reason that was given.
    pub why: String,
    /// Who said so.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it ends by itself, in milliseconds since 1970; `None`: with `unfreeze`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// What is closed for maintenance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// Shown on the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Who said so.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
}

/// How a command ended, for whoever asks again with its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The id that its client chose.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The outcome's word.
    pub code: String,
    /// Its sentence.
    pub text: String,
    /// Its exit code.
    pub exit: u8,
}

/// A command with an id that has not ended, and how far it is as of the same write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The id that its client chose.
    pub id: String,
    /// When it was asked, in milliseconds since 1970.
    pub at_ms: u64,
    /// Names the command.
    pub generation: Generation,
    /// The stack that it is about.
    pub stack: StackName,
    /// What was asked.
    pub verb: Verb,
    /// What it moved; empty: nothing yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// Whether the verdict was to keep that.
    #[serde(default)]
    pub kept: bool,
    /// That it goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<GoneBack>,
}

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// `switch`.
    Switch,
    /// `rollback`.
    Rollback,
    /// `promote`.
    Promote,
    /// `abort`.
    Abort,
}

/// Who went back and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneBack {
    /// `cutover` itself or the person who asked.
    pub by: String,
    /// The reason in words.
    pub reason: String,
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
    /// Whether the daemon said goodbye; false while it runs.
    #[serde(default)]
    pub clean: bool,
    /// Switches are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// What is closed for maintenance: `service:NAME` or `site:HOST`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub maintenance: BTreeMap<String, MaintenanceRecord>,
    /// Results by id, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Recorded>,
    /// Commands with an id that have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<Running>,
}

impl Book {
    /// The version that this code writes and reads.
    pub const VERSION: u32 = 2;

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
            clean: false,
            freeze: None,
            maintenance: BTreeMap::new(),
            results: Vec::new(),
            running: Vec::new(),
        }
    }
}
