//! The database of the example for one server, from its offsite copy, by the words of `RESTORE.md`.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::compose::{Project, docker, image};
use crate::examples::{commands, images};
use crate::support::counts::wanted;
use crate::support::{Ended, finish, free_port, now, require, wait_for, wait_until};

/// The volume of the copies, and their folder elsewhere.
const BACKUPS: &str = "cutover-restore-backups";

/// A WebDAV server on this machine: some other place, for who asks from a container.
struct Elsewhere {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Elsewhere {
    fn start() -> Self {
        require("rclone");
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let child = Command::new("rclone")
            .args(["serve", "webdav", "--addr", &format!("0.0.0.0:{port}")])
            .args(["--user", "saas", "--pass", "hidden", "--config", ""])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let elsewhere = Self {
            folder,
            port,
            child,
        };
        wait_until("it listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        elsewhere
    }

    /// `rclone.conf` with the remote `offsite`.
    fn remote(&self) -> String {
        let form = "{{(index .IPAM.Config 0).Gateway}}";
        let host = docker(&[
            "network",
            "inspect",
            "cutover-restore_app",
            "--format",
            form,
        ]);
        let hidden = finish(Command::new("rclone").args(["obscure", "hidden"])).stdout;
        format!(
            "[offsite]\ntype = webdav\nurl = http://{host}:{}\nvendor = other\nuser = saas\npass = {}\n",
            self.port,
            hidden.trim()
        )
    }

    fn copies(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path().join(BACKUPS));
        let names = names.into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rows of a table: how many, and a sum over the content of all of them.
fn content(project: &Project) -> String {
    let sum = "select count(*), sum(hashtextextended(o::text, 0)) from orders o";
    typed(project, &psql(sum)).stdout
}

fn psql(statement: &str) -> String {
    format!("docker compose exec db psql -XqAt -U app -c \"{statement}\"")
}

fn typed(project: &Project, line: &str) -> Ended {
    let ended = finish(&mut project.shell(line));
    assert_eq!(ended.code, 0, "{line}: {ended:?}");
    ended
}

/// The same, with the time that it took.
fn timed(project: &Project, what: &str, line: &str) {
    let began = now();
    typed(project, line);
    println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn a_lost_database_comes_back_from_the_offsite_copy() {
    images();
    image(&["postgres"]);
    image(&["rclone"]);
    let elsewhere = Elsewhere::start();
    let mut project = Project::new(Some("config/solo-saas"), &["cutover-restore"]);
    project.set("POSTGRES_IMAGE", "cutover-test-postgres:latest");
    project.set("RCLONE_IMAGE", "cutover-test-rclone:latest");
    project.set("BACKUPS", BACKUPS);
    let mebibytes = wanted("SOAK_RESTORE_MB", 20);
    for line in commands(&project, "README.md") {
        if line.contains("proxyctl deploy") {
            break;
        }
        if !line.ends_with("doctor") {
            typed(&project, &line);
        }
    }
    fs::write(project.at("secrets/rclone.conf"), elsewhere.remote()).expect("written");
    typed(
        &project,
        &psql("create table orders (id bigserial primary key, note text not null)"),
    );
    // Each row has a KiB that does not compress.
    typed(
        &project,
        &psql(&format!(
            "insert into orders (note) select (select string_agg(md5(random()::text || n || i), '') \
             from generate_series(1, 32) i) from generate_series(1, {}) n",
            mebibytes * 1024
        )),
    );
    let size = typed(&project, &psql("select pg_database_size('app')")).stdout;
    println!(
        "database: {} MB",
        size.trim().parse::<u64>().expect("a number") / 1_000_000
    );
    let before = content(&project);
    wait_for(Duration::from_secs(60), "the containers are known", || {
        let status = finish(&mut project.shell("docker compose exec proxy proxyctl status"));
        status.stdout.contains("live")
    });
    timed(
        &project,
        "dump",
        "docker compose exec proxy proxyctl job backup",
    );
    timed(
        &project,
        "offsite copy",
        "docker compose exec proxy proxyctl job offsite",
    );
    assert_eq!(elsewhere.copies().len(), 1, "{:?}", elsewhere.copies());

    // All of it is lost.
    typed(&project, "docker compose rm --stop --force db");
    for volume in ["cutover-restore_db", BACKUPS] {
        docker(&["volume", "rm", volume]);
    }

    for line in commands(&project, "RESTORE.md") {
        let line = line
            .replace("saas-backups", BACKUPS)
            .replace("rclone/rclone:1", "cutover-test-rclone");
        let began = now();
        let ended = typed(&project, &line);
        let phase = ["docker run", "pg_restore"];
        if let Some(phase) = phase.iter().find(|phase| line.contains(*phase)) {
            println!("{phase}: {:.1} s", began.elapsed().as_secs_f64());
        }
        if line.contains("maintenance on") {
            let closed = project.ask_with("shop.example.com", &["--insecure"]);
            assert!(closed.stdout.contains("back in a moment"), "{closed:?}");
        }
        if line.contains("pg_stat_user_tables") {
            assert!(ended.stdout.contains("orders"), "{ended:?}");
        }
    }
    assert_eq!(content(&project), before);
    assert!(project.ask("shop.example.com").ends_with("v1\n"));
}
