//! What outlives a process beside the journal: counts of the past, what a release under watch is
//! held to, and what was quarantined.
//!
//! Losing any of it is no danger: a baseline begins anew and tolerates more, a quarantine is
//! forgotten. So these are small files that are replaced whole, and never waited for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::daemon::Daemon;
use crate::clock;
use crate::disk;
use crate::model::{Color, Generation, Release, ServiceName};
use crate::pool::Frozen;
use crate::switch::evidence::Limits;

/// Seconds between two saves.
const SAVE_EVERY: u32 = 60;
/// Seconds until what is known of routes is halved.
const FADE_EVERY: u32 = 3600;

/// What earlier processes counted.
#[derive(Debug)]
pub(super) struct Memories {
    file: PathBuf,
    read: Mutex<Vec<Memory>>,
}

/// One pool's minutes.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    service: ServiceName,
    generation: Generation,
    /// Requests and failures of each minute, the newest last.
    minutes: Vec<(u64, u64)>,
}

impl Memories {
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("baseline.json");
        Self {
            read: Mutex::new(read(&file)),
            file,
        }
    }

    pub(super) fn take(
        &self,
        service: &ServiceName,
        generation: Generation,
    ) -> Option<Vec<(u64, u64)>> {
        let mut read = lock(&self.read);
        let found = read
            .iter()
            .position(|one| one.service == *service && one.generation == generation)?;
        Some(read.swap_remove(found).minutes)
    }
}

/// Counts the seconds of every pool, for ever.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let mut ticker = tokio::time::interval(Duration::from_secs(1));
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seconds = 0_u32;
    loop {
        ticker.tick().await;
        seconds = seconds.wrapping_add(1);
        let pools = daemon.publisher.pools();
        for pool in &pools {
            pool.evidence().second();
            if seconds.is_multiple_of(FADE_EVERY) {
                pool.evidence().fade();
            }
        }
        if seconds.is_multiple_of(SAVE_EVERY) {
            let daemon = Arc::clone(&daemon);
            let _ = tokio::task::spawn_blocking(move || save(&daemon)).await;
        }
    }
}

/// Writes the counts of the pools that are there. Blocks.
pub(super) fn save(daemon: &Daemon) {
    let pools = daemon.publisher.pools();
    let memories: Vec<_> = pools
        .iter()
        .map(|pool| Memory {
            service: pool.slot().service().clone(),
            generation: pool.generation(),
            minutes: pool.evidence().minutes(),
        })
        .filter(|memory| memory.minutes.iter().any(|(requests, _)| *requests > 0))
        .collect();
    write(&daemon.memories.file, &memories);
}

/// What releases under watch are held to, so that a restart goes on with it.
#[derive(Debug)]
pub(super) struct Watches {
    file: PathBuf,
    known: Mutex<Vec<WatchMemory>>,
}

/// One release under watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WatchMemory {
    pub(super) service: ServiceName,
    /// Of the new pool.
    pub(super) generation: Generation,
    pub(super) limits: Limits,
    pub(super) frozen: Frozen,
    /// Highest number of requests in a second before the cutover.
    pub(super) highest_rate: u32,
}

impl Watches {
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("watch.json");
        Self {
            known: Mutex::new(read(&file)),
            file,
        }
    }

    pub(super) fn of(&self, service: &ServiceName, generation: Generation) -> Option<WatchMemory> {
        let known = lock(&self.known);
        let mut known = known.iter();
        known
            .find(|one| one.service == *service && one.generation == generation)
            .cloned()
    }

    /// Keeps the newest of each service. Blocks.
    pub(super) fn keep(&self, watch: WatchMemory) {
        let mut known = lock(&self.known);
        known.retain(|one| one.service != watch.service);
        known.push(watch);
        write(&self.file, &known);
    }
}

/// Releases that were undone by the verdict.
#[derive(Debug)]
pub(super) struct Quarantine {
    file: PathBuf,
    held: Mutex<Vec<Quarantined>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Quarantined {
    service: ServiceName,
    color: Color,
    /// Null: nobody said what ran there; then the color itself is meant, for a while.
    release: Option<Release>,
    since_ms: u64,
    why: String,
}

impl Quarantine {
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("quarantine.json");
        Self {
            held: Mutex::new(read(&file)),
            file,
        }
    }

    pub(super) fn add(
        &self,
        service: &ServiceName,
        color: Color,
        release: Option<Release>,
        why: &str,
    ) {
        let mut held = lock(&self.held);
        held.retain(|one| !(one.service == *service && one.color == color));
        held.push(Quarantined {
            service: service.clone(),
            color,
            release,
            since_ms: clock::epoch_ms(clock::wall()),
            why: why.to_owned(),
        });
    }

    /// Writes what is held. Blocks.
    pub(super) fn save(&self) {
        write(&self.file, &lock(&self.held));
    }

    /// Why a switch of these services (none: all) to `color` is refused, if it is: the same
    /// release, or one without a name within `cooldown`.
    pub(super) fn refuses(
        &self,
        services: &[ServiceName],
        color: Color,
        release: Option<&Release>,
        known: impl Fn(&ServiceName) -> Option<Release>,
        cooldown: impl Fn(&ServiceName) -> Duration,
    ) -> Option<String> {
        let held = lock(&self.held);
        let of_them = |one: &&Quarantined| {
            one.color == color && (services.is_empty() || services.contains(&one.service))
        };
        held.iter().filter(of_them).find_map(|one| {
            let asked = release.cloned().or_else(|| known(&one.service));
            let age =
                Duration::from_millis(clock::epoch_ms(clock::wall()).saturating_sub(one.since_ms));
            let same = match (&one.release, &asked) {
                (Some(bad), Some(asked)) => bad == asked,
                _ => age < cooldown(&one.service),
            };
            same.then(|| {
                let name = one.release.as_ref().map_or_else(
                    || format!("what runs in {color}"),
                    |release| release.as_str().to_owned(),
                );
                format!(
                    "{name} of {} was rolled back {} min ago ({}); --force tries it again",
                    one.service,
                    age.as_secs() / 60,
                    one.why
                )
            })
        })
    }

    /// Somebody insists. True: there was something to let go.
    pub(super) fn release(&self, services: &[ServiceName], color: Color) -> bool {
        let mut held = lock(&self.held);
        let before = held.len();
        held.retain(|one| {
            one.color != color || !(services.is_empty() || services.contains(&one.service))
        });
        held.len() != before
    }
}

fn read<T: for<'de> Deserialize<'de>>(file: &Path) -> Vec<T> {
    let Ok(bytes) = std::fs::read(file) else {
        return Vec::new();
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        warn!(file = %file.display(), %error, "damaged, and begun anew");
        Vec::new()
    })
}

fn write<T: Serialize>(file: &Path, all: &[T]) {
    let written = serde_json::to_vec(all)
        .map_err(std::io::Error::from)
        .and_then(|bytes| disk::replace(file, &bytes));
    if let Err(error) = written {
        warn!(file = %file.display(), %error, "not written; a restart would forget it");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
