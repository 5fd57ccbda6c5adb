//! What `proxyctl status` shows, gathered from the table, the probes, the counters and the
//! switchboard.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::daemon::{Daemon, place_and_word};
use super::{deploy, operations};
use crate::admin::wire::{
    Blocking, Certificate, DeployStatus, DockerProblem, DockerStatus, DrainStatus, FreezeStatus,
    GateFailure, HoldStatus, InFlight, JobStatus, MaintenanceStatus, Phase, RefusedCall,
    ReservedHost, ServiceState, ServiceStatus, SlotStatus, Slots, Status, SwitchStatus, Tally,
    UpstreamStatus,
};
use crate::clock;
use crate::config::{Config, Kind};
use crate::docker::Link;
use crate::model::{Color, Generation, ServiceName};
use crate::pool::{Availability, HoldState, Slot, Upstream};
use crate::switch::{self, Freeze, MaintenanceRecord, StackStatus};

/// Everything now. Waits for nothing.
pub(super) fn status(daemon: &Daemon) -> Status {
    let now = clock::now();
    let config = daemon.config.load();
    let table = daemon.publisher.table().load();
    let stacks = daemon
        .switchboard
        .get()
        .map(|switchboard| switchboard.status().to_vec())
        .unwrap_or_default();
    let holds = daemon.doors.holds.states();
    let notes = daemon.switchboard.get().map(switch::Switchboard::notes);
    let notes = notes.unwrap_or_default();
    // Workers have no upstreams: they are among the containers.
    let web = config.services.iter().filter(|one| one.kind == Kind::Web);
    let services = web.filter_map(|service| {
        let entry = table.named(service.name.as_str())?;
        let stack = stacks.iter().find(|stack| stack.stack == service.stack);
        let slot = |color: Color| {
            let slot = daemon.publisher.slot(&service.name, color);
            let generation = entry
                .pool
                .as_ref()
                .filter(|_| entry.live == color)
                .map(|pool| pool.generation().0);
            slot.map(|slot| slot_status(&slot, generation, now))
                .unwrap_or_default()
        };
        let drains: Vec<DrainStatus> = stack
            .map(|stack| drains(daemon, stack, &service.name, now))
            .unwrap_or_default();
        let switch = stack
            .and_then(|stack| switch_status(stack, now))
            .filter(|switch| switch.services.contains(&service.name));
        Some(ServiceStatus {
            name: service.name.clone(),
            live: entry.live,
            state: state(switch.as_ref(), &drains),
            slots: Slots {
                blue: slot(Color::Blue),
                green: slot(Color::Green),
            },
            stack: service.stack.clone(),
            switch,
            drains,
            hold: holds.get(&service.name).map(|hold| held(hold, now)),
        })
    });
    let mut warnings: Vec<String> = config.warnings.iter().map(place_and_word).collect();
    warnings.extend(stacks.iter().filter_map(|stack| {
        let reason = stack.unsaved.as_ref()?;
        Some(format!(
            "stack {}: the live colors are not on disk: {reason}",
            stack.stack
        ))
    }));
    warnings.extend(daemon.notifier.waiting().into_iter().map(|waiting| {
        format!(
            "{}: {} notifications wait: {}",
            waiting.target, waiting.count, waiting.reason
        )
    }));
    warnings.extend(daemon.deploys.view.trouble());
    warnings.extend(daemon.deploys.damage().map(str::to_owned));
    warnings.extend(
        notes.damage.iter().map(|damage| {
            format!("switches are locked until `proxyctl doctor --repair`: {damage}")
        }),
    );
    Status {
        services: services.collect(),
        certificates: certificates(daemon),
        deploy: daemon.deploys.progress().map(deploying),
        containers: daemon.deploys.view.containers().to_vec(),
        jobs: jobs(daemon, &config),
        docker: docker(daemon),
        freeze: notes.freeze.filter(is_frozen).map(frozen),
        maintenance: notes.maintenance.into_iter().map(closed).collect(),
        warnings,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: now.saturating_duration_since(daemon.started).as_secs(),
        config: daemon.file.as_ref().map(|file| file.display().to_string()),
    }
}

