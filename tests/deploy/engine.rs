//! The engine dies in the middle of a deploy.

use serde_json::json;

use crate::support::Edge;
use crate::support::counts::{Counts, wanted};
use crate::support::docker::{OwnEngine, World};
use crate::support::{wait_for, wait_until};
use crate::{DEPLOY, Images, SHORT, Shop, file, first};

/// Steps of a deploy of one service, after which the engine is killed.
const STEPS: u64 = 14;

#[test]
fn an_engine_that_is_killed_at_any_step_comes_back_to_one_release_and_nothing_over() {
    let mut own = OwnEngine::start("cutover-t1", "10.213.8.1/24");
    let world = World::new(own.engine.clone(), "cutover-t-dep-engine");
    let images = Images::make(&world, &["v1", "v2", "v3"]);
    world.network("net");
    first(&world, &images, "web", &["--restart", "always"]);
    let socket = own.engine.socket.display().to_string();
    let here = format!("[docker]\nsocket = \"{socket}\"\n");
    let edge = Edge::start(&file(SHORT, "").replacen("[docker]\n", &here, 1));
    let shop = Shop::over(&world, images, edge);
    let kills = wanted("SOAK_ENGINE_KILLS", 2);
    let counts = Counts::of("engine-kills");
    let mut caught = counts.done("caught");
    for seed in counts.done("kills")..kills {
        let step = (seed * 5 + 4) % STEPS;
        let was = shop.page();
        let next = if was == "v2" { "v3" } else { "v2" };
        let when = format!("seed {seed}: {next} over {was}, killed at step {step}");
        let begun = shop.deploy(&[next, "--no-wait", "--force"]);
        assert_eq!(begun.code, 0, "{when}: {begun:?}");
        wait_for(DEPLOY, &format!("that step, {when}"), || {
            let deploy = shop.edge.status()["deploy"].clone();
            deploy.is_null() || deploy["done"].as_u64().is_some_and(|done| done >= step)
        });
        let in_it = !shop.has_no_deploy();
        own.kill();
        own.spawn();
        wait_for(2 * DEPLOY, &format!("it is over, {when}"), || {
            shop.has_no_deploy()
        });
        wait_for(DEPLOY, &format!("one release is served, {when}"), || {
            [was.as_str(), next].contains(&shop.page().as_str())
        });
        wait_for(DEPLOY, &format!("one release runs, {when}"), || {
            shop.running().len() == 1
        });
        let all = shop.containers();
        assert!(all.len() <= 2, "{when}: {all:?}\n{}", shop.edge.log());
        wait_until("status shows them all", || {
            let shown = shop.edge.status()["containers"].as_array().map(Vec::len);
            shown == Some(all.len())
        });
        caught += u64::from(in_it);
        counts.add(
            &json!({"kills": 1, "seed": seed, "step": step, "caught": u64::from(in_it),
            "was": was, "wanted": next, "served": shop.page()}),
        );
    }
    assert!(
        caught * 2 >= kills,
        "only {caught} of {kills} came in the middle of one"
    );
}
