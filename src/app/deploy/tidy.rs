//! `cleanup` and `reset`: what is there beside the live containers.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Denied, containers, of_ours};
use crate::admin::wire::Done;
use crate::app::daemon::Daemon;
use crate::deploy::container::label;
use crate::deploy::{Book, Container};
use crate::docker::Client;

/// Removes the kept releases and whatever earlier deploys and jobs have left.
pub(in crate::app) async fn cleanup(daemon: &Arc<Daemon>) -> Result<Done, Denied> {
    let _turn = super::turn(daemon).await?;
    let client = daemon.deploys.engine(daemon).await?;
    let done = remove_idle(daemon, &client).await?;
    super::refresh(daemon).await;
    Ok(done)
}

/// As [`cleanup`], and gives the live containers their first names back.
pub(in crate::app) async fn reset(daemon: &Arc<Daemon>) -> Result<Done, Denied> {
    let _turn = super::turn(daemon).await?;
    let client = daemon.deploys.engine(daemon).await?;
    let mut done = remove_idle(daemon, &client).await?;
    let book = daemon.deploys.book();
    let all = containers(&client).await?;
    for (service, releases) in &book.releases {
        let Some(live) = &releases.live else {
            continue;
        };
        let [name] = &live.containers[..] else {
            let told = format!(
                "{service} has {} containers, which keep their names",
                live.containers.len()
            );
            done.warnings.push(told);
            continue;
        };
        let Some(found) = all.iter().find(|one| one.name == *name) else {
            continue;
        };
        let Some(first) = found.label(label::FIRST_NAME).filter(|first| first != name) else {
            continue;
        };
        if all.iter().any(|one| one.name == first) {
            done.warnings
                .push(format!("{first} is there already: {name} keeps its name"));
            continue;
        }
        client.rename(name, first).await?;
        let (service, name, first) = (service.clone(), name.clone(), first.to_owned());
        done.done.push(format!("{name} is called {first}"));
        let saved = daemon.deploys.change(|book| {
            let live = book.releases.get_mut(&service);
            if let Some(live) = live.and_then(|releases| releases.live.as_mut()) {
                if let Some(policy) = live.policies.remove(&name) {
                    live.policies.insert(first.clone(), policy);
                }
                live.containers = vec![first.clone()];
            }
        });
        if let Err(error) = saved.await {
            done.warnings.push(format!("NOT ON DISK ({error})"));
        }
    }
    if done.done.is_empty() {
        done.done.push("there is nothing to reset".to_owned());
    }
    super::refresh(daemon).await;
    Ok(done)
}

async fn remove_idle(daemon: &Arc<Daemon>, client: &Client) -> Result<Done, Denied> {
    let mut done = Done::default();
    let book = daemon.deploys.book();
    let serving = serving(daemon);
    let mut spared = BTreeSet::new();
    for one in of_ours(daemon, containers(client).await?) {
        let Some(why) = is_left_over(&book, &one) else {
            continue;
        };
        // Somebody has switched to it since.
        if one.is_up() && serving.contains(&one.id) {
            let told = format!("{} ({why}) serves requests now: left alone", one.name);
            done.warnings.push(told);
            spared.insert(one.name);
            continue;
        }
        client.stop(&one.name, None).await?;
        if one.declared_color().is_some() {
            let told = format!("{} is declared by Compose: stopped, not removed", one.name);
            done.warnings.push(told);
            continue;
        }
        client.remove(&one.name).await?;
        done.done.push(format!("{} removed ({why})", one.name));
    }
    let saved = daemon.deploys.change(|book| {
        for releases in book.releases.values_mut() {
            releases.kept = (releases.kept.take())
                .filter(|kept| kept.containers.iter().any(|name| spared.contains(name)));
        }
    });
    if let Err(error) = saved.await {
        done.warnings
            .push(format!("NOT ON DISK ({error}): a restart would forget it"));
    }
    if done.done.is_empty() && done.warnings.is_empty() {
        done.done.push("there is nothing to clean up".to_owned());
    }
    Ok(done)
}

/// Ids of the containers of live slots.
fn serving(daemon: &Daemon) -> BTreeSet<String> {
    let live = super::live(daemon);
    let discovered = daemon.discovery.discovered();
    let members = discovered.members.iter();
    let serve = members.filter(|(_, slots)| {
        let mut slots = slots.iter();
        slots.any(|(service, color)| live.get(service) == Some(color))
    });
    serve.map(|(id, _)| id.clone()).collect()
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
            .any(|ran| ran.ended_ms.is_none() && one.name.starts_with(&ran.container));
        return (!waits && !one.is_up()).then_some("a job that has ended");
    }
    let service = one.label(label::SERVICE);
    let is_known = service.is_some_and(|service| book.releases.contains_key(service));
    let is_ours = one.label(label::DEPLOY).is_some();
    (is_ours && is_known).then_some("left by a deploy")
}
