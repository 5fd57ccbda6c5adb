//! Containers of a real engine behind the real proxy: found, followed, judged and refused.
//!
//! The proxy runs on the host, where every bridge can be reached. Each test names its containers by a
//! prefix of its own.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::counts::{Counts, wanted};
use support::docker::{Engine, OwnEngine, Relay, SOCKET, SocketProxy, World};
use support::exchange::exchange;
use support::{Edge, now, wait_for, wait_until};

const SECOND: Duration = Duration::from_secs(1);

/// A file with `[docker]` and one service of the test's Compose service `web`.
fn file(world: &World, socket: &str, more: &str) -> String {
    format!(
        "[docker]\nsocket = \"{socket}\"\n\
         [[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\nredirect = false\ntls = \"off\"\nservice = \"web\"\n\
         [service.web]\ndocker = {{ service = \"{}-web\" }}\n\
         [service.web.health]\ntype = \"tcp\"\ninterval = \"500ms\"\n{more}",
        world.prefix,
    )
}

/// One GET on a connection of its own: the status and the body.
fn get(edge: SocketAddr, host: &str, path: &str) -> Result<(u16, String), String> {
    exchange(edge, "GET", host, path, "").map(|answer| (answer.status, answer.body))
}

/// Ids of the containers that answer for a host.
fn answering(edge: &Edge, host: &str) -> Vec<String> {
    let mut ids: Vec<String> = (0..24)
        .filter_map(|_| get(edge.http, host, "/").ok())
        .filter(|(status, _)| *status == 200)
        .map(|(_, body)| body)
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Addresses in a slot of the status.
fn upstreams(edge: &Edge, service: &str, color: &str) -> Vec<serde_json::Value> {
    let status = edge.status();
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let found = services.into_iter().find(|one| one["name"] == service);
    let list = found.map(|one| one["slots"][color]["upstreams"].clone());
    list.and_then(|list| list.as_array().cloned())
        .unwrap_or_default()
}

fn healthy(edge: &Edge, service: &str, color: &str) -> usize {
    let list = upstreams(edge, service, color);
    list.iter().filter(|one| one["healthy"] == true).count()
}

/// A request of a load: when it began, and who answered.
type Answer = (Instant, Result<(u16, String), String>);

/// Four clients that ask one after the other.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(edge: SocketAddr, host: &'static str) -> Self {
        Self::paced(edge, host, Duration::ZERO)
    }

    /// Each client pauses after each answer.
    fn paced(edge: SocketAddr, host: &'static str, pause: Duration) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let clients = (0..4).map(|_| {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = now();
                    let answer = get(edge, host, "/");
                    answers.lock().expect("no panic").push((begun, answer));
                    std::thread::sleep(pause);
                }
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            answers,
        }
    }

    fn count(&self) -> usize {
        self.answers.lock().expect("no panic").len()
    }

    /// Waits for so many more answers.
    fn more(&self, count: usize) {
        let until = self.count() + count;
        wait_until("more requests were answered", || self.count() >= until);
    }

    /// Ends it.
    fn end(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("no panic");
        }
        std::mem::take(&mut *self.answers.lock().expect("no panic"))
    }

    /// Ends it. Not one request failed.
    fn all_good(self) -> Vec<(Instant, String)> {
        let answers = self.end();
        let all = answers.len();
        let is_bad = |(_, answer): &&Answer| !matches!(answer, Ok((200, _)));
        let bad: Vec<_> = answers.iter().filter(is_bad).collect();
        assert!(
            bad.is_empty(),
            "{} of {all} failed: {:?}",
            bad.len(),
            bad.first()
        );
        answers
            .into_iter()
            .filter_map(|(begun, answer)| Some((begun, answer.ok()?.1)))
            .collect()
    }
}

fn three_replicas(world: &World) -> Vec<String> {
    (1..=3)
        .map(|n| world.start(&format!("web-{n}"), &world.prefix, "web", &[], &[]))
        .collect()
}

fn start(world: &World, more: &str) -> Edge {
    Edge::start(&file(
        world,
        &world.engine.socket.display().to_string(),
        more,
    ))
}

