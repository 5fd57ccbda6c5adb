//! Where the admin socket is, for the daemon that makes it and the client that looks for it.
//!
//! The client asks, in this order: what it was told (`--addr`, `PROXYCTL_ADDR`), then
//! `/run/cutover/admin.sock`, and only if that file does not exist the one that a daemon without a
//! writable `/run` makes in its usual state folder, and last the socket of a demo that
//! the same user runs. A demo's folder may lie under the shared temp dir, so its owner and mode
//! are checked before anything is sent: whoever makes the folder first must not be able to
//! play the daemon.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The places of one user on one machine. Fields are the inputs, so tests have their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Default socket of an installed daemon.
    pub installed: PathBuf,
    /// Socket of an installed daemon that could not make that one.
    pub in_state: PathBuf,
    /// `$XDG_RUNTIME_DIR`, if it is set to an absolute path.
    pub runtime_dir: Option<PathBuf>,
    /// Folder for temporary files.
    pub temp_dir: PathBuf,
    /// Effective user id.
    pub uid: u32,
}

impl Places {
    /// The places of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            installed: PathBuf::from(INSTALLED),
            in_state: in_state_dir(Path::new(STATE_DIR)),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute()),
            temp_dir: std::env::temp_dir(),
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    /// Where a demo makes its socket: in `$XDG_RUNTIME_DIR/cutover/`, if that variable names a
    /// folder, else in `cutover-<uid>/` under the temp dir.
    #[must_use]
    pub fn demo(&self) -> PathBuf {
        match &self.runtime_dir {
            Some(dir) if dir.is_dir() => runtime_socket(dir),
            _ => self.temp_socket(),
        }
    }

    /// The socket to ask. `explicit` is the user's own word and wins if it is not empty.
    ///
    /// # Errors
    /// The text is not a path, or a demo socket is there but belongs to somebody else.
    pub fn locate(&self, explicit: Option<&str>) -> Result<PathBuf, LocateError> {
        if let Some(text) = explicit.filter(|text| !text.is_empty()) {
            return parse(text);
        }
        // A folder that this user may not look into counts as a daemon that is there: the
        // error then says so, instead of asking a demo by surprise.
        let missing = matches!(
            self.installed.symlink_metadata(),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        );
        if missing {
            if self.in_state.symlink_metadata().is_ok() {
                return Ok(self.in_state.clone());
            }
            let runtime = self.runtime_dir.as_deref().map(runtime_socket);
            for socket in runtime.into_iter().chain([self.temp_socket()]) {
                if socket.symlink_metadata().is_ok() {
                    self.check_owner(&socket)?;
                    return Ok(socket);
                }
            }
        }
        Ok(self.installed.clone())
    }

    fn temp_socket(&self) -> PathBuf {
        self.temp_dir
            .join(format!("cutover-{}", self.uid))
            .join(FILE)
    }

    fn check_owner(&self, socket: &Path) -> Result<(), LocateError> {
        let folder = socket.parent().unwrap_or(socket);
        let own = |path: &Path, fits: fn(&Metadata) -> bool| {
            path.symlink_metadata()
                .is_ok_and(|meta| meta.uid() == self.uid && fits(&meta))
        };
        let private = |meta: &Metadata| meta.is_dir() && meta.mode() & 0o022 == 0;
        if own(folder, private) && own(socket, |meta| meta.file_type().is_socket()) {
            Ok(())
        } else {
            Err(LocateError::Foreign(socket.to_owned()))
        }
    }
}

/// The socket of an installed daemon when nothing else is configured.
#[must_use]
pub fn default_path() -> PathBuf {
    PathBuf::from(INSTALLED)
}

/// The socket of a daemon that finds no place for [`default_path`].
#[must_use]
pub fn in_state_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("run").join(FILE)
}

/// The socket of a demo that this user runs. See [`Places::demo`].
#[must_use]
pub fn demo_path() -> PathBuf {
    Places::of_process().demo()
}

