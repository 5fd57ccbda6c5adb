//! What the kernel knows of a TCP connection: `TCP_INFO` of tcp(7).
//!
//! Pingora's own call wants all fields of Linux 6.2 and gets none of them before. These two are there
//! since Linux 4.1.
#![expect(
    unsafe_code,
    reason = "no library has a call for it; this is the only one"
)]

use std::os::fd::RawFd;

use nix::libc;

/// Where things are in `struct tcp_info` of the kernel's `linux/tcp.h`, which only ever grows.
const STATE: usize = 0;
const BYTES_RECEIVED: usize = 128;
const LENGTH: usize = BYTES_RECEIVED + size_of::<u64>();

/// States of a connection, of the kernel's `net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
/// In these the other side has ended its stream, and that counts as a byte (RFC 9293 §3.4). It may have
/// in the state closed as well, or not: there the byte stays counted.
const ENDED: [u8; 4] = [6, 8, 9, 11];

/// Some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Bytes of data that came in order, read or not (RFC 4898, `tcpEStatsAppHCThruOctetsReceived`).
    pub(super) received: u64,
    /// Whether neither side has ended it.
    pub(super) is_open: bool,
}

/// Of a connection. `None` if it is not one of TCP, or the kernel does not tell.
pub(super) fn of(fd: RawFd) -> Option<TcpInfo> {
    let mut info = [0_u8; LENGTH];
    let mut length = libc::socklen_t::try_from(LENGTH).ok()?;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which has so many, and any bytes
    // are good ones. A number that is no descriptor is an error.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 || usize::try_from(length) != Ok(LENGTH) {
        return None;
    }
    let state = info[STATE];
    let received = info[BYTES_RECEIVED..]
        .try_into()
        .map(u64::from_ne_bytes)
        .ok()?;
    Some(TcpInfo {
        received: received.saturating_sub(u64::from(ENDED.contains(&state))),
        is_open: state == ESTABLISHED,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (here, listener.accept().unwrap().0)
    }

    fn told(received: u64, is_open: bool) -> Option<TcpInfo> {
        Some(TcpInfo { received, is_open })
    }

    #[test]
    fn what_came_counts_read_or_not() {
        let (mut here, mut there) = pair();
        assert_eq!(of(here.as_raw_fd()), told(0, true));
        there.write_all(b"head").unwrap();
        here.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(of(here.as_raw_fd()), told(4, true));
    }

    #[test]
    fn no_end_counts_as_a_byte() {
        // The other side ends its stream.
        let (mut here, mut there) = pair();
        there.write_all(b"body").unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        here.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(of(here.as_raw_fd()), told(4, false));
        // This side alone.
        let (mut here, mut there) = pair();
        there.write_all(b"body").unwrap();
        here.read_exact(&mut [0; 4]).unwrap();
        here.shutdown(Shutdown::Both).unwrap();
        assert_eq!(of(here.as_raw_fd()), told(4, false));
        // The other side resets the connection: something that it has not read is there.
        let (mut here, mut there) = pair();
        there.write_all(b"body").unwrap();
        here.write_all(b"unread").unwrap();
        here.read_exact(&mut [0; 4]).unwrap();
        drop(there);
        assert!(here.read(&mut [0; 1]).is_err());
        assert_eq!(of(here.as_raw_fd()), told(4, false));
    }

    #[test]
    fn nothing_is_told_of_what_is_no_connection() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(of(here.as_raw_fd()), None);
        assert_eq!(of(-1), None);
    }
}
