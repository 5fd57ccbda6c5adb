//! The program itself: nothing but a configuration, pebble, and the command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::pebble::{self, Pebble};
use crate::support::{self, Edge, Ended, Origins, finish, wait_until};

pub(crate) struct Daemon {
    pub(crate) edge: Edge,
    pub(crate) pebble: Pebble,
    _origins: Origins,
}

/// A site for every host, on the ports where pebble looks.
pub(crate) fn text(pebble: &Pebble, dns: u16, origins: &Origins, hosts: &[&str]) -> String {
    let sites: String = hosts
        .iter()
        .map(|host| format!("[[site]]\nhosts = [\"{host}\"]\nservice = \"web\"\n"))
        .collect();
    format!(
        "[acme]\ndirectory = \"{}\"\nca_file = \"{}\"\nemail = \"me@example.com\"\n\
         resolvers = [\"127.0.0.1:{dns}\"]\n{sites}{}",
        pebble.directory(),
        pebble.ca_file().display(),
        origins.service(""),
    )
}

impl Daemon {
    pub(crate) fn start(hosts: &[&str]) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let pebble = runtime.block_on(Pebble::start(&[]));
        let (http, tls, dns) = pebble::ports();
        let origins = Origins::start();
        let mut edge = Edge::prepare(&[]);
        edge.http.set_port(http);
        edge.https.set_port(tls);
        edge.write(&text(&pebble, dns, &origins, hosts));
        edge.spawn();
        Self {
            edge,
            pebble,
            _origins: origins,
        }
    }

    /// The account as it is on disk.
    pub(crate) fn account(&self) -> Option<String> {
        let acme = self.edge.folder.path().join("state/acme");
        let folders = fs::read_dir(acme).ok()?.flatten();
        let files = folders.map(|folder| folder.path().join("account.json"));
        files
            .into_iter()
            .find_map(|file| fs::read_to_string(file).ok())
    }

    /// `certs --json` of one host.
    pub(crate) fn certificate(&self, host: &str) -> serde_json::Value {
        certificate(&self.edge, host)
    }

    pub(crate) fn wait_issued(&self, host: &str) {
        wait_until("the certificate is issued", || {
            self.certificate(host)["origin"] == "acme"
        });
    }

    /// Asks over TLS and checks the chain with pebble's roots.
    pub(crate) fn ask(&self, host: &str) -> Ended {
        let roots = self.edge.folder.path().join("roots.pem");
        fs::write(&roots, self.pebble.roots()).expect("written");
        ask(&self.edge, host, &roots)
    }
}

pub(crate) fn certificate(edge: &Edge, host: &str) -> serde_json::Value {
    let answer = edge.proxyctl(&["certs", "--json"]);
    let report: serde_json::Value =
        serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer:?}"));
    let all = report["certificates"].as_array().cloned();
    let mut all = all.unwrap_or_default().into_iter();
    all.find(|one| one["host"] == host).unwrap_or_default()
}

pub(crate) fn ask(edge: &Edge, host: &str, roots: &Path) -> Ended {
    let port = edge.https.port();
    finish(
        Command::new("curl")
            .args(["-sS", "--max-time", "10", "--cacert"])
            .arg(roots)
            .args(["--resolve", &format!("{host}:{port}:{}", edge.https.ip())])
            .arg(format!("https://{host}:{port}/")),
    )
}

pub(crate) fn plain(edge: &Edge, host: &str, path: &str) -> Ended {
    let url = format!("http://{}{path}", edge.http);
    support::curl(&["-i", "-H", &format!("Host: {host}"), &url])
}
