//! What is found on the way: errors and notes, each with its place.

use std::cell::RefCell;

use super::super::ast::Directive;
use super::super::lexer::Token;
use super::super::source::{Pos, Problem};

/// Errors and notes in any order.
#[derive(Debug, Default)]
pub(in super::super) struct Findings {
    errors: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Problem>>,
}

impl Findings {
    /// What has no equivalent, or is wrong.
    pub(super) fn error(&self, pos: Pos, message: impl Into<String>) {
        push(&self.errors, pos, message.into());
    }

    /// What is left out because it means nothing here, or means a little less.
    pub(super) fn note(&self, pos: Pos, message: impl Into<String>) {
        push(&self.notes, pos, message.into());
    }

    /// Everything found, in the order of the files.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let sorted = |found: RefCell<Vec<Problem>>| {
            let mut found = found.into_inner();
            found.sort_by_key(|problem| problem.pos);
            found
        };
        (sorted(self.errors), sorted(self.notes))
    }

    /// The arguments, if there are as many as it takes.
    pub(super) fn args<'a, const N: usize>(
        &self,
        line: &Directive,
        args: &'a [Token],
        form: &str,
    ) -> Option<&'a [Token; N]> {
        let found: Option<&[Token; N]> = args.try_into().ok();
        if found.is_none() {
            self.error(line.pos(), format!("expected `{form}`"));
        }
        found
    }

    /// Reports a block where none may be.
    pub(super) fn no_block(&self, line: &Directive) {
        if let Some(block) = &line.block {
            self.error(block.pos, format!("{} takes no block", line.name()));
        }
    }

    /// Reports a subdirective that the directive does not have.
    pub(super) fn unknown(&self, line: &Directive, known: &[&str]) {
        let name = line.name();
        if known.contains(&name) {
            self.error(line.pos(), format!("`{name}` has the wrong arguments"));
            return;
        }
        let near = known
            .iter()
            .map(|other| (strsim::damerau_levenshtein(name, other), other))
            .min()
            .filter(|(distance, _)| name.len() <= 40 && *distance <= (name.len() / 3).max(1));
        let hint = match near {
            Some((_, near)) => format!("; did you mean `{near}`?"),
            None => String::new(),
        };
        self.error(line.pos(), format!("`{name}` is not known here{hint}"));
    }
}

/// The same word imported twice is told once.
fn push(list: &RefCell<Vec<Problem>>, pos: Pos, message: String) {
    let mut list = list.borrow_mut();
    let known = |p: &Problem| p.pos == pos && p.message == message;
    if !list.iter().any(known) {
        list.push(Problem::new(pos, message));
    }
}
