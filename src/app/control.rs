//! The control API over the running daemon.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc::UnboundedReceiver;

use super::daemon::{Daemon, ReloadError};
use super::explain::{Target, explain};
use super::{certification, deploy, judge, operations, status};
use crate::admin::wire::{
    CertificateReport, ConfigReport, ControlError, DecisionRequest, DeployRequest, Done, ErrorCode,
    ExplainReport, ExplainRequest, HistoryReport, HistoryRequest, JobRequest, JudgeReport,
    Operation, Outcome, OutcomeKind, Phase, Progress, ReloadReport, RenewRequest, RollbackRequest,
    Status, SwitchRequest, SwitchStatus,
};
use crate::admin::{Actor, Control, Reporter};
use crate::clock;
use crate::model::{Color, ServiceName};
use crate::switch::{self, By, Refusal, Switchboard, VerbRequest};

/// Entries of the history that are shown when nobody says how many.
const HISTORY_SHOWN: usize = 50;

/// [`Control`] over a [`Daemon`].
pub(super) struct DaemonControl(pub(super) Arc<Daemon>);

#[async_trait]
impl Control for DaemonControl {
    async fn status(&self) -> Status {
        status::status(&self.0)
    }

    async fn switch(
        &self,
        actor: Actor,
        request: SwitchRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        let switchboard = self.switchboard()?;
        let wait = request.wait;
        let known = match &request.id {
            Some(id) => switchboard.knows(id).await,
            None => false,
        };
        if !known {
            self.is_free(&request.services)?;
        }
        if !known && !request.force {
            self.check_quarantine(&switchboard, &request)?;
        }
        let news = switchboard.switch(switch::SwitchRequest {
            color: request.target,
            services: request.services,
            force: request.force,
            release: request.release,
            confirm_within: request.confirm_within_ms.map(Duration::from_millis),
            canary_percent: request.canary,
            by: by(&actor, request.id, request.why),
        });
        let outcome = Follower {
            switchboard: &switchboard,
            reporter: &reporter,
            last: None,
        }
        .follow(news, wait)
        .await?;
        Ok(explained(&self.0, outcome).await)
    }

    async fn deploy(
        &self,
        actor: Actor,
        request: DeployRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        deploy::deploy(&self.0, &actor, request, &reporter).await
    }

    async fn job(&self, actor: Actor, request: JobRequest) -> Result<Outcome, ControlError> {
        deploy::run_now(&self.0, &actor, &request.name).await
    }

    async fn rollback(
        &self,
        actor: Actor,
        request: RollbackRequest,
        reporter: Reporter,
    ) -> Result<Outcome, ControlError> {
        let (id, why) = (request.id.clone(), request.why.clone());
        // A switch that goes on is what is meant, unless a deploy has begun it or prepares one.
        if !self.is_switching_by_hand()? {
            if let Some(news) = self.0.deploys.abort_rolling(&actor) {
                return deploy::follow(&self.0, news, &reporter).await;
            }
            self.is_free(&[])?;
            if self.0.deploys.progress().is_none()
                && let Some(outcome) = deploy::to_kept(&self.0, &actor, id, why, &reporter).await
            {
                return outcome;
            }
        }
        let verb = verb(&actor, request.id, request.why);
        let outcome = self.switchboard()?.rollback(verb).await;
        told(outcome)
    }

    async fn promote(
        &self,
        actor: Actor,
        request: DecisionRequest,
    ) -> Result<Outcome, ControlError> {
        let verb = verb(&actor, request.id, request.why);
        let outcome = self.switchboard()?.promote(verb).await;
        told(outcome)
    }

    async fn abort(&self, actor: Actor, request: DecisionRequest) -> Result<Outcome, ControlError> {
        if let Some(news) = self.0.deploys.abort(&actor) {
            let (reporter, _) = Reporter::channel();
            return deploy::follow(&self.0, news, &reporter).await;
        }
        let verb = verb(&actor, request.id, request.why);
        let outcome = self.switchboard()?.abort(verb).await;
        told(outcome)
    }

    async fn reload(&self, actor: Actor) -> Result<ReloadReport, ControlError> {
        let reloaded = self.0.reload(&actor.to_string()).await;
        let (changes, warnings) = reloaded.map_err(reload_error)?;
        tracing::info!(%actor, "configuration reloaded");
        Ok(ReloadReport {
            config: self.0.file.as_ref().map(|file| file.display().to_string()),
            changes,
            warnings,
        })
    }

    async fn operate(&self, actor: Actor, operation: Operation) -> Result<Done, ControlError> {
        let switchboard = self.switchboard()?;
        operations::operate(&self.0, &switchboard, &actor, operation).await
    }

