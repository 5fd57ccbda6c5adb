//! Which events people elsewhere are told of, and in which words.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::daemon::Daemon;
use crate::acme;
use crate::admin::wire::Done;
use crate::history::Entry;
use crate::model::ServiceName;
use crate::notify::{Delivered, EventKind, Note, Notifier};
use crate::switch::{Cause, Event, Outcome, Override, Phase};
use crate::{clock, tls};

/// What a switch did. `words`: what speaks against the containers of its release, a line each.
pub(super) fn of_switch(daemon: &Daemon, event: &Event, words: &[String]) -> Option<Note> {
    let failures = |services: &[ServiceName]| {
        let failures = daemon.verdicts.failures(services);
        words.iter().cloned().chain(failures).collect()
    };
    match event {
        Event::CutOver {
            actor,
            moves,
            forced,
        } => {
            let first = moves.first()?;
            let services: Vec<_> = moves.iter().map(|m| m.service.clone()).collect();
            let to = first.to.color;
            let title = format!("{}: {to} takes the requests", list(&services));
            Some(Note {
                text: if *forced {
                    "the gate was skipped".to_owned()
                } else {
                    String::new()
                },
                services,
                from: Some(first.from.color),
                to: Some(to),
                who: actor.clone(),
                ..Note::new(EventKind::Switched, title)
            })
        }
        Event::Held { reason, services } => Some(Note {
            text: reason.clone(),
            services: services.clone(),
            details: failures(services),
            ..Note::new(
                EventKind::Held,
                format!("{}: held, somebody must decide", list(services)),
            )
        }),
        Event::RolledBack {
            by,
            cause,
            reason,
            moves,
        } => {
            let first = moves.first()?;
            let services: Vec<_> = moves.iter().map(|m| m.service.clone()).collect();
            let to = first.to.color;
            let title = format!("{}: rolled back to {to}", list(&services));
            let details = if *cause == Cause::Operator {
                words.to_vec()
            } else {
                failures(&services)
            };
            let numbers = daemon.verdicts.of(services.first()?);
            let numbers = numbers.filter(|_| *cause != Cause::Operator);
            Some(Note {
                text: reason.clone(),
                services,
                from: Some(first.from.color),
                to: Some(to),
                who: by.clone(),
                requests: numbers.as_ref().map(|shown| shown.numbers.requests),
                failures: numbers.as_ref().map(|shown| shown.numbers.failures),
                details,
                ..Note::new(EventKind::RolledBack, title)
            })
        }
        Event::Ended { services, outcome } => {
            let (kind, what) = match outcome {
                Outcome::Kept { color, .. } => (EventKind::Committed, format!("{color} is kept")),
                Outcome::Refused(_) => (EventKind::Refused, "a switch was refused".to_owned()),
                Outcome::Aborted { .. } => (EventKind::Aborted, "a switch was aborted".to_owned()),
                Outcome::Failed { .. } => (EventKind::Held, "a switch failed".to_owned()),
                Outcome::AlreadyLive { .. }
                | Outcome::RolledBack { .. }
                | Outcome::Undone { .. }
                | Outcome::Promoted { .. }
                | Outcome::Cancelled
                | Outcome::Recorded(_) => return None,
            };
            let title = match services.is_empty() {
                true => what,
                false => format!("{}: {what}", list(services)),
            };
            Some(Note {
                text: outcome.to_string(),
                services: services.clone(),
                ..Note::new(kind, title)
            })
        }
        Event::NotDurable { reason } => Some(Note {
            text: format!("{reason}; switches are refused, a restart would forget what was done"),
            ..Note::new(EventKind::Alert, "the state is not on disk")
        }),
        Event::Durable => Some(Note::new(
            EventKind::Recovered,
            "the state is on disk again",
        )),
        // What was set aside is told with its entry in the history.
        Event::Overridden { .. }
        | Event::SwitchAccepted { .. }
        | Event::DrainBegan { .. }
        | Event::Drained { .. } => None,
    }
}

/// What a person set aside.
pub(super) fn of_override(what: &Override) -> String {
    match what {
        Override::Gate { failing } if failing.is_empty() => {
            "the gate was skipped; it was open".to_owned()
        }
        Override::Gate { failing } => {
            let each: Vec<_> = failing.iter().map(ToString::to_string).collect();
            format!("the gate was skipped; it was shut: {}", each.join("; "))
        }
        Override::Promote { watched, held } => {
            let held = held.iter().map(|why| format!(", while it was held: {why}"));
            let held: String = held.collect();
            format!("kept after {} s of its watch{held}", watched.as_secs())
        }
        Override::Abort { phase } => match phase {
            Phase::Probing | Phase::Switching => {
                "the switch was cancelled before any traffic moved".to_owned()
            }
            Phase::Idle
            | Phase::Observing
            | Phase::Held
            | Phase::RollingBack
            | Phase::Committing => "the switch was ended under watch, and undone".to_owned(),
        },
    }
}

