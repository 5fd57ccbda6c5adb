//! Releases over a real database, while a hundred requests a second read and write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use super::database::{Database, example_job, image, open};
use super::mixed::{Mixed, RATE, Total};
use super::{Engine, SHORT, Shop, World};
use crate::support::counts::wanted;
use crate::support::finish;

/// Containers of the service itself, without the database.
fn of_web(shop: &Shop<'_>) -> Vec<(String, String)> {
    let all = shop.containers().into_iter();
    all.filter(|(name, _)| name.contains("-web-")).collect()
}

/// The rows by id.
fn rows(database: &Database<'_>) -> BTreeMap<u64, String> {
    let all = database.sql("select id, note from orders order by id");
    let row = |line: &str| {
        let (id, note) = line.split_once('|').expect("two columns");
        (id.parse().expect("an id"), note.to_owned())
    };
    all.lines().map(row).collect()
}

/// Everything that a client was told is done, is there.
fn all_is_there(total: &Total, rows: &BTreeMap<u64, String>) {
    for (id, note) in &total.acknowledged {
        assert_eq!(rows.get(id), Some(note), "order {id} is lost");
    }
}

fn nothing_failed(total: &Total) {
    assert!(
        total.failed.is_empty(),
        "{} of {} failed: {:?}",
        total.failed.len(),
        total.seen.answered(),
        &total.failed[..total.failed.len().min(5)]
    );
}

#[test]
fn releases_one_after_the_other_cost_no_request_and_no_acknowledged_message() {
    cost_nothing("cutover-t-dep-db", &[]);
}

#[test]
fn rolling_releases_end_their_streams_politely_and_cost_no_request_either() {
    let rolling = ["--service", "web", "--strategy", "rolling"];
    cost_nothing("cutover-t-dep-rolldb", &rolling);
}

fn cost_nothing(prefix: &str, how: &[&str]) {
    let world = World::new(Engine::shared(), prefix);
    let (shop, database) = open(&world, &["v1", "v2"], SHORT, "", &[]);
    let deploys = wanted("SOAK_DEPLOYS", 3);
    let load = Mixed::start(shop.edge.http, true);
    load.more(RATE);
    for n in 0..deploys {
        let version = ["v2", "v1"][usize::from(n % 2 == 1)];
        let ended = shop.deploy(&[&[version], how].concat());
        assert_eq!(ended.code, 0, "{n}: {ended:?}\n{}", shop.edge.log());
        assert_eq!(shop.page(), version);
        let containers = of_web(&shop);
        assert_eq!(containers.len(), 2, "{n}: {containers:?}");
        let running = containers.iter().filter(|(_, state)| state == "running");
        assert_eq!(running.count(), 1, "{n}: {containers:?}");
    }
    load.more(RATE);
    let total = load.end();
    let seen = &total.seen;
    println!(
        "{deploys} deploys, {:.0} s: {} GET, {} POST, {} messages, {} WebSockets restarted, {} failed",
        total.seconds,
        seen.gets.load(Ordering::Relaxed),
        seen.posts.load(Ordering::Relaxed),
        seen.messages.load(Ordering::Relaxed),
        seen.restarted.load(Ordering::Relaxed),
        total.failed.len()
    );
    nothing_failed(&total);
    assert_eq!(
        seen.closed.load(Ordering::Relaxed),
        0,
        "it was never closed"
    );
    all_is_there(&total, &rows(&database));
    // Both WebSockets lived through each cutover, and came again.
    assert_eq!(seen.restarted.load(Ordering::Relaxed), 2 * deploys);
    let wanted = RATE as f64 * total.seconds / 3.0;
    assert!(
        seen.answered() as f64 > wanted,
        "{} of {wanted}",
        seen.answered()
    );
}

/// Changes the schema and the data, and fails.
const RUINOUS: &str = "[[job]]\nname = \"migrate\"\nservice = \"web\"\nwhen = \"before\"\n\
    command = [\"sh\", \"-ec\", \"psql -X -v ON_ERROR_STOP=1 -c \\\"alter table orders add column broken int\\\" \
    -c \\\"update orders set note = 'ruined'\\\"; echo no such column >&2; exit 7\"]\n";

/// The example's copy before every migration, and such a migration.
struct Copied {
    volume: String,
    secrets: tempfile::TempDir,
}

impl Copied {
    fn new(world: &World) -> Self {
        image(&["postgres"]);
        let secrets = tempfile::tempdir().expect("a folder");
        let password = secrets.path().join("pgpass");
        std::fs::write(password, "db:5432:app:app:\n").expect("written");
        let volume = world.name("backups");
        let _ = world.engine.run(&["volume", "rm", "-f", &volume]);
        Self { volume, secrets }
    }

    fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            (
                "POSTGRES_IMAGE",
                PathBuf::from("cutover-test-postgres:latest"),
            ),
            ("BACKUPS", PathBuf::from(&self.volume)),
            ("SECRETS", self.secrets.path().to_owned()),
        ]
    }
}

fn borrowed<'a>(variables: &'a [(&'static str, PathBuf)]) -> Vec<(&'a str, &'a Path)> {
    let each = variables.iter();
    each.map(|(name, value)| (*name, value.as_path())).collect()
}

#[test]
fn a_failing_migration_under_maintenance_is_undone_to_the_byte() {
    let world = World::new(Engine::shared(), "cutover-t-dep-db-closed");
    let copied = Copied::new(&world);
    let snapshot = example_job("snapshot");
    let closed = snapshot.replace("snapshot = true", "snapshot = true\nmaintenance = true");
    assert_ne!(closed, snapshot);
    let more = format!("{closed}{RUINOUS}");
    let variables = copied.variables();
    let (shop, database) = open(&world, &["v1", "v2"], SHORT, &more, &borrowed(&variables));
    database.fill(4);

    // Nobody writes: not a byte differs.
    let before = database.dump(&[]);
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stdout.contains("restored what snapshot saved"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("no such column"), "{ended:?}");
    let after = database.dump(&[]);
    assert!(
        before == after,
        "the dumps differ: {}",
        differs(&before, &after)
    );

    // Many write: whoever got an answer finds it again, the others were asked to come again.
    let schema = database.dump(&["--schema-only"]);
    let load = Mixed::start(shop.edge.http, false);
    load.more(RATE);
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stdout.contains("restored what snapshot saved"),
        "{ended:?}"
    );
    load.more(RATE);
    let total = load.end();
    nothing_failed(&total);
    let asked_again = total.seen.closed.load(Ordering::Relaxed);
    assert!(asked_again > 0, "it was closed for a while");
    all_is_there(&total, &rows(&database));
    assert!(schema == database.dump(&["--schema-only"]));
    assert_eq!(shop.page(), "v1");
    assert_eq!(of_web(&shop).len(), 1);
    drop(shop);
    world.remove_all();
    world.engine.ok(&["volume", "rm", &copied.volume]);
}

/// The first line that is not the same.
fn differs(before: &str, after: &str) -> String {
    let mut pairs = before.lines().zip(after.lines());
    let found = pairs.find(|(before, after)| before != after);
    format!("{found:?}")
}

#[test]
fn without_maintenance_nothing_is_put_back_and_the_printed_command_does_it() {
    let world = World::new(Engine::shared(), "cutover-t-dep-db-open");
    let copied = Copied::new(&world);
    let more = format!("{}{RUINOUS}", example_job("snapshot"));
    let variables = copied.variables();
    let (shop, database) = open(&world, &["v1", "v2"], SHORT, &more, &borrowed(&variables));
    database.sql("insert into orders (note) values ('the first')");
    let load = Mixed::start(shop.edge.http, true);
    load.more(RATE);
    let ended = shop.deploy(&["v2"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    load.more(RATE);
    let total = load.end();
    nothing_failed(&total);
    assert_eq!(total.seen.closed.load(Ordering::Relaxed), 0);
    assert_eq!(total.seen.restarted.load(Ordering::Relaxed), 0);
    // Every order is there, with whatever the migration has made of it.
    let there = rows(&database);
    for id in total.acknowledged.keys() {
        assert!(there.contains_key(id), "order {id} is lost");
    }
    let ruined = database.sql("select count(*) from orders where note = 'ruined'");
    assert_ne!(ruined, "0", "nothing was put back");
    assert!(ended.stdout.contains("nothing was restored"), "{ended:?}");

    // A person decides that the copy is the better one.
    let advice = ended.stdout.lines();
    let mut advice = advice.filter_map(|line| line.split_once("to put it back: "));
    let (_, command) = advice.next().expect("the command");
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).envs([
        ("PGHOST", "db"),
        ("PGUSER", "app"),
        ("PGDATABASE", "app"),
        ("PGPASSFILE", "/run/secrets/pgpass"),
    ]);
    let restored = finish(&mut shell);
    assert_eq!(restored.code, 0, "{command}: {restored:?}");
    let note = database.sql("select note from orders where id = 1");
    assert_eq!(note, "the first");
    drop(shop);
    world.remove_all();
    world.engine.ok(&["volume", "rm", &copied.volume]);
}
