//! What is in a folder, for people and programs.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use http::{StatusCode, header};
use rustix::fs::{AtFlags, Dir, FileType, statat};
use serde::Serialize;

use super::answer::{Answer, Refused};
use super::beneath::{Facts, Kind, Miss, Patience, Root, bytes};
use super::name::{Name, encode_path};
use super::page;
use super::serve::{Asked, Folder, parameter};

pub(super) use super::page::escaped;

/// Entries that are looked at, as in Caddy.
const MOST: usize = 10_000;

/// How it is to be shown.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    json: bool,
    sort: Sort,
    descending: bool,
    offset: usize,
    limit: Option<usize>,
    /// The folder, as the client named it.
    pub(super) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    FoldersFirst,
    Name,
    Size,
    Time,
}

impl Wanted {
    /// From `Accept` and the parameters `sort`, `order`, `offset` and `limit`.
    pub(super) fn new(asked: &Asked<'_>) -> Self {
        let accept = asked.headers.get_all(header::ACCEPT);
        let json = accept.iter().any(|value| {
            let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
            value.contains("application/json")
        });
        let number = |name| parameter(asked.query, name).and_then(|text| text.parse().ok());
        Self {
            json,
            sort: match parameter(asked.query, "sort").as_deref() {
                Some("name") => Sort::Name,
                Some("size") => Sort::Size,
                Some("time") => Sort::Time,
                _ => Sort::FoldersFirst,
            },
            descending: parameter(asked.query, "order").as_deref() == Some("desc"),
            offset: number("offset").unwrap_or(0),
            limit: number("limit").filter(|limit| *limit > 0),
            path: percent_encoding::percent_decode_str(asked.original_path)
                .decode_utf8_lossy()
                .into_owned(),
        }
    }

    pub(super) const fn order(&self) -> (Sort, bool) {
        (self.sort, self.descending)
    }
}

/// One entry. The fields are those of Caddy's JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Item {
    /// With a slash at the end of a folder's.
    pub(super) name: String,
    pub(super) size: u64,
    /// Relative to the folder.
    pub(super) url: String,
    pub(super) mod_time: String,
    /// As Go's `fs.FileMode`.
    mode: u32,
    pub(super) is_dir: bool,
    is_symlink: bool,
    #[serde(skip)]
    modified: (i64, u32),
}

/// Lists the folder `name`. Blocks.
pub(super) fn answer(
    folder: &Folder,
    name: &Name,
    wanted: &Wanted,
    head: bool,
) -> Result<Answer, Refused> {
    let mut items = read(folder, name)?;
    arrange(&mut items, wanted);
    let mut answer = Answer::new(StatusCode::OK);
    answer.set(header::VARY, "Accept");
    if wanted.json {
        let mut text =
            serde_json::to_string(&items).map_err(|error| Refused::Failed(error.into()))?;
        text.push('\n');
        return Ok(answer.text("application/json; charset=utf-8", text, head));
    }
    let template = folder.browse.as_ref().and_then(|b| b.template.as_deref());
    let text = match template {
        Some(path) => {
            let template = std::fs::read_to_string(path).map_err(Refused::Failed)?;
            page::fill(&template, wanted, &items)
        }
        None => page::built_in(wanted, &items),
    };
    Ok(answer.text("text/html; charset=utf-8", text, head))
}

/// The entries that a request for them would find.
fn read(folder: &Folder, name: &Name) -> Result<Vec<Item>, Miss> {
    let root = Root::open(&folder.root, folder.follow, Patience::Blocking)?;
    let opened = root.read(name.path())?;
    let failed = |error: rustix::io::Errno| Miss::Failed(error.into());
    let mut items = Vec::new();
    for entry in Dir::read_from(&opened.file).map_err(failed)?.take(MOST) {
        let entry = entry.map_err(failed)?;
        let own = entry.file_name().to_bytes();
        let dotted = own.starts_with(b".") && !folder.dotfiles;
        if matches!(own, b"." | b"..") || dotted {
            continue;
        }
        let path = name.path().join(OsStr::from_bytes(own));
        if folder.hide.hides(&folder.root, &path) {
            continue;
        }
        // One that is gone meanwhile, dangles or leads out of the folder is not listed.
        let Ok(stat) = statat(&opened.file, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_symlink = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if let Ok(target) = root.look(&path) {
            items.push(Item::new(
                Path::new(OsStr::from_bytes(own)),
                &target.facts,
                is_symlink,
            ));
        }
    }
    Ok(items)
}

impl Item {
    fn new(name: &Path, facts: &Facts, is_symlink: bool) -> Self {
        let is_dir = facts.kind == Kind::Folder;
        let slash = if is_dir { "/" } else { "" };
        // Bits of Go's FileMode: the kind is at the other end.
        let kind = if is_symlink {
            1 << 27
        } else if is_dir {
            1 << 31
        } else {
            0
        };
        let (seconds, nanoseconds) = facts.modified;
        let nanoseconds = i32::try_from(nanoseconds).unwrap_or_default();
        let time = jiff::Timestamp::new(seconds, nanoseconds).unwrap_or_default();
        Self {
            name: format!("{}{slash}", name.to_string_lossy()),
            size: facts.size,
            // With the dot a name that has a colon is no scheme.
            url: format!("./{}{slash}", encode_path(bytes(name))),
            mod_time: time.to_string(),
            mode: kind | facts.mode & 0o777,
            is_dir,
            is_symlink,
            modified: facts.modified,
        }
    }
}

fn arrange(items: &mut Vec<Item>, wanted: &Wanted) {
    let name = |item: &Item| item.name.to_lowercase();
    let compare = |one: &Item, other: &Item| -> Ordering {
        match wanted.sort {
            Sort::Name => name(one).cmp(&name(other)),
            Sort::FoldersFirst => (!one.is_dir, name(one)).cmp(&(!other.is_dir, name(other))),
            Sort::Size => match (one.is_dir, other.is_dir) {
                (false, false) => one.size.cmp(&other.size),
                (true, true) => name(one).cmp(&name(other)),
                (one, other) => other.cmp(&one),
            },
            Sort::Time => one.modified.cmp(&other.modified),
        }
    };
    items.sort_by(|one, other| {
        let order = compare(one, other);
        if wanted.descending {
            order.reverse()
        } else {
            order
        }
    });
    if wanted.offset > 0 && wanted.offset <= items.len() {
        items.drain(..wanted.offset);
    }
    if let Some(limit) = wanted.limit {
        items.truncate(limit);
    }
}
