//! A shop over a real PostgreSQL: both from images made of Debian's packages, the shop in releases.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Engine, Images, Shop, World, file, first};
use crate::support::{Edge, finish, require, wait_for};

/// Makes one of the images, if it is not there.
pub(crate) fn image(arguments: &[&str]) {
    require("docker");
    let made = finish(Command::new("scripts/test_images.sh").args(arguments));
    assert_eq!(made.code, 0, "{made:?}");
}

/// Releases of the shop under a name that belongs to one test.
pub(crate) fn releases<'a>(world: &'a World, versions: &[&str]) -> Images<'a> {
    let images = Images {
        engine: &world.engine,
        repository: world.name("shop"),
    };
    images.remove();
    for version in versions {
        image(&["shop", version]);
        let from = format!("cutover-test-shop:{version}");
        world.engine.ok(&["tag", &from, &images.name(version)]);
    }
    images
}

/// One PostgreSQL in the network of a test, where it is called `db`.
pub(crate) struct Database<'a> {
    engine: &'a Engine,
    container: String,
}

impl<'a> Database<'a> {
    pub(crate) fn start(world: &'a World) -> Self {
        image(&["postgres"]);
        let container = world.name("db");
        let (mark, network) = (format!("test={}", world.prefix), world.name("net"));
        let mut arguments = vec!["run", "--detach", "--name", &container, "--label", &mark];
        arguments.extend(["--network", &network, "--network-alias", "db"]);
        arguments.extend(["--env", "POSTGRES_USER=app"]);
        arguments.extend(["--env", "POSTGRES_HOST_AUTH_METHOD=trust"]);
        arguments.push("cutover-test-postgres");
        world.engine.ok(&arguments);
        let database = Self {
            engine: &world.engine,
            container,
        };
        wait_for(Duration::from_secs(60), "the database answers", || {
            let ready = ["pg_isready", "--host=127.0.0.1", "--username=app"];
            database.exec(&ready).code == 0
        });
        database.sql("create table orders (id bigserial primary key, note text not null)");
        database
    }

    fn exec(&self, command: &[&str]) -> crate::support::Ended {
        let mut arguments = vec!["exec", &self.container];
        arguments.extend(command);
        self.engine.run(&arguments)
    }

    /// What a statement answers, a row a line.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let psql = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "app", "-c"];
        let ended = self.exec(&[&psql[..], &[statement]].concat());
        assert_eq!(ended.code, 0, "{statement}: {ended:?}");
        ended.stdout.trim().to_owned()
    }

    /// The whole database as text, but for the word that each dump chooses at random.
    pub(crate) fn dump(&self, more: &[&str]) -> String {
        let ended = self.exec(&[&["pg_dump", "-U", "app"], more].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        let lines = ended.stdout.lines();
        let lines = lines.filter(|line| !line.contains("restrict "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Rows of about this many MiB that do not compress.
    pub(crate) fn fill(&self, mebibytes: u64) {
        self.sql(&format!(
            "insert into orders (note) select md5(random()::text) || md5(random()::text) || \
             md5(random()::text) || md5(random()::text) from generate_series(1, {})",
            mebibytes * 8_192
        ));
    }
}

/// The shop, its database and the proxy in front.
pub(crate) fn open<'a>(
    world: &'a World,
    versions: &[&str],
    switch: &str,
    more: &str,
    variables: &[(&str, &Path)],
) -> (Shop<'a>, Database<'a>) {
    world.network("net");
    let database = Database::start(world);
    let images = releases(world, versions);
    let mut options = vec!["--stop-signal", "TERM"];
    for variable in ["PGHOST=db", "PGUSER=app", "PGDATABASE=app"] {
        options.extend(["--env", variable]);
    }
    first(world, &images, "web", &options);
    let edge = Edge::start_with(&file(switch, more), variables);
    let shop = Shop::over(world, images, edge);
    (shop, database)
}

/// A `[[job]]` of the example for one server, as it stands in its file.
pub(crate) fn example_job(name: &str) -> String {
    let text = include_str!("../../config/solo-saas/cutover.toml");
    let found = text
        .split("[[job]]\n")
        .find(|job| job.starts_with(&format!("name = \"{name}\"\n")));
    let job = found.expect("the example has it");
    let end = job.find("\n\n").unwrap_or(job.len());
    format!("[[job]]\n{}\n", job[..end].trim_end())
}
