//! The test data: a Caddyfile, the files it serves, and requests with what is expected of them.
//!
//! ```text
//! What the case shows, in one sentence or more.
//! ---- Caddyfile
//! ---- file NAME [gzip | times N]       (NAME/ is an empty folder, `\s` a blank)
//! ---- link NAME TARGET
//! ---- requests
//! METHOD TARGET STATUS [https | h2 | port=A | chunked | differs=ID | cutover=STATUS]...
//!   Name: value        a field of the request
//!   < text             a line of its body (after a 101: of what is sent then and comes back); `<* 1000 x` is `x` a thousand times
//!   | line             a line of the request as it is sent, instead of all the above
//!   > Name: value      a field of the answer; without a value: it must be missing
//!   = text             a line of the answer's body, which must be all of it
//!   ~ text             a part of the answer's body
//!   ^ METHOD TARGET    what the upstream got; `^ none`: nothing
//!   ^ Name: value      a field that it got; without a value: it must be missing
//! ```
//!
//! A status of 0 is a connection that was closed without an answer. `$HTTP_PORT` and the other
//! names of [`Case::variables`] are replaced in requests; `$ETAG` is that of the answer before.

use std::fs;
use std::path::Path;

/// One Caddyfile and what is asked of it.
#[derive(Debug)]
pub struct Case {
    /// `folder/file`, without the extension.
    pub name: String,
    pub caddyfile: String,
    pub files: Vec<Item>,
    pub requests: Vec<Request>,
}

/// What lies in the case's folder.
#[derive(Debug)]
pub enum Item {
    File(String, Vec<u8>),
    Folder(String),
    Link(String, String),
}

#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Of its file.
    pub line: usize,
    pub method: String,
    pub target: String,
    pub status: u16,
    pub https: bool,
    pub h2: bool,
    pub chunked: bool,
    /// `A` of `port=A`.
    pub port: Option<String>,
    /// Where an accepted difference is one of status.
    pub cutover_status: Option<u16>,
    /// Accepted differences that must show.
    pub differs: Vec<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub raw: Option<String>,
    pub expected: Vec<Expected>,
}

#[derive(Clone, Debug)]
pub enum Expected {
    Header(String, String),
    Body(String),
    Part(String),
    UpstreamLine(String),
    UpstreamHeader(String, String),
}

/// All cases of a folder, by name.
pub fn read_all(folder: &Path) -> Vec<Case> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "case"));
    paths.sort();
    let cases = paths.iter().map(|path| {
        let text = fs::read_to_string(path).expect("readable");
        let parent = folder.file_name().expect("a name").to_string_lossy();
        let stem = path.file_stem().expect("a name").to_string_lossy();
        parse(&format!("{parent}/{stem}"), &text)
    });
    cases.collect()
}

fn parse(name: &str, text: &str) -> Case {
    let mut case = Case {
        name: name.to_owned(),
        caddyfile: String::new(),
        files: Vec::new(),
        requests: Vec::new(),
    };
    let mut sections: Vec<(usize, String, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("---- "), sections.last_mut()) {
            (Some(title), _) => sections.push((index + 2, title.to_owned(), String::new())),
            (None, Some((_, _, body))) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    for (first_line, title, body) in sections {
        // `\s` is a blank in a name.
        let title = title.replace("\\s", "\u{1}");
        let words: Vec<&str> = title.split_whitespace().collect();
        match words.as_slice() {
            ["Caddyfile"] => case.caddyfile = body,
            ["requests"] => case.requests = requests(name, first_line, &body),
            ["link", name, target] => {
                case.files
                    .push(Item::Link((*name).to_owned(), (*target).to_owned()));
            }
            ["file", folder] if folder.ends_with('/') => {
                case.files.push(Item::Folder((*folder).to_owned()));
            }
            ["file", path, how @ ..] => {
                case.files
                    .push(Item::File(path.replace('\u{1}', " "), content(&body, how)));
            }
            _ => panic!("{name}: {title} is no section"),
        }
    }
    assert!(
        !case.caddyfile.is_empty() && !case.requests.is_empty(),
        "{name} is not whole"
    );
    case
}

fn content(text: &str, how: &[&str]) -> Vec<u8> {
    use std::io::Write as _;
    match how {
        [] => text.as_bytes().to_vec(),
        ["times", n] => text.repeat(n.parse().expect("a number")).into_bytes(),
        ["gzip"] => {
            let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            coder.write_all(text.as_bytes()).expect("memory");
            coder.finish().expect("memory")
        }
        ["br"] => {
            let mut coded = Vec::new();
            let params = brotli::enc::BrotliEncoderParams::default();
            brotli::BrotliCompress(&mut text.as_bytes(), &mut coded, &params).expect("memory");
            coded
        }
        ["zstd"] => zstd::encode_all(text.as_bytes(), 3).expect("memory"),
        other => panic!("{other:?}"),
    }
}

fn requests(name: &str, first_line: usize, text: &str) -> Vec<Request> {
    let mut all: Vec<Request> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = first_line + index;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match (line.strip_prefix("  "), all.last_mut()) {
            (None, _) => all.push(first(line, number).unwrap_or_else(|| bad(name, number))),
            (Some(more), Some(request)) => {
                detail(request, more).unwrap_or_else(|| bad(name, number));
            }
            (Some(_), None) => bad(name, number),
        }
    }
    all
}

fn bad<T>(name: &str, line: usize) -> T {
    panic!("{name}: line {line} is not understood")
}

fn first(line: &str, number: usize) -> Option<Request> {
    let mut words = line.split_whitespace();
    let mut request = Request {
        line: number,
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        status: words.next()?.parse().ok()?,
        ..Request::default()
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("https", "") => request.https = true,
            ("h2", "") => (request.https, request.h2) = (true, true),
            ("chunked", "") => request.chunked = true,
            ("port", name) => request.port = Some(name.to_owned()),
            ("cutover", status) => request.cutover_status = Some(status.parse().ok()?),
            ("differs", id) => request.differs.push(id.to_owned()),
            _ => return None,
        }
    }
    Some(request)
}

fn detail(request: &mut Request, line: &str) -> Option<()> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    let field = |text: &str| {
        let (name, value) = text.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    match kind {
        "<" => {
            if !request.body.is_empty() {
                request.body.push(b'\n');
            }
            request.body.extend_from_slice(rest.as_bytes());
        }
        "<*" => {
            let (count, text) = rest.split_once(' ')?;
            request
                .body
                .extend(text.repeat(count.parse().ok()?).bytes());
        }
        "|" => {
            let raw = request.raw.get_or_insert_default();
            raw.push_str(rest);
            raw.push_str("\r\n");
        }
        ">" => {
            let (name, value) = field(rest)?;
            request.expected.push(Expected::Header(name, value));
        }
        "=" => match request.expected.last_mut() {
            Some(Expected::Body(text)) => {
                text.push('\n');
                text.push_str(rest);
            }
            _ => request.expected.push(Expected::Body(rest.to_owned())),
        },
        "~" => request.expected.push(Expected::Part(rest.to_owned())),
        "^" => match field(rest).filter(|(name, _)| !name.contains(' ')) {
            Some((name, value)) => request.expected.push(Expected::UpstreamHeader(name, value)),
            None => request
                .expected
                .push(Expected::UpstreamLine(rest.to_owned())),
        },
        _ => request.headers.push(field(line)?),
    }
    Some(())
}
