//! What is kept on disk, all of it 0600 in folders of 0700, replaced whole or not at all:
//!
//! ```text
//! state_dir/certificates/NAME/certificate.pem   private key and chain, one file: never half a pair
//! state_dir/acme/lock                           held by the process that orders
//! state_dir/acme/journal.json                   failures, waits, tokens spent
//! state_dir/acme/CA/account.json                key and URL of the account
//! state_dir/acme/CA/account-key.json            key of an account that is being made
//! state_dir/acme/CA/orders/NAME.json            an order that is not over: its URL and key
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::issuer::folder;
use super::names::NameSet;
use super::plan::Journal;
use crate::disk;

/// The folders of one `state_dir`.
#[derive(Clone, Debug)]
pub struct Shelf {
    state_dir: PathBuf,
}

/// One file at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64, u64, i64, i64);

/// Held while this process may order.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// An order that is not over.
#[derive(Serialize, Deserialize)]
pub(super) struct Pending {
    /// Its URL.
    pub(super) url: String,
    /// The private key that its request is signed with, PEM.
    pub(super) key: String,
}

/// The key of an account that the CA may know already, or not yet.
#[derive(Serialize, Deserialize)]
pub(super) struct AccountKey {
    /// PKCS#8, base64.
    pub(super) key: String,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

impl Shelf {
    /// The folders below `state_dir`; makes none.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// Takes the lock; `None`: another process has it.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn try_lock(&self) -> io::Result<Option<Lock>> {
        let folder = self.acme();
        disk::private_folder(&folder)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Where the certificate of `names` is, or will be.
    #[must_use]
    pub fn certificate_file(&self, names: &NameSet) -> PathBuf {
        self.certificates().join(names.folder()).join(CERTIFICATE)
    }

    /// Changes with the stored certificate of `names`; `None`: there is none. A file is only
    /// ever replaced, never written to.
    pub(super) fn mark(&self, names: &NameSet) -> Option<Mark> {
        let found = fs::metadata(self.certificate_file(names)).ok()?;
        Some(Mark(
            found.dev(),
            found.ino(),
            found.mtime(),
            found.mtime_nsec(),
        ))
    }

    /// The stored certificate and key of `names`, in one PEM.
    ///
    /// # Errors
    /// There but not readable.
    pub fn certificate(&self, names: &NameSet) -> io::Result<Option<Vec<u8>>> {
        there(fs::read(self.certificate_file(names)))
    }

    /// Stores key and chain of `names`, both PEM.
    ///
    /// # Errors
    /// Not written; what was there is there still.
    pub fn put_certificate(&self, names: &NameSet, key: &str, chain: &str) -> io::Result<()> {
        let both = format!("{}\n{chain}", key.trim_end());
        write(&self.certificate_file(names), both.as_bytes())
    }

    /// Whether a file can be written and read back, by doing it.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(&self) -> io::Result<()> {
        // Orders that run at a time must not take each other's away.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("probe-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        for folder in [self.acme(), self.certificates()] {
            let path = folder.join(&name);
            write(&path, b"written to see whether it can be\n")?;
            fs::read(&path)?;
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// What was planned before; empty when there is nothing, or nothing that can be read:
    /// then failures are forgotten, not certificates.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.read(&self.acme().join(JOURNAL)).unwrap_or_default()
    }

    /// # Errors
    /// Not written.
    pub(super) fn put_journal(&self, journal: &Journal) -> io::Result<()> {
        write_json(&self.acme().join(JOURNAL), journal)
    }

    pub(super) fn account<T: DeserializeOwned>(&self, directory: &str) -> Option<T> {
        self.read(&self.account_file(directory))
    }

    pub(super) fn put_account(&self, directory: &str, account: &impl Serialize) -> io::Result<()> {
        write_json(&self.account_file(directory), account)
    }

    pub(super) fn account_key(&self, directory: &str) -> Option<AccountKey> {
        self.read(&self.account_key_file(directory))
    }

    pub(super) fn put_account_key(&self, directory: &str, key: &AccountKey) -> io::Result<()> {
        write_json(&self.account_key_file(directory), key)
    }

    /// It is kept with its account from now on.
    pub(super) fn remove_account_key(&self, directory: &str) -> io::Result<()> {
        there(fs::remove_file(self.account_key_file(directory))).map(|_| ())
    }

    /// The CA does not know the account any more. Its key is kept beside, not lost.
    pub(super) fn retire_account(&self, directory: &str) -> io::Result<()> {
        let file = self.account_file(directory);
        there(fs::rename(&file, file.with_extension("json.old"))).map(|_| ())
    }

