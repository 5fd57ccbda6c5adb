//! What the proxy itself asks others: one outbound client and the resolver of upstream names.
//!
//! [`Client`] makes one exchange on a fresh connection and lets go of it; it keeps no pool, so
//! each exchange tests the whole way there. One deadline covers everything, and every failure is
//! a [`Failure`] whose text is a reason for people. [`Resolver`] turns a name into all of its
//! addresses and says how long they are good for.
//!
//! Not here: retries, redirects, cookies, proxies, and what an answer means. Requests of clients
//! do not go this way; those are Pingora's.

mod ask;
mod caa;
mod client;
mod failure;
mod fetch;
mod grpc;
mod resolver;
mod wire;

pub use ask::Ask;
pub use caa::Caa;
pub use client::{Answer, Client, Dial, Get, Origin};
pub use failure::{Failure, Phase};
pub use grpc::ServingStatus;
pub use resolver::{LookupError, Resolved, Resolver};
