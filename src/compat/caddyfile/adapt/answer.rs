//! Directives that answer: `respond`, `redir`, `error`, `abort`, `copy_response`.

use super::super::lexer::Token;
use super::Cx;
use super::block::Call;
use super::doc::{Table, Value};
use super::step::Step;

/// `respond [STATUS|BODY] [STATUS] { body, close }`.
pub(super) fn respond(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut table = Table::at(call.line.pos());
    let Some((text, status)) = text_and_status(cx, call, "respond [BODY] [STATUS]") else {
        return Vec::new();
    };
    if let Some(status) = status {
        table.put(status.pos, "status", status_value(status));
    }
    let mut body = text;
    let mut close = false;
    for line in call.line.lines() {
        match (line.name(), line.args()) {
            ("body", [text]) if body.is_none() => body = Some(text),
            ("body", [_]) => cx.out.error(line.pos(), "the body is given already"),
            ("close", []) => close = true,
            ("body", _) => cx.out.error(line.pos(), "expected `body TEXT`"),
            _ => cx.out.unknown(line, &["body", "close"]),
        }
    }
    if let Some(body) = body {
        table.put(body.pos, "body", Value::text(cx.kept_text(body)));
    }
    if close {
        table.put(call.line.pos(), "close", Value::Boolean(true));
    }
    let value = match table.entries.as_slice() {
        [only] if only.key == "body" => only.value.clone(),
        [only] if only.key == "status" && matches!(only.value.bare(), Value::Number(_)) => {
            only.value.clone()
        }
        [] => Value::text(""),
        _ => Value::Table(table),
    };
    call.key("respond", value)
}

/// `error [MESSAGE] STATUS { message }`.
pub(super) fn error(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut table = Table::at(call.line.pos());
    let Some((text, status)) = text_and_status(cx, call, "error [MESSAGE] [STATUS]") else {
        return Vec::new();
    };
    let mut message = text;
    for line in call.line.lines() {
        match (line.name(), line.args()) {
            ("message", [text]) if message.is_none() => message = Some(text),
            ("message", _) => cx.out.error(line.pos(), "expected one `message TEXT`"),
            _ => cx.out.unknown(line, &["message"]),
        }
    }
    if let Some(status) = status {
        table.put(status.pos, "status", status_value(status));
    }
    if let Some(message) = message {
        table.put(message.pos, "message", Value::text(message.text.clone()));
    }
    call.key("error", Value::Table(table))
}

/// One argument of three digits is a status, any other one a text. A block may stand for both.
fn text_and_status<'a>(
    cx: &Cx<'_>,
    call: &Call<'a>,
    form: &str,
) -> Option<(Option<&'a Token>, Option<&'a Token>)> {
    let is_status = |text: &str| text.len() == 3 && text.parse::<u16>().is_ok_and(|n| n > 0);
    match call.args {
        [one] if is_status(&one.text) => Some((None, Some(one))),
        [one] => Some((Some(one), None)),
        [text, status] => Some((
            Some(text).filter(|text| !text.text.is_empty()),
            Some(status),
        )),
        [] if call.line.block.is_some() => Some((None, None)),
        _ => {
            cx.out.error(call.line.pos(), format!("expected `{form}`"));
            None
        }
    }
}

/// A number, or a template that makes one.
pub(super) fn status_value(word: &Token) -> Value {
    match word.text.parse::<u64>() {
        Ok(number) => Value::Number(number).at(word.pos),
        Err(_) => Value::text(word.text.clone()).at(word.pos),
    }
}

/// `redir TO [CODE]`.
pub(super) fn redir(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    cx.out.no_block(call.line);
    let (to, code) = match call.args {
        [to] => (to, None),
        [to, code] => (to, Some(code)),
        _ => {
            cx.out.error(call.line.pos(), "expected `redir TO [CODE]`");
            return Vec::new();
        }
    };
    let to_value = Value::text(to.text.clone()).at(to.pos);
    let mut table = Table::at(to.pos).with(to.pos, "to", to_value);
    match code.map(|code| (code, code.text.as_str())) {
        None | Some((_, "temporary")) => {}
        Some((code, "permanent")) => table.put(code.pos, "status", Value::Number(301)),
        Some((code, "html")) => table.put(code.pos, "html", Value::Boolean(true)),
        Some((code, text)) => match text.parse::<u64>() {
            Ok(302) => {}
            Ok(number @ (300..=399 | 401)) => table.put(code.pos, "status", Value::Number(number)),
            _ if text.starts_with('{') => {
                cx.out.error(
                    code.pos,
                    "the code of a redirect cannot be a placeholder; write one redir for each code",
                );
            }
            _ => cx.out.error(
                code.pos,
                format!(
                    "`{text}` is not a code from 300 to 399, 401, permanent, temporary or html"
                ),
            ),
        },
    }
    call.key("redirect", short(table, "to"))
}

/// A table of one key that may be written without it.
pub(super) fn short(table: Table, key: &str) -> Value {
    match table.entries.as_slice() {
        [only] if only.key == key => only.value.clone(),
        _ => Value::Table(table),
    }
}

/// `abort`.
pub(super) fn abort(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    cx.out.no_block(call.line);
    if let Some(extra) = call.args.first() {
        cx.out.error(extra.pos, "abort takes nothing but a matcher");
    }
    call.key("abort", Value::Boolean(true))
}

/// `copy_response [STATUS]`, in `handle_response`.
pub(super) fn copy_response(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let mut table = Table::at(call.line.pos());
    match call.args {
        [] => {}
        [status] => table.put(status.pos, "status", status_value(status)),
        _ => cx
            .out
            .error(call.line.pos(), "expected `copy_response [STATUS]`"),
    }
    for line in call.line.lines() {
        match (line.name(), line.args()) {
            ("status", [status]) => table.put(status.pos, "status", status_value(status)),
            _ => cx.out.unknown(line, &["status"]),
        }
    }
    call.key("copy_response", Value::Table(table))
}

/// `copy_response_headers { include, exclude }`, in `handle_response`.
pub(super) fn copy_response_headers(cx: &Cx<'_>, call: &Call<'_>) -> Vec<Step> {
    let pos = call.line.pos();
    let mut table = Table::at(pos).with(pos, "headers_only", Value::Boolean(true));
    for line in call.line.lines() {
        let fields = Value::texts(line.args().iter().map(|arg| arg.text.clone()));
        match line.name() {
            "include" | "exclude" if !line.args().is_empty() => {
                table.put(line.pos(), line.name(), fields);
            }
            _ => cx.out.unknown(line, &["include", "exclude"]),
        }
    }
    if table.find("include").is_some() && table.find("exclude").is_some() {
        cx.out.error(pos, "either include or exclude, not both");
    }
    call.key("copy_response", Value::Table(table))
}
