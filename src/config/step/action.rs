//! What a step does.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::{Hashed, Pattern, Step, Template};
use crate::config::{IpSet, ServiceIndex};
use crate::model::UpstreamAddr;

/// One action. Those up to [`Action::Steps`] let the request go on; the others answer it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `access = { allow, deny }`: else 403.
    Access(Access),
    /// `rate_limit = { ... }`: else 429.
    RateLimit(RateLimit),
    /// `concurrency = { ... }`: waits in a bounded queue, else 503.
    Concurrency(Concurrency),
    /// `cors = { ... }`: answers preflights itself.
    Cors(Cors),
    /// `basic_auth = { ... }`: else 401.
    BasicAuth(BasicAuth),
    /// `forward_auth = { ... }`: asks another server whether to go on.
    ForwardAuth(Box<ForwardAuth>),
    /// `body_limit = "10MB"`: else 413.
    BodyLimit(BodyLimit),
    /// `vars = { ... }`.
    Vars(Vec<(String, Template)>),
    /// `map = { ... }`.
    Map(ValueMap),
    /// `root = "/srv"`: of the `files` and `try_files` after it.
    Root(Template),
    /// `request_header = { ... }`.
    RequestHeaders(HeaderOps),
    /// `response_header = { ... }`: applied when the answer's head is written, those of later
    /// steps first.
    ResponseHeaders(ResponseHeaders),
    /// `rewrite = ...`.
    Rewrite(Rewrite),
    /// `try_files = { ... }`: rewrites to the first file that exists.
    TryFiles(TryFiles),
    /// `encode = { ... }`: compresses the answer.
    Encode(Encode),
    /// `log = { ... }`.
    Log(LogStep),
    /// `[[...handle]]`: steps within a step.
    Steps(Vec<Step>),

    /// `respond = { ... }`.
    Respond(Respond),
    /// `redirect = { ... }`.
    Redirect(Redirect),
    /// `error = { ... }`: answered by the `errors` steps of the site, else by the built-in page.
    Error(ErrorAnswer),
    /// `abort = true`: closes the connection without an answer.
    Abort,
    /// `files = { ... }`: from a folder.
    Files(Files),
    /// `proxy = { ... }`: to a service.
    Proxy(Box<Proxy>),
    /// `copy_response = { ... }`, in a response step alone: the upstream's answer after all.
    CopyResponse(CopyResponse),
}

/// Who may come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Nobody else; empty: everybody.
    pub allow: IpSet,
    /// Not these, though they are in `allow`.
    pub deny: IpSet,
}

/// A token bucket for each key.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests that are let through in `window`. At least 1.
    pub requests: u32,
    /// The time in which a bucket fills. Default 1 s.
    pub window: Duration,
    /// Requests at once. Default as `requests`.
    pub burst: u32,
    /// Whose requests are counted together.
    pub key: RateKey,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq)]
pub enum RateKey {
    /// `client`: an IPv4 address or an IPv6 /64.
    Client,
    /// `route`: everybody's.
    Route,
    /// `header:NAME`; requests without it are counted by client.
    Header(HeaderName),
    /// A template.
    Template(Template),
}

/// Requests in flight at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// At a time. At least 1.
    pub requests: u32,
    /// May wait. Default 0.
    pub queue: u32,
    /// For so long. Default 5 s.
    pub wait: Duration,
    /// Counted for each client instead of in all. Default false.
    pub per_client: bool,
}

/// Cross-origin requests (WHATWG Fetch §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*`, exact origins, or `https://*.example.com`.
    pub origins: Vec<String>,
    /// Told to preflights. Default GET, HEAD, POST, PUT, PATCH, DELETE.
    pub methods: Vec<String>,
    /// Told to preflights; empty: what was asked for.
    pub headers: Vec<String>,
    /// What scripts may read.
    pub expose: Vec<String>,
    /// Whether cookies may be sent. Not with `*`.
    pub credentials: bool,
    /// How long a preflight holds. Default 10 min.
    pub max_age: Duration,
}

/// RFC 7617.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// Shown by browsers. Default `restricted`.
    pub realm: String,
    /// At least one.
    pub users: Vec<User>,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Without a colon.
    pub name: String,
    /// What their password hashes to.
    pub hash: Hashed,
}

/// Asks before going on: a GET with the head of the request; 2xx lets it through, anything else is
/// the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardAuth {
    /// Who is asked.
    pub to: ForwardTo,
    /// Path and query asked for.
    pub uri: Template,
    /// Fields of its answer that the request gets: from, to.
    pub copy_headers: Vec<(HeaderName, HeaderName)>,
    /// Changed in the question.
    pub headers: HeaderOps,
    /// For its answer. Default 5 s.
    pub timeout: Duration,
}

