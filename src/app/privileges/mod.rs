//! How a start as root ends as a user that may do little.
//!
//! The image starts as root, because it takes the place of containers that did: their volumes and
//! their Docker socket belong to root. Before the first thread and the first byte from a client the
//! daemon takes over what it writes, keeps what only root may read ([`crate::kept`]), joins the
//! group of the Docker socket, and becomes the user that `CUTOVER_UID` names, with
//! `CAP_NET_BIND_SERVICE` as its only capability and no way to another one.
//!
//! | start | what happens |
//! |---|---|
//! | not as root (`user:` in Compose, `User=` of systemd) | nothing |
//! | as root, no `CUTOVER_UID`, or `0` | nothing: whoever starts it so wants it so |
//! | as root with `CUTOVER_UID` (the image sets 10001) | as above |
//! | the same without CAP_SETUID and CAP_SETGID (`cap_drop: [ALL]`) | root stays, without its capabilities |
//!
//! [`plan`] decides and touches nothing, `leave` does it. Any failure ends the start: a daemon
//! that runs as root by accident is worse than one that does not run.
//!
//! Sources: capabilities(7), credentials(7), prctl(2).

mod leave;
mod look;
mod own;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, capabilities};
use tracing::{info, warn};

pub(in crate::app) use look::{Looker, look_as};

use super::discovery;
use crate::config::{Config, DockerSocket};
use crate::kept;

/// The variable with the user that a start as root becomes.
const UID: &str = "CUTOVER_UID";
/// The variable with its group; default: the same number.
const GID: &str = "CUTOVER_GID";

/// Why a start as root ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrivilegeError {
    /// A variable is no number.
    #[error("{name} is `{value}`: give a number from 0 to 4294967294")]
    NotANumber {
        /// Of the variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// A path cannot be given to the new user.
    #[error(
        "{} cannot be given to uid {uid}; mount it writable and leave the container CAP_CHOWN, set `user:`, or set {UID}=0", path.display()
    )]
    Own {
        /// What.
        path: PathBuf,
        /// To whom.
        uid: u32,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The new user cannot come to its own folder.
    #[error(
        "{} cannot be used by uid {uid}, because it may not pass through the folders above; `chmod o+x` them", path.display()
    )]
    Shut {
        /// Which.
        path: PathBuf,
        /// Who.
        uid: u32,
    },
    /// The system refuses a step.
    #[error("cannot {step}; set `user:` to start as another user, or {UID}=0 to stay root")]
    Refused {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There are other threads, which would stay root.
    #[error("{0} threads run already: root cannot be given up any more")]
    Threads(usize),
    /// It did not work, though no step said so.
    #[error("root could not be given up: the system let this process become root again")]
    Regained,
}

/// Who this process is, and what it was told to become.
#[derive(Clone, Debug)]
pub(super) struct Start {
    uid: u32,
    permitted: CapabilitySet,
    /// Supplementary groups, as `group_add` of Compose gives them.
    groups: Vec<u32>,
    wanted_uid: Option<String>,
    wanted_gid: Option<String>,
}

impl Start {
    fn of_process() -> Self {
        let groups = nix::unistd::getgroups().unwrap_or_default();
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            permitted: capabilities(None)
                .map_or_else(|_| CapabilitySet::empty(), |sets| sets.permitted),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
            wanted_uid: std::env::var(UID).ok(),
            wanted_gid: std::env::var(GID).ok(),
        }
    }
}

/// The Docker socket, as far as it says who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    gid: u32,
    mode: u32,
}

impl Socket {
    fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        metadata.file_type().is_socket().then(|| Self {
            gid: metadata.gid(),
            mode: metadata.mode(),
        })
    }
}

/// What is done at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Stay,
    /// Root stays, its capabilities but the one go.
    Shed,
    /// Another user.
    Become(User),
}

/// Who the daemon becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, in the order of their numbers.
    pub(super) groups: Vec<u32>,
}

