//! The container alone: what it may do, and what it needs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use crate::compose::{docker, edge_image, image};
use crate::support::{Ended, curl, finish, wait_until};

const CADDYFILE: &str = "localhost {\n\trespond \"hello\"\n}\n";

/// A container with a Caddyfile and, unless it was told otherwise, a data folder of root's.
struct Edge {
    folder: tempfile::TempDir,
    name: String,
    has_file: bool,
}

impl Edge {
    fn new(name: &str) -> Self {
        edge_image();
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("Caddyfile"), CADDYFILE).expect("a file");
        fs::create_dir(folder.path().join("data")).expect("a folder");
        let name = format!("cutover-test-{name}");
        let _ = finish(Command::new("docker").args(["rm", "--force", "--volumes", &name]));
        Self {
            folder,
            name,
            has_file: true,
        }
    }

    /// Without any configuration.
    fn without_a_file(name: &str) -> Self {
        let mut edge = Self::new(name);
        edge.has_file = false;
        edge
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// `docker run` with the mounts of a caddy container.
    fn run(&self, options: &[&str], command: &[&str]) -> Ended {
        let caddyfile = format!("{}:/etc/caddy/Caddyfile", self.at("Caddyfile").display());
        let data = format!("{}:/data", self.at("data").display());
        let mut docker = Command::new("docker");
        docker.args(["run", "--name", &self.name]);
        if self.has_file {
            docker.args(["--volume", &caddyfile]);
        }
        docker.args(["--volume", &data]);
        docker.args(["--volume", "/var/run/docker.sock:/var/run/docker.sock"]);
        finish(docker.args(options).arg("cutover:test").args(command))
    }

    fn start(&self, options: &[&str]) {
        let mut all = vec!["--detach"];
        all.extend(options);
        let started = self.run(&all, &[]);
        assert_eq!(started.code, 0, "{started:?}");
        wait_until("it is ready", || {
            self.exec(&["proxyctl", "ready"]).code == 0
        });
    }

    fn exec(&self, command: &[&str]) -> Ended {
        finish(
            Command::new("docker")
                .args(["exec", &self.name])
                .args(command),
        )
    }

    fn logs(&self) -> String {
        let ended = finish(Command::new("docker").args(["logs", &self.name]));
        ended.stdout + &ended.stderr
    }

    /// One line of the status of its first process.
    fn status(&self, name: &str) -> String {
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &self.name]);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.expect("the line").split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.logs());
        }
        let _ = finish(Command::new("docker").args(["rm", "--force", "--volumes", &self.name]));
    }
}

/// Another container, gone with the test.
struct Removed(&'static str);

impl Removed {
    fn remove(&self) {
        let _ = finish(Command::new("docker").args(["rm", "--force", self.0]));
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        self.remove();
    }
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).expect("there").uid()
}

#[test]
fn it_becomes_a_user_with_one_capability_and_the_group_of_the_socket() {
    let edge = Edge::new("user");
    edge.start(&[]);
    assert_eq!(edge.status("Uid:"), "10001 10001 10001 10001");
    assert_eq!(edge.status("Gid:"), "10001 10001 10001 10001");
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(edge.status(set), "0000000000000400", "{set}");
    }
    assert_eq!(edge.status("NoNewPrivs:"), "1");
    let group = fs::metadata("/var/run/docker.sock")
        .expect("a socket")
        .gid();
    assert_eq!(edge.status("Groups:"), group.to_string());
    let state = edge.at("data/cutover");
    assert_eq!(owner(&state), 10001);
    assert_eq!(fs::metadata(&state).expect("there").mode() & 0o7777, 0o700);
    assert_eq!(owner(&edge.at("data")), 0, "others may have theirs there");

    let doctor = edge.exec(&["proxyctl", "doctor"]).stdout;
    assert!(
        doctor.contains("uid 10001 can read what is named"),
        "{doctor}"
    );
    wait_until("Docker finds it healthy", || {
        let state = "{{.State.Health.Status}}";
        docker(&["inspect", "--format", state, &edge.name]) == "healthy"
    });
    // Again, with what the first start left behind.
    docker(&["restart", "--time", "30", &edge.name]);
    wait_until("it is ready again", || {
        edge.exec(&["proxyctl", "ready"]).code == 0
    });
    let exit = "{{.State.ExitCode}} {{.RestartCount}}";
    assert_eq!(docker(&["inspect", "--format", exit, &edge.name]), "0 0");
}

#[test]
fn a_read_only_root_works_with_a_tmpfs_and_without() {
    let edge = Edge::new("read-only");
    edge.start(&["--read-only", "--tmpfs", "/run/cutover:mode=0700"]);
    assert!(!edge.logs().contains("WARN"), "{}", edge.logs());
    docker(&["rm", "--force", &edge.name]);

    edge.start(&["--read-only"]);
    assert!(edge.at("data/cutover/run/admin.sock").exists());
    let said = edge.logs();
    assert!(said.contains("the admin socket is in state_dir"), "{said}");
    assert_eq!(edge.exec(&["proxyctl", "status"]).code, 0);
    let doctor = edge.exec(&["proxyctl", "doctor"]).stdout;
    let private = "/data/cutover/run/admin.sock is private";
    assert!(doctor.contains(private), "{doctor}");
}

#[test]
fn with_user_set_it_serves_what_that_user_may_use() {
    let edge = Edge::new("other-user");
    std::os::unix::fs::chown(edge.at("data"), Some(1234), Some(1234)).expect("chown");
    edge.start(&["--user", "1234:1234"]);
    assert_eq!(edge.status("Uid:"), "1234 1234 1234 1234");
    assert_eq!(owner(&edge.at("data/cutover")), 1234);
    assert_eq!(edge.status("CapEff:"), "0000000000000000");
}

