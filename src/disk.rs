//! Files that are there whole or not at all, readable by their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Makes a folder of mode 0700, with its parents; one that others may enter is narrowed to it.
/// One that is right is not touched, so it may lie on a read-only file system.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    if let Ok(metadata) = fs::metadata(folder)
        && metadata.permissions().mode() & 0o077 == 0
    {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Writes a file that must not be there yet: if somebody else was first, theirs stays and this
/// is no error. Mode 0600, on disk when it returns.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, bytes)?;
    // A link fails where a rename would replace.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(path),
    }
}

/// Replaces a file, or makes it. Mode 0600, on disk when it returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, bytes)?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(
        ".{}-{:08x}.tmp",
        std::process::id(),
        fastrand::u32(..)
    ));
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_writer_of_a_new_file_wins_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        write_new(&path, b"first").expect("written");
        write_new(&path, b"second").expect("not an error");
        assert_eq!(fs::read(&path).expect("readable"), b"first");
        replace(&path, b"third").expect("replaced");
        assert_eq!(fs::read(&path).expect("readable"), b"third");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// Ends the process as a power cut would, before or after the n-th step of writing: the feature
/// `failpoints`, for the tests that kill the daemon. Without it, nothing.
#[cfg(feature = "failpoints")]
pub(crate) mod crash {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// A step that is passed again and again.
    #[derive(Debug)]
    pub(crate) struct Point {
        left: Option<u64>,
    }

    impl Point {
        /// `variable` of the environment says at which passing, from 1.
        pub(crate) fn of(variable: &str) -> Self {
            let wanted = std::env::var(variable).ok();
            Self {
                left: wanted.and_then(|text| text.parse().ok()),
            }
        }

        pub(crate) fn here(&mut self) {
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    let _ = kill(Pid::this(), Signal::SIGKILL);
                }
            }
        }
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) mod crash {
    #[derive(Debug)]
    pub(crate) struct Point;

    impl Point {
        pub(crate) const fn of(_variable: &str) -> Self {
            Self
        }

        pub(crate) const fn here(&mut self) {}
    }
}
