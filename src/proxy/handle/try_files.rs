//! `try_files`: rewrites to the first file that exists.

use std::sync::Arc;

use super::failure::{Failure, not_possible, reason};
use super::files::{candidate, root};
use super::run::{Flow, Outcome, Walk};
use crate::config::step::{Part, Template, TryFiles};
use crate::files::{self, Candidate, Selection};
use crate::model::ErrorType;

/// Rewrites and goes on; `=STATUS` as the last entry is a failure with that status. A text may end
/// in a query; one that does not keeps the query that is there.
pub(super) async fn rewrite(walk: &mut Walk<'_>, try_files: &TryFiles) -> Outcome {
    let texts: Vec<_> = try_files.files.iter().map(divided).collect();
    let selection = {
        let scope = walk.scope();
        Selection {
            root: root(&scope, try_files.root.as_ref()),
            candidates: texts
                .iter()
                .map(|(path, _)| candidate(&scope, path))
                .collect(),
            policy: try_files.policy,
            split: Vec::new(),
        }
    };
    let is_status = |at: usize| matches!(selection.candidates.get(at), Some(Candidate::Status(_)));
    let last = texts.len().saturating_sub(1);
    let status_is_last = is_status(last);
    let (at, path) = match files::select(selection).await {
        Err(status) if status.is_client_error() || status.is_server_error() => {
            let kind = ErrorType::DestinationNotFound;
            let mut failure = Failure::new(status.as_u16(), kind, "There is no such file.");
            failure.message = Some(reason(status.as_u16()).to_owned());
            return Ok(Flow::Fail(failure));
        }
        Err(_) => {
            let site = Arc::clone(&walk.handling().site);
            return Ok(Flow::Fail(not_possible(&site, "try_files: status")));
        }
        Ok(Some(found)) => (found.candidate, found.encoded()),
        Ok(None) => match texts.last() {
            Some((path, _)) if !status_is_last => (last, walk.fill(&Template(path.clone()))),
            _ => return Ok(Flow::Next),
        },
    };
    let query = match texts.get(at).and_then(|(_, query)| query.as_ref()) {
        Some(query) => Some(walk.fill(query)),
        None => walk.session.req_header().uri.query().map(str::to_owned),
    };
    let target = match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    Ok(match walk.set_target(&target) {
        Ok(()) => Flow::Next,
        Err(failure) => Flow::Fail(failure),
    })
}

/// Path and query of a text. Question marks that placeholders bring in do not count.
fn divided(template: &Template) -> (Vec<Part>, Option<Template>) {
    let mut path = Vec::new();
    let mut parts = template.0.iter();
    while let Some(part) = parts.next() {
        if let Part::Text(text) = part
            && let Some((before, after)) = text.split_once('?')
        {
            path.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            let first = (!after.is_empty()).then(|| Part::Text(after.to_owned()));
            let query = first.into_iter().chain(parts.cloned()).collect();
            return (path, Some(Template(query)));
        }
        path.push(part.clone());
    }
    (path, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_divided_at_its_own_question_mark() {
        let divide = |text: &str| {
            let template = Template::parse(text, &[]).expect("a template");
            let (path, query) = divided(&template);
            (
                Template(path).to_string(),
                query.map(|query| query.to_string()),
            )
        };
        let both = |path: &str, query: &str| (path.to_owned(), Some(query.to_owned()));
        assert_eq!(divide("{path}/"), ("{path}/".to_owned(), None));
        assert_eq!(
            divide("/index.php?p={path}&{query}"),
            both("/index.php", "p={path}&{query}")
        );
        assert_eq!(divide("{path}?{query}"), both("{path}", "{query}"));
        assert_eq!(divide("/a?"), both("/a", ""));
    }
}
