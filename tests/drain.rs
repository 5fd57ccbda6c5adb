//! Streams, downloads and uploads at a switch: each kind ends as it should, none in the middle.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{Edge, Origins, curl, now, wait_until};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const WEBSOCKETS: usize = 1_000;
const EVENT_STREAMS: usize = 200;
const DOWNLOADS: usize = 50;
const UPLOADS: usize = 50;

/// How long the streams of the old color have.
const WINDOW: Duration = Duration::from_secs(6);

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

/// Opens one and says hello.
async fn open(address: SocketAddr, number: usize) -> Result<Socket, String> {
    let socket = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let url = format!("ws://localhost/ws?n={number}");
    let opened = tokio_tungstenite::client_async(url, socket).await;
    let (mut socket, _) = opened.map_err(|e| format!("{number}: {e}"))?;
    let sent = socket.send(Message::text("hello")).await;
    match socket.next().await {
        Some(Ok(Message::Text(echo))) if echo.as_str() == "hello" && sent.is_ok() => Ok(socket),
        other => Err(format!("{number}: hello: {other:?}")),
    }
}

/// Talks until it is told to go; when that was, and whether every answer was whole.
async fn websocket(address: SocketAddr, number: usize) -> Result<Instant, String> {
    let mut socket = open(address, number).await?;
    // Short ones, and some that are longer than any buffer on the way.
    let size = if number.is_multiple_of(50) {
        200_000
    } else {
        10 + number
    };
    let text = "x".repeat(size);
    let mut waiting = 0;
    loop {
        if waiting == 0 && !number.is_multiple_of(4) {
            let sent = socket.send(Message::text(text.clone())).await;
            waiting += usize::from(sent.is_ok());
        }
        // One in four says nothing at all.
        match socket.next().await {
            Some(Ok(Message::Text(echo))) => {
                if echo.as_str() != text {
                    return Err(format!("{number}: another text came back"));
                }
                waiting -= 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some(Ok(Message::Close(Some(close)))) if close.code == CloseCode::Restart => {
                return Ok(now());
            }
            other => return Err(format!("{number}: {other:?}")),
        }
    }
}

/// Reads events until the stream ends; when that was.
async fn events(address: SocketAddr, number: usize) -> Result<Instant, String> {
    let told = |what: &str, error: &dyn std::fmt::Display| format!("{number}: {what}: {error}");
    let socket = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    // One in four is quiet between two events for longer than the window.
    let every = if number.is_multiple_of(4) { 60_000 } else { 40 };
    let request = Request::builder()
        .uri(format!("http://localhost/sse?n=100000&every_ms={every}"))
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|e| told("request", &e))?;
    let mut body = if number.is_multiple_of(2) {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|e| told("connect", &e))?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .map_err(|e| told("connect", &e))?;
        tokio::spawn(connection);
        sender.send_request(request).await
    }
    .map_err(|e| told("answer", &e))?
    .into_body();
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        // An error here is a response without its proper end.
        let frame = frame.map_err(|e| told("the stream did not end properly", &e))?;
        text += &String::from_utf8_lossy(frame.data_ref().map_or(&[][..], |data| data));
    }
    let ended = now();
    let Some(events) = text.strip_suffix("\n\n") else {
        return Err(format!("{number}: in the middle of an event: {text:?}"));
    };
    let mut events: Vec<&str> = events.split("\n\n").collect();
    let last = events.pop().unwrap_or_default();
    let retry = last
        .strip_prefix("retry: ")
        .and_then(|ms| ms.parse::<u32>().ok());
    if !retry.is_some_and(|ms| (500..2_000).contains(&ms)) {
        return Err(format!("{number}: the last field is {last:?}"));
    }
    for (at, event) in events.iter().enumerate() {
        if *event != format!("id: {at}\ndata: event {at}") {
            return Err(format!("{number}: event {at} is {event:?}"));
        }
    }
    Ok(ended)
}

