//! From a directive to its steps; and the directives that hold others.

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::doc::{Table, Value};
use super::matcher::Scope;
use super::step::{Action, Step};
use super::{Cx, MOST_STEPS, Place, answer, change, files, guard, proxy, value};

/// A directive without the matcher in front of its arguments.
pub(super) struct Call<'a> {
    pub(super) line: &'a Directive,
    pub(super) when: Option<Table>,
    pub(super) args: &'a [Token],
}

impl Call<'_> {
    /// The step that it stands for.
    pub(super) fn step(&self, action: Action) -> Step {
        let directive = match self.line.name() {
            // Sorted at the same level.
            "handle_path" => "handle",
            name => name,
        };
        Step::new(directive, self.line.pos(), self.when.clone(), action)
    }

    /// As [`Self::step`], for a single key.
    pub(super) fn key(&self, key: &'static str, value: Value) -> Vec<Step> {
        vec![self.step(Action::Key(key, value))]
    }
}

/// The steps of one directive, with its comments.
pub(super) fn directive(cx: &Cx<'_>, line: &Directive, scope: &Scope, place: &Place) -> Vec<Step> {
    let holds_others = matches!(
        line.name(),
        "handle" | "handle_path" | "route" | "reverse_proxy" | "forward_auth"
    );
    let mut steps = dispatch(cx, line, scope, place);
    // Comments inside of blocks of directives are already where they belong.
    let comments = match holds_others {
        true => line.comments.clone(),
        false => line.all_comments(),
    };
    if let Some(first) = steps.first_mut() {
        first.comments.splice(0..0, comments);
    }
    steps
}

fn dispatch(cx: &Cx<'_>, line: &Directive, scope: &Scope, place: &Place) -> Vec<Step> {
    // These have rules of their own about what a first argument is.
    match line.name() {
        "root" => return files::root(cx, line, scope),
        "rewrite" => return change::rewrite(cx, line, scope),
        "try_files" => return files::try_files(cx, line),
        "handle_path" => return handle_path(cx, line, scope, place),
        _ => {}
    }
    let (when, args) = scope.split(line.args(), &cx.out);
    let call = Call { line, when, args };
    match line.name() {
        "map" => value::map(cx, &call),
        "vars" => value::vars(cx, &call),
        "log_append" => value::log_append(cx, &call),
        "skip_log" | "log_skip" => value::log_skip(cx, &call),
        "header" => change::header(cx, &call),
        "request_header" => change::request_header(cx, &call),
        "method" => change::method(cx, &call),
        "uri" => change::uri(cx, &call),
        "request_body" => guard::request_body(cx, &call),
        "basic_auth" | "basicauth" => guard::basic_auth(cx, &call),
        "forward_auth" => guard::forward_auth(cx, &call),
        "encode" => files::encode(cx, &call),
        "file_server" => files::file_server(cx, &call),
        "redir" => answer::redir(cx, &call),
        "respond" => answer::respond(cx, &call),
        "error" => answer::error(cx, &call),
        "abort" => answer::abort(cx, &call),
        "copy_response" if place.is_response => answer::copy_response(cx, &call),
        "copy_response_headers" if place.is_response => answer::copy_response_headers(cx, &call),
        "handle" | "route" => {
            let sorted = line.name() == "handle";
            if let Some(extra) = call.args.first() {
                let message = format!("`{}` is no matcher: @name, /path or *", extra.text);
                cx.out.error(extra.pos, message);
            }
            let (steps, tail) = inside(cx, line, scope, place, sorted);
            let mut step = call.step(Action::Steps(steps));
            step.tail = tail;
            vec![step]
        }
        "invoke" => invoke(cx, &call, place),
        "reverse_proxy" => proxy::reverse_proxy(cx, &call, scope),
        name => {
            cx.out.error(line.pos(), unknown(name));
            Vec::new()
        }
    }
}

/// The steps of a directive's block, and the comments before its end.
fn inside(
    cx: &Cx<'_>,
    line: &Directive,
    scope: &Scope,
    place: &Place,
    sorted: bool,
) -> (Vec<Step>, Vec<String>) {
    let steps = cx.steps(line.lines(), scope, place, sorted);
    let tail = line
        .block
        .as_ref()
        .map_or(Vec::new(), |block| block.tail.clone());
    (steps, tail)
}

