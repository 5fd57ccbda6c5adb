//! Caddyfiles: read, and written as our configuration.
//!
//! The way is that of Caddy's own adapter: variables of the environment are replaced (`env`), the text becomes
//! words (`lexer`) and blocks, with imports done on the way (`parse`), and every block becomes steps in the
//! order of Caddy's documentation (`adapt`). The result is TOML, which the loader of `config` reads
//! like any other; what it says of a place is told at the place in the Caddyfile that it was made from.
//!
//! Sources: caddyserver.com/docs/caddyfile, and the behaviour of Caddy 2.6 and later where that is silent.

mod adapt;
mod ast;
mod env;
mod import;
pub mod labels;
mod lexer;
mod parse;
mod source;
#[cfg(test)]
mod tests;

pub use adapt::{Adapted, Style, Written, adapt};
pub use ast::{Block, Caddyfile, Directive, NamedRoute, Site};
pub use lexer::{Quote, Token};
pub use parse::parse;
pub use source::{Pos, Problem, Sources};
