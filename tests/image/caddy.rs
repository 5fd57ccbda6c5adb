//! In the place of a `caddy:2` that ran as root, in an unchanged Compose file.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::compose::{Project, docker, edge_image, image};
use crate::support::ca::{Ca, pair, write};
use crate::support::{curl, finish, free_port, require, wait_for, wait_until};

/// A Compose file as people have it; the image of the proxy is all that changes.
const COMPOSE: &str = r#"services:
  app:
    image: cutover-test-app:v1
    restart: unless-stopped
    depends_on:
      db:
        condition: service_healthy
    labels:
      caddy.address: api.example.com
      caddy.handle_path: /*
      caddy.handle_path.0_reverse_proxy: "{{upstreams 3000}}"

  db:
    image: cutover-test-postgres
    restart: unless-stopped
    environment:
      POSTGRES_PASSWORD_FILE: /run/secrets/password
    volumes:
      - ./password:/run/secrets/password:ro
      - db_data:/var/lib/postgresql/data
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -h 127.0.0.1 -U postgres"]
      interval: 1s
      timeout: 3s
      retries: 60

  caddy:
    image: caddy:2
    restart: unless-stopped
    ports:
      - "${HTTP_PORT}:80"
      - "${HTTPS_PORT}:443"
    volumes:
      - ./Caddyfile:/etc/caddy/Caddyfile
      - caddy_data:/data
      - caddy_config:/config
      - /var/run/docker.sock:/var/run/docker.sock

volumes:
  db_data:
  caddy_data:
  caddy_config:
"#;

/// Nobody is asked for a certificate: those that are there must do.
const CADDYFILE: &str = "{
\tacme_ca https://127.0.0.1:9/directory
}
www.example.com {
\treverse_proxy app:3000
}
inside.example.com {
\ttls internal
\trespond hello
}
";

const STARTS: Duration = Duration::from_secs(60);

struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("a log");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(log).spawn().expect("started"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the real caddy as root until `data` holds its certificates for these hosts, and ends it.
/// Returns the root of the CA that signed them.
fn run_caddy(folder: &Path, data: &Path, hosts: &[&str]) -> PathBuf {
    require("caddy");
    require("pebble");
    let at = |name: &str| folder.join(name);
    let ca = Ca::new();
    let root = write(&at("directory.pem"), &ca.root.pem());
    let (cert, key) = pair(folder, "pebble", &ca.sign(&["127.0.0.1"], "pebble"));
    let (directory, management) = (free_port(), free_port());
    let (http, https) = (free_port(), free_port());
    let pebble = serde_json::json!({"pebble": {
        "listenAddress": format!("127.0.0.1:{directory}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": cert, "privateKey": key, "httpPort": http, "tlsPort": https,
    }});
    let pebble = write(&at("pebble.json"), &pebble.to_string());
    let _pebble = Running::start(
        Command::new("pebble")
            .arg("-config")
            .arg(pebble)
            .env("PEBBLE_VA_ALWAYS_VALID", "1")
            .env("PEBBLE_VA_NOSLEEP", "1"),
        &at("pebble.log"),
    );
    let sites: String = hosts
        .iter()
        .map(|host| format!("{host} {{\n respond hi\n}}\n"))
        .collect();
    let caddyfile = format!(
        "{{\n admin off\n http_port {http}\n https_port {https}\n skip_install_trust\n \
         acme_ca https://127.0.0.1:{directory}/dir\n acme_ca_root {}\n}}\n\
         {sites}inside.example.com {{\n tls internal\n respond hi\n}}\n",
        root.display()
    );
    let caddyfile = write(&at("Caddyfile.root"), &caddyfile);
    wait_until("pebble listens", || {
        std::net::TcpStream::connect(("127.0.0.1", directory)).is_ok()
    });
    // As in the container: XDG_DATA_HOME is /data, XDG_CONFIG_HOME is /config.
    let caddy = Running::start(
        Command::new("caddy")
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(caddyfile)
            .env("XDG_DATA_HOME", data)
            .env("XDG_CONFIG_HOME", at("caddy-config"))
            .env("HOME", folder),
        &at("caddy.log"),
    );
    let certificates = data.join("caddy/certificates");
    let ordered = certificates.join(format!("127.0.0.1-{directory}-dir"));
    let stored = |folder: &Path, host: &str| folder.join(format!("{host}/{host}.json")).exists();
    wait_for(STARTS, "caddy has its certificates", || {
        hosts.iter().all(|host| stored(&ordered, host))
            && stored(&certificates.join("local"), "inside.example.com")
    });
    drop(caddy);
    let of_issued = at("issued.pem");
    let url = format!("https://127.0.0.1:{management}/roots/0");
    let root = root.display().to_string();
    let answer = curl(&[&url, "--cacert", &root]);
    write(&of_issued, &answer.stdout)
}

/// The project with a data volume that a real caddy wrote, up with the proxy's image in place of
/// caddy's. Returns the root of the CA that signed what is in the volume.
fn changed_over(name: &str) -> (Project, PathBuf) {
    edge_image();
    image(&["app", "v1"]);
    image(&["postgres"]);
    let project = Project::new(None, &[name]);
    project.write("Caddyfile", CADDYFILE);
    project.write("password", "not a secret of anybody\n");
    let changed = COMPOSE.replace("image: caddy:2", "image: cutover:test");
    assert_ne!(changed, COMPOSE);
    project.write("docker-compose.yml", &changed);
    let created = project.compose(&["up", "--no-start"]);
    assert_eq!(created.code, 0, "{created:?}");
    let volume = format!("{name}_caddy_data");
    let data = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]);
    let data = PathBuf::from(data);
    // As caddy's image makes it.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("chmod");
    let root = run_caddy(
        &project.at(""),
        &data,
        &["www.example.com", "api.example.com"],
    );
    let key = find(&data.join("caddy/certificates"), "www.example.com.key");
    let metadata = fs::metadata(&key).expect("there");
    assert_eq!(
        (metadata.uid(), metadata.mode() & 0o777),
        (0, 0o600),
        "root's alone"
    );

    let up = project.compose(&["up", "--detach"]);
    assert_eq!(up.code, 0, "{up:?}");
    wait_for(STARTS, "the proxy is ready", || {
        project
            .compose(&["exec", "-T", "caddy", "proxyctl", "ready"])
            .code
            == 0
    });
    let after = fs::metadata(&key).expect("there");
    assert_eq!(
        (after.uid(), after.mode()),
        (0, metadata.mode()),
        "only read"
    );
    (project, root)
}

fn find(folder: &Path, name: &str) -> PathBuf {
    let found = finish(Command::new("find").arg(folder).args(["-name", name]));
    PathBuf::from(found.stdout.trim())
}

/// The application's answer over a certificate that the root of `issued` vouches for.
fn serves(project: &Project, host: &str, issued: &Path) {
    let issued = issued.display().to_string();
    let trusting = ["--cacert", &issued, "--verbose"];
    wait_for(STARTS, "the application answers", || {
        project.ask_with(host, &trusting).stdout.ends_with("v1\n")
    });
    let said = project.ask_with(host, &trusting).stderr;
    assert!(said.contains("issuer: CN=Pebble Intermediate CA"), "{said}");
}

#[test]
fn the_caddyfile_and_the_data_of_a_root_caddy_are_taken_over() {
    let (project, issued) = changed_over("cutover-caddy-file");
    serves(&project, "www.example.com", &issued);
    assert_eq!(project.ask("inside.example.com"), "hello");
    let reload = project.compose(&["exec", "-T", "caddy", "proxyctl", "reload"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    // The way back: Caddy's folder is as it was, and a root caddy starts with it.
    serves(&project, "www.example.com", &issued);
}

#[test]
fn a_compose_file_serves_with_nothing_changed_but_the_image() {
    let (project, issued) = changed_over("cutover-caddy-labels");
    serves(&project, "api.example.com", &issued);
    let ready = project.compose(&["exec", "-T", "db", "pg_isready", "-h", "127.0.0.1"]);
    assert_eq!(ready.code, 0, "{ready:?}");
}
