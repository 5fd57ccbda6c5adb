//! TOML as it is written: tables with comments, and where each piece came from.

use super::super::source::Pos;

/// Where a piece of the output came from. Two pieces are equal wherever they stand.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Origin(pub(in super::super) Option<Pos>);

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Comments that go with a piece of the output. They make no difference to what it says.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Comments(pub(in super::super) Vec<String>);

impl PartialEq for Comments {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A value of TOML.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Value {
    /// A text, with `${` to be escaped.
    Text(String),
    /// A whole number.
    Number(u64),
    /// `true` or `false`.
    Boolean(bool),
    /// On one line if it fits.
    List(Vec<Self>),
    /// `{ ... }`, or a section of its own when that would be too long.
    Table(Table),
    /// Always a section of its own.
    Section(Table),
    /// `[[...]]`
    Sections(Vec<Table>),
    /// A value with its own place.
    At(Origin, Box<Self>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Entry {
    pub(in super::super) key: String,
    pub(in super::super) value: Value,
    pub(in super::super) origin: Origin,
    pub(in super::super) comments: Comments,
}

/// Keys and values, in the order in which they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Table {
    pub(in super::super) entries: Vec<Entry>,
    pub(in super::super) origin: Origin,
    /// Before it.
    pub(in super::super) comments: Comments,
    /// After it.
    pub(in super::super) tail: Comments,
}

impl Value {
    pub(in super::super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(in super::super) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    pub(in super::super) fn at(self, pos: Pos) -> Self {
        Self::At(Origin(Some(pos)), Box::new(self))
    }

    /// Without its place.
    pub(in super::super) fn bare(&self) -> &Self {
        match self {
            Self::At(_, inside) => inside.bare(),
            other => other,
        }
    }
}

impl Table {
    pub(in super::super) fn at(pos: Pos) -> Self {
        Self {
            origin: Origin(Some(pos)),
            ..Self::default()
        }
    }

    pub(in super::super) fn put(&mut self, pos: Pos, key: impl Into<String>, value: Value) {
        self.entries.push(Entry {
            key: key.into(),
            value,
            origin: Origin(Some(pos)),
            comments: Comments::default(),
        });
    }

    pub(in super::super) fn with(mut self, pos: Pos, key: impl Into<String>, value: Value) -> Self {
        self.put(pos, key, value);
        self
    }

    pub(in super::super) fn find(&self, key: &str) -> Option<&Value> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(entry.value.bare())
    }

    /// Takes the value of a key out.
    pub(in super::super) fn take(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at).value)
    }

    /// The table of a key, made if it is not there.
    pub(in super::super) fn table(&mut self, pos: Pos, key: &str) -> &mut Self {
        let at = match self.entries.iter().position(|entry| entry.key == key) {
            Some(at) => at,
            None => {
                self.put(pos, key, Value::Table(Self::at(pos)));
                self.entries.len() - 1
            }
        };
        let value = &mut self.entries[at].value;
        if !matches!(value, Value::Table(_) | Value::Section(_)) {
            *value = Value::Table(Self::at(pos));
        }
        match value {
            Value::Table(table) | Value::Section(table) => table,
            _ => unreachable!("it was made a table above"),
        }
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The text of a document, and from which byte on it came from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// TOML.
    pub text: String,
    /// In ascending order of the bytes.
    pub origins: Vec<(usize, Pos)>,
}

impl Written {
    /// What the text at a line and column, both from 1, was made from.
    #[must_use]
    pub fn origin(&self, line: usize, column: usize) -> Option<Pos> {
        let line_start = match line.checked_sub(2) {
            None => 0,
            Some(before) => self.text.match_indices('\n').nth(before)?.0 + 1,
        };
        let rest = self.text.get(line_start..)?;
        let mut letters = rest.char_indices().skip(column.saturating_sub(1));
        let at = line_start + letters.next().map_or(rest.len(), |(at, _)| at);
        let after = self.origins.partition_point(|(start, _)| *start <= at);
        // What stands before everything has no origin of its own: the first one is the nearest.
        let found = self.origins.get(after.saturating_sub(1))?;
        Some(found.1)
    }
}

/// Longest line that a list or table may make.
const WIDTH: usize = 100;

/// Writes a document.
pub(in super::super) fn write(root: &Table) -> Written {
    let mut writer = Writer::default();
    writer.section(root, &mut Vec::new(), false);
    let mut written = writer.out;
    let trimmed = written.text.trim_start().len();
    let cut = written.text.len() - trimmed;
    written.text.drain(..cut);
    for (at, _) in &mut written.origins {
        *at = at.saturating_sub(cut);
    }
    written
}

#[derive(Default)]
struct Writer {
    out: Written,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.out.text.push_str(text);
    }

    fn mark(&mut self, origin: Origin) {
        if let Some(pos) = origin.0 {
            self.out.origins.push((self.out.text.len(), pos));
        }
    }

    fn comments(&mut self, comments: &Comments) {
        for comment in &comments.0 {
            let comment: String = comment.chars().filter(|c| !c.is_control()).collect();
            self.push(&format!("#{comment}\n"));
        }
    }

