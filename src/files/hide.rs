//! Files that are there but are not found: the `hide` rules of Caddy.

use std::path::{Component, Path, PathBuf};

use super::glob;

/// What is hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hide(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// A pattern for a name at any depth beneath the root; what is within is hidden with it.
    Name(String),
    /// A pattern for a whole path, or a path that what is hidden lies in or is.
    Path(String),
}

impl Hide {
    /// Reads the texts. One without a slash is a name; one with a slash is a path in the file
    /// system, relative to the working folder if it does not begin with a slash.
    pub(crate) fn new(texts: impl Iterator<Item = impl AsRef<str>>) -> Self {
        let rules = texts.map(|text| match text.as_ref() {
            path if path.contains('/') => Rule::Path(absolute(Path::new(path))),
            name => Rule::Name(name.to_owned()),
        });
        Self(rules.collect())
    }

    /// Whether `name` beneath `root` is hidden.
    pub(super) fn hides(&self, root: &Path, name: &Path) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let whole = absolute(&root.join(name));
        self.0.iter().any(|rule| match rule {
            Rule::Name(pattern) => name
                .components()
                .any(|part| glob::matches(pattern, &part.as_os_str().to_string_lossy())),
            Rule::Path(path) => {
                let within = whole.strip_prefix(path.as_str());
                within.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    || glob::matches(path, &whole)
            }
        })
    }
}

/// Without dots, from the root of the file system; links are not followed.
fn absolute(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut clean = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(rule: &str, name: &str) -> bool {
        Hide::new([rule].into_iter()).hides(Path::new("/srv/www"), Path::new(name))
    }

    #[test]
    fn a_name_is_hidden_at_any_depth_with_what_is_in_it() {
        assert!(hidden("secret", "secret"));
        assert!(hidden("secret", "a/secret/b.txt"));
        assert!(!hidden("secret", "secrets"));
        assert!(hidden("*.bak", "a/b.bak"));
        assert!(
            !hidden("www", "index.html"),
            "the root's own name does not count"
        );
    }

    #[test]
    fn a_path_is_hidden_there_alone() {
        assert!(hidden("/srv/www/a", "a"));
        assert!(hidden("/srv/www/a", "a/b"));
        assert!(!hidden("/srv/www/a", "ab"));
        assert!(!hidden("/srv/www/a", "b/a"));
        assert!(hidden("/srv/*/a.txt", "a.txt"));
        assert!(hidden("/srv/www/x/../a/", "a"));
    }

    #[test]
    fn a_relative_path_begins_at_the_working_folder() {
        let here = std::env::current_dir().expect("a folder");
        let hide = Hide::new(["./a"].into_iter());
        assert!(hide.hides(&here, Path::new("a")));
        assert!(hide.hides(Path::new("."), Path::new("a")));
        assert!(!hide.hides(Path::new("/"), Path::new("a")));
    }
}