/// The deploy that goes on.
pub(super) fn deploying(progress: deploy::Progress) -> DeployStatus {
    let stage = progress.stage;
    DeployStatus {
        id: progress.id,
        release: progress.release,
        actor: progress.actor,
        step: stage
            .as_ref()
            .map_or_else(|| "begin".to_owned(), |stage| stage.text.clone()),
        done: stage.as_ref().map_or(0, |stage| stage.done),
        of: stage.as_ref().map_or(0, |stage| stage.of),
        back: stage.is_some_and(|stage| stage.is_back),
        since: at(progress.since_ms),
    }
}

fn jobs(daemon: &Daemon, config: &Config) -> Vec<JobStatus> {
    let book = daemon.deploys.book();
    let one = |job: &crate::config::Job| {
        let crate::config::When::Schedule(schedule) = &job.when else {
            return None;
        };
        let ran = book.schedule.get(&job.name);
        let next = ran.filter(|ran| ran.ended_ms.is_some());
        let next = next.and_then(|ran| schedule.after(clock::from_epoch_ms(ran.due_ms)));
        let failure = ran.map(|ran| ran.failure.clone());
        Some(JobStatus {
            name: job.name.clone(),
            next: next.map(clock::rfc3339),
            last_good: ran.and_then(|ran| ran.good_ms).map(at),
            failure: failure.filter(|failure| !failure.is_empty()),
        })
    };
    config.jobs.iter().filter_map(one).collect()
}

/// Docker discovery; `None`: it is off.
fn docker(daemon: &Daemon) -> Option<DockerStatus> {
    let (view, failed) = daemon.discovery.shown()?;
    let found = daemon.discovery.discovered();
    let (state, error, api) = match (&view.link, failed) {
        (Link::Connecting, _) => ("connecting", None, String::new()),
        (Link::Lost { error }, _) => ("disconnected", Some(error.to_string()), String::new()),
        (Link::Connected { api }, Some(why)) => ("failed", Some(why), api.clone()),
        (Link::Connected { api }, None) => ("connected", None, api.clone()),
    };
    let refused = view.refused.iter().map(|(call, message)| RefusedCall {
        call: call.to_string(),
        message: message.clone(),
        effect: call.needed_for().to_owned(),
    });
    let problems = found.problems.iter().map(|problem| DockerProblem {
        container: problem.container.clone(),
        what: problem.what.clone(),
        fix: problem.fix.clone(),
    });
    let reserved = daemon.discovery.reserved().into_iter();
    let reserved = reserved.map(|(host, claim, free_ms)| ReservedHost {
        host,
        project: claim.project,
        until: clock::rfc3339(UNIX_EPOCH + Duration::from_millis(free_ms)),
    });
    Some(DockerStatus {
        state: state.to_owned(),
        error,
        api,
        containers: found.members.len(),
        refused: refused.collect(),
        problems: problems.collect(),
        reserved: reserved.collect(),
    })
}

fn held(hold: &HoldState, now: Instant) -> HoldStatus {
    let wall = clock::wall();
    let ago = |then: Instant| wall - now.saturating_duration_since(then);
    let ahead = |then: Instant| wall + then.saturating_duration_since(now);
    HoldStatus {
        waiting: u64::try_from(hold.waiting).unwrap_or(u64::MAX),
        until: hold.until.map(|until| clock::rfc3339(ahead(until))),
        since: hold.since.map(|since| clock::rfc3339(ago(since))),
        max_ms: clock::millis(hold.max),
        refused: hold.refused,
    }
}

fn is_frozen(freeze: &Freeze) -> bool {
    let now = clock::epoch_ms(clock::wall());
    freeze.until_ms.is_none_or(|until| now < until)
}

