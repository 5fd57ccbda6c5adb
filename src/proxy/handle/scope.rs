//! What placeholders stand for.

use std::borrow::Cow;
use std::io::Read;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, Method, Uri, header};
use percent_encoding::percent_decode_str;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::failure::reason;
use super::map;
use super::path::decoded;
use super::state::Handling;
use crate::clock;
use crate::config::step::{Part, Template, TimeForm, Var};
use crate::proxy::exchange::Exchange;
use crate::proxy::front::Connection;
use crate::proxy::head;

/// How deep a `map` may look up what another one sets; deeper is the empty text.
const DEPTH: u8 = 8;

/// Longest text of `{file.PATH}` in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// A request as placeholders and conditions see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) request: &'a RequestHeader,
    pub(super) exchange: &'a Exchange,
    pub(super) connection: Option<&'a Connection>,
    pub(super) http2: bool,
    /// The upstream's answer as it came, while its fields are changed.
    pub(super) answer: Option<&'a ResponseHeader>,
    depth: u8,
}

impl<'a> Scope<'a> {
    /// The request of a session.
    pub(super) fn new(session: &'a Session, exchange: &'a Exchange) -> Self {
        Self {
            connection: Connection::of(session).map(AsRef::as_ref),
            http2: session.is_http2(),
            ..Self::of(session.req_header(), exchange)
        }
    }

    /// A request whose connection is not known.
    pub(super) fn of(request: &'a RequestHeader, exchange: &'a Exchange) -> Self {
        Self {
            request,
            exchange,
            connection: None,
            http2: false,
            answer: None,
            depth: 0,
        }
    }

    /// For what a value is made of; `None`: too deep.
    pub(super) fn deeper(self) -> Option<Self> {
        let depth = self.depth + 1;
        (depth <= DEPTH).then_some(Self { depth, ..self })
    }

    /// While the fields of this answer of an upstream are changed.
    pub(super) fn with_answer(self, answer: &'a ResponseHeader) -> Self {
        Self {
            answer: Some(answer),
            ..self
        }
    }

