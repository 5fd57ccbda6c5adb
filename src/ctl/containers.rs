//! Containers and jobs as people read them.

use crate::admin::wire::{ContainerRole, ContainerStatus, JobStatus};

use crate::ctl::table::color_style;
use crate::ctl::text::{Line, Style, span};

/// A line for each container, aligned.
pub(crate) fn lines(containers: &[ContainerStatus]) -> Vec<Line> {
    if containers.is_empty() {
        return Vec::new();
    }
    let name = containers.iter().map(|one| one.name.chars().count()).max();
    let image = containers.iter().map(|one| one.image.chars().count()).max();
    let (name, image) = (name.unwrap_or_default(), image.unwrap_or_default());
    let mut lines = vec![Line::new(), Line::new().with(Style::Bold, "containers")];
    lines.extend(containers.iter().map(|one| container(one, name, image)));
    lines
}

fn container(one: &ContainerStatus, name: usize, image: usize) -> Line {
    let style = match one.role {
        ContainerRole::Live => Style::Good,
        ContainerRole::LeftOver => Style::Warn,
        _ => Style::Dim,
    };
    let mut line = Line::new()
        .plain(format!("  {:name$}  ", one.name))
        .with(style, format!("{:<9}  ", one.role.as_str()));
    line = match one.color {
        Some(color) => line.with(color_style(color), format!("{color:<5}  ")),
        None => line.plain("       "),
    };
    let mut facts = vec![one.state.clone()];
    facts.extend(one.health.clone());
    facts.extend(
        one.age_s
            .map(|age| format!("up {}", span(age.saturating_mul(1000)))),
    );
    if one.restarts > 0 {
        facts.push(format!("restarted {} times", one.restarts));
    }
    facts.extend(
        one.memory_bytes
            .map(|bytes| format!("{} MiB", bytes / (1 << 20))),
    );
    facts.extend(one.cpu.map(|cpu| format!("cpu {:.0}%", cpu * 100.0)));
    let id = one.digest.as_deref().unwrap_or(&one.image_id);
    let short: String = id.trim_start_matches("sha256:").chars().take(12).collect();
    line.plain(format!("{:image$}  ", one.image))
        .with(Style::Dim, format!("{short:<12}  "))
        .plain(facts.join(", "))
}

/// A line for each job on a schedule.
pub(crate) fn jobs(jobs: &[JobStatus]) -> Vec<Line> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Line::new(), Line::new().with(Style::Bold, "jobs")];
    for job in jobs {
        let next = job.next.as_deref().map(|next| format!("next {next}"));
        let good = job.last_good.as_deref().map(|at| format!("last good {at}"));
        let mut line = Line::new().plain(format!(
            "  {}  {}, {}",
            job.name,
            next.unwrap_or_else(|| "running".to_owned()),
            good.unwrap_or_else(|| "never ran well".to_owned())
        ));
        if let Some(failure) = &job.failure {
            line = line.with(Style::Bad, format!("  failed: {failure}"));
        }
        lines.push(line);
    }
    lines
}