fn frozen(freeze: Freeze) -> FreezeStatus {
    FreezeStatus {
        why: freeze.why,
        by: freeze.by,
        since: at(freeze.since_ms),
        until: freeze.until_ms.map(at),
    }
}

fn closed((key, record): (String, MaintenanceRecord)) -> MaintenanceStatus {
    MaintenanceStatus {
        service: key.strip_prefix(operations::SERVICE).map(Into::into),
        site: key.strip_prefix(operations::SITE).map(Into::into),
        message: record.message,
        by: record.by,
        since: at(record.since_ms),
    }
}

/// A moment in milliseconds since 1970, for people.
fn at(ms: u64) -> String {
    clock::rfc3339(UNIX_EPOCH + Duration::from_millis(ms))
}

fn state(switch: Option<&SwitchStatus>, drains: &[DrainStatus]) -> ServiceState {
    match switch.map(|switch| switch.phase) {
        Some(Phase::Gate) => ServiceState::Gate,
        Some(Phase::Canary) => ServiceState::Canary,
        Some(Phase::Held) => ServiceState::Held,
        Some(Phase::Cutover | Phase::Observe | Phase::Rollback | Phase::Verdict) => {
            ServiceState::Observe
        }
        Some(Phase::Drain | Phase::Unknown) | None if !drains.is_empty() => ServiceState::Drain,
        Some(Phase::Drain | Phase::Unknown) | None => ServiceState::Stable,
    }
}

fn slot_status(slot: &Slot, generation: Option<u64>, now: Instant) -> SlotStatus {
    let window = slot.metrics().window(now);
    let upstreams = slot.upstreams();
    SlotStatus {
        release: slot.release().map(|release| (*release).clone()),
        upstreams: upstreams
            .iter()
            .map(|upstream| upstream_status(upstream, now))
            .collect(),
        in_flight: InFlight::from_counts(slot.in_flight()),
        generation,
        rps: window.rps(),
        error_rate: (window.requests > 0).then(|| window.error_rate()),
        p50_ms: window.p50().map(milliseconds),
        p99_ms: window.p99().map(milliseconds),
    }
}

fn upstream_status(upstream: &Upstream, now: Instant) -> UpstreamStatus {
    let probe = upstream.probe();
    let ejected = upstream.ejected_for(now);
    let healthy = match (probe.state, ejected) {
        (Availability::Healthy, None) => Some(true),
        (Availability::Unknown, None) => None,
        _ => Some(false),
    };
    let reason = match (ejected, healthy) {
        (Some(left), _) => Some(format!(
            "ejected for {:.1}s after failed requests",
            left.as_secs_f64()
        )),
        (None, Some(true)) => None,
        (None, _) => probe.reason.clone(),
    };
    UpstreamStatus {
        address: upstream.shown().to_string(),
        healthy,
        reason,
        probe_ms: probe.latency.map(milliseconds),
        container: upstream.behind().map(|behind| behind.name.to_string()),
    }
}

/// Requests that are shown one by one for a drain.
const BLOCKING_SHOWN: usize = 20;

fn blocking(
    daemon: &Daemon,
    service: &ServiceName,
    generation: Generation,
    now: Instant,
) -> Vec<Blocking> {
    let listed = daemon
        .publisher
        .blocking(service, generation, BLOCKING_SHOWN);
    let shown = |one: crate::pool::InFlight| Blocking {
        kind: one.kind,
        method: one.method.to_string(),
        path: one.path.into(),
        client: one.client.to_string(),
        age_ms: clock::millis(now.saturating_duration_since(one.since)),
    };
    listed.into_iter().map(shown).collect()
}

fn drains(
    daemon: &Daemon,
    stack: &StackStatus,
    service: &ServiceName,
    now: Instant,
) -> Vec<DrainStatus> {
    let of_service = stack
        .drains
        .iter()
        .filter(|drain| drain.service == *service);
    of_service
        .map(|drain| DrainStatus {
            color: drain.pool.color,
            generation: drain.pool.generation.0,
            in_flight: InFlight::from_counts(drain.in_flight),
            elapsed_ms: drain.since.map_or(0, |since| {
                clock::millis(now.saturating_duration_since(since))
            }),
            deadline_ms: drain
                .deadline
                .map_or(0, |at| clock::millis(at.saturating_duration_since(now))),
            blocking: blocking(daemon, service, drain.pool.generation, now),
        })
        .collect()
}

