//! `[service.NAME.tls]`: an upstream with a CA of its own that wants a certificate of ours.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::support::ca::{Ca, pair, write};
use crate::support::origin::Origin;
use crate::support::{Edge, curl, finish, wait_until};

/// An upstream over TLS under the name `app.internal`, and the runtime that it lives on.
struct Secure {
    origin: Origin,
    ca: Ca,
    _runtime: tokio::runtime::Runtime,
}

impl Secure {
    /// `clients`: only clients with a certificate of this CA are served.
    fn start(clients: Option<&Ca>) -> Self {
        cutover::tls::install_provider();
        let ca = Ca::new();
        let (chain, key) = ca.sign(&["app.internal"], "app");
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
        let chain: Vec<_> = chain.map(|der| der.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca.root.der().clone()).expect("a root");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let origin = Origin::start_tls("blue", any, Arc::new(config));
        Self {
            origin: runtime.block_on(origin).expect("an origin"),
            ca,
            _runtime: runtime,
        }
    }

    fn service(&self, tls: &str) -> String {
        format!(
            "[[site]]\nhosts = [\"127.0.0.1\"]\ntls = \"off\"\nservice = \"web\"\n\
             [service.web]\nblue = [\"https://{}\"]\n[service.web.tls]\n{tls}\n\
             [service.web.health]\ninterval = \"500ms\"\n",
            self.origin.addr
        )
    }

    fn ca_file(&self, folder: &Path) -> String {
        let path = write(&folder.join("upstream-ca.pem"), &self.ca.root.pem());
        format!("ca = \"{}\"\n", path.display())
    }
}

/// Status and the head of the answer.
fn ask(edge: &Edge) -> (String, String) {
    let url = format!("http://{}/", edge.http);
    let arguments = ["--include", "--write-out", "\n%{http_code}", &url];
    let answer = curl(&arguments).stdout;
    let (head, status) = answer.rsplit_once('\n').expect("a status");
    (status.to_owned(), head.to_owned())
}

fn start(secure: &Secure, tls: &str) -> Edge {
    let mut edge = Edge::prepare(&[]);
    edge.write(&secure.service(tls));
    edge.spawn();
    edge
}

#[test]
fn an_upstream_is_believed_by_its_own_ca_and_name_alone() {
    let secure = Secure::start(None);
    let folder = tempfile::tempdir().expect("a folder");
    let ca = secure.ca_file(folder.path());
    let good = format!("{ca}server_name = \"app.internal\"");
    let edge = start(&secure, &good);
    let (status, head) = ask(&edge);
    assert_eq!(status, "200", "{head}");
    wait_until("probes pass too", || {
        edge.status()["services"][0]["slots"]["blue"]["upstreams"][0]["healthy"] == true
    });
    // Every other way to know it: the system's CAs, another CA, its address.
    let other = Ca::new();
    let other = write(&folder.path().join("other.pem"), &other.root.pem());
    for tls in [
        "server_name = \"app.internal\"".to_owned(),
        format!(
            "ca = \"{}\"\nserver_name = \"app.internal\"",
            other.display()
        ),
        ca,
        format!(
            "{}server_name = \"other.internal\"",
            secure.ca_file(folder.path())
        ),
    ] {
        edge.write(&secure.service(&tls));
        let reload = edge.proxyctl(&["reload"]);
        assert_eq!(reload.code, 0, "{reload:?}");
        let (status, head) = ask(&edge);
        assert_eq!(status, "502", "{tls}\n{head}");
        assert!(
            head.contains("error=tls_certificate_error"),
            "{tls}\n{head}"
        );
    }
    edge.write(&secure.service("insecure_skip_verify = true"));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    assert_eq!(ask(&edge).0, "200");
}

#[test]
fn an_upstream_that_wants_a_certificate_gets_the_one_of_the_service() {
    let clients = Ca::new();
    let secure = Secure::start(Some(&clients));
    let folder = tempfile::tempdir().expect("a folder");
    let trusted = format!(
        "{}server_name = \"app.internal\"\n",
        secure.ca_file(folder.path())
    );
    let edge = start(&secure, &trusted);
    let (status, head) = ask(&edge);
    assert_eq!(status, "502", "{head}");
    assert!(head.contains("error=tls_alert_received"), "{head}");

    let signed = clients.sign(&["proxy.internal"], "proxy");
    let (cert, key) = pair(folder.path(), "proxy", &signed);
    let shown = format!(
        "{trusted}cert = \"{}\"\nkey = \"{}\"\n",
        cert.display(),
        key.display()
    );
    for alpn in ["", "alpn = [\"http/1.1\"]", "alpn = [\"h2\"]"] {
        edge.write(&secure.service(&format!("{shown}{alpn}")));
        assert_eq!(edge.proxyctl(&["reload"]).code, 0);
        let (status, head) = ask(&edge);
        assert_eq!(status, "200", "{alpn}: {head}");
    }
    wait_until("probes show it too", || {
        edge.status()["services"][0]["slots"]["blue"]["upstreams"][0]["healthy"] == true
    });

    // A new certificate in the same place, of a CA that the upstream does not know.
    let stranger = Ca::new().sign(&["proxy.internal"], "stranger");
    pair(folder.path(), "proxy", &stranger);
    wait_until("the new files are used", || {
        ask(&edge).1.contains("error=tls_alert_received")
    });
    pair(folder.path(), "proxy", &signed);
    wait_until("and the old ones again", || ask(&edge).0 == "200");
}

