//! Steps as TOML, each under a header of its own.

use super::text::{duration, inline_table, list, networks, path, size, text};
use super::{Writer, matcher};
use crate::config::ServiceIndex;
use crate::config::parse::MASKED_HASHES;
use crate::config::step::{
    Action, Concurrency, CopyResponse, Cors, Encode, Encoding, Files, ForwardAuth, ForwardTo,
    Hashed, HeaderOp, HeaderOps, LogStep, MapInput, Proxied, Proxy, QueryOp, RateKey, RateLimit,
    ResponseHeaders, ResponseMatcher, Rewrite, Step, Template, TryFiles, TryPolicy, ValueMap,
};

/// Names a service as TOML.
pub(super) type NameOf<'a> = &'a dyn Fn(ServiceIndex) -> String;

/// Key and value, both TOML already.
pub(super) type Field = (String, String);

pub(super) fn field(key: &str, value: impl Into<String>) -> Field {
    (key.to_owned(), value.into())
}

/// A list of steps; `header` is its path, such as `site.handle`.
pub(super) fn steps(out: &mut Writer, header: &str, list: &[Step], name: NameOf<'_>) {
    for step in list {
        out.table(format!("[[{header}]]"));
        if let Some(when) = &step.when {
            out.key("match", matcher::matcher(when));
        }
        if let Some(group) = step.group {
            out.key("group", text(format!("group-{}", group + 1)));
        }
        match &step.action {
            Action::Steps(inner) => steps(out, &format!("{header}.handle"), inner, name),
            Action::Proxy(inner) => proxy(out, header, inner, name),
            action => {
                let (key, value) = simple(action, name);
                out.key(key, value);
            }
        }
    }
}

/// An action that fits on one line.
fn simple(action: &Action, name: NameOf<'_>) -> (&'static str, String) {
    match action {
        Action::Access(access) => {
            let mut fields = Vec::new();
            for (key, set) in [("allow", &access.allow), ("deny", &access.deny)] {
                if !set.is_empty() {
                    fields.push(field(key, networks(set)));
                }
            }
            ("access", inline_table(&fields))
        }
        Action::RateLimit(limit) => ("rate_limit", rate_limit(limit)),
        Action::Concurrency(limit) => ("concurrency", concurrency(limit)),
        Action::Cors(cors) => ("cors", render_cors(cors)),
        Action::BasicAuth(auth) => {
            let users: Vec<_> = (auth.users.iter())
                .map(|user| {
                    let masked = match user.hash {
                        Hashed::Argon2(_) => MASKED_HASHES[0],
                        Hashed::Bcrypt(_) => MASKED_HASHES[1],
                    };
                    field(&user.name, text(masked))
                })
                .collect();
            let fields = [
                field("realm", text(&auth.realm)),
                field("users", inline_table(&users)),
            ];
            ("basic_auth", inline_table(&fields))
        }
        Action::ForwardAuth(auth) => ("forward_auth", forward_auth(auth, name)),
        Action::BodyLimit(limit) => {
            let bytes = usize::try_from(limit.bytes).unwrap_or(usize::MAX);
            ("body_limit", size(bytes))
        }
        Action::Vars(vars) => ("vars", templates(vars)),
        Action::Map(map) => ("map", value_map(map)),
        Action::Root(root) => ("root", text(root)),
        Action::RequestHeaders(ops) => ("request_header", inline_table(&header_ops(ops))),
        Action::ResponseHeaders(headers) => ("response_header", response_headers(headers)),
        Action::Rewrite(change) => ("rewrite", inline_table(&rewrite(change))),
        Action::TryFiles(files) => ("try_files", try_files(files)),
        Action::Encode(change) => ("encode", encode(change)),
        Action::Log(log) => ("log", render_log(log)),
        Action::Respond(respond) => {
            let mut fields = vec![field("status", status(&respond.status))];
            if !respond.body.0.is_empty() {
                fields.push(field("body", text(&respond.body)));
            }
            if respond.close {
                fields.push(field("close", "true"));
            }
            ("respond", inline_table(&fields))
        }
        Action::Redirect(redirect) => {
            let mut fields = vec![
                field("to", text(&redirect.to)),
                field("status", redirect.status.as_u16().to_string()),
            ];
            if redirect.html {
                fields.push(field("html", "true"));
            }
            ("redirect", inline_table(&fields))
        }
        Action::Error(error) => {
            let mut fields = vec![field("status", status(&error.status))];
            if !error.message.0.is_empty() {
                fields.push(field("message", text(&error.message)));
            }
            ("error", inline_table(&fields))
        }
        Action::Abort => ("abort", "true".to_owned()),
        Action::Files(change) => ("files", files(change)),
        Action::CopyResponse(copy) => ("copy_response", copy_response(copy)),
        // These have headers of their own.
        Action::Steps(_) | Action::Proxy(_) => ("handle", "[]".to_owned()),
    }
}

