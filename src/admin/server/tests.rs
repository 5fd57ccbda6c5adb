use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::admin::client::Client;
use crate::admin::wire::{
    CertificateReport, ConfigReport, Done, ExplainReport, HistoryReport, JudgeReport, OutcomeKind,
    Phase, ReloadReport, RenewRequest, Status, SwitchStatus,
};
use crate::history::Entry;
use crate::model::Color;

/// A daemon that does what the test says.
#[derive(Default)]
struct Fake {
    /// Who asked for what, in order.
    calls: Mutex<Vec<String>>,
    /// Whether a switch waits until its client has left instead of for `finish`.
    until_left: bool,
    /// A switch says one thing, then waits for this.
    finish: Notify,
    finished: Notify,
}

impl Fake {
    fn log(&self, actor: &Actor, what: &str) {
        self.calls
            .lock()
            .unwrap()
            .push(format!("{} {what}", actor.uid));
    }
}

fn progress(message: &str) -> Progress {
    Progress {
        deploy: None,
        tick: false,
        message: message.to_owned(),
        switch: SwitchStatus {
            services: vec!["web".into()],
            target: Color::Green,
            phase: Phase::Gate,
            actor: String::new(),
            elapsed_ms: 1,
            planned_ms: None,
            limit_ms: None,
            requests: 0,
            requests_needed: None,
            canary: None,
            new: None,
            old: None,
            gate: Vec::new(),
            reason: None,
        },
    }
}

fn ended(result: OutcomeKind) -> Outcome {
    Outcome {
        result,
        message: "done".to_owned(),
        services: vec!["web".into()],
        live: Some(Color::Green),
        details: Vec::new(),
    }
}

#[async_trait]
impl Control for Fake {
    async fn status(&self) -> Status {
        Status {
            version: "9.9.9".to_owned(),
            ..Status::default()
        }
    }

    async fn switch(
        &self,
        actor: Actor,
        request: SwitchRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        self.log(&actor, &format!("switch {}", request.target));
        if request.target == Color::Blue {
            return Err(ControlError::new(
                ErrorCode::Busy,
                "another switch is running",
            ));
        }
        reporter.report(progress("waiting for green"));
        if self.until_left {
            reporter.0.closed().await;
            // A cancellation takes effect at the next await.
            tokio::task::yield_now().await;
        } else {
            self.finish.notified().await;
        }
        reporter.report(progress("gate passed"));
        self.finished.notify_one();
        Ok(ended(OutcomeKind::Kept))
    }

    async fn deploy(
        &self,
        actor: Actor,
        request: DeployRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        self.log(&actor, &format!("deploy {}", request.image));
        reporter.report(progress("pulling"));
        Ok(ended(OutcomeKind::Kept))
    }

    async fn job(&self, actor: Actor, request: JobRequest) -> Result<Outcome, ControlError> {
        self.log(&actor, &format!("job {}", request.name));
        Ok(ended(OutcomeKind::Done))
    }

    async fn rollback(
        &self,
        actor: Actor,
        _request: RollbackRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        self.log(&actor, "rollback");
        reporter.report(progress("going back"));
        panic!("a bug in the daemon");
    }

    async fn promote(&self, actor: Actor, _: DecisionRequest) -> Result<Outcome, ControlError> {
        self.log(&actor, "promote");
        Ok(ended(OutcomeKind::Kept))
    }

    async fn abort(&self, _: Actor, _: DecisionRequest) -> Result<Outcome, ControlError> {
        Err(ControlError::new(
            ErrorCode::NothingToUndo,
            "no switch is running",
        ))
    }

    async fn reload(&self, _actor: Actor) -> Result<ReloadReport, ControlError> {
        Err(
            ControlError::new(ErrorCode::InvalidConfig, "nothing was changed")
                .with_details(["cutover.toml:1:1: bad"]),
        )
    }

    async fn operate(&self, actor: Actor, operation: Operation) -> Result<Done, ControlError> {
        Ok(Done {
            done: vec![format!("{operation:?} by {}", actor.uid)],
            warnings: Vec::new(),
        })
    }

