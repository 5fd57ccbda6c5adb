//! Finds what a name stands for: a file, an index, a precompressed sibling, a folder.

use std::path::Path;

use super::beneath::{Facts, Kind, Miss, Opened, Patience, Root};
use super::coding::{self, Accepted};
use super::name::Name;
use super::serve::Folder;
use crate::config::step::Encoding;

/// What there is.
#[derive(Debug)]
pub(super) enum Found {
    File(FoundFile),
    /// Without an index, to be listed.
    Folder,
}

/// A file, open.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// Of the bytes that are sent.
    pub(super) opened: Opened,
    /// Of the file that was meant.
    pub(super) original: Facts,
    /// The meant file's name, for its type.
    pub(super) name: Name,
    /// How the bytes are encoded.
    pub(super) coding: Option<Encoding>,
    /// The index of the folder that was asked for.
    pub(super) is_index: bool,
}

/// Looks it up. With [`Patience::Cached`] it never waits and may say [`Miss::Later`].
pub(super) fn find(
    folder: &Folder,
    name: &Name,
    accepted: Accepted,
    patience: Patience,
) -> Result<Found, Miss> {
    let root = Root::open(&folder.root, folder.follow, patience)?;
    let hidden = |name: &Name| folder.hide.hides(&folder.root, name.path());
    let mut opened = root.read(name.path())?;
    let mut meant = name.clone();
    let mut is_index = false;
    if opened.facts.kind == Kind::Folder {
        let Some((index, file)) = index(folder, &root, name)? else {
            return if folder.browse.is_some() && !hidden(name) {
                Ok(Found::Folder)
            } else {
                Err(Miss::NotFound)
            };
        };
        (meant, opened, is_index) = (index, file, true);
    }
    if opened.facts.kind != Kind::File || hidden(&meant) {
        return Err(Miss::NotFound);
    }
    let original = opened.facts.clone();
    let mut coding = None;
    for candidate in accepted.iter() {
        let sibling = meant.with_ending(coding::ending(candidate));
        if let Some(file) = regular(&root, sibling.path())? {
            (opened, coding) = (file, Some(candidate));
            break;
        }
    }
    Ok(Found::File(FoundFile {
        opened,
        original,
        name: meant,
        coding,
        is_index,
    }))
}

/// The first index that is there and not hidden.
fn index(folder: &Folder, root: &Root<'_>, name: &Name) -> Result<Option<(Name, Opened)>, Miss> {
    for index in folder.index.iter().filter_map(|index| name.child(index)) {
        if folder.hide.hides(&folder.root, index.path()) {
            continue;
        }
        if let Some(file) = regular(root, index.path())? {
            return Ok(Some((index, file)));
        }
    }
    Ok(None)
}

/// A file that may be there; what cannot be opened for whatever reason is not.
fn regular(root: &Root<'_>, path: &Path) -> Result<Option<Opened>, Miss> {
    match root.read(path) {
        Ok(opened) => Ok(Some(opened).filter(|opened| opened.facts.kind == Kind::File)),
        Err(wait @ (Miss::Later | Miss::Exhausted)) => Err(wait),
        Err(_) => Ok(None),
    }
}
