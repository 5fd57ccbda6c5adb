//! Whether a step can ever run, and whether a list answers.

use crate::config::parse::section::Section;
use crate::config::step::{Action, Step};

/// Says which steps of a list never run, because one before them takes everything.
pub(super) fn warn(steps: &[(&Section<'_>, Step)]) {
    let Some(((first, _), _)) = steps.split_first() else {
        return;
    };
    let out = first.out;
    let mut taken: Vec<(u32, usize)> = Vec::new();
    for (n, (section, step)) in steps.iter().enumerate() {
        let group = step.group;
        let before = taken.iter().find(|(known, _)| Some(*known) == group);
        if let Some((_, at)) = before {
            let line = out.line(*at);
            let message =
                format!("never runs: the step in line {line} takes everything of this group");
            out.warning(section.at, &section.path, message);
        }
        if step.when.is_some() {
            continue;
        }
        if let (Some(group), None) = (group, before) {
            taken.push((group, section.at));
        }
        let is_last = n + 1 == steps.len();
        if group.is_none() && !is_last && ends(&step.action) {
            let (next, _) = &steps[n + 1];
            let line = out.line(section.at);
            let message = format!("never runs: the step in line {line} answers every request");
            out.warning(next.at, &next.path, message);
            return;
        }
    }
}

/// Whether no request comes past these steps.
pub(in crate::config::parse) fn all_end(steps: &[Step]) -> bool {
    // Of a group, one that ran before may have kept this one from running.
    let alone = |step: &Step| step.when.is_none() && step.group.is_none();
    steps.iter().any(|step| alone(step) && ends(&step.action))
}

/// Whether a step of these may answer.
pub(in crate::config::parse) fn answers(steps: &[Step]) -> bool {
    steps.iter().any(|step| match &step.action {
        Action::Steps(steps) => answers(steps),
        Action::Respond(_)
        | Action::Redirect(_)
        | Action::Error(_)
        | Action::Abort
        | Action::Files(_)
        | Action::Proxy(_)
        | Action::CopyResponse(_) => true,
        Action::Access(_)
        | Action::RateLimit(_)
        | Action::Concurrency(_)
        | Action::Cors(_)
        | Action::BasicAuth(_)
        | Action::ForwardAuth(_)
        | Action::BodyLimit(_)
        | Action::Vars(_)
        | Action::Map(_)
        | Action::Root(_)
        | Action::RequestHeaders(_)
        | Action::ResponseHeaders(_)
        | Action::Rewrite(_)
        | Action::TryFiles(_)
        | Action::Encode(_)
        | Action::Log(_) => false,
    })
}

/// Whether an action answers whatever comes.
fn ends(action: &Action) -> bool {
    match action {
        Action::Steps(steps) => all_end(steps),
        Action::Files(files) => !files.pass_thru,
        Action::CopyResponse(copy) => !copy.headers_only,
        Action::Respond(_)
        | Action::Redirect(_)
        | Action::Error(_)
        | Action::Abort
        | Action::Proxy(_) => true,
        Action::Access(_)
        | Action::RateLimit(_)
        | Action::Concurrency(_)
        | Action::Cors(_)
        | Action::BasicAuth(_)
        | Action::ForwardAuth(_)
        | Action::BodyLimit(_)
        | Action::Vars(_)
        | Action::Map(_)
        | Action::Root(_)
        | Action::RequestHeaders(_)
        | Action::ResponseHeaders(_)
        | Action::Rewrite(_)
        | Action::TryFiles(_)
        | Action::Encode(_)
        | Action::Log(_) => false,
    }
}
