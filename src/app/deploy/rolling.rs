//! What the machine wants done with one container at a time: rolling deploys.
//!
//! Two rules hold whatever a record says. An old container leaves only while every new one so far is
//! fit, and a new one leaves only while the old one in its place is: fit is what runs, is not called
//! unhealthy by its own check, and passes the proxy's probes in the live pool. And nobody is stopped
//! who may still get a request: requests are kept away first, then what is in flight may finish.

use std::sync::Arc;
use std::time::Duration;

use super::hands::{Done, Hands, container, remove_one, unpark, with_lines};
use crate::app::driver::spread;
use crate::clock;
use crate::deploy::{Action, Container, Failure, Health, Member, New, News, Replica, Run, State};
use crate::docker::{Client, DockerError};
use crate::health::gate_view;
use crate::model::{Kind, ServiceName};
use crate::pool::{Slot, Target, Upstream};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long it may take until the end of a container is seen.
const SEEN: Duration = Duration::from_secs(5);

/// One step and whom it is about.
struct One<'a> {
    run: &'a Run,
    member: &'a Member,
    replica: Replica,
}

impl<'a> One<'a> {
    fn of(run: &'a Run, replica: Replica) -> Result<Self, Failure> {
        let member = run.plan.members.get(replica.member);
        let member =
            member.ok_or_else(|| Failure::from("the record has no such service".to_owned()))?;
        Ok(Self {
            run,
            member,
            replica,
        })
    }

    fn new_one(&self) -> Result<&'a New, Failure> {
        let new = self.run.plan.new_one(self.replica);
        new.ok_or_else(|| Failure::from("the record has no such container".to_owned()))
    }

    /// The new ones so far.
    fn new_ones(&self) -> impl Iterator<Item = &'a str> {
        let all = self.member.new.iter().take(self.replica.at + 1);
        all.map(|new| new.name.as_str())
    }

    fn gate(&self) -> Duration {
        Duration::from_millis(self.run.plan.limits.gate_ms)
    }
}

impl Hands {
    /// Does an action about one container.
    pub(super) async fn rolling(
        &self,
        client: &Client,
        run: &Run,
        action: Action,
        replica: Replica,
    ) -> Done {
        let one = One::of(run, replica)?;
        match action {
            Action::StartOne(_) => {
                let new = one.new_one()?;
                self.daemon.hold(&new.name, true);
                unpark(client, &new.name, &new.policy).await?;
                Ok(News::Nothing)
            }
            Action::HealthyOne(_) => {
                let names = [one.new_one()?.name.as_str()];
                self.healthy(client, run.plan.limits.start_ms, &names).await
            }
            Action::GateOne(_) => {
                let names = [one.new_one()?.name.as_str()];
                self.fit(client, one.member, &names, one.gate()).await
            }
            Action::PlainOne(_) => {
                let new = one.new_one()?;
                // Its address may change: nobody may be there meanwhile.
                self.daemon.hold(&new.name, true);
                self.plain_names(client, new).await?;
                Ok(News::Nothing)
            }
            Action::JoinOne(_) => {
                self.daemon.hold(&one.new_one()?.name, false);
                let names: Vec<_> = one.new_ones().collect();
                self.fit(client, one.member, &names, one.gate()).await?;
                Ok(News::Moved)
            }
            Action::LeaveOne(_) => self.leave(client, &one).await,
            Action::ParkOne(_) => self.park_one(client, &one).await,
            Action::ReviveOne(_) => self.revive_one(client, &one).await,
            Action::WithdrawOne(_) => self.withdraw_one(client, &one).await,
            // `with_engine` asks for no others.
            _ => Ok(News::Nothing),
        }
    }

    /// Looks at every new container that takes requests: some of them have done so for a while.
    pub(super) async fn all_fit(&self, client: &Client, run: &Run) -> Done {
        let limit = Duration::from_millis(run.plan.limits.gate_ms);
        for member in run.plan.members.iter().filter(|it| run.plan.is_rolled(it)) {
            let names: Vec<_> = member.new.iter().map(|new| new.name.as_str()).collect();
            self.fit(client, member, &names, limit).await?;
        }
        Ok(News::Nothing)
    }

    /// No request goes to it any more, and those that it has may finish.
    async fn leave(&self, client: &Client, one: &One<'_>) -> Done {
        let Some(old) = one.run.plan.old_one(one.replica) else {
            return Ok(News::Nothing);
        };
        let names: Vec<_> = one.new_ones().collect();
        self.fit(client, one.member, &names, one.gate()).await?;
        self.emptied(client, one, &old.name, &names).await?;
        Ok(News::Nothing)
    }