/// What was done besides switches, as the history has it.
pub(super) fn of_entry(entry: &Entry) -> Option<Note> {
    let kind = match entry.what.as_str() {
        "still failing" => EventKind::StillBad,
        "would go back" | "would hold" => EventKind::Alert,
        "recovery" | "repair" => EventKind::Recovered,
        "force" | "promote" | "abort" | "hold" | "resume" | "freeze" | "unfreeze"
        | "maintenance on" | "maintenance off" => EventKind::Override,
        _ => return None,
    };
    let title = match entry.services.is_empty() {
        true => entry.what.clone(),
        false => format!("{}: {}", list(&entry.services), entry.what),
    };
    Some(Note {
        text: entry.why.clone(),
        services: entry.services.clone(),
        who: entry.who.clone(),
        requests: entry.requests,
        failures: entry.failures,
        ..Note::new(kind, title)
    })
}

/// What a start found and settled.
pub(super) fn recovered(what: &str) -> Note {
    Note {
        text: what.to_owned(),
        ..Note::new(EventKind::Recovered, "cutover started again")
    }
}

/// A configuration that was not taken over.
pub(super) fn rejected(error: &str, details: Vec<String>) -> Note {
    Note {
        text: error.to_owned(),
        details,
        ..Note::new(
            EventKind::ConfigError,
            "the configuration was not taken over",
        )
    }
}

/// The new release is suspicious.
pub(super) fn suspicious(service: &ServiceName, numbers: &str) -> Note {
    Note {
        text: numbers.to_owned(),
        services: vec![service.clone()],
        ..Note::new(
            EventKind::Suspicious,
            format!("{service}: the new release is suspicious"),
        )
    }
}

/// A rule of thumb holds.
pub(super) fn alert(service: &ServiceName, what: &str) -> Note {
    Note {
        text: what.to_owned(),
        services: vec![service.clone()],
        ..Note::new(
            EventKind::Alert,
            format!("{service}: look at the new release"),
        )
    }
}

/// What happened to the files of a certificate.
pub(super) fn of_files(event: &tls::Event) -> Option<Note> {
    let (kind, title) = match event {
        tls::Event::Reloaded { .. } => (EventKind::Certificate, "certificate files reloaded"),
        tls::Event::Rejected { .. } => (
            EventKind::CertificateError,
            "a certificate file cannot be used",
        ),
        tls::Event::ClientCasReloaded { .. }
        | tls::Event::UpstreamFilesReloaded { .. }
        | tls::Event::Mended { .. } => return None,
    };
    Some(Note {
        text: event.to_string(),
        ..Note::new(kind, title)
    })
}

fn of_order(event: &acme::Event) -> Option<Note> {
    match event {
        acme::Event::CertificateIssued {
            names,
            issuer,
            not_after,
            renewal,
        } => {
            let what = if *renewal { "renewed" } else { "issued" };
            let until = clock::rfc3339(*not_after);
            Some(Note {
                text: format!("by {issuer}, until {until}"),
                ..Note::new(
                    EventKind::Certificate,
                    format!("certificate {what} for {names}"),
                )
            })
        }
        acme::Event::OrderFailed {
            names,
            error,
            failures,
            not_after,
            retry_at,
            ..
        } => {
            let served = not_after.map_or_else(
                || "there is none that clients trust".to_owned(),
                |end| format!("the one that is served ends at {}", clock::rfc3339(end)),
            );
            let again = retry_at.map_or_else(String::new, |at| {
                format!("; tried again at {}", clock::rfc3339(at))
            });
            Some(Note {
                text: format!("{error}; {served}{again} ({failures} failures)"),
                ..Note::new(
                    EventKind::CertificateError,
                    format!("no certificate for {names}"),
                )
            })
        }
        acme::Event::OrderBegun { .. }
        | acme::Event::StagingPassed { .. }
        | acme::Event::AnotherOrders => None,
    }
}

/// Tells of orders, for ever.
pub(super) async fn orders(daemon: Arc<Daemon>) {
    let mut events = daemon.certification.subscribe();
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some(note) = of_order(&event) {
                    daemon.notifier.tell(note);
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Sends every target a test; what each said.
pub(super) async fn test(notifier: &Notifier) -> Result<Done, Vec<String>> {
    let said = notifier.test().await;
    let mut failed = Vec::new();
    let mut done = Vec::new();
    for (target, delivered) in said {
        match delivered {
            Delivered::Yes => done.push(format!("{target}: arrived")),
            Delivered::No { reason, .. } => failed.push(format!("{target}: {reason}")),
        }
    }
    if failed.is_empty() {
        Ok(Done {
            done,
            warnings: Vec::new(),
        })
    } else {
        failed.extend(done);
        Err(failed)
    }
}

fn list(services: &[ServiceName]) -> String {
    let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    names.join(", ")
}
