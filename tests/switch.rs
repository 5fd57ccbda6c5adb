//! Switches, reloads and drains under load from real clients, counted at the clients.

mod support;

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{Edge, Ended, Origins, curl, finish, free_port, now, require, wait_until};

/// A load generator that runs beside the test.
struct Load {
    name: String,
    child: Child,
}

impl Load {
    fn start(name: &str, program: &str, arguments: &[&str]) -> Self {
        require(program);
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Self {
            name: name.to_owned(),
            child,
        }
    }

    fn wrk(name: &str, url: &str, seconds: u64, more: &[&str]) -> Self {
        let time = format!("-d{seconds}s");
        let fixed = ["-t1", "-c16", &time, "--timeout", "10s"];
        Self::start(name, "wrk", &[&fixed, more, &[url]].concat())
    }

    fn h2load(name: &str, url: &str, seconds: u64) -> Self {
        let time = format!("--duration={seconds}");
        Self::start(name, "h2load", &["-c4", "-m8", "-t1", &time, url])
    }

    /// Requests that were answered, and what went wrong, in the client's own words.
    fn finish(self) -> (u64, Vec<String>) {
        let output = self.child.wait_with_output().expect("the load ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = |text: &str| format!("{}: {text}", self.name);
        let mut wrong = Vec::new();
        if !output.status.success() {
            wrong.push(told(&format!(
                "{} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )));
        }
        let mut answered = 0;
        for line in said.lines().map(str::trim) {
            if line.starts_with("Socket errors:") || line.starts_with("Non-2xx") {
                wrong.push(told(line));
            }
            if let Some((count, _)) = line.split_once(" requests in ") {
                answered = count.trim().parse().unwrap_or(0);
            }
            // requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout
            if let Some(counts) = line.strip_prefix("requests: ") {
                let count = |what: &str| {
                    let part = counts.split(", ").find_map(|part| part.strip_suffix(what));
                    part.and_then(|number| number.trim().parse::<u64>().ok())
                };
                answered = count(" succeeded").unwrap_or(0);
                for what in [" failed", " errored", " timeout"] {
                    if count(what) != Some(0) {
                        wrong.push(told(line));
                    }
                }
            }
            if let Some(codes) = line.strip_prefix("status codes: ")
                && !codes.contains("0 3xx, 0 4xx, 0 5xx")
            {
                wrong.push(told(line));
            }
        }
        if answered == 0 {
            wrong.push(told(&format!("answered nothing\n{said}")));
        }
        (answered, wrong)
    }
}

/// Every kind of client at once: keep-alive and new connections, plain, TLS, h2 and h2c.
fn all_clients(edge: &Edge, seconds: u64) -> Vec<Load> {
    let plain = format!("http://{}/", edge.http);
    let tls = format!("https://{}/", edge.https);
    vec![
        Load::wrk("h1 keep-alive", &plain, seconds, &[]),
        Load::wrk(
            "h1 new connections",
            &plain,
            seconds,
            &["-c4", "-H", "Connection: close"],
        ),
        Load::wrk("h1 tls", &tls, seconds, &["-c8"]),
        Load::h2load("h2 tls", &tls, seconds),
        Load::h2load("h2c", &plain, seconds),
    ]
}

fn assert_nothing_lost(loads: Vec<Load>) -> u64 {
    let mut total = 0;
    let mut wrong = Vec::new();
    for load in loads {
        let (answered, errors) = load.finish();
        total += answered;
        wrong.extend(errors);
    }
    assert_eq!(wrong, [] as [String; 0], "{total} requests were answered");
    total
}

#[test]
fn a_hundred_switches_under_load_lose_no_request() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\ndrain = \"10s\""));
    edge.wait_healthy();
    let loads = all_clients(&edge, 12);
    let start = now();
    for n in 0..100 {
        let target = if n % 2 == 0 { "green" } else { "blue" };
        let switched = edge.proxyctl(&["switch", target, "--no-wait"]);
        assert_eq!(switched.code, 0, "switch {n}: {switched:?}\n{}", edge.log());
        assert_eq!(edge.live(), target);
        let next = start + Duration::from_millis(100) * (n + 1);
        thread::sleep(next.saturating_duration_since(now()));
    }
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "100 switches took {:?}",
        start.elapsed()
    );
    let total = assert_nothing_lost(loads);
    assert!(total > 1_000, "only {total} requests in the whole run");
    let served = |origin: &support::origin::Origin| {
        origin
            .state
            .requests
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    assert!(
        served(&origins.blue) > 0 && served(&origins.green) > 0,
        "both colors took part"
    );
    // The last switch went to blue: once green is drained, it has no connection left but probes.
    wait_until("green has no connection left", || {
        origins
            .green
            .state
            .open
            .load(std::sync::atomic::Ordering::SeqCst)
            <= 1
    });
}

#[test]
fn slow_requests_finish_on_the_color_they_began_on() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\ndrain = \"20s\""));
    edge.wait_healthy();
    let url = format!("http://{}/slow?ms=3000", edge.http);
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let url = url.clone();
            thread::spawn(move || curl(&[&url]))
        })
        .collect();
    wait_until("all fifty are in flight", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["request"] == 50
    });
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    assert_eq!(curl(&[&format!("http://{}/", edge.http)]).stdout, "green");
    let status = edge.status();
    assert_eq!(
        status["services"][0]["slots"]["blue"]["in_flight"]["request"],
        50
    );
    wait_until("the drain's age is told", || {
        edge.status()["services"][0]["drains"][0]["elapsed_ms"].as_u64() > Some(0)
    });
    for client in clients {
        let Ended { code, stdout, .. } = client.join().expect("a client");
        assert_eq!((code, stdout.as_str()), (0, "blue"));
    }
    wait_until(
        "blue is drained and has no connection but a probe's",
        || {
            let open = origins
                .blue
                .state
                .open
                .load(std::sync::atomic::Ordering::SeqCst);
            open <= 1 && edge.log().contains("drained")
        },
    );
    assert_eq!(
        edge.metric("cutover_live{service=\"web\",color=\"green\"}"),
        Some(1.0)
    );
}