/// Decides what a start does. `socket`: the Docker socket, if it is used.
fn plan(start: &Start, socket: Option<&Socket>) -> Result<Plan, PrivilegeError> {
    let wanted = |name, value: &Option<String>| match value.as_deref().map(str::trim) {
        None | Some("") => Ok(None),
        // The largest number means "unchanged" in every call that takes one.
        Some(text) => match text.parse::<u32>() {
            Ok(number) if number != u32::MAX => Ok(Some(number)),
            Ok(_) | Err(_) => Err(PrivilegeError::NotANumber {
                name,
                value: text.to_owned(),
            }),
        },
    };
    if start.uid != 0 {
        return Ok(Plan::Stay);
    }
    let Some(uid) = wanted(UID, &start.wanted_uid)?.filter(|uid| *uid != 0) else {
        return Ok(Plan::Stay);
    };
    let gid = wanted(GID, &start.wanted_gid)?.unwrap_or(uid);
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    if !start.permitted.contains(needed) {
        return Ok(Plan::Shed);
    }
    // Root's own group comes with root; it is joined only for a socket that belongs to it.
    let mut groups: Vec<u32> = start
        .groups
        .iter()
        .copied()
        .filter(|gid| *gid != 0)
        .collect();
    let by_group = |socket: &&Socket| socket.mode & 0o060 == 0o060 && socket.mode & 0o006 != 0o006;
    groups.extend(socket.filter(by_group).map(|socket| socket.gid));
    groups.sort_unstable();
    groups.dedup();
    Ok(Plan::Become(User { uid, gid, groups }))
}

/// Gives root up, if the start says so. Must run before the first thread. `file`: where the
/// configuration is from.
///
/// # Errors
/// What is to be given up cannot be.
pub(super) fn give_up_root(config: &Config, file: Option<&Path>) -> Result<(), PrivilegeError> {
    let start = Start::of_process();
    let path = docker_socket(config, file);
    let socket = path.as_deref().and_then(Socket::at);
    match plan(&start, socket.as_ref())? {
        Plan::Stay => Ok(()),
        Plan::Shed => {
            leave::shed(start.permitted)?;
            warn!(
                "CAP_SETUID and CAP_SETGID are missing: goes on as root, with CAP_NET_BIND_SERVICE \
                 alone; add them, or set `user:`"
            );
            Ok(())
        }
        Plan::Become(user) => {
            for file in config.read_files() {
                kept::keep(file);
            }
            let left = own::take_over(config, &user)?;
            leave::stdio(&user);
            leave::become_user(&user, start.permitted)?;
            if fs::read_dir(&config.state_dir).is_err() {
                let (path, uid) = (config.state_dir.clone(), user.uid);
                return Err(PrivilegeError::Shut { path, uid });
            }
            for path in left {
                warn!(path = %path.display(), "left to its owner: it has several names, or is no file or folder");
            }
            if let (Some(path), Some(socket)) = (path, socket)
                && socket.mode & 0o060 != 0o060
                && socket.mode & 0o006 != 0o006
            {
                warn!(
                    path = %path.display(),
                    mode = format!("{:o}", socket.mode & 0o777),
                    "the Docker socket is for its owner alone: nothing is known of containers"
                );
            }
            info!(uid = user.uid, gid = user.gid, groups = ?user.groups, "root given up");
            Ok(())
        }
    }
}

/// The unix socket of Docker, if containers are looked for: whoever may use it is root on its
/// machine, so its group is joined for nothing else.
fn docker_socket(config: &Config, file: Option<&Path>) -> Option<PathBuf> {
    match discovery::settings(config, file)?.socket {
        DockerSocket::Unix(path) => Some(path),
        DockerSocket::Tcp(_) => None,
    }
}

