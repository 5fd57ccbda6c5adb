//! `respond`, `redirect`, `abort`, and what is done with answers that no upstream gives.

use super::{ask, ask_with, edge, exchange};
use crate::support::{Origins, wait_until};

#[test]
fn a_step_answers_and_no_upstream_is_asked() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { path = "/hello/*" }
respond = { status = 201, body = "{method} {host} {path} {query.a}" }
[[site.handle]]
match = { path = "/json" }
respond = "{\"a\": 1}"
[[site.handle]]
match = { path = "/none" }
respond = 204
[[site.handle]]
match = { path = "/close" }
respond = { body = "bye", close = true }"#,
    );
    let hello = ask(
        &edge,
        "POST",
        "/hello/w%20x?a=b%26",
        "Content-Length: 0\r\n",
    );
    assert_eq!(
        (hello.status, hello.body.as_str()),
        (201, "POST h.test /hello/w x b&"),
        "{hello:?}"
    );
    assert_eq!(hello.field("content-type"), ["text/plain; charset=utf-8"]);
    let head = ask(&edge, "HEAD", "/hello/x", "");
    assert_eq!((head.status, head.body.as_str()), (201, ""));
    assert_eq!(
        head.field("content-length"),
        [format!("{}", "HEAD h.test /hello/x ".len())]
    );
    assert_eq!(
        ask(&edge, "GET", "/json", "").field("content-type"),
        ["application/json"]
    );
    let none = ask(&edge, "GET", "/none", "");
    assert_eq!((none.status, none.body.as_str()), (204, ""));
    assert!(none.field("content-length").is_empty(), "{none:?}");
    let two =
        "GET /close HTTP/1.1\r\nHost: h.test\r\n\r\nGET /json HTTP/1.1\r\nHost: h.test\r\n\r\n";
    let closed = exchange(&edge, two);
    assert!(
        closed.contains("Connection: close") && !closed.contains("{\"a\""),
        "{closed}"
    );
    let paths = origins.blue.state.paths.lock().expect("no panic").clone();
    assert!(paths.keys().all(|path| path == "/healthz"), "{paths:?}");
    let series = "cutover_requests_total{service=\"\",color=\"\",method=\"POST\",code=\"201\"}";
    assert_eq!(edge.metric(series), Some(1.0));
}

#[test]
fn a_connection_stays_open_after_an_answer_of_a_step() {
    let origins = Origins::start();
    let edge = edge(&origins, "[[site.handle]]\nrespond = \"{path};\"");
    let text = exchange(&edge, "GET /1 HTTP/1.1\r\nHost: h.test\r\n\r\n");
    assert!(text.contains("Connection: keep-alive"), "{text}");
    let mut client = crate::support::curl(&[
        "-H",
        "Host: h.test",
        "-w",
        "%{num_connects}",
        &format!("http://{}/1", edge.http),
        "--next",
        "-H",
        "Host: h.test",
        "-w",
        "%{num_connects}",
        &format!("http://{}/2", edge.http),
    ]);
    client.stdout.retain(|letter| letter != '\n');
    assert_eq!(client.stdout, "/1;1/2;0");
}

#[test]
fn a_body_that_nobody_wants_spoils_no_answer_and_no_connection() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"[[site.handle]]
match = { path = "/hello" }
respond = "hello"
[[site.handle]]
match = { path = "/old" }
redirect = "/new"
[[site.handle]]
match = { path = "/full" }
error = { status = 507 }"#,
    );
    let body = "x".repeat(100_000);
    let form = "%{http_code} %{num_connects};";
    let curl = |more: &[&str], path: &str, times: usize| {
        let url = format!("http://{}{path}", edge.http);
        let ask = [
            "-H",
            "Host: h.test",
            "-o",
            "/dev/null",
            "-w",
            form,
            "-d",
            &body,
            &url,
        ];
        let each = [more, &ask].concat();
        let asked = crate::support::curl(&vec![each; times].join(&"--next"));
        (asked.code, asked.stdout)
    };
    for (path, status) in [
        ("/hello", 200),
        ("/old", 302),
        ("/full", 507),
        ("/none", 404),
    ] {
        let code = if status < 400 { 0 } else { 22 };
        for _ in 0..10 {
            // curl 7.88 takes it for an error over HTTP/2 when the answer ends before its body.
            let over_h2 = curl(&["--http2-prior-knowledge"], path, 1);
            assert_eq!(over_h2, (code, format!("{status} 1;")), "{path}");
        }
        // What `--next` begins does not fail with the status.
        let twice = (0, format!("{status} 1;{status} 0;"));
        assert_eq!(curl(&["-H", "Expect:"], path, 2), twice, "{path}");
    }
    // A client that asks first is told at once, and sends nothing.
    let asking = "Content-Length: 100000\r\nExpect: 100-continue\r\n";
    let told = ask(&edge, "POST", "/hello", asking);
    assert_eq!(
        (told.status, told.body.as_str()),
        (200, "hello"),
        "{told:?}"
    );
    // And one that promises a body and sends none waits for a moment at most.
    let promised = ask(&edge, "POST", "/hello", "Content-Length: 100000\r\n");
    assert_eq!(promised.status, 200, "{promised:?}");
}