/// `handle_path /api/*`: as `handle`, with the prefix taken off first.
fn handle_path(cx: &Cx<'_>, line: &Directive, scope: &Scope, place: &Place) -> Vec<Step> {
    let [path] = line.args() else {
        cx.out
            .error(line.pos(), "expected `handle_path /prefix/* { ... }`");
        return Vec::new();
    };
    if !path.text.starts_with('/') {
        cx.out.error(path.pos, "handle_path takes a path, such as /api/*; for other matchers use handle and uri strip_prefix");
        return Vec::new();
    }
    let text = path.text.as_str();
    let prefix = text
        .strip_suffix("/*")
        .or_else(|| text.strip_suffix('*'))
        .unwrap_or(text);
    let (mut steps, tail) = inside(cx, line, scope, place, true);
    if !prefix.is_empty() {
        let strip = Table::at(path.pos).with(path.pos, "strip_prefix", Value::text(prefix));
        let action = Action::Key("rewrite", Value::Table(strip));
        steps.insert(0, Step::new("rewrite", line.pos(), None, action));
    }
    let call = Call {
        line,
        when: scope.find(path, &cx.out),
        args: &[],
    };
    let mut step = call.step(Action::Steps(steps));
    step.tail = tail;
    vec![step]
}

/// `invoke name`: the steps of a named route.
fn invoke(cx: &Cx<'_>, call: &Call<'_>, place: &Place) -> Vec<Step> {
    let Some([name]) = cx.out.args(call.line, call.args, "invoke NAME") else {
        return Vec::new();
    };
    cx.out.no_block(call.line);
    let Some(block) = cx.routes.get(name.text.as_str()) else {
        let message = format!("there is no named route &({})", name.text);
        cx.out.error(name.pos, message);
        return Vec::new();
    };
    if cx.invoked.borrow().contains(&name.text) {
        cx.out.error(
            name.pos,
            format!("the named route {} invokes itself", name.text),
        );
        return Vec::new();
    }
    let many = cx.depth.get() + block.lines.len() + 1;
    cx.depth.set(many);
    if many > MOST_STEPS {
        cx.out
            .error(name.pos, "named routes make this site endless");
        return Vec::new();
    }
    cx.invoked.borrow_mut().push(name.text.clone());
    let steps = cx.steps(&block.lines, &Scope::default(), place, true);
    cx.invoked.borrow_mut().pop();
    vec![call.step(Action::Steps(steps))]
}

/// What to say of a directive that has no equivalent, or is none.
pub(super) fn unknown(name: &str) -> String {
    let instead = match name {
        "php_fastcgi" | "php_server" | "php" => {
            "FastCGI is not spoken here: let PHP run behind a web server of its own (FrankenPHP, \
             php-fpm with nginx, or the apache image) and write reverse_proxy to it"
        }
        "templates" => {
            "templates are not rendered here: let the application do it, and reverse_proxy to it"
        }
        "push" => {
            "server push is gone from browsers; a Link header with rel=preload does the same (header Link ...)"
        }
        "metrics" => "metrics are on the ops listener, at /metrics of port 9180",
        "tracing" => "traces are not sent yet; remove it",
        "intercept" => "answers are only intercepted in reverse_proxy, with handle_response",
        "fs" => "only the file system of the machine is served",
        "timeouts" => "timeouts are global here: [timeouts] in a cutover.toml beside the Caddyfile",
        "proxy" | "gzip" | "websocket" | "ext" | "fastcgi" | "transparent" => {
            "this is Caddy 1's language, and Caddy 2's is read: reverse_proxy, encode, try_files"
        }
        "log_name" => "a site has one log, which needs no name",
        "copy_response" | "copy_response_headers" => {
            "it belongs into the handle_response of a reverse_proxy"
        }
        "import" => "import names a snippet or a file",
        "rate_limit" => {
            "it is a plugin's; `proxyctl adapt` writes the rest of this file as a cutover.toml, where rate_limit is a key"
        }
        _ => "",
    };
    if !instead.is_empty() {
        return format!("{name} has no equivalent: {instead}");
    }
    let all = super::order::DEFAULT.iter().copied();
    let near = (all.chain(["tls", "log", "bind", "handle_errors", "import"]))
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| name.len() <= 40 && *distance <= (name.len() / 3).max(1));
    match near {
        Some((_, near)) => format!("{name} is no directive; did you mean `{near}`?"),
        None if name.ends_with('{') => format!("{name}: put a space before the brace"),
        None => format!(
            "{name} is no directive; those of plugins have no equivalent, and a second site needs braces around each"
        ),
    }
}
