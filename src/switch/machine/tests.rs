//! One claim each about the transitions of a switch.

use std::time::Duration;

use super::world::{Disk, Slot, World};
use super::*;
use crate::model::Color::{Blue, Green};
use crate::switch::verdict::{Cause, Verdict};

const OBSERVE: u64 = 10;

fn world() -> World {
    World::new(OBSERVE, false)
}

fn to(color: Color) -> Order {
    Order::Switch {
        color,
        services: Vec::new(),
        force: false,
        release: None,
        confirm_within: None,
    }
}

fn only(color: Color, service: &str) -> Order {
    Order::Switch {
        color,
        services: vec![service.into()],
        force: false,
        release: None,
        confirm_within: None,
    }
}

fn forced(color: Color) -> Order {
    Order::Switch {
        color,
        services: Vec::new(),
        force: true,
        release: None,
        confirm_within: None,
    }
}

impl World {
    fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn phase(&self) -> Phase {
        self.machine.phase()
    }

    fn code(&self, command: Generation) -> Option<u8> {
        self.ended.get(&command).map(Outcome::exit_code)
    }

    fn said(&self, command: Generation) -> String {
        self.ended[&command].to_string()
    }

    fn live(&self) -> Vec<(Color, u64)> {
        let live = self.published.values();
        live.map(|live| (live.color, live.generation.0)).collect()
    }

    fn all(&mut self, color: Color, state: Slot) {
        for ((_, slot), now) in &mut self.slots {
            if *slot == color {
                *now = state;
            }
        }
    }

    /// Observed, kept and drained.
    fn kept(&mut self, color: Color) -> Generation {
        self.requests += 1_000;
        let command = self.order(to(color));
        self.requests += 1_000;
        self.seconds(OBSERVE + 1);
        assert_eq!(self.code(command), Some(0), "{:?}", self.machine);
        command
    }
}

#[test]
fn a_switch_is_gated_cut_over_observed_kept_and_drained() {
    let mut world = world();
    world.in_flight = [1, 0, 0];
    let command = world.order(to(Green));
    assert_eq!(world.phase(), Phase::Observing);
    assert_eq!(world.live(), [(Green, 2); 3]);
    assert_eq!(world.durable_live["web"].color, Green, "done is on disk");
    world.requests += 100;
    world.seconds(OBSERVE - 1);
    assert!(world.draining.is_empty(), "drained before the verdict");
    world.seconds(1);
    assert_eq!(world.phase(), Phase::Idle);
    assert_eq!(world.draining.len(), 3);
    assert_eq!(world.code(command), None, "over before the drain is");
    world.in_flight = [0; 3];
    world.seconds(1);
    assert_eq!(world.said(command), "green is live: api, web, worker");
    assert_eq!(world.code(command), Some(0));
}

#[test]
fn too_few_requests_extend_the_observe_up_to_its_longest() {
    let mut world = world();
    let command = world.order(to(Green));
    world.seconds(4 * OBSERVE + 9);
    assert_eq!(world.phase(), Phase::Observing);
    world.seconds(2);
    assert_eq!(world.code(command), Some(0));
}

#[test]
fn observe_zero_drains_at_once() {
    let mut world = World::new(0, false);
    world.in_flight = [1, 0, 0];
    world.order(to(Green));
    assert_eq!(world.phase(), Phase::Idle);
    assert_eq!(world.draining.len(), 3);
}

#[test]
fn a_gate_that_opens_late_is_passed() {
    let mut world = world();
    world.all(Green, Slot::Unknown);
    world.order(to(Green));
    world.seconds(29);
    assert_eq!(world.phase(), Phase::Probing);
    assert_eq!(world.live(), [(Blue, 1); 3]);
    world.all(Green, Slot::Healthy);
    world.seconds(1);
    assert_eq!(world.phase(), Phase::Observing);
}

#[test]
fn a_shut_gate_refuses_in_time_and_names_each_upstream() {
    let mut world = world();
    world.slots.insert(("api".into(), Green), Slot::Down);
    world.slots.insert(("web".into(), Green), Slot::Unknown);
    let command = world.order(to(Green));
    world.seconds(30);
    assert_eq!(
        world.said(command),
        "refused: not ready after 30s: api green app:3000: down; \
         web green app:3000: not yet known to be healthy"
    );
    assert_eq!(world.code(command), Some(3));
    assert_eq!(world.live(), [(Blue, 1); 3]);
}

