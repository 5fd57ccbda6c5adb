//! From characters to words.
//!
//! The rules are Caddy's: words end at white space; `"..."` and `` `...` `` hold it; a backslash
//! escapes a quote in quotes, the end of a line, and the first `<` of what would be a heredoc; `#`
//! at the start of a word begins a comment. `<<END` up to a line with `END` is a heredoc, whose
//! lines lose the white space that stands before its end.

use std::rc::Rc;

use super::env::Char;
use super::source::{Pos, Problem};

/// How a word was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// As it stands; only such a word can be a brace of a block.
    None,
    /// `"..."`
    Double,
    /// `` `...` ``
    Backtick,
    /// `<<END`
    Heredoc,
}

/// A word.
#[derive(Clone, Debug)]
pub struct Token {
    /// Without its quotes.
    pub text: String,
    /// How it was written.
    pub quote: Quote,
    /// Where it begins.
    pub pos: Pos,
    /// Whether it is the first one of its line.
    pub line_start: bool,
    /// Comments on the lines before it, and at the end of its line if it is the first word there;
    /// without `#`.
    pub comments: Vec<String>,
    /// The imports it came through.
    pub(super) chain: Option<Rc<Chain>>,
}

/// One import on the way to a word.
#[derive(Debug)]
pub(super) struct Chain {
    /// What was imported: a file or a snippet.
    pub(super) what: String,
    pub(super) depth: usize,
    pub(super) before: Option<Rc<Chain>>,
}

impl Token {
    /// Whether it is the brace that opens a block.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.quote == Quote::None && self.text == "{"
    }

    /// Whether it is the brace that closes one.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.quote == Quote::None && self.text == "}"
    }
}

/// The words of a file.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    pub(super) tokens: Vec<Token>,
    /// Comments after the last word.
    pub(super) tail: Vec<String>,
}

/// Splits characters into words.
///
/// # Errors
/// A heredoc that does not end, has no proper marker, or is indented less than its end.
pub(super) fn lex(characters: &[Char]) -> Result<Lexed, Problem> {
    let mut lexer = Lexer {
        characters,
        at: 0,
        fresh: true,
        comments: Vec::new(),
        trailing: Vec::new(),
    };
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        let token = lexer.next()?;
        // A comment at the end of a line speaks of that line.
        if let Some(first) = tokens.iter_mut().rfind(|token| token.line_start) {
            first.comments.append(&mut lexer.trailing);
        }
        match token {
            Some(token) => tokens.push(token),
            None => break,
        }
    }
    Ok(Lexed {
        tokens,
        tail: lexer.comments,
    })
}

