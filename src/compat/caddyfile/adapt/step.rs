//! Steps on their way from directives to TOML.

use super::super::source::Pos;
use super::doc::{Comments, Origin, Table, Value};

/// What one directive does, and when.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Name of the directive, for the order.
    pub(super) directive: String,
    pub(super) pos: Pos,
    /// Where its action stands.
    pub(super) action_pos: Pos,
    pub(super) comments: Vec<String>,
    /// Comments after it.
    pub(super) tail: Vec<String>,
    /// A `match` table; `None`: always.
    pub(super) when: Option<Table>,
    /// Of one group only the first that matches runs.
    pub(super) group: Option<String>,
    pub(super) action: Action,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// A key of `[[handle]]` with its value.
    Key(&'static str, Value),
    /// Steps within the step.
    Steps(Vec<Step>),
    /// To the service of this number, with these changes.
    Proxy(usize, Box<Exchange>),
    /// Asks the service of this number first.
    ForwardAuth(usize, Table),
}

/// What is changed on the way to an upstream and back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Exchange {
    /// Keys of `proxy` beside `service` and `on_response`.
    pub(super) changes: Table,
    /// Conditions, and what is done then.
    pub(super) on_response: Vec<(Table, Reaction)>,
}

/// What is done with an upstream's answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reaction {
    Status(Value),
    Steps(Vec<Step>),
}

impl PartialEq for Step {
    /// Where it stands makes no difference.
    fn eq(&self, other: &Self) -> bool {
        (&self.when, &self.group, &self.action) == (&other.when, &other.group, &other.action)
    }
}

impl Step {
    /// A step that a directive stands for.
    pub(super) fn new(directive: &str, pos: Pos, when: Option<Table>, action: Action) -> Self {
        Self {
            directive: directive.to_owned(),
            pos,
            action_pos: pos,
            comments: Vec::new(),
            tail: Vec::new(),
            when,
            group: None,
            action,
        }
    }

    /// Whether an upstream may answer.
    pub(super) fn leads_to_upstream(&self) -> bool {
        match &self.action {
            Action::Proxy(..) => true,
            Action::Steps(inner) => inner.iter().any(Self::leads_to_upstream),
            Action::Key(..) | Action::ForwardAuth(..) => false,
        }
    }

