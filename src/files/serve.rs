//! From a request to the answer of a `files` step.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::answer::{Answer, Refused};
use super::beneath::{Miss, Patience};
use super::body::Body;
use super::coding::{self, Accepted};
use super::hide::Hide;
use super::listing;
use super::locate::{Found, FoundFile, find};
use super::media_type;
use super::name::Name;
use super::ranges::{self, Asked as Ranges, Multipart};
use super::validators::{Validators, Verdict, weigh};
use crate::config::step::{Browse, Encoding};

/// A `files` step with its placeholders filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    pub(crate) hide: Hide,
    pub(crate) dotfiles: bool,
    pub(crate) follow: bool,
    pub(crate) index: Vec<String>,
    pub(crate) browse: Option<Browse>,
    pub(crate) precompressed: Vec<Encoding>,
    /// Instead of 200.
    pub(crate) status: Option<StatusCode>,
    pub(crate) canonical: bool,
}

/// What of a request is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// As the steps left it, with its escapes, without dot segments.
    pub(crate) path: &'a str,
    /// As the client sent it: where redirects go.
    pub(crate) original_path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    /// The status of the error that is being answered.
    pub(crate) error: Option<StatusCode>,
}

/// Answers from `folder`. Cancel-safe: keeps no state.
///
/// # Errors
/// There is no such file for this client; see [`Refused`].
pub(crate) async fn serve(folder: &Arc<Folder>, asked: &Asked<'_>) -> Result<Answer, Refused> {
    let name = Name::parse(asked.path).ok_or(Refused::NotFound)?;
    let rewritten = asked.path != asked.original_path;
    // A path with an empty segment is not what the rules of a site were asked about: the client's
    // own is redirected to the one without, any other names no file.
    if name.is_dotted() && !folder.dotfiles || name.doubled && rewritten {
        return Err(Refused::NotFound);
    }
    let accepted = Accepted::new(asked.headers, folder.precompressed.iter().copied());
    let found = match find(folder, &name, accepted, Patience::Cached) {
        Err(Miss::Later) => {
            let (folder, name) = (Arc::clone(folder), name.clone());
            let find = move || find(&folder, &name, accepted, Patience::Blocking);
            blocking(find).await??
        }
        found => found?,
    };
    if let Some(to) = canonical(folder, asked, &name, &found) {
        return Ok(redirect(asked, &to));
    }
    let reads = matches!(*asked.method, Method::GET | Method::HEAD);
    if !reads && asked.error.is_none() {
        return Err(Refused::MethodNotAllowed);
    }
    match found {
        Found::File(file) if name.slash && !file.is_index => Err(Refused::NotFound),
        Found::File(file) => Ok(answer(folder, asked, file)),
        Found::Folder => {
            let wanted = listing::Wanted::new(asked);
            let folder = Arc::clone(folder);
            let head = *asked.method == Method::HEAD;
            let mut answer =
                blocking(move || listing::answer(&folder, &name, &wanted, head)).await??;
            answer.status = overridden(asked, None).unwrap_or(StatusCode::OK);
            Ok(answer)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refused::Failed(error.into()))
}

/// Where the client should ask instead: folders end in a slash, files do not, and no segment is
/// empty. Not where a rewrite changed the last segment: who rewrites says where.
fn canonical(folder: &Folder, asked: &Asked<'_>, name: &Name, found: &Found) -> Option<String> {
    let original = asked.original_path;
    let same = last_segment(original) == last_segment(asked.path);
    let (wants_slash, applies) = match found {
        Found::File(file) => (file.is_index, folder.canonical && same),
        // Relative links of a listing need it.
        Found::Folder => (true, same || asked.path.is_empty()),
    };
    let wrong_end = applies && original.ends_with('/') != wants_slash;
    if !wrong_end && !name.doubled {
        return None;
    }
    let mut to = String::with_capacity(original.len() + 1);
    for segment in original.split('/').filter(|segment| !segment.is_empty()) {
        to.push('/');
        // Browsers take a backslash for a slash, and two slashes for another host.
        to.push_str(&segment.replace('\\', "%5C"));
    }
    let slash = if applies {
        wants_slash
    } else {
        original.ends_with('/')
    };
    if slash || to.is_empty() {
        to.push('/');
    }
    if let Some(query) = asked.query {
        to.push('?');
        to.push_str(query);
    }
    Some(to)
}

fn last_segment(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

/// 308, with the note of RFC 9110 §15.4.9 for people.
fn redirect(asked: &Asked<'_>, to: &str) -> Answer {
    let mut answer = Answer::new(StatusCode::PERMANENT_REDIRECT);
    answer.set(header::LOCATION, to.to_owned());
    let head = *asked.method == Method::HEAD;
    let note = format!(
        "<a href=\"{}\">Permanent Redirect</a>.\n\n",
        listing::escaped(to)
    );
    match *asked.method {
        Method::GET | Method::HEAD => answer.text("text/html; charset=utf-8", note, head),
        _ => {
            answer
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            answer
        }
    }
}

/// The status that replaces 200: the step's own, else that of the error that is answered.
fn overridden(asked: &Asked<'_>, own: Option<StatusCode>) -> Option<StatusCode> {
    own.or(asked.error)
        .filter(|status| *status != StatusCode::OK)
}

/// Conditions, range, head and body of a file (RFC 9110 §13 and §14).
fn answer(folder: &Folder, asked: &Asked<'_>, found: FoundFile) -> Answer {
    let size = found.opened.facts.size;
    let mut validators = Validators::new(found.opened.facts.modified.0, size);
    if found.coding.is_some() {
        validators.modified = Validators::new(found.original.modified.0, 0).modified;
    }
    let kind = media_type::of(found.name.path());
    let status = overridden(asked, folder.status);
    // Conditions and ranges are for what would be 200 (RFC 9110 §13.2.1).
    let verdict = match status {
        Some(_) => Verdict::SendWhole,
        None => weigh(asked.method, asked.headers, &validators),
    };

    let mut answer = Answer::new(status.unwrap_or(StatusCode::OK));
    if !folder.precompressed.is_empty() {
        answer.set(header::VARY, "Accept-Encoding");
    }
    if let Some(etag) = validators.etag {
        answer.set(header::ETAG, etag);
    }
    if verdict == Verdict::NotModified {
        answer.status = StatusCode::NOT_MODIFIED;
        return answer;
    }
    if let Some(modified) = validators.modified {
        answer.set(header::LAST_MODIFIED, httpdate::fmt_http_date(modified));
    }
    if let Some(coding) = found.coding {
        answer.set(header::CONTENT_ENCODING, coding::token(coding));
    }
    if let Some(kind) = &kind {
        answer.set(header::CONTENT_TYPE, kind.clone());
    }
    if verdict == Verdict::Failed {
        answer.status = StatusCode::PRECONDITION_FAILED;
        answer
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        return answer;
    }
    answer.set(header::ACCEPT_RANGES, "bytes");
    let range = asked.headers.get(header::RANGE);
    let ranges = match range.and_then(|range| range.to_str().ok()) {
        Some(range) if verdict == Verdict::Send => ranges::read(range, size),
        _ => Ranges::Whole,
    };
    send(answer, asked, found, ranges, kind.as_deref())
}

/// Adds length and body.
fn send(
    mut answer: Answer,
    asked: &Asked<'_>,
    found: FoundFile,
    ranges: Ranges,
    kind: Option<&str>,
) -> Answer {
    let head = *asked.method == Method::HEAD;
    let size = found.opened.facts.size;
    let mut body = Body::of(found.opened.file);
    let length = match ranges {
        Ranges::Whole => {
            body.push_range(0..size);
            size
        }
        Ranges::Beyond | Ranges::Malformed => {
            answer.status = StatusCode::RANGE_NOT_SATISFIABLE;
            for gone in [header::CONTENT_ENCODING, header::ACCEPT_RANGES] {
                answer.headers.remove(gone);
            }
            answer.set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            let why = if ranges == Ranges::Beyond {
                answer.set(header::CONTENT_RANGE, format!("bytes */{size}"));
                "invalid range: failed to overlap\n"
            } else {
                "invalid range\n"
            };
            return answer.text("text/plain; charset=utf-8", why.to_owned(), head);
        }
        Ranges::Parts(parts) => {
            answer.status = StatusCode::PARTIAL_CONTENT;
            match parts.as_slice() {
                [part] => {
                    answer.set(header::CONTENT_RANGE, ranges::content_range(part, size));
                    body.push_range(part.clone());
                    part.end - part.start
                }
                parts => {
                    let multipart = Multipart::new();
                    answer.set(header::CONTENT_TYPE, multipart.content_type());
                    let mut length = 0;
                    for (number, part) in parts.iter().enumerate() {
                        let before = multipart.before(number, part, size, kind);
                        length += before.len() as u64 + part.end - part.start;
                        body.push_text(before);
                        body.push_range(part.clone());
                    }
                    let end = multipart.end();
                    length += end.len() as u64;
                    body.push_text(end);
                    length
                }
            }
        }
    };
    answer
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if !head {
        answer.body = body;
    }
    answer
}

/// The text of a query's parameter; the first of that name.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .ok()
}
