//! TLS as clients and upstreams see it, with the real programs: swaps under load, resumption
//! over a restart, client certificates, watched files, what another proxy left behind.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use support::ca::{Ca, pair, write};
use support::{Edge, Ended, Origins, curl, finish, free_port, require, wait_until};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A site over the blue origin.
fn site(host: &str, more: &str) -> String {
    format!("[[site]]\nhosts = [\"{host}\"]\nservice = \"web\"\n{more}\n")
}

fn files((cert, key): &(PathBuf, PathBuf)) -> String {
    let (cert, key) = (cert.display(), key.display());
    format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}")
}

/// `curl` to a host of this edge over TLS; the certificate is not verified.
fn ask(edge: &Edge, host: &str, path: &str, arguments: &[&str]) -> Ended {
    let port = edge.https.port();
    let resolve = format!("{host}:{port}:127.0.0.1");
    let url = format!("https://{host}:{port}{path}");
    curl(
        &[
            &["--insecure", "--resolve", &resolve][..],
            arguments,
            &[&url],
        ]
        .concat(),
    )
}

fn status(edge: &Edge, host: &str, arguments: &[&str]) -> String {
    let wanted = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    ask(edge, host, "/", &[&wanted[..], arguments].concat()).stdout
}

#[derive(Default)]
struct Shaken {
    whole: AtomicU64,
    enough: AtomicBool,
    failed: Mutex<Vec<String>>,
    seen: Mutex<BTreeSet<Vec<u8>>>,
}

/// New connections, one after the other, each with one request.
async fn connect_again_and_again(
    address: SocketAddr,
    name: &'static str,
    h2: bool,
    config: Arc<ClientConfig>,
    shaken: Arc<Shaken>,
) {
    while !shaken.enough.load(Ordering::Relaxed) {
        match connect_once(address, name, h2, &config).await {
            Ok(leaf) => {
                shaken.whole.fetch_add(1, Ordering::Relaxed);
                shaken.seen.lock().expect("no panic").insert(leaf);
            }
            Err(error) => {
                let error = format!("{name} h2={h2}: {error:#}");
                shaken.failed.lock().expect("no panic").push(error);
            }
        }
    }
}

async fn connect_once(
    address: SocketAddr,
    name: &'static str,
    h2: bool,
    config: &Arc<ClientConfig>,
) -> anyhow::Result<Vec<u8>> {
    let socket = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::clone(config));
    // Verified: a certificate for another name is an error here.
    let tls = connector
        .connect(ServerName::try_from(name)?, socket)
        .await?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain[0].to_vec();
    let request = http::Request::builder()
        .uri(format!("https://{name}/"))
        .header("host", name)
        .body(Empty::<Bytes>::new())?;
    let response = if h2 {
        let io = TokioIo::new(tls);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    anyhow::ensure!(response.status() == 200, "{}", response.status());
    response.into_body().collect().await?;
    Ok(leaf)
}

