//! `status` as people read it.

use crate::admin::wire::{
    Certificate, DockerStatus, FreezeStatus, HoldStatus, MaintenanceStatus, ServiceState,
    ServiceStatus, SlotStatus, Status, UpstreamStatus,
};
use crate::model::Color;

use crate::ctl::containers;
use crate::ctl::switch_line::{deploy_line, drain_line, switch_line};
use crate::ctl::text::{DASH, Line, Style, latency, percent, rate, span};

/// The whole status. Columns are aligned over all services.
pub(crate) fn status(status: &Status) -> Vec<Line> {
    let mut lines = vec![head(status)];
    lines.extend(status.freeze.as_ref().map(freeze));
    lines.extend(status.maintenance.iter().map(maintenance));
    let rows: Vec<[Row; 2]> = status.services.iter().map(rows).collect();
    let widths = widths(rows.iter().flatten());
    for (service, rows) in status.services.iter().zip(&rows) {
        lines.push(Line::new());
        lines.push(title(service));
        lines.push(header(&widths));
        for (color, row) in Color::ALL.into_iter().zip(rows) {
            let live = service.live == color;
            lines.push(slot(color, live, row, &widths));
            lines.extend(upstreams(&service.slots.of(color).upstreams));
        }
        let indent = |line: Line| Line::new().plain("  ").append(line);
        lines.extend(service.switch.as_ref().map(switch_line).map(indent));
        lines.extend(service.drains.iter().map(drain_line).map(indent));
        lines.extend(service.hold.as_ref().map(hold).map(indent));
    }
    if status.services.is_empty() {
        lines.push(Line::new());
        lines.push(Line::new().plain("no services are configured"));
    }
    lines.extend(
        status
            .deploy
            .iter()
            .flat_map(|deploy| [Line::new(), deploy_line(deploy, "")]),
    );
    lines.extend(containers::lines(&status.containers));
    lines.extend(containers::jobs(&status.jobs));
    lines.extend(certificates(&status.certificates));
    if let Some(docker) = &status.docker {
        lines.push(Line::new());
        lines.extend(discovery(docker));
    }
    if !status.warnings.is_empty() {
        lines.push(Line::new());
    }
    for warning in &status.warnings {
        lines.push(
            Line::new()
                .with(Style::Warn, "warning")
                .plain("  ")
                .plain(warning),
        );
    }
    lines
}

/// The engine, what it refuses, and what is not served for which reason.
fn discovery(docker: &DockerStatus) -> Vec<Line> {
    let error = docker.error.as_ref().map(|error| format!(": {error}"));
    let count = match docker.containers {
        0 => String::new(),
        count => format!(", {count} containers"),
    };
    let head = format!("  {}{count}{}", docker.state, error.unwrap_or_default());
    let mut lines = vec![Line::new().with(Style::Bold, "docker").plain(head)];
    lines.extend(docker.refused.iter().map(|refused| {
        Line::new()
            .with(Style::Warn, "  refused")
            .plain(format!("  {}: {}", refused.call, refused.effect))
    }));
    lines.extend(docker.problems.iter().map(|problem| {
        Line::new()
            .with(Style::Warn, "  problem")
            .plain(format!("  {}: {}", problem.container, problem.what))
            .with(Style::Dim, format!("; {}", problem.fix))
    }));
    lines.extend(docker.reserved.iter().map(|reserved| {
        Line::new()
            .with(Style::Dim, "  reserved")
            .plain(format!(
                " {} for the Compose project {}",
                reserved.host, reserved.project
            ))
            .with(Style::Dim, format!(", until {}", reserved.until))
    }));
    lines
}

/// A service in one line, for output that is not a terminal.
pub(crate) fn summary(service: &ServiceStatus) -> String {
    let slots = Color::ALL.map(|color| format!("{color} {}", health(service.slots.of(color)).0));
    format!(
        "{}: {} is live, {}, {}",
        service.name,
        service.live,
        service.state.as_str(),
        slots.join(", ")
    )
}

pub(crate) const fn color_style(color: Color) -> Style {
    match color {
        Color::Blue => Style::Blue,
        Color::Green => Style::Green,
    }
}

fn head(status: &Status) -> Line {
    let mut line = Line::new()
        .with(Style::Bold, "cutover")
        .plain(format!(" {}", status.version))
        .with(
            Style::Dim,
            format!("  up {}", span(status.uptime_s.saturating_mul(1000))),
        );
    if let Some(config) = &status.config {
        line = line.with(Style::Dim, format!("  {config}"));
    }
    line
}