    async fn park_one(&self, client: &Client, one: &One<'_>) -> Done {
        let Some(old) = one.run.plan.old_one(one.replica) else {
            return Ok(News::Nothing);
        };
        let names: Vec<_> = one.new_ones().collect();
        let fit = self.fit(client, one.member, &names, Duration::ZERO).await;
        // It had its time, unless the daemon was restarted: requests may go to it again then. While the
        // new ones are not fit they go to it in any case.
        if !self.daemon.addresses.is_held(&old.name) || fit.is_err() {
            self.daemon.hold(&old.name, false);
            self.leave(client, one).await?;
        }
        self.stop_one(client, one.member, &old.name).await?;
        Ok(News::Nothing)
    }

    async fn revive_one(&self, client: &Client, one: &One<'_>) -> Done {
        let Some(old) = one.run.plan.old_one(one.replica) else {
            return Ok(News::Nothing);
        };
        self.daemon.hold(&old.name, false);
        unpark(client, &old.name, &old.policy).await?;
        let names = [old.name.as_str()];
        let limit = one.run.plan.limits.start_ms;
        self.healthy(client, limit, &names).await?;
        self.fit(client, one.member, &names, one.gate()).await
    }

    async fn withdraw_one(&self, client: &Client, one: &One<'_>) -> Done {
        let new = one.new_one()?;
        let Some(found) = container(client, &new.name).await? else {
            return Ok(News::Nothing);
        };
        let serves = found.is_up() && !self.daemon.addresses.is_held(&new.name);
        let old = one.run.plan.old_one(one.replica).filter(|_| serves);
        let names: Vec<_> = old.iter().map(|old| old.name.as_str()).collect();
        self.fit(client, one.member, &names, one.gate()).await?;
        match found.is_up() {
            true => self.emptied(client, one, &new.name, &names).await?,
            false => self.daemon.hold(&new.name, true),
        }
        if new.spec.is_none() {
            self.stop_one(client, one.member, &new.name).await?;
        } else if let Err(failure) = remove_one(client, one.run, one.member, new).await {
            // Stopped at least: it is not to take requests again.
            self.stop_one(client, one.member, &new.name).await?;
            return Err(failure.into());
        }
        Ok(News::Nothing)
    }

