//! `proxyctl` as a script sees it: exact output and exit codes, against a daemon in this
//! process that says what the test wants.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cutover::admin::listen::AdminSocket;
use cutover::admin::wire::{
    Candidate, Certificate, CertificateReport, ConfigReport, ContainerRole, ContainerStatus,
    ControlError, DecisionRequest, DeployRequest, DeployStatus, Done, DrainStatus, ErrorCode,
    ExplainReport, ExplainRequest, FailingRoute, FailureSample, GateFailure, HistoryReport,
    HistoryRequest, InFlight, JobRequest, JobStatus, JudgeReport, JudgeService, Operation, Outcome,
    OutcomeKind, Phase, Progress, ReloadReport, RenewRequest, RollbackRequest, ServiceState,
    ServiceStatus, Share, SlotStatus, Slots, Status, SwitchRequest, SwitchStatus, Tally,
    UpstreamStatus,
};
use cutover::admin::{Actor, Control, Reporter, server};
use cutover::clock;
use cutover::config::step::Hashed;
use cutover::history::Entry;
use cutover::model::Color;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::Notify;

/// What the daemon says next, and what it was asked.
struct Fake {
    ready: Mutex<Result<(), String>>,
    end: Mutex<Result<OutcomeKind, ControlError>>,
    asked: Mutex<Vec<SwitchRequest>>,
    deployed: Mutex<Vec<DeployRequest>>,
    /// Whether the status has a deploy, containers and jobs.
    with_containers: bool,
    looks: AtomicUsize,
    /// Holds a switch after its first event.
    gate: Option<Notify>,
    finished: Notify,
}

impl Fake {
    fn new() -> Self {
        Self {
            ready: Mutex::new(Ok(())),
            end: Mutex::new(Ok(OutcomeKind::Kept)),
            asked: Mutex::new(Vec::new()),
            deployed: Mutex::default(),
            with_containers: false,
            looks: AtomicUsize::new(0),
            gate: None,
            finished: Notify::new(),
        }
    }

    fn outcome(&self) -> Result<Outcome, ControlError> {
        self.end.lock().unwrap().clone().map(|result| Outcome {
            result,
            message: match result {
                OutcomeKind::RolledBack => "blue is live on web: error rate 12% of 0.1%",
                OutcomeKind::Held => "both colors stay up on web, a person decides",
                OutcomeKind::Done => "job backup did well in 2 s",
                _ => "green is live on web",
            }
            .to_owned(),
            services: vec!["web".into()],
            live: Some(Color::Green),
            details: Vec::new(),
        })
    }
}

fn switch_status(phase: Phase) -> SwitchStatus {
    SwitchStatus {
        services: vec!["web".into()],
        target: Color::Green,
        phase,
        actor: "root".to_owned(),
        elapsed_ms: 130_000,
        planned_ms: Some(300_000),
        limit_ms: Some(1_800_000),
        requests: 3_100,
        requests_needed: Some(5_000),
        canary: None,
        new: Some(Tally {
            requests: 3_100,
            failures: 4,
            p99_ms: None,
        }),
        old: Some(Tally {
            requests: 90_000,
            failures: 90,
            p99_ms: None,
        }),
        gate: Vec::new(),
        reason: None,
    }
}

fn upstream(address: &str, healthy: Option<bool>, reason: Option<&str>) -> UpstreamStatus {
    UpstreamStatus {
        address: address.to_owned(),
        healthy,
        reason: reason.map(str::to_owned),
        probe_ms: healthy.filter(|up| *up).map(|_| 2.4),
        container: None,
    }
}

fn full_status() -> Status {
    Status {
        services: vec![
            ServiceStatus {
                name: "api".into(),
                live: Color::Blue,
                state: ServiceState::Stable,
                slots: Slots {
                    blue: SlotStatus {
                        upstreams: vec![upstream("unix:/run/api.sock", None, None)],
                        ..SlotStatus::default()
                    },
                    green: SlotStatus::default(),
                },
                stack: "back".into(),
                switch: None,
                drains: Vec::new(),
                hold: None,
            },
            ServiceStatus {
                name: "web".into(),
                live: Color::Green,
                state: ServiceState::Observe,
                slots: Slots {
                    blue: SlotStatus {
                        release: Some("v1".into()),
                        upstreams: vec![upstream("10.0.0.1:3000", Some(true), None)],
                        in_flight: InFlight::from_counts([0, 1, 0]),
                        ..SlotStatus::default()
                    },
                    green: SlotStatus {
                        release: Some("v2".into()),
                        upstreams: vec![
                            upstream("10.0.0.2:3000", Some(true), None),
                            upstream("10.0.0.33:3000", Some(false), Some("connection refused")),
                        ],
                        in_flight: InFlight::from_counts([3, 1, 0]),
                        generation: Some(8),
                        rps: 41.23,
                        error_rate: Some(0.0012),
                        p50_ms: Some(12.4),
                        p99_ms: Some(80.2),
                    },
                },
                stack: "default".into(),
                switch: Some(switch_status(Phase::Observe)),
                drains: vec![DrainStatus {
                    color: Color::Blue,
                    generation: 7,
                    in_flight: InFlight::from_counts([3, 1, 0]),
                    elapsed_ms: 18_000,
                    deadline_ms: 12_000,
                    blocking: Vec::new(),
                }],
                hold: None,
            },
        ],
        certificates: vec![
            Certificate {
                host: "example.com".to_owned(),
                issuer: Some("internal".to_owned()),
                expires: Some("2030-01-01T00:00:00Z".to_owned()),
                expires_in_s: Some(53 * 86_400),
                error: None,
            },
            Certificate {
                host: "api.example.com".to_owned(),
                issuer: None,
                expires: None,
                expires_in_s: None,
                error: Some("no such file: api.pem".to_owned()),
            },
        ],
        docker: None,
        deploy: None,
        containers: Vec::new(),
        jobs: Vec::new(),
        freeze: None,
        maintenance: Vec::new(),
        warnings: vec!["ops listens on every address".to_owned()],
        version: "0.1.0".to_owned(),
        uptime_s: 273_900,
        config: Some("/etc/cutover/cutover.toml".to_owned()),
    }
}

