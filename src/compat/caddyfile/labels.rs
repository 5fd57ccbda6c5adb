//! Labels of caddy-docker-proxy, read as the Caddyfile that they stand for.
//!
//! `caddy=example.com` is a site, and `caddy.reverse_proxy={{upstreams 3000}}` a line in it: dots nest, `\.` is
//! a dot. `NAME_1` keeps two of the same name apart, `1_NAME` puts them in order as well; others are in the
//! order of the alphabet. A site without a value holds global options, `(name)` is a snippet. A value is read as words; what
//! comes from several containers and is the same, is one (github.com/lucaslorentz/caddy-docker-proxy, README).
//!
//! Pure: labels and addresses in, blocks out. Nothing is read from files or the environment.

use std::collections::BTreeMap;

use super::ast::Caddyfile;
use super::env::characters;
use super::lexer::{Quote, Token, lex};
use super::parse::parse_tokens;
use super::source::{Pos, Problem, Sources};

/// The labels of one container, and where it can be reached.
#[derive(Clone, Debug, Default)]
pub struct Labeled {
    /// Name of the container, for messages.
    pub name: String,
    /// All of its labels; those of others are passed over.
    pub labels: BTreeMap<String, String>,
    /// Its addresses, without port.
    pub addresses: Vec<String>,
}

/// The prefix of labels; `PREFIX_0` and so on are blocks of their own.
pub const PREFIX: &str = "caddy";

/// Labels that are settings of caddy-docker-proxy itself.
const OWN: [&str; 2] = ["caddy_ingress_network", "caddy_controlled_server"];

/// Deepest nesting of a label.
const DEEPEST: usize = 32;

/// Reads the labels of all containers as one Caddyfile. A place is that of a label: the file is the container's
/// name, the line is the label's number in the alphabet.
///
/// # Errors
/// The first label that says nothing.
pub fn compile(containers: &[Labeled], sources: &mut Sources) -> Result<Caddyfile, Problem> {
    let mut all = Node::default();
    for container in containers {
        let file = sources.add(&container.name);
        let one = tree(container, file)?;
        all.merge(one.children);
    }
    let mut tokens = Vec::new();
    all.sort();
    for block in &all.children {
        let is_global = block.words.is_empty();
        if is_global && block.children.is_empty() {
            continue;
        }
        block.write(&mut tokens, true);
    }
    parse_tokens(tokens, Vec::new(), None, sources)
}

/// A line with the lines below it.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The part of the label, without its numbers.
    name: String,
    order: Option<u32>,
    words: Vec<Token>,
    children: Vec<Self>,
    pos: Pos,
}

fn tree(container: &Labeled, file: u32) -> Result<Node, Problem> {
    let mut root = Node::default();
    let labels = container.labels.iter().enumerate();
    for (number, (label, value)) in labels.filter(|(_, (label, _))| is_ours(label)) {
        let pos = Pos {
            file,
            line: u32::try_from(number + 1).unwrap_or(u32::MAX),
            column: 1,
        };
        let path = parts(label);
        if path.len() > DEEPEST || path.iter().any(String::is_empty) {
            return Err(Problem::new(
                pos,
                format!("{label}: no label of a Caddyfile"),
            ));
        }
        let value = upstreams(value, &container.addresses)
            .map_err(|message| Problem::new(pos, format!("{label}: {message}")))?;
        let mut words = lex(&characters(file, &value, None, &mut Vec::new()))?.tokens;
        for word in &mut words {
            word.pos = pos;
            word.comments.clear();
            word.line_start = false;
        }
        let node = root.at(&path, pos);
        node.words.extend(words);
    }
    for block in &mut root.children {
        // The name of a top label is the prefix, no word.
        block.words.remove(0);
    }
    Ok(root)
}

fn is_ours(label: &str) -> bool {
    let first = label.split('.').next().unwrap_or(label);
    let rest = first.strip_prefix(PREFIX);
    let is_block = |rest: &str| {
        rest.is_empty()
            || (rest
                .strip_prefix('_')
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
    };
    rest.is_some_and(is_block) && !OWN.contains(&label)
}

/// The parts of a label between its dots.
fn parts(label: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = label.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek() == Some(&'.') => {
                letters.next();
                push(&mut parts, '\0');
            }
            '.' => parts.push(String::new()),
            other => push(&mut parts, other),
        }
    }
    parts
}

fn push(parts: &mut [String], letter: char) {
    if let Some(last) = parts.last_mut() {
        last.push(letter);
    }
}

