//! `history` as people read it.

use crate::admin::wire::{Entry, HistoryReport};

use crate::ctl::text::{Line, Style, span};

/// A line for each thing that was done, the newest first, and one below it for why.
pub(crate) fn lines(report: &HistoryReport) -> Vec<Line> {
    if report.history.is_empty() {
        return vec![Line::new().plain("nothing was done yet")];
    }
    report.history.iter().flat_map(entry).collect()
}

fn entry(entry: &Entry) -> Vec<Line> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(entry.at_ms).unwrap_or(i64::MAX));
    let at = at.map_or_else(|_| String::new(), |at| at.strftime("%F %T").to_string());
    let mut line = Line::new()
        .with(Style::Dim, format!("{at}  "))
        .with(Style::Bold, &entry.what);
    if let (Some(from), Some(to)) = (entry.from, entry.to) {
        line = line.plain(format!(" {from} to {to}"));
    }
    let services: Vec<&str> = entry.services.iter().map(|name| name.as_str()).collect();
    if !services.is_empty() {
        line = line.plain(format!("  {}", services.join(", ")));
    }
    if let Some(release) = &entry.release {
        line = line.plain(format!("  {release}"));
    }
    if let Some(digest) = &entry.digest {
        let short: String = digest.chars().take("sha256:".len() + 12).collect();
        line = line.with(Style::Dim, format!("  {short}"));
    }
    let style = match entry.result.as_str() {
        "done" | "kept" | "undone" | "promoted" | "already_live" => Style::Good,
        "rolled_back" | "aborted" | "cancelled" => Style::Warn,
        _ => Style::Bad,
    };
    line = line.plain("  ").with(style, entry.result.replace('_', " "));
    if !entry.who.is_empty() {
        line = line.with(Style::Dim, format!("  by {}", entry.who));
    }
    let mut numbers = Vec::new();
    for (name, time) in [
        ("gate", entry.gate_ms),
        ("watched", entry.observe_ms),
        ("drained", entry.drain_ms),
    ] {
        numbers.extend(time.map(|time| format!("{name} {}", span(time))));
    }
    if let (Some(requests), Some(failures)) = (entry.requests, entry.failures) {
        numbers.push(format!("{failures} of {requests} requests failed"));
    }
    let mut lines = vec![line];
    if !entry.why.is_empty() {
        lines.push(Line::new().plain(format!("    {}", entry.why)));
    }
    if !numbers.is_empty() {
        lines.push(Line::new().with(Style::Dim, format!("    {}", numbers.join(", "))));
    }
    let details = entry.details.iter();
    lines.extend(details.map(|line| Line::new().with(Style::Dim, format!("    {line}"))));
    lines
}
