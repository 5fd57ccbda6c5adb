//! What is answered: a head and where its body comes from, or why there is none.

use std::borrow::Cow;
use std::io;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::beneath::Miss;
use super::body::Body;

/// An answer that can be sent as it is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// With `Content-Length` where there may be one.
    pub(crate) headers: HeaderMap,
    /// Empty for HEAD.
    pub(crate) body: Body,
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(8),
            body: Body::empty(),
        }
    }

    /// Sets a field; a value that is none leaves it out.
    pub(super) fn set(&mut self, name: HeaderName, value: impl Into<Cow<'static, str>>) {
        let value = match value.into() {
            Cow::Borrowed(text) => Ok(HeaderValue::from_static(text)),
            Cow::Owned(text) => HeaderValue::try_from(text),
        };
        if let Ok(value) = value {
            self.headers.insert(name, value);
        }
    }

    /// A body that is there already; sent unless `head`.
    pub(super) fn text(mut self, kind: &'static str, text: String, head: bool) -> Self {
        self.set(header::CONTENT_TYPE, kind);
        self.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        if !head {
            self.body = Body::text(text);
        }
        self
    }
}

/// Why nothing of a folder is sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// 404. With `pass_thru` the next step is asked.
    #[error("There is no such file.")]
    NotFound,
    /// 403.
    #[error("The file may not be read.")]
    Forbidden,
    /// 403.
    #[error("A symbolic link leads out of the folder.")]
    Escapes,
    /// 405, with `Allow: GET, HEAD`.
    #[error("Files can only be read.")]
    MethodNotAllowed,
    /// 503: too many open files, or no memory.
    #[error("Too many files are open.")]
    Exhausted,
    /// 500.
    #[error("The file cannot be read.")]
    Failed(#[source] io::Error),
}

impl Refused {
    /// What is answered.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Forbidden | Self::Escapes => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// For people, in the answer.
    pub(crate) const fn why(&self) -> &'static str {
        match self {
            Self::NotFound => "There is no such file.",
            Self::Forbidden => "The file may not be read.",
            Self::Escapes => "A symbolic link leads out of the folder.",
            Self::MethodNotAllowed => "Files can only be read.",
            Self::Exhausted => "Too many files are open.",
            Self::Failed(_) => "The file cannot be read.",
        }
    }
}

impl From<Miss> for Refused {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotFound => Self::NotFound,
            Miss::Forbidden => Self::Forbidden,
            Miss::Escapes => Self::Escapes,
            // Not met on a thread that may block.
            Miss::Exhausted | Miss::Later => Self::Exhausted,
            Miss::Failed(error) => Self::Failed(error),
        }
    }
}
