//! The file that remembers which color is live.
//!
//! Always the whole book, written to a temporary file, synced, renamed over the old one, and the
//! folder synced: after a crash there is the old book or the new one, never a part of either
//! (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::record::Book;

/// Where the book is made durable. Blocking: the switchboard calls it on a thread of its own.
pub trait Save: Send + Sync + 'static {
    /// Makes `book` what the next start finds.
    ///
    /// # Errors
    /// Whatever kept it from being durable; the former book may or may not still be there.
    fn save(&self, book: &Book) -> Result<(), SaveError>;
}

/// The book in a folder, as `switch.json`, mode 0600.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    path: PathBuf,
}

impl Store {
    /// The store in `state_dir`; nothing is touched yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.to_owned(),
            path: state_dir.join("switch.json"),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved last; `None`: nothing ever was.
    ///
    /// # Errors
    /// A file that is there but cannot be used. It is left as it is.
    pub fn load(&self) -> Result<Option<Book>, LoadError> {
        let path = || self.path.clone();
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(LoadError::Unreadable {
                    path: path(),
                    source,
                });
            }
        };
        let corrupt = |source| LoadError::Corrupt {
            path: path(),
            source,
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if version != Book::VERSION {
            return Err(LoadError::Version {
                path: path(),
                version,
            });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let temporary = self.path.with_extension("json.tmp");
        // A leftover of a crash may have any mode; a new file has ours.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Save for Store {
    fn save(&self, book: &Book) -> Result<(), SaveError> {
        let failed = |source| SaveError {
            path: self.path.clone(),
            source,
        };
        let mut bytes = serde_json::to_vec_pretty(book)
            .map_err(io::Error::from)
            .map_err(failed)?;
        bytes.push(b'\n');
        self.write(&bytes).map_err(failed)
    }
}

/// The part of a book that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why a saved book cannot be used. The caller decides what to serve without it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a book.
    #[error("{} is damaged: move it away to start from the configuration's `live`", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where it stops being one.
        source: serde_json::Error,
    },
    /// A newer daemon wrote it.
    #[error("{} has version {version}, this daemon knows {}", path.display(), Book::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// A book that could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {source}", path.display())]
pub struct SaveError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::model::{Color, Generation};
    use crate::switch::record::{Cutover, Intent, Live, Move, ServiceRecord, StackRecord};

    fn book() -> Book {
        let live = |color, generation| Live {
            color,
            generation: Generation(generation),
        };
        let moves = vec![Move {
            service: "web".into(),
            from: live(Color::Blue, 1),
            to: live(Color::Green, 2),
        }];
        let mut book = Book {
            generation: Generation(2),
            ..Book::default()
        };
        book.services.insert(
            "web".into(),
            ServiceRecord {
                live: live(Color::Green, 2),
                releases: [(Color::Green, "v2".into())].into(),
            },
        );
        book.stacks.insert(
            "default".into(),
            StackRecord {
                last: Some(Cutover {
                    moves: moves.clone(),
                    actor: "ci".to_owned(),
                    kept: true,
                }),
                pending: Some(Intent::RollBack { moves }),
            },
        );
        book
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::new(&folder.path().join("state"));
        (folder, store)
    }

    #[test]
    fn what_is_saved_is_loaded_and_only_the_owner_may_read_it() {
        let (_folder, store) = store();
        assert_eq!(store.load().unwrap(), None);
        store.save(&Book::default()).unwrap();
        store.save(&book()).unwrap();
        assert_eq!(store.load().unwrap(), Some(book()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.path()), 0o600);
        assert_eq!(mode(store.path().parent().unwrap()), 0o700);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_book() {
        let (_folder, store) = store();
        store.save(&book()).unwrap();
        fs::write(
            store.path().with_extension("json.tmp"),
            "{\"version\": 1, \"gen",
        )
        .unwrap();
        assert_eq!(store.load().unwrap(), Some(book()));
        store.save(&Book::default()).unwrap();
        assert_eq!(store.load().unwrap(), Some(Book::default()));
    }

    #[test]
    fn a_torn_file_is_an_error_at_every_length_and_is_left_alone() {
        let (_folder, store) = store();
        store.save(&book()).unwrap();
        let whole = fs::read(store.path()).unwrap();
        for length in 0..whole.len() - 2 {
            fs::write(store.path(), &whole[..length]).unwrap();
            let loaded = store.load();
            assert!(matches!(loaded, Err(LoadError::Corrupt { .. })), "{length}");
            assert_eq!(fs::read(store.path()).unwrap(), whole[..length]);
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let (_folder, store) = store();
        store.save(&Book::default()).unwrap();
        fs::write(store.path(), r#"{"version": 7, "other": true}"#).unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(
            error.ends_with("has version 7, this daemon knows 1"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::new(&file).save(&Book::default()).unwrap_err();
        assert_eq!(error.path, file.join("switch.json"));
    }
}