    async fn history(&self, request: HistoryRequest) -> Result<HistoryReport, ControlError> {
        let limit = request.limit.unwrap_or(HISTORY_SHOWN);
        let history = self.0.history.last(limit, request.service.as_ref());
        Ok(HistoryReport { history })
    }

    async fn judge(&self) -> Result<JudgeReport, ControlError> {
        Ok(judge::report(&self.0.verdicts))
    }

    async fn certificates(&self) -> Result<CertificateReport, ControlError> {
        Ok(certification::report(&self.0))
    }

    async fn renew(&self, actor: Actor, request: RenewRequest) -> Result<Done, ControlError> {
        tracing::info!(%actor, host = request.host, force = request.force, "renewal asked for");
        self.0.certification.renew(&request).await
    }

    async fn config(&self) -> Result<ConfigReport, ControlError> {
        let config = self.0.config.load();
        let toml = config.render();
        let json = config.to_json();
        Ok(ConfigReport { toml, config: json })
    }

    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, ControlError> {
        let config = self.0.config.load();
        let table = self.0.publisher.table().load();
        explain(&config, &table.routes, &request, &|service, _| {
            self.target(service)
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }
}

impl DaemonControl {
    /// Whether a person may move the requests of these services (empty: of all).
    fn is_free(&self, services: &[ServiceName]) -> Result<(), ControlError> {
        match self.0.deploys.holds(services) {
            None => Ok(()),
            Some(why) => Err(ControlError::new(ErrorCode::Busy, why)),
        }
    }

    /// Whether a switch goes on that no deploy has to do with.
    fn is_switching_by_hand(&self) -> Result<bool, ControlError> {
        let in_hand = self.0.deploys.in_hand();
        let stacks = self.switchboard()?.status();
        let mut by_hand = stacks.iter().filter(|stack| {
            let mut services = stack.services.iter();
            !services.any(|one| in_hand.contains(&one.service))
        });
        Ok(by_hand.any(|stack| stack.run.is_some()))
    }

    fn switchboard(&self) -> Result<Switchboard, ControlError> {
        let started = self.0.switchboard.get().cloned();
        started.ok_or_else(|| ControlError::new(ErrorCode::NotReady, "the daemon is starting"))
    }

    /// The release that was rolled back is not switched to again unless somebody insists.
    fn check_quarantine(
        &self,
        switchboard: &Switchboard,
        request: &SwitchRequest,
    ) -> Result<(), ControlError> {
        let quarantine = &self.0.quarantine;
        let known = |service: &ServiceName| switchboard.release(service, request.target);
        let release = request.release.as_ref();
        let config = self.0.config.load();
        let cooldown = |service: &ServiceName| {
            let mut services = config.services.iter();
            let found = services.find(|known| known.name == *service);
            found.map_or(Duration::ZERO, |found| found.rollback.after.cooldown)
        };
        let (services, target) = (&request.services, request.target);
        match quarantine.refuses(services, target, release, known, cooldown) {
            Some(why) => Err(ControlError::new(ErrorCode::Refused, why)),
            None => Ok(()),
        }
    }

    /// What the live table says of a service.
    fn target(&self, service: &ServiceName) -> Target {
        let table = self.0.publisher.table().load();
        let live = table
            .named(service.as_str())
            .map_or(Color::Blue, |entry| entry.live);
        let slot = self.0.publisher.slot(service, live);
        let upstreams = slot.map(|slot| slot.upstreams()).unwrap_or_default();
        let mut why = vec![format!("{live} is live for {service}")];
        let mut usable = Vec::new();
        for upstream in upstreams.iter() {
            if upstream.is_available() {
                usable.push(upstream.shown().to_string());
            } else {
                let probe = upstream.probe();
                let reason = match (upstream.is_held(), upstream.is_on_trial()) {
                    (true, _) => "a deploy holds it back",
                    (false, true) => "it is new and not found healthy yet",
                    (false, false) => probe.reason.as_deref().unwrap_or("ejected after failures"),
                };
                why.push(format!("{} takes nothing: {reason}", upstream.shown()));
            }
        }
        if usable.is_empty() {
            why.push("no upstream is available, so the answer is 503".to_owned());
        }
        Target {
            color: live,
            upstream: (!usable.is_empty()).then(|| usable.join(", ")),
            why,
        }
    }
}

fn by(actor: &Actor, id: Option<String>, why: Option<String>) -> By {
    By {
        id,
        actor: actor.to_string(),
        why,
    }
}

fn verb(actor: &Actor, id: Option<String>, why: Option<String>) -> VerbRequest {
    VerbRequest {
        services: Vec::new(),
        by: by(actor, id, why),
    }
}

/// Tells a client how its switch gets on.
struct Follower<'a> {
    switchboard: &'a Switchboard,
    reporter: &'a Reporter,
    last: Option<SwitchStatus>,
}

impl Follower<'_> {
    async fn follow(
        mut self,
        mut news: UnboundedReceiver<switch::Progress>,
        wait: bool,
    ) -> Result<Outcome, ControlError> {
        while let Some(progress) = news.recv().await {
            match progress {
                // A switch back to the old color during an observe is a rollback that worked.
                switch::Progress::Finished(switch::Outcome::Undone { services, unsaved }) => {
                    return Ok(Outcome {
                        result: OutcomeKind::Kept,
                        message: undone(&services, unsaved.as_deref()),
                        live: None,
                        services,
                        details: Vec::new(),
                    });
                }
                switch::Progress::Finished(outcome) => return told(outcome),
                switch::Progress::Recorded { moves, unsaved } if !wait => {
                    let color = moves.first().map(|moved| moved.to.color);
                    return Ok(Outcome {
                        result: OutcomeKind::Published,
                        message: format!(
                            "{} takes new requests; observation and drain go on{}",
                            color.map_or_else(String::new, |color| color.to_string()),
                            not_on_disk(unsaved.as_deref())
                        ),
                        services: moves.into_iter().map(|moved| moved.service).collect(),
                        live: color,
                        details: Vec::new(),
                    });
                }
                other => self.report(&other),
            }
        }
        Err(ControlError::new(
            ErrorCode::Failed,
            "the daemon is stopping",
        ))
    }

