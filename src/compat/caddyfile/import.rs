//! `import`: what a file or snippet puts in its place.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::env::characters;
use super::lexer::{Chain, Lexed, Token, lex};
use super::source::{Problem, Sources};
use crate::config::Env;

/// Imports within imports.
const DEEPEST: usize = 32;
/// Words that all imports of a file may bring, so that a few snippets cannot multiply without end.
const MOST_WORDS: usize = 1_000_000;

/// Does the imports of one Caddyfile.
#[derive(Debug)]
pub(super) struct Importer<'a> {
    /// `None`: files are not read, as for labels.
    env: Option<&'a Env>,
    sources: &'a mut Sources,
    words: usize,
}

impl<'a> Importer<'a> {
    pub(super) const fn new(env: Option<&'a Env>, sources: &'a mut Sources) -> Self {
        Self {
            env,
            sources,
            words: 0,
        }
    }

    /// The words that stand in for `import ARGS { block }`. `is_top`: outside of every block, where
    /// a file may define snippets, whose own placeholders wait for their import.
    ///
    /// # Errors
    /// Nothing of that name, a file that cannot be read, a circle.
    pub(super) fn import(
        &mut self,
        import: &Token,
        args: &[Token],
        block: &[Token],
        snippets: &HashMap<String, Vec<Token>>,
        is_top: bool,
    ) -> Result<Lexed, Problem> {
        let Some((what, args)) = args.split_first() else {
            return Err(Problem::new(import.pos, "import needs a snippet or a file"));
        };
        let found = match snippets.get(&what.text) {
            Some(tokens) => {
                let chain = chain(import, format!("({})", what.text))?;
                Lexed {
                    tokens: with_chain(tokens.clone(), &chain),
                    tail: Vec::new(),
                }
            }
            None => self.files(import, what)?,
        };
        let tokens = Replacement::new(import, args, block)?.apply(found.tokens, is_top);
        self.words = self.words.saturating_add(tokens.len());
        if self.words > MOST_WORDS {
            return Err(Problem::new(import.pos, "imports make this file endless"));
        }
        Ok(Lexed {
            tokens,
            tail: found.tail,
        })
    }

    fn files(&mut self, import: &Token, what: &Token) -> Result<Lexed, Problem> {
        let pattern = what.text.as_str();
        let missing = || {
            let message = format!("there is no snippet ({pattern}) and no such file to import");
            Problem::new(what.pos, message)
        };
        if pattern.is_empty() || self.env.is_none() {
            return Err(missing());
        }
        let beside = Path::new(self.sources.name(import.pos.file)).parent();
        let pattern_path = beside.unwrap_or(Path::new("")).join(pattern);
        let paths = glob(&pattern_path).map_err(|message| Problem::new(what.pos, message))?;
        if paths.is_empty() && !pattern.contains(['*', '?']) {
            return Err(missing());
        }
        let mut all = Lexed::default();
        for path in paths {
            let shown = path.display().to_string();
            let chain = chain(import, shown.clone())?;
            let cannot = |error: &dyn std::fmt::Display| {
                Problem::new(what.pos, format!("{shown} cannot be imported: {error}"))
            };
            let text = std::fs::read_to_string(&path).map_err(|error| cannot(&error))?;
            let id = self.sources.add(&shown);
            let lexed = lex(&characters(id, &text, self.env, &mut self.sources.unset))?;
            let mut tokens = with_chain(lexed.tokens, &chain);
            if let Some(first) = tokens.first_mut() {
                first.comments.splice(0..0, std::mem::take(&mut all.tail));
            }
            all.tokens.append(&mut tokens);
            all.tail.extend(lexed.tail);
        }
        Ok(all)
    }
}

fn chain(import: &Token, what: String) -> Result<Rc<Chain>, Problem> {
    let mut before = import.chain.as_ref();
    while let Some(link) = before {
        if link.what == what {
            return Err(Problem::new(import.pos, format!("{what} imports itself")));
        }
        before = link.before.as_ref();
    }
    let depth = import.chain.as_ref().map_or(0, |link| link.depth + 1);
    if depth > DEEPEST {
        return Err(Problem::new(
            import.pos,
            "imports within imports, too many to be meant",
        ));
    }
    Ok(Rc::new(Chain {
        what,
        depth,
        before: import.chain.clone(),
    }))
}

fn with_chain(mut tokens: Vec<Token>, chain: &Rc<Chain>) -> Vec<Token> {
    for token in &mut tokens {
        token.chain = Some(Rc::clone(chain));
    }
    tokens
}

/// What stands for `{args[0]}`, `{args[1:]}`, `{block}` and `{blocks.NAME}`.
struct Replacement<'a> {
    args: &'a [Token],
    block: &'a [Token],
    blocks: HashMap<&'a str, &'a [Token]>,
}

impl<'a> Replacement<'a> {
    fn new(import: &Token, args: &'a [Token], block: &'a [Token]) -> Result<Self, Problem> {
        let mut blocks = HashMap::new();
        let mut at = 0;
        while let Some(name) = block.get(at) {
            if name.opens() {
                return Err(Problem::new(
                    import.pos,
                    "a block within the block of an import needs a name",
                ));
            }
            let (mut end, mut depth) = (at + 1, 0_usize);
            while let Some(token) = block.get(end).filter(|t| depth > 0 || !t.line_start) {
                depth += usize::from(token.opens());
                depth = depth.saturating_sub(usize::from(token.closes()));
                end += 1;
            }
            let inside = block.get(at + 1..end).unwrap_or_default();
            // `name { ... }` stands for what is between the braces.
            let inside = match inside {
                [open, lines @ .., close] if open.opens() && close.closes() => lines,
                other => other,
            };
            blocks.insert(name.text.as_str(), inside);
            at = end;
        }
        Ok(Self {
            args,
            block,
            blocks,
        })
    }

