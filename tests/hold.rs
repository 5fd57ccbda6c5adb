//! Requests that wait at the edge, and closed doors.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use support::{Edge, Origins, curl, free_port, now, wait_until};

/// A backend that can die and come back, and remembers in which order it was asked.
struct Backend {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<u32>>>,
}

impl Backend {
    fn new() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            asked: Arc::default(),
        }
    }

    /// Answers until `stop` is set.
    fn serve(&self, stop: Arc<Mutex<bool>>) -> thread::JoinHandle<()> {
        let listener = TcpListener::bind(self.address).expect("the port");
        listener.set_nonblocking(true).expect("nonblocking");
        let asked = Arc::clone(&self.asked);
        thread::spawn(move || {
            while !*stop.lock().expect("not poisoned") {
                let Ok((mut socket, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                socket.set_nonblocking(false).expect("blocking");
                // One after the other, in the order in which they connected.
                let mut head = Vec::new();
                let mut byte = [0; 1];
                while !head.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let number = head.strip_prefix("GET /n/");
                let number = number.and_then(|rest| rest.split(' ').next()?.parse().ok());
                if let Some(number) = number {
                    asked.lock().expect("not poisoned").push(number);
                }
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                let _ = socket.write_all(answer.as_bytes());
            }
        })
    }

    fn config(&self, more: &str) -> String {
        format!(
            "{more}\n[[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\nredirect = false\nservice = \"web\"\n\
             [service.web]\nblue = [\"{}\"]\n[service.web.health]\ntype = \"tcp\"\ninterval = \"200ms\"\n",
            self.address
        )
    }
}

fn held(edge: &Edge) -> u64 {
    edge.metric("cutover_held_requests{service=\"web\"}")
        .unwrap_or(-1.0) as u64
}

/// The status line and the body of one request on a connection of its own.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn an_outage_under_a_hold_costs_no_request_and_no_order() {
    const CLIENTS: u32 = 500;
    let backend = Backend::new();
    let stop: Arc<Mutex<bool>> = Arc::default();
    let first = backend.serve(Arc::clone(&stop));
    let edge = Edge::start(&backend.config("[limits]\nheld_requests = 500"));
    wait_until("the backend answers", || {
        get(edge.http, "/").is_ok_and(|a| a.starts_with("HTTP/1.1 200"))
    });
    let done = edge.proxyctl(&["hold", "--max", "20s"]);
    assert_eq!(done.code, 0, "{done:?}");
    *stop.lock().expect("not poisoned") = true;
    first.join().expect("the backend");
    let down = now();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let address = edge.http;
        clients.push(thread::spawn(move || get(address, &format!("/n/{n}"))));
        // In the order of their numbers.
        wait_until("it waits", || held(&edge) == u64::from(n) + 1);
    }
    // One too many.
    let answer = curl(&["--include", &format!("http://{}/", edge.http)]);
    let head = answer.stdout.to_lowercase();
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after: "),
        "{answer:?}"
    );
    let hold = edge.status()["services"][0]["hold"].clone();
    assert_eq!(
        (&hold["waiting"], &hold["refused"]),
        (&500.into(), &1.into())
    );
    thread::sleep(Duration::from_secs(2).saturating_sub(down.elapsed()));
    *stop.lock().expect("not poisoned") = false;
    let second = backend.serve(Arc::clone(&stop));
    wait_until("the backend is healthy", || {
        edge.status()["services"][0]["slots"]["blue"]["upstreams"][0]["healthy"] == true
    });
    let done = edge.proxyctl(&["resume"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "500 requests of web go on\n")
    );
    for client in clients {
        let answer = client.join().expect("a client").expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
            "{answer}"
        );
    }
    let asked = backend.asked.lock().expect("not poisoned").clone();
    assert_eq!(
        asked,
        (0..CLIENTS).collect::<Vec<_>>(),
        "in the order they came"
    );
    assert_eq!(held(&edge), 0);
    *stop.lock().expect("not poisoned") = true;
    second.join().expect("the backend");
}

#[test]
fn a_request_waits_no_longer_than_it_should_and_who_leaves_frees_the_place() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        "[limits]\nheld_requests = 3\n{}",
        origins.config("")
    ));
    edge.wait_healthy();
    assert_eq!(edge.proxyctl(&["hold", "--max", "3s"]).code, 0);
    let plain = format!("http://{}/", edge.http);
    let tls = format!("https://{}/", edge.https);
    let mut impatient: Vec<_> = [
        &["--http1.1", plain.as_str()][..],
        &["--insecure", "--http2", &tls],
        &["--data", "a body", &plain],
    ]
    .iter()
    .map(|arguments| {
        std::process::Command::new("curl")
            .args(["--silent", "--max-time", "20"])
            .args(*arguments)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("curl")
    })
    .collect();
    wait_until("all three wait", || held(&edge) == 3);
    for client in &mut impatient {
        client.kill().expect("kill");
        client.wait().expect("an end");
    }
    wait_until("their places are free", || held(&edge) == 0);
    let start = now();
    let answer = curl(&["--include", &plain]);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(2_900) && took < Duration::from_secs(9),
        "{took:?}"
    );
    let head = answer.stdout.to_lowercase();
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after: "),
        "{answer:?}"
    );
    assert!(head.contains("proxy-status: cutover; error="), "{answer:?}");
    // What is held goes where the switch went meanwhile.
    let client = thread::spawn({
        let plain = plain.clone();
        move || curl(&[&plain])
    });
    wait_until("it waits", || held(&edge) == 1);
    let hold = edge.status()["services"][0]["hold"].clone();
    assert_eq!(
        (&hold["waiting"], &hold["max_ms"]),
        (&1.into(), &3_000.into())
    );
    assert!(hold["until"].as_str() > hold["since"].as_str(), "{hold}");
    let shown = edge.proxyctl(&["status"]).stdout;
    assert!(shown.contains("hold  1 requests wait"), "{shown}");
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    assert_eq!(edge.proxyctl(&["resume", "--service", "web"]).code, 0);
    assert_eq!(client.join().expect("a client").stdout, "green");
    assert_eq!(edge.proxyctl(&["resume"]).code, 3, "nothing is held");
    assert_eq!(edge.proxyctl(&["hold", "--service", "nobody"]).code, 2);
}

