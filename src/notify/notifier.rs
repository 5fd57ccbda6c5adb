//! The targets, each with its queue and its task.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::note::{EventKind, Note};
use super::queue::{Disk, Item, Queue};
use super::target::{Delivered, send};
use crate::clock;
use crate::config::Notify;
use crate::http::{Client, Resolver};

/// After this a note is given up.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// What a stop waits for at most.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Between the first attempts, and at most between two.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Tells every target. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Notifier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    host: String,
    client: Client,
    resolver: Arc<Resolver>,
    disk: Disk,
    count: AtomicU64,
    targets: Mutex<Vec<Target>>,
}

#[derive(Debug)]
struct Target {
    key: String,
    config: Notify,
    queue: Arc<Queue>,
    trouble: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

/// Notes that a target did not take yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which target: its place in the file and its kind.
    pub target: String,
    /// How many.
    pub count: usize,
    /// What it said to the first one.
    pub reason: String,
}

impl Notifier {
    /// Without targets; `folder` is where notes are kept.
    #[must_use]
    pub fn new(folder: PathBuf, client: Client, resolver: Arc<Resolver>) -> Self {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Self(Arc::new(Shared {
            folder,
            host: host.to_string_lossy().into_owned(),
            client,
            resolver,
            disk: Disk::start(),
            count: AtomicU64::new(0),
            targets: Mutex::default(),
        }))
    }

    /// Follows the configuration: a target that stays keeps its queue. Must run in a runtime.
    pub fn follow(&self, configured: &[Notify]) {
        let mut targets = self.targets();
        let mut known: HashMap<String, Target> = std::mem::take(&mut *targets)
            .into_iter()
            .map(|target| (target.key.clone(), target))
            .collect();
        for config in configured {
            let key = key(config);
            if targets.iter().any(|target| target.key == key) {
                continue;
            }
            let kept = known.remove(&key).filter(|kept| kept.config == *config);
            targets.push(kept.unwrap_or_else(|| self.start(key, config)));
        }
        for gone in known.into_values() {
            gone.task.abort();
        }
    }

    fn start(&self, key: String, config: &Notify) -> Target {
        let folder = self.0.folder.join(&key);
        let queue = Arc::new(Queue::open(folder, self.0.disk.clone()));
        let trouble = Arc::default();
        let task = deliver(
            Arc::clone(&self.0),
            config.clone(),
            Arc::clone(&queue),
            Arc::clone(&trouble),
        );
        Target {
            key,
            config: config.clone(),
            queue,
            trouble,
            task: tokio::spawn(task),
        }
    }

    /// Queues a note for every target that wants it. Waits for nothing.
    pub fn tell(&self, note: Note) {
        let targets = self.targets();
        if targets.is_empty() {
            return;
        }
        let item = Arc::new(self.stamp(note));
        for target in &*targets {
            if target.config.events.contains(&item.note.event) {
                target.queue.push(&item);
            }
        }
    }

    /// Sends every target a note at once, past its queue. What each said, in the file's order.
    pub async fn test(&self) -> Vec<(String, Delivered)> {
        let text = "this is a test: nothing happened";
        let note = Note {
            text: text.to_owned(),
            ..Note::new(EventKind::Test, "cutover can reach you")
        };
        let note = self.stamp(note).note;
        let targets: Vec<Notify> = (self.targets().iter())
            .map(|target| target.config.clone())
            .collect();
        let mut said = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let Shared {
                client, resolver, ..
            } = &*self.0;
            let delivered = send(client, resolver, target, &note, clock::wall()).await;
            said.push((name(at, target), delivered));
        }
        said
    }

    /// Targets that did not take everything, with their reasons.
    #[must_use]
    pub fn waiting(&self) -> Vec<Waiting> {
        let targets = self.targets();
        let waiting = targets.iter().enumerate().filter_map(|(at, target)| {
            let reason = lock(&target.trouble).clone()?;
            Some(Waiting {
                target: name(at, &target.config),
                count: target.queue.len(),
                reason,
            })
        });
        waiting.collect()
    }

    /// Waits until what was told is on disk, two seconds at most. Blocks.
    pub fn flush(&self) {
        self.0.disk.flush(LAST_WRITES);
    }

    fn stamp(&self, note: Note) -> Item {
        let now = clock::wall();
        let at_ms = clock::epoch_ms(now);
        let count = self.0.count.fetch_add(1, Ordering::Relaxed);
        Item {
            at_ms,
            note: Note {
                id: format!("{at_ms:013}-{count:06}"),
                time: clock::rfc3339(now),
                host: self.0.host.clone(),
                ..note
            },
        }
    }

    fn targets(&self) -> MutexGuard<'_, Vec<Target>> {
        lock(&self.0.targets)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names a target's folder by what it is, without telling it.
fn key(target: &Notify) -> String {
    let url = digest(&SHA256, target.url.reveal().as_bytes());
    let hex: String = (url.as_ref().iter().take(8))
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{}-{hex}", target.kind.as_str())
}

fn name(at: usize, target: &Notify) -> String {
    format!("notify[{at}] ({})", target.kind.as_str())
}

/// One note after the other, for ever.
async fn deliver(
    shared: Arc<Shared>,
    target: Notify,
    queue: Arc<Queue>,
    trouble: Arc<Mutex<Option<String>>>,
) {
    let kind = target.kind.as_str();
    let mut failures = 0_u32;
    loop {
        let Some(item) = queue.first() else {
            queue.added.notified().await;
            continue;
        };
        let now = clock::wall();
        let delivered = send(&shared.client, &shared.resolver, &target, &item.note, now).await;
        match delivered {
            Delivered::Yes => {
                if failures > 0 {
                    info!(kind, "notifications arrive again");
                }
                failures = 0;
                *lock(&trouble) = None;
                queue.remove(&item);
            }
            Delivered::No { reason, .. } if item.age(clock::wall()) >= PATIENCE => {
                warn!(
                    kind,
                    id = item.note.id,
                    reason,
                    "a notification is given up"
                );
                queue.remove(&item);
            }
            Delivered::No { reason, after } => {
                if failures == 0 {
                    warn!(
                        kind,
                        reason, "a notification did not arrive, it is tried again"
                    );
                }
                *lock(&trouble) = Some(reason);
                tokio::time::sleep(pause(failures, after)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// Doubles from a second to five minutes; longer, up to an hour, where the target asks for it.
fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    let (first, last) = BACK_OFF;
    let doubled = first.saturating_mul(1 << failures.min(20)).min(last);
    let asked = asked.unwrap_or_default().min(Duration::from_secs(3600));
    doubled.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_less_and_less_often() {
        let seconds = |failures| pause(failures, None).as_secs();
        assert_eq!([seconds(0), seconds(1), seconds(5)], [1, 2, 32]);
        assert_eq!([seconds(9), seconds(4_000_000_000)], [300, 300]);
        let asked = Some(Duration::from_secs(700));
        assert_eq!(pause(0, asked).as_secs(), 700);
    }
}
