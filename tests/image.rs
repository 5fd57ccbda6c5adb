//! The image on a real Docker engine, with docker-compose: in the place of a Caddy that ran as root,
//! with little rights, and in the worked examples of `config/`.
//!
//! The images are made out of the programs under test and of what Debian installed
//! (`scripts/test_images.sh`); nothing is pulled.

#[path = "image/caddy.rs"]
mod caddy;
#[path = "image/compose.rs"]
mod compose;
#[path = "image/container.rs"]
mod container;
#[path = "image/examples.rs"]
mod examples;
#[path = "image/readme.rs"]
mod readme;
#[path = "image/restore.rs"]
mod restore;
mod support;
