//! What is done with a request on its way: steps with a condition and one action each.
//!
//! A site has a list of steps, and each of its routes another. The keys of a site or route such as
//! `basic_auth` or `rate_limit` become steps in the documented order; `[[site.handle]]` gives them
//! one by one, in the order of the file. A list is gone through from its start. A step whose
//! condition does not hold is passed over, as is a step of a group of which another step ran
//! already. An action either lets the request go on or answers it. What the steps of a site leave
//! unanswered goes to its routes, and what those leave to the service.
//!
//! This is the model of Caddy's HTTP routes, so that a Caddyfile can be said in it without loss
//! (caddyserver.com/docs/modules/http, `routes`).

mod action;
mod framing;
mod matcher;
mod password;
mod pattern;
mod security;
mod template;

pub use action::{
    Access, Action, BasicAuth, BodyLimit, Browse, Concurrency, CopyResponse, Cors, Encode,
    Encoding, ErrorAnswer, Files, ForwardAuth, ForwardTo, HeaderOp, HeaderOps, LogStep, MapEntry,
    MapInput, Proxied, Proxy, QueryOp, RateKey, RateLimit, Redirect, Respond, ResponseHeaders,
    ResponseMatcher, ResponseStep, Rewrite, TryFiles, TryPolicy, User, ValueMap,
};
pub use framing::is_framing;
pub use matcher::{FileMatch, Matcher, MatcherSet, TextMatch};
pub use password::{HashError, Hashed};
pub use pattern::Pattern;
pub use template::{Part, Template, TemplateError, TimeForm, Var};

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When it is taken; `None`: always.
    pub when: Option<Matcher>,
    /// Of the steps of one list with the same group, only the first whose condition holds runs.
    pub group: Option<u32>,
    /// What it does.
    pub action: Action,
}

impl Step {
    /// A step that is always taken.
    #[must_use]
    pub const fn always(action: Action) -> Self {
        Self {
            when: None,
            group: None,
            action,
        }
    }
}
