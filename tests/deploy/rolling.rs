//! One container after the other within the live color.

use std::collections::BTreeSet;

use crate::support::counts::wanted;
use crate::support::docker::{Engine, IMAGE, World};
use crate::support::{Edge, wait_for, wait_until};
use crate::{DEPLOY, Images, Load, SHORT, Shop, file, numbered};

/// Containers of the service.
const REPLICAS: usize = 3;

/// Three replicas of `v1`, made with these options.
fn open<'a>(world: &'a World, versions: &[&str], options: &[&str]) -> Shop<'a> {
    let images = Images::make(world, versions);
    world.network("net");
    for number in 1..=REPLICAS {
        numbered(world, &images, "web", number, options);
    }
    Shop::over(world, images, Edge::start(&file(SHORT, "")))
}

/// The releases that containers run, each as often as it runs.
fn releases(shop: &Shop<'_>) -> Vec<String> {
    let form = "{{.Config.Image}}";
    let of = |name: &String| shop.world.engine.ok(&["inspect", "--format", form, name]);
    let images = shop.running();
    let images = images.iter().map(of);
    images
        .map(|image| image.rsplit(':').next().unwrap_or_default().to_owned())
        .collect()
}

/// Upstreams that the live color has.
fn pool(shop: &Shop<'_>) -> usize {
    let status = shop.edge.status();
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let web = services.iter().find(|service| service["name"] == "web");
    let live = web.and_then(|web| {
        let live = web["live"].as_str()?;
        web["slots"][live]["upstreams"].as_array().map(Vec::len)
    });
    live.unwrap_or_default()
}

fn nothing_failed(load: Load) {
    let (sent, failed) = load.end();
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );
}

