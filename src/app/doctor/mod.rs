//! `proxyctl doctor`: what is wrong on this machine, what it means, and how to mend it.
//!
//! Works beside a running daemon and without one. Every check gives at least one [`Finding`], so
//! that what was looked at is seen too.

mod certificates;
mod container;
mod docker;
mod holder;
mod paths;
mod sockets;

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::{privileges, run};
use crate::clock;
use crate::compat;
use crate::config::{Config, Diagnostics};
use crate::http::Resolver;
use crate::model::{Color, Endpoint, UpstreamAddr};
use crate::switch::journal;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but it may hurt one day.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// What that means; empty when all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub meaning: &'static str,
    /// What to do; empty when all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub fix: &'static str,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            what: what.into(),
            meaning: "",
            fix: "",
        }
    }

    fn bad(
        check: &'static str,
        level: Level,
        what: impl Into<String>,
        meaning: &'static str,
        fix: &'static str,
    ) -> Self {
        Self {
            check,
            level,
            what: what.into(),
            meaning,
            fix,
        }
    }
}

/// Looks at everything. `file`: the configuration, or none: then it is what `cutover run` would serve
/// without one; `running`: a daemon answers on the admin socket, so that its ports and its state
/// folder are taken by it.
pub async fn doctor(file: Option<&Path>, running: bool) -> Vec<Finding> {
    let (config, mut found) = match configuration(file) {
        Ok((config, finding)) => (config, vec![finding]),
        Err(problems) => return problems,
    };
    found.extend(config.warnings.iter().map(|warning| {
        Finding::bad(
            "config",
            Level::Warning,
            warning.to_string(),
            "it works, but perhaps not as meant",
            "see docs/config.md",
        )
    }));
    let user = privileges::user_of_daemon(&config, file);
    found.extend(ports(&config, running));
    found.extend(paths::paths(&config, file, user.as_ref()));
    found.extend(sockets::sockets(&config, file, running, user.as_ref()));
    found.extend(docker::docker(&config, file, user).await);
    found.extend(storage(&config.state_dir));
    found.push(clock_check());
    found.push(descriptors(&config));
    found.push(trusted(&config));
    found.extend(certificates::certificates(&config, clock::wall()));
    found.extend(upstreams(&config).await);
    found.push(container::stop_time(&config).await);
    found
}

/// The configuration and what is to be said of it, or only its errors.
fn configuration(file: Option<&Path>) -> Result<(Config, Finding), Vec<Finding>> {
    const CHECK: &str = "config";
    let problem = |error: &dyn std::fmt::Display| {
        Finding::bad(
            CHECK,
            Level::Problem,
            error.to_string(),
            "cutover does not start with it, and a reload changes nothing",
            "mend the line; `cutover check` lists all errors",
        )
    };
    let problems =
        |errors: Diagnostics| -> Vec<_> { errors.0.iter().map(|error| problem(error)).collect() };
    let Some(file) = file else {
        let config = run::without_a_file().map_err(problems)?;
        let finding = if run::has_docker() {
            let what = "there is no file: the labels of containers say what is served";
            Finding::ok(CHECK, what)
        } else {
            Finding::bad(
                CHECK,
                Level::Problem,
                "there is no file, and no Docker socket either",
                "cutover does not start: it has nothing to serve",
                "write ./cutover.toml or /etc/cutover/cutover.toml, name a file with --config, or mount the socket",
            )
        };
        return Ok((config, finding));
    };
    let config = compat::load(file).map_err(problems)?;
    let finding = Finding::ok(CHECK, format!("{} has no errors", file.display()));
    Ok((config, finding))
}

