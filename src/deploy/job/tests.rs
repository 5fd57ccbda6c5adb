//! What a job is made from, and when its copy may be put back.

use std::time::UNIX_EPOCH;

use super::*;
use crate::config::{Env, load_str_with};
use crate::deploy::record::{Facts, Snapshot};

fn read(text: &str) -> Value {
    let mut read: Value = serde_json::from_str(text).expect("JSON");
    read[0].take()
}

fn web() -> Container {
    let text = include_str!("../spec/fixtures/web.json");
    Container::from_inspect(read(text)).expect("a container")
}

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn job(text: &str) -> JobRun {
    let file = format!(
        "[[site]]\nhosts = [\"a.test\"]\nservice = \"web\"\n[service.web]\nblue = [\"web:1\"]\n\
         [[job]]\nname = \"j\"\nservice = \"web\"\n{text}"
    );
    let config = load_str_with("f", &file, &Env::process()).expect("valid");
    let image = read(include_str!("../spec/fixtures/image.json"));
    let images = Images {
        new: "shop:2",
        old: "sha256:1",
    };
    JobRun::new(
        &config.jobs[0],
        &web(),
        &image,
        images,
        "shop-j".to_owned(),
        at(),
    )
}

#[test]
fn a_job_has_the_surroundings_of_its_service_and_none_of_its_names() {
    let job = job("when = \"before\"\ncommand = [\"migrate\", \"up\"]\n");
    let body = job.whole_body(None);
    assert_eq!(body["Image"], "shop:2");
    assert_eq!(body["Cmd"], json!(["migrate", "up"]));
    assert_eq!(body["User"], "1001");
    let env = body["Env"].as_array().expect("a list");
    assert!(env.contains(&json!("DATABASE_URL=postgres://shop@db/shop")));
    let host = &body["HostConfig"];
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["Memory"], 64 * 1024 * 1024);
    let binds = host["Binds"].as_array().expect("a list");
    assert!(binds.contains(&json!("shop_uploads:/uploads:rw")));
    // Nobody who looks for the service finds the job.
    let networks = &body["NetworkingConfig"]["EndpointsConfig"]["shop_data"];
    assert_eq!(networks, &json!({ "Aliases": [] }));
    assert_eq!(job.more.len(), 1);
    assert_eq!(body["Healthcheck"]["Test"], json!(["NONE"]));
    assert_eq!(body["Labels"]["cutover.deploy.job"], "j");
    assert!(body.get("ExposedPorts").is_none());
}

#[test]
fn the_time_is_filled_in_everywhere_and_variables_and_files_are_added() {
    let job = job("schedule = \"0 3 * * *\"\nimage = \"postgres:17\"\n\
         command = [\"pg_dump\", \"-f\", \"/backups/{time}.dump\"]\n\
         env = { PGHOST = \"db\", APP_HOME = \"/x\" }\n\
         mounts = [\"backups:/backups\", \"other:/uploads:ro\"]\n\
         secret_files = [\"/srv/pgpass\"]\n\
         success = { file = \"/backups/{time}.dump\", min_size = \"1KiB\" }\n");
    let body = job.whole_body(None);
    assert_eq!(body["Image"], "postgres:17");
    assert_eq!(body["Cmd"][2], "/backups/20270115T080000Z.dump");
    let left = job.success.as_ref().expect("there");
    assert_eq!(left.file.as_deref(), Some("/backups/20270115T080000Z.dump"));
    let binds = body["HostConfig"]["Binds"].as_array().expect("a list");
    assert!(binds.contains(&json!("backups:/backups")));
    assert!(binds.contains(&json!("/srv/pgpass:/run/secrets/pgpass:ro")));
    assert!(
        !binds.contains(&json!("shop_uploads:/uploads:rw")),
        "{binds:?}"
    );
    let env = body["Env"].as_array().expect("a list");
    assert!(env.contains(&json!("APP_HOME=/x")) && !env.contains(&json!("APP_HOME=/srv")));
    // A user of one image means nothing in another.
    assert!(body.get("User").is_none() && body.get("WorkingDir").is_none());
    let shown = format!("{job:?}");
    assert!(!shown.contains("PGHOST"), "{shown}");
}