#[test]
fn force_skips_the_gate_but_never_an_empty_slot() {
    let mut world = world();
    world.all(Green, Slot::Down);
    world.order(forced(Green));
    assert_eq!(world.live(), [(Green, 2); 3]);

    let mut world = self::world();
    world.slots.insert(("web".into(), Green), Slot::Empty);
    let command = world.order(forced(Green));
    assert_eq!(
        world.said(command),
        "refused: the green slot of web has no upstreams"
    );
    let command = world.order(to(Green));
    assert_eq!(world.code(command), Some(3), "waits for an empty slot");
}

#[test]
fn a_color_that_is_live_is_done_at_once() {
    let mut world = world();
    world.disk = Disk::Fails;
    let command = world.order(to(Blue));
    assert_eq!(world.said(command), "blue is already live");
    assert_eq!(world.code(command), Some(0));
}

#[test]
fn only_services_that_are_elsewhere_move_and_only_they_move_back() {
    let mut world = world();
    world.order(only(Green, "web"));
    world.requests += 1_000;
    world.seconds(OBSERVE + 1);
    assert_eq!(world.live(), [(Blue, 1), (Green, 2), (Blue, 1)]);
    world.order(to(Green));
    assert_eq!(world.live(), [(Green, 3), (Green, 2), (Green, 3)]);
    world.order(Order::RollBack);
    assert_eq!(world.live(), [(Blue, 1), (Green, 2), (Blue, 1)]);
}

#[test]
fn a_second_switch_is_refused_and_told_who_holds_the_lock() {
    let mut world = world();
    world.order(to(Green));
    world.seconds(3);
    let command = world.order(to(Green));
    assert_eq!(
        world.said(command),
        "refused: a switch to green by somebody is running: observing for 3s"
    );
    assert_eq!(world.code(command), Some(3));
}

#[test]
fn an_intent_that_cannot_be_written_moves_nothing() {
    let mut world = world();
    world.disk = Disk::Fails;
    let command = world.order(to(Green));
    assert_eq!(world.live(), [(Blue, 1); 3]);
    assert_eq!(world.code(command), Some(3));
    assert!(world.said(command).contains("no space left on device"));
    world.disk = Disk::Works;
    world.seconds(2);
    assert_eq!(world.durable.pending, None, "the intent is forgotten");
}

#[test]
fn a_disk_that_hangs_refuses_after_ten_seconds() {
    let mut world = world();
    world.disk = Disk::Stalls;
    let command = world.order(to(Green));
    world.seconds(9);
    assert_eq!(world.phase(), Phase::Switching);
    world.seconds(1);
    assert_eq!(world.code(command), Some(3));
    world.disk = Disk::Works;
    world.seconds(1);
    assert_eq!(world.live(), [(Blue, 1); 3], "a late write moved traffic");
}

#[test]
fn a_switch_is_only_said_to_have_moved_when_a_crash_would_keep_it() {
    let recorded = |world: &World, command| {
        let told = world.progress.iter().filter(|(to, _)| *to == command);
        let mut told = told.filter_map(|(_, progress)| match progress {
            Progress::Recorded { unsaved, .. } => Some(unsaved.clone()),
            _ => None,
        });
        (told.next(), told.next())
    };
    let mut world = world();
    world.disk = Disk::Stalls;
    let command = world.order(to(Green));
    world.write();
    assert_eq!(world.phase(), Phase::Observing);
    assert_eq!(recorded(&world, command), (None, None), "not on disk yet");
    world.disk = Disk::Works;
    world.writes();
    assert_eq!(recorded(&world, command), (Some(None), None));

    let mut world = self::world();
    world.disk = Disk::Stalls;
    let command = world.order(to(Green));
    world.write();
    world.disk = Disk::Fails;
    world.seconds(2);
    let why = Some("no space left on device".to_owned());
    assert_eq!(recorded(&world, command), (Some(why), None));
}

#[test]
fn the_old_pool_is_not_drained_until_the_verdict_is_on_disk() {
    let mut world = world();
    let command = world.order(to(Green));
    world.requests += 1_000;
    world.disk = Disk::Fails;
    world.seconds(OBSERVE + 60);
    assert_eq!(world.phase(), Phase::Idle, "the lock ends with the verdict");
    assert!(world.draining.is_empty());
    assert!(world.said(command).contains("NOT YET ON DISK"));
    let alarms = |world: &World| {
        let alarm = |event: &&Event| matches!(event, Event::NotDurable { .. });
        world.events.iter().filter(alarm).count()
    };
    assert_eq!(alarms(&world), 1);
    world.in_flight = [1, 0, 0];
    world.disk = Disk::Works;
    world.seconds(2);
    assert_eq!(world.draining.len(), 3);
    assert!(world.events.contains(&Event::Durable));
}

