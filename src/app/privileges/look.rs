//! What the daemon's user may read, asked by somebody who may read more.

use std::fs;
use std::io;
use std::path::Path;

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::User;

/// Opens things, as some user.
pub(in crate::app) struct Looker(());

impl Looker {
    /// Whether a file or folder can be read; a missing one is an error like any other.
    pub(in crate::app) fn reads(&self, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.is_dir() {
            fs::read_dir(path).map(drop)
        } else {
            fs::File::open(path).map(drop)
        }
    }
}

/// Runs `look` with the rights of `user`; `None`: with those of this process. Only a thread of its
/// own changes, and it ends with `look`.
///
/// # Errors
/// The system does not let this process look as somebody else.
pub(in crate::app) fn look_as<T: Send>(
    user: Option<&User>,
    look: impl FnOnce(&Looker) -> T + Send,
) -> io::Result<T> {
    let Some(user) = user else {
        return Ok(look(&Looker(())));
    };
    let as_user = || -> io::Result<T> {
        let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        // Takes the capabilities with it.
        set_thread_res_uid(uid, uid, uid)?;
        Ok(look(&Looker(())))
    };
    std::thread::scope(|scope| match scope.spawn(as_user).join() {
        Ok(looked) => looked,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn another_user_sees_less_and_this_one_as_much_as_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        fs::write(&file, "secret").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let mine = || look_as(None, |looker| looker.reads(&file).is_ok()).expect("looked");
        assert!(mine());
        let nobody = User {
            uid: 65534,
            gid: 65534,
            groups: Vec::new(),
        };
        let looked = look_as(Some(&nobody), |looker| {
            (
                looker.reads(folder.path()).is_ok(),
                looker.reads(&file).is_ok(),
            )
        });
        if nix::unistd::geteuid().is_root() {
            assert_eq!(looked.expect("root may"), (true, false));
        } else {
            assert!(looked.is_err(), "only root may look as somebody else");
        }
        assert!(mine(), "only the thread changed");
    }
}