    fn report(&mut self, progress: &switch::Progress) {
        let Some((phase, message, tick)) = told_of(progress) else {
            return;
        };
        let now = clock::now();
        let stacks = self.switchboard.status();
        let running = stacks
            .iter()
            .find_map(|stack| status::switch_status(stack, now));
        let Some(mut switch) = running.or_else(|| self.last.clone()) else {
            return;
        };
        switch.phase = phase;
        self.last = Some(switch.clone());
        self.reporter.report(Progress {
            deploy: None,
            tick,
            message,
            switch,
        });
    }
}

/// A step of a switch in words: its phase, the line, and whether it is nothing but time going by.
pub(super) fn told_of(progress: &switch::Progress) -> Option<(Phase, String, bool)> {
    Some(match progress {
        switch::Progress::Accepted { services, .. } => {
            let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
            (
                Phase::Gate,
                format!("asking every upstream of {}", names.join(", ")),
                false,
            )
        }
        switch::Progress::Waiting { failing } => {
            let each: Vec<String> = failing.iter().map(ToString::to_string).collect();
            (
                Phase::Gate,
                format!("waiting for {}", each.join("; ")),
                false,
            )
        }
        switch::Progress::CutOver { moves } => {
            let to = moves.first().map_or(Color::Blue, |moved| moved.to.color);
            (Phase::Cutover, format!("{to} takes new requests"), false)
        }
        switch::Progress::Observing(observation) => {
            let seen = observation.seen();
            let mut message = format!(
                "{:.0}s of {:.0}s, {} of {} requests, {} failed",
                observation.elapsed.as_secs_f64(),
                observation.observe().as_secs_f64(),
                seen.requests,
                observation.needed(),
                seen.errors
            );
            if let Some(left) = observation.confirm_left {
                let left = left.as_secs();
                message.push_str(&format!(
                    ", goes back in {left}s unless `proxyctl promote` confirms it"
                ));
            }
            (Phase::Observe, message, true)
        }
        switch::Progress::Held { reason } => (Phase::Held, reason.clone(), false),
        switch::Progress::RollingBack { by, reason } => {
            (Phase::Rollback, format!("{reason} (by {by})"), false)
        }
        switch::Progress::Draining => (
            Phase::Drain,
            "the old slot's requests may finish".to_owned(),
            false,
        ),
        switch::Progress::Recorded { .. } | switch::Progress::Finished(_) => return None,
    })
}

