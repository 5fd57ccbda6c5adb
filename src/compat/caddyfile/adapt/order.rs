//! In which order the directives of a block run.
//!
//! The order is that of Caddy's documentation (caddyserver.com/docs/caddyfile/directives,
//! "Directive order"), changed by the global option `order`. Within one directive, the longer of two single paths
//! comes first, then what has a matcher, then the rest.

use super::step::Step;

/// Directives in their order. Those that mean nothing here have a place all the same, because `order`
/// may name them.
pub(super) const DEFAULT: [&str; 38] = [
    "tracing",
    "map",
    "vars",
    "fs",
    "root",
    "log_append",
    "skip_log",
    "log_skip",
    "log_name",
    "header",
    "copy_response_headers",
    "request_body",
    "timeouts",
    "redir",
    "method",
    "rewrite",
    "uri",
    "try_files",
    "basicauth",
    "basic_auth",
    "forward_auth",
    "request_header",
    "encode",
    "push",
    "intercept",
    "templates",
    "invoke",
    "handle",
    "handle_path",
    "route",
    "abort",
    "error",
    "copy_response",
    "respond",
    "metrics",
    "reverse_proxy",
    "php_fastcgi",
    "file_server",
];

/// Sorts the steps of a block. An insertion sort, as Caddy's for up to 20 steps: the comparison is no
/// order when paths and other matchers are mixed, so the result depends on the way it is done.
pub(super) fn sort(steps: &mut [Step], order: &[String]) {
    steps.sort_by_cached_key(|step| order.iter().position(|name| *name == step.directive));
    for run in steps.chunk_by_mut(|a, b| a.directive == b.directive) {
        for i in 1..run.len() {
            let mut j = i;
            while j > 0 && comes_before(&run[j], &run[j - 1]) {
                run.swap(j, j - 1);
                j -= 1;
            }
        }
    }
}

/// Of two steps of the same directive. Variables overwrite each other, so that of them the most specific
/// one comes last.
fn comes_before(a: &Step, b: &Step) -> bool {
    match a.directive.as_str() {
        "vars" => is_more_specific(b, a),
        _ => is_more_specific(a, b),
    }
}

fn is_more_specific(a: &Step, b: &Step) -> bool {
    match (a.path(), b.path()) {
        (Some(a), Some(b)) if !a.is_empty() && !b.is_empty() => {
            let (a_bare, b_bare) = (
                a.strip_suffix('*').unwrap_or(a),
                b.strip_suffix('*').unwrap_or(b),
            );
            if a_bare == b_bare {
                a.len() < b.len()
            } else if a_bare.len() == b_bare.len() {
                a_bare < b_bare
            } else {
                a_bare.len() > b_bare.len()
            }
        }
        _ => a.when.is_some() && b.when.is_none(),
    }
}