/// Where a question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardTo {
    /// The live slot of a service.
    Service(ServiceIndex),
    /// An address.
    Upstream(UpstreamAddr),
}

/// The longest body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit {
    /// In bytes.
    pub bytes: u64,
}

/// Values by the value of another.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueMap {
    /// What is looked up.
    pub source: Template,
    /// Names of the placeholders that are set.
    pub names: Vec<String>,
    /// In order; the first that fits.
    pub entries: Vec<MapEntry>,
    /// When none fits, by name; shorter than `names`: the empty text.
    pub defaults: Vec<Template>,
}

/// One line of a [`ValueMap`].
#[derive(Clone, Debug, PartialEq)]
pub struct MapEntry {
    /// What fits.
    pub input: MapInput,
    /// By name; `None`: its default.
    pub outputs: Vec<Option<Template>>,
}

/// What an entry of a map fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapInput {
    /// This text.
    Exact(String),
    /// This expression; `$1` and `${1}` in the outputs are its groups.
    Pattern(Pattern),
}

/// Changes of fields, in the order add-default-set-remove-replace of the documentation: the list
/// is in the order in which it is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderOps(pub Vec<HeaderOp>);

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderOp {
    /// Replaces all values.
    Set(HeaderName, Template),
    /// Beside what is there.
    Add(HeaderName, Template),
    /// Only where the field is missing.
    Default(HeaderName, Template),
    /// `x-*`, `*-x` and `*` are allowed.
    Remove(String),
    /// In each value.
    Replace {
        /// The field; `None`: every field.
        name: Option<HeaderName>,
        /// What is looked for; a text is an escaped expression.
        find: Pattern,
        /// `$1` and `${1}` are its groups.
        with: Template,
    },
}

/// Changes of the answer's fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseHeaders {
    /// The changes.
    pub ops: HeaderOps,
    /// Which answers; `None`: all.
    pub when: Option<ResponseMatcher>,
    /// Applied when the head is written (true), or at once, so that the handler's own fields win.
    pub deferred: bool,
}

/// Which answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseMatcher {
    /// Inclusive ranges; empty: all.
    pub status: Vec<(u16, u16)>,
    /// Fields that must be there, each with one of its texts.
    pub headers: Vec<(HeaderName, Vec<super::TextMatch>)>,
}

/// Changes of method and target; applied in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// New method.
    pub method: Option<Template>,
    /// New path, or path and query; a text that begins with `?` is a query alone.
    pub to: Option<Template>,
    /// Off the path's start, compared without regard to case.
    pub strip_prefix: Option<Template>,
    /// Off the path's end.
    pub strip_suffix: Option<Template>,
    /// Before the path.
    pub add_prefix: Option<Template>,
    /// In the whole target: find, with, at most so often (0: always).
    pub replace: Vec<(String, Template, usize)>,
    /// In the path.
    pub path_regexp: Vec<(Pattern, Template)>,
    /// `set`, `add`, `delete`, `rename` of query parameters, as in Caddy's `uri query`.
    pub query: Vec<QueryOp>,
}

/// A change of a query parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryOp {
    /// Replaces it.
    Set(Template, Template),
    /// Beside it.
    Add(Template, Template),
    /// Removes it.
    Delete(Template),
    /// Under a new name.
    Rename(Template, Template),
    /// In the values of a parameter (`*`: all).
    Replace(Template, Pattern, Template),
}

/// Rewrites to the first file that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct TryFiles {
    /// Folder; `None`: of the last `root`.
    pub root: Option<Template>,
    /// In order. The last one is taken even if it does not exist, unless it is `=STATUS`.
    pub files: Vec<Template>,
    /// Which of those that exist.
    pub policy: TryPolicy,
}

/// Which of several files that exist is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TryPolicy {
    /// The first.
    #[default]
    FirstExist,
    /// The smallest.
    SmallestSize,
    /// The largest.
    LargestSize,
    /// The one that was changed last.
    MostRecent,
}

/// Compression of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encode {
    /// By preference, where the client is indifferent.
    pub encodings: Vec<(Encoding, Option<u32>)>,
    /// Shorter bodies stay. Default 512.
    pub min_length: u64,
    /// Which answers; the default is text, scripts, fonts, and so on.
    pub when: ResponseMatcher,
}

