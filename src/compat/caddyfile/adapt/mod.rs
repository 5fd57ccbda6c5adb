//! From blocks to our configuration.
//!
//! Every block becomes a list of steps in the order in which Caddy runs its directives
//! ([`order`]); what a directive says is in the file of its kind. Nothing is dropped in silence: what has no
//! equivalent is an error at its place, what means nothing here is a note.

mod answer;
mod block;
mod cel;
mod change;
mod doc;
mod files;
mod findings;
mod global;
mod guard;
mod listen;
mod log;
mod matcher;
mod order;
mod proxy;
mod service;
mod site;
mod step;
mod sugar;
mod tls;
mod transport;
mod unit;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use self::doc::Comments;
use self::findings::Findings;
use self::global::Globals;
use self::matcher::Scope;
use self::service::Services;
use self::step::Step;
use super::ast::{Block, Caddyfile, Directive};
use super::lexer::Token;
use super::source::{Pos, Problem};
pub use doc::Written;

/// What came of a Caddyfile.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// The configuration, as far as it could be written.
    pub toml: Written,
    /// What has no equivalent. The configuration is not the same unless this is empty.
    pub errors: Vec<Problem>,
    /// What means nothing here, or is done in another way.
    pub notes: Vec<Problem>,
}

/// How the configuration is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Every service has a table of its own, so that another file can add to it.
    pub long_services: bool,
}

/// Writes a Caddyfile as our configuration.
#[must_use]
pub fn adapt(caddyfile: &Caddyfile, style: Style) -> Adapted {
    let out = Findings::default();
    let globals = Globals::read(caddyfile.global.as_ref(), &out);
    let named = caddyfile.routes.iter();
    let cx = Cx {
        globals,
        routes: named
            .map(|route| (route.name.text.as_str(), &route.block))
            .collect(),
        invoked: RefCell::default(),
        depth: Cell::new(0),
        services: RefCell::new(Services::new(style.long_services)),
        mapped: mapped_names(caddyfile),
        out,
    };
    let mut root = site::document(&cx, caddyfile);
    root.tail = Comments(caddyfile.tail.clone());
    let (errors, notes) = cx.out.finish();
    Adapted {
        toml: doc::write(&root),
        errors,
        notes,
    }
}

/// What all directives of a file share.
struct Cx<'a> {
    out: Findings,
    globals: Globals,
    routes: HashMap<&'a str, &'a Block>,
    /// Named routes on the way to this place.
    invoked: RefCell<Vec<String>>,
    depth: Cell<usize>,
    services: RefCell<Services>,
    /// Placeholders that `map` sets.
    mapped: Vec<String>,
}

/// Where a block stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// In `handle_response`.
    is_response: bool,
}

/// Sites with everything that named routes bring may not have more steps than this.
const MOST_STEPS: usize = 200_000;

impl Cx<'_> {
    /// The steps of a block's lines; sorted unless they are those of a `route`.
    fn steps(&self, lines: &[Directive], scope: &Scope, place: &Place, sorted: bool) -> Vec<Step> {
        let scope = scope.define(lines, &self.out);
        let mut steps = Vec::new();
        let mut waiting: Vec<String> = Vec::new();
        for line in lines {
            if line.name().starts_with('@') {
                waiting.extend(line.all_comments());
                continue;
            }
            if sorted && !self.globals.order.iter().any(|name| name == line.name()) {
                self.unordered(line);
                waiting.extend(line.all_comments());
                continue;
            }
            let mut made = block::directive(self, line, &scope, place);
            if let Some(first) = made.first_mut() {
                first.comments.splice(0..0, std::mem::take(&mut waiting));
            }
            steps.append(&mut made);
        }
        if let Some(last) = steps.last_mut() {
            last.tail.append(&mut waiting);
        }
        if sorted {
            order::sort(&mut steps, &self.globals.order);
        }
        for step in &mut steps {
            if matches!(step.directive.as_str(), "rewrite" | "handle" | "root") {
                step.group = Some(step.directive.clone());
            }
        }
        step::simplify(step::consolidate(steps))
    }

    /// A directive that cannot stand here.
    fn unordered(&self, line: &Directive) {
        let message = match line.name() {
            "tls" | "bind" | "log" | "handle_errors" => {
                format!("{} belongs directly into the block of a site", line.name())
            }
            "acme_server" => {
                "this server gives out no certificates by ACME; run step-ca or pebble beside it"
                    .to_owned()
            }
            name => block::unknown(name),
        };
        self.out.error(line.pos(), message);
    }

    /// A text whose unknown placeholders Caddy leaves as they stand.
    fn kept_text(&self, word: &Token) -> String {
        value::escape_unknown(&word.text, &self.mapped)
    }

    /// A number of this form, from 0.
    fn number(&self, word: &Token) -> Option<u64> {
        let number = word.text.parse().ok();
        if number.is_none() {
            let message = format!("`{}` is not a whole number", word.text);
            self.out.error(word.pos, message);
        }
        number
    }

    /// Says that something is fine but means nothing here.
    fn note(&self, pos: Pos, message: impl Into<String>) {
        self.out.note(pos, message);
    }
}

/// Names of the placeholders that `map` directives set anywhere in the file.
fn mapped_names(caddyfile: &Caddyfile) -> Vec<String> {
    fn collect(lines: &[Directive], names: &mut Vec<String>) {
        for line in lines {
            if line.name() == "map" {
                let placeholders = line.args().iter().filter_map(|arg| {
                    let inside = arg.text.strip_prefix('{')?.strip_suffix('}')?;
                    Some(inside.to_owned())
                });
                // The first one is what is looked up.
                names.extend(placeholders.skip(1));
            }
            collect(line.lines(), names);
        }
    }
    let mut names = Vec::new();
    let blocks = caddyfile.sites.iter().map(|site| &site.block);
    for block in blocks.chain(caddyfile.routes.iter().map(|route| &route.block)) {
        collect(&block.lines, &mut names);
    }
    names.sort();
    names.dedup();
    names
}
