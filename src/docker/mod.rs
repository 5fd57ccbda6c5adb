//! Docker: which containers there are, what their labels say, and what that means for routing.
//!
//! [`Discoverer`] is pure: an [`Inventory`], a configuration and the choices that were made before go
//! in; services, sites and problems come out. `watch` keeps the inventory true: a full look at the
//! start, after each reconnect and every minute, events in between. Labels come from whoever may start a
//! container, so they are limited: they set routing, health, balance, switch and rollback keys of their
//! own service and nothing else (`labels`, `limits`).
//!
//! Invariants: one container's labels never change what another project serves; nothing here reads
//! this process's environment or files on behalf of a label; an engine that is away changes nothing.
//!
//! Not here: publishing what was found (`app`), own probes (`health`), starting containers.
//!
//! Sources: Docker Engine API 1.41 and later; Compose's labels `com.docker.compose.*`;
//! github.com/lucaslorentz/caddy-docker-proxy, README.

mod address;
mod caddy;
mod check;
mod client;
mod color;
mod containers;
mod credentials;
mod discover;
mod event;
mod group;
mod images;
mod inventory;
mod labels;
mod limits;
mod memory;
mod own;
mod problem;
mod read;
mod sites;
mod watch;
mod watched;

pub use check::{Answers, check};
pub use client::{ApiVersion, Call, Client, DockerError, OLDEST};
pub use containers::{FileStat, Usage};
pub use credentials::{Credentials, CredentialsError, credentials, usual_file};
pub use discover::{Context, Discovered, Discoverer, Origin};
pub use event::{Event, Reaction, Sign};
pub use images::{Image, PullProgress};
pub use inventory::{Attached, Container, Health, Inventory, Place, State};
pub use memory::{HostClaim, Memory};
pub use own::own_ids;
pub use problem::Problem;
pub use watch::{Link, View, Watch, watch};
pub use watched::{Attention, LastLines, Limits, Trouble, Used};
