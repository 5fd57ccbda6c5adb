//! A running switch or drain in one line.

use crate::admin::wire::{DeployStatus, DrainStatus, InFlight, Phase, SwitchStatus, Tally};
use crate::ctl::table::color_style;
use crate::ctl::text::{Line, Style, count, latency, percent, span};

/// `observe green ▰▰▰▰▱▱▱▱▱▱ 2m10s of 5m, 3100 of 5000 requests, errors 0.12% (before 0.10%)`.
pub(crate) fn switch_line(switch: &SwitchStatus) -> Line {
    let style = match switch.phase {
        Phase::Held | Phase::Rollback => Style::Bad,
        _ => Style::Bold,
    };
    let mut line = Line::new()
        .with(style, switch.phase.as_str())
        .plain(" ")
        .with(color_style(switch.target), switch.target.as_str());
    if matches!(switch.phase, Phase::Observe | Phase::Canary)
        && let Some(done) = done(switch)
    {
        line = line.plain(" ").with(Style::Dim, bar(done));
    }
    line.plain(" ").plain(facts(switch).join(", "))
}

/// `deploy v2 7/19 wait for web to be healthy: web-green is starting`.
pub(crate) fn deploy_line(deploy: &DeployStatus, more: &str) -> Line {
    let word = if deploy.back { "back" } else { "deploy" };
    let style = if deploy.back { Style::Bad } else { Style::Bold };
    // After the last step its end is being written.
    let step = (deploy.done + 1).min(deploy.of);
    let place = format!(" {} {step}/{} ", deploy.release, deploy.of);
    let line = Line::new()
        .with(style, word)
        .plain(place)
        .plain(&deploy.step);
    match more.is_empty() || more == deploy.step {
        true => line,
        false => line.plain(": ").plain(more),
    }
}

fn facts(switch: &SwitchStatus) -> Vec<String> {
    let mut facts = vec![match switch.planned_ms {
        Some(planned) => format!("{} of {}", span(switch.elapsed_ms), span(planned)),
        None => span(switch.elapsed_ms),
    }];
    if let Some(share) = switch.canary {
        facts.push(format!("{} of the requests", percent(Some(share))));
    }
    if matches!(switch.phase, Phase::Observe | Phase::Canary | Phase::Held) {
        facts.push(match switch.requests_needed {
            Some(needed) => format!("{} of {}", switch.requests, count(needed, "request")),
            None => count(switch.requests, "request"),
        });
        if let Some(new) = switch.new {
            facts.push(compared(
                "errors",
                &percent(new.error_rate()),
                switch.old.map(|old| percent(old.error_rate())),
            ));
            if new.p99_ms.is_some() {
                let old = switch.old.and_then(|old: Tally| old.p99_ms);
                let old = old.map(|ms| latency(Some(ms)));
                facts.push(compared("p99", &latency(new.p99_ms), old));
            }
        }
    }
    if let (Some(limit), Some(planned)) = (switch.limit_ms, switch.planned_ms)
        && limit > planned
    {
        facts.push(format!("at most {}", span(limit)));
    }
    if let Some(reason) = &switch.reason {
        facts.push(reason.clone());
    }
    if let Some(first) = switch.gate.first() {
        let place = match &first.address {
            Some(address) => format!("{} {address}", first.service),
            None => first.service.to_string(),
        };
        facts.push(format!("waiting for {place}: {}", first.reason));
        if switch.gate.len() > 1 {
            facts.push(format!("and {} more", switch.gate.len() - 1));
        }
    }
    facts
}

fn compared(what: &str, new: &str, old: Option<String>) -> String {
    match old {
        Some(old) => format!("{what} {new} (before {old})"),
        None => format!("{what} {new}"),
    }
}

