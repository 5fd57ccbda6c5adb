//! Containers of a real engine behind the real proxy: found, followed, judged and refused.
//!
//! The proxy runs on the host, where every bridge can be reached. Each test names its containers by a
//! prefix of its own.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::docker::{Engine, OwnEngine, Relay, SOCKET, World};
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
    let wrong = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect(edge).map_err(wrong)?;
    socket
        .set_read_timeout(Some(Duration::from_secs(15)))
        .map_err(wrong)?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .map_err(wrong)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(wrong)?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status.ok_or("no answer")?, body.trim().to_owned()))
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
        let stop: Arc<AtomicBool> = Arc::default();
        let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let clients = (0..4).map(|_| {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = now();
                    let answer = get(edge, host, "/");
                    answers.lock().expect("no panic").push((begun, answer));
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

    /// Ends it. Not one request failed.
    fn all_good(mut self) -> Vec<(Instant, String)> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("no panic");
        }
        let answers = std::mem::take(&mut *self.answers.lock().expect("no panic"));
        let all = answers.len();
        let bad: Vec<_> = answers
            .iter()
            .filter(|(_, answer)| !matches!(answer, Ok((200, _))))
            .collect();
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

#[test]
fn twenty_containers_that_come_and_go_leave_a_true_table() {
    let world = World::new(Engine::shared(), "cutover-t-many");
    let edge = start(&world, "");
    let own = world.start("web-1", &world.prefix, "web", &[], &[]);
    wait_until("it answers", || {
        answering(&edge, "localhost") == [own.clone()]
    });
    let load = Load::start(edge.http, "localhost");
    for n in 0..20 {
        let name = format!("many-{n}");
        let host = format!("cutover.host=h{n}.internal");
        world.start(
            &name,
            &format!("p{n}"),
            "app",
            &[&host, "cutover.tls=off"],
            &[],
        );
        if n % 2 == 0 {
            world.docker("rm", &name, &["--force"]);
        }
    }
    let done = now();
    let is_true = || {
        let status = edge.status();
        let services = status["services"].as_array().cloned().unwrap_or_default();
        services.len() == 11
    };
    wait_for(SECOND * 3, "ten are left, and the first", is_true);
    let time = done.elapsed();
    assert!(
        time < SECOND * 2,
        "the table was right {time:?} after the last change"
    );
    assert_eq!(answering(&edge, "h7.internal").len(), 1);
    assert_eq!(
        answering(&edge, "h8.internal"),
        [own],
        "what is gone is nobody's, so the default site's"
    );
    load.all_good();
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
    let relay = Relay::to(SOCKET.as_ref(), &["/version", "/stats", "/logs"]);
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

#[test]
fn a_switch_goes_by_color_and_the_end_of_a_new_container_undoes_it() {
    let world = World::new(Engine::shared(), "cutover-t-color");
    let blue = world.start("blue", &world.prefix, "web-blue", &[], &[]);
    let green = world.start(
        "green",
        &world.prefix,
        "web-green",
        &[],
        &["--", "/bin/sh", "-c", "echo starting; hostname > /www/index.html; httpd -p 3000 -h /www; while [ ! -e /tmp/die ]; do sleep 0.1; done; echo panic: no more; exit 3"],
    );
    let edge = start(
        &world,
        "[service.web.switch]\nobserve = \"60s\"\nobserve_max = \"120s\"\ndrain = \"1s\"\n",
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
    // Under load the failures may say it before Docker does.
    load.all_good();
    let name = world.name("green");
    world
        .engine
        .ok(&["exec", &name, "sh", "-c", "echo > /tmp/die"]);
    let ended = switch.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(4), "{ended:?}");
    let screen = String::from_utf8_lossy(&ended.stdout).into_owned()
        + &String::from_utf8_lossy(&ended.stderr);
    assert!(
        screen.contains(&format!("the container {name} exited with code 3")),
        "{screen}"
    );
    assert!(screen.contains("panic: no more"), "{screen}");
    assert_eq!(answering(&edge, "localhost"), [blue]);
    let by_container = "cutover_rollbacks_total{service=\"web\",reason=\"container\"}";
    assert_eq!(edge.metric(by_container), Some(1.0));
    let history = edge.proxyctl(&["history"]).stdout;
    assert!(history.contains("panic: no more"), "{history}");
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
