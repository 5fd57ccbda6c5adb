//! A recorded switch through the verdict's code.
//!
//! The record is CSV with the header [`HEADER`]: counts for each tick, which ends at `t_ms`.
//! Before the cutover only `old_*` are above zero; `new_fail` counts first attempts, the rescued
//! ones too; `old_*` after the cutover are probes of the old release.

use std::time::Duration;

use super::attribution::Tally;
use super::{
    Baseline, Decision, LOOKS_PER_SECOND, LimitRules, Limits, Part, Probed, Seen, Tick, Watch,
};
use crate::config::{Rollback, Switch};

/// The first line of a record.
pub const HEADER: &str = "t_ms,new_ok,new_fail,old_ok,old_fail,rescued_ok,rescued_fail";

/// Parts that a baseline is cut into.
const PARTS: u64 = 60;

/// One line of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// End of the tick, in milliseconds; it may begin below zero.
    pub t_ms: i64,
    /// The new release: answered, and failed at the first attempt.
    pub new: [u64; 2],
    /// The old release: answered, and failed.
    pub old: [u64; 2],
    /// Failures of the new release that the old one was asked to answer: answered, and failed.
    pub rescued: [u64; 2],
}

/// How a recorded switch would have ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// `rollback`, `hold`, `keep`, or `undecided` when the record ends before.
    pub decision: &'static str,
    /// End of the tick of the decision, on the record's clock.
    pub t_ms: i64,
    /// In one sentence.
    pub reason: String,
    /// ln of the evidence of the slow test then.
    pub log_e: f64,
    /// Value of the fast test then, in nats.
    pub w: f64,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Another first line.
    #[error("line 1: the header must be `{HEADER}`")]
    Header,
    /// A line that is not seven whole numbers.
    #[error("line {line}: {what}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// No line has requests on the new release.
    #[error("the record has no request on the new release")]
    NoCutover,
}

