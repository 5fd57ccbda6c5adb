//! Runs cases in Caddy and in cutover and compares what was seen.

#![allow(unreachable_pub, reason = "a module of a test binary")]

pub mod accepted;
pub mod case;
mod client;
mod compare;
mod echo;
mod peer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;

use accepted::Accepted;
use case::{Case, Request};
use compare::{Exchange, differences};
use echo::{Echo, Notes};
use peer::{Kind, Stage};

/// Where the cases are, from the package's folder.
pub const FOLDER: &str = "tests/compat";

/// Runs every case of a folder in both servers, and in cutover once more with what `proxyctl adapt`
/// makes of the Caddyfile. `COMPAT_ONLY=caddy` or `cutover`: in one of them, held to what the cases say.
pub fn compare_folder(folder: &str) {
    let kinds = match std::env::var("COMPAT_ONLY").as_deref() {
        Ok("caddy") => vec![Kind::Caddy],
        Ok("cutover") => vec![Kind::Cutover],
        _ => vec![Kind::Caddy, Kind::Cutover, Kind::Adapted],
    };
    run_folder(folder, &kinds);
}

/// Runs every case of a folder in cutover alone, held to what the cases say.
pub fn check_folder(folder: &str) {
    run_folder(folder, &[Kind::Cutover, Kind::Adapted]);
}

/// Every case there is.
pub fn all_cases() -> Vec<Case> {
    let groups = std::fs::read_dir(Path::new(FOLDER).join("cases")).expect("the cases");
    let groups = groups.map(|entry| entry.expect("an entry").path());
    let others = ["documented", "real"].map(|name| Path::new(FOLDER).join(name));
    groups
        .chain(others)
        .flat_map(|folder| case::read_all(&folder))
        .collect()
}

fn run_folder(folder: &str, kinds: &[Kind]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let accepted = accepted::read();
    let mut wrong = Vec::new();
    let wanted = std::env::var("COMPAT_CASE").unwrap_or_default();
    let cases = case::read_all(&Path::new(FOLDER).join(folder));
    for case in cases.iter().filter(|case| case.name.contains(&wanted)) {
        wrong.extend(runtime.block_on(run(case, kinds, &accepted)));
    }
    let count = wrong.len();
    assert!(
        wrong.is_empty(),
        "{count} findings\n\n{}\n",
        wrong.join("\n\n")
    );
}

/// What is wrong with a case, a paragraph each.
async fn run(case: &Case, kinds: &[Kind], accepted: &[Accepted]) -> Vec<String> {
    let notes = Notes::default();
    let origins = [
        Echo::start("one", Arc::clone(&notes)).await,
        Echo::start("two", Arc::clone(&notes)).await,
    ];
    let stage = Stage::new(
        case,
        &[("ORIGIN", origins[0].addr), ("ORIGIN_B", origins[1].addr)],
    );
    let mut seen: Vec<(Kind, Vec<Exchange>)> = Vec::new();
    let mut wrong = Vec::new();
    for kind in kinds {
        match exchanges(case, *kind, &stage, &notes).await {
            Ok(exchanges) => seen.push((*kind, exchanges)),
            Err(why) => return vec![format!("{}: {why}", case.name)],
        }
    }
    for (index, request) in case.requests.iter().enumerate() {
        let mut lines = Vec::new();
        for (kind, exchanges) in &seen {
            let exchange = &exchanges[index];
            let unexpected =
                exchange.unexpected(request, *kind != Kind::Caddy, |text| stage.fill(text));
            lines.extend(
                unexpected
                    .into_iter()
                    .map(|line| format!("{kind:?}: {line}")),
            );
        }
        for pair in seen.windows(2) {
            let [(kind, first), (_, second)] = pair else {
                continue;
            };
            // Between a Caddyfile and its translation nothing is accepted.
            let accepted = if *kind == Kind::Caddy { accepted } else { &[] };
            let found = compared(request, &first[index], &second[index], accepted);
            lines.extend(
                found
                    .into_iter()
                    .map(|line| format!("after {kind:?}: {line}")),
            );
        }
        if !lines.is_empty() {
            let Request {
                line,
                method,
                target,
                ..
            } = request;
            let text = lines.join("\n  ");
            wrong.push(format!("{}:{line}: {method} {target}\n  {text}", case.name));
        }
    }
    wrong
}

