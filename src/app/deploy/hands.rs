//! What the machine wants done with containers and images.
//!
//! Everything here can be done again: what is already so is left alone. The two rules that must
//! hold whatever a record says are kept here as well: an old worker that must not run twice is
//! stopped before its successor starts, and the successor before the old one starts again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast;
use tracing::warn;

use super::Told;
use super::unsettled;
use crate::app::daemon::Daemon;
use crate::clock;
use crate::deploy::container::label;
use crate::deploy::{
    Action, Answer, Attachment, Container, ContainerSpec, Failure, Health, Member, New, News,
    Pulled, Role, Run, State, repository,
};
use crate::docker::{self, Client, DockerError};
use crate::model::Strategy;

/// Tells whoever follows the run.
#[derive(Clone, Debug)]
pub(in crate::app) struct Teller(pub(super) broadcast::Sender<Told>);

impl Teller {
    pub(super) fn line(&self, line: impl Into<String>) {
        let _ = self.0.send(Told::Line(line.into(), false));
    }

    pub(super) fn tick(&self, line: impl Into<String>) {
        let _ = self.0.send(Told::Line(line.into(), true));
    }
}

/// Does the actions of one run.
#[derive(Clone)]
pub(in crate::app) struct Hands {
    pub(in crate::app) daemon: Arc<Daemon>,
    pub(in crate::app) teller: Teller,
}

/// Between two looks at a container that starts.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A container without a health check counts as well when it has run for this long.
const STEADY: Duration = Duration::from_secs(1);

/// Restarts of a new container after which nobody waits any more.
const RESTARTS: u64 = 3;

/// Lines of a container or job that are shown when it fails.
const LINES: usize = 20;

/// How long a look at the engine that was begun before a container was put back may be on its way.
const OLD_LOOK: Duration = Duration::from_secs(5);

pub(super) type Done = Result<News, Failure>;

/// A container is out of a network for a moment.
struct Moving {
    daemon: Arc<Daemon>,
    name: String,
}

impl Moving {
    fn of(daemon: &Arc<Daemon>, name: &str) -> Self {
        daemon.discovery.moving(name);
        Self {
            daemon: Arc::clone(daemon),
            name: name.to_owned(),
        }
    }

    /// It is back, but who looked while it was away may say so only now.
    fn over_soon(self) {
        tokio::spawn(async move {
            tokio::time::sleep(OLD_LOOK).await;
            drop(self);
        });
    }
}

/// A container has another address in a network than before.
pub(super) struct Readdressed {
    network: String,
    before: Option<String>,
    after: Option<String>,
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.daemon.discovery.moved(&self.name);
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        Self {
            again: matches!(error, DockerError::Unreachable { .. }),
            reason: error.to_string(),
            lines: Vec::new(),
        }
    }
}

impl Hands {
    /// Does one action. `is_resumed`: it may have been done before the daemon was restarted.
    pub(in crate::app) async fn perform(
        &self,
        run: &Run,
        action: Action,
        is_resumed: bool,
    ) -> Answer {
        let done = match action {
            // The switch and the doors need no engine.
            Action::CutOver => self.cut_over(run, is_resumed).await,
            Action::Verdict => self.verdict(run).await,
            Action::SwitchBack => self.switch_back(run).await,
            Action::Drained => self.drained(run, false).await,
            Action::Withdraw => self.drained(run, true).await,
            Action::Close => self.close(run).await,
            Action::Open => self.open(run).await,
            Action::Gate if run.plan.strategy == Strategy::BlueGreen => self.gate(run).await,
            Action::Smoke(n) => self.smoke(run, n).await,
            Action::Resources => self.resources(run).await,
            Action::Adopt => Ok(News::Nothing),
            other => match self.daemon.deploys.engine(&self.daemon).await {
                Ok(client) => self.with_engine(&client, run, other).await,
                Err(error) => Err(error.into()),
            },
        };
        match done {
            Ok(news) => Answer::Done(news),
            Err(failure) => Answer::Failed(failure),
        }
    }

