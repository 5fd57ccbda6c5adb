//! A Compose project in a fresh folder, gone with its containers, networks and volumes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{self, Ended, finish, free_port, require};

/// The engine's answer to the end, or a panic with what it said.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let ended = finish(Command::new("docker").args(arguments));
    assert_eq!(ended.code, 0, "docker {arguments:?}: {ended:?}");
    ended.stdout.trim().to_owned()
}

/// Makes one of the images, if it is not there.
pub(crate) fn image(arguments: &[&str]) {
    require("docker");
    require("docker-compose");
    let made = finish(
        Command::new("scripts/test_images.sh")
            .args(arguments)
            .env("CUTOVER_BIN", support::cutover()),
    );
    assert_eq!(made.code, 0, "{made:?}");
}

/// The proxy's image.
pub(crate) fn edge_image() {
    image(&["edge"]);
}

pub(crate) struct Project {
    folder: tempfile::TempDir,
    /// Of the project; several if a test starts more than one.
    names: Vec<String>,
    files: Vec<(String, String)>,
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Project {
    /// In a folder with the files of `from`; `names` are the projects that may come to be.
    pub(crate) fn new(from: Option<&str>, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(from) = from {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
            for entry in fs::read_dir(&from).expect("the example") {
                let path = entry.expect("readable").path();
                let name = path.file_name().expect("a name");
                fs::copy(&path, folder.path().join(name)).expect("copied");
            }
        }
        let project = Self {
            folder,
            names: names.iter().map(ToString::to_string).collect(),
            files: Vec::new(),
            http: free_port(),
            https: free_port(),
        };
        // What an earlier run left behind when it was killed.
        project.remove();
        project
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
    }

    /// A variable of every command that follows.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.files.push((name.to_owned(), value.to_owned()));
    }

    /// `docker-compose` in the folder, as the first project.
    pub(crate) fn compose(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command("docker-compose");
        finish(command.args(["-p", &self.names[0]]).args(arguments))
    }

    /// A line of a README, as a person with Compose v1 and no terminal types it.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let line = line
            .replace("docker compose", "docker-compose")
            .replace(" exec ", " exec -T ");
        let mut command = self.command("sh");
        command.args(["-ec", &line]);
        command
    }

    /// Starts such a line and leaves it running.
    pub(crate) fn spawn(&self, line: &str) -> Child {
        let mut command = self.shell(line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("started")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env("HTTP_PORT", format!("127.0.0.1:{}", self.http))
            .env("HTTPS_PORT", format!("127.0.0.1:{}", self.https))
            .env("CUTOVER_IMAGE", "cutover:test")
            .env("COMPOSE_PROJECT_NAME", &self.names[0])
            .envs(self.files.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The body of `https://HOST/`, whoever signed the certificate; empty when there is none.
    pub(crate) fn ask(&self, host: &str) -> String {
        self.ask_with(host, &["--insecure"]).stdout
    }

    pub(crate) fn ask_with(&self, host: &str, more: &[&str]) -> Ended {
        let (port, url) = (self.https, format!("https://{host}:{}/", self.https));
        let resolve = format!("{host}:{port}:127.0.0.1");
        let mut arguments = vec![url.as_str(), "--resolve", &resolve];
        arguments.extend(more);
        support::curl(&arguments)
    }

    /// What the containers said, for a failure.
    pub(crate) fn logs(&self) -> String {
        let all: Vec<String> = self
            .ids()
            .iter()
            .map(|id| {
                let ended = finish(Command::new("docker").args(["logs", id]));
                // Without the lines of requests.
                let lines = ended.stdout.lines().chain(ended.stderr.lines());
                let said: Vec<_> = lines.filter(|line| !line.starts_with("{\"ts\"")).collect();
                let name = docker(&["inspect", "--format", "{{.Name}} {{.State.Status}}", id]);
                format!("--- {name}\n{}", said.join("\n"))
            })
            .collect();
        all.join("\n")
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        let of = |(name, label): (&String, &str)| {
            let filter = format!("label={label}={name}");
            let ids = docker(&["ps", "--all", "--quiet", "--filter", &filter]);
            ids.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        // Those of Compose, and those that deploys have made.
        let labels = ["com.docker.compose.project", "cutover.deploy.project"];
        let names = self.names.iter();
        let each = names.flat_map(|name| labels.map(|label| (name, label)));
        each.flat_map(of).collect()
    }

    fn remove(&self) {
        for id in self.ids() {
            docker(&["rm", "--force", "--volumes", &id]);
        }
        for name in &self.names {
            let filter = format!("label=com.docker.compose.project={name}");
            for kind in ["network", "volume"] {
                let found = docker(&[kind, "ls", "--quiet", "--filter", &filter]);
                for id in found.lines() {
                    docker(&[kind, "rm", id]);
                }
            }
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.remove();
    }
}