#[test]
fn two_hundred_swaps_under_new_connections_fail_no_handshake_and_show_no_wrong_name() {
    const SWAPS: usize = 200;
    cutover::tls::install_provider();
    let (origins, ca) = (Origins::start(), Ca::new());
    let folder = tempfile::tempdir().expect("a folder");
    // Both certificates change at once, by one rename of the link that leads to them.
    let put = |version: usize| {
        let to = folder.path().join(format!("v{version}"));
        for name in ["a.test", "b.test"] {
            pair(&to, name, &ca.sign(&[name], name));
        }
        let link = folder.path().join("next");
        symlink(&to, &link).expect("linked");
        fs::rename(link, folder.path().join("live")).expect("swapped");
    };
    put(0);
    let live = folder.path().join("live");
    let at = |name: &str| {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        files(&(live.join(cert), live.join(key)))
    };
    let edge = Edge::start(&format!(
        "{}{}{}",
        site("a.test", &at("a.test")),
        site("b.test", &at("b.test")),
        origins.config("observe = \"0s\"")
    ));
    edge.wait_healthy();

    let mut roots = RootCertStore::empty();
    roots.add(ca.root.der().clone()).expect("a root");
    let shaken = Arc::new(Shaken::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut clients = Vec::new();
    for name in ["a.test", "b.test"] {
        for h2 in [false, true] {
            let mut config = ClientConfig::builder()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.resumption = rustls::client::Resumption::disabled();
            config.alpn_protocols = vec![if h2 {
                b"h2".to_vec()
            } else {
                b"http/1.1".to_vec()
            }];
            let (config, shaken) = (Arc::new(config), Arc::clone(&shaken));
            let client = connect_again_and_again(edge.https, name, h2, config, shaken);
            clients.push(runtime.spawn(client));
        }
    }
    for version in 1..=SWAPS {
        put(version);
        assert_eq!(edge.proxyctl(&["reload"]).code, 0, "swap {version}");
    }
    // And one that nobody tells the daemon of.
    put(SWAPS + 1);
    wait_until("the last swap was noticed", || {
        edge.log().contains("certificate reloaded for a.test")
    });
    shaken.enough.store(true, Ordering::Relaxed);
    for client in clients {
        runtime.block_on(client).expect("a client");
    }
    let failed = shaken.failed.lock().expect("no panic");
    assert!(
        failed.is_empty(),
        "{} failed, as {}",
        failed.len(),
        failed[0]
    );
    let seen = shaken.seen.lock().expect("no panic").len();
    let whole = shaken.whole.load(Ordering::Relaxed);
    println!("{SWAPS} swaps: {whole} handshakes, 0 failed, {seen} certificates seen");
    assert!(
        seen > SWAPS / 2,
        "{seen} certificates in {whole} handshakes"
    );
}

fn s_client(edge: &Edge, arguments: &[&str]) -> String {
    require("openssl");
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &edge.https.to_string()])
        .args(["-servername", "localhost", "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut input = child.stdin.take().expect("piped");
    input.write_all(request).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("an end");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_restart_keeps_sessions() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let keys = edge.folder.path().join("state/tls/tickets");
    wait_until("the keys are on disk", || keys.exists());
    for version in ["-tls1_3", "-tls1_2"] {
        let session = edge.folder.path().join(format!("session{version}"));
        let session = session.to_str().expect("a path");
        let said = s_client(&edge, &[version, "-sess_out", session]);
        assert!(said.contains("\nNew, TLSv1."), "{said}");
        edge.stop("-TERM");
        edge.spawn();
        edge.wait_healthy();
        let said = s_client(&edge, &[version, "-sess_in", session]);
        assert!(said.contains("\nReused, TLSv1."), "{version}: {said}");
        assert!(said.contains("200 OK"), "{said}");
    }
    // Without the keys nothing is resumed: it is them that did it.
    edge.stop("-TERM");
    fs::remove_file(keys).expect("removed");
    edge.spawn();
    let session = edge.folder.path().join("session-tls1_3");
    let said = s_client(&edge, &["-sess_in", session.to_str().expect("a path")]);
    assert!(said.contains("\nNew, TLSv1.3"), "{said}");
}

#[test]
fn clients_are_known_by_their_certificates_and_by_nothing_they_say() {
    let (origins, ca) = (Origins::start(), Ca::new());
    let folder = tempfile::tempdir().expect("a folder");
    let roots = write(&folder.path().join("clients.pem"), &ca.root.pem());
    let (cert, key) = pair(folder.path(), "ann", &ca.sign(&[], "ann, \"the\" admin"));
    let (cert, key) = (
        cert.to_str().expect("a path"),
        key.to_str().expect("a path"),
    );
    let auth = |mode| {
        format!(
            "client_auth = {{ mode = \"{mode}\", ca = \"{}\" }}",
            roots.display()
        )
    };
    let edge = Edge::start(&format!(
        "{}{}{}{}",
        site("must.localhost", &auth("require")),
        site("may.localhost", &auth("optional")),
        site("strict.localhost", "min_version = \"1.3\""),
        origins.config("observe = \"0s\"")
    ));
    edge.wait_healthy();
    let shown = ["--cert", cert, "--key", key];
    let subject = "x-client-cert-subject: CN=ann\\, \\\"the\\\" admin\n";
    for host in ["must.localhost", "may.localhost"] {
        for version in ["--http1.1", "--http2"] {
            let seen = ask(&edge, host, "/headers", &[&shown[..], &[version]].concat()).stdout;
            assert!(seen.contains(subject), "{seen}");
            let digest = seen
                .lines()
                .find_map(|line| line.strip_prefix("x-client-cert-fingerprint: "));
            let openssl = finish(Command::new("openssl").args([
                "x509",
                "-in",
                cert,
                "-noout",
                "-fingerprint",
                "-sha256",
            ]));
            let expected = openssl
                .stdout
                .trim()
                .rsplit('=')
                .next()
                .map(|hex| hex.replace(':', "").to_lowercase());
            assert_eq!(digest, expected.as_deref(), "{seen}");
        }
    }
    assert_ne!(ask(&edge, "must.localhost", "/", &[]).code, 0);
    let forged = [
        "-H",
        "X-Client-Cert-Subject: CN=eve",
        "-H",
        "X-Client-Cert-Fingerprint: eeee",
        "-H",
        "X_Client_Cert_Subject: CN=eve",
        "-H",
        "X-Client_Cert-Subject: CN=eve",
        "-H",
        "Client-Cert: :eeee:",
        "-H",
        "X-Kept: yes",
    ];
    let hidden = [&forged[..], &["-H", "Connection: X-Client-Cert-Subject"]].concat();
    let plain = format!("http://{}/headers", edge.http);
    // A trusted peer is believed in much, but not in this.
    for trusted in [false, true] {
        if trusted {
            let text = fs::read_to_string(edge.config()).expect("readable");
            let text = text.replace(
                "[listen]\n",
                "[listen]\ntrusted_proxies = [\"127.0.0.1\"]\n",
            );
            fs::write(edge.config(), text).expect("written");
            assert_eq!(edge.proxyctl(&["reload"]).code, 0);
        }
        for seen in [
            ask(&edge, "may.localhost", "/headers", &forged).stdout,
            ask(&edge, "localhost", "/headers", &forged).stdout,
            curl(&[&forged[..], &[&plain]].concat()).stdout,
        ] {
            assert!(seen.contains("x-kept: yes"), "{seen}");
            assert!(!seen.contains("eve") && !seen.contains("eeee"), "{seen}");
        }
        let with = [&shown[..], &hidden[..], &["--http1.1"]].concat();
        let seen = ask(&edge, "must.localhost", "/headers", &with).stdout;
        assert!(!seen.contains("eve") && seen.contains(subject), "{seen}");
    }

    // Who shook hands for one site does not reach another by its Host.
    assert_eq!(
        status(&edge, "may.localhost", &["-H", "Host: must.localhost"]),
        "421"
    );
    assert_eq!(
        status(&edge, "localhost", &["-H", "Host: must.localhost"]),
        "421"
    );
    assert_eq!(
        status(&edge, "localhost", &["-H", "Host: strict.localhost"]),
        "421"
    );
    let http = format!("http://{}/.well-known/acme-challenge/x", edge.http);
    let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let answer = curl(&[&code[..], &["-H", "Host: must.localhost", &http]].concat());
    assert_eq!(
        answer.stdout, "421",
        "plain HTTP went around the certificate"
    );
    let old = ["--tls-max", "1.2"];
    assert_eq!(status(&edge, "localhost", &old), "200");
    assert_ne!(ask(&edge, "strict.localhost", "/", &old).code, 0);
    assert_eq!(status(&edge, "strict.localhost", &[]), "200");
}

#[test]
fn a_broken_file_keeps_the_last_good_one_and_raises_an_alarm() {
    let (origins, ca) = (Origins::start(), Ca::new());
    let folder = tempfile::tempdir().expect("a folder");
    let old = ca.sign(&["a.test"], "old");
    let at = pair(folder.path(), "a", &old);
    let edge = Edge::start(&format!(
        "{}{}",
        site("a.test", &files(&at)),
        origins.config("observe = \"0s\"")
    ));
    edge.wait_healthy();
    let subject = || {
        let said = ask(&edge, "a.test", "/", &["--verbose"]);
        let line = said.stderr.lines().find(|line| line.contains("subject:"));
        line.map(|line| line.trim().to_owned()).unwrap_or_default()
    };
    assert!(subject().ends_with("CN=old"), "{}", subject());
    fs::write(&at.0, &old.0[..old.0.len() / 2]).expect("cut");
    wait_until("the cut file is told", || {
        edge.log().contains("what was there before is served on")
    });
    assert!(edge.log().contains("ERROR"), "{}", edge.log());
    assert_eq!(edge.metric("cutover_certificate_files_rejected"), Some(1.0));
    assert!(subject().ends_with("CN=old"), "{}", subject());
    pair(folder.path(), "a", &ca.sign(&["a.test"], "new"));
    wait_until("the new certificate is served", || {
        subject().ends_with("CN=new")
    });
}

#[test]
fn a_site_whose_ca_is_down_is_served_and_everybody_is_told() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "{}{}",
        site(
            "shop.test",
            "hsts = { max_age = \"1h\", subdomains = true }"
        ),
        origins.config("observe = \"0s\"")
    ));
    edge.wait_healthy();
    assert_eq!(status(&edge, "shop.test", &[]), "200");
    let answer = ask(&edge, "shop.test", "/", &["--include"]).stdout;
    let told = "strict-transport-security: max-age=3600; includeSubDomains";
    assert!(
        answer.to_lowercase().contains(&told.to_lowercase()),
        "{answer}"
    );
    let url = format!("http://{}/", edge.http);
    let plain = curl(&["--include", "--header", "Host: shop.test", &url]).stdout;
    assert!(plain.starts_with("HTTP/1.1 308"), "{plain}");
    assert!(
        !plain.to_lowercase().contains("strict-transport"),
        "not over plain HTTP (RFC 6797 section 7.2): {plain}"
    );
    let missing = r#"cutover_certificate_missing{host="shop.test"}"#;
    assert_eq!(edge.metric(missing), Some(1.0));
    wait_until("the order has failed", || {
        edge.metric(r#"cutover_acme_orders_total{outcome="failure"}"#) == Some(1.0)
    });
    assert!(
        edge.log().contains("certificate order failed"),
        "{}",
        edge.log()
    );
    let table = edge.proxyctl(&["certs"]).stdout;
    assert!(table.contains("clients do not trust it"), "{table}");
    assert!(table.contains("the last attempt failed"), "{table}");
    assert!(table.contains("refused"), "the reason: {table}");
}

