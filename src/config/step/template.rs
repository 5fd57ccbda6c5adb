//! Texts with placeholders: `https://{host}{uri}`.
//!
//! Short names are Caddy's shorthands; the long names (`{http.request.host}`) mean the same. A
//! backslash before a brace makes it literal.

use std::fmt;

use http::HeaderName;

/// A text with placeholders, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// To be filled in.
    Var(Var),
}

/// What a placeholder stands for. What has no value is the empty text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Var {
    /// `{host}`: the host without port.
    Host,
    /// `{hostport}`: as the client sent it.
    HostPort,
    /// `{port}`: the port of the Host, empty where it has none, as in Caddy.
    Port,
    /// `{method}`.
    Method,
    /// `{scheme}`: `http` or `https`.
    Scheme,
    /// `{proto}`: `HTTP/1.1` and so on.
    Protocol,
    /// `{uri}`: path and query.
    Uri,
    /// `{path}`.
    Path,
    /// `{path.N}`: the segment, from 0.
    Segment(usize),
    /// `{dir}`: the path up to its last slash.
    Dir,
    /// `{file}`: the path after its last slash.
    File,
    /// `{file.base}` and `{file.ext}`.
    FileBase,
    /// The extension with its dot.
    FileExtension,
    /// `{query}`: without the question mark.
    Query,
    /// `{?query}`: with it, empty without one.
    PrefixedQuery,
    /// `{query.NAME}`.
    Parameter(String),
    /// `{header.NAME}`.
    Header(HeaderName),
    /// `{cookie.NAME}`.
    Cookie(String),
    /// `{labels.N}` of the host, from the right, from 0.
    Label(usize),
    /// `{orig_uri}`, `{orig_path}`, `{orig_query}`, `{orig_method}`: as they came.
    OriginalUri,
    /// See [`Var::OriginalUri`].
    OriginalPath,
    /// See [`Var::OriginalUri`].
    OriginalQuery,
    /// See [`Var::OriginalUri`].
    OriginalMethod,
    /// See [`Var::OriginalUri`].
    OriginalDir,
    /// See [`Var::OriginalUri`].
    OriginalFile,
    /// `{remote_ip}` (Caddy's `{remote_host}`): the peer's address.
    RemoteIp,
    /// `{remote_port}`.
    RemotePort,
    /// `{remote}`: both.
    Remote,
    /// `{client_ip}`.
    ClientIp,
    /// `{local_port}`: where the connection came in.
    LocalPort,
    /// `{request_id}` (Caddy's `{uuid}`).
    RequestId,
    /// `{tls.version}`, `{tls.server_name}`, `{tls.alpn}`.
    TlsVersion,
    /// See [`Var::TlsVersion`].
    TlsServerName,
    /// See [`Var::TlsVersion`].
    TlsAlpn,
    /// `{tls.subject}`: of the client's certificate.
    TlsSubject,
    /// `{re.NAME.N}`, `{re.NAME.GROUP}`, `{re.N}`: of the last expression of that name.
    Capture(String, String),
    /// `{vars.NAME}`.
    Variable(String),
    /// `{NAME}` that a `map` sets.
    Mapped(String),
    /// `{env.NAME}`.
    Env(String),
    /// `{file.PATH}` (Caddy's file placeholder): its contents without the last line end.
    FileContents(String),
    /// `{file_match.relative}`, `.absolute`, `.type`, `.remainder`.
    MatchedFile(String),
    /// `{err.status_code}`.
    ErrorStatus,
    /// `{err.status_text}`.
    ErrorReason,
    /// `{err.message}`.
    ErrorMessage,
    /// `{rp.status_code}`, in a response step.
    UpstreamStatus,
    /// `{rp.header.NAME}`, in a response step.
    UpstreamHeader(HeaderName),
    /// `{upstream}` (Caddy's `{rp.hostport}`): the chosen upstream.
    Upstream,
    /// `{hostname}`: of this machine.
    Hostname,
    /// `{now.FORM}`.
    Time(TimeForm),
    /// `{user.id}`: who passed `basic_auth`.
    User,
    /// `{body}`, cut at 64 KiB.
    Body,
}

