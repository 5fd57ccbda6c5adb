//! Debian's caddy as the CA: an ACME server that shares nothing with pebble. It looks for proofs
//! on the ports of the standard alone, so the edge listens on those of an address of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::pebble::{Program, free_port, names_server};
use crate::program;
use crate::support::{Edge, Origins, finish, require, wait_until};

/// Where the CA finds every host.
const ADDRESS: [u8; 4] = [127, 0, 0, 2];

pub(crate) struct Caddy {
    folder: tempfile::TempDir,
    port: u16,
    _program: Program,
}

impl Caddy {
    /// Needs root: ports 80 and 443, and a hosts file of its own for the CA.
    pub(crate) fn start(hosts: &[&str]) -> Self {
        require("caddy");
        require("unshare");
        let folder = tempfile::tempdir().expect("a folder");
        let (port, other) = (free_port(), free_port());
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
        };
        write(
            "Caddyfile",
            &format!(
                "{{\n admin off\n skip_install_trust\n http_port {other}\n https_port {port}\n}}\n\
                 https://localhost:{port} {{\n tls internal\n acme_server\n}}\n"
            ),
        );
        let lines = hosts.iter().map(|host| format!("127.0.0.2 {host}\n"));
        let lines: String = lines.collect();
        write("hosts", &format!("127.0.0.1 localhost\n{lines}"));
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg("mount --bind hosts /etc/hosts && exec caddy run --adapter caddyfile --config Caddyfile");
        command
            .current_dir(folder.path())
            .env("XDG_DATA_HOME", folder.path().join("data"))
            .env("XDG_CONFIG_HOME", folder.path().join("config"))
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let program = Program::start(command);
        let caddy = Self {
            folder,
            port,
            _program: program,
        };
        wait_until("caddy is a CA", || {
            let url = caddy.directory();
            let root = caddy.root();
            let answer = finish(
                Command::new("curl")
                    .args(["-sf", "--max-time", "5", "--cacert"])
                    .arg(root)
                    .arg(url),
            );
            answer.code == 0
        });
        caddy
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://localhost:{}/acme/local/directory", self.port)
    }

    pub(crate) fn root(&self) -> PathBuf {
        let data = self.folder.path().join("data");
        data.join("caddy/pki/authorities/local/root.crt")
    }
}

#[test]
fn another_ca_certifies_by_both_challenges() {
    let names = ["one.caddy.test", "two.caddy.test"];
    let caddy = Caddy::start(&names);
    let dns = free_port();
    let _dns = names_server(dns, "127.0.0.2");
    let origins = Origins::start();
    for (host, http, method) in [
        (names[0], 80, "http-01"),
        // Nobody answers on port 80, so the other way is gone when it is asked for again.
        (names[1], free_port(), "tls-alpn-01"),
    ] {
        let mut edge = Edge::prepare(&[]);
        edge.http = SocketAddr::from((ADDRESS, http));
        edge.https = SocketAddr::from((ADDRESS, 443));
        edge.write(&format!(
            "[acme]\ndirectory = \"{}\"\nca_file = \"{}\"\nresolvers = [\"127.0.0.1:{dns}\"]\n\
             [[site]]\nhosts = [\"{host}\"]\nservice = \"web\"\n{}",
            caddy.directory(),
            caddy.root().display(),
            origins.service(""),
        ));
        edge.spawn();
        if method == "tls-alpn-01" {
            wait_until("the first way failed", || {
                program::certificate(&edge, host)["failures"] == 1
            });
            let renewed = edge.proxyctl(&["certs", "renew", host]);
            assert_eq!(renewed.code, 0, "{renewed:?}");
        }
        wait_until("the certificate is issued", || {
            program::certificate(&edge, host)["origin"] == "acme"
        });
        assert_eq!(program::certificate(&edge, host)["challenge"], method);
        let answer = program::ask(&edge, host, &caddy.root());
        assert_eq!(answer.code, 0, "{answer:?}");
    }
}