    /// The state of the steps.
    pub(super) fn handling(&self) -> Option<&'a Handling> {
        self.exchange.handling.as_deref()
    }

    /// The method that an upstream gets.
    pub(super) fn method(&self) -> &'a Method {
        self.exchange.method(self.request)
    }

    /// A text with its placeholders filled in. What has no value is the empty text.
    pub(super) fn fill<'t>(&self, template: &'t Template) -> Cow<'t, str>
    where
        'a: 't,
    {
        match template.0.as_slice() {
            [] => Cow::Borrowed(""),
            [Part::Text(text)] => Cow::Borrowed(text),
            [Part::Var(var)] => self.value(var),
            parts => {
                let mut filled = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => filled.push_str(text),
                        Part::Var(var) => filled.push_str(&self.value(var)),
                    }
                }
                Cow::Owned(filled)
            }
        }
    }

    /// What a placeholder stands for.
    pub(super) fn value(&self, var: &Var) -> Cow<'a, str> {
        let uri = &self.request.uri;
        match var {
            Var::Host => host(self.authority()).into(),
            Var::HostPort => self.authority().into(),
            Var::Port => self.port().into(),
            Var::Method => self.method().as_str().into(),
            Var::Scheme => self.scheme().into(),
            Var::Protocol => self.protocol().into(),
            Var::Uri => target(uri).into(),
            Var::Path => decoded(uri.path()),
            Var::Segment(n) => decoded(segment(uri.path(), *n)),
            Var::Dir => decoded(dir(uri.path())),
            Var::File => decoded(file(uri.path())),
            Var::FileBase => decoded(base_and_extension(file(uri.path())).0),
            Var::FileExtension => decoded(base_and_extension(file(uri.path())).1),
            Var::Query => uri.query().unwrap_or_default().into(),
            Var::PrefixedQuery => prefixed(uri.query()),
            Var::Parameter(name) => parameter(uri.query(), name),
            Var::Header(name) => self.header(name),
            Var::Cookie(name) => cookie(&self.request.headers, name).into(),
            Var::Label(n) => host(self.authority())
                .rsplit('.')
                .nth(*n)
                .unwrap_or_default()
                .into(),
            Var::OriginalUri => target(self.original()).into(),
            Var::OriginalPath => decoded(self.original().path()),
            Var::OriginalQuery => self.original().query().unwrap_or_default().into(),
            // A step changes the method for the upstream alone.
            Var::OriginalMethod => self.request.method.as_str().into(),
            Var::OriginalDir => decoded(dir(self.original().path())),
            Var::OriginalFile => decoded(file(self.original().path())),
            Var::RemoteIp => self.exchange.peer.to_string().into(),
            Var::RemotePort => self
                .remote_port()
                .map_or(Cow::Borrowed(""), |port| port.to_string().into()),
            Var::Remote => self.remote().into(),
            Var::ClientIp => self.exchange.client.ip.to_string().into(),
            Var::LocalPort => self.exchange.local_port.to_string().into(),
            Var::RequestId => self.exchange.request_id.as_str().into(),
            Var::TlsVersion | Var::TlsServerName | Var::TlsAlpn | Var::TlsSubject => self.tls(var),
            Var::Env(name) => std::env::var(name).unwrap_or_default().into(),
            Var::FileContents(path) => contents(path).into(),
            Var::Hostname => hostname().into(),
            Var::Time(form) => time(*form, clock::wall()).into(),
            Var::UpstreamStatus => self.upstream_status(),
            Var::UpstreamHeader(name) => self.upstream_header(name),
            Var::Upstream => self.upstream().into(),
            var => self.stepped(var),
        }
    }

    /// What only steps can have set.
    fn stepped(&self, var: &Var) -> Cow<'a, str> {
        let Some(handling) = self.handling() else {
            return Cow::Borrowed("");
        };
        let failure = handling.failure.as_ref();
        match var {
            Var::Capture(name, group) => handling.capture(name, group).into(),
            Var::Variable(name) => handling.variable(name).into(),
            Var::Mapped(name) => map::look_up(self, handling, name),
            Var::MatchedFile(what) => handling
                .file
                .as_ref()
                .map_or("", |file| file.part(what))
                .into(),
            Var::ErrorStatus => failure.map_or(Cow::Borrowed(""), |failure| {
                failure.status.to_string().into()
            }),
            Var::ErrorReason => failure.map_or("", |failure| reason(failure.status)).into(),
            Var::ErrorMessage => failure.map_or("", |failure| failure.message()).into(),
            Var::User => handling.user.as_deref().unwrap_or_default().into(),
            Var::Body => String::from_utf8_lossy(handling.body.as_deref().unwrap_or_default()),
            _ => Cow::Borrowed(""),
        }
    }

    /// Host and port that the request is for.
    pub(super) fn authority(&self) -> &'a str {
        head::authority(self.request)
    }

    fn port(&self) -> &'a str {
        let port = self.authority().rsplit_once(':').map(|(_, port)| port);
        port.filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
            .unwrap_or_default()
    }

    fn scheme(&self) -> &'static str {
        if self.exchange.https { "https" } else { "http" }
    }

    fn protocol(&self) -> &'static str {
        match self.request.version {
            _ if self.http2 => "HTTP/2.0",
            http::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    fn header(&self, name: &HeaderName) -> Cow<'a, str> {
        if *name == header::HOST {
            return self.authority().into();
        }
        joined(&self.request.headers, name)
    }

    /// The target as it came.
    pub(super) fn original(&self) -> &'a Uri {
        self.handling()
            .map_or(&self.request.uri, |handling| &handling.original.uri)
    }

    fn remote_port(&self) -> Option<u16> {
        self.connection.map(|connection| connection.peer_port)
    }

    fn remote(&self) -> String {
        match (self.exchange.peer, self.remote_port()) {
            (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
            (ip, Some(port)) => format!("{ip}:{port}"),
            (ip, None) => ip.to_string(),
        }
    }

    fn tls(&self, var: &Var) -> Cow<'a, str> {
        let Some(tls) = self
            .connection
            .and_then(|connection| connection.tls.as_deref())
        else {
            return Cow::Borrowed("");
        };
        match var {
            Var::TlsVersion => tls.version.replace("TLSv", "tls").into(),
            Var::TlsServerName => tls.sni.as_deref().unwrap_or_default().into(),
            Var::TlsAlpn if self.http2 => "h2".into(),
            Var::TlsAlpn => "http/1.1".into(),
            _ => tls
                .client
                .as_ref()
                .map_or("", |client| client.subject.as_str())
                .into(),
        }
    }

    fn upstream_status(&self) -> Cow<'a, str> {
        let kept = self
            .handling()
            .and_then(|handling| handling.upstream.as_ref());
        let status = kept
            .map(|kept| kept.status)
            .or_else(|| self.answer.map(|answer| answer.status.as_u16()));
        status.map_or(Cow::Borrowed(""), |status| status.to_string().into())
    }

    fn upstream_header(&self, name: &HeaderName) -> Cow<'a, str> {
        let kept = self
            .handling()
            .and_then(|handling| handling.upstream.as_ref());
        let headers = kept
            .map(|kept| &kept.headers)
            .or_else(|| self.answer.map(|answer| &answer.headers));
        headers.map_or(Cow::Borrowed(""), |headers| joined(headers, name))
    }

    /// The chosen upstream without its scheme.
    fn upstream(&self) -> String {
        let used = self.exchange.upstream.as_ref();
        let configured = used.map(|used| used.upstream().configured().to_string());
        let configured = configured.unwrap_or_default();
        match configured.split_once("://") {
            Some((_, rest)) => rest.to_owned(),
            None => configured,
        }
    }
}

