//! What an accepted file means.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cutover::config::{
    Balance, Config, Env, Found, Probe, RescueBudget, RollbackMode, RuleAction, Severity, Tls,
    ValueMatch, find_with, load_str_with, load_with,
};
use cutover::model::Color;
use proptest::prelude::*;

const SERVICE: &str = "[service.web]\nblue = [\"web-blue:3000\"]\ngreen = [\"web-green:3000\"]\n";

fn no_env() -> Env {
    Env::from_iter([("", ""); 0])
}

fn load(text: &str) -> Config {
    load_str_with("f", text, &no_env()).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn site(extra: &str) -> String {
    format!("[[site]]\nhosts = [\"example.com\"]\nservice = \"web\"\n{extra}\n{SERVICE}")
}

fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn the_short_form_is_blue_of_a_service_named_after_the_first_host() {
    let config = load("[[site]]\nhosts = [\"b.test\", \"a.test\"]\nupstream = [\"app:3000\"]\n");
    let service = &config.services[config.sites[0].service.expect("a service").0];
    assert_eq!(service.name.as_str(), "b.test");
    assert_eq!(service.first_live(), Color::Blue);
    assert!(!service.is_switchable());
    let blue = service.slots[0].as_ref().expect("blue");
    assert_eq!(blue.upstreams[0].to_string(), "app:3000");
    assert_eq!(service.health.probe, Probe::Tcp);
}

#[test]
fn services_are_in_the_order_of_their_names_and_references_follow() {
    let config = load(
        "[[site]]\nhosts = [\"m.test\"]\nupstream = [\"m:1\"]\n\
         [[site.route]]\npath = \"/z\"\nservice = \"z\"\n\
         [[site.route]]\npath = \"/a\"\nservice = \"a\"\n\
         [service.z]\nblue = [\"z:1\"]\n[service.a]\ngreen = [\"a:1\"]\n",
    );
    let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a", "m.test", "z"]);
    let site = &config.sites[0];
    assert_eq!(site.service.map(|index| index.0), Some(1));
    assert_eq!(site.routes[0].service.expect("a service").0, 2);
    assert_eq!(site.routes[1].service.expect("a service").0, 0);
    assert_eq!(config.services[0].first_live(), Color::Green);
}

#[test]
fn a_probe_is_tcp_without_a_health_table_and_http_with_one() {
    let plain = load(&site(""));
    assert_eq!(plain.services[0].health.probe, Probe::Tcp);
    let table = load(&format!("{}[service.web.health]\n", site("")));
    match &table.services[0].health.probe {
        Probe::Http { path, status, .. } => {
            assert_eq!((path.as_str(), *status), ("/healthz", (200, 299)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn auto_is_internal_where_no_public_ca_certifies_every_name() {
    let tls = |hosts: &str| {
        let text = format!("[[site]]\nhosts = {hosts}\nupstream = [\"app:1\"]\n");
        let config = load(&text);
        let said = config.warnings.iter().map(ToString::to_string).collect();
        (config.sites[0].tls.clone(), said)
    };
    for private in [
        "[\"localhost\"]",
        "[\"app.localhost\"]",
        "[\"printer.local\", \"*.internal\"]",
        "[\"nas.home.arpa\", \"nas\"]",
        "[\"10.0.0.1\", \"[::1]\", \"203.0.113.7\"]",
    ] {
        assert_eq!(
            tls(private),
            (Tls::Internal, Vec::<String>::new()),
            "{private}"
        );
    }
    for public in [
        "[\"example.com\"]",
        "[\"localhost\", \"example.com\"]",
        "[\"www.notlocal\"]",
        "[\"www.mylocalhost\"]",
    ] {
        assert_eq!(tls(public), (Tls::Auto, Vec::new()), "{public}");
    }
    let (auto, said) = tls("[\"*.internal\", \"*.example.com\"]");
    assert_eq!(auto, Tls::Auto);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("no certificate is ordered for *.example.com"),
        "{said:?}"
    );
    let default = load("[[site]]\ndefault = true\nupstream = [\"app:1\"]\n");
    assert_eq!(default.sites[0].tls, Tls::Internal);
}

#[test]
fn a_service_overrides_the_common_rollback_key_by_key() {
    let config = load(&format!(
        "{}[rollback]\nrescue = false\n[rollback.errors]\nratio = 2\nfloor = \"1%\"\n\
         [service.web.rollback]\nmode = \"observe\"\n[service.web.rollback.errors]\nratio = 3.0\n",
        site("")
    ));
    let rollback = &config.services[0].rollback;
    assert!(!rollback.rescue);
    assert_eq!(rollback.mode, RollbackMode::Observe);
    assert_eq!((rollback.errors.ratio, rollback.errors.floor), (3.0, 0.01));
    assert_eq!(rollback.errors.min_errors, 5);
    assert_eq!(rollback.gate.budget, RescueBudget::Auto);
    let share = load(&format!(
        "{}[rollback.gate]\nbudget = \"20% + 10/s\"\n[rollback.rules]\np99 = \"rollback\"\n",
        site("")
    ));
    let rollback = &share.services[0].rollback;
    assert_eq!(rollback.gate.budget.rate(1_000), 210);
    assert_eq!(rollback.rules.p99, RuleAction::Rollback);
    assert_eq!(rollback.rules.cpu, RuleAction::Alert);
}

#[test]
fn a_lone_variable_stands_for_other_types_and_every_text_is_expanded() {
    let env = Env::from_iter([
        ("N", "7"),
        ("ON", "false"),
        ("T", "9s"),
        ("HOST", "example.com"),
        ("SLOT", "web:3000"),
    ]);
    let text = "[limits]\nattempts = \"${N}\"\nconnections = \"${NONE:-12}\"\n\
                [timeouts]\nconnect = \"${T}\"\nkeep_alive = \"${N}m\"\n\
                [log.access]\nenabled = \"${ON}\"\n\
                [[site]]\nhosts = [\"${HOST}\", \"www.${HOST}\"]\nservice = \"web\"\n\
                [[site.route]]\nheader = { X-A = \"$${N}\", X-B = \"${N}\" }\nservice = \"web\"\n\
                path = \"/x\"\n\
                [service.web]\nblue = [\"${SLOT}\"]\nbalance = \"${NONE:-ip_hash}\"\n";
    let config = load_str_with("f", text, &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.limits.attempts, 7);
    assert_eq!(config.limits.connections, 12);
    assert_eq!(config.timeouts.connect, Duration::from_secs(9));
    assert_eq!(config.timeouts.keep_alive, Duration::from_secs(420));
    assert!(!config.log.access.enabled);
    assert_eq!(config.sites[0].hosts[1].to_string(), "www.example.com");
    let headers = &config.sites[0].routes[0].headers;
    assert_eq!(headers[0].1, ValueMatch::Exact("${N}".to_owned()));
    assert_eq!(headers[1].1, ValueMatch::Exact("7".to_owned()));
    assert_eq!(config.services[0].balance, Balance::IpHash);
    let blue = config.services[0].slots[0].as_ref().expect("blue");
    assert_eq!(blue.upstreams[0].to_string(), "web:3000");
}

#[test]
fn a_secret_is_read_from_its_file_and_shown_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("webhook");
    fs::write(&file, "https://hooks.test/S3CRET\n").expect("writable");
    let text = site(&format!(
        "[[notify]]\nkind = \"slack\"\nurl_file = {file:?}\n"
    ));
    let mode = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("owned");
        load(&text)
    };
    let private = mode(0o640);
    assert_eq!(private.notify[0].url.reveal(), "https://hooks.test/S3CRET");
    assert_eq!(private.warnings, []);
    assert!(!format!("{private:?}{}", private.render()).contains("S3CRET"));
    let open = mode(0o604);
    let warning = &open.warnings[0];
    assert_eq!(warning.severity, Severity::Warning);
    assert_eq!(
        (warning.line, warning.key.as_str()),
        (6, "notify[0].url_file")
    );
    assert!(
        warning.message.contains("can be read by others"),
        "{warning}"
    );
}

#[test]
fn a_wrong_secret_is_in_no_message() {
    let env = Env::from_iter([("HOOK", "ftp://S3CRET")]);
    let text = site("[[notify]]\nurl = \"${HOOK}\"\n");
    let errors = load_str_with("f", &text, &env)
        .expect_err("no web URL")
        .to_string();
    assert!(errors.contains("f:5:7: notify[0].url: "), "{errors}");
    assert!(!errors.contains("S3CRET"), "{errors}");
}

#[test]
fn what_is_allowed_but_odd_is_a_warning() {
    let config = load(
        "[listen]\ntrusted_proxies = [\"0.0.0.0/0\"]\n\
         [[site]]\nhosts = [\"example.com\"]\nservice = \"web\"\n\
         [[site.route]]\nservice = \"web\"\n\
         [service.web]\nblue = [\"a:1\"]\ngreen = [\"b:1\", \"a:1\"]\n\
         [service.web.health]\ninterval = \"1s\"\nmax_latency = \"10s\"\n\
         [service.spare]\nblue = [\"c:1\"]\nstack = \"s\"\n",
    );
    assert_eq!(
        warnings(&config),
        [
            "f:2:19: warning: listen.trusted_proxies: every client may now claim any address: a \
             network of length 0 trusts the whole Internet",
            "f:3:1: warning: site[0]: a route without conditions takes everything: nothing is \
             left for the site's service",
            "f:10:9: warning: service.web.green: a:1 is in blue too; a switch would not move its \
             requests",
            "f:12:12: warning: service.web.health.interval: timeout is longer than interval: a \
             slow probe delays the next one",
            "f:13:15: warning: service.web.health.max_latency: has no effect: it is longer than \
             timeout",
            "f:14:10: warning: service.spare: no site or route leads to this service",
            "f:16:9: warning: service.spare.stack: has no effect: a service with one slot never \
             switches",
        ]
    );
    assert_eq!(
        warnings(&load("")),
        ["f:1:1: warning: site: there is no [[site]]: every request is answered with 404"]
    );
}

#[test]
fn redaction_only_adds_and_covers_both_kinds_of_names() {
    let config = load(&format!(
        "[log]\nredact = [\"Session\", \"a[b]\"]\n{}",
        site("")
    ));
    let has_header = |name: &str| config.log.redact_headers.iter().any(|h| h == name);
    let has_query = |name: &str| config.log.redact_query.iter().any(|q| q == name);
    assert!(has_header("session") && has_query("session"));
    assert!(has_query("a[b]"));
    assert!(has_header("authorization") && has_query("token"));
}

#[test]
fn the_file_is_looked_for_in_a_fixed_order() {
    let here = |names: &'static [&'static str]| {
        move |path: &Path| names.iter().any(|name| path == Path::new(name))
    };
    let file = |path: &str| Found::File(path.into());
    let env = Env::from_iter([("CUTOVER_CONFIG", "/env.toml")]);
    let unset = no_env();
    let empty = Env::from_iter([("CUTOVER_CONFIG", "")]);
    let all: &[&str] = &[
        "cutover.toml",
        "/etc/cutover/cutover.toml",
        "/etc/caddy/Caddyfile",
    ];
    let flag = Some(Path::new("/flag.toml"));
    assert_eq!(find_with(flag, &env, here(all)), file("/flag.toml"));
    assert_eq!(find_with(None, &env, here(all)), file("/env.toml"));
    assert_eq!(find_with(None, &empty, here(all)), file("cutover.toml"));
    assert_eq!(
        find_with(
            None,
            &unset,
            here(&["/etc/cutover/cutover.toml", "/etc/caddy/Caddyfile"])
        ),
        file("/etc/cutover/cutover.toml")
    );
    assert_eq!(
        find_with(None, &unset, here(&["/etc/caddy/Caddyfile"])),
        Found::Caddyfile("/etc/caddy/Caddyfile".into())
    );
    assert_eq!(find_with(None, &unset, here(&[])), Found::Nothing);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_like_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("none.toml");
    let error = load_with(&missing, &no_env())
        .expect_err("missing")
        .to_string();
    assert_eq!(
        error,
        format!(
            "{}: cannot be read: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, b"a = 1\nb = \"\xc3\xbc\xff\"").expect("writable");
    let error = load_with(&binary, &no_env())
        .expect_err("binary")
        .to_string();
    assert_eq!(
        error,
        format!("{}:2:7: not UTF-8 from here on", binary.display())
    );
}

#[test]
fn only_bound_addresses_and_the_state_folder_need_a_restart() {
    let old = load(&site(""));
    assert_eq!(old.restart_needed(&old), [""; 0]);
    let hot = load(&format!(
        "shutdown_grace = \"1s\"\n[listen]\nops_allow = []\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
         [limits]\nattempts = 1\n{}",
        site("")
    ));
    assert_eq!(old.restart_needed(&hot), [""; 0]);
    let cold = load(&format!(
        "state_dir = \"/other\"\n[listen]\nhttp = []\nhttps = [\"0.0.0.0:8443\"]\n\
         ops = \"127.0.0.1:9180\"\nadmin = \"/tmp/a.sock\"\n{}",
        site("")
    ));
    assert_eq!(
        old.restart_needed(&cold),
        [
            "state_dir",
            "listen.http",
            "listen.https",
            "listen.ops",
            "listen.admin"
        ]
    );
}

/// Guards against quadratic checks: ten thousand of anything take a moment, not minutes. The
/// bound is far above what a loaded machine needs without optimisation.
#[test]
fn ten_thousand_sites_are_read_in_a_moment() {
    let (mut good, mut bad) = (String::new(), String::new());
    for n in 0..10_000 {
        writeln!(
            good,
            "[[site]]\nhosts = [\"a{n}.test\", \"b{n}.test\"]\nservice = \"s{n}\"\n\
             [[site.route]]\npath = \"/p{n}/*\"\nservice = \"s{n}\"\n\
             [[site]]\nhosts = [\"c{n}.test\"]\nupstream = [\"c{n}:1\"]\n\
             [service.s{n}]\nblue = [\"s{n}:1\"]\n"
        )
        .expect("a String takes everything");
        writeln!(
            bad,
            "[[site]]\nhosts = [\"a.test\"]\nservice = \"t{n}\"\nwrong = 1\n"
        )
        .expect("a String takes everything");
    }
    bad.push_str(&good);
    #[allow(clippy::disallowed_methods, reason = "measures the test itself")]
    let start = Instant::now();
    assert_eq!(load(&good).sites.len(), 20_000);
    let errors = load_str_with("f", &bad, &no_env()).expect_err("wrong");
    assert!(errors.0.len() >= 29_999, "{}", errors.0.len());
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn deep_nesting_is_refused_and_not_a_crash() {
    for text in [
        format!("x = {}1{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("x = {}", "{ a = ".repeat(50_000)),
        format!("{}a = 1", "a.".repeat(50_000)),
        format!("[{}a]", "a.".repeat(50_000)),
    ] {
        assert!(load_str_with("f", &text, &no_env()).is_err());
    }
}

/// Pieces that files are made of, so that random texts reach the checks behind the parser.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "[[site]]\n", "[[site.route]]\n", "[service.web]\n", "[service.web.health]\n",
            "[listen]\n", "[rollback.latency]\n", "[[notify]]\n", "[site]\n", "[service]\n",
            "hosts = [\"a.test\"]\n", "service = \"web\"\n", "upstream = [\"a:1\"]\n",
            "blue = [\"a:1\", \"a:1\"]\n", "green = []\n", "path = \"/a/*\"\n", "tls = {}\n",
            "default = true\n", "json = { a = [1, {}] }\n", "http = [\"0.0.0.0:80\"]\n",
            "status = \"200-\"\n", "quantiles = []\n", "floor = [0.1]\n", "docker = {}\n",
            "interval = \"${A:-3s}\"\n", "url = \"${B}\"\n", "header = { \"ü\" = 1 }\n",
            "[[site.handle]]\n", "[[site.error]]\n", "[[site.route.handle]]\n",
            "[[site.handle.handle]]\n", "[site.handle.proxy]\n", "[site.handle.match]\n",
            "respond = \"{hots}\"\n", "files = true\n", "redirect = \"/{uri}\"\n",
            "match = { path = \"/x\", not = {} }\n", "encode = {}\n", "handle = [{}]\n",
            "rate_limit = { requests = 1 }\n", "try_files = [\"{path}\"]\n", "error = 404\n",
            "basic_auth = { users = { a = \"$2b$***\" } }\n", "canonical_host = \"a.test\"\n",
            "error_pages = { \"5xx\" = \"/x.html\" }\n", "request_header = { set = {} }\n",
            "any = [{}]\n", "group = \"g\"\n", "port = 80\n", "map = { default = { x = \"{x}\" } }\n",
            "release = { blue = \"\" }\n", "wait = [\"1s\"]\n", "budget = \"+\"\n", "= = =\n",
            "a.b.c = 1\n", "\"\" = ''\n", "x = \"\"\"\n", "live = \"green\"\n", "\u{feff}", "\r",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => "[a-z_]{1,8} = [\\[\\]{}\"',.0-9a-z$-]{0,12}\n",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_panics_the_loader_and_errors_point_into_it(text in pieces()) {
        match load_str_with("f", &text, &no_env()) {
            Ok(config) => {
                let again = load_str_with("f", &config.render(), &no_env());
                prop_assert!(again.is_ok(), "{:?}\n{}", again, config.render());
            }
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                let lines: Vec<_> = text.split('\n').collect();
                let mut last = (0, 0);
                for error in &errors.0 {
                    prop_assert!((1..=lines.len()).contains(&error.line), "{error}");
                    let width = lines[error.line - 1].chars().count();
                    prop_assert!((1..=width + 1).contains(&error.column), "{error}");
                    prop_assert!((error.line, error.column) >= last, "{error}");
                    last = (error.line, error.column);
                }
            }
        }
    }

    #[test]
    fn no_bytes_panic_the_loader(text in any::<String>()) {
        let loaded = load_str_with("f", &text, &no_env());
        prop_assert!(loaded.is_ok() || loaded.is_err_and(|errors| !errors.0.is_empty()));
    }
}
