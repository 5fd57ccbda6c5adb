//! What a configuration file may say, and what is said about one that is wrong.
//!
//! Every file in `tests/config/bad` is wrong in one way; beside it stands what the loader says.

#[path = "config/handlers.rs"]
mod handlers;
#[path = "config/keys.rs"]
mod keys;
#[path = "config/meaning.rs"]
mod meaning;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cutover::config::{Config, Env, load_str_with};

fn env() -> Env {
    Env::from_iter([
        ("FIVE", "5"),
        ("BIG", "90"),
        ("YES", "true"),
        ("HOST", "example.com"),
    ])
}

/// The examples at the top and in their own folders.
fn examples() -> BTreeMap<String, PathBuf> {
    let folders = [
        "",
        "/solo-saas",
        "/blue-green/one-file",
        "/blue-green/projects",
    ];
    let all = folders.map(|folder| {
        let found = files(&format!("config{folder}"));
        assert!(!found.is_empty(), "config{folder} has no TOML");
        let named = found.into_iter();
        named.map(move |(name, path)| (format!("{folder}/{name}"), path))
    });
    all.into_iter().flatten().collect()
}

fn files(folder: &str) -> BTreeMap<String, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .map(|path| {
            let name = path.file_stem().expect("a file").to_string_lossy();
            (name.into_owned(), path)
        })
        .collect()
}

fn load(text: &str) -> Result<Config, String> {
    load_str_with("cutover.toml", text, &env()).map_err(|errors| errors.to_string())
}

#[test]
fn every_error_of_a_bad_file_is_told_with_its_place() {
    let files = files("tests/config/bad");
    assert!(files.len() >= 60, "{} bad files", files.len());
    for (name, path) in files {
        let text = fs::read_to_string(path).expect("readable");
        let said = match load(&text) {
            Ok(_) => panic!("{name} was accepted"),
            Err(said) => said,
        };
        insta::with_settings!({
            snapshot_path => "config/bad",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, said);
        });
    }
}

#[test]
fn every_example_file_is_accepted_without_a_warning() {
    let files = examples();
    assert!(files.len() >= 8, "{}", files.len());
    for (name, path) in files {
        let text = fs::read_to_string(path).expect("readable");
        let config = load(&text).unwrap_or_else(|said| panic!("{name}: {said}"));
        assert_eq!(config.warnings, [], "{name}");
    }
}

/// A file that says something unusual in every place.
const UNUSUAL: &str = r#"
state_dir = "/srv/$${literal}/x"
shutdown_grace = "1500ms"
[listen]
http = ["127.0.0.1:8080"]
https = []
ops = "[::1]:9180"
ops_allow = ["10.1.2.3", "::ffff:10.0.0.0/104"]
admin = "/tmp/admin \"quoted\".sock"
trusted_proxies = ["fd00::/8"]
proxy_protocol = ["10.0.0.0/8"]
[timeouts]
connect = "90s"
stream_idle = "25h"
[limits]
request_head = 5000
request_target = "4KiB"
[log]
redact = ["Session", "page[token]", "token"]
access = { enabled = false, sample = "12.5%", file = "/var/log/a.log", format = "caddy", skip = ["/healthz", "/static/*", "304", "500-599"], rotate = { size = "50MB", age = "24h", keep = 0, compress = false } }
[acme]
email = "me@example.com"
resolvers = ["1.1.1.1", "[2606:4700::1111]:5353"]
ca_file = "/ca.pem"
[docker]
socket = "tcp://socket-proxy:2375"
network = "edge"
[[notify]]
kind = "discord"
url = "https://discord.example/SECRET"
[[site]]
access_log = { file = "/var/log/own.log", format = "combined", sample = 0.5, skip = ["/x", "404"], rotate = { age = "36h" } }
hosts = ["*.example.com", "[2001:db8::1]"]
default = true
tls = { cert = "/c.pem", key = "/k.pem" }
upstream = ["h2c://[::1]:50051", "unix:/run/x.sock"]
[[site.route]]
path = "/img/**.png"
method = "GET"
header = { X-A = "*", "x-b" = "b*", X-C = "exact ${FIVE}" }
query = { "a b" = "1", "${q}" = "*" }
client_ip = "192.0.2.1"
service = "web.v2:a*"
[[site]]
hosts = ["app.localhost", "printer", "10.0.0.1"]
service = "compose"
[[site]]
hosts = ["plain.example.org"]
tls = "off"
service = "web.v2:a*"
[service."web.v2:a*"]
blue = ["https://a.example.org"]
green = ["http://b.example.org:81"]
sticky = { cookie = "lb", max_age = "24h", secure = true, same_site = "strict" }
keep_alive = false
proxy_protocol = "v1"
tls = { ca = "/ca.pem", cert = "/c.pem", key = "/k.pem", server_name = "a.internal", insecure_skip_verify = false, alpn = ["http/1.1"] }
retry = { attempts = 2, budget = "5%", budget_floor = 0, per_try_timeout = "1500ms", on = ["timeout", "5xx", 429], try_duration = "5s", try_interval = "100ms" }
timeouts = { connect = "1s", upstream_read = "5m", stream_idle = "25h" }
stack = "s"
live = "green"
release = { green = "sha256:abc \"x\"" }
balance = "header:X-User"
[service."web.v2:a*".health]
path = "/h?x=1"
host = "h.example.com:99"
status = 204
json = { "a.b" = 1, c = 2.0, d = [true, "x${BIG}"], e = { f = "g\n\u007f" } }
max_latency = "150ms"
rise = "${FIVE}"
[service."web.v2:a*".eject]
connect_failures = 0
[service."web.v2:a*".switch]
observe = "0s"
drain = "0s"
[service."web.v2:a*".rollback]
mode = "observe"
gate = { budget = "7% + 3/s", methods = [] }
[service.compose]
docker = { service = "web", port = 3000 }
[rollback]
rescue = false
alpha = 0.0000001
[rollback.latency]
quantiles = ["50%", 0.99]
floor = ["1%", 0.005]
"#;

