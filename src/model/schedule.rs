//! When something is due: five fields of cron in a time zone.

use std::fmt;
use std::str::FromStr as _;
use std::time::SystemTime;

use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A schedule such as `0 3 * * *` in `Europe/Berlin`. A time that the clocks skip in spring is due
/// right after the gap; one that they show twice in autumn is due once.
#[derive(Clone)]
pub struct Schedule {
    fields: String,
    zone_name: String,
    cron: croner::Cron,
    zone: TimeZone,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields of cron.
    #[error(
        "`{fields}` is not a schedule such as \"0 3 * * *\" (minute, hour, day, month, weekday): {why}"
    )]
    Fields {
        /// As written.
        fields: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such place.
    #[error("`{0}` is not a time zone such as \"Europe/Berlin\" or \"UTC\"")]
    Zone(String),
    /// The thirtieth of February.
    #[error("`{0}` is never due")]
    Never(String),
}

impl Schedule {
    /// Reads minute, hour, day of the month, month and weekday, and a name of the IANA time zone
    /// database.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(fields: &str, zone_name: &str) -> Result<Self, ScheduleError> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            // As in every crontab: either of day and weekday is enough when both are given.
            .dom_and_dow(false)
            .build();
        let wrong = |why: String| ScheduleError::Fields {
            fields: fields.to_owned(),
            why,
        };
        let cron = parser.parse(fields);
        let cron = cron.map_err(|error| wrong(error.to_string()))?;
        let zone = TimeZone::get(zone_name);
        let zone = zone.map_err(|_| ScheduleError::Zone(zone_name.to_owned()))?;
        let schedule = Self {
            fields: fields.to_owned(),
            zone_name: zone_name.to_owned(),
            cron,
            zone,
        };
        // A leap day is at most eight years away.
        let some_day = Timestamp::from_str("2024-01-01T00:00:00Z").unwrap_or_default();
        match schedule.after(some_day.into()) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(fields.to_owned())),
        }
    }

    /// The first time after `time` at which it is due; `None` far beyond any calendar.
    #[must_use]
    pub fn after(&self, time: SystemTime) -> Option<SystemTime> {
        let time = Timestamp::try_from(time).ok()?;
        let local = time.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&local, false).ok()?;
        Some(next.timestamp().into())
    }

    /// The five fields as written.
    #[must_use]
    pub fn fields(&self) -> &str {
        &self.fields
    }

    /// Name of the time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields && self.zone_name == other.zone_name
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fields, self.zone_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        Timestamp::from_str(text).expect("a time").into()
    }

    fn next(fields: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule::new(fields, zone).expect("a schedule");
        let next = schedule.after(at(after)).expect("due some day");
        Timestamp::try_from(next).expect("in range").to_string()
    }

    #[test]
    fn it_is_due_at_the_local_hour_of_summer_and_winter() {
        let daily = |after| next("0 3 * * *", "Europe/Berlin", after);
        assert_eq!(daily("2026-01-10T12:00:00Z"), "2026-01-11T02:00:00Z");
        assert_eq!(daily("2026-07-10T12:00:00Z"), "2026-07-11T01:00:00Z");
        // Exactly then: the next one is a day later.
        assert_eq!(daily("2026-07-11T01:00:00Z"), "2026-07-12T01:00:00Z");
    }

    #[test]
    fn a_skipped_hour_is_made_up_for_and_a_doubled_one_counts_once() {
        let daily = |after| next("30 2 * * *", "Europe/Berlin", after);
        // On 29 March 2026 the clocks go from 2:00 to 3:00, at 1:00 UTC.
        assert_eq!(daily("2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(daily("2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
        // On 25 October they go from 3:00 back to 2:00, at 1:00 UTC.
        assert_eq!(daily("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(daily("2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn lists_steps_names_and_either_of_the_two_days_are_known() {
        let from = "2026-06-01T00:00:00Z";
        assert_eq!(next("*/20 * * * *", "UTC", from), "2026-06-01T00:20:00Z");
        assert_eq!(next("0 6 * * MON-FRI", "UTC", from), "2026-06-01T06:00:00Z");
        assert_eq!(next("0 0 13 * FRI", "UTC", from), "2026-06-05T00:00:00Z");
        assert_eq!(next("5 4 1,15 * *", "UTC", from), "2026-06-01T04:05:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        let error = |fields, zone| Schedule::new(fields, zone).expect_err("refused");
        assert!(matches!(
            error("0 3 * *", "UTC"),
            ScheduleError::Fields { .. }
        ));
        assert!(matches!(
            error("0 0 3 * * *", "UTC"),
            ScheduleError::Fields { .. }
        ));
        assert!(matches!(
            error("0 25 * * *", "UTC"),
            ScheduleError::Fields { .. }
        ));
        assert_eq!(
            error("0 3 * * *", "Berlin"),
            ScheduleError::Zone("Berlin".to_owned())
        );
        let never = error("0 0 30 2 *", "UTC");
        assert!(matches!(
            never,
            ScheduleError::Never(_) | ScheduleError::Fields { .. }
        ));
    }
}
