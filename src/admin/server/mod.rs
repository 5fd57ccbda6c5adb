//! The control API over HTTP/1.1 on the admin socket.
//!
//! A connection is heard if the kernel says that its peer is root or the daemon's own user.
//! Every verb runs in a task of its own, so a client that goes away detaches: the switch goes
//! on. Long verbs answer with one JSON line per event and a blank line every [`HEARTBEAT`], by
//! which the client tells a daemon that has nothing to say from one that is stuck.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use super::body::{AnyBody, Lines, error, full, json, refuse};
use super::control::{Actor, Control, Reporter};
use super::listen::AdminSocket;
use super::wire::{
    ControlError, DecisionRequest, DeployRequest, ErrorCode, Event, ExplainRequest, HistoryRequest,
    JSON_LINES, JobRequest, Operation, Outcome, OutcomeBody, Progress, ReadyReport, RenewRequest,
    RollbackRequest, SwitchRequest,
};

/// Longest request body, in bytes. The largest real one is an `explain` with many headers.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Connections at a time; more wait in the backlog.
pub const MAX_CONNECTIONS: usize = 128;

/// Silence on a stream after which a blank line is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// For the whole request head, and for the whole request body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a long verb may be silent before its stream begins anyway, so that heartbeats flow.
const FIRST_EVENT: Duration = Duration::from_secs(1);

/// How long open answers may take once a stop was asked for.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Answers on `socket` until `stop` resolves, then gives open answers two seconds. The verbs
/// themselves are not cancelled by a stop.
pub async fn serve(
    socket: AdminSocket,
    control: Arc<dyn Control>,
    stop: impl Future<Output = ()> + Send,
) {
    serve_peers(socket, control, stop, is_allowed).await;
}

/// Root and the user that the daemon runs as.
fn is_allowed(peer_uid: u32) -> bool {
    peer_uid == 0 || peer_uid == nix::unistd::geteuid().as_raw()
}

async fn serve_peers(
    socket: AdminSocket,
    control: Arc<dyn Control>,
    stop: impl Future<Output = ()> + Send,
    allowed: fn(u32) -> bool,
) {
    let mut stop = pin!(stop);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, socket.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accept => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                let connection = connection(stream, Arc::clone(&control), allowed, stopped.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    connection.await;
                });
            }
            Err(error) => {
                warn!(%error, "admin accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    stopping.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
        debug!("admin clients were cut off");
    }
}

