//! Where the book of deploys is kept: one file that is replaced whole.
//!
//! It changes a few dozen times in a deploy and is small, so a log would save nothing. The next
//! start finds either what was written last or what was there before it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::Book;
use crate::disk;

/// The file in the state folder.
const FILE: &str = "deploy.json";

/// The book's file. Blocking: to be called where that is allowed.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "{} is damaged; move it away to begin anew: what is kept for a rollback is then forgotten, \
         and `proxyctl cleanup` finds what is left",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
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

#[derive(Serialize, Deserialize)]
struct Sealed {
    version: u32,
    crc32: String,
    book: serde_json::Value,
}

impl Store {
    /// The one of a state folder.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
        }
    }

    /// What was written last; an empty book if nothing ever was.
    ///
    /// # Errors
    /// It cannot be read or is not what was written.
    pub fn read(&self) -> Result<Book, StoreError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
            Err(source) => return Err(self.io(source)),
        };
        let path = || self.path.clone();
        let damaged = |_| StoreError::Damaged { path: path() };
        let sealed: Sealed = serde_json::from_slice(&bytes).map_err(damaged)?;
        if sealed.version > Book::VERSION {
            return Err(StoreError::Version {
                path: path(),
                version: sealed.version,
            });
        }
        if sealed.crc32 != sum(&sealed.book) {
            return Err(StoreError::Damaged { path: path() });
        }
        serde_json::from_value(sealed.book).map_err(damaged)
    }

    /// Makes `book` what the next start finds.
    ///
    /// # Errors
    /// It is not on disk; the next start finds this one or the former.
    pub fn save(&self, book: &Book) -> Result<(), StoreError> {
        let io = |error: serde_json::Error| self.io(error.into());
        let book = serde_json::to_value(book).map_err(io)?;
        let sealed = Sealed {
            version: Book::VERSION,
            crc32: sum(&book),
            book,
        };
        let text = serde_json::to_vec(&sealed).map_err(io)?;
        disk::replace(&self.path, &text).map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// CRC-32 of the text that a value always has: keys are in order.
fn sum(book: &serde_json::Value) -> String {
    format!("{:08x}", crc32fast::hash(book.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::machine_world_run;

    #[test]
    fn what_was_written_is_found_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::of(folder.path());
        assert_eq!(store.read().expect("readable"), Book::default());
        let book = Book {
            last: 7,
            running: Some(machine_world_run()),
            ..Book::default()
        };
        store.save(&book).expect("written");
        assert_eq!(store.read().expect("readable"), book);

        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, text.replace("\"last\":7", "\"last\":8")).expect("written");
        assert!(matches!(store.read(), Err(StoreError::Damaged { .. })));
        std::fs::write(&path, &text[..text.len() / 2]).expect("written");
        assert!(matches!(store.read(), Err(StoreError::Damaged { .. })));
        std::fs::write(&path, text.replacen("\"version\":1", "\"version\":9", 1)).expect("written");
        assert!(matches!(
            store.read(),
            Err(StoreError::Version { version: 9, .. })
        ));
    }
}
