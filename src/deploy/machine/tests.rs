//! What a person relies on, one at a time.

use super::world::{Disk, Luck, Traffic, World};
use super::*;
use crate::deploy::action::Replica;

/// Goes on with good luck up to an action, which is then being done.
fn until(world: &mut World, action: Action) {
    for _ in 0..500 {
        if world.pending.is_some_and(|(_, doing)| doing == action) {
            return;
        }
        world.write();
        if world.pending.is_some_and(|(_, doing)| doing != action) {
            world.act(Luck::Good);
        }
    }
    panic!("{action:?} never came: {:#?}", world.log);
}

fn with_bad(action: Action, luck: Luck) -> World {
    let mut world = World::new(false);
    until(&mut world, action);
    world.act(luck);
    world.finish();
    world.check_end();
    world
}

#[test]
fn a_good_release_is_kept_and_the_one_before_is_parked() {
    let mut world = World::new(false);
    world.finish();
    world.check_end();
    assert_eq!(world.traffic, Traffic::New);
    assert_eq!(world.jobs, ["dump", "migrate", "try", "tell"]);
    assert!(!world.restored);
    let web = &world.durable.releases["web"];
    let kept = web.kept.as_ref().expect("kept");
    assert_eq!((kept.release.as_str(), kept.containers.len()), ("v1", 2));
    assert_eq!(
        web.live.as_ref().map(|live| live.image_id.as_str()),
        Some("sha256:2")
    );
    let Some(Outcome::Kept { trouble, .. }) = world.end else {
        panic!("{:?}", world.end);
    };
    assert!(trouble.is_empty(), "{trouble:?}");
}

