//! Configuration files: what is accepted, and the exact words for what is not.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cutover::config::{self, Balance, Config, Diagnostics, Probe, Tls, load_with};
use cutover::model::Color;
use proptest::prelude::*;

fn load(text: &str) -> Result<Config, Diagnostics> {
    load_with("cutover.toml", text, &|_| None)
}

fn errors(text: &str) -> String {
    match load(text) {
        Ok(_) => "no error".to_owned(),
        Err(errors) => errors.to_string(),
    }
}

/// Every `== name` section of `cases.txt` is one bad file; the snapshot holds its exact errors.
#[test]
fn every_bad_file_is_told_exactly_what_is_wrong() {
    let cases = include_str!("config_cases/bad.txt");
    let mut told = String::new();
    let mut count = 0;
    for case in cases.split("\n== ").skip(1) {
        let (name, text) = case.split_once('\n').expect("a name and a text");
        let said = errors(text);
        assert_ne!(said, "no error", "{name} was accepted");
        writeln!(told, "== {name}\n{said}\n").expect("a string takes everything");
        count += 1;
    }
    assert!(count >= 40, "only {count} cases");
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("bad_files", told);
    });
}

#[test]
fn the_shortest_useful_file_is_two_lines() {
    let config = load("[[site]]\nhosts = [\"example.com\"]\nupstream = [\"app:3000\"]\n").unwrap();
    let service = &config.services[0];
    assert_eq!(service.name.as_str(), "example.com");
    let blue = service.slots[Color::Blue.index()].as_ref().unwrap();
    assert_eq!(blue.upstreams[0].to_string(), "app:3000");
    assert!(service.slots[Color::Green.index()].is_none());
    assert_eq!(service.health.probe, Probe::Tcp);
    assert_eq!(config.sites[0].tls, Tls::Auto);
    assert_eq!(
        config.inactive.len(),
        1,
        "ordering certificates is not active yet"
    );
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = load("[service.web]\nblue = [\"a:1\"]\n[service.web.health]\n").unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(config.state_dir, Path::new("/data/cutover"));
    assert_eq!(config.shutdown_grace, seconds(30));
    let listen = &config.listen;
    assert_eq!(
        listen.http,
        ["0.0.0.0:80".parse().unwrap(), "[::]:80".parse().unwrap()]
    );
    assert_eq!(
        listen.https,
        ["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()]
    );
    assert_eq!(listen.ops, "0.0.0.0:9180".parse().unwrap());
    assert_eq!(listen.admin, Path::new("/run/cutover/admin.sock"));
    assert!(listen.ops_allow.contains("192.168.3.4".parse().unwrap()));
    assert!(!listen.ops_allow.contains("203.0.113.1".parse().unwrap()));
    let service = &config.services[0];
    assert_eq!(service.stack.as_str(), "default");
    assert_eq!(service.balance, Balance::LeastConn);
    let Probe::Http { path, status, .. } = &service.health.probe else {
        panic!("a health table without a type is http");
    };
    assert_eq!((path.as_str(), *status), ("/healthz", (200, 299)));
    assert_eq!(service.health.interval, seconds(3));
    assert_eq!(service.health.timeout, seconds(2));
    assert_eq!((service.health.rise, service.health.fall), (2, 3));
    let switch = &service.switch;
    assert_eq!(switch.ready_timeout, seconds(300));
    assert_eq!(
        [switch.drain, switch.websocket_drain, switch.sse_drain],
        [seconds(30); 3]
    );
    assert_eq!(
        (switch.observe, switch.observe_max),
        (seconds(300), seconds(1800))
    );
    assert_eq!(switch.observe_requests, 5_000);
}

#[test]
fn auto_is_internal_where_no_public_ca_certifies() {
    let tls = |host: &str| {
        let text = format!("[[site]]\nhosts = [\"{host}\"]\nupstream = [\"a:1\"]\n");
        load(&text).unwrap().sites[0].tls.clone()
    };
    for private in [
        "localhost",
        "app.localhost",
        "printer.local",
        "x.internal",
        "nas.home.arpa",
        "intranet",
        "10.0.0.1",
        "::1",
    ] {
        assert_eq!(tls(private), Tls::Internal, "{private}");
    }
    for public in ["example.com", "*.example.com", "local.example.com"] {
        assert_eq!(tls(public), Tls::Auto, "{public}");
    }
}

#[test]
fn variables_stand_for_texts_numbers_and_booleans() {
    let environment: HashMap<&str, &str> = [
        ("PORT", "3000"),
        ("RISE", "4"),
        ("ON", "false"),
        ("WAIT", "7s"),
        ("EMPTY", ""),
    ]
    .into();
    let text = r#"
        shutdown_grace = "${WAIT}"
        [log.access]
        enabled = "${ON}"
        [service.web]
        blue = ["app:${PORT}", "${MISSING:-other}:1", "price-$${x}:${EMPTY:-9}"]
        [service.web.health]
        rise = "${RISE}"
    "#;
    let lookup = |name: &str| environment.get(name).map(|value| (*value).to_owned());
    let error = load_with("cutover.toml", text, &lookup)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "cutover.toml:6:55: service.web.blue[2]: `price-${x}:9`: `price-${x}` is not a host name \
         or an IP address, expected host:port, http://host[:port], https://host[:port], h2c://host[:port] \
         or unix:/path",
        "the escape is literal, and the variable behind it is replaced"
    );
    let text = text.replace(", \"price-$${x}:${EMPTY:-9}\"", "");
    let config = load_with("cutover.toml", &text, &lookup).unwrap();
    assert_eq!(config.shutdown_grace, Duration::from_secs(7));
    assert!(!config.log.access.enabled);
    let service = &config.services[0];
    assert_eq!(service.health.rise, 4);
    let blue = service.slots[0].as_ref().unwrap();
    let names: Vec<String> = blue.upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["app:3000", "other:1"]);
}

