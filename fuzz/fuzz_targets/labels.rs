//! Any labels of containers, `NAME=VALUE` a line, containers divided by an empty line.
#![no_main]

use cutover::compat::caddyfile::labels::{Labeled, compile};
use cutover::compat::caddyfile::{Sources, Style, adapt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let containers: Vec<Labeled> = text.split("\n\n").enumerate().map(container).collect();
    if let Ok(caddyfile) = compile(&containers, &mut Sources::default()) {
        let _ = adapt(&caddyfile, Style::default());
    }
});

fn container((number, text): (usize, &str)) -> Labeled {
    let label = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    };
    Labeled {
        name: format!("container-{number}"),
        labels: text.lines().map(label).collect(),
        addresses: vec![format!("10.0.0.{}", number + 1)],
    }
}
