//! Whole releases on a real engine: good ones under load, and every way to go wrong.
//!
//! The proxy runs on the host, where every bridge can be reached. Each test names its containers by a
//! prefix of its own.

#[path = "deploy/backup.rs"]
mod backup;
#[path = "deploy/database.rs"]
mod database;
#[path = "deploy/engine.rs"]
mod engine;
#[path = "deploy/mixed.rs"]
mod mixed;
#[path = "deploy/released.rs"]
mod released;
#[path = "deploy/rolling.rs"]
mod rolling;
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use support::counts::{Counts, wanted};
use support::docker::{Engine, IMAGE, World};
use support::exchange::exchange;
use support::{Edge, Ended, finish, require, wait_for, wait_until};

/// Longest wait for a whole deploy on a busy machine.
const DEPLOY: Duration = Duration::from_secs(120);

/// Images of one repository that answer with their version. `bad` answers 500 to POSTs, `sick` never
/// becomes healthy, `lame` only in the first container that has the volume.
struct Images<'a> {
    engine: &'a Engine,
    repository: String,
}

impl<'a> Images<'a> {
    fn make(world: &'a World, versions: &[&str]) -> Self {
        let images = Self {
            engine: &world.engine,
            repository: format!("{}-app", world.prefix),
        };
        images.remove();
        for version in versions {
            images.one(world, version);
        }
        images
    }

    fn name(&self, version: &str) -> String {
        format!("{}:{version}", self.repository)
    }

    fn one(&self, world: &World, version: &str) {
        let maker = world.name("maker");
        let _ = self.engine.run(&["rm", "-f", &maker]);
        let serve = match version {
            "sick" => "exec sleep 100000".to_owned(),
            "lame" => format!(
                "{PAGES} mkdir /data/first && exec httpd -f -p 3000 -h /www; exec sleep 100000"
            ),
            "bad" => format!("{PAGES} {BAD} exec httpd -f -p 3000 -h /www"),
            _ => format!("{PAGES} exec httpd -f -p 3000 -h /www"),
        };
        let make = "mkdir -p /www/cgi-bin /data";
        self.engine.ok(&["run", "--name", &maker, IMAGE, "/bin/busybox", "sh", "-c",
            &format!("/bin/busybox {make}; for a in mkdir rmdir chmod kill touch ls rm test; do /bin/busybox ln -sf busybox /bin/$a; done")]);
        let command = format!(
            "CMD [\"/bin/sh\", \"-c\", \"{}\"]",
            serve.replace('"', "\\\"")
        );
        self.engine.ok(&[
            "commit",
            "--change",
            &format!("ENV VERSION={version}"),
            "--change",
            &command,
            "--change",
            "EXPOSE 3000",
            &maker,
            &self.name(version),
        ]);
        self.engine.ok(&["rm", "-f", &maker]);
    }