#[test]
fn a_failing_migration_is_undone_restored_and_told_while_nobody_could_write() {
    let world = with_bad(Action::Job(1), Luck::Bad);
    assert!(world.restored);
    assert_eq!(world.jobs, ["dump", "sorry"]);
    let Some(Outcome::Failed { step, details, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert_eq!(step, "job migrate");
    assert_eq!(details, &["the copy"]);
}

#[test]
fn a_copy_that_failed_is_not_put_back() {
    let world = with_bad(Action::Job(0), Luck::Bad);
    assert!(!world.restored);
    assert_eq!(world.jobs, ["sorry"]);
}

#[test]
fn a_release_that_never_becomes_healthy_is_removed_before_traffic_moves() {
    let world = with_bad(Action::Gate, Luck::Bad);
    assert_eq!(world.traffic, Traffic::Old);
    assert!(
        matches!(world.end, Some(Outcome::Failed { .. })),
        "{:?}",
        world.end
    );
    assert!(world.durable.quarantine.is_empty(), "it was never tried");
}

#[test]
fn a_bad_verdict_undoes_the_whole_stack_and_holds_the_image_back() {
    let world = with_bad(Action::Verdict, Luck::Bad);
    assert_eq!(world.jobs, ["dump", "migrate", "try", "back"]);
    // The stack was open again: what users did since stays.
    assert!(!world.restored, "{:#?}", world.log);
    let held: Vec<_> = world
        .durable
        .quarantine
        .iter()
        .map(|one| one.image_id.as_str())
        .collect();
    assert_eq!(held, ["sha256:2"; 4]);
}

#[test]
fn what_fails_after_the_verdict_is_told_and_undoes_nothing() {
    let world = with_bad(Action::Job(3), Luck::Bad);
    assert_eq!(world.traffic, Traffic::New);
    let Some(Outcome::Kept { trouble, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert_eq!(trouble, &["job tell: as it was told to"]);
}

#[test]
fn an_image_that_is_live_changes_nothing() {
    let mut world = World::new(false);
    let mut run = world::run(false);
    for member in &mut run.plan.members {
        member.old_image = "sha256:2".to_owned();
    }
    let (machine, effects) = Machine::begin(world.now, run.clone());
    world.replace(machine, effects);
    world.finish();
    assert_eq!(
        world.end,
        Some(Outcome::AlreadyLive {
            release: "v2".to_owned()
        })
    );
    assert!(world.jobs.is_empty());

    run.force = true;
    let (machine, effects) = Machine::begin(world.now, run);
    world.end = None;
    world.replace(machine, effects);
    world.finish();
    assert!(
        matches!(world.end, Some(Outcome::Kept { .. })),
        "{:?}",
        world.end
    );
}

#[test]
fn a_release_that_was_rolled_back_is_refused_unless_somebody_insists() {
    let bad = with_bad(Action::Verdict, Luck::Bad);
    let mut run = world::run(false);
    run.plan.quarantine = bad.durable.quarantine.clone();
    let mut world = World::new(false);
    let (machine, effects) = Machine::begin(world.now, run.clone());
    world.replace(machine, effects);
    world.finish();
    let Some(Outcome::Refused { reason }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert!(
        reason.contains("was rolled back: errors; --force"),
        "{reason}"
    );
    run.force = true;
    let (machine, effects) = Machine::begin(world.now, run);
    world.end = None;
    world.replace(machine, effects);
    world.finish();
    assert!(
        matches!(world.end, Some(Outcome::Kept { .. })),
        "{:?}",
        world.end
    );
}

#[test]
fn it_is_called_off_before_the_cutover_and_not_after() {
    for action in [
        Action::Pull(0),
        Action::Job(0),
        Action::Create(0),
        Action::Gate,
        Action::Halt(1),
    ] {
        let mut world = World::new(false);
        until(&mut world, action);
        world.abort();
        world.finish();
        world.check_end();
        assert!(
            matches!(world.end, Some(Outcome::Aborted { .. })),
            "{action:?} {:?}",
            world.end
        );
    }
    let mut world = World::new(false);
    until(&mut world, Action::Verdict);
    world.abort();
    world.finish();
    assert!(
        matches!(world.end, Some(Outcome::Kept { .. })),
        "{:?}",
        world.end
    );
}

#[test]
fn a_container_is_not_left_half_made_by_a_person_who_changes_their_mind() {
    let mut world = World::new(false);
    until(&mut world, Action::Create(3));
    world.abort();
    // The engine is at it: nobody is told to remove it meanwhile.
    assert!(world.pending.is_some());
    world.finish();
    world.check_end();
}

#[test]
fn a_disk_that_refuses_from_the_start_refuses_the_deploy() {
    let mut world = World::new(false);
    world.disk = Disk::Fails;
    world.write();
    let Some(Outcome::Refused { reason }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert!(reason.contains("nothing was changed"), "{reason}");
    assert!(world.log.is_empty(), "{:?}", world.log);
    world.finish();
    assert_eq!(world.durable.running, None);
}

#[test]
fn a_deadline_turns_it_back() {
    let mut world = World::new(false);
    until(&mut world, Action::Healthy(3));
    world.pass(Duration::from_secs(31));
    world.finish();
    world.check_end();
    let Some(Outcome::Failed { step, reason, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert_eq!(
        (step.as_str(), reason.as_str()),
        ("wait for web to be healthy", "not done after 30 s")
    );
}

#[test]
fn an_engine_that_is_silent_for_a_moment_is_waited_for() {
    let mut world = World::new(false);
    until(&mut world, Action::Start(3));
    for _ in 0..10 {
        world.act(Luck::Silent);
        assert!(world.pending.is_none());
        world.pass(Duration::from_secs(2));
    }
    world.finish();
    world.check_end();
    assert!(
        matches!(world.end, Some(Outcome::Kept { .. })),
        "{:?}",
        world.end
    );
}

#[test]
fn the_old_worker_stays_down_if_the_new_one_may_still_run() {
    let mut world = World::new(false);
    until(&mut world, Action::Verdict);
    world.act(Luck::Bad);
    until(&mut world, Action::StopNew(1));
    for _ in 0..ATTEMPTS {
        world.act(Luck::Fails);
        world.pass(Duration::from_secs(2));
    }
    world.finish();
    assert!(!world.things["bot-1"].runs);
    let Some(Outcome::RolledBack { details, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    let told = details.join("\n");
    assert!(
        told.contains("stop the new bot: as it was told to"),
        "{told}"
    );
    assert!(told.contains("not done, because the new one may still run: start the old bot again"));
}

#[test]
fn a_cutover_that_a_crash_kept_from_happening_is_undone_or_asked_for_again() {
    for (retry, kept) in [(false, false), (true, true)] {
        let mut world = World::new(retry);
        until(&mut world, Action::CutOver);
        world.crash(Luck::Fails);
        until(&mut world, Action::CutOver);
        world.act(Luck::FailsHalfway);
        world.finish();
        world.check_end();
        let is_kept = matches!(world.end, Some(Outcome::Kept { .. }));
        assert_eq!(is_kept, kept, "{:?}", world.end);
    }
}

#[test]
fn a_daemon_that_dies_again_and_again_under_it_gives_up() {
    let mut world = World::new(false);
    for _ in 0..3 {
        until(&mut world, Action::Healthy(3));
        world.crash(Luck::Good);
    }
    world.finish();
    world.check_end();
    let Some(Outcome::Failed { reason, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert_eq!(reason, "the daemon died 3 times under it");
}

#[test]
fn the_record_hides_variables_from_whoever_looks_at_it() {
    let mut run = world::run(false);
    if let Some(spec) = &mut run.plan.members[0].new[0].spec {
        spec.body.0 = serde_json::json!({ "Env": ["PASSWORD=hunter2"] });
    }
    assert!(!format!("{run:?}").contains("hunter2"));
    // A restart needs them.
    assert!(
        serde_json::to_string(&run)
            .expect("JSON")
            .contains("hunter2")
    );
}

/// One of the three replicas of the web service.
fn web(at: usize) -> Replica {
    Replica { member: 3, at }
}

fn rolling_with(action: Action, luck: Luck) -> World {
    let mut world = World::rolling(false);
    until(&mut world, action);
    world.act(luck);
    world.finish();
    world.check_end();
    world
}

#[test]
fn a_rolling_release_takes_the_place_of_one_container_after_the_other() {
    let mut world = World::rolling(false);
    let plan = world.machine.as_ref().expect("it runs").run().plan.clone();
    let told: Vec<_> = forward(&plan).iter().map(|it| it.told(&plan)).collect();
    let told = told.join("\n");
    let of_the_first = "start 1 of 3 of web\nwait for 1 of 3 of web to be healthy\n\
        wait for the health gate of 1 of 3 of web\nsmoke check /\njob try\n\
        give 1 of 3 of web its plain name\nlet 1 of 3 of web take requests\n\
        drain the old 1 of 3 of web\nstop the old 1 of 3 of web\nstart 2 of 3 of web\n";
    assert!(told.contains(of_the_first), "{told}");
    until(&mut world, Action::StartOne(web(1)));
    let runs = |name: &str| world.things.get(name).is_some_and(|it| it.runs);
    assert!(runs("web-g-1") && !runs("web-1") && runs("web-2") && runs("web-3"));
    world.finish();
    world.check_end();
    let known = &world.durable.releases["web"];
    let (live, kept) = (known.live.as_ref(), known.kept.as_ref());
    assert_eq!(live.map(|it| it.color), kept.map(|it| it.color));
    assert_eq!(kept.map(|it| it.containers.len()), Some(3));
    let Some(Outcome::Kept { trouble, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    assert!(trouble.is_empty(), "{trouble:?}");
}

#[test]
fn a_replica_that_is_not_fit_brings_back_all_that_left_before_it() {
    let world = rolling_with(Action::HealthyOne(web(2)), Luck::Bad);
    let Some(Outcome::Failed {
        step,
        is_shut,
        moved,
        ..
    }) = &world.end
    else {
        panic!("{:?}", world.end);
    };
    assert_eq!(step, "wait for 3 of 3 of web to be healthy");
    assert!(*is_shut && *moved);
    let back: Vec<_> = world.log.iter().filter(|it| it.contains("One")).collect();
    let back: Vec<_> = back
        .iter()
        .rev()
        .take(7)
        .rev()
        .map(|it| it.as_str())
        .collect();
    let one = |action: &str, member: usize, at: usize| {
        format!("{action}(Replica {{ member: {member}, at: {at} }}) Good")
    };
    assert_eq!(
        back,
        [
            one("WithdrawOne", 3, 2),
            one("ReviveOne", 3, 1),
            one("WithdrawOne", 3, 1),
            one("ReviveOne", 3, 0),
            one("WithdrawOne", 3, 0),
            one("ReviveOne", 0, 0),
            one("WithdrawOne", 0, 0),
        ]
    );
}

#[test]
fn a_new_container_that_fails_later_is_found_out_before_it_is_kept() {
    let world = rolling_with(Action::Gate, Luck::Bad);
    assert!(matches!(world.end, Some(Outcome::Failed { .. })));
}

#[test]
fn a_rolling_deploy_is_called_off_until_it_is_kept() {
    for action in [
        Action::Pull(0),
        Action::StartOne(web(0)),
        Action::JoinOne(web(1)),
        Action::LeaveOne(web(1)),
        Action::ParkOne(web(2)),
        Action::Halt(1),
        Action::Gate,
    ] {
        let mut world = World::rolling(false);
        until(&mut world, action);
        world.abort();
        world.finish();
        world.check_end();
        assert!(
            matches!(world.end, Some(Outcome::Aborted { .. })),
            "{action:?} {:?}",
            world.end
        );
    }
    let mut world = World::rolling(false);
    until(&mut world, Action::Prune);
    world.abort();
    world.finish();
    assert!(matches!(world.end, Some(Outcome::Kept { .. })));
}

#[test]
fn a_replacement_stays_if_the_old_one_does_not_come_back() {
    let mut world = World::rolling(false);
    until(&mut world, Action::GateOne(web(1)));
    world.act(Luck::Bad);
    until(&mut world, Action::ReviveOne(web(0)));
    for _ in 0..REVIVALS {
        world.act(Luck::Bad);
        world.pass(Duration::from_secs(2));
    }
    world.finish();
    world.check_end();
    assert!(world.things["web-g-1"].runs && !world.things["web-1"].runs);
    assert!(!world.things.contains_key("web-g-2"));
    let Some(Outcome::Failed { details, .. }) = &world.end else {
        panic!("{:?}", world.end);
    };
    let told = details.join("\n");
    assert!(
        told.contains("its replacement does: drain and take away the new 1 of 3 of web"),
        "{told}"
    );
}

#[test]
fn what_was_not_let_in_yet_is_held_back_after_a_restart() {
    let mut world = World::rolling(false);
    until(&mut world, Action::JoinOne(web(1)));
    let run = world.durable.running.as_ref().expect("a record");
    assert_eq!(run.held_back(), ["web-g-2", "web-g-3"]);
}
