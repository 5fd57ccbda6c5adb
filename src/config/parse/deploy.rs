//! `[deploy]` and `[[job]]`: releases of containers and the one-shot containers around them.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::section::Section;
use super::service::Names;
use super::tree::{Value, quoted};
use super::value::{self, Parsed};
use crate::config::{Config, Deploy, Job, JobImage, JobStep, Resume, Smoke, Success, When, schema};
use crate::model::{Schedule, ScheduleError, ServiceName};

/// Puts both into the configuration.
pub(super) fn read(root: &Section<'_>, names: &Names<'_>, config: &mut Config) {
    if let Some(section) = root.section("deploy", &schema::DEPLOY) {
        config.deploy = deploy(&section, names);
    }
    let mut seen = HashSet::new();
    for section in root.sections("job", &schema::JOB) {
        let Some(job) = job(&section, names) else {
            continue;
        };
        if !seen.insert(job.name.clone()) {
            section.error(
                "name",
                format!("another job is called {}", quoted(&job.name)),
            );
        }
        config.jobs.push(job);
    }
}

fn deploy(section: &Section<'_>, names: &Names<'_>) -> Deploy {
    let mut deploy = Deploy::default();
    section.set("keep", &mut deploy.keep, value::whole(0..=1));
    section.set("pull_timeout", &mut deploy.pull_timeout, value::some_time);
    section.set("start_timeout", &mut deploy.start_timeout, value::some_time);
    section.set("free_disk", &mut deploy.free_disk, value::size(0..=1 << 50));
    section.set(
        "free_memory",
        &mut deploy.free_memory,
        value::size(0..=1 << 50),
    );
    section.set("prune", &mut deploy.prune, value::boolean);
    deploy.registry_config = section.value("registry_config", value::path);
    let resumes = [Resume::Abort, Resume::Retry].map(|word| (word.as_str(), word));
    section.set(
        "resume_after_crash",
        &mut deploy.resume_after_crash,
        value::word(&resumes),
    );
    let smoke = section.sections("smoke", &schema::DEPLOY_SMOKE);
    deploy.smoke = (smoke.iter())
        .filter_map(|one| read_smoke(one, names))
        .collect();
    deploy
}

fn read_smoke(section: &Section<'_>, names: &Names<'_>) -> Option<Smoke> {
    let service = service(section, names);
    let mut smoke = Smoke {
        service: ServiceName::from(""),
        path: "/".to_owned(),
        host: section.value("host", value::words),
        status: (200, 299),
        contains: section.value("contains", value::text),
        timeout: Duration::from_secs(5),
    };
    section.set("path", &mut smoke.path, target);
    section.set("status", &mut smoke.status, value::status);
    section.set("timeout", &mut smoke.timeout, value::some_time);
    smoke.service = service?;
    Some(smoke)
}

fn target(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    match text.starts_with('/') && !text.contains([' ', '#']) {
        true => Ok(text),
        false => Err(format!(
            "{} is no path such as \"/login?from=deploy\"",
            quoted(&text)
        )),
    }
}

fn service(section: &Section<'_>, names: &Names<'_>) -> Option<ServiceName> {
    if section.entry("service").is_none() {
        section.missing("needs service, whose containers it is about");
    }
    names.named(section)
}

fn job(section: &Section<'_>, names: &Names<'_>) -> Option<Job> {
    if section.entry("name").is_none() {
        section.missing("needs a name");
    }
    let name = section.value("name", job_name);
    let service = service(section, names);
    let when = when(section);
    let mut job = Job {
        name: String::new(),
        service: ServiceName::from(""),
        when: When::Step(JobStep::Before),
        image: JobImage::New,
        command: Vec::new(),
        entrypoint: Vec::new(),
        env: environment(section),
        mounts: Vec::new(),
        secret_files: Vec::new(),
        user: section.value("user", value::words),
        timeout: Duration::from_secs(600),
        maintenance: false,
        snapshot: false,
        restore: Vec::new(),
        success: section
            .section("success", &schema::JOB_SUCCESS)
            .map(|section| success(&section)),
    };
    section.set_list("command", &mut job.command, "texts", value::text);
    section.set_list("entrypoint", &mut job.entrypoint, "texts", value::text);
    section.set_list("mounts", &mut job.mounts, "mounts", mount);
    section.set_list("secret_files", &mut job.secret_files, "paths", value::path);
    section.set("timeout", &mut job.timeout, value::some_time);
    section.set("maintenance", &mut job.maintenance, value::boolean);
    section.set("snapshot", &mut job.snapshot, value::boolean);
    section.set_list("restore", &mut job.restore, "texts", value::text);
    let image = section.value("image", image);
    files_of_one_name(section, &job);
    let when = when?;
    job.image = image.unwrap_or_else(|| usual_image(&when));
    job.when = when;
    check(section, &job);
    job.name = name?;
    job.service = service?;
    Some(job)
}

/// Part of the names of containers.
fn job_name(value: &Value) -> Parsed<String> {
    let text = value::text(value)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=63).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text),
        false => Err(format!(
            "{} is no name of a job: up to 63 letters, digits and - _ .",
            quoted(&text)
        )),
    }
}

