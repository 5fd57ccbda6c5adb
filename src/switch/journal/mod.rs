//! What survives a power cut: a write-ahead log and a snapshot beside it.
//!
//! Every record of the log is the whole [`Book`], which is small: the newest record that is whole
//! is the state, and nothing has to be replayed. A record is acknowledged once it is synced.
//! When the log has grown, a new one that begins with the current book is written beside it,
//! synced and renamed over it, and the snapshot follows the same way, so that at any moment the
//! log alone is complete and the snapshot is a second copy (Pillai et al., "All File Systems Are
//! Not Created Equal", OSDI 2014, for what a rename promises). After an error nothing more is
//! appended to the same file: what a failed fsync left in it is unknown (Rebello et al., "Can
//! Applications Recover from fsync Failures?", ATC 2020).
//!
//! On start a torn last record is what a crash leaves behind and is dropped in silence. Any
//! other damage is used around: the newest good record is served, and the switchboard is locked
//! until a person has looked ([`repair`]).

mod disk;
mod record;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use disk::{Disk, Folder, Holder};

use super::record::Book;
use record::{Log, Snapshot};

/// The log.
const LOG: &str = "journal.wal";

/// The second copy.
const SNAPSHOT: &str = "switch.json";

/// What is renamed over the two.
const LOG_NEXT: &str = "journal.wal.next";
const SNAPSHOT_NEXT: &str = "switch.json.next";

/// The log is begun anew when it is longer.
const LOG_LIMIT: usize = 256 * 1024;

/// Where the book is made durable. Blocking: the switchboard calls it on a thread of its own.
pub trait Save: Send + Sync + 'static {
    /// Makes `book` what the next start finds.
    ///
    /// # Errors
    /// Whatever kept it from being durable; the next start finds this book or the former one.
    fn save(&self, book: &Book) -> Result<(), SaveError>;
}

/// The journal of one state folder.
#[derive(Debug)]
pub struct Journal<D = Folder> {
    folder: PathBuf,
    inner: Mutex<Inner<D>>,
}

#[derive(Debug)]
struct Inner<D> {
    disk: D,
    sequence: u64,
    length: usize,
    /// Nothing may be appended to the log: an error left it in an unknown state.
    suspect: bool,
}

/// What was found on start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The newest good state; `None`: nothing was ever recorded.
    pub book: Option<Book>,
    /// What is damaged. Switches stay locked until it is repaired.
    pub damage: Option<String>,
    /// Why nothing can be recorded now.
    pub unwritable: Option<String>,
}