/// The switch that runs in a stack.
pub(super) fn switch_status(stack: &StackStatus, now: Instant) -> Option<SwitchStatus> {
    let run = stack.run.as_ref()?;
    let phase = match stack.phase {
        switch::Phase::Idle => return None,
        switch::Phase::Probing => Phase::Gate,
        switch::Phase::Switching => Phase::Cutover,
        switch::Phase::Observing => Phase::Observe,
        switch::Phase::Held => Phase::Held,
        switch::Phase::RollingBack => Phase::Rollback,
        switch::Phase::Committing => Phase::Verdict,
    };
    let observation = stack.observation.as_ref();
    let seen = observation.map(switch::Observation::seen);
    let old = observation.map(|observation| {
        let each = observation.services.iter().map(|service| service.old);
        each.fold((0, 0), |(requests, errors), old| {
            (requests + old.requests, errors + old.errors)
        })
    });
    let gate_left = stack
        .gate_deadline
        .map(|deadline| clock::millis(deadline.saturating_duration_since(stack.since)));
    Some(SwitchStatus {
        services: run.services.clone(),
        target: run.target,
        phase,
        actor: run.actor.clone(),
        elapsed_ms: observation.map_or_else(
            || clock::millis(now.saturating_duration_since(stack.since)),
            |observation| clock::millis(observation.elapsed),
        ),
        planned_ms: observation
            .map(|observation| clock::millis(observation.observe()))
            .or(gate_left),
        limit_ms: observation.map(|observation| clock::millis(observation.observe_max())),
        requests: seen.map_or(0, |seen| seen.requests),
        requests_needed: observation.map(switch::Observation::needed),
        canary: None,
        new: seen.map(|seen| Tally {
            requests: seen.requests,
            failures: seen.errors,
            p99_ms: None,
        }),
        old: old.map(|(requests, failures)| Tally {
            requests,
            failures,
            p99_ms: None,
        }),
        gate: stack
            .failing
            .iter()
            .map(|failure| GateFailure {
                service: failure.service.clone(),
                address: failure.upstream.clone(),
                reason: failure.why.clone(),
            })
            .collect(),
        reason: stack.held.clone(),
    })
}

fn certificates(daemon: &Daemon) -> Vec<Certificate> {
    let now = clock::wall();
    let served = daemon.certificates.served();
    let each = served.iter().flat_map(|certificate| {
        certificate.names.iter().map(|name| Certificate {
            host: name.to_string(),
            issuer: Some(certificate.issuer.clone()),
            expires: Some(clock::rfc3339(certificate.not_after)),
            expires_in_s: seconds_until(certificate.not_after, now),
            error: None,
        })
    });
    each.collect()
}

pub(super) fn seconds_until(end: SystemTime, now: SystemTime) -> Option<i64> {
    match end.duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).ok(),
        Err(past) => i64::try_from(past.duration().as_secs()).ok().map(|s| -s),
    }
}

/// What a reload changed, in words.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    for service in &new.services {
        match old.services.iter().find(|s| s.name == service.name) {
            None => changes.push(format!("service {} added", service.name)),
            Some(before) if before != service => {
                changes.push(format!("service {} changed", service.name));
            }
            Some(_) => {}
        }
    }
    for service in &old.services {
        if !new.services.iter().any(|s| s.name == service.name) {
            changes.push(format!("service {} removed", service.name));
        }
    }
    if old.sites.len() != new.sites.len() {
        changes.push(format!(
            "{} sites, before {}",
            new.sites.len(),
            old.sites.len()
        ));
    } else if old.sites != new.sites {
        changes.push("sites changed".to_owned());
    }
    changes
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
