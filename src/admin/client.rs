//! The client of the control API: what `proxyctl` and the container's health check use.
//!
//! Every call makes one connection. An error is always a [`ControlError`]: the daemon's own, or
//! one with [`ErrorCode::Unreachable`] that says which path was tried and what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::HEARTBEAT;
use super::wire::{
    CertificateReport, ConfigReport, ControlError, DecisionRequest, DeployRequest, Done, ErrorBody,
    ErrorCode, Event, ExplainReport, ExplainRequest, HistoryReport, HistoryRequest, JobRequest,
    JudgeReport, Operation, Outcome, OutcomeBody, Progress, ReadyReport, ReloadReport,
    RenewRequest, RollbackRequest, Status, SwitchRequest,
};

/// Asks the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the socket at `path`. Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `GET /v1/status`. Waits 10 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.call(Method::GET, "status", &(), READ_TIMEOUT).await
    }

    /// `GET /v1/ready`. Waits 10 s at most.
    ///
    /// # Errors
    /// Not ready, with the reason; or unreachable.
    pub async fn ready(&self) -> Result<ReadyReport, ControlError> {
        self.call(Method::GET, "ready", &(), READ_TIMEOUT).await
    }

    /// `GET /v1/config`. Waits 10 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn config(&self) -> Result<ConfigReport, ControlError> {
        self.call(Method::GET, "config", &(), READ_TIMEOUT).await
    }

    /// `POST /v1/explain`. Waits 10 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainReport, ControlError> {
        self.call(Method::POST, "explain", request, READ_TIMEOUT)
            .await
    }

    /// `POST /v1/reload`. Waits 60 s at most.
    ///
    /// # Errors
    /// The daemon's (then nothing was changed), or unreachable.
    pub async fn reload(&self) -> Result<ReloadReport, ControlError> {
        self.call(Method::POST, "reload", &(), WRITE_TIMEOUT).await
    }

    /// `POST /v1/promote`. Waits 60 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn promote(&self, request: &DecisionRequest) -> Result<Outcome, ControlError> {
        let body: OutcomeBody = self
            .call(Method::POST, "promote", request, WRITE_TIMEOUT)
            .await?;
        Ok(body.outcome)
    }

    /// `POST /v1/abort`. Waits 60 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn abort(&self, request: &DecisionRequest) -> Result<Outcome, ControlError> {
        let body: OutcomeBody = self
            .call(Method::POST, "abort", request, WRITE_TIMEOUT)
            .await?;
        Ok(body.outcome)
    }

    /// `POST /v1/operate`. Waits 60 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn operate(&self, operation: &Operation) -> Result<Done, ControlError> {
        self.call(Method::POST, "operate", operation, WRITE_TIMEOUT)
            .await
    }

    /// `GET /v1/judge`. Waits 10 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn judge(&self) -> Result<JudgeReport, ControlError> {
        self.call(Method::GET, "judge", &(), READ_TIMEOUT).await
    }

    /// `POST /v1/history`. Waits 10 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn history(&self, request: &HistoryRequest) -> Result<HistoryReport, ControlError> {
        self.call(Method::POST, "history", request, READ_TIMEOUT)
            .await
    }

    /// `GET /v1/certificates`. Waits 10 s at most.
    ///
    /// # Errors
    /// The daemon's, or unreachable.
    pub async fn certificates(&self) -> Result<CertificateReport, ControlError> {
        self.call(Method::GET, "certificates", &(), READ_TIMEOUT)
            .await
    }

    /// `POST /v1/renew`. Waits 11 min at most: the CA takes its time.
    ///
    /// # Errors
    /// The daemon's, or unreachable; in the latter case the order goes on.
    pub async fn renew(&self, request: &RenewRequest) -> Result<Done, ControlError> {
        self.call(Method::POST, "renew", request, RENEW_TIMEOUT)
            .await
    }

    /// `POST /v1/switch`. Waits as long as the daemon shows that it is alive. Dropping the
    /// future detaches: the daemon goes on.
    ///
    /// # Errors
    /// The daemon's, or unreachable; in the latter case the switch may go on.
    pub async fn switch(
        &self,
        request: &SwitchRequest,
        on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Outcome, ControlError> {
        self.follow("switch", request, on_progress).await
    }

    /// `POST /v1/deploy`. As [`Client::switch`].
    ///
    /// # Errors
    /// As [`Client::switch`].
    pub async fn deploy(
        &self,
        request: &DeployRequest,
        on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Outcome, ControlError> {
        self.follow("deploy", request, on_progress).await
    }

    /// `POST /v1/job`. As [`Client::switch`].
    ///
    /// # Errors
    /// As [`Client::switch`].
    pub async fn job(&self, request: &JobRequest) -> Result<Outcome, ControlError> {
        self.follow("job", request, |_| ()).await
    }

    /// `POST /v1/rollback`. As [`Client::switch`].
    ///
    /// # Errors
    /// As [`Client::switch`].
    pub async fn rollback(
        &self,
        request: &RollbackRequest,
        on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Outcome, ControlError> {
        self.follow("rollback", request, on_progress).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        verb: &str,
        body: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<T, ControlError> {
        let exchange = async {
            let (response, _connection) = self.send(method, verb, body).await?;
            let status = response.status();
            let bytes = response
                .into_body()
                .collect()
                .await
                .map_err(|error| self.broken(&error))?
                .to_bytes();
            if status.is_success() {
                serde_json::from_slice(&bytes).map_err(|error| self.not_understood(&error))
            } else {
                Err(self.error(&bytes))
            }
        };
        timeout(limit, exchange).await.map_err(|_| self.silent())?
    }

    async fn follow(
        &self,
        verb: &str,
        body: &(impl Serialize + Sync),
        mut on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Outcome, ControlError> {
        let (response, _connection) = timeout(SILENCE, self.send(Method::POST, verb, body))
            .await
            .map_err(|_| self.silent())??;
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        loop {
            let frame = timeout(SILENCE, body.frame())
                .await
                .map_err(|_| self.silent())?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| self.broken(&error))?;
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if buffer.len() > MAX_LINE_BYTES {
                return Err(self.not_understood(&"a line without end"));
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Event::Progress(progress)) => on_progress(*progress),
                    Ok(Event::Outcome(outcome)) => return Ok(outcome),
                    Ok(Event::Error(error)) => return Err(error),
                    // A heartbeat, or an event of a newer daemon.
                    Err(_) => {}
                }
            }
        }
        // A plain answer has no newline at its end.
        match serde_json::from_slice(&buffer) {
            Ok(Event::Outcome(outcome)) => Ok(outcome),
            Ok(Event::Error(error)) => Err(error),
            Ok(Event::Progress(_)) | Err(_) => Err(self.broken(&"it hung up without an outcome")),
        }
    }

    async fn send(
        &self,
        method: Method,
        verb: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(Response<Incoming>, Connection), ControlError> {
        let stream = match timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.path)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.cannot_connect(&error)),
            Err(_) => return Err(self.silent()),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|error| self.broken(&error))?;
        let connection = Connection(tokio::spawn(async move {
            // Its error reaches the exchange as well.
            let _ = connection.await;
        }));
        let body = if method == Method::GET {
            Vec::new()
        } else {
            serde_json::to_vec(body).map_err(|error| self.not_understood(&error))?
        };
        let body = if body == b"null" { Vec::new() } else { body };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{verb}"))
            .header(header::HOST, "cutover")
            .header(header::CONTENT_TYPE, super::wire::JSON)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(&error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))?;
        Ok((response, connection))
    }

    fn error(&self, bytes: &[u8]) -> ControlError {
        match serde_json::from_slice::<ErrorBody>(bytes) {
            Ok(body) => body.error,
            Err(error) => self.not_understood(&error),
        }
    }

    fn cannot_connect(&self, error: &std::io::Error) -> ControlError {
        let path = self.path.display();
        let message = match error.kind() {
            ErrorKind::NotFound => format!(
                "cannot reach the daemon: there is no socket at {path}. Is cutover running? \
                 Start it, or name its socket with --addr or PROXYCTL_ADDR"
            ),
            ErrorKind::ConnectionRefused => format!(
                "cannot reach the daemon: nobody answers at {path}. The daemon that made the \
                 socket is gone; start cutover again"
            ),
            ErrorKind::PermissionDenied => format!(
                "cannot reach the daemon: this user may not open {path}. Run as root or as the \
                 user of the daemon, or name another socket with --addr"
            ),
            _ => format!("cannot reach the daemon at {path}: {error}"),
        };
        ControlError::new(ErrorCode::Unreachable, message)
    }

    fn silent(&self) -> ControlError {
        ControlError::new(
            ErrorCode::Unreachable,
            format!(
                "the daemon at {} does not answer. It may be stuck or overloaded; what it was \
                 asked to do may still happen. Look at its log",
                self.path.display()
            ),
        )
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ControlError {
        ControlError::new(
            ErrorCode::Unreachable,
            format!(
                "the connection to the daemon at {} broke: {error}. Ask `proxyctl status` what \
                 became of it",
                self.path.display()
            ),
        )
    }

    fn not_understood(&self, error: &dyn std::fmt::Display) -> ControlError {
        ControlError::new(
            ErrorCode::Unreachable,
            format!(
                "what answers at {} is not a cutover daemon that this proxyctl understands: \
                 {error}",
                self.path.display()
            ),
        )
    }
}

/// The task that drives a connection; ends with the exchange.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than the daemon waits for the CA.
const RENEW_TIMEOUT: Duration = Duration::from_secs(660);

/// Silence on a stream after which the daemon counts as stuck: four heartbeats and a half.
const SILENCE: Duration = HEARTBEAT
    .saturating_mul(4)
    .saturating_add(Duration::from_secs(5));

/// Longest line of a stream, in bytes: far above a progress line with hundreds of upstreams.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;