struct Lexer<'a> {
    characters: &'a [Char],
    at: usize,
    /// A line has begun since the last word.
    fresh: bool,
    comments: Vec<String>,
    /// Comments after a word on its line.
    trailing: Vec<String>,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).map(|c| c.letter)
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(letter)
    }

    fn next(&mut self) -> Result<Option<Token>, Problem> {
        let (first, quote, text) = loop {
            self.skip();
            let Some(first) = self.characters.get(self.at).copied() else {
                return Ok(None);
            };
            let (quote, text) = match first.letter {
                '"' => (Quote::Double, self.quoted('"')),
                '`' => (Quote::Backtick, self.quoted('`')),
                _ => match self.heredoc(first.pos)? {
                    Some(text) => (Quote::Heredoc, text),
                    None => (Quote::None, self.plain()),
                },
            };
            // A backslash before a space is no word.
            if quote != Quote::None || !text.is_empty() {
                break (first, quote, text);
            }
        };
        let token = Token {
            text,
            quote,
            pos: first.pos,
            line_start: std::mem::take(&mut self.fresh),
            comments: std::mem::take(&mut self.comments),
            chain: None,
        };
        Ok(Some(token))
    }

    /// White space, escaped line ends and comments before a word.
    fn skip(&mut self) {
        while let Some(letter) = self.peek() {
            match letter {
                '\n' => self.fresh = true,
                '#' => {
                    let mut text = String::new();
                    self.at += 1;
                    while let Some(letter) = self.peek().filter(|c| *c != '\n') {
                        text.push(letter);
                        self.at += 1;
                    }
                    let comments = match self.fresh {
                        true => &mut self.comments,
                        false => &mut self.trailing,
                    };
                    comments.push(text.trim_end().to_owned());
                    continue;
                }
                '\\' if self.escapes_line_end() => {
                    // The backslash and a CR; the loop's end steps over the LF.
                    while self.peek() != Some('\n') {
                        self.at += 1;
                    }
                }
                other if other.is_whitespace() => {}
                _ => return,
            }
            self.at += 1;
        }
    }

    /// Whether the backslash here stands before the end of its line.
    fn escapes_line_end(&self) -> bool {
        let rest = self.characters.get(self.at + 1..).unwrap_or_default();
        let mut rest = rest.iter().map(|c| c.letter);
        match rest.next() {
            Some('\n') => true,
            Some('\r') => rest.next() == Some('\n'),
            _ => false,
        }
    }

    /// A quoted text; one without its end goes to the end of the file.
    fn quoted(&mut self, quote: char) -> String {
        self.at += 1;
        let mut text = String::new();
        while let Some(letter) = self.take() {
            match letter {
                c if c == quote => break,
                '\\' if quote == '"' => {
                    let next = self.take();
                    if next != Some('"') {
                        text.push('\\');
                    }
                    text.extend(next);
                }
                other => text.push(other),
            }
        }
        text
    }

    fn plain(&mut self) -> String {
        let mut text = String::new();
        while let Some(letter) = self.peek() {
            if letter == '\\' {
                if self.escapes_line_end() {
                    break;
                }
                self.at += 1;
                if let Some(next) = self.peek().filter(|c| !c.is_whitespace()) {
                    if next != '<' {
                        text.push('\\');
                    }
                    text.push(next);
                    self.at += 1;
                }
                continue;
            }
            if letter == '\r' && self.characters.get(self.at + 1).map(|c| c.letter) != Some('\n') {
                self.at += 1;
                continue;
            }
            if letter.is_whitespace() {
                break;
            }
            text.push(letter);
            self.at += 1;
        }
        text
    }

    /// The heredoc that begins here, if one does.
    fn heredoc(&mut self, pos: Pos) -> Result<Option<String>, Problem> {
        let rest = &self.characters[self.at..];
        if !(rest.len() > 2 && rest[0].letter == '<' && rest[1].letter == '<') {
            return Ok(None);
        }
        // A space ends a plain word that only looks like a heredoc.
        let letters = rest.iter().map(|c| c.letter);
        let line: Vec<char> = letters.take_while(|c| !matches!(c, '\n' | ' ')).collect();
        if rest.get(line.len()).is_none_or(|c| c.letter == ' ') {
            return Ok(None);
        }
        let marker: String = line[2..].iter().filter(|c| **c != '\r').collect();
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if marker.is_empty() || !marker.chars().all(valid) {
            let hint = "a heredoc begins with `<<` and a name of letters, digits, - and _, such as `<<END`";
            return Err(Problem::new(pos, hint));
        }
        let body = &rest[line.len() + 1..];
        let is_marker = |window: &[Char]| window.iter().map(|c| c.letter).eq(marker.chars());
        let end = body.windows(marker.len()).position(is_marker);
        let Some(end) = end else {
            let message = format!("this heredoc never ends: there is no {marker} after it");
            return Err(Problem::new(pos, message));
        };
        let text: String = body[..end].iter().map(|c| c.letter).collect();
        let stripped = strip(&text, &marker, pos)?;
        self.at += line.len() + 1 + end + marker.len();
        Ok(Some(stripped))
    }
}

