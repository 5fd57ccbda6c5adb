//! From words to blocks, with every import done on the way.

use std::collections::{HashMap, VecDeque};

use serde::de::IgnoredAny;

use super::ast::{Block, Caddyfile, Directive, NamedRoute, Site};
use super::env::characters;
use super::import::Importer;
use super::lexer::{Token, lex};
use super::source::{Pos, Problem, Sources};
use crate::config::Env;

/// Blocks within blocks. Deeper ones are refused.
const DEEPEST: usize = 64;

/// Reads a text and what it imports; `file` is the name that places carry, and imports are looked
/// for beside it. Without `env`, variables and files are left alone.
///
/// # Errors
/// The first thing that is no Caddyfile.
pub fn parse(
    file: &str,
    text: &str,
    env: Option<&Env>,
    sources: &mut Sources,
) -> Result<Caddyfile, Problem> {
    let id = sources.add(file);
    if text.contains('"') && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        let start = Pos {
            file: id,
            line: 1,
            column: 1,
        };
        let message = "this is JSON, which is not read; give the Caddyfile that it was made from";
        return Err(Problem::new(start, message));
    }
    let lexed = lex(&characters(id, text, env, &mut sources.unset))?;
    parse_tokens(lexed.tokens, lexed.tail, env, sources)
}

/// As [`parse`], from words.
pub(super) fn parse_tokens(
    tokens: Vec<Token>,
    tail: Vec<String>,
    env: Option<&Env>,
    sources: &mut Sources,
) -> Result<Caddyfile, Problem> {
    let mut parser = Parser {
        rest: tokens.into(),
        importer: Importer::new(env, sources),
        snippets: HashMap::new(),
        out: Caddyfile::default(),
        pending: Vec::new(),
        last: Pos::default(),
    };
    while !parser.rest.is_empty() {
        parser.top()?;
    }
    parser.out.tail = std::mem::take(&mut parser.pending);
    parser.out.tail.extend(tail);
    Ok(parser.out)
}

struct Parser<'a> {
    rest: VecDeque<Token>,
    importer: Importer<'a>,
    snippets: HashMap<String, Vec<Token>>,
    out: Caddyfile,
    /// Comments whose line is not in the result, for the next block.
    pending: Vec<String>,
    /// The last word that was taken.
    last: Pos,
}

