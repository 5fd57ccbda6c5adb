//! Other people's configurations, written as ours.

pub mod caddyfile;
mod load;

pub use load::{adapt, is_caddyfile, load, load_with};
