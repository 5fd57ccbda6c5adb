//! Whether containers can be discovered, and which calls are refused.

use std::io;
use std::path::Path;

use super::super::discovery;
use super::{Finding, Level};
use crate::app::privileges::{User, look_as};
use crate::config::{Config, DockerSocket};
use crate::docker::{Answers, Call, DockerError, check};

const CHECK: &str = "docker";

/// One finding for the engine, one for each call that it refuses. None: discovery is off. `user`: whom
/// a start as root becomes, and who asks the engine then; `None`: the daemon is whoever asks.
pub(super) async fn docker(
    config: &Config,
    file: Option<&Path>,
    user: Option<User>,
) -> Vec<Finding> {
    let Some(settings) = discovery::settings(config, file) else {
        return Vec::new();
    };
    let place = match &settings.socket {
        DockerSocket::Unix(path) => path.display().to_string(),
        DockerSocket::Tcp(address) => format!("tcp://{address}"),
    };
    match check_as(user, settings.socket).await {
        Ok(answers) => judge(&place, answers),
        Err(error) => vec![Finding::bad(
            CHECK,
            Level::Warning,
            format!("cannot ask {place} as the user of the daemon: {error}"),
            "whether containers can be discovered is not known",
            "run it as root, or as that user",
        )],
    }
}

/// Asks with the rights of `user`.
async fn check_as(
    user: Option<User>,
    socket: DockerSocket,
) -> io::Result<Result<Answers, DockerError>> {
    let Some(user) = user else {
        return Ok(check(&socket).await);
    };
    // Threads have the rights of the one that started them, so the whole runtime asks as that user.
    let ask = move || {
        let asked = look_as(Some(&user), |_| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build()?;
            Ok(runtime.block_on(check(&socket)))
        });
        asked.and_then(|asked| asked)
    };
    tokio::task::spawn_blocking(ask)
        .await
        .map_err(io::Error::other)?
}

fn judge(place: &str, answers: Result<Answers, DockerError>) -> Vec<Finding> {
    const NOTHING: &str = "no container is found; what the file names itself is served";
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => {
            let fix = if error.is_forbidden() {
                "let the user of cutover be in the group of the socket, or use a socket proxy"
            } else {
                "mount the socket, or set [docker] socket; `enabled = false` turns discovery off"
            };
            let what = format!("{place}: {error}");
            return vec![Finding::bad(CHECK, Level::Problem, what, NOTHING, fix)];
        }
    };
    let version = answers.version.map_or_else(
        || "in its own version, which it does not tell".to_owned(),
        |version| format!("in version {version} of its API"),
    );
    let mut found = vec![Finding::ok(CHECK, format!("{place} answers {version}"))];
    for (call, error) in answers.calls {
        let Some(error) = error else {
            continue;
        };
        let level = match call {
            Call::Containers => Level::Problem,
            _ => Level::Warning,
        };
        found.push(Finding::bad(
            CHECK,
            level,
            error.to_string(),
            call.needed_for(),
            "allow the call in the socket proxy; docs/docker.md lists what is asked and why",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_calls_are_named_with_what_they_are_for() {
        let refused = |call| {
            let message = "status 403".to_owned();
            (call, Some(DockerError::Refused { call, message }))
        };
        let answers = Answers {
            version: "1.41".parse().ok(),
            calls: vec![
                (Call::Inspect, None),
                refused(Call::Events),
                refused(Call::Containers),
            ],
        };
        let found = judge("/var/run/docker.sock", Ok(answers));
        let levels: Vec<_> = found.iter().map(|one| one.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warning, Level::Problem]);
        assert!(found[1].what.contains("GET /events"), "{found:?}");
        assert!(found[1].meaning.contains("every 5 s"), "{found:?}");
    }

    #[test]
    fn the_engine_is_asked_as_the_daemons_user() {
        use std::os::unix::fs::PermissionsExt as _;

        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        // Whoever comes through is sent away at once.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        for (path, mode) in [(folder.path(), 0o755), (&path, 0o660)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        }
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let is_forbidden = |groups: &[u32]| {
            let user = User {
                uid: 65534,
                gid: 65534,
                groups: groups.to_vec(),
            };
            let asked = check_as(Some(user), DockerSocket::Unix(path.clone()));
            let answers = runtime.block_on(asked).expect("root may look");
            answers.expect_err("nobody answers").is_forbidden()
        };
        assert!(is_forbidden(&[]));
        assert!(!is_forbidden(&[0]), "the socket is root's");
    }

    #[test]
    fn a_socket_that_may_not_be_used_is_told_with_its_group() {
        let denied = DockerError::Unreachable {
            why: "Permission denied (os error 13)".to_owned(),
        };
        let found = judge("/var/run/docker.sock", Err(denied));
        assert!(found[0].fix.contains("group"), "{found:?}");
    }
}
