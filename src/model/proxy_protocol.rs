//! The PROXY protocol of HAProxy, versions 1 and 2: who a connection is really from, said in its
//! first bytes by the proxy in front.
//!
//! [`parse`] takes the bytes that there are and says how many belong to the header, that more must
//! come, or why it is none; a header is bounded
//! ([`MAX_BYTES`]). [`Header::encode`] writes one. Source: "The PROXY protocol, Versions 1 & 2",
//! haproxy's doc/proxy-protocol.txt (2.x).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is taken, in bytes: 16 of version 2 and 4 KiB of addresses and TLVs, which
/// is more than anybody sends. The protocol would allow 64 KiB.
pub const MAX_BYTES: usize = 16 + 4096;

/// Longest line of version 1, its end included (§2.1).
const LINE: usize = 107;

/// How a header of version 2 begins (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How one of version 1 begins (§2.1).
const WORD: &[u8; 6] = b"PROXY ";

/// `PP2_TYPE_CRC32C` (§2.2.3).
const CRC32C: u8 = 0x03;

/// Who a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Of the proxy itself (`LOCAL`), or of a kind that says no TCP addresses (`UNKNOWN`, unix
    /// sockets, datagrams): the addresses of the connection are the right ones.
    Local,
    /// Of this client, who connected to that address.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// Which form is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// As the configuration spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header in the first `length` bytes.
    Whole {
        /// What it says.
        header: Header,
        /// Its bytes; what follows belongs to the connection.
        length: usize,
    },
    /// The beginning of one: every byte so far belongs to it.
    Partial,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else begins the connection.
    #[error("no PROXY protocol header")]
    NoHeader,
    /// A line that is too long, not ended by CRLF, or not of five right parts.
    #[error("a line of the PROXY protocol that is not right")]
    Line,
    /// A version other than 2, or a command other than LOCAL and PROXY.
    #[error("a version or command of the PROXY protocol that is unknown")]
    Command,
    /// Addresses that do not fit their family, or TLVs that do not fit the length.
    #[error("a header of the PROXY protocol whose lengths contradict each other")]
    Length,
    /// More than [`MAX_BYTES`].
    #[error("a header of the PROXY protocol that is too long")]
    TooLong,
    /// The checksum is another one: the header was damaged.
    #[error("a header of the PROXY protocol with a wrong checksum")]
    Checksum,
}

/// Reads the first bytes of a connection.
///
/// # Errors
/// They are no header, or one that cannot be believed; the connection must be closed (§2).
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let begins = |start: &[u8]| {
        let seen = bytes.len().min(start.len());
        bytes[..seen] == start[..seen]
    };
    // The two begin differently, so the first byte decides.
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(WORD) {
        line(bytes)
    } else {
        Err(Malformed::NoHeader)
    }
}

fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let window = &bytes[..bytes.len().min(LINE)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() < LINE {
            true => Ok(Parsed::Partial),
            false => Err(Malformed::Line),
        };
    };
    let text = window[..end].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    let text = std::str::from_utf8(&text[WORD.len()..]).map_err(|_| Malformed::Line)?;
    let header = addresses(text).ok_or(Malformed::Line)?;
    let length = end + 1;
    Ok(Parsed::Whole { header, length })
}

/// What follows `PROXY `: `TCP4 SOURCE DESTINATION PORT PORT`, or `UNKNOWN` and anything.
fn addresses(text: &str) -> Option<Header> {
    let mut parts = text.split(' ');
    let family = parts.next()?;
    if family == "UNKNOWN" {
        return Some(Header::Local);
    }
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, destination) = (address(parts.next()?)?, address(parts.next()?)?);
    let (from, to) = (port(parts.next()?)?, port(parts.next()?)?);
    let between = between((source, from), (destination, to));
    parts.next().is_none().then_some(between)
}

