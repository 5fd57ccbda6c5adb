//! `cleanup` and `reset`: what is there beside the live containers.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::view::{Traffic, role};
use super::{Denied, containers, of_ours};
use crate::admin::wire::{ContainerRole, Done};
use crate::app::daemon::Daemon;
use crate::config::Service;
use crate::deploy::container::label;
use crate::deploy::{Book, Container, bare_project, owner};
use crate::docker::Client;
use crate::model::ServiceName;
use crate::switch::{Phase, Switchboard};

/// Removes the kept releases, the containers of idle slots, and whatever earlier deploys and jobs
/// have left.
pub(in crate::app) async fn cleanup(daemon: &Arc<Daemon>) -> Result<Done, Denied> {
    let _turn = super::turn(daemon).await?;
    let _tidying = daemon.deploys.tidying();
    let client = daemon.deploys.engine(daemon).await?;
    let done = remove_idle(daemon, &client).await?;
    super::refresh(daemon).await;
    Ok(told(done, "there is nothing to clean up"))
}

/// As [`cleanup`], and gives the live containers their first names back.
pub(in crate::app) async fn reset(daemon: &Arc<Daemon>) -> Result<Done, Denied> {
    let _turn = super::turn(daemon).await?;
    let _tidying = daemon.deploys.tidying();
    let client = daemon.deploys.engine(daemon).await?;
    let mut done = remove_idle(daemon, &client).await?;
    let book = daemon.deploys.book();
    let all = containers(&client).await?;
    for (service, releases) in &book.releases {
        let Some(live) = &releases.live else {
            continue;
        };
        for name in &live.containers {
            name_back(daemon, &client, &all, (service, name), &mut done).await?;
        }
    }
    super::refresh(daemon).await;
    Ok(told(done, "there is nothing to reset"))
}

fn told(mut done: Done, nothing: &str) -> Done {
    if done.done.is_empty() && done.warnings.is_empty() {
        done.done.push(nothing.to_owned());
    }
    done
}

/// Gives a live container the name that its first one had.
async fn name_back(
    daemon: &Daemon,
    client: &Client,
    all: &[Container],
    (service, name): (&ServiceName, &String),
    done: &mut Done,
) -> Result<(), Denied> {
    let found = all.iter().find(|one| one.name == *name);
    let first = found.and_then(|found| found.label(label::FIRST_NAME));
    let Some(first) = first.filter(|first| first != name) else {
        return Ok(());
    };
    if all.iter().any(|one| one.name == first) {
        done.warnings
            .push(format!("{first} is there already: {name} keeps its name"));
        return Ok(());
    }
    client.rename(name, first).await?;
    done.done.push(format!("{name} is called {first}"));
    let saved = daemon.deploys.change(|book| {
        let live = book.releases.get_mut(service);
        if let Some(live) = live.and_then(|releases| releases.live.as_mut()) {
            if let Some(policy) = live.policies.remove(name) {
                live.policies.insert(first.to_owned(), policy);
            }
            for known in live.containers.iter_mut().filter(|known| *known == name) {
                first.clone_into(known);
            }
        }
    });
    if let Err(error) = saved.await {
        done.warnings.push(format!("NOT ON DISK ({error})"));
    }
    Ok(())
}

