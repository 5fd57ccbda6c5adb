//! Real clients through the proxy: Python's websockets and grpcio, an event-stream reader, curl
//! with a GiB in each direction.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use support::{Edge, Origins, curl, finish, free_port, now, python, wait_until};

/// Runs a client of `tests/peers`; it prints one JSON line that says what failed.
fn passes(program: &str, arguments: &[&str]) {
    let ended = finish(
        Command::new(python())
            .arg(format!("tests/peers/{program}"))
            .args(arguments),
    );
    assert_eq!(ended.code, 0, "{program}: {}{}", ended.stdout, ended.stderr);
}

/// A server of `tests/peers` on a port of its own, ended with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(program: &str) -> Self {
        let port = free_port();
        let mut child = Command::new(python())
            .args([&format!("tests/peers/{program}"), &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        let stdout = child.stdout.take().expect("stdout");
        let server = Self { child, port };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy with one upstream, over plain HTTP and over TLS with a certificate of its own CA.
fn edge_of(upstream: &str) -> Edge {
    let edge = Edge::start(&format!(
        "[[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\ntls = \"internal\"\n\
         redirect = false\nupstream = [\"{upstream}\"]\n"
    ));
    wait_until("the internal CA is there", || {
        Path::new(&authority(&edge)).exists()
    });
    edge
}

/// The root certificate of the proxy's own CA.
fn authority(edge: &Edge) -> String {
    format!("{}/state/ca/root.pem", edge.folder.path().display())
}

#[test]
fn websockets_pass_with_frames_close_codes_and_headers() {
    let server = Server::start("ws_server.py");
    let edge = edge_of(&format!("127.0.0.1:{}", server.port));
    passes("ws_client.py", &[&format!("ws://{}/ws", edge.http)]);
    let tls = format!("wss://localhost:{}/ws", edge.https.port());
    passes("ws_client.py", &[&tls, "--ca", &authority(&edge)]);
}

#[test]
fn every_websocket_is_counted_and_given_back() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    passes(
        "ws_client.py",
        &[&format!("ws://{}/ws", edge.http), "--echo-only"],
    );
    let series = |kind: &str| {
        edge.metric(&format!(
            "cutover_in_flight_requests{{service=\"web\",color=\"blue\",kind=\"{kind}\"}}"
        ))
    };
    wait_until("the sockets are given back", || {
        series("websocket") == Some(0.0)
    });
    assert_eq!(series("request"), Some(0.0));
    let counted =
        "cutover_requests_total{service=\"web\",color=\"blue\",method=\"GET\",code=\"101\"}";
    let opened = origins.blue.state.paths.lock().expect("not poisoned")["/ws"];
    assert!(opened > 1, "{opened} sockets");
    assert_eq!(edge.metric(counted), Some(opened as f64));
}

#[test]
fn a_websocket_stays_on_its_color_and_is_counted_until_the_drain_ends_it() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\nwebsocket_drain = \"2s\""));
    edge.wait_healthy();
    let script = "import asyncio, sys, websockets\n\
        async def main():\n\
        \x20   async with websockets.connect(sys.argv[1]) as ws:\n\
        \x20       print('open', flush=True)\n\
        \x20       try:\n\
        \x20           while True:\n\
        \x20               await ws.send('x'); await ws.recv(); await asyncio.sleep(0.05)\n\
        \x20       except websockets.ConnectionClosed as e:\n\
        \x20           print('closed', e.rcvd.code, flush=True)\n\
        asyncio.run(main())\n";
    let mut client = Command::new(python())
        .args(["-c", script, &format!("ws://{}/ws", edge.http)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = BufReader::new(client.stdout.take().expect("stdout")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "open");
    let sockets =
        || edge.status()["services"][0]["slots"]["blue"]["in_flight"]["websocket"].clone();
    wait_until("it is counted", || sockets() == 1);
    let start = now();
    let switched = edge.proxyctl(&["switch", "green"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    let took = start.elapsed().as_secs_f64();
    assert!(took < 6.0, "the window is 2 s, the switch took {took} s");
    assert_eq!(lines.next().expect("a line").expect("text"), "closed 1012");
    assert!(
        !switched.stdout.contains("WebSockets"),
        "nothing was cut: {switched:?}"
    );
    assert_eq!(sockets(), 0);
    client.wait().expect("an end");
}

#[test]
fn no_event_waits_for_the_next_one() {
    let port = free_port();
    let edge = edge_of(&format!("127.0.0.1:{port}"));
    let origin = format!("--origin-port={port}");
    let plain = format!("http://{}/events", edge.http);
    passes("sse_client.py", &[&plain, &origin]);
    let tls = format!("https://localhost:{}/events", edge.https.port());
    passes("sse_client.py", &[&tls, &origin, "--ca", &authority(&edge)]);
}

#[test]
fn an_event_stream_is_counted_as_one() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let url = format!("http://{}/sse?n=10&every_ms=100", edge.http);
    let reader = thread::spawn(move || curl(&["--no-buffer", &url]));
    wait_until("the stream is counted as one", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["sse"] == 1
    });
    let read = reader.join().expect("the reader");
    assert!(read.stdout.contains("data: event 9\n"), "{read:?}");
}

#[test]
fn grpc_passes_with_streams_trailers_and_errors() {
    let server = Server::start("grpc_server.py");
    let edge = edge_of(&format!("h2c://127.0.0.1:{}", server.port));
    passes("grpc_client.py", &[&edge.http.to_string()]);
    let tls = format!("localhost:{}", edge.https.port());
    passes("grpc_client.py", &[&tls, "--ca", &authority(&edge)]);
}

#[test]
fn a_gibibyte_passes_both_ways_with_flat_memory() {
    const GIB: u64 = 1 << 30;
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let shell = |script: String| finish(Command::new("sh").args(["-c", &script]));
    // Once, small, so that what every process allocates once is there.
    shell(format!(
        "curl -s http://{}/bytes/1000000 >/dev/null",
        edge.http
    ));
    let before = edge.resident_kib();
    let down = shell(format!(
        "curl -s --max-time 300 http://{}/bytes/{GIB} | wc -c",
        edge.http
    ));
    assert_eq!(down.stdout.trim(), GIB.to_string(), "{down:?}");
    let up = shell(format!(
        "head -c {GIB} /dev/zero | curl -s --max-time 300 -H 'Expect:' -T - http://{}/upload",
        edge.http
    ));
    assert_eq!(up.stdout.trim(), GIB.to_string(), "{up:?}");
    // Over h2 and TLS too: its flow-control windows are the largest buffers there are.
    let h2 = shell(format!(
        "curl -sk --max-time 300 https://{}/bytes/{GIB} | wc -c",
        edge.https
    ));
    assert_eq!(h2.stdout.trim(), GIB.to_string(), "{h2:?}");
    let grown = edge.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "memory grew by {grown} KiB");
}