    /// Keys that stand on a line of their own, then the sections below.
    fn section(&mut self, table: &Table, path: &mut Vec<String>, is_item: bool) {
        let is_root = path.is_empty();
        let (sections, lines): (Vec<_>, Vec<_>) =
            (table.entries.iter()).partition(|entry| needs_section(entry, is_root));
        let is_bare = lines.is_empty() && !sections.is_empty() && !is_item;
        if !(is_root || is_bare && table.comments.0.is_empty()) {
            self.push("\n");
            self.comments(&table.comments);
            self.mark(table.origin);
            let name = path.join(".");
            let header = if is_item {
                format!("[[{name}]]\n")
            } else {
                format!("[{name}]\n")
            };
            self.push(&header);
        }
        for entry in lines {
            self.comments(&entry.comments);
            self.mark(entry.origin);
            self.push(&key(&entry.key));
            self.push(" = ");
            let used = entry.key.len() + 3;
            self.value(&entry.value, used);
            self.push("\n");
        }
        if is_root {
            self.comments(&table.comments);
        }
        for entry in sections {
            path.push(key(&entry.key));
            match entry.value.bare() {
                Value::Sections(items) => {
                    for item in items {
                        self.section(item, path, true);
                    }
                }
                Value::Table(inside) | Value::Section(inside) => {
                    self.section(inside, path, false);
                }
                _ => {}
            }
            path.pop();
        }
        if !table.tail.0.is_empty() {
            if is_root {
                self.push("\n");
            }
            self.comments(&table.tail);
        }
    }

    fn value(&mut self, value: &Value, used: usize) {
        match value {
            Value::At(origin, inside) => {
                self.mark(*origin);
                self.value(inside, used);
            }
            Value::List(items) if used + width(value) > WIDTH && !items.is_empty() => {
                self.push("[\n");
                for item in items {
                    self.push("  ");
                    self.value(item, 2);
                    self.push(",\n");
                }
                self.push("]");
            }
            other => self.inline(other),
        }
    }

    fn inline(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                let text = quoted(text);
                self.push(&text);
            }
            Value::Number(number) => self.push(&number.to_string()),
            Value::Boolean(value) => self.push(if *value { "true" } else { "false" }),
            Value::At(origin, inside) => {
                self.mark(*origin);
                self.inline(inside);
            }
            Value::List(items) => {
                self.push("[");
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        self.push(", ");
                    }
                    self.inline(item);
                }
                self.push("]");
            }
            Value::Sections(items) => {
                let items = items.iter().cloned().map(Value::Table).collect();
                self.inline(&Value::List(items));
            }
            Value::Table(table) | Value::Section(table) if table.is_empty() => self.push("{}"),
            Value::Table(table) | Value::Section(table) => {
                self.push("{ ");
                for (n, entry) in table.entries.iter().enumerate() {
                    if n > 0 {
                        self.push(", ");
                    }
                    self.mark(entry.origin);
                    self.push(&key(&entry.key));
                    self.push(" = ");
                    self.inline(&entry.value);
                }
                self.push(" }");
            }
        }
    }
}

/// Whether an entry cannot stand on a line of its own.
fn needs_section(entry: &Entry, is_root: bool) -> bool {
    match entry.value.bare() {
        Value::Section(_) | Value::Sections(_) => true,
        Value::Table(table) => {
            is_root
                || table
                    .entries
                    .iter()
                    .any(|inside| needs_section(inside, false))
                || entry.key.len() + 3 + width(&entry.value) > WIDTH
        }
        _ => false,
    }
}

/// Characters on one line.
fn width(value: &Value) -> usize {
    let mut writer = Writer::default();
    writer.inline(value);
    writer.out.text.chars().count()
}

fn key(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        basic(name)
    }
}

/// A text as TOML. `$${` is how our configuration writes `${`.
fn quoted(text: &str) -> String {
    let text = text.replace("${", "$${");
    let plain = |c: char| !c.is_control();
    if text.contains('\n') && text.chars().all(|c| plain(c) || matches!(c, '\n' | '\t')) {
        let body = text.replace('\\', "\\\\").replace("\"\"\"", "\"\"\\\"");
        let body = match body.strip_suffix('"') {
            Some(rest) => format!("{rest}\\\""),
            None => body,
        };
        return format!("\"\"\"\n{body}\"\"\"");
    }
    if text.contains(['\\', '"']) && !text.contains('\'') && text.chars().all(plain) {
        return format!("'{text}'");
    }
    basic(&text)
}

fn basic(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pos(line: u32) -> Pos {
        Pos {
            file: 0,
            line,
            column: 1,
        }
    }

    #[test]
    fn every_text_is_read_back_as_it_was() {
        for text in [
            "",
            "plain",
            "a\"b",
            "a\\b",
            "it's \\d+ \"x\"",
            "line\nline\\ \"\"\" \"",
            "line\n",
            "\r\n\t\u{1}\u{7f}",
            "\u{85} é",
            "'''",
        ] {
            let written = write(&Table::default().with(pos(1), "a b", Value::text(text)));
            let read: toml::Table = written.text.parse().expect("TOML");
            assert_eq!(read["a b"].as_str(), Some(text), "{}", written.text);
        }
        assert_eq!(quoted("${x} $${y}"), "\"$${x} $$${y}\"");
    }

    #[test]
    fn long_tables_become_sections_and_places_are_found_again() {
        let long = Value::texts(["a long text to fill the line"; 5]);
        let inside = Table::at(pos(3)).with(pos(4), "list", long);
        let step = Table::at(pos(2))
            .with(
                pos(2),
                "short",
                Value::Table(Table::at(pos(5)).with(pos(6), "n", Value::Number(1))),
            )
            .with(pos(3), "long", Value::Table(inside));
        let root = Table::default().with(pos(1), "step", Value::Sections(vec![step]));
        let written = write(&root);
        let lines: Vec<_> = written.text.lines().collect();
        assert_eq!(
            lines[..4],
            ["[[step]]", "short = { n = 1 }", "", "[step.long]"]
        );
        written.text.parse::<toml::Table>().expect("TOML");
        assert_eq!(written.origin(2, 1), Some(pos(2)));
        assert_eq!(written.origin(2, 15), Some(pos(6)));
        assert_eq!(written.origin(5, 1), Some(pos(4)));
    }
}
