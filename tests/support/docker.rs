//! A real Docker engine: an image made of busybox, containers that are gone with their test, a socket
//! between the proxy and the engine that can be cut, and an engine of one's own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Ended, finish, wait_for, wait_until};

/// The engine that the setup script starts.
pub const SOCKET: &str = "/var/run/docker.sock";

/// One engine, by its socket.
#[derive(Clone, Debug)]
pub struct Engine {
    pub socket: PathBuf,
}

impl Engine {
    /// The machine's engine. Fails where there is none.
    pub fn shared() -> Self {
        let engine = Self {
            socket: PathBuf::from(SOCKET),
        };
        let info = engine.run(&["version", "--format", "{{.Server.Version}}"]);
        assert_eq!(
            info.code, 0,
            "no Docker engine answers on {SOCKET}: run scripts/setup.sh\n{}",
            info.stderr
        );
        engine
    }

    /// `docker` against this engine.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        finish(
            Command::new("docker")
                .arg("--host")
                .arg(format!("unix://{}", self.socket.display()))
                .args(arguments),
        )
    }

    /// The same, and it must work.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "docker {arguments:?}: {}", ended.stderr);
        ended.stdout.trim().to_owned()
    }

    /// Makes the image of a tiny web application, once: `GET /` answers the name of its host, which
    /// is the short id of its container.
    pub fn image(&self, name: &str) {
        super::require("busybox");
        if self.run(&["image", "inspect", name]).code == 0 {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for inner in ["bin", "www", "tmp", "etc"] {
            fs::create_dir(root.join(inner)).expect("a folder");
        }
        let busybox = finish(Command::new("sh").args(["-c", "command -v busybox"])).stdout;
        fs::copy(busybox.trim(), root.join("bin/busybox")).expect("busybox");
        for applet in ["sh", "httpd", "hostname", "sleep", "cat", "echo"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        let mut tar = Command::new("tar")
            .args(["-C", &root.display().to_string(), "-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        let serve = "hostname > /www/index.html; exec httpd -f -p 3000 -h /www";
        let import = Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(["import", "--change", "EXPOSE 3000", "--change"])
            .arg(format!("CMD [\"/bin/sh\", \"-c\", \"{serve}\"]"))
            .args(["-", name])
            .stdin(tar.stdout.take().expect("a pipe"))
            .output()
            .expect("docker import");
        assert!(import.status.success(), "{import:?}");
        assert!(tar.wait().expect("tar").success());
    }
}

/// Containers and networks of one test, removed with it.
pub struct World {
    pub engine: Engine,
    /// Before every name.
    pub prefix: String,
    networks: Mutex<Vec<String>>,
}

/// The image of the tests.
pub const IMAGE: &str = "cutover-test-web:v1";

impl World {
    pub fn new(engine: Engine, prefix: &str) -> Self {
        engine.image(IMAGE);
        let world = Self {
            engine,
            prefix: prefix.to_owned(),
            networks: Mutex::default(),
        };
        // What an earlier run left when it was killed.
        world.remove_all();
        world
    }

    /// The whole name of a container or network.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Starts a container with these labels and more arguments, as Compose would label it when
    /// `project` and `service` are not empty. Gives its short id, which it answers with.
    pub fn start(
        &self,
        name: &str,
        project: &str,
        service: &str,
        labels: &[&str],
        more: &[&str],
    ) -> String {
        self.make(&["run", "--detach"], name, (project, service), labels, more)
    }

    /// The same, without starting it.
    pub fn create(&self, name: &str, project: &str, service: &str, labels: &[&str]) -> String {
        self.make(&["create"], name, (project, service), labels, &[])
    }

    fn make(
        &self,
        verb: &[&str],
        name: &str,
        (project, service): (&str, &str),
        labels: &[&str],
        more: &[&str],
    ) -> String {
        let full = self.name(name);
        let mut arguments = [verb, &["--name", &full]].concat();
        let project = format!("com.docker.compose.project={project}");
        // Of this test alone: whoever else has containers here takes no part.
        let service_label = format!("com.docker.compose.service={}-{service}", self.prefix);
        if !service.is_empty() {
            for label in [&project, &service_label] {
                arguments.extend(["--label", label]);
            }
        }
        let mark = format!("test={}", self.prefix);
        arguments.extend(["--label", &mark]);
        for label in labels {
            arguments.extend(["--label", label]);
        }
        let (options, command) = match more.iter().position(|one| *one == "--") {
            Some(at) => (&more[..at], &more[at + 1..]),
            None => (more, &[][..]),
        };
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(command);
        let id = self.engine.ok(&arguments);
        id.chars().take(12).collect()
    }

    pub fn network(&self, name: &str) -> String {
        let name = self.name(name);
        self.engine.ok(&["network", "create", &name]);
        self.networks.lock().expect("no panic").push(name.clone());
        name
    }

    /// A verb about a container.
    pub fn docker(&self, verb: &str, name: &str, more: &[&str]) -> String {
        let name = self.name(name);
        let mut arguments = vec![verb];
        arguments.extend(more);
        arguments.push(&name);
        self.engine.ok(&arguments)
    }

    pub fn remove_all(&self) {
        let filter = format!("label=test={}", self.prefix);
        let ids = self.engine.run(&["ps", "-aq", "--filter", &filter]).stdout;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            let mut arguments = vec!["rm", "-f"];
            arguments.extend(&ids);
            let _ = self.engine.run(&arguments);
        }
        for network in self.networks.lock().expect("no panic").drain(..) {
            let _ = self.engine.run(&["network", "rm", &network]);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.remove_all();
    }
}

/// A socket that leads to another one, until it is cut.
pub struct Relay {
    pub path: PathBuf,
    open: Arc<Mutex<Vec<UnixStream>>>,
    cut: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Relay {
    /// Leads to `target`. Paths that contain one of `refused` are answered with 403, as a socket
    /// proxy does.
    pub fn to(target: &Path, refused: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let relay = Self {
            path,
            open: Arc::default(),
            cut: Arc::default(),
            _folder: folder,
        };
        let (open, cut, target) = (
            Arc::clone(&relay.open),
            Arc::clone(&relay.cut),
            target.to_owned(),
        );
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let (open, target) = (Arc::clone(&open), target.clone());
                std::thread::spawn(move || pass(near, &target, refused, &open));
            }
        });
        relay
    }

    /// Ends every connection and takes no new one, until [`Relay::mend`].
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    /// Ends every connection once.
    pub fn tear(&self) {
        self.cut();
        self.mend();
    }
}

/// Passes bytes on. With refusals each connection carries one request, so that every path is seen.
fn pass(mut near: UnixStream, target: &Path, refused: &[&str], open: &Mutex<Vec<UnixStream>>) {
    let mut head = Vec::new();
    if !refused.is_empty() {
        let mut byte = [0; 1];
        while !head.ends_with(b"\r\n\r\n") && matches!(near.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let line = text.lines().next().unwrap_or_default();
        if refused.iter().any(|path| line.contains(path)) {
            let body = "Forbidden by rule";
            let _ = write!(
                near,
                "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            return;
        }
        head = text
            .replacen("\r\n", "\r\nconnection: close\r\n", 1)
            .into_bytes();
    }
    let Ok(mut far) = UnixStream::connect(target) else {
        return;
    };
    {
        let mut open = open.lock().expect("no panic");
        open.extend([near.try_clone(), far.try_clone()].into_iter().flatten());
    }
    if far.write_all(&head).is_err() {
        return;
    }
    let (Ok(mut near_in), Ok(mut far_out)) = (near.try_clone(), far.try_clone()) else {
        return;
    };
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut near_in, &mut far_out);
        let _ = far_out.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut far, &mut near);
    let _ = near.shutdown(Shutdown::Both);
}

/// HAProxy before the shared engine's socket, with the rules of docker-socket-proxy: GET of the
/// allowed paths, and 403 to everything else.
pub struct SocketProxy {
    port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl SocketProxy {
    /// `allowed`: first parts of paths.
    pub fn start(allowed: &[&str]) -> Self {
        super::require("haproxy");
        let folder = tempfile::tempdir().expect("a folder");
        let port = super::free_port();
        let rule = |path: &&str| {
            format!("  http-request allow if {{ path,url_dec -m reg -i ^(/v[0-9.]+)?/{path} }}\n")
        };
        let rules: String = allowed.iter().map(rule).collect();
        let text = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n\
             frontend engine\n  bind 127.0.0.1:{port}\n  http-request deny unless METH_GET\n{rules}\
             \x20 http-request deny\n  default_backend docker\n\
             backend docker\n  server docker unix@{SOCKET}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text).expect("a file");
        let child = Command::new("haproxy")
            .args(["-db", "-q", "-f", &file.display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start haproxy");
        let proxy = Self {
            port,
            child,
            _folder: folder,
        };
        wait_until("haproxy listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        proxy
    }

    /// As `[docker] socket` has it.
    pub fn address(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// The status that a call is answered with.
    pub fn status_of(&self, method: &str, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let format = "%{http_code}";
        let asked = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--write-out", format])
            .args(["--max-time", "20", "--request", method, &url])
            .output();
        String::from_utf8_lossy(&asked.expect("curl").stdout).into_owned()
    }
}

impl Drop for SocketProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An engine of one's own, that may be restarted.
pub struct OwnEngine {
    pub engine: Engine,
    folder: tempfile::TempDir,
    bridge: String,
    subnet: String,
    child: Option<Child>,
}

impl OwnEngine {
    /// Starts one with its own folders, socket and bridge.
    pub fn start(bridge: &str, subnet: &str) -> Self {
        super::require("dockerd");
        let folder = tempfile::tempdir().expect("a folder");
        let mut own = Self {
            engine: Engine {
                socket: folder.path().join("docker.sock"),
            },
            folder,
            bridge: bridge.to_owned(),
            subnet: subnet.to_owned(),
            child: None,
        };
        let ip = finish(Command::new("ip").args(["link", "add", bridge, "type", "bridge"]));
        assert!(ip.code == 0 || ip.stderr.contains("exists"), "{ip:?}");
        finish(Command::new("ip").args(["addr", "add", subnet, "dev", bridge]));
        finish(Command::new("ip").args(["link", "set", bridge, "up"]));
        own.spawn();
        own
    }

    pub fn spawn(&mut self) {
        let folder = self.folder.path();
        let log = fs::File::create(folder.join("log")).expect("a log");
        let path = |name: &str| folder.join(name).display().to_string();
        let child = Command::new("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .args(["--pidfile", &path("pid"), "--bridge", &self.bridge])
            .args([
                "--host",
                &format!("unix://{}", self.engine.socket.display()),
            ])
            .args(["--iptables=false", "--ip-masq=false", "--ip-forward=false"])
            .args(["--storage-driver", "vfs"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start dockerd");
        self.child = Some(child);
        wait_for(Duration::from_secs(60), "the own engine answers", || {
            self.engine.run(&["version"]).code == 0
        });
    }

    /// Asks it to end, as its service manager would.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        finish(Command::new("kill").args(["-TERM", &child.id().to_string()]));
        wait_until("the own engine ended", || {
            child.try_wait().expect("its state").is_some()
        });
    }

    /// Ends it as a power cut would; its containers go on until it starts again.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
        // Its containerd ends with it; one that is about to would be taken for one that runs.
        let pid = self.folder.path().join("exec/containerd/containerd.pid");
        let pid = fs::read_to_string(pid).unwrap_or_default();
        let name = Path::new("/proc").join(pid.trim()).join("comm");
        wait_for(Duration::from_secs(60), "its containerd ended", || {
            pid.trim().is_empty()
                || !fs::read_to_string(&name).is_ok_and(|name| name.contains("containerd"))
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(3000);
            eprintln!(
                "--- the engine's log ---\n{}",
                log.get(from..).unwrap_or(&log)
            );
        }
        if let Some(mut child) = self.child.take() {
            finish(Command::new("kill").args(["-TERM", &child.id().to_string()]));
            let deadline = super::now() + Duration::from_secs(20);
            while matches!(child.try_wait(), Ok(None)) && super::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        finish(Command::new("ip").args(["link", "del", &self.bridge]));
        let _ = &self.subnet;
    }
}