    fn remove(&self) {
        let filter = format!("reference={}", self.repository);
        let names = self.engine.run(&[
            "images",
            "--filter",
            &filter,
            "--format",
            "{{.Repository}}:{{.Tag}}",
        ]);
        for name in names.stdout.split_whitespace() {
            let _ = self.engine.run(&["rmi", "-f", name]);
        }
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A page with the version, one for health, and a script that answers POSTs.
const PAGES: &str = "echo $VERSION > /www/index.html; echo ok > /www/healthz; \
    printf '#!/bin/sh\\\\necho Status: 200\\\\necho\\\\necho '$VERSION > /www/cgi-bin/app; \
    chmod 755 /www/cgi-bin/app;";

/// The script answers 500 instead.
const BAD: &str =
    "printf '#!/bin/sh\\\\necho Status: 500\\\\necho\\\\necho bad' > /www/cgi-bin/app;";

/// A file with one site over the Compose service `web`. `switch` has its own keys.
fn file(switch: &str, more: &str) -> String {
    format!(
        "[docker]\n[deploy]\nfree_disk = \"1MiB\"\nfree_memory = \"1MiB\"\nstart_timeout = \"15s\"\n\
         [[site]]\nhosts = [\"localhost\", \"127.0.0.1\"]\ndefault = true\nredirect = false\n\
         tls = \"off\"\nservice = \"web\"\n\
         [service.web]\ndocker = {{ service = \"web\", port = 3000 }}\nstop_grace = \"1s\"\n\
         [service.web.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n\
         [service.web.switch]\nready_timeout = \"15s\"\ndrain = \"2s\"\nwebsocket_drain = \"1s\"\n\
         sse_drain = \"1s\"\n{switch}\n{more}"
    )
}

/// Everything is decided at once.
const SHORT: &str = "observe = \"1s\"\nobserve_requests = 0\nobserve_max = \"5s\"";
/// Time for the verdict to see what happens.
const WATCHED: &str = "observe = \"60s\"\nobserve_requests = 100000\nobserve_max = \"90s\"";

/// The first container of the service, as Compose would make it.
fn first(world: &World, images: &Images<'_>, service: &str, more: &[&str]) -> String {
    numbered(world, images, service, 1, more)
}

/// One of several.
fn numbered(
    world: &World,
    images: &Images<'_>,
    service: &str,
    number: usize,
    more: &[&str],
) -> String {
    let name = world.name(&format!("{service}-{number}"));
    let project = format!("com.docker.compose.project={}", world.prefix);
    let label = format!("com.docker.compose.service={service}");
    let mark = format!("test={}", world.prefix);
    let network = world.name("net");
    let image = images.name("v1");
    let mut arguments = vec![
        "run",
        "--detach",
        "--name",
        &name,
        "--label",
        &project,
        "--label",
        &label,
        "--label",
        &mark,
        "--network",
        &network,
        "--network-alias",
        service,
        "--stop-signal",
        "KILL",
    ];
    let (options, command) = match more.iter().position(|one| *one == "--") {
        Some(at) => (&more[..at], &more[at + 1..]),
        None => (more, &[][..]),
    };
    arguments.extend(options);
    arguments.push(&image);
    arguments.extend(command);
    world.engine.ok(&arguments);
    name
}

struct Shop<'a> {
    world: &'a World,
    images: Images<'a>,
    edge: Edge,
}

impl<'a> Shop<'a> {
    fn open(world: &'a World, versions: &[&str], switch: &str, more: &str) -> Self {
        let images = Images::make(world, versions);
        world.network("net");
        first(world, &images, "web", &[]);
        Self::over(world, images, Edge::start(&file(switch, more)))
    }

    /// With containers of `v1` that are there.
    fn over(world: &'a World, images: Images<'a>, edge: Edge) -> Self {
        let shop = Self {
            world,
            images,
            edge,
        };
        wait_until("v1 is served", || shop.page() == "v1");
        shop
    }

    fn page(&self) -> String {
        get(self.edge.http, "GET", "/").map_or_else(|error| error, |(_, body)| body)
    }

    fn deploy(&self, arguments: &[&str]) -> Ended {
        let mut all = vec!["deploy"];
        all.extend(arguments);
        self.edge.proxyctl(&all)
    }

    /// Containers of this test: name and state.
    fn containers(&self) -> BTreeSet<(String, String)> {
        let filter = format!("label=test={}", self.world.prefix);
        let list = self.world.engine.ok(&[
            "ps",
            "-a",
            "--filter",
            &filter,
            "--format",
            "{{.Names}} {{.State}}",
        ]);
        let pair = |line: &str| {
            let (name, state) = line.split_once(' ').unwrap_or((line, ""));
            (name.to_owned(), state.to_owned())
        };
        list.lines().map(pair).collect()
    }

    fn running(&self) -> Vec<String> {
        let all = self.containers().into_iter();
        all.filter(|(_, state)| state == "running")
            .map(|(name, _)| name)
            .collect()
    }

    fn aliases(&self, container: &str) -> String {
        let form = "{{range .NetworkSettings.Networks}}{{.Aliases}}{{end}}";
        self.world
            .engine
            .ok(&["inspect", "--format", form, container])
    }

    /// Whether no deploy goes on; a daemon that does not answer does not say so.
    fn has_no_deploy(&self) -> bool {
        let shown = self.edge.proxyctl(&["status", "--json"]);
        let parsed = serde_json::from_str::<Value>(&shown.stdout);
        shown.code == 0 && parsed.is_ok_and(|status| status["deploy"].is_null())
    }