#[test]
fn stop_kill_restart_and_pause_of_one_of_three_cost_no_request() {
    let world = World::new(Engine::shared(), "cutover-t-verbs");
    let ids = three_replicas(&world);
    let edge = start(&world, "");
    wait_until("all three are healthy", || {
        healthy(&edge, "web", "blue") == 3
    });
    let load = Load::start(edge.http, "localhost");
    load.more(200);

    // It ignores SIGTERM, so it is killed a second later.
    world.docker("stop", "web-1", &["--time", "1"]);
    wait_until("the stopped one is out", || {
        upstreams(&edge, "web", "blue").len() == 2
    });
    load.more(100);
    world.docker("start", "web-1", &[]);
    wait_until("it is back", || healthy(&edge, "web", "blue") == 3);

    world.docker("kill", "web-2", &[]);
    wait_until("the killed one is out", || {
        upstreams(&edge, "web", "blue").len() == 2
    });
    load.more(100);
    world.docker("start", "web-2", &[]);
    wait_until("it is back", || healthy(&edge, "web", "blue") == 3);

    world.docker("restart", "web-3", &["--time", "1"]);
    wait_until("the restarted one is back", || {
        healthy(&edge, "web", "blue") == 3
    });

    world.docker("pause", "web-1", &[]);
    wait_until("the paused one is out", || {
        upstreams(&edge, "web", "blue").len() == 2
    });
    load.more(100);
    world.docker("unpause", "web-1", &[]);
    wait_until("it is back", || healthy(&edge, "web", "blue") == 3);
    load.more(100);
    let answers = load.all_good();
    for id in &ids {
        assert!(answers.iter().any(|(_, by)| by == id), "{id} took part");
    }
}

#[test]
fn no_new_request_goes_to_a_container_50_ms_after_its_sigterm() {
    let world = World::new(Engine::shared(), "cutover-t-term");
    let ids = three_replicas(&world);
    let edge = start(&world, "");
    wait_until("all three are healthy", || {
        healthy(&edge, "web", "blue") == 3
    });
    for (n, id) in ids.iter().enumerate().take(3) {
        let load = Load::start(edge.http, "localhost");
        load.more(100);
        // It ignores the signal and goes on to answer: whoever asks it is not told by a failure.
        world.docker("kill", &format!("web-{}", n + 1), &["--signal", "TERM"]);
        // The command returns after the signal was sent.
        let sent = now();
        load.more(200);
        let answers = load.all_good();
        let last = answers
            .iter()
            .filter(|(_, by)| by == id)
            .map(|(begun, _)| *begun)
            .max();
        let after = last.and_then(|last| last.checked_duration_since(sent));
        assert!(
            after.is_none_or(|after| after < Duration::from_millis(50)),
            "a request that began {after:?} after SIGTERM went to {id}"
        );
        assert!(
            answers.iter().any(|(_, by)| by == id),
            "it took part before"
        );
        world.docker("restart", &format!("web-{}", n + 1), &["--time", "0"]);
        wait_until("it is back", || healthy(&edge, "web", "blue") == 3);
    }
}

#[test]
fn events_that_were_missed_are_made_up_for_and_a_lost_engine_changes_nothing() {
    let world = World::new(Engine::shared(), "cutover-t-events");
    let first = world.start("web-1", &world.prefix, "web", &[], &[]);
    let relay = Relay::to(SOCKET.as_ref(), &[]);
    let edge = Edge::start(&file(&world, &relay.path.display().to_string(), ""));
    wait_until("it answers", || {
        answering(&edge, "localhost") == [first.clone()]
    });
    let load = Load::start(edge.http, "localhost");
    load.more(50);
    relay.cut();
    wait_until("the loss is told", || {
        edge.status()["docker"]["state"] == "disconnected"
    });
    let second = world.start("web-2", &world.prefix, "web", &[], &[]);
    load.more(100);
    assert_eq!(
        answering(&edge, "localhost"),
        std::slice::from_ref(&first),
        "nobody told of the other one"
    );
    assert!(
        edge.is_ready(),
        "a lost engine is no reason to be taken out"
    );
    relay.mend();
    let both = {
        let mut both = vec![first, second];
        both.sort();
        both
    };
    // At the longest pause between two tries, and a second.
    wait_for(Duration::from_secs(7), "both answer", || {
        answering(&edge, "localhost") == both
    });
    load.all_good();
    relay.tear();
    world.docker("rm", "web-2", &["--force"]);
    wait_for(SECOND * 3, "the removed one is out", || {
        upstreams(&edge, "web", "blue").len() == 1
    });
}

