//! The calls that give root up. One way, and in this order: groups, group, user, capabilities.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, fchown};

use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

use super::{PrivilegeError, User};

/// All that is kept.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Becomes the user. `permitted`: what this process has now.
pub(super) fn become_user(user: &User, permitted: CapabilitySet) -> Result<(), PrivilegeError> {
    check_alone()?;
    narrow_bounds(permitted);
    // A change from root to another user takes every capability, unless it is asked not to.
    set_keep_capabilities(true).map_err(refused("keep a capability over the change of user"))?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(refused("set the supplementary groups"))?;
    let gid = Gid::from_raw(user.gid);
    setresgid(gid, gid, gid).map_err(refused("change the group (CUTOVER_GID)"))?;
    let uid = Uid::from_raw(user.uid);
    setresuid(uid, uid, uid).map_err(refused("change the user (CUTOVER_UID)"))?;
    set_keep_capabilities(false).map_err(refused("end the keeping of capabilities"))?;
    drop_capabilities(permitted)?;
    check(user)
}

/// Stays root, but for its capabilities.
pub(super) fn shed(permitted: CapabilitySet) -> Result<(), PrivilegeError> {
    check_alone()?;
    narrow_bounds(permitted);
    drop_capabilities(permitted)
}

/// Lets the user open its own standard streams by name (`/dev/stdout`): pipes and terminals belong
/// to whoever started the container. What cannot be given away can still be written to.
pub(super) fn stdio(user: &User) {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [input.as_fd(), output.as_fd(), error.as_fd()] {
        if is_own(stream) {
            let _ = fchown(stream, Some(user.uid), None);
        }
    }
}

/// Whether a stream is a pipe, a socket or a terminal. A file is not this process's alone, nor is
/// `/dev/null`.
fn is_own(stream: BorrowedFd<'_>) -> bool {
    let Ok(copy) = stream.try_clone_to_owned() else {
        return false;
    };
    let Ok(metadata) = fs::File::from(copy).metadata() else {
        return false;
    };
    let kind = metadata.file_type();
    kind.is_fifo() || kind.is_socket() || nix::unistd::isatty(stream).unwrap_or(false)
}

/// Capabilities belong to threads: another one would keep all of them.
fn check_alone() -> Result<(), PrivilegeError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    match threads {
        1 => Ok(()),
        more => Err(PrivilegeError::Threads(more)),
    }
}

/// Keeps programs that this one may start from ever having more. Without CAP_SETPCAP the bounds
/// stay as they are, and `no_new_privs` does the same.
fn narrow_bounds(permitted: CapabilitySet) {
    if !permitted.contains(CapabilitySet::SETPCAP) {
        return;
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The first number that the kernel does not know is an error.
        let Ok(is_bound) = capability_is_in_bounding_set(capability) else {
            return;
        };
        if is_bound && capability != KEPT {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
}

fn drop_capabilities(permitted: CapabilitySet) -> Result<(), PrivilegeError> {
    // None is new, so that a container without it starts as well: there ports may be open to all.
    let kept = permitted & KEPT;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(refused("drop the capabilities"))?;
    clear_ambient_capability_set().map_err(refused("drop the ambient capabilities"))?;
    set_no_new_privs(true).map_err(refused("set no_new_privs"))
}

/// Looks whether it is so.
fn check(user: &User) -> Result<(), PrivilegeError> {
    let uids = getresuid().map_err(refused("ask for the user"))?;
    let gids = getresgid().map_err(refused("ask for the group"))?;
    let is_user = [uids.real, uids.effective, uids.saved]
        .iter()
        .all(|uid| uid.as_raw() == user.uid);
    let is_group = [gids.real, gids.effective, gids.saved]
        .iter()
        .all(|gid| gid.as_raw() == user.gid);
    let root = Uid::from_raw(0);
    if is_user && is_group && setresuid(root, root, root).is_err() {
        Ok(())
    } else {
        Err(PrivilegeError::Regained)
    }
}

fn refused<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> PrivilegeError {
    move |error| PrivilegeError::Refused {
        step,
        source: error.into(),
    }
}