async fn remove_idle(daemon: &Arc<Daemon>, client: &Client) -> Result<Done, Denied> {
    let mut done = Done::default();
    let book = daemon.deploys.book();
    let services = daemon.config.load().services.clone();
    let all = of_ours(daemon, containers(client).await?);
    let working = working(&Traffic::now(daemon), &book, &services, &all);
    let (mut spared, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for one in &all {
        let service = owner(&services, one);
        // Somebody may have switched since the last one.
        let (traffic, moving) = (Traffic::now(daemon), moving(daemon));
        let why = match role(&book, &traffic, service.as_ref(), one) {
            Some(ContainerRole::Idle) => {
                let home = service.clone().map(|service| (service, bare_project(one)));
                // A service that is down needs what it has, and so does a live color.
                let is_needed = home.is_none_or(|home| !working.contains(&home));
                (!is_needed && !traffic.is_of_live(one)).then_some("idle")
            }
            Some(ContainerRole::Kept | ContainerRole::LeftOver | ContainerRole::Job) => {
                is_left_over(&book, one)
            }
            Some(ContainerRole::Live | ContainerRole::New | ContainerRole::Unknown) | None => None,
        };
        let Some(why) = why else {
            continue;
        };
        let is_moving = service.as_ref().is_some_and(|name| moving.contains(name));
        if is_moving && one.label(label::JOB).is_none() {
            let told = format!(
                "{} ({why}) is left alone: its service is in the middle of a switch",
                one.name
            );
            done.warnings.push(told);
            spared.insert(one.name.clone());
            continue;
        }
        let configured = services
            .iter()
            .find(|known| Some(&known.name) == service.as_ref());
        let grace = configured.and_then(|known| known.stop_grace);
        client.stop(&one.name, grace).await?;
        if one.declared_color().is_some() {
            let told = format!("{} is declared by Compose: stopped, not removed", one.name);
            done.warnings.push(told);
            continue;
        }
        client.remove(&one.name).await?;
        done.done.push(format!("{} removed ({why})", one.name));
        removed.insert(one.name.clone());
    }
    let saved = daemon.deploys.change(|book| {
        for releases in book.releases.values_mut() {
            releases.kept = (releases.kept.take())
                .filter(|kept| kept.containers.iter().any(|name| spared.contains(name)));
            // Somebody had switched away from it.
            releases.live = (releases.live.take())
                .filter(|live| !live.containers.iter().all(|name| removed.contains(name)));
        }
    });
    if let Err(error) = saved.await {
        done.warnings
            .push(format!("NOT ON DISK ({error}): a restart would forget it"));
    }
    Ok(done)
}

/// Services with a container that works, and the Compose project of that.
fn working<'a>(
    traffic: &Traffic,
    book: &Book,
    services: &[Service],
    all: &'a [Container],
) -> BTreeSet<(ServiceName, &'a str)> {
    let working = all.iter().filter_map(|one| {
        let service = owner(services, one)?;
        let is_live = role(book, traffic, Some(&service), one) == Some(ContainerRole::Live);
        (is_live && one.is_up()).then(|| (service, bare_project(one)))
    });
    working.collect()
}

/// Services whose switch is not over: the slot that they came from is needed yet.
fn moving(daemon: &Daemon) -> BTreeSet<ServiceName> {
    let stacks = daemon.switchboard.get().map(Switchboard::status);
    let stacks = stacks.iter().flat_map(|stacks| stacks.iter());
    let unsettled = stacks.filter(|stack| stack.phase != Phase::Idle || !stack.drains.is_empty());
    let services = unsettled.flat_map(|stack| &stack.services);
    services.map(|one| one.service.clone()).collect()
}

fn live_names(book: &Book) -> Vec<&str> {
    let live = book
        .releases
        .values()
        .filter_map(|releases| releases.live.as_ref());
    live.flat_map(|live| live.containers.iter().map(String::as_str))
        .collect()
}

/// Why a container is there though nothing goes to it; `None`: it is not one of ours, or is used.
pub(super) fn is_left_over(book: &Book, one: &Container) -> Option<&'static str> {
    if live_names(book).contains(&one.name.as_str()) {
        return None;
    }
    let kept = book
        .releases
        .values()
        .filter_map(|releases| releases.kept.as_ref());
    if kept
        .flat_map(|kept| &kept.containers)
        .any(|name| *name == one.name)
    {
        return Some("kept for a rollback");
    }
    if one.label(label::JOB).is_some() {
        let waits = book
            .schedule
            .values()
            .any(|ran| ran.ended_ms.is_none() && is_of(&ran.container, &one.name));
        return (!waits && !one.is_up()).then_some("a job that has ended");
    }
    let service = one.label(label::SERVICE);
    let is_known = service.is_some_and(|service| book.releases.contains_key(service));
    let is_ours = one.label(label::DEPLOY).is_some();
    (is_ours && is_known).then_some("left by a deploy")
}

/// Whether a container is that of a run, or the one that verifies it; a run that has just begun has
/// none yet.
fn is_of(run: &str, name: &str) -> bool {
    !run.is_empty() && name.starts_with(run)
}