fn proxy(out: &mut Writer, header: &str, proxy: &Proxy, name: NameOf<'_>) {
    let mut fields = vec![field("service", name(proxy.service))];
    if proxy.rewrite != Rewrite::default() {
        fields.push(field("rewrite", inline_table(&rewrite(&proxy.rewrite))));
    }
    if !proxy.request_headers.0.is_empty() {
        let ops = inline_table(&header_ops(&proxy.request_headers));
        fields.push(field("request_header", ops));
    }
    if !proxy.response_headers.is_empty() {
        let headers = proxy.response_headers.iter().map(response_headers);
        fields.push(field("response_header", list(headers)));
    }
    if proxy.on_response.is_empty() {
        match &fields[..] {
            [(_, service)] => out.key("service", service),
            _ => out.key("proxy", inline_table(&fields)),
        }
        return;
    }
    out.table(format!("[{header}.proxy]"));
    for (key, value) in fields {
        out.key(&key, value);
    }
    for answer in &proxy.on_response {
        let header = format!("{header}.proxy.on_response");
        out.table(format!("[[{header}]]"));
        for (key, value) in matcher::response(&answer.when) {
            out.key(&key, value);
        }
        match &answer.then {
            Proxied::Status(code) => out.key("replace_status", status(code)),
            Proxied::Steps(inner) if inner.is_empty() => out.key("handle", "[]"),
            Proxied::Steps(inner) => steps(out, &format!("{header}.handle"), inner, name),
        }
    }
}

fn rate_limit(limit: &RateLimit) -> String {
    let key = match &limit.key {
        RateKey::Client => text("client"),
        RateKey::Route => text("route"),
        RateKey::Header(name) => text(format!("header:{name}")),
        RateKey::Template(template) => text(template),
    };
    inline_table(&[
        field("requests", limit.requests.to_string()),
        field("window", duration(limit.window)),
        field("burst", limit.burst.to_string()),
        field("key", key),
    ])
}

fn concurrency(limit: &Concurrency) -> String {
    let mut fields = vec![field("requests", limit.requests.to_string())];
    if limit.queue > 0 {
        fields.push(field("queue", limit.queue.to_string()));
        fields.push(field("wait", duration(limit.wait)));
    }
    fields.push(field("per_client", limit.per_client.to_string()));
    inline_table(&fields)
}

fn render_cors(cors: &Cors) -> String {
    let texts = |items: &[String]| list(items.iter().map(text));
    inline_table(&[
        field("origins", texts(&cors.origins)),
        field("methods", texts(&cors.methods)),
        field("headers", texts(&cors.headers)),
        field("expose", texts(&cors.expose)),
        field("credentials", cors.credentials.to_string()),
        field("max_age", duration(cors.max_age)),
    ])
}

fn forward_auth(auth: &ForwardAuth, name: NameOf<'_>) -> String {
    let copied = auth.copy_headers.iter().map(|(from, to)| match from == to {
        true => text(from),
        false => text(format!("{from}>{to}")),
    });
    let mut fields = vec![
        match &auth.to {
            ForwardTo::Service(index) => field("service", name(*index)),
            ForwardTo::Upstream(address) => field("upstream", text(address)),
        },
        field("uri", text(&auth.uri)),
        field("copy_headers", list(copied)),
    ];
    if !auth.headers.0.is_empty() {
        fields.push(field("headers", inline_table(&header_ops(&auth.headers))));
    }
    fields.push(field("timeout", duration(auth.timeout)));
    inline_table(&fields)
}

/// A table of texts.
fn templates(pairs: &[(String, Template)]) -> String {
    let fields: Vec<_> = (pairs.iter())
        .map(|(name, value)| field(name, text(value)))
        .collect();
    inline_table(&fields)
}

fn value_map(map: &ValueMap) -> String {
    let named = |values: &mut dyn Iterator<Item = Option<&Template>>| {
        let fields: Vec<_> = (map.names.iter().zip(values))
            .filter_map(|(name, value)| Some(field(name, text(value?))))
            .collect();
        inline_table(&fields)
    };
    let entries = map.entries.iter().map(|entry| {
        let input = match &entry.input {
            MapInput::Exact(input) => field("input", text(input)),
            MapInput::Pattern(pattern) => field("pattern", text(pattern.as_str())),
        };
        let set = named(&mut entry.outputs.iter().map(Option::as_ref));
        inline_table(&[input, field("set", set)])
    });
    inline_table(&[
        field("source", text(&map.source)),
        field("entries", list(entries)),
        field("default", named(&mut map.defaults.iter().map(Some))),
    ])
}

