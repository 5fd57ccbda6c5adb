//! Static files and compression, as clients see them over HTTP/1.1 and HTTP/2.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{Edge, Origins, finish};

/// An answer as it came over the wire.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body without its content coding.
    fn decoded(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let body = self.body.as_slice();
        let mut reader: Box<dyn Read> = match self.field("content-encoding") {
            None => Box::new(body),
            Some("gzip") => Box::new(flate2::read::GzDecoder::new(body)),
            Some("br") => Box::new(brotli::Decompressor::new(body, 4096)),
            Some("zstd") => Box::new(zstd::stream::read::Decoder::new(body).expect("zstd")),
            Some(other) => panic!("{other}"),
        };
        reader.read_to_end(&mut plain).expect("a whole body");
        plain
    }
}

/// Asks over HTTP/1.1, or over TLS and HTTP/2. The path goes out as it is.
fn ask(edge: &Edge, h2: bool, path: &str, arguments: &[&str]) -> Got {
    let place = tempfile::tempdir().expect("a folder");
    let (head, body) = (place.path().join("head"), place.path().join("body"));
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--path-as-is",
        ])
        .args(["--insecure", "--dump-header"])
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .args(arguments);
    let url = if h2 {
        command.args(["--http2", "--resolve"]);
        command.arg(format!("localhost:{}:127.0.0.1", edge.https.port()));
        format!("https://localhost:{}{path}", edge.https.port())
    } else {
        command.args(["--http1.1", "-H", "Host: localhost"]);
        format!("http://{}{path}", edge.http)
    };
    let ended = finish(command.arg(url));
    assert_eq!(ended.code, 0, "{path}: {ended:?}");
    let head = fs::read_to_string(head).expect("a head");
    let version = if h2 { "HTTP/2 " } else { "HTTP/1.1 " };
    let status = head
        .strip_prefix(version)
        .unwrap_or_else(|| panic!("{head}"));
    Got {
        status: status[..3].parse().expect("a status"),
        body: fs::read(body).unwrap_or_default(),
        head,
    }
}

/// A folder with files, and what lies beside it.
fn site() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a folder");
    let root = place.path().join("root");
    for folder in ["docs", ".git"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let long = "a line of text that gets shorter\n".repeat(20_000);
    for (name, text) in [
        ("index.html", "<p>start"),
        ("ten.txt", "0123456789"),
        ("long.txt", long.as_str()),
        ("docs/index.html", "docs"),
        (".git/config", "git"),
        (".env", "env"),
    ] {
        fs::write(root.join(name), text).expect("a file");
    }
    fs::write(place.path().join("outside.txt"), "outside").expect("a file");
    symlink("../outside.txt", root.join("out.txt")).expect("a link");
    place
}

fn start(root: &Path, more: &str) -> Edge {
    Edge::start(&format!(
        "[[site]]\nhosts = [\"localhost\"]\ndefault = true\nredirect = false\n\
         root = \"{}\"\nfiles = true\n{more}\n",
        root.display()
    ))
}

