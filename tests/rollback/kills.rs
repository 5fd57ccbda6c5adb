//! kill -9 while a release is judged.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::RATE;
use crate::support::counts::{Counts, wanted};
use crate::support::journal::{book, named_by_the_journal};
use crate::support::{now, wait_until};
use crate::world::{Mood, World};

/// What is going on when it is killed.
const PHASES: [&str; 4] = ["observe", "held", "rolling back", "committing"];

#[test]
fn a_daemon_killed_while_it_judges_goes_on_as_the_journal_says() {
    let kills = wanted("SOAK_JUDGE_KILLS", 4);
    let counts = Counts::of("judge-kills");
    for seed in counts.done("kills")..kills {
        let mut random = fastrand::Rng::with_seed(seed);
        let phase = PHASES[usize::try_from(seed % 4).expect("small")];
        let observe = if phase == "committing" { "1s" } else { "60s" };
        let mut world = World::watched(observe, "", RATE, false);
        world.baseline(2);
        // Before or after a disk operation where the programs can do that.
        if matches!(phase, "rolling back" | "committing") {
            world.edge.stop("-KILL");
            let operation = random.u64(3..40).to_string();
            world.edge.spawn_with(&[("CUTOVER_CRASH_AT", operation)]);
            wait_until("it is ready or gone", || {
                world.edge.has_ended() || world.edge.is_ready()
            });
        }
        if phase == "rolling back" {
            world.green.becomes(Mood::Fails(1.0));
        }
        if !world.edge.has_ended() {
            world.edge.proxyctl(&["switch", "green", "--no-wait"]);
        }
        if phase == "held" {
            for app in [&world.blue, &world.green] {
                app.becomes(Mood::Fails(1.0));
            }
            wait_until("it is held", || world.edge.log().contains("shared cause"));
        }
        let (start, life) = (now(), Duration::from_millis(random.u64(0..1_800)));
        while start.elapsed() < life && !world.edge.has_ended() {
            thread::sleep(Duration::from_millis(2));
        }
        let limit = matches!(phase, "observe" | "held").then(|| world.judged()["limit"].clone());
        if !world.edge.has_ended() {
            world.edge.stop("-KILL");
        }
        world.edge.child = None;
        let when = format!("seed {seed}, {phase}");
        let (named, before) = (named_by_the_journal(&world.edge), book(&world.edge));
        for app in [&world.blue, &world.green] {
            app.becomes(Mood::Well);
        }
        world.edge.spawn();
        assert_eq!(world.edge.live(), named, "{when}: {before:#}");
        if let Some(limit) = limit {
            assert_eq!(named, "green", "{when}: nothing was decided yet");
            wait_until("it is watched on", || world.judged()["limit"] == limit);
            let judged = world.judged();
            assert_eq!(judged["over"], false, "{when}: {judged}");
            assert!(
                judged["before"]["all"].as_u64() > Some(100),
                "{when}: {judged}"
            );
            // The evidence starts anew.
            assert!(judged["requests"]["bad"] == 0, "{when}: {judged}");
        }
        counts.add(&json!({"kills": 1, "seed": seed, "phase": phase, "live": named}));
    }
}
