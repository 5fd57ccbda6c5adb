//! The watch over an engine's API, held against a server that speaks the real endpoints and can be
//! told to refuse, to break off and to be away.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cutover::config::DockerSocket;
use cutover::docker::{Call, Link, State, Trouble, View, Watch, watch};
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

type Body = BoxBody<Bytes, Infallible>;

/// What the server says.
#[derive(Debug)]
struct Said {
    containers: Mutex<BTreeMap<String, Value>>,
    /// Beginnings of paths, without the version, that are answered with 403.
    refused: Mutex<BTreeSet<&'static str>>,
    versions: Mutex<(&'static str, &'static str)>,
    asked: Mutex<Vec<String>>,
    /// `None` ends every stream.
    events: broadcast::Sender<Option<String>>,
}

struct Server {
    said: Arc<Said>,
    path: PathBuf,
    task: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            said: Arc::new(Said {
                containers: Mutex::default(),
                refused: Mutex::default(),
                versions: Mutex::new(("1.41", "1.12")),
                asked: Mutex::default(),
                events: broadcast::Sender::new(64),
            }),
            path: folder.path().join("docker.sock"),
            task: None,
            _folder: folder,
        }
    }

    fn start(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).expect("a socket");
        let said = Arc::clone(&self.said);
        self.task = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let said = Arc::clone(&said);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&said), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = connection.await;
                });
            }
        }));
    }

    /// Ends every connection, and takes no new one.
    async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        let _ = std::fs::remove_file(&self.path);
    }

    fn put(&self, id: &str, status: &str) {
        let container = json!({
            "Id": id, "Name": format!("/{id}"), "Image": "sha256:1", "Created": "2026-01-01T00:00:00Z",
            "State": {"Status": status, "StartedAt": "2026-01-01T00:00:01Z"},
            "Config": {"Image": "app:v1", "Labels": {"cutover.host": "a.example"}, "ExposedPorts": {"3000/tcp": {}}},
            "HostConfig": {"NetworkMode": "bridge"},
            "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "n", "IPAddress": "172.17.0.9"}}}
        });
        self.said
            .containers
            .lock()
            .expect("no panic")
            .insert(id.to_owned(), container);
    }

    fn remove(&self, id: &str) {
        self.said.containers.lock().expect("no panic").remove(id);
    }

    async fn event(&self, action: &str, id: &str, attributes: Value) {
        let event = json!({
            "Type": "container", "Action": action, "time": 1, "timeNano": 1,
            "Actor": {"ID": id, "Attributes": attributes}
        });
        self.tell(Some(format!("{event}\n"))).await;
    }

    /// Sends a line to every stream of events, or ends them all. A real engine keeps what came before
    /// the stream and tells it from `since` on; this one waits until there is a stream.
    async fn tell(&self, line: Option<String>) {
        let listened = async {
            while self.said.events.receiver_count() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let listened = tokio::time::timeout(Duration::from_secs(10), listened).await;
        assert!(listened.is_ok(), "nobody asks for events");
        self.said.events.send(line).expect("somebody listens");
    }

    fn refuse(&self, path: &'static str) {
        self.said.refused.lock().expect("no panic").insert(path);
    }

    fn asked(&self, part: &str) -> usize {
        let asked = self.said.asked.lock().expect("no panic");
        asked.iter().filter(|path| path.contains(part)).count()
    }

    fn watch(&self) -> Watched {
        let (sender, troubles) = mpsc::unbounded_channel();
        Watched {
            watch: watch(DockerSocket::Unix(self.path.clone()), sender),
            troubles,
        }
    }
}