/// The share of the watch that is over: the time or the requests, whichever is behind.
fn done(switch: &SwitchStatus) -> Option<u64> {
    let tenths = |part: u64, whole: u64| {
        let tenths = part.saturating_mul(BAR_CELLS).checked_div(whole);
        tenths.map_or(BAR_CELLS, |tenths| tenths.min(BAR_CELLS))
    };
    let time = tenths(switch.elapsed_ms, switch.planned_ms?);
    Some(match switch.requests_needed {
        Some(needed) => time.min(tenths(switch.requests, needed)),
        None => time,
    })
}

fn bar(done: u64) -> String {
    (0..BAR_CELLS)
        .map(|cell| if cell < done { '▰' } else { '▱' })
        .collect()
}

const BAR_CELLS: u64 = 10;

/// `drain blue #7 3 requests, 1 websocket left, closed in 12s`.
pub(crate) fn drain_line(drain: &DrainStatus) -> Line {
    Line::new()
        .with(Style::Bold, "drain")
        .plain(" ")
        .with(color_style(drain.color), drain.color.as_str())
        .plain(format!(
            " #{} {}, closed in {}",
            drain.generation,
            left(drain.in_flight),
            span(drain.deadline_ms)
        ))
}

fn left(in_flight: InFlight) -> String {
    let kinds = [
        (in_flight.request, "request"),
        (in_flight.websocket, "websocket"),
        (in_flight.sse, "event stream"),
    ];
    let parts: Vec<_> = kinds
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| count(number, noun))
        .collect();
    match parts.is_empty() {
        true => "nothing left".to_owned(),
        false => format!("{} left", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::wire::GateFailure;
    use crate::model::Color;

    fn observing() -> SwitchStatus {
        SwitchStatus {
            services: vec!["web".into()],
            target: Color::Green,
            phase: Phase::Observe,
            actor: "root".to_owned(),
            elapsed_ms: 130_000,
            planned_ms: Some(300_000),
            limit_ms: Some(1_800_000),
            requests: 3_100,
            requests_needed: Some(5_000),
            canary: None,
            new: Some(Tally {
                requests: 3_100,
                failures: 4,
                p99_ms: Some(80.0),
            }),
            old: Some(Tally {
                requests: 90_000,
                failures: 90,
                p99_ms: Some(75.0),
            }),
            gate: Vec::new(),
            reason: None,
        }
    }

    #[test]
    fn an_observe_shows_time_requests_and_both_rates() {
        assert_eq!(
            switch_line(&observing()).paint(false, None),
            "observe green ▰▰▰▰▱▱▱▱▱▱ 2m10s of 5m, 3100 of 5000 requests, \
             errors 0.13% (before 0.10%), p99 80ms (before 75ms), at most 30m"
        );
    }

    #[test]
    fn a_gate_shows_what_it_waits_for() {
        let failure = |address: Option<&str>, reason: &str| GateFailure {
            service: "web".into(),
            address: address.map(str::to_owned),
            reason: reason.to_owned(),
        };
        let gate = SwitchStatus {
            phase: Phase::Gate,
            elapsed_ms: 12_000,
            limit_ms: None,
            gate: vec![
                failure(Some("10.0.0.2:3000"), "connection refused"),
                failure(None, "1 of 2 passes"),
            ],
            ..observing()
        };
        assert_eq!(
            switch_line(&gate).paint(false, None),
            "gate green 12s of 5m, waiting for web 10.0.0.2:3000: connection refused, and 1 more"
        );
    }

    #[test]
    fn a_drain_shows_what_is_left_and_until_when() {
        let drain = DrainStatus {
            color: Color::Blue,
            generation: 7,
            in_flight: InFlight {
                request: 3,
                websocket: 1,
                sse: 0,
            },
            elapsed_ms: 18_000,
            deadline_ms: 12_000,
            blocking: Vec::new(),
        };
        assert_eq!(
            drain_line(&drain).paint(false, None),
            "drain blue #7 3 requests, 1 websocket left, closed in 12s"
        );
    }
}