    /// Kills the daemon between two deploys and starts it with more in its environment.
    fn restart(&mut self, environment: &[(&str, String)], switch: &str) {
        self.edge.stop("-KILL");
        self.edge.child = None;
        self.edge.write(&file(switch, ""));
        self.edge.spawn_with(environment);
        wait_until("the daemon is ready", || self.edge.is_ready());
    }
}

/// One request on a connection of its own: the status and the body.
fn get(edge: SocketAddr, method: &str, path: &str) -> Result<(u16, String), String> {
    exchange(edge, method, "localhost", path, "").map(|answer| (answer.status, answer.body))
}

/// A hundred requests a second, GET and POST, until it is ended.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(edge: SocketAddr) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let sent: Arc<AtomicU64> = Arc::default();
        let failed: Arc<Mutex<Vec<String>>> = Arc::default();
        let clients = (0..4).map(|n| {
            let (stop, sent, failed) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&failed));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (method, path) = match n % 2 {
                        0 => ("GET", "/"),
                        _ => ("POST", "/cgi-bin/app"),
                    };
                    match get(edge, method, path) {
                        Ok((200, _)) => {}
                        other => failed
                            .lock()
                            .expect("no panic")
                            .push(format!("{method}: {other:?}")),
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(40));
                }
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            sent,
            failed,
        }
    }

    fn more(&self, count: u64) {
        let until = self.sent.load(Ordering::Relaxed) + count;
        wait_until("more requests were answered", || {
            self.sent.load(Ordering::Relaxed) >= until
        });
    }

    /// Ends it: requests, and what failed.
    fn end(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("no panic");
        }
        let failed = std::mem::take(&mut *self.failed.lock().expect("no panic"));
        (self.sent.load(Ordering::Relaxed), failed)
    }
}