    async fn with_engine(&self, client: &Client, run: &Run, action: Action) -> Done {
        let member = |n: usize| {
            let found = run.plan.members.get(n);
            found.ok_or_else(|| Failure::from("the record has no such service".to_owned()))
        };
        match action {
            Action::Pull(n) => self.pull(client, run, n).await,
            Action::Displace(n) => match unsettled(&self.daemon, &run.plan) {
                Some(why) => Err(Failure::from(why)),
                None => displace(client, member(n)?).await,
            },
            Action::PutBack(n) => put_back(client, member(n)?).await,
            Action::Create(n) => create(client, run, member(n)?).await,
            Action::Start(n) => start(client, member(n)?).await,
            Action::Healthy(n) => {
                let new = member(n)?.new.iter();
                let names: Vec<_> = new.map(|new| new.name.as_str()).collect();
                self.healthy(client, run.plan.limits.start_ms, &names).await
            }
            Action::Halt(n) | Action::Park(n) => {
                let member = member(n)?;
                for old in &member.old {
                    if let Some(why) = self.is_live_again(run, member) {
                        return Ok(News::Advice(vec![why]));
                    }
                    park(client, &old.name, member).await?;
                }
                Ok(News::Nothing)
            }
            Action::StopNew(n) => {
                let member = member(n)?;
                for new in &member.new {
                    park(client, &new.name, member).await?;
                }
                Ok(News::Nothing)
            }
            Action::Revive(n) => revive(client, member(n)?).await,
            Action::RemoveNew(n) => remove_new(client, run, member(n)?).await,
            Action::Discard(n) => match self.is_live_again(run, member(n)?) {
                Some(why) => Ok(News::Advice(vec![why])),
                None => discard(client, run, member(n)?).await,
            },
            Action::Plain(n) => self.take_plain_names(client, member(n)?).await,
            Action::Prune => self.prune(client, run).await,
            Action::StartOne(one)
            | Action::HealthyOne(one)
            | Action::GateOne(one)
            | Action::PlainOne(one)
            | Action::JoinOne(one)
            | Action::LeaveOne(one)
            | Action::ParkOne(one)
            | Action::ReviveOne(one)
            | Action::WithdrawOne(one) => self.rolling(client, run, action, one).await,
            Action::Gate if run.plan.strategy == Strategy::Rolling => {
                self.all_fit(client, run).await
            }
            Action::Job(n) => self.job(client, run, n).await,
            Action::EndJob(n) => self.end_job(client, run, n).await,
            Action::Restore(n) => self.restore(client, run, n).await,
            // `perform` has done these.
            Action::CutOver
            | Action::Verdict
            | Action::SwitchBack
            | Action::Drained
            | Action::Withdraw
            | Action::Close
            | Action::Open
            | Action::Gate
            | Action::Smoke(_)
            | Action::Resources
            | Action::Adopt => Ok(News::Nothing),
        }
    }

    async fn pull(&self, client: &Client, run: &Run, n: usize) -> Done {
        let image = run.plan.images.get(n);
        let reference = image
            .map(|image| image.reference.as_str())
            .unwrap_or_default();
        if run.plan.is_rollback {
            // Its containers are there, and with them their image.
            let name = run.plan.members.iter().find(|member| member.image == n);
            let name = name.and_then(|member| member.new.first());
            let Some(name) = name else {
                return Ok(News::Nothing);
            };
            let found = container(client, &name.name).await?;
            let id = found.map(|found| found.image_id).unwrap_or_default();
            return Ok(News::Pulled(Pulled { id, digest: None }));
        }
        self.have_image(client, reference).await?;
        let found = client.image(reference).await?;
        let found = found.ok_or_else(|| Failure::from(format!("{reference} is not there")))?;
        let id = found.get("Id").and_then(Value::as_str).unwrap_or_default();
        Ok(News::Pulled(Pulled {
            id: id.to_owned(),
            digest: digest(&found, repository(reference)),
        }))
    }

