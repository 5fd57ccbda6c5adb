//! Conditions of a step.

use http::{HeaderName, Method};

use super::{Pattern, Template};
use crate::config::IpSet;
use crate::model::HostPattern;

/// Alternatives: one of the sets must hold whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matcher(pub Vec<MatcherSet>);

/// Conditions that must all hold. An empty list is no condition; within a list one entry is
/// enough, except where it says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatcherSet {
    /// Paths, lower case, with `*` at the start, the end or both as in Caddy's `path` matcher; in
    /// the middle a `*` stands for any text without a slash. Compared without regard to case.
    pub path: Vec<Template>,
    /// Name for the captures (`{re.NAME.1}`; may be empty) and expression over the path.
    pub path_regexp: Option<(String, Pattern)>,
    /// Host names.
    pub host: Vec<HostPattern>,
    /// Methods.
    pub method: Vec<Method>,
    /// Fields of the head: all of these fields must match, each by one of its texts.
    pub header: Vec<(HeaderName, Vec<TextMatch>)>,
    /// As `path_regexp`, over each value of a field; all of these must match.
    pub header_regexp: Vec<(String, HeaderName, Pattern)>,
    /// Query parameters with a value, `*` for any; one of them is enough.
    pub query: Vec<(String, Template)>,
    /// The peer's address.
    pub remote_ip: IpSet,
    /// The client's address, with what trusted proxies say of it.
    pub client_ip: IpSet,
    /// `http`, `https`, `grpc`, `http/1.0`, `http/1.1`, `http/2`, `http/3`, or one with `+` after it.
    pub protocol: Option<String>,
    /// Variables (or any template) and what they may be; one of the texts is enough, all
    /// variables must match.
    pub vars: Vec<(Template, Vec<Template>)>,
    /// As `path_regexp`, over a template's value.
    pub vars_regexp: Vec<(String, Template, Pattern)>,
    /// The first of these files that exists; sets `{file_match.relative}` and its siblings.
    pub file: Option<FileMatch>,
    /// The error's status, in `errors` alone: inclusive ranges.
    pub error_status: Vec<(u16, u16)>,
    /// None of these may hold.
    pub not: Vec<Matcher>,
}

/// What a field's value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// `*`: any value.
    Present,
    /// `!`: the field is missing.
    Absent,
    /// Exactly this.
    Exact(String),
    /// `abc*`.
    Prefix(String),
    /// `*abc`.
    Suffix(String),
    /// `*abc*`.
    Contains(String),
}

impl TextMatch {
    /// Reads the form with stars.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Present,
            (Some(rest), Some(_)) => {
                Self::Contains(rest.strip_suffix('*').unwrap_or(rest).to_owned())
            }
            (Some(rest), None) => Self::Suffix(rest.to_owned()),
            (None, Some(rest)) => Self::Prefix(rest.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        }
    }

    /// Whether `value` is what is asked for; a missing field is never asked about here.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Contains(text) => value.contains(text.as_str()),
        }
    }
}

/// `file = { root, try, policy, split }`.
#[derive(Clone, Debug, PartialEq)]
pub struct FileMatch {
    /// Folder; `None`: the one of the last `root` step, else the working folder.
    pub root: Option<Template>,
    /// What is tried, relative to the root; a text that ends in a slash is a folder.
    pub files: Vec<Template>,
    /// Which of those that exist is taken.
    pub policy: super::TryPolicy,
    /// Endings at which the path is split, such as `.php`.
    pub split: Vec<String>,
}