/// `N_name_N`: what orders it, and the name between. A number after the name only keeps it apart.
fn name_of(part: &str) -> (Option<u32>, String) {
    let digits = part.bytes().take_while(u8::is_ascii_digit).count();
    let (order, rest) = match part[digits..].strip_prefix('_') {
        Some(rest) if digits > 0 && !rest.is_empty() => (part[..digits].parse().ok(), rest),
        _ => (None, part),
    };
    let name = match rest.rsplit_once('_') {
        Some((name, number))
            if !name.is_empty()
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            name
        }
        _ => rest,
    };
    (order, name.replace('\0', "."))
}

impl Node {
    /// The node of a path, made with everything above it.
    fn at(&mut self, path: &[String], pos: Pos) -> &mut Self {
        let Some((part, rest)) = path.split_first() else {
            return self;
        };
        let known = self.children.iter().position(|child| child.name == *part);
        let at = known.unwrap_or_else(|| {
            let (order, name) = name_of(part);
            let word = Token {
                text: name,
                quote: Quote::None,
                pos,
                line_start: false,
                comments: Vec::new(),
                chain: None,
            };
            self.children.push(Self {
                name: part.clone(),
                order,
                words: vec![word],
                children: Vec::new(),
                pos,
            });
            self.children.len() - 1
        });
        self.children[at].at(rest, pos)
    }

    fn text(&self) -> Vec<&str> {
        self.words.iter().map(|word| word.text.as_str()).collect()
    }

    /// Adds the lines of another container: the same lines are one, and the upstreams of the same proxy
    /// belong together.
    fn merge(&mut self, others: Vec<Self>) {
        for other in others {
            let key = |node: &Self| {
                let words = node.text();
                let is_proxy = words.first() == Some(&"reverse_proxy");
                let matcher = words
                    .get(1)
                    .filter(|word| word.starts_with(['/', '@', '*']));
                (is_proxy, matcher.copied().unwrap_or("*").to_owned())
            };
            let same = self.children.iter_mut().find(|known| {
                known.text() == other.text() || (key(&other).0 && key(known) == key(&other))
            });
            let Some(known) = same else {
                self.children.push(other);
                continue;
            };
            if known.text() != other.text() {
                let skip = usize::from(
                    (other.words.get(1)).is_some_and(|w| w.text.starts_with(['/', '@', '*'])),
                );
                known.words.extend(other.words.into_iter().skip(1 + skip));
            }
            known.merge(other.children);
        }
    }

    /// Global options, snippets, matchers; then by number; then by the alphabet.
    fn sort(&mut self) {
        for child in &mut self.children {
            child.sort();
        }
        self.children.sort_by_key(|node| {
            let first = node.words.first().map_or("", |word| word.text.as_str());
            let text: Vec<String> = node.text().into_iter().map(str::to_owned).collect();
            (
                !first.is_empty(),
                !first.starts_with('('),
                !first.starts_with('@'),
                node.order.unwrap_or(u32::MAX),
                text,
            )
        });
    }

    fn write(&self, out: &mut Vec<Token>, is_top: bool) {
        let brace = |text: &str, line_start| Token {
            text: text.to_owned(),
            quote: Quote::None,
            pos: self.pos,
            line_start,
            comments: Vec::new(),
            chain: None,
        };
        let start = out.len();
        out.extend_from_slice(&self.words);
        if let Some(first) = out.get_mut(start) {
            first.line_start = true;
        }
        if is_top || !self.children.is_empty() {
            out.push(brace("{", self.words.is_empty()));
            self.children
                .iter()
                .for_each(|child| child.write(out, false));
            out.push(brace("}", true));
        }
    }
}

