//! The story on the main page of the README: its Compose file, its commands, what they say.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::compose::{Project, docker, edge_image, image};
use crate::support::{finish, wait_for, wait_until};

const README: &str = include_str!("../../README.md");
const PROJECT: &str = "cutover-t-story";
const HOST: &str = "shop.localhost";

/// What stands between the fences of the first block of a kind.
fn block(kind: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("```{kind}\n")).expect("a block");
    rest.split_once("```").expect("its end").0
}

/// The commands of the block, each with what is shown of its answer.
fn commands() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in block("console").lines() {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push((command, Vec::new())),
            (None, Some((_, said))) => said.push(line),
            (None, None) => panic!("{line}: of no command"),
        }
    }
    all
}

/// Without its numbers, which are others each time.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for c in line.chars() {
        match (c.is_ascii_digit(), plain.ends_with('N')) {
            (true, true) => {}
            (true, false) => plain.push('N'),
            (false, _) => plain.push(c),
        }
    }
    plain
}

/// Fails unless these lines are among those, in this order. `...` ends a line that goes on.
fn assert_says(command: &str, said: &[&str], answer: &str) {
    let mut lines = answer.lines().map(plain);
    for wanted in said {
        let (start, whole) = match wanted.strip_suffix("...") {
            Some(start) => (plain(start.trim_end()), false),
            None => (plain(wanted), true),
        };
        let is_it = |line: String| line.starts_with(&start) && (!whole || line == start);
        assert!(lines.any(is_it), "{command}: not said: {wanted}\n{answer}");
    }
}

/// The names that the images have in the story.
struct Tags;

impl Drop for Tags {
    fn drop(&mut self) {
        for version in ["v1", "v2", "v3"] {
            let tag = format!("shop:{version}");
            finish(Command::new("docker").args(["rmi", &tag]));
        }
    }
}

/// Ends the clients, whatever ends the test.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_story_of_the_readme_goes_as_it_is_told() {
    edge_image();
    for (version, tag) in [("v1", "v1"), ("v2", "v2"), ("bad", "v3")] {
        image(&["app", version]);
        let name = format!("cutover-test-app:{version}");
        docker(&["tag", &name, &format!("shop:{tag}")]);
    }
    let _tags = Tags;
    let project = Project::new(None, &[PROJECT]);
    let ports = format!("\"127.0.0.1:{}:443\"", project.https);
    let file = block("yaml")
        .replace("image: cutover\n", "image: cutover:test\n")
        .replace("\"80:80\", \"443:443\"", &ports);
    assert!(file.contains(&ports), "{file}");
    project.write("docker-compose.yml", &file);

    let (stop, asked, failed) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        Arc::<AtomicU64>::default(),
    );
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (at, (command, said)) in commands().into_iter().enumerate() {
            let ended = finish(&mut project.shell(command));
            let answer = format!("{}{}", ended.stdout, ended.stderr);
            let code = if command.ends_with("deploy v3") { 4 } else { 0 };
            assert_eq!(ended.code, code, "{command}: {answer}");
            assert_says(command, &said, &answer);
            if at == 0 {
                wait_for(Duration::from_secs(60), "the first release serves", || {
                    project.ask(HOST).ends_with("v1\n")
                });
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let page = project.ask(HOST);
                            let is_page = page.ends_with("v1\n") || page.ends_with("v2\n");
                            failed.fetch_add(u64::from(!is_page), Ordering::Relaxed);
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                wait_until("there is a baseline", || {
                    asked.load(Ordering::Relaxed) > 200
                });
            }
        }
    });
    assert!(project.ask(HOST).ends_with("v1\n"));
    assert_eq!(
        failed.load(Ordering::Relaxed),
        0,
        "of {} requests",
        asked.load(Ordering::Relaxed)
    );
}
