//! Any text as a Caddyfile: read, adapted, and what came of it loaded.
#![no_main]

use cutover::compat::caddyfile::{Sources, Style, adapt, parse};
use cutover::config::{self, Env};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Without an environment nothing is read from files.
    let Ok(caddyfile) = parse("Caddyfile", text, None, &mut Sources::default()) else {
        return;
    };
    for long_services in [false, true] {
        let adapted = adapt(&caddyfile, Style { long_services });
        let env = Env::from_iter([] as [(&str, &str); 0]);
        let _ = config::load_str_with("cutover.toml", &adapted.toml.text, &env);
    }
});
