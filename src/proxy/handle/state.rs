//! What a request carries through the steps.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::body;
use super::encode::Encoder;
use super::failure::Failure;
use super::matcher::Seen;
use crate::pool::{Planned, SiteEntry};
use crate::proxy::guard::CrossOrigin;

/// The state of a request of a site with steps. Made when such a site is found, dropped with the
/// request.
#[derive(Debug)]
pub(in crate::proxy) struct Handling {
    /// Whose steps are run.
    pub(super) site: Arc<SiteEntry>,
    /// The request as it came.
    pub(in crate::proxy) original: Original,
    /// The method that the upstream gets instead of the request's own. That one stays as it came: by
    /// it the answer's body is framed (RFC 9110 §6.4.1).
    pub(in crate::proxy) method: Option<Method>,
    /// Whether the upstream gets no body, whatever the client sends.
    pub(super) drops_body: bool,
    /// What `vars` steps set; the last of a name counts.
    pub(super) vars: Vec<(String, String)>,
    /// The `map` steps that were reached.
    pub(super) maps: Vec<Arc<Planned>>,
    /// What expressions matched; the last of a name counts.
    pub(super) captures: Vec<Captured>,
    /// What the last `file` condition found.
    pub(super) file: Option<MatchedFile>,
    /// Folder of the last `root` step.
    pub(super) root: Option<String>,
    /// Who passed `basic_auth`.
    pub(in crate::proxy) user: Option<String>,
    /// The beginning of the request's body, read for a placeholder.
    pub(super) body: Option<Bytes>,
    /// What was read of the body and is not kept anywhere else.
    pub(super) unsent: Option<Bytes>,
    /// Fields that the answer has from the beginning; those of the handler itself win.
    pub(super) early: HeaderMap,
    /// Changes of the answer, in the order of the steps. The last one is applied first.
    pub(super) deferred: Vec<Deferred>,
    /// The `proxy` step that was reached.
    pub(super) proxy: Option<Arc<Planned>>,
    /// What the upstream answered, while response steps run.
    pub(super) upstream: Option<UpstreamAnswer>,
    /// What is being answered by the `errors` steps.
    pub(super) failure: Option<Failure>,
    /// A failure of the upstream that is answered when another attempt would begin.
    pub(in crate::proxy) pending: Option<Failure>,
    /// Whether another service is asked after an upstream's answer was dropped.
    pub(in crate::proxy) moved: bool,
    /// Longest body of the request, in bytes.
    pub(super) body_limit: Option<u64>,
    /// Compresses the body that is being sent.
    pub(super) encoder: Option<Encoder>,
    /// What ends with the request, such as a place under a limit.
    pub(super) kept: Vec<Box<dyn Any + Send + Sync>>,
    /// For the access log.
    pub(in crate::proxy) log: LogExtras,
    /// Whether a step has answered or cut the request, so that nothing else may.
    pub(in crate::proxy) over: bool,
}

/// The request before any step changed it.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Original {
    /// In the form in which it is matched.
    pub(in crate::proxy) uri: Uri,
    /// Host and port as the client sent them.
    pub(in crate::proxy) authority: String,
}

/// What an expression matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Captured {
    /// Of the condition; may be empty.
    pub(super) name: String,
    /// By number and name; 0 is the whole match.
    pub(super) groups: Vec<(Option<String>, String)>,
}

/// What a `file` condition found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MatchedFile {
    /// `{file_match.relative}`: from the root.
    pub(super) relative: String,
    /// `{file_match.absolute}`.
    pub(super) absolute: String,
    /// `{file_match.type}`: `file` or `directory`.
    pub(super) kind: &'static str,
    /// `{file_match.remainder}`: what follows a split.
    pub(super) remainder: String,
}

/// A change of the answer that was decided on the way in.
#[derive(Clone, Debug)]
pub(super) enum Deferred {
    /// A `response_header` or `encode` step.
    Step(Arc<Planned>),
    /// What other origins may read of it.
    CrossOrigin(CrossOrigin),
    /// Replaces these fields.
    Fields(Vec<(HeaderName, HeaderValue)>),
}

/// The head of an upstream's answer.
#[derive(Clone, Debug)]
pub(super) struct UpstreamAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
}

