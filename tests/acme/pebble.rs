//! A pebble and its DNS, on ports of their own, gone with their owner.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cutover::acme::Issuer;
use cutover::config::{Acme, Eab, Secret};
use cutover::http::{Client, Resolver};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) struct Pebble {
    folder: tempfile::TempDir,
    ca_file: PathBuf,
    port: u16,
    management: u16,
    programs: Vec<Program>,
}

/// Ended when dropped.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const KEY_ID: &str = "kid-1";
const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

impl Pebble {
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        Self::launch(variables, false).await
    }

    /// Wants accounts to be bound to [`Pebble::binding`].
    pub(crate) async fn with_binding() -> Self {
        Self::launch(&[], true).await
    }

    pub(crate) fn binding() -> Eab {
        Eab {
            key_id: KEY_ID.to_owned(),
            key: Secret::new(KEY),
        }
    }

    async fn launch(variables: &[(&str, &str)], binding: bool) -> Self {
        cutover::tls::install_provider();
        let folder = tempfile::tempdir().expect("a folder");
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
        let (ca_file, key_file) = (folder.path().join("ca.pem"), folder.path().join("key.pem"));
        std::fs::write(&ca_file, own.cert.pem()).expect("written");
        std::fs::write(&key_file, own.signing_key.serialize_pem()).expect("written");
        let (port, management, dns) = (free_port(), free_port(), free_port());
        let ports = Ports::new();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": ca_file, "privateKey": key_file,
            "httpPort": ports.http, "tlsPort": ports.tls,
            "externalAccountBindingRequired": binding,
            "externalAccountMACKeys": {KEY_ID: KEY},
        }});
        let config_file = folder.path().join("pebble.json");
        std::fs::write(&config_file, config.to_string()).expect("written");
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(&config_file);
        pebble.args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        pebble.env("PEBBLE_WFE_NONCEREJECT", "50");
        pebble.envs(variables.iter().copied());
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        pebble
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        let programs = vec![names_server(dns, "127.0.0.1"), Program::start(pebble)];
        let started = Self {
            folder,
            ca_file,
            port,
            management,
            programs,
        };
        PORTS.with(|known| known.set((ports.http, ports.tls, dns)));
        started.until_up().await;
        started
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The CA of pebble's own certificate.
    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Everything it said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// Roots of what it issues, PEM.
    pub(crate) fn roots(&self) -> Vec<u8> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let root = runtime.block_on(self.get(&url));
        root.expect("a root").to_vec()
    }

    pub(crate) fn issuer(&self) -> Issuer {
        let acme = Acme {
            directory: self.directory(),
            ca_file: Some(self.ca_file.clone()),
            email: Some("me@example.com".to_owned()),
            ..Acme::default()
        };
        Issuer::from_config(&acme).expect("an issuer").remove(0)
    }

    /// Common names of the roots whose chains pebble offers, its default first.
    pub(crate) async fn root_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for n in 0.. {
            let url = format!("https://127.0.0.1:{}/roots/{n}", self.management);
            match self.get(&url).await {
                Some(pem) if !pem.is_empty() => {
                    let der = CertificateDer::from_pem_slice(&pem).expect("a root");
                    let (_, root) = X509Certificate::from_der(&der).expect("a root");
                    let name = root.subject().iter_common_name().next().expect("a name");
                    names.push(name.as_str().expect("text").to_owned());
                }
                _ => break,
            }
        }
        names
    }

    async fn get(&self, url: &str) -> Option<Bytes> {
        let pem = std::fs::read(&self.ca_file).expect("readable");
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        let request = http::Request::get(url).body(Bytes::new()).expect("a URL");
        let answer = Client::with_roots(roots)
            .fetch(
                &Resolver::system(),
                request,
                Duration::from_secs(5),
                1 << 20,
            )
            .await
            .ok()?;
        answer.status.is_success().then_some(answer.body)
    }

    async fn until_up(&self) {
        let url = format!("https://127.0.0.1:{}/dir", self.port);
        for _ in 0..200 {
            if self.get(&url).await.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("pebble did not come up; {} programs", self.programs.len());
    }
}

thread_local! {
    /// Where pebble looks for proofs, and the DNS that knows every name.
    static PORTS: std::cell::Cell<(u16, u16, u16)> = const { std::cell::Cell::new((0, 0, 0)) };
}

/// Ports for HTTP-01, TLS-ALPN-01, and of the DNS of the pebble that this test started.
pub(crate) fn ports() -> (u16, u16, u16) {
    PORTS.with(std::cell::Cell::get)
}

struct Ports {
    http: u16,
    tls: u16,
}

impl Ports {
    fn new() -> Self {
        Self {
            http: free_port(),
            tls: free_port(),
        }
    }
}

/// A port that nobody has: below those that the system gives to others in the meantime, and
/// another one at each call.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 16_384 + std::process::id() % 240 * 64;
    let base = u16::try_from(base).expect("below 32768");
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::SeqCst);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let free = std::net::TcpListener::bind(address).is_ok();
        if free && std::net::UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

/// A DNS where every name has this IPv4 address; none with an empty one.
pub(crate) fn names_server(port: u16, address: &str) -> Program {
    names_server_with(port, free_port(), address)
}

/// The same, with the port of its management.
pub(crate) fn names_server_with(port: u16, management: u16, address: &str) -> Program {
    let mut server = Command::new("pebble-challtestsrv");
    server.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
    server.args(["-defaultIPv4", address, "-defaultIPv6", ""]);
    server.args(["-dns01", &format!("127.0.0.1:{port}")]);
    server.args(["-management", &format!("127.0.0.1:{management}")]);
    run(server)
}

fn run(mut command: Command) -> Program {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn();
    Program(child.expect("pebble and pebble-challtestsrv are installed (scripts/setup.sh)"))
}