    /// Stops one that takes no requests, and ends what connections to it are left, so that nobody
    /// meets them at an address that the next container may get.
    async fn stop_one(
        &self,
        client: &Client,
        member: &Member,
        name: &str,
    ) -> Result<(), DockerError> {
        let upstreams = self.upstreams(&member.service, member.from, name);
        super::hands::park(client, name, member).await?;
        let slot = self.daemon.publisher.slot(&member.service, member.from);
        let addresses = upstreams.iter().filter_map(|one| match one.target() {
            Target::Socket(address) => Some(*address),
            Target::Unix(_) => None,
        });
        if let Some(slot) = slot {
            let addresses: Vec<_> = addresses.collect();
            self.daemon.publisher.end_to(&slot, &addresses);
        }
        let until = clock::now() + SEEN;
        let is_seen = || {
            !self
                .upstreams(&member.service, member.from, name)
                .is_empty()
        };
        while is_seen() && clock::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until all of these containers are fit. One that has ended, restarts or is unhealthy is
    /// not waited for.
    async fn fit(&self, client: &Client, member: &Member, names: &[&str], limit: Duration) -> Done {
        // A little before the machine gives up, so that it is said why.
        let until = clock::now() + limit.saturating_sub(2 * LOOK_EVERY);
        let mut told = String::new();
        loop {
            let mut waits = Vec::new();
            for name in names {
                let found = standing(client, name).await?;
                waits.extend(self.obstacle(member, &found));
            }
            if waits.is_empty() {
                return Ok(News::Nothing);
            }
            if clock::now() >= until {
                let waits = waits.join("; ");
                return Err(Failure::from(match limit.is_zero() {
                    true => waits,
                    false => format!("not ready after {} s: {waits}", limit.as_secs()),
                }));
            }
            let line = format!("waiting for {}", waits.join("; "));
            if line != told {
                self.teller.line(line.clone());
                told = line;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What keeps a container that runs from taking requests, beside that it may be held back.
    fn obstacle(&self, member: &Member, found: &Container) -> Option<String> {
        let upstreams = self.upstreams(&member.service, member.to, &found.name);
        // What was known of it before it was started, or was somewhere else, says nothing.
        let upstreams: Vec<_> = (upstreams.into_iter())
            .filter(|one| is_of_this_run(one, found))
            .collect();
        if upstreams.is_empty() {
            return Some(format!("{} is not in the pool yet", found.name));
        }
        let findings = gate_view(&upstreams, None, clock::now());
        let mut obstacles = findings.into_iter().filter_map(|finding| {
            let why = finding.obstacle?;
            Some(format!("{} ({}): {why}", found.name, finding.upstream))
        });
        obstacles.next()
    }

    /// The upstreams that a container is behind.
    fn upstreams(
        &self,
        service: &ServiceName,
        color: crate::model::Color,
        name: &str,
    ) -> Vec<Arc<Upstream>> {
        let slot = self.daemon.publisher.slot(service, color);
        let all = slot.map(|slot| slot.upstreams());
        let all = all.iter().flat_map(|all| all.iter());
        let is_it = |one: &&Arc<Upstream>| one.behind().is_some_and(|it| &*it.name == name);
        all.filter(is_it).cloned().collect()
    }

    /// Keeps new requests away from a container, and waits until it has nothing in flight, or its time
    /// is up. Streams are told to come again, each kind within its own time. If one of those that take
    /// its requests is not fit meanwhile, it takes them itself again, and that is an error.
    async fn emptied(
        &self,
        client: &Client,
        one: &One<'_>,
        name: &str,
        others: &[&str],
    ) -> Result<(), Failure> {
        let (plan, member) = (&one.run.plan, one.member);
        let service = &member.service;
        self.daemon.hold(name, true);
        // A request that was let in just before is counted by then.
        tokio::time::sleep(LOOK_EVERY).await;
        let mut streams = tokio::task::JoinSet::new();
        if let Some(slot) = self.daemon.publisher.slot(service, member.from) {
            for upstream in self.upstreams(service, member.from, name) {
                for (kind, window) in self.windows(service) {
                    streams.spawn(self.streams_end(&slot, &upstream, kind, window));
                }
            }
        }
        let until = clock::now() + Duration::from_millis(plan.limits.drain_ms);
        loop {
            let upstreams = self.upstreams(service, member.from, name);
            let busy: usize = upstreams.iter().map(|one| one.in_flight()).sum();
            if busy == 0 {
                return Ok(());
            }
            if clock::now() >= until {
                let line = format!("{busy} requests and streams of {name} did not end in time");
                self.teller.line(line);
                return Ok(());
            }
            if let Err(failure) = self.fit(client, member, others, Duration::ZERO).await {
                self.daemon.hold(name, false);
                return Err(failure);
            }
            let line = format!("{busy} requests in flight on {name} may finish");
            self.teller.tick(line);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the streams of one kind that an upstream answers, within their time.
    fn streams_end(
        &self,
        slot: &Arc<Slot>,
        upstream: &Arc<Upstream>,
        kind: Kind,
        window: Duration,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (slot, upstream) = (Arc::clone(slot), Arc::clone(upstream));
        let pools = self.daemon.publisher.pools();
        let pools: Vec<_> = (pools.into_iter())
            .filter(|pool| Arc::ptr_eq(pool.slot(), &slot))
            .collect();
        async move {
            let ends = || {
                let each = pools.iter();
                each.flat_map(|pool| pool.ends_of(kind, upstream.id()))
                    .collect()
            };
            spread(ends, || upstream.in_flight() == 0, window).await;
        }
    }

    /// How long streams may go on.
    fn windows(&self, service: &ServiceName) -> Vec<(Kind, Duration)> {
        let config = self.daemon.config.load();
        let found = config.services.iter().find(|one| one.name == *service);
        found.map_or_else(Vec::new, |found| {
            vec![
                (Kind::WebSocket, found.switch.websocket_drain),
                (Kind::Sse, found.switch.sse_drain),
            ]
        })
    }
}

/// A container that runs and is not unhealthy.
async fn standing(client: &Client, name: &str) -> Result<Container, Failure> {
    let Some(found) = container(client, name).await? else {
        return Err(Failure::from(format!("{name} is gone")));
    };
    let why = match (found.state, found.health) {
        (State::Running, Some(Health::Unhealthy)) => {
            format!("{name} is unhealthy by its own check")
        }
        (State::Running, Some(Health::Healthy | Health::Starting) | None) => return Ok(found),
        (State::Restarting, _) => format!("{name} restarts"),
        (State::Exited { code }, _) => format!("{name} ended with exit code {code}"),
        (State::Created | State::Dead, _) => format!("{name} does not run: {:?}", found.state),
    };
    Err(with_lines(client, name, why).await)
}

/// Whether an upstream is this start of a container, at an address that it has now.
fn is_of_this_run(upstream: &Upstream, found: &Container) -> bool {
    let is_same = upstream.behind().is_some_and(|behind| {
        let (id, started) = behind.run.split_once(' ').unwrap_or((&behind.run, ""));
        id == found.id && (started.is_empty() || started == found.started_at)
    });
    let addresses = found.addresses();
    let is_there = match upstream.target() {
        Target::Socket(address) => {
            addresses.is_empty() || addresses.contains(&address.ip().to_string().as_str())
        }
        Target::Unix(_) => true,
    };
    is_same && is_there
}
