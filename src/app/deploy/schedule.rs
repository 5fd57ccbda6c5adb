//! Jobs on a schedule: one task looks once a second what is due, each job that runs has its own.
//! A person may run one at any time; it does not run twice at once, and what is due stays due.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tracing::{info, warn};

use super::gather;
use super::hands::{Hands, Teller};
use crate::admin::Actor;
use crate::admin::wire::{ControlError, ErrorCode, Outcome, OutcomeKind};
use crate::app::daemon::Daemon;
use crate::clock;
use crate::config::{Job, When};
use crate::deploy::schedule::{Due, due};
use crate::deploy::{Failure, Images, JobRun, Ran, live_container};
use crate::history::Entry;
use crate::model::Schedule;
use crate::notify::{EventKind, Note};

/// Between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two attempts at a job whose engine does not answer.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Looks for due jobs for ever.
pub(in crate::app) async fn start(daemon: Arc<Daemon>) {
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        if daemon.deploys.damage().is_some() {
            continue;
        }
        let config = daemon.config.load_full();
        for job in &config.jobs {
            let When::Schedule(schedule) = &job.when else {
                continue;
            };
            let known = daemon.deploys.book().schedule.get(&job.name).cloned();
            let Some(known) = known else {
                let first = Ran::first_seen(clock::epoch_ms(clock::wall()));
                keep(&daemon, &job.name, first).await;
                continue;
            };
            if begun(schedule, known).is_none() {
                continue;
            }
            let Some(turn) = Turn::of(&daemon, &job.name) else {
                continue;
            };
            // It may have ended since that was read.
            let known = daemon.deploys.book().schedule.get(&job.name).cloned();
            let Some(ran) = known.and_then(|known| begun(schedule, known)) else {
                continue;
            };
            let (daemon, job) = (Arc::clone(&daemon), job.clone());
            tokio::spawn(async move {
                let _turn = turn;
                one(&daemon, &job, ran, "cutover").await;
            });
        }
    }
}

/// The run that is to be begun, or gone on with after a restart; `None`: it is not due.
fn begun(schedule: &Schedule, known: Ran) -> Option<Ran> {
    let now = clock::wall();
    match due(schedule, &known, now) {
        Due::Now(time) => Some(Ran {
            due_ms: clock::epoch_ms(time),
            ..begin(&known, now)
        }),
        // The daemon was stopped while it ran.
        Due::Running => Some(known),
        Due::At(_) | Due::Never => None,
    }
}

/// A run that begins now and changes nothing about what is due next.
fn begin(known: &Ran, now: SystemTime) -> Ran {
    Ran {
        due_ms: known.due_ms,
        began_ms: clock::epoch_ms(now),
        ended_ms: None,
        failure: String::new(),
        container: String::new(),
        good_ms: known.good_ms,
    }
}

/// Runs a job on a schedule now, for somebody who waits for its end.
///
/// # Errors
/// There is no such job on a schedule, it runs already, or nothing may be run.
pub(in crate::app) async fn run_now(
    daemon: &Arc<Daemon>,
    actor: &Actor,
    name: &str,
) -> Result<Outcome, ControlError> {
    let config = daemon.config.load_full();
    let job = on_schedule(&config.jobs, name)?;
    if let Some(damage) = daemon.deploys.damage() {
        return Err(ControlError::new(ErrorCode::Refused, damage));
    }
    let busy = || {
        let why = format!("job {name} is running: `proxyctl status` shows how it ends");
        ControlError::new(ErrorCode::Busy, why)
    };
    let turn = Turn::of(daemon, name).ok_or_else(busy)?;
    let now = clock::wall();
    let known = daemon.deploys.book().schedule.get(name).cloned();
    let known = known.unwrap_or_else(|| Ran::first_seen(clock::epoch_ms(now)));
    // One that a restart found is gone on with by the clock.
    if known.ended_ms.is_none() {
        return Err(busy());
    }
    let ran = begin(&known, now);
    keep(daemon, name, ran.clone()).await;
    let (failure, seconds) = one(daemon, job, ran, &actor.to_string()).await;
    drop(turn);
    Ok(match failure {
        None => Outcome {
            result: OutcomeKind::Done,
            message: format!("job {name} did well in {seconds} s"),
            services: vec![job.service.clone()],
            live: None,
            details: Vec::new(),
        },
        Some(failure) => Outcome {
            result: OutcomeKind::Failed,
            message: format!("job {name}: {}", failure.reason),
            services: vec![job.service.clone()],
            live: None,
            details: failure.lines,
        },
    })
}

