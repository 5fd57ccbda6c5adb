//! Errors, and the steps that answer them.

use super::{ask, ask_with, edge};
use crate::support::{Edge, Origins, free_port, wait_until};
use crate::upstream::Upstream;

#[test]
fn errors_of_steps_routes_and_upstreams_are_answered_by_the_errors_steps() {
    let origins = Origins::start();
    let edge = Edge::start(&format!(
        r#"[[site]]
hosts = ["h.test"]
tls = "off"
[[site.handle]]
match = {{ path = "/teapot" }}
error = {{ status = 418, message = "short and stout {{query.x}}" }}
[[site.handle]]
match = {{ path = "/twice" }}
error = 500
[[site.handle]]
match = {{ path = "/dead/*" }}
rewrite = "/rewritten"
[[site.handle]]
match = {{ path = "/rewritten" }}
proxy = {{ upstream = ["127.0.0.1:{}"] }}
[[site.route]]
path = "/web/*"
service = "web"
[[site.error]]
match = {{ error_status = 418 }}
respond = "{{err.status_code}} {{err.status_text}}: {{err.message}}"
[[site.error]]
match = {{ error_status = 500 }}
error = 501
[[site.error]]
match = {{ error_status = ["404", "5xx"], path = ["/none", "/dead/*"] }}
respond = "{{err.status_code}} {{uri}}"
[[site.error]]
response_header = {{ set = {{ X-Error = "{{err.status_code}}" }} }}
{}"#,
        free_port(),
        origins.service("observe = \"0s\"")
    ));
    wait_until("the service is healthy", || {
        ask(&edge, "GET", "/web/x", "").status == 200
    });
    let teapot = ask(&edge, "GET", "/teapot?x=y", "");
    assert_eq!(
        (teapot.status, teapot.body.as_str()),
        (418, "418 I'm a teapot: short and stout y"),
        "{teapot:?}"
    );
    assert_eq!(
        teapot.field("proxy-status"),
        ["cutover; error=http_request_denied"]
    );
    let none = ask(&edge, "GET", "/none?q", "");
    assert_eq!(
        (none.status, none.body.as_str()),
        (404, "404 /none?q"),
        "{none:?}"
    );
    assert_eq!(
        none.field("proxy-status"),
        ["cutover; error=destination_not_found"]
    );
    let other = ask(&edge, "GET", "/other", "Accept: application/json\r\n");
    assert_eq!(
        (other.status, other.field("x-error")),
        (404, vec!["404"]),
        "{other:?}"
    );
    assert!(
        other.body.contains("\"status\":404"),
        "the built-in page: {other:?}"
    );
    let twice = ask(&edge, "GET", "/twice", "");
    assert_eq!(
        twice.status, 500,
        "an error of an error leaves the first, with the built-in page: {twice:?}"
    );
    let dead = ask(&edge, "GET", "/dead/x?q", "");
    assert!(dead.status == 502 || dead.status == 503, "{dead:?}");
    assert_eq!(
        dead.body,
        format!("{} /dead/x?q", dead.status),
        "the target as it came: {dead:?}"
    );
    assert!(
        dead.field("proxy-status")[0].starts_with("cutover; error="),
        "{dead:?}"
    );
    wait_until("the dead upstream is known to be down", || {
        ask(&edge, "GET", "/dead/x", "").status == 503
    });
    assert_eq!(ask(&edge, "GET", "/dead/x", "").field("retry-after"), ["5"]);
    let upstream = ask(&edge, "GET", "/web/x", "");
    assert_eq!((upstream.status, upstream.body.as_str()), (200, "blue"));
    let unknown = ask_with(
        &edge,
        "GET / HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.field("x-error").is_empty(),
        "no site, no steps: {unknown:?}"
    );
}

#[test]
fn an_error_may_be_answered_by_another_service() {
    let origins = Origins::start();
    let dead = free_port();
    let edge = Edge::start(&format!(
        r#"[[site]]
hosts = ["h.test"]
tls = "off"
service = "dead"
[[site.handle]]
match = {{ path = "/error" }}
error = 500
[[site.error]]
rewrite = "/headers?was={{err.status_code}}{{path}}"
[[site.error]]
service = "web"
[service.dead]
blue = ["127.0.0.1:{dead}", "{}"]
eject = {{ connect_failures = 0 }}
balance = "random"
health = {{ type = "tcp", interval = "1h", fall = 1000 }}
{}"#,
        format_args!("127.0.0.1:{}", free_port()),
        origins.service("observe = \"0s\"")
    ));
    edge.wait_healthy_except("dead");
    let by_step = ask(&edge, "GET", "/error", "");
    assert_eq!(by_step.status, 200, "{by_step:?}");
    assert!(
        by_step.body.starts_with("GET /headers?was=500%2Ferror\n"),
        "{by_step:?}"
    );
    for method in ["GET", "POST"] {
        let answer = ask(&edge, method, "/x", "Content-Length: 2\r\n\r\nab");
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        assert!(answer.body.contains("/headers?was=50"), "{answer:?}");
        assert!(answer.body.contains("content-length: 2\n"), "{answer:?}");
    }
}

#[test]
fn an_answer_that_broke_off_is_not_followed_by_an_error_page() {
    let upstream = Upstream::start(|got| match got.line() {
        "GET /truncated" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf".to_owned(),
        _ => String::new(),
    });
    let edge = Edge::start(&format!(
        "[[site]]\nhosts = [\"h.test\"]\ntls = \"off\"\nservice = \"web\"\n\
         [[site.error]]\nrespond = \"error page\"\n[service.web]\nblue = [\"{}\"]\n",
        upstream.addr
    ));
    edge.wait_healthy();
    let broken = ask(&edge, "GET", "/truncated", "");
    assert_eq!((broken.status, broken.body.as_str()), (200, "half"));
    assert_eq!(ask(&edge, "GET", "/close", "").body, "error page");
}

#[test]
fn the_page_of_a_closed_site_comes_before_its_steps() {
    let origins = Origins::start();
    let edge = edge(&origins, "[[site.handle]]\nrespond = \"open\"");
    assert_eq!(ask(&edge, "GET", "/", "").body, "open");
    let closed = edge.proxyctl(&["maintenance", "on", "--site", "h.test"]);
    assert_eq!(closed.code, 0, "{closed:?}");
    let answer = ask(&edge, "GET", "/", "");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("maintenance"), "{answer:?}");
}