#[test]
fn a_drain_ends_what_outlives_its_deadline() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\ndrain = \"1s\""));
    edge.wait_healthy();
    let url = format!("http://{}/drip?n=100&every_ms=200", edge.http);
    let client = thread::spawn(move || curl(&[&url]));
    wait_until("it is in flight", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["request"] == 1
    });
    let switched = edge.proxyctl(&["switch", "green"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    let ended = client.join().expect("a client");
    assert_ne!(
        ended.code, 0,
        "the client must see that its answer is not whole"
    );
    assert!(switched.stdout.contains("1 requests"), "{switched:?}");
}

#[test]
fn reloads_under_load_lose_no_request_and_a_bad_one_changes_nothing() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let loads = all_clients(&edge, 12);
    let base = origins.config("observe = \"0s\"");
    let (blue, green) = (origins.blue.addr, origins.green.addr);
    let start = now();
    for n in 0..100 {
        let text = match n % 4 {
            // An upstream more, one less, a site more, and back.
            0 => base.replace(
                &format!("blue = [\"{blue}\"]"),
                &format!("blue = [\"{blue}\", \"{green}\"]"),
            ),
            1 => base.replace(
                &format!("blue = [\"{blue}\"]"),
                &format!("blue = [\"{green}\"]"),
            ),
            2 => {
                format!("{base}\n[[site]]\nhosts = [\"s{n}.internal\"]\nupstream = [\"{green}\"]\n")
            }
            _ => base.clone(),
        };
        edge.write(&text);
        let reloaded = edge.proxyctl(&["reload"]);
        assert_eq!(reloaded.code, 0, "reload {n}: {reloaded:?}\n{}", edge.log());
        let next = start + Duration::from_millis(100) * (n + 1);
        thread::sleep(next.saturating_duration_since(now()));
    }
    assert_nothing_lost(loads);
    assert_eq!(edge.metric("cutover_config_last_reload_success"), Some(1.0));

    let before = edge.proxyctl(&["config"]).stdout;
    edge.write(&format!("{base}\n[service.other]\nblue = []\n"));
    let refused = edge.proxyctl(&["reload"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("service.other.blue: a pool needs at least one upstream"),
        "{refused:?}"
    );
    assert_eq!(edge.proxyctl(&["config"]).stdout, before);
    assert_eq!(curl(&[&format!("http://{}/", edge.http)]).stdout, "blue");
    assert_eq!(edge.metric("cutover_config_last_reload_success"), Some(0.0));

    edge.http.set_port(free_port());
    edge.write(&base);
    let restart = edge.proxyctl(&["reload"]);
    assert_eq!(restart.code, 1);
    assert!(
        restart
            .stderr
            .contains("listen.http can only change with a restart"),
        "{restart:?}"
    );
}

#[test]
fn a_gate_refuses_and_names_every_upstream_that_is_not_ready() {
    let origins = Origins::start();
    let dead = free_port();
    let others = Origins::start();
    *others.blue.state.health.lock().unwrap() = "slow".to_owned();
    *others.green.state.health.lock().unwrap() = "fail".to_owned();
    let hanging = Origins::start();
    *hanging.blue.state.health.lock().unwrap() = "hang".to_owned();
    let config = origins
        .config("observe = \"0s\"\nready_timeout = \"4s\"")
        .replace(
            &format!("green = [\"{}\"]", origins.green.addr),
            &format!(
                "green = [\"{}\", \"127.0.0.1:{dead}\", \"{}\", \"{}\", \"{}\"]",
                origins.green.addr, others.blue.addr, others.green.addr, hanging.blue.addr
            ),
        )
        .replace(
            "interval = \"500ms\"",
            "interval = \"500ms\"\ntimeout = \"1s\"\nmax_latency = \"100ms\"",
        );
    let edge = Edge::start(&config);
    let load = Load::wrk("h1", &format!("http://{}/", edge.http), 6, &[]);
    let refused = edge.proxyctl(&["switch", "green"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    let told = refused.stderr;
    for (upstream, reason) in [
        (format!("127.0.0.1:{dead}"), "connection refused"),
        (others.blue.addr.to_string(), "allowed are 100ms"),
        (others.green.addr.to_string(), "status 503"),
        (hanging.blue.addr.to_string(), "within 1s"),
    ] {
        let line = told.lines().rev().find(|line| line.contains(&upstream));
        let line = line.unwrap_or_else(|| panic!("{upstream} is not named\n{told}"));
        assert!(line.contains(reason), "{line}");
    }
    assert!(
        !told.contains(&format!("{}: ", origins.green.addr)),
        "the good one is not blamed\n{told}"
    );
    assert_eq!(edge.live(), "blue");
    assert_nothing_lost(vec![load]);
    let served = origins
        .green
        .state
        .requests
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(served, 0, "traffic never moved");
    // Forced, it goes there all the same.
    let forced = edge.proxyctl(&["switch", "green", "--force", "--no-wait"]);
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(edge.live(), "green");
}

#[test]
fn the_live_color_survives_a_restart_and_a_kill() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    assert_eq!(
        edge.proxyctl(&["switch", "green", "--release", "v2"]).code,
        0
    );
    let (took, code) = edge.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(
        took < Duration::from_secs(8),
        "nothing was in flight, but the stop took {took:?}"
    );
    edge.spawn();
    assert_eq!(edge.live(), "green");
    assert_eq!(
        edge.status()["services"][0]["slots"]["green"]["release"],
        "v2"
    );
    edge.wait_healthy();
    assert_eq!(edge.proxyctl(&["switch", "blue"]).code, 0);
    edge.stop("-KILL");
    edge.spawn();
    assert_eq!(edge.live(), "blue");
    assert_eq!(curl(&[&format!("http://{}/", edge.http)]).stdout, "blue");
}

#[test]
fn a_switch_is_observed_and_can_be_undone_kept_or_given_up() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"10m\"\nready_timeout = \"10s\""));
    edge.wait_healthy();
    // Undone by a rollback: the switch that waits learns of it.
    let waiting = edge
        .proxyctl_command()
        .args(["switch", "green"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("proxyctl");
    wait_until("green is observed", || {
        edge.status()["services"][0]["state"] == "observe"
    });
    let second = edge.proxyctl(&["switch", "green"]);
    assert_eq!(second.code, 3, "another switch is running: {second:?}");
    assert!(second.stderr.contains("is running"), "{second:?}");
    assert_eq!(edge.proxyctl(&["rollback"]).code, 0);
    assert_eq!(
        waiting.wait_with_output().expect("an end").status.code(),
        Some(4)
    );
    assert_eq!(edge.live(), "blue");
    // Kept early.
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    assert_eq!(edge.proxyctl(&["promote"]).code, 0);
    wait_until("the switch is over", || {
        edge.status()["services"][0]["state"] == "stable"
    });
    assert_eq!(edge.live(), "green");
    // A switch to the live color is done at once.
    assert_eq!(edge.proxyctl(&["switch", "green"]).code, 0);
    // Undone after it was kept.
    assert_eq!(edge.proxyctl(&["rollback"]).code, 0);
    assert_eq!(edge.live(), "blue");
    assert_eq!(
        edge.proxyctl(&["rollback"]).code,
        3,
        "nothing is left to undo"
    );
    // Given up while it waits at the gate.
    *origins.green.state.health.lock().unwrap() = "fail".to_owned();
    wait_until("green is down", || {
        edge.status()["services"][0]["slots"]["green"]["upstreams"][0]["healthy"] == false
    });
    let waiting = edge
        .proxyctl_command()
        .args(["switch", "green"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("proxyctl");
    wait_until("it waits at the gate", || {
        edge.status()["services"][0]["state"] == "gate"
    });
    assert_eq!(edge.proxyctl(&["abort"]).code, 0);
    assert_eq!(
        waiting.wait_with_output().expect("an end").status.code(),
        Some(4)
    );
    assert_eq!(edge.proxyctl(&["promote"]).code, 3, "nothing is running");
    assert_eq!(edge.live(), "blue");
    // A switch back to the old color while it is observed is a rollback that worked.
    *origins.green.state.health.lock().unwrap() = "ok".to_owned();
    edge.wait_healthy();
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    assert_eq!(edge.proxyctl(&["switch", "blue"]).code, 0);
    assert_eq!(edge.live(), "blue");
}

#[test]
fn a_command_repeated_after_a_kill_joins_its_watch_and_every_override_is_in_the_history() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"10m\""));
    edge.wait_healthy();
    let asked = [
        "switch",
        "green",
        "--force",
        "--id",
        "deploy-1",
        "--no-wait",
    ];
    assert_eq!(edge.proxyctl(&asked).code, 0);
    edge.stop("-KILL");
    edge.spawn();
    let again = edge.proxyctl(&asked);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(
        again.stdout.contains("green takes new requests"),
        "{again:?}"
    );
    let waiting = edge
        .proxyctl_command()
        .args(&asked[..5])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("proxyctl");
    assert_eq!(edge.status()["services"][0]["state"], "observe");
    let kept = edge.proxyctl(&["promote", "--why", "it is well", "--id", "promote-1"]);
    assert_eq!(kept.code, 0, "{kept:?}");
    let joined = waiting.wait_with_output().expect("an end");
    assert_eq!(joined.status.code(), Some(0), "{joined:?}");
    assert_eq!(edge.proxyctl(&["rollback"]).code, 0);
    for repeated in [&asked[..], &["promote", "--id", "promote-1"]] {
        assert_eq!(edge.proxyctl(repeated).code, 0, "as it was told then");
    }
    assert_eq!(edge.live(), "blue", "nothing was done twice");
    let history = edge.proxyctl(&["history", "--json"]).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).expect("JSON");
    let entries = history["history"].as_array().expect("entries");
    let entry = |what: &str| {
        let of_it: Vec<_> = entries.iter().filter(|one| one["what"] == what).collect();
        assert_eq!(of_it.len(), 1, "{what}: {history}");
        of_it[0].clone()
    };
    for (what, why) in [
        ("force", "the gate was skipped"),
        ("promote", "it is well"),
        ("switch", ""),
        ("rollback", "asked for"),
    ] {
        let entry = entry(what);
        assert!(entry["why"].to_string().contains(why), "{entry}");
        assert!(entry["who"].to_string().contains("(uid "), "{entry}");
    }
}