#[test]
fn a_container_made_anew_with_another_address_is_followed_within_a_second() {
    let world = World::new(Engine::shared(), "cutover-t-anew");
    let other = world.start(
        "other",
        "other",
        "other",
        &["cutover.host=other.internal", "cutover.tls=off"],
        &[],
    );
    world.start("web-1", &world.prefix, "web", &[], &[]);
    let edge = start(&world, "");
    wait_until("it answers", || answering(&edge, "localhost").len() == 1);
    wait_until("so does the other", || {
        answering(&edge, "other.internal") == [other.clone()]
    });
    let before = upstreams(&edge, "web", "blue")[0]["address"].clone();
    let load = Load::start(edge.http, "other.internal");
    world.docker("rm", "web-1", &["--force"]);
    // Takes the address that became free.
    world.start("filler", "filler", "filler", &[], &[]);
    let anew = world.start("web-1", &world.prefix, "web", &[], &[]);
    let made = now();
    wait_until("the new one answers", || {
        answering(&edge, "localhost") == [anew.clone()]
    });
    assert!(made.elapsed() < SECOND, "{:?}", made.elapsed());
    assert_ne!(upstreams(&edge, "web", "blue")[0]["address"], before);
    let answers = load.all_good();
    assert!(answers.iter().all(|(_, by)| *by == other));
}

/// Waits until the host of a container that comes and goes is answered by `right`; how long that took.
fn time_until_right(edge: SocketAddr, host: &str, right: &str) -> Duration {
    let begun = now();
    wait_until("the table is right", || {
        get(edge, host, "/").is_ok_and(|answer| answer == (200, right.to_owned()))
    });
    begun.elapsed()
}

/// Each with a host of its own, eight at a time, while another service is asked; `just soak`: 200.
#[test]
fn the_table_is_right_within_a_second_while_containers_come_and_go() {
    const AT_ONCE: u64 = 8;
    let wanted = wanted("SOAK_CONTAINERS", 40);
    let world = World::new(Engine::shared(), "cutover-t-many");
    let edge = start(&world, "");
    let own = world.start("web-1", &world.prefix, "web", &[], &[]);
    wait_until("it answers", || {
        answering(&edge, "localhost") == [own.clone()]
    });
    let host = |n: u64| format!("h{n}.internal");
    let created = (0..wanted).map(|n| {
        let (name, project) = (format!("many-{n}"), format!("p{n}"));
        let labels = [&format!("cutover.host={}", host(n)), "cutover.tls=off"];
        world.create(&name, &project, "app", &labels)
    });
    let created: Vec<_> = created.collect();
    // The engine needs the machine too.
    let load = Load::paced(edge.http, "localhost", Duration::from_millis(20));
    let begun = now();
    let come_and_go = |worker: u64| {
        let mut times = Vec::new();
        for n in (worker..wanted).step_by(AT_ONCE.try_into().expect("few")) {
            let at = usize::try_from(n).expect("few");
            let (name, host, id) = (format!("many-{n}"), host(n), &created[at]);
            world.docker("start", &name, &[]);
            let came = time_until_right(edge.http, &host, id);
            world.docker("rm", &name, &["--force"]);
            // What is gone is nobody's, so the default site's.
            times.push((came, time_until_right(edge.http, &host, &own)));
        }
        times
    };
    let times: Vec<(Duration, Duration)> = std::thread::scope(|scope| {
        let come_and_go = &come_and_go;
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| scope.spawn(move || come_and_go(worker)))
            .collect();
        let done = workers
            .into_iter()
            .flat_map(|one| one.join().expect("no panic"));
        done.collect()
    });
    let took = begun.elapsed();
    let answered = load.all_good().len();
    let (came, went): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    let spread = |mut times: Vec<Duration>| {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_millis();
        (at(50), at(99), at(100))
    };
    let (came, went) = (spread(came), spread(went));
    Counts::of("containers").add(&serde_json::json!({
        "containers": wanted, "took_ms": took.as_millis(), "answered": answered, "lost": 0,
        "came_ms": [came.0, came.1, came.2], "went_ms": [went.0, went.1, went.2],
    }));
    // Three times the second that is meant, as for every time on the wall clock.
    assert!(
        came.2 < 3_000 && went.2 < 3_000,
        "came {came:?} ms, went {went:?} ms"
    );
    let status = edge.status();
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let names = services.iter().filter_map(|one| one["name"].as_str());
    let left: Vec<_> = names.filter(|name| name.contains("t-many-app")).collect();
    assert_eq!(left, [""; 0], "services of containers that are gone");
}