/// An IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2) is the IPv4 address: lists of
/// clients know it by that.
const fn between(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Header {
    Header::Proxied {
        source: SocketAddr::new(source.0.to_canonical(), source.1),
        destination: SocketAddr::new(destination.0.to_canonical(), destination.1),
    }
}

/// Digits alone, without a leading zero (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    const HEAD: usize = SIGNATURE.len() + 4;
    let Some(head) = bytes.get(SIGNATURE.len()..HEAD) else {
        return Ok(Parsed::Partial);
    };
    let (command, family) = (head[0], head[1]);
    let length = HEAD + usize::from(u16::from_be_bytes([head[2], head[3]]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    if length > MAX_BYTES {
        return Err(Malformed::TooLong);
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(Parsed::Partial);
    };
    let rest = &whole[HEAD..];
    // TCP over either family; what else there is says nothing that can be used here.
    let (proxied, taken) = match family {
        0x11 => (v4(rest), 12),
        0x21 => (v6(rest), 36),
        0x12 => (Some(Header::Local), 12),
        0x22 => (Some(Header::Local), 36),
        0x31 | 0x32 => (Some(Header::Local), 216),
        _ => (Some(Header::Local), rest.len()),
    };
    let header = match (is_local, proxied) {
        // Whatever it says of addresses is to be ignored (§2.2).
        (true, _) => Header::Local,
        (false, Some(header)) => header,
        (false, None) => return Err(Malformed::Length),
    };
    match rest.get(taken..) {
        Some(tlvs) => check_tlvs(whole, length - tlvs.len())?,
        None if is_local => {}
        None => return Err(Malformed::Length),
    }
    Ok(Parsed::Whole { header, length })
}

fn v4(rest: &[u8]) -> Option<Header> {
    let ip = |at: usize| <[u8; 4]>::try_from(rest.get(at..at + 4)?).ok();
    Some(Header::Proxied {
        source: SocketAddr::new(Ipv4Addr::from(ip(0)?).into(), big_endian(rest, 8)?),
        destination: SocketAddr::new(Ipv4Addr::from(ip(4)?).into(), big_endian(rest, 10)?),
    })
}

fn v6(rest: &[u8]) -> Option<Header> {
    let ip = |at: usize| <[u8; 16]>::try_from(rest.get(at..at + 16)?).ok();
    Some(between(
        (Ipv6Addr::from(ip(0)?).into(), big_endian(rest, 32)?),
        (Ipv6Addr::from(ip(16)?).into(), big_endian(rest, 34)?),
    ))
}

fn big_endian(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Goes through the TLVs from `at`, and holds the header to its checksum if it has one: CRC32c over
/// the whole header with that field as zeros (§2.2.3).
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    while at < header.len() {
        let kind = header[at];
        let length = usize::from(big_endian(header, at + 1).ok_or(Malformed::Length)?);
        let value = at + 3;
        let next = value + length;
        let found = header.get(value..next).ok_or(Malformed::Length)?;
        if kind == CRC32C {
            let told = <[u8; 4]>::try_from(found).map_err(|_| Malformed::Length)?;
            let before = crc32c(!0, &header[..value]);
            let field = crc32c(before, &[0; 4]);
            if !crc32c(field, &header[next..]) != u32::from_be_bytes(told) {
                return Err(Malformed::Checksum);
            }
        }
        at = next;
    }
    Ok(())
}

/// Castagnoli's polynomial, reflected (RFC 9260 Appendix A). A header is short, and comes once a
/// connection.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

impl Header {
    /// The header's bytes. Addresses of two families cannot be said together: an IPv4 one is
    /// written as IPv6 then.
    #[must_use]
    pub fn encode(&self, version: Version) -> Vec<u8> {
        match (version, self) {
            (Version::V1, Self::Local) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Version::V2, Self::Local) => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
            (
                version,
                Self::Proxied {
                    source,
                    destination,
                },
            ) => {
                let ips = same_family(source.ip(), destination.ip());
                proxied(version, ips, [source.port(), destination.port()])
            }
        }
    }
}

fn same_family(one: IpAddr, other: IpAddr) -> [IpAddr; 2] {
    match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), other @ IpAddr::V6(_)) => [one.to_ipv6_mapped().into(), other],
        (one @ IpAddr::V6(_), IpAddr::V4(other)) => [one, other.to_ipv6_mapped().into()],
        (one, other) => [one, other],
    }
}

fn proxied(version: Version, [one, other]: [IpAddr; 2], ports: [u16; 2]) -> Vec<u8> {
    if version == Version::V1 {
        let family = if one.is_ipv4() { "TCP4" } else { "TCP6" };
        let [from, to] = ports;
        return format!("PROXY {family} {one} {other} {from} {to}\r\n").into_bytes();
    }
    let mut body = Vec::with_capacity(36);
    for ip in [one, other] {
        match ip {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    let family = if one.is_ipv4() { 0x11 } else { 0x21 };
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x21, family]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