/// Changes of fields, by kind.
fn header_ops(ops: &HeaderOps) -> Vec<Field> {
    let (mut add, mut default, mut set) = (Vec::new(), Vec::new(), Vec::new());
    let (mut remove, mut replace) = (Vec::new(), Vec::new());
    for op in &ops.0 {
        match op {
            HeaderOp::Add(name, value) => add.push((name.to_string(), text(value))),
            HeaderOp::Default(name, value) => default.push(field(name.as_str(), text(value))),
            HeaderOp::Set(name, value) => set.push(field(name.as_str(), text(value))),
            HeaderOp::Remove(name) => remove.push(text(name)),
            HeaderOp::Replace { name, find, with } => replace.push(inline_table(&[
                field(
                    "name",
                    text(name.as_ref().map_or("*", |name| name.as_str())),
                ),
                field("find", text(find.as_str())),
                field("with", text(with)),
            ])),
        }
    }
    let mut fields = Vec::new();
    let add = gathered(add);
    for (key, values) in [("add", add), ("default", default), ("set", set)] {
        if !values.is_empty() {
            fields.push(field(key, inline_table(&values)));
        }
    }
    for (key, values) in [("remove", remove), ("replace", replace)] {
        if !values.is_empty() {
            fields.push(field(key, list(values.into_iter())));
        }
    }
    fields
}

/// Values of one name as a list of them.
fn gathered(values: Vec<Field>) -> Vec<Field> {
    let mut gathered: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in values {
        match gathered.last_mut() {
            Some((known, values)) if *known == name => values.push(value),
            _ => gathered.push((name, vec![value])),
        }
    }
    (gathered.into_iter())
        .map(|(name, mut values)| match values.len() {
            1 => (name, values.remove(0)),
            _ => (name, list(values.into_iter())),
        })
        .collect()
}

fn response_headers(headers: &ResponseHeaders) -> String {
    let mut fields = header_ops(&headers.ops);
    if let Some(when) = &headers.when {
        fields.extend(matcher::response(when));
    }
    fields.push(field("defer", headers.deferred.to_string()));
    inline_table(&fields)
}

fn rewrite(rewrite: &Rewrite) -> Vec<Field> {
    let texts = [
        ("method", &rewrite.method),
        ("to", &rewrite.to),
        ("strip_prefix", &rewrite.strip_prefix),
        ("strip_suffix", &rewrite.strip_suffix),
        ("add_prefix", &rewrite.add_prefix),
    ];
    let mut fields: Vec<_> = (texts.into_iter())
        .filter_map(|(key, value)| Some(field(key, text(value.as_ref()?))))
        .collect();
    if !rewrite.replace.is_empty() {
        let replace = rewrite.replace.iter().map(|(find, with, limit)| {
            inline_table(&[
                field("find", text(find)),
                field("with", text(with)),
                field("limit", limit.to_string()),
            ])
        });
        fields.push(field("replace", list(replace)));
    }
    if !rewrite.path_regexp.is_empty() {
        let replace = rewrite.path_regexp.iter().map(|(find, with)| {
            inline_table(&[
                field("find", text(find.as_str())),
                field("with", text(with)),
            ])
        });
        fields.push(field("path_regexp", list(replace)));
    }
    if !rewrite.query.is_empty() {
        fields.push(field("query", inline_table(&query_ops(&rewrite.query))));
    }
    fields
}

fn query_ops(ops: &[QueryOp]) -> Vec<Field> {
    let (mut rename, mut set, mut add) = (Vec::new(), Vec::new(), Vec::new());
    let (mut replace, mut delete) = (Vec::new(), Vec::new());
    for op in ops {
        match op {
            QueryOp::Rename(from, to) => rename.push((from.to_string(), text(to))),
            QueryOp::Set(name, value) => set.push((name.to_string(), text(value))),
            QueryOp::Add(name, value) => add.push((name.to_string(), text(value))),
            QueryOp::Delete(name) => delete.push(text(name)),
            QueryOp::Replace(name, find, with) => replace.push(inline_table(&[
                field("name", text(name)),
                field("find", text(find.as_str())),
                field("with", text(with)),
            ])),
        }
    }
    let mut fields = Vec::new();
    for (key, values) in [("rename", rename), ("set", set), ("add", gathered(add))] {
        if !values.is_empty() {
            fields.push(field(key, inline_table(&values)));
        }
    }
    for (key, values) in [("replace", replace), ("delete", delete)] {
        if !values.is_empty() {
            fields.push(field(key, list(values.into_iter())));
        }
    }
    fields
}

