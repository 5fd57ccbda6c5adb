//! The steps of a site or route in the form in which they are run: shared, and each with a place
//! for what it remembers between requests.
//!
//! A request that must know of a step later (a change of the answer's head, say) keeps the
//! [`Planned`] alive instead of copying it, so a reload in between does not matter.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::config::step::{Action, HeaderOp, HeaderOps, Matcher, Proxied, Proxy, Step, Template};

/// A list of steps in order. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Plan(Option<Arc<[Arc<Planned>]>>);

/// One step.
#[derive(Debug)]
pub struct Planned {
    /// When it is taken; `None`: always.
    pub when: Option<Matcher>,
    /// Of the steps of one list with the same group, only the first whose condition holds runs.
    pub group: Option<u32>,
    /// What it does. The lists inside it are empty: they are in `nested`.
    pub action: Action,
    /// The lists inside the action: of [`Action::Steps`] the only one, of [`Action::Proxy`] one
    /// for each entry of `on_response` (empty for one that has none).
    pub nested: Vec<Plan>,
    /// Whether it looks into the request's body.
    pub wants_body: bool,
    state: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Plan {
    /// Prepares a list.
    #[must_use]
    pub fn new(steps: &[Step]) -> Self {
        Self::renewed(steps, &Self::default())
    }

    /// Prepares a list that replaces `before`: a step that did not change keeps what it
    /// remembers.
    #[must_use]
    pub fn renewed(steps: &[Step], before: &Self) -> Self {
        if steps.is_empty() {
            return Self::default();
        }
        let planned = steps.iter().enumerate().map(|(at, step)| {
            let same_place = before.steps().get(at);
            let anywhere = before.steps().iter();
            let mut fresh = Planned::new(step, same_place.map_or(&[], |old| &old.nested));
            let old = same_place.into_iter().chain(anywhere).find(|old| {
                old.when == fresh.when && old.group == fresh.group && old.action == fresh.action
            });
            if let Some(state) = old.and_then(|old| old.state.get()) {
                fresh.state = OnceLock::from(Arc::clone(state));
            }
            Arc::new(fresh)
        });
        Self(Some(planned.collect()))
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[Arc<Planned>] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether any step, nested ones included, satisfies `wanted`.
    pub fn any(&self, wanted: &dyn Fn(&Action) -> bool) -> bool {
        self.steps()
            .iter()
            .any(|step| wanted(&step.action) || step.nested.iter().any(|nested| nested.any(wanted)))
    }
}

impl Planned {
    fn new(step: &Step, before: &[Plan]) -> Self {
        let renewed = |at: usize, steps: &[Step]| {
            let empty = Plan::default();
            Plan::renewed(steps, before.get(at).unwrap_or(&empty))
        };
        let (action, nested) = match &step.action {
            Action::Steps(steps) => (Action::Steps(Vec::new()), vec![renewed(0, steps)]),
            Action::Proxy(proxy) => {
                let mut proxy = Proxy::clone(proxy);
                let mut nested = Vec::with_capacity(proxy.on_response.len());
                for (at, step) in proxy.on_response.iter_mut().enumerate() {
                    nested.push(match &mut step.then {
                        Proxied::Status(_) => Plan::default(),
                        Proxied::Steps(steps) => renewed(at, &std::mem::take(steps)),
                    });
                }
                (Action::Proxy(Box::new(proxy)), nested)
            }
            other => (other.clone(), Vec::new()),
        };
        Self {
            when: step.when.clone(),
            group: step.group,
            wants_body: speaks_of_body(step),
            action,
            nested,
            state: OnceLock::new(),
        }
    }

    /// What this step remembers between requests, made by the first one. One step keeps one type
    /// of it, that of its action.
    pub fn state<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let state = self.state.get_or_init(|| Arc::new(make()));
        Arc::downcast(Arc::clone(state)).expect("an action keeps one type of state")
    }
}

/// Whether a text of the step has the placeholder of the body.
fn speaks_of_body(step: &Step) -> bool {
    let of_matcher = |matcher: &Matcher| {
        let sets = matcher.0.iter();
        let vars = sets
            .clone()
            .flat_map(|set| set.vars.iter().map(|(text, _)| text));
        let regexps = sets.flat_map(|set| set.vars_regexp.iter().map(|(_, text, _)| text));
        vars.chain(regexps).any(Template::speaks_of_body)
    };
    let of_ops = |ops: &HeaderOps| {
        ops.0.iter().any(|op| match op {
            HeaderOp::Remove(_) => false,
            HeaderOp::Set(_, text)
            | HeaderOp::Add(_, text)
            | HeaderOp::Default(_, text)
            | HeaderOp::Replace { with: text, .. } => text.speaks_of_body(),
        })
    };
    let of_action = match &step.action {
        Action::Vars(vars) => vars.iter().any(|(_, text)| text.speaks_of_body()),
        Action::Map(map) => map.source.speaks_of_body(),
        Action::RequestHeaders(ops) => of_ops(ops),
        Action::ResponseHeaders(headers) => of_ops(&headers.ops),
        Action::Log(log) => log.append.iter().any(|(_, text)| text.speaks_of_body()),
        Action::Respond(respond) => respond.body.speaks_of_body(),
        Action::Redirect(redirect) => redirect.to.speaks_of_body(),
        Action::Error(error) => error.message.speaks_of_body(),
        Action::Proxy(proxy) => {
            let answer = proxy.response_headers.iter();
            of_ops(&proxy.request_headers) || answer.map(|change| &change.ops).any(of_ops)
        }
        _ => false,
    };
    of_action || step.when.as_ref().is_some_and(of_matcher)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::step::BodyLimit;

    fn limit(bytes: u64) -> Step {
        Step::always(Action::BodyLimit(BodyLimit { bytes }))
    }

    fn count(plan: &Plan, at: usize) -> u32 {
        let count = plan.steps()[at].state(|| AtomicU32::new(0));
        count.fetch_add(1, Ordering::Relaxed)
    }

    #[test]
    fn a_step_that_did_not_change_keeps_what_it_remembers() {
        let before = Plan::new(&[limit(1), limit(2)]);
        assert_eq!((count(&before, 0), count(&before, 0)), (0, 1));
        count(&before, 1);
        let after = Plan::renewed(&[limit(3), limit(2), limit(1)], &before);
        assert_eq!(count(&after, 0), 0, "a changed step begins anew");
        assert_eq!(count(&after, 1), 1, "an unchanged one goes on");
        assert_eq!(count(&after, 2), 2, "a moved one too");
    }

    #[test]
    fn nested_lists_keep_it_too_and_are_taken_out_of_their_action() {
        let nested = |steps: Vec<Step>| [Step::always(Action::Steps(steps))];
        let before = Plan::new(&nested(vec![limit(1)]));
        assert_eq!(before.steps()[0].action, Action::Steps(Vec::new()));
        assert_eq!(count(&before.steps()[0].nested[0], 0), 0);
        let after = Plan::renewed(&nested(vec![limit(1), limit(2)]), &before);
        assert_eq!(count(&after.steps()[0].nested[0], 0), 1);
        assert!(after.any(&|action| *action == Action::BodyLimit(BodyLimit { bytes: 2 })));
        assert!(!after.any(&|action| matches!(action, Action::Abort)));
    }

    #[test]
    fn no_steps_are_an_empty_plan() {
        assert!(Plan::new(&[]).is_empty());
        assert!(!Plan::new(&[limit(1)]).is_empty());
    }
}
