use proptest::prelude::*;

use super::*;

fn header(source: &str, destination: &str) -> Header {
    Header::Proxied {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn whole(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Whole { header, length }) => {
            assert_eq!(length, bytes.len());
            header
        }
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// Version 2 with these two bytes after the signature, and this after the length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn the_examples_of_the_specification_are_read() {
    let local = "192.168.0.1:56324";
    let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    assert_eq!(whole(line), header(local, "192.168.0.11:443"));
    assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Header::Local);
    let longest = format!(
        "PROXY UNKNOWN {0} {0} 65535 65535\r\n",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    );
    assert_eq!(longest.len(), LINE);
    assert_eq!(whole(longest.as_bytes()), Header::Local);
    assert_eq!(
        whole(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
        header("[2001:db8::1]:1", "[::1]:65535")
    );
}

#[test]
fn a_line_that_is_not_right_is_refused() {
    for wrong in [
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
        "PROXY TCP4 192.168.0.1  192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(parse(wrong.as_bytes()), Err(Malformed::Line), "{wrong}");
    }
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    assert_eq!(parse(&endless), Err(Malformed::Line));
    for other in [
        "GET / HTTP/1.1\r\n",
        "PROXX",
        "\r\n\r\n\0\r\nQUIX",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_eq!(parse(other.as_bytes()), Err(Malformed::NoHeader), "{other}");
    }
}

#[test]
fn version_2_says_tcp_addresses_or_nothing_of_use() {
    let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 1, 0xbb];
    let told = header("10.0.0.1:8080", "10.0.0.2:443");
    assert_eq!(whole(&v2(0x21, 0x11, &v4)), told);
    assert_eq!(whole(&v2(0x20, 0x11, &v4)), Header::Local, "LOCAL");
    assert_eq!(whole(&v2(0x20, 0x00, &[])), Header::Local);
    assert_eq!(whole(&v2(0x20, 0x11, &[])), Header::Local);
    assert_eq!(whole(&v2(0x21, 0x00, &[])), Header::Local, "UNSPEC");
    assert_eq!(whole(&v2(0x21, 0x12, &v4)), Header::Local, "UDP");
    assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])), Header::Local, "unix");
    assert_eq!(whole(&v2(0x21, 0x41, &v4)), Header::Local, "of the future");
    let tlv = [&v4[..], &[0x04, 0, 2, 9, 9]].concat();
    assert_eq!(whole(&v2(0x21, 0x11, &tlv)), told);

    assert_eq!(parse(&v2(0x22, 0x11, &v4)), Err(Malformed::Command));
    assert_eq!(parse(&v2(0x11, 0x11, &v4)), Err(Malformed::Command));
    assert_eq!(parse(&v2(0x21, 0x11, &v4[..11])), Err(Malformed::Length));
    assert_eq!(parse(&v2(0x21, 0x21, &v4)), Err(Malformed::Length));
    for tlv in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0xff, 0xff, 1]] {
        let rest = [&v4[..], tlv].concat();
        assert_eq!(parse(&v2(0x21, 0x11, &rest)), Err(Malformed::Length));
    }
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 4097])), Err(Malformed::TooLong));
}

#[test]
fn a_checksum_is_held_to() {
    // RFC 9260's check value, by way of the well-known nine digits.
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 1, 0xbb];
    let rest = [&v4[..], &[0x03, 0, 4, 0, 0, 0, 0], &[0x04, 0, 1, 7]].concat();
    let mut bytes = v2(0x21, 0x11, &rest);
    let sum = !crc32c(!0, &bytes);
    bytes[31..35].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(whole(&bytes), header("10.0.0.1:8080", "10.0.0.2:443"));
    // All but the byte that says that there is a checksum.
    for at in (16..bytes.len()).filter(|at| *at != 28) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(parse(&damaged).is_err(), "byte {at}");
    }
    let short = [&v4[..], &[0x03, 0, 3, 0, 0, 0]].concat();
    assert_eq!(parse(&v2(0x21, 0x11, &short)), Err(Malformed::Length));
}

#[test]
fn two_families_are_said_as_one() {
    let mixed = header("10.0.0.1:1", "[2001:db8::1]:2");
    let line = b"PROXY TCP6 ::ffff:10.0.0.1 2001:db8::1 1 2\r\n";
    assert_eq!(mixed.encode(Version::V1), line);
    let binary = mixed.encode(Version::V2);
    assert_eq!(binary[13], 0x21, "TCP over IPv6");
    assert_eq!(whole(&binary), mixed);
}

fn any_header() -> impl Strategy<Value = Header> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| [IpAddr::from(a), b.into()]);
    // Mapped addresses are written as the IPv4 ones that they are.
    let plain = |ip: [u8; 16]| Ipv6Addr::from(ip).to_ipv4_mapped().is_none();
    let v6 = any::<[u8; 16]>().prop_filter("not mapped", move |ip| plain(*ip));
    let v6 = (v6.clone(), v6).prop_map(|(a, b)| [IpAddr::from(a), b.into()]);
    let proxied = (prop_oneof![v4, v6], any::<[u16; 2]>());
    let proxied = proxied.prop_map(|([one, other], [from, to])| Header::Proxied {
        source: SocketAddr::new(one, from),
        destination: SocketAddr::new(other, to),
    });
    prop_oneof![Just(Header::Local), proxied]
}

proptest! {
    /// What is written is read back, however much follows, and every beginning of it wants more.
    #[test]
    fn written_is_read(header in any_header(), v1: bool, rest in prop::collection::vec(any::<u8>(), 0..40)) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let mut bytes = header.encode(version);
        let length = bytes.len();
        prop_assert!(!v1 || length <= LINE);
        for cut in 0..length {
            prop_assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Partial), "at {}", cut);
        }
        bytes.extend(rest);
        prop_assert_eq!(parse(&bytes), Ok(Parsed::Whole { header, length }));
    }

    /// No bytes make it panic, or claim more than there is.
    #[test]
    fn any_bytes_are_survived(start in 0_usize..3, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let start: &[u8] = [&b""[..], &WORD[..], &SIGNATURE[..]][start];
        let bytes = [start, &tail].concat();
        match parse(&bytes) {
            Ok(Parsed::Whole { length, .. }) => prop_assert!(length <= bytes.len() && length <= MAX_BYTES),
            Ok(Parsed::Partial) => prop_assert!(bytes.len() < MAX_BYTES),
            Err(_) => {}
        }
    }
}

#[test]
fn an_ipv4_address_that_is_written_as_ipv6_is_the_ipv4_address() {
    let plain = header("203.0.113.7:1", "198.51.100.2:2");
    let line = b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.2 1 2\r\n";
    assert_eq!(whole(line), plain);
    let mapped = |ip: [u8; 4]| Ipv4Addr::from(ip).to_ipv6_mapped().octets();
    let (from, to) = (mapped([203, 0, 113, 7]), mapped([198, 51, 100, 2]));
    let rest = [&from[..], &to, &[0, 1, 0, 2]].concat();
    assert_eq!(whole(&v2(0x21, 0x21, &rest)), plain);
    let mixed = b"PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 1 2\r\n";
    let told = whole(mixed);
    assert_eq!(told, header("203.0.113.7:1", "[2001:db8::1]:2"));
    for version in [Version::V1, Version::V2] {
        assert_eq!(whole(&told.encode(version)), told);
    }
}
