//! `cutover`: an edge reverse proxy that makes releases safe.
//!
//! The map of the crate is in `ARCHITECTURE.md`; rows import only from rows below:
//!
//! ```text
//! wiring    app
//! control   admin
//! planes    proxy   switch   health
//! shared    pool   tls   http
//! words     model   config   clock   metrics
//! ```

pub mod clock;
pub mod config;
pub mod model;
pub mod switch;
