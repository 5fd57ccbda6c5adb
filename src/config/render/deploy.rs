//! `[deploy]`, `[[job]]` and what a service is for them.

use super::Writer;
use super::text::{bare_or_quoted, duration, in_words, list, path, size, text};
use crate::config::{Config, Job, Kind, Service, Smoke, When};

/// Both, the first where it is not the default.
pub(super) fn render(out: &mut Writer, config: &Config) {
    let deploy = &config.deploy;
    let default = crate::config::Deploy::default();
    if *deploy != default {
        out.table("[deploy]");
        out.key("keep", deploy.keep);
        out.key("pull_timeout", duration(deploy.pull_timeout));
        out.key("start_timeout", duration(deploy.start_timeout));
        out.key("free_disk", size(deploy.free_disk));
        out.key("free_memory", size(deploy.free_memory));
        out.key("prune", deploy.prune);
        if let Some(file) = &deploy.registry_config {
            out.key("registry_config", path(file));
        }
        let resume = deploy.resume_after_crash.as_str();
        out.key("resume_after_crash", text(resume));
    }
    for one in &deploy.smoke {
        smoke(out, one);
    }
    for one in &config.jobs {
        job(out, one);
    }
}

/// `type`, `order` and `stop_grace`.
pub(super) fn service(out: &mut Writer, service: &Service) {
    if let Kind::Worker { order } = service.kind {
        out.key("type", text("worker"));
        out.key("order", text(order.as_str()));
    }
    if let Some(grace) = service.stop_grace {
        out.key("stop_grace", duration(grace));
    }
}

fn smoke(out: &mut Writer, smoke: &Smoke) {
    out.table("[[deploy.smoke]]");
    out.key("service", text(&smoke.service));
    out.key("path", text(&smoke.path));
    if let Some(host) = &smoke.host {
        out.key("host", text(host));
    }
    let (from, to) = smoke.status;
    out.key("status", text(format!("{from}-{to}")));
    if let Some(contains) = &smoke.contains {
        out.key("contains", text(contains));
    }
    out.key("timeout", duration(smoke.timeout));
}

fn job(out: &mut Writer, job: &Job) {
    let texts = |items: &[String]| list(items.iter().map(text));
    out.table("[[job]]");
    out.key("name", text(&job.name));
    out.key("service", text(&job.service));
    match &job.when {
        When::Step(step) => out.key("when", text(step.as_str())),
        When::Schedule(schedule) => {
            out.key("schedule", text(schedule.fields()));
            out.key("time_zone", text(schedule.zone()));
        }
    }
    out.key("image", text(job.image.as_str()));
    for (key, items) in [
        ("command", &job.command),
        ("entrypoint", &job.entrypoint),
        ("mounts", &job.mounts),
        ("restore", &job.restore),
    ] {
        if !items.is_empty() {
            out.key(key, texts(items));
        }
    }
    if !job.env.is_empty() {
        let pair = |entry: &String| {
            let name = entry.split('=').next().unwrap_or_default();
            // Variables are where passwords are.
            format!("{} = {}", bare_or_quoted(name), text("***"))
        };
        let pairs: Vec<_> = job.env.iter().map(pair).collect();
        out.key("env", format!("{{ {} }}", pairs.join(", ")));
    }
    if !job.secret_files.is_empty() {
        out.key("secret_files", list(job.secret_files.iter().map(path)));
    }
    if let Some(user) = &job.user {
        out.key("user", text(user));
    }
    out.key("timeout", text(in_words(job.timeout)));
    out.key("maintenance", job.maintenance);
    out.key("snapshot", job.snapshot);
    if let Some(success) = &job.success {
        let mut keys = Vec::new();
        if let Some(file) = &success.file {
            keys.push(format!("file = {}", text(file)));
            keys.push(format!("min_size = {}", size(success.min_size)));
        }
        if !success.verify.is_empty() {
            keys.push(format!("verify = {}", texts(&success.verify)));
        }
        out.key("success", format!("{{ {} }}", keys.join(", ")));
    }
}
