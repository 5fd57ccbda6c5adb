//! From TOML text to a validated [`Config`].
//!
//! The text becomes a tree with positions ([`tree`]); a walker goes through it table by table
//! ([`section`]), each table in the file of its own name. Nothing stops at the first error:
//! what cannot be read is reported, its default stands in, and the walk goes on. After a
//! syntax error the tree may lack what the person did write, so nothing is called missing
//! then.

mod deploy;
mod findings;
mod global;
mod rollback;
mod route;
mod section;
mod service;
mod site;
mod step;
mod syntax;
mod transport;
mod tree;
mod value;

use toml::de::DeTable;

use self::findings::Findings;
use self::section::Section;
pub(super) use self::step::hash::MASKED as MASKED_HASHES;
use super::{Config, Diagnostics, Env, schema};

/// Validates texts, each with the name that errors carry. Those after the first add to it.
///
/// # Errors
/// Every error of the texts, in their order.
pub(super) fn parse(texts: &[(&str, &str)], env: &Env) -> Result<Config, Diagnostics> {
    // One after the other, so that a place says in which of them it is. Before each stands white
    // space instead of the others, so that its parser counts from the same start.
    let mut whole = String::new();
    let mut parsed = Vec::new();
    let mut starts = Vec::new();
    for (file, text) in texts {
        if !whole.is_empty() && !whole.ends_with('\n') {
            whole.push('\n');
        }
        starts.push((whole.len(), *file));
        let blank = |byte| if byte == b'\n' { '\n' } else { ' ' };
        let mut padded: String = whole.bytes().map(blank).collect();
        padded.push_str(text);
        whole.push_str(text);
        parsed.push(padded);
    }
    let documents: Vec<_> = (parsed.iter())
        .map(|text| DeTable::parse_recoverable(text))
        .collect();
    let torn = documents.iter().any(|(_, errors)| !errors.is_empty());
    let out = Findings::new(&starts, &whole, torn);
    let mut entries = Vec::new();
    for ((document, errors), text) in documents.into_iter().zip(&parsed) {
        syntax::report(errors, text.len(), &out);
        let added = tree::table(document.get_ref(), env, "", &out);
        tree::merge(&mut entries, added, "", &out);
    }
    let root = Section::new(&out, &schema::ROOT, String::new(), 0, &entries);

    let mut config = global::read(&root);
    let rollback = rollback::defaults(&root);
    let sites = site::heads(&root);
    let names = service::Names::collect(&root, &sites);
    config.services = service::read(&root, &names, &rollback);
    config.rollback = rollback;
    site::read(&root, sites, &names, &mut config);
    deploy::read(&root, &names, &mut config);

    out.finish(config)
}