fn freeze(freeze: &FreezeStatus) -> Line {
    let until = freeze.until.as_deref().unwrap_or("`unfreeze`");
    Line::new()
        .with(Style::Warn, "frozen")
        .plain(format!("  no switch until {until}: {}", freeze.why))
        .with(
            Style::Dim,
            format!("  by {}, since {}", freeze.by, freeze.since),
        )
}

fn maintenance(closed: &MaintenanceStatus) -> Line {
    let what = match (&closed.service, &closed.site) {
        (Some(service), _) => format!("service {service}"),
        (None, Some(site)) => format!("site {site}"),
        (None, None) => "something".to_owned(),
    };
    let message = closed.message.iter().map(|text| format!(": {text}"));
    Line::new()
        .with(Style::Warn, "maintenance")
        .plain(format!("  {what} is closed{}", message.collect::<String>()))
        .with(
            Style::Dim,
            format!("  by {}, since {}", closed.by, closed.since),
        )
}

fn hold(hold: &HoldStatus) -> Line {
    let state = match (&hold.since, &hold.until) {
        (None, _) => "those that waited are being let go".to_owned(),
        (Some(_), None) => "until `resume`".to_owned(),
        (Some(_), Some(until)) => format!("the first until {until}, or `resume`"),
    };
    Line::new()
        .with(Style::Warn, "hold")
        .plain(format!("  {} requests wait, {state}", hold.waiting))
        .plain(match hold.refused {
            0 => String::new(),
            refused => format!("; {refused} were refused"),
        })
}

fn title(service: &ServiceStatus) -> Line {
    let state = match service.state {
        ServiceState::Stable => Style::Dim,
        ServiceState::Held => Style::Bad,
        _ => Style::Warn,
    };
    let mut line = Line::new()
        .with(Style::Bold, service.name.as_str())
        .plain("  ")
        .with(color_style(service.live), service.live.as_str())
        .plain(" is live  ")
        .with(state, service.state.as_str());
    if service.stack.as_str() != "default" {
        line = line.with(Style::Dim, format!("  stack {}", service.stack));
    }
    line
}

/// One slot: a cell per column.
struct Row {
    cells: [String; COLUMNS.len()],
    health: Style,
    errors: Style,
}

/// Heading and whether it holds numbers (aligned to the right).
const COLUMNS: [(&str, bool); 10] = [
    ("COLOR", false),
    ("RELEASE", false),
    ("UPSTREAMS", false),
    ("REQ", true),
    ("WS", true),
    ("SSE", true),
    ("REQ/S", true),
    ("ERRORS", true),
    ("P50", true),
    ("P99", true),
];
const UPSTREAMS: usize = 2;
const ERRORS: usize = 7;

/// Longer labels are cut: a digest has 71 characters.
const MAX_RELEASE: usize = 24;

fn rows(service: &ServiceStatus) -> [Row; 2] {
    Color::ALL.map(|color| {
        let slot = service.slots.of(color);
        let (up, style) = health(slot);
        let errors = match slot.error_rate {
            Some(share) if share >= 0.01 => Style::Bad,
            Some(share) if share > 0.0 => Style::Warn,
            _ => Style::Plain,
        };
        Row {
            cells: [
                color.to_string(),
                release(slot),
                up,
                slot.in_flight.request.to_string(),
                slot.in_flight.websocket.to_string(),
                slot.in_flight.sse.to_string(),
                rate(slot.rps),
                percent(slot.error_rate),
                latency(slot.p50_ms),
                latency(slot.p99_ms),
            ],
            health: style,
            errors,
        }
    })
}

fn release(slot: &SlotStatus) -> String {
    let text = slot
        .release
        .as_ref()
        .map_or(DASH, |release| release.as_str());
    if text.chars().count() <= MAX_RELEASE {
        return text.to_owned();
    }
    let start: String = text.chars().take(MAX_RELEASE - 1).collect();
    format!("{start}…")
}