/// A program of another project that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(child.spawn().expect("started"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_the_real_caddy_ordered_is_adopted() {
    require("caddy");
    require("pebble");
    cutover::tls::install_provider();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let ca = Ca::new();
    let root = write(&at("root.pem"), &ca.root.pem());
    let (cert, key) = pair(folder.path(), "pebble", &ca.sign(&["127.0.0.1"], "pebble"));
    let (directory, management) = (free_port(), free_port());
    let (http, https) = (free_port(), free_port());
    let pebble = write(
        &at("pebble.json"),
        &serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{directory}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": cert, "privateKey": key, "httpPort": http, "tlsPort": https,
        }})
        .to_string(),
    );
    let _pebble = Running::start(
        Command::new("pebble")
            .arg("-config")
            .arg(pebble)
            .env("PEBBLE_VA_ALWAYS_VALID", "1")
            .env("PEBBLE_VA_NOSLEEP", "1"),
    );
    let caddyfile = write(
        &at("Caddyfile"),
        &format!(
            "{{\n admin off\n http_port {http}\n https_port {https}\n skip_install_trust\n \
             acme_ca https://127.0.0.1:{directory}/dir\n acme_ca_root {}\n}}\n\
             shop.test {{\n respond hi\n}}\ninside.test {{\n tls internal\n respond hi\n}}\n",
            root.display()
        ),
    );
    wait_until("pebble listens", || {
        std::net::TcpStream::connect(("127.0.0.1", directory)).is_ok()
    });
    let caddy = Running::start(
        Command::new("caddy")
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(caddyfile)
            .env("XDG_DATA_HOME", at("data"))
            .env("XDG_CONFIG_HOME", at("config"))
            .env("HOME", folder.path()),
    );
    let ordered = at("data/caddy/certificates").join(format!("127.0.0.1-{directory}-dir"));
    let certificates = [
        ordered.join("shop.test/shop.test.json"),
        at("data/caddy/certificates/local/inside.test/inside.test.json"),
    ];
    wait_until("caddy has its certificates", || {
        certificates.iter().all(|file| file.exists())
    });
    drop(caddy);

    let names = ["shop.test", "inside.test"].map(|name| name.parse().expect("a host"));
    let places = cutover::tls::adopt::Places {
        caddy: vec![at("data/caddy")],
        certbot: Vec::new(),
    };
    let found = cutover::tls::adopt::Legacy::read(&places);
    assert!(found.unusable.is_empty(), "{:?}", found.unusable);
    let certificates = found.fitting(&names, wall());
    assert_eq!(
        certificates.len(),
        1,
        "Caddy's own CA is nobody's but Caddy's"
    );
    assert_eq!(certificates[0].names, names[..1]);
    assert_eq!(found.accounts.len(), 1);
    let account = fs::read_to_string(&found.accounts[0].json).expect("readable");
    assert!(account.contains("\"location\""), "{account}");

    // The daemon finds it by itself and orders nothing.
    let origins = Origins::start();
    let dns = free_port();
    let _dns = Running::start(Command::new("pebble-challtestsrv").args([
        "-http01",
        "",
        "-https01",
        "",
        "-tlsalpn01",
        "",
        "-defaultIPv6",
        "",
        "-management",
        &format!("127.0.0.1:{}", free_port()),
        "-dns01",
        &format!("127.0.0.1:{dns}"),
    ]));
    let sites = format!(
        "[acme]\ndirectory = \"https://127.0.0.1:{directory}/dir\"\nca_file = \"{}\"\n\
         resolvers = [\"127.0.0.1:{dns}\"]\n\
         [[site]]\nhosts = [\"shop.test\"]\nservice = \"web\"\n{}",
        root.display(),
        origins.config("observe = \"0s\"")
    );
    let edge = Edge::start_with(&sites, &[("XDG_DATA_HOME", at("data").as_path())]);
    edge.wait_healthy();
    let said = ask(&edge, "shop.test", "/", &["--verbose"]).stderr;
    assert!(said.contains("issuer: CN=Pebble Intermediate CA"), "{said}");
    assert!(edge.log().contains("certificate adopted"), "{}", edge.log());
    let certs = edge.proxyctl(&["certs", "--json"]).stdout;
    let certs: serde_json::Value = serde_json::from_str(&certs).expect("JSON");
    let all = certs["certificates"].as_array().expect("a list");
    let shop = all.iter().find(|one| one["host"] == "shop.test");
    let shop = shop.expect("there");
    assert_eq!(shop["origin"], "adopted", "{certs}");
    assert_eq!(shop["why"], "two thirds of its life are over then");
    assert_eq!(shop["failures"], 0, "nothing was ordered: {certs}");
    let log = edge.log();
    assert!(!log.contains("order"), "{log}");

    // When its time has come, Caddy's account is used.
    let renewed = edge.proxyctl(&["certs", "renew", "shop.test", "--force"]);
    assert_eq!(renewed.code, 0, "{renewed:?}");
    let log = edge.log();
    assert!(log.contains("ACME account adopted"), "{log}");
    assert!(!log.contains("ACME account made"), "{log}");
}

#[allow(clippy::disallowed_methods, reason = "real time of real programs")]
fn wall() -> SystemTime {
    SystemTime::now()
}
