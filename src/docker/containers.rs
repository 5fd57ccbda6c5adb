//! Containers, made, started, stopped and removed.
//!
//! Bodies and descriptions are the engine's own JSON, so that whoever decides what a container is
//! needs no type of the library. Every call that changes something can be repeated: what is
//! already so is no error.

use std::time::{Duration, SystemTime};

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, EndpointSettings, NetworkConnectRequest,
    NetworkDisconnectRequest, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, ListContainersOptions, LogsOptions,
    RemoveContainerOptions, RenameContainerOptions, StatsOptions, StopContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::client::{Call, Client, DockerError};
use super::read;
use super::watched::cut;

/// What the engine knows of a file in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Its length.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// Whether it is a plain file.
    pub is_file: bool,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in bytes, without what the kernel would give back.
    pub memory_bytes: u64,
    /// Its limit; 0: that of the machine.
    pub memory_limit_bytes: u64,
    /// Time on a processor so far, in nanoseconds.
    pub cpu_ns: u64,
}

/// How often a connection that broke in the middle of a wait is opened again.
const WAIT_AGAIN: Duration = Duration::from_millis(500);

/// Bytes of a log that are read for its last lines.
const LOG_BYTES: usize = 256 * 1024;

impl Client {
    /// Descriptions of all containers, running or not.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn containers(&self) -> Result<Vec<Value>, DockerError> {
        let options = ListContainersOptions {
            all: true,
            ..ListContainersOptions::default()
        };
        let listed = self.api().list_containers(Some(options)).await;
        let listed = listed.map_err(|error| DockerError::of(Call::Containers, error))?;
        let mut all = Vec::with_capacity(listed.len());
        for id in listed.into_iter().filter_map(|one| one.id) {
            // One that has gone meanwhile is not there.
            all.extend(self.container(&id).await?);
        }
        Ok(all)
    }

    /// The description of one container by name or id; `None`: there is none.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn container(&self, name: &str) -> Result<Option<Value>, DockerError> {
        match self.api().inspect_container(name, None).await {
            Ok(found) => json(Call::Inspect, &found).map(Some),
            Err(error) => missing(Call::Inspect, error),
        }
    }

    /// Makes a container without starting it; gives its id.
    ///
    /// # Errors
    /// As the engine says: the name is taken, the image is not there, ...
    pub async fn create(&self, name: &str, body: &Value) -> Result<String, DockerError> {
        const CREATE: Call = Call::Change("POST /containers/create");
        let body: ContainerCreateBody = typed(CREATE, body)?;
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            platform: String::new(),
        };
        let made = self.api().create_container(Some(options), body).await;
        made.map(|made| made.id)
            .map_err(|error| DockerError::of(CREATE, error))
    }

    /// Starts a container; one that runs is left alone.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn start(&self, name: &str) -> Result<(), DockerError> {
        const START: Call = Call::Change("POST /containers/ID/start");
        let started = self.api().start_container(name, None).await;
        unless_so(START, started)
    }

    /// Stops a container: its stop signal, then SIGKILL after `grace`, or after what it says
    /// itself. One that does not run, or is not there, is left alone. Returns when it has ended.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn stop(&self, name: &str, grace: Option<Duration>) -> Result<(), DockerError> {
        const STOP: Call = Call::Change("POST /containers/ID/stop");
        let seconds = |grace: Duration| i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions {
            signal: None,
            t: grace.map(seconds),
        };
        let stopped = self.api().stop_container(name, Some(options)).await;
        gone_is_fine(unless_so(STOP, stopped))
    }

    /// Removes a container and the volumes without a name that are its own. It is killed if it
    /// runs; one that is not there is no error.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn remove(&self, name: &str) -> Result<(), DockerError> {
        const REMOVE: Call = Call::Change("DELETE /containers/ID");
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        match self.api().remove_container(name, Some(options)).await {
            // Somebody else is at it.
            Err(Error::DockerResponseServerError {
                status_code: 409,
                ref message,
            }) if message.contains("already in progress") => Ok(()),
            Ok(()) => Ok(()),
            Err(error) => gone_is_fine(Err(DockerError::of(REMOVE, error))),
        }
    }

    /// Gives a container another name; one that has it already is left alone.
    ///
    /// # Errors
    /// As the engine says: the name is taken, ...
    pub async fn rename(&self, name: &str, to: &str) -> Result<(), DockerError> {
        const RENAME: Call = Call::Change("POST /containers/ID/rename");
        let options = RenameContainerOptions {
            name: to.to_owned(),
        };
        let renamed = self.api().rename_container(name, options).await;
        renamed.map_err(|error| DockerError::of(RENAME, error))
    }

    /// Sets the restart policy; null means `no`. One that is not there is no error.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn restart_policy(&self, name: &str, policy: &Value) -> Result<(), DockerError> {
        const UPDATE: Call = Call::Change("POST /containers/ID/update");
        let policy = match policy {
            Value::Null => RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            },
            other => typed(UPDATE, other)?,
        };
        let body = ContainerUpdateBody {
            restart_policy: Some(policy),
            ..ContainerUpdateBody::default()
        };
        let updated = self.api().update_container(name, body).await;
        gone_is_fine(updated.map_err(|error| DockerError::of(UPDATE, error)))
    }

    /// Connects a container to a network.
    ///
    /// # Errors
    /// As the engine says: it is connected already, ...
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        endpoint: &Value,
    ) -> Result<(), DockerError> {
        const CONNECT: Call = Call::Change("POST /networks/ID/connect");
        let endpoint: EndpointSettings = typed(CONNECT, endpoint)?;
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(endpoint),
        };
        let connected = self.api().connect_network(network, request).await;
        connected.map_err(|error| DockerError::of(CONNECT, error))
    }

    /// Takes a container out of a network; one that is not in it is no error.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn disconnect_network(
        &self,
        network: &str,
        container: &str,
    ) -> Result<(), DockerError> {
        const DISCONNECT: Call = Call::Change("POST /networks/ID/disconnect");
        let request = NetworkDisconnectRequest {
            container: container.to_owned(),
            force: Some(true),
        };
        match self.api().disconnect_network(network, request).await {
            Ok(()) => Ok(()),
            Err(Error::DockerResponseServerError { message, .. })
                if message.contains("is not connected") =>
            {
                Ok(())
            }
            Err(error) => Err(DockerError::of(DISCONNECT, error)),
        }
    }

    /// Waits until a container has ended; gives its exit code. `None`: it is gone. A connection
    /// that breaks is opened again, for as long as somebody waits. Cancel-safe.
    ///
    /// # Errors
    /// As the engine says, other than that it cannot be reached.
    pub async fn wait(&self, name: &str) -> Result<Option<i64>, DockerError> {
        const WAIT: Call = Call::Change("POST /containers/ID/wait");
        loop {
            let options = WaitContainerOptions {
                condition: "not-running".to_owned(),
            };
            let ended = self.api().wait_container(name, Some(options)).next().await;
            match ended {
                Some(Ok(ended)) => return Ok(Some(ended.status_code)),
                Some(Err(Error::DockerContainerWaitError { code, .. })) => return Ok(Some(code)),
                Some(Err(error)) => match DockerError::of(WAIT, error) {
                    DockerError::NotFound { .. } => return Ok(None),
                    DockerError::Unreachable { .. } => {}
                    error => return Err(error),
                },
                None => {}
            }
            tokio::time::sleep(WAIT_AGAIN).await;
        }
    }

    /// The last lines that a container wrote, the oldest first, as a screen can show them.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn last_lines(&self, name: &str, lines: usize) -> Result<Vec<String>, DockerError> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: lines.to_string(),
            ..LogsOptions::default()
        };
        let mut stream = self.api().logs(name, Some(options));
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| DockerError::of(Call::Logs, error))?;
            bytes.extend_from_slice(&chunk.into_bytes());
            let more = bytes.len().saturating_sub(LOG_BYTES);
            bytes.drain(..more);
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<_> = text.lines().map(cut).collect();
        let skip = all.len().saturating_sub(lines);
        Ok(all.into_iter().skip(skip).collect())
    }

    /// What is known of a file in a container, running or not, volumes included; `None`: it is
    /// not there.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn file(&self, name: &str, path: &str) -> Result<Option<FileStat>, DockerError> {
        const STAT: Call = Call::Change("HEAD /containers/ID/archive");
        let options = ContainerArchiveInfoOptions {
            path: path.to_owned(),
        };
        let found = self.api().get_container_archive_info(name, Some(options));
        let stat = match found.await {
            Ok(stat) => stat,
            Err(error) => return missing(STAT, error),
        };
        let modified = stat.modification_time.as_deref();
        let modified = modified.and_then(|text| text.parse::<jiff::Timestamp>().ok());
        Ok(Some(FileStat {
            bytes: u64::try_from(stat.size).unwrap_or_default(),
            modified: modified.unwrap_or_default().into(),
            // The mode is Go's: the high bits say what is not a plain file.
            is_file: stat.file_mode & GO_MODE_TYPE == 0,
        }))
    }

    /// What a container uses now; `None`: it does not run.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn usage(&self, name: &str) -> Result<Option<Usage>, DockerError> {
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let stats = match self.api().stats(name, Some(options)).next().await {
            Some(Ok(stats)) => stats,
            Some(Err(error)) => return missing(Call::Stats, error),
            None => return Ok(None),
        };
        let limit = stats.memory_stats.as_ref().and_then(|memory| memory.limit);
        Ok(read::memory(&stats).map(|memory_bytes| Usage {
            memory_bytes,
            memory_limit_bytes: limit.unwrap_or_default(),
            cpu_ns: read::cpu(&stats).unwrap_or_default(),
        }))
    }
}