/// What `log` steps ask for.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct LogExtras {
    /// Not logged.
    pub(in crate::proxy) skip: bool,
    /// Fields beside the usual ones.
    pub(in crate::proxy) append: Vec<(String, String)>,
}

impl Handling {
    /// Begins with a request that no step has seen.
    pub(in crate::proxy) fn new(site: Arc<SiteEntry>, original: Original) -> Self {
        Self {
            site,
            original,
            method: None,
            drops_body: false,
            vars: Vec::new(),
            maps: Vec::new(),
            captures: Vec::new(),
            file: None,
            root: None,
            user: None,
            body: None,
            unsent: None,
            pending: None,
            moved: false,
            early: HeaderMap::new(),
            deferred: Vec::new(),
            proxy: None,
            upstream: None,
            failure: None,
            body_limit: None,
            encoder: None,
            kept: Vec::new(),
            log: LogExtras::default(),
            over: false,
        }
    }

    /// A group of an expression by number or name, from the last condition of that name; without a
    /// name from the last one that has such a group.
    pub(super) fn capture(&self, name: &str, group: &str) -> &str {
        let captures = self.captures.iter().rev();
        let mut named = captures.filter(|capture| name.is_empty() || capture.name == name);
        named
            .find_map(|capture| capture.group(group))
            .unwrap_or_default()
    }

    /// The value of a variable. The folder of the last `root` step is one too, as in Caddy.
    pub(super) fn variable(&self, name: &str) -> &str {
        let set = self.vars.iter().find(|(known, _)| known == name);
        match set {
            Some((_, value)) => value,
            None if name == "root" => self.root.as_deref().unwrap_or_default(),
            None => "",
        }
    }

    /// Remembers what a condition saw.
    pub(super) fn saw(&mut self, seen: Seen) {
        for capture in seen.captures {
            self.captures.retain(|old| old.name != capture.name);
            self.captures.push(capture);
        }
        if seen.file.is_some() {
            self.file = seen.file;
        }
    }

    /// A piece of the request's body on its way.
    pub(in crate::proxy) fn request_body(&mut self, piece: &mut Option<Bytes>) {
        if self.drops_body {
            self.unsent = None;
            *piece = None;
            return;
        }
        body::give_back(self, piece);
    }

    /// A piece of an upstream's body on its way. `head_only`: the client asked for no body.
    pub(in crate::proxy) fn response_body(
        &mut self,
        piece: &mut Option<Bytes>,
        end: bool,
        head_only: bool,
    ) -> pingora::Result<()> {
        if head_only {
            // The upstream may have been asked with another method.
            *piece = None;
            return Ok(());
        }
        match &mut self.encoder {
            Some(encoder) => encoder.push(piece, end),
            None => Ok(()),
        }
    }

    /// What is left to send of a compressed body that ends with trailers. `None`: nothing.
    pub(in crate::proxy) fn rest_of_body(&mut self) -> pingora::Result<Option<Bytes>> {
        match &mut self.encoder {
            Some(encoder) => encoder.finish(),
            None => Ok(None),
        }
    }

    /// Holds `what` until the request ends, in whatever way it does.
    pub(super) fn keep(&mut self, what: impl Any + Send + Sync) {
        self.kept.push(Box::new(what));
    }
}

impl Captured {
    fn group(&self, group: &str) -> Option<&str> {
        let by_number = group.parse().ok().and_then(|at: usize| self.groups.get(at));
        let by_name = || {
            let mut named = self.groups.iter();
            named.find(|(name, _)| name.as_deref() == Some(group))
        };
        by_number.or_else(by_name).map(|(_, text)| text.as_str())
    }
}

impl MatchedFile {
    /// By the last part of the placeholder's name.
    pub(super) fn part(&self, what: &str) -> &str {
        match what {
            "relative" => &self.relative,
            "absolute" => &self.absolute,
            "type" => self.kind,
            "remainder" => &self.remainder,
            _ => "",
        }
    }
}

/// Sets a named value; the last one counts.
pub(super) fn set(values: &mut Vec<(String, String)>, name: &str, value: String) {
    match values.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => values.push((name.to_owned(), value)),
    }
}
