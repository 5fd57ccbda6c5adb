//! From the path of a request to a name beneath a folder.
//!
//! A name never leads upwards, holds no NUL and no slash that came as `%2F`: with one, a path
//! would mean another file than the one that the rules of a site were asked about.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Relative, decoded, without a slash at either end; empty: the folder itself.
    bytes: Vec<u8>,
    /// The path ends in a slash.
    pub(super) slash: bool,
    /// The path has an empty segment. Rules that compare paths see it, the file system does not.
    pub(super) doubled: bool,
}

impl Name {
    /// Reads the path of a request, with its escapes. `None`: it can name no file.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(path.len());
        let (mut slash, mut doubled) = (false, false);
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
        while let Some(segment) = segments.next() {
            match (segment.is_empty(), segments.peek()) {
                (true, None) => slash = true,
                (true, Some(_)) => doubled = true,
                (false, _) => append(&mut bytes, segment)?,
            }
        }
        Some(Self {
            bytes,
            slash,
            doubled,
        })
    }

    /// Relative to the folder; empty: the folder itself.
    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes))
    }

    /// Whether a part of it begins with a dot. `.well-known` at the start does not count: its
    /// files are there to be seen (RFC 8615).
    pub(super) fn is_dotted(&self) -> bool {
        let mut segments = self.bytes.split(|byte| *byte == b'/');
        let first = segments.next().unwrap_or_default();
        let dotted = |segment: &[u8]| segment.starts_with(b".");
        dotted(first) && first != b".well-known" || segments.any(dotted)
    }

    /// A file in this folder. `None`: the text is no file's name.
    pub(super) fn child(&self, name: &str) -> Option<Self> {
        let mut bytes = self.bytes.clone();
        for segment in name.split('/').filter(|segment| !segment.is_empty()) {
            append_plain(&mut bytes, segment.as_bytes())?;
        }
        Some(Self {
            bytes,
            slash: false,
            doubled: false,
        })
    }

    /// The same name with `ending` at its end.
    pub(super) fn with_ending(&self, ending: &str) -> Self {
        let mut longer = self.clone();
        longer.bytes.extend_from_slice(ending.as_bytes());
        longer
    }
}

/// Decodes a segment to the end of `bytes`.
fn append(bytes: &mut Vec<u8>, segment: &str) -> Option<()> {
    let segment: Cow<'_, [u8]> = percent_encoding::percent_decode_str(segment).into();
    append_plain(bytes, &segment)
}

fn append_plain(bytes: &mut Vec<u8>, segment: &[u8]) -> Option<()> {
    if segment == b".." || segment.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return None;
    }
    if !segment.is_empty() && segment != b"." {
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(segment);
    }
    Some(())
}

/// What has to be escaped in the path of a URI (RFC 3986 §3.3). The backslash is one of them:
/// browsers take it for a slash.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A file's name as the path of a URI.
pub(super) fn encode_path(name: &[u8]) -> String {
    percent_encode(name, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: &str) -> Option<(String, bool, bool)> {
        let name = Name::parse(path)?;
        let text = name.path().to_string_lossy().into_owned();
        Some((text, name.slash, name.doubled))
    }

    fn plain(text: &str, slash: bool) -> Option<(String, bool, bool)> {
        Some((text.to_owned(), slash, false))
    }

    #[test]
    fn a_path_is_decoded_to_a_relative_name() {
        assert_eq!(read("/a/b%20c.txt"), plain("a/b c.txt", false));
        assert_eq!(read("/a/"), plain("a", true));
        assert_eq!(read("/"), plain("", true));
        assert_eq!(read(""), plain("", true));
        assert_eq!(read("/%252e%252e/x"), plain("%2e%2e/x", false));
        assert_eq!(read("/a/./b"), plain("a/b", false));
    }

    #[test]
    fn nothing_leads_upwards_and_no_escape_hides_a_slash() {
        for path in [
            "/..",
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "/a%2Fb",
            "/a%2f..%2fb",
            "/a%00.txt",
            "/a/%2e%2E",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn empty_segments_are_told() {
        for path in ["//a", "/b//a", "/a//", "//"] {
            assert!(read(path).is_some_and(|(_, _, doubled)| doubled), "{path}");
        }
        assert_eq!(read("//a/b").map(|read| read.0).as_deref(), Some("a/b"));
    }

    #[test]
    fn dotted_names_are_told_from_well_known_ones() {
        let dotted = |path| Name::parse(path).is_some_and(|name| name.is_dotted());
        assert!(dotted("/.env") && dotted("/a/.git/config") && dotted("/%2eenv"));
        assert!(dotted("/.well-known/.x") && dotted("/a/.well-known/x") && dotted("/.well-knownx"));
        assert!(!dotted("/.well-known/security.txt") && !dotted("/a.b/c.d") && !dotted("/"));
    }

    proptest! {
        #[test]
        fn a_name_stays_beneath_its_folder(path in "/[a-b./%25EeF0\\\\]{0,20}") {
            if let Some(name) = Name::parse(&path) {
                let inside = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(name.path().components().all(inside), "{:?}", name);
                prop_assert!(!name.bytes.contains(&0));
            }
        }

        #[test]
        fn what_is_encoded_is_read_back(text in "[a-z %?#\\\\é.]{1,12}") {
            prop_assume!(text != "." && text != "..");
            let name = Name::parse(&format!("/{}", encode_path(text.as_bytes())));
            prop_assert_eq!(name.map(|name| name.bytes), Some(text.into_bytes()));
        }
    }
}