/// The host of an authority, an IPv6 address with its brackets.
pub(super) fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

/// Path and query.
pub(super) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

/// With a question mark before it, unless it is empty.
pub(super) fn prefixed(query: Option<&str>) -> Cow<'static, str> {
    match query {
        None | Some("") => Cow::Borrowed(""),
        Some(query) => format!("?{query}").into(),
    }
}

pub(super) fn segment(path: &str, n: usize) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').nth(n).unwrap_or_default()
}

pub(super) fn dir(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..=at])
}

pub(super) fn file(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// A file's name without its extension, and that with its dot.
pub(super) fn base_and_extension(file: &str) -> (&str, &str) {
    file.rfind('.').map_or((file, ""), |at| file.split_at(at))
}

/// The values of a query parameter, as forms encode them.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Cow<'a, str> {
    let mut values = parameters(query).filter(|(known, _)| known == name);
    let Some((_, first)) = values.next() else {
        return Cow::Borrowed("");
    };
    let rest: Vec<_> = values.map(|(_, value)| value).collect();
    if rest.is_empty() {
        return first;
    }
    format!("{first},{}", rest.join(",")).into()
}

/// Names and values of a query, decoded.
pub(super) fn parameters(
    query: Option<&str>,
) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(name), form_decoded(value))
    })
}

fn form_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8_lossy();
    decoded.into_owned().into()
}

fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, str> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let Some(first) = values.next() else {
        return Cow::Borrowed("");
    };
    let rest: Vec<_> = values.collect();
    if rest.is_empty() {
        return first;
    }
    format!("{first},{}", rest.join(",")).into()
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let values = headers.get_all(header::COOKIE).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';'));
    let found = pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
    let value = found.unwrap_or_default();
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    quoted.unwrap_or(value)
}

/// A file's text without the last line end; empty for one that cannot be read.
fn contents(path: &str) -> String {
    let mut text = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut text));
    if let Err(error) = read {
        tracing::warn!(path, %error, "the file of a placeholder cannot be read");
        return String::new();
    }
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = nix::unistd::gethostname().unwrap_or_default();
        name.to_string_lossy().into_owned()
    })
}

