//! Runs the steps of sites and routes.
//!
//! A site's plan runs before its routes are looked at, then the plan of the route that was found.
//! A plan is gone through in order. Conditions (`matcher`) see the request as it is when their step
//! is reached, rewritten and all. What a step leaves for later is in the [`Handling`] of the
//! request: variables and captures for the placeholders (`scope`), changes of the answer's head
//! (`response`), the `proxy` action whose service was chosen (`forward`).
//!
//! Whatever answers instead of an upstream does it through [`Walk::answer`], so that every answer
//! gets the same changes, HSTS, and no body for HEAD. What fails is a [`Failure`]: the `errors`
//! steps of the site answer it, else the built-in page does (`failure`).
//!
//! A site without steps never comes here: its requests have no [`Handling`].
//!
//! Each action that is more than a few lines has a file of its own.

mod action;
mod body;
mod failure;
mod fields;
mod map;
mod matcher;
mod path;
mod query;
mod rehearse;
mod respond;
mod response;
mod rewrite;
mod run;
mod scope;
mod state;
mod target;
mod write;

mod access;
mod basic_auth;
mod body_limit;
mod concurrency;
mod cors;
mod encode;
mod files;
mod forward;
mod forward_auth;
mod rate_limit;
mod try_files;

#[cfg(test)]
mod test;

pub(super) use body_limit::hold;
pub(super) use failure::Failure;
pub(super) use forward::{Answer, CANNOT_ASK_ANOTHER, request};
pub use rehearse::{Asked, Rehearsal, RehearsalEnd};
pub(super) use run::{Flow, Walk};
pub(super) use state::{Handling, Original};
