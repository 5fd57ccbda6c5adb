//! `explain` as people read it.

use crate::admin::wire::{ExplainReport, ExplainRequest};

use crate::ctl::table::color_style;
use crate::ctl::text::{DASH, Line, Style};

pub(crate) fn lines(request: &ExplainRequest, report: &ExplainReport) -> Vec<Line> {
    let mut lines =
        vec![Line::new().with(Style::Bold, format!("{} {}", request.method, request.url))];
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| DASH.to_owned());
    let service = report.service.as_ref().map(ToString::to_string);
    for (name, value) in [
        ("listener", text(&report.listener)),
        ("site", text(&report.site)),
        ("route", text(&report.route)),
        ("service", text(&service)),
    ] {
        lines.push(field(name).plain(value));
    }
    lines.push(match report.color {
        Some(color) => field("color").with(color_style(color), color.as_str()),
        None => field("color").plain(DASH),
    });
    lines.push(field("upstream").plain(text(&report.upstream)));
    if let Some(status) = report.status {
        lines.push(field("answer").with(Style::Warn, format!("{status} by the proxy itself")));
    }
    if !report.why.is_empty() {
        lines.push(Line::new().with(Style::Bold, "why"));
    }
    for step in &report.why {
        lines.push(Line::new().plain("  ").plain(step));
    }
    if !report.candidates.is_empty() {
        lines.push(Line::new().with(Style::Bold, "routes"));
    }
    let widths = report
        .candidates
        .iter()
        .map(|one| one.route.chars().count());
    let width = widths.max().unwrap_or(0);
    for one in &report.candidates {
        let (style, mark) = match one.matched {
            true => (Style::Good, "●"),
            false => (Style::Dim, "○"),
        };
        lines.push(
            Line::new()
                .plain("  ")
                .with(style, mark)
                .plain(format!(" {:<width$}  ", one.route))
                .plain(&one.why),
        );
    }
    lines
}

fn field(name: &str) -> Line {
    Line::new().with(Style::Dim, format!("  {name:<9} "))
}