/// Reads a record.
///
/// # Errors
/// The first line that cannot be used.
pub fn parse(text: &str) -> Result<Vec<Row>, ReplayError> {
    let mut lines = text.lines().enumerate();
    let header = lines.next().map(|(_, line)| line.trim());
    if header != Some(HEADER) {
        return Err(ReplayError::Header);
    }
    let mut rows: Vec<Row> = Vec::new();
    for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| ReplayError::Line { line: at + 1, what };
        let row = row(line).map_err(wrong)?;
        if rows.last().is_some_and(|last| last.t_ms >= row.t_ms) {
            return Err(wrong("t_ms must ascend".to_owned()));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Row, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [t_ms, counts @ ..] = &fields[..] else {
        return Err("the line is empty".to_owned());
    };
    if counts.len() != 6 {
        return Err(format!("{} fields where 7 belong", fields.len()));
    }
    let bad = |field: &str| format!("`{field}` is not a whole number");
    let count = |at: usize| counts[at].parse::<u64>().map_err(|_| bad(counts[at]));
    Ok(Row {
        t_ms: t_ms.parse().map_err(|_| bad(t_ms))?,
        new: [count(0)?, count(1)?],
        old: [count(2)?, count(3)?],
        rescued: [count(4)?, count(5)?],
    })
}

/// Runs a record through the tests, with the settings of a service.
///
/// # Errors
/// There is no cutover in it.
pub fn replay(rows: &[Row], rules: &Rollback, switch: &Switch) -> Result<Replayed, ReplayError> {
    let is_new = |row: &Row| row.new != [0, 0];
    let first = rows.iter().position(is_new).ok_or(ReplayError::NoCutover)?;
    let tick_ms = tick_ms(rows);
    let cutover = first
        .checked_sub(1)
        .map_or_else(|| rows[first].t_ms - tick_ms, |before| rows[before].t_ms);
    let limits = Limits {
        failures: baseline(&rows[..first], tick_ms, rules).limit(&LimitRules::of(rules)),
        slow: Vec::new(),
        client_errors: None,
    };
    let longest = switch.observe_max.max(switch.observe);
    let mut watch = Watch::new(rules, &limits, longest.as_secs_f64());
    let mut seen = 0;
    for row in &rows[first..] {
        let elapsed = row.t_ms - cutover;
        let [answered, failed] = row.new;
        let both_failed = row.rescued[1].min(failed);
        let decision = watch.tick(&Tick {
            end: seconds(elapsed),
            requests: Seen {
                all: answered + failed - both_failed,
                bad: failed - both_failed,
            },
            both_failed,
            rescues: tally(row.rescued),
            probes: Probed {
                failures: tally(row.old),
                ..Probed::default()
            },
            ..Tick::default()
        });
        seen += answered + failed;
        let elapsed = Duration::from_millis(elapsed.unsigned_abs());
        let enough = elapsed >= switch.observe && seen >= switch.observe_requests;
        let (decision, reason) = match decision {
            Decision::RollBack { why, .. } => ("rollback", why),
            Decision::Hold { why } => ("hold", why),
            Decision::Watch if enough || elapsed >= longest => {
                ("keep", format!("nothing was found in {seen} requests"))
            }
            Decision::Watch | Decision::Suspect => continue,
        };
        return Ok(told(&watch, decision, row.t_ms, reason));
    }
    let last = rows.last().map_or(cutover, |row| row.t_ms);
    let reason = format!("the record ends after {seen} requests, before there was a verdict");
    Ok(told(&watch, "undecided", last, reason))
}

fn told(watch: &Watch, decision: &'static str, t_ms: i64, reason: String) -> Replayed {
    let numbers = watch.numbers();
    Replayed {
        decision,
        t_ms,
        reason,
        log_e: numbers.log_e,
        w: numbers.w,
    }
}

fn tally([answered, failed]: [u64; 2]) -> Tally {
    Tally {
        asked: answered + failed,
        failed,
    }
}

/// The distance of the first two lines; one look where there is one line.
fn tick_ms(rows: &[Row]) -> i64 {
    match rows {
        [first, second, ..] => second.t_ms - first.t_ms,
        _ => 1_000 / i64::from(LOOKS_PER_SECOND),
    }
}

/// The shortest window before the cutover that is long enough and holds enough requests.
fn baseline(rows: &[Row], tick_ms: i64, rules: &Rollback) -> Baseline {
    let Some(last) = rows.last().map(|row| row.t_ms) else {
        return Baseline::default();
    };
    let length = |row: &Row| {
        Duration::from_millis(u64::try_from(last - row.t_ms + tick_ms).unwrap_or_default())
    };
    let (mut first, mut requests) = (rows.len(), 0);
    for (at, row) in rows.iter().enumerate().rev() {
        if length(row) > rules.baseline.max_window {
            break;
        }
        first = at;
        requests += row.old[0] + row.old[1];
        if length(row) >= rules.baseline.min_window && requests >= rules.baseline.min_requests {
            break;
        }
    }
    let window = &rows[first..];
    let Some(begin) = window.first().map(|row| row.t_ms - tick_ms) else {
        return Baseline::default();
    };
    let span = (last - begin).unsigned_abs().max(1);
    let mut parts = vec![Part::default(); 60];
    for row in window {
        let at = (row.t_ms - begin - 1).unsigned_abs() * PARTS / span;
        let at = usize::try_from(at.min(PARTS - 1)).unwrap_or_default();
        parts[at].requests += row.old[0] + row.old[1];
        parts[at].failures += row.old[1];
    }
    Baseline {
        parts,
        short: Duration::from_millis(span) < rules.baseline.min_window,
    }
}

/// A watch is far shorter than 2⁵³ milliseconds.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of a watch")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> Switch {
        Switch::default()
    }

    /// Ten minutes of 200 requests a second before, then `after` each quarter of a second.
    fn record(after: impl Fn(i64) -> Row) -> Vec<Row> {
        let before = (-2_400..=0).map(|at| Row {
            t_ms: at * 250,
            old: [50, u64::from(at % 20 == 0)],
            ..Row::default()
        });
        let after = (1..=1_400).map(|at| Row {
            t_ms: at * 250,
            ..after(at)
        });
        before.chain(after).collect()
    }

    fn run(rows: &[Row]) -> Replayed {
        replay(rows, &Rollback::default(), &switch()).expect("a record")
    }

    #[test]
    fn a_release_that_fails_everything_goes_back_after_a_second() {
        let replayed = run(&record(|_| Row {
            new: [0, 50],
            rescued: [30, 0],
            ..Row::default()
        }));
        assert_eq!(replayed.decision, "rollback", "{replayed:?}");
        assert_eq!(replayed.t_ms, 1_000, "{replayed:?}");
        assert!(
            replayed.w > 20.0 && replayed.reason.contains("120 of 120"),
            "{replayed:?}"
        );
    }

    #[test]
    fn a_healthy_release_is_kept_at_the_end_of_the_watch() {
        let replayed = run(&record(|at| Row {
            new: [50, u64::from(at % 20 == 0)],
            ..Row::default()
        }));
        assert_eq!(
            (replayed.decision, replayed.t_ms),
            ("keep", 300_000),
            "{replayed:?}"
        );
    }

    #[test]
    fn a_shared_outage_is_held() {
        let replayed = run(&record(|_| Row {
            new: [5, 45],
            rescued: [3, 27],
            ..Row::default()
        }));
        assert_eq!(replayed.decision, "hold", "{replayed:?}");
        assert!(replayed.reason.starts_with("shared cause"), "{replayed:?}");
    }

    #[test]
    fn a_record_that_ends_early_is_undecided() {
        let rows = record(|_| Row {
            new: [50, 0],
            ..Row::default()
        });
        let replayed = run(&rows[..2_600]);
        assert_eq!(replayed.decision, "undecided", "{replayed:?}");
    }

    #[test]
    fn what_is_wrong_with_a_record_is_said_with_its_line() {
        let line = |line, what: &str| ReplayError::Line {
            line,
            what: what.to_owned(),
        };
        assert_eq!(parse("t,ok\n"), Err(ReplayError::Header));
        let text = |rest: &str| format!("{HEADER}\n0,1,2,3,4,5,6\n{rest}");
        assert_eq!(
            parse(&text("1,2\n")),
            Err(line(3, "2 fields where 7 belong"))
        );
        assert_eq!(
            parse(&text("5,x,0,0,0,0,0")),
            Err(line(3, "`x` is not a whole number"))
        );
        assert_eq!(
            parse(&text("0,0,0,0,0,0,0")),
            Err(line(3, "t_ms must ascend"))
        );
        assert_eq!(parse(&text("")).map(|rows| rows[0].rescued), Ok([5, 6]));
        let none = replay(&[], &Rollback::default(), &switch());
        assert_eq!(none, Err(ReplayError::NoCutover));
    }
}
