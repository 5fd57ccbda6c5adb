//! From TOML text to a validated [`Config`].
//!
//! The text becomes a tree with positions ([`tree`]); a walker goes through it table by table
//! ([`section`]), each table in the file of its own name. Nothing stops at the first error:
//! what cannot be read is reported, its default stands in, and the walk goes on. After a
//! syntax error the tree may lack what the person did write, so nothing is called missing
//! then.

mod findings;
mod global;
mod rollback;
mod section;
mod service;
mod site;
mod syntax;
mod tree;
mod value;

use toml::de::DeTable;

use self::findings::Findings;
use self::section::Section;
use super::{Config, Diagnostics, Env, schema};

/// Validates a text; `file` is the name that errors carry.
///
/// # Errors
/// Every error of the text, in its order.
pub(super) fn parse(file: &str, text: &str, env: &Env) -> Result<Config, Diagnostics> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let out = Findings::new(file, text, !syntax.is_empty());
    syntax::report(syntax, text.len(), &out);
    let entries = tree::table(document.get_ref(), env, "", &out);
    let root = Section::new(&out, &schema::ROOT, String::new(), 0, &entries);

    let mut config = global::read(&root);
    let rollback = rollback::defaults(&root);
    let sites = site::heads(&root);
    let names = service::Names::collect(&root, &sites);
    config.services = service::read(&root, &names, &sites, &rollback);
    site::read(&root, sites, &names, &mut config);

    out.finish(config)
}