/// The socket that a client of this user asks. See [`Places::locate`].
///
/// # Errors
/// As [`Places::locate`].
pub fn locate(explicit: Option<&str>) -> Result<PathBuf, LocateError> {
    Places::of_process().locate(explicit)
}

/// Why there is no path to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// Another kind of address.
    #[error("`{0}` is not a unix socket: give a path, or unix:/path")]
    NotAPath(String),
    /// The demo's socket or its folder belongs to another user, or others may write there.
    #[error(
        "{} is not private to this user, so it was not asked; name a socket with --addr", .0.display()
    )]
    Foreign(PathBuf),
}

/// `unix:/path`, `unix:///path`, `/path` or a relative path.
fn parse(text: &str) -> Result<PathBuf, LocateError> {
    let path = match text.strip_prefix("unix:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => text,
    };
    if path.is_empty() || path.contains("://") {
        return Err(LocateError::NotAPath(text.to_owned()));
    }
    Ok(PathBuf::from(path))
}

fn runtime_socket(dir: &Path) -> PathBuf {
    dir.join("cutover").join(FILE)
}

const INSTALLED: &str = "/run/cutover/admin.sock";
/// `state_dir` when nothing else is configured.
const STATE_DIR: &str = "/data/cutover";
const FILE: &str = "admin.sock";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            installed: root.join("run/cutover/admin.sock"),
            in_state: in_state_dir(&root.join("data/cutover")),
            runtime_dir: Some(root.join("xdg")),
            temp_dir: root.join("tmp"),
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    fn socket(path: &Path, folder_mode: u32) {
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(folder_mode)).unwrap();
        drop(UnixListener::bind(path).unwrap());
    }

    #[test]
    fn what_the_user_says_wins_in_every_spelling() {
        let places = places(Path::new("/nowhere"));
        for text in ["/a/b.sock", "unix:/a/b.sock", "unix:///a/b.sock"] {
            let path = places.locate(Some(text)).unwrap();
            assert_eq!(path.as_os_str(), "/a/b.sock", "{text}");
        }
        assert_eq!(places.locate(Some("")), Ok(places.installed.clone()));
        assert_eq!(
            places.locate(Some("tcp://127.0.0.1:80")),
            Err(LocateError::NotAPath("tcp://127.0.0.1:80".to_owned()))
        );
    }

    #[test]
    fn a_demo_is_asked_only_when_no_daemon_is_installed() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        assert_eq!(places.locate(None), Ok(places.installed.clone()));
        let temp = places.temp_socket();
        socket(&temp, 0o700);
        assert_eq!(places.locate(None), Ok(temp));
        let runtime = root.path().join("xdg/cutover/admin.sock");
        socket(&runtime, 0o700);
        assert_eq!(places.demo(), runtime);
        assert_eq!(places.locate(None), Ok(runtime));
        socket(&places.installed, 0o755);
        assert_eq!(places.locate(None), Ok(places.installed.clone()));
    }

    #[test]
    fn a_daemon_without_a_place_under_run_is_found_in_its_state_folder() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        socket(&places.temp_socket(), 0o700);
        socket(&places.in_state, 0o700);
        assert_eq!(places.locate(None), Ok(places.in_state.clone()));
        socket(&places.installed, 0o755);
        assert_eq!(places.locate(None), Ok(places.installed.clone()));
    }

    #[test]
    fn a_demo_folder_that_others_can_write_is_not_trusted() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let temp = places.temp_socket();
        socket(&temp, 0o777);
        assert_eq!(places.locate(None), Err(LocateError::Foreign(temp.clone())));
        let other = Places {
            uid: places.uid + 1,
            ..places
        };
        let theirs = other.temp_socket();
        socket(&theirs, 0o700);
        assert_eq!(other.locate(None), Err(LocateError::Foreign(theirs)));
    }
}
