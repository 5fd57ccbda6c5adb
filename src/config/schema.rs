//! Every key that a file may have. The parser looks keys up here and refuses the others, so
//! this list cannot drift from what is read; tests hold `docs/config.md` and
//! `config/full.toml` to it.

pub mod handlers;

use handlers::HANDLERS;

/// One table of the file.
#[derive(Debug)]
pub struct Table {
    /// Its path, such as `service.NAME.health`; empty for the top of the file. `site` and
    /// `notify` are lists of tables. What is said of `rollback` holds for
    /// `service.NAME.rollback` too.
    pub path: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// One key of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is: `duration`, `rate`, `size`, `text`, `table`, ...
    pub form: &'static str,
    /// Its default as TOML; empty when there is none.
    pub default: &'static str,
}

impl Key {
    /// Whether the value is another table, or a list of tables.
    #[must_use]
    pub fn is_table(&self) -> bool {
        matches!(self.form, "table" | "list of tables")
    }
}

/// Every table, in the order of the documentation.
pub const TABLES: &[&Table] = &[
    &ROOT,
    &LISTEN,
    &TIMEOUTS,
    &LIMITS,
    &HISTORY,
    &MAINTENANCE,
    &LOG,
    &LOG_ACCESS,
    &LOG_ROTATE,
    &SITE,
    &SITE_ACCESS_LOG,
    &SITE_TLS,
    &SITE_CLIENT_AUTH,
    &SITE_HSTS,
    &ROUTE,
    &handlers::STEP,
    &handlers::MATCH,
    &handlers::MATCH_PATH_REGEXP,
    &handlers::MATCH_HEADER_REGEXP,
    &handlers::MATCH_VARS,
    &handlers::MATCH_VARS_REGEXP,
    &handlers::MATCH_FILE,
    &handlers::ACCESS,
    &handlers::CONCURRENCY,
    &handlers::RATE_LIMIT,
    &handlers::CORS,
    &handlers::BASIC_AUTH,
    &handlers::FORWARD_AUTH,
    &handlers::REQUEST_HEADER,
    &handlers::HEADER_REPLACE,
    &handlers::RESPONSE_HEADER,
    &handlers::ENCODE,
    &handlers::ENCODE_LEVELS,
    &handlers::REWRITE,
    &handlers::REWRITE_REPLACE,
    &handlers::REWRITE_REGEXP,
    &handlers::REWRITE_QUERY,
    &handlers::QUERY_REPLACE,
    &handlers::TRY_FILES,
    &handlers::FILES,
    &handlers::BROWSE,
    &handlers::REDIRECT,
    &handlers::RESPOND,
    &handlers::ERROR,
    &handlers::MAP,
    &handlers::MAP_ENTRY,
    &handlers::LOG_STEP,
    &handlers::PROXY,
    &handlers::ON_RESPONSE,
    &handlers::COPY_RESPONSE,
    &SERVICE,
    &RELEASE,
    &SERVICE_DOCKER,
    &STICKY,
    &SERVICE_TLS,
    &RETRY,
    &SERVICE_TIMEOUTS,
    &HEALTH,
    &EJECT,
    &SWITCH,
    &ROLLBACK,
    &BASELINE,
    &ERRORS,
    &FAST,
    &LATENCY,
    &GATE,
    &AFTER,
    &RULES,
    &ACME,
    &ACME_FALLBACK,
    &DOCKER,
    &DEPLOY,
    &DEPLOY_SMOKE,
    &JOB,
    &JOB_SUCCESS,
    &NOTIFY,
];

/// A key that people look for here but that lives elsewhere, with what to do instead.
/// `table` and `key` are where they write it.
pub(super) const MOVED: &[(&str, &str, &str)] = &[
    (
        "rollback",
        "bake",
        "the watch after a cutover is set by switch.observe, switch.observe_requests and \
         switch.observe_max of a service",
    ),
    (
        "rollback",
        "drain",
        "draining is set by switch.drain, switch.websocket_drain and switch.sse_drain of a service",
    ),
    (
        "rollback.gate",
        "rescue",
        "write rescue in the rollback table itself",
    ),
    (
        "site.handle",
        "upstream",
        "write proxy = { upstream = [...] }",
    ),
    (
        "service.NAME",
        "upstream",
        "the upstreams of a service are those of its slots: blue = [...] and green = [...]",
    ),
    (
        "service.NAME",
        "upstreams",
        "the upstreams of a service are those of its slots: blue = [...] and green = [...]",
    ),
];