#[test]
fn secrets_come_from_files_and_show_nowhere() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("webhook");
    std::fs::write(&path, "https://hooks.example.com/S3CR3T\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let text = format!(
        "[[notify]]\nkind = \"slack\"\nurl_file = \"{}\"\n[[site]]\nhosts = [\"a.local\"]\nupstream = [\"a:1\"]\n",
        path.display()
    );
    let config = load(&text).unwrap();
    assert_eq!(
        config.notify[0].url.reveal(),
        "https://hooks.example.com/S3CR3T"
    );
    assert_eq!(config.warnings.len(), 1, "others can read the file");
    assert!(
        config.warnings[0]
            .message
            .contains("can be read by everybody")
    );
    let shown = format!("{config:?}{}", config.render());
    assert!(!shown.contains("S3CR3T"), "{shown}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(load(&text).unwrap().warnings, []);
}

#[test]
fn every_example_parses_and_renders_to_what_it_means() {
    let mut seen = 0;
    for entry in std::fs::read_dir("config").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "toml") {
            continue;
        }
        seen += 1;
        let config = config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        // The only secret in the examples.
        let rendered = config
            .render()
            .replace("***", "https://hooks.example.com/deploys");
        let again = load(&rendered).unwrap_or_else(|errors| panic!("{errors}\n{rendered}"));
        let plain = |config: &Config| {
            let mut config = config.clone();
            config.warnings.clear();
            config.inactive.clear();
            config
        };
        assert_eq!(plain(&again), plain(&config), "{}", path.display());
    }
    assert!(seen >= 3, "only {seen} examples");
}

#[test]
fn the_documentation_names_every_key() {
    let full = std::fs::read_to_string("config/full.toml").unwrap();
    let documentation = std::fs::read_to_string("docs/config.md").unwrap();
    let missing: Vec<String> = config::known_keys(&full)
        .into_iter()
        .filter(|key| {
            let last = key.rsplit('.').next().unwrap_or(key);
            let named = [
                format!("`{last}`"),
                format!("[{last}]"),
                format!(".{last}]"),
            ];
            !named.iter().any(|name| documentation.contains(name))
        })
        .collect();
    assert_eq!(missing, [] as [String; 0]);
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let old = load("state_dir = \"/a\"\n").unwrap();
    let new =
        load("state_dir = \"/b\"\n[listen]\nhttp = [\"127.0.0.1:1\"]\nops_allow = []\n").unwrap();
    assert_eq!(old.restart_needed(&new), ["state_dir", "listen.http"]);
    assert_eq!(old.restart_needed(&old), [] as [&str; 0]);
}

#[test]
fn ten_thousand_sites_are_read_in_seconds() {
    let mut text = String::from("[service.app]\nblue = [\"127.0.0.1:1\"]\n");
    for n in 0..10_000 {
        write!(
            text,
            "[[site]]\nhosts = [\"h{n}.test\"]\nservice = \"app\"\n"
        )
        .unwrap();
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "a wall-clock bound far above the figure"
    )]
    let start = Instant::now();
    assert_eq!(load(&text).unwrap().sites.len(), 10_000);
    assert!(start.elapsed() < Duration::from_secs(20));
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn no_half_finished_file_makes_the_loader_panic(
        at in 0_usize..4000,
        insert in "[\\[\\]{}=\"'\\n$a0.,-]{0,6}",
    ) {
        let full = include_str!("../config/full.toml");
        let mut cut = at.min(full.len());
        while !full.is_char_boundary(cut) {
            cut -= 1;
        }
        let text = format!("{}{insert}{}", &full[..cut], &full[cut..]);
        let _ = load(&text);
    }
}
