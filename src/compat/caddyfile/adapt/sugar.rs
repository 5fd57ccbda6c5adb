//! Short forms: steps that always run become keys of their site, where that is the same.

use super::super::source::Pos;
use super::Cx;
use super::doc::{Comments, Entry, Origin, Table, Value};
use super::step::{Action, Exchange, Step};

/// Keys of a site that stand for steps before its `[[site.handle]]`, in the order in which they run.
const EARLY: [&str; 8] = [
    "basic_auth",
    "forward_auth",
    "body_limit",
    "request_header",
    "response_header",
    "encode",
    "rewrite",
    "root",
];

/// Takes steps off a list that can be keys of the site. What answers last goes last, and what runs
/// before everything else first; the rest stays.
pub(super) fn take(cx: &Cx<'_>, site: &mut Table, steps: &mut Vec<Step>, name: &str) {
    let mut last = None;
    while let Some(at) = steps.iter().position(|step| early_key(step).is_some()) {
        let step = &steps[at];
        let Some(key) = early_key(step) else {
            break;
        };
        let rank = EARLY.iter().position(|known| *known == key);
        // A fixed root means nothing to what may come before it as a key.
        let is_free = at == 0 && is_fixed_root(step);
        // Compression is the same before or after what only changes the request.
        let may_jump = at == 0 || (key == "encode" && steps[..at].iter().all(passes_on));
        if site.find(key).is_some() || !may_jump || (rank <= last && !is_free) {
            break;
        }
        if !is_free {
            last = rank;
        }
        let step = steps.remove(at);
        put(site, step, key);
    }
    let end = ending(cx, site, steps, name);
    site.entries.extend(end);
}

fn is_fixed_root(step: &Step) -> bool {
    match &step.action {
        Action::Key("root", value) => {
            matches!(value.bare(), Value::Text(text) if !text.contains('{'))
        }
        _ => false,
    }
}

/// Whether it neither answers nor has to do with the answer; a redirect has no body.
fn passes_on(step: &Step) -> bool {
    let keys = [
        "try_files",
        "rewrite",
        "vars",
        "map",
        "log",
        "request_header",
        "body_limit",
        "root",
        "redirect",
    ];
    matches!(&step.action, Action::Key(key, _) if keys.contains(key))
}

/// The key of a step that may come before all others, if it always runs.
fn early_key(step: &Step) -> Option<&'static str> {
    match &step.action {
        Action::Key(key, _) if step.when.is_none() && step.group.is_none() => {
            EARLY.iter().copied().find(|known| known == key)
        }
        _ => None,
    }
}

fn put(site: &mut Table, step: Step, key: &str) {
    let Action::Key(_, value) = step.action else {
        return;
    };
    let mut comments = step.comments;
    comments.extend(step.tail);
    site.entries.push(Entry {
        key: key.to_owned(),
        value,
        origin: Origin(Some(step.pos)),
        comments: Comments(comments),
    });
}

/// What answers everything that is left, at the end of a list: as keys.
fn ending(cx: &Cx<'_>, site: &Table, steps: &mut Vec<Step>, name: &str) -> Vec<Entry> {
    let Some(last) = steps.pop_if(|last| last.when.is_none() && last.group.is_none()) else {
        return Vec::new();
    };
    let entry = |key: &str, value, pos: Pos, comments| Entry {
        key: key.to_owned(),
        value,
        origin: Origin(Some(pos)),
        comments: Comments(comments),
    };
    let all_comments = |step: &Step| {
        let mut comments = step.comments.clone();
        comments.extend(step.tail.iter().cloned());
        comments
    };
    match &last.action {
        Action::Proxy(number, exchange) if **exchange == Exchange::default() => {
            let upstream = cx.services.borrow_mut().answers_for(*number, name);
            let comments = all_comments(&last);
            let (key, value) = match upstream {
                Some(upstream) => ("upstream", upstream),
                // The name is filled in when all of them are known.
                None => (
                    "service",
                    Value::Number(u64::try_from(*number).unwrap_or(u64::MAX)),
                ),
            };
            vec![entry(key, value, last.pos, comments)]
        }
        Action::Proxy(number, _) => {
            cx.services.borrow_mut().answers_for_long(*number, name);
            steps.push(last);
            Vec::new()
        }
        Action::Key(key @ ("redirect" | "respond" | "files"), value)
            if (!steps
                .iter()
                .any(|step| matches!(step.action, Action::Key("try_files", _)))
                || *key == "files")
                && site.find(key).is_none() =>
        {
            let mut entries = vec![entry(key, value.clone(), last.pos, all_comments(&last))];
            if *key == "files"
                && let Some(tries) = steps.pop_if(|step| {
                    step.when.is_none() && matches!(step.action, Action::Key("try_files", _))
                })
                && let Action::Key(_, value) = &tries.action
            {
                entries.insert(
                    0,
                    entry("try_files", value.clone(), tries.pos, all_comments(&tries)),
                );
            }
            entries
        }
        _ => {
            steps.push(last);
            Vec::new()
        }
    }
}