#[test]
fn a_switch_back_during_observe_is_a_rollback_to_the_same_pools() {
    let mut world = world();
    let there = world.order(to(Green));
    let back = world.order(to(Blue));
    assert_eq!(world.live(), [(Blue, 1); 3]);
    assert_eq!(world.code(there), Some(4));
    assert_eq!(world.code(back), Some(0));
    assert_eq!(world.said(back), "rolled back: api, web, worker");
}

#[test]
fn a_narrower_switch_back_is_not_the_way_back() {
    let mut world = world();
    world.order(to(Green));
    let back = world.order(only(Blue, "web"));
    assert_eq!(world.code(back), Some(3));
    assert_eq!(world.live(), [(Green, 2); 3]);
}

#[test]
fn a_rollback_after_the_drain_publishes_new_pools_once() {
    let mut world = world();
    world.kept(Green);
    let command = world.order(Order::RollBack);
    assert_eq!(world.code(command), Some(0));
    assert_eq!(world.live(), [(Blue, 3); 3]);
    let again = world.order(Order::RollBack);
    assert_eq!(world.said(again), "refused: nothing to undo");
    assert_eq!(world.code(again), Some(3));
}

#[test]
fn a_rollback_during_the_drain_reaches_the_waiting_switch() {
    let mut world = world();
    world.in_flight = [1, 0, 0];
    let command = world.order(to(Green));
    world.order(Order::Promote);
    assert_eq!(world.code(command), None);
    world.order(Order::RollBack);
    assert_eq!(world.code(command), Some(4));
    assert_eq!(world.live(), [(Blue, 4); 3]);
}

#[test]
fn a_switch_during_a_drain_publishes_a_new_generation_of_that_slot() {
    let mut world = World::new(0, false);
    world.in_flight = [1, 0, 0];
    world.order(to(Green));
    world.order(to(Blue));
    assert_eq!(world.live(), [(Blue, 3); 3]);
    assert_eq!(world.draining.len(), 6);
}

#[test]
fn a_rollback_waits_50_ms_for_a_disk_and_no_longer() {
    let mut world = world();
    world.order(to(Green));
    world.disk = Disk::Stalls;
    let command = world.order(Order::RollBack);
    world.pass(Duration::from_millis(49));
    assert_eq!(world.live(), [(Green, 2); 3]);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.live(), [(Blue, 1); 3]);
    world.seconds(10);
    assert!(world.said(command).contains("the disk did not answer"));
}

#[test]
fn a_rollback_on_a_broken_disk_is_done_in_memory_and_drains_later() {
    let mut world = world();
    world.order(to(Green));
    world.disk = Disk::Fails;
    let command = world.order(Order::RollBack);
    assert_eq!(world.live(), [(Blue, 1); 3]);
    assert_eq!(world.code(command), Some(0));
    assert!(world.said(command).contains("NOT YET ON DISK"));
    world.seconds(60);
    assert!(world.draining.is_empty());
    world.disk = Disk::Works;
    world.seconds(2);
    assert_eq!(world.durable_live["web"].color, Blue);
    assert!(world.log.contains(&"drain web 2".to_owned()));
}

#[test]
fn a_rollback_onto_a_dead_slot_is_refused() {
    let mut world = world();
    world.order(to(Green));
    world.slots.insert(("web".into(), Blue), Slot::Down);
    let command = world.order(Order::RollBack);
    assert_eq!(
        world.said(command),
        "refused: the old slot is down: web blue app:3000: down"
    );
    assert_eq!(world.phase(), Phase::Observing);
    world.slots.insert(("web".into(), Blue), Slot::Unknown);
    let command = world.order(Order::RollBack);
    assert_eq!(world.code(command), Some(0));
}

#[test]
fn a_verdict_rolls_back_and_says_why() {
    let mut world = world();
    let command = world.order(to(Green));
    world.verdict = Some(Verdict::RollBack {
        cause: Cause::ErrorRate,
        reason: "9 % errors".to_owned(),
    });
    world.seconds(1);
    assert_eq!(world.live(), [(Blue, 1); 3]);
    assert_eq!(world.said(command), "rolled back by cutover: 9 % errors");
    assert_eq!(world.code(command), Some(4));
}

