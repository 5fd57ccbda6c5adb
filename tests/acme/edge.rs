//! An [`Issuance`] with listeners that answer challenges, and a clock that can be moved.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cutover::acme::{
    ACME_TLS, Challenges, Event, Issuance, Issuer, Method, NameSet, Settings, Shelf,
};
use cutover::clock;
use cutover::config::{Site, Tls, TlsVersion};
use cutover::http::{Client, Resolver};
use cutover::metrics::Metrics;
use cutover::model::HostPattern;
use cutover::tls::{CertificateInfo, Store};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pebble::{self, Program, free_port, names_server, names_server_with};

/// Longer than any order takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn names(hosts: &[&str]) -> Vec<NameSet> {
    hosts
        .iter()
        .filter_map(|host| NameSet::new([host]))
        .collect()
}

pub(crate) struct Builder {
    issuer: Issuer,
    methods: Vec<Method>,
    hosts: Vec<String>,
    folder: Arc<tempfile::TempDir>,
    dns: Option<(u16, Program)>,
    answers: Answers,
    listen: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    All,
    NoHttp,
    HoldHttp,
}

#[derive(Default)]
struct Seen {
    http: AtomicUsize,
    alpn: AtomicUsize,
    hold: AtomicBool,
}

pub(crate) struct Edge {
    issuance: Option<Issuance>,
    store: Arc<Store>,
    folder: Arc<tempfile::TempDir>,
    events: Mutex<mpsc::UnboundedReceiver<Event>>,
    offset: Arc<AtomicU64>,
    seen: Arc<Seen>,
    tasks: Vec<JoinHandle<()>>,
    _dns: Option<(u16, Program)>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Builder {
    /// Every HTTP-01 question gets 404.
    pub(crate) fn mute_http(mut self) -> Self {
        self.answers = Answers::NoHttp;
        self
    }

    /// HTTP-01 questions are answered after [`Edge::kill`] only.
    pub(crate) fn hold_http(mut self) -> Self {
        self.answers = Answers::HoldHttp;
        self
    }

    /// A resolver for which no name has an address.
    pub(crate) fn dns_without_names(mut self) -> Self {
        let port = free_port();
        self.dns = Some((port, names_server(port, "")));
        self
    }

    /// A resolver for which `host` has this one CAA record.
    pub(crate) async fn dns_with_caa(mut self, host: &str, issuer: &str) -> Self {
        let (port, management) = (free_port(), free_port());
        let server = names_server_with(port, management, "127.0.0.1");
        let policies = serde_json::json!([{"tag": "issue", "value": issuer}]);
        let body = serde_json::json!({"host": host, "policies": policies}).to_string();
        let url = format!("http://127.0.0.1:{management}/add-caa");
        for _ in 0..200 {
            let request = http::Request::post(&url).body(body.clone().into());
            let sent = Client::system()
                .fetch(&Resolver::system(), request.expect("a URL"), PATIENCE, 1024)
                .await;
            if sent.is_ok_and(|answer| answer.status.is_success()) {
                self.dns = Some((port, server));
                return self;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the DNS did not come up");
    }

    /// On the volume of a process that was killed.
    pub(crate) fn on(mut self, folder: Arc<tempfile::TempDir>) -> Self {
        self.folder = folder;
        self
    }

    /// Answers nothing: another edge does.
    pub(crate) fn without_listeners(mut self) -> Self {
        self.listen = false;
        self
    }

    /// On the volume of a process that runs.
    pub(crate) fn beside(mut self, other: &Edge) -> Self {
        self.folder = Arc::clone(&other.folder);
        self.listen = false;
        self
    }

    /// Stores a certificate that is `age` old and valid for `rest`.
    pub(crate) fn store_certificate(&self, host: &str, age: Duration, rest: Duration) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.not_before = (clock::wall() - age).into();
        params.not_after = (clock::wall() + rest).into();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.self_signed(&key).expect("signed");
        Shelf::new(self.folder.path())
            .put_certificate(&names(&[host])[0], &key.serialize_pem(), &certificate.pem())
            .expect("stored");
    }

    pub(crate) async fn start(mut self) -> Edge {
        cutover::tls::install_provider();
        let store = Arc::new(Store::new(self.folder.path()).expect("a store"));
        let hosts = self
            .hosts
            .iter()
            .map(|host| HostPattern::Exact(host.clone()));
        let site = Site {
            hosts: hosts.collect(),
            default: false,
            tls: Tls::Auto,
            redirect: true,
            port: None,
            steps: Vec::new(),
            errors: Vec::new(),
            min_version: TlsVersion::V1_2,
            client_auth: None,
            hsts: None,
            access_log: None,
            routes: Vec::new(),
            service: None,
        };
        store.apply(&[site], clock::wall()).expect("the local CA");
        let (http, tls, pebble_dns) = pebble::ports();
        let challenges = Arc::new(Challenges::default());
        let seen = Arc::new(Seen::default());
        seen.hold
            .store(self.answers == Answers::HoldHttp, Ordering::SeqCst);
        let mut tasks = Vec::new();
        if self.listen && http != 0 {
            let (table, counts, answers) =
                (Arc::clone(&challenges), Arc::clone(&seen), self.answers);
            let listener = bind(http).await;
            tasks.push(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (table, counts) = (Arc::clone(&table), Arc::clone(&counts));
                    tokio::spawn(answer_http(stream, table, counts, answers));
                }
            }));
            let (table, counts) = (Arc::clone(&challenges), Arc::clone(&seen));
            let listener = bind(tls).await;
            tasks.push(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (table, counts) = (Arc::clone(&table), Arc::clone(&counts));
                    tokio::spawn(answer_alpn(stream, table, counts));
                }
            }));
        }
        let offset = Arc::new(AtomicU64::new(0));
        let state_dir = self.folder.path().to_owned();
        let mut settings = Settings::new(state_dir, vec![self.issuer], self.methods);
        let moved = Arc::clone(&offset);
        settings.now = Arc::new(move || now(&moved));
        settings.deadline = Duration::from_millis(3_000);
        settings.patience = Duration::from_secs(40);
        settings.reach = false;
        if self.dns.is_none() && pebble_dns == 0 {
            let port = free_port();
            self.dns = Some((port, names_server(port, "127.0.0.1")));
        }
        let dns = self.dns.as_ref().map_or(pebble_dns, |(port, _)| *port);
        let servers = [SocketAddr::from(([127, 0, 0, 1], dns))];
        settings.resolver = Arc::new(Resolver::with_servers(&servers).expect("a server"));
        let (sender, events) = mpsc::unbounded_channel();
        let wanted: Vec<_> = self.hosts.iter().map(String::as_str).collect();
        let issuance = Issuance::start(
            settings,
            names(&wanted),
            Arc::clone(&store),
            challenges,
            Metrics::new(),
            sender,
        );
        Edge {
            issuance: Some(issuance),
            store,
            folder: self.folder,
            events: Mutex::new(events),
            offset,
            seen,
            tasks,
            _dns: self.dns,
        }
    }
}

