//! The only caller of `now()`. Everything else takes time as an argument or asks here, so a
//! test can run on a fake clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Whole milliseconds; what does not fit, half a billion years, is the largest number.
#[must_use]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 UTC, as records keep a time; 0 before it.
#[must_use]
pub fn epoch_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The time that [`epoch_ms`] gave.
#[must_use]
pub fn from_epoch_ms(ms: u64) -> SystemTime {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    time.unwrap_or(UNIX_EPOCH)
}

/// Wall-clock time in UTC as Apache's access logs have it: `10/Oct/2000:13:55:36 +0000`.
#[must_use]
pub fn common_log(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(timestamp) => timestamp.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
        Err(_) => String::new(),
    }
}

/// Wall-clock time as RFC 3339 in UTC with milliseconds, as every log line and record shows it.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => String::new(),
    }
}
