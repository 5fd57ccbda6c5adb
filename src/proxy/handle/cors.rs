//! `cors`: cross-origin requests (WHATWG Fetch §3.2).

use pingora::http::ResponseHeader;

use super::run::{Flow, Outcome, Walk};
use super::state::Deferred;
use super::write::Body;
use crate::config::step::Cors;
use crate::proxy::guard::Look;

/// Answers a preflight; the answer to any other request will say what its origin may read.
pub(super) async fn check(walk: &mut Walk<'_>, cors: &Cors) -> Outcome {
    let request = walk.session.req_header();
    match Look::at(cors, &request.method, &request.headers) {
        Look::Preflight(fields) => {
            let mut head = ResponseHeader::build(204, Some(fields.len()))?;
            for (name, value) in fields {
                head.insert_header(name, value)?;
            }
            walk.answer(head, Body::Empty).await
        }
        Look::Actual(answer) => {
            let deferred = Deferred::CrossOrigin(answer);
            walk.handling().deferred.push(deferred);
            Ok(Flow::Next)
        }
    }
}