/// The user that a daemon with this configuration has in this container or on this machine, as
/// seen by whoever runs a command beside it.
pub(super) fn user_of_daemon(config: &Config, file: Option<&Path>) -> Option<User> {
    let socket = docker_socket(config, file).as_deref().and_then(Socket::at);
    match plan(&Start::of_process(), socket.as_ref()) {
        Ok(Plan::Become(user)) => Some(user),
        Ok(Plan::Stay | Plan::Shed) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Start {
        Start {
            uid: 0,
            permitted: CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN,
            groups: vec![0],
            wanted_uid: Some("10001".to_owned()),
            wanted_gid: None,
        }
    }

    fn user(gid: u32, groups: &[u32]) -> Plan {
        Plan::Become(User {
            uid: 10001,
            gid,
            groups: groups.to_vec(),
        })
    }

    fn socket(gid: u32, mode: u32) -> Socket {
        Socket { gid, mode }
    }

    fn planned(start: &Start, socket: Option<&Socket>) -> Plan {
        plan(start, socket).expect("a plan")
    }

    #[test]
    fn root_is_given_up_only_where_a_user_is_named() {
        assert_eq!(planned(&root(), None), user(10001, &[]));
        for wanted in [None, Some(""), Some("0")] {
            let start = Start {
                wanted_uid: wanted.map(str::to_owned),
                ..root()
            };
            assert_eq!(planned(&start, None), Plan::Stay, "{wanted:?}");
        }
        let start = Start {
            uid: 1000,
            ..root()
        };
        assert_eq!(planned(&start, None), Plan::Stay, "`user:` is set");
    }

    #[test]
    fn the_group_of_the_socket_is_joined_if_it_opens_it() {
        let start = Start {
            wanted_gid: Some("99".to_owned()),
            groups: vec![0, 5],
            ..root()
        };
        let groups = |socket: Socket| planned(&start, Some(&socket));
        assert_eq!(groups(socket(998, 0o140_660)), user(99, &[5, 998]));
        assert_eq!(groups(socket(0, 0o140_660)), user(99, &[0, 5]), "root's");
        assert_eq!(groups(socket(5, 0o140_660)), user(99, &[5]), "already");
        assert_eq!(groups(socket(998, 0o140_600)), user(99, &[5]), "no use");
        assert_eq!(groups(socket(998, 0o140_666)), user(99, &[5]), "no need");
    }

    #[test]
    fn without_the_capabilities_for_it_root_stays_with_less() {
        for missing in [CapabilitySet::SETUID, CapabilitySet::SETGID] {
            let mut start = root();
            start.permitted.remove(missing);
            assert_eq!(planned(&start, None), Plan::Shed);
        }
    }

    #[test]
    fn a_variable_that_is_no_number_ends_the_start() {
        for wrong in ["caddy", "-1", "4294967295", "1 2"] {
            let start = Start {
                wanted_uid: Some(wrong.to_owned()),
                ..root()
            };
            let error = plan(&start, None).expect_err(wrong).to_string();
            assert!(error.starts_with("CUTOVER_UID is"), "{error}");
        }
        let start = Start {
            wanted_gid: Some("x".to_owned()),
            ..root()
        };
        let error = plan(&start, None).expect_err("wrong").to_string();
        assert!(error.starts_with("CUTOVER_GID is"), "{error}");
    }

    #[test]
    fn the_socket_counts_only_where_containers_are_looked_for() {
        let of_file = |text: &str, file: &str| {
            let text = format!("{text}\n[[site]]\nhosts = [\"a.example\"]\nupstream = [\"b:1\"]\n");
            let config = crate::config::load_str(file, &text).expect("valid");
            docker_socket(&config, Some(Path::new(file)))
        };
        let socket = |text| of_file(text, "cutover.toml");
        let usual = Some(PathBuf::from("/var/run/docker.sock"));
        assert_eq!(socket("[docker]"), usual);
        assert_eq!(of_file("", "Caddyfile"), usual, "labels may be there");
        let other = socket("[docker]\nsocket = \"/x.sock\"");
        assert_eq!(other, Some(PathBuf::from("/x.sock")));
        assert_eq!(socket(""), None);
        assert_eq!(socket("[docker]\nenabled = false"), None);
        assert_eq!(of_file("[docker]\nenabled = false", "Caddyfile"), None);
        assert_eq!(socket("[docker]\nsocket = \"tcp://p:2375\""), None);
    }
}