#[test]
fn what_cannot_be_served_is_named_with_the_fix() {
    let world = World::new(Engine::shared(), "cutover-t-refused");
    let site = "[[site]]\nhosts = [\"mine.internal\"]\ntls = \"off\"\nrespond = \"mine\"\n";
    let edge = start(&world, site);
    let first = world.start(
        "a",
        "one",
        "a",
        &["cutover.host=shared.internal", "cutover.tls=off"],
        &[],
    );
    wait_until("the first is served", || {
        answering(&edge, "shared.internal") == [first.clone()]
    });
    let none = world.network("none");
    world.start("b", "two", "b", &["cutover.host=shared.internal"], &[]);
    world.start("c", "three", "c", &["cutover.host=mine.internal"], &[]);
    world.start(
        "d",
        "four",
        "d",
        &["cutover.host=d.internal", "cutover.network=nowhere"],
        &["--network", &none],
    );
    world.start(
        "e",
        "five",
        "e",
        &["cutover.host=e.internal"],
        &["--expose", "9090"],
    );
    world.start(
        "f",
        "six",
        "f",
        &[
            "cutover.host=f.internal",
            "cutover.tls=off",
            "cutover.jobs.x.command=rm -rf /",
            "cutover.health.token_file=/run/secrets/x",
            "cutover.upstream=unix:/var/run/docker.sock",
        ],
        &[],
    );
    let problems = || {
        let status = edge.status();
        let problems = status["docker"]["problems"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        problems
            .iter()
            .map(|one| {
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                format!("{}: {}; {}", text("container"), text("what"), text("fix"))
            })
            .filter(|line| line.starts_with("cutover-t-refused"))
            .collect::<Vec<_>>()
    };
    wait_until("all seven are told", || problems().len() == 7);
    let problems = problems().join("\n");
    for (container, what, fix) in [
        (
            "b",
            "shared.internal belongs to the Compose project one",
            "choose another host",
        ),
        (
            "c",
            "mine.internal belongs to the configuration file",
            "remove the label",
        ),
        ("d", "not on the network nowhere", "cutover.network"),
        ("e", "exposes the ports 3000, 9090", "cutover.port"),
        ("f", "labels do not set jobs", "configuration file"),
        ("f", "labels name no files", "configuration file"),
        ("f", "not to unix sockets", "configuration file"),
    ] {
        let line = problems.lines().find(|line| {
            line.starts_with(&format!("cutover-t-refused-{container}: ")) && line.contains(what)
        });
        assert!(
            line.is_some_and(|line| line.contains(fix)),
            "{container}: {what}\n{problems}"
        );
    }
    assert_eq!(answering(&edge, "shared.internal"), [first]);
    assert_eq!(
        get(edge.http, "mine.internal", "/").expect("an answer").1,
        "mine"
    );
    assert_eq!(
        answering(&edge, "f.internal").len(),
        1,
        "its good labels hold"
    );
    let url = format!("http://shared.internal:{}/", edge.http.port());
    let explained = edge.proxyctl(&["explain", &url]).stdout;
    assert!(explained.contains(":3000"), "{explained}");
    let shown = edge.proxyctl(&["status"]).stdout;
    assert!(
        shown.contains("problem") && shown.contains("cutover.port"),
        "{shown}"
    );
}

#[test]
fn a_socket_proxy_that_allows_lists_and_events_is_enough() {
    let world = World::new(Engine::shared(), "cutover-t-least");
    let id = world.start("web-1", &world.prefix, "web", &[], &[]);
    let relay = Relay::to(
        SOCKET.as_ref(),
        &["/version", "/stats", "/logs", "/json?size"],
    );
    let socket = relay.path.display().to_string();
    let edge = Edge::start(&file(&world, &socket, ""));
    wait_until("it answers", || {
        answering(&edge, "localhost") == [id.clone()]
    });
    let doctor = edge.proxyctl(&["doctor", "--config", &edge.config().display().to_string()]);
    for call in [
        "GET /version",
        "GET /containers/ID/stats",
        "GET /containers/ID/logs",
    ] {
        assert!(doctor.stdout.contains(call), "{call}: {}", doctor.stdout);
    }
    assert!(!doctor.stdout.contains("GET /events"), "{}", doctor.stdout);
}

#[test]
fn a_read_only_socket_proxy_over_tcp_is_enough_and_what_it_refuses_is_named() {
    let world = World::new(Engine::shared(), "cutover-t-tcp");
    let first = world.start("web-1", &world.prefix, "web", &[], &[]);
    let doctor = |edge: &Edge| {
        let file = edge.config().display().to_string();
        edge.proxyctl(&["doctor", "--config", &file]).stdout
    };
    {
        let proxy = SocketProxy::start(&["containers", "events", "networks", "version", "_ping"]);
        assert_eq!(proxy.status_of("GET", "/version"), "200");
        assert_eq!(proxy.status_of("POST", "/containers/x/stop"), "403");
        assert_eq!(proxy.status_of("GET", "/images/json"), "403");
        let edge = Edge::start(&file(&world, &proxy.address(), ""));
        wait_until("it answers", || {
            answering(&edge, "localhost") == [first.clone()]
        });
        let second = world.start("web-2", &world.prefix, "web", &[], &[]);
        world.docker("kill", "web-1", &[]);
        wait_for(SECOND * 3, "events come through", || {
            answering(&edge, "localhost") == [second.clone()]
        });
        let said = doctor(&edge);
        assert!(
            said.contains(&format!("{} answers in version", proxy.address())),
            "{said}"
        );
        assert!(!said.contains("refuses"), "{said}");
        world.docker("rm", "web-2", &["--force"]);
    }
    // Without events containers are looked at every 5 s.
    let proxy = SocketProxy::start(&["containers"]);
    let edge = Edge::start(&file(&world, &proxy.address(), ""));
    wait_until("the refusals are told", || {
        let status = edge.proxyctl(&["status"]).stdout;
        status.contains("GET /events: changes are seen every 5 s only")
    });
    world.docker("start", "web-1", &[]);
    wait_for(SECOND * 10, "it is found without events", || {
        answering(&edge, "localhost") == [first.clone()]
    });
    let said = doctor(&edge);
    for call in ["GET /events", "GET /version"] {
        assert!(said.contains(&format!("Docker refuses {call}")), "{said}");
    }
    assert!(!said.contains("refuses GET /containers"), "{said}");
}

#[test]
fn a_proxy_without_an_engine_serves_what_the_file_names() {
    let origin = support::Origins::start();
    let text = format!(
        "[docker]\nsocket = \"/nowhere/docker.sock\"\n{}",
        origin.config("observe = \"0s\"")
    );
    let edge = Edge::start(&text);
    assert!(edge.is_ready());
    assert_eq!(get(edge.http, "localhost", "/").expect("an answer").0, 200);
    let docker = edge.status()["docker"].clone();
    assert_eq!(docker["state"], "disconnected");
    assert!(
        docker["error"]
            .as_str()
            .is_some_and(|why| why.contains("/nowhere/docker.sock")),
        "{docker}"
    );
    let doctor = edge.proxyctl(&["doctor", "--config", &edge.config().display().to_string()]);
    assert!(
        doctor.stdout.contains("no socket /nowhere/docker.sock"),
        "{}",
        doctor.stdout
    );
}

/// A release under watch that was well until it was told to go on with something else.
struct Undone {
    edge: Edge,
    /// The name of the container of the release.
    green: String,
    /// What `proxyctl switch green` showed.
    screen: String,
    history: String,
}

/// Switches under load to a container with `options`, lets that do `then`, a line for a shell, and
/// waits until it is undone. `more`: keys of the service.
fn undone(world: &World, options: &[&str], then: &str, more: &str) -> Undone {
    let blue = world.start("blue", &world.prefix, "web-blue", &[], &[]);
    let script = format!(
        "echo starting; hostname > /www/index.html; httpd -p 3000 -h /www; \
         while [ ! -e /tmp/go ]; do sleep 0.1; done; {then}"
    );
    let more_of_it = [options, &["--", "/bin/sh", "-c", &script]].concat();
    let green = world.start("green", &world.prefix, "web-green", &[], &more_of_it);
    let edge = start(
        world,
        &format!(
            "[service.web.switch]\nobserve = \"120s\"\nobserve_max = \"120s\"\ndrain = \"1s\"\n{more}"
        ),
    );
    wait_until("both are healthy", || {
        healthy(&edge, "web", "blue") == 1 && healthy(&edge, "web", "green") == 1
    });
    assert_eq!(answering(&edge, "localhost"), std::slice::from_ref(&blue));
    let load = Load::start(edge.http, "localhost");
    load.more(100);
    let switch = edge
        .proxyctl_command()
        .args(["switch", "green"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("proxyctl");
    wait_until("green is live", || edge.live() == "green");
    load.more(50);
    assert_eq!(answering(&edge, "localhost"), [green]);
    // The switch cost nothing.
    load.all_good();
    let load = Load::start(edge.http, "localhost");
    load.more(20);
    let green = world.name("green");
    world
        .engine
        .ok(&["exec", &green, "sh", "-c", "echo > /tmp/go"]);
    let ended = switch.wait_with_output().expect("it ends");
    let screen = String::from_utf8_lossy(&ended.stdout).into_owned()
        + &String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{screen}");
    // What its users saw depends on how much the old release may be asked for; not the matter here.
    load.end();
    assert_eq!(answering(&edge, "localhost"), std::slice::from_ref(&blue));
    let history = edge.proxyctl(&["history"]).stdout;
    let undone = Undone {
        edge,
        green,
        screen,
        history,
    };
    assert_eq!(undone.reasons().len(), 1, "{}", undone.screen);
    undone
}

impl Undone {
    /// Rollbacks by each reason that there was one for.
    fn reasons(&self) -> Vec<&'static str> {
        let all = ["error_rate", "latency", "health", "container", "operator"];
        let count = |reason: &str| {
            let name = format!("cutover_rollbacks_total{{service=\"web\",reason=\"{reason}\"}}");
            self.edge.metric(&name).unwrap_or_default()
        };
        all.into_iter()
            .filter(|reason| count(reason) > 0.0)
            .collect()
    }

    /// Screen and history tell all of these of the container.
    fn tells(&self, what: &str, lines: &[&str]) {
        for (place, text) in [("screen", &self.screen), ("history", &self.history)] {
            let sentence = format!("the container {} {what}", self.green);
            for told in lines.iter().copied().chain([sentence.as_str()]) {
                assert!(
                    text.contains(told),
                    "{told:?} is missing on the {place}:\n{text}"
                );
            }
        }
    }
}

const PANIC: &str = "echo panic: no more; exit 3";

#[test]
fn the_end_of_a_new_container_undoes_the_switch() {
    let world = World::new(Engine::shared(), "cutover-t-color");
    let undone = undone(&world, &[], PANIC, "");
    undone.tells("exited with code 3", &["panic: no more"]);
}

#[test]
fn whatever_undoes_a_release_the_last_lines_of_its_container_are_shown() {
    let world = World::new(Engine::shared(), "cutover-t-words");
    let more = "[service.web.rollback.rules]\ncontainer = \"off\"\n";
    let undone = undone(&world, &[], PANIC, more);
    assert!(
        !undone.reasons().contains(&"container"),
        "{}",
        undone.screen
    );
    undone.tells("exited with code 3", &["panic: no more"]);
}

#[test]
fn a_new_container_that_is_killed_for_memory_undoes_the_switch() {
    let world = World::new(Engine::shared(), "cutover-t-oom");
    let limit = ["--memory", "32m", "--memory-swap", "32m"];
    let undone = undone(
        &world,
        &limit,
        "echo filling; exec /bin/busybox tail /dev/zero",
        "",
    );
    undone.tells("ran out of memory (OOM)", &["filling"]);
    assert_eq!(undone.reasons(), ["container"]);
}

#[test]
fn a_new_container_in_a_restart_loop_undoes_the_switch_and_passes_no_gate() {
    let world = World::new(Engine::shared(), "cutover-t-loop");
    let undone = undone(
        &world,
        &["--restart", "always"],
        "echo again and again; exit 1",
        "ready_timeout = \"2s\"\n[service.web.rollback.after]\nquarantine = false\n",
    );
    undone.tells("exited with code 1", &["again and again"]);
    assert_eq!(undone.reasons(), ["container"]);
    let again = undone.edge.proxyctl(&["switch", "green"]);
    assert_eq!(again.code, 3, "{again:?}");
    assert_eq!(undone.edge.live(), "blue");
}

/// A HEALTHCHECK that fails while there is a file, though everything answers.
const HEALTHCHECK: [&str; 6] = [
    "--health-cmd",
    "[ ! -e /tmp/sick ]",
    "--health-interval",
    "1s",
    "--health-retries",
    "2",
];

#[test]
fn a_new_container_that_becomes_unhealthy_undoes_the_switch() {
    let world = World::new(Engine::shared(), "cutover-t-sick");
    let sick = "echo no database; echo > /tmp/sick; while :; do sleep 1; done";
    let undone = undone(&world, &HEALTHCHECK, sick, "");
    undone.tells("is unhealthy, says its HEALTHCHECK", &["no database"]);
    assert!(
        !undone.reasons().contains(&"container"),
        "{}",
        undone.screen
    );
}

#[test]
fn a_container_that_its_healthcheck_calls_unhealthy_is_out_though_it_answers_probes() {
    let world = World::new(Engine::shared(), "cutover-t-health");
    let mut ids: Vec<_> = ["web-1", "web-2"]
        .map(|name| world.start(name, &world.prefix, "web", &[], &HEALTHCHECK))
        .into();
    let edge = start(&world, "");
    wait_until("both are healthy", || healthy(&edge, "web", "blue") == 2);
    let load = Load::start(edge.http, "localhost");
    load.more(50);
    let web_1 = world.name("web-1");
    let sh = |line: &str| world.engine.ok(&["exec", &web_1, "/bin/sh", "-c", line]);
    sh("echo > /tmp/sick");
    wait_until("one is out", || healthy(&edge, "web", "blue") == 1);
    let list = upstreams(&edge, "web", "blue");
    let reasons: Vec<_> = list
        .iter()
        .filter_map(|one| one["reason"].as_str())
        .collect();
    assert!(
        reasons.iter().any(|why| why.contains("health check fails")),
        "{list:?}"
    );
    assert_eq!(answering(&edge, "localhost"), [ids[1].clone()]);
    sh("/bin/busybox rm /tmp/sick");
    wait_until("it is back", || healthy(&edge, "web", "blue") == 2);
    ids.sort();
    assert_eq!(answering(&edge, "localhost"), ids);
    load.all_good();
}

#[test]
fn memory_and_cpu_at_their_limits_are_told_and_undo_a_switch_where_that_is_wanted() {
    let world = World::new(Engine::shared(), "cutover-t-limits");
    world.start("blue", &world.prefix, "web-blue", &[], &[]);
    // 92 % of its memory, and all of its CPU.
    let limits = [
        "--memory",
        "128m",
        "--memory-swap",
        "128m",
        "--shm-size",
        "128m",
        "--cpus",
        "0.05",
    ];
    let script = "hostname > /www/index.html; httpd -p 3000 -h /www; \
                  /bin/busybox dd if=/dev/zero of=/dev/shm/x bs=1048576 count=118; while :; do :; done";
    let more = [&limits[..], &["--", "/bin/sh", "-c", script]].concat();
    world.start("green", &world.prefix, "web-green", &[], &more);
    let edge = start(
        &world,
        "[service.web.switch]\nobserve = \"150s\"\nobserve_max = \"150s\"\ndrain = \"1s\"\n\
         [service.web.rollback.rules]\ncpu = \"rollback\"\n",
    );
    wait_until("both are healthy", || {
        healthy(&edge, "web", "blue") == 1 && healthy(&edge, "web", "green") == 1
    });
    let switch = edge.proxyctl(&["switch", "green", "--no-wait"]);
    assert_eq!(switch.code, 0, "{switch:?}");
    let judged = || edge.proxyctl(&["judge", "--json"]).stdout;
    wait_until("memory is told", || judged().contains("of its limit"));
    assert!(judged().contains("memory is at 9"), "{}", judged());
    assert_eq!(edge.live(), "green", "memory is only told");
    // The rule wants a minute of it.
    wait_for(SECOND * 100, "it is undone", || edge.live() == "blue");
    wait_until("the history tells why", || {
        let history = edge.proxyctl(&["history"]).stdout;
        history.contains("CPU is above 90 % of its limit for a minute")
    });
}

#[test]
fn a_live_slot_that_lost_its_last_container_gives_way_to_the_other() {
    let world = World::new(Engine::shared(), "cutover-t-lost");
    world.start("blue", &world.prefix, "web-blue", &[], &[]);
    let green = world.start("green", &world.prefix, "web-green", &[], &[]);
    let edge = start(&world, "[service.web.switch]\nobserve = \"0s\"\n");
    wait_until("both are healthy", || {
        healthy(&edge, "web", "blue") == 1 && healthy(&edge, "web", "green") == 1
    });
    assert_eq!(edge.live(), "blue");
    world.docker("rm", "blue", &["--force"]);
    wait_until("green is live", || edge.live() == "green");
    wait_until("green answers", || {
        answering(&edge, "localhost") == [green.clone()]
    });
    let reload = edge.proxyctl(&["reload"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    assert_eq!(edge.live(), "green", "a reload moves nothing");
    assert_eq!(answering(&edge, "localhost"), [green]);
}

#[test]
fn an_engine_that_is_restarted_is_found_again() {
    let mut own = OwnEngine::start("cutover-t0", "10.213.7.1/24");
    let world = World::new(own.engine.clone(), "cutover-t-engine");
    let id = world.start("web-1", &world.prefix, "web", &[], &["--restart", "always"]);
    let origin = support::Origins::start();
    let other = format!(
        "[[site]]\nhosts = [\"fixed.internal\"]\ntls = \"off\"\nupstream = [\"{}\"]\n",
        origin.blue.addr
    );
    let edge = start(&world, &other);
    wait_until("it answers", || {
        answering(&edge, "localhost") == [id.clone()]
    });
    let load = Load::start(edge.http, "fixed.internal");
    load.more(50);
    own.stop();
    wait_until("the loss is told", || {
        edge.status()["docker"]["state"] == "disconnected"
    });
    assert!(edge.is_ready());
    own.spawn();
    wait_until("it is connected again", || {
        edge.status()["docker"]["state"] == "connected"
    });
    wait_until("the container answers again", || {
        answering(&edge, "localhost") == [id.clone()]
    });
    load.all_good();
}