    /// Gets an image, unless it was made on this machine.
    pub(super) async fn have_image(&self, client: &Client, reference: &str) -> Result<(), Failure> {
        let local = client.image(reference).await?;
        let came_from_a_registry = |image: &Value| {
            let digests = image.get("RepoDigests").and_then(Value::as_array);
            digests.is_some_and(|digests| !digests.is_empty())
        };
        if local
            .as_ref()
            .is_some_and(|image| !came_from_a_registry(image))
        {
            self.teller
                .line(format!("{reference} was made on this machine"));
            return Ok(());
        }
        let config = self.daemon.config.load_full();
        let wanted = reference.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let variable = |name: &str| std::env::var_os(name).map(Into::into);
            let file = docker::usual_file(config.deploy.registry_config.as_deref(), variable);
            file.map_or(Ok(None), |file| docker::credentials(&file, &wanted))
        });
        let credentials = match found.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                // The image may be public.
                self.teller.line(error.to_string());
                None
            }
            Err(error) => return Err(Failure::from(error.to_string())),
        };
        let mut last = String::new();
        let pulled = client.pull(reference, credentials, |progress| {
            let megabytes = |bytes: u64| bytes / 1_000_000;
            let line = format!(
                "{reference}: {} of {} layers, {} of {} MB",
                progress.layers_done,
                progress.layers,
                megabytes(progress.bytes),
                megabytes(progress.total_bytes)
            );
            if line != last {
                self.teller.tick(line.clone());
                last = line;
            }
        });
        match pulled.await {
            Ok(()) => Ok(()),
            Err(error) if local.is_some() => {
                self.teller
                    .line(format!("{error}; the image of this machine is used"));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why the old release of a service must stay as it is: after the verdict somebody has moved the
    /// requests back to it.
    fn is_live_again(&self, run: &Run, member: &Member) -> Option<String> {
        let has_switched = member.role == Role::Web && member.from != member.to;
        let live = super::live(&self.daemon).get(&member.service).copied();
        let is_again = has_switched && run.back.is_none() && live == Some(member.from);
        is_again.then(|| {
            format!(
                "{} of {} is live again: its containers are left as they are",
                member.old_release, member.service
            )
        })
    }

    /// Waits until these containers run and are healthy by their own checks.
    pub(super) async fn healthy(&self, client: &Client, limit_ms: u64, names: &[&str]) -> Done {
        let limit = Duration::from_millis(limit_ms);
        // A little before the machine gives up, so that it is said why.
        let until = clock::now() + limit.saturating_sub(2 * LOOK_EVERY);
        let mut steady_since = None;
        let mut told = String::new();
        loop {
            let mut waits = Vec::new();
            for name in names {
                let Some(found) = container(client, name).await? else {
                    return Err(Failure::from(format!("{name} is gone")));
                };
                match (found.state, found.health) {
                    (State::Running, Some(Health::Healthy)) => {}
                    (State::Running, None) => {
                        let since = *steady_since.get_or_insert_with(clock::now);
                        if clock::now().saturating_duration_since(since) < STEADY {
                            waits.push(format!("{name} has just started"));
                        }
                    }
                    (State::Running, Some(Health::Starting)) => {
                        waits.push(format!("{name} is starting"));
                    }
                    (State::Restarting, _) if found.restarts < RESTARTS => {
                        steady_since = None;
                        waits.push(format!("{name} is restarting"));
                    }
                    (State::Running, Some(Health::Unhealthy)) => {
                        let why = format!("{name} is unhealthy by its own check");
                        return Err(with_lines(client, name, why).await);
                    }
                    (State::Exited { code }, _) => {
                        let why = format!("{name} ended with exit code {code}");
                        return Err(with_lines(client, name, why).await);
                    }
                    (state, _) => {
                        let why = format!("{name} does not run: {state:?}");
                        return Err(with_lines(client, name, why).await);
                    }
                }
            }
            if waits.is_empty() {
                return Ok(News::Nothing);
            }
            if clock::now() >= until {
                let why = format!("after {} s {}", limit.as_secs(), waits.join(", "));
                let first = names.first().copied().unwrap_or_default();
                return Err(with_lines(client, first, why).await);
            }
            let line = waits.join(", ");
            if line != told {
                self.teller.tick(line.clone());
                told = line;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Gives the new ones the plain names. It is told if one has another address then.
    async fn take_plain_names(&self, client: &Client, member: &Member) -> Done {
        for new in &member.new {
            for change in self.plain_names(client, new).await? {
                let Readdressed {
                    network,
                    before,
                    after,
                } = change;
                warn!(
                    container = new.name,
                    network,
                    ?before,
                    ?after,
                    "its address changed with its names"
                );
                self.teller.line(format!(
                    "{} has another address in {network} now: connections to it in there ended",
                    new.name
                ));
            }
        }
        Ok(News::Nothing)
    }

    /// The engine gives a container its names when it is connected, so it is taken out of the
    /// network and put back. It gets the lowest free address there, normally the one that it had:
    /// what is not so is given back. One that was kept has had its names since it was live.
    pub(super) async fn plain_names(
        &self,
        client: &Client,
        new: &New,
    ) -> Result<Vec<Readdressed>, Failure> {
        let mut changes = Vec::new();
        let mut moving = None;
        for attachment in new.spec.iter().flat_map(|spec| &spec.plain) {
            let Some(found) = container(client, &new.name).await? else {
                return Err(Failure::from(format!("{} is gone", new.name)));
            };
            if has_names(&found, attachment) {
                continue;
            }
            let network = &attachment.network;
            let before = address(&found, network);
            moving.get_or_insert_with(|| Moving::of(&self.daemon, &new.name));
            client.disconnect_network(network, &new.name).await?;
            connect(client, &new.name, attachment).await?;
            let now = container(client, &new.name).await?;
            let after = now.and_then(|now| address(&now, network));
            if before.is_some() && before != after {
                changes.push(Readdressed {
                    network: network.clone(),
                    before,
                    after,
                });
            }
        }
        if let Some(moving) = moving {
            moving.over_soon();
        }
        Ok(changes)
    }

    async fn prune(&self, client: &Client, run: &Run) -> Done {
        let all = super::containers(client).await?;
        let mut used: BTreeSet<String> = all.into_iter().map(|one| one.image_id).collect();
        for releases in self.daemon.deploys.book().releases.values() {
            let known = releases.live.iter().chain(&releases.kept);
            used.extend(known.map(|installed| installed.image_id.clone()));
        }
        let references = run.plan.images.iter().map(|image| image.reference.as_str());
        let old = run
            .plan
            .members
            .iter()
            .map(|member| member.old_reference.as_str());
        let repositories: BTreeSet<_> = references.chain(old).map(repository).collect();
        let mut removed = 0_usize;
        for repository in repositories.into_iter().filter(|name| !name.is_empty()) {
            let all = client.images_of(repository).await?;
            let in_use = all.iter().filter(|image| used.contains(&image.id));
            // One that is younger may be the next release.
            let Some(oldest) = in_use.map(|image| image.created).min() else {
                continue;
            };
            let unused = all.iter().filter(|image| !used.contains(&image.id));
            for image in unused.filter(|image| image.created < oldest) {
                let prefix = format!("{repository}:");
                let mine = image.names.iter().filter(|name| name.starts_with(&prefix));
                let mine: Vec<_> = mine.collect();
                for name in &mine {
                    removed += usize::from(client.remove_image(name).await?);
                }
                if mine.is_empty() && image.names.iter().all(|name| name.starts_with("<none>")) {
                    removed += usize::from(client.remove_image(&image.id).await?);
                }
            }
        }
        if removed > 0 {
            self.teller.line(format!("{removed} unused images removed"));
        }
        Ok(News::Nothing)
    }
}

/// One container by name.
pub(super) async fn container(
    client: &Client,
    name: &str,
) -> Result<Option<Container>, DockerError> {
    let found = client.container(name).await?;
    Ok(found.and_then(|inspect| Container::from_inspect(inspect).ok()))
}

/// The digest that a registry knows an image by.
pub(super) fn digest(image: &Value, repository: &str) -> Option<String> {
    let all = image.get("RepoDigests").and_then(Value::as_array)?;
    let all: Vec<_> = all.iter().filter_map(Value::as_str).collect();
    let short = repository.rsplit('/').next().unwrap_or_default();
    let mine = |name: &&&str| name.split('@').next().is_some_and(|it| it.ends_with(short));
    let found = all.iter().find(mine).or(all.first())?;
    found.split_once('@').map(|(_, digest)| digest.to_owned())
}

pub(super) async fn with_lines(client: &Client, name: &str, reason: String) -> Failure {
    Failure {
        reason,
        // Without them it is still known what failed.
        lines: client.last_lines(name, LINES).await.unwrap_or_default(),
        again: false,
    }
}

pub(super) async fn connect(
    client: &Client,
    name: &str,
    attachment: &Attachment,
) -> Result<(), DockerError> {
    let network = &attachment.network;
    match client
        .connect_network(network, name, &attachment.endpoint)
        .await
    {
        Err(DockerError::Failed { message, .. } | DockerError::Refused { message, .. })
            if message.contains("already exists in network")
                || message.contains("is already attached to network") =>
        {
            Ok(())
        }
        other => other,
    }
}

fn has_names(found: &Container, attachment: &Attachment) -> bool {
    let wanted = attachment.endpoint.get("Aliases").and_then(Value::as_array);
    let networks = found.inspect.pointer("/NetworkSettings/Networks");
    let known = networks.and_then(|networks| networks.get(&attachment.network)?.get("Aliases"));
    let known = known.and_then(Value::as_array);
    let mut wanted = wanted.into_iter().flatten();
    wanted.all(|name| known.is_some_and(|known| known.contains(name)))
}

fn address(found: &Container, network: &str) -> Option<String> {
    let networks = found.inspect.pointer("/NetworkSettings/Networks")?;
    let address = networks.get(network)?.get("IPAddress")?.as_str()?;
    (!address.is_empty()).then(|| address.to_owned())
}

/// Stops a container, and tells the engine not to start it again by itself.
pub(super) async fn park(client: &Client, name: &str, member: &Member) -> Result<(), DockerError> {
    client.restart_policy(name, &Value::Null).await?;
    client
        .stop(name, member.grace_s.map(Duration::from_secs))
        .await
}

/// Starts one that may have been parked.
pub(super) async fn unpark(client: &Client, name: &str, policy: &Value) -> Result<(), DockerError> {
    if !policy.is_null() {
        client.restart_policy(name, policy).await?;
    }
    client.start(name).await
}

async fn displace(client: &Client, member: &Member) -> Done {
    for one in &member.displaced {
        if one.aside == one.name {
            park(client, &one.name, member).await?;
            continue;
        }
        if container(client, &one.aside).await?.is_some() {
            continue;
        }
        park(client, &one.name, member).await?;
        if container(client, &one.name).await?.is_some() {
            client.rename(&one.name, &one.aside).await?;
        }
    }
    Ok(News::Nothing)
}

async fn put_back(client: &Client, member: &Member) -> Done {
    for one in &member.displaced {
        if one.aside != one.name && container(client, &one.aside).await?.is_some() {
            client.rename(&one.aside, &one.name).await?;
        }
        if container(client, &one.name).await?.is_none() {
            continue;
        }
        if one.ran {
            unpark(client, &one.name, &one.policy).await?;
        } else if !one.policy.is_null() {
            client.restart_policy(&one.name, &one.policy).await?;
        }
    }
    Ok(News::Nothing)
}

async fn create(client: &Client, run: &Run, member: &Member) -> Done {
    for new in &member.new {
        let Some(spec) = &new.spec else {
            continue;
        };
        if let Some(found) = container(client, &new.name).await? {
            if found.label(label::DEPLOY) != Some(run.id.as_str()) {
                let why = format!(
                    "there is a container {} already, of somebody else",
                    new.name
                );
                return Err(Failure::from(why));
            }
        } else {
            client.create(&new.name, &spec.body).await?;
        }
        for attachment in &spec.more {
            connect(client, &new.name, attachment).await?;
        }
        let pulled = run.facts.images.get(&member.image);
        let made = container(client, &new.name).await?;
        if let (Some(pulled), Some(made)) = (pulled, made)
            && made.image_id != pulled.id
        {
            let why = "the image has another content than when it was pulled";
            return Err(Failure::from(why.to_owned()));
        }
    }
    Ok(News::Nothing)
}

async fn start(client: &Client, member: &Member) -> Done {
    if member.is_stop_first() {
        for old in &member.old {
            park(client, &old.name, member).await?;
        }
    }
    for New { name, policy, .. } in &member.new {
        unpark(client, name, policy).await?;
    }
    Ok(News::Nothing)
}

async fn revive(client: &Client, member: &Member) -> Done {
    for new in &member.new {
        park(client, &new.name, member).await?;
    }
    for old in &member.old {
        unpark(client, &old.name, &old.policy).await?;
    }
    Ok(News::Nothing)
}

async fn remove_new(client: &Client, run: &Run, member: &Member) -> Done {
    for new in &member.new {
        remove_one(client, run, member, new).await?;
    }
    Ok(News::Nothing)
}

/// Removes a container that this run has made.
pub(super) async fn remove_one(
    client: &Client,
    run: &Run,
    member: &Member,
    new: &New,
) -> Result<(), DockerError> {
    let Some(found) = container(client, &new.name).await? else {
        return Ok(());
    };
    // Of a declared color, the old one has that name until it is displaced.
    if new.spec.is_some() && found.label(label::DEPLOY) == Some(run.id.as_str()) {
        client
            .stop(&new.name, member.grace_s.map(Duration::from_secs))
            .await?;
        client.remove(&new.name).await?;
    }
    Ok(())
}

async fn discard(client: &Client, run: &Run, member: &Member) -> Done {
    for name in &member.surplus {
        let Some(found) = container(client, name).await? else {
            continue;
        };
        let is_new = found.label(label::DEPLOY) == Some(run.id.as_str());
        if !is_new {
            client
                .stop(name, member.grace_s.map(Duration::from_secs))
                .await?;
            client.remove(name).await?;
        }
    }
    Ok(News::Nothing)
}

/// Networks and names that a spec will have, for a dry run.
pub(super) fn outline(spec: &ContainerSpec) -> String {
    let networks = spec.plain.iter().map(|it| it.network.as_str());
    let networks: Vec<_> = networks.collect();
    format!("{} in {}", spec.name, networks.join(", "))
}