/// `fs.ModeDir`, `ModeSymlink`, `ModeDevice`, `ModeNamedPipe`, `ModeSocket`, `ModeCharDevice`,
/// `ModeIrregular` of Go's `io/fs`.
const GO_MODE_TYPE: u32 = 0x8f28_0000;

pub(super) fn json(call: Call, value: &impl serde::Serialize) -> Result<Value, DockerError> {
    serde_json::to_value(value).map_err(|error| DockerError::Failed {
        call,
        message: error.to_string(),
    })
}

fn typed<T: serde::de::DeserializeOwned>(call: Call, value: &Value) -> Result<T, DockerError> {
    serde_json::from_value(value.clone()).map_err(|error| DockerError::Failed {
        call,
        message: format!("this program does not know it: {error}"),
    })
}

/// 304: it is so already.
fn unless_so(call: Call, result: Result<(), Error>) -> Result<(), DockerError> {
    match result {
        Ok(())
        | Err(Error::DockerResponseServerError {
            status_code: 304, ..
        }) => Ok(()),
        Err(error) => Err(DockerError::of(call, error)),
    }
}

fn gone_is_fine(result: Result<(), DockerError>) -> Result<(), DockerError> {
    match result {
        Err(DockerError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

pub(super) fn missing<T>(call: Call, error: Error) -> Result<Option<T>, DockerError> {
    match DockerError::of(call, error) {
        DockerError::NotFound { .. } => Ok(None),
        error => Err(error),
    }
}