fn on_schedule<'a>(jobs: &'a [Job], name: &str) -> Result<&'a Job, ControlError> {
    let is_scheduled = |job: &&Job| matches!(job.when, When::Schedule(_));
    let usage = |why: String| ControlError::new(ErrorCode::Usage, why);
    match jobs.iter().find(|job| job.name == name) {
        Some(job) if is_scheduled(&job) => Ok(job),
        Some(_) => Err(usage(format!(
            "job {name} is a step of deploys: only one with a `schedule` is run alone"
        ))),
        None => {
            let names = jobs.iter().filter(is_scheduled);
            let names: Vec<_> = names.map(|job| job.name.as_str()).collect();
            Err(usage(match names.is_empty() {
                true => format!("no job `{name}`: the configuration has none with a `schedule`"),
                false => format!("no job `{name}`: there are {}", names.join(", ")),
            }))
        }
    }
}

/// One job's right to run, until it is dropped.
struct Turn {
    daemon: Arc<Daemon>,
    name: String,
}

impl Turn {
    /// `None`: it runs.
    fn of(daemon: &Arc<Daemon>, name: &str) -> Option<Self> {
        lock(&daemon.deploys.jobs)
            .insert(name.to_owned())
            .then(|| Self {
                daemon: Arc::clone(daemon),
                name: name.to_owned(),
            })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.daemon.deploys.jobs).remove(&self.name);
    }
}

fn lock(running: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(daemon: &Daemon, name: &str, ran: Ran) {
    let name = name.to_owned();
    let saved = daemon.deploys.change(|book| {
        book.schedule.insert(name, ran);
    });
    if let Err(error) = saved.await {
        warn!(%error, "the record of a job is not on disk");
    }
}

/// Runs one job for one time, and tells how it ended: why it failed, and how long it took.
async fn one(daemon: &Arc<Daemon>, job: &Job, mut ran: Ran, who: &str) -> (Option<Failure>, u64) {
    info!(job = job.name, who, "job begins");
    let until = clock::now() + job.timeout;
    let failure = loop {
        match attempt(daemon, job, &mut ran).await {
            Ok(()) => break None,
            Err(failure) if failure.again && clock::now() < until => {
                tokio::time::sleep(TRY_AGAIN).await;
            }
            Err(failure) => break Some(failure),
        }
    };
    let now = clock::epoch_ms(clock::wall());
    ran.ended_ms = Some(now);
    let mut entry = Entry {
        what: format!("job {}", job.name),
        who: who.to_owned(),
        services: vec![job.service.clone()],
        result: "done".to_owned(),
        ..Entry::default()
    };
    match &failure {
        None => ran.good_ms = Some(now),
        Some(failure) => {
            ran.failure.clone_from(&failure.reason);
            entry.result = "failed".to_owned();
            entry.why.clone_from(&failure.reason);
            tell_failed(daemon, &job.name, &job.service, failure, ran.good_ms);
        }
    }
    let seconds = now.saturating_sub(ran.began_ms) / 1_000;
    keep(daemon, &job.name, ran).await;
    daemon.record(entry);
    (failure, seconds)
}

async fn attempt(daemon: &Arc<Daemon>, job: &Job, ran: &mut Ran) -> Result<(), Failure> {
    let client = daemon.deploys.engine(daemon).await?;
    let there = gather(daemon, &client).await?;
    let config = daemon.config.load_full();
    let live = live_container(there.scene(&config), &job.service);
    let live = live.ok_or_else(|| {
        Failure::from(format!(
            "no container of {} runs, whose surroundings it needs",
            job.service
        ))
    })?;
    let none = serde_json::Value::Null;
    let image = there.images.get(&live.image_id).unwrap_or(&none);
    let images = Images {
        new: &live.image,
        old: &live.image_id,
    };
    if ran.container.is_empty() {
        let project = live.project().map(|name| format!("{name}-"));
        let project = project.unwrap_or_default();
        ran.container = format!("{project}{}-{}", job.name, ran.began_ms / 1_000);
        // Its name is on disk before it is made.
        keep(daemon, &job.name, ran.clone()).await;
    }
    let at = clock::from_epoch_ms(ran.began_ms);
    let run = JobRun::new(job, live, image, images, ran.container.clone(), at);
    let (nobody, _) = broadcast::channel(1);
    let hands = Hands {
        daemon: Arc::clone(daemon),
        teller: Teller(nobody),
    };
    hands.run_job(&client, &run).await.map(|_| ())
}

impl Hands {
    /// A job of a deploy.
    pub(super) fn tell_job_failed(&self, job: &JobRun, failure: &Failure) {
        tell_failed(&self.daemon, &job.name, &job.service, failure, None);
    }
}

fn tell_failed(
    daemon: &Daemon,
    name: &str,
    service: &crate::model::ServiceName,
    failure: &Failure,
    good_ms: Option<u64>,
) {
    warn!(job = name, %service, reason = failure.reason, "job failed");
    let last = good_ms.map(|ms| clock::rfc3339(clock::from_epoch_ms(ms)));
    let last = last.map(|at| format!("; the last good one ended {at}"));
    daemon.notifier.tell(Note {
        text: format!("{}{}", failure.reason, last.unwrap_or_default()),
        services: vec![service.clone()],
        who: "cutover".to_owned(),
        details: failure.lines.clone(),
        ..Note::new(EventKind::JobFailed, format!("job {name} failed"))
    });
}
