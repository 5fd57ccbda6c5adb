//! What was done to the live colors and to the doors, by whom, when and why.
//!
//! One JSON object a line in `history.jsonl`, appended by a thread of its own: whoever records
//! something never waits for the disk. What is too old or too much is left out when the file is
//! rewritten, at start and every so often. A line that is damaged is skipped: history is for
//! people, nothing is decided by it.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::model::{Color, Release, ServiceName};

/// The file.
const FILE: &str = "history.jsonl";

/// Entries that may wait for the disk.
const WAITING: usize = 1_024;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Entries. Default 1,000.
    pub entries: usize,
    /// Their age. Default 90 days.
    pub age: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            entries: 1_000,
            age: Duration::from_secs(90 * 86_400),
        }
    }
}

/// One thing that was done. What does not apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was over, in milliseconds since 1970.
    pub at_ms: u64,
    /// `switch`, `rollback`, `automatic rollback`, `force`, `promote`, `abort`, `reload`, `recovery`,
    /// `would go back`, `would hold`, `still failing`, `hold`, `resume`, `maintenance on`,
    /// `maintenance off`, `freeze`, `unfreeze`, `repair`, `deploy`, `rollback to kept`, `job NAME`,
    /// `cleanup`, `reset`.
    pub what: String,
    /// Who: name and user id, or `cutover` itself.
    #[serde(default)]
    pub who: String,
    /// What it was about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceName>,
    /// The color that was live before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Color>,
    /// The color that is live after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Color>,
    /// What runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// What runs there to the byte: the digest of its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How it ended: an outcome's word.
    #[serde(default)]
    pub result: String,
    /// Why, or what was said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// From the command to the cutover, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_ms: Option<u64>,
    /// From the cutover to the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe_ms: Option<u64>,
    /// From the verdict to the end of the drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
    /// Requests that the new color answered under watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Those of them that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// More about it, a line each: what speaks against the containers of a release, and what they wrote last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// The history of one state folder. A clone is the same one.
#[derive(Clone, Debug)]
pub struct History {
    kept: Arc<Mutex<Kept>>,
    writer: SyncSender<Entry>,
}

#[derive(Debug)]
struct Kept {
    entries: VecDeque<Entry>,
    keep: Keep,
}

impl History {
    /// Reads what is there and starts the thread that writes. A file that cannot be read or
    /// written is said in the log; entries are then kept in memory.
    #[must_use]
    pub fn open(state_dir: &Path, keep: Keep) -> Self {
        let path = state_dir.join(FILE);
        let mut entries = read(&path);
        prune(&mut entries, keep, clock::epoch_ms(clock::wall()));
        if let Err(error) = rewrite(&path, &entries) {
            tracing::warn!(%error, path = %path.display(), "the history cannot be written");
        }
        let kept = Arc::new(Mutex::new(Kept { entries, keep }));
        let (writer, inbox) = sync_channel(WAITING);
        let shared = Arc::clone(&kept);
        let spawned = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || write(&path, &inbox, &shared));
        if let Err(error) = spawned {
            tracing::warn!(%error, "the history is kept in memory alone");
        }
        Self { kept, writer }
    }

    /// Keeps so much from now on. On disk that holds with the next rewrite.
    pub fn follow(&self, keep: Keep) {
        let mut kept = lock(&self.kept);
        kept.keep = keep;
        prune(&mut kept.entries, keep, clock::epoch_ms(clock::wall()));
    }

    /// Adds what was done now. Never waits.
    pub fn add(&self, mut entry: Entry) {
        entry.at_ms = clock::epoch_ms(clock::wall());
        {
            let mut kept = lock(&self.kept);
            kept.entries.push_back(entry.clone());
            let keep = kept.keep;
            prune(&mut kept.entries, keep, entry.at_ms);
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.writer.try_send(entry)
        {
            tracing::warn!("an entry of the history is not on disk");
        }
    }

    /// The last `limit` entries, the newest first; only those about `service` if one is given.
    #[must_use]
    pub fn last(&self, limit: usize, service: Option<&ServiceName>) -> Vec<Entry> {
        let kept = lock(&self.kept);
        let about = |entry: &&Entry| {
            service
                .is_none_or(|service| entry.services.is_empty() || entry.services.contains(service))
        };
        kept.entries
            .iter()
            .rev()
            .filter(about)
            .take(limit)
            .cloned()
            .collect()
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    // Nothing inside can panic half-way.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prune(entries: &mut VecDeque<Entry>, keep: Keep, now: u64) {
    let age = clock::millis(keep.age);
    let is_old = |entry: &Entry| now.saturating_sub(entry.at_ms) > age;
    while entries.len() > keep.entries || entries.front().is_some_and(is_old) {
        entries.pop_front();
    }
}

fn read(path: &Path) -> VecDeque<Entry> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the history cannot be read");
            String::new()
        }
    };
    let mut damaged = 0;
    let entries = text.lines().filter_map(|line| {
        let entry = serde_json::from_str(line);
        damaged += usize::from(entry.is_err());
        entry.ok()
    });
    let entries = entries.collect();
    if damaged > 0 {
        tracing::warn!(damaged, path = %path.display(), "lines of the history are damaged and skipped");
    }
    entries
}

