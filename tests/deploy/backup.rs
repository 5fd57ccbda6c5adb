//! The example's backup, on a real PostgreSQL, and every way in which one breaks off.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::database::{Database, example_job, open};
use super::{Engine, IMAGE, SHORT, Shop, World};
use crate::support::{wait_for, wait_until};

/// Listens for notifications.
struct Hook {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let hook = Self {
            address: listener.local_addr().expect("an address"),
            got: Arc::default(),
        };
        let got = Arc::clone(&hook.got);
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                if let Some(note) = note(&mut socket) {
                    got.lock().expect("no panic").push(note);
                }
                let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                let _ = socket.write_all(answer.as_bytes());
            }
        });
        hook
    }

    fn config(&self) -> String {
        let address = self.address;
        format!("[[notify]]\nurl = \"http://{address}/hook\"\nevents = [\"job_failed\"]\n")
    }

    /// Waits for the next note that nobody has asked for yet.
    fn next(&self) -> Value {
        wait_until("somebody is told", || {
            !self.got.lock().expect("no panic").is_empty()
        });
        self.got.lock().expect("no panic").remove(0)
    }

    fn is_silent(&self) -> bool {
        self.got.lock().expect("no panic").is_empty()
    }
}

/// The body of one POST.
fn note(socket: &mut TcpStream) -> Option<Value> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer).ok().filter(|length| *length > 0)?;
        text.extend_from_slice(&buffer[..length]);
        let so_far = String::from_utf8_lossy(&text);
        let body = so_far.split_once("\r\n\r\n").map(|(_, body)| body);
        if let Some(Ok(note)) = body.map(serde_json::from_str) {
            return Some(note);
        }
    }
}

/// A volume with a container that keeps it, which looks into it as well: a file system in memory is
/// gone with the last container that has it.
struct Backups<'a> {
    world: &'a World,
    name: String,
    keeper: String,
}

impl<'a> Backups<'a> {
    fn make(world: &'a World, name: &str, options: &[&str]) -> Self {
        let keeper = world.name(&format!("{name}-keeper"));
        let name = world.name(name);
        let _ = world.engine.run(&["volume", "rm", "--force", &name]);
        let create = [&["volume", "create"], options, &[&name]].concat();
        world.engine.ok(&create);
        let (bind, mark) = (format!("{name}:/backups"), format!("test={}", world.prefix));
        world.engine.ok(&[
            "run",
            "--detach",
            "--name",
            &keeper,
            "--label",
            &mark,
            "--volume",
            &bind,
            IMAGE,
            "/bin/sleep",
            "100000",
        ]);
        Self {
            world,
            name,
            keeper,
        }
    }

    fn shell(&self, command: &str) -> String {
        let shell = ["exec", &self.keeper, "/bin/busybox", "sh", "-ec"];
        let all = [&shell[..], &[command]].concat();
        self.world.engine.ok(&all)
    }

    /// The finished copies, each with the sum of its content.
    fn copies(&self) -> Vec<String> {
        let sums =
            "cd /backups; for f in daily-*.dump; do [ ! -e $f ] || /bin/busybox sha256sum $f; done";
        self.shell(sums).lines().map(str::to_owned).collect()
    }
}

impl Drop for Backups<'_> {
    fn drop(&mut self) {
        let engine = &self.world.engine;
        let _ = engine.run(&["rm", "--force", &self.keeper]);
        let _ = engine.run(&["volume", "rm", "--force", &self.name]);
    }
}

/// One job of `status`.
fn shown(shop: &Shop<'_>, name: &str) -> Value {
    let status = shop.edge.status();
    let jobs = status["jobs"].as_array().cloned().unwrap_or_default();
    let found = jobs.into_iter().find(|job| job["name"] == name);
    found.expect("the job is shown")
}

/// Runs a job that must fail, and looks at everything that must say so; gives the reason.
fn fails(shop: &Shop<'_>, hook: &Hook, name: &str) -> String {
    assert!(hook.is_silent(), "{:?}", hook.got);
    let ended = shop.edge.proxyctl(&["job", name]);
    assert_eq!(ended.code, 1, "{ended:?}");
    said(shop, hook, name)
}

fn said(shop: &Shop<'_>, hook: &Hook, name: &str) -> String {
    let note = hook.next();
    assert_eq!(note["event"], "job_failed", "{note}");
    assert_eq!(note["title"], format!("job {name} failed"), "{note}");
    let shown = shown(shop, name);
    let reason = shown["failure"].as_str().expect("a reason").to_owned();
    let text = note["text"].as_str().expect("a text");
    assert!(text.contains(&reason), "{note} {shown}");
    let people = shop.edge.proxyctl(&["status"]).stdout;
    assert!(people.contains(&format!("failed: {reason}")), "{people}");
    reason
}

