//! What handlers and steps mean, and that they are printed as they were read.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use cutover::config::step::{
    Action, HeaderOp, Matcher, Proxied, RateKey, Step, Template, TextMatch,
};
use cutover::config::{Config, Env, Site, load_str_with};
use proptest::prelude::*;

fn env() -> Env {
    Env::from_iter([("", ""); 0])
}

fn load(text: &str) -> Config {
    load_str_with("f", text, &env()).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn said(text: &str) -> Vec<String> {
    load(text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

const SITE: &str = "[[site]]\nhosts = [\"a.test\"]\n";

fn one(rest: &str) -> Site {
    load(&format!("{SITE}{rest}")).sites.remove(0)
}

/// The key that an action is written under.
fn kind(step: &Step) -> &'static str {
    match &step.action {
        Action::Access(_) => "access",
        Action::RateLimit(_) => "rate_limit",
        Action::Concurrency(_) => "concurrency",
        Action::Cors(_) => "cors",
        Action::BasicAuth(_) => "basic_auth",
        Action::ForwardAuth(_) => "forward_auth",
        Action::BodyLimit(_) => "body_limit",
        Action::Vars(_) => "vars",
        Action::Map(_) => "map",
        Action::Root(_) => "root",
        Action::RequestHeaders(_) => "request_header",
        Action::ResponseHeaders(_) => "response_header",
        Action::Rewrite(_) => "rewrite",
        Action::TryFiles(_) => "try_files",
        Action::Encode(_) => "encode",
        Action::Log(_) => "log",
        Action::Steps(_) => "handle",
        Action::Respond(_) => "respond",
        Action::Redirect(_) => "redirect",
        Action::Error(_) => "error",
        Action::Abort => "abort",
        Action::Files(_) => "files",
        Action::Proxy(_) => "proxy",
        Action::CopyResponse(_) => "copy_response",
    }
}

fn kinds(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(kind).collect()
}

const EVERY_KEY: &str = "files = { pass_thru = true }\ntry_files = [\"{path}\", \"=404\"]\n\
    root = \"/srv\"\nrewrite = \"/x{uri}\"\nencode = true\nsecurity_headers = true\n\
    response_header = { remove = \"Server\" }\nrequest_header = { set = { A = \"b\" } }\n\
    body_limit = \"1MB\"\nforward_auth = { upstream = \"auth:1\" }\n\
    basic_auth = { users = { a = \"$argon2id$***\" } }\ncors = { origins = \"*\" }\n\
    rate_limit = { requests = 1 }\nconcurrency = { requests = 1 }\n\
    access = { deny = \"10.0.0.0/8\" }\nupstream = [\"app:1\"]\n";

const DOCUMENTED: [&str; 13] = [
    "access",
    "concurrency",
    "rate_limit",
    "cors",
    "basic_auth",
    "forward_auth",
    "body_limit",
    "request_header",
    "response_header",
    "response_header",
    "encode",
    "rewrite",
    "root",
];

#[test]
fn keys_of_a_site_run_in_the_documented_order_and_its_steps_before_what_answers() {
    let site = one(&format!(
        "{EVERY_KEY}canonical_host = \"a.test\"\n[[site.handle]]\nvars = {{ a = \"b\" }}\n"
    ));
    let wanted: Vec<_> = (["redirect"].into_iter())
        .chain(DOCUMENTED)
        .chain(["vars", "try_files", "files"])
        .collect();
    assert_eq!(kinds(&site.steps), wanted);
    assert!(site.service.is_some());
    assert!(site.steps[1..].iter().all(|step| step.when.is_none()));
}

#[test]
fn keys_of_a_route_run_in_the_same_order() {
    let site = one(&format!(
        "[[site.route]]\npath = \"/x\"\n{EVERY_KEY}[[site.route.handle]]\nvars = {{ a = \"b\" }}\n"
    ));
    let wanted: Vec<_> = (DOCUMENTED.into_iter())
        .chain(["vars", "try_files", "files"])
        .collect();
    assert_eq!(kinds(&site.routes[0].steps), wanted);
    assert!(site.routes[0].service.is_some());
    assert_eq!(site.steps, []);
}

#[test]
fn what_answers_for_a_site_takes_only_what_its_routes_leave() {
    let site = one(
        "root = \"/srv\"\ntry_files = [\"{path}\", \"/index.html\"]\n\
                    [[site.route]]\npath = \"/api/*\"\nupstream = [\"api:1\"]\n",
    );
    assert_eq!(kinds(&site.steps), ["root"]);
    assert_eq!(site.routes.len(), 2);
    assert!(site.routes[0].steps.is_empty());
    let rest = &site.routes[1];
    assert!(rest.path.is_none() && rest.conditions() == 0);
    // Files are meant where nothing else answers.
    assert_eq!(kinds(&rest.steps), ["try_files", "files"]);
    assert_eq!((rest.service, site.service), (None, None));
}

#[test]
fn a_boolean_redirect_of_a_site_is_about_https_and_a_text_is_its_answer() {
    let plain = one("redirect = false\nupstream = [\"app:1\"]\n");
    assert!(!plain.redirect && plain.steps.is_empty());
    let away = one("redirect = \"https://b.test{uri}\"\n");
    assert!(away.redirect);
    match &away.steps[0].action {
        Action::Redirect(redirect) => {
            assert_eq!(redirect.to.to_string(), "https://b.test{uri}");
            assert_eq!(redirect.status.as_u16(), 302);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn groups_are_counted_within_their_own_list() {
    let step = |group: &str| {
        format!(
            "[[site.handle]]\ngroup = \"{group}\"\nmatch = {{ path = \"/{group}\" }}\nrespond = \"x\"\n"
        )
    };
    let site = one(&format!("{}{}{}", step("b"), step("a"), step("b")));
    let groups: Vec<_> = site.steps.iter().map(|step| step.group).collect();
    assert_eq!(groups, [Some(0), Some(1), Some(0)]);
    let nested = one("[[site.handle]]\nhandle = [{ group = \"z\", respond = \"x\" }]\n");
    match &nested.steps[0].action {
        Action::Steps(steps) => assert_eq!(steps[0].group, Some(0)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn changes_of_fields_are_in_the_documented_order_and_a_lone_star_is_first() {
    let site = one(
        "[[site.handle]]\nrequest_header = { replace = [{ name = \"A\", find = \"x\" }], \
                    remove = [\"B\", \"*\"], set = { C = \"1\" }, default = { D = \"2\" }, \
                    add = { E = [\"3\", \"4\"] } }\n",
    );
    let Action::RequestHeaders(ops) = &site.steps[0].action else {
        panic!("{:?}", site.steps[0]);
    };
    let shown: Vec<_> = (ops.0.iter())
        .map(|op| match op {
            HeaderOp::Set(name, value) => format!("set {name} {value}"),
            HeaderOp::Add(name, value) => format!("add {name} {value}"),
            HeaderOp::Default(name, value) => format!("default {name} {value}"),
            HeaderOp::Remove(name) => format!("remove {name}"),
            HeaderOp::Replace { name, find, with } => {
                format!("replace {name:?} {} {with}", find.as_str())
            }
        })
        .collect();
    let wanted = [
        "remove *",
        "add e 3",
        "add e 4",
        "default d 2",
        "set c 1",
        "remove b",
        "replace Some(\"a\") x ",
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn conditions_mean_what_they_say() {
    let site = one("[[site.handle]]\nrespond = 204\n[site.handle.match]\n\
                    path = [\"/API/*\", \"*.PHP\"]\nheader = { X-B = [\"a*\", \"*b\", \"*c*\"], \
                    X-A = \"!\" }\nnot = { client_ip = \"10.0.0.1\" }\n");
    let Some(Matcher(sets)) = &site.steps[0].when else {
        panic!("no condition");
    };
    assert_eq!(sets.len(), 1);
    let paths: Vec<_> = sets[0].path.iter().map(Template::to_string).collect();
    assert_eq!(paths, ["/api/*", "*.php"]);
    let (absent, texts) = (&sets[0].header[0].1, &sets[0].header[1].1);
    assert_eq!(absent[..], [TextMatch::Absent]);
    let wanted = [
        TextMatch::Prefix("a".to_owned()),
        TextMatch::Suffix("b".to_owned()),
        TextMatch::Contains("c".to_owned()),
    ];
    assert_eq!(texts[..], wanted);
    assert_eq!(sets[0].not[0].0[0].client_ip.0.len(), 1);
    let any = one(
        "[[site.handle]]\nmatch = { any = [{ path = \"/a\" }, { method = \"GET\" }] }\n\
                   respond = 204\n",
    );
    assert_eq!(any.steps[0].when.as_ref().map(|when| when.0.len()), Some(2));
}

#[test]
fn answers_of_errors_have_the_status_of_the_error_unless_they_say_otherwise() {
    let status = |text: &str| {
        let site = one(text);
        let steps = if site.errors.is_empty() {
            site.steps
        } else {
            site.errors
        };
        match &steps[0].action {
            Action::Respond(respond) => respond.status.to_string(),
            Action::Files(files) => {
                (files.status.as_ref()).map_or_else(|| "its own".to_owned(), Template::to_string)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status("[[site.handle]]\nrespond = \"x\"\n"), "200");
    assert_eq!(status("[[site.handle]]\nfiles = true\n"), "its own");
    let error = "respond = 204\n[[site.error]]\n";
    assert_eq!(
        status(&format!("{error}respond = \"x\"\n")),
        "{err.status_code}"
    );
    assert_eq!(
        status(&format!("{error}files = true\n")),
        "{err.status_code}"
    );
    assert_eq!(status(&format!("{error}respond = 200\n")), "200");
}

#[test]
fn pages_of_errors_are_tried_from_the_narrowest_range_on_after_the_steps() {
    let site = one(
        "respond = 204\nerror_pages = { \"4xx\" = \"/srv/e/4xx.html\", \
                    \"404\" = \"/srv/e/not found.html\", \"500-503\" = \"/srv/down.html\" }\n\
                    [[site.error]]\nmatch = { error_status = 418 }\nrespond = \"teapot\"\n",
    );
    let ranges: Vec<_> = (site.errors.iter())
        .map(|step| step.when.as_ref().expect("a condition").0[0].error_status[0])
        .collect();
    assert_eq!(ranges, [(418, 418), (404, 404), (500, 503), (400, 499)]);
    let Action::Steps(page) = &site.errors[1].action else {
        panic!("{:?}", site.errors[1]);
    };
    assert_eq!(kinds(page), ["rewrite", "files"]);
    let Action::Rewrite(rewrite) = &page[0].action else {
        panic!("{:?}", page[0]);
    };
    let to = rewrite.to.as_ref().map(Template::to_string);
    assert_eq!(to.as_deref(), Some("/not%20found.html"));
}

#[test]
fn rates_are_counted_by_what_the_key_says() {
    let key = |written: &str| {
        let site = one(&format!(
            "respond = 204\nrate_limit = {{ requests = 9, key = {written} }}\n"
        ));
        match &site.steps[0].action {
            Action::RateLimit(limit) => {
                assert_eq!((limit.burst, limit.window), (9, Duration::from_secs(1)));
                limit.key.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(key("\"client\""), RateKey::Client);
    assert_eq!(key("\"route\""), RateKey::Route);
    assert!(matches!(key("\"header:X-Key\""), RateKey::Header(name) if name == "x-key"));
    assert!(matches!(key("\"{query.k}\""), RateKey::Template(_)));
}

#[test]
fn a_host_may_be_in_sites_of_different_ports() {
    let site = |port: &str, upstream: &str| format!("{SITE}{port}upstream = [\"{upstream}:1\"]\n");
    let config = load(&format!(
        "[listen]\nhttp = [\"0.0.0.0:80\", \"0.0.0.0:8080\"]\n{}{}{}",
        site("", "a"),
        site("port = 8080\n", "b"),
        site("port = 80\n", "c"),
    ));
    let ports: Vec<_> = config.sites.iter().map(|site| site.port).collect();
    assert_eq!(ports, [None, Some(8080), Some(80)]);
    let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a.test", "a.test:80", "a.test:8080"]);
    assert_eq!(config.warnings, []);
    let nowhere = said(&site("port = 81\n", "a"));
    assert_eq!(
        nowhere,
        ["f:3:8: warning: site[0].port: gets no requests: no address of [listen] has port 81"]
    );
}

fn names(text: &str) -> Vec<String> {
    let config = load(text);
    (config.services.iter())
        .map(|service| service.name.to_string())
        .collect()
}

#[test]
fn services_without_a_table_are_named_after_host_and_upstream_whatever_stands_around_them() {
    let steps = "[[site.handle]]\nmatch = { path = \"/shop/*\" }\n\
                 proxy = { upstream = [\"https://shop:1\", \"shop:2\"] }\n";
    let text = format!("{SITE}upstream = [\"app:1\"]\n{steps}");
    assert_eq!(names(&text), ["a.test", "a.test-https-shop:1"]);
    // The same upstreams in another place of the site are the same service.
    let twice = format!(
        "{SITE}upstream = [\"app:1\"]\n[[site.handle]]\nmatch = {{ path = \"/new\" }}\n\
         handle = [{{ proxy = {{ upstream = [\"unix:/run/x.sock\"] }} }}]\n{steps}\
         [[site.route]]\npath = \"/s\"\nupstream = [\"https://shop:1\", \"shop:2\"]\n"
    );
    assert_eq!(
        names(&twice),
        ["a.test", "a.test-https-shop:1", "a.test-unix-run-x.sock"]
    );
    // Others that begin alike are told apart.
    let alike = format!("{text}[[site.route]]\npath = \"/s\"\nupstream = [\"https://shop:1\"]\n");
    assert_eq!(
        names(&alike),
        ["a.test", "a.test-https-shop:1", "a.test-https-shop:1-2"]
    );
}

#[test]
fn a_service_without_blue_is_completed_by_the_upstream_of_its_name() {
    let config = load(&format!(
        "{SITE}upstream = [\"app:1\"]\n[[site.route]]\npath = \"/x\"\nupstream = [\"x:1\"]\n\
         [service.\"a.test\"]\ngreen = [\"app:2\"]\nlive = \"blue\"\nrelease = {{ blue = \"v1\" }}\n\
         [service.\"a.test-x:1\"]\nbalance = \"random\"\n"
    ));
    let service = &config.services[0];
    assert!(service.is_switchable());
    let blue = service.slots[0].as_ref().expect("blue");
    assert_eq!(blue.upstreams[0].to_string(), "app:1");
    assert!(blue.release.is_some());
    assert!(config.services[1].slots[0].is_some());
    assert_eq!(config.warnings, []);
}

#[test]
fn steps_that_never_run_and_sites_that_never_answer_are_warnings() {
    let never = said(&format!(
        "{SITE}service = \"web\"\n[[site.handle]]\nrespond = \"all\"\n[[site.handle]]\nabort = true\n\
         [service.web]\nblue = [\"web:1\"]\n"
    ));
    assert_eq!(
        never,
        [
            "f:1:1: warning: site[0]: its handle steps answer every request: nothing is left for \
             its service",
            "f:6:1: warning: site[0].handle[1]: never runs: the step in line 4 answers every request",
        ]
    );
    let group = said(&format!(
        "{SITE}[[site.handle]]\ngroup = \"g\"\nvars = {{ a = \"b\" }}\n\
         [[site.handle]]\ngroup = \"g\"\nrespond = \"x\"\n[[site.handle]]\nrespond = \"y\"\n"
    ));
    assert_eq!(
        group,
        [
            "f:6:1: warning: site[0].handle[1]: never runs: the step in line 3 takes everything of \
          this group"
        ]
    );
    let silent = said(&format!("{SITE}[[site.handle]]\nvars = {{ a = \"b\" }}\n"));
    assert_eq!(
        silent,
        ["f:1:1: warning: site[0]: none of its steps answers: every request gets 404"]
    );
    let fine = said(&format!(
        "{SITE}[[site.handle]]\ngroup = \"g\"\nmatch = {{ path = \"/x\" }}\nrespond = \"x\"\n\
         [[site.handle]]\ngroup = \"g\"\nfiles = {{ pass_thru = true }}\n[[site.handle]]\nabort = true\n"
    ));
    assert_eq!(fine, [""; 0]);
}

#[test]
fn a_change_of_a_field_that_frames_a_message_is_a_warning() {
    let told = said(&format!(
        "{SITE}respond = 204\n[[site.handle]]\nrequest_header = {{ set = {{ Upgrade = \"websocket\" }} }}\n"
    ));
    assert_eq!(
        told,
        [
            "f:5:28: warning: site[0].handle[0].request_header.set.Upgrade: no effect: this field is \
             set for each connection by the proxy itself"
        ]
    );
}

#[test]
fn a_password_that_is_guessed_fast_is_a_warning_and_no_hash_is_shown() {
    let hash = "$2b$04$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
    let config = load(&format!(
        "{SITE}respond = 204\nbasic_auth = {{ users = {{ bob = \"{hash}\" }} }}\n"
    ));
    assert_eq!(config.warnings.len(), 1);
    let warning = config.warnings[0].to_string();
    assert!(
        warning.starts_with("f:4:32: warning: site[0].basic_auth.users.bob: cost 4 "),
        "{warning}"
    );
    let shown = format!("{warning}{config:?}{}{}", config.render(), config.to_json());
    assert!(!shown.contains("N9qo8uLOickgx2ZMRZoMye"), "{shown}");
    assert!(
        config.render().contains("bob = \"$2b$***\""),
        "{}",
        config.render()
    );
}

#[test]
fn what_an_upstream_answers_may_be_answered_by_steps() {
    let site = one(
        "[[site.handle]]\n[site.handle.proxy]\nupstream = [\"a:1\"]\n\
                    response_header = { remove = \"X-A\" }\n\
                    [[site.handle.proxy.on_response]]\nstatus = [\"5xx\", 404]\n\
                    handle = [{ copy_response = { headers_only = true } }, { respond = \"x\" }]\n\
                    [[site.handle.proxy.on_response]]\nreplace_status = \"{rp.status_code}\"\n",
    );
    let Action::Proxy(proxy) = &site.steps[0].action else {
        panic!("{:?}", site.steps[0]);
    };
    assert_eq!(proxy.response_headers.len(), 1);
    assert_eq!(proxy.on_response[0].when.status, [(500, 599), (404, 404)]);
    match &proxy.on_response[0].then {
        Proxied::Steps(steps) => assert_eq!(kinds(steps), ["copy_response", "respond"]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(proxy.on_response[1].then, Proxied::Status(_)));
}

/// As in the test of ten thousand sites: no check may be quadratic.
#[test]
fn ten_thousand_routes_and_steps_are_read_in_a_moment() {
    let mut text = format!("{SITE}service = \"web\"\n");
    for n in 0..10_000 {
        writeln!(
            text,
            "[[site.route]]\npath = \"/p{n}/*\"\nservice = \"web\"\nrewrite = {{ strip_prefix = \
             \"/p{n}\" }}\nrequest_header = {{ set = {{ X-N = \"{n} {{host}}\" }} }}"
        )
        .expect("a String takes everything");
    }
    for n in 0..10_000 {
        writeln!(
            text,
            "[[site.handle]]\nmatch = {{ path = \"/h{n}\" }}\ngroup = \"all\"\n\
             proxy = {{ upstream = [\"h{n}:1\"] }}"
        )
        .expect("a String takes everything");
    }
    text.push_str("[service.web]\nblue = [\"web:1\"]\n");
    #[allow(clippy::disallowed_methods, reason = "measures the test itself")]
    let start = Instant::now();
    let config = load(&text);
    assert_eq!(config.services.len(), 10_001);
    assert_eq!(config.sites[0].routes.len(), 10_000);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Valid steps without their condition.
const STEPS: &[&str] = &[
    "access = { allow = [\"10.0.0.0/8\", \"::1\"], deny = \"10.1.1.1\" }",
    "rate_limit = { requests = 7, window = \"90s\", burst = 3, key = \"header:x-key\" }",
    "rate_limit = { requests = 7, key = \"{query.k}-{client_ip}\" }",
    "concurrency = { requests = 2, queue = 9, wait = \"1500ms\", per_client = true }",
    "cors = { origins = [\"https://a.test\", \"https://*.b.test:8443\"], methods = [\"GET\"], \
     headers = [\"X-A\"], expose = [\"ETag\"], credentials = true, max_age = \"0s\" }",
    "basic_auth = { realm = \"r s\", users = { \"a b\" = \"$argon2id$***\", c = \"$2b$***\" } }",
    "forward_auth = { upstream = \"https://auth:9091\", uri = \"/v?u={uri}\", copy_headers = \
     [\"A\", \"B>C\"], headers = { remove = \"Cookie\" }, timeout = \"1s\" }",
    "forward_auth = { service = \"web\" }",
    "body_limit = 0",
    "body_limit = \"10MB\"",
    "vars = { \"a b\" = \"{host}\", c = \"$\\\\{x}\" }",
    "map = { source = \"{path}\", entries = [{ input = \"\", set = { tier = \"\" } }, { pattern = \
     '^/(\\w+)', set = { tier = \"$1\", area = \"{method}\" } }], default = { tier = \"{tier}x\" } }",
    "root = \"/srv/{host}\"",
    "request_header = { add = { A = [\"1\", \"2\"], B = \"3\" }, default = { C = \"\" }, set = { D = \
     \"{header.X-Y}\" }, remove = [\"x-*\", \"*\"], replace = [{ find = '\\d+', with = \"$0\" }] }",
    "response_header = { set = { A = \"b\" }, status = [404, \"5xx\", \"500-503\"], header = { \
     Content-Type = [\"text/*\", \"*json*\", \"*x\", \"y\", \"!\", \"*\"] }, defer = false }",
    "security_headers = true",
    "rewrite = \"?a=b\"",
    "rewrite = { method = \"GET\", to = \"{path}\", strip_prefix = \"/a\", strip_suffix = \".php\", \
     add_prefix = \"/b\", replace = [{ find = \"x\", with = \"y\", limit = 2 }], path_regexp = [{ \
     find = '(a|b)+', with = \"$1\" }], query = { rename = { a = \"b\" }, set = { \"{host}\" = \"1\" \
     }, add = { c = [\"1\", \"2\"] }, replace = [{ name = \"d\", find = \"e\" }], delete = [\"f\"] } }",
    "try_files = { root = \"/r\", files = [\"{path}\", \"=404\"], policy = \"largest_size\" }",
    "encode = true",
    "encode = { formats = [\"gzip\", \"br\"], levels = { br = 11 }, min_length = 1000, types = \
     [\"text/*\"], status = 200 }",
    "encode = { header = { X-Zip = \"*\", Content-Type = \"*\" }, status = \"2xx\" }",
    "log = false",
    "log = { skip = true, append = { \"a.b\" = \"{remote}\" } }",
    "respond = { status = \"{query.s}\", body = \"\\\\{ {?query} }\\n\\u007f\", close = true }",
    "redirect = { to = \"https://{host}{uri}\", status = \"permanent\", html = true }",
    "error = { status = 418, message = \"tea\" }",
    "abort = true",
    "files = { root = \"/f\", hide = [\"*.bak\"], dotfiles = true, follow = true, index = [], browse \
     = { template = \"/t.html\" }, precompressed = [\"zstd\", \"br\"], status = 203, pass_thru = \
     true, canonical = false }",
    "service = \"web\"",
    "proxy = { upstream = [\"x:1\", \"y:2\"], rewrite = { strip_prefix = \"/p\" }, request_header = { \
     set = { Host = \"{upstream}\" } }, response_header = [{ remove = \"A\", status = 200 }, { set = \
     { B = \"{rp.header.C}\" } }], on_response = [{ status = 404, replace_status = 200 }, { header = \
     { X = \"*\" }, handle = [{ copy_response = { status = 201, include = \"A\" } }, { match = { path \
     = \"/q\" }, respond = \"{rp.status_code}\" }] }] }",
];

/// Valid conditions.
const CONDITIONS: &[&str] = &[
    "path = [\"/a/*\", \"*.php\", \"{vars.p}\"]",
    "path_regexp = { name = \"id\", pattern = '^/(\\d+)$' }",
    "host = [\"a.test\", \"*.b.test\"], method = \"GET\"",
    "header = { B = [\"a*\", \"!\"], A = \"*\" }, header_regexp = [{ field = \"C\", pattern = \"x\" }]",
    "query = { a = [\"1\", \"*\"], \"b c\" = \"\" }",
    "remote_ip = \"10.0.0.0/8\", client_ip = [\"::1\"], protocol = \"http/1.1+\"",
    "vars = [{ value = \"{vars.a}\", is = [\"1\", \"{host}\"] }]",
    "vars_regexp = [{ name = \"n\", value = \"{uri}\", pattern = \"a|b\" }]",
    "file = { root = \"/r\", try = [\"{path}/\"], policy = \"most_recently_modified\", split = \".php\" }",
    "not = [{ path = \"/x\" }, { any = [{ method = \"PUT\" }, { host = \"c.test\" }] }]",
    "any = [{ path = \"/x\" }, { not = { query = { q = \"*\" } } }]",
];

fn step() -> impl Strategy<Value = String> {
    let action = prop::sample::select(STEPS).prop_map(str::to_owned);
    let bare = action.prop_recursive(3, 12, 4, |inner| {
        prop::collection::vec(inner, 1..4).prop_map(|steps| {
            let steps: Vec<_> = steps.iter().map(|step| format!("{{ {step} }}")).collect();
            format!("handle = [{}]", steps.join(", "))
        })
    });
    let when = prop::option::of(prop::sample::select(CONDITIONS));
    (bare, when, prop::option::of(0..3_u8)).prop_map(|(action, when, group)| {
        let when = when.map_or_else(String::new, |when| format!("match = {{ {when} }}, "));
        let group = group.map_or_else(String::new, |group| format!("group = \"g{group}\", "));
        format!("{{ {when}{group}{action} }}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn steps_are_printed_as_they_were_read(
        site in prop::collection::vec(step(), 1..6),
        errors in prop::collection::vec(step(), 1..3),
        route in prop::collection::vec(step(), 1..3),
    ) {
        let text = format!(
            "{SITE}handle = [{}]\nerror = [{}]\n[[site.route]]\npath = \"/r\"\nservice = \"web\"\n\
             handle = [{}]\n[service.web]\nblue = [\"web:1\"]\n",
            site.join(", "), errors.join(", "), route.join(", "),
        );
        let mut config = load(&text);
        let rendered = config.render();
        let mut again = match load_str_with("f", &rendered, &env()) {
            Ok(again) => again,
            Err(errors) => return Err(TestCaseError::fail(format!("{errors}\n{rendered}"))),
        };
        config.warnings.clear();
        again.warnings.clear();
        prop_assert_eq!(&config, &again, "{}", rendered);
        prop_assert_eq!(again.render(), rendered);
    }
}