#[test]
fn a_rolling_release_under_load_costs_no_request_and_neither_does_the_way_back() {
    let world = World::new(Engine::shared(), "cutover-t-dep-roll");
    let shop = open(&world, &["v1", "v2", "v3"], &[]);
    let first = shop.running();
    let plan = shop.deploy(&[
        "v2",
        "--service",
        "web",
        "--strategy",
        "rolling",
        "--dry-run",
    ]);
    assert_eq!(plan.code, 0, "{plan:?}");
    for line in [
        "replaced one by one",
        "no verdict",
        "start 2 of 3 of web",
        "stop the old 3 of 3 of web",
    ] {
        assert!(plan.stdout.contains(line), "{line}: {plan:?}");
    }
    assert!(!plan.stdout.contains("switch"), "{plan:?}");

    let load = Load::start(shop.edge.http);
    load.more(50);
    let ended = shop.deploy(&["v2", "--service", "web", "--strategy", "rolling"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    load.more(50);
    nothing_failed(load);
    assert_eq!(releases(&shop), ["v2"; REPLICAS]);
    assert_eq!(shop.edge.live(), "blue", "the color stays");
    assert_eq!(shop.containers().len(), 2 * REPLICAS);
    wait_until("the pool is the new release", || pool(&shop) == REPLICAS);
    for name in shop.running() {
        assert!(name.contains("-web-blue-d1"), "{name}");
        // A space or a bracket comes after the last one.
        let aliases = shop.aliases(&name);
        let names = aliases.split([' ', '[', ']']).collect::<BTreeSet<_>>();
        assert!(names.contains("web"), "{aliases}");
    }

    let load = Load::start(shop.edge.http);
    load.more(50);
    let back = shop.edge.proxyctl(&["rollback"]);
    assert_eq!(back.code, 0, "{back:?}\n{}", shop.edge.log());
    load.more(50);
    nothing_failed(load);
    assert_eq!(shop.running(), first);
    assert_eq!(shop.page(), "v1");
    let refused = shop.deploy(&["v2", "--service", "web", "--strategy", "rolling"]);
    assert_eq!(refused.code, 3, "what a person left: {refused:?}");

    // The other way takes the stopped containers of the live color away as well.
    let ended = shop.deploy(&["v3", "--service", "web"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    assert_eq!(releases(&shop), ["v3"; REPLICAS]);
    assert_eq!(shop.edge.live(), "green");
    let all = shop.containers();
    assert_eq!(all.len(), 2 * REPLICAS, "{all:?}");
    let stopped = all.iter().filter(|(_, state)| state == "exited");
    let stopped: Vec<_> = stopped.map(|(name, _)| name.clone()).collect();
    assert_eq!(stopped, first);
    let history = shop.edge.proxyctl(&["history"]).stdout;
    assert!(history.contains("rolling deploy"), "{history}");
}

#[test]
fn a_second_replica_that_is_never_fit_brings_the_first_one_back() {
    let world = World::new(Engine::shared(), "cutover-t-dep-lame");
    let volume = world.name("data");
    // Of a run that was broken off.
    let _ = world.engine.run(&["volume", "rm", "-f", &volume]);
    let bind = format!("{volume}:/data");
    let shop = open(&world, &["v1", "lame"], &["-v", &bind]);
    let before = shop.containers();
    let load = Load::start(shop.edge.http);
    load.more(50);
    let ended = shop.deploy(&["lame", "--service", "web", "--strategy", "rolling"]);
    load.more(50);
    assert_eq!(ended.code, 3, "{ended:?}\n{}", shop.edge.log());
    nothing_failed(load);
    let told = &ended.stderr;
    assert!(told.contains("health gate of 2 of 3 of web"), "{ended:?}");
    assert!(told.contains("takes the requests again"), "{ended:?}");
    assert_eq!(shop.containers(), before);
    assert_eq!(shop.page(), "v1");
    wait_until("the pool is as it was", || pool(&shop) == REPLICAS);
    // The first one had been there.
    let seen = ["run", "--rm", "-v", &bind, IMAGE, "/bin/sh", "-c"];
    let seen = [&seen[..], &["test -d /data/first && echo yes"]].concat();
    assert_eq!(world.engine.ok(&seen), "yes");

    // Called off by a person while the second one is waited for.
    let again = ["run", "--rm", "-v", &bind, IMAGE, "/bin/sh", "-c"];
    world
        .engine
        .ok(&[&again[..], &["/bin/busybox rmdir /data/first"]].concat());
    let load = Load::start(shop.edge.http);
    let rolling = ["--service", "web", "--strategy", "rolling", "--no-wait"];
    let begun = shop.deploy(&[&["lame"], &rolling[..]].concat());
    assert_eq!(begun.code, 0, "{begun:?}");
    wait_for(DEPLOY, "the second one is waited for", || {
        let step = shop.edge.status()["deploy"]["step"].clone();
        step == "wait for the health gate of 2 of 3 of web"
    });
    let ended = shop.edge.proxyctl(&["abort"]);
    assert_eq!(ended.code, 0, "{ended:?}\n{}", shop.edge.log());
    assert!(ended.stdout.contains("requests again"), "{ended:?}");
    load.more(50);
    nothing_failed(load);
    assert_eq!(shop.containers(), before);
    drop(shop);
    world.remove_all();
    let _ = world.engine.run(&["volume", "rm", "-f", &volume]);
}

/// Where it can be killed: right before and right after each record, but for the first and the last.
const POINTS: u64 = 54;

#[test]
fn a_daemon_that_is_killed_in_a_rolling_deploy_goes_on_with_it() {
    let world = World::new(Engine::shared(), "cutover-t-dep-rollkill");
    let mut shop = open(&world, &["v1", "v2"], &[]);
    let kills = wanted("SOAK_ROLLING_KILLS", 3);
    let mut killed = 0;
    for seed in 0..kills {
        // In the first, the second and the third replica, and so on.
        let at = 2 + (14 + seed * 17) % POINTS;
        let next = match shop.page().as_str() {
            "v1" => "v2",
            _ => "v1",
        };
        shop.restart(&[("CUTOVER_CRASH_AT_DEPLOY", at.to_string())], SHORT);
        let rolling = [
            "--service",
            "web",
            "--strategy",
            "rolling",
            "--no-wait",
            "--force",
        ];
        let _ = shop.deploy(&[&[next][..], &rolling].concat());
        wait_for(DEPLOY, "it was killed, or got to its end", || {
            shop.edge.has_ended() || shop.has_no_deploy()
        });
        if shop.edge.has_ended() {
            killed += 1;
            let running = shop.running();
            assert!(running.len() >= REPLICAS, "{at}: {running:?}");
            shop.edge.child = None;
            shop.edge.spawn();
        }
        wait_for(DEPLOY, "it is over", || shop.has_no_deploy());
        let log = shop.edge.log();
        assert_eq!(releases(&shop), [next; REPLICAS], "{at}\n{log}");
        let all = shop.containers();
        assert_eq!(all.len(), 2 * REPLICAS, "{at}: {all:?}\n{log}");
        assert_eq!(shop.edge.live(), "blue", "{at}");
    }
    // Without fail points in the program nothing would be killed.
    assert_eq!(killed, kills);
}