async fn connection(
    stream: UnixStream,
    control: Arc<dyn Control>,
    allowed: fn(u32) -> bool,
    mut stopped: watch::Receiver<bool>,
) {
    let uid = match stream.peer_cred() {
        Ok(peer) => peer.uid(),
        Err(error) => {
            warn!(%error, "admin peer is unknown");
            return;
        }
    };
    let permitted = allowed(uid);
    if !permitted {
        warn!(uid, "admin peer refused");
    }
    let service = service_fn(move |request| {
        let control = Arc::clone(&control);
        async move {
            let response = if permitted {
                answer(request, control, uid).await
            } else {
                refuse(
                    ErrorCode::Forbidden,
                    format!(
                        "uid {uid} may not use the admin socket: run as root or as the user of the daemon"
                    ),
                )
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // A closed channel means that the server is gone: a stop as well.
    let stop = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "admin connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    control: Arc<dyn Control>,
    uid: u32,
) -> Response<AnyBody> {
    let path = request.uri().path().to_owned();
    let Some(verb) = path.strip_prefix("/v1/") else {
        return refuse(ErrorCode::Usage, format!("no such path: {path}"));
    };
    let wanted = match verb {
        "status" | "config" | "ready" | "certificates" | "judge" => Method::GET,
        "switch" | "deploy" | "job" | "rollback" | "promote" | "abort" | "reload" | "explain"
        | "operate" | "history" | "renew" => Method::POST,
        _ => {
            return refuse(
                ErrorCode::Unsupported,
                format!("this version of the daemon has no verb `{verb}`"),
            );
        }
    };
    if *request.method() != wanted {
        let mut response = refuse(ErrorCode::Usage, format!("{path} wants {wanted}"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        if let Ok(value) = wanted.as_str().parse() {
            response.headers_mut().insert(header::ALLOW, value);
        }
        return response;
    }
    match dispatch(verb, request, control, uid).await {
        Ok(response) => response,
        Err(failure) => error(failure),
    }
}

async fn dispatch(
    verb: &str,
    request: Request<Incoming>,
    control: Arc<dyn Control>,
    uid: u32,
) -> Result<Response<AnyBody>, ControlError> {
    match verb {
        "status" => Ok(ok(&detached(async move { control.status().await }).await?)),
        "config" => value(detached(async move { control.config().await }).await?),
        "ready" => match control.ready() {
            Ok(()) => Ok(ok(&ReadyReport { ready: true })),
            Err(reason) => Err(ControlError::new(ErrorCode::NotReady, reason)),
        },
        "explain" => {
            let request: ExplainRequest = read(request).await?;
            value(detached(async move { control.explain(request).await }).await?)
        }
        "history" => {
            let request: HistoryRequest = read(request).await?;
            value(detached(async move { control.history(request).await }).await?)
        }
        "judge" => value(detached(async move { control.judge().await }).await?),
        "certificates" => value(detached(async move { control.certificates().await }).await?),
        "renew" => {
            let request: RenewRequest = read(request).await?;
            let actor = actor(uid).await;
            value(detached(async move { control.renew(actor, request).await }).await?)
        }
        "operate" => {
            let operation: Operation = read(request).await?;
            let actor = actor(uid).await;
            info!(%actor, ?operation, "asked for");
            value(detached(async move { control.operate(actor, operation).await }).await?)
        }
        "switch" => {
            let request: SwitchRequest = read(request).await?;
            let actor = actor(uid).await;
            info!(%actor, target = %request.target, force = request.force, "switch asked for");
            let (reporter, progress) = Reporter::channel();
            let verb = async move { control.switch(actor, request, reporter).await };
            stream(tokio::spawn(verb), progress).await
        }
        "deploy" => {
            let request: DeployRequest = read(request).await?;
            let actor = actor(uid).await;
            let image = &request.image;
            info!(%actor, image, force = request.force, dry_run = request.dry_run, "deploy asked for");
            let (reporter, progress) = Reporter::channel();
            let verb = async move { control.deploy(actor, request, reporter).await };
            stream(tokio::spawn(verb), progress).await
        }
        "job" => {
            let request: JobRequest = read(request).await?;
            let actor = actor(uid).await;
            info!(%actor, job = request.name, "job asked for");
            // It has nothing to tell before its end: the stream shows that the daemon is alive.
            let (_, progress) = Reporter::channel();
            let verb = async move { control.job(actor, request).await };
            stream(tokio::spawn(verb), progress).await
        }
        "rollback" => {
            let request: RollbackRequest = read(request).await?;
            let actor = actor(uid).await;
            info!(%actor, "rollback asked for");
            let (reporter, progress) = Reporter::channel();
            let verb = async move { control.rollback(actor, request, reporter).await };
            stream(tokio::spawn(verb), progress).await
        }
        "promote" => {
            let request: DecisionRequest = read(request).await?;
            let actor = actor(uid).await;
            info!(%actor, "promote asked for");
            outcome(detached(async move { control.promote(actor, request).await }).await?)
        }
        "abort" => {
            let request: DecisionRequest = read(request).await?;
            let actor = actor(uid).await;
            info!(%actor, "abort asked for");
            outcome(detached(async move { control.abort(actor, request).await }).await?)
        }
        // `answer` lets no other verb through.
        _ => {
            let actor = actor(uid).await;
            info!(%actor, "reload asked for");
            value(detached(async move { control.reload(actor).await }).await?)
        }
    }
}

async fn actor(uid: u32) -> Actor {
    match tokio::task::spawn_blocking(move || Actor::of(uid)).await {
        Ok(actor) => actor,
        Err(_) => Actor {
            uid,
            name: uid.to_string(),
        },
    }
}

/// Runs a verb to its end even if the client leaves while it waits for the answer.
async fn detached<T: Send + 'static>(
    verb: impl Future<Output = T> + Send + 'static,
) -> Result<T, ControlError> {
    tokio::spawn(verb).await.map_err(broken)
}

fn broken(error: tokio::task::JoinError) -> ControlError {
    ControlError::new(
        ErrorCode::Internal,
        format!("the verb broke off: {error}; see the log of the daemon"),
    )
}

fn ok(value: &impl Serialize) -> Response<AnyBody> {
    json(StatusCode::OK, value)
}

fn value<T: Serialize>(result: Result<T, ControlError>) -> Result<Response<AnyBody>, ControlError> {
    result.map(|value| ok(&value))
}

fn outcome(result: Result<Outcome, ControlError>) -> Result<Response<AnyBody>, ControlError> {
    value(result.map(|outcome| OutcomeBody { outcome }))
}

/// The body as JSON; an empty one counts as `{}`.
async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, ControlError> {
    let usage = |message: String| ControlError::new(ErrorCode::Usage, message);
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let bytes = match tokio::time::timeout(REQUEST_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return Err(usage(format!(
                "cannot read the request: {error} (at most {MAX_BODY_BYTES} bytes)"
            )));
        }
        Err(_) => return Err(usage("the request body did not come in time".to_owned())),
    };
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| usage(format!("bad request: {error}")))
}

/// Answers a long verb. One that ends at once, as most refusals do, gets a plain answer with
/// its own status; otherwise the answer is a stream whose last line is the outcome or error.
async fn stream(
    mut verb: JoinHandle<Result<Outcome, ControlError>>,
    mut progress: mpsc::Receiver<Progress>,
) -> Result<Response<AnyBody>, ControlError> {
    let first = tokio::select! {
        biased;
        Some(first) = progress.recv() => Some(first),
        () = tokio::time::sleep(FIRST_EVENT) => None,
        result = &mut verb => return outcome(result.map_err(broken)?),
    };
    let (sender, lines) = mpsc::channel(1);
    tokio::spawn(pump(verb, first, progress, sender));
    let mut response = full(StatusCode::OK, JSON_LINES, Bytes::new());
    *response.body_mut() = Lines(lines).boxed_unsync();
    Ok(response)
}

/// Copies events to the client until it leaves or the verb ends. The verb is never cancelled:
/// dropping its handle detaches it.
async fn pump(
    mut verb: JoinHandle<Result<Outcome, ControlError>>,
    first: Option<Progress>,
    mut progress: mpsc::Receiver<Progress>,
    sender: mpsc::Sender<Bytes>,
) {
    let mut next = first.map(|first| line(&Event::Progress(Box::new(first))));
    let last = loop {
        if let Some(bytes) = next.take()
            && sender.send(bytes).await.is_err()
        {
            return;
        }
        tokio::select! {
            biased;
            Some(event) = progress.recv() => next = Some(line(&Event::Progress(Box::new(event)))),
            result = &mut verb => break result,
            () = tokio::time::sleep(HEARTBEAT) => next = Some(Bytes::from_static(b"\n")),
            () = sender.closed() => return,
        }
    };
    while let Ok(event) = progress.try_recv() {
        if sender
            .send(line(&Event::Progress(Box::new(event))))
            .await
            .is_err()
        {
            return;
        }
    }
    let last = match last {
        Ok(Ok(outcome)) => Event::Outcome(outcome),
        Ok(Err(error)) => Event::Error(error),
        Err(error) => Event::Error(broken(error)),
    };
    // A client that left has nothing to be told.
    let _ = sender.send(line(&last)).await;
}

fn line(event: &Event) -> Bytes {
    let mut bytes = serde_json::to_vec(event).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

#[cfg(test)]
mod tests;
