//! Deploys in the control API's words.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::hands::outline;
use super::{Denied, Known, Told, Wanted, begin, plan};
use crate::admin::wire::{
    ControlError, DeployRequest, ErrorCode, Outcome, OutcomeKind, Phase, Progress, SwitchStatus,
};
use crate::admin::{Actor, Reporter};
use crate::app::daemon::Daemon;
use crate::app::status;
use crate::clock;
use crate::deploy::container::Hidden;
use crate::deploy::{self, Ask, Plan, forward};
use crate::model::{Color, ServiceName, Strategy};

/// `deploy`.
pub(in crate::app) async fn deploy(
    daemon: &Arc<Daemon>,
    actor: &Actor,
    request: DeployRequest,
    reporter: &Reporter,
) -> Result<Outcome, ControlError> {
    if let Some(known) = request
        .id
        .as_deref()
        .and_then(|id| daemon.deploys.known(id))
    {
        return match known {
            Known::Ended(outcome) => told(outcome),
            Known::Running(news) => follow(daemon, news, reporter).await,
        };
    }
    is_allowed(daemon)?;
    let wanted = Wanted::Deploy(Ask {
        image: request.image,
        services: request.services,
        env: Hidden(request.env),
        release: request.release,
        strategy: request.strategy,
    });
    if request.dry_run {
        let (_, plan) = plan(daemon, &wanted).await.map_err(denied)?;
        return Ok(planned(&plan));
    }
    let news = begin(
        daemon,
        actor,
        request.id,
        request.why,
        request.force,
        &wanted,
    );
    let news = news.await.map_err(denied)?;
    if request.wait {
        return follow(daemon, news, reporter).await;
    }
    Ok(Outcome {
        result: OutcomeKind::Begun,
        message: "`proxyctl status --watch` shows how it gets on".to_owned(),
        services: Vec::new(),
        live: None,
        details: Vec::new(),
    })
}

/// Goes back to what is kept, stopped; `None`: nothing is, or somebody has switched since.
pub(in crate::app) async fn to_kept(
    daemon: &Arc<Daemon>,
    actor: &Actor,
    id: Option<String>,
    why: Option<String>,
    reporter: &Reporter,
) -> Option<Result<Outcome, ControlError>> {
    if let Some(known) = id.as_deref().and_then(|id| daemon.deploys.known(id)) {
        return Some(match known {
            Known::Ended(outcome) => told(outcome),
            Known::Running(news) => follow(daemon, news, reporter).await,
        });
    }
    let services = kept_services(daemon);
    if services.is_empty() {
        return None;
    }
    let news = begin(daemon, actor, id, why, true, &Wanted::Kept(services)).await;
    let news = match news {
        Ok(news) => news,
        Err(error) => return Some(Err(denied(error))),
    };
    let outcome = follow(daemon, news, reporter).await;
    // What was asked for is to go back.
    Some(outcome.map(|outcome| match outcome.result {
        OutcomeKind::Kept => Outcome {
            result: OutcomeKind::RolledBack,
            ..outcome
        },
        _ => outcome,
    }))
}

/// Services whose live release came by a deploy and whose former one is kept.
fn kept_services(daemon: &Daemon) -> Vec<ServiceName> {
    let table = daemon.publisher.table().load();
    let book = daemon.deploys.book();
    let is_live = |service: &ServiceName, color: Color| {
        let config = daemon.config.load();
        let found = config.services.iter().find(|one| one.name == *service);
        match found.map(|found| found.kind) {
            Some(crate::config::Kind::Web) => {
                let entry = table.named(service.as_str());
                entry.is_some_and(|entry| entry.live == color)
            }
            Some(crate::config::Kind::Worker { .. }) => true,
            None => false,
        }
    };
    // The release of the last deploy, all services of it and no others.
    let newest = book
        .releases
        .values()
        .filter_map(|releases| releases.live.as_ref());
    let newest = newest
        .max_by_key(|live| live.since_ms)
        .map(|live| live.deploy.clone());
    let of_newest = book.releases.iter().filter(|(service, releases)| {
        let live = releases.live.as_ref();
        releases.kept.is_some()
            && live.is_some_and(|live| {
                Some(&live.deploy) == newest.as_ref() && is_live(service, live.color)
            })
    });
    of_newest.map(|(service, _)| service.clone()).collect()
}

/// Neither frozen nor in the middle of something else.
fn is_allowed(daemon: &Daemon) -> Result<(), ControlError> {
    let Some(switchboard) = daemon.switchboard.get() else {
        return Err(ControlError::new(
            ErrorCode::NotReady,
            "the daemon is starting",
        ));
    };
    let notes = switchboard.notes();
    let now = clock::epoch_ms(clock::wall());
    if let Some(freeze) = notes.freeze
        && freeze.until_ms.is_none_or(|until| now < until)
    {
        let why = format!("deploys are frozen by {}: {}", freeze.by, freeze.why);
        return Err(ControlError::new(ErrorCode::Frozen, why));
    }
    if let Some(damage) = notes.damage {
        let why = format!("switches are locked until `proxyctl doctor --repair`: {damage}");
        return Err(ControlError::new(ErrorCode::Refused, why));
    }
    Ok(())
}

/// Tells a client how a run gets on, and how it ended.
pub(in crate::app) async fn follow(
    daemon: &Daemon,
    mut news: broadcast::Receiver<Told>,
    reporter: &Reporter,
) -> Result<Outcome, ControlError> {
    loop {
        let (message, tick) = match news.recv().await {
            Ok(Told::Stage(stage)) => (stage.text, false),
            Ok(Told::Line(line, tick)) => (line, tick),
            Ok(Told::End(outcome)) => return told(outcome),
            // A reader that was too slow has missed some lines.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => {
                return Err(ControlError::new(
                    ErrorCode::Failed,
                    "the daemon is stopping",
                ));
            }
        };
        let progress = daemon.deploys.progress();
        reporter.report(Progress {
            tick,
            message,
            switch: nothing(),
            deploy: progress.map(status::deploying),
        });
    }
}