impl Parser<'_> {
    fn take(&mut self) -> Option<Token> {
        let token = self.rest.pop_front()?;
        self.last = token.pos;
        Some(token)
    }

    /// Addresses and the block after them.
    fn top(&mut self) -> Result<(), Problem> {
        let (mut keys, comments) = self.addresses()?;
        let opens = self.rest.front().is_some_and(Token::opens);
        let inside = |text: &str, before: &str| {
            let rest = text.strip_prefix(before)?.strip_suffix(')')?;
            Some(rest.to_owned())
        };
        let first = keys.first().map_or("", |key| key.text.as_str());
        if keys.len() == 1
            && let Some(name) = inside(first, "(")
        {
            self.pending.extend(comments);
            return self.snippet(name);
        }
        if keys.len() == 1
            && let Some(name) = inside(first, "&(")
        {
            self.pending.extend(comments);
            let mut token = keys.remove(0);
            token.text = name;
            if !opens {
                return Err(Problem::new(token.pos, "a named route needs a block"));
            }
            let block = self.block()?;
            let known = |route: &NamedRoute| route.name.text == token.text;
            if self.out.routes.iter().any(known) {
                let message = format!("the named route {} is there already", token.text);
                return Err(Problem::new(token.pos, message));
            }
            self.out.routes.push(NamedRoute { name: token, block });
            return Ok(());
        }
        if keys.is_empty() && !opens {
            self.pending.extend(comments);
            return Ok(());
        }
        let block = if opens {
            self.block()?
        } else {
            self.lines(None, 0)?
        };
        if keys.is_empty() {
            if self.out.global.is_some() || !self.out.sites.is_empty() {
                let message = "a block without an address holds global options and must be the first of the file";
                return Err(Problem::new(block.pos, message));
            }
            let mut block = block;
            if let Some(first) = block.lines.first_mut() {
                first.comments.splice(0..0, comments);
            } else {
                block.tail.splice(0..0, comments);
            }
            self.out.global = Some(block);
            return Ok(());
        }
        let mut before = std::mem::take(&mut self.pending);
        before.extend(comments);
        self.out.sites.push(Site {
            keys,
            block,
            comments: before,
            has_braces: opens,
        });
        Ok(())
    }

    fn addresses(&mut self) -> Result<(Vec<Token>, Vec<String>), Problem> {
        let mut keys: Vec<Token> = Vec::new();
        let mut comments = Vec::new();
        let mut another = false;
        loop {
            let Some(token) = self.rest.front() else {
                if another {
                    return Err(Problem::new(
                        self.last,
                        "another address should follow the comma",
                    ));
                }
                return Ok((keys, comments));
            };
            let is_new_line = token.line_start;
            if !keys.is_empty() && !another && is_new_line && !token.opens() {
                return Ok((keys, comments));
            }
            if token.text == "import" && is_new_line {
                self.import(true)?;
                continue;
            }
            if token.opens() {
                if another {
                    return Err(Problem::new(
                        token.pos,
                        "an address is missing after the comma",
                    ));
                }
                comments.extend(token.comments.iter().cloned());
                return Ok((keys, comments));
            }
            let Some(mut token) = self.take() else {
                continue;
            };
            comments.append(&mut token.comments);
            if token.closes() {
                return Err(Problem::new(token.pos, "this `}` closes nothing"));
            }
            if token.text.starts_with('@') {
                let message = "a matcher belongs into the block of a site";
                return Err(Problem::new(token.pos, message));
            }
            if token.text.ends_with('{') && token.quote == super::lexer::Quote::None {
                return Err(Problem::new(token.pos, "put a space before the brace"));
            }
            if token.text.is_empty() {
                continue;
            }
            another = token.text.ends_with(',');
            if another {
                token.text.pop();
            }
            if token.text.contains(',') {
                let message =
                    "an address has no comma; put a space after the comma between two addresses";
                return Err(Problem::new(token.pos, message));
            }
            if !token.text.is_empty() {
                keys.push(token);
            }
        }
    }

    /// `(name) { ... }`: kept for its imports.
    fn snippet(&mut self, name: String) -> Result<(), Problem> {
        let at = self.last;
        if !self.rest.front().is_some_and(Token::opens) {
            return Err(Problem::new(at, "a snippet needs a block"));
        }
        let (tokens, tail) = self.raw_block()?;
        self.pending.extend(tail);
        if self.snippets.contains_key(&name) {
            let message = format!("the snippet ({name}) is there already");
            return Err(Problem::new(at, message));
        }
        self.snippets.insert(name, tokens);
        Ok(())
    }

    /// The words of a block without its braces, and the comments before its end.
    fn raw_block(&mut self) -> Result<(Vec<Token>, Vec<String>), Problem> {
        let open = self.take().map_or(self.last, |token| token.pos);
        let mut depth = 1_usize;
        let mut tokens = Vec::new();
        while let Some(token) = self.take() {
            if token.closes() {
                depth -= 1;
                if depth == 0 {
                    return Ok((tokens, token.comments));
                }
            } else if token.opens() {
                depth += 1;
            }
            tokens.push(token);
        }
        Err(Problem::new(open, "this block is never closed"))
    }

    /// A block whose brace is next.
    fn block(&mut self) -> Result<Block, Problem> {
        let open = self.take().map_or(self.last, |token| token.pos);
        self.lines(Some(open), 1)
    }

    /// Lines up to the brace that closes the block, or to the end of the file.
    fn lines(&mut self, open: Option<Pos>, depth: usize) -> Result<Block, Problem> {
        if depth > DEEPEST {
            return Err(Problem::new(
                self.last,
                "blocks within blocks, too many to be meant",
            ));
        }
        let mut block = Block {
            pos: open.unwrap_or(self.last),
            ..Block::default()
        };
        loop {
            let Some(token) = self.rest.front() else {
                return match open {
                    None => Ok(block),
                    Some(open) => Err(Problem::new(open, "this block is never closed")),
                };
            };
            if token.closes() {
                if open.is_none() {
                    return Err(Problem::new(token.pos, "this `}` closes nothing"));
                }
                if let Some(token) = self.take() {
                    block.tail = token.comments;
                }
                return match self.rest.front() {
                    Some(next) if !next.line_start => Err(Problem::new(
                        next.pos,
                        "nothing may follow a `}` on its line",
                    )),
                    _ => Ok(block),
                };
            }
            if token.opens() {
                let message = "a `{` belongs at the end of the line before";
                return Err(Problem::new(token.pos, message));
            }
            if token.text == "import" {
                self.import(false)?;
                continue;
            }
            let line = self.directive(depth)?;
            block.lines.push(line);
        }
    }

    fn directive(&mut self, depth: usize) -> Result<Directive, Problem> {
        let mut line = Directive {
            words: Vec::new(),
            block: None,
            comments: Vec::new(),
        };
        while let Some(token) = self.rest.front() {
            if !line.words.is_empty() && token.line_start {
                break;
            }
            if token.closes() {
                return Err(Problem::new(token.pos, "a `}` stands on a line of its own"));
            }
            let Some(mut token) = self.take() else {
                break;
            };
            line.comments.append(&mut token.comments);
            let ends = self.rest.front().is_none_or(|next| next.line_start);
            if token.opens() {
                if !ends {
                    return Err(Problem::new(
                        token.pos,
                        "nothing may follow a `{` on its line",
                    ));
                }
                line.block = Some(self.lines(Some(token.pos), depth + 1)?);
                break;
            }
            if token.text == "{}" && token.quote == super::lexer::Quote::None && ends {
                let message = "an empty block is `{` and `}` on lines of their own, or nothing";
                return Err(Problem::new(token.pos, message));
            }
            line.words.push(token);
        }
        Ok(line)
    }

    /// Puts what an `import` names in its place.
    fn import(&mut self, is_top: bool) -> Result<(), Problem> {
        let Some(import) = self.take() else {
            return Ok(());
        };
        let mut args = Vec::new();
        while self
            .rest
            .front()
            .is_some_and(|t| !t.line_start && !t.opens() && !t.closes())
        {
            args.extend(self.take());
        }
        let mut comments = import.comments.clone();
        comments.extend(args.iter().flat_map(|arg| arg.comments.iter().cloned()));
        let mut block = Vec::new();
        if self
            .rest
            .front()
            .is_some_and(|t| t.opens() && !t.line_start)
        {
            let (tokens, tail) = self.raw_block()?;
            block = tokens;
            comments.extend(tail);
        }
        let done = (self.importer).import(&import, &args, &block, &self.snippets, is_top)?;
        if let Some(next) = self.rest.front_mut() {
            next.line_start = true;
            next.comments.splice(0..0, done.tail);
        } else {
            self.pending.extend(done.tail);
        }
        for token in done.tokens.into_iter().rev() {
            self.rest.push_front(token);
        }
        match self.rest.front_mut() {
            Some(first) => {
                first.line_start = true;
                first.comments.splice(0..0, comments);
            }
            None => self.pending.extend(comments),
        }
        Ok(())
    }
}