/// How a command ended, in the control API's words.
fn told(outcome: switch::Outcome) -> Result<Outcome, ControlError> {
    use switch::Outcome as Ended;
    let message = match &outcome {
        // The command line puts its own first word.
        Ended::Undone { services, unsaved } => undone(services, unsaved.as_deref()),
        Ended::RolledBack { by, reason, .. } => format!("by {by}: {reason}"),
        other => other.to_string(),
    };
    let (result, services, live) = match outcome {
        Ended::Kept {
            color, services, ..
        } => (OutcomeKind::Kept, services, Some(color)),
        Ended::AlreadyLive { color } => (OutcomeKind::AlreadyLive, Vec::new(), Some(color)),
        Ended::RolledBack { services, .. } => (OutcomeKind::RolledBack, services, None),
        Ended::Aborted { .. } | Ended::Cancelled => (OutcomeKind::Aborted, Vec::new(), None),
        Ended::Undone { services, .. } => (OutcomeKind::RolledBack, services, None),
        Ended::Promoted { color } => (OutcomeKind::Kept, Vec::new(), Some(color)),
        Ended::Failed { .. } => (OutcomeKind::Failed, Vec::new(), None),
        Ended::Recorded(recorded) => match recorded.code.as_str() {
            "kept" | "promoted" => (OutcomeKind::Kept, Vec::new(), None),
            "already_live" => (OutcomeKind::AlreadyLive, Vec::new(), None),
            "rolled_back" | "undone" => (OutcomeKind::RolledBack, Vec::new(), None),
            "aborted" | "cancelled" => (OutcomeKind::Aborted, Vec::new(), None),
            "failed" => (OutcomeKind::Failed, Vec::new(), None),
            // Every other word is that of a refusal.
            _ => return Err(ControlError::new(ErrorCode::Refused, recorded.text)),
        },
        Ended::Refused(refusal) => return Err(refused(&refusal)),
    };
    Ok(Outcome {
        result,
        message,
        services,
        live,
        details: Vec::new(),
    })
}

/// What failed, for a switch that was rolled back.
async fn explained(daemon: &Daemon, mut outcome: Outcome) -> Outcome {
    if outcome.result == OutcomeKind::RolledBack {
        // A person's rollback needs no reason.
        let is_judged = |service: &&ServiceName| {
            let shown = daemon.verdicts.of(service);
            shown.is_some_and(|shown| shown.why.is_some())
        };
        let judged: Vec<_> = outcome.services.iter().filter(is_judged).cloned().collect();
        daemon.containers.settle(&judged).await;
        outcome.details = daemon.containers.last_words(&outcome.services).await;
        outcome.details.extend(daemon.verdicts.failures(&judged));
    }
    outcome
}

fn undone(services: &[ServiceName], unsaved: Option<&str>) -> String {
    let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    let unsaved = not_on_disk(unsaved);
    format!("{} is back on its former color{unsaved}", names.join(", "))
}

fn not_on_disk(unsaved: Option<&str>) -> String {
    unsaved.map_or_else(String::new, |reason| {
        format!("; NOT YET ON DISK ({reason}): a restart would forget it")
    })
}

fn refused(refusal: &Refusal) -> ControlError {
    let code = match refusal {
        Refusal::UnknownService { .. } => ErrorCode::UnknownService,
        Refusal::SeveralStacks { .. } | Refusal::DifferentStacks { .. } => ErrorCode::Usage,
        Refusal::Canary => ErrorCode::Unsupported,
        Refusal::NothingSwitchable | Refusal::EmptySlot { .. } => ErrorCode::EmptySlot,
        Refusal::Locked { .. } => ErrorCode::Busy,
        Refusal::Frozen { .. } => ErrorCode::Frozen,
        Refusal::Gate { .. } | Refusal::OldSlotDown { .. } => ErrorCode::GateNotPassed,
        Refusal::NothingToUndo | Refusal::NothingRunning => ErrorCode::NothingToUndo,
        Refusal::Damaged { .. }
        | Refusal::NotRecorded { .. }
        | Refusal::NothingToPromote { .. }
        | Refusal::Removed => ErrorCode::Refused,
    };
    match refusal {
        Refusal::Gate { waited, failing } => {
            let message = format!(
                "the target is not ready after {:.0}s; traffic has not moved",
                waited.as_secs_f64()
            );
            let each = failing.iter().map(ToString::to_string);
            ControlError::new(code, message).with_details(each)
        }
        Refusal::OldSlotDown { failing } => {
            let each = failing.iter().map(ToString::to_string);
            ControlError::new(code, "the old slot is down").with_details(each)
        }
        other => ControlError::new(code, other.to_string()),
    }
}

fn reload_error(error: ReloadError) -> ControlError {
    let message = error.to_string();
    match error {
        ReloadError::Invalid(diagnostics) => ControlError::new(ErrorCode::InvalidConfig, message)
            .with_details(diagnostics.0.iter().map(ToString::to_string)),
        ReloadError::RestartNeeded(_) => ControlError::new(ErrorCode::RestartNeeded, message),
        ReloadError::Certificates(errors) => ControlError::new(ErrorCode::InvalidConfig, message)
            .with_details(errors.iter().map(ToString::to_string)),
        ReloadError::Issuer(error) => {
            ControlError::new(ErrorCode::InvalidConfig, message).with_details([error.to_string()])
        }
        ReloadError::AccessLog(_, error) => {
            ControlError::new(ErrorCode::InvalidConfig, message).with_details([error.to_string()])
        }
        ReloadError::NoFile => ControlError::new(ErrorCode::Unsupported, message),
        ReloadError::Stopping => ControlError::new(ErrorCode::Failed, message),
    }
}