impl Edge {
    pub(crate) fn builder(issuer: &Issuer, methods: &[Method], hosts: &[&str]) -> Builder {
        Builder {
            issuer: issuer.clone(),
            methods: methods.to_vec(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            folder: Arc::new(tempfile::tempdir().expect("a folder")),
            dns: None,
            answers: Answers::All,
            listen: true,
        }
    }

    pub(crate) async fn start(issuer: &Issuer, methods: &[Method], hosts: &[&str]) -> Self {
        Self::builder(issuer, methods, hosts).start().await
    }

    pub(crate) fn issuance(&self) -> &Issuance {
        self.issuance.as_ref().expect("runs until it is killed")
    }

    pub(crate) fn state(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn account_file(&self, issuer: &Issuer) -> PathBuf {
        self.ca_folder(issuer).join("account.json")
    }

    pub(crate) fn order_file(&self, issuer: &Issuer, host: &str) -> PathBuf {
        self.ca_folder(issuer).join(format!("orders/{host}.json"))
    }

    fn ca_folder(&self, issuer: &Issuer) -> PathBuf {
        let (_, rest) = issuer.directory.split_once("://").expect("a URL");
        self.state("acme").join(rest.replace([':', '/'], "_"))
    }

    pub(crate) fn http_asked(&self) -> usize {
        self.seen.http.load(Ordering::SeqCst)
    }

    pub(crate) fn alpn_asked(&self) -> usize {
        self.seen.alpn.load(Ordering::SeqCst)
    }

    pub(crate) fn now(&self) -> SystemTime {
        now(&self.offset)
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.offset.fetch_add(by.as_secs(), Ordering::SeqCst);
        self.issuance().wake();
    }

    pub(crate) fn served(&self, host: &str) -> CertificateInfo {
        let host = HostPattern::Exact(host.to_owned());
        let mut all = self.store.served().into_iter();
        all.find(|info| info.names.contains(&host)).expect("served")
    }

    /// Common name of the issuer of the last certificate in the stored chain.
    pub(crate) fn top_issuer(&self, host: &str) -> String {
        let file = self.state(&format!("certificates/{host}/certificate.pem"));
        let pem = std::fs::read(Path::new(&file)).expect("stored");
        let last = CertificateDer::pem_slice_iter(&pem)
            .last()
            .expect("a chain");
        let last = last.expect("a certificate");
        let (_, last) = X509Certificate::from_der(&last).expect("a certificate");
        let name = last.issuer().iter_common_name().next().expect("a name");
        name.as_str().expect("text").to_owned()
    }

    pub(crate) async fn event(&self) -> Event {
        let mut events = self.events.lock().await;
        let event = tokio::time::timeout(PATIENCE, events.recv()).await;
        event.expect("an event in time").expect("runs")
    }

    /// Waits for a certificate; who issued it.
    pub(crate) async fn issued(&self) -> String {
        loop {
            match self.event().await {
                Event::CertificateIssued { issuer, .. } => return issuer,
                Event::OrderFailed { error, .. } => panic!("the order failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for a failure; what it said.
    pub(crate) async fn failed(&self) -> String {
        self.failed_and_wait().await.0
    }

    /// Waits for a failure; what it said and how long it is waited.
    pub(crate) async fn failed_and_wait(&self) -> (String, Duration) {
        loop {
            if let Event::OrderFailed {
                error, retry_at, ..
            } = self.event().await
            {
                let wait = retry_at.expect("a wait").duration_since(self.now());
                // Rounded: the clock went on since.
                return (error, wait.expect("later") + Duration::from_millis(999));
            }
        }
    }

    /// Nothing is begun while `time` passes.
    pub(crate) async fn nothing_for(&self, time: Duration) {
        let mut events = self.events.lock().await;
        let event = tokio::time::timeout(time, events.recv()).await;
        assert!(event.is_err(), "nothing should happen: {event:?}");
    }

    pub(crate) async fn until(&self, what: &str, met: impl Fn() -> bool) {
        let polled = async {
            while !met() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let met = tokio::time::timeout(PATIENCE, polled).await;
        assert!(met.is_ok(), "in time: {what}");
    }

    /// Ends the loop in the middle of whatever it does. What the CA had asked for is answered
    /// from now on.
    pub(crate) async fn kill(&mut self) -> Arc<tempfile::TempDir> {
        let issuance = self.issuance.take().expect("killed once");
        issuance.stop().await;
        self.seen.hold.store(false, Ordering::SeqCst);
        Arc::clone(&self.folder)
    }
}

fn now(offset: &AtomicU64) -> SystemTime {
    clock::wall() + Duration::from_secs(offset.load(Ordering::SeqCst))
}

async fn bind(port: u16) -> TcpListener {
    // A listener of the edge before may take a moment to go.
    for _ in 0..200 {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("port {port} is taken");
}

async fn answer_http(
    mut stream: TcpStream,
    table: Arc<Challenges>,
    seen: Arc<Seen>,
    answers: Answers,
) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 2048];
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    seen.http.fetch_add(1, Ordering::SeqCst);
    while seen.hold.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let token = path
        .strip_prefix("/.well-known/acme-challenge/")
        .unwrap_or_default();
    let host = (head.lines())
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("host:")
                .map(str::to_owned)
        })
        .unwrap_or_default();
    let host = host.trim().split(':').next().unwrap_or_default();
    let proof = table
        .http01(token, host)
        .filter(|_| answers != Answers::NoHttp);
    let (status, body) = match proof {
        Some(proof) => ("200 OK", proof),
        None => ("404 Not Found", String::new()),
    };
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn answer_alpn(stream: TcpStream, table: Arc<Challenges>, seen: Arc<Seen>) {
    let hello = rustls::server::Acceptor::default();
    let Ok(start) = tokio_rustls::LazyConfigAcceptor::new(hello, stream).await else {
        return;
    };
    let offered = start
        .client_hello()
        .alpn()
        .is_some_and(|mut all| all.any(|p| p == ACME_TLS));
    let name = start
        .client_hello()
        .server_name()
        .unwrap_or_default()
        .to_owned();
    let Some(key) = table.alpn_certificate(&name).filter(|_| offered) else {
        return;
    };
    seen.alpn.fetch_add(1, Ordering::SeqCst);
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(key)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    if let Ok(mut stream) = start.into_stream(Arc::new(config)).await {
        let _ = stream.shutdown().await;
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
