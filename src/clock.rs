//! The only caller of `now()`. Everything else takes time as an argument or asks here, so a
//! test can run on a fake clock.

use std::time::{Instant, SystemTime};

/// Monotonic time: for deadlines, ages and rates. Unaffected by clock steps.
#[must_use]
pub fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
    Instant::now()
}

/// Wall-clock time: for records and log lines that people read.
#[must_use]
pub fn wall() -> SystemTime {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
    SystemTime::now()
}

/// Wall-clock time as RFC 3339 in UTC with milliseconds, as every log line and record shows it.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => String::new(),
    }
}