#[test]
fn files_that_cannot_be_used_change_nothing_and_are_named() {
    let secure = Secure::start(None);
    let folder = tempfile::tempdir().expect("a folder");
    let good = format!(
        "{}server_name = \"app.internal\"",
        secure.ca_file(folder.path())
    );
    let edge = start(&secure, &good);
    assert_eq!(ask(&edge).0, "200");
    let broken = write(&folder.path().join("broken.pem"), "nothing in here");
    edge.write(&secure.service(&format!("ca = \"{}\"", broken.display())));
    let reload = edge.proxyctl(&["reload"]);
    assert_eq!(reload.code, 1, "{reload:?}");
    assert!(
        edge.log().contains("broken.pem: contains no certificate")
            || reload.stderr.contains("broken.pem"),
        "{reload:?}"
    );
    assert_eq!(ask(&edge).0, "200");
}

#[test]
fn check_warns_of_an_upstream_that_is_not_verified() {
    let secure = Secure::start(None);
    let edge = Edge::prepare(&[]);
    edge.write(&secure.service("insecure_skip_verify = true"));
    let mut check = std::process::Command::new(crate::support::cutover());
    let checked = finish(check.args(["check", "--config"]).arg(edge.config()));
    assert_eq!(checked.code, 0, "{checked:?}");
    let warned = "service.web.tls.insecure_skip_verify: ";
    assert!(checked.stderr.contains(warned), "{checked:?}");
}

#[test]
fn check_warns_of_files_that_are_not_there() {
    let secure = Secure::start(None);
    let edge = Edge::prepare(&[]);
    let text = secure.service("ca = \"/nowhere/ca.pem\"");
    edge.write(&format!(
        "[[site]]\nhosts = [\"files.internal\"]\ntls = {{ cert = \"/nowhere/cert.pem\", key = \"/nowhere/key.pem\" }}\n\
         client_auth = {{ ca = \"/nowhere/clients.pem\" }}\nservice = \"web\"\n{text}"
    ));
    let mut check = std::process::Command::new(crate::support::cutover());
    let checked = finish(check.args(["check", "--config"]).arg(edge.config()));
    assert_eq!(checked.code, 0, "{checked:?}");
    for file in ["cert.pem", "clients.pem", "ca.pem"] {
        let warned = format!("warning: /nowhere/{file}: cannot be read: ");
        assert!(checked.stderr.contains(&warned), "{file}: {checked:?}");
    }
}

/// No descriptor and no protocol beneath TLS stands between a stream and its end.
#[test]
fn a_silent_event_stream_from_an_upstream_over_tls_ends_in_its_window() {
    let secure = Secure::start(None);
    let blue = format!("blue = [\"https://{}\"]\n", secure.origin.addr);
    let green = blue.replace("blue", "green");
    let switch = "[service.web.switch]\nsse_drain = \"2s\"\ndrain = \"30s\"\nobserve = \"0s\"\n";
    for alpn in ["h2", "http/1.1"] {
        let mut edge = Edge::prepare(&[]);
        let tls = format!("insecure_skip_verify = true\nalpn = [\"{alpn}\"]");
        let service = secure
            .service(&tls)
            .replace(&blue, &(blue.clone() + &green));
        edge.write(&format!("{service}{switch}"));
        edge.spawn();
        edge.wait_healthy();
        let url = format!("http://{}", edge.http);
        let open = |target: &str| {
            let url = format!("{url}{target}");
            std::thread::spawn(move || curl(&["--no-buffer", "--header", "Accept: */*", &url]))
        };
        let in_flight =
            |kind: &str| edge.status()["services"][0]["slots"]["blue"]["in_flight"][kind].clone();
        let download = open("/drip?n=60&every_ms=100");
        let stream = open("/sse?n=2&every_ms=60000");
        wait_until("both are under way", || {
            in_flight("request") == 1 && in_flight("sse") == 1
        });
        let switched = edge.proxyctl(&["switch", "green", "--no-wait"]);
        assert_eq!(switched.code, 0, "{switched:?}");
        let ended = stream.join().expect("a client");
        assert_eq!(ended.code, 0, "{alpn}: a proper end: {ended:?}");
        assert!(ended.stdout.contains("\n\nretry: "), "{alpn}: {ended:?}");
        let ended = download.join().expect("a client");
        assert_eq!(
            (ended.code, ended.stdout.lines().count()),
            (0, 60),
            "{alpn}"
        );
        let log = edge.log();
        assert!(
            !log.contains("closed at the end of the drain"),
            "{alpn}: {log}"
        );
    }
}
