//! `[rollback]` for all services, and `[service.NAME.rollback]` over it, key by key.

use http::Method;

use super::section::Section;
use super::tree::Value;
use super::value::{self, Parsed};
use crate::config::{AfterAction, RescueBudget, Rollback, RollbackMode, RuleAction, schema};

/// The table at the top of the file, over the built-in defaults.
pub(super) fn defaults(root: &Section<'_>) -> Rollback {
    read(
        root.section("rollback", &schema::ROLLBACK),
        &Rollback::default(),
    )
}

/// What the table says, and `base` where it says nothing.
pub(super) fn read(section: Option<Section<'_>>, base: &Rollback) -> Rollback {
    let mut r = base.clone();
    let Some(section) = section else {
        return r;
    };
    let modes = [
        ("enforce", RollbackMode::Enforce),
        ("observe", RollbackMode::Observe),
        ("off", RollbackMode::Off),
    ];
    section.set("mode", &mut r.mode, value::word(&modes));
    section.set("rescue", &mut r.rescue, value::boolean);
    section.set("unsafe", &mut r.r#unsafe, value::boolean);
    section.set("alpha", &mut r.alpha, value::inner_rate);
    if let Some(section) = section.section("baseline", &schema::BASELINE) {
        baseline(&section, &mut r);
    }
    if let Some(section) = section.section("errors", &schema::ERRORS) {
        errors(&section, &mut r);
    }
    if let Some(section) = section.section("fast", &schema::FAST) {
        section.set("q", &mut r.fast.q, value::inner_rate);
        section.set("min_span", &mut r.fast.min_span, value::some_time);
    }
    if let Some(section) = section.section("latency", &schema::LATENCY) {
        latency(&section, &mut r);
    }
    if let Some(section) = section.section("gate", &schema::GATE) {
        gate(&section, &mut r);
    }
    if let Some(section) = section.section("after", &schema::AFTER) {
        after(&section, &mut r);
    }
    if let Some(section) = section.section("rules", &schema::RULES) {
        rules(&section, &mut r);
    }
    r
}

fn baseline(section: &Section<'_>, r: &mut Rollback) {
    let b = &mut r.baseline;
    section.set("min_window", &mut b.min_window, value::some_time);
    section.set(
        "min_requests",
        &mut b.min_requests,
        value::whole(1..=1_000_000_000_u64),
    );
    section.set("max_window", &mut b.max_window, value::some_time);
    section.set(
        "no_baseline_limit",
        &mut b.no_baseline_limit,
        value::inner_rate,
    );
    if b.min_window > b.max_window {
        let key = section.first_of("min_window", "max_window");
        section.error(key, "min_window is longer than max_window");
    }
}

fn errors(section: &Section<'_>, r: &mut Rollback) {
    let e = &mut r.errors;
    section.set("ratio", &mut e.ratio, value::number(1.0..=100.0));
    section.set("floor", &mut e.floor, value::inner_rate);
    section.set(
        "min_errors",
        &mut e.min_errors,
        value::whole(1..=1_000_000_u64),
    );
    section.set(
        "min_bad_seconds",
        &mut e.min_bad_seconds,
        value::whole(1..=3600_u32),
    );
    section.set("restart_every", &mut e.restart_every, value::some_time);
    section.set(
        "alternatives",
        &mut e.alternatives,
        value::whole(1..=64_u32),
    );
}

fn latency(section: &Section<'_>, r: &mut Rollback) {
    let l = &mut r.latency;
    section.set("factor", &mut l.factor, value::number(1.0..=100.0));
    section.set_list(
        "quantiles",
        &mut l.quantiles,
        "quantiles",
        value::inner_rate,
    );
    section.set("ratio", &mut l.ratio, value::number(1.0..=100.0));
    section.set_list("floor", &mut l.floor, "rates", value::inner_rate);
    section.set("warmup", &mut l.warmup, value::duration);
    let all_read = |key, read: usize| section.length(key).is_none_or(|written| written == read);
    if !all_read("quantiles", l.quantiles.len()) || !all_read("floor", l.floor.len()) {
        return;
    }
    if l.quantiles.is_empty() || l.quantiles.len() > 2 {
        section.error(
            "quantiles",
            "needs one or two quantiles, such as [0.9, 0.99]",
        );
    } else if !l.quantiles.is_sorted_by(|a, b| a < b) {
        section.error("quantiles", "must ascend, each once, such as [0.9, 0.99]");
    }
    if l.floor.len() != l.quantiles.len() {
        let key = section.first_of("floor", "quantiles");
        let message = format!(
            "needs one floor for each quantile: quantiles has {}, floor has {}",
            l.quantiles.len(),
            l.floor.len()
        );
        section.error(key, message);
    }
}

fn gate(section: &Section<'_>, r: &mut Rollback) {
    let g = &mut r.gate;
    section.set_list("methods", &mut g.methods, "methods", safe_method);
    section.set("budget", &mut g.budget, budget);
    section.set("replay", &mut g.replay, value::boolean);
    section.set("clear", &mut g.clear, value::number(0.1..=100.0));
    section.set("block", &mut g.block, value::number(0.1..=100.0));
    if let Some(list) = section.list("wait", "two durations", value::duration) {
        match list[..] {
            [(_, first), (_, last)] if first <= last => g.wait = [first, last],
            _ => section.error(
                "wait",
                r#"needs two durations, the shorter first: ["10s", "30s"]"#,
            ),
        }
    }
}

fn after(section: &Section<'_>, r: &mut Rollback) {
    let a = &mut r.after;
    let actions = [
        ("hold", AfterAction::Hold),
        ("rollback", AfterAction::Rollback),
        ("commit", AfterAction::Commit),
    ];
    for (key, slot) in [
        ("on_shared", &mut a.on_shared),
        ("on_ambiguous", &mut a.on_ambiguous),
        ("on_old_dead", &mut a.on_old_dead),
        ("on_no_traffic", &mut a.on_no_traffic),
    ] {
        section.set(key, slot, value::word(&actions));
    }
    if a.on_old_dead == AfterAction::Rollback {
        section.error(
            "on_old_dead",
            "a dead slot cannot take over; write \"hold\" or \"commit\"",
        );
    }
    section.set("quarantine", &mut a.quarantine, value::boolean);
    section.set("cooldown", &mut a.cooldown, value::duration);
}

fn rules(section: &Section<'_>, r: &mut Rollback) {
    let actions = [
        ("rollback", RuleAction::Rollback),
        ("alert", RuleAction::Alert),
        ("off", RuleAction::Off),
    ];
    let rules = &mut r.rules;
    for (key, slot) in [
        ("health", &mut rules.health),
        ("container", &mut rules.container),
        ("absolute", &mut rules.absolute),
        ("server_errors", &mut rules.server_errors),
        ("p99", &mut rules.p99),
        ("memory", &mut rules.memory),
        ("cpu", &mut rules.cpu),
        ("health_latency", &mut rules.health_latency),
    ] {
        section.set(key, slot, value::word(&actions));
    }
}

/// Only what does no harm when it is done twice (RFC 9110 §9.2.1).
fn safe_method(value: &Value) -> Parsed<Method> {
    let methods = [
        ("GET", Method::GET),
        ("HEAD", Method::HEAD),
        ("OPTIONS", Method::OPTIONS),
    ];
    value::word(&methods)(value)
}

fn budget(value: &Value) -> Parsed<RescueBudget> {
    let text = value::text(value)?;
    if text == "auto" {
        return Ok(RescueBudget::Auto);
    }
    let read = || {
        let (share, rest) = text.split_once('+')?;
        let share = match share.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
            None => share.trim().parse().ok()?,
        };
        let per_second = rest.trim().strip_suffix("/s")?.trim().parse().ok()?;
        (0.0..=1.0)
            .contains(&share)
            .then_some(RescueBudget::Share { share, per_second })
    };
    read().ok_or_else(|| {
        format!(
            r#"expected "auto", or a share and a number a second, such as "20% + 10/s", found {}"#,
            value.describe()
        )
    })
}