    pub(super) fn pending(&self, directory: &str, names: &NameSet) -> Option<Pending> {
        self.read(&self.order_file(directory, names))
    }

    pub(super) fn put_pending(
        &self,
        directory: &str,
        names: &NameSet,
        pending: &Pending,
    ) -> io::Result<()> {
        write_json(&self.order_file(directory, names), pending)
    }

    pub(super) fn remove_pending(&self, directory: &str, names: &NameSet) -> io::Result<()> {
        there(fs::remove_file(self.order_file(directory, names))).map(|_| ())
    }

    /// Whether the stored certificate of `names` is what the order delivered: it has its key.
    pub(super) fn holds(&self, names: &NameSet, pending: &Pending) -> bool {
        let stored = self.certificate(names).ok().flatten();
        stored.is_some_and(|stored| stored.starts_with(pending.key.trim_end().as_bytes()))
    }

    fn acme(&self) -> PathBuf {
        self.state_dir.join("acme")
    }

    fn certificates(&self) -> PathBuf {
        self.state_dir.join("certificates")
    }

    fn account_file(&self, directory: &str) -> PathBuf {
        self.acme().join(folder(directory)).join("account.json")
    }

    fn account_key_file(&self, directory: &str) -> PathBuf {
        let account = self.account_file(directory);
        account.with_file_name("account-key.json")
    }

    fn order_file(&self, directory: &str, names: &NameSet) -> PathBuf {
        let name = format!("{}.json", names.folder());
        self.acme()
            .join(folder(directory))
            .join("orders")
            .join(name)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        let bytes = match there(fs::read(path)) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "file cannot be read");
                return None;
            }
        };
        match serde_json::from_slice::<Versioned<T>>(&bytes) {
            Ok(file) if file.version == VERSION => Some(file.content),
            Ok(file) => {
                let version = file.version;
                tracing::error!(path = %path.display(), version, "file of another version");
                None
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "file is damaged");
                None
            }
        }
    }
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk::private_folder(path.parent().unwrap_or(Path::new(".")))?;
    disk::replace(path, bytes)
}

fn write_json(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let version = VERSION;
    let mut bytes = serde_json::to_vec_pretty(&Versioned { version, content })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

const VERSION: u32 = 1;
const CERTIFICATE: &str = "certificate.pem";
const JOURNAL: &str = "journal.json";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names() -> NameSet {
        NameSet::new(["a.example"]).expect("a name")
    }

    #[test]
    fn what_is_written_is_private_and_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(&folder.path().join("state"));
        shelf.probe().expect("writable");
        assert!(shelf.certificate(&names()).expect("readable").is_none());
        shelf
            .put_certificate(&names(), "key\n", "chain\n")
            .expect("written");
        let read = shelf.certificate(&names()).expect("readable");
        assert_eq!(read.as_deref(), Some(&b"key\nchain\n"[..]));
        let file = shelf.certificate_file(&names());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().expect("a folder")), 0o700);
        let pending = Pending {
            url: "https://ca.example/order/1".to_owned(),
            key: "key".to_owned(),
        };
        shelf
            .put_pending("https://ca.example/dir", &names(), &pending)
            .expect("written");
        let read = shelf
            .pending("https://ca.example/dir", &names())
            .expect("there");
        assert_eq!(read.url, pending.url);
        assert!(
            shelf
                .pending("https://other.example/dir", &names())
                .is_none()
        );
        assert!(shelf.holds(&names(), &read), "its key is stored");
        let other = Pending {
            url: pending.url.clone(),
            key: "other".to_owned(),
        };
        assert!(!shelf.holds(&names(), &other));
        shelf
            .remove_pending("https://ca.example/dir", &names())
            .expect("removed");
        shelf
            .remove_pending("https://ca.example/dir", &names())
            .expect("no error twice");
        assert!(shelf.pending("https://ca.example/dir", &names()).is_none());
    }

    #[test]
    fn probes_at_the_same_time_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(folder.path());
        std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| (0..50).try_for_each(|_| shelf.probe())));
            for thread in threads {
                thread.join().expect("no panic").expect("writable");
            }
        });
        let left = fs::read_dir(folder.path().join("acme")).expect("there");
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn the_lock_is_held_by_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(folder.path());
        let held = shelf.try_lock().expect("lockable").expect("free");
        assert!(shelf.try_lock().expect("lockable").is_none());
        drop(held);
        assert!(shelf.try_lock().expect("lockable").is_some());
    }

    #[test]
    fn a_damaged_journal_forgets_failures_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(folder.path());
        shelf.put_journal(&Journal::default()).expect("written");
        fs::write(folder.path().join("acme/journal.json"), "{").expect("written");
        assert_eq!(shelf.journal(), Journal::default());
    }
}
