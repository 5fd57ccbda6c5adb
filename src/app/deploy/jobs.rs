//! Jobs: one-shot containers, started once, waited for, checked, removed.
//!
//! A job is known by the name of its container. One that is there already is waited for, not
//! started again: a restart of the daemon in the middle of a migration does not run it twice.

use std::time::{Duration, SystemTime};

use tracing::warn;

use super::hands::{Hands, connect, container, with_lines};
use crate::clock;
use crate::deploy::{
    Failure, FileFacts, JobRun, News, Run, State, restore_command, restore_obstacle,
};
use crate::docker::Client;

/// Between SIGTERM and SIGKILL of a job whose time is up.
const GRACE: Duration = Duration::from_secs(10);

impl Hands {
    pub(super) async fn job(&self, client: &Client, run: &Run, n: usize) -> Result<News, Failure> {
        let Some(planned) = run.plan.jobs.get(n) else {
            return Ok(News::Nothing);
        };
        let began = self.run_job(client, &planned.job).await;
        let began = match began {
            Ok(began) => began,
            Err(failure) => {
                if !failure.again {
                    self.tell_job_failed(&planned.job, &failure);
                }
                return Err(failure);
            }
        };
        Ok(News::Ran {
            began_ms: clock::epoch_ms(began),
        })
    }

    /// Runs a job to its end and checks what it left; gives when it began.
    pub(in crate::app) async fn run_job(
        &self,
        client: &Client,
        job: &JobRun,
    ) -> Result<SystemTime, Failure> {
        let name = &job.container;
        let began = self.start_once(client, job, name, None).await?;
        let ended = self.ended(client, job, name, began).await;
        let checked = match ended {
            Ok(()) => self.check(client, job, name, began).await,
            Err(failure) => Err(failure),
        };
        // An engine that does not answer is asked again, and the container is still needed.
        if !checked.as_ref().is_err_and(|failure| failure.again) {
            remove_ended(client, name).await;
        }
        checked.map(|()| began)
    }

    /// Starts it unless that was done before.
    async fn start_once(
        &self,
        client: &Client,
        job: &JobRun,
        name: &str,
        command: Option<&[String]>,
    ) -> Result<SystemTime, Failure> {
        let found = container(client, name).await?;
        if found.is_none() {
            if client.image(job.image.reference()).await?.is_none() {
                self.have_image(client, job.image.reference()).await?;
            }
            client.create(name, &job.whole_body(command)).await?;
        }
        if found.is_none_or(|found| found.state == State::Created) {
            for attachment in &job.more {
                connect(client, name, attachment).await?;
            }
            client.start(name).await?;
        }
        let found = container(client, name).await?;
        let began = found.and_then(|found| found.started_at.parse::<jiff::Timestamp>().ok());
        Ok(began.map_or_else(clock::wall, SystemTime::from))
    }

    /// Waits for exit code 0; kills it when its time is up.
    async fn ended(
        &self,
        client: &Client,
        job: &JobRun,
        name: &str,
        began: SystemTime,
    ) -> Result<(), Failure> {
        let limit = Duration::from_millis(job.timeout_ms);
        let passed = clock::wall().duration_since(began).unwrap_or_default();
        let left = limit.saturating_sub(passed);
        let waited = tokio::time::timeout(left, client.wait(name)).await;
        let Ok(code) = waited else {
            client.stop(name, Some(GRACE)).await?;
            let why = format!("killed after {} s", limit.as_secs());
            return Err(with_lines(client, name, why).await);
        };
        match code? {
            Some(0) => Ok(()),
            Some(code) => {
                let why = match code {
                    137 => "exit code 137: it was killed, for want of memory perhaps".to_owned(),
                    code => format!("exit code {code}"),
                };
                Err(with_lines(client, name, why).await)
            }
            None => Err(Failure::from("its container is gone".to_owned())),
        }
    }

    async fn check(
        &self,
        client: &Client,
        job: &JobRun,
        name: &str,
        began: SystemTime,
    ) -> Result<(), Failure> {
        let Some(left) = &job.success else {
            return Ok(());
        };
        if let Some(path) = &left.file {
            let found = client.file(name, path).await?;
            let facts = found.map(|found| FileFacts {
                bytes: found.bytes,
                modified: found.modified,
                is_file: found.is_file,
            });
            if let Some(obstacle) = left.obstacle(facts, began) {
                return Err(with_lines(client, name, obstacle).await);
            }
        }
        if left.verify.is_empty() {
            return Ok(());
        }
        let verify = format!("{name}-verify");
        let began = self
            .start_once(client, job, &verify, Some(&left.verify))
            .await?;
        let ended = self.ended(client, job, &verify, began).await;
        let ended = ended.map_err(|failure| Failure {
            reason: format!("the verify command: {}", failure.reason),
            ..failure
        });
        if !ended.as_ref().is_err_and(|failure| failure.again) {
            remove_ended(client, &verify).await;
        }
        ended
    }

    pub(super) async fn end_job(
        &self,
        client: &Client,
        run: &Run,
        n: usize,
    ) -> Result<News, Failure> {
        if let Some(planned) = run.plan.jobs.get(n) {
            let name = &planned.job.container;
            client.stop(name, Some(GRACE)).await?;
            client.remove(name).await?;
            client.remove(&format!("{name}-verify")).await?;
        }
        Ok(News::Nothing)
    }

    /// Puts a copy of the data back, or says how a person can.
    pub(super) async fn restore(
        &self,
        client: &Client,
        run: &Run,
        n: usize,
    ) -> Result<News, Failure> {
        let Some(planned) = run.plan.jobs.get(n) else {
            return Ok(News::Nothing);
        };
        let job = &planned.job;
        let by_hand = |why: String| {
            News::Advice(vec![
                format!(
                    "nothing was restored: {why}; the copy that {} made is kept",
                    job.name
                ),
                format!("to put it back: {}", restore_command(job)),
            ])
        };
        if let Some(obstacle) = restore_obstacle(run, n, &self.doors(run)) {
            return Ok(by_hand(obstacle));
        }
        let restore = JobRun {
            container: format!("{}-restore", job.container),
            success: None,
            ..job.clone()
        };
        let name = &restore.container;
        let began = self
            .start_once(client, &restore, name, Some(&job.restore))
            .await?;
        let ended = self.ended(client, &restore, name, began).await;
        match ended {
            Err(failure) if failure.again => return Err(failure),
            Err(failure) => {
                remove_ended(client, name).await;
                self.tell_job_failed(&restore, &failure);
                let mut news = by_hand(format!("the restore failed: {}", failure.reason));
                if let News::Advice(lines) = &mut news {
                    lines.extend(failure.lines.into_iter().map(|line| format!("  {line}")));
                }
                return Ok(news);
            }
            Ok(()) => {}
        }
        remove_ended(client, name).await;
        Ok(News::Restored(format!("restored what {} saved", job.name)))
    }
}

/// Removes the container of a job that has ended. One that stays is found by `cleanup`; were that a
/// failure, the job would be run again.
async fn remove_ended(client: &Client, name: &str) {
    if let Err(error) = client.remove(name).await {
        warn!(container = name, %error, "a job has ended and its container stays");
    }
}
