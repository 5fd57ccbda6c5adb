//! From TOML text to a validated [`super::Config`].
