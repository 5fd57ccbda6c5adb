//! One run: the shell around [`Machine`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::hands::{Hands, Teller};
use super::{Handle, NEWS_KEPT, Told};
use crate::app::daemon::Daemon;
use crate::clock;
use crate::deploy::{Answer, Change, Effect, Failure, Input, Machine, Outcome, Run};
use crate::disk::crash;
use crate::history::Entry;
use crate::model::{Release, Strategy};
use crate::notify::{EventKind, Note};

/// Starts the task; gives its news.
pub(super) fn start(
    daemon: &Arc<Daemon>,
    run: Run,
    is_resumed: bool,
    turn: OwnedMutexGuard<()>,
) -> broadcast::Receiver<Told> {
    let (news, subscribed) = broadcast::channel(NEWS_KEPT);
    let (abort, aborts) = mpsc::unbounded_channel();
    let (stage, staged) = watch::channel(None);
    let (can_abort, may_abort) = watch::channel(true);
    let handle = Handle {
        id: run.id.clone(),
        command: run.command.clone(),
        actor: run.actor.clone(),
        release: run.plan.release.clone(),
        services: run.plan.services(),
        strategy: run.plan.strategy,
        stage: staged,
        since_ms: run.at_ms,
        news: news.clone(),
        abort,
        can_abort: may_abort,
    };
    *running(daemon) = Some(handle);
    let driver = Driver {
        daemon: Arc::clone(daemon),
        news,
        stage,
        can_abort,
        doing: None,
        is_resumed,
        logged: None,
        crash: crash::Point::of("CUTOVER_CRASH_AT_DEPLOY"),
    };
    tokio::spawn(driver.drive(run, aborts, turn));
    subscribed
}

fn running(daemon: &Daemon) -> std::sync::MutexGuard<'_, Option<Handle>> {
    let running = daemon.deploys.running.lock();
    running.unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How long the end of a run is kept for what `status` shows of the containers.
const LAST_LOOK: Duration = Duration::from_secs(1);

struct Driver {
    daemon: Arc<Daemon>,
    news: broadcast::Sender<Told>,
    stage: watch::Sender<Option<crate::deploy::Stage>>,
    can_abort: watch::Sender<bool>,
    doing: Option<(u64, JoinHandle<Answer>)>,
    /// The first action may have been done before.
    is_resumed: bool,
    logged: Option<String>,
    crash: crash::Point,
}

impl Driver {
    async fn drive(
        mut self,
        run: Run,
        mut aborts: mpsc::UnboundedReceiver<String>,
        turn: OwnedMutexGuard<()>,
    ) {
        let begun = clock::now();
        let (mut machine, mut effects) = match self.is_resumed {
            true => Machine::resume(begun, run),
            false => Machine::begin(begun, run),
        };
        let (mut end, mut is_told) = (None, false);
        loop {
            // What writes answer is taken in before anything else happens.
            while !effects.is_empty() {
                let mut more = Vec::new();
                for effect in std::mem::take(&mut effects) {
                    if let Some(input) = self.perform(effect, &machine, &mut end).await {
                        more.extend(machine.handle(clock::now(), input));
                    }
                }
                effects = more;
            }
            self.can_abort.send_replace(machine.can_abort());
            if machine.is_over() && end.is_some() {
                break;
            }
            // The disk refuses the record of the end; nobody is kept waiting for it.
            if let Some(outcome) = end.as_ref().filter(|_| !is_told) {
                self.tell(Told::End(outcome.clone()));
                is_told = true;
            }
            let deadline = machine.deadline();
            let input = tokio::select! {
                input = finished(&mut self.doing) => input,
                Some(by) = aborts.recv() => Input::Abort { by },
                () = until(deadline) => Input::Tick,
            };
            effects = machine.handle(clock::now(), input);
        }
        *running(&self.daemon) = None;
        self.daemon.hold_none();
        // Whoever hears of the end may ask for the next one at once.
        drop(turn);
        // Nor should they see the containers of before, unless Docker takes its time.
        let _ = timeout(LAST_LOOK, super::refresh(&self.daemon)).await;
        if let Some(outcome) = end.filter(|_| !is_told) {
            self.tell(Told::End(outcome));
        }
    }