#[test]
fn with_user_set_doctor_names_each_path_that_it_cannot_read() {
    let edge = Edge::new("doctor");
    let caddy = edge.at("data/caddy");
    fs::create_dir(&caddy).expect("a folder");
    fs::set_permissions(&caddy, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(edge.at("data/a.pem"), "").expect("a file");
    fs::write(edge.at("data/a.key"), "").expect("a file");
    fs::set_permissions(edge.at("data/a.key"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let site = "a.test {\n\ttls /data/a.pem /data/a.key\n\trespond hi\n}\n";
    fs::write(edge.at("Caddyfile"), site).expect("a file");
    let options = ["--user", "1234:1234", "--entrypoint", "/usr/bin/proxyctl"];
    let doctor = edge.run(&options, &["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    for named in [
        "problem paths           /data/a.key cannot be read by uid 1234",
        "warning paths           /data/caddy cannot be read by uid 1234",
        "problem paths           /data cannot be written by uid 1234",
    ] {
        assert!(doctor.stdout.contains(named), "{named}\n{}", doctor.stdout);
    }
    assert!(!doctor.stdout.contains("a.pem cannot"), "{}", doctor.stdout);
    docker(&["rm", "--force", &edge.name]);

    let start = edge.run(&["--user", "1234:1234"], &[]);
    assert_eq!(start.code, 1, "{start:?}");
    assert!(start.stderr.contains("/data/cutover"), "{start:?}");
}

#[test]
fn without_the_capabilities_to_change_root_stays_with_one() {
    let edge = Edge::new("capabilities");
    edge.start(&["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"]);
    assert_eq!(edge.status("Uid:"), "0 0 0 0");
    assert_eq!(edge.status("CapEff:"), "0000000000000400");
    assert_eq!(edge.status("NoNewPrivs:"), "1");
    let said = edge.logs();
    assert!(
        said.contains("CAP_SETUID and CAP_SETGID are missing"),
        "{said}"
    );
    docker(&["rm", "--force", &edge.name]);

    // All that a start as root needs.
    let mut options = vec!["--cap-drop", "ALL"];
    for capability in [
        "CHOWN",
        "DAC_OVERRIDE",
        "SETGID",
        "SETUID",
        "NET_BIND_SERVICE",
    ] {
        options.extend(["--cap-add", capability]);
    }
    edge.start(&options);
    assert_eq!(edge.status("Uid:"), "10001 10001 10001 10001");
    assert_eq!(edge.status("CapEff:"), "0000000000000400");
}

#[test]
fn without_a_file_it_serves_what_the_labels_of_containers_say() {
    const APP: &str = "cutover-test-labels-app";
    let edge = Edge::without_a_file("labels");
    image(&["app", "v1"]);
    let app = Removed(APP);
    app.remove();
    edge.start(&[]);
    let labels = ["cutover.host=labels.internal", "cutover.tls=off"];
    docker(&[
        "run",
        "--detach",
        "--name",
        APP,
        "--label",
        labels[0],
        "--label",
        labels[1],
        "cutover-test-app:v1",
    ]);
    let format = "{{.NetworkSettings.IPAddress}}";
    let url = format!(
        "http://{}/",
        docker(&["inspect", "--format", format, &edge.name])
    );
    let asked = || curl(&["--header", "Host: labels.internal", &url]);
    wait_until("the app answers", || {
        asked().stdout.trim_end().ends_with(" v1")
    });
    let doctor = edge.exec(&["proxyctl", "doctor"]);
    let labels = "there is no file: the labels of containers say what is served";
    assert!(doctor.stdout.contains(labels), "{doctor:?}");
    let engine = "/var/run/docker.sock answers in version";
    assert!(doctor.stdout.contains(engine), "{doctor:?}");
    assert_eq!(doctor.code, 0, "{doctor:?}");
    app.remove();
    wait_until("nobody has the host", || asked().code != 0);
}

#[test]
fn the_image_says_what_it_listens_on_keeps_and_runs() {
    edge_image();
    let config = docker(&[
        "image",
        "inspect",
        "--format",
        "{{json .Config}}",
        "cutover:test",
    ]);
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let keys = |field: &str| {
        let object = config[field].as_object().expect("an object");
        object.keys().cloned().collect::<Vec<_>>()
    };
    let ports = ["443/tcp", "443/udp", "80/tcp", "9180/tcp"];
    assert_eq!(keys("ExposedPorts"), ports);
    assert_eq!(keys("Volumes"), ["/config", "/data"]);
    assert_eq!(
        config["Entrypoint"],
        serde_json::json!(["/usr/bin/cutover"])
    );
    assert_eq!(config["Cmd"], serde_json::json!(["run"]));
    assert_eq!(
        config["Labels"]["org.opencontainers.image.title"],
        "cutover"
    );
    // Newer engines leave out what is empty.
    assert_eq!(
        config["User"].as_str().unwrap_or_default(),
        "",
        "it starts as root, and does not stay it"
    );
    let run = |program: &str, argument: &str| {
        docker(&[
            "run",
            "--rm",
            "--entrypoint",
            program,
            "cutover:test",
            argument,
        ])
    };
    assert!(run("/usr/bin/cutover", "version").starts_with("cutover "));
    assert!(run("/usr/bin/proxyctl", "--version").starts_with("proxyctl "));
}