/// Where a switch would stand; a deploy says where it stands itself.
fn nothing() -> SwitchStatus {
    SwitchStatus {
        services: Vec::new(),
        target: Color::Green,
        phase: Phase::Unknown,
        actor: String::new(),
        elapsed_ms: 0,
        planned_ms: None,
        limit_ms: None,
        requests: 0,
        requests_needed: None,
        canary: None,
        new: None,
        old: None,
        gate: Vec::new(),
        reason: None,
    }
}

/// The end of a run.
pub(in crate::app) fn told(outcome: deploy::Outcome) -> Result<Outcome, ControlError> {
    use deploy::Outcome as Ended;
    let names = |services: &[ServiceName]| {
        let names: Vec<_> = services.iter().map(ServiceName::as_str).collect();
        names.join(", ")
    };
    Ok(match outcome {
        Ended::Kept {
            color,
            release,
            services,
            trouble,
        } => {
            let place = color
                .map(|color| format!(" in {color}"))
                .unwrap_or_default();
            let message = format!("{release} is live{place}: {}", names(&services));
            Outcome {
                result: match trouble.is_empty() {
                    true => OutcomeKind::Kept,
                    false => OutcomeKind::Failed,
                },
                message: match trouble.is_empty() {
                    true => message,
                    false => format!("{message}; but not everything after it went well"),
                },
                services,
                live: color,
                details: trouble,
            }
        }
        Ended::AlreadyLive { release } => Outcome {
            result: OutcomeKind::AlreadyLive,
            message: format!("{release} is the image that is live; nothing was done"),
            services: Vec::new(),
            live: None,
            details: Vec::new(),
        },
        Ended::RolledBack {
            services,
            reason,
            details,
        } => Outcome {
            result: OutcomeKind::RolledBack,
            message: reason,
            services,
            live: None,
            details,
        },
        Ended::Failed {
            step,
            reason,
            details,
            is_shut,
            moved,
        } => {
            let rest = match moved {
                true => "the release before takes the requests again",
                false => "the release before is live and untouched",
            };
            let message = format!("{step}: {reason}; {rest}");
            if is_shut {
                let error = ControlError::new(ErrorCode::GateNotPassed, message);
                return Err(error.with_details(details));
            }
            Outcome {
                result: OutcomeKind::Failed,
                message,
                services: Vec::new(),
                live: None,
                details,
            }
        }
        Ended::Aborted { by, details, moved } => Outcome {
            result: OutcomeKind::Aborted,
            message: match moved {
                true => format!("by {by}; the release before takes the requests again"),
                false => format!("by {by}, before any traffic moved"),
            },
            services: Vec::new(),
            live: None,
            details,
        },
        Ended::Refused { reason } => {
            return Err(ControlError::new(ErrorCode::Refused, reason));
        }
    })
}

/// Why nothing was begun.
pub(in crate::app) fn denied(denied: Denied) -> ControlError {
    use crate::deploy::PlanError as P;
    let code = match &denied {
        Denied::Busy(_) => ErrorCode::Busy,
        Denied::Docker(_) => ErrorCode::Failed,
        Denied::Locked(_) => ErrorCode::Refused,
        Denied::Plan(P::UnknownService(_)) => ErrorCode::UnknownService,
        Denied::Plan(P::NothingKept | P::Gone(_)) => ErrorCode::NothingToUndo,
        Denied::Plan(
            P::SeveralStacks(_)
            | P::SeveralProjects(_)
            | P::DifferentStacks(_)
            | P::NoName { .. }
            | P::OtherImage { .. },
        ) => ErrorCode::Usage,
        Denied::Plan(
            P::NothingToDeploy
            | P::NotRunning { .. }
            | P::Mixed(_)
            | P::Declared { .. }
            | P::InFile { .. }
            | P::Refused(_),
        ) => ErrorCode::Refused,
    };
    let text = denied.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    ControlError::new(code, first).with_details(lines)
}

/// What would be done.
fn planned(plan: &Plan) -> Outcome {
    let mut details = Vec::new();
    for member in &plan.members {
        let old: Vec<_> = member.old.iter().map(|old| old.name.as_str()).collect();
        let (service, old) = (&member.service, old.join(", "));
        let (before, release) = (&member.old_release, &plan.release);
        details.push(match plan.is_rolled(member) {
            true => format!(
                "{service}: {old} ({before}) in {} are replaced one by one by {release}",
                member.from
            ),
            false => format!(
                "{service}: {old} ({before}) in {} is followed by {release} in {}",
                member.from, member.to
            ),
        });
        for new in &member.new {
            if let Some(spec) = &new.spec {
                details.push(format!("  {}", outline(spec)));
                details.extend(spec.notes.iter().map(|note| format!("  note: {note}")));
            }
        }
    }
    if plan.strategy == Strategy::Rolling {
        let told = "note: both releases are in one color, so no verdict compares them: judged by health \
                    checks, probes and smoke checks";
        details.push(told.to_owned());
    }
    let steps = forward(plan);
    let of = steps.len();
    for (n, step) in steps.into_iter().enumerate() {
        details.push(format!("{:>2}/{of} {}", n + 1, step.told(plan)));
    }
    Outcome {
        result: OutcomeKind::Planned,
        message: format!("{} would be deployed; nothing was done", plan.release),
        services: plan.services(),
        live: None,
        details,
    }
}