    async fn history(&self, request: HistoryRequest) -> Result<HistoryReport, ControlError> {
        let entry = Entry {
            at_ms: 1_800_000_000_000,
            what: "switch".to_owned(),
            who: "ann (uid 1000)".to_owned(),
            services: request.service.into_iter().collect(),
            from: Some(Color::Blue),
            to: Some(Color::Green),
            result: "kept".to_owned(),
            why: format!("limit {:?}", request.limit),
            gate_ms: Some(1_500),
            requests: Some(5_000),
            failures: Some(2),
            ..Entry::default()
        };
        Ok(HistoryReport {
            history: vec![entry],
        })
    }

    async fn judge(&self) -> Result<JudgeReport, ControlError> {
        Ok(JudgeReport::default())
    }

    async fn certificates(&self) -> Result<CertificateReport, ControlError> {
        Ok(CertificateReport::default())
    }

    async fn renew(&self, _: Actor, request: RenewRequest) -> Result<Done, ControlError> {
        Ok(Done {
            done: vec![format!("{}: issued by nobody", request.host)],
            ..Done::default()
        })
    }

    async fn config(&self) -> Result<ConfigReport, ControlError> {
        Ok(ConfigReport::default())
    }

    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, ControlError> {
        Ok(ExplainReport {
            site: Some(request.url),
            ..ExplainReport::default()
        })
    }

    fn ready(&self) -> Result<(), String> {
        Err("listeners are not bound yet".to_owned())
    }
}

struct Daemon {
    path: PathBuf,
    fake: Arc<Fake>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _root: tempfile::TempDir,
}

fn daemon_for(fake: Fake, allowed: fn(u32) -> bool) -> Daemon {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("admin.sock");
    let socket = AdminSocket::bind(&path).unwrap();
    let fake = Arc::new(fake);
    let (stop, stopped) = oneshot::channel();
    let control = Arc::clone(&fake) as Arc<dyn Control>;
    let server = tokio::spawn(serve_peers(
        socket,
        control,
        async {
            let _ = stopped.await;
        },
        allowed,
    ));
    Daemon {
        path,
        fake,
        stop,
        server,
        _root: root,
    }
}

fn daemon() -> Daemon {
    daemon_for(Fake::default(), is_allowed)
}

async fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // An answer may come, and the connection be closed, before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn switch_to(target: Color) -> SwitchRequest {
    serde_json::from_value(serde_json::json!({ "target": target })).unwrap()
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test]
async fn simple_verbs_answer_and_carry_the_peers_uid() {
    let daemon = daemon();
    let client = Client::new(&daemon.path);
    assert_eq!(client.status().await.unwrap().version, "9.9.9");
    assert_eq!(
        client
            .promote(&DecisionRequest::default())
            .await
            .unwrap()
            .result,
        OutcomeKind::Kept
    );
    let error = client.abort(&DecisionRequest::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NothingToUndo);
    let error = client.reload().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidConfig);
    assert_eq!(error.details, ["cutover.toml:1:1: bad"]);
    let error = client.ready().await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::NotReady, "listeners are not bound yet")
    );
    assert_eq!(
        *daemon.fake.calls.lock().unwrap(),
        [format!("{} promote", own_uid())]
    );
}

#[tokio::test]
async fn a_stream_ends_with_its_outcome() {
    let daemon = daemon();
    let client = Client::new(&daemon.path);
    let mut lines = Vec::new();
    let outcome = client
        .switch(&switch_to(Color::Green), |progress| {
            lines.push(progress.message);
            daemon.fake.finish.notify_one();
        })
        .await
        .unwrap();
    assert_eq!(outcome, ended(OutcomeKind::Kept));
    assert_eq!(lines, ["waiting for green", "gate passed"]);
}

