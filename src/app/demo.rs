//! `cutover demo`: two small apps, the proxy in front of them, and a little traffic.
//!
//! Needs no root, no Docker and no file. The apps listen on ports that the system chooses; the
//! proxy on fixed ones, because the text that is printed names them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::http::{Client, Dial, Get, Origin};
use crate::model::{Color, Scheme};

/// Plain HTTP of the demo.
pub(super) const HTTP: &str = "127.0.0.1:8080";

/// HTTPS of the demo.
pub(super) const HTTPS: &str = "127.0.0.1:8443";

/// Metrics of the demo.
pub(super) const OPS: &str = "127.0.0.1:9180";

/// Time between two requests of the demo to itself.
const PAUSE: Duration = Duration::from_millis(50);

/// Starts the two apps and returns their addresses by [`Color::index`].
///
/// # Errors
/// No port can be bound on the loopback interface.
pub(super) async fn start_apps() -> std::io::Result<[SocketAddr; 2]> {
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
    for color in Color::ALL {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses[color.index()] = listener.local_addr()?;
        tokio::spawn(serve_app(listener, color));
    }
    Ok(addresses)
}

async fn serve_app(listener: TcpListener, color: Color) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        let _ = socket.set_nodelay(true);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(color, request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service);
            // An error here is a client that left.
            let _ = connection.await;
        });
    }
}

async fn answer(
    color: Color,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // A little and uneven work, so that the quantiles have something to show.
    let base = if color == Color::Blue { 4 } else { 3 };
    let work = Duration::from_micros(base * 1_000 + fastrand::u64(..4_000));
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (_, "/healthz") => (
            StatusCode::OK,
            "application/json",
            "{\"status\":\"ok\"}\n".to_owned(),
        ),
        (&Method::GET, "/api/release") => {
            tokio::time::sleep(work).await;
            let body = format!(
                "{{\"color\":\"{color}\",\"release\":\"{}\"}}\n",
                release(color)
            );
            (StatusCode::OK, "application/json", body)
        }
        (&Method::GET, "/slow") => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            (
                StatusCode::OK,
                "text/plain",
                format!("three seconds later, still {color}\n"),
            )
        }
        (&Method::GET, "/") => {
            tokio::time::sleep(work).await;
            (StatusCode::OK, "text/html; charset=utf-8", page(color))
        }
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            format!("{color} has no such page\n"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-app-color", HeaderValue::from_static(color.as_str()));
    Ok(response)
}

const fn release(color: Color) -> &'static str {
    match color {
        Color::Blue => "v1",
        Color::Green => "v2",
    }
}

/// A page that asks every 250 ms which release answers, and shows it.
fn page(color: Color) -> String {
    let release = release(color);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
<title>{color} {release}</title><style>\
body{{margin:0;min-height:100vh;display:grid;place-items:center;color:#fff;\
font:18px/1.5 system-ui,sans-serif;transition:background .2s}}\
body.blue{{background:#1b4f9c}}body.green{{background:#1c7a43}}\
main{{text-align:center}}h1{{font-size:4rem;margin:0}}code{{background:#0004;padding:.1em .4em;\
border-radius:.3em}}#bar{{margin:2rem auto 0;display:flex;gap:3px;height:24px;width:min(90vw,600px)}}\
#bar i{{flex:1;border-radius:2px;background:#fff3}}#bar i.blue{{background:#7fb2ff}}\
#bar i.green{{background:#7fe3a5}}#bar i.bad{{background:#ff5d5d}}</style></head>\n\
<body class=\"{color}\"><main><h1 id=\"color\">{color}</h1>\
<p>release <b id=\"release\">{release}</b> answered this request</p>\
<p>Type <code>proxyctl switch green</code> and watch; <code>proxyctl rollback</code> goes back.</p>\
<div id=\"bar\" title=\"the last 60 requests of this page\"></div>\
<p><span id=\"ok\">0</span> requests answered, <span id=\"bad\">0</span> failed</p></main>\n\
<script>\
let ok=0,bad=0;const bar=document.getElementById('bar');\
for(let i=0;i<60;i++)bar.append(document.createElement('i'));\
async function ask(){{let c='bad';try{{const r=await fetch('/api/release',{{cache:'no-store'}});\
if(!r.ok)throw r.status;const j=await r.json();c=j.color;ok++;\
document.body.className=c;document.title=c+' '+j.release;\
document.getElementById('color').textContent=c;\
document.getElementById('release').textContent=j.release;}}catch(e){{bad++}}\
const i=document.createElement('i');i.className=c;bar.firstChild.remove();bar.append(i);\
document.getElementById('ok').textContent=ok;document.getElementById('bad').textContent=bad;}}\
setInterval(ask,250);ask();</script></body></html>\n"
    )
}

/// The configuration of the demo.
pub(super) fn config_text(apps: [SocketAddr; 2], state_dir: &Path, admin: &Path) -> String {
    let [blue, green] = apps;
    format!(
        r#"state_dir = "{state}"
shutdown_grace = "5s"

[listen]
http = ["{HTTP}"]
https = ["{HTTPS}"]
ops = "{OPS}"
admin = "{admin}"

[log.access]
enabled = false

[[site]]
hosts = ["localhost", "127.0.0.1"]
default = true
tls = "internal"
redirect = false
service = "app"

[service.app]
blue = ["{blue}"]
green = ["{green}"]
release = {{ blue = "v1", green = "v2" }}

[service.app.health]
path = "/healthz"
interval = "1s"
timeout = "1s"
json = {{ status = "ok" }}

[service.app.switch]
ready_timeout = "10s"
drain = "10s"
observe = "20s"
observe_requests = 100
observe_max = "1m"
"#,
        state = state_dir.display(),
        admin = admin.display(),
    )
}

/// What to try, printed once the demo is up.
pub(super) fn things_to_try(admin: &Path) -> String {
    format!(
        "cutover demo is up: two releases of an app behind one proxy.

  page       http://{HTTP}/        https://{HTTPS}/ (internal CA)
  metrics    http://{OPS}/metrics
  admin      {}

Try in another terminal:

  proxyctl status --watch
  proxyctl switch green            gate, cutover, 20 s of observation, drain
  proxyctl rollback                undone at once
  proxyctl explain http://localhost:8080/
  curl http://{HTTP}/api/release
  curl -s http://{OPS}/metrics | grep quantile

proxyctl finds this demo by itself. Ctrl-C stops it.
",
        admin.display()
    )
}

/// A little traffic to ourselves, for ever.
pub(super) async fn traffic(client: Client) {
    let Ok(addr) = HTTP.parse() else { return };
    let origin = Origin {
        dial: Dial::Tcp(addr),
        scheme: Scheme::Http,
        authority: "localhost:8080".to_owned(),
        tls_name: None,
    };
    let mut ticker = tokio::time::interval(PAUSE);
    loop {
        ticker.tick().await;
        let path = if fastrand::u8(..4) == 0 {
            "/"
        } else {
            "/api/release"
        };
        let get = Get {
            origin: &origin,
            path,
            headers: &[],
            deadline: Duration::from_secs(5),
            body_limit: 64 * 1024,
        };
        // What went wrong is in the proxy's own metrics.
        let _ = client.get(get).await;
    }
}

/// Where the demo keeps its state; removed when it ends.
pub(super) fn state_dir(admin: &Path) -> PathBuf {
    admin.with_file_name("demo-state")
}
