//! What root could read, for a process that is no longer root.
//!
//! A start as root reads every file that the configuration names, and then gives root up. Those
//! that only root may read are read again at a reload: a secret, a key, a CA. Instead of a
//! capability that reads everything, the process keeps the contents of just these files, and
//! [`read()`] gives them out for as long as the file is the one that was read. Once it has
//! changed, the old content would be a lie: the read fails and says what to do.
//!
//! Nothing is kept unless [`keep`] is called, so everywhere else [`read()`] is `fs::read`.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Reads a file and keeps its content for a time when this process may not read it any more.
/// One that cannot be read is left to whoever needs it: they have better words for it.
pub(crate) fn keep(path: &Path) {
    let Ok(kept) = Kept::read(path) else {
        return;
    };
    let mut all = KEPT.write().unwrap_or_else(PoisonError::into_inner);
    all.insert(path.to_owned(), kept);
}

/// The content of a file; if it may not be read, what was kept of it.
///
/// # Errors
/// As `fs::read`. A kept file that has changed since: `PermissionDenied`, with what to do.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => kept(path, error),
        result => result,
    }
}

/// As [`read()`], for text.
///
/// # Errors
/// As [`read()`]; `InvalidData` when it is not UTF-8.
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

fn kept(path: &Path, refused: io::Error) -> io::Result<Vec<u8>> {
    let all = KEPT.read().unwrap_or_else(PoisonError::into_inner);
    let Some(kept) = all.get(path) else {
        return Err(refused);
    };
    match fs::metadata(path) {
        Ok(now) if Stamp::of(&now) != kept.stamp => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "it has changed since the start, and only root may read it: let this user read it, or restart",
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
        // The same file, or in a folder that this user may not look into.
        Ok(_) | Err(_) => Ok(kept.content.clone()),
    }
}

/// No `Debug`: the content may be a secret.
struct Kept {
    stamp: Stamp,
    content: Vec<u8>,
}

impl Kept {
    fn read(path: &Path) -> io::Result<Self> {
        // The stamp first: a change in between is then seen as one.
        let stamp = Stamp::of(&fs::metadata(path)?);
        let content = fs::read(path)?;
        Ok(Self { stamp, content })
    }
}

/// What changes when a file does.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

static KEPT: RwLock<BTreeMap<PathBuf, Kept>> = RwLock::new(BTreeMap::new());

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process that may not read the file is told by the system.
    fn refused() -> io::Error {
        io::Error::from(ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_kept_file_is_given_out_until_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, "one").expect("a file");
        assert!(kept(&path, refused()).is_err(), "never kept");
        keep(&path);
        assert_eq!(kept(&path, refused()).expect("kept"), b"one");

        fs::write(folder.path().join("new"), "two").expect("a file");
        fs::rename(folder.path().join("new"), &path).expect("replaced");
        let error = kept(&path, refused()).expect_err("another file");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("restart"), "{error}");

        fs::remove_file(&path).expect("removed");
        let error = kept(&path, refused()).expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_can_be_read_is_never_answered_from_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, "one").expect("a file");
        keep(&path);
        fs::write(&path, "two").expect("a file");
        assert_eq!(read(&path).expect("readable"), b"two");
        assert_eq!(read_to_string(&path).expect("text"), "two");
        let error = read(&folder.path().join("none")).expect_err("no such file");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