#[test]
fn a_verdict_against_both_slots_holds_and_fails_at_observe_max() {
    let mut world = world();
    let command = world.order(to(Green));
    world.all(Blue, Slot::Down);
    world.verdict = Some(Verdict::RollBack {
        cause: Cause::ErrorRate,
        reason: "9 % errors".to_owned(),
    });
    world.seconds(1);
    assert_eq!(world.phase(), Phase::Held);
    assert_eq!(world.live(), [(Green, 2); 3]);
    world.seconds(4 * OBSERVE + 10);
    assert_eq!(world.code(command), Some(1));
    assert_eq!(world.phase(), Phase::Held, "both slots stay up");
    let promote = world.order(Order::Promote);
    assert_eq!(world.code(promote), Some(0));
    assert_eq!(world.phase(), Phase::Idle);
}

#[test]
fn a_suspicion_that_passes_goes_on_observing() {
    let mut world = world();
    world.order(to(Green));
    world.verdict = Some(Verdict::Hold {
        reason: "shared cause".to_owned(),
    });
    world.seconds(1);
    assert_eq!(world.machine.status().held.as_deref(), Some("shared cause"));
    world.verdict = Some(Verdict::Undecided);
    world.seconds(1);
    assert_eq!(world.phase(), Phase::Observing);
}

#[test]
fn a_judge_that_never_decides_is_bounded_by_observe_max() {
    let mut world = world();
    world.verdict = Some(Verdict::Undecided);
    world.requests += 1_000;
    let command = world.order(to(Green));
    world.requests += 1_000;
    world.seconds(4 * OBSERVE + 9);
    assert_eq!(world.phase(), Phase::Observing);
    world.seconds(2);
    assert_eq!(world.code(command), Some(0));
}

fn confirmed_within(color: Color, seconds: u64) -> Order {
    Order::Switch {
        color,
        services: Vec::new(),
        force: false,
        release: None,
        confirm_within: Some(Duration::from_secs(seconds)),
    }
}

#[test]
fn a_switch_that_nobody_confirms_is_undone_however_well_it_went() {
    let mut world = world();
    let command = world.order(confirmed_within(Green, 8 * OBSERVE));
    world.requests += 10_000;
    // Past the shortest watch and past the longest one.
    world.seconds(8 * OBSERVE - 1);
    assert_eq!(world.phase(), Phase::Observing);
    assert_eq!(world.code(command), None);
    world.seconds(2);
    assert_eq!(world.code(command), Some(4));
    assert!(world.said(command).contains("not confirmed"));
    assert_eq!(world.live(), [(Blue, 1); 3]);
}

#[test]
fn a_switch_that_is_confirmed_stays() {
    let mut world = world();
    let command = world.order(confirmed_within(Green, 8 * OBSERVE));
    world.seconds(2);
    let promote = world.order(Order::Promote);
    world.seconds(8 * OBSERVE);
    assert_eq!(world.code(promote), Some(0));
    assert_eq!(world.code(command), Some(0));
    assert!(world.live().iter().all(|(color, _)| *color == Green));
}

#[test]
fn nothing_unconfirmed_goes_back_to_an_old_release_that_is_down() {
    let mut world = world();
    let command = world.order(confirmed_within(Green, OBSERVE));
    world.all(Blue, Slot::Down);
    world.seconds(OBSERVE + 2);
    assert_eq!(world.phase(), Phase::Held);
    assert_eq!(world.code(command), None);
    world.all(Blue, Slot::Healthy);
    world.seconds(2);
    assert_eq!(world.code(command), Some(4));
}

#[test]
fn promote_keeps_and_abort_undoes_what_is_observed() {
    let mut world = world();
    let command = world.order(to(Green));
    let promote = world.order(Order::Promote);
    world.seconds(1);
    assert_eq!(world.said(promote), "green is kept");
    assert_eq!(world.code(command), Some(0));

    let mut world = self::world();
    let command = world.order(to(Green));
    let abort = world.order(Order::Abort);
    assert_eq!(world.code(abort), Some(0));
    assert_eq!(world.code(command), Some(4));
    assert_eq!(world.live(), [(Blue, 1); 3]);
}

#[test]
fn abort_at_the_gate_cancels_and_promote_does_not() {
    let mut world = world();
    world.all(Green, Slot::Unknown);
    let command = world.order(to(Green));
    let promote = world.order(Order::Promote);
    assert_eq!(world.code(promote), Some(3));
    let abort = world.order(Order::Abort);
    assert_eq!(world.code(abort), Some(0));
    assert_eq!(
        world.said(command),
        "aborted by somebody before any traffic moved"
    );
    assert_eq!(world.phase(), Phase::Idle);
}