    async fn perform(
        &mut self,
        effect: Effect,
        machine: &Machine,
        end: &mut Option<Outcome>,
    ) -> Option<Input> {
        match effect {
            Effect::Save {
                ticket,
                run,
                change,
            } => {
                let now = clock::epoch_ms(clock::wall());
                self.crash.here();
                let saved = self.daemon.deploys.change(|book| match change {
                    Change::Step => book.running = Some(*run),
                    Change::Adopt => {
                        book.adopt(&run, now);
                        book.running = Some(*run);
                    }
                    Change::End(outcome) => book.end(&run, &outcome, now),
                });
                Some(match saved.await {
                    Ok(()) => {
                        self.crash.here();
                        Input::Saved { ticket }
                    }
                    Err(error) => {
                        error!(%error, "the record of the deploy is not on disk");
                        Input::SaveFailed {
                            ticket,
                            reason: error.to_string(),
                        }
                    }
                })
            }
            Effect::Do { stamp, action } => {
                let hands = Hands {
                    daemon: Arc::clone(&self.daemon),
                    teller: Teller(self.news.clone()),
                };
                let run = machine.run().clone();
                let is_resumed = std::mem::take(&mut self.is_resumed);
                let task = async move { hands.perform(&run, action, is_resumed).await };
                self.doing = Some((stamp, tokio::spawn(task)));
                None
            }
            Effect::Cancel { stamp } => {
                if let Some((_, task)) = self.doing.take_if(|(known, _)| *known == stamp) {
                    task.abort();
                }
                None
            }
            Effect::Report(stage) => {
                let (id, text) = (&machine.run().id, &stage.text);
                if self.logged.as_ref() != Some(text) {
                    info!(id, step = text, back = stage.is_back, "deploy");
                    self.logged = Some(text.clone());
                }
                self.stage.send_replace(Some(stage.clone()));
                self.tell(Told::Stage(stage));
                None
            }
            Effect::End(outcome) => {
                self.end(machine.run(), &outcome);
                *end = Some(outcome);
                None
            }
        }
    }

    fn tell(&self, told: Told) {
        // Nobody listens: the daemon goes on.
        let _ = self.news.send(told);
    }

    /// History and notifications.
    fn end(&self, run: &Run, outcome: &Outcome) {
        let daemon = &self.daemon;
        daemon.deploys.remember(run.command.as_deref(), outcome);
        let (word, reason, details) = words(outcome);
        info!(
            id = run.id,
            outcome = outcome.code(),
            reason,
            "deploy ended"
        );
        let first = run.plan.members.first();
        let is_kept = matches!(outcome, Outcome::Kept { .. });
        let changes = is_kept && first.is_some_and(|member| member.from != member.to);
        let pulled = run.facts.images.values().next();
        let digest =
            pulled.map(|pulled| pulled.digest.clone().unwrap_or_else(|| pulled.id.clone()));
        daemon.record(Entry {
            what: match (run.plan.is_rollback, run.plan.strategy) {
                (true, _) => "rollback to kept",
                (false, Strategy::BlueGreen) => "deploy",
                (false, Strategy::Rolling) => "rolling deploy",
            }
            .to_owned(),
            who: run.actor.clone(),
            services: run.plan.services(),
            from: first.map(|member| member.from).filter(|_| changes),
            to: first.map(|member| member.to).filter(|_| changes),
            release: Some(Release::from(run.plan.release.as_str())),
            result: outcome.code().to_owned(),
            why: [reason.clone()]
                .into_iter()
                .chain(run.why.clone())
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
            digest,
            ..Entry::default()
        });
        let is_bad = match outcome {
            Outcome::Failed { .. } | Outcome::RolledBack { .. } => true,
            Outcome::Kept { trouble, .. } => !trouble.is_empty(),
            Outcome::AlreadyLive { .. } | Outcome::Aborted { .. } | Outcome::Refused { .. } => {
                false
            }
        };
        if is_bad {
            warn!(id = run.id, reason, "deploy went wrong");
            daemon.notifier.tell(Note {
                text: reason,
                services: run.plan.services(),
                who: run.actor.clone(),
                details,
                ..Note::new(
                    EventKind::DeployFailed,
                    format!("deploy of {} {word}", run.plan.release),
                )
            });
        }
    }
}

/// An outcome in a word, a reason and lines.
pub(super) fn words(outcome: &Outcome) -> (&'static str, String, Vec<String>) {
    match outcome {
        Outcome::Kept { trouble, .. } => (
            "is live",
            trouble.first().cloned().unwrap_or_default(),
            trouble.clone(),
        ),
        Outcome::AlreadyLive { .. } => ("was live already", String::new(), Vec::new()),
        Outcome::RolledBack {
            reason, details, ..
        } => ("was rolled back", reason.clone(), details.clone()),
        Outcome::Failed {
            step,
            reason,
            details,
            ..
        } => ("failed", format!("{step}: {reason}"), details.clone()),
        Outcome::Aborted { by, details, .. } => {
            ("was called off", format!("by {by}"), details.clone())
        }
        Outcome::Refused { reason } => ("was refused", reason.clone(), Vec::new()),
    }
}

async fn finished(doing: &mut Option<(u64, JoinHandle<Answer>)>) -> Input {
    let Some((stamp, task)) = doing else {
        return std::future::pending().await;
    };
    let stamp = *stamp;
    let answer = match task.await {
        Ok(answer) => answer,
        Err(error) => Answer::Failed(Failure::from(format!("it broke off: {error}"))),
    };
    *doing = None;
    Input::Answered { stamp, answer }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
