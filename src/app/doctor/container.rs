//! How long a container is given to stop. It cannot see that itself, but Docker can be asked
//! where its socket is at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Finding, Level};
use crate::config::{Config, DockerSocket};
use crate::docker::own_ids;
use crate::http::{Client, Dial, Get, Origin};
use crate::model::Scheme;

/// What Docker waits for when nobody says anything else.
const DEFAULT: Duration = Duration::from_secs(10);

/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer about one container is a few KiB.
const ANSWER_BYTES: usize = 1 << 20;

pub(super) async fn stop_time(config: &Config) -> Finding {
    let needed = config.shutdown_delay + config.shutdown_grace + Duration::from_secs(5);
    if !Path::new("/.dockerenv").exists() {
        return judge(needed, None);
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let ids = own_ids(
        &read("/proc/self/mountinfo"),
        &read("/proc/self/cgroup"),
        &read("/etc/hostname"),
    );
    let socket = config.docker.as_ref().map(|docker| docker.socket.clone());
    let socket =
        socket.unwrap_or_else(|| DockerSocket::Unix(PathBuf::from("/var/run/docker.sock")));
    judge(needed, Some(grace(&socket, &ids).await))
}

/// `grace`: what Docker says of the own container; `None`: there is none.
fn judge(needed: Duration, grace: Option<Result<Duration, String>>) -> Finding {
    const CHECK: &str = "stop";
    const MEANING: &str = "requests in flight are cut when the container is replaced";
    let seconds = needed.as_secs();
    match grace {
        Some(Ok(grace)) if grace < needed => Finding::bad(
            CHECK,
            Level::Warning,
            format!(
                "a stop may take {seconds} s, Docker kills after {} s",
                grace.as_secs()
            ),
            MEANING,
            "set `stop_grace_period` of the proxy in the Compose file to at least that",
        ),
        Some(Ok(grace)) => Finding::ok(
            CHECK,
            format!(
                "a stop may take {seconds} s, Docker waits {} s",
                grace.as_secs()
            ),
        ),
        Some(Err(_)) if needed > DEFAULT => Finding::bad(
            CHECK,
            Level::Warning,
            format!("a stop may take {seconds} s, Docker kills after 10 s unless told otherwise"),
            MEANING,
            "set `stop_grace_period` of the proxy in the Compose file to at least that; this is said \
             whether it is set or not, because Docker cannot be asked",
        ),
        Some(Err(_)) | None => Finding::ok(
            CHECK,
            format!("a stop may take {seconds} s; whoever stops it must wait as long"),
        ),
    }
}

/// How long Docker waits between SIGTERM and SIGKILL for the first of these that it knows.
async fn grace(socket: &DockerSocket, ids: &[String]) -> Result<Duration, String> {
    let dial = match socket {
        DockerSocket::Unix(path) => Dial::Unix(path.clone()),
        DockerSocket::Tcp(address) => {
            let found = tokio::net::lookup_host(address).await;
            let mut found = found.map_err(|error| error.to_string())?;
            Dial::Tcp(found.next().ok_or("the name has no address")?)
        }
    };
    let origin = Origin {
        dial,
        scheme: Scheme::Http,
        authority: "docker".to_owned(),
        tls_name: None,
    };
    let client = Client::with_roots(rustls::RootCertStore::empty());
    for id in ids {
        let get = Get {
            origin: &origin,
            path: &format!("/containers/{id}/json"),
            headers: &[],
            deadline: PATIENCE,
            body_limit: ANSWER_BYTES,
        };
        let answer = client.get(get).await.map_err(|error| error.to_string())?;
        if !answer.status.is_success() {
            continue;
        }
        let container: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        // Missing or null: the default.
        let told = container["Config"]["StopTimeout"].as_u64();
        return Ok(told.map_or(DEFAULT, Duration::from_secs));
    }
    Err("Docker does not know this container".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Docker, for one connection after the other.
    fn docker(path: &Path, answers: Vec<String>) {
        let listener = UnixListener::bind(path).expect("a socket");
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut socket, _)) = listener.accept() else {
                    return;
                };
                let mut head = Vec::new();
                let mut byte = [0; 1];
                while !head.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                let _ = socket.write_all(answer.as_bytes());
            }
        });
    }

    fn answer(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    }

    #[test]
    fn docker_is_asked_how_long_it_waits() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let socket = DockerSocket::Unix(path.clone());
        let ask = |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            runtime.block_on(grace(&socket, &ids))
        };
        assert!(ask(&[ID]).is_err(), "no socket");
        docker(
            &path,
            vec![
                answer("200 OK", r#"{"Config":{"StopTimeout":40}}"#),
                answer("404 Not Found", r#"{"message":"no such container"}"#),
                answer("200 OK", r#"{"Config":{"StopTimeout":null}}"#),
            ],
        );
        assert_eq!(ask(&[ID]), Ok(Duration::from_secs(40)));
        assert_eq!(ask(&["elsewhere", ID]), Ok(DEFAULT), "the second name");
    }

    #[test]
    fn only_a_grace_that_is_too_short_is_told() {
        let needed = Duration::from_secs(35);
        let level = |grace| judge(needed, grace).level;
        assert_eq!(level(Some(Ok(Duration::from_secs(35)))), Level::Ok);
        assert_eq!(level(Some(Ok(DEFAULT))), Level::Warning);
        assert_eq!(level(Some(Err("no socket".to_owned()))), Level::Warning);
        assert_eq!(level(None), Level::Ok);
    }
}