/// Hashes as `render` prints them, because those are not shown.
fn masked(text: &str) -> String {
    let mut out = String::new();
    for (n, part) in text.split('"').enumerate() {
        let quote = if n == 0 { "" } else { "\"" };
        let kind = ["$argon2id$", "$2b$"]
            .into_iter()
            .find(|kind| part.starts_with(kind));
        out.push_str(quote);
        match kind {
            Some(kind) => out.push_str(&format!("{kind}***")),
            None => out.push_str(part),
        }
    }
    out
}

#[test]
fn what_is_rendered_is_read_back_as_the_same() {
    let mut texts: Vec<_> = files("config")
        .into_values()
        .map(|path| masked(&fs::read_to_string(path).expect("readable")))
        .collect();
    texts.push(UNUSUAL.to_owned());
    texts.push(String::new());
    for text in texts {
        let mut config = load(&text).unwrap_or_else(|said| panic!("{said}"));
        let rendered = config.render();
        assert!(!rendered.contains("SECRET"), "{rendered}");
        let mut again = load(&rendered).unwrap_or_else(|said| panic!("{said}\n{rendered}"));
        assert_eq!(again.render(), rendered);
        for config in [&mut config, &mut again] {
            config.warnings.clear();
            config.notify.clear();
        }
        assert_eq!(config, again, "{rendered}");
    }
}

#[test]
fn an_unusual_file_renders_as_it_was_meant() {
    let config = load(UNUSUAL).unwrap_or_else(|said| panic!("{said}"));
    insta::with_settings!({
        snapshot_path => "config",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("unusual", config.render());
    });
}

#[test]
fn the_compose_examples_wait_longer_than_a_stop_takes_and_publish_no_metrics() {
    for (example, file) in [
        ("solo-saas", "compose.yaml"),
        ("blue-green/one-file", "compose.yaml"),
        ("blue-green/projects", "proxy.yaml"),
        ("blue-green/overlays", "compose.yaml"),
    ] {
        let folder = Path::new("config").join(example);
        // Without a file the defaults hold.
        let text = fs::read_to_string(folder.join("cutover.toml")).unwrap_or_default();
        let config = load(&text).unwrap_or_else(|errors| panic!("{example}: {errors}"));
        let compose = fs::read_to_string(folder.join(file)).expect("a file");
        // Of the proxy, which comes first.
        let waits = compose
            .lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("stop_grace_period: ")?
                    .strip_suffix('s')
            })
            .and_then(|seconds| seconds.parse().ok())
            .expect("stop_grace_period in seconds");
        let needed = config.shutdown_delay + config.shutdown_grace;
        assert!(std::time::Duration::from_secs(waits) > needed, "{example}");
        let published: Vec<_> = compose
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- \"${"))
            .collect();
        let ports = ["HTTP_PORT:-80}:80\"", "HTTPS_PORT:-443}:443\""];
        assert_eq!(published, ports, "{example} publishes more");
        assert!(compose.contains("max-size"), "{example} rotates no logs");
    }
}
