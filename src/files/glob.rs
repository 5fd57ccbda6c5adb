//! Patterns for names of files, as Go's `filepath.Match` and `filepath.Glob` read them.
//!
//! `*` is any text and `?` any character without a slash, `[a-z]` and `[^a-z]` are classes, a
//! backslash takes the meaning off the next character.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// More files than this are not looked at for one pattern.
const MOST: usize = 10_000;

/// Whether `text` as a whole is what `pattern` describes. A pattern that is malformed describes
/// nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some(parts) = parse(pattern) else {
        return false;
    };
    let text: Vec<char> = text.chars().collect();
    // The usual two pointers: on a mismatch the last star takes one character more.
    let (mut at, mut part) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match parts.get(part) {
            Some(Part::Star) => {
                star = Some((part, at));
                part += 1;
                continue;
            }
            Some(other) if other.takes(text[at]) => {
                at += 1;
                part += 1;
                continue;
            }
            _ => {}
        }
        match star {
            Some((place, taken)) if text[taken] != '/' => {
                star = Some((place, taken + 1));
                (at, part) = (taken + 1, place + 1);
            }
            _ => return false,
        }
    }
    parts[part..].iter().all(|part| matches!(part, Part::Star))
}

/// Takes the meaning off everything in `text` that has one in a pattern.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(SPECIAL) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if SPECIAL.contains(&letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    Cow::Owned(escaped)
}

const SPECIAL: [char; 4] = ['*', '?', '[', '\\'];

/// The text that a pattern without stars, marks and classes stands for.
pub(super) fn literal(pattern: &str) -> Option<Cow<'_, str>> {
    if !pattern.contains(SPECIAL) {
        return Some(Cow::Borrowed(pattern));
    }
    let parts = parse(pattern)?;
    let letters = parts.iter().map(|part| match part {
        Part::Letter(letter) => Some(*letter),
        _ => None,
    });
    letters.collect::<Option<String>>().map(Cow::Owned)
}

/// The files beneath `root` that fit, relative and sorted. Reads folders, so it may block.
pub(super) fn expand(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for segment in pattern.split('/').filter(|segment| !segment.is_empty()) {
        let mut next = Vec::new();
        for folder in found {
            match literal(segment) {
                Some(name) if name == "." || name == ".." => {}
                Some(name) => {
                    let path = folder.join(&*name);
                    if root.join(&path).symlink_metadata().is_ok() {
                        next.push(path);
                    }
                }
                None => next.extend(fitting(root, &folder, segment)),
            }
            if next.len() >= MOST {
                break;
            }
        }
        found = next;
    }
    found.sort_unstable();
    found
}

fn fitting(root: &Path, folder: &Path, segment: &str) -> Vec<PathBuf> {
    let Ok(entries) = root.join(folder).read_dir() else {
        return Vec::new();
    };
    entries
        .take(MOST)
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            matches(segment, name.to_str()?).then(|| folder.join(name))
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Star,
    Any,
    Letter(char),
    /// Inclusive ranges.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Part {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => letter != '/',
            Self::Letter(own) => *own == letter,
            Self::Class { not, ranges } => {
                letter != '/' && *not != ranges.iter().any(|(a, z)| (*a..=*z).contains(&letter))
            }
        }
    }
}

/// `None`: a class that does not end, or a backslash at the end.
fn parse(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        parts.push(match letter {
            '*' => Part::Star,
            '?' => Part::Any,
            '\\' => Part::Letter(letters.next()?),
            '[' => {
                let not = letters.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let first = match letters.next()? {
                        ']' if !ranges.is_empty() => break,
                        ']' | '-' => return None,
                        '\\' => letters.next()?,
                        other => other,
                    };
                    let last = match letters.next_if_eq(&'-') {
                        None => first,
                        Some(_) => match letters.next()? {
                            ']' | '-' => return None,
                            '\\' => letters.next()?,
                            other => other,
                        },
                    };
                    ranges.push((first, last));
                }
                Part::Class { not, ranges }
            }
            other => Part::Letter(other),
        });
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_describe_names_as_in_go() {
        for (pattern, text, fits) in [
            ("*.html", "a.html", true),
            ("*.html", "a/b.html", false),
            ("/srv/*/x", "/srv/a/x", true),
            ("/srv/*/x", "/srv/a/b/x", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b*", "xaybz", true),
            ("*a*b", "xaybz", false),
            ("", "", true),
            ("*", "", true),
            ("[", "[", false),
            ("[]a]", "a", false),
            ("a\\", "a", false),
            ("é?", "éa", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(40);
        assert!(!matches(&pattern, &"a".repeat(2_000).replace('a', "ab")));
    }

    #[test]
    fn files_that_fit_are_found_in_order() {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["b", "a", "c"] {
            fs::create_dir(root.path().join(folder)).expect("a folder");
        }
        for file in ["b/1.txt", "a/2.txt", "a/1.txt", "c/1.md", "a/[x]"] {
            fs::write(root.path().join(file), "").expect("a file");
        }
        let found = |pattern| -> Vec<String> {
            let paths = expand(root.path(), pattern);
            let texts = paths.iter().map(|path| path.to_string_lossy().into_owned());
            texts.collect()
        };
        assert_eq!(found("/*/*.txt"), ["a/1.txt", "a/2.txt", "b/1.txt"]);
        assert_eq!(found("/a/\\[x]"), ["a/[x]"]);
        assert_eq!(found("/none/*"), [""; 0]);
        assert_eq!(found("/../*"), [""; 0], "a folder lists no `..`");
    }

    proptest! {
        #[test]
        fn what_is_escaped_stands_for_itself(text in "[a-c*?\\[\\]\\\\^-]{0,12}") {
            let escaped = escape(&text);
            prop_assert!(matches(&escaped, &text), "{escaped}");
            let literal = literal(&escaped);
            prop_assert_eq!(literal.as_deref(), Some(&*text));
        }

        #[test]
        fn no_pattern_panics(pattern in "\\PC{0,12}", text in "\\PC{0,12}") {
            let _ = matches(&pattern, &text);
        }
    }
}
