//! The servers: each runs the same Caddyfile on the same ports, one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use super::case::{Case, Item, Request};
use super::client;
use crate::support::{PATIENCE, cutover, free_port, now, proxyctl};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Caddy,
    Cutover,
    /// cutover with what `proxyctl adapt` makes of the Caddyfile.
    Adapted,
}

/// The folder, files, ports and names of one case.
#[derive(Debug)]
pub struct Stage {
    folder: tempfile::TempDir,
    /// What stands for `{$NAME}` in the Caddyfile and `$NAME` in requests.
    pub variables: BTreeMap<String, String>,
}

/// 2024-01-02 03:04:05 UTC: when every file was changed.
const CHANGED: Duration = Duration::from_secs(1_704_164_645);

/// bcrypt of `hiccup`, cheap on purpose.
const HASH: &str = "$2b$04$b5UWNl19cr4RKPUq3fwt9uWV/fO7YVbrZkWzb4obP7q0OMKEoBkd6";

impl Stage {
    /// Lays out the files; `upstreams` are names and addresses.
    pub fn new(case: &Case, upstreams: &[(&str, SocketAddr)]) -> Self {
        // Without a dot in the name: `hide .*` would hide everything beneath it.
        let folder = tempfile::Builder::new()
            .prefix("compat-")
            .tempdir()
            .expect("a folder");
        let mut variables = BTreeMap::new();
        for name in ["HTTP_PORT", "HTTPS_PORT", "PORT_A", "PORT_B", "DEAD_PORT"] {
            variables.insert(name.to_owned(), free_port().to_string());
        }
        for (name, addr) in upstreams {
            variables.insert((*name).to_owned(), addr.to_string());
            variables.insert(format!("{name}_PORT"), addr.port().to_string());
        }
        let root = folder.path().join("files");
        variables.insert("ROOT".to_owned(), root.display().to_string());
        variables.insert("EMPTY".to_owned(), String::new());
        variables.insert("WORD".to_owned(), "placeholder".to_owned());
        variables.insert("HASH".to_owned(), HASH.to_owned());
        fs::create_dir(&root).expect("a folder");
        for item in &case.files {
            item.lay(&root);
        }
        fs::write(
            folder.path().join("Caddyfile"),
            with_options(&case.caddyfile),
        )
        .expect("written");
        let stage = Self { folder, variables };
        fs::write(stage.path("cutover.toml"), stage.own_places("")).expect("written");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A configuration with a state folder and sockets that no other test has.
    fn own_places(&self, toml: &str) -> String {
        let folder = self.folder.path().display();
        let ops = format!("127.0.0.1:{}", free_port());
        let listen = format!("[listen]\nops = \"{ops}\"\nadmin = \"{folder}/run/admin.sock\"\n");
        let state = format!("state_dir = \"{folder}/state\"\n");
        match toml.split_once("[listen]\n") {
            Some((before, after)) => format!("{state}{before}{listen}{after}"),
            None => format!("{state}{toml}\n{listen}"),
        }
    }

    /// Writes the Caddyfile in our language, as a person would, and gives its place. `Err`: what is
    /// wrong with it.
    fn adapt(&self) -> Result<PathBuf, String> {
        let run = |program: PathBuf, arguments: &[&str], file: &str| {
            let output = Command::new(program)
                .args(arguments)
                .arg(self.path(file))
                .current_dir(self.folder.path())
                .envs(&self.variables)
                .output()
                .expect("it starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            match output.status.success() {
                true => Ok(text),
                false => Err(format!("{}{text}", String::from_utf8_lossy(&output.stderr))),
            }
        };
        let text = run(proxyctl(), &["adapt"], "Caddyfile")?;
        let file = self.path("adapted.toml");
        fs::write(&file, self.own_places(&text)).expect("written");
        run(cutover(), &["check", "--config"], "adapted.toml")?;
        Ok(file)
    }

    /// The port that the variable `name` stands for.
    pub fn addr(&self, name: &str) -> SocketAddr {
        let port = self.variables[name].parse().expect("a port");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Where a request goes.
    pub fn addr_of(&self, request: &Request) -> SocketAddr {
        match (&request.port, request.https) {
            (Some(port), _) => self.addr(&format!("PORT_{port}")),
            (None, true) => self.addr("HTTPS_PORT"),
            (None, false) => self.addr("HTTP_PORT"),
        }
    }

    /// `text` with the variables in place of their names.
    pub fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Longest first: HTTP_PORT is not the end of another name, but ORIGIN is the start of one.
        for (name, value) in self.variables.iter().rev() {
            text = text.replace(&format!("${name}"), value);
        }
        text
    }

    /// Starts a server and waits until it takes what `requests` send.
    pub async fn start(&self, kind: Kind, requests: &[Request]) -> Result<Server, String> {
        let log = self.folder.path().join(format!("{kind:?}.log"));
        let output = fs::File::create(&log).expect("a file");
        let (program, file) = match kind {
            Kind::Caddy => (PathBuf::from("caddy"), self.path("Caddyfile")),
            Kind::Cutover => (cutover(), self.path("Caddyfile")),
            Kind::Adapted => (cutover(), self.adapt()?),
        };
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(file)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("XDG_DATA_HOME", self.folder.path().join("data"))
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{kind:?} does not start: {error}"));
        let mut server = Server { kind, child, log };
        for request in requests.iter().filter(|request| request.status != 0) {
            let name = request.https.then(|| self.name_of(request));
            server.wait(self.addr_of(request), name.as_deref()).await?;
        }
        Ok(server)
    }

    /// The host that a request names, without port; the name it asks a certificate for.
    pub fn name_of(&self, request: &Request) -> String {
        let host = request
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = host.map_or("localhost", |(_, value)| value);
        host.split(':').next().unwrap_or(host).to_owned()
    }
}

impl Item {
    fn lay(&self, root: &std::path::Path) {
        match self {
            Self::Folder(name) => fs::create_dir_all(root.join(name)).expect("a folder"),
            Self::Link(name, target) => symlink(target, root.join(name)).expect("a link"),
            Self::File(name, bytes) => {
                let path = root.join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                fs::write(&path, bytes).expect("written");
                let file = fs::File::options()
                    .write(true)
                    .open(&path)
                    .expect("the file");
                file.set_modified(SystemTime::UNIX_EPOCH + CHANGED)
                    .expect("a time");
            }
        }
    }
}

/// Every case runs on ports of its own, without the admin port and without a changed trust store.
fn with_options(caddyfile: &str) -> String {
    let options =
        "\tadmin off\n\tskip_install_trust\n\thttp_port {$HTTP_PORT}\n\thttps_port {$HTTPS_PORT}\n";
    match caddyfile.strip_prefix("{\n") {
        Some(rest) => format!("{{\n{options}{rest}"),
        None => format!("{{\n{options}}}\n{caddyfile}"),
    }
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    child: Child,
    log: PathBuf,
}

impl Server {
    async fn wait(&mut self, addr: SocketAddr, name: Option<&str>) -> Result<(), String> {
        let deadline = now() + PATIENCE;
        while !client::is_ready(addr, name).await {
            let kind = self.kind;
            if let Some(status) = self.child.try_wait().expect("its state") {
                return Err(format!("{kind:?} ended: {status}\n{}", self.log()));
            }
            if now() > deadline {
                let log = self.log();
                return Err(format!("{kind:?} is not ready at {addr} {name:?}\n{log}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// What it said.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