fn write(path: &Path, inbox: &Receiver<Entry>, kept: &Mutex<Kept>) {
    let mut lines = lock(kept).entries.len();
    while let Ok(entry) = inbox.recv() {
        lines += 1;
        let most = lock(kept).keep.entries;
        let written = if lines > 2 * most.max(64) {
            let current = lock(kept).entries.clone();
            lines = current.len();
            rewrite(path, &current)
        } else {
            append(path, &entry)
        };
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "the history cannot be written");
        }
    }
}

fn append(path: &Path, entry: &Entry) -> io::Result<()> {
    let line = serde_json::to_string(entry)? + "\n";
    let mut file = options().append(true).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

fn rewrite(path: &Path, entries: &VecDeque<Entry>) -> io::Result<()> {
    let next = path.with_extension("jsonl.next");
    let mut text = String::new();
    for entry in entries {
        text += &serde_json::to_string(entry)?;
        text.push('\n');
    }
    let mut file = options().truncate(true).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(what: &str, service: &str) -> Entry {
        Entry {
            what: what.to_owned(),
            who: "ann (uid 1000)".to_owned(),
            services: vec![service.into()],
            ..Entry::default()
        }
    }

    fn whats(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.what.as_str()).collect()
    }

    fn wait_for(path: &Path, lines: usize) {
        let deadline = clock::now() + Duration::from_secs(20);
        while fs::read_to_string(path).map_or(0, |text| text.lines().count()) != lines {
            assert!(clock::now() < deadline, "never {lines} lines");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_newest_is_first_and_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let history = History::open(folder.path(), Keep::default());
        history.add(entry("switch", "web"));
        history.add(entry("rollback", "api"));
        history.add(Entry {
            what: "freeze".to_owned(),
            ..Entry::default()
        });
        assert_eq!(
            whats(&history.last(10, None)),
            ["freeze", "rollback", "switch"]
        );
        assert_eq!(
            whats(&history.last(10, Some(&"web".into()))),
            ["freeze", "switch"]
        );
        assert_eq!(whats(&history.last(1, None)), ["freeze"]);
        wait_for(&folder.path().join(FILE), 3);
        let again = History::open(folder.path(), Keep::default());
        assert_eq!(again.last(10, None), history.last(10, None));
    }

    #[test]
    fn a_damaged_line_costs_only_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let good = |what: &str| {
            let entry = Entry {
                at_ms: clock::epoch_ms(clock::wall()),
                ..entry(what, "web")
            };
            serde_json::to_string(&entry).expect("JSON")
        };
        fs::write(
            &path,
            format!(
                "{}\n{{\"at_ms\": 5, \"wh\n{}\n{}",
                good("a"),
                good("b"),
                &good("c")[..20]
            ),
        )
        .expect("a file");
        let history = History::open(folder.path(), Keep::default());
        assert_eq!(whats(&history.last(10, None)), ["b", "a"]);
    }

    #[test]
    fn a_reload_may_keep_less() {
        let folder = tempfile::tempdir().expect("a folder");
        let history = History::open(folder.path(), Keep::default());
        for what in ["a", "b", "c"] {
            history.add(entry(what, "web"));
        }
        history.follow(Keep {
            entries: 2,
            ..Keep::default()
        });
        assert_eq!(whats(&history.last(10, None)), ["c", "b"]);
        history.add(entry("d", "web"));
        assert_eq!(whats(&history.last(10, None)), ["d", "c"]);
    }

    #[test]
    fn too_many_and_too_old_ones_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let old = Entry {
            at_ms: clock::epoch_ms(clock::wall()) - 10_000,
            ..entry("old", "web")
        };
        fs::write(&path, serde_json::to_string(&old).expect("JSON") + "\n").expect("a file");
        let keep = Keep {
            entries: 3,
            age: Duration::from_secs(5),
        };
        let history = History::open(folder.path(), keep);
        assert_eq!(history.last(10, None), []);
        for n in 0..500 {
            history.add(entry(&n.to_string(), "web"));
        }
        assert_eq!(whats(&history.last(10, None)), ["499", "498", "497"]);
        let deadline = clock::now() + Duration::from_secs(20);
        while fs::read_to_string(&path).is_ok_and(|text| !text.contains("\"499\"")) {
            assert!(
                clock::now() < deadline,
                "the last one never came to the disk"
            );
            std::thread::yield_now();
        }
        let lines = fs::read_to_string(&path).expect("a file").lines().count();
        assert!(lines <= 2 * 64 + 1, "{lines} lines");
    }
}
