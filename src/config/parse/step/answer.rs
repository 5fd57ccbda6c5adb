//! Actions that answer, and what is done with an answer's body.

use http::{HeaderName, StatusCode};

use super::rewrite::needs;
use super::{Scope, Value};
use crate::config::parse::section::Section;
use crate::config::parse::tree::quoted;
use crate::config::parse::value::{self, Parsed};
use crate::config::schema::handlers;
use crate::config::step::{
    Action, Browse, CopyResponse, Encode, Encoding, ErrorAnswer, Files, Part, Redirect, Respond,
    ResponseMatcher, Template, TextMatch, Var,
};

const ENCODINGS: [(&str, Encoding); 3] = [
    ("zstd", Encoding::Zstd),
    ("br", Encoding::Brotli),
    ("gzip", Encoding::Gzip),
];

impl<'a> Scope<'_, 'a> {
    /// The status of an answer unless one is given: that of the error within `[[site.error]]`.
    fn usual_status(&self) -> Template {
        match self.in_errors {
            true => Template(vec![Part::Var(Var::ErrorStatus)]),
            false => Template::text("200"),
        }
    }

    /// `404`, `"404"` or a text with placeholders.
    pub(super) fn status(&self, value: &Value) -> Parsed<Template> {
        let code = match value {
            Value::Integer(number) => Some(number.to_string()),
            Value::Text { text, .. } if !text.contains('{') => Some(text.clone()),
            _ => None,
        };
        let Some(code) = code else {
            return match value {
                Value::Text { .. } => self.some_template(value),
                other => Err(format!(
                    "expected a status such as 404, found {}",
                    other.describe()
                )),
            };
        };
        match code.parse::<u16>() {
            Ok(200..=599) => Ok(Template::text(code)),
            _ => Err(format!(
                "expected a status such as 404, found {}",
                value.describe()
            )),
        }
    }

    fn status_of_error(&self, value: &Value) -> Parsed<Template> {
        let status = self.status(value)?;
        match status.to_string().parse::<u16>() {
            Ok(200..=399) => Err(format!(
                "expected a status of an error, from 400 to 599; found {}",
                value.describe()
            )),
            _ => Ok(status),
        }
    }

    pub(super) fn respond(&self, at: &Section<'a>) -> Option<Action> {
        let mut respond = Respond {
            status: self.usual_status(),
            body: Template::default(),
            close: false,
        };
        match &at.entry("respond")?.node.value {
            Value::Table(_) => {
                let section = at.section("respond", &handlers::RESPOND)?;
                section.set("status", &mut respond.status, |value| self.status(value));
                section.set("body", &mut respond.body, |value| self.template(value));
                section.set("close", &mut respond.close, value::boolean);
            }
            Value::Integer(_) => {
                respond.status = at.value("respond", |value| self.status(value))?;
            }
            Value::Text { .. } => {
                respond.body = at.value("respond", |value| self.template(value))?;
            }
            Value::Broken => return None,
            other => {
                let found = other.describe();
                let message = format!(
                    "expected a body such as \"hello\", a status such as 204, or a table such as \
                     {{ status = 403, body = \"no\" }}; found {found}"
                );
                at.error("respond", message);
                return None;
            }
        }
        Some(Action::Respond(respond))
    }

    pub(super) fn redirect(&self, at: &Section<'a>) -> Option<Action> {
        if !matches!(at.entry("redirect")?.node.value, Value::Table(_)) {
            let to = at.value("redirect", |value| match value {
                Value::Text { .. } => self.some_template(value),
                other => Err(format!(
                    "expected a location such as \"https://example.com{{uri}}\", or a table such \
                     as {{ to = \"/new\", status = 308 }}; found {}",
                    other.describe()
                )),
            })?;
            return Some(Action::Redirect(Redirect {
                to,
                status: StatusCode::FOUND,
                html: false,
            }));
        }
        let section = at.section("redirect", &handlers::REDIRECT)?;
        needs(
            &section,
            "to",
            "the location, such as \"https://example.com{uri}\"",
        );
        let mut html = false;
        section.set("html", &mut html, value::boolean);
        // A page that goes there by itself is a page, unless it is said to be a redirect as well.
        let mut status = if html {
            StatusCode::OK
        } else {
            StatusCode::FOUND
        };
        section.set("status", &mut status, redirect_status);
        let to = section.value("to", |value| self.some_template(value))?;
        Some(Action::Redirect(Redirect { to, status, html }))
    }

    pub(super) fn error(&self, at: &Section<'a>) -> Option<Action> {
        let mut error = ErrorAnswer {
            status: Template::text("500"),
            message: Template::default(),
        };
        if matches!(at.entry("error")?.node.value, Value::Table(_)) {
            let section = at.section("error", &handlers::ERROR)?;
            section.set("status", &mut error.status, |value| {
                self.status_of_error(value)
            });
            section.set("message", &mut error.message, |value| self.template(value));
        } else {
            error.status = at.value("error", |value| self.status_of_error(value))?;
        }
        Some(Action::Error(error))
    }

    pub(super) fn files(&self, at: &Section<'a>) -> Option<Action> {
        let mut files = Files {
            status: self.in_errors.then(|| self.usual_status()),
            ..Files::usual()
        };
        if !matches!(at.entry("files")?.node.value, Value::Table(_)) {
            let on = at.value("files", value::boolean)?;
            return on.then(|| Action::Files(files));
        }
        let section = at.section("files", &handlers::FILES)?;
        let texts = |key| {
            let list = section.one_or_list(key, |value| self.some_template(value))?;
            Some(list.into_iter().map(|(_, text)| text).collect())
        };
        files.root = section.value("root", |value| self.some_template(value));
        files.hide = texts("hide").unwrap_or_default();
        files.index = texts("index").unwrap_or(files.index);
        let encodings = section.one_or_list("precompressed", value::word(&ENCODINGS));
        let encodings = encodings.unwrap_or_default().into_iter();
        files.precompressed = encodings.map(|(_, encoding)| encoding).collect();
        section.set("dotfiles", &mut files.dotfiles, value::boolean);
        section.set("follow", &mut files.follow, value::boolean);
        section.set("pass_thru", &mut files.pass_thru, value::boolean);
        section.set("canonical", &mut files.canonical, value::boolean);
        let status = section.value("status", |value| self.status(value));
        files.status = status.or(files.status);
        files.browse = browse(&section);
        Some(Action::Files(files))
    }

    pub(super) fn encode(&self, at: &Section<'a>) -> Option<Action> {
        let mut encode = Encode {
            encodings: ENCODINGS.map(|(_, encoding)| (encoding, None)).to_vec(),
            min_length: 512,
            when: Encode::usual_types(),
        };
        if !matches!(at.entry("encode")?.node.value, Value::Table(_)) {
            let on = at.value("encode", |value| {
                value::boolean(value).map_err(|_| {
                    format!(
                        "expected true, false or a table such as {{ formats = [\"gzip\"] }}; found {}",
                        value.describe()
                    )
                })
            })?;
            return on.then(|| Action::Encode(encode));
        }
        let section = at.section("encode", &handlers::ENCODE)?;
        if let Some(formats) = section.one_or_list("formats", value::word(&ENCODINGS)) {
            if section.length("formats") == Some(0) {
                section.error("formats", "nothing would be compressed; give at least one");
            }
            encode.encodings = formats
                .into_iter()
                .map(|(_, format)| (format, None))
                .collect();
        }
        levels(&section, &mut encode);
        let mut min_length = 512;
        section.set("min_length", &mut min_length, value::size(0..=usize::MAX));
        encode.min_length = u64::try_from(min_length).unwrap_or(u64::MAX);
        let types = section.one_or_list("types", value::words);
        let types = types.map(|types| {
            let texts = types.iter().map(|(_, text)| TextMatch::new(text));
            (http::header::CONTENT_TYPE, texts.collect())
        });
        let given = self.response_matcher(&section);
        if types.is_some() || given.is_some() {
            let ResponseMatcher {
                status,
                mut headers,
            } = given.unwrap_or_default();
            let is_type = |(name, _): &(HeaderName, _)| *name == http::header::CONTENT_TYPE;
            if types.is_some() && headers.iter().any(is_type) {
                section.error(
                    "types",
                    "header names Content-Type already; remove one of them",
                );
            }
            headers.extend(types);
            headers.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
            encode.when = match headers.is_empty() {
                true => ResponseMatcher {
                    status,
                    ..Encode::usual_types()
                },
                false => ResponseMatcher { status, headers },
            };
        }
        Some(Action::Encode(encode))
    }

    pub(super) fn copy_response(&self, at: &Section<'a>) -> Option<Action> {
        let entry = at.entry("copy_response")?;
        if !self.in_response {
            at.error(
                "copy_response",
                "there is no answer to copy here; it belongs into on_response of a proxy step",
            );
            return None;
        }
        let mut copy = CopyResponse::default();
        if !matches!(entry.node.value, Value::Table(_)) {
            at.value("copy_response", super::only_true)?;
            return Some(Action::CopyResponse(copy));
        }
        let section = at.section("copy_response", &handlers::COPY_RESPONSE)?;
        copy.status = section.value("status", |value| self.status(value));
        copy.include = header_names(&section, "include");
        copy.exclude = header_names(&section, "exclude");
        section.set("headers_only", &mut copy.headers_only, value::boolean);
        if section.entry("include").is_some() && section.entry("exclude").is_some() {
            section.error("exclude", "give either include or exclude, not both");
        }
        Some(Action::CopyResponse(copy))
    }
}