/// Sends `chunks` parts of 1,000 bytes, one each 100 ms; what the origin says it got.
async fn upload(address: SocketAddr, chunks: usize) -> Result<String, String> {
    let socket = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let parts = futures_util::stream::unfold(0, move |at| async move {
        if at == chunks {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let part = Frame::data(Bytes::from_static(&[b'x'; 1_000]));
        Some((Ok::<_, std::convert::Infallible>(part), at + 1))
    });
    let request = Request::post("http://localhost/upload")
        .header(header::HOST, "localhost")
        .body(StreamBody::new(Box::pin(parts)))
        .map_err(|e| e.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|e| e.to_string())?;
    let status = answer.status();
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(|e| e.to_string())?;
    Ok(format!(
        "{status} {}",
        String::from_utf8_lossy(&body.to_bytes()).trim()
    ))
}

/// Nine tenths of them within `window`, not all in the same tenth of it.
fn assert_spread(kind: &str, begun: Instant, window: Duration, ends: &[Instant]) {
    let mut tenths = [0_usize; 10];
    for end in ends {
        let part = end.saturating_duration_since(begun).as_secs_f64() / window.as_secs_f64();
        assert!(part < 1.0, "{kind}: one ended at {part} of its window");
        tenths[(part * 10.0) as usize] += 1;
    }
    let most = tenths.iter().max().copied().unwrap_or_default();
    assert!(
        most * 10 <= ends.len() * 4,
        "{kind}: not spread: {tenths:?}"
    );
}

#[test]
fn each_kind_ends_as_it_should_and_none_in_the_middle() {
    let origins = Origins::start();
    let seconds = WINDOW.as_secs();
    let edge = Edge::start(&origins.config(&format!(
        "observe = \"0s\"\ndrain = \"20s\"\nwebsocket_drain = \"{seconds}s\"\nsse_drain = \"{seconds}s\""
    )));
    edge.wait_healthy();
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let address = edge.http;
    let websockets: Vec<_> = (0..WEBSOCKETS)
        .map(|n| clients.spawn(websocket(address, n)))
        .collect();
    let streams: Vec<_> = (0..EVENT_STREAMS)
        .map(|n| clients.spawn(events(address, n)))
        .collect();
    let in_flight =
        |kind: &str| edge.status()["services"][0]["slots"]["blue"]["in_flight"][kind].clone();
    wait_until("all streams are open", || {
        assert!(
            !websockets.iter().any(JoinHandle::is_finished),
            "a WebSocket ended before the switch: {}",
            edge.access_log()
        );
        in_flight("websocket") == WEBSOCKETS && in_flight("sse") == EVENT_STREAMS
    });
    let downloads: Vec<_> = (0..DOWNLOADS)
        .map(|_| {
            std::thread::spawn(move || curl(&[&format!("http://{address}/drip?n=50&every_ms=100")]))
        })
        .collect();
    let uploads: Vec<_> = (0..UPLOADS)
        .map(|_| clients.spawn(upload(address, 50)))
        .collect();
    wait_until("all transfers are under way", || {
        in_flight("request") == DOWNLOADS + UPLOADS
    });

    let switched = edge.proxyctl(&["switch", "green", "--no-wait"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    let begun = now();
    wait_until("what blocks is shown", || {
        let shown = edge.proxyctl(&["drain"]);
        assert_eq!(shown.code, 0, "{shown:?}");
        shown.stdout.contains("GET /ws  from 127.0.0.1, ") && shown.stdout.contains(" more")
    });

    let (mut ends, mut wrong) = (Vec::new(), Vec::new());
    clients.block_on(async {
        for websocket in websockets {
            match websocket.await.expect("a client") {
                Ok(end) => ends.push(end),
                Err(error) => wrong.push(error),
            }
        }
    });
    assert_eq!(
        wrong,
        [] as [String; 0],
        "{} WebSockets were told",
        ends.len()
    );
    assert_spread("WebSockets", begun, WINDOW, &ends);
    let (mut ends, mut wrong) = (Vec::new(), Vec::new());
    clients.block_on(async {
        for stream in streams {
            match stream.await.expect("a client") {
                Ok(end) => ends.push(end),
                Err(error) => wrong.push(error),
            }
        }
    });
    assert_eq!(
        wrong,
        [] as [String; 0],
        "{} event streams ended",
        ends.len()
    );
    assert_spread("event streams", begun, WINDOW, &ends);
    for download in downloads {
        let download = download.join().expect("a client");
        let lines = download.stdout.lines().count();
        assert_eq!((download.code, lines), (0, 50), "{download:?}");
    }
    clients.block_on(async {
        for upload in uploads {
            let answer = upload.await.expect("a client");
            assert_eq!(answer.as_deref(), Ok("200 OK 50000"));
        }
    });
    let waited = edge.proxyctl(&["drain", "--wait"]);
    assert_eq!(waited.code, 0, "{waited:?}");
    assert!(waited.stdout.ends_with("nothing drains\n"), "{waited:?}");
    let flying = edge.status()["services"][0]["slots"]["blue"]["in_flight"].clone();
    assert_eq!(
        flying,
        serde_json::json!({"request": 0, "websocket": 0, "sse": 0})
    );
    assert!(
        !edge.log().contains("closed at the end of the drain"),
        "nothing had to be cut"
    );
}

#[test]
fn a_silent_event_stream_over_http2_ends_in_its_window() {
    let origins = Origins::start();
    let config = origins.config("observe = \"0s\"\nsse_drain = \"4s\"");
    let config = [origins.blue.addr, origins.green.addr]
        .iter()
        .fold(config, |config, addr| {
            config.replace(&addr.to_string(), &format!("h2c://{addr}"))
        });
    let edge = Edge::start(&config);
    edge.wait_healthy();
    // One event, then silence; over HTTP/1.1 and HTTP/2.
    let url = format!("http://{}/sse?n=2&every_ms=60000", edge.http);
    let clients = ["--http1.1", "--http2-prior-knowledge"].map(|version| {
        let url = url.clone();
        let accept = "Accept: text/event-stream";
        std::thread::spawn(move || curl(&[version, "--no-buffer", "--header", accept, &url]))
    });
    wait_until("both are open", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["sse"] == 2
    });
    let begun = now();
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    for client in clients {
        let ended = client.join().expect("a client");
        assert_eq!(ended.code, 0, "a proper end: {ended:?}");
        let last = ended.stdout.trim_end().lines().last().unwrap_or_default();
        assert!(last.starts_with("retry: "), "{ended:?}");
    }
    let took = now().saturating_duration_since(begun);
    assert!(took < Duration::from_secs(6), "{took:?}");
}

/// `fetch()` asks for `*/*`, many APIs answer a POST with events, and curl says nothing of its wish.
#[test]
fn a_silent_event_stream_that_nobody_announced_ends_in_its_window_and_harms_nobody() {
    let origins = Origins::start();
    let config = origins.config("observe = \"0s\"\nsse_drain = \"4s\"\ndrain = \"30s\"");
    let config = [origins.blue.addr, origins.green.addr]
        .iter()
        .fold(config, |config, addr| {
            config.replace(&addr.to_string(), &format!("h2c://{addr}"))
        });
    let edge = Edge::start(&config);
    edge.wait_healthy();
    let address = edge.http;
    let open = |arguments: &[&str], target: &str| {
        let url = format!("http://{address}{target}");
        let arguments = [&["--no-buffer"], arguments, &[&url]].concat();
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        std::thread::spawn(move || curl(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let in_flight =
        |kind: &str| edge.status()["services"][0]["slots"]["blue"]["in_flight"][kind].clone();
    // One after the other, so that each finds whatever connections there are; longer than the
    // window of the streams.
    let mut downloads = vec![open(
        &["--http2-prior-knowledge"],
        "/drip?n=80&every_ms=100",
    )];
    wait_until("the first download is under way", || {
        in_flight("request") == 1
    });
    let mut streams = Vec::new();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for asked in [
            &["--header", "Accept: */*"][..],
            &["--header", "Accept:"],
            &["--header", "Accept: application/json", "--data", "{}"],
        ] {
            // One event, then silence.
            streams.push(open(
                &[&[version], asked].concat(),
                "/sse?n=2&every_ms=60000",
            ));
            wait_until("it is open", || in_flight("sse") == streams.len());
        }
        downloads.push(open(&[version], "/drip?n=80&every_ms=100"));
        wait_until("a download is under way", || {
            in_flight("request") == downloads.len()
        });
    }

    let begun = now();
    assert_eq!(edge.proxyctl(&["switch", "green", "--no-wait"]).code, 0);
    for stream in streams {
        let ended = stream.join().expect("a client");
        assert_eq!(ended.code, 0, "a proper end: {ended:?}");
        let (event, retry) = ended.stdout.split_once("\n\n").unwrap_or_default();
        assert_eq!(event, "id: 0\ndata: event 0");
        assert!(
            retry.starts_with("retry: ") && retry.ends_with("\n\n"),
            "{ended:?}"
        );
    }
    let took = now().saturating_duration_since(begun);
    assert!(took < Duration::from_secs(6), "{took:?}");
    for download in downloads {
        let ended = download.join().expect("a client");
        let lines = ended.stdout.lines().count();
        assert_eq!((ended.code, lines), (0, 80), "{ended:?}");
    }
    assert!(
        !edge.log().contains("closed at the end of the drain"),
        "nothing had to be cut"
    );
}

#[test]
fn what_takes_longer_than_its_window_is_cut_and_named() {
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\ndrain = \"2s\""));
    edge.wait_healthy();
    let address = edge.http;
    let download = std::thread::spawn(move || {
        let answer = curl(&[&format!("http://{address}/drip?n=300&every_ms=100&token=x")]);
        (answer, now())
    });
    wait_until("it is under way", || {
        edge.status()["services"][0]["slots"]["blue"]["in_flight"]["request"] == 1
    });
    let begun = now();
    let switched = edge.proxyctl(&["switch", "green"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    assert!(switched.stdout.contains("1 requests"), "{switched:?}");
    let (answer, ended) = download.join().expect("a client");
    let took = ended.saturating_duration_since(begun);
    assert!(
        took >= Duration::from_millis(1_500) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_ne!(
        answer.code, 0,
        "a part must not look like the whole: {answer:?}"
    );
    let log = edge.log();
    let mut named = log
        .lines()
        .filter(|line| line.contains("\"closed at the end of the drain\""));
    let line = named.next().expect("it is named");
    assert_eq!(named.next(), None, "once");
    for part in ["/drip", "127.0.0.1", "kind", "request", "age_s"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("token"), "a query may hold secrets: {line}");
}