#[test]
fn a_release_under_load_costs_no_request_and_leaves_the_one_before_stopped() {
    let world = World::new(Engine::shared(), "cutover-t-dep-good");
    let shop = Shop::open(&world, &["v1", "v2"], SHORT, "");
    let plan = shop.deploy(&["v2", "--dry-run"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert!(plan.stdout.contains("nothing was done"), "{plan:?}");
    assert_eq!(shop.containers().len(), 1, "a dry run does nothing");

    let load = Load::start(shop.edge.http);
    load.more(50);
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    load.more(50);
    let (sent, failed) = load.end();
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(shop.page(), "v2");

    let containers = shop.containers();
    assert_eq!(containers.len(), 2, "{containers:?}");
    let [live] = &shop.running()[..] else {
        panic!("{containers:?}");
    };
    assert!(
        live.starts_with("cutover-t-dep-good-web-green-d1"),
        "{live}"
    );
    // The plain name came with the verdict.
    let aliases = shop.aliases(live);
    assert!(
        aliases.contains("web-green") && aliases.contains("web "),
        "{aliases}"
    );
    let labels = world
        .engine
        .ok(&["inspect", "--format", "{{json .Config.Labels}}", live]);
    assert!(!labels.contains("com.docker.compose"), "{labels}");

    wait_until("status shows what each of them is for", || {
        let shown = shop.edge.status();
        let list = shown["containers"].as_array().cloned().unwrap_or_default();
        let roles: Vec<_> = list.iter().filter_map(|one| one["role"].as_str()).collect();
        roles == ["live", "kept"]
    });

    // The same content again is nothing to do.
    let again = shop.deploy(&["v2"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stdout.contains("\nalready live"), "{again:?}");
    assert_eq!(shop.containers(), containers);

    // And back, in seconds, from what was kept.
    let back = shop.edge.proxyctl(&["rollback"]);
    assert_eq!(back.code, 0, "{back:?}\n{}", shop.edge.log());
    assert_eq!(shop.page(), "v1");
    assert_eq!(shop.running(), ["cutover-t-dep-good-web-1"]);
    let refused = shop.deploy(&["v2"]);
    assert_eq!(
        refused.code, 3,
        "what a person left is refused: {refused:?}"
    );

    let clean = shop.edge.proxyctl(&["cleanup"]);
    assert_eq!(clean.code, 0, "{clean:?}");
    assert_eq!(shop.containers().len(), 1, "{:?}", shop.containers());
    let history = shop.edge.proxyctl(&["history"]).stdout;
    assert!(
        history.contains("deploy blue to green") && history.contains("sha256:"),
        "{history}"
    );
}

#[test]
fn a_release_that_fails_after_the_switch_is_undone_with_its_containers() {
    let world = World::new(Engine::shared(), "cutover-t-dep-bad");
    let shop = Shop::open(&world, &["v1", "bad"], WATCHED, "");
    let before = shop.containers();
    let load = Load::start(shop.edge.http);
    load.more(100);
    let ended = shop.deploy(&["bad"]);
    load.more(50);
    let (sent, failed) = load.end();
    assert_eq!(ended.code, 4, "{ended:?}\n{}", shop.edge.log());
    // Pages were there all along; POSTs are not sent twice.
    assert!(
        failed.iter().all(|one| one.starts_with("POST")),
        "{failed:?}"
    );
    assert!(
        u64::try_from(failed.len()).unwrap_or_default() * 4 < sent,
        "{} of {sent}",
        failed.len()
    );
    assert_eq!(shop.containers(), before);
    assert_eq!(shop.page(), "v1");
    let refused = shop.deploy(&["bad"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{refused:?}");
}

#[test]
fn a_release_that_never_becomes_healthy_is_refused_and_removed() {
    let world = World::new(Engine::shared(), "cutover-t-dep-sick");
    let shop = Shop::open(&world, &["v1", "sick"], SHORT, "");
    let before = shop.containers();
    let load = Load::start(shop.edge.http);
    let ended = shop.deploy(&["sick"]);
    let (sent, failed) = load.end();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended.stderr.contains("wait for the health gate"),
        "{ended:?}"
    );
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(shop.containers(), before);
}

const FAILING: &str = "[[job]]\nname = \"migrate\"\nservice = \"web\"\nwhen = \"before\"\n\
    command = [\"sh\", \"-c\", \"echo adding a column; echo no such table >&2; exit 7\"]\n\
    [[job]]\nname = \"sorry\"\nservice = \"web\"\nwhen = \"on_failure\"\n\
    command = [\"sh\", \"-c\", \"echo sorry\"]\n";

#[test]
fn a_failing_migration_leaves_the_old_release_untouched_and_shows_its_last_lines() {
    let world = World::new(Engine::shared(), "cutover-t-dep-job");
    let shop = Shop::open(&world, &["v1", "v2"], SHORT, FAILING);
    let before = shop.containers();
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stdout.contains("job migrate: exit code 7"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("no such table"), "{ended:?}");
    assert!(ended.stdout.contains("job sorry"), "{ended:?}");
    assert_eq!(shop.containers(), before);
    assert_eq!(shop.page(), "v1");
}

/// Data in a volume: a copy, a migration that ruins it, and the way back.
fn migration(volume: &str, maintenance: bool) -> String {
    format!(
        "[[job]]\nname = \"dump\"\nservice = \"web\"\nwhen = \"before\"\nmaintenance = {maintenance}\n\
         snapshot = true\nmounts = [\"{volume}:/data\"]\n\
         command = [\"sh\", \"-c\", \"cat /data/db > /data/new; cat /data/new > /data/dump\"]\n\
         restore = [\"sh\", \"-c\", \"cat /data/dump > /data/db\"]\n\
         success = {{ file = \"/data/dump\", min_size = 5, verify = [\"sh\", \"-c\", \"test -s /data/dump\"] }}\n\
         [[job]]\nname = \"migrate\"\nservice = \"web\"\nwhen = \"before\"\nmounts = [\"{volume}:/data\"]\n\
         command = [\"sh\", \"-c\", \"echo ruined > /data/db; exit 1\"]\n"
    )
}

#[test]
fn a_copy_is_put_back_under_maintenance_and_never_else() {
    for (maintenance, expected) in [(true, "precious"), (false, "ruined")] {
        let prefix = format!("cutover-t-dep-restore-{maintenance}");
        let world = World::new(Engine::shared(), &prefix);
        let volume = world.name("data");
        let in_volume = |command: &str| {
            let bind = format!("{volume}:/data");
            world
                .engine
                .ok(&["run", "--rm", "-v", &bind, IMAGE, "/bin/sh", "-c", command])
        };
        in_volume("echo precious > /data/db");
        let shop = Shop::open(
            &world,
            &["v1", "v2"],
            SHORT,
            &migration(&volume, maintenance),
        );
        let ended = shop.deploy(&["v2"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert_eq!(in_volume("cat /data/db"), expected, "{ended:?}");
        match maintenance {
            true => assert!(
                ended.stdout.contains("restored what dump saved"),
                "{ended:?}"
            ),
            false => {
                assert!(ended.stdout.contains("nothing was restored"), "{ended:?}");
                assert!(ended.stdout.contains("docker run --rm"), "{ended:?}");
            }
        }
        assert_eq!(get(shop.edge.http, "GET", "/").expect("open again").0, 200);
        drop(shop);
        world.remove_all();
        let _ = world.engine.run(&["volume", "rm", "-f", &volume]);
    }
}

#[test]
fn many_deploys_leave_the_containers_of_two_colors() {
    let world = World::new(Engine::shared(), "cutover-t-dep-many");
    let shop = Shop::open(&world, &["v1", "v2", "v3"], SHORT, "");
    for n in 0..4 {
        let version = ["v2", "v3"][n % 2];
        let ended = shop.deploy(&[version]);
        assert_eq!(ended.code, 0, "{n}: {ended:?}\n{}", shop.edge.log());
        assert_eq!(shop.page(), version);
        assert_eq!(shop.containers().len(), 2, "{n}: {:?}", shop.containers());
        assert_eq!(shop.running().len(), 1);
    }
}

#[test]
fn a_deploy_leaves_another_project_with_a_service_of_that_name_alone() {
    let world = World::new(Engine::shared(), "cutover-t-dep-two");
    let shop = Shop::open(&world, &["v1", "v2"], SHORT, "");
    let theirs = world.name("theirs-1");
    let project = format!("com.docker.compose.project={}-theirs", world.prefix);
    let (mark, image) = (format!("test={}", world.prefix), shop.images.name("v1"));
    let labels = [project.as_str(), "com.docker.compose.service=web", &mark];
    let mut arguments = vec!["run", "--detach", "--name", &theirs];
    arguments.extend(labels.iter().flat_map(|label| ["--label", *label]));
    arguments.push(&image);
    world.engine.ok(&arguments);
    let form = "{{.Id}} {{.State.StartedAt}} {{.State.Status}}";
    let is = || world.engine.ok(&["inspect", "--format", form, &theirs]);
    let before = is();
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    assert_eq!(shop.page(), "v2");
    assert_eq!(is(), before);
    let clean = shop.edge.proxyctl(&["cleanup"]);
    assert_eq!(clean.code, 0, "{clean:?}");
    assert_eq!(is(), before);
    assert_eq!(shop.containers().len(), 2, "{:?}", shop.containers());
}

#[test]
fn a_switch_and_a_deploy_keep_out_of_each_others_way() {
    let world = World::new(Engine::shared(), "cutover-t-dep-turns");
    let shop = Shop::open(&world, &["v1", "v2", "sick"], WATCHED, "");
    let green = world.name("web-2");
    let (project, mark) = (world.prefix.clone(), format!("test={}", world.prefix));
    let project = format!("com.docker.compose.project={project}");
    let labels = [
        project.as_str(),
        "com.docker.compose.service=web",
        "cutover.color=green",
        &mark,
    ];
    let (network, image) = (world.name("net"), shop.images.name("v2"));
    let mut arguments = vec!["run", "--detach", "--name", &green, "--network", &network];
    arguments.extend(labels.iter().flat_map(|label| ["--label", *label]));
    arguments.extend(["--stop-signal", "KILL", &image]);
    world.engine.ok(&arguments);
    let before = || shop.running().len();
    wait_until("both run", || before() == 2);

    // The release that a switch came from may be needed again.
    wait_until("the other color is fit", || {
        shop.edge.proxyctl(&["switch", "green", "--no-wait"]).code == 0
    });
    let refused = shop.deploy(&["v1", "--force"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("a switch by"), "{refused:?}");
    assert_eq!(before(), 2, "{:?}", shop.containers());
    let back = shop.edge.proxyctl(&["abort"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(shop.page(), "v1");

    // The color that a deploy prepares is nobody else's.
    wait_until("the switch is over", || {
        shop.deploy(&["sick", "--no-wait"]).code == 0
    });
    wait_for(DEPLOY, "it waits for the new container", || {
        let step = shop.edge.status()["deploy"]["step"].to_string();
        step.contains("gate") || step.contains("healthy")
    });
    for verb in [&["switch", "green"][..], &["rollback"]] {
        let refused = shop.edge.proxyctl(verb);
        assert_eq!(refused.code, 3, "{refused:?}");
        assert!(refused.stderr.contains("a deploy of sick"), "{refused:?}");
    }
    assert_eq!(shop.edge.proxyctl(&["abort"]).code, 0);
    wait_for(DEPLOY, "it is over", || shop.has_no_deploy());
    assert_eq!(shop.page(), "v1");
    assert_eq!(before(), 2, "{:?}", shop.containers());
}

#[test]
fn a_release_that_is_left_right_after_its_verdict_finds_the_one_before_running() {
    let world = World::new(Engine::shared(), "cutover-t-dep-late");
    let late = "[[job]]\nname = \"late\"\nservice = \"web\"\nwhen = \"after\"\n\
        command = [\"/bin/sh\", \"-c\", \"sleep 5\"]\n";
    let shop = Shop::open(&world, &["v1", "v2"], SHORT, late);
    let first = shop.running();
    let load = Load::start(shop.edge.http);
    assert_eq!(shop.deploy(&["v2", "--no-wait"]).code, 0);
    wait_for(DEPLOY, "it is kept", || {
        shop.edge.status()["deploy"]["step"] == "job late"
    });
    assert_eq!(shop.page(), "v2");
    let back = shop.edge.proxyctl(&["rollback"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(shop.page(), "v1");
    wait_for(DEPLOY, "it is over", || shop.has_no_deploy());
    load.more(50);
    let (sent, failed) = load.end();
    assert!(failed.is_empty(), "{} of {sent}: {failed:?}", failed.len());
    assert_eq!(shop.page(), "v1");
    assert!(
        first.iter().all(|name| shop.running().contains(name)),
        "{:?}",
        shop.containers()
    );
}

/// `docker-compose up -d` over a file with one service, as a person types it after a change.
fn compose_up(world: &World, images: &Images<'_>, folder: &Path, version: &str, more: &str) {
    let text = format!(
        "services:\n  web:\n    image: {}\n    stop_grace_period: 2s\n    {more}\n    labels: {{test: {}}}\n\
         networks:\n  default: {{name: {}, external: true}}\n",
        images.name(version),
        world.prefix,
        world.name("net"),
    );
    std::fs::write(folder.join("compose.yaml"), text).expect("written");
    let mut command = Command::new("docker-compose");
    let up = ["-p", &world.prefix, "up", "--detach", "--remove-orphans"];
    let ended = finish(command.current_dir(folder).args(up));
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn compose_neither_stops_nor_replaces_what_was_deployed() {
    require("docker-compose");
    let world = World::new(Engine::shared(), "cutover-t-dep-compose");
    let images = Images::make(&world, &["v1", "v2", "v3"]);
    world.network("net");
    let folder = tempfile::tempdir().expect("a folder");
    compose_up(&world, &images, folder.path(), "v1", "");
    let edge = Edge::start(&file(SHORT, ""));
    let shop = Shop::over(&world, images, edge);
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let live = shop.running();
    assert_eq!(live.len(), 1, "{live:?}");
    let started = |name: &str| {
        let form = "{{.Id}} {{.State.StartedAt}}";
        world.engine.ok(&["inspect", "--format", form, name])
    };
    let before = started(&live[0]);

    // The file as it was, the image that is live now, and another configuration: Compose starts its
    // own container again, or makes it anew. Nobody's request goes there.
    let load = Load::start(shop.edge.http);
    for (version, more) in [("v1", ""), ("v2", ""), ("v1", "environment: {NEW: value}")] {
        compose_up(&world, &shop.images, folder.path(), version, more);
        load.more(40);
        assert_eq!(started(&live[0]), before, "{version} {more}");
        assert_eq!(shop.page(), "v2", "{version} {more}");
        assert_eq!(shop.edge.live(), "green", "{version} {more}");
    }
    let (sent, failed) = load.end();
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );

    // The next deploy takes the place of what Compose has started.
    let ended = shop.deploy(&["v3"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    assert_eq!(shop.page(), "v3");
    assert_eq!(shop.containers().len(), 2, "{:?}", shop.containers());
    assert_eq!(shop.running().len(), 1, "{:?}", shop.containers());

    // What it starts beside the live one is idle, and is tidied up with what is kept.
    compose_up(&world, &shop.images, folder.path(), "v2", "");
    assert_eq!(shop.running().len(), 2, "{:?}", shop.containers());
    let first = "cutover-t-dep-compose_web_1";
    let clean = shop.edge.proxyctl(&["cleanup"]);
    let said = format!("{first} removed (idle)");
    assert!(clean.code == 0 && clean.stdout.contains(&said), "{clean:?}");
    assert_eq!(shop.containers().len(), 1, "{:?}", shop.containers());
    let reset = shop.edge.proxyctl(&["reset"]);
    assert_eq!(reset.code, 0, "{reset:?}");
    assert_eq!(shop.running(), [first], "{reset:?}");
    assert_eq!(shop.page(), "v3");
}

/// Notes when it starts and ends, and whether another one runs.
const BOT: &str = "mkdir /data/lock || echo $VERSION twice >> /data/twice; echo $VERSION >> /data/ran; \
    trap 'rmdir /data/lock; exit 0' TERM; while true; do sleep 0.05; done";

#[test]
fn a_stack_is_one_and_its_bot_never_runs_twice() {
    let world = World::new(Engine::shared(), "cutover-t-dep-stack");
    let volume = world.name("data");
    // Of a run that was broken off.
    let _ = world.engine.run(&["volume", "rm", "-f", &volume]);
    let more = format!(
        "[service.bot]\ntype = \"worker\"\norder = \"stop-first\"\n\
        docker = {{ service = \"bot\" }}\nstop_grace = \"10s\"\n\
        [service.mailer]\ntype = \"worker\"\ndocker = {{ service = \"mailer\" }}\nstop_grace = \"1s\"\n\
        [[site]]\nhosts = [\"api.localhost\"]\nredirect = false\ntls = \"off\"\nservice = \"api\"\n\
        [service.api]\ndocker = {{ service = \"api\", port = 3000 }}\nstop_grace = \"1s\"\n\
        [service.api.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n\
        [service.api.switch]\nready_timeout = \"15s\"\ndrain = \"2s\"\n{WATCHED}\n"
    );
    let images = Images::make(&world, &["v1", "v2", "bad"]);
    world.network("net");
    first(&world, &images, "web", &[]);
    first(&world, &images, "api", &[]);
    let bind = format!("{volume}:/data");
    first(
        &world,
        &images,
        "bot",
        &[
            "-v",
            &bind,
            "--stop-signal",
            "TERM",
            "--restart",
            "always",
            "--",
            "/bin/sh",
            "-c",
            BOT,
        ],
    );
    first(
        &world,
        &images,
        "mailer",
        &["--", "/bin/sh", "-c", "exec sleep 100000"],
    );
    let edge = Edge::start(&file(WATCHED, &more));
    let shop = Shop::over(&world, images, edge);
    let api = || {
        let answer = exchange(shop.edge.http, "GET", "api.localhost", "/", "");
        answer.map_or_else(|error| error, |answer| answer.body)
    };
    wait_until("v1 is served", || shop.page() == "v1" && api() == "v1");
    let before = shop.containers();
    let looks = Looks::start(&shop.edge);

    // Undone as one.
    let load = Load::start(shop.edge.http);
    load.more(100);
    let ended = shop.deploy(&["bad"]);
    load.end();
    assert_eq!(ended.code, 4, "{ended:?}\n{}", shop.edge.log());
    assert_eq!(shop.containers(), before);
    assert_eq!((shop.page(), api()), ("v1".to_owned(), "v1".to_owned()));

    // Kept as one: somebody is sure of it.
    let begun = shop.deploy(&["v2", "--no-wait"]);
    assert_eq!(begun.code, 0, "{begun:?}");
    wait_for(DEPLOY, "it is observed", || {
        shop.edge.status()["deploy"]["step"] == "observe"
    });
    assert_eq!(shop.edge.proxyctl(&["promote"]).code, 0);
    wait_for(DEPLOY, "it is over", || shop.has_no_deploy());
    let colors = looks.end();
    // There, back, and there again.
    assert_eq!(colors, ["blue", "green", "blue", "green"]);
    assert_eq!((shop.page(), api()), ("v2".to_owned(), "v2".to_owned()));
    let running = shop.running();
    assert_eq!(running.len(), 4, "{running:?}");
    assert!(
        running.iter().all(|name| name.contains("-green-d")),
        "{running:?}"
    );
    let read = |file: &str| {
        let command = format!("cat /data/{file} 2>/dev/null || true");
        world
            .engine
            .ok(&["run", "--rm", "-v", &bind, IMAGE, "/bin/sh", "-c", &command])
    };
    let ran = read("ran");
    assert_eq!(read("twice"), "", "the bot ran twice: {ran}");
    assert_eq!(ran.lines().collect::<Vec<_>>(), ["v1", "bad", "v1", "v2"]);
    drop(shop);
    world.remove_all();
    let _ = world.engine.run(&["volume", "rm", "-f", &volume]);
}

/// Looks at the status again and again: the live colors of a stack, in the order in which they came.
struct Looks {
    stop: Arc<AtomicBool>,
    looking: std::thread::JoinHandle<Vec<String>>,
}

impl Looks {
    fn start(edge: &Edge) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let is_over = Arc::clone(&stop);
        let mut command = edge.proxyctl_command();
        command.args(["status", "--json"]);
        let looking = std::thread::spawn(move || {
            let mut colors: Vec<String> = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let shown = finish(&mut command);
                let status: Value = serde_json::from_str(&shown.stdout).expect("a status");
                let services = status["services"].as_array().expect("services");
                let live = services.iter().filter(|one| one["live"].is_string());
                let live: BTreeSet<_> = live.map(|one| one["live"].to_string()).collect();
                assert_eq!(live.len(), 1, "one color at a time: {status}");
                let live = live.into_iter().next().unwrap_or_default();
                let live = live.trim_matches('"').to_owned();
                if colors.last() != Some(&live) {
                    colors.push(live);
                }
            }
            colors
        });
        Self { stop, looking }
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().expect("one color at a time")
    }
}

/// Where it is killed: around every record of a good deploy, and of one that is undone.
const RECORDS: u64 = 24;

#[test]
fn a_daemon_that_is_killed_at_any_step_ends_with_one_release_and_nothing_left_over() {
    let world = World::new(Engine::shared(), "cutover-t-dep-kill");
    let mut shop = Shop::open(&world, &["v1", "v2", "v3", "bad"], SHORT, "");
    let kills = wanted("SOAK_DEPLOY_KILLS", 5);
    let counts = Counts::of("deploy-kills");
    let (mut killed, mut kept) = (counts.done("died"), counts.done("went_on"));
    for seed in counts.done("kills")..kills {
        // All of them come once, and a few of them are of every kind: right before and right after
        // each record.
        let point = seed * 37 % (RECORDS * 4);
        let (is_good, at) = (point.is_multiple_of(2), (point / 2 + 1).to_string());
        let was = shop.page();
        let next = match (is_good, was.as_str()) {
            (false, _) => "bad",
            (true, "v2") => "v3",
            (true, _) => "v2",
        };
        let when = format!("seed {seed}: {next} over {was}, killed {at}");
        shop.restart(
            &[("CUTOVER_CRASH_AT_DEPLOY", at.clone())],
            if is_good { SHORT } else { WATCHED },
        );
        let load = (!is_good).then(|| Load::start(shop.edge.http));
        // The answer may be cut off by the end of the daemon.
        let _ = shop.deploy(&[next, "--no-wait", "--force"]);
        wait_for(DEPLOY, "it was killed, or got to its end", || {
            shop.edge.has_ended() || shop.has_no_deploy()
        });
        let was_killed = shop.edge.has_ended();
        if was_killed {
            shop.edge.child = None;
            shop.edge.spawn();
        }
        wait_for(DEPLOY, "it is over", || shop.has_no_deploy());
        if let Some(load) = load {
            load.end();
        }
        let allowed: &[&str] = if is_good { &[&was, next] } else { &[&was] };
        wait_for(DEPLOY, &format!("one release is served, {when}"), || {
            allowed.contains(&shop.page().as_str())
        });
        let went_on = is_good && shop.page() == next;
        killed += u64::from(was_killed);
        kept += u64::from(went_on);
        let (all, running) = (shop.containers(), shop.running());
        let log = shop.edge.log();
        assert_eq!(running.len(), 1, "{when}: {all:?}\n{log}");
        assert!(all.len() <= 2, "{when}: {all:?}\n{log}");
        wait_until("status shows them all", || {
            let status = shop.edge.status();
            let shown = status["containers"].as_array().map(Vec::len);
            shown == Some(all.len())
        });
        counts.add(&json!({"kills": 1, "seed": seed, "at": at, "wanted": next,
            "was": was, "died": u64::from(was_killed), "went_on": u64::from(went_on),
            "served": shop.page()}));
    }
    // Without fail points in the program nothing would be killed.
    assert!(killed * 2 >= kills, "only {killed} of {kills} were killed");
    assert!(kept >= 1, "none of {kills} was kept");
}