fn health(slot: &SlotStatus) -> (String, Style) {
    let all = slot.upstreams.len();
    let with = |healthy| {
        let same = |upstream: &&UpstreamStatus| upstream.healthy == healthy;
        slot.upstreams.iter().filter(same).count()
    };
    let (up, down) = (with(Some(true)), with(Some(false)));
    match all {
        0 => ("empty".to_owned(), Style::Dim),
        _ if up == all => (format!("{up}/{all} up"), Style::Good),
        _ if down == 0 => (format!("{up}/{all} up"), Style::Warn),
        _ => (format!("{up}/{all} up"), Style::Bad),
    }
}

fn widths<'a>(rows: impl Iterator<Item = &'a Row>) -> [usize; COLUMNS.len()] {
    let mut widths = COLUMNS.map(|(heading, _)| heading.len());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn padded(column: usize, text: &str, widths: &[usize; COLUMNS.len()]) -> String {
    let width = widths[column];
    let gap = if column + 1 < COLUMNS.len() { "  " } else { "" };
    match COLUMNS[column].1 {
        true => format!("{text:>width$}{gap}"),
        false => format!("{text:<width$}{gap}"),
    }
}

fn header(widths: &[usize; COLUMNS.len()]) -> Line {
    let mut text = " ".repeat(4);
    for (column, (heading, _)) in COLUMNS.iter().enumerate() {
        text.push_str(&padded(column, heading, widths));
    }
    Line::new().with(Style::Dim, text)
}

fn slot(color: Color, live: bool, row: &Row, widths: &[usize; COLUMNS.len()]) -> Line {
    let mut line = match live {
        true => Line::new().with(color_style(color), "  ▶ "),
        false => Line::new().plain("    "),
    };
    for (column, cell) in row.cells.iter().enumerate() {
        let style = match column {
            0 if live => color_style(color),
            UPSTREAMS => row.health,
            ERRORS => row.errors,
            _ => Style::Plain,
        };
        line = line.with(style, padded(column, cell, widths));
    }
    line
}

fn upstreams(upstreams: &[UpstreamStatus]) -> impl Iterator<Item = Line> {
    let width = upstreams
        .iter()
        .map(|upstream| upstream.address.chars().count())
        .max()
        .unwrap_or(0);
    upstreams.iter().map(move |upstream| {
        let (style, mark, word) = match upstream.healthy {
            Some(true) => (Style::Good, "●", "ok"),
            Some(false) => (Style::Bad, "✗", "down"),
            None => (Style::Warn, "○", "unknown"),
        };
        let mut line = Line::new()
            .plain("      ")
            .with(style, mark)
            .plain(format!(" {:<width$}  ", upstream.address))
            .with(style, word);
        if let Some(ms) = upstream.probe_ms {
            line = line.with(Style::Dim, format!(" {}", latency(Some(ms))));
        }
        if let Some(container) = &upstream.container {
            line = line.with(Style::Dim, format!("  {container}"));
        }
        if let Some(reason) = &upstream.reason {
            line = line.plain(": ").plain(reason);
        }
        line
    })
}

fn certificates(certificates: &[Certificate]) -> Vec<Line> {
    let mut lines = Vec::new();
    if !certificates.is_empty() {
        lines.push(Line::new());
        lines.push(Line::new().with(Style::Bold, "certificates"));
    }
    let width = |text: fn(&Certificate) -> &str| {
        let lengths = certificates.iter().map(|one| text(one).chars().count());
        lengths.max().unwrap_or(0)
    };
    let issuer = |one: &Certificate| one.issuer.clone().unwrap_or_else(|| DASH.to_owned());
    let hosts = width(|one| &one.host);
    let issuers = width(|one| one.issuer.as_deref().unwrap_or(DASH));
    for one in certificates {
        let (style, left) = match one.expires_in_s {
            Some(seconds) if seconds <= 0 => (Style::Bad, "expired".to_owned()),
            Some(seconds) => (
                if seconds < 7 * 86_400 {
                    Style::Warn
                } else {
                    Style::Plain
                },
                format!("{} left", span(seconds.unsigned_abs().saturating_mul(1000))),
            ),
            None => (
                Style::Dim,
                one.expires.clone().unwrap_or_else(|| "none yet".to_owned()),
            ),
        };
        let mut line = Line::new()
            .plain(format!(
                "    {:<hosts$}  {:<issuers$}  ",
                one.host,
                issuer(one)
            ))
            .with(style, left);
        if let Some(error) = &one.error {
            line = line.plain("  ").with(Style::Bad, error);
        }
        lines.push(line);
    }
    lines
}
