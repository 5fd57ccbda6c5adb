//! Makes the admin socket: private from its first moment, and only one per path.
//!
//! The socket is bound under a temporary name, made 0600, and renamed to its path, so there is
//! no moment at which others could connect. Before that a connect tells a daemon that is
//! running from a file that a dead one left behind. A lock file keeps two daemons that start at
//! the same moment from replacing each other; it stays, empty, when they are gone.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A bound admin socket. Dropping it removes the file, if it is still the one it made.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl AdminSocket {
    /// Binds `path`: its folder is created 0700 if it is missing, the socket is 0600. An
    /// existing folder is left as it is, because it may hold other things.
    ///
    /// # Errors
    /// Another daemon answers there, something else than a socket is there, others may write
    /// to the folder, or the system refuses. Needs a Tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let at = |source| BindError::Io(path.to_owned(), source);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        make_private(folder).map_err(at)?;
        let meta = fs::metadata(folder).map_err(at)?;
        // With the sticky bit others can add files but not replace ours (as in /tmp).
        if meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(BindError::Shared(folder.to_owned()));
        }
        let lock = lock_file(&beside(path, ".lock")).map_err(at)?;
        lock.lock().map_err(at)?;
        check_free(path)?;

        let fresh = beside(path, ".new");
        check_free(&fresh)?;
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(at)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(at)?;
        fs::rename(&fresh, path).map_err(at)?;
        let identity = identity(path).map_err(at)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Left behind, it is recognised as stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another cutover is running: it answers on {}", .0.display())]
    Running(PathBuf),
    /// A file or folder is in the way.
    #[error("{} exists and is not a socket; move it away or set listen.admin", .0.display())]
    Occupied(PathBuf),
    /// Whoever can write to the folder could put a socket of their own there.
    #[error(
        "others can write to {}: make it private (chmod 0700) or set listen.admin", .0.display()
    )]
    Shared(PathBuf),
    /// The system refused.
    #[error("cannot make the admin socket {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

impl BindError {
    /// Whether there is no place for a socket there: a read-only file system, or a folder that
    /// this user may not make or write to.
    #[must_use]
    pub fn is_no_place(&self) -> bool {
        let Self::Io(_, source) = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        )
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        result => result,
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Only this user can open it, so nobody else can hold the lock.
fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
}

fn check_free(path: &Path) -> Result<(), BindError> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::Io(path.to_owned(), error)),
    };
    if !meta.file_type().is_socket() {
        return Err(BindError::Occupied(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Running(path.to_owned())),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // A full backlog, say: somebody is there.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::Running(path.to_owned()))
        }
        Err(error) => Err(BindError::Io(path.to_owned(), error)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_folder_is_0700_and_the_socket_0600() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/run/admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(socket.path(), path);
        drop(socket);
        assert!(!path.exists(), "a clean stop leaves no file");
    }

    #[tokio::test]
    async fn a_running_daemon_is_not_replaced_and_a_dead_one_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = AdminSocket::bind(&path).expect("a stale socket is replaced");
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(
            error.to_string().starts_with("another cutover is running"),
            "{error}"
        );
        UnixStream::connect(&path).expect("the first still answers");
        drop(first);
        AdminSocket::bind(&path).expect("after it stopped");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::Occupied(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_folder_that_others_can_write_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("shared");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let error = AdminSocket::bind(&folder.join("admin.sock")).unwrap_err();
        assert!(matches!(error, BindError::Shared(_)), "{error}");
    }

    #[tokio::test]
    async fn a_successor_keeps_its_socket_when_the_old_one_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        let first = AdminSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = AdminSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }
}
