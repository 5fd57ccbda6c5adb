//! The PROXY protocol on connections: read from those who must say it, and said to upstreams.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::exchange::Exchange;
use super::front::Connection;
use crate::model::proxy_protocol::{Header, MAX_BYTES, Malformed, Parsed, Version, parse};

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unannounced {
    /// What it began with.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It broke, or ended early.
    #[error("lost before its PROXY protocol header was whole: {0}")]
    Lost(#[from] io::Error),
}

/// Reads the header that a connection begins with, and no byte after it. The caller bounds the
/// time.
///
/// # Errors
/// There is none, or not a whole one. The connection must be closed then.
pub(super) async fn read(socket: &mut TcpStream) -> Result<Header, Unannounced> {
    let mut bytes = Vec::with_capacity(256);
    let mut seen = [0; 256];
    loop {
        // Looked at first: what follows the header is not for us.
        let there = socket.peek(&mut seen).await?;
        if there == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let taken = bytes.len();
        bytes.extend_from_slice(&seen[..there]);
        let (found, mine) = match parse(&bytes[..bytes.len().min(MAX_BYTES)])? {
            Parsed::Whole { header, length } => (Some(header), length - taken),
            // All of it is the header's; the next look waits for more.
            Parsed::Partial => (None, there),
        };
        socket.read_exact(&mut seen[..mine]).await?;
        if let Some(header) = found {
            return Ok(header);
        }
    }
}

impl Exchange {
    /// What an upstream is told of the client of this request.
    pub(super) fn announcement(&self, connection: &Connection, version: Version) -> Vec<u8> {
        // The port belongs to the peer; of a client behind it nobody said one.
        let port = match self.client.ip == connection.peer {
            true => connection.peer_port,
            false => 0,
        };
        let header = Header::Proxied {
            source: SocketAddr::new(self.client.ip, port),
            destination: connection.local,
        };
        header.encode(version)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_header_is_taken_byte_for_byte_and_what_follows_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let told = Header::Proxied {
            source: "203.0.113.7:4711".parse().unwrap(),
            destination: "192.0.2.1:443".parse().unwrap(),
        };
        for version in [Version::V1, Version::V2] {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.set_nodelay(true).unwrap();
            let (mut socket, _) = listener.accept().await.unwrap();
            let bytes = told.encode(version);
            let reading = tokio::spawn(async move {
                let header = read(&mut socket).await.unwrap();
                let mut rest = [0; 4];
                socket.read_exact(&mut rest).await.unwrap();
                (header, rest)
            });
            for byte in &bytes[..bytes.len() - 1] {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
            client.write_all(b"GET ").await.unwrap();
            assert_eq!(reading.await.unwrap(), (told, *b"GET "));
        }
    }

    #[tokio::test]
    async fn a_long_header_and_one_that_never_comes_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = Header::Local.encode(Version::V2);
        let tlv = [&[0xe0, 0x0b, 0xb8][..], &[7; 3000]].concat();
        bytes[14..16].copy_from_slice(&u16::try_from(tlv.len()).unwrap().to_be_bytes());
        bytes.extend(tlv);
        bytes.extend(b"rest");
        client.write_all(&bytes).await.unwrap();
        assert_eq!(read(&mut socket).await.unwrap(), Header::Local);
        let mut rest = [0; 4];
        socket.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");

        client.write_all(b"PROXY TCP4 1.2.3.4").await.unwrap();
        drop(client);
        let lost = read(&mut socket).await.unwrap_err();
        assert!(matches!(lost, Unannounced::Lost(_)), "{lost}");
    }
}
