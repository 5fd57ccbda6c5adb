//! `cutover`: an edge reverse proxy that makes releases safe.
//!
//! The map of the crate is in `ARCHITECTURE.md`; rows import only from rows below:
//!
//! ```text
//! command   ctl
//! wiring    app
//! control   admin
//! planes    proxy   switch   health   acme   docker   deploy   notify
//! shared    pool   tls   http   history   files
//! words     model   config   clock   disk   kept   metrics
//! ```

pub mod acme;
pub mod admin;
pub mod app;
pub mod clock;
pub mod compat;
pub mod config;
pub mod ctl;
pub mod deploy;
mod disk;
pub mod docker;
mod files;
pub mod health;
pub mod history;
pub mod http;
mod kept;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod pool;
pub mod proxy;
pub mod switch;
pub mod tls;
