//! What the daemon's user may read of what the configuration names. In a container `doctor` is
//! often run by root, who may read everything, so it looks as that user.

use std::io;
use std::path::Path;

use nix::unistd::{AccessFlags, access, geteuid};

use super::{Finding, Level};
use crate::app::adoption;
use crate::app::privileges::{Looker, User, look_as};
use crate::config::Config;

const CHECK: &str = "paths";

/// `file`: where the configuration is from, if from a file. `user`: whom a start as root becomes;
/// `None`: the daemon is whoever asks.
pub(super) fn paths(config: &Config, file: Option<&Path>, user: Option<&User>) -> Vec<Finding> {
    let places = adoption::usual_places();
    let foreign = places.caddy.iter().chain(&places.certbot);
    let foreign: Vec<&Path> = foreign.map(|path| path.as_path()).collect();
    let looked = look_as(user, |looker| look(looker, config, file, &foreign, user));
    let found = looked.unwrap_or_else(|error| {
        vec![Finding::bad(
            CHECK,
            Level::Warning,
            format!("cannot look as the user of the daemon: {error}"),
            "which paths it cannot read is not known",
            "run it as root, or as that user",
        )]
    });
    if found.is_empty() {
        let uid = user.map_or_else(|| geteuid().as_raw(), |user| user.uid);
        return vec![Finding::ok(
            CHECK,
            format!("uid {uid} can read what is named"),
        )];
    }
    found
}

fn look(
    looker: &Looker,
    config: &Config,
    file: Option<&Path>,
    foreign: &[&Path],
    user: Option<&User>,
) -> Vec<Finding> {
    let uid = user.map_or_else(|| geteuid().as_raw(), |user| user.uid);
    let mut found = Vec::new();
    let mut tell = |path: &Path, level, meaning, fix| match looker.reads(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let what = format!("{} cannot be read by uid {uid}", path.display());
            found.push(Finding::bad(CHECK, level, what, meaning, fix));
        }
        // What is missing is told where it is needed.
        Ok(()) | Err(_) => {}
    };
    if let Some(file) = file {
        tell(
            file,
            Level::Warning,
            "the running daemon keeps what it has: a reload changes nothing",
            "let this user read the file, or restart instead of a reload",
        );
    }
    let (level, meaning) = match user {
        Some(_) => (
            Level::Warning,
            "root read it at the start; a new content is not taken over before a restart",
        ),
        None => (Level::Problem, "cutover does not start without it"),
    };
    for path in config.read_files() {
        let fix = "let this user or one of its groups read it (`group_add` in Compose)";
        tell(path, level, meaning, fix);
    }
    for path in config.file_roots() {
        let fix = "let this user read the folder and enter those above it";
        tell(path, Level::Problem, "no file in it is served", fix);
    }
    if user.is_none() {
        // A start as root has read them before.
        for path in foreign {
            let meaning = "certificates of the proxy before this one are not taken over";
            let fix = "let this user read it, or start as root once: state_dir then has new ones";
            tell(path, Level::Warning, meaning, fix);
        }
        found.extend(state_dir(&config.state_dir, uid));
    }
    found
}

/// Whether a state folder that is not there yet can be made.
fn state_dir(folder: &Path, uid: u32) -> Option<Finding> {
    let above = folder.ancestors().find(|path| path.exists())?;
    if above == folder || access(above, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
        return None;
    }
    Some(Finding::bad(
        CHECK,
        Level::Problem,
        format!("{} cannot be written by uid {uid}", above.display()),
        "state_dir cannot be made there: cutover does not start",
        "give the folder to this user, or start as root and let `user:` be unset",
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn nobody() -> User {
        User {
            uid: 65534,
            gid: 65534,
            groups: Vec::new(),
        }
    }

    /// A folder with a key, a certificate, a root of files and a state folder; the configuration.
    fn tree() -> (tempfile::TempDir, Config, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        set_mode(folder.path(), 0o755);
        for name in ["a.pem", "a.key"] {
            fs::write(folder.path().join(name), name).expect("a file");
        }
        fs::create_dir(folder.path().join("srv")).expect("a folder");
        let shown = folder.path().display();
        let text = format!(
            "state_dir = \"{shown}/state/cutover\"\n[[site]]\nhosts = [\"a.example\"]\n\
             tls = {{ cert = \"{shown}/a.pem\", key = \"{shown}/a.key\" }}\n\
             files = {{ root = \"{shown}/srv\" }}\n"
        );
        let file = folder.path().join("cutover.toml");
        fs::write(&file, &text).expect("a file");
        let config = crate::config::load_str("cutover.toml", &text).expect("a configuration");
        (folder, config, file)
    }

    #[test]
    fn each_path_that_the_daemons_user_cannot_read_is_named() {
        let (folder, config, file) = tree();
        assert!(geteuid().is_root(), "looking as somebody else needs root");
        let found = || paths(&config, Some(&file), Some(&nobody()));
        assert_eq!(found()[0].level, Level::Ok, "{:?}", found());
        set_mode(&folder.path().join("a.key"), 0o600);
        set_mode(&folder.path().join("srv"), 0o700);
        set_mode(&file, 0o600);
        let named: Vec<_> = found()
            .into_iter()
            .map(|one| (one.what, one.level))
            .collect();
        let told = |name: &str, level| {
            let path = folder.path().join(name);
            let what = format!("{} cannot be read by uid 65534", path.display());
            (what, level)
        };
        assert_eq!(
            named,
            [
                told("cutover.toml", Level::Warning),
                told("a.key", Level::Warning),
                told("srv", Level::Problem),
            ]
        );
        assert_eq!(
            paths(&config, Some(&file), None)[0].level,
            Level::Ok,
            "root"
        );
    }

    #[test]
    fn a_state_folder_that_cannot_be_made_is_a_problem() {
        assert!(geteuid().is_root(), "looking as somebody else needs root");
        let folder = tempfile::tempdir().expect("a folder");
        set_mode(folder.path(), 0o755);
        let look = |path: &Path| look_as(Some(&nobody()), |_| state_dir(path, 65534));
        let found = look(&folder.path().join("a/b")).expect("looked");
        let found = found.expect("the folder is root's");
        let what = format!("{} cannot be written", folder.path().display());
        assert!(found.what.starts_with(&what), "{found:?}");
        let found = look(folder.path()).expect("looked");
        assert_eq!(found, None, "what is there is told by another check");
        set_mode(folder.path(), 0o777);
        assert_eq!(look(&folder.path().join("a/b")).expect("looked"), None);
    }
}
