//! What the machine wants done with requests: gate, switch, verdict, drain, doors.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::hands::Hands;
use crate::app::control::told_of;
use crate::app::daemon::client_of;
use crate::app::operations::{self, SERVICE};
use crate::app::resolve;
use crate::clock;
use crate::deploy::{Doors, Failure, News, Plan, Run};
use crate::health::gate_view;
use crate::http::{Dial, Get, Origin};
use crate::model::{Color, Release, ServiceName, Strategy};
use crate::pool::{Slot, Target, Upstream};
use crate::switch::{
    By, MaintenanceRecord, Outcome, Phase, Progress, StackStatus, SwitchRequest, Switchboard,
    VerbRequest,
};

type Done = Result<News, Failure>;

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For one page of a smoke check.
const BODY_LIMIT_BYTES: usize = 1 << 20;

impl Hands {
    fn switchboard(&self) -> Result<Switchboard, Failure> {
        let started = self.daemon.switchboard.get().cloned();
        started.ok_or_else(|| Failure {
            reason: "the daemon is starting".to_owned(),
            lines: Vec::new(),
            again: true,
        })
    }

    /// Waits until the proxy's own probes of every new container pass.
    pub(super) async fn gate(&self, run: &Run) -> Done {
        let mut told = String::new();
        let limit = Duration::from_millis(run.plan.limits.gate_ms);
        // A little before the machine gives up, so that it is said why.
        let until = clock::now() + limit.saturating_sub(2 * LOOK_EVERY);
        loop {
            let mut waits = Vec::new();
            for member in run
                .plan
                .members
                .iter()
                .filter(|m| m.role == crate::deploy::Role::Web)
            {
                self.look_up(&member.service, member.to).await;
                waits.extend(self.shut(&member.service, member.to, member.new.len()));
            }
            if waits.is_empty() {
                return Ok(News::Nothing);
            }
            if clock::now() >= until {
                let (seconds, waits) = (limit.as_secs(), waits.join("; "));
                return Err(Failure::from(format!(
                    "not ready after {seconds} s: {waits}"
                )));
            }
            let line = format!("waiting for {}", waits.join("; "));
            if line != told {
                self.teller.line(line.clone());
                told = line;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// New containers have new addresses: names are not waited for until they expire.
    async fn look_up(&self, service: &ServiceName, color: Color) {
        let names = {
            let config = self.daemon.config.load();
            let found = config.services.iter().find(|one| one.name == *service);
            let slot = found.and_then(|found| found.slots[color.index()].clone());
            let mut only = crate::config::Service::new(service.as_str());
            only.slots[color.index()] = slot;
            resolve::names_of(&only)
        };
        let mut changed = false;
        for name in names {
            if let Ok(found) = self.daemon.resolver.lookup(&name).await {
                changed |= self.daemon.addresses.learn(&name, found.addrs);
            }
        }
        if changed {
            self.daemon.refill();
        }
    }

    /// What keeps the gate of one slot shut.
    fn shut(&self, service: &ServiceName, color: Color, wanted: usize) -> Vec<String> {
        let Some(slot) = self.daemon.publisher.slot(service, color) else {
            return vec![format!("{service}: {color} has no upstreams yet")];
        };
        let findings = gate_view(&slot.upstreams(), None, clock::now());
        if findings.is_empty() {
            return vec![format!("{service}: {color} has no upstreams yet")];
        }
        let shut = findings.iter().filter_map(|finding| {
            let obstacle = finding.obstacle.as_ref()?;
            Some(format!("{service} {}: {obstacle}", finding.upstream))
        });
        let mut shut: Vec<_> = shut.collect();
        let good = findings.len() - shut.len();
        if shut.is_empty() && good < wanted {
            shut.push(format!(
                "{service}: {good} of {wanted} containers are known"
            ));
        }
        shut
    }

    pub(super) async fn smoke(&self, run: &Run, n: usize) -> Done {
        let Some(smoke) = run.plan.smoke.get(n) else {
            return Ok(News::Nothing);
        };
        let member = run.plan.members.iter().find(|m| m.service == smoke.service);
        let Some(member) = member else {
            return Ok(News::Nothing);
        };
        let Some(slot) = self.daemon.publisher.slot(&smoke.service, member.to) else {
            return Err(Failure::from(format!("{} has no upstreams", smoke.service)));
        };
        let client = client_of(&self.daemon.client, &self.daemon.upstream_tls, &slot);
        // Beside the release that serves, only what is asked for by its name is new.
        let only = match run.plan.strategy {
            Strategy::BlueGreen => None,
            Strategy::Rolling => member.new.first().map(|new| new.name.as_str()),
        };
        let is_asked = |upstream: &Upstream| {
            only.is_none_or(|name| upstream.behind().is_some_and(|it| &*it.name == name))
        };
        let upstreams = slot.upstreams();
        if let Some(name) = only.filter(|_| !upstreams.iter().any(|one| is_asked(one))) {
            return Err(Failure::from(format!("{name} is not in the pool")));
        }
        for upstream in upstreams.iter().filter(|one| is_asked(one)) {
            let configured = upstream.configured();
            let authority = smoke
                .host
                .clone()
                .unwrap_or_else(|| upstream.label().to_string());
            let origin = Origin {
                dial: match upstream.target() {
                    Target::Socket(address) => Dial::Tcp(*address),
                    Target::Unix(path) => Dial::Unix(path.clone()),
                },
                scheme: configured.scheme(),
                authority,
                tls_name: configured.tls_name(),
            };
            let answer = client.get(Get {
                origin: &origin,
                path: &smoke.path,
                headers: &[],
                deadline: Duration::from_millis(smoke.timeout_ms),
                body_limit: BODY_LIMIT_BYTES,
            });
            let shown = upstream.shown();
            let answer = answer
                .await
                .map_err(|error| Failure::from(format!("{} of {shown}: {error}", smoke.path)))?;
            let status = answer.status.as_u16();
            let (from, to) = smoke.status;
            if !(from..=to).contains(&status) {
                let why = format!("{} of {shown} answered {status}", smoke.path);
                return Err(Failure::from(why));
            }
            if let Some(wanted) = &smoke.contains
                && !String::from_utf8_lossy(&answer.body).contains(wanted.as_str())
            {
                let why = format!("{} of {shown} does not contain `{wanted}`", smoke.path);
                return Err(Failure::from(why));
            }
            self.teller
                .line(format!("{} of {shown} answered {status}", smoke.path));
        }
        Ok(News::Nothing)
    }

    /// The switch of a run, joined if it was asked for before.
    fn switch(&self, run: &Run) -> Result<UnboundedReceiver<Progress>, Failure> {
        let color = run.plan.color().unwrap_or(Color::Green);
        Ok(self.switchboard()?.switch(SwitchRequest {
            color,
            services: run.plan.web(),
            force: false,
            release: Some(Release::from(run.plan.release.as_str())),
            confirm_within: None,
            canary_percent: None,
            by: by(run),
        }))
    }

    pub(super) async fn cut_over(&self, run: &Run, is_resumed: bool) -> Done {
        let switchboard = self.switchboard()?;
        if is_resumed && !switchboard.knows(&command(run)).await && !self.has_moved(run) {
            return Ok(News::NeverHappened);
        }
        if run.plan.is_rollback && self.undoes(&switchboard, &run.plan) {
            let request = VerbRequest {
                services: run.plan.web(),
                by: by(run),
            };
            return match switchboard.rollback(request).await {
                Outcome::Undone { .. } | Outcome::RolledBack { .. } => Ok(News::Moved),
                outcome => moved(outcome),
            };
        }
        let mut news = self.switch(run)?;
        while let Some(progress) = news.recv().await {
            match progress {
                Progress::Recorded { .. } => {
                    if run.plan.is_rollback {
                        // Nobody doubts it: a person wants it back.
                        let request = VerbRequest {
                            services: run.plan.web(),
                            by: By {
                                id: None,
                                actor: run.actor.clone(),
                                why: run.why.clone(),
                            },
                        };
                        let _ = switchboard.promote(request).await;
                    }
                    return Ok(News::Moved);
                }
                Progress::Finished(outcome) => return moved(outcome),
                other => self.tell(&other),
            }
        }
        Err(Failure::from("the daemon is stopping".to_owned()))
    }

    /// Whether the last cutover is the one to undo.
    fn undoes(&self, switchboard: &Switchboard, plan: &Plan) -> bool {
        let stacks = switchboard.status();
        let stack = stacks.iter().find(|stack| stack.stack == plan.stack);
        let undo = stack.map(|stack| stack.undo.as_slice()).unwrap_or_default();
        let web = plan.web();
        undo.len() == web.len()
            && undo
                .iter()
                .all(|one| web.contains(&one.service) && Some(one.from.color) == plan.color())
    }

    pub(super) async fn verdict(&self, run: &Run) -> Done {
        let switchboard = self.switchboard()?;
        if run.plan.is_rollback || !switchboard.knows(&command(run)).await {
            return Ok(self.by_what_is_live(run).await);
        }
        let mut news = self.switch(run)?;
        while let Some(progress) = news.recv().await {
            match progress {
                Progress::Draining => return Ok(News::Kept),
                Progress::Finished(Outcome::RolledBack { by, reason, .. }) => {
                    let reason = format!("{reason} (by {by})");
                    return Ok(News::RolledBack { reason });
                }
                // Held to the end of its time, or told before a restart: what is live says.
                Progress::Finished(outcome) => {
                    self.teller.line(outcome.to_string());
                    return Ok(match self.by_what_is_live(run).await {
                        News::RolledBack { .. } => News::RolledBack {
                            reason: outcome.to_string(),
                        },
                        other => other,
                    });
                }
                other => self.tell(&other),
            }
        }
        Err(Failure::from("the daemon is stopping".to_owned()))
    }

    /// Waits until nothing is undecided, and sees what became live.
    async fn by_what_is_live(&self, run: &Run) -> News {
        if let Ok(switchboard) = self.switchboard() {
            let mut changes = switchboard.watch();
            loop {
                let is_at_rest = {
                    let stacks = changes.borrow_and_update();
                    let stack = stacks.iter().find(|stack| stack.stack == run.plan.stack);
                    stack.is_none_or(|stack| stack.phase == Phase::Idle)
                };
                if is_at_rest || changes.changed().await.is_err() {
                    break;
                }
            }
        }
        match self.has_moved(run) {
            true => News::Kept,
            false => News::RolledBack {
                reason: "the old color is live again".to_owned(),
            },
        }
    }

    /// Whether the new color is live for all of them.
    fn has_moved(&self, run: &Run) -> bool {
        let table = self.daemon.publisher.table().load();
        run.plan.members.iter().all(|member| {
            let entry = table.named(member.service.as_str());
            member.role != crate::deploy::Role::Web
                || entry.is_some_and(|entry| entry.live == member.to)
        })
    }

    pub(super) async fn switch_back(&self, run: &Run) -> Done {
        let switchboard = self.switchboard()?;
        let request = || VerbRequest {
            services: run.plan.web(),
            by: By {
                id: None,
                actor: run.actor.clone(),
                why: Some(format!("deploy {} goes back", run.id)),
            },
        };
        let table_has_new = || {
            let table = self.daemon.publisher.table().load();
            run.plan.members.iter().any(|member| {
                let entry = table.named(member.service.as_str());
                member.role == crate::deploy::Role::Web
                    && entry.is_some_and(|entry| entry.live == member.to)
            })
        };
        let is_busy = {
            let stacks = switchboard.status();
            let stack = stacks.iter().find(|stack| stack.stack == run.plan.stack);
            stack.is_some_and(|stack| stack.phase != Phase::Idle)
        };
        if is_busy {
            let outcome = switchboard.abort(request()).await;
            self.teller.line(outcome.to_string());
        }
        if table_has_new() {
            let outcome = switchboard.rollback(request()).await;
            self.teller.line(outcome.to_string());
        }
        match table_has_new() {
            false => Ok(News::Nothing),
            true => Err(Failure::from(
                "requests still go to the new release".to_owned(),
            )),
        }
    }

    /// Waits until one of the two releases has nothing in flight, or its time is up.
    pub(super) async fn drained(&self, run: &Run, is_new: bool) -> Done {
        let switchboard = self.switchboard()?;
        let mut changes = switchboard.watch();
        loop {
            let left = {
                let stacks = changes.borrow_and_update();
                let stack = stacks.iter().find(|stack| stack.stack == run.plan.stack);
                stack.map_or(0, |stack| drains(stack, &run.plan, is_new))
            };
            if left == 0 {
                return Ok(News::Nothing);
            }
            if changes.changed().await.is_err() {
                return Err(Failure::from("the daemon is stopping".to_owned()));
            }
        }
    }

    /// Closes every service of the stack, and waits until nothing is in flight.
    pub(super) async fn close(&self, run: &Run) -> Done {
        let switchboard = self.switchboard()?;
        let services = self.web_of_stack(&run.plan);
        let notes = switchboard.notes();
        let record = MaintenanceRecord {
            message: None,
            by: mark(run),
            since_ms: clock::epoch_ms(clock::wall()),
        };
        let key = |service: &ServiceName| format!("{SERVICE}{service}");
        let open = services.iter().map(key);
        let open = open.filter(|key| !notes.maintenance.contains_key(key));
        let changes: Vec<_> = open.map(|key| (key, Some(record.clone()))).collect();
        if !changes.is_empty() {
            let saved = switchboard.maintain(changes).await;
            saved.map_err(Failure::from)?;
            operations::sync(&self.daemon, &switchboard);
        }
        // A request that was let in just before has claimed its pool by then.
        tokio::time::sleep(LOOK_EVERY).await;
        let until = clock::now() + Duration::from_millis(run.plan.limits.drain_ms);
        loop {
            let busy = services.iter().map(|service| self.in_flight(service));
            let busy: u64 = busy.sum();
            if busy == 0 {
                return Ok(News::Closed { quiet: true });
            }
            if clock::now() >= until {
                self.teller
                    .line(format!("{busy} requests and streams are still in flight"));
                return Ok(News::Closed { quiet: false });
            }
            self.teller
                .tick(format!("{busy} requests in flight may finish"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn in_flight(&self, service: &ServiceName) -> u64 {
        let slots = Color::ALL.into_iter();
        let slots = slots.filter_map(|color| self.daemon.publisher.slot(service, color));
        slots
            .map(|slot: std::sync::Arc<Slot>| slot.in_flight().iter().sum::<u64>())
            .sum()
    }

    /// Opens what this run has closed, and nothing that a person did.
    pub(super) async fn open(&self, run: &Run) -> Done {
        let switchboard = self.switchboard()?;
        let mine = mark(run);
        let notes = switchboard.notes();
        let closed = notes.maintenance.into_iter();
        let closed = closed.filter(|(_, record)| record.by == mine);
        let changes: Vec<_> = closed.map(|(key, _)| (key, None)).collect();
        if !changes.is_empty() {
            // In memory it is open: traffic does not wait for a disk.
            if let Err(reason) = switchboard.maintain(changes).await {
                self.teller
                    .line(format!("opened, but not on disk: {reason}"));
            }
            operations::sync(&self.daemon, &switchboard);
        }
        Ok(News::Nothing)
    }

    /// Services of the stack that take requests.
    fn web_of_stack(&self, plan: &Plan) -> Vec<ServiceName> {
        let config = self.daemon.config.load();
        let of_stack = config.services.iter().filter(|one| one.stack == plan.stack);
        let web = of_stack.filter(|one| one.kind == crate::config::Kind::Web);
        web.map(|service| service.name.clone()).collect()
    }

    /// What is known about whether anybody could write.
    pub(super) fn doors(&self, run: &Run) -> Doors {
        let notes = self.daemon.switchboard.get().map(Switchboard::notes);
        let notes = notes.unwrap_or_default();
        let since = |service: &ServiceName| {
            let record = notes.maintenance.get(&format!("{SERVICE}{service}"));
            record.map(|record| record.since_ms)
        };
        let web = self.web_of_stack(&run.plan);
        let all: Option<Vec<u64>> = web.iter().map(since).collect();
        let config = self.daemon.config.load();
        let workers = config
            .services
            .iter()
            .filter(|one| one.stack == run.plan.stack && one.kind != crate::config::Kind::Web);
        Doors {
            closed_since_ms: all.and_then(|all| all.into_iter().max()),
            workers: workers.map(|worker| worker.name.clone()).collect(),
            let_in: !config.maintenance.allow.0.is_empty(),
        }
    }

    fn tell(&self, progress: &Progress) {
        if let Some((_, message, is_tick)) = told_of(progress) {
            match is_tick {
                true => self.teller.tick(message),
                false => self.teller.line(message),
            }
        }
    }
}

/// Names the switch of a run.
fn command(run: &Run) -> String {
    format!("deploy-{}", run.id)
}

fn by(run: &Run) -> By {
    By {
        id: Some(command(run)),
        actor: run.actor.clone(),
        why: run.why.clone(),
    }
}

/// Who has closed it.
fn mark(run: &Run) -> String {
    format!("deploy {}", run.id)
}

/// A switch that ended before anybody waited for its verdict.
fn moved(outcome: Outcome) -> Done {
    match outcome {
        Outcome::Kept { .. }
        | Outcome::AlreadyLive { .. }
        | Outcome::Promoted { .. }
        // Held to the end: both are up, a person decides.
        | Outcome::Failed { .. } => Ok(News::Moved),
        Outcome::RolledBack { by, reason, .. } => Ok(News::RolledBack {
            reason: format!("{reason} (by {by})"),
        }),
        Outcome::Recorded(recorded) => match recorded.code.as_str() {
            "kept" | "already_live" | "promoted" | "failed" => Ok(News::Moved),
            "rolled_back" | "undone" => Ok(News::RolledBack {
                reason: recorded.text,
            }),
            _ => Err(Failure::from(recorded.text)),
        },
        Outcome::Refused(refusal) => Err(Failure::from(refusal.to_string())),
        Outcome::Aborted { .. } | Outcome::Undone { .. } | Outcome::Cancelled => {
            Err(Failure::from(outcome.to_string()))
        }
    }
}

fn drains(stack: &StackStatus, plan: &Plan, is_new: bool) -> usize {
    let of_release = stack.drains.iter().filter(|drain| {
        plan.members.iter().any(|member| {
            let color = if is_new { member.to } else { member.from };
            member.service == drain.service && drain.pool.color == color
        })
    });
    of_release.count()
}
