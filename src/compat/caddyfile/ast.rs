//! A Caddyfile as blocks of lines: imports are done, snippets are gone.

use std::fmt;

use super::lexer::{Quote, Token};
use super::source::Pos;

/// A whole Caddyfile.
#[derive(Clone, Debug, Default)]
pub struct Caddyfile {
    /// The block without an address at the start.
    pub global: Option<Block>,
    /// `&(name) { ... }`.
    pub routes: Vec<NamedRoute>,
    /// In the order of the file.
    pub sites: Vec<Site>,
    /// Comments after the last block.
    pub tail: Vec<String>,
}

/// A block that `invoke` names.
#[derive(Clone, Debug)]
pub struct NamedRoute {
    /// `&(name)`, with the name alone as its text.
    pub name: Token,
    /// Its lines.
    pub block: Block,
}

/// Addresses and what is served at them.
#[derive(Clone, Debug)]
pub struct Site {
    /// The addresses; at least one.
    pub keys: Vec<Token>,
    /// Its lines.
    pub block: Block,
    /// Comments before it.
    pub comments: Vec<String>,
    /// Whether it has braces; the only site of a file may go without.
    pub has_braces: bool,
}

/// Lines between braces.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// In the order of the file.
    pub lines: Vec<Directive>,
    /// Comments after the last line.
    pub tail: Vec<String>,
    /// Where it opens.
    pub pos: Pos,
}

/// A line, with the block that it opens.
#[derive(Clone, Debug)]
pub struct Directive {
    /// At least one: the name.
    pub words: Vec<Token>,
    /// Lines below.
    pub block: Option<Block>,
    /// Comments before it and at the ends of its lines.
    pub comments: Vec<String>,
}

impl Directive {
    /// The first word.
    #[must_use]
    pub fn name(&self) -> &str {
        self.words.first().map_or("", |word| word.text.as_str())
    }

    /// Where it stands.
    #[must_use]
    pub fn pos(&self) -> Pos {
        self.words.first().map_or(Pos::default(), |word| word.pos)
    }

    /// What follows its name.
    #[must_use]
    pub fn args(&self) -> &[Token] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The lines below it; none without a block.
    #[must_use]
    pub fn lines(&self) -> &[Self] {
        self.block.as_ref().map_or(&[], |block| &block.lines)
    }

    /// Its comments and those of every line below it.
    #[must_use]
    pub fn all_comments(&self) -> Vec<String> {
        let mut all = self.comments.clone();
        if let Some(block) = &self.block {
            all.extend(block.lines.iter().flat_map(Self::all_comments));
            all.extend(block.tail.iter().cloned());
        }
        all
    }
}

impl fmt::Display for Caddyfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(global) = &self.global {
            write_block(f, global, 0)?;
            f.write_str("\n")?;
        }
        for route in &self.routes {
            write!(f, "&({}) ", route.name.text)?;
            write_block(f, &route.block, 0)?;
            f.write_str("\n")?;
        }
        for site in &self.sites {
            write_comments(f, &site.comments, 0)?;
            for (n, key) in site.keys.iter().enumerate() {
                let comma = if n > 0 { ", " } else { "" };
                write!(f, "{comma}{}", Word(key))?;
            }
            f.write_str(" ")?;
            write_block(f, &site.block, 0)?;
            f.write_str("\n")?;
        }
        write_comments(f, &self.tail, 0)
    }
}

fn write_block(f: &mut fmt::Formatter<'_>, block: &Block, depth: usize) -> fmt::Result {
    f.write_str("{\n")?;
    for line in &block.lines {
        write_comments(f, &line.comments, depth + 1)?;
        indent(f, depth + 1)?;
        for (n, word) in line.words.iter().enumerate() {
            let space = if n > 0 { " " } else { "" };
            write!(f, "{space}{}", Word(word))?;
        }
        if let Some(block) = &line.block {
            f.write_str(" ")?;
            write_block(f, block, depth + 1)?;
        } else {
            f.write_str("\n")?;
        }
    }
    write_comments(f, &block.tail, depth + 1)?;
    indent(f, depth)?;
    f.write_str("}\n")
}

fn write_comments(f: &mut fmt::Formatter<'_>, comments: &[String], depth: usize) -> fmt::Result {
    for comment in comments {
        indent(f, depth)?;
        writeln!(f, "#{comment}")?;
    }
    Ok(())
}

fn indent(f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    (0..depth).try_for_each(|_| f.write_str("\t"))
}

/// A word with the quotes that it needs.
struct Word<'a>(&'a Token);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.text.as_str();
        let needs_quotes = text.is_empty()
            || text.contains(|c: char| c.is_whitespace() || c == '\\')
            || text.starts_with(['"', '`', '#'])
            || text.starts_with("<<")
            || text == "{}"
            || (self.0.quote != Quote::None && matches!(text, "{" | "}"));
        if !needs_quotes && self.0.quote == Quote::None {
            return f.write_str(text);
        }
        if !text.contains(['"', '\\']) {
            write!(f, "\"{text}\"")
        } else if !text.contains('`') {
            write!(f, "`{text}`")
        } else if !text.contains('\\') {
            write!(f, "\"{}\"", text.replace('"', "\\\""))
        } else {
            let mut marker = "END".to_owned();
            while text.contains(&marker) {
                marker.push('_');
            }
            write!(f, "<<{marker}\n{text}\n{marker}")
        }
    }
}
