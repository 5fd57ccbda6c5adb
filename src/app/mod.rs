//! The composition root.
mod addresses;
mod logging;
mod demo;
mod resolve;