#[test]
fn promote_and_abort_without_a_switch_are_refused() {
    let mut world = world();
    for order in [Order::Promote, Order::Abort] {
        let command = world.order(order);
        assert_eq!(world.said(command), "refused: no switch is running");
        assert_eq!(world.code(command), Some(3));
    }
}

#[test]
fn each_kind_is_closed_at_its_own_deadline_and_counted() {
    let mut world = World::new(0, false);
    world.in_flight = [3, 2, 1];
    let command = world.order(only(Green, "web"));
    world.seconds(4);
    assert_eq!(world.log, ["publish web green 2", "drain web 1"]);
    world.seconds(1);
    assert_eq!(world.log.last().unwrap(), "close web 1 request");
    world.in_flight[0] = 0;
    world.seconds(5);
    assert_eq!(world.log.last().unwrap(), "close web 1 sse");
    world.in_flight[2] = 0;
    world.seconds(10);
    assert_eq!(world.log.last().unwrap(), "close web 1 websocket");
    world.in_flight[1] = 0;
    world.seconds(1);
    assert_eq!(world.log.last().unwrap(), "retire web 1");
    assert_eq!(
        world.said(command),
        "green is live: web; closed at the end of the drain: 3 requests, 2 WebSockets, \
         1 event streams"
    );
}

#[test]
fn a_pool_that_never_empties_is_retired_all_the_same() {
    let mut world = World::new(0, false);
    world.in_flight = [1, 0, 0];
    let command = world.order(to(Green));
    world.seconds(22);
    assert_eq!(world.code(command), Some(0));
    assert!(world.draining.is_empty());
}

#[test]
fn the_release_label_follows_the_switch() {
    let mut world = world();
    world.order(Order::Switch {
        color: Green,
        services: vec!["web".into()],
        force: false,
        release: Some("v2".into()),
        confirm_within: None,
    });
    let status = world.machine.status();
    let labels: Vec<_> = status
        .services
        .iter()
        .map(|s| s.releases[1].clone())
        .collect();
    assert_eq!(labels, [None, Some("v2".into()), None]);
}

#[test]
fn a_reload_that_takes_a_service_leaves_the_others_switching() {
    let mut world = World::new(OBSERVE, true);
    let command = world.order(to(Green));
    world.reload(&"web".into());
    let watched = world.machine.status().observation.unwrap();
    assert_eq!(watched.services.len(), 2);
    world.reload(&"api".into());
    world.reload(&"worker".into());
    assert_eq!(world.phase(), Phase::Idle);
    assert_eq!(world.code(command), Some(1));
}

#[test]
fn a_reload_at_the_gate_refuses_a_switch_without_services_left() {
    let mut world = World::new(OBSERVE, true);
    world.all(Green, Slot::Unknown);
    let command = world.order(only(Green, "web"));
    world.reload(&"web".into());
    assert_eq!(world.code(command), Some(3));
    assert_eq!(world.phase(), Phase::Idle);
}

#[test]
fn a_reload_does_not_touch_a_live_color() {
    let mut world = World::new(OBSERVE, true);
    world.kept(Green);
    world.reload(&"web".into());
    world.reload(&"web".into());
    let live: Vec<_> = world.machine.members().map(|(_, m)| m.live.color).collect();
    assert_eq!(live, [Green; 3]);
}

#[test]
fn a_service_that_is_gone_at_a_restart_is_no_longer_watched() {
    let mut world = World::new(OBSERVE, true);
    world.order(only(Green, "web"));
    world.disk = Disk::Stalls;
    world.reload(&"web".into());
    world.crash(0, false);
    world.disk = Disk::Works;
    world.reload(&"web".into());
    world.writes();
    world.crash(0, false);
    assert_eq!(
        world.published["web"].color, Green,
        "undone, though nobody watched it"
    );
}

#[test]
fn a_watch_that_is_held_again_after_its_end_was_told_tells_nobody() {
    let mut world = world();
    let command = world.order(confirmed_within(Green, 3600));
    let hold = Verdict::Hold {
        reason: "both fail".to_owned(),
    };
    world.verdict = Some(hold.clone());
    world.seconds(100);
    assert_eq!(world.code(command), Some(1), "still held at observe_max");
    world.verdict = Some(Verdict::Undecided);
    world.seconds(1);
    assert_eq!(world.phase(), Phase::Observing);
    world.verdict = Some(hold);
    world.seconds(1);
    assert_eq!(world.phase(), Phase::Held);
}