#[test]
fn exit_code_0_is_not_enough() {
    let left = Left {
        file: Some("/b".to_owned()),
        min_bytes: 10,
        verify: Vec::new(),
    };
    let file = |bytes, seconds| FileFacts {
        bytes,
        modified: UNIX_EPOCH + Duration::from_secs(seconds),
        is_file: true,
    };
    let began = UNIX_EPOCH + Duration::from_secs(100);
    let obstacle = |found| left.obstacle(found, began);
    assert_eq!(obstacle(Some(file(10, 101))), None);
    assert_eq!(obstacle(None).as_deref(), Some("/b is not there"));
    let small = obstacle(Some(file(9, 101)));
    assert_eq!(small.as_deref(), Some("/b has 9 bytes, less than 10"));
    let old = obstacle(Some(file(10, 90))).expect("an obstacle");
    assert!(old.contains("older than the job"), "{old}");
    let folder = FileFacts {
        is_file: false,
        ..file(10, 101)
    };
    assert_eq!(obstacle(Some(folder)).as_deref(), Some("/b is no file"));
}

fn run(facts: Facts) -> Run {
    let mut run = crate::deploy::machine_world_run();
    run.facts = facts;
    run
}

#[test]
fn a_copy_is_put_back_only_if_nobody_can_have_written_since() {
    let copy = Snapshot { began_ms: 1_000 };
    let covered = Facts {
        snapshots: [(0, copy)].into(),
        closed: true,
        quiet: true,
        ..Facts::default()
    };
    let shut = Doors {
        closed_since_ms: Some(900),
        workers: Vec::new(),
        let_in: false,
    };
    let obstacle = |facts: Facts, doors: &Doors| restore_obstacle(&run(facts), 0, doors);
    assert_eq!(obstacle(covered.clone(), &shut), None);
    let changed = |change: fn(&mut Facts)| {
        let mut facts = covered.clone();
        change(&mut facts);
        obstacle(facts, &shut)
    };
    assert!(changed(|facts| facts.closed = false).is_some());
    assert!(changed(|facts| facts.quiet = false).is_some());
    assert!(changed(|facts| facts.moved = true).is_some());
    assert!(changed(|facts| facts.snapshots.clear()).is_some());
    let doors = |closed_since_ms| Doors {
        closed_since_ms,
        workers: Vec::new(),
        let_in: false,
    };
    assert!(obstacle(covered.clone(), &doors(None)).is_some());
    // Opened and closed again after the copy.
    assert!(obstacle(covered.clone(), &doors(Some(1_001))).is_some());
    let working = Doors {
        workers: vec!["mailer".into()],
        ..shut
    };
    let friends = Doors {
        let_in: true,
        ..doors(Some(900))
    };
    assert!(obstacle(covered.clone(), &friends).is_some());
    let why = obstacle(covered, &working).expect("an obstacle");
    assert_eq!(why, "mailer ran meanwhile and may have written");
}

#[test]
fn the_command_for_a_person_has_no_secret_in_it() {
    let mut job = job(
        "when = \"before\"\nimage = \"postgres:17\"\nsnapshot = true\n\
         command = [\"pg_dump\"]\nenv = { PGPASSWORD = \"hunter2\" }\n\
         restore = [\"sh\", \"-c\", \"pg_restore -d shop '/b/{time}'\"]\nmounts = [\"b:/b\"]\n",
    );
    let command = restore_command(&job);
    assert!(
        command.starts_with("docker create --name cutover-restore --network shop_data -v "),
        "{command}"
    );
    assert!(command.contains("-e PGPASSWORD"), "{command}");
    assert!(!command.contains("hunter2"), "{command}");
    let restore = r"postgres:17 sh -c 'pg_restore -d shop '\''/b/20270115T080000Z'\'''";
    let network = &job.more[0].network;
    let end = format!(
        "{restore} && docker network connect {network} cutover-restore \
         && docker start --attach cutover-restore && docker rm cutover-restore"
    );
    assert!(command.ends_with(&end), "{command}");
    job.more.clear();
    let command = restore_command(&job);
    assert!(
        command.starts_with("docker run --rm --network shop_data -v "),
        "{command}"
    );
    assert!(command.ends_with(restore), "{command}");
}
