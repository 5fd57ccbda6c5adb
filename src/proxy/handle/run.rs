//! Goes through a plan.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use pingora::Result;
use pingora::proxy::Session;

use super::action;
use super::failure::Failure;
use super::matcher;
use super::scope::Scope;
use super::state::Handling;
use crate::config::step::Template;
use crate::pool::{Plan, Planned};
use crate::proxy::edge::Edge;
use crate::proxy::exchange::Exchange;

/// How a step or a list of steps ended.
#[derive(Debug)]
pub(in crate::proxy) enum Flow {
    /// The request goes on: to the next step, or to what follows the list.
    Next,
    /// It is answered.
    Answered,
    /// Its connection is to be closed without an answer.
    Abort,
    /// It goes to the service of this `proxy` step.
    Proxy(Arc<Planned>),
    /// The upstream's answer is sent, changed as this `copy_response` step says.
    Copy(Arc<Planned>),
    /// It is to be answered as an error.
    Fail(Failure),
}

/// `Err`: the client is gone, or its connection is of no more use.
pub(in crate::proxy) type Outcome = Result<Flow>;

/// One request on its way through plans.
pub(in crate::proxy) struct Walk<'a> {
    pub(in crate::proxy) edge: &'a Edge,
    pub(in crate::proxy) session: &'a mut Session,
    pub(in crate::proxy) exchange: &'a mut Exchange,
}

impl Walk<'_> {
    /// Runs a list to its end, or to the step that ends it.
    pub(in crate::proxy) fn run<'b>(
        &'b mut self,
        plan: &'b Plan,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'b>> {
        Box::pin(async move {
            // Groups of which a step ran already.
            let mut taken: Vec<u32> = Vec::new();
            for step in plan.steps() {
                if step.group.is_some_and(|group| taken.contains(&group)) {
                    continue;
                }
                if step.wants_body
                    && let Some(over) = self.read_body().await?
                {
                    return Ok(over);
                }
                if !self.holds(step) {
                    continue;
                }
                taken.extend(step.group);
                match action::act(self, step).await? {
                    Flow::Next => {}
                    over => return Ok(over),
                }
            }
            Ok(Flow::Next)
        })
    }

    /// Whether a step's condition holds now. What its expressions captured is remembered.
    fn holds(&mut self, step: &Planned) -> bool {
        let Some(matcher) = &step.when else {
            return true;
        };
        let Some(seen) = matcher::holds(matcher, &self.scope()) else {
            return false;
        };
        self.handling().saw(seen);
        true
    }

    /// What placeholders and conditions see.
    pub(super) fn scope(&self) -> Scope<'_> {
        Scope::new(self.session, self.exchange)
    }

    /// A text with its placeholders filled in, as of now.
    pub(super) fn fill(&self, template: &Template) -> String {
        self.scope().fill(template).into_owned()
    }

    /// The state of the request.
    pub(super) fn handling(&mut self) -> &mut Handling {
        self.exchange
            .handling
            .as_deref_mut()
            .expect("steps are run for a site that has some")
    }
}
