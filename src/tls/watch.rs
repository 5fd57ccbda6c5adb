//! Notices that files changed, by looking: no notification reaches through the symbolic links
//! of a Kubernetes volume, a bind mount or a network file system, and a look is one `stat`.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;

use super::error::{Fault, TlsError};
use crate::kept;

/// A file that changed less than this before it was read may change again without a trace in
/// its times, so it is read once more.
const SETTLED: Duration = Duration::from_secs(2);
/// Looks that must find the same trouble before it is told: a certificate and its key are
/// written one after the other, and in between they do not match.
const LOOKS_BEFORE_ALARM: u32 = 2;

/// Files that are used together.
#[derive(Debug)]
pub(super) struct Watched {
    files: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
    /// Whether the last look was long enough after the last change.
    settled: bool,
    /// Of the content in use.
    good: Option<[u8; 32]>,
    trouble: Option<Trouble>,
}

/// What is wrong with files whose last good content is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) file: PathBuf,
    pub(super) error: String,
    looks: u32,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look<T> {
    /// Nothing that needs a word.
    Same,
    /// Good new content.
    New(T),
    /// New content that cannot be used; told once.
    Rejected(Trouble),
    /// The content in use is back after it was told to be broken.
    Mended,
}

/// What changes when a file does. The inode, because a rename or a swapped link brings another
/// file; the change time, because nobody can set it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        fs::metadata(file)
            .ok()
            .map(|metadata| Self::from(&metadata))
    }

    /// Whether a later change is sure to have another stamp.
    fn is_settled(&self, now: SystemTime) -> bool {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        changed + SETTLED < since
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Watched {
    /// Watches files and reads them for the first time.
    pub(super) fn start<T>(
        files: Vec<PathBuf>,
        now: SystemTime,
        parse: impl FnOnce(&[Vec<u8>]) -> Result<T, TlsError>,
    ) -> Result<(Self, T), TlsError> {
        let mut watched = Self {
            stamps: Vec::new(),
            settled: false,
            good: None,
            trouble: None,
            files,
        };
        watched.stamp(now);
        let contents = watched.read()?;
        let parsed = parse(&contents)?;
        watched.good = Some(digest_of(&contents));
        Ok((watched, parsed))
    }

    /// Looks once. `parse` is only asked when there is new content.
    pub(super) fn look<T>(
        &mut self,
        now: SystemTime,
        parse: impl FnOnce(&[Vec<u8>]) -> Result<T, TlsError>,
    ) -> Look<T> {
        if !self.stamp(now) {
            return match self.trouble.take() {
                Some(trouble) => self.suffer(trouble.file, trouble.error, trouble.looks),
                None => Look::Same,
            };
        }
        let found = self.read().and_then(|contents| {
            let digest = digest_of(&contents);
            if self.good == Some(digest) {
                return Ok(None);
            }
            parse(&contents).map(|parsed| Some((digest, parsed)))
        });
        match found {
            Ok(None) => match self.trouble.take() {
                Some(trouble) if trouble.looks >= LOOKS_BEFORE_ALARM => Look::Mended,
                _ => Look::Same,
            },
            Ok(Some((digest, parsed))) => {
                self.trouble = None;
                self.good = Some(digest);
                Look::New(parsed)
            }
            Err(error) => {
                let text = error.fault.to_string();
                let looks = match self.trouble.take() {
                    Some(before) if before.file == error.file && before.error == text => {
                        before.looks
                    }
                    _ => 0,
                };
                self.suffer(error.file, text, looks)
            }
        }
    }

    /// What is wrong now, if it was told.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble
            .as_ref()
            .filter(|trouble| trouble.looks >= LOOKS_BEFORE_ALARM)
    }

    fn suffer<T>(&mut self, file: PathBuf, error: String, looks: u32) -> Look<T> {
        let trouble = Trouble {
            file,
            error,
            looks: looks.saturating_add(1),
        };
        self.trouble = Some(trouble.clone());
        if trouble.looks == LOOKS_BEFORE_ALARM {
            Look::Rejected(trouble)
        } else {
            Look::Same
        }
    }

    /// Takes the stamps before anything is read; returns whether the files must be read: they
    /// changed, or were read so soon after a change that another one may have left no trace.
    fn stamp(&mut self, now: SystemTime) -> bool {
        let stamps: Vec<_> = self.files.iter().map(|file| Stamp::of(file)).collect();
        let read = stamps != self.stamps || !self.settled;
        self.settled = stamps.iter().flatten().all(|stamp| stamp.is_settled(now));
        self.stamps = stamps;
        read
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        self.files
            .iter()
            .map(|file| {
                kept::read(file).map_err(|error| TlsError::new(file, Fault::Unreadable(error)))
            })
            .collect()
    }
}

fn digest_of(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut digests = digest::Context::new(&digest::SHA256);
    for content in contents {
        digests.update(digest::digest(&digest::SHA256, content).as_ref());
    }
    let digest = digests.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
