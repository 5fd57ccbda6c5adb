//! A parser of the text format that forgives nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Labels in the order of the line.
pub(super) type Labels = Vec<(String, String)>;

#[derive(Debug)]
pub(super) struct Family {
    pub(super) kind: String,
    /// Full name (with a histogram's suffix), labels, value.
    pub(super) samples: Vec<(String, Labels, f64)>,
}

/// Parses a page. Panics on: a line that is not HELP, TYPE or a sample; a family without
/// either, or announced twice; a sample outside its family; a series that occurs twice; a
/// histogram that is not one.
pub(super) fn page(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line is not ended");
    let mut families = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line
            .strip_prefix("# HELP ")
            .unwrap_or_else(|| panic!("no HELP: {line}"));
        let (name, help) = help.split_once(' ').expect("a help text");
        assert!(is_name(name) && !help.is_empty(), "{line}");
        let next = lines.next().expect("a TYPE after HELP");
        let kind = next
            .strip_prefix(&format!("# TYPE {name} "))
            .expect("the family's TYPE");
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{next}");
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (full, labels, value) = sample(line);
            let suffix = full
                .strip_prefix(name)
                .unwrap_or_else(|| panic!("{line} in {name}"));
            let allowed: &[_] = if kind == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            assert!(allowed.contains(&suffix), "{line} in {name}");
            let mut identity = labels.clone();
            identity.sort();
            assert!(seen.insert((full.clone(), identity)), "twice: {line}");
            samples.push((full, labels, value));
        }
        if kind == "histogram" {
            check_histogram(name, &samples);
        }
        if kind == "counter" {
            assert!(samples.iter().all(|(_, _, value)| *value >= 0.0));
            assert!(name.ends_with("_total"), "{name}");
        }
        let family = Family {
            kind: kind.to_owned(),
            samples,
        };
        assert!(
            families.insert(name.to_owned(), family).is_none(),
            "{name} announced twice"
        );
    }
    families
}

fn check_histogram(name: &str, samples: &[(String, Labels, f64)]) {
    let mut series: BTreeMap<Labels, Vec<(String, f64)>> = BTreeMap::new();
    let mut totals = BTreeMap::new();
    for (full, labels, value) in samples {
        let mut labels = labels.clone();
        if full.ends_with("_bucket") {
            let (label, le) = labels.pop().expect("a le label");
            assert_eq!(label, "le");
            series.entry(labels).or_default().push((le, *value));
        } else if full.ends_with("_count") {
            totals.insert(labels, *value);
        }
    }
    assert_eq!(series.len(), totals.len());
    for (labels, buckets) in series {
        let bound = |le: &str| {
            if le == "+Inf" {
                f64::INFINITY
            } else {
                le.parse().expect("le")
            }
        };
        for pair in buckets.windows(2) {
            assert!(
                bound(&pair[0].0) < bound(&pair[1].0),
                "{name}: bounds do not ascend"
            );
            assert!(pair[0].1 <= pair[1].1, "{name}: counts do not accumulate");
        }
        let (le, all) = buckets.last().expect("a bucket");
        assert_eq!((le.as_str(), *all), ("+Inf", totals[&labels]), "{name}");
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest),
        None => (Vec::new(), rest),
    };
    let value = rest.strip_prefix(' ').expect("one space before the value");
    let value = match value {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        digits => {
            assert!(
                !digits.contains(|c: char| c.is_ascii_alphabetic() && c != 'e'),
                "{line}"
            );
            digits.parse().unwrap_or_else(|e| panic!("{line}: {e}"))
        }
    };
    (name.to_owned(), labels, value)
}

/// Labels up to and with the closing brace, and what follows it.
fn labels(mut rest: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name) && !name.contains(':'), "{name}");
        let (value, after) = unescape(after);
        labels.push((name.to_owned(), value));
        if let Some(after) = after.strip_prefix('}') {
            return (labels, after);
        }
        rest = after.strip_prefix(',').expect("a comma or a brace");
    }
}

/// A label value up to its closing quote, and what follows it.
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                other => panic!("bad escape {other:?}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}")
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