async fn answer(said: Arc<Said>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let whole = request.uri().path().to_owned();
    said.asked.lock().expect("no panic").push(whole.clone());
    let path = match whole.strip_prefix("/v1.") {
        Some(rest) => rest
            .split_once('/')
            .map_or(String::new(), |(_, path)| format!("/{path}")),
        None => whole,
    };
    let is_refused = said
        .refused
        .lock()
        .expect("no panic")
        .iter()
        .any(|one| path.starts_with(one));
    if is_refused {
        return Ok(reply(403, "refused by rule".into()));
    }
    if path == "/events" {
        let stream = tokio_stream(said.events.subscribe());
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(stream))));
    }
    let containers = said.containers.lock().expect("no panic").clone();
    Ok(match path.as_str() {
        "/version" => {
            let (api, least) = *said.versions.lock().expect("no panic");
            reply(
                200,
                json!({"ApiVersion": api, "MinAPIVersion": least}).to_string(),
            )
        }
        "/containers/json" => {
            let list: Vec<Value> = containers.values().map(listed).collect();
            reply(200, json!(list).to_string())
        }
        path if path.ends_with("/logs") => {
            // A frame of stderr: stream, three zeros, length, text.
            let mut frame = vec![2, 0, 0, 0, 0, 0, 0, 6];
            frame.extend(b"panic\n");
            Response::new(BodyExt::boxed(Full::new(Bytes::from(frame))))
        }
        path => {
            let id = path
                .trim_start_matches("/containers/")
                .trim_end_matches("/json");
            match containers.get(id) {
                Some(container) => reply(200, container.to_string()),
                None => reply(404, json!({"message": "no such container"}).to_string()),
            }
        }
    })
}

fn tokio_stream(
    events: broadcast::Receiver<Option<String>>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync {
    // One empty line first, so that the head is sent.
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from("\n")))]);
    let rest = futures_util::stream::unfold(events, |mut events| async move {
        let text = events.recv().await.ok().flatten()?;
        Some((Ok(Frame::data(Bytes::from(text))), events))
    });
    Mutexed(Mutex::new(Box::pin(first.chain(rest))))
}

/// Pieces of an answer as they come.
type Frames =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// A body must be `Sync`; nobody polls it from two places.
struct Mutexed(Mutex<Frames>);

impl futures_util::Stream for Mutexed {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().expect("no panic").poll_next_unpin(cx)
    }
}

fn listed(container: &Value) -> Value {
    json!({
        "Id": container["Id"], "Names": [container["Name"]], "Image": container["Config"]["Image"],
        "ImageID": container["Image"], "Created": 1, "Labels": container["Config"]["Labels"],
        "State": container["State"]["Status"], "Status": "Up 1 second",
        "Ports": [{"PrivatePort": 3000, "Type": "tcp"}],
        "NetworkSettings": container["NetworkSettings"]
    })
}

fn reply(status: u16, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(BodyExt::boxed(Full::new(Bytes::from(body))))
        .expect("a response")
}

struct Watched {
    watch: Watch,
    troubles: mpsc::UnboundedReceiver<Trouble>,
}

impl Watched {
    /// Waits for a view.
    async fn until(&mut self, what: &str, holds: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let mut views = self.watch.views.clone();
        let view = views.wait_for(holds);
        match tokio::time::timeout(Duration::from_secs(10), view).await {
            Ok(Ok(view)) => Arc::clone(&view),
            _ => panic!(
                "waited in vain until {what}: {:?}",
                self.watch.views.borrow()
            ),
        }
    }

    async fn connected(&mut self) -> Arc<View> {
        self.until("it is connected", |view| {
            matches!(view.link, Link::Connected { .. })
        })
        .await
    }
}

