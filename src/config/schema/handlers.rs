//! Keys of handlers: what a site, a route or a step does with a request.
//!
//! What is said of `site.access` holds for `site.route.access` and `site.handle.access` too, and
//! so on; what is said of `site.handle` holds for `site.error`, `site.route.handle` and for steps
//! within steps.

use super::{Key, Table, both, key};

/// What sites, routes and steps have in common, in the order in which it is done.
pub const HANDLERS: &[Key] = &[
    key("access", "table", ""),
    key("concurrency", "table", ""),
    key("rate_limit", "table", ""),
    key("cors", "table", ""),
    key("basic_auth", "table", ""),
    key("forward_auth", "table", ""),
    key("body_limit", "size", ""),
    key("request_header", "table", ""),
    key("response_header", "table", ""),
    key("security_headers", "boolean", "false"),
    key("encode", "boolean or table", "false"),
    key("rewrite", "text or table", ""),
    key("root", "text", ""),
    key("try_files", "list or table", ""),
    key("files", "boolean or table", "false"),
    key("respond", "status, text or table", ""),
];

/// `[[site.handle]]`.
pub const STEP: Table = Table {
    path: "site.handle",
    keys: &both::<{ STEP_KEYS.len() + HANDLERS.len() }>(STEP_KEYS, HANDLERS),
};

const STEP_KEYS: &[Key] = &[
    key("match", "table", ""),
    key("group", "text", ""),
    key("vars", "table of texts", ""),
    key("map", "table", ""),
    key("log", "boolean or table", ""),
    key("redirect", "text or table", ""),
    key("error", "status or table", ""),
    key("abort", "boolean", ""),
    key("proxy", "table", ""),
    key("service", "text", ""),
    key("copy_response", "boolean or table", ""),
    key("handle", "list of tables", ""),
];

/// `match = { ... }` of a step.
pub const MATCH: Table = Table {
    path: "site.handle.match",
    keys: &[
        key("path", "text or list", ""),
        key("path_regexp", "table", ""),
        key("host", "host or list", ""),
        key("method", "text or list", ""),
        key("header", "table of texts or lists", ""),
        key("header_regexp", "list of tables", ""),
        key("query", "table of texts or lists", ""),
        key("remote_ip", "network or list", ""),
        key("client_ip", "network or list", ""),
        key("protocol", "text", ""),
        key("vars", "list of tables", ""),
        key("vars_regexp", "list of tables", ""),
        key("file", "table", ""),
        key("error_status", "status or list", ""),
        key("not", "list of tables", ""),
        key("any", "list of tables", ""),
    ],
};

