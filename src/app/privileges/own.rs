//! What the daemon writes is given to the user that it becomes.
//!
//! Only what the configuration names: `state_dir` with everything in it, the folder of the admin
//! socket, the access logs with their folders. Folders that belong to the system are never given away,
//! and neither is a file with several names: whoever had been this user before may have made one of
//! them for a file of somebody else's.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use super::{PrivilegeError, User};
use crate::config::Config;

/// Folders that others use too.
const SYSTEM: [&str; 12] = [
    "/", "/bin", "/dev", "/etc", "/home", "/lib", "/root", "/run", "/tmp", "/usr", "/var",
    "/var/log",
];

/// Returns what was left to its owner.
pub(super) fn take_over(config: &Config, user: &User) -> Result<Vec<PathBuf>, PrivilegeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PrivilegeError::Own {
            path: path.clone(),
            uid: user.uid,
            source,
        }
    };
    let mut left = Vec::new();
    let state = &config.state_dir;
    tree(state, user, &mut left).map_err(failed(state))?;
    if let Some(folder) = config.listen.admin.parent() {
        // One that cannot be made is told by whoever makes the socket: there may be another place.
        match own_folder(folder, user) {
            Err(error) if !is_read_only(&error) => return Err(failed(folder)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    for file in config.access_logs().filter_map(|log| log.file.as_ref()) {
        let folder = file.parent().unwrap_or(Path::new("."));
        own_folder(folder, user).map_err(failed(folder))?;
        match fs::symlink_metadata(file) {
            Ok(metadata) if metadata.is_file() => {
                own(file, &metadata, user, &mut left).map_err(failed(file))?;
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(left)
}

/// A folder and everything in it, on one file system and without following links. Made with mode
/// 0700 if it is missing.
fn tree(root: &Path, user: &User, left: &mut Vec<PathBuf>) -> io::Result<()> {
    make(root)?;
    let root = fs::canonicalize(root)?;
    let device = fs::metadata(&root)?.dev();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let metadata = fs::symlink_metadata(&folder)?;
        own(&folder, &metadata, user, left)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.dev() != device {
                continue;
            }
            if metadata.is_dir() {
                folders.push(path);
            } else {
                own(&path, &metadata, user, left)?;
            }
        }
    }
    Ok(())
}

/// One folder, if it is root's and not the system's. Made with mode 0700 if it is missing.
fn own_folder(folder: &Path, user: &User) -> io::Result<()> {
    make(folder)?;
    let real = fs::canonicalize(folder)?;
    let metadata = fs::metadata(&real)?;
    let is_shared =
        metadata.mode() & 0o1000 != 0 || SYSTEM.iter().any(|path| real == Path::new(path));
    if metadata.uid() != 0 || is_shared {
        return Ok(());
    }
    lchown(&real, Some(user.uid), Some(user.gid))
}

fn own(path: &Path, metadata: &Metadata, user: &User, left: &mut Vec<PathBuf>) -> io::Result<()> {
    if metadata.uid() == user.uid && metadata.gid() == user.gid {
        return Ok(());
    }
    let is_known = metadata.is_dir() || (metadata.is_file() && metadata.nlink() == 1);
    if !is_known {
        left.push(path.to_owned());
        return Ok(());
    }
    lchown(path, Some(user.uid), Some(user.gid))
}

/// The parents as any folder, so that the user can pass through them; itself for its owner alone.
fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(folder)
}

fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}
