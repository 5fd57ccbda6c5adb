//! Static files: from a request and a folder to the head of an answer and a body to stream.
//!
//! A path becomes a name beneath the folder ([`name`](self)), the name an open file without
//! leaving the folder (`beneath`), the file an answer with validators, ranges and media type.
//! What is decided about a file is decided about the descriptor that is sent, never about a path
//! that is opened again later.
//!
//! What the kernel has in its caches is served on the thread that asks: `openat2` with
//! `RESOLVE_CACHED` and `preadv2` with `RWF_NOWAIT` never wait for a disk. Everything else goes to
//! tokio's blocking pool. A body is never in memory as a whole.
//!
//! The semantics are those of Caddy's `file_server` and of the HTTP RFCs; where Caddy 2.6 differs
//! it is said at the place. Not here: placeholders, which steps run, compression on the way.

mod answer;
mod beneath;
mod body;
mod coding;
mod glob;
mod hide;
mod listing;
mod locate;
mod media_type;
mod name;
mod page;
mod ranges;
mod serve;
#[cfg(test)]
mod tests;
mod try_files;
mod validators;

pub(crate) use answer::{Answer, Refused};
pub(crate) use body::Body;
pub(crate) use coding::{Accepted, token};
pub(crate) use glob::escape as escape_glob;
pub(crate) use hide::Hide;
pub(crate) use serve::{Asked, Folder, serve};
pub(crate) use try_files::{Candidate, Selection, select, select_now};