fn try_files(files: &TryFiles) -> String {
    let mut fields = Vec::new();
    if let Some(root) = &files.root {
        fields.push(field("root", text(root)));
    }
    fields.push(field("files", list(files.files.iter().map(text))));
    fields.push(field("policy", policy(files.policy)));
    inline_table(&fields)
}

pub(super) fn policy(policy: TryPolicy) -> String {
    text(match policy {
        TryPolicy::FirstExist => "first_exist",
        TryPolicy::SmallestSize => "smallest_size",
        TryPolicy::LargestSize => "largest_size",
        TryPolicy::MostRecent => "most_recently_modified",
    })
}

fn encode(encode: &Encode) -> String {
    let names = encode
        .encodings
        .iter()
        .map(|(encoding, _)| text(coding(*encoding)));
    let levels: Vec<_> = (encode.encodings.iter())
        .filter_map(|(encoding, level)| Some(field(coding(*encoding), level.as_ref()?.to_string())))
        .collect();
    let mut fields = vec![field("formats", list(names))];
    if !levels.is_empty() {
        fields.push(field("levels", inline_table(&levels)));
    }
    let min_length = usize::try_from(encode.min_length).unwrap_or(usize::MAX);
    fields.push(field("min_length", size(min_length)));
    let usual = Encode::usual_types().headers == encode.when.headers;
    let is_type = |name: &http::HeaderName| *name == http::header::CONTENT_TYPE;
    let (types, headers): (Vec<_>, Vec<_>) =
        (encode.when.headers.iter().cloned()).partition(|(name, _)| is_type(name));
    if !usual {
        for (_, texts) in &types {
            fields.push(field("types", list(texts.iter().map(matcher::text_match))));
        }
    }
    fields.extend(matcher::response(&ResponseMatcher {
        status: encode.when.status.clone(),
        headers,
    }));
    inline_table(&fields)
}

fn coding(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Gzip => "gzip",
        Encoding::Brotli => "br",
        Encoding::Zstd => "zstd",
    }
}

fn render_log(log: &LogStep) -> String {
    if log.append.is_empty() {
        return match log.skip {
            true => "false".to_owned(),
            false => "{ append = {} }".to_owned(),
        };
    }
    inline_table(&[
        field("skip", log.skip.to_string()),
        field("append", templates(&log.append)),
    ])
}

fn files(files: &Files) -> String {
    let mut fields = Vec::new();
    if let Some(root) = &files.root {
        fields.push(field("root", text(root)));
    }
    if !files.hide.is_empty() {
        fields.push(field("hide", list(files.hide.iter().map(text))));
    }
    fields.push(field("dotfiles", files.dotfiles.to_string()));
    fields.push(field("follow", files.follow.to_string()));
    fields.push(field("index", list(files.index.iter().map(text))));
    if let Some(browse) = &files.browse {
        let template = browse.template.as_ref();
        let browse = template.map_or_else(
            || "true".to_owned(),
            |template| inline_table(&[field("template", path(template))]),
        );
        fields.push(field("browse", browse));
    }
    let codings = files
        .precompressed
        .iter()
        .map(|encoding| text(coding(*encoding)));
    fields.push(field("precompressed", list(codings)));
    if let Some(code) = &files.status {
        fields.push(field("status", status(code)));
    }
    fields.push(field("pass_thru", files.pass_thru.to_string()));
    fields.push(field("canonical", files.canonical.to_string()));
    inline_table(&fields)
}

fn copy_response(copy: &CopyResponse) -> String {
    let mut fields = Vec::new();
    if let Some(code) = &copy.status {
        fields.push(field("status", status(code)));
    }
    for (key, names) in [("include", &copy.include), ("exclude", &copy.exclude)] {
        if !names.is_empty() {
            fields.push(field(key, list(names.iter().map(text))));
        }
    }
    fields.push(field("headers_only", copy.headers_only.to_string()));
    inline_table(&fields)
}

/// A status as a number where it is one.
fn status(template: &Template) -> String {
    match template.as_text() {
        Some(code) if code.parse::<u16>().is_ok() => code.to_owned(),
        _ => text(template),
    }
}
