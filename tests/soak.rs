//! Long repetitions, in a short form by default. `just soak` runs the long one: counts are kept
//! in `target/soak` and a soak that was interrupted goes on where it ended.

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use support::clients::{Seen, http1_client, http2_client};
use support::{Edge, Origins, wait_until};

/// How often something is repeated: `variable`, else `short`.
fn wanted(variable: &str, short: u64) -> u64 {
    std::env::var(variable).map_or(short, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}"))
    })
}

/// The raw counts of one soak, one JSON object a line. The short form keeps none.
struct Counts(Option<PathBuf>);

impl Counts {
    fn of(name: &str) -> Self {
        let folder = std::env::var_os("SOAK_DIR").map(PathBuf::from);
        if let Some(folder) = &folder {
            fs::create_dir_all(folder).expect("the folder for the counts");
        }
        Self(folder.map(|folder| folder.join(name).with_extension("jsonl")))
    }

    /// The sum of a field over what an interrupted soak has done already.
    fn done(&self, field: &str) -> u64 {
        let text = self.0.as_deref().map(read).unwrap_or_default();
        let lines = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line of counts");
            line[field].as_u64().expect("a count")
        });
        lines.sum()
    }

    fn add(&self, line: &Value) {
        let Some(path) = &self.0 else {
            return;
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the file of counts");
        writeln!(file, "{line}").expect("write counts");
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Memory and descriptors of the daemon once drains are over.
fn at_rest(edge: &Edge) -> (u64, usize) {
    wait_until("no drain is left", || {
        let drains = edge.status()["services"][0]["drains"].clone();
        drains.as_array().is_none_or(Vec::is_empty)
    });
    (edge.resident_kib(), edge.descriptors())
}

#[test]
fn switches_back_and_forth_under_load_lose_nothing_and_leak_nothing() {
    const BATCH: u64 = 100;
    let switches = wanted("SOAK_SWITCHES", 300);
    let counts = Counts::of("switches");
    let mut done = counts.done("switches");
    if done >= switches {
        assert_eq!(
            counts.done("lost"),
            0,
            "lost in an earlier part of the soak"
        );
        return;
    }
    let origins = Origins::start();
    let edge = Edge::start(&origins.config("observe = \"0s\"\ndrain = \"5s\""));
    edge.wait_healthy();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut first: Option<(u64, usize)> = None;
    let mut last = (0, 0);
    while done < switches {
        let seen: Arc<Seen> = Arc::default();
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let seen = Arc::clone(&seen);
                match client {
                    0..=2 => runtime.spawn(http1_client(edge.http, usize::MAX, seen)),
                    3 => runtime.spawn(http1_client(edge.http, 1, seen)),
                    _ => runtime.spawn(http2_client(edge.http, seen)),
                }
            })
            .collect();
        let batch = BATCH.min(switches - done);
        for n in done..done + batch {
            let target = if edge.live() == "blue" {
                "green"
            } else {
                "blue"
            };
            let switched = edge.proxyctl(&["switch", target, "--no-wait"]);
            assert_eq!(switched.code, 0, "switch {n}: {switched:?}");
            assert_eq!(edge.live(), target, "switch {n}");
        }
        seen.enough();
        for client in clients {
            runtime.block_on(client).expect("a client's task");
        }
        done += batch;
        last = at_rest(&edge);
        counts.add(&json!({
            "switches": batch, "answered": seen.answered(), "lost": seen.lost(),
            "resident_kib": last.0, "descriptors": last.1,
        }));
        assert_eq!(seen.lost(), 0, "after {done} switches: {seen:?}");
        assert!(seen.answered() > batch, "{seen:?}");
        // The first batch fills caches and pools.
        first.get_or_insert(last);
    }
    let first = first.expect("at least one batch");
    assert!(
        last.0 < first.0 + 16 * 1024,
        "memory grew from {} KiB to {} KiB",
        first.0,
        last.0
    );
    assert!(
        last.1 <= first.1 + 16,
        "descriptors grew from {} to {}",
        first.1,
        last.1
    );
}