#[test]
fn maintenance_closes_a_service_for_all_but_some_and_survives_a_restart() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config(""));
    edge.wait_healthy();
    let url = format!("http://{}/", edge.http);
    let done = edge.proxyctl(&["maintenance", "on", "--message", "Back at <noon>"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "service web is closed for maintenance\n")
    );
    let page = curl(&["--include", "--header", "Accept: text/html", &url]).stdout;
    for part in [
        "HTTP/1.1 503",
        "Retry-After: 60",
        "Proxy-Status: cutover; error=",
        "no-store",
        "text/html",
        "Back at &lt;noon&gt;",
    ] {
        assert!(
            page.to_lowercase().contains(&part.to_lowercase()),
            "{part}: {page}"
        );
    }
    let json = curl(&["--header", "Accept: application/json", &url]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["error"]["message"], "Back at <noon>");

    edge.stop("-KILL");
    edge.spawn();
    assert_eq!(curl(&[&url]).stdout, "Back at <noon>\n", "after a restart");
    let closed = edge.status()["maintenance"].clone();
    assert_eq!(
        (&closed[0]["service"], &closed[0]["message"]),
        (&"web".into(), &"Back at <noon>".into())
    );
    let shown = edge.proxyctl(&["status"]).stdout;
    assert!(
        shown.contains("maintenance  service web is closed: Back at <noon>"),
        "{shown}"
    );
    let open = format!(
        "[maintenance]\nallow = [\"127.0.0.0/8\"]\n{}",
        origins.config("")
    );
    edge.write(&open);
    assert_eq!(edge.proxyctl(&["reload"]).code, 0, "{}", edge.log());
    assert_eq!(curl(&[&url]).stdout, "blue", "this client is on the list");
    edge.write(&origins.config(""));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0, "{}", edge.log());
    assert_eq!(edge.proxyctl(&["maintenance", "off"]).code, 0);
    assert_eq!(curl(&[&url]).stdout, "blue");
    assert_eq!(
        edge.proxyctl(&["maintenance", "on", "--site", "localhost"])
            .code,
        0
    );
    assert_eq!(curl(&[&url]).code, 22);
    assert_eq!(
        edge.proxyctl(&["maintenance", "on", "--site", "nobody.example"])
            .code,
        2
    );

    let history = edge.proxyctl(&["history", "--json"]);
    let history: serde_json::Value = serde_json::from_str(&history.stdout).expect("JSON");
    let whats: Vec<_> = history["history"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| entry["what"].as_str().expect("a word"))
        .collect();
    assert_eq!(
        whats,
        [
            "maintenance on",
            "maintenance off",
            "reload",
            "reload",
            "maintenance on"
        ]
    );
    assert_eq!(history["history"][4]["why"], "Back at <noon>");
    assert!(
        history["history"][4]["who"]
            .as_str()
            .expect("a name")
            .contains("(uid ")
    );
}

#[test]
fn a_freeze_refuses_a_switch_after_a_restart_too() {
    let origins = Origins::start();
    let mut edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    assert_eq!(edge.proxyctl(&["freeze", "--why", "the sale"]).code, 0);
    edge.stop("-KILL");
    edge.spawn();
    edge.wait_healthy();
    let frozen = edge.status()["freeze"].clone();
    assert_eq!(frozen["why"], "the sale");
    assert!(frozen["by"].to_string().contains("(uid "), "{frozen}");
    assert!(frozen["since"].to_string().contains('T') && frozen["until"].is_null());
    let shown = edge.proxyctl(&["status"]).stdout;
    assert!(
        shown.contains("frozen  no switch until `unfreeze`: the sale"),
        "{shown}"
    );
    let refused = edge.proxyctl(&["switch", "green", "--force"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("frozen by ") && refused.stderr.contains("the sale"),
        "{refused:?}"
    );
    assert_eq!(edge.proxyctl(&["unfreeze"]).code, 0);
    assert!(edge.status()["freeze"].is_null());
    let id = [
        "switch",
        "green",
        "--id",
        "release-7",
        "--why",
        "new colors",
    ];
    assert_eq!(edge.proxyctl(&id).code, 0);
    assert_eq!(edge.proxyctl(&["rollback"]).code, 0);
    let again = edge.proxyctl(&id);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(edge.live(), "blue", "the same id is done once");
    let history = edge.proxyctl(&["history"]);
    for part in [
        "switch blue to green",
        "kept",
        "new colors",
        "rollback green to blue",
        "unfreeze",
        "freeze",
        "refused",
    ] {
        assert!(
            history.stdout.contains(part) || part == "refused",
            "{part}: {}",
            history.stdout
        );
    }
}
