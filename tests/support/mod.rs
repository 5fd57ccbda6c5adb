//! The real programs under test: `cutover`, `proxyctl`, origins, and load from real clients.
//!
//! Nothing here waits by sleeping for a guessed time: every wait polls a condition until a
//! deadline, and a failure prints the daemon's log.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod ca;
pub mod clients;
pub mod counts;
pub mod docker;
pub mod exchange;
pub mod journal;
pub mod origin;
pub mod raw;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use origin::Origin;

/// Longest wait for anything that normally takes well under a second.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A program: the optimised one when the environment names it, else the one built for the test.
fn program(variable: &str, built: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(built), PathBuf::from)
}

/// The daemon's program.
pub fn cutover() -> PathBuf {
    program("CUTOVER_BIN", env!("CARGO_BIN_EXE_cutover"))
}

/// The command line's program.
pub fn proxyctl() -> PathBuf {
    program("PROXYCTL_BIN", env!("CARGO_BIN_EXE_proxyctl"))
}

/// The wall clock; these tests run real programs.
#[allow(clippy::disallowed_methods, reason = "real time of real programs")]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks until the answer is yes.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_for(PATIENCE, what, holds);
}

/// The same for what takes longer by design.
pub fn wait_for(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = now() + patience;
    while !holds() {
        assert!(now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody uses now, and another one at each call.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("an address").port();
        if GIVEN.lock().expect("no panic").insert(port) {
            return port;
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
pub fn finish(command: &mut Command) -> Ended {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running `cutover` with its own folder, ports and origins.
pub struct Edge {
    pub folder: tempfile::TempDir,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub ops: SocketAddr,
    pub child: Option<Child>,
    variables: Vec<(String, PathBuf)>,
}

impl Edge {
    /// Starts one. `services` is the part of the file after `[listen]` and the log.
    pub fn start(services: &str) -> Self {
        Self::start_with(services, &[])
    }

    /// The same with variables in the program's environment.
    pub fn start_with(services: &str, variables: &[(&str, &Path)]) -> Self {
        let mut edge = Self::prepare(variables);
        edge.write(services);
        edge.spawn();
        edge
    }

    /// Ports and a folder, nothing started: for a test that wants other ports.
    pub fn prepare(variables: &[(&str, &Path)]) -> Self {
        let owned = |(name, value): &(&str, &Path)| ((*name).to_owned(), value.to_path_buf());
        Self {
            variables: variables.iter().map(owned).collect(),
            folder: tempfile::tempdir().expect("a folder"),
            http: SocketAddr::from(([127, 0, 0, 1], free_port())),
            https: SocketAddr::from(([127, 0, 0, 1], free_port())),
            ops: SocketAddr::from(([127, 0, 0, 1], free_port())),
            child: None,
        }
    }

    /// Writes the configuration; a running daemon does not notice before a reload.
    pub fn write(&self, services: &str) {
        // No test asks a public CA for anything.
        let acme = match services.contains("[acme]") {
            true => "",
            false => "[acme]\ndirectory = \"https://127.0.0.1:9/directory\"\n",
        };
        let text = format!(
            "state_dir = \"{folder}/state\"\nshutdown_grace = \"10s\"\n\
             [listen]\nhttp = [\"{}\"]\nhttps = [\"{}\"]\nops = \"{}\"\nadmin = \"{folder}/run/admin.sock\"\n\
             [log.access]\nfile = \"{folder}/access.log\"\n{acme}{services}\n",
            self.http,
            self.https,
            self.ops,
            folder = self.folder.path().display(),
        );
        let path = self.config();
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).expect("write the configuration");
        fs::rename(&fresh, &path).expect("replace the configuration");
    }

    /// Starts the program and waits until it is ready.
    pub fn spawn(&mut self) {
        self.spawn_with(&[]);
        wait_until("the daemon is ready", || self.is_ready());
    }

    /// Whether the daemon says that it is ready.
    pub fn is_ready(&self) -> bool {
        curl(&[&format!("http://{}/readyz", self.ops)]).code == 0
    }

    /// Whether the daemon has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("started");
        child.try_wait().expect("its state").is_some()
    }

    /// Starts the program with more in its environment.
    pub fn spawn_with(&mut self, environment: &[(&str, String)]) {
        let log = fs::File::create(self.folder.path().join("daemon.log")).expect("a log file");
        let child = Command::new(cutover())
            .args(["run", "--config"])
            .arg(self.config())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .spawn()
            .expect("start cutover");
        self.child = Some(child);
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("cutover.toml")
    }

    /// Everything the daemon said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }

    pub fn access_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }

    /// Runs `proxyctl` against this daemon.
    pub fn proxyctl(&self, arguments: &[&str]) -> Ended {
        finish(self.proxyctl_command().args(arguments))
    }

    pub fn proxyctl_command(&self) -> Command {
        let mut command = Command::new(proxyctl());
        command
            .arg("--addr")
            .arg(self.folder.path().join("run/admin.sock"));
        command
    }

    /// `status --json`.
    pub fn status(&self) -> serde_json::Value {
        let status = self.proxyctl(&["status", "--json"]);
        assert_eq!(status.code, 0, "{status:?}\n{}", self.log());
        serde_json::from_str(&status.stdout).expect("status is JSON")
    }

    /// The live color of the first service.
    pub fn live(&self) -> String {
        self.status()["services"][0]["live"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until every upstream of both slots of every service is healthy.
    pub fn wait_healthy(&self) {
        self.wait_healthy_except("");
    }

    /// The same, without one service that is meant to be down.
    pub fn wait_healthy_except(&self, except: &str) {
        wait_until("all upstreams are healthy", || {
            let status = self.status();
            let services = status["services"].as_array().cloned().unwrap_or_default();
            !services.is_empty()
                && services
                    .iter()
                    .filter(|s| s["name"] != except)
                    .all(|service| {
                        ["blue", "green"].iter().all(|color| {
                            let upstreams =
                                service["slots"][color]["upstreams"].as_array().cloned();
                            upstreams
                                .unwrap_or_default()
                                .iter()
                                .all(|u| u["healthy"] == true)
                        })
                    })
        });
    }

    /// One value of `/metrics`; `series` is the full name with labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = curl(&[&format!("http://{}/metrics", self.ops)]).stdout;
        page.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Memory that is this process's own, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let pid = self.child.as_ref().expect("running").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse()
                    .ok()
            })
            .expect("VmRSS")
    }

    /// Open descriptors of the daemon.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.as_ref().expect("running").id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc");
        open.count()
    }

    /// Asks the daemon to end and returns how long it took and its exit code.
    pub fn stop(&mut self, signal: &str) -> (Duration, Option<i32>) {
        let mut child = self.child.take().expect("running");
        let start = now();
        finish(Command::new("kill").args([signal, &child.id().to_string()]));
        let status = child.wait().expect("an exit status");
        (start.elapsed(), status.code())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
    }
}

