//! Expressions, as far as our matchers can say them.
//!
//! What is read: `{placeholder}` compared with `==`, `!=`, `in [..]`, `.startsWith()`,
//! `.endsWith()`, `.contains()` and `.matches()`; matchers as functions; `&&`, `||`, `!` and
//! parentheses; comparisons of `{err.status_code}` with numbers.

use super::super::lexer::Token;
use super::super::source::Pos;
use super::doc::{Table, Value};
use super::findings::Findings;
use super::matcher::{both, either, negate};

/// Parentheses and negations within each other.
const DEEPEST: usize = 64;

/// Reads an expression; `name` is the name of its captures. `None` when it is wrong and reported.
pub(super) fn parse(word: &Token, name: &str, out: &Findings) -> Option<Table> {
    let parsed = lex(&word.text).and_then(|tokens| {
        let mut parser = Parser {
            tokens,
            at: 0,
            depth: 0,
            pos: word.pos,
            name,
        };
        let table = parser.or()?;
        match parser.tokens.get(parser.at) {
            None => Ok(table),
            Some(token) => Err(format!("{} is not expected there", token.shown())),
        }
    });
    match parsed {
        Ok(table) => Some(table),
        Err(message) => {
            let message = format!(
                "this expression has no equivalent: {message}; write it with other matchers"
            );
            out.error(word.pos, message);
            None
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Tok {
    Placeholder(String),
    Text(String),
    Number(i64),
    Name(String),
    Sign(&'static str),
}

impl Tok {
    fn shown(&self) -> String {
        match self {
            Self::Placeholder(name) => format!("`{{{name}}}`"),
            Self::Text(text) => format!("'{text}'"),
            Self::Number(number) => format!("`{number}`"),
            Self::Name(name) => format!("`{name}`"),
            Self::Sign(sign) => format!("`{sign}`"),
        }
    }
}

const SIGNS: [&str; 19] = [
    "&&", "||", "==", "!=", ">=", "<=", ">", "<", "!", "(", ")", "[", "]", "{", "}", ",", ".", ":",
    "?",
];

fn lex(text: &str) -> Result<Vec<Tok>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => string(rest, first)?,
            '{' if placeholder(rest).is_some() => {
                let name = placeholder(rest).unwrap_or_default();
                (Tok::Placeholder(name.to_owned()), name.len() + 2)
            }
            c if c.is_ascii_digit() => {
                let length = rest.bytes().take_while(u8::is_ascii_digit).count();
                let number = rest[..length].parse();
                (
                    Tok::Number(number.map_err(|_| "a number is too large")?),
                    length,
                )
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
                let length = rest.bytes().take_while(part).count();
                (Tok::Name(rest[..length].to_owned()), length)
            }
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Tok::Sign(sign), sign.len()),
                None => return Err(format!("`{first}` is not understood")),
            },
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn placeholder(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('{')?;
    let name = &inside[..inside.find('}')?];
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-?%/".contains(&b);
    (!name.is_empty() && name.bytes().all(allowed)).then_some(name)
}

fn string(text: &str, quote: char) -> Result<(Tok, usize), String> {
    let mut out = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            c if c == quote => return Ok((Tok::Text(out), at + 1)),
            '\\' => match letters.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, c @ ('\\' | '\'' | '"' | '`' | '?'))) => out.push(c),
                Some((_, other)) => {
                    out.push('\\');
                    out.push(other);
                }
                None => break,
            },
            c => out.push(c),
        }
    }
    Err("a text has no end".to_owned())
}

struct Parser<'a> {
    tokens: Vec<Tok>,
    at: usize,
    depth: usize,
    pos: Pos,
    name: &'a str,
}

type Parsed = Result<Table, String>;