/// Fills in `{{upstreams [http|https|h2c] [PORT]}}` and `{{""}}`.
fn upstreams(value: &str, addresses: &[String]) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let Some(end) = inside.find("}}") else {
            return Err("`{{` without `}}`".to_owned());
        };
        rest = &inside[end + 2..];
        let mut words = inside[..end].split_whitespace();
        match words.next() {
            Some("upstreams") => {}
            Some("\"\"" | "``") => continue,
            _ => {
                return Err(format!(
                    "the template {{{{{}}}}} is not known; there is {{{{upstreams [SCHEME] [PORT]}}}}",
                    &inside[..end]
                ));
            }
        }
        let (mut scheme, mut port) = (String::new(), String::new());
        for word in words {
            match word.trim_matches('"') {
                name @ ("http" | "https" | "h2c") => scheme = format!("{name}://"),
                number if number.parse::<u16>().is_ok_and(|n| n > 0) => port = format!(":{number}"),
                other => {
                    return Err(format!(
                        "{{{{upstreams {other}}}}} is neither a scheme nor a port"
                    ));
                }
            }
        }
        let mut list: Vec<String> = addresses
            .iter()
            .map(|address| {
                let is_v6 = address.contains(':') && !address.starts_with('[');
                let address = if is_v6 {
                    format!("[{address}]")
                } else {
                    address.clone()
                };
                format!("{scheme}{address}{port}")
            })
            .collect();
        list.sort();
        out.push_str(&list.join(" "));
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `label = value` lines as the labels of one container each, parted by `--`.
    fn compiled(text: &str) -> String {
        let containers: Vec<Labeled> = text
            .split("--")
            .enumerate()
            .map(|(n, text)| Labeled {
                name: format!("container-{n}"),
                labels: text
                    .lines()
                    .filter_map(|line| line.split_once('='))
                    .map(|(label, value)| {
                        (label.trim().to_owned(), value.trim().replace("\\n", "\n"))
                    })
                    .collect(),
                addresses: vec![format!("10.0.0.{}", n + 1)],
            })
            .collect();
        match compile(&containers, &mut Sources::default()) {
            Ok(caddyfile) => caddyfile.to_string(),
            Err(problem) => format!("line {}: {}", problem.pos.line, problem.message),
        }
    }

    #[test]
    fn dots_nest_and_values_are_words() {
        let read = compiled(
            "caddy = example.com\n\
             caddy.reverse_proxy = {{upstreams 3000}}\n\
             caddy.reverse_proxy.lb_policy = first\n\
             caddy.respond = /info `{\"a\": 1}` 200\n\
             caddy.tls =\n\
             com.docker.compose.project = x\n\
             caddyfile = no",
        );
        assert_eq!(
            read,
            "example.com {\n\trespond /info `{\"a\": 1}` 200\n\treverse_proxy 10.0.0.1:3000 {\n\t\tlb_policy first\n\t}\n\ttls\n}\n\n"
        );
    }

    #[test]
    fn numbers_keep_apart_and_put_in_order() {
        let read = compiled(
            "caddy = example.com\n\
             caddy.route.2_respond = b\n\
             caddy.route.1_respond = a\n\
             caddy.redir_0 = /x /y\n\
             caddy.redir_1 = /z /y\n\
             caddy.route.uri = strip_prefix /v",
        );
        assert_eq!(
            read,
            "example.com {\n\tredir /x /y\n\tredir /z /y\n\troute {\n\t\trespond a\n\t\trespond b\n\t\turi strip_prefix /v\n\t}\n}\n\n"
        );
    }

    #[test]
    fn global_options_snippets_and_matchers_come_first() {
        let read = compiled(
            "caddy_0 = b.example.com\n\
             caddy_0.import = common\n\
             caddy_0.reverse_proxy = @api {{upstreams http 80}}\n\
             caddy_0.@api.path = /api/*\n\
             caddy_1 = (common)\n\
             caddy_1.encode = gzip\n\
             caddy_2.email = me@example.com",
        );
        assert_eq!(
            read,
            "{\n\temail me@example.com\n}\n\nb.example.com {\n\t@api {\n\t\tpath /api/*\n\t}\n\tencode gzip\n\treverse_proxy @api http://10.0.0.1:80\n}\n\n"
        );
    }

    #[test]
    fn the_same_site_of_two_containers_is_one_with_both_upstreams() {
        let one = "caddy = example.com\ncaddy.reverse_proxy = {{upstreams}}\ncaddy.encode = gzip\n";
        let read = compiled(&format!("{one}--{one}"));
        assert_eq!(
            read,
            "example.com {\n\tencode gzip\n\treverse_proxy 10.0.0.1 10.0.0.2\n}\n\n"
        );
    }

    #[test]
    fn a_dot_can_be_escaped_and_addresses_stand_beside_each_other() {
        let read = compiled("caddy = a.com, b.com\ncaddy.x.my\\.name = 1");
        assert_eq!(read, "a.com, b.com {\n\tx {\n\t\tmy.name 1\n\t}\n}\n\n");
    }

    #[test]
    fn what_says_nothing_is_told() {
        assert_eq!(
            compiled("caddy = a\ncaddy.x = {{nothing}}")
                .split(':')
                .next(),
            Some("line 2")
        );
        assert!(compiled("caddy = a\ncaddy..x = 1").contains("no label"));
        assert!(compiled("caddy = a\ncaddy.x = {{upstreams 99999}}").contains("neither"));
        assert!(compiled("caddy = a\ncaddy.import = /etc/passwd").contains("no snippet"));
        assert_eq!(compiled("other = x"), "");
    }
}
