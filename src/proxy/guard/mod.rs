//! What the guarding steps decide with: pure where it can be, and the state that outlives a
//! request where it must be.
//!
//! Every table here is bounded, whatever clients send: keys are hashed to a fixed size, idle ones
//! are swept, and what finds no room shares with others instead of going free.
//!
//! Not here: what a request looks like on the wire, and how a refusal is written (`handle`).

mod buckets;
mod connections;
mod credentials;
mod cross_origin;
mod outbound;
mod places;
mod question;

pub(super) use buckets::{Buckets, Now, Taken};
pub(super) use connections::{ClientConnection, ClientConnections};
pub(super) use credentials::{Credentials, Verdict, Verifier};
pub(super) use cross_origin::{CrossOrigin, Look};
pub use outbound::Outbound;
pub(super) use outbound::{Question, Unanswered};
pub(super) use places::{Entered, Places};
pub(super) use question::{answer_fields, hop_by_hop};

use std::net::{IpAddr, Ipv6Addr};

/// What counts as one client: an IPv4 address, or an IPv6 /64, which is the least that one
/// customer gets (RFC 6177) and all of which one machine can use.
pub(super) fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_its_64_and_a_mapped_ipv4_address_is_itself() {
        let network = |text: &str| network_of(text.parse().expect("ip")).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_ne!(network("2001:db8:1:3::6"), network("2001:db8:1:2::6"));
    }
}
