//! A scriptable upstream as a program of its own: `origin NAME ADDRESS`.

#[path = "../tests/support/origin.rs"]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared with the tests"
)]
mod origin;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || std::io::Error::other("usage: origin blue|green ADDRESS");
    let name = match arguments.next().as_deref() {
        Some("blue") => "blue",
        Some("green") => "green",
        _ => return Err(usage()),
    };
    let addr = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or_else(usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let origin = origin::Origin::start(name, addr).await?;
        println!("{}", origin.addr);
        std::future::pending().await
    })
}