#[test]
fn a_stop_under_load_answers_every_request_that_was_sent() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let url = format!("http://{}/slow?ms=2000", edge.http);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let url = url.clone();
            thread::spawn(move || curl(&[&url]))
        })
        .collect();
    wait_until("all are in flight", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["request"] == 20
    });
    let (took, code) = edge.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(
        took < Duration::from_secs(9),
        "the grace is 10 s, the requests took 2 s: {took:?}"
    );
    for client in clients {
        let ended = client.join().expect("a client");
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "blue"));
    }
    let refused = finish(Command::new("curl").args(["-s", "--max-time", "5", &url]));
    assert_eq!(refused.code, 7, "nobody listens any more");
}

#[test]
fn a_watched_color_that_does_not_come_up_after_a_restart_gives_way() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"10m\""));
    edge.wait_healthy();
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    edge.stop("-KILL");
    let dead = format!("127.0.0.1:{}", free_port());
    let config = origins.config("observe = \"10m\"");
    edge.write(&config.replace(&origins.green.addr.to_string(), &dead));
    edge.spawn();
    assert_eq!(edge.live(), "green", "the watch goes on first");
    let deadline = now() + Duration::from_secs(180);
    while edge.live() != "blue" {
        assert!(
            now() < deadline,
            "green is dead and still live\n{}",
            edge.log()
        );
        thread::sleep(Duration::from_millis(500));
    }
    let history = edge.proxyctl(&["history"]).stdout;
    assert!(
        history.contains("green of web did not come up within 60 s"),
        "{history}"
    );
}