#[test]
fn a_redirect_keeps_what_it_is_told_to_keep_and_makes_no_other_field() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { path = "/old/*" }
redirect = { to = "https://{host}/new{uri}", status = 301 }
[[site.handle]]
match = { path = "/say" }
redirect = "/said{query.x}"
[[site.handle]]
match = { path = "/html" }
redirect = { to = "/there", status = 307, html = true }"#,
    );
    let old = ask(&edge, "GET", "/old/a%20b?c=d", "");
    assert_eq!(
        (old.status, old.field("location")),
        (301, vec!["https://h.test/new/old/a%20b?c=d"])
    );
    let said = ask(&edge, "GET", "/say?x=%0d%0aSet-Cookie:%20a=b", "");
    assert_eq!(said.field("location"), ["/said%0D%0ASet-Cookie:%20a=b"]);
    assert!(said.field("set-cookie").is_empty(), "{said:?}");
    let html = ask(&edge, "GET", "/html", "");
    assert_eq!((html.status, html.field("location")), (307, vec!["/there"]));
    assert!(html.body.contains("URL='/there'"), "{html:?}");
}

#[test]
fn an_aborted_connection_gets_nothing() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        "service = \"web\"\n[[site.handle]]\nmatch = { path = \"/gone\" }\nabort = true",
    );
    assert_eq!(
        exchange(&edge, "GET /gone HTTP/1.1\r\nHost: h.test\r\n\r\n"),
        ""
    );
    assert_eq!(ask(&edge, "GET", "/", "").status, 200);
    let url = format!("http://{}/gone", edge.http);
    let h2 = crate::support::curl(&["--http2-prior-knowledge", "-H", "Host: h.test", &url]);
    assert_eq!((h2.code == 0, h2.stdout.as_str()), (false, ""), "{h2:?}");
}

#[test]
fn fields_of_an_answer_are_changed_whoever_gives_it() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
response_header = { set = { X-Order = "first" }, remove = ["X-Origin"], default = { X-Default = "d" } }
[[site.handle]]
response_header = { set = { X-Order = "second", X-At = "{path}-{rp.status_code}" }, add = { Vary = ["a", "b"] } }
[[site.handle]]
response_header = { status = ["4xx"], set = { X-Error = "yes" } }
[[site.handle]]
response_header = { header = { Content-Type = "text/plain*" }, replace = [{ name = "Content-Type", find = "^text/(.*?);.*$", with = "text/$1; charset=x" }] }
[[site.handle]]
response_header = { defer = false, set = { X-Origin-Too = "early", Content-Type = "text/early" } }
[[site.handle]]
match = { path = "/own" }
respond = { status = 404, body = "own" }
[[site.handle]]
match = { path = "/error" }
error = 403"#,
    );
    for (path, status) in [
        ("/", 200),
        ("/own", 404),
        ("/error", 403),
        ("/status/404", 404),
    ] {
        let answer = ask(&edge, "GET", path, "");
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(
            answer.field("x-order"),
            ["first"],
            "the last step acts first: {answer:?}"
        );
        assert_eq!(answer.field("vary"), ["a", "b"], "{answer:?}");
        assert_eq!(answer.field("x-default"), ["d"]);
        assert!(answer.field("x-origin").is_empty(), "{answer:?}");
        assert_eq!(answer.field("x-origin-too"), ["early"]);
        let error = if status == 404 || status == 403 {
            vec!["yes"]
        } else {
            vec![]
        };
        assert_eq!(answer.field("x-error"), error, "{path}");
    }
    assert_eq!(ask(&edge, "GET", "/", "").field("x-at"), ["/-200"]);
    assert_eq!(ask(&edge, "GET", "/own", "").field("x-at"), ["/own-404"]);
    assert_eq!(
        ask(&edge, "GET", "/own", "").field("content-type"),
        ["text/early"]
    );
    let error = ask(&edge, "GET", "/error", "");
    assert_eq!(
        error.field("content-type"),
        ["text/plain; charset=x"],
        "{error:?}"
    );
}

#[test]
fn a_body_can_be_looked_into_and_still_reaches_the_upstream() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { vars = [{ value = "{body}", is = ["secret"] }] }
respond = { status = 403, body = "no: {body}" }"#,
    );
    let post = |body: &str| {
        let length = body.len();
        ask_with(
            &edge,
            &format!(
                "POST /echo HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        )
    };
    let refused = post("secret");
    assert_eq!((refused.status, refused.body.as_str()), (403, "no: secret"));
    for length in [0, 1, 60_000, 65_536, 65_537, 100_000, 131_072, 300_000] {
        let body = "x".repeat(length);
        let answer = post(&body);
        assert_eq!(answer.status, 200, "{length}");
        assert_eq!(answer.body.len(), length);
    }
    let chunked = ask_with(
        &edge,
        "POST /echo HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
    );
    assert_eq!(chunked.body, "abcdef");
}

#[test]
fn a_log_step_hides_a_request_or_adds_to_its_line() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"[[site.handle]]
match = { path = "/hidden" }
log = { skip = true }
[[site.handle]]
vars = { tenant = "t-{query.t}" }
[[site.handle]]
log = { append = { tenant = "{vars.tenant}" } }
[[site.handle]]
rewrite = "/rewritten"
[[site.handle]]
respond = "{path}""#,
    );
    assert_eq!(ask(&edge, "GET", "/hidden", "").body, "/rewritten");
    assert_eq!(ask(&edge, "GET", "/seen?t=1", "").body, "/rewritten");
    wait_until("the second request is logged", || {
        edge.access_log().contains("/seen")
    });
    let log = edge.access_log();
    assert!(!log.contains("/hidden"), "{log}");
    let line: serde_json::Value =
        serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["tenant"], "t-1");
    assert_eq!(line["path"], "/seen?t=1", "as it came");
    assert_eq!((&line["service"], &line["color"]), (&"".into(), &"".into()));
}