/// How two answers to a request differ, and which accepted differences do not show; none accepted:
/// there must be no difference.
fn compared(
    request: &Request,
    first: &Exchange,
    second: &Exchange,
    accepted: &[Accepted],
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut used = BTreeMap::<&str, usize>::new();
    for (aspect, one, other) in differences(&first.aspects(request), &second.aspects(request)) {
        match accepted::accepts(accepted, request, first, second, &aspect) {
            Some(id) => *used.entry(id).or_default() += 1,
            None => lines.push(format!(
                "{aspect}:\n    first  {one:?}\n    second {other:?}"
            )),
        }
    }
    let unused = (request.differs.iter())
        .filter(|id| !accepted.is_empty() && !used.contains_key(id.as_str()));
    lines.extend(unused.map(|id| format!("the accepted difference {id} does not show")));
    lines
}

/// What came of each request in one server.
async fn exchanges(
    case: &Case,
    kind: Kind,
    stage: &Stage,
    notes: &Notes,
) -> Result<Vec<Exchange>, String> {
    let server = stage.start(kind, &case.requests).await?;
    let mut all: Vec<Exchange> = Vec::new();
    for request in &case.requests {
        let etag = all
            .last()
            .and_then(|exchange| exchange.answer.header("etag"));
        let etag = etag.unwrap_or("\"none\"").to_owned();
        notes.lock().expect("no panic").clear();
        let answer = send(request, stage, &etag).await;
        let received = std::mem::take(&mut *notes.lock().expect("no panic"));
        all.push(Exchange { answer, received });
    }
    drop(server);
    Ok(all)
}

/// Sends one request; the fields that it does not give are Host and the length of its body.
async fn send(request: &Request, stage: &Stage, etag: &str) -> client::Answer {
    let fill = |text: &str| stage.fill(&text.replace("$ETAG", etag));
    let addr = stage.addr_of(request);
    let name = stage.name_of(request);
    let mut headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), fill(value)))
        .collect();
    let gives = |name: &str| {
        request
            .headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    if !gives("host") {
        headers.insert(0, ("Host".to_owned(), format!("localhost:{}", addr.port())));
    }
    if request.h2 {
        return client::http2(
            addr,
            &name,
            h2_request(request, &headers, &fill(&request.target)),
        )
        .await;
    }
    let mut bytes = match &request.raw {
        Some(raw) => format!("{}\r\n", fill(raw)).into_bytes(),
        None => {
            if request.chunked {
                headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
            } else if !request.body.is_empty() && !gives("content-length") && !gives("upgrade") {
                headers.push(("Content-Length".to_owned(), request.body.len().to_string()));
            }
            let mut head = format!("{} {} HTTP/1.1\r\n", request.method, fill(&request.target));
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            format!("{head}\r\n").into_bytes()
        }
    };
    let upgrade = gives("upgrade");
    if request.chunked {
        for chunk in request.body.chunks(1000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else if !upgrade {
        bytes.extend_from_slice(&request.body);
    }
    let sent = client::Bytes1 {
        request: &bytes,
        head: request.method == "HEAD",
        after: if upgrade { &request.body } else { &[] },
    };
    let tls = request.https.then_some(name.as_str());
    client::http1(addr, tls, sent).await
}

fn h2_request(
    request: &Request,
    headers: &[(String, String)],
    target: &str,
) -> http::Request<Full<Bytes>> {
    let (host, fields): (Vec<_>, Vec<_>) = headers
        .iter()
        .partition(|(name, _)| name.eq_ignore_ascii_case("host"));
    let uri = format!("https://{}{target}", host[0].1);
    let mut built = http::Request::builder()
        .method(request.method.as_str())
        .uri(uri);
    for (name, value) in fields {
        built = built.header(name, value);
    }
    built
        .body(Full::from(request.body.clone()))
        .expect("a request")
}