/// `path_regexp = { ... }` of a condition.
pub const MATCH_PATH_REGEXP: Table = Table {
    path: "site.handle.match.path_regexp",
    keys: &[key("name", "text", r#""""#), key("pattern", "regexp", "")],
};

/// `header_regexp = [{ ... }]` of a condition.
pub const MATCH_HEADER_REGEXP: Table = Table {
    path: "site.handle.match.header_regexp",
    keys: &[
        key("name", "text", r#""""#),
        key("field", "text", ""),
        key("pattern", "regexp", ""),
    ],
};

/// `vars = [{ ... }]` of a condition.
pub const MATCH_VARS: Table = Table {
    path: "site.handle.match.vars",
    keys: &[key("value", "text", ""), key("is", "text or list", "")],
};

/// `vars_regexp = [{ ... }]` of a condition.
pub const MATCH_VARS_REGEXP: Table = Table {
    path: "site.handle.match.vars_regexp",
    keys: &[
        key("name", "text", r#""""#),
        key("value", "text", ""),
        key("pattern", "regexp", ""),
    ],
};

/// `file = { ... }` of a condition.
pub const MATCH_FILE: Table = Table {
    path: "site.handle.match.file",
    keys: &[
        key("root", "text", ""),
        key("try", "text or list", r#"["{path}"]"#),
        key("policy", "text", r#""first_exist""#),
        key("split", "text or list", "[]"),
    ],
};

/// `access = { ... }`.
pub const ACCESS: Table = Table {
    path: "site.access",
    keys: &[
        key("allow", "network or list", ""),
        key("deny", "network or list", ""),
    ],
};

/// `concurrency = { ... }`.
pub const CONCURRENCY: Table = Table {
    path: "site.concurrency",
    keys: &[
        key("requests", "number", ""),
        key("queue", "number", "0"),
        key("wait", "duration", r#""5s""#),
        key("per_client", "boolean", "false"),
    ],
};

/// `rate_limit = { ... }`.
pub const RATE_LIMIT: Table = Table {
    path: "site.rate_limit",
    keys: &[
        key("requests", "number", ""),
        key("window", "duration", r#""1s""#),
        key("burst", "number", ""),
        key("key", "text", r#""client""#),
    ],
};

/// `cors = { ... }`.
pub const CORS: Table = Table {
    path: "site.cors",
    keys: &[
        key("origins", "text or list", ""),
        key(
            "methods",
            "list of texts",
            r#"["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]"#,
        ),
        key("headers", "list of texts", "[]"),
        key("expose", "list of texts", "[]"),
        key("credentials", "boolean", "false"),
        key("max_age", "duration", r#""10m""#),
    ],
};

/// `basic_auth = { ... }`.
pub const BASIC_AUTH: Table = Table {
    path: "site.basic_auth",
    keys: &[
        key("realm", "text", r#""restricted""#),
        key("users", "table of texts", ""),
    ],
};

/// `forward_auth = { ... }`.
pub const FORWARD_AUTH: Table = Table {
    path: "site.forward_auth",
    keys: &[
        key("service", "text", ""),
        key("upstream", "upstream", ""),
        key("uri", "text", r#""{uri}""#),
        key("copy_headers", "list of texts", "[]"),
        key("headers", "table", ""),
        key("timeout", "duration", r#""5s""#),
    ],
};

/// `request_header = { ... }`, and what other changes of fields have in common with it.
pub const REQUEST_HEADER: Table = Table {
    path: "site.request_header",
    keys: HEADER_KEYS,
};

const HEADER_KEYS: &[Key] = &[
    key("add", "table of texts or lists", ""),
    key("default", "table of texts", ""),
    key("set", "table of texts", ""),
    key("remove", "text or list", ""),
    key("replace", "list of tables", ""),
];

/// `replace = [{ ... }]` among changes of fields.
pub const HEADER_REPLACE: Table = Table {
    path: "site.request_header.replace",
    keys: &[
        key("name", "text", r#""*""#),
        key("find", "regexp", ""),
        key("with", "text", r#""""#),
    ],
};

/// `response_header = { ... }`.
pub const RESPONSE_HEADER: Table = Table {
    path: "site.response_header",
    keys: &both::<{ HEADER_KEYS.len() + RESPONSE_KEYS.len() }>(HEADER_KEYS, RESPONSE_KEYS),
};

const RESPONSE_KEYS: &[Key] = &[
    key("status", "status or list", ""),
    key("header", "table of texts or lists", ""),
    key("defer", "boolean", "true"),
];

/// `encode = { ... }`.
pub const ENCODE: Table = Table {
    path: "site.encode",
    keys: &[
        key("formats", "text or list", r#"["zstd", "br", "gzip"]"#),
        key("levels", "table", ""),
        key("min_length", "size", "512"),
        key("types", "text or list", ""),
        key("status", "status or list", ""),
        key("header", "table of texts or lists", ""),
    ],
};

/// `levels = { ... }` of `encode`.
pub const ENCODE_LEVELS: Table = Table {
    path: "site.encode.levels",
    keys: &[
        key("zstd", "number", "3"),
        key("br", "number", "4"),
        key("gzip", "number", "5"),
    ],
};

/// `rewrite = { ... }`.
pub const REWRITE: Table = Table {
    path: "site.rewrite",
    keys: &[
        key("method", "text", ""),
        key("to", "text", ""),
        key("strip_prefix", "text", ""),
        key("strip_suffix", "text", ""),
        key("add_prefix", "text", ""),
        key("replace", "list of tables", ""),
        key("path_regexp", "list of tables", ""),
        key("query", "table", ""),
    ],
};

/// `replace = [{ ... }]` of `rewrite`.
pub const REWRITE_REPLACE: Table = Table {
    path: "site.rewrite.replace",
    keys: &[
        key("find", "text", ""),
        key("with", "text", r#""""#),
        key("limit", "number", "0"),
    ],
};

/// `path_regexp = [{ ... }]` of `rewrite`.
pub const REWRITE_REGEXP: Table = Table {
    path: "site.rewrite.path_regexp",
    keys: &[key("find", "regexp", ""), key("with", "text", r#""""#)],
};

/// `query = { ... }` of `rewrite`.
pub const REWRITE_QUERY: Table = Table {
    path: "site.rewrite.query",
    keys: &[
        key("rename", "table of texts", ""),
        key("set", "table of texts", ""),
        key("add", "table of texts or lists", ""),
        key("replace", "list of tables", ""),
        key("delete", "text or list", ""),
    ],
};

/// `replace = [{ ... }]` of `rewrite.query`.
pub const QUERY_REPLACE: Table = Table {
    path: "site.rewrite.query.replace",
    keys: &[
        key("name", "text", r#""*""#),
        key("find", "regexp", ""),
        key("with", "text", r#""""#),
    ],
};

/// `try_files = { ... }`.
pub const TRY_FILES: Table = Table {
    path: "site.try_files",
    keys: &[
        key("root", "text", ""),
        key("files", "text or list", ""),
        key("policy", "text", r#""first_exist""#),
    ],
};

/// `files = { ... }`.
pub const FILES: Table = Table {
    path: "site.files",
    keys: &[
        key("root", "text", ""),
        key("hide", "text or list", "[]"),
        key("dotfiles", "boolean", "false"),
        key("follow", "boolean", "false"),
        key("index", "text or list", r#"["index.html", "index.txt"]"#),
        key("browse", "boolean or table", "false"),
        key("precompressed", "text or list", "[]"),
        key("status", "status", ""),
        key("pass_thru", "boolean", "false"),
        key("canonical", "boolean", "true"),
    ],
};

/// `browse = { ... }` of `files`.
pub const BROWSE: Table = Table {
    path: "site.files.browse",
    keys: &[key("template", "path", "")],
};

/// `redirect = { ... }`.
pub const REDIRECT: Table = Table {
    path: "site.redirect",
    keys: &[
        key("to", "text", ""),
        key("status", "status", "302"),
        key("html", "boolean", "false"),
    ],
};

/// `respond = { ... }`.
pub const RESPOND: Table = Table {
    path: "site.respond",
    keys: &[
        key("status", "status", "200"),
        key("body", "text", r#""""#),
        key("close", "boolean", "false"),
    ],
};

/// `error = { ... }` of a step.
pub const ERROR: Table = Table {
    path: "site.handle.error",
    keys: &[
        key("status", "status", "500"),
        key("message", "text", r#""""#),
    ],
};

/// `map = { ... }` of a step.
pub const MAP: Table = Table {
    path: "site.handle.map",
    keys: &[
        key("source", "text", ""),
        key("entries", "list of tables", ""),
        key("default", "table of texts", ""),
    ],
};

/// `entries = [{ ... }]` of `map`.
pub const MAP_ENTRY: Table = Table {
    path: "site.handle.map.entries",
    keys: &[
        key("input", "text", ""),
        key("pattern", "regexp", ""),
        key("set", "table of texts", ""),
    ],
};

/// `log = { ... }` of a step.
pub const LOG_STEP: Table = Table {
    path: "site.handle.log",
    keys: &[
        key("skip", "boolean", "false"),
        key("append", "table of texts", ""),
    ],
};

/// `proxy = { ... }` of a step.
pub const PROXY: Table = Table {
    path: "site.handle.proxy",
    keys: &[
        key("service", "text", ""),
        key("upstream", "list of upstreams", ""),
        key("rewrite", "text or table", ""),
        key("request_header", "table", ""),
        key("response_header", "table or list of tables", ""),
        key("on_response", "list of tables", ""),
    ],
};

/// `on_response = [{ ... }]` of `proxy`.
pub const ON_RESPONSE: Table = Table {
    path: "site.handle.proxy.on_response",
    keys: &[
        key("status", "status or list", ""),
        key("header", "table of texts or lists", ""),
        key("replace_status", "status", ""),
        key("handle", "list of tables", ""),
    ],
};

/// `copy_response = { ... }` of a step.
pub const COPY_RESPONSE: Table = Table {
    path: "site.handle.copy_response",
    keys: &[
        key("status", "status", ""),
        key("include", "text or list", "[]"),
        key("exclude", "text or list", "[]"),
        key("headers_only", "boolean", "false"),
    ],
};