fn header_names(section: &Section<'_>, key: &'static str) -> Vec<HeaderName> {
    let name = |value: &Value| {
        let text = value::words(value)?;
        HeaderName::try_from(text.as_str())
            .map_err(|_| format!("{} is not the name of a header", quoted(&text)))
    };
    let list = section.one_or_list(key, name).unwrap_or_default();
    list.into_iter().map(|(_, name)| name).collect()
}

fn redirect_status(value: &Value) -> Parsed<StatusCode> {
    let code = match value {
        Value::Integer(number) => u16::try_from(*number).ok(),
        Value::Text { text, .. } => match text.as_str() {
            "temporary" => Some(302),
            "permanent" => Some(301),
            other => other.parse().ok(),
        },
        _ => None,
    };
    // 401 is there for Caddy, which allows it so that a login page can be shown.
    match code {
        Some(code @ (300..=399 | 401)) => {
            StatusCode::from_u16(code).map_err(|error| error.to_string())
        }
        _ => Err(format!(
            "expected a status from 300 to 399, \"temporary\" or \"permanent\"; found {}",
            value.describe()
        )),
    }
}

fn browse(files: &Section<'_>) -> Option<Browse> {
    if !matches!(files.entry("browse")?.node.value, Value::Table(_)) {
        let on = files.value("browse", value::boolean)?;
        return on.then(Browse::default);
    }
    let section = files.section("browse", &handlers::BROWSE)?;
    Some(Browse {
        template: section.value("template", value::path),
    })
}

fn levels(encode: &Section<'_>, into: &mut Encode) {
    let Some(section) = encode.section("levels", &handlers::ENCODE_LEVELS) else {
        return;
    };
    let highest = [("zstd", 1..=22_u32), ("br", 0..=11), ("gzip", 1..=9)];
    for ((key, range), (_, encoding)) in highest.into_iter().zip(ENCODINGS) {
        let Some(level) = section.value(key, value::whole(range)) else {
            continue;
        };
        match into
            .encodings
            .iter_mut()
            .find(|(known, _)| *known == encoding)
        {
            Some((_, slot)) => *slot = Some(level),
            None => section.error(key, format!("{key} is not among the formats")),
        }
    }
}
