//! x
use pingora::protocols::Stream;
use std::sync::Arc;
/// x
#[derive(Debug)]
pub struct TlsInfo;
impl TlsInfo {
    /// x
    pub fn covers(&self, _h: &str) -> bool {
        true
    }
    /// x
    pub fn version(&self) -> &'static str {
        ""
    }
}
/// x
#[derive(Debug)]
pub struct Acceptor;
/// x
pub struct Accepted;
impl Accepted {
    /// x
    pub fn is_h2(&self) -> bool {
        false
    }
    /// x
    pub fn into_parts(self) -> (Stream, Arc<TlsInfo>) {
        unimplemented!()
    }
}
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Refused;
impl Acceptor {
    /// x
    pub async fn accept(
        &self,
        _s: pingora::protocols::l4::stream::Stream,
        _l: std::net::SocketAddr,
    ) -> Result<Accepted, Refused> {
        Err(Refused)
    }
}