fn ports(config: &Config, running: bool) -> Vec<Finding> {
    const CHECK: &str = "ports";
    if running {
        return vec![Finding::ok(CHECK, "the running daemon listens")];
    }
    let listen = &config.listen;
    let all = listen.http.iter().chain(&listen.https).chain([&listen.ops]);
    all.map(|address| match TcpListener::bind(address) {
        Ok(_) => Finding::ok(CHECK, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::bad(
            CHECK,
            Level::Problem,
            match holder::holder(*address) {
                Some(holder) => format!("{address} is taken by {holder}"),
                None => format!("{address} is taken, by whom is not known to this user"),
            },
            "another program listens there: cutover cannot start",
            "stop it (`ss -ltnp` names it), or change [listen]",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Finding::bad(
            CHECK,
            Level::Problem,
            format!("{address} is not allowed for this user"),
            "ports below 1024 need root or CAP_NET_BIND_SERVICE",
            "give the capability, or change [listen]",
        ),
        Err(error) => Finding::bad(
            CHECK,
            Level::Warning,
            format!("{address}: {error}"),
            "a missing address family is skipped when there is another address",
            "remove the address if this machine does not have it",
        ),
    })
    .collect()
}

fn storage(folder: &Path) -> Vec<Finding> {
    const CHECK: &str = "storage";
    let shown = folder.display();
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Finding::ok(
                CHECK,
                format!("{shown} will be made at the first start"),
            )];
        }
        Err(error) => {
            return vec![Finding::bad(
                CHECK,
                Level::Problem,
                format!("{shown}: {error}"),
                "the live colors cannot be remembered",
                "make the folder accessible for the user of the daemon",
            )];
        }
    };
    let mut found = Vec::new();
    if metadata.permissions().mode() & 0o077 != 0 {
        found.push(Finding::bad(
            CHECK,
            Level::Warning,
            format!(
                "{shown} has mode {:o}",
                metadata.permissions().mode() & 0o777
            ),
            "others on this machine may read private keys or change the live color",
            "chmod 700 the folder",
        ));
    }
    found.push(match write_durably(folder) {
        Ok(took) if took > Duration::from_millis(200) => Finding::bad(
            CHECK,
            Level::Warning,
            format!("a durable write in {shown} takes {} ms", took.as_millis()),
            "a switch waits for two of them",
            "use a faster disk for state_dir",
        ),
        Ok(took) => Finding::ok(
            CHECK,
            format!("a durable write in {shown} takes {} ms", took.as_millis()),
        ),
        Err(error) => Finding::bad(
            CHECK,
            Level::Problem,
            format!("{shown} cannot be written: {error}"),
            "switches are refused; a rollback works, but a restart forgets it",
            "free space, mount it writable, or give it to the user of the daemon",
        ),
    });
    if let Ok(space) = nix::sys::statvfs::statvfs(folder) {
        let free = space.blocks_available() * space.fragment_size();
        let mebibytes = free >> 20;
        found.push(if mebibytes < 100 {
            Finding::bad(
                CHECK,
                Level::Warning,
                format!("{mebibytes} MiB are free in {shown}"),
                "a full disk refuses switches",
                "free some space",
            )
        } else {
            Finding::ok(CHECK, format!("{mebibytes} MiB are free in {shown}"))
        });
    }
    let in_container = Path::new("/.dockerenv").exists();
    let on_root = fs::metadata("/").is_ok_and(|root| root.dev() == metadata.dev());
    if in_container && on_root {
        found.push(Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown} is inside the container"),
            "the live color and all certificates are lost when the container is replaced",
            "mount a volume there",
        ));
    }
    found.push(match journal::inspect(folder) {
        Ok(None) => Finding::ok("journal", "it is whole"),
        Ok(Some(damage)) => Finding::bad(
            "journal",
            Level::Problem,
            damage,
            "its newest good record is served, and switches are refused",
            "look at `proxyctl status`, then run `proxyctl doctor --repair`",
        ),
        Err(error) => Finding::bad(
            "journal",
            Level::Problem,
            error.to_string(),
            "the live color cannot be read",
            "make the file readable for the user of the daemon, or start the newer version",
        ),
    });
    found
}

fn write_durably(folder: &Path) -> std::io::Result<Duration> {
    let path = folder.join(".doctor");
    let begun = clock::now();
    let mut file = fs::File::create(&path)?;
    file.write_all(b"doctor")?;
    file.sync_all()?;
    let took = clock::now().saturating_duration_since(begun);
    fs::remove_file(&path)?;
    Ok(took)
}

/// Nothing that runs this was built before.
const OLDEST: Duration = Duration::from_secs(1_790_000_000);

fn clock_check() -> Finding {
    let now = clock::wall();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since < OLDEST {
        Finding::bad(
            "clock",
            Level::Problem,
            format!("it is {}", clock::rfc3339(now)),
            "that is before this program was made: certificates look not yet valid",
            "set the clock, and keep it with NTP",
        )
    } else {
        Finding::ok("clock", format!("it is {}", clock::rfc3339(now)))
    }
}

fn descriptors(config: &Config) -> Finding {
    use nix::sys::resource::{Resource, getrlimit};
    // A connection takes one, and one to its upstream.
    let wanted = 2 * config.limits.connections as u64 + 256;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < wanted => Finding::bad(
            "limits",
            Level::Warning,
            format!("at most {hard} open files, limits.connections wants {wanted}"),
            "new connections fail before the limit is reached",
            "raise the hard limit (`ulimits: nofile` in Compose), or lower limits.connections",
        ),
        Ok((_, hard)) => Finding::ok("limits", format!("at most {hard} open files")),
        Err(error) => Finding::bad(
            "limits",
            Level::Warning,
            format!("the limit on open files is unknown: {error}"),
            "connections may fail when there are many",
            "look at `ulimit -Hn`",
        ),
    }
}

fn trusted(config: &Config) -> Finding {
    let anybody: [std::net::IpAddr; 2] = [[203, 0, 113, 1].into(), [198, 51, 100, 1].into()];
    if anybody
        .iter()
        .all(|client| config.listen.trusted_proxies.contains(*client))
    {
        return Finding::bad(
            "trusted proxies",
            Level::Problem,
            "every address is trusted",
            "any client may claim to be any other one",
            "list the addresses of the load balancer alone",
        );
    }
    let what = if config.listen.trusted_proxies.is_empty() {
        "none: forwarding headers of clients are removed"
    } else {
        "only the listed ones are believed"
    };
    Finding::ok("trusted proxies", what)
}

