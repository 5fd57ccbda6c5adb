//! Whether containers can be discovered, and which calls are refused.

use super::super::discovery;
use super::{Finding, Level};
use crate::config::{Config, DockerSocket};
use crate::docker::{Answers, Call, DockerError, check};
use std::path::Path;

const CHECK: &str = "docker";

/// One finding for the engine, one for each call that it refuses. None: discovery is off.
pub(super) async fn docker(config: &Config, file: &Path) -> Vec<Finding> {
    let Some(settings) = discovery::settings(config, Some(file)) else {
        return Vec::new();
    };
    let place = match &settings.socket {
        DockerSocket::Unix(path) => path.display().to_string(),
        DockerSocket::Tcp(address) => format!("tcp://{address}"),
    };
    judge(&place, check(&settings.socket).await)
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
    fn a_socket_that_may_not_be_used_is_told_with_its_group() {
        let denied = DockerError::Unreachable {
            why: "Permission denied (os error 13)".to_owned(),
        };
        let found = judge("/var/run/docker.sock", Err(denied));
        assert!(found[0].fix.contains("group"), "{found:?}");
    }
}
