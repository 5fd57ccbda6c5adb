//! When a job on a schedule is due.
//!
//! Pure. Runs do not overlap: a time that comes while the job still runs is made up for when it
//! has ended. What was missed, with the daemon off or the job still running, is made up for once,
//! however often it was.

use std::time::SystemTime;

use super::record::Ran;
use crate::clock;
use crate::model::Schedule;

/// What is to be done about a job now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It runs: wait for it.
    Running,
    /// Begin it, for this time.
    Now(SystemTime),
    /// Ask again then.
    At(SystemTime),
    /// Never again.
    Never,
}

/// Missed times that are looked at one by one; of more, the last one is taken to be now.
const MISSED: usize = 10_000;

/// What is due `now`, with what is remembered of the job.
#[must_use]
pub fn due(schedule: &Schedule, ran: &Ran, now: SystemTime) -> Due {
    if ran.ended_ms.is_none() {
        return Due::Running;
    }
    let Some(mut time) = schedule.after(clock::from_epoch_ms(ran.due_ms)) else {
        return Due::Never;
    };
    if time > now {
        return Due::At(time);
    }
    for _ in 0..MISSED {
        match schedule.after(time) {
            Some(next) if next <= now => time = next,
            Some(_) | None => return Due::Now(time),
        }
    }
    Due::Now(now)
}

impl Ran {
    /// A job that was not known before: it is not made up for what came before it.
    #[must_use]
    pub fn first_seen(now_ms: u64) -> Self {
        Self {
            due_ms: now_ms,
            began_ms: now_ms,
            ended_ms: Some(now_ms),
            failure: String::new(),
            container: String::new(),
            good_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// Minutes after a midnight in UTC.
    fn minute(minute: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_799_971_200 + minute * 60)
    }

    fn ran(due: SystemTime, has_ended: bool) -> Ran {
        let due_ms = clock::epoch_ms(due);
        Ran {
            ended_ms: has_ended.then_some(due_ms),
            ..Ran::first_seen(due_ms)
        }
    }

    fn quarterly() -> Schedule {
        Schedule::new("*/15 * * * *", "UTC").expect("a schedule")
    }

    #[test]
    fn it_waits_for_the_next_time() {
        let found = due(&quarterly(), &ran(minute(15), true), minute(20));
        assert_eq!(found, Due::At(minute(30)));
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let schedule = quarterly();
        // Off from 0:16 to 2:05: seven times were missed.
        let found = due(&schedule, &ran(minute(15), true), minute(125));
        assert_eq!(found, Due::Now(minute(120)));
        let found = due(&schedule, &ran(minute(120), true), minute(125));
        assert_eq!(found, Due::At(minute(135)));
    }

    #[test]
    fn runs_do_not_overlap() {
        let found = due(&quarterly(), &ran(minute(15), false), minute(40));
        assert_eq!(found, Due::Running);
    }

    #[test]
    fn years_of_missed_minutes_are_one() {
        let schedule = Schedule::new("* * * * *", "UTC").expect("a schedule");
        let now = minute(60 * 24 * 900);
        assert_eq!(due(&schedule, &ran(minute(0), true), now), Due::Now(now));
    }
}
