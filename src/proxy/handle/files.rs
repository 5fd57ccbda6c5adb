//! `files` and the `file` condition: what is in a folder.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;

use super::failure::{Failure, not_possible};
use super::run::{Flow, Outcome, Walk};
use super::scope::Scope;
use super::state::MatchedFile;
use super::write::{Body, Source};
use crate::config::step::{FileMatch, Files, Part, Template, Var};
use crate::files::{self, Answer, Asked, Candidate, Folder, Hide, Refused, Selection};
use crate::model::ErrorType;

/// Answers with a file, a listing or a redirect. Not there: the next step with `pass_thru`, else a
/// failure. In `errors` steps the status is the error's.
pub(super) async fn serve(walk: &mut Walk<'_>, files: &Files) -> Outcome {
    let Some(folder) = folder(&walk.scope(), files) else {
        let site = Arc::clone(&walk.handling().site);
        return Ok(Flow::Fail(not_possible(&site, "files: status")));
    };
    let folder = Arc::new(folder);
    let answered = {
        let request = walk.session.req_header();
        let handling = walk.exchange.handling.as_deref();
        let original = handling.map_or(&request.uri, |handling| &handling.original.uri);
        let failure = handling.and_then(|handling| handling.failure.as_ref());
        let asked = Asked {
            method: &request.method,
            path: request.uri.path(),
            original_path: original.path(),
            query: original.query(),
            headers: &request.headers,
            error: failure.and_then(|failure| StatusCode::from_u16(failure.status).ok()),
        };
        files::serve(&folder, &asked).await
    };
    let refused = match answered {
        Ok(answer) => {
            let (head, body) = written(answer)?;
            return walk.answer(head, body).await;
        }
        Err(refused) => refused,
    };
    Ok(match refused {
        Refused::NotFound if files.pass_thru => Flow::Next,
        refused => Flow::Fail(failed(&refused)),
    })
}

/// The file that a `file` condition finds; `None`: the condition does not hold.
pub(super) fn find(file: &FileMatch, scope: &Scope<'_>) -> Option<MatchedFile> {
    let selection = Selection {
        root: root(scope, file.root.as_ref()),
        candidates: (file.files.iter())
            .map(|template| candidate(scope, &template.0))
            .collect(),
        policy: file.policy,
        split: file.split.clone(),
    };
    let found = files::select_now(&selection).ok().flatten()?;
    Some(MatchedFile {
        relative: found.relative,
        absolute: found.absolute,
        kind: if found.is_folder { "directory" } else { "file" },
        remainder: found.remainder,
    })
}

/// The folder of a step, else that of the last `root`, else the working folder.
pub(super) fn root(scope: &Scope<'_>, own: Option<&Template>) -> PathBuf {
    let root = match own {
        Some(own) => scope.fill(own).into_owned(),
        None => scope
            .handling()
            .and_then(|handling| handling.root.clone())
            .unwrap_or_default(),
    };
    PathBuf::from(if root.is_empty() {
        ".".to_owned()
    } else {
        root
    })
}

/// A text to try. Placeholders bring in no patterns, and those that are parts of a path bring them
/// in decoded.
pub(super) fn candidate(scope: &Scope<'_>, parts: &[Part]) -> Candidate {
    let mut pattern = String::new();
    for part in parts {
        match part {
            Part::Text(text) => pattern.push_str(text),
            Part::Var(var) => {
                let value = scope.value(var);
                if is_path(var) {
                    let Some(value) = decoded(&value) else {
                        // No file has such a name.
                        return Candidate::Pattern("\0".to_owned());
                    };
                    pattern.push_str(&files::escape_glob(&value));
                } else {
                    pattern.push_str(&files::escape_glob(&value));
                }
            }
        }
    }
    // Whether a folder is meant is said by the configuration, not by what a client puts in.
    if matches!(parts.last(), Some(Part::Var(_))) && pattern.ends_with('/') {
        pattern.truncate(pattern.trim_end_matches('/').len());
        pattern.push_str(if pattern.is_empty() { "/." } else { "" });
    }
    Candidate::new(pattern)
}

/// Whose value has the escapes of a URI.
const fn is_path(var: &Var) -> bool {
    matches!(
        var,
        Var::Path
            | Var::Segment(_)
            | Var::Dir
            | Var::File
            | Var::FileBase
            | Var::FileExtension
            | Var::OriginalPath
            | Var::OriginalDir
            | Var::OriginalFile
    )
}

/// `None`: an escape stands for a slash, a NUL, or for what is no UTF-8.
fn decoded(path: &str) -> Option<String> {
    let slashes = path.matches('/').count();
    let decoded = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .ok()?;
    let same = decoded.matches('/').count() == slashes && !decoded.contains('\0');
    same.then(|| decoded.into_owned())
}

fn folder(scope: &Scope<'_>, files: &Files) -> Option<Folder> {
    let filled = |templates: &[Template]| -> Vec<String> {
        let texts = templates.iter().map(|text| scope.fill(text).into_owned());
        texts.filter(|text| !text.is_empty()).collect()
    };
    let status = match &files.status {
        None => None,
        Some(status) => Some(scope.fill(status).parse().ok()?),
    };
    Some(Folder {
        root: root(scope, files.root.as_ref()),
        hide: Hide::new(filled(&files.hide).into_iter()),
        dotfiles: files.dotfiles,
        follow: files.follow,
        index: filled(&files.index),
        browse: files.browse.clone(),
        precompressed: files.precompressed.clone(),
        status,
        canonical: files.canonical,
    })
}

fn failed(refused: &Refused) -> Failure {
    let kind = match refused {
        Refused::NotFound => return Failure::not_found(),
        Refused::Forbidden | Refused::Escapes => ErrorType::HttpRequestDenied,
        Refused::MethodNotAllowed => ErrorType::HttpRequestError,
        Refused::Exhausted => ErrorType::DestinationUnavailable,
        Refused::Failed(_) => ErrorType::ProxyInternalError,
    };
    if let Refused::Failed(error) = refused {
        tracing::warn!(%error, "a file cannot be read");
    }
    let failure = Failure::new(refused.status().as_u16(), kind, refused.why());
    match refused {
        Refused::MethodNotAllowed => {
            failure.with(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
        }
        _ => failure,
    }
}

fn written(answer: Answer) -> pingora::Result<(ResponseHeader, Body)> {
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 2))?;
    for (name, value) in &answer.headers {
        head.append_header(name.clone(), value.clone())?;
    }
    let body = if answer.body.is_done() {
        Body::Empty
    } else {
        Body::Stream(Box::new(Pieces(answer.body)))
    };
    Ok((head, body))
}

struct Pieces(files::Body);

#[async_trait]
impl Source for Pieces {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next().await
    }
}
