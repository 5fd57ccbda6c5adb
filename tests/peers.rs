//! Real clients through the proxy: Python's websockets and grpcio, an event-stream reader, curl
//! with a GiB in each direction.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use support::{Edge, Origins, finish, free_port, now, python, wait_until};

fn ok(program: &str, arguments: &[&str]) {
    let ended = finish(
        Command::new(python())
            .arg(format!("tests/peers/{program}"))
            .args(arguments),
    );
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (0, "ok"),
        "{}",
        ended.stderr
    );
}

#[test]
fn websockets_echo_whatever_is_sent() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    ok("ws_client.py", &[&format!("ws://{}/ws", edge.http)]);
    let series = |kind: &str| {
        edge.metric(&format!(
            "cutover_in_flight_requests{{service=\"web\",color=\"blue\",kind=\"{kind}\"}}"
        ))
    };
    wait_until("the socket is given back", || {
        series("websocket") == Some(0.0)
    });
    assert_eq!(series("request"), Some(0.0));
    let counted =
        "cutover_requests_total{service=\"web\",color=\"blue\",method=\"GET\",code=\"101\"}";
    assert_eq!(edge.metric(counted), Some(1.0));
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
        \x20       except websockets.ConnectionClosed:\n\
        \x20           print('closed', flush=True)\n\
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
    assert!(start.elapsed().as_secs_f64() >= 1.5, "the window is 2 s");
    assert_eq!(lines.next().expect("a line").expect("text"), "closed");
    assert!(switched.stdout.contains("1 WebSockets"), "{switched:?}");
    assert_eq!(sockets(), 0);
    client.wait().expect("an end");
}

#[test]
fn events_arrive_one_by_one() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\""));
    edge.wait_healthy();
    let address = edge.http.to_string();
    let reader = thread::spawn(move || ok("sse_client.py", &[&address, "10", "100"]));
    wait_until("the stream is counted as one", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["sse"] == 1
    });
    reader.join().expect("the reader");
}

/// A gRPC server, ended with the test.
struct GrpcServer(Child);

impl GrpcServer {
    fn start(port: u16) -> Self {
        let mut child = Command::new(python())
            .args(["tests/peers/grpc_peer.py", "serve", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
        Self(child)
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn grpc_passes_with_streams_trailers_and_errors() {
    let port = free_port();
    let _server = GrpcServer::start(port);
    let edge = Edge::start(&format!(
        "[[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\ntls = \"off\"\n\
         upstream = [\"h2c://127.0.0.1:{port}\"]\n"
    ));
    ok("grpc_peer.py", &["call", &edge.http.to_string()]);
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