/// What the example has as its own values.
fn variables(volume: &str, secrets: &Path) -> Vec<(&'static str, PathBuf)> {
    std::fs::write(secrets.join("pgpass"), "db:5432:app:app:\n").expect("written");
    vec![
        (
            "POSTGRES_IMAGE",
            PathBuf::from("cutover-test-postgres:latest"),
        ),
        ("BACKUPS", PathBuf::from(volume)),
        ("SECRETS", secrets.to_owned()),
    ]
}

fn started<'a>(
    world: &'a World,
    backups: &Backups<'_>,
    jobs: &str,
) -> (Shop<'a>, Database<'a>, tempfile::TempDir) {
    let secrets = tempfile::tempdir().expect("a folder");
    let variables = variables(&backups.name, secrets.path());
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    let (shop, database) = open(world, &["v1"], SHORT, jobs, &variables);
    wait_until("the jobs are known", || {
        !shown(&shop, "backup")["next"].is_null()
    });
    (shop, database, secrets)
}

#[test]
fn a_backup_is_verified_renamed_and_rotated_and_a_full_disk_harms_none() {
    let world = World::new(Engine::shared(), "cutover-t-dep-disk");
    let hook = Hook::start();
    let memory = [
        "--opt",
        "type=tmpfs",
        "--opt",
        "device=tmpfs",
        "--opt",
        "o=size=4m",
    ];
    let backups = Backups::make(&world, "backups", &memory);
    let jobs = format!("{}{}", example_job("backup"), hook.config());
    let (shop, database, _secrets) = started(&world, &backups, &jobs);
    database.fill(1);

    // One that is too old goes when the next good one is there, and not before.
    backups.shell("echo old > /backups/daily-20200101T000000Z.dump; /bin/busybox touch -d '2020-01-01 00:00:00' /backups/daily-20200101T000000Z.dump");
    let ended = shop.edge.proxyctl(&["job", "backup"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    assert!(
        ended.stdout.starts_with("done: job backup did well"),
        "{ended:?}"
    );
    let good = backups.copies();
    assert_eq!(good.len(), 1, "{good:?}");
    assert!(!good[0].contains("20200101"), "{good:?}");
    let last_good = shown(&shop, "backup")["last_good"].clone();
    assert!(last_good.is_string());
    assert!(hook.is_silent(), "{:?}", hook.got);

    // The database has grown beyond the disk.
    database.fill(8);
    let ended = shop.edge.proxyctl(&["job", "backup", "--json"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stdout.contains("No space left on device"),
        "{ended:?}"
    );
    let reason = said(&shop, &hook, "backup");
    assert!(reason.contains("exit code"), "{reason}");
    assert_eq!(backups.copies(), good, "the last good one is unharmed");
    assert_eq!(shown(&shop, "backup")["last_good"], last_good);
    let history = shop.edge.proxyctl(&["history"]).stdout;
    assert!(history.contains("job backup"), "{history}");

    // When there is room again, it is the next one that counts.
    database.sql("delete from orders where id > 100");
    database.sql("vacuum full orders");
    let ended = shop.edge.proxyctl(&["job", "backup"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(shown(&shop, "backup")["failure"].is_null());
    assert!(backups.copies().len() >= 2, "{:?}", backups.copies());
}

/// Ways to write a backup that end with exit code 0 and are none. `pipe` is what many scripts do: the
/// exit code of a pipe is that of its last command. `tick` does well, every minute.
const BROKEN: &str = "\
[[job]]\nname = \"pipe\"\nservice = \"web\"\nschedule = \"0 3 1 1 *\"\nimage = \"cutover-test-postgres:latest\"\n\
command = [\"sh\", \"-c\", \"pg_dump -Fc | { until [ -e /backups/go ]; do sleep 0.1; done; cat; } > /backups/pipe.dump\"]\n\
mounts = [\"${BACKUPS}:/backups\"]\n\
success = { file = \"/backups/pipe.dump\", min_size = \"1KiB\", verify = [\"pg_restore\", \"--file=/dev/null\", \"/backups/pipe.dump\"] }\n\
[[job]]\nname = \"gzip\"\nservice = \"web\"\nschedule = \"0 3 1 1 *\"\nimage = \"cutover-test-postgres:latest\"\n\
command = [\"sh\", \"-c\", \"pg_dump | { until [ -e /backups/go ]; do sleep 0.1; done; gzip; } > /backups/sql.gz\"]\n\
mounts = [\"${BACKUPS}:/backups\"]\n\
success = { file = \"/backups/sql.gz\", min_size = \"1KiB\", verify = [\"sh\", \"-c\", \"gunzip -c /backups/sql.gz | tail -n 5 | grep -q 'dump complete'\"] }\n\
[[job]]\nname = \"nothing\"\nservice = \"web\"\nschedule = \"0 3 1 1 *\"\nimage = \"cutover-test-postgres:latest\"\n\
command = [\"sh\", \"-c\", \"pg_dump -d no_such_database > /backups/nothing.dump || true\"]\n\
mounts = [\"${BACKUPS}:/backups\"]\nsuccess = { file = \"/backups/nothing.dump\" }\n\
[[job]]\nname = \"elsewhere\"\nservice = \"web\"\nschedule = \"0 3 1 1 *\"\nimage = \"cutover-test-postgres:latest\"\n\
command = [\"sh\", \"-c\", \"pg_dump -Fc > /nowhere.dump\"]\n\
mounts = [\"${BACKUPS}:/backups\"]\nsuccess = { file = \"/backups/elsewhere.dump\" }\n\
[[job]]\nname = \"empty\"\nservice = \"web\"\nschedule = \"0 3 1 1 *\"\nimage = \"cutover-test-postgres:latest\"\n\
command = [\"sh\", \"-c\", \"pg_dump -Fc -d postgres -f /backups/empty.dump\"]\n\
mounts = [\"${BACKUPS}:/backups\"]\n\
success = { file = \"/backups/empty.dump\", verify = [\"sh\", \"-c\", \"pg_restore --list /backups/empty.dump | grep -q 'TABLE DATA'\"] }\n\
[[job]]\nname = \"tick\"\nservice = \"web\"\nschedule = \"* * * * *\"\nimage = \"cutover-test-postgres:latest\"\n\
command = [\"sh\", \"-c\", \"echo {time} >> /backups/ticks\"]\n\
mounts = [\"${BACKUPS}:/backups\"]\nsuccess = { file = \"/backups/ticks\" }\n";

#[test]
fn what_only_looks_like_a_backup_is_a_failure() {
    let world = World::new(Engine::shared(), "cutover-t-dep-broken");
    let hook = Hook::start();
    let backups = Backups::make(&world, "backups", &[]);
    let jobs = format!("{}{BROKEN}{}", example_job("backup"), hook.config());
    let (shop, database, _secrets) = started(&world, &backups, &jobs);
    database.fill(4);
    let ended = shop.edge.proxyctl(&["job", "backup"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    let good = backups.copies();
    assert_eq!(good.len(), 1, "{good:?}");

    // The server ends the connection while the dump is on its way through the pipe.
    for name in ["pipe", "gzip"] {
        backups.shell("/bin/busybox rm -f /backups/go");
        let mut command = shop.edge.proxyctl_command();
        let asked = command
            .args(["job", name])
            .stdout(std::process::Stdio::piped());
        let asked = asked.spawn().expect("started");
        wait_until("the dump is in the middle", || {
            let busy = "select count(*) from pg_stat_activity where application_name = 'pg_dump' \
                and query ilike 'copy %' and wait_event = 'ClientWrite'";
            database.sql(busy) == "1"
        });
        let again = shop.edge.proxyctl(&["job", name]);
        assert_eq!(again.code, 3, "it runs already: {again:?}");
        database.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pg_dump'",
        );
        backups.shell("echo > /backups/go");
        let ended = asked.wait_with_output().expect("its end");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let reason = said(&shop, &hook, name);
        assert!(reason.starts_with("the verify command"), "{name}: {reason}");
    }
    for (name, expected) in [
        ("nothing", "has 0 bytes"),
        ("elsewhere", "is not there"),
        ("empty", "the verify command"),
    ] {
        let reason = fails(&shop, &hook, name);
        assert!(reason.contains(expected), "{name}: {reason}");
        let shown = shown(&shop, name);
        assert!(shown["last_good"].is_null(), "{shown}");
    }
    assert_eq!(backups.copies(), good, "the good one is unharmed");
    assert!(shown(&shop, "backup")["failure"].is_null());
    for (name, why) in [("migrate", "no job"), ("tock", "there are backup, pipe")] {
        let refused = shop.edge.proxyctl(&["job", name]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }

    // Meanwhile, or within two minutes, the clock has begun one.
    wait_for(Duration::from_secs(125), "a minute begins", || {
        shown(&shop, "tick")["last_good"].is_string()
    });
    assert!(!backups.shell("cat /backups/ticks").is_empty());
    assert!(hook.is_silent(), "{:?}", hook.got);
    // No job leaves its container; what is shown is a moment old.
    wait_until("no job has left its container", || {
        let shown = shop.edge.status();
        let jobs = shown["containers"].as_array().into_iter().flatten();
        jobs.filter(|one| one["role"] == "job")
            .all(|one| one["name"].to_string().contains("tick"))
    });
}