#[tokio::test]
async fn a_refusal_at_once_is_a_plain_answer_with_its_status() {
    let daemon = daemon();
    let client = Client::new(&daemon.path);
    let error = client
        .switch(&switch_to(Color::Blue), |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Busy);
    let body = r#"{"target":"blue"}"#;
    let answer = raw(
        &daemon.path,
        format!(
            "POST /v1/switch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    assert!(answer.ends_with(r#"{"error":{"code":"busy","message":"another switch is running"}}"#));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_switch() {
    let daemon = daemon_for(
        Fake {
            until_left: true,
            ..Fake::default()
        },
        is_allowed,
    );
    let client = Client::new(&daemon.path);
    let (seen, first) = oneshot::channel();
    let mut seen = Some(seen);
    let request = switch_to(Color::Green);
    let call = tokio::spawn(async move {
        client
            .switch(&request, move |_| {
                let _ = seen.take().map(|seen| seen.send(()));
            })
            .await
    });
    first.await.unwrap();
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    tokio::time::timeout(Duration::from_secs(10), daemon.fake.finished.notified())
        .await
        .expect("the switch went on to its end");
}

#[tokio::test]
async fn a_verb_that_panics_ends_its_stream_with_an_error() {
    let daemon = daemon();
    let client = Client::new(&daemon.path);
    let request = RollbackRequest {
        wait: true,
        id: None,
        why: None,
    };
    let error = client.rollback(&request, |_| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    assert_eq!(client.status().await.unwrap().version, "9.9.9");
}

#[tokio::test]
async fn a_peer_that_is_not_allowed_reaches_no_verb() {
    let daemon = daemon_for(Fake::default(), |_| false);
    let client = Client::new(&daemon.path);
    let error = client
        .promote(&DecisionRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Forbidden);
    assert!(error.message.contains(&format!("uid {}", own_uid())));
    assert!(daemon.fake.calls.lock().unwrap().is_empty());
    assert!(is_allowed(0) && is_allowed(own_uid()) && !is_allowed(own_uid() + 1));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let daemon = daemon();
    let body = vec![b' '; MAX_BODY_BYTES + 1];
    let mut bytes = format!(
        "POST /v1/switch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    let answer = raw(&daemon.path, &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("at most 65536 bytes"), "{answer}");
    assert!(daemon.fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_client_is_served() {
    let daemon = daemon();
    for (sent, wanted) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], "HTTP/1.1 400 "),
        (
            b"POST /v1/switch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{\"t",
            "HTTP/1.1 400 ",
        ),
        (
            b"GET /v1/switch HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 405 ",
        ),
        (
            b"POST /v1/deploy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 400 ",
        ),
        (
            b"GET /v2/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 400 ",
        ),
    ] {
        let answer = raw(&daemon.path, sent).await;
        assert!(answer.starts_with(wanted), "{wanted}: {answer}");
    }
    let status = Client::new(&daemon.path).status().await.unwrap();
    assert_eq!(status.version, "9.9.9");
    assert!(daemon.fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stop_removes_the_socket_and_says_goodbye_to_idle_clients() {
    let daemon = daemon();
    let mut idle = UnixStream::connect(&daemon.path).await.unwrap();
    Client::new(&daemon.path).status().await.unwrap();
    daemon.stop.send(()).unwrap();
    tokio::time::timeout(STOP_GRACE * 9 / 10, daemon.server)
        .await
        .expect("nothing is waited for")
        .unwrap();
    assert!(!daemon.path.exists());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    let error = Client::new(&daemon.path).status().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
    assert!(error.message.contains("there is no socket at"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_switch_shows_that_it_is_alive() {
    let (sender, mut lines) = mpsc::channel(1);
    let (_reporter, events) = Reporter::channel();
    let verb = tokio::spawn(async {
        tokio::time::sleep(HEARTBEAT * 3).await;
        Ok(ended(OutcomeKind::Kept))
    });
    tokio::spawn(pump(verb, None, events, sender));
    let mut seen = Vec::new();
    while let Some(line) = lines.recv().await {
        seen.push(line);
    }
    assert!(seen.len() >= 3, "{seen:?}");
    assert_eq!(seen[0], "\n");
    assert!(seen[seen.len() - 1].starts_with(b"{\"outcome\""));
}