/// Why the state folder cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("{} is in use by {holder}", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// As far as it is known.
        holder: Holder,
    },
    /// The system says no.
    #[error("{} cannot be used", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A newer daemon wrote it.
    #[error("{file} in {} has version {version}, this daemon knows {}", folder.display(), Book::VERSION)]
    Version {
        /// The folder.
        folder: PathBuf,
        /// The file in it.
        file: &'static str,
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

impl Journal<Folder> {
    /// Takes `state_dir` for this process and reads what is in it. The folder must be there; one
    /// that cannot be written is said in [`Found`] and tried again at every save.
    ///
    /// # Errors
    /// Another process has it, it cannot be read, or a newer daemon wrote it.
    pub fn open(state_dir: &Path) -> Result<(Self, Found), OpenError> {
        let disk = Folder::take(state_dir)?;
        Self::on(disk, state_dir)
    }
}

impl<D: Disk> Journal<D> {
    /// Reads what is on `disk`, shown as `folder` in errors.
    ///
    /// # Errors
    /// It cannot be read, or a newer daemon wrote it.
    pub fn on(disk: D, folder: &Path) -> Result<(Self, Found), OpenError> {
        let mut read = read(&disk, folder)?;
        let mut inner = Inner {
            disk,
            sequence: read.sequence,
            length: 0,
            suspect: true,
        };
        // The damaged files are left for `repair` to keep.
        if read.found.damage.is_none() {
            let book = read.found.book.clone().unwrap_or_default();
            if let Err((file, error)) = inner.begin_anew(&book) {
                read.found.unwritable = Some(format!("{}: {error}", folder.join(file).display()));
            }
        }
        let journal = Self {
            folder: folder.to_owned(),
            inner: Mutex::new(inner),
        };
        Ok((journal, read.found))
    }

    /// Keeps what is damaged under another name and begins a new log with `book`. Says what was
    /// done, one line each.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn repair(&self, book: &Book) -> Result<Vec<String>, SaveError> {
        let mut inner = self.lock();
        let done = inner.keep_damaged();
        done.and_then(|done| inner.begin_anew(book).map(|()| done))
            .map_err(|(file, source)| self.failed(file, source))
    }

    fn failed(&self, file: &str, source: io::Error) -> SaveError {
        SaveError {
            path: self.folder.join(file),
            source,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<D>> {
        // A panic in the middle leaves `suspect` as it was before the write that it was in.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> Save for Journal<D> {
    fn save(&self, book: &Book) -> Result<(), SaveError> {
        let mut inner = self.lock();
        let saved = if inner.suspect || inner.length > LOG_LIMIT {
            inner.begin_anew(book)
        } else {
            inner.append(book)
        };
        saved.map_err(|(file, source)| self.failed(file, source))
    }
}

type Failed = (&'static str, io::Error);

impl<D: Disk> Inner<D> {
    fn append(&mut self, book: &Book) -> Result<(), Failed> {
        let line = Log::line(self.sequence + 1, book).map_err(|error| (LOG, error))?;
        self.suspect = true;
        self.disk
            .append(LOG, line.as_bytes())
            .and_then(|()| self.disk.sync(LOG))
            .map_err(|error| (LOG, error))?;
        self.suspect = false;
        self.sequence += 1;
        self.length += line.len();
        Ok(())
    }

    /// A new log that begins with `book`, then the snapshot.
    fn begin_anew(&mut self, book: &Book) -> Result<(), Failed> {
        let next = self.sequence + 1;
        let line = Log::line(next, book).map_err(|error| (LOG, error))?;
        let snapshot = Snapshot::text(next, book).map_err(|error| (SNAPSHOT, error))?;
        self.suspect = true;
        // A write that may have reached the disk uses up its number.
        self.sequence = next;
        let log = self.replace(LOG_NEXT, LOG, line.as_bytes());
        log.map_err(|error| (LOG, error))?;
        let copy = self.replace(SNAPSHOT_NEXT, SNAPSHOT, snapshot.as_bytes());
        copy.map_err(|error| (SNAPSHOT, error))?;
        self.suspect = false;
        self.length = line.len();
        Ok(())
    }

    fn replace(&mut self, next: &'static str, name: &'static str, bytes: &[u8]) -> io::Result<()> {
        self.disk.create(next, bytes)?;
        self.disk.sync(next)?;
        self.disk.rename(next, name)?;
        self.disk.sync_folder()
    }

    fn keep_damaged(&mut self) -> Result<Vec<String>, Failed> {
        let mut done = Vec::new();
        for (file, damaged) in [
            (LOG, "journal.wal.damaged"),
            (SNAPSHOT, "switch.json.damaged"),
        ] {
            let bytes = self.disk.read(file).map_err(|error| (file, error))?;
            let Some(bytes) = bytes else {
                continue;
            };
            self.disk
                .create(damaged, &bytes)
                .and_then(|()| self.disk.sync(damaged))
                .map_err(|error| (file, error))?;
            done.push(format!("kept {file} as {damaged}"));
        }
        done.push(format!("wrote a new {LOG} and {SNAPSHOT}"));
        Ok(done)
    }
}

/// Repairs the journal of a stopped daemon: the newest good state becomes the only one, and what
/// is damaged is kept beside it. Says what was done, one line each; nothing when it is sound.
///
/// # Errors
/// A daemon runs on it, or the folder cannot be used.
pub fn repair(state_dir: &Path) -> Result<Vec<String>, RepairError> {
    let (journal, found) = Journal::open(state_dir)?;
    let Some(damage) = found.damage else {
        return Ok(Vec::new());
    };
    let mut done = vec![damage];
    done.extend(journal.repair(&found.book.unwrap_or_default())?);
    Ok(done)
}

/// What is wrong with the journal, without taking the folder: for a look beside a running daemon.
///
/// # Errors
/// It cannot be read, or a newer daemon wrote it.
pub fn inspect(state_dir: &Path) -> Result<Option<String>, OpenError> {
    let disk = Folder::look(state_dir);
    read(&disk, state_dir).map(|read| read.found.damage)
}

/// Why a repair was not possible.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The folder cannot be taken.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
}

struct Read {
    found: Found,
    sequence: u64,
}

fn read<D: Disk>(disk: &D, folder: &Path) -> Result<Read, OpenError> {
    let file = |name: &'static str| {
        disk.read(name).map_err(|source| OpenError::Folder {
            folder: folder.join(name),
            source,
        })
    };
    let snapshot = file(SNAPSHOT)?.map(|bytes| Snapshot::parse(&bytes));
    let log = file(LOG)?.map(|bytes| Log::parse(&bytes));
    // The log is complete by itself: the second copy matters where there is none.
    let alone = snapshot.as_ref().filter(|_| log.is_none());
    let versions = [
        (SNAPSHOT, alone.and_then(Snapshot::version)),
        (LOG, log.as_ref().and_then(|log| log.version)),
    ];
    for (file, version) in versions {
        if let Some(version) = version.filter(|version| *version > Book::VERSION) {
            let folder = folder.to_owned();
            return Err(OpenError::Version {
                folder,
                file,
                version,
            });
        }
    }
    let told = |name: &str, what: &str| Some(format!("{}: {what}", folder.join(name).display()));
    let (copy, without_log) = match &snapshot {
        None => (None, false),
        Some(Snapshot::Good { sequence, book }) => (Some((*sequence, book)), false),
        // From before there was a log.
        Some(Snapshot::Alone { book }) => (Some((0, book)), true),
        Some(Snapshot::Damaged { .. } | Snapshot::Newer { .. }) => (None, false),
    };
    let damage = match (&snapshot, &log) {
        (_, Some(log)) if log.damage.is_some() => {
            log.damage.as_deref().and_then(|what| told(LOG, what))
        }
        (_, Some(log)) if log.newest.is_none() => told(LOG, "it has no record"),
        // The log alone is complete, whatever became of the second copy.
        (_, Some(_)) => None,
        (Some(Snapshot::Damaged { what }), None) => told(SNAPSHOT, what),
        (Some(_), None) if !without_log => told(LOG, "it is gone"),
        (Some(_) | None, None) => None,
    };
    let newest = log.and_then(|log| log.newest);
    let sequence = [
        newest.as_ref().map(|(sequence, _)| *sequence),
        copy.map(|(sequence, _)| sequence),
    ];
    let sequence = sequence.into_iter().flatten().max().unwrap_or_default();
    let book = match (newest, copy) {
        (Some((number, book)), Some((other, _))) if number >= other => Some(book),
        (_, Some((_, book))) => Some(book.clone()),
        (Some((_, book)), None) => Some(book),
        (None, None) => None,
    };
    Ok(Read {
        found: Found {
            book,
            damage,
            unwritable: None,
        },
        sequence,
    })
}