/// `when`, or `schedule` with its zone.
fn when(section: &Section<'_>) -> Option<When> {
    let steps = JobStep::ALL.map(|step| (step.as_str(), step));
    let step = section.value("when", value::word(&steps));
    let zone = section.value("time_zone", value::words);
    let zone_is_right = zone.is_some() || section.entry("time_zone").is_none();
    let fields = section.value("schedule", value::words);
    match (section.entry("when"), section.entry("schedule")) {
        (Some(_), Some(_)) => {
            section.error("schedule", "a job is a step or on a schedule, not both");
            None
        }
        (None, None) => {
            section.missing(
                "needs when = \"before\" (or smoke, after, on_failure, on_rollback), or a schedule",
            );
            None
        }
        (Some(_), None) => {
            if section.entry("time_zone").is_some() {
                section.warning("time_zone", "has no effect without a schedule");
            }
            step.map(When::Step)
        }
        (None, Some(_)) => {
            let zone = zone.unwrap_or_else(|| "UTC".to_owned());
            match Schedule::new(&fields?, &zone) {
                Ok(schedule) if zone_is_right => Some(When::Schedule(Box::new(schedule))),
                Ok(_) => None,
                Err(error) => {
                    let is_zone = matches!(error, ScheduleError::Zone(_));
                    let key = if is_zone { "time_zone" } else { "schedule" };
                    section.error(key, error.to_string());
                    None
                }
            }
        }
    }
}

/// What was there before is what a backup or a restore is about.
const fn usual_image(when: &When) -> JobImage {
    match when {
        When::Step(JobStep::Before | JobStep::Smoke | JobStep::After) => JobImage::New,
        When::Step(JobStep::OnFailure | JobStep::OnRollback) => JobImage::Old,
        When::Schedule(_) => JobImage::Any,
    }
}

fn image(value: &Value) -> Parsed<JobImage> {
    let text = value::words(value)?;
    Ok(match text.as_str() {
        "new" => JobImage::New,
        "old" => JobImage::Old,
        "any" => JobImage::Any,
        // A word alone would hide a slip of the pen.
        _ if text.contains([':', '/', '@']) => JobImage::Reference(text),
        _ => {
            return Err(format!(
                "{} is neither new, old or any nor an image such as \"postgres:17\"",
                quoted(&text)
            ));
        }
    })
}

fn mount(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    let parts: Vec<_> = text.split(':').collect();
    match parts[..] {
        [source, target] | [source, target, "ro" | "rw"]
            if !source.is_empty() && target.starts_with('/') =>
        {
            Ok(text)
        }
        _ => Err(format!(
            "{} is no mount such as \"backups:/backups\" or \"/srv/backups:/backups:ro\"",
            quoted(&text)
        )),
    }
}

fn environment(section: &Section<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for entry in section.table("env").unwrap_or_default() {
        let path = format!("{}.{}", section.key("env"), entry.name);
        if entry.name.is_empty() || entry.name.contains(['=', '\0']) {
            let message = format!("{} is no name of a variable", quoted(&entry.name));
            section.out.error(entry.at, &path, message);
        }
        if let Some(text) = section.read(&entry.node, &path, value::text) {
            all.push(format!("{}={text}", entry.name));
        }
    }
    all
}

fn success(section: &Section<'_>) -> Success {
    let mut success = Success {
        file: section.value("file", absolute),
        min_size: 1,
        verify: Vec::new(),
    };
    section.set("min_size", &mut success.min_size, value::size(0..=1 << 50));
    section.set_list("verify", &mut success.verify, "texts", value::text);
    if section.entry("min_size").is_some() && section.entry("file").is_none() {
        section.error("min_size", "has no effect without file");
    }
    success
}

fn absolute(value: &Value) -> Parsed<String> {
    let text = value::words(value)?;
    match text.starts_with('/') {
        true => Ok(text),
        false => Err(format!("{} is no path from the root", quoted(&text))),
    }
}

/// Each is at `/run/secrets/` under its last name.
fn files_of_one_name(section: &Section<'_>, job: &Job) {
    let mut seen = HashSet::new();
    for file in &job.secret_files {
        if !file.is_absolute() {
            let message = format!("{} is no path from the root", file.display());
            section.error("secret_files", message);
        }
        let name = file.file_name().unwrap_or_default();
        if !seen.insert(name) {
            let name = Path::new(name).display();
            section.error("secret_files", format!("two of them are called {name}"));
        }
    }
}

fn check(section: &Section<'_>, job: &Job) {
    let is_before = job.when == When::Step(JobStep::Before);
    for (key, is_set) in [
        ("maintenance", job.maintenance),
        ("snapshot", job.snapshot),
        ("restore", !job.restore.is_empty()),
    ] {
        if is_set && !is_before {
            section.error(key, "only a job with when = \"before\" can have it");
        }
    }
    if !job.restore.is_empty() && !job.snapshot && is_before {
        section.error("restore", "needs snapshot = true: what would it put back?");
    }
    if matches!(job.when, When::Schedule(_)) && matches!(job.image, JobImage::New | JobImage::Old) {
        section.error(
            "image",
            "between two deploys there is no new or old: write \"any\"",
        );
    }
    if matches!(job.image, JobImage::Reference(_))
        && job.command.is_empty()
        && job.entrypoint.is_empty()
    {
        return;
    }
    if job.command.is_empty() && job.entrypoint.is_empty() {
        section.missing("needs a command: without one it would be the service once more");
    }
}