    fn apply(&self, tokens: Vec<Token>, is_top: bool) -> Vec<Token> {
        let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
        let mut snippet = SnippetWatch::default();
        let mut new_line = false;
        for mut token in tokens {
            token.line_start |= std::mem::take(&mut new_line);
            if is_top && snippet.is_inside(&token) {
                out.push(token);
                continue;
            }
            let name = token
                .text
                .strip_prefix("{blocks.")
                .and_then(|n| n.strip_suffix('}'));
            let lines = match name {
                _ if token.text == "{block}" => Some(self.block),
                Some(name) => Some(self.blocks.get(name).copied().unwrap_or_default()),
                None => None,
            };
            if let Some(lines) = lines {
                let start = out.len();
                out.extend_from_slice(lines);
                if let Some(first) = out.get_mut(start) {
                    first.line_start = true;
                }
                new_line = true;
                continue;
            }
            if let Some(range) = variadic(&token.text, self.args.len()) {
                let start = out.len();
                for arg in self.args.get(range).unwrap_or_default() {
                    out.push(Token {
                        text: arg.text.clone(),
                        pos: arg.pos,
                        line_start: false,
                        comments: Vec::new(),
                        ..token.clone()
                    });
                }
                if let Some(first) = out.get_mut(start) {
                    first.line_start = token.line_start;
                    first.comments = token.comments;
                } else {
                    new_line = token.line_start;
                }
                continue;
            }
            if token.text.contains("{args") {
                token.text = self.fill(&token.text);
            }
            out.push(token);
        }
        out
    }

    /// Replaces `{args[N]}` and `{args.N}`; what names no argument stays.
    fn fill(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("{args") {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let inside = rest.find('}').map(|end| (&rest[1..end], end + 1));
            let arg = inside.and_then(|(inside, end)| {
                let index = inside
                    .strip_prefix("args[")
                    .and_then(|i| i.strip_suffix(']'));
                let index = index.or_else(|| inside.strip_prefix("args."))?;
                Some((self.args.get(index.parse::<usize>().ok()?)?, end))
            });
            if let Some((arg, end)) = arg {
                out.push_str(&arg.text);
                rest = &rest[end..];
            } else {
                out.push('{');
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
        out
    }
}

/// The range of `{args[1:]}`; `None` when the word is something else.
fn variadic(text: &str, count: usize) -> Option<std::ops::Range<usize>> {
    let inside = text.strip_prefix("{args[")?.strip_suffix("]}")?;
    let (start, end) = inside.split_once(':')?;
    let number = |text: &str, default| match text {
        "" => Some(default),
        text => text.parse::<usize>().ok(),
    };
    let (start, end) = (number(start, 0)?, number(end, count)?);
    (start <= end && end <= count).then_some(start..end)
}

/// Follows whether a word stands in the definition of a snippet.
#[derive(Default)]
struct SnippetWatch {
    depth: usize,
    inside: bool,
    /// Words of this line so far, when the first one looks like the name of a snippet.
    named: bool,
}

impl SnippetWatch {
    fn is_inside(&mut self, token: &Token) -> bool {
        if self.depth == 0 {
            if token.line_start {
                self.named = token.text.len() > 2
                    && token.text.starts_with('(')
                    && token.text.ends_with(')');
            } else if !token.opens() {
                self.named = false;
            }
        }
        if token.opens() {
            self.inside |= self.depth == 0 && self.named;
            self.depth += 1;
        } else if token.closes() {
            self.depth = self.depth.saturating_sub(1);
            if self.depth == 0 {
                return std::mem::take(&mut self.inside);
            }
        }
        self.inside
    }
}

/// The files that a pattern with at most one `*` and one `?` names, in their order. Hidden ones are
/// left out where the last part begins with the star.
fn glob(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let text = pattern.to_string_lossy();
    let many = |c: char| text.matches(c).count() > 1;
    if many('*') || many('?') || (text.contains('[') && text.contains(']')) {
        return Err("a pattern may have one `*` and one `?`, no more".to_owned());
    }
    if !text.contains(['*', '?']) {
        return Ok(pattern
            .is_file()
            .then(|| pattern.to_owned())
            .into_iter()
            .collect());
    }
    let mut found = vec![PathBuf::new()];
    let parts: Vec<_> = pattern.components().collect();
    for (n, part) in parts.iter().enumerate() {
        let name = part.as_os_str().to_string_lossy();
        if !matches!(part, Component::Normal(_)) || !name.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let hides = n + 1 == parts.len() && name.starts_with('*');
        let mut next = Vec::new();
        for folder in found {
            let listed = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &folder
            };
            for entry in std::fs::read_dir(listed).into_iter().flatten().flatten() {
                let entry = entry.file_name().to_string_lossy().into_owned();
                if fits(name.as_bytes(), entry.as_bytes()) && !(hides && entry.starts_with('.')) {
                    next.push(folder.join(entry));
                }
            }
        }
        next.sort();
        found = next;
    }
    found.retain(|path| path.exists());
    Ok(found)
}

/// Whether a name fits a pattern with one `*` at most.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || *a == b'?')
    };
    match pattern.iter().position(|b| *b == b'*') {
        None => same(pattern, name),
        Some(star) => {
            let (before, after) = (&pattern[..star], &pattern[star + 1..]);
            name.len() >= before.len() + after.len()
                && same(before, &name[..before.len()])
                && same(after, &name[name.len() - after.len()..])
        }
    }
}