impl Parser<'_> {
    fn peek(&self) -> Option<&Tok> {
        self.tokens.get(self.at)
    }

    fn take(&mut self) -> Result<Tok, String> {
        let token = self
            .tokens
            .get(self.at)
            .cloned()
            .ok_or("it ends too early")?;
        self.at += 1;
        Ok(token)
    }

    fn eat(&mut self, sign: &'static str) -> bool {
        let is_next = self.peek() == Some(&Tok::Sign(sign));
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), String> {
        match self.eat(sign) {
            true => Ok(()),
            false => Err(match self.peek() {
                Some(token) => format!("{} stands where `{sign}` should", token.shown()),
                None => format!("`{sign}` is missing at its end"),
            }),
        }
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.eat("||") {
            left = either(left, self.and()?, self.pos);
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.unary()?;
        while self.eat("&&") {
            left = both(left, self.unary()?);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        let table = if self.eat("!") {
            negate(self.unary()?, self.pos)
        } else if self.eat("(") {
            let inside = self.or()?;
            self.expect(")")?;
            inside
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(table)
    }

    fn comparison(&mut self) -> Parsed {
        let left = self.take()?;
        match (left, self.peek().cloned()) {
            (Tok::Name(word), _) if word == "true" => Ok(Table::at(self.pos)),
            (Tok::Name(word), _) if word == "false" => Ok(negate(Table::at(self.pos), self.pos)),
            (Tok::Name(function), Some(Tok::Sign("("))) => self.function(&function),
            (Tok::Placeholder(value), Some(Tok::Sign("."))) => self.method(&value),
            (Tok::Placeholder(value), Some(Tok::Name(word))) if word == "in" => {
                self.at += 1;
                let list = self.list()?;
                self.is_one_of(&value, &list)
            }
            (Tok::Placeholder(value), Some(Tok::Sign(sign))) => {
                self.at += 1;
                let right = self.take()?;
                self.compare(&value, sign, right)
            }
            (left @ (Tok::Text(_) | Tok::Number(_)), Some(Tok::Sign(sign @ ("==" | "!=")))) => {
                self.at += 1;
                match self.take()? {
                    Tok::Placeholder(value) => self.compare(&value, sign, left),
                    other => Err(format!("{} is no placeholder", other.shown())),
                }
            }
            (other, _) => Err(format!("{} is no condition", other.shown())),
        }
    }

    fn compare(&self, value: &str, sign: &str, right: Tok) -> Parsed {
        if let Tok::Number(number) = right
            && is_status(value)
        {
            let range = match sign {
                "==" | "!=" => format!("{number}"),
                ">=" => format!("{number}-599"),
                ">" => format!("{}-599", number.saturating_add(1)),
                "<=" => format!("100-{number}"),
                "<" => format!("100-{}", number.saturating_sub(1)),
                _ => return Err(format!("`{sign}` compares nothing")),
            };
            let table = self.single("error_status", Value::texts([range]));
            return Ok(match sign {
                "!=" => negate(table, self.pos),
                _ => table,
            });
        }
        let text = match right {
            Tok::Text(text) => text,
            Tok::Number(number) => number.to_string(),
            Tok::Placeholder(name) => format!("{{{name}}}"),
            other => return Err(format!("{} is no value", other.shown())),
        };
        let table = self.vars(value, vec![Value::text(text)]);
        match sign {
            "==" => Ok(table),
            "!=" => Ok(negate(table, self.pos)),
            _ => Err(format!(
                "`{sign}` compares numbers, which only works for {{err.status_code}}"
            )),
        }
    }

    fn is_one_of(&self, value: &str, list: &[Tok]) -> Parsed {
        let texts = list.iter().map(|token| match token {
            Tok::Text(text) => Ok(text.clone()),
            Tok::Number(number) => Ok(number.to_string()),
            other => Err(format!("{} is no value", other.shown())),
        });
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        if is_status(value) {
            return Ok(self.single("error_status", Value::texts(texts)));
        }
        Ok(self.vars(value, texts.into_iter().map(Value::text).collect()))
    }

    fn list(&mut self) -> Result<Vec<Tok>, String> {
        self.expect("[")?;
        let mut list = Vec::new();
        while !self.eat("]") {
            if !list.is_empty() {
                self.expect(",")?;
            }
            list.push(self.take()?);
        }
        Ok(list)
    }

    /// `{value}.startsWith('...')` and its like.
    fn method(&mut self, value: &str) -> Parsed {
        self.expect(".")?;
        let name = self.take()?;
        self.expect("(")?;
        let text = match self.take()? {
            Tok::Text(text) => text,
            other => return Err(format!("{} is no text", other.shown())),
        };
        self.expect(")")?;
        let literal = regex::escape(&text);
        let pattern = match name {
            Tok::Name(name) if name == "startsWith" => format!("^{literal}"),
            Tok::Name(name) if name == "endsWith" => format!("{literal}$"),
            Tok::Name(name) if name == "contains" => literal,
            Tok::Name(name) if name == "matches" => text,
            other => return Err(format!("the function {} is not known", other.shown())),
        };
        let item = Table::at(self.pos)
            .with(self.pos, "name", Value::text(self.name))
            .with(self.pos, "value", Value::text(format!("{{{value}}}")))
            .with(self.pos, "pattern", Value::text(pattern));
        Ok(self.single("vars_regexp", Value::List(vec![Value::Table(item)])))
    }

    /// A matcher as a function.
    fn function(&mut self, name: &str) -> Parsed {
        self.expect("(")?;
        let (mut texts, mut pairs) = (Vec::new(), Vec::new());
        while !self.eat(")") {
            if !texts.is_empty() || !pairs.is_empty() {
                self.expect(",")?;
            }
            if self.eat("{") {
                self.pairs(&mut pairs)?;
                continue;
            }
            match self.take()? {
                Tok::Text(text) => texts.push(text),
                Tok::Placeholder(name) => texts.push(format!("{{{name}}}")),
                other => return Err(format!("{} is no text", other.shown())),
            }
        }
        self.matcher(name, &texts, pairs)
    }

    fn pairs(&mut self, pairs: &mut Vec<(String, Vec<String>)>) -> Result<(), String> {
        while !self.eat("}") {
            if !pairs.is_empty() {
                self.expect(",")?;
            }
            let Tok::Text(key) = self.take()? else {
                return Err("a name should be a text".to_owned());
            };
            self.expect(":")?;
            let values = if self.peek() == Some(&Tok::Sign("[")) {
                self.list()?
            } else {
                vec![self.take()?]
            };
            let text = |token: Tok| match token {
                Tok::Text(text) => Ok(text),
                Tok::Placeholder(name) => Ok(format!("{{{name}}}")),
                other => Err(format!("{} is no text", other.shown())),
            };
            let values = values
                .into_iter()
                .map(text)
                .collect::<Result<Vec<_>, String>>()?;
            pairs.push((key, values));
        }
        Ok(())
    }

    fn matcher(&self, name: &str, texts: &[String], pairs: Vec<(String, Vec<String>)>) -> Parsed {
        let pos = self.pos;
        let list = || Value::texts(texts.iter().cloned());
        let regexp = |field: Option<(&str, String)>, name: &str, pattern: &str| {
            let mut item = Table::at(pos).with(pos, "name", Value::text(name));
            if let Some((key, value)) = field {
                item.put(pos, key, Value::text(value));
            }
            item.with(pos, "pattern", Value::text(pattern))
        };
        let value_of = |values: Vec<String>| match values.as_slice() {
            [one] => Value::text(one.clone()),
            _ => Value::texts(values),
        };
        Ok(match (name, texts) {
            ("path" | "host" | "method" | "remote_ip" | "client_ip", [_, ..]) => {
                self.single(name, list())
            }
            ("protocol", [one]) => self.single("protocol", Value::text(one.clone())),
            ("path_regexp", [pattern]) => self.single(
                "path_regexp",
                Value::Table(regexp(None, self.name, pattern)),
            ),
            ("path_regexp", [name, pattern]) => {
                self.single("path_regexp", Value::Table(regexp(None, name, pattern)))
            }
            ("header_regexp" | "vars_regexp", [rest @ .., field, pattern]) if rest.len() < 2 => {
                let captures = rest.first().map_or(self.name, String::as_str);
                let (key, value) = match name {
                    "header_regexp" => ("field", field.clone()),
                    _ if field.starts_with('{') => ("value", field.clone()),
                    _ => ("value", format!("{{vars.{field}}}")),
                };
                let item = regexp(Some((key, value)), captures, pattern);
                self.single(name, Value::List(vec![Value::Table(item)]))
            }
            ("header" | "query", []) if !pairs.is_empty() => {
                let tables = pairs.into_iter().map(|(key, values)| {
                    let inside = Table::at(pos).with(pos, key, value_of(values));
                    self.single(name, Value::Table(inside))
                });
                tables.reduce(both).unwrap_or_default()
            }
            ("vars", []) if !pairs.is_empty() => {
                let tables = pairs.into_iter().map(|(key, values)| {
                    let key = match key.starts_with('{') {
                        true => key,
                        false => format!("{{vars.{key}}}"),
                    };
                    let values = values.into_iter().map(Value::text).collect();
                    self.vars(key.trim_matches(['{', '}']), values)
                });
                tables.reduce(both).unwrap_or_default()
            }
            ("file", _) => {
                let mut table = Table::at(pos);
                let mut tried = texts.to_vec();
                for (key, values) in pairs {
                    match (key.as_str(), values.as_slice()) {
                        ("try_files", _) => tried.extend(values),
                        ("root", [root]) => table.put(pos, "root", Value::text(root.clone())),
                        ("try_policy", [policy]) => {
                            let policy = super::matcher::policy(policy).to_owned();
                            table.put(pos, "policy", Value::text(policy));
                        }
                        ("split_path", _) => table.put(pos, "split", Value::texts(values)),
                        _ => return Err(format!("`{key}` is not known to file()")),
                    }
                }
                if tried.is_empty() {
                    tried.push("{path}".to_owned());
                }
                table.put(pos, "try", Value::texts(tried));
                self.single("file", Value::Table(table))
            }
            _ => {
                return Err(format!(
                    "the function `{name}` is not known with these arguments"
                ));
            }
        })
    }

    fn single(&self, key: &str, value: Value) -> Table {
        Table::at(self.pos).with(self.pos, key, value)
    }

    fn vars(&self, value: &str, is: Vec<Value>) -> Table {
        let item = Table::at(self.pos)
            .with(self.pos, "value", Value::text(format!("{{{value}}}")))
            .with(self.pos, "is", Value::List(is));
        self.single("vars", Value::List(vec![Value::Table(item)]))
    }
}

fn is_status(value: &str) -> bool {
    matches!(value, "err.status_code" | "http.error.status_code")
}
