//! What each action does; the longer ones have files of their own.

use std::sync::Arc;

use super::run::{Flow, Outcome, Walk};
use super::state::{Deferred, set};
use super::{
    access, basic_auth, body_limit, concurrency, cors, fields, files, forward_auth, rate_limit,
    respond, response, rewrite, try_files,
};
use crate::config::step::Action;
use crate::pool::Planned;

/// Carries out one step.
pub(super) async fn act(walk: &mut Walk<'_>, step: &Arc<Planned>) -> Outcome {
    match &step.action {
        Action::Access(access) => Ok(access::check(walk, access)),
        Action::RateLimit(limit) => Ok(rate_limit::take(walk, step, limit)),
        Action::Concurrency(limit) => concurrency::enter(walk, step, limit).await,
        Action::Cors(cors) => cors::check(walk, cors).await,
        Action::BasicAuth(auth) => basic_auth::check(walk, step, auth).await,
        Action::ForwardAuth(auth) => forward_auth::ask(walk, auth).await,
        Action::BodyLimit(limit) => Ok(body_limit::begin(walk, *limit)),
        Action::Vars(vars) => {
            for (name, value) in vars {
                let value = walk.fill(value);
                set(&mut walk.handling().vars, name, value);
            }
            Ok(Flow::Next)
        }
        Action::Map(_) => {
            walk.handling().maps.push(Arc::clone(step));
            Ok(Flow::Next)
        }
        Action::Root(root) => {
            let root = walk.fill(root);
            walk.handling().root = Some(root);
            Ok(Flow::Next)
        }
        Action::RequestHeaders(ops) => {
            let mut request = walk.session.req_header().clone();
            fields::apply(ops, &mut request, &walk.scope())?;
            *walk.session.req_header_mut() = request;
            Ok(Flow::Next)
        }
        Action::ResponseHeaders(headers) => Ok(response::step(walk, step, headers)),
        Action::Rewrite(rewrite) => Ok(rewrite::step(walk, rewrite)),
        Action::TryFiles(try_files) => try_files::rewrite(walk, try_files).await,
        Action::Encode(_) => {
            let deferred = Deferred::Step(Arc::clone(step));
            walk.handling().deferred.push(deferred);
            Ok(Flow::Next)
        }
        Action::Log(log) => {
            for (name, value) in &log.append {
                let value = walk.fill(value);
                set(&mut walk.handling().log.append, name, value);
            }
            walk.handling().log.skip |= log.skip;
            Ok(Flow::Next)
        }
        Action::Steps(_) => match step.nested.first() {
            Some(nested) => walk.run(nested).await,
            None => Ok(Flow::Next),
        },
        Action::Respond(respond) => respond::respond(walk, respond).await,
        Action::Redirect(redirect) => respond::redirect(walk, redirect).await,
        Action::Error(error) => Ok(respond::error(walk, error)),
        Action::Abort => Ok(Flow::Abort),
        Action::Files(files) => files::serve(walk, files).await,
        Action::Proxy(_) => Ok(Flow::Proxy(Arc::clone(step))),
        Action::CopyResponse(copy) if copy.headers_only => Ok(walk.copy_fields(copy)),
        Action::CopyResponse(_) => Ok(Flow::Copy(Arc::clone(step))),
    }
}