/// How `{now...}` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeForm {
    /// `{now}`: RFC 3339.
    Rfc3339,
    /// `{now.unix}`: seconds.
    Unix,
    /// `{now.unix_ms}`.
    UnixMillis,
    /// `{now.year}`.
    Year,
    /// `{now.http}`: RFC 9110 §5.6.7.
    Http,
    /// `{now.common_log}`.
    CommonLog,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{x}` stands for nothing.
    #[error("unknown placeholder {{{0}}}; `\\{{` is a literal brace")]
    Unknown(String),
}

impl Template {
    /// Reads a text. A brace that no name and closing brace follow is literal, so that JSON and CSS
    /// stand for themselves. `mapped` are the names that `map` steps set.
    ///
    /// # Errors
    /// A placeholder that stands for nothing.
    pub fn parse(text: &str, mapped: &[String]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '\\']) {
            literal.push_str(&rest[..at]);
            let tail = &rest[at..];
            if let Some(escaped) = tail.strip_prefix('\\') {
                match escaped.chars().next() {
                    Some(brace @ ('{' | '}')) => {
                        literal.push(brace);
                        rest = &escaped[1..];
                    }
                    _ => {
                        literal.push('\\');
                        rest = escaped;
                    }
                }
                continue;
            }
            let Some(name) = placeholder(tail) else {
                literal.push('{');
                rest = &tail[1..];
                continue;
            };
            let var = match Var::parse(name, mapped) {
                Some(var) => var,
                // `${1}`: a group of an expression.
                None if literal.ends_with('$') => {
                    literal.push('{');
                    rest = &tail[1..];
                    continue;
                }
                None => return Err(TemplateError::Unknown(name.to_owned())),
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Var(var));
            rest = &tail[name.len() + 2..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// A text without placeholders.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self(vec![Part::Text(text.into())])
    }

    /// Whether `{body}` is among its placeholders: it must be read before.
    #[must_use]
    pub fn speaks_of_body(&self) -> bool {
        self.0.contains(&Part::Var(Var::Body))
    }

    /// The text, if nothing is to be filled in.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// The name between the braces at the start of `text`, if it is one.
fn placeholder(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?;
    let name = &name[..name.find('}')?];
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-?/$:".contains(&b);
    (!name.is_empty() && name.bytes().all(allowed)).then_some(name)
}

/// Names without a part that varies; the first is the one that is printed.
const NAMES: &[(Var, &[&str])] = &[
    (Var::Host, &["host", "http.request.host"]),
    (Var::HostPort, &["hostport", "http.request.hostport"]),
    (Var::Port, &["port", "http.request.port"]),
    (Var::Method, &["method", "http.request.method"]),
    (Var::Scheme, &["scheme", "http.request.scheme"]),
    (Var::Protocol, &["proto", "http.request.proto"]),
    (Var::Uri, &["uri", "http.request.uri"]),
    (Var::Path, &["path", "http.request.uri.path"]),
    (Var::Dir, &["dir", "http.request.uri.path.dir"]),
    (Var::File, &["file", "http.request.uri.path.file"]),
    (
        Var::FileBase,
        &["file.base", "http.request.uri.path.file.base"],
    ),
    (
        Var::FileExtension,
        &["file.ext", "http.request.uri.path.file.ext"],
    ),
    (Var::Query, &["query", "http.request.uri.query"]),
    (
        Var::PrefixedQuery,
        &["?query", "http.request.uri.prefixed_query"],
    ),
    (Var::OriginalUri, &["orig_uri", "http.request.orig_uri"]),
    (
        Var::OriginalPath,
        &["orig_path", "http.request.orig_uri.path"],
    ),
    (
        Var::OriginalQuery,
        &["orig_query", "http.request.orig_uri.query"],
    ),
    (
        Var::OriginalMethod,
        &["orig_method", "http.request.orig_method"],
    ),
    (
        Var::OriginalDir,
        &["orig_dir", "http.request.orig_uri.path.dir"],
    ),
    (
        Var::OriginalFile,
        &["orig_file", "http.request.orig_uri.path.file"],
    ),
    (
        Var::RemoteIp,
        &["remote_ip", "remote_host", "http.request.remote.host"],
    ),
    (
        Var::RemotePort,
        &["remote_port", "http.request.remote.port"],
    ),
    (Var::Remote, &["remote", "http.request.remote"]),
    (Var::ClientIp, &["client_ip", "http.vars.client_ip"]),
    (Var::LocalPort, &["local_port", "http.request.local.port"]),
    (Var::RequestId, &["request_id", "uuid", "http.request.uuid"]),
    (
        Var::TlsVersion,
        &["tls.version", "tls_version", "http.request.tls.version"],
    ),
    (
        Var::TlsServerName,
        &["tls.server_name", "http.request.tls.server_name"],
    ),
    (Var::TlsAlpn, &["tls.alpn", "http.request.tls.proto"]),
    (
        Var::TlsSubject,
        &[
            "tls.subject",
            "tls_client_subject",
            "http.request.tls.client.subject",
        ],
    ),
    (
        Var::ErrorStatus,
        &["err.status_code", "http.error.status_code"],
    ),
    (
        Var::ErrorReason,
        &["err.status_text", "http.error.status_text"],
    ),
    (
        Var::ErrorMessage,
        &["err.message", "http.error.message", "http.error"],
    ),
    (
        Var::UpstreamStatus,
        &["rp.status_code", "http.reverse_proxy.status_code"],
    ),
    (
        Var::Upstream,
        &[
            "upstream",
            "upstream_hostport",
            "http.reverse_proxy.upstream.hostport",
        ],
    ),
    (Var::Hostname, &["hostname", "system.hostname"]),
    (Var::Time(TimeForm::Rfc3339), &["now", "time.now"]),
    (Var::Time(TimeForm::Unix), &["now.unix", "time.now.unix"]),
    (
        Var::Time(TimeForm::UnixMillis),
        &["now.unix_ms", "time.now.unix_ms"],
    ),
    (Var::Time(TimeForm::Year), &["now.year", "time.now.year"]),
    (Var::Time(TimeForm::Http), &["now.http", "time.now.http"]),
    (
        Var::Time(TimeForm::CommonLog),
        &["now.common_log", "time.now.common_log"],
    ),
    (Var::User, &["user.id", "http.auth.user.id"]),
    (Var::Body, &["body", "http.request.body"]),
];

/// A beginning, and what the rest of the name makes.
type Family = (&'static [&'static str], fn(&str) -> Option<Var>);

/// Names whose last part varies; the first beginning is the one that is printed.
const FAMILIES: &[Family] = &[
    (&["path.", "http.request.uri.path."], |rest| {
        rest.parse().ok().map(Var::Segment)
    }),
    (&["query.", "http.request.uri.query."], |rest| {
        Some(Var::Parameter(rest.to_owned()))
    }),
    (&["header.", "http.request.header."], |rest| {
        rest.parse().ok().map(Var::Header)
    }),
    (&["cookie.", "http.request.cookie."], |rest| {
        Some(Var::Cookie(rest.to_owned()))
    }),
    (&["labels.", "http.request.host.labels."], |rest| {
        rest.parse().ok().map(Var::Label)
    }),
    (&["re.", "http.regexp."], |rest| {
        let (name, group) = rest.rsplit_once('.').unwrap_or(("", rest));
        Some(Var::Capture(name.to_owned(), group.to_owned()))
    }),
    (&["vars.", "http.vars."], |rest| {
        Some(Var::Variable(rest.to_owned()))
    }),
    (&["env."], |rest| Some(Var::Env(rest.to_owned()))),
    (&["file_match.", "http.matchers.file."], |rest| {
        let known = matches!(rest, "relative" | "absolute" | "type" | "remainder");
        known.then(|| Var::MatchedFile(rest.to_owned()))
    }),
    (&["rp.header.", "http.reverse_proxy.header."], |rest| {
        rest.parse().ok().map(Var::UpstreamHeader)
    }),
    // After every other name that begins like it.
    (&["file."], |rest| Some(Var::FileContents(rest.to_owned()))),
];

impl Var {
    /// Every name without a part that varies, short and long.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().flat_map(|(_, names)| names.iter().copied())
    }

    /// Beginnings of the names whose last part varies, without their dot.
    pub fn families() -> impl Iterator<Item = &'static str> {
        FAMILIES
            .iter()
            .filter_map(|(beginnings, _)| beginnings.first()?.strip_suffix('.'))
    }

    /// Reads a name without its braces.
    #[must_use]
    pub fn parse(name: &str, mapped: &[String]) -> Option<Self> {
        if mapped.iter().any(|known| known == name) {
            return Some(Self::Mapped(name.to_owned()));
        }
        let plain = NAMES.iter().find(|(_, names)| names.contains(&name));
        if let Some((var, _)) = plain {
            return Some(var.clone());
        }
        FAMILIES.iter().find_map(|(beginnings, make)| {
            let rest = (beginnings.iter()).find_map(|beginning| name.strip_prefix(beginning))?;
            make(rest).filter(|_| !rest.is_empty())
        })
    }
}

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, names)) = NAMES.iter().find(|(var, _)| var == self) {
            return f.write_str(names[0]);
        }
        match self {
            Self::Segment(n) => write!(f, "path.{n}"),
            Self::Parameter(name) => write!(f, "query.{name}"),
            Self::Header(name) => write!(f, "header.{name}"),
            Self::Cookie(name) => write!(f, "cookie.{name}"),
            Self::Label(n) => write!(f, "labels.{n}"),
            Self::Capture(name, group) if name.is_empty() => write!(f, "re.{group}"),
            Self::Capture(name, group) => write!(f, "re.{name}.{group}"),
            Self::Variable(name) => write!(f, "vars.{name}"),
            Self::Mapped(name) => f.write_str(name),
            Self::Env(name) => write!(f, "env.{name}"),
            Self::FileContents(path) => write!(f, "file.{path}"),
            Self::MatchedFile(what) => write!(f, "file_match.{what}"),
            Self::UpstreamHeader(name) => write!(f, "rp.header.{name}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => {
                    for letter in text.chars() {
                        match letter {
                            '{' | '}' => write!(f, "\\{letter}")?,
                            other => write!(f, "{other}")?,
                        }
                    }
                }
                Part::Var(var) => write!(f, "{{{var}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_names_mean_the_same_and_are_printed_short() {
        for (var, names) in NAMES {
            for name in *names {
                assert_eq!(Var::parse(name, &[]).as_ref(), Some(var), "{name}");
            }
            assert_eq!(var.to_string(), names[0]);
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for text in [
            "https://{host}{uri}",
            "{path.1}-{query.a}-{header.x-a}-{cookie.c}-{labels.0}-{re.n.1}-{re.1}-{vars.v}",
            "{env.HOME}{file./etc/x}{file_match.relative}{rp.header.x}{?query}{now.year}",
            "a \\{b\\} { x: 1 } {{}",
        ] {
            let template = Template::parse(text, &[]).expect("a template");
            let printed = template.to_string();
            assert_eq!(Template::parse(&printed, &[]), Ok(template), "{printed}");
        }
    }

    #[test]
    fn json_and_css_are_no_placeholders_but_typos_are_told() {
        let text = "{\"a\": 1} h1 { color: red }";
        assert_eq!(Template::parse(text, &[]), Ok(Template::text(text)));
        let error = Template::parse("{hots}", &[]).expect_err("unknown");
        assert_eq!(error, TemplateError::Unknown("hots".to_owned()));
        let group = Template::parse("a${1}", &[]);
        assert_eq!(group, Ok(Template::text("a${1}")), "of an expression");
        let mapped = ["hots".to_owned()];
        assert!(Template::parse("{hots}", &mapped).is_ok());
    }
}