/// Two lists of keys as one.
const fn both<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    let mut all = [key("", "", ""); N];
    let mut n = 0;
    while n < N {
        all[n] = if n < first.len() {
            first[n]
        } else {
            second[n - first.len()]
        };
        n += 1;
    }
    all
}

const fn key(name: &'static str, form: &'static str, default: &'static str) -> Key {
    Key {
        name,
        form,
        default,
    }
}

/// The top of the file.
pub const ROOT: Table = Table {
    path: "",
    keys: &[
        key("state_dir", "path", r#""/data/cutover""#),
        key("shutdown_grace", "duration", r#""30s""#),
        key("shutdown_delay", "duration", r#""0s""#),
        key("listen", "table", ""),
        key("timeouts", "table", ""),
        key("limits", "table", ""),
        key("history", "table", ""),
        key("maintenance", "table", ""),
        key("log", "table", ""),
        key("site", "list of tables", ""),
        key("service", "table", ""),
        key("rollback", "table", ""),
        key("acme", "table", ""),
        key("docker", "table", ""),
        key("deploy", "table", ""),
        key("job", "list of tables", ""),
        key("notify", "list of tables", ""),
    ],
};

/// `[listen]`.
pub const LISTEN: Table = Table {
    path: "listen",
    keys: &[
        key("http", "list of addresses", r#"["0.0.0.0:80", "[::]:80"]"#),
        key(
            "https",
            "list of addresses",
            r#"["0.0.0.0:443", "[::]:443"]"#,
        ),
        key("ops", "address", r#""0.0.0.0:9180""#),
        key(
            "ops_allow",
            "list of networks",
            r#"["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]"#,
        ),
        key("admin", "path", r#""/run/cutover/admin.sock""#),
        key("trusted_proxies", "list of networks", "[]"),
        key("proxy_protocol", "list of networks", "[]"),
    ],
};

/// `[timeouts]`.
pub const TIMEOUTS: Table = Table {
    path: "timeouts",
    keys: &[
        key("tls_handshake", "duration", r#""10s""#),
        key("request_head", "duration", r#""10s""#),
        key("request_body", "duration", r#""60s""#),
        key("keep_alive", "duration", r#""75s""#),
        key("client_write", "duration", r#""60s""#),
        key("connect", "duration", r#""5s""#),
        key("upstream_read", "duration", r#""60s""#),
        key("upstream_write", "duration", r#""60s""#),
        key("upstream_idle", "duration", r#""50s""#),
        key("stream_idle", "duration", r#""1h""#),
    ],
};

/// `[limits]`.
pub const LIMITS: Table = Table {
    path: "limits",
    keys: &[
        key("request_head", "size", r#""64KiB""#),
        key("request_target", "size", r#""16KiB""#),
        key("connections", "number", "20000"),
        key("connections_per_client", "number", ""),
        key("upstream_keep_alive", "number", "512"),
        key("attempts", "number", "3"),
        key("held_requests", "number", "10000"),
        key("held_bytes", "size", r#""64MiB""#),
    ],
};

/// `[history]`.
pub const HISTORY: Table = Table {
    path: "history",
    keys: &[
        key("keep", "number", "1000"),
        key("age", "duration", r#""90d""#),
    ],
};

/// `[maintenance]`.
pub const MAINTENANCE: Table = Table {
    path: "maintenance",
    keys: &[
        key("allow", "list of networks", "[]"),
        key("page", "path", ""),
        key("retry_after", "duration", r#""60s""#),
    ],
};

/// `[log]`.
pub const LOG: Table = Table {
    path: "log",
    keys: &[
        key("access", "table", ""),
        key("redact", "list of texts", "[]"),
    ],
};

/// `[log.access]`.
pub const LOG_ACCESS: Table = Table {
    path: "log.access",
    keys: ACCESS_LOG_KEYS,
};

const ACCESS_LOG_KEYS: &[Key] = &[
    key("enabled", "boolean", "true"),
    key("sample", "rate", "1.0"),
    key("file", "path", ""),
    key("format", "text", r#""cutover""#),
    key("skip", "list of texts", "[]"),
    key("rotate", "table", ""),
];

/// `[log.access.rotate]`.
pub const LOG_ROTATE: Table = Table {
    path: "log.access.rotate",
    keys: &[
        key("size", "size", r#""100MB""#),
        key("age", "duration", ""),
        key("keep", "number", "10"),
        key("compress", "boolean", "true"),
    ],
};

/// `[[site]]`.
pub const SITE: Table = Table {
    path: "site",
    keys: &both::<{ SITE_KEYS.len() + HANDLERS.len() }>(SITE_KEYS, HANDLERS),
};

const SITE_KEYS: &[Key] = &[
    key("hosts", "list of hosts", ""),
    key("default", "boolean", "false"),
    key("port", "number", ""),
    key("tls", "text or table", r#""auto""#),
    key("min_version", "text", r#""1.2""#),
    key("client_auth", "table", ""),
    key("hsts", "table", ""),
    key("redirect", "boolean, text or table", "true"),
    key("canonical_host", "text", ""),
    key("error_pages", "table of texts", ""),
    key("access_log", "table", ""),
    key("service", "text", ""),
    key("upstream", "list of upstreams", ""),
    key("handle", "list of tables", ""),
    key("error", "list of tables", ""),
    key("route", "list of tables", ""),
];

/// `access_log = { ... }` of a site.
pub const SITE_ACCESS_LOG: Table = Table {
    path: "site.access_log",
    keys: ACCESS_LOG_KEYS,
};

/// `tls = { ... }` of a site.
pub const SITE_TLS: Table = Table {
    path: "site.tls",
    keys: &[key("cert", "path", ""), key("key", "path", "")],
};

/// `client_auth = { ... }` of a site.
pub const SITE_CLIENT_AUTH: Table = Table {
    path: "site.client_auth",
    keys: &[key("mode", "text", r#""require""#), key("ca", "path", "")],
};

/// `hsts = { ... }` of a site.
pub const SITE_HSTS: Table = Table {
    path: "site.hsts",
    keys: &[
        key("max_age", "duration", ""),
        key("subdomains", "boolean", "false"),
        key("preload", "boolean", "false"),
    ],
};

/// `[[site.route]]`.
pub const ROUTE: Table = Table {
    path: "site.route",
    keys: &both::<{ ROUTE_KEYS.len() + HANDLERS.len() }>(ROUTE_KEYS, HANDLERS),
};

const ROUTE_KEYS: &[Key] = &[
    key("path", "path pattern", ""),
    key("method", "text or list", ""),
    key("header", "table of texts", ""),
    key("query", "table of texts", ""),
    key("client_ip", "network or list", ""),
    key("redirect", "text or table", ""),
    key("service", "text", ""),
    key("upstream", "list of upstreams", ""),
    key("handle", "list of tables", ""),
];

/// `[service.NAME]`.
pub const SERVICE: Table = Table {
    path: "service.NAME",
    keys: &[
        key("blue", "list of upstreams", ""),
        key("green", "list of upstreams", ""),
        key("stack", "text", r#""default""#),
        key("live", "text", ""),
        key("release", "table", ""),
        key("balance", "text", r#""least_conn""#),
        key("sticky", "table", ""),
        key("keep_alive", "boolean", "true"),
        key("proxy_protocol", "text", ""),
        key("docker", "table", ""),
        key("type", "text", r#""web""#),
        key("order", "text", r#""start-first""#),
        key("stop_grace", "duration", ""),
        key("tls", "table", ""),
        key("retry", "table", ""),
        key("timeouts", "table", ""),
        key("health", "table", ""),
        key("eject", "table", ""),
        key("switch", "table", ""),
        key("rollback", "table", ""),
    ],
};

/// `release = { ... }` of a service.
pub const RELEASE: Table = Table {
    path: "service.NAME.release",
    keys: &[key("blue", "text", ""), key("green", "text", "")],
};

/// `docker = { ... }` of a service.
pub const SERVICE_DOCKER: Table = Table {
    path: "service.NAME.docker",
    keys: &[
        key("service", "text", ""),
        key("project", "text", ""),
        key("port", "number", ""),
    ],
};

/// `[service.NAME.tls]`.
pub const SERVICE_TLS: Table = Table {
    path: "service.NAME.tls",
    keys: &[
        key("ca", "path", ""),
        key("cert", "path", ""),
        key("key", "path", ""),
        key("server_name", "text", ""),
        key("insecure_skip_verify", "boolean", "false"),
        key("alpn", "list of texts", r#"["h2", "http/1.1"]"#),
    ],
};

/// `sticky = { ... }` of a service.
pub const STICKY: Table = Table {
    path: "service.NAME.sticky",
    keys: &[
        key("cookie", "text", ""),
        key("max_age", "duration", ""),
        key("secure", "boolean", ""),
        key("same_site", "text", r#""lax""#),
    ],
};

/// `[service.NAME.retry]`.
pub const RETRY: Table = Table {
    path: "service.NAME.retry",
    keys: &[
        key("attempts", "number", ""),
        key("budget", "rate", "0.2"),
        key("budget_floor", "number", "10"),
        key("per_try_timeout", "duration", ""),
        key("on", "list of texts", r#"["connect", "timeout"]"#),
        key("try_duration", "duration", r#""0s""#),
        key("try_interval", "duration", r#""250ms""#),
    ],
};

/// `[service.NAME.timeouts]`.
pub const SERVICE_TIMEOUTS: Table = Table {
    path: "service.NAME.timeouts",
    keys: &[
        key("connect", "duration", ""),
        key("upstream_read", "duration", ""),
        key("upstream_write", "duration", ""),
        key("upstream_idle", "duration", ""),
        key("stream_idle", "duration", ""),
    ],
};

/// `[service.NAME.health]`.
pub const HEALTH: Table = Table {
    path: "service.NAME.health",
    keys: &[
        key("type", "text", r#""http""#),
        key("path", "text", r#""/healthz""#),
        key("host", "text", ""),
        key("status", "status range", r#""200-299""#),
        key("json", "table", ""),
        key("service", "text", ""),
        key("interval", "duration", r#""3s""#),
        key("timeout", "duration", r#""2s""#),
        key("rise", "number", "2"),
        key("fall", "number", "3"),
        key("max_latency", "duration", ""),
    ],
};

/// `[service.NAME.eject]`.
pub const EJECT: Table = Table {
    path: "service.NAME.eject",
    keys: &[
        key("connect_failures", "number", "3"),
        key("server_errors", "number", "10"),
        key("base", "duration", r#""5s""#),
        key("max", "duration", r#""60s""#),
    ],
};

/// `[service.NAME.switch]`.
pub const SWITCH: Table = Table {
    path: "service.NAME.switch",
    keys: &[
        key("ready_timeout", "duration", r#""300s""#),
        key("drain", "duration", r#""30s""#),
        key("websocket_drain", "duration", r#""30s""#),
        key("sse_drain", "duration", r#""30s""#),
        key("observe", "duration", r#""5m""#),
        key("observe_requests", "number", "5000"),
        key("observe_max", "duration", r#""30m""#),
    ],
};

/// `[rollback]` and `[service.NAME.rollback]`.
pub const ROLLBACK: Table = Table {
    path: "rollback",
    keys: &[
        key("mode", "text", r#""enforce""#),
        key("rescue", "boolean", "true"),
        key("unsafe", "boolean", "false"),
        key("alpha", "rate", "0.0001"),
        key("baseline", "table", ""),
        key("errors", "table", ""),
        key("fast", "table", ""),
        key("latency", "table", ""),
        key("gate", "table", ""),
        key("after", "table", ""),
        key("rules", "table", ""),
    ],
};

/// `[rollback.baseline]`.
pub const BASELINE: Table = Table {
    path: "rollback.baseline",
    keys: &[
        key("min_window", "duration", r#""10m""#),
        key("min_requests", "number", "100000"),
        key("max_window", "duration", r#""24h""#),
        key("no_baseline_limit", "rate", "0.1"),
    ],
};

/// `[rollback.errors]`.
pub const ERRORS: Table = Table {
    path: "rollback.errors",
    keys: &[
        key("ratio", "number", "1.5"),
        key("floor", "rate", "0.005"),
        key("min_errors", "number", "5"),
        key("min_bad_seconds", "number", "5"),
        key("restart_every", "duration", r#""15s""#),
        key("alternatives", "number", "8"),
    ],
};

/// `[rollback.fast]`.
pub const FAST: Table = Table {
    path: "rollback.fast",
    keys: &[
        key("q", "rate", "0.9"),
        key("min_span", "duration", r#""1s""#),
    ],
};

/// `[rollback.latency]`.
pub const LATENCY: Table = Table {
    path: "rollback.latency",
    keys: &[
        key("factor", "number", "1.5"),
        key("quantiles", "list of rates", "[0.9, 0.99]"),
        key("ratio", "number", "1.5"),
        key("floor", "list of rates", "[0.02, 0.005]"),
        key("warmup", "duration", r#""30s""#),
    ],
};

/// `[rollback.gate]`.
pub const GATE: Table = Table {
    path: "rollback.gate",
    keys: &[
        key("methods", "list of texts", r#"["GET", "HEAD", "OPTIONS"]"#),
        key("budget", "text", r#""auto""#),
        key("replay", "boolean", "true"),
        key("clear", "number", "3.0"),
        key("block", "number", "4.0"),
        key("wait", "list of durations", r#"["10s", "30s"]"#),
    ],
};

/// `[rollback.after]`.
pub const AFTER: Table = Table {
    path: "rollback.after",
    keys: &[
        key("on_shared", "text", r#""hold""#),
        key("on_ambiguous", "text", r#""rollback""#),
        key("on_old_dead", "text", r#""hold""#),
        key("on_no_traffic", "text", r#""commit""#),
        key("quarantine", "boolean", "true"),
        key("cooldown", "duration", r#""10m""#),
    ],
};

/// `[rollback.rules]`.
pub const RULES: Table = Table {
    path: "rollback.rules",
    keys: &[
        key("health", "text", r#""rollback""#),
        key("container", "text", r#""rollback""#),
        key("absolute", "text", r#""rollback""#),
        key("server_errors", "text", r#""alert""#),
        key("p99", "text", r#""alert""#),
        key("memory", "text", r#""alert""#),
        key("cpu", "text", r#""alert""#),
        key("health_latency", "text", r#""alert""#),
    ],
};

/// `[acme]`.
pub const ACME: Table = Table {
    path: "acme",
    keys: &[
        key("email", "text", ""),
        key(
            "directory",
            "URL",
            r#""https://acme-v02.api.letsencrypt.org/directory""#,
        ),
        key("ca_file", "path", r#""""#),
        key("resolvers", "list of addresses", "[]"),
        key("staging", "URL", ""),
        key("profile", "text", ""),
        key("preferred_chain", "text", ""),
        key("eab_key_id", "text", ""),
        key("eab_key", "text", ""),
        key("eab_key_file", "path", ""),
        key("fallback", "table", ""),
    ],
};

/// `[acme.fallback]`.
pub const ACME_FALLBACK: Table = Table {
    path: "acme.fallback",
    keys: &[
        key("directory", "URL", r#""https://acme.zerossl.com/v2/DV90""#),
        key("eab_key_id", "text", ""),
        key("eab_key", "text", ""),
        key("eab_key_file", "path", ""),
    ],
};

/// `[docker]`.
pub const DOCKER: Table = Table {
    path: "docker",
    keys: &[
        key("enabled", "boolean", "true"),
        key("socket", "text", r#""/var/run/docker.sock""#),
        key("network", "text", r#""""#),
    ],
};

/// `[deploy]`.
pub const DEPLOY: Table = Table {
    path: "deploy",
    keys: &[
        key("keep", "number", "1"),
        key("pull_timeout", "duration", r#""10m""#),
        key("start_timeout", "duration", r#""300s""#),
        key("free_disk", "size", r#""1GiB""#),
        key("free_memory", "size", r#""64MiB""#),
        key("prune", "boolean", "true"),
        key("registry_config", "path", ""),
        key("resume_after_crash", "text", r#""abort""#),
        key("smoke", "list of tables", ""),
    ],
};

/// `[[deploy.smoke]]`.
pub const DEPLOY_SMOKE: Table = Table {
    path: "deploy.smoke",
    keys: &[
        key("service", "text", ""),
        key("path", "path", r#""/""#),
        key("host", "text", ""),
        key("status", "status range", r#""200-299""#),
        key("contains", "text", ""),
        key("timeout", "duration", r#""5s""#),
    ],
};

/// `[[job]]`.
pub const JOB: Table = Table {
    path: "job",
    keys: &[
        key("name", "text", ""),
        key("service", "text", ""),
        key("when", "text", ""),
        key("schedule", "text", ""),
        key("time_zone", "text", r#""UTC""#),
        key("image", "text", ""),
        key("command", "list of texts", ""),
        key("entrypoint", "list of texts", ""),
        key("env", "table of texts", ""),
        key("mounts", "list of texts", "[]"),
        key("secret_files", "list of paths", "[]"),
        key("user", "text", ""),
        key("timeout", "duration", r#""10m""#),
        key("maintenance", "boolean", "false"),
        key("snapshot", "boolean", "false"),
        key("restore", "list of texts", "[]"),
        key("success", "table", ""),
    ],
};

/// `success = { ... }` of a job.
pub const JOB_SUCCESS: Table = Table {
    path: "job.success",
    keys: &[
        key("file", "path", ""),
        key("min_size", "size", "1"),
        key("verify", "list of texts", "[]"),
    ],
};

/// `[[notify]]`.
pub const NOTIFY: Table = Table {
    path: "notify",
    keys: &[
        key("kind", "text", r#""json""#),
        key("url", "URL", ""),
        key("url_file", "path", ""),
        key("secret", "text", ""),
        key("secret_file", "path", ""),
        key("events", "list of texts", ""),
    ],
};