    /// The one path that it is for, if its matcher has exactly one.
    pub(super) fn path(&self) -> Option<&str> {
        match self.when.as_ref()?.find("path")? {
            Value::List(list) => match list.as_slice() {
                [one] => match one.bare() {
                    Value::Text(text) => Some(text),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it may change what a matcher sees of the request.
    fn changes_request(&self) -> bool {
        let harmless = [
            "response_header",
            "redirect",
            "respond",
            "error",
            "abort",
            "basic_auth",
            "encode",
            "body_limit",
            "log",
            "files",
            "root",
        ];
        match &self.action {
            Action::Key(key, _) => !harmless.contains(key),
            Action::Proxy(..) => false,
            Action::Steps(_) | Action::ForwardAuth(..) => true,
        }
    }

    /// Whether a request for which it runs is answered by it in any case.
    fn answers(&self) -> bool {
        match &self.action {
            Action::Key(key, value) => match *key {
                "redirect" | "respond" | "error" | "abort" => true,
                "files" => match value.bare() {
                    Value::Table(table) => table.find("pass_thru").is_none(),
                    _ => true,
                },
                _ => false,
            },
            Action::Steps(steps) => answers(steps),
            Action::Proxy(..) => true,
            Action::ForwardAuth(..) => false,
        }
    }

    /// As a table of `[[handle]]`.
    pub(super) fn table(&self, names: &[String]) -> Table {
        let mut table = Table::at(self.pos);
        table.comments = Comments(self.comments.clone());
        table.tail = Comments(self.tail.clone());
        if let Some(when) = &self.when {
            table.put(self.pos, "match", Value::Table(when.clone()));
        }
        if let Some(group) = &self.group {
            table.put(self.pos, "group", Value::text(group.clone()));
        }
        let (key, value) = self.action.entry(self.action_pos, names);
        table.put(self.action_pos, key, value);
        table
    }
}

impl Action {
    /// The key of `[[handle]]` and its value.
    pub(super) fn entry(&self, pos: Pos, names: &[String]) -> (&'static str, Value) {
        match self {
            Self::Key(key, value) => (key, value.clone()),
            Self::Steps(steps) if steps.is_empty() => ("vars", Value::Table(Table::default())),
            Self::Steps(steps) => ("handle", sections(steps, names)),
            Self::Proxy(service, exchange) => {
                let name = service_name(*service, names);
                if **exchange == Exchange::default() {
                    return ("service", name);
                }
                let mut table = Table::at(pos).with(pos, "service", name);
                table
                    .entries
                    .extend(exchange.changes.entries.iter().cloned());
                if !exchange.on_response.is_empty() {
                    let reactions = exchange.on_response.iter();
                    let reactions = reactions.map(|(when, then)| reaction(when, then, pos, names));
                    table.put(pos, "on_response", Value::Sections(reactions.collect()));
                }
                ("proxy", Value::Table(table))
            }
            Self::ForwardAuth(service, table) => {
                let mut all = Table::at(pos).with(pos, "service", service_name(*service, names));
                all.entries.extend(table.entries.iter().cloned());
                ("forward_auth", Value::Table(all))
            }
        }
    }
}

fn service_name(service: usize, names: &[String]) -> Value {
    Value::text(names.get(service).cloned().unwrap_or_default())
}

fn reaction(when: &Table, then: &Reaction, pos: Pos, names: &[String]) -> Table {
    let mut table = when.clone();
    match then {
        Reaction::Status(status) => table.put(pos, "replace_status", status.clone()),
        Reaction::Steps(steps) if steps.is_empty() => {
            let nothing = Table::at(pos).with(pos, "vars", Value::Table(Table::default()));
            table.put(pos, "handle", Value::Sections(vec![nothing]));
        }
        Reaction::Steps(steps) => table.put(pos, "handle", sections(steps, names)),
    }
    table.origin = Origin(table.origin.0.or(Some(pos)));
    table
}

/// A list of steps as an array of tables.
pub(super) fn sections(steps: &[Step], names: &[String]) -> Value {
    Value::Sections(steps.iter().map(|step| step.table(names)).collect())
}

/// Whether no request passes the whole list.
pub(super) fn answers(steps: &[Step]) -> bool {
    let ends = |step: &Step| match &step.group {
        // Another one of the group may run in its place.
        Some(group) => {
            let mut same = steps
                .iter()
                .filter(|other| other.group.as_ref() == Some(group));
            same.all(Step::answers)
        }
        None => step.answers(),
    };
    steps.iter().any(|step| step.when.is_none() && ends(step))
}

/// Neighbours with the same matcher and group are one: the matcher is asked once, and all of them
/// run. Where nothing before the last of them changes the request, asking again makes no
/// difference and they stay apart, unless their group would let only one of them run.
pub(super) fn consolidate(steps: Vec<Step>) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    let mut steps = steps.into_iter().peekable();
    while let Some(first) = steps.next() {
        let mut run = vec![first];
        while let Some(next) =
            steps.next_if(|next| next.when == run[0].when && next.group == run[0].group)
        {
            run.push(next);
        }
        let grouped = run[0].group.is_some();
        let before_last = &run[..run.len() - 1];
        let must_merge = run.len() > 1
            && (grouped
                || (run[0].when.is_some() && before_last.iter().any(Step::changes_request)));
        if !must_merge {
            out.append(&mut run);
            continue;
        }
        let head = &run[0];
        let mut whole = Step::new(
            &head.directive,
            head.pos,
            head.when.clone(),
            Action::Steps(Vec::new()),
        );
        whole.group.clone_from(&head.group);
        for step in &mut run {
            step.when = None;
            step.group = None;
        }
        whole.action = Action::Steps(run);
        out.push(whole);
    }
    out
}

/// Shorter forms of the same: groups of one are none, a step within a step takes its place.
pub(super) fn simplify(steps: Vec<Step>) -> Vec<Step> {
    let groups: Vec<Option<String>> = steps.iter().map(|step| step.group.clone()).collect();
    let mut out = Vec::new();
    for mut step in steps {
        if step.group.is_some() && groups.iter().filter(|g| **g == step.group).count() < 2 {
            step.group = None;
        }
        let Action::Steps(inner) = &mut step.action else {
            out.push(step);
            continue;
        };
        let mut inner = simplify(std::mem::take(inner));
        if step.when.is_none() && step.group.is_none() && !inner.is_empty() {
            inner[0].comments.splice(0..0, step.comments);
            if let Some(last) = inner.last_mut() {
                last.tail.extend(step.tail);
            }
            // Its groups must not meet those of the list around it.
            let taken = |name: &str| {
                let around = groups.iter().flatten();
                let before = out.iter().filter_map(|step: &Step| step.group.as_ref());
                around.chain(before).any(|group| group == name)
            };
            let mut names: Vec<(String, String)> = Vec::new();
            for inside in &mut inner {
                let Some(group) = &inside.group else {
                    continue;
                };
                let known = names.iter().find(|(old, _)| old == group);
                let new = known.map(|(_, new)| new.clone()).unwrap_or_else(|| {
                    let mut number = 1;
                    let mut new = group.clone();
                    while taken(&new) {
                        number += 1;
                        new = format!("{group}-{number}");
                    }
                    names.push((group.clone(), new.clone()));
                    new
                });
                inside.group = Some(new);
            }
            out.append(&mut inner);
            continue;
        }
        if let [only] = inner.as_mut_slice()
            && only.when.is_none()
            && only.group.is_none()
        {
            step.comments.append(&mut only.comments);
            only.tail.append(&mut step.tail);
            step.tail = std::mem::take(&mut only.tail);
            step.action_pos = only.action_pos;
            step.action = only.action.clone();
            out.push(step);
            continue;
        }
        step.action = Action::Steps(inner);
        out.push(step);
    }
    out
}