/// Takes the indentation of the heredoc's end off its lines.
fn strip(text: &str, marker: &str, pos: Pos) -> Result<String, Problem> {
    let (lines, padding) = match text.rsplit_once('\n') {
        Some((lines, padding)) => (lines, padding),
        None => return Ok(String::new()),
    };
    let mut out = Vec::new();
    for (number, line) in lines.split('\n').enumerate() {
        if line.is_empty() || line == "\r" {
            out.push(String::new());
            continue;
        }
        let Some(rest) = line.strip_prefix(padding) else {
            let line = pos
                .line
                .saturating_add(u32::try_from(number + 1).unwrap_or(u32::MAX));
            let at = Pos {
                line,
                column: 1,
                ..pos
            };
            let message =
                format!("this line of the heredoc is indented less than its end, {marker}");
            return Err(Problem::new(at, message));
        };
        out.push(rest.replace('\r', ""));
    }
    Ok(out.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::caddyfile::env::characters;

    fn words(text: &str) -> Vec<String> {
        let lexed = lex(&characters(0, text, None, &mut Vec::new())).expect("words");
        let shown = |token: &Token| {
            let mark = if token.line_start { "|" } else { "" };
            let quote = match token.quote {
                Quote::None => "",
                Quote::Double => "d:",
                Quote::Backtick => "b:",
                Quote::Heredoc => "h:",
            };
            format!("{mark}{quote}{}", token.text)
        };
        lexed.tokens.iter().map(shown).collect()
    }

    #[test]
    fn words_are_split_as_caddy_splits_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("a b\nc", &["|a", "b", "|c"]),
            ("a\tb\r\n  c", &["|a", "b", "|c"]),
            (r#"a "b c" d"#, &["|a", "d:b c", "d"]),
            (r#""a \"b\" \n""#, &["|d:a \"b\" \\n"]),
            ("`a \"b\" \\`", &["|b:a \"b\" \\"]),
            ("\"a\nb\" c", &["|d:a\nb", "c"]),
            ("a \\\n  b\nc", &["|a", "b", "|c"]),
            ("a\\\nb", &["|a", "b"]),
            ("a \\\r\n b", &["|a", "b"]),
            ("a # b\nc#d", &["|a", "|c#d"]),
            (r"a\b \{x", &["|a\\b", "\\{x"]),
            (r"\<<a", &["|<<a"]),
            (r"a\<b \\", &["|a<b", "\\\\"]),
            (r#""a\\" b"#, &["|d:a\\\\", "b"]),
            ("\"\" x", &["|d:", "x"]),
            ("a {\n}", &["|a", "{", "|}"]),
            ("a{", &["|a{"]),
            ("<<a b", &["|<<a", "b"]),
            ("\"open", &["|d:open"]),
        ];
        for (text, wanted) in cases {
            assert_eq!(words(text), *wanted, "{text:?}");
        }
    }

    #[test]
    fn heredocs_lose_the_indentation_of_their_end() {
        assert_eq!(
            words("respond <<HTML\n    <a>\n\n      b\n    HTML 200\nnext"),
            ["|respond", "h:<a>\n\n  b", "200", "|next"]
        );
        assert_eq!(words("x <<E\nE\ny"), ["|x", "h:", "|y"]);
        assert_eq!(words("x <<E\n\n\nE"), ["|x", "h:\n"]);
    }

    #[test]
    fn a_heredoc_that_is_wrong_is_told_where() {
        let wrong = |text: &str| {
            let problem = lex(&characters(0, text, None, &mut Vec::new())).expect_err("wrong");
            (problem.pos.line, problem.pos.column)
        };
        assert_eq!(wrong("a\nb <<END\nx"), (2, 3));
        assert_eq!(wrong("b <<E\n  x\n y\n  E"), (3, 1));
        assert_eq!(wrong("b <<\nx"), (1, 3));
        assert_eq!(wrong("b <<<E\nx\nE"), (1, 3));
    }

    #[test]
    fn comments_stand_before_the_next_line_or_with_the_words_of_their_own() {
        let lexed = lex(&characters(
            0,
            "# one\n#two \na x # three\n# four\nb {\n} # five\n# six",
            None,
            &mut Vec::new(),
        ))
        .expect("words");
        let comments: Vec<_> = lexed
            .tokens
            .iter()
            .map(|token| token.comments.join(","))
            .collect();
        assert_eq!(comments, [" one,two, three", "", " four", "", " five"]);
        assert_eq!(lexed.tail, [" six"]);
        assert_eq!(lexed.tokens[2].pos.line, 5);
    }
}