/// Two origins on a runtime of their own, so that blocking tests can use them.
pub struct Origins {
    pub blue: Origin,
    pub green: Origin,
    _runtime: tokio::runtime::Runtime,
}

impl Origins {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let blue = runtime.block_on(Origin::start("blue", any)).expect("blue");
        let green = runtime
            .block_on(Origin::start("green", any))
            .expect("green");
        Self {
            blue,
            green,
            _runtime: runtime,
        }
    }

    /// The configuration of one service over both, with `switch` keys.
    pub fn config(&self, switch: &str) -> String {
        format!(
            "[[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\nredirect = false\nservice = \"web\"\n{}",
            self.service(switch)
        )
    }

    /// That service alone, without a site.
    pub fn service(&self, switch: &str) -> String {
        format!(
            "[service.web]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n\
             [service.web.health]\ninterval = \"500ms\"\n\
             [service.web.switch]\n{switch}\n",
            self.blue.addr, self.green.addr
        )
    }
}

/// `curl` with a deadline; prints the body.
pub fn curl(arguments: &[&str]) -> Ended {
    finish(
        Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--fail-with-body",
                "--max-time",
                "20",
            ])
            .args(arguments),
    )
}

/// Whether a program is installed; the setup script installs all that tests need.
pub fn require(program: &str) {
    let found = finish(Command::new("sh").args(["-c", &format!("command -v {program}")]));
    assert_eq!(
        found.code, 0,
        "`{program}` is missing: run scripts/setup.sh"
    );
}

/// The Python of the test clients.
pub fn python() -> PathBuf {
    let path = Path::new("target/venv/bin/python");
    assert!(
        path.exists(),
        "{} is missing: run scripts/setup.sh",
        path.display()
    );
    path.to_owned()
}
