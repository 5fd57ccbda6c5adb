//! The few things that the journal asks of a file system, so that a test can fail each of them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::OpenError;
use crate::clock;
use crate::disk::crash;

/// Who has a state folder.
const OWNER: &str = "owner.json";

/// One folder of a file system.
pub trait Disk: Send + Sync + 'static {
    /// The whole file; `None`: there is none.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Adds to the end of a file. Not durable before [`Disk::sync`].
    ///
    /// # Errors
    /// What the system says; a part may have been written.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// A file with these bytes and no others, mode 0600. Not durable before [`Disk::sync`].
    ///
    /// # Errors
    /// What the system says; the file may have any content.
    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// What the system says; nothing is known of the content then.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file the name of another, which is gone. Not durable before
    /// [`Disk::sync_folder`].
    ///
    /// # Errors
    /// What the system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&mut self) -> io::Result<()>;
}

/// A folder of the system, locked for this process as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Released by the system when the process ends, however it ends.
    _lock: Option<Flock<File>>,
    open: Option<(String, File)>,
    crash: crash::Point,
}

/// Who has a state folder, by what it wrote there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id, in its own namespace; 0: unknown.
    #[serde(default)]
    pub pid: u32,
    /// Host name: in Docker the container's id.
    #[serde(default)]
    pub host: String,
    /// When it began, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another process");
        }
        let Self {
            pid,
            host,
            since,
            version,
        } = self;
        write!(
            f,
            "another cutover {version}: process {pid} on {host}, since {since}"
        )
    }
}

impl Folder {
    /// Locks a folder for this process (flock(2) on the folder itself, which needs no file and
    /// works on a file system that cannot be written).
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Folder {
            folder: path.to_owned(),
            source,
        };
        let folder = File::open(path).map_err(failed)?;
        let lock = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(OpenError::Held {
                    folder: path.to_owned(),
                    holder: holder(path),
                });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // Only for the error message of another one.
        let _ = write_holder(path);
        Ok(Self {
            path: path.to_owned(),
            _lock: Some(lock),
            open: None,
            crash: crash::Point::of("CUTOVER_CRASH_AT"),
        })
    }

    /// For reading alone.
    pub(super) fn look(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _lock: None,
            open: None,
            crash: crash::Point::of("CUTOVER_CRASH_AT"),
        }
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        options
    }

    fn opened(&mut self, name: &str) -> io::Result<&mut File> {
        let is_it = self.open.as_ref().is_some_and(|(open, _)| open == name);
        if !is_it {
            let file = Self::options().append(true).open(self.path.join(name))?;
            self.open = Some((name.to_owned(), file));
        }
        let open = self.open.as_mut().map(|(_, file)| file);
        open.ok_or_else(|| io::Error::other("no file is open"))
    }
}

impl Disk for Folder {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.crash.here();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        self.opened(name)?.write_all(first)?;
        self.crash.here();
        self.opened(name)?.write_all(rest)?;
        self.crash.here();
        Ok(())
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.crash.here();
        let path = self.path.join(name);
        // A leftover of a crash may have any mode; a new file has ours.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = Self::options().append(true).open(path)?;
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        self.crash.here();
        file.write_all(rest)?;
        self.open = Some((name.to_owned(), file));
        self.crash.here();
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.crash.here();
        self.opened(name)?.sync_all()?;
        self.crash.here();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.crash.here();
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.open = None;
        self.crash.here();
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.crash.here();
        File::open(&self.path)?.sync_all()?;
        self.crash.here();
        Ok(())
    }
}

fn holder(folder: &Path) -> Holder {
    let text = fs::read_to_string(folder.join(OWNER)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn write_holder(folder: &Path) -> io::Result<()> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let holder = Holder {
        pid: std::process::id(),
        host: host.to_string_lossy().into_owned(),
        since: clock::rfc3339(clock::wall()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut file = Folder::options().truncate(true).open(folder.join(OWNER))?;
    file.write_all(serde_json::to_string(&holder)?.as_bytes())
}
