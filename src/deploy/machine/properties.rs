//! Random histories: failures, silence, crashes, a full disk, people who change their minds.

use proptest::prelude::*;

use super::world::{Disk, Luck, World};
use super::*;
use crate::deploy::action::Replica;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write,
    Act(Luck),
    Pass(u64),
    Crash(Luck),
    Abort,
    Disk(Disk),
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        12 => Just(Luck::Good),
        1 => Just(Luck::Fails),
        1 => Just(Luck::FailsHalfway),
        1 => Just(Luck::Silent),
        1 => Just(Luck::Bad),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => Just(Step::Write),
        20 => luck().prop_map(Step::Act),
        4 => (0_u64..5).prop_map(Step::Pass),
        1 => (20_u64..200).prop_map(Step::Pass),
        2 => luck().prop_map(Step::Crash),
        1 => Just(Step::Abort),
        1 => prop_oneof![4 => Just(Disk::Works), 1 => Just(Disk::Fails)].prop_map(Step::Disk),
    ]
}

fn play(steps: &[Step], mut world: World) -> World {
    for step in steps {
        match *step {
            Step::Write => world.write(),
            Step::Act(luck) => world.act(luck),
            Step::Pass(seconds) => world.pass(Duration::from_secs(seconds)),
            Step::Crash(luck) => world.crash(luck),
            Step::Abort => world.abort(),
            Step::Disk(disk) => world.disk = disk,
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The invariants are checked by the world at every step; here, that it ends well.
    #[test]
    fn whatever_happens_it_ends_with_one_release_and_nothing_left_over(
        steps in prop::collection::vec(step(), 0..160),
        retry in any::<bool>(),
    ) {
        let mut world = play(&steps, World::new(retry));
        world.finish();
        world.check_end();
    }

    /// The same for a rolling one; the world counts at every step who takes requests.
    #[test]
    fn whatever_happens_a_rolling_one_never_has_fewer_containers_that_serve(
        steps in prop::collection::vec(step(), 0..220),
        closes in any::<bool>(),
    ) {
        let mut world = play(&steps, World::rolling(closes));
        world.finish();
        world.check_end();
    }
}

/// Every crash point, with the action under way done, done in part, or not done.
#[test]
fn a_crash_at_any_step_ends_in_one_of_two_states() {
    let mut kept = 0;
    let mut undone = 0;
    for bad in [
        None,
        Some(Action::Verdict),
        Some(Action::Gate),
        Some(Action::Job(1)),
    ] {
        for at in 0..90 {
            for luck in [Luck::Good, Luck::FailsHalfway, Luck::Fails] {
                let mut world = World::new(false);
                for n in 0..90 {
                    if n == at {
                        world.crash(luck);
                    }
                    world.write();
                    let doing = world.pending.map(|(_, action)| action);
                    let is_bad = doing.is_some() && doing == bad;
                    world.act(if is_bad { Luck::Bad } else { Luck::Good });
                    world.pass(Duration::from_millis(10));
                }
                world.finish();
                world.check_end();
                match world.durable.releases.contains_key("bot") {
                    true => kept += 1,
                    false => undone += 1,
                }
            }
        }
    }
    assert!(kept > 200 && undone > 500, "{kept} kept, {undone} undone");
}

/// The same for a rolling deploy, with each of its steps failing.
#[test]
fn a_crash_at_any_step_of_a_rolling_one_ends_in_one_of_two_states() {
    let (mut kept, mut undone) = (0, 0);
    let second = Replica { member: 3, at: 1 };
    for bad in [
        None,
        Some(Action::HealthyOne(second)),
        Some(Action::JoinOne(second)),
        Some(Action::ParkOne(second)),
        Some(Action::Gate),
    ] {
        for at in 0..120 {
            for luck in [Luck::Good, Luck::FailsHalfway, Luck::Fails] {
                let mut world = World::rolling(at % 2 == 0);
                for n in 0..120 {
                    if n == at {
                        world.crash(luck);
                    }
                    world.write();
                    let doing = world.pending.map(|(_, action)| action);
                    let is_bad = doing.is_some() && doing == bad;
                    world.act(if is_bad { Luck::Bad } else { Luck::Good });
                    world.pass(Duration::from_millis(10));
                }
                world.finish();
                world.check_end();
                match world.durable.releases.contains_key("bot") {
                    true => kept += 1,
                    false => undone += 1,
                }
            }
        }
    }
    assert!(kept > 250 && undone > 800, "{kept} kept, {undone} undone");
}