/// A deploy that goes on, the container that it replaces, and a job.
fn with_containers() -> Status {
    Status {
        deploy: Some(DeployStatus {
            id: "d8".to_owned(),
            release: "v2".to_owned(),
            step: "pull shop:v2".to_owned(),
            done: 3,
            of: 19,
            ..DeployStatus::default()
        }),
        containers: vec![ContainerStatus {
            name: "shop-web-green-d7".to_owned(),
            service: Some("web".into()),
            color: Some(Color::Green),
            role: ContainerRole::Live,
            release: Some("v2".to_owned()),
            image: "shop:v2".to_owned(),
            image_id: "sha256:0123456789abcdef".to_owned(),
            digest: None,
            state: "running".to_owned(),
            health: Some("healthy".to_owned()),
            age_s: Some(90),
            restarts: 0,
            memory_bytes: Some(12 << 20),
            memory_limit_bytes: None,
            cpu: Some(0.03),
        }],
        jobs: vec![JobStatus {
            name: "backup".to_owned(),
            next: Some("2027-01-16T03:00:00Z".to_owned()),
            last_good: None,
            failure: Some("exit code 1".to_owned()),
        }],
        ..full_status()
    }
}

#[async_trait]
impl Control for Fake {
    async fn status(&self) -> Status {
        self.looks.fetch_add(1, Ordering::SeqCst);
        match self.with_containers {
            true => with_containers(),
            false => full_status(),
        }
    }

    async fn deploy(
        &self,
        _actor: Actor,
        request: DeployRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        self.deployed.lock().unwrap().push(request);
        for (back, step) in [
            (false, "wait for web to be healthy"),
            (true, "stop the new web"),
        ] {
            reporter.report(Progress {
                tick: false,
                message: step.to_owned(),
                switch: switch_status(Phase::Unknown),
                deploy: Some(DeployStatus {
                    step: step.to_owned(),
                    back,
                    ..DeployStatus::default()
                }),
            });
        }
        self.outcome()
    }

    async fn switch(
        &self,
        _actor: Actor,
        request: SwitchRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        self.asked.lock().unwrap().push(request);
        for (tick, phase, message) in [
            (false, Phase::Gate, "waiting for green of web"),
            (true, Phase::Gate, ""),
            (false, Phase::Observe, "green is live on web"),
        ] {
            let (message, switch) = (message.to_owned(), switch_status(phase));
            reporter.report(Progress {
                tick,
                message,
                switch,
                deploy: None,
            });
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
        }
        self.finished.notify_one();
        self.outcome()
    }

    async fn job(&self, _: Actor, request: JobRequest) -> Result<Outcome, ControlError> {
        let mut outcome = self.outcome()?;
        if outcome.result == OutcomeKind::Failed {
            outcome.message = format!("job {}: exit code 1", request.name);
            outcome.details = vec!["no space left on device".to_owned()];
        }
        Ok(outcome)
    }

    async fn rollback(
        &self,
        _actor: Actor,
        _request: RollbackRequest,
        _reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        self.outcome()
    }

    async fn promote(&self, _: Actor, _: DecisionRequest) -> Result<Outcome, ControlError> {
        self.outcome()
    }

    async fn abort(&self, _: Actor, _: DecisionRequest) -> Result<Outcome, ControlError> {
        self.outcome()
    }

