//! What a step sees, and in which order steps, routes and services come.

use super::{ask, ask_with, edge};
use crate::support::{Edge, Origins, curl, free_port};

#[test]
fn steps_come_in_order_and_of_a_group_only_the_first_runs() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"[[site.handle]]
vars = { seen = "1" }
[[site.handle]]
group = "a"
match = { path = "/a/*" }
handle = [{ vars = { seen = "{vars.seen}2" } }, { rewrite = { strip_prefix = "/a" } }]
[[site.handle]]
group = "a"
match = { path = "/b/*" }
vars = { seen = "{vars.seen}3" }
[[site.handle]]
match = { path = "/b/*" }
vars = { seen = "{vars.seen}4" }
[[site.handle]]
match = { method = "POST", not = { path = "/c" } }
respond = "post {vars.seen}"
[[site.handle]]
respond = "{vars.seen} {uri} {orig_uri}""#,
    );
    let body = |method: &str, path: &str| ask(&edge, method, path, "").body;
    assert_eq!(body("GET", "/x"), "1 /x /x");
    assert_eq!(
        body("GET", "/a/b/c?d"),
        "124 /b/c?d /a/b/c?d",
        "the rewritten path is matched"
    );
    assert_eq!(body("GET", "/b/c"), "134 /b/c /b/c");
    assert_eq!(body("POST", "/b/c"), "post 134");
    assert_eq!(body("POST", "/c"), "1 /c /c");
}

#[test]
fn routes_are_looked_for_by_the_rewritten_path_and_have_steps_of_their_own() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
rewrite = { strip_prefix = "/v1" }
[[site.handle]]
map = { source = "{header.X-Plan}", entries = [{ input = "gold", set = { tier = "1" } }, { pattern = "^s(.*)$", set = { tier = "2-$1" } }], default = { tier = "9" } }
[[site.route]]
path = "/api/*"
service = "web"
[[site.route.handle]]
request_header = { set = { X-Tier = "{tier}", X-Was = "{orig_path}" }, remove = ["X-Secret*"] }
[[site.route.handle]]
rewrite = "/headers?{query}&route=api"
[[site.route]]
path = "/own"
respond = "route {tier}""#,
    );
    let api = ask(
        &edge,
        "GET",
        "/v1/api/x?a=b",
        "X-Plan: silver\r\nX-Secret-1: s\r\nX-Tier: forged\r\n",
    );
    assert!(
        api.body.starts_with("GET /headers?a=b&route=api\n"),
        "{api:?}"
    );
    for there in [
        "x-tier: 2-ilver\n",
        "x-was: /v1/api/x\n",
        "host: h.test\n",
        "x-forwarded-host: h.test\n",
    ] {
        assert!(api.body.contains(there), "{there}\n{}", api.body);
    }
    assert!(
        !api.body.contains("x-secret") && !api.body.contains("forged"),
        "{}",
        api.body
    );
    assert_eq!(
        ask(&edge, "GET", "/v1/own", "X-Plan: gold\r\n").body,
        "route 1"
    );
    assert_eq!(ask(&edge, "GET", "/own", "").body, "route 9");
    assert_eq!(
        ask(&edge, "GET", "/v1/anything", "").body,
        "blue",
        "the site's own service"
    );
}

#[test]
fn what_a_rewrite_makes_is_one_request() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { path = "/h" }
rewrite = "/headers/{header.X-To}?q={header.X-To}"
[[site.handle]]
match = { path_regexp = { name = "p", pattern = "^/c/(.*)$" } }
rewrite = "/headers/{re.p.1}""#,
    );
    let before = origins
        .blue
        .state
        .requests
        .load(std::sync::atomic::Ordering::SeqCst);
    for to in ["a b", "x?y=z", "a#b", "%0d%0aGET /smuggled", "../../x", "é"] {
        let answer = ask(&edge, "GET", "/h", &format!("X-To: {to}\r\n"));
        assert_eq!(answer.status, 200, "{to}: {answer:?}");
    }
    let captured = ask(&edge, "GET", "/c/a%3Fb%23c%0d%0aX:%20y", "");
    assert_eq!(captured.status, 200);
    let paths = origins.blue.state.paths.lock().expect("no panic").clone();
    for path in [
        "/headers/a%20b",
        "/headers/x%3Fy=z",
        "/headers/a%23b",
        "/headers/%250d%250aGET%20/smuggled",
        "/x",
        "/headers/a%3Fb%23c%0D%0AX:%20y",
    ] {
        assert!(paths.contains_key(path), "{path} is missing: {paths:?}");
    }
    let seen = origins
        .blue
        .state
        .requests
        .load(std::sync::atomic::Ordering::SeqCst)
        - before;
    assert_eq!(seen, 7, "one request for each: {paths:?}");
}

#[test]
fn a_condition_on_a_path_is_not_passed_by_by_another_spelling() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { path = ["/admin", "/admin/*"] }
respond = 403"#,
    );
    for target in [
        "/admin/x",
        "/ADMIN/x",
        "//admin/x",
        "/a/../admin/x",
        "/./admin/x",
        "/%61dmin/x",
        "/%2e%2e/admin/x",
        "/admin%2fx",
        "/admin//x",
        "/x/..%2fadmin/x",
        "http://h.test/admin/x",
    ] {
        assert_eq!(ask(&edge, "GET", target, "").status, 403, "{target}");
    }
    assert_eq!(ask(&edge, "GET", "/administrator", "").status, 200);
    let url = format!("http://{}/%61DMIN/x", edge.http);
    let h2 = curl(&[
        "--http2-prior-knowledge",
        "-H",
        "Host: h.test",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ]);
    assert_eq!(h2.stdout, "403");
}

