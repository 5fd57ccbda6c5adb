//! Any `X-Forwarded-For` and `Forwarded` of a trusted peer.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use cutover::proxy::fuzzing::client;
use libfuzzer_sys::fuzz_target;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fuzz_target!(|fields: Vec<(bool, Vec<u8>)>| {
    let trusted = ["10.0.0.0/8", "2001:db8::/32"];
    let found = client(PEER, &fields, &trusted);
    // Only an address that somebody wrote is believed, and the peer when nobody did.
    let text: Vec<_> = fields.iter().flat_map(|(_, value)| value.clone()).collect();
    assert!(found == PEER || !text.is_empty());
    // From a peer that is not trusted nothing is.
    let stranger = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
    assert_eq!(client(stranger, &fields, &trusted), stranger);
});