    async fn reload(&self, _actor: Actor) -> Result<ReloadReport, ControlError> {
        match self.end.lock().unwrap().clone() {
            Ok(_) => Ok(ReloadReport {
                config: Some("cutover.toml".to_owned()),
                changes: vec!["service web: health.interval 3s to 5s".to_owned()],
                warnings: Vec::new(),
            }),
            Err(error) => Err(error),
        }
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
        let share = |all, bad| Share { all, bad };
        let web = JudgeService {
            service: "web".into(),
            color: Color::Green,
            state: "suspicious".to_owned(),
            over: false,
            mode: "enforce".to_owned(),
            elapsed_ms: 4_300,
            why: None,
            requests: share(872, 46),
            before: share(120_000, 112),
            limit: 0.005,
            log_e: 5.2,
            log_e_needed: 10.4,
            w: 3.0,
            w_needed: 20.4,
            rescues: share(31, 0),
            probes: share(0, 0),
            slow: vec![share(800, 70), share(800, 4)],
            client_errors: share(800, 0),
            alerts: vec!["health probes take 250 ms".to_owned()],
            routes: vec![FailingRoute {
                route: "/orders/*".to_owned(),
                what: "500".to_owned(),
                count: 40,
            }],
            samples: vec![FailureSample {
                path: "/orders/7".to_owned(),
                what: "500".to_owned(),
                request_id: "01JD".to_owned(),
            }],
        };
        Ok(JudgeReport {
            services: vec![web],
        })
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
        Ok(ConfigReport {
            toml: "state_dir = \"/data\"\n".to_owned(),
            config: serde_json::json!({"state_dir": "/data"}),
        })
    }

    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, ControlError> {
        Ok(ExplainReport {
            listener: Some("0.0.0.0:443".to_owned()),
            site: Some("example.com".to_owned()),
            route: Some("/api/*".to_owned()),
            service: Some("api".into()),
            color: Some(Color::Blue),
            upstream: Some("unix:/run/api.sock".to_owned()),
            status: None,
            why: vec![format!(
                "{:?} from {:?}",
                request.headers, request.client_ip
            )],
            candidates: vec![
                Candidate {
                    route: "/api/*".to_owned(),
                    matched: true,
                    why: "the longest path".to_owned(),
                },
                Candidate {
                    route: "/x".to_owned(),
                    matched: false,
                    why: "the path is /api/v1".to_owned(),
                },
            ],
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }
}

/// A daemon on a socket of its own; stops with the runtime.
struct Daemon {
    fake: Arc<Fake>,
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
    _root: tempfile::TempDir,
}

fn daemon() -> Daemon {
    daemon_of(Fake::new())
}

fn daemon_of(fake: Fake) -> Daemon {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("admin.sock");
    let fake = Arc::new(fake);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let socket = runtime.block_on(async { AdminSocket::bind(&path).unwrap() });
    let control = Arc::clone(&fake) as Arc<dyn Control>;
    runtime.spawn(server::serve(socket, control, std::future::pending()));
    Daemon {
        fake,
        path,
        runtime,
        _root: root,
    }
}

fn proxyctl(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxyctl"));
    command
        .args(args)
        .env("PROXYCTL_ADDR", socket)
        .stdin(Stdio::null());
    command
}

/// What a run left: exit code, stdout, stderr.
#[derive(Debug, PartialEq)]
struct Ran(i32, String, String);

fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran(
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

impl Daemon {
    fn run(&self, args: &[&str]) -> Ran {
        ran(proxyctl(&self.path, args).output().unwrap())
    }

    fn ends(&self, end: Result<OutcomeKind, ControlError>) {
        *self.fake.end.lock().unwrap() = end;
    }
}

fn lines(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn status_is_a_table_that_shows_what_is_wrong() {
    let Ran(code, stdout, stderr) = daemon().run(&["status"]);
    let expected = lines(&[
        "cutover 0.1.0  up 3d4h  /etc/cutover/cutover.toml",
        "",
        "api  blue is live  stable  stack back",
        "    COLOR  RELEASE  UPSTREAMS  REQ  WS  SSE  REQ/S  ERRORS   P50   P99",
        "  ▶ blue   -        0/1 up       0   0    0    0.0       -     -     -",
        "      ○ unix:/run/api.sock  unknown",
        "    green  -        empty        0   0    0    0.0       -     -     -",
        "",
        "web  green is live  observe",
        "    COLOR  RELEASE  UPSTREAMS  REQ  WS  SSE  REQ/S  ERRORS   P50   P99",
        "    blue   v1       1/1 up       0   1    0    0.0       -     -     -",
        "      ● 10.0.0.1:3000  ok 2.4ms",
        "  ▶ green  v2       1/2 up       3   1    0   41.2   0.12%  12ms  80ms",
        "      ● 10.0.0.2:3000   ok 2.4ms",
        "      ✗ 10.0.0.33:3000  down: connection refused",
        "  observe green ▰▰▰▰▱▱▱▱▱▱ 2m10s of 5m, 3100 of 5000 requests, \
         errors 0.13% (before 0.10%), at most 30m",
        "  drain blue #7 3 requests, 1 websocket left, closed in 12s",
        "",
        "certificates",
        "    example.com      internal  53d left",
        "    api.example.com  -         none yet  no such file: api.pem",
        "",
        "warning  ops listens on every address",
    ]);
    assert_eq!(stdout, expected);
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn status_json_is_what_the_daemon_said() {
    let Ran(code, stdout, _) = daemon().run(&["status", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<Status>(&stdout).unwrap(),
        full_status()
    );
    let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let green = &value["services"][1]["slots"]["green"];
    assert_eq!(green["upstreams"][1]["healthy"], false);
    assert_eq!(green["upstreams"][1]["reason"], "connection refused");
    assert_eq!(green["in_flight"]["websocket"], 1);
}

#[test]
fn a_switch_says_one_line_per_event_and_none_per_tick() {
    let daemon = daemon();
    let ran = daemon.run(&["switch", "green", "--release", "v2", "--service", "web"]);
    let expected = lines(&[
        "gate     waiting for green of web",
        "observe  green is live on web",
        "kept: green is live on web",
    ]);
    assert_eq!(ran, Ran(0, expected, String::new()));
    let asked = daemon.fake.asked.lock().unwrap();
    assert_eq!(asked[0].release, Some("v2".into()));
    assert_eq!(asked[0].services, ["web".into()]);
    assert!(asked[0].wait && !asked[0].force);
}

#[test]
fn options_of_a_switch_reach_the_daemon() {
    let daemon = daemon();
    daemon.ends(Ok(OutcomeKind::Published));
    let args = "switch blue --no-wait --force --canary 5% --for 15m";
    let Ran(code, stdout, _) = daemon.run(&args.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0);
    assert!(stdout.ends_with("cut over: green is live on web\n"));
    let asked = daemon.fake.asked.lock().unwrap();
    assert_eq!(asked[0].target, Color::Blue);
    assert!(!asked[0].wait && asked[0].force);
    assert_eq!(
        (asked[0].canary, asked[0].canary_ms),
        (Some(0.05), Some(900_000))
    );
}

#[test]
fn with_json_stdout_is_one_document_and_events_go_to_stderr() {
    let Ran(code, stdout, stderr) = daemon().run(&["switch", "green", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(
        stdout,
        "{\"outcome\":{\"result\":\"kept\",\"message\":\"green is live on web\",\
         \"services\":[\"web\"],\"live\":\"green\"}}\n"
    );
    assert_eq!(
        stderr,
        "gate     waiting for green of web\nobserve  green is live on web\n"
    );
}

#[test]
fn exit_codes_say_how_a_switch_ended() {
    let daemon = daemon();
    for (end, code, last) in [
        (
            OutcomeKind::AlreadyLive,
            0,
            "already live: green is live on web\n",
        ),
        (
            OutcomeKind::RolledBack,
            4,
            "rolled back: blue is live on web: error rate 12% of 0.1%\n",
        ),
        (OutcomeKind::Aborted, 4, "aborted: green is live on web\n"),
        (
            OutcomeKind::Held,
            1,
            "still held: both colors stay up on web, a person decides\n",
        ),
        (OutcomeKind::Failed, 1, "failed: green is live on web\n"),
    ] {
        daemon.ends(Ok(end));
        let ran = daemon.run(&["switch", "green"]);
        assert_eq!(ran.0, code, "{end:?}");
        assert!(ran.1.ends_with(last), "{end:?}: {}", ran.1);
    }
}

#[test]
fn a_job_that_was_run_by_hand_says_how_it_ended() {
    let daemon = daemon();
    daemon.ends(Ok(OutcomeKind::Done));
    let line = "done: job backup did well in 2 s\n";
    let ran = daemon.run(&["job", "backup"]);
    assert_eq!(ran, Ran(0, line.to_owned(), String::new()));
    daemon.ends(Ok(OutcomeKind::Failed));
    let ran = daemon.run(&["job", "backup"]);
    let lines = "failed: job backup: exit code 1\n  no space left on device\n";
    assert_eq!(ran, Ran(1, lines.to_owned(), String::new()));
    let Ran(code, stdout, _) = daemon.run(&["job", "backup", "--json"]);
    assert_eq!(code, 1);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["outcome"]["details"][0], "no space left on device");
    daemon.ends(Err(ControlError::new(
        ErrorCode::Busy,
        "job backup is running",
    )));
    assert_eq!(daemon.run(&["job", "backup"]).0, 3);
}

#[test]
fn going_back_on_request_is_success() {
    let daemon = daemon();
    daemon.ends(Ok(OutcomeKind::RolledBack));
    for verb in ["rollback", "abort"] {
        let line = "rolled back: blue is live on web: error rate 12% of 0.1%\n";
        assert_eq!(daemon.run(&[verb]), Ran(0, line.to_owned(), String::new()));
    }
    daemon.ends(Ok(OutcomeKind::Kept));
    let line = "kept: green is live on web\n";
    assert_eq!(
        daemon.run(&["promote"]),
        Ran(0, line.to_owned(), String::new())
    );
}

#[test]
fn a_refusal_says_why_and_exits_with_3() {
    let daemon = daemon();
    let failure = GateFailure {
        service: "web".into(),
        address: Some("10.0.0.2:3000".to_owned()),
        reason: "connection refused".to_owned(),
    };
    daemon.ends(Err(ControlError::new(
        ErrorCode::GateNotPassed,
        "green did not become healthy in 5m; blue stays live",
    )
    .with_details([format!("{} {}", failure.service, failure.reason)])));
    let Ran(code, stdout, stderr) = daemon.run(&["switch", "green"]);
    assert_eq!(code, 3);
    assert!(!stdout.contains("kept"));
    assert_eq!(
        stderr,
        "proxyctl: green did not become healthy in 5m; blue stays live\n  web connection refused\n"
    );
    let Ran(code, stdout, _) = daemon.run(&["rollback", "--json"]);
    assert_eq!(code, 3);
    assert_eq!(
        stdout,
        "{\"error\":{\"code\":\"gate_not_passed\",\"message\":\"green did not become healthy \
         in 5m; blue stays live\",\"details\":[\"web connection refused\"]}}\n"
    );
}

#[test]
fn a_reload_says_what_changed_or_that_nothing_did() {
    let daemon = daemon();
    let expected = "reloaded: cutover.toml\n  service web: health.interval 3s to 5s\n";
    assert_eq!(
        daemon.run(&["reload"]),
        Ran(0, expected.to_owned(), String::new())
    );
    daemon.ends(Err(ControlError::new(
        ErrorCode::InvalidConfig,
        "the configuration has errors; nothing was changed",
    )
    .with_details(["cutover.toml:3:1: service.wbe: unknown"])));
    let expected = "proxyctl: the configuration has errors; nothing was changed\n  \
                    cutover.toml:3:1: service.wbe: unknown\n";
    assert_eq!(
        daemon.run(&["reload"]),
        Ran(1, String::new(), expected.to_owned())
    );
}

#[test]
fn config_is_toml_or_json() {
    let daemon = daemon();
    assert_eq!(daemon.run(&["config"]).1, "state_dir = \"/data\"\n");
    assert_eq!(
        daemon.run(&["config", "--json"]).1,
        "{\"state_dir\":\"/data\"}\n"
    );
}

#[test]
fn explain_shows_the_way_of_a_request() {
    let daemon = daemon();
    let url = "https://example.com/api/v1";
    let ran = daemon.run(&["explain", url, "-H", "X-A: b", "--client-ip", "::1"]);
    let expected = lines(&[
        "GET https://example.com/api/v1",
        "  listener  0.0.0.0:443",
        "  site      example.com",
        "  route     /api/*",
        "  service   api",
        "  color     blue",
        "  upstream  unix:/run/api.sock",
        "why",
        "  [(\"X-A\", \"b\")] from Some(::1)",
        "routes",
        "  ● /api/*  the longest path",
        "  ○ /x      the path is /api/v1",
    ]);
    assert_eq!(ran, Ran(0, expected, String::new()));
    let Ran(code, _, stderr) = daemon.run(&["explain", "example.com/api"]);
    assert_eq!(code, 2);
    assert_eq!(
        stderr,
        "proxyctl: `example.com/api` is not an absolute URL, such as https://example.com/api\n"
    );
}

#[test]
fn ready_is_an_exit_code_for_a_health_check() {
    let daemon = daemon();
    assert_eq!(
        daemon.run(&["ready"]),
        Ran(0, "ready\n".to_owned(), String::new())
    );
    *daemon.fake.ready.lock().unwrap() = Err("shutting down".to_owned());
    assert_eq!(
        daemon.run(&["ready"]),
        Ran(1, String::new(), "proxyctl: shutting down\n".to_owned())
    );
}

#[test]
fn a_daemon_that_is_not_there_is_5_and_names_the_path() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("admin.sock");
    let shown = path.display().to_string();
    let missing = ran(proxyctl(&path, &["status"]).output().unwrap());
    let sentence = format!(
        "proxyctl: cannot reach the daemon: there is no socket at {shown}. Is cutover running? \
         Start it, or name its socket with --addr or PROXYCTL_ADDR\n"
    );
    assert_eq!(missing, Ran(5, String::new(), sentence));

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = ran(proxyctl(&path, &["switch", "green"]).output().unwrap());
    assert_eq!(stale.0, 5);
    assert!(stale.2.contains("nobody answers at"), "{}", stale.2);

    let Ran(code, stdout, _) = ran(proxyctl(&path, &["ready", "--json"]).output().unwrap());
    assert_eq!(code, 5);
    assert!(stdout.starts_with("{\"error\":{\"code\":\"unreachable\",\"message\":\"cannot"));
}

#[test]
fn addr_wins_over_the_environment_and_takes_a_prefix() {
    let daemon = daemon();
    let addr = format!("unix:{}", daemon.path.display());
    let mut command = proxyctl(
        Path::new("/nowhere/admin.sock"),
        &["ready", "--addr", &addr],
    );
    assert_eq!(ran(command.output().unwrap()).0, 0);
    let mut command = proxyctl(&daemon.path, &["ready", "--addr", "tcp://127.0.0.1:1"]);
    assert_eq!(ran(command.output().unwrap()).0, 2);
}

#[test]
fn usage_errors_are_2_and_help_is_0() {
    let daemon = daemon();
    for args in [
        &["switch", "red"][..],
        &["switch"],
        &["switch", "green", "--canary", "200%"],
        &["fly"],
        &[],
    ] {
        let ran = daemon.run(args);
        assert_eq!((ran.0, ran.1.as_str()), (2, ""), "{args:?}");
    }
    let Ran(code, stdout, _) = daemon.run(&["switch", "red", "--json"]);
    assert_eq!(code, 2);
    let error: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(error["error"]["code"], "usage");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("`red` is not a color"), "{message}");
    let Ran(code, stdout, _) = daemon.run(&["--help"]);
    assert_eq!(code, 0);
    let documented = "status switch rollback promote abort deploy hold resume maintenance freeze \
        unfreeze history reload config certs explain doctor adapt hash-password judge cleanup \
        reset drain ready";
    for verb in documented.split_whitespace() {
        let listed = stdout
            .lines()
            .any(|line| line.split_whitespace().next() == Some(verb));
        assert!(listed, "{verb} is missing in --help");
    }
}

#[test]
fn a_deploy_is_asked_for_with_its_variables_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.env");
    std::fs::write(&file, "# variables\nA=1\nB=two words\n").unwrap();
    let daemon = daemon();
    let file = file.to_str().unwrap();
    let Ran(code, stdout, stderr) =
        daemon.run(&["deploy", "v2", "--service", "web", "--env-file", file]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let expected = "deploy   wait for web to be healthy\nback     stop the new web\n";
    assert!(stdout.starts_with(expected), "{stdout}");
    let asked = daemon.fake.deployed.lock().unwrap().clone();
    assert_eq!(asked[0].image, "v2");
    assert_eq!(asked[0].env, ["A=1", "B=two words"]);
    assert!(!format!("{:?}", asked[0]).contains("two words"));

    std::fs::write(folder.path().join("app.env"), "hunter2\n").unwrap();
    let Ran(code, _, stderr) = daemon.run(&["deploy", "v2", "--env-file", file]);
    assert_eq!(code, 2);
    assert!(stderr.contains("line 1 is not NAME=value"), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn containers_and_jobs_are_in_the_status() {
    let daemon = daemon_of(Fake {
        with_containers: true,
        ..Fake::new()
    });
    let Ran(code, stdout, _) = daemon.run(&["status"]);
    assert_eq!(code, 0);
    let line = |word: &str| {
        stdout
            .lines()
            .find(|line| line.contains(word))
            .unwrap_or_default()
    };
    let live = line("shop-web-green-d7");
    for fact in [
        "live",
        "green",
        "shop:v2",
        "0123456789ab",
        "running",
        "healthy",
        "12 MiB",
        "cpu 3%",
    ] {
        assert!(live.contains(fact), "{fact}: {live}");
    }
    assert!(line("backup").contains("failed: exit code 1"), "{stdout}");
    assert!(line("deploy v2 4/19").contains("pull shop:v2"), "{stdout}");
}

/// Runs `hash-password` with `input` for its stdin.
fn hashed(args: &[&str], input: &[u8]) -> Ran {
    let all = [&["hash-password"], args].concat();
    let mut child = proxyctl(Path::new("/nowhere"), &all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    ran(child.wait_with_output().unwrap())
}

#[test]
fn a_password_is_hashed_without_a_daemon_and_never_shown() {
    for (args, start, input) in [
        (
            &[][..],
            "$argon2id$v=19$m=19456,t=2,p=1$",
            &b"hunter2\n"[..],
        ),
        (&["--bcrypt"], "$2b$12$", b"hunter2\r\n"),
        (&["--json"], "", b"hunter2"),
    ] {
        let Ran(code, stdout, stderr) = hashed(args, input);
        assert_eq!((code, stderr.as_str()), (0, ""));
        let hash = match start {
            "" => serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["hash"].clone(),
            _ => stdout.strip_suffix('\n').unwrap().into(),
        };
        let hash = hash.as_str().unwrap();
        assert!(hash.starts_with(start), "{hash}");
        assert!(Hashed::read(hash).unwrap().matches(b"hunter2"));
    }
}

#[test]
fn a_password_that_cannot_be_one_is_refused() {
    let empty = "proxyctl: the password is empty\n".to_owned();
    assert_eq!(hashed(&[], b"\n"), Ran(2, String::new(), empty.clone()));
    assert_eq!(hashed(&[], b""), Ran(2, String::new(), empty));
    let Ran(code, stdout, stderr) = hashed(&["--bcrypt"], &[b'x'; 80]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("first 72 bytes"), "{stderr}");
}

/// `hash-password` on a terminal of its own: the process, the keyboard side, and the other one.
fn on_a_terminal() -> (std::process::Child, std::fs::File, std::os::fd::OwnedFd) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let child = proxyctl(Path::new("/nowhere"), &["hash-password"])
        .stdin(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave.try_clone().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    (child, terminal.master.into(), terminal.slave)
}

/// What a terminal shows up to a prompt. What is typed before it is dropped.
fn prompt(keyboard: &mut std::fs::File) -> String {
    let mut shown = String::new();
    while !shown.ends_with(": ") {
        let mut byte = [0];
        keyboard.read_exact(&mut byte).unwrap();
        shown.push(char::from(byte[0]));
    }
    shown
}

/// A person types two lines: the exit code, what was printed, and what the terminal showed.
fn typed(first: &str, second: &str) -> (i32, String, String) {
    let (child, mut keyboard, other) = on_a_terminal();
    drop(other);
    let mut shown = String::new();
    for line in [first, second] {
        shown += &prompt(&mut keyboard);
        writeln!(keyboard, "{line}").unwrap();
    }
    let ended = child.wait_with_output().unwrap();
    let mut rest = [0; 256];
    // It ends with an error: its last program is gone.
    while let Ok(read @ 1..) = keyboard.read(&mut rest) {
        shown += &String::from_utf8_lossy(&rest[..read]);
    }
    let printed = String::from_utf8(ended.stdout).unwrap();
    (ended.status.code().unwrap(), printed, shown)
}

#[test]
fn a_person_types_the_password_twice_and_does_not_see_it() {
    let (code, hash, shown) = typed("hunter2", "hunter2");
    assert_eq!(code, 0, "{shown}");
    assert!(Hashed::read(hash.trim_end()).unwrap().matches(b"hunter2"));
    assert_eq!(shown, "Password: \r\nAgain: \r\n");
    let (code, hash, shown) = typed("hunter2", "hunter3");
    assert_eq!((code, hash.as_str()), (1, ""));
    assert!(shown.contains("the two passwords differ"), "{shown:?}");
}

#[test]
fn an_interrupted_prompt_leaves_the_terminal_as_it_was() {
    use nix::sys::termios::{LocalFlags, tcgetattr};
    let (mut child, mut keyboard, terminal) = on_a_terminal();
    let echoes = || {
        let flags = tcgetattr(&terminal).unwrap().local_flags;
        flags.contains(LocalFlags::ECHO)
    };
    prompt(&mut keyboard);
    assert!(!echoes());
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(echoes());
}

#[test]
fn ctrl_c_detaches_and_the_switch_goes_on() {
    let daemon = daemon_of(Fake {
        gate: Some(Notify::new()),
        ..Fake::new()
    });
    let mut child = proxyctl(&daemon.path, &["switch", "green"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    assert_eq!(first, "gate     waiting for green of web\n");
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let Ran(code, _, stderr) = ran(child.wait_with_output().unwrap());
    assert_eq!(code, 130);
    assert!(
        stderr.starts_with("detached: the daemon goes on."),
        "{stderr}"
    );

    let fake = Arc::clone(&daemon.fake);
    let went_on = daemon.runtime.block_on(async move {
        let finish = async {
            loop {
                fake.gate.as_ref().unwrap().notify_one();
                tokio::select! {
                    () = fake.finished.notified() => break,
                    () = tokio::task::yield_now() => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), finish).await
    });
    assert!(went_on.is_ok(), "the switch was cancelled");
}

#[test]
fn watch_without_a_terminal_says_changes_and_ends_on_a_signal() {
    let daemon = daemon();
    let mut child = proxyctl(&daemon.path, &["status", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    for _ in 0..2 {
        std::io::BufRead::read_line(&mut stdout, &mut seen).unwrap();
    }
    assert_eq!(
        seen,
        "api: blue is live, stable, blue 0/1 up, green empty\n\
         web: green is live, observe, blue 1/1 up, green 1/2 up\n"
    );
    let deadline = clock::now() + Duration::from_secs(20);
    while daemon.fake.looks.load(Ordering::SeqCst) < 3 {
        assert!(clock::now() < deadline, "it looks once a second");
        std::thread::yield_now();
    }
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(clock::now() < deadline, "it did not end");
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(0));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    assert_eq!(rest, "", "what did not change is not said again");
}

#[test]
fn a_reader_that_leaves_early_is_no_crash() {
    let daemon = daemon();
    let mut command = proxyctl(&daemon.path, &["status"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn verbs_that_are_done_at_once_say_what_was_done() {
    let daemon = daemon();
    let me = nix::unistd::geteuid().as_raw();
    for (args, expected) in [
        (
            &["hold", "--service", "web", "--max", "5s"][..],
            "Hold { services: [ServiceName(\"web\")], max_ms: 5000 }",
        ),
        (&["resume"], "Resume { services: [] }"),
        (
            &[
                "maintenance",
                "on",
                "--site",
                "example.com",
                "--message",
                "back soon",
            ],
            "Maintenance { on: true, services: [], sites: [\"example.com\"], message: Some(\"back soon\") }",
        ),
        (
            &["freeze", "--why", "the sale", "--for", "2h"],
            "Freeze { why: \"the sale\", for_ms: Some(7200000) }",
        ),
        (&["unfreeze"], "Unfreeze"),
    ] {
        let line = format!("{expected} by {me}\n");
        assert_eq!(daemon.run(args), Ran(0, line, String::new()), "{args:?}");
    }
    let Ran(code, _, stderr) = daemon.run(&["freeze"]);
    assert_eq!(code, 2, "a freeze needs its reason");
    assert!(stderr.contains("--why"), "{stderr}");
}

#[test]
fn history_is_a_line_for_each_thing_and_below_it_why() {
    let daemon = daemon();
    let expected = "2027-01-15 08:00:00  switch blue to green  web  kept  by ann (uid 1000)\n    \
                    limit Some(7)\n    gate 1s, 2 of 5000 requests failed\n";
    assert_eq!(
        daemon.run(&["history", "-n", "7", "--service", "web"]),
        Ran(0, expected.to_owned(), String::new())
    );
    let Ran(code, stdout, _) = daemon.run(&["history", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        (code, &report["history"][0]["result"]),
        (0, &serde_json::json!("kept"))
    );
}

#[test]
fn judge_is_a_line_and_explains_every_number_when_asked() {
    let daemon = daemon();
    let short = daemon.run(&["judge"]);
    assert_eq!(
        short.1,
        lines(&[
            "web  green  suspicious  4s: 46 of 872 failed (limit 0.50 %)",
            "    alert: health probes take 250 ms",
        ])
    );
    let long = daemon.run(&["judge", "--explain"]);
    assert_eq!((long.0, long.2.as_str()), (0, ""));
    for part in [
        "112 of 120000 failed",
        "181:1 of 32860:1",
        "3.0 of 20.4",
        "31 of 31",
        "not asked",
        "70 of 800",
        "/orders/*: 500, 40 times",
        "/orders/7: 500, request 01JD",
    ] {
        assert!(long.1.contains(part), "{part}: {}", long.1);
    }
    let json = daemon.run(&["judge", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.1).expect("JSON");
    assert_eq!(json["services"][0]["rescues"]["all"], 31);
}

#[test]
fn a_recorded_switch_is_judged_without_a_daemon_and_with_other_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("switch.csv");
    let mut record = String::from("t_ms,new_ok,new_fail,old_ok,old_fail,rescued_ok,rescued_fail\n");
    for at in -2_400..=0 {
        record.push_str(&format!("{},0,0,50,0,0,0\n", at * 250));
    }
    for at in 1..=400 {
        record.push_str(&format!("{},49,1,0,0,1,0\n", at * 250));
    }
    std::fs::write(&file, record).expect("written");
    let file = file.to_str().expect("a path");
    let nowhere = Path::new("/nonexistent/admin.sock");
    let run = |more: &[&str]| {
        let args = [&["judge", "--replay", file], more].concat();
        ran(proxyctl(nowhere, &args).output().expect("started"))
    };
    let plain = run(&["--json"]);
    assert_eq!(plain.0, 0, "{}", plain.2);
    let plain: serde_json::Value = serde_json::from_str(&plain.1).expect("JSON");
    assert_eq!(plain["decision"], "rollback");
    let keys: Vec<_> = plain.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["decision", "log_e", "reason", "t_ms", "w"]);
    // The same release is within a limit of 5 %.
    let lax = run(&[
        "--set",
        "rollback.errors.floor=5%",
        "--set",
        "switch.observe=1m",
    ]);
    assert!(lax.1.starts_with("keep at 60.00 s: "), "{}", lax.1);
    let wrong = run(&["--set", "rollback.errors.flor=5%"]);
    assert_eq!(wrong.0, 2);
    assert!(wrong.2.contains("floor"), "{}", wrong.2);
    let none = ran(
        proxyctl(nowhere, &["judge", "--replay", "/nonexistent.csv"])
            .output()
            .expect("started"),
    );
    assert_eq!(none.0, 2);
    assert!(none.2.contains("/nonexistent.csv"), "{}", none.2);
}

#[test]
fn drain_shows_what_is_left_and_ends_at_once_without_wait() {
    let daemon = daemon();
    let Ran(code, stdout, _) = daemon.run(&["drain"]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains("drain blue #7 3 requests, 1 websocket left"),
        "{stdout}"
    );
    let Ran(code, stdout, _) = daemon.run(&["drain", "--service", "nobody", "--wait"]);
    assert_eq!((code, stdout.as_str()), (0, "nothing drains\n"));
}

#[test]
fn doctor_needs_no_daemon_and_a_problem_is_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cutover.toml");
    let text = |port: u16| {
        format!(
            "state_dir = \"{}/state\"\n[listen]\nhttp = [\"127.0.0.1:{port}\"]\nhttps = []\nops = \"127.0.0.1:0\"\n\
             [[site]]\nhosts = [\"a.example\"]\nupstream = [\"127.0.0.1:9\"]\n",
            folder.path().display()
        )
    };
    std::fs::write(&file, text(0)).unwrap();
    let run = |more: &[&str]| {
        let args = [&["doctor", "--config", file.to_str().unwrap()], more].concat();
        ran(proxyctl(&folder.path().join("nowhere"), &args)
            .output()
            .unwrap())
    };
    let Ran(code, stdout, stderr) = run(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(
        stdout.starts_with("no daemon is running\nok      config"),
        "{stdout}"
    );
    assert!(
        stdout.contains("warning upstreams       a.example blue 127.0.0.1:9: "),
        "{stdout}"
    );
    assert!(stdout.contains("to mend it: "), "{stdout}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(&file, text(taken.local_addr().unwrap().port())).unwrap();
    let Ran(code, stdout, _) = run(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["running"]), (1, &serde_json::json!(false)));
    let problems = report["findings"].as_array().unwrap().iter();
    assert_eq!(
        problems.filter(|one| one["level"] == "problem").count(),
        1,
        "{stdout}"
    );
    std::fs::create_dir(folder.path().join("state")).unwrap();
    let Ran(code, stdout, _) = run(&["--repair"]);
    assert_eq!((code, stdout.as_str()), (0, "the journal is not damaged\n"));
}
