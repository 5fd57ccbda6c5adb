//! Which of several files is there: `try_files` and the `file` matcher.
//!
//! Whether a link leads out of the root is not asked here, as in Caddy: that is the business of
//! the step that sends the file.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use http::StatusCode;

use super::beneath::{Facts, Kind, Miss, Patience, Root, bytes};
use super::glob;
use crate::config::step::TryPolicy;

/// One text to try, with its placeholders filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// A pattern, relative to the root; what came from placeholders is escaped. One that ends in
    /// a slash is a folder.
    Pattern(String),
    /// `=404`: ends the search with an error.
    Status(StatusCode),
}

impl Candidate {
    /// Reads a text.
    pub(crate) fn new(text: String) -> Self {
        let status = text.strip_prefix('=').and_then(|code| code.parse().ok());
        match status.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(status) => Self::Status(status),
            None => Self::Pattern(text),
        }
    }
}

/// Where to look and how to choose.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) root: PathBuf,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) policy: TryPolicy,
    /// Endings at which a path is split; lower and upper case are one.
    pub(crate) split: Vec<String>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MatchedFile {
    /// Which candidate it came from.
    pub(crate) candidate: usize,
    /// Beneath the root, with a slash before it, and one after it if it is a folder; not escaped.
    pub(crate) relative: String,
    /// With the root.
    pub(crate) absolute: String,
    pub(crate) is_folder: bool,
    /// What was split off the path.
    pub(crate) remainder: String,
}

/// Chooses a file. `Ok(None)`: none is there. `Err`: an error was to be answered then.
/// Cancel-safe: keeps no state.
pub(crate) async fn select(selection: Selection) -> Result<Option<MatchedFile>, StatusCode> {
    match choose(&selection, Patience::Cached) {
        Err(Later) => {
            let choose = move || choose(&selection, Patience::Blocking);
            let chosen = tokio::task::spawn_blocking(choose).await;
            chosen.ok().and_then(Result::ok).unwrap_or(Ok(None))
        }
        Ok(chosen) => chosen,
    }
}

/// As [`select`], on the thread that asks: it may block for a disk, but where the kernel has all in
/// its caches it does not.
pub(crate) fn select_now(selection: &Selection) -> Result<Option<MatchedFile>, StatusCode> {
    choose(selection, Patience::Blocking).unwrap_or(Ok(None))
}

/// A disk would have to be waited for.
#[derive(Debug)]
struct Later;

type Chosen = Result<Option<MatchedFile>, StatusCode>;

fn choose(selection: &Selection, patience: Patience) -> Result<Chosen, Later> {
    let root = match Root::open(&selection.root, true, patience) {
        Err(Miss::Later) => return Err(Later),
        Err(_) => None,
        Ok(root) => Some(root),
    };
    let mut best: Option<(Facts, MatchedFile)> = None;
    for (number, candidate) in selection.candidates.iter().enumerate() {
        let pattern = match candidate {
            Candidate::Pattern(pattern) => pattern,
            Candidate::Status(status) if selection.policy == TryPolicy::FirstExist => {
                return Ok(Err(*status));
            }
            Candidate::Status(_) => continue,
        };
        let Some(root) = &root else {
            continue;
        };
        let folder = pattern.ends_with('/');
        let (pattern, remainder) = split(pattern, &selection.split);
        for path in expanded(&selection.root, pattern, patience)? {
            let facts = match root.look(&path) {
                Ok(opened) => opened.facts,
                Err(Miss::Later) => return Err(Later),
                Err(_) => continue,
            };
            let is_folder = facts.kind == Kind::Folder;
            if selection.policy == TryPolicy::FirstExist && is_folder != folder {
                continue;
            }
            let slash = if is_folder { "/" } else { "" };
            let relative = path.to_string_lossy();
            let absolute = selection.root.join(&path);
            let chosen = MatchedFile {
                candidate: number,
                relative: match &*relative {
                    "" => "/".to_owned(),
                    relative => format!("/{relative}{slash}"),
                },
                absolute: format!("{}{slash}", absolute.to_string_lossy()),
                is_folder,
                remainder: remainder.to_owned(),
            };
            if selection.policy == TryPolicy::FirstExist {
                return Ok(Ok(Some(chosen)));
            }
            let better = best
                .as_ref()
                .is_none_or(|(best, _)| match selection.policy {
                    TryPolicy::FirstExist => false,
                    TryPolicy::SmallestSize => facts.size < best.size,
                    TryPolicy::LargestSize => Reverse(facts.size) < Reverse(best.size),
                    TryPolicy::MostRecent => facts.modified > best.modified,
                });
            if better {
                best = Some((facts, chosen));
            }
        }
    }
    Ok(Ok(best.map(|(_, chosen)| chosen)))
}

/// The paths that a pattern stands for, relative to the root, never above it.
fn expanded(root: &Path, pattern: &str, patience: Patience) -> Result<Vec<PathBuf>, Later> {
    let clean = clean(pattern);
    match glob::literal(&clean) {
        // A backslash may have kept a dot from being seen.
        Some(path) if path.contains('\0') || leads_up(&path) => Ok(Vec::new()),
        Some(path) => Ok(vec![PathBuf::from(&*path)]),
        None if patience == Patience::Cached => Err(Later),
        None => Ok(glob::expand(root, &clean)),
    }
}

fn leads_up(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// Without empty segments, dots and slashes at the ends; what leads above the root ends at it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Divides at the first of the endings that ends a segment.
fn split<'a>(path: &'a str, endings: &[String]) -> (&'a str, &'a str) {
    for ending in endings.iter().filter(|ending| !ending.is_empty()) {
        let lower = path.to_ascii_lowercase();
        let mut from = 0;
        while let Some(at) = lower[from..].find(&ending.to_ascii_lowercase()) {
            let end = from + at + ending.len();
            if path[end..].is_empty() || path[end..].starts_with('/') {
                return path.split_at(end);
            }
            from = end;
        }
    }
    (path, "")
}

impl MatchedFile {
    /// The path as that of a URI.
    pub(crate) fn encoded(&self) -> String {
        super::name::encode_path(bytes(Path::new(&self.relative)))
    }
}
