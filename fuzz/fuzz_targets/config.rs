//! Any text as our configuration.
#![no_main]

use cutover::config::{Env, load_str_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = load_str_with("cutover.toml", text, &Env::from_iter([] as [(&str, &str); 0]));
});
