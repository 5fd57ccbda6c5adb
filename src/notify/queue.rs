//! What waits for one target, in memory and in files: `notify/<target>/<id>.json`.
//!
//! The files are written and removed by a thread of their own, in the order in which that was
//! asked for. A note whose file cannot be written is sent all the same.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::warn;

use super::note::Note;
use crate::clock;
use crate::disk;

/// Notes that wait for one target; the oldest make room.
pub(super) const LIMIT: usize = 1_000;

/// A note under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Item {
    /// When it happened, in milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) note: Note,
}

impl Item {
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        Duration::from_millis(clock::epoch_ms(now).saturating_sub(self.at_ms))
    }
}

/// The thread that writes. Ends when nobody can ask it any more.
#[derive(Clone, Debug)]
pub(super) struct Disk(Sender<Job>);

enum Job {
    Write(PathBuf, Vec<u8>),
    Remove(PathBuf),
    /// Says when all before is done.
    Flush(Sender<()>),
}

impl Disk {
    pub(super) fn start() -> Self {
        let (sender, jobs) = channel();
        let spawned = std::thread::Builder::new()
            .name("notify-disk".to_owned())
            .spawn(move || work(&jobs));
        if let Err(error) = spawned {
            warn!(%error, "notifications are kept in memory alone");
        }
        Self(sender)
    }

    fn ask(&self, job: Job) {
        // Without the thread everything is kept in memory alone.
        let _ = self.0.send(job);
    }

    /// Waits until everything that was asked for is on disk, at most `patience`. Blocks.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, wait) = channel();
        self.ask(Job::Flush(done));
        let _ = wait.recv_timeout(patience);
    }
}

fn work(jobs: &Receiver<Job>) {
    let mut troubled = false;
    while let Ok(job) = jobs.recv() {
        let result = match job {
            Job::Write(path, bytes) => path
                .parent()
                .map_or(Ok(()), disk::private_folder)
                .and_then(|()| disk::replace(&path, &bytes)),
            Job::Remove(path) => match fs::remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            Job::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        if let Err(error) = &result
            && !troubled
        {
            warn!(%error, "a notification cannot be kept on disk");
        }
        troubled = result.is_err();
    }
}

/// The queue of one target.
#[derive(Debug)]
pub(super) struct Queue {
    folder: PathBuf,
    disk: Disk,
    items: Mutex<VecDeque<Arc<Item>>>,
    /// Somebody added one.
    pub(super) added: Notify,
}

impl Queue {
    /// With what an earlier process left. Blocks.
    pub(super) fn open(folder: PathBuf, disk: Disk) -> Self {
        Self {
            items: Mutex::new(read(&folder)),
            folder,
            disk,
            added: Notify::new(),
        }
    }

    pub(super) fn push(&self, item: &Arc<Item>) {
        let dropped = {
            let mut items = self.items();
            items.push_back(Arc::clone(item));
            (items.len() > LIMIT).then(|| items.pop_front()).flatten()
        };
        if let Some(dropped) = dropped {
            warn!(
                id = dropped.note.id,
                "too many notifications wait, the oldest is given up"
            );
            self.disk.ask(Job::Remove(self.file(&dropped)));
        }
        match serde_json::to_vec(&**item) {
            Ok(bytes) => self.disk.ask(Job::Write(self.file(item), bytes)),
            Err(error) => warn!(%error, "a notification cannot be written"),
        }
        self.added.notify_one();
    }

    pub(super) fn first(&self) -> Option<Arc<Item>> {
        self.items().front().cloned()
    }

    /// It was taken, or given up.
    pub(super) fn remove(&self, item: &Item) {
        self.items().retain(|one| one.note.id != item.note.id);
        self.disk.ask(Job::Remove(self.file(item)));
    }

    pub(super) fn len(&self) -> usize {
        self.items().len()
    }

    fn file(&self, item: &Item) -> PathBuf {
        self.folder.join(format!("{}.json", item.note.id))
    }

    fn items(&self) -> MutexGuard<'_, VecDeque<Arc<Item>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(folder: &Path) -> VecDeque<Arc<Item>> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut items: Vec<Item> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .filter_map(|path| {
            let bytes = fs::read(&path).ok()?;
            let item = serde_json::from_slice(&bytes);
            if let Err(error) = &item {
                warn!(path = %path.display(), %error, "a notification is damaged and left out");
                let _ = fs::remove_file(&path);
            }
            item.ok()
        })
        .collect();
    items.sort_by(|a, b| (a.at_ms, &a.note.id).cmp(&(b.at_ms, &b.note.id)));
    items.into_iter().map(Arc::new).collect()
}

#[cfg(test)]
mod tests {
    use super::super::note::EventKind;
    use super::*;

    /// A thousand synced files on a busy disk.
    const PATIENCE: Duration = Duration::from_secs(120);

    fn item(at_ms: u64) -> Arc<Item> {
        let note = Note {
            id: format!("{at_ms:013}-0"),
            ..Note::new(EventKind::Switched, "green")
        };
        Arc::new(Item { at_ms, note })
    }

    #[test]
    fn what_waits_is_there_after_a_restart_in_its_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify/a");
        let disk = Disk::start();
        let queue = Queue::open(path.clone(), disk.clone());
        for at in [3, 1, 2] {
            queue.push(&item(at));
        }
        queue.remove(&item(1));
        disk.flush(PATIENCE);
        let again = Queue::open(path.clone(), disk.clone());
        assert_eq!(again.len(), 2);
        assert_eq!(again.first(), Some(item(2)));
        again.remove(&item(2));
        assert_eq!(again.first(), Some(item(3)));
        // A file that is none of ours, and one that is damaged.
        fs::write(path.join("x.json"), "{").expect("written");
        fs::write(path.join("readme"), "-").expect("written");
        disk.flush(PATIENCE);
        assert_eq!(Queue::open(path.clone(), disk).len(), 1);
        assert!(!path.join("x.json").exists());
    }

    #[test]
    fn a_target_that_is_gone_for_long_costs_no_more_than_so_much() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::start();
        let queue = Queue::open(folder.path().join("a"), disk.clone());
        for at in 0..=LIMIT as u64 {
            queue.push(&item(at));
        }
        assert_eq!(queue.len(), LIMIT);
        assert_eq!(queue.first(), Some(item(1)));
        disk.flush(PATIENCE);
        let files = fs::read_dir(folder.path().join("a")).expect("read");
        assert_eq!(files.count(), LIMIT);
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_no_reason_to_be_silent() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("notify"), "a file").expect("written");
        let disk = Disk::start();
        let queue = Queue::open(folder.path().join("notify/a"), disk.clone());
        queue.push(&item(1));
        disk.flush(PATIENCE);
        assert_eq!(queue.first(), Some(item(1)));
    }
}