#[test]
fn files_are_served_whole_in_ranges_and_by_condition() {
    let place = site();
    let edge = start(&place.path().join("root"), "");
    for h2 in [false, true] {
        let whole = ask(&edge, h2, "/ten.txt", &[]);
        assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
        assert_eq!(
            whole.field("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(whole.field("content-length"), Some("10"));
        let part = ask(&edge, h2, "/ten.txt", &["-r", "2-4"]);
        assert_eq!((part.status, part.text().as_str()), (206, "234"));
        assert_eq!(part.field("content-range"), Some("bytes 2-4/10"));
        let parts = ask(&edge, h2, "/ten.txt", &["-r", "0-0,-1"]);
        assert_eq!(parts.status, 206);
        assert!(
            parts.text().contains("Content-Range: bytes 9-9/10"),
            "{}",
            parts.text()
        );
        let beyond = ask(&edge, h2, "/ten.txt", &["-r", "10-"]);
        assert_eq!(
            (beyond.status, beyond.field("content-range")),
            (416, Some("bytes */10"))
        );
        let etag = whole.field("etag").expect("an entity tag");
        let same = ask(
            &edge,
            h2,
            "/ten.txt",
            &["-H", &format!("If-None-Match: {etag}")],
        );
        assert_eq!((same.status, same.text().as_str()), (304, ""));
        let head = ask(&edge, h2, "/ten.txt", &["--head"]);
        // Nothing follows the head, which curl writes where a body would be.
        assert_eq!((head.status, head.text()), (200, head.head.clone()));
        assert_eq!(head.field("content-length"), Some("10"));
        let long = ask(&edge, h2, "/long.txt", &[]);
        assert_eq!(long.body.len(), 33 * 20_000);
        assert_eq!(ask(&edge, h2, "/", &[]).text(), "<p>start");
        let redirect = ask(&edge, h2, "/docs?a=b", &[]);
        assert_eq!(
            (redirect.status, redirect.field("location")),
            (308, Some("/docs/?a=b"))
        );
        // Without a body: curl 7.88 takes an HTTP/2 answer that comes before its body for an error.
        let posted = ask(&edge, h2, "/ten.txt", &["-X", "POST"]);
        assert_eq!(
            (posted.status, posted.field("allow")),
            (405, Some("GET, HEAD"))
        );
    }
}

#[test]
fn nothing_outside_the_root_and_no_dotfile_is_served() {
    let place = site();
    let edge = start(&place.path().join("root"), "");
    for h2 in [false, true] {
        for path in [
            "/../outside.txt",
            "/%2e%2e/outside.txt",
            "/docs/%2e%2e/%2e%2e/outside.txt",
            "/..%2foutside.txt",
            "/..%5coutside.txt",
            "/%252e%252e/outside.txt",
            "/docs/..;/../outside.txt",
            "//../outside.txt",
            "/out.txt",
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/docs/../.env",
            "/ten.txt%00",
            "/docs%2findex.html",
        ] {
            let got = ask(&edge, h2, path, &[]);
            assert!(matches!(got.status, 400 | 403 | 404), "{path}: {got:?}");
            let text = got.text();
            for secret in ["outside", "env", "git"] {
                assert!(!text.contains(secret), "{path}: {text}");
            }
        }
    }
}

#[test]
fn files_and_answers_of_upstreams_are_compressed_as_the_client_takes_it() {
    let place = site();
    let origins = Origins::start();
    let more = format!(
        "encode = true\n[[site.route]]\npath = \"/headers\"\nservice = \"web\"\n\
         [[site.route.handle]]\nencode = {{ min_length = 1, status = [\"2xx\"] }}\n{}",
        origins.service("observe = \"0s\"")
    );
    let edge = start(&place.path().join("root"), &more);
    edge.wait_healthy();
    let plain = fs::read(place.path().join("root/long.txt")).expect("a file");
    for h2 in [false, true] {
        for coding in ["gzip", "br", "zstd"] {
            let accept = format!("Accept-Encoding: {coding}");
            let got = ask(&edge, h2, "/long.txt", &["-H", &accept]);
            assert_eq!(
                (got.status, got.field("content-encoding")),
                (200, Some(coding))
            );
            assert!(got.body.len() < plain.len() / 10, "{coding}");
            assert_eq!(got.decoded(), plain, "{coding}");
            assert_eq!(got.field("content-length"), None);
            assert_eq!(got.field("vary"), Some("Accept-Encoding"));
            assert!(
                got.field("etag")
                    .is_some_and(|etag| etag.starts_with("W/\""))
            );
            let head = ask(&edge, h2, "/long.txt", &["--head", "-H", &accept]);
            assert_eq!(
                (head.field("content-encoding"), head.text()),
                (Some(coding), head.head.clone())
            );
            let part = ask(&edge, h2, "/long.txt", &["-r", "0-9", "-H", &accept]);
            assert_eq!((part.status, part.field("content-encoding")), (206, None));
        }
        let identity = ask(&edge, h2, "/long.txt", &["-H", "Accept-Encoding: gzip;q=0"]);
        assert_eq!(
            (identity.field("content-encoding"), identity.body.len()),
            (None, plain.len())
        );
        assert_eq!(identity.field("vary"), Some("Accept-Encoding"));
        let short = ask(&edge, h2, "/ten.txt", &["-H", "Accept-Encoding: gzip"]);
        assert_eq!(
            (short.field("content-encoding"), short.text().as_str()),
            (None, "0123456789")
        );
    }
}
