//! The media type of a file, by its extension alone.
//!
//! Contents are never looked at: a file that a user uploaded under a harmless name must not
//! become a page. Without a known extension there is no `Content-Type`, as in Caddy.

use std::borrow::Cow;
use std::path::Path;

/// Where the usual table is older than browsers, or where the type is worth to be the same on
/// every system.
const OURS: &[(&str, &str)] = &[
    ("apk", "application/vnd.android.package-archive"),
    ("atom", "application/atom+xml"),
    ("avif", "image/avif"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("rss", "application/rss+xml"),
    ("svg", "image/svg+xml"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xml", "text/xml; charset=utf-8"),
    ("zip", "application/zip"),
];

/// The `Content-Type` of a file of that name; `None`: it is not known.
pub(super) fn of(path: &Path) -> Option<Cow<'static, str>> {
    let name = path.file_name()?.to_str()?;
    // Of `.html` as well: what is after the last dot, as in Go.
    let (_, extension) = name.rsplit_once('.')?;
    let extension = lower(extension);
    if let Ok(at) = OURS.binary_search_by(|(known, _)| (*known).cmp(&extension)) {
        return Some(Cow::Borrowed(OURS[at].1));
    }
    let known = mime_guess::from_ext(&extension).first_raw()?;
    Some(if known.starts_with("text/") {
        Cow::Owned(format!("{known}; charset=utf-8"))
    } else {
        Cow::Borrowed(known)
    })
}

fn lower(extension: &str) -> Cow<'_, str> {
    if extension.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(extension.to_ascii_lowercase())
    } else {
        Cow::Borrowed(extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Option<String> {
        of(Path::new(name)).map(Cow::into_owned)
    }

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(OURS.is_sorted_by(|one, next| one.0 < next.0));
    }

    #[test]
    fn texts_have_a_charset_and_others_have_none() {
        for (name, expected) in [
            ("a/index.html", "text/html; charset=utf-8"),
            ("A.JS", "text/javascript; charset=utf-8"),
            ("app.min.css", "text/css; charset=utf-8"),
            ("data.json", "application/json"),
            ("pic.svg", "image/svg+xml"),
            ("a.xhtml", "application/xhtml+xml"),
            ("a.tar.gz", "application/gzip"),
            ("a.tar", "application/x-tar"),
            ("m.wasm", "application/wasm"),
        ] {
            assert_eq!(kind(name).as_deref(), Some(expected), "{name}");
        }
        let python = kind("a.py").expect("a text");
        assert!(python.starts_with("text/") && python.ends_with("; charset=utf-8"));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(kind("LICENSE"), None);
        assert_eq!(kind("a.html/noext"), None);
        assert_eq!(kind("a.unknownextension"), None);
    }
}
