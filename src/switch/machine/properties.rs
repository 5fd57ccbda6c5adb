//! Random histories of commands, probes, verdicts, reloads and failing disks.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Disk, SERVICES, Slot, World};
use super::*;
use crate::switch::verdict::{Cause, Verdict};

/// One step of a history: what, to whom, how much.
type Step = (u8, u8, u16);

impl World {
    fn step(&mut self, (what, whom, amount): Step) {
        let service = ServiceName::from(SERVICES[usize::from(whom) % SERVICES.len()]);
        let color = Color::ALL[usize::from(amount) % 2];
        match what % 16 {
            0 | 1 => drop(self.order(Order::Switch {
                color,
                services: if whom < 128 { vec![] } else { vec![service] },
                force: amount % 8 < 2,
                release: None,
                // Some are to be confirmed, within the watch or after it.
                confirm_within:
                    (amount % 16 < 4).then(|| Duration::from_secs(u64::from(amount % 40))),
            })),
            2 => drop(self.order(Order::RollBack)),
            3 => drop(self.order(Order::Promote)),
            4 => drop(self.order(Order::Abort)),
            5 => {
                let state = [Slot::Healthy, Slot::Unknown, Slot::Down, Slot::Empty];
                let state = state[usize::from(amount / 2) % 4];
                self.slots.insert((service, color), state);
            }
            6 => {
                for state in self.slots.values_mut() {
                    *state = Slot::Healthy;
                }
            }
            7 => self.disk = [Disk::Works, Disk::Fails, Disk::Stalls][usize::from(amount) % 3],
            8 => self.disk = Disk::Works,
            9 => self.in_flight = [whom, whom / 2, whom / 3].map(|n| u64::from(n) % 5),
            10 => self.requests += u64::from(amount),
            11 => {
                let reason = "why".to_owned();
                let cause = Cause::ErrorRate;
                self.verdict = match amount % 8 {
                    0..3 => None,
                    3 => Some(Verdict::Undecided),
                    4 => Some(Verdict::Keep),
                    5 | 6 => Some(Verdict::RollBack { cause, reason }),
                    _ => Some(Verdict::Hold { reason }),
                };
            }
            12 => self.stale(whom, service),
            13 => self.reload(&service),
            14 if self.crashes => self.crash(usize::from(whom) % 3, amount % 4 == 0),
            _ => self.pass(Duration::from_millis(u64::from(amount) * 2)),
        }
        self.writes();
    }
}

fn history(observe: u64, reloads: bool, crashes: bool, steps: &[Step]) {
    let mut world = World::new(observe, reloads);
    world.crashes = crashes;
    for step in steps {
        world.step(*step);
    }
    world.ends();
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..80)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn no_history_breaks_an_invariant(observe in 0_u64..20, steps in steps()) {
        history(observe, false, false, &steps);
    }
}

proptest! {
    #![proptest_config(config(3_000))]

    #[test]
    fn no_reload_breaks_an_invariant(observe in 0_u64..20, steps in steps()) {
        history(observe, true, false, &steps);
    }
}

/// `SOAK_HISTORIES` random histories; the seeds are proptest's, which prints the smallest one
/// that fails.
fn histories(short: u32) -> u32 {
    let wanted = std::env::var("SOAK_HISTORIES").ok();
    wanted.map_or(short, |text| text.parse().expect("a number"))
}

proptest! {
    #![proptest_config(config(histories(5_000)))]

    #[test]
    fn no_crash_breaks_an_invariant(observe in 0_u64..20, reloads: bool, steps in steps()) {
        history(observe, reloads, true, &steps);
    }
}