fn takes(view: &View, id: &str) -> bool {
    view.inventory
        .containers
        .get(id)
        .is_some_and(|one| one.takes_requests())
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_found_in_the_version_that_both_know() {
    let mut server = Server::new();
    server.put("one", "running");
    server.start();
    let mut watched = server.watch();
    let view = watched.connected().await;
    assert!(takes(&view, "one"));
    assert_eq!(
        view.link,
        Link::Connected {
            api: "1.41".to_owned()
        }
    );
    assert_eq!(server.asked("/v1.41/containers/one/json"), 1);
    // Events are asked for beside the containers.
    let asked = async {
        while server.asked("/v1.41/events") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(10), asked).await;
    assert!(asked.is_ok(), "events were not asked for");
    assert_eq!(server.asked("/v1.41/events"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_believed_without_a_look() {
    let mut server = Server::new();
    server.put("one", "running");
    server.start();
    let mut watched = server.watch();
    watched.connected().await;
    let looks = server.asked("/one/json");
    server.event("kill", "one", json!({"signal": "15"})).await;
    let view = watched.until("it is out", |view| !takes(view, "one")).await;
    assert_eq!(view.inventory.containers["one"].state, State::Running);
    assert_eq!(server.asked("/one/json"), looks);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_made_up_for_after_the_stream_broke() {
    let mut server = Server::new();
    server.put("one", "running");
    server.put("two", "running");
    server.start();
    let mut watched = server.watch();
    watched.connected().await;
    // Nobody says a word about these.
    server.remove("one");
    server.put("three", "running");
    server.tell(None).await;
    let view = watched
        .until("the table is right", |view| {
            !takes(view, "one") && takes(view, "three")
        })
        .await;
    assert!(takes(&view, "two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_away_is_asked_ever_more_seldom_and_found_again() {
    let mut server = Server::new();
    server.put("one", "running");
    server.start();
    let mut watched = server.watch();
    watched.connected().await;
    server.stop().await;
    let view = watched
        .until("it is lost", |view| matches!(view.link, Link::Lost { .. }))
        .await;
    assert!(takes(&view, "one"), "the last known stay");
    server.put("two", "running");
    server.start();
    let view = watched.connected().await;
    assert!(takes(&view, "one") && takes(&view, "two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_alone_are_enough_and_what_is_refused_is_named() {
    let mut server = Server::new();
    server.put("one", "running");
    for path in ["/version", "/events", "/containers/one/json"] {
        server.refuse(path);
    }
    server.start();
    let mut watched = server.watch();
    let view = watched
        .until("both refusals are known", |view| {
            view.refused.len() == 2 && takes(view, "one")
        })
        .await;
    let refused: Vec<Call> = view.refused.keys().copied().collect();
    assert_eq!(refused, [Call::Inspect, Call::Events]);
    watched.connected().await;
    assert_eq!(server.asked("/v1."), 0, "in the engine's own version");
    server.put("two", "running");
    // Without events a list is asked for every 5 s.
    watched
        .until("the other is found", |view| takes(view, "two"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_refuses_all_is_told_by_the_call() {
    let mut server = Server::new();
    server.refuse("/containers");
    server.start();
    let mut watched = server.watch();
    let view = watched
        .until("it is lost", |view| matches!(view.link, Link::Lost { .. }))
        .await;
    let Link::Lost { error } = &view.link else {
        panic!("{:?}", view.link);
    };
    assert!(
        error.to_string().contains("GET /containers/json"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_too_old_is_told_by_its_version() {
    let mut server = Server::new();
    *server.said.versions.lock().expect("no panic") = ("1.39", "1.12");
    server.start();
    let mut watched = server.watch();
    let view = watched
        .until("it is lost", |view| matches!(view.link, Link::Lost { .. }))
        .await;
    let Link::Lost { error } = &view.link else {
        panic!("{:?}", view.link);
    };
    assert!(error.to_string().contains("1.39"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_container_under_watch_comes_with_its_last_lines() {
    let mut server = Server::new();
    server.put("one", "running");
    server.put("two", "running");
    server.start();
    let mut watched = server.watch();
    watched.connected().await;
    let one = BTreeMap::from([("one".to_owned(), cutover::docker::Limits::default())]);
    watched.watch.attention.pay(one);
    for id in ["two", "one"] {
        server
            .event("die", id, json!({"exitCode": "1", "name": id}))
            .await;
    }
    let trouble = tokio::time::timeout(Duration::from_secs(10), watched.troubles.recv());
    let trouble = trouble.await.expect("in time").expect("a trouble");
    assert_eq!(trouble.id, "one", "nobody watches the other");
    assert_eq!(trouble.log.read().await, Ok(vec!["panic".to_owned()]));
    assert_eq!(trouble.sign.to_string(), "exited with code 1");
}