#[test]
fn a_client_cannot_have_removed_or_forged_what_a_step_sets() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
request_header = { set = { X-User = "alice", X_Under = "set" } }
[[site.handle]]
match = { header = { X-Client-Cert-Subject = "*" } }
respond = "forged""#,
    );
    let seen = ask_with(
        &edge,
        "GET /headers HTTP/1.1\r\nHost: h.test\r\nConnection: close, X-User\r\nX-User: eve\r\n\
         X_Under: eve\r\nX-Forwarded-For: 6.6.6.6\r\nX-Client-Cert-Subject: CN=eve\r\n\r\n",
    );
    assert!(seen.body.contains("x-user: alice\n"), "{seen:?}");
    assert!(seen.body.contains("x_under: set\n"), "{seen:?}");
    assert!(
        seen.body.contains("x-forwarded-for: 127.0.0.1\n"),
        "{seen:?}"
    );
    assert!(!seen.body.contains("eve"), "{seen:?}");
}

#[test]
fn a_method_is_changed_for_the_upstream_and_the_answer_stays_whole() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { path = "/headers", header = { X-As = "*" } }
rewrite = { method = "{header.X-As}" }
[[site.handle]]
match = { method = "DELETE" }
response_header = { set = { X-Saw = "delete" } }"#,
    );
    let deleted = ask(&edge, "GET", "/headers", "X-As: delete\r\n");
    assert!(deleted.body.starts_with("DELETE /headers"), "{deleted:?}");
    assert_eq!(deleted.field("x-saw"), ["delete"]);
    let head = ask(&edge, "HEAD", "/headers", "X-As: GET\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let get = ask(&edge, "GET", "/headers", "X-As: HEAD\r\n");
    assert_eq!(
        (get.status, get.body.as_str(), get.field("content-length")),
        (200, "", vec!["0"])
    );
}

#[test]
fn one_host_may_have_a_site_for_each_port() {
    let origins = Origins::start();
    let mut edge = Edge::prepare(&[]);
    let second = free_port();
    let site = |port: &str, body: &str| {
        format!("[[site]]\nhosts = [\"h.test\"]\ntls = \"off\"\n{port}\nrespond = \"{body}\"\n")
    };
    edge.write(&format!(
        "{}{}{}",
        site("", "any"),
        site(&format!("port = {second}"), "second"),
        origins.service("observe = \"0s\"")
    ));
    let text = std::fs::read_to_string(edge.config()).expect("the file");
    let listen = format!("http = [\"{}\"", edge.http);
    let text = text.replace(&listen, &format!("{listen}, \"127.0.0.1:{second}\""));
    std::fs::write(edge.config(), text).expect("written");
    edge.spawn();
    let body = |port: u16, host: &str| {
        curl(&[
            "-H",
            &format!("Host: {host}"),
            &format!("http://127.0.0.1:{port}/"),
        ])
        .stdout
    };
    let first = edge.http.port();
    assert_eq!(body(first, "h.test"), "any");
    assert_eq!(body(second, "h.test"), "second");
    assert_eq!(
        body(first, &format!("h.test:{second}")),
        "any",
        "where it came in counts, not what it says"
    );
    let told = edge.proxyctl(&["explain", &format!("http://h.test:{second}/")]);
    assert!(
        told.stdout.contains("site step 1 (respond) answers"),
        "{told:?}"
    );
}

#[test]
fn explain_names_the_steps_that_match() {
    let origins = Origins::start();
    let edge = edge(
        &origins,
        r#"service = "web"
[[site.handle]]
match = { path = "/v1/*" }
rewrite = { strip_prefix = "/v1" }
[[site.handle]]
match = { path = "/gone" }
error = 410
[[site.route]]
path = "/api/*"
service = "web""#,
    );
    let explain = |path: &str| {
        let url = format!("http://h.test:{}{path}", edge.http.port());
        edge.proxyctl(&["explain", &url]).stdout
    };
    let api = explain("/v1/api/x");
    assert!(
        api.contains("site step 1 (rewrite) makes it /api/x"),
        "{api}"
    );
    assert!(api.contains("route[0]") && api.contains("web"), "{api}");
    let gone = explain("/gone");
    assert!(
        gone.contains("site step 2 (error) fails it") && gone.contains("410"),
        "{gone}"
    );
}

#[test]
fn a_reload_changes_steps_at_once() {
    let origins = Origins::start();
    let edge = edge(&origins, "[[site.handle]]\nrespond = \"one\"");
    assert_eq!(ask(&edge, "GET", "/", "").body, "one");
    edge.write(&format!(
        "[[site]]\nhosts = [\"h.test\"]\ntls = \"off\"\n[[site.handle]]\nrespond = \"two\"\n{}",
        origins.service("observe = \"0s\"")
    ));
    assert_eq!(edge.proxyctl(&["reload"]).code, 0);
    assert_eq!(ask(&edge, "GET", "/", "").body, "two");
}
