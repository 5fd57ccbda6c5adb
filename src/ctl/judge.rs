//! `judge`: the evidence of a running watch, and recorded switches.

use crate::admin::wire::{JudgeReport, JudgeService, ReplayReport, Share};

use crate::ctl::text::{Line, Style, span};

/// A line for each service; with `explain` every number and what it means.
pub(crate) fn lines(report: &JudgeReport, explain: bool) -> Vec<Line> {
    if report.services.is_empty() {
        let none = "no release was under watch since the daemon started";
        return vec![Line::new().plain(none)];
    }
    let mut lines = Vec::new();
    for one in &report.services {
        lines.push(headline(one));
        if let Some(why) = &one.why {
            lines.push(Line::new().plain("    ").plain(why));
        }
        for alert in &one.alerts {
            let line = Line::new().plain("    ").with(Style::Warn, "alert");
            lines.push(line.plain(": ").plain(alert));
        }
        if explain {
            lines.extend(explained(one));
        }
    }
    lines
}

fn headline(one: &JudgeService) -> Line {
    let style = match one.state.as_str() {
        "watching" => Style::Good,
        "suspicious" | "held" => Style::Warn,
        "rollback" => Style::Bad,
        _ => Style::Dim,
    };
    let mode = match one.mode.as_str() {
        "observe" => " (only reports)",
        _ => "",
    };
    let over = if one.over { ", over" } else { "" };
    Line::new()
        .with(Style::Bold, one.service.as_str())
        .plain(format!("  {}  ", one.color))
        .with(style, format!("{}{mode}{over}", one.state))
        .plain(format!(
            "  {}: {} failed (limit {:.2} %)",
            span(one.elapsed_ms),
            of(one.requests),
            100.0 * one.limit
        ))
}

fn explained(one: &JudgeService) -> Vec<Line> {
    let row = |name: &str, value: String, meaning: &str| {
        Line::new()
            .plain(format!("    {name:<14} {value:<30} "))
            .with(Style::Dim, meaning)
    };
    let mut lines = vec![
        row(
            "before",
            format!("{} failed", of(one.before)),
            "what the old release did; the limit comes from it",
        ),
        row(
            "evidence",
            format!("{}:1 of {}:1", odds(one.log_e), odds(one.log_e_needed)),
            "slow test: a rise above the limit, over time",
        ),
        row(
            "fast",
            format!("{:.1} of {:.1}", one.w, one.w_needed),
            "fast test: much fails at once",
        ),
        row(
            "rescued",
            answered(one.rescues),
            "failures that the old release answered, since suspicion began",
        ),
        row(
            "probes",
            answered(one.probes),
            "probes that the old release passed, since suspicion began",
        ),
    ];
    for (at, slow) in one.slow.iter().enumerate() {
        let meaning = match at {
            0 => "requests slower than the first latency limit of their route",
            _ => "requests slower than the second one",
        };
        lines.push(row("slow", of(*slow), meaning));
    }
    lines.push(row(
        "client errors",
        of(one.client_errors),
        "on routes that hardly had any before",
    ));
    for route in &one.routes {
        lines.push(Line::new().plain(format!(
            "    {}: {}, {} times",
            route.route, route.what, route.count
        )));
    }
    for sample in &one.samples {
        lines.push(Line::new().with(
            Style::Dim,
            format!(
                "    {}: {}, request {}",
                sample.path, sample.what, sample.request_id
            ),
        ));
    }
    lines
}

fn of(share: Share) -> String {
    format!("{} of {}", share.bad, share.all)
}

fn answered(share: Share) -> String {
    match share.all {
        0 => "not asked".to_owned(),
        all => format!("{} of {all}", all.saturating_sub(share.bad)),
    }
}

fn odds(log: f64) -> String {
    if log < 20.0 {
        format!("{:.0}", log.exp())
    } else {
        format!("10^{:.0}", log / std::f64::consts::LN_10)
    }
}

/// The line of a replay.
pub(crate) fn replay_line(report: &ReplayReport) -> Line {
    let style = match report.decision.as_str() {
        "keep" => Style::Good,
        "rollback" => Style::Bad,
        _ => Style::Warn,
    };
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a record")]
    let seconds = report.t_ms as f64 / 1_000.0;
    Line::new()
        .with(style, &report.decision)
        .plain(format!(" at {seconds:.2} s: {}", report.reason))
}
