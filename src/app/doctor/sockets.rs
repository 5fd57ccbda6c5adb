//! The sockets that other programs use: the control API's and Docker's.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::{Finding, Level};
use crate::admin::socket;
use crate::app::discovery;
use crate::app::privileges::{User, look_as};
use crate::config::{Config, DockerSocket};

const CHECK: &str = "sockets";

/// `file`: where the configuration is from, if from a file. `user`: whom a start as root becomes;
/// `None`: the daemon is whoever asks.
pub(super) fn sockets(
    config: &Config,
    file: Option<&Path>,
    running: bool,
    user: Option<&User>,
) -> Vec<Finding> {
    let mut path = config.listen.admin.clone();
    let fallback = socket::in_state_dir(&config.state_dir);
    if path == socket::default_path() && !path.exists() && fallback.exists() {
        path = fallback;
    }
    let mut found = vec![admin(&path, running)];
    if let Some(docker) = discovery::settings(config, file) {
        found.extend(match &docker.socket {
            DockerSocket::Unix(path) => Some(docker_socket(path, user)),
            // An address, not a file.
            DockerSocket::Tcp(_) => None,
        });
    }
    found
}

fn admin(path: &Path, running: bool) -> Finding {
    let shown = path.display();
    let Ok(metadata) = fs::symlink_metadata(path) else {
        if !running {
            return Finding::ok(CHECK, format!("{shown} will be made at the start"));
        }
        return Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown} is gone, and the daemon that runs has another one"),
            "`proxyctl` finds the daemon only with --addr",
            "restart the daemon with this configuration",
        );
    };
    if !metadata.file_type().is_socket() {
        return Finding::bad(
            CHECK,
            Level::Problem,
            format!("{shown} is not a socket"),
            "the daemon cannot listen there: it does not start",
            "move the file away, or change listen.admin",
        );
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown} has mode {mode:o}"),
            "root and the daemon's user are heard alone, but others may keep it busy",
            "chmod 600 the socket",
        );
    }
    let folder = path.parent().and_then(|folder| fs::metadata(folder).ok());
    let folder = folder.map(|folder| folder.permissions().mode() & 0o7777);
    match folder {
        // Where everybody may write, the sticky bit keeps others from replacing it.
        Some(mode) if mode & 0o022 != 0 && mode & 0o1000 == 0 => Finding::bad(
            CHECK,
            Level::Warning,
            format!("others may write to the folder of {shown} (mode {mode:o})"),
            "they may put a socket of their own in its place",
            "chmod 700 the folder",
        ),
        Some(_) | None => Finding::ok(CHECK, format!("{shown} is private")),
    }
}

fn docker_socket(path: &Path, user: Option<&User>) -> Finding {
    let shown = path.display();
    let is_socket = fs::metadata(path).map(|found| found.file_type().is_socket());
    if !matches!(is_socket, Ok(true)) {
        return Finding::bad(
            CHECK,
            Level::Warning,
            match is_socket {
                Ok(_) => format!("{shown} is not a socket"),
                Err(error) => format!("{shown}: {error}"),
            },
            "nothing is known of containers",
            "mount Docker's socket there, mend docker.socket, or set docker.enabled = false",
        );
    }
    let mode = fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o777);
    if mode & 0o002 != 0 {
        return Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown} has mode {mode:o}"),
            "whoever may write to it is root on this machine",
            "chmod 660 the socket",
        );
    }
    let usable = look_as(user, |_| {
        access(path, AccessFlags::R_OK | AccessFlags::W_OK)
    });
    match usable.and_then(|usable| usable.map_err(Into::into)) {
        Ok(()) => Finding::ok(CHECK, format!("{shown} can be used")),
        Err(error) => Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown}: {error}"),
            "nothing is known of containers",
            "add the user of the daemon to the socket's group (`group_add` in Compose)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn a_control_socket_that_others_may_use_or_replace_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        assert_eq!(admin(&path, false).level, Level::Ok, "not made yet");
        assert_eq!(admin(&path, true).level, Level::Warning, "gone");
        let _listener = UnixListener::bind(&path).expect("a socket");
        set_mode(folder.path(), 0o700);
        for (mode, level) in [(0o600, Level::Ok), (0o666, Level::Warning)] {
            set_mode(&path, mode);
            assert_eq!(admin(&path, true).level, level, "{mode:o}");
        }
        set_mode(&path, 0o600);
        set_mode(folder.path(), 0o777);
        assert!(admin(&path, true).what.contains("mode 777"));
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        assert_eq!(admin(&file, false).level, Level::Problem);
    }

    #[test]
    fn a_docker_socket_for_everybody_is_told_and_so_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        assert!(docker_socket(&path, None).what.contains("No such file"));
        let _listener = UnixListener::bind(&path).expect("a socket");
        for (mode, level) in [(0o660, Level::Ok), (0o666, Level::Warning)] {
            set_mode(&path, mode);
            assert_eq!(docker_socket(&path, None).level, level, "{mode:o}");
        }
    }

    #[test]
    fn a_docker_socket_is_looked_at_as_the_daemons_user() {
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let folder = tempfile::tempdir().expect("a folder");
        set_mode(folder.path(), 0o755);
        let path = folder.path().join("docker.sock");
        let _listener = UnixListener::bind(&path).expect("a socket");
        set_mode(&path, 0o660);
        let user = |groups: &[u32]| User {
            uid: 65534,
            gid: 65534,
            groups: groups.to_vec(),
        };
        let level = |groups| docker_socket(&path, Some(&user(groups))).level;
        assert_eq!(level(&[]), Level::Warning);
        assert_eq!(level(&[0]), Level::Ok, "the socket is root's");
    }
}