fn time(form: TimeForm, now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let shown = |format: &str| {
        let timestamp = jiff::Timestamp::try_from(now).unwrap_or_default();
        timestamp.strftime(format).to_string()
    };
    match form {
        TimeForm::Rfc3339 => clock::rfc3339(now),
        TimeForm::Unix => since.as_secs().to_string(),
        TimeForm::UnixMillis => since.as_millis().to_string(),
        TimeForm::Year => shown("%Y"),
        TimeForm::Http => shown("%a, %d %b %Y %H:%M:%S GMT"),
        TimeForm::CommonLog => shown("%d/%b/%Y:%H:%M:%S +0000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::handle::state::{Captured, set};
    use crate::proxy::handle::test::{exchange, request};

    fn filled(target: &str, fields: &[(&'static str, &str)], template: &str) -> String {
        let request = request("GET", target, fields);
        let exchange = exchange();
        let scope = Scope::of(&request, &exchange);
        let template = Template::parse(template, &["mapped".to_owned()]).expect("a template");
        scope.fill(&template).into_owned()
    }

    #[test]
    fn a_request_has_all_the_parts_that_it_was_sent_with() {
        let fields = [
            ("host", "Www.Example.com:8080"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("cookie", "a=b; session=\"s1\""),
        ];
        for (template, expected) in [
            ("{host}", "Www.Example.com"),
            ("{hostport}", "Www.Example.com:8080"),
            ("{port}", "8080"),
            (
                "{scheme}://{host}{uri}",
                "http://Www.Example.com/a%20b/c.tar.gz?q=1&q=a+b&r",
            ),
            ("{path}", "/a b/c.tar.gz"),
            ("{path.0}|{path.1}|{path.2}", "a b|c.tar.gz|"),
            (
                "{dir}|{file}|{file.base}|{file.ext}",
                "/a b/|c.tar.gz|c.tar|.gz",
            ),
            ("{query}|{?query}", "q=1&q=a+b&r|?q=1&q=a+b&r"),
            ("{query.q}|{query.r}|{query.s}", "1,a b||"),
            (
                "{header.X-A}|{header.Missing}|{header.Host}",
                "1,2||Www.Example.com:8080",
            ),
            ("{cookie.session}|{cookie.sess}", "s1|"),
            ("{labels.0}.{labels.1}", "com.Example"),
            ("{method} {proto}", "GET HTTP/1.1"),
            ("{remote_ip} {client_ip}", "192.0.2.1 192.0.2.1"),
        ] {
            let target = "/a%20b/c.tar.gz?q=1&q=a+b&r";
            assert_eq!(filled(target, &fields, template), expected, "{template}");
        }
        assert_eq!(
            filled("/", &[("host", "[::1]:80")], "{host} {port}"),
            "[::1] 80"
        );
        assert_eq!(filled("/", &[("host", "[::1]")], "{host} {port}"), "[::1] ");
        assert_eq!(filled("/", &[("host", "a")], "{?query}."), ".");
    }

    #[test]
    fn what_steps_set_is_seen_and_the_last_one_counts() {
        let request = request("GET", "/new", &[("host", "a")]);
        let mut exchange = exchange();
        let handling = exchange.handling.as_deref_mut().expect("a site with steps");
        set(&mut handling.vars, "v", "1".to_owned());
        set(&mut handling.vars, "v", "2".to_owned());
        handling.root = Some("/srv".to_owned());
        handling.user = Some("alice".to_owned());
        handling.captures = vec![
            Captured {
                name: "n".to_owned(),
                groups: vec![
                    (None, "whole".to_owned()),
                    (Some("g".to_owned()), "part".to_owned()),
                ],
            },
            Captured {
                name: "m".to_owned(),
                groups: vec![(None, "other".to_owned())],
            },
        ];
        let scope = Scope::of(&request, &exchange);
        let fill = |text: &str| {
            let template = Template::parse(text, &[]).expect("a template");
            scope.fill(&template).into_owned()
        };
        assert_eq!(fill("{vars.v}|{vars.w}|{vars.root}"), "2||/srv");
        assert_eq!(
            fill("{re.n.0}|{re.n.1}|{re.n.g}|{re.n.2}"),
            "whole|part|part|"
        );
        assert_eq!(
            fill("{re.0}|{re.1}"),
            "other|part",
            "without a name: the last one"
        );
        assert_eq!(fill("{user.id}"), "alice");
        assert_eq!(fill("{orig_uri}|{uri}"), "/old?q|/new");
        assert_eq!(fill("{err.status_code}{rp.status_code}{rp.header.x}"), "");
    }

    #[test]
    fn times_are_written_in_every_form() {
        let at = UNIX_EPOCH + std::time::Duration::from_millis(784_111_777_500);
        for (form, text) in [
            (TimeForm::Rfc3339, "1994-11-06T08:49:37.500Z"),
            (TimeForm::Unix, "784111777"),
            (TimeForm::UnixMillis, "784111777500"),
            (TimeForm::Year, "1994"),
            (TimeForm::Http, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (TimeForm::CommonLog, "06/Nov/1994:08:49:37 +0000"),
        ] {
            assert_eq!(time(form, at), text);
        }
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_line_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "a\nb\r\n").expect("written");
        assert_eq!(contents(&path.display().to_string()), "a\nb");
        assert_eq!(contents("/nowhere/at/all"), "");
    }
}