impl Encode {
    /// Answers that compress well: texts, scripts, fonts that are not compressed themselves.
    #[must_use]
    pub fn usual_types() -> ResponseMatcher {
        const TYPES: &[&str] = &[
            "text/*",
            "application/atom+xml*",
            "application/geo+json*",
            "application/graphql+json*",
            "application/javascript*",
            "application/json*",
            "application/ld+json*",
            "application/manifest+json*",
            "application/opentype*",
            "application/otf*",
            "application/problem+json*",
            "application/rss+xml*",
            "application/ttf*",
            "application/vnd.api+json*",
            "application/vnd.ms-fontobject*",
            "application/wasm*",
            "application/x-javascript*",
            "application/x-ttf*",
            "application/xhtml+xml*",
            "application/xml*",
            "font/otf*",
            "font/ttf*",
            "image/svg+xml*",
            "image/vnd.microsoft.icon*",
            "image/x-icon*",
        ];
        let types = TYPES.iter().map(|text| super::TextMatch::new(text));
        ResponseMatcher {
            status: Vec::new(),
            headers: vec![(http::header::CONTENT_TYPE, types.collect())],
        }
    }
}

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952. Level 1 to 9, default 5.
    Gzip,
    /// RFC 7932. Level 0 to 11, default 4.
    Brotli,
    /// RFC 8878. Level 1 to 22, default 3.
    Zstd,
}

/// What the access log gets of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStep {
    /// Not logged.
    pub skip: bool,
    /// Fields beside the usual ones.
    pub append: Vec<(String, Template)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Respond {
    /// Default 200; a template, because Caddy allows one.
    pub status: Template,
    /// Default empty.
    pub body: Template,
    /// Closes the connection after it.
    pub close: bool,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `Location`.
    pub to: Template,
    /// Default 302.
    pub status: StatusCode,
    /// With an HTML page that goes there by itself (Caddy's `html`).
    pub html: bool,
}

/// An error, for the steps that handle those.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorAnswer {
    /// Default 500.
    pub status: Template,
    /// For `{err.message}` and the log.
    pub message: Template,
}

/// Files of a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// Folder; `None`: of the last `root`.
    pub root: Option<Template>,
    /// Not found, though there; a text without a slash is a name at any depth. Dotfiles are
    /// always hidden unless `dotfiles`.
    pub hide: Vec<Template>,
    /// Whether names that begin with a dot are served. Default false.
    pub dotfiles: bool,
    /// Whether a symbolic link may lead out of the root. Default false.
    pub follow: bool,
    /// Looked for in a folder. Default `index.html`, `index.txt`.
    pub index: Vec<Template>,
    /// Whether a folder without an index is listed. Default none.
    pub browse: Option<Browse>,
    /// Siblings that are sent instead, by preference.
    pub precompressed: Vec<Encoding>,
    /// Instead of 200.
    pub status: Option<Template>,
    /// What is not there is left to the next steps. Default false.
    pub pass_thru: bool,
    /// Whether `/folder` is redirected to `/folder/` and `/file/` to `/file`. Default true.
    pub canonical: bool,
}

impl Files {
    /// `files = true`.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            root: None,
            hide: Vec::new(),
            dotfiles: false,
            follow: false,
            index: ["index.html", "index.txt"].map(Template::text).to_vec(),
            browse: None,
            precompressed: Vec::new(),
            status: None,
            pass_thru: false,
            canonical: true,
        }
    }
}

/// `browse = true` or `{ template = "..." }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Browse {
    /// HTML with `{{items}}`; default: the built-in page.
    pub template: Option<PathBuf>,
}

/// To a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Where.
    pub service: ServiceIndex,
    /// For this attempt's request alone, after every request step.
    pub rewrite: Rewrite,
    /// Changed in what the upstream gets, after the forwarding fields were set.
    pub request_headers: HeaderOps,
    /// Changed in what it answers.
    pub response_headers: Vec<ResponseHeaders>,
    /// Answers that are handled here.
    pub on_response: Vec<ResponseStep>,
}

/// What is done with an upstream's answer: the first step whose condition holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseStep {
    /// Which answers.
    pub when: ResponseMatcher,
    /// What is done.
    pub then: Proxied,
}

/// See [`ResponseStep`].
#[derive(Clone, Debug, PartialEq)]
pub enum Proxied {
    /// Only another status.
    Status(Template),
    /// Other steps answer; the upstream's body is dropped unless one copies it.
    Steps(Vec<Step>),
}

/// The upstream's answer is sent after all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CopyResponse {
    /// Another status.
    pub status: Option<Template>,
    /// Fields of it that are kept; empty: all.
    pub include: Vec<HeaderName>,
    /// Fields of it that are dropped.
    pub exclude: Vec<HeaderName>,
    /// Head alone: the fields are copied and the next steps answer (Caddy's
    /// `copy_response_headers`).
    pub headers_only: bool,
}