async fn upstreams(config: &Config) -> Vec<Finding> {
    let resolver = Resolver::system();
    let mut found = Vec::new();
    for service in &config.services {
        for color in Color::ALL {
            let slot = service.slots[color.index()].iter();
            for upstream in slot.flat_map(|slot| &slot.upstreams) {
                let name = format!("{} {color} {upstream}", service.name);
                found.push(upstream_check(&resolver, &name, upstream).await);
            }
        }
    }
    found
}

async fn upstream_check(resolver: &Resolver, name: &str, upstream: &UpstreamAddr) -> Finding {
    const CHECK: &str = "upstreams";
    /// A look, not a probe.
    const PATIENCE: Duration = Duration::from_secs(2);
    let unreachable = |error: String| {
        Finding::bad(
            CHECK,
            Level::Warning,
            format!("{name}: {error}"),
            "requests for this color fail, and it passes no gate",
            "start it, or mend its address; in Compose both must share a network",
        )
    };
    let addresses = match upstream.endpoint() {
        Endpoint::Unix(path) => {
            let connected = tokio::net::UnixStream::connect(path);
            return match tokio::time::timeout(PATIENCE, connected).await {
                Ok(Ok(_)) => Finding::ok(CHECK, format!("{name} accepts connections")),
                Ok(Err(error)) => unreachable(error.to_string()),
                Err(_) => unreachable("no answer in 2 s".to_owned()),
            };
        }
        Endpoint::Socket(address) => vec![*address],
        Endpoint::Name { host, port } => match resolver.lookup(host).await {
            Ok(resolved) => {
                let address = |ip| SocketAddr::new(ip, *port);
                resolved.addrs.into_iter().map(address).collect()
            }
            Err(error) => {
                return Finding::bad(
                    CHECK,
                    Level::Warning,
                    format!("{name}: {error}"),
                    "the name has no address now, so this color takes nothing",
                    "check the name; in Compose it is the service's name or alias on a shared network",
                );
            }
        },
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        let connected = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(PATIENCE, connected).await {
            Ok(Ok(_)) => return Finding::ok(CHECK, format!("{name} accepts connections")),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = "no answer in 2 s".to_owned(),
        }
    }
    unreachable(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let site = "[[site]]\nhosts = [\"a.example\"]\nupstream = [\"127.0.0.1:1\"]\n";
        crate::config::load_str("cutover.toml", &format!("{text}\n{site}"))
            .expect("a configuration")
    }

    fn worst(found: &[Finding]) -> Level {
        found.iter().map(|one| one.level).max().expect("a finding")
    }

    #[test]
    fn every_error_of_the_file_is_a_problem_with_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cutover.toml");
        fs::write(&file, "shutdown_grace = 5\n").expect("a file");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let found = runtime.block_on(doctor(Some(&file), false));
        assert_eq!(worst(&found), Level::Problem);
        assert!(found[0].what.contains("cutover.toml:1:18: "), "{found:?}");
    }

    #[test]
    fn without_a_file_it_is_what_run_would_serve_or_why_that_does_not_start() {
        let (config, finding) = configuration(None).expect("the defaults");
        assert!(config.docker.is_some_and(|docker| docker.enabled));
        let level = match run::has_docker() {
            true => Level::Ok,
            false => Level::Problem,
        };
        assert_eq!(finding.level, level, "{finding:?}");
    }

    #[test]
    fn a_taken_port_is_a_problem_unless_the_daemon_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let config = config(&format!(
            "[listen]\nhttp = [\"{address}\"]\nhttps = []\nops = \"127.0.0.1:0\"\n"
        ));
        let found = ports(&config, false);
        assert!(
            found
                .iter()
                .any(|one| one.level == Level::Problem && one.what.contains("is taken by"))
        );
        assert_eq!(worst(&ports(&config, true)), Level::Ok);
    }

    #[test]
    fn a_damaged_journal_and_an_open_folder_are_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
        assert!(
            storage(folder.path())
                .iter()
                .all(|one| one.check != "journal" || one.level == Level::Ok)
        );
        fs::write(folder.path().join("journal.wal"), "00000000 1 {}\n").expect("a file");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let found = storage(folder.path());
        let told = |what: &str, level| {
            found
                .iter()
                .any(|one| one.level == level && one.what.contains(what))
        };
        assert!(told("is damaged", Level::Problem), "{found:?}");
        assert!(told("has mode 755", Level::Warning), "{found:?}");
    }

    #[test]
    fn trusting_everybody_is_a_problem() {
        let open = config("[listen]\ntrusted_proxies = [\"0.0.0.0/0\"]\n");
        assert_eq!(trusted(&open).level, Level::Problem);
        let some = config("[listen]\ntrusted_proxies = [\"10.0.0.0/8\"]\n");
        assert_eq!(trusted(&some).level, Level::Ok);
    }

    #[test]
    fn an_upstream_that_does_not_answer_is_named_with_its_color() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let found = runtime.block_on(upstreams(&config("")));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].level == Level::Warning && found[0].what.contains("blue 127.0.0.1:1"),
            "{found:?}"
        );
    }
}
