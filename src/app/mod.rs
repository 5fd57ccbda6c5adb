//! The composition root.

mod addresses;
mod demo;
mod explain;
mod logging;
mod resolve;

pub use explain::explain_offline;
/// x
pub fn run(_: &std::path::Path) -> anyhow::Result<()> {
    Ok(())
}
/// x
pub fn demo() -> anyhow::Result<()> {
    Ok(())
}
