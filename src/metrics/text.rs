//! The Prometheus text format 0.0.4, written straight into one string: a scrape of ten
//! thousand services builds no tree of small strings first.

use std::fmt::{self, Display, Write};

use super::histogram::{BOUNDS, Snapshot};
use super::names::Family;

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Announces a family. All its series must follow before the next one, which the borrow
    /// sees to.
    pub(super) fn family(&mut self, family: &'static Family) -> Series<'_> {
        let Family {
            name, kind, help, ..
        } = family;
        self.push(format_args!(
            "# HELP {name} {help}\n# TYPE {name} {}\n",
            kind.as_str()
        ));
        Series { page: self, family }
    }

    /// The page, closed by `tail`, which is in the format already.
    pub(super) fn finish(mut self, tail: &str) -> String {
        self.text.push_str(tail);
        self.text
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        self.text
            .write_fmt(text)
            .expect("writing to a String does not fail");
    }
}

/// The series of one family.
#[derive(Debug)]
pub(super) struct Series<'a> {
    page: &'a mut Exposition,
    family: &'static Family,
}

impl Series<'_> {
    /// One line: `values` in the order of the family's labels.
    pub(super) fn sample(&mut self, values: &[&str], value: impl Display) {
        self.line("", values, None, value);
    }

    /// The lines of one histogram.
    pub(super) fn histogram(&mut self, values: &[&str], snapshot: &Snapshot) {
        let bounds = BOUNDS.iter().map(|(_, le)| *le).chain(["+Inf"]);
        for (le, count) in bounds.zip(snapshot.cumulative) {
            self.line("_bucket", values, Some(("le", le)), count);
        }
        self.line("_sum", values, None, snapshot.sum_seconds);
        self.line("_count", values, None, snapshot.count());
    }

    fn line(
        &mut self,
        suffix: &str,
        values: &[&str],
        extra: Option<(&str, &str)>,
        value: impl Display,
    ) {
        let Family { name, labels, .. } = self.family;
        debug_assert_eq!(labels.len(), values.len(), "{name}");
        self.page.push(format_args!("{name}{suffix}"));
        let pairs = labels
            .iter()
            .copied()
            .zip(values.iter().copied())
            .chain(extra);
        let mut opener = '{';
        for (label, value) in pairs {
            self.page
                .push(format_args!("{opener}{label}=\"{}\"", Escaped(value)));
            opener = ',';
        }
        let closer = if opener == ',' { "}" } else { "" };
        self.page.push(format_args!("{closer} {value}\n"));
    }
}

/// A label value with backslash, quote and newline escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            let (plain, special) = rest.split_at(at);
            f.write_str(plain)?;
            f.write_str(match special.as_bytes()[0] {
                b'\\' => r"\\",
                b'"' => "\\\"",
                _ => r"\n",
            })?;
            rest = &special[1..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn backslash_quote_and_newline_are_escaped_and_nothing_else() {
        let cases = [
            ("plain ü", "plain ü"),
            ("a\"b", r#"a\"b"#),
            ("\\\n", r"\\\n"),
            ("", ""),
        ];
        for (from, to) in cases {
            assert_eq!(Escaped(from).to_string(), to);
        }
    }

    #[test]
    fn a_series_without_labels_has_no_braces() {
        let mut page = Exposition::default();
        page.family(&names::CONFIG_LAST_RELOAD_SUCCESS)
            .sample(&[], 1);
        let text = page.finish("");
        assert!(
            text.ends_with("\ncutover_config_last_reload_success 1\n"),
            "{text}"
        );
    }
}
