//! `access`: who may come.

use std::net::IpAddr;

use super::failure::Failure;
use super::run::{Flow, Walk};
use crate::config::step::Access;
use crate::model::ErrorType;

/// Lets the client's address pass, else 403. It is the address that trusted proxies speak of; an
/// untrusted peer is asked for nothing.
pub(super) fn check(walk: &mut Walk<'_>, access: &Access) -> Flow {
    if lets_in(access, walk.exchange.client.ip) {
        return Flow::Next;
    }
    Flow::Fail(Failure::new(
        403,
        ErrorType::HttpRequestDenied,
        "This address has no access.",
    ))
}

fn lets_in(access: &Access, ip: IpAddr) -> bool {
    !access.deny.contains(ip) && (access.allow.is_empty() || access.allow.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IpSet;

    #[test]
    fn a_denied_address_stays_out_even_if_it_is_allowed_too() {
        let set = |nets: &[&str]| IpSet(nets.iter().map(|net| net.parse().expect("net")).collect());
        let may = |access: &Access, ip: &str| lets_in(access, ip.parse().expect("ip"));
        let both = Access {
            allow: set(&["10.0.0.0/8"]),
            deny: set(&["10.6.0.0/16"]),
        };
        assert!(may(&both, "10.1.2.3") && may(&both, "::ffff:10.1.2.3"));
        assert!(!may(&both, "10.6.2.3") && !may(&both, "::ffff:10.6.2.3"));
        assert!(!may(&both, "192.0.2.1"));
        let deny = Access {
            allow: set(&[]),
            deny: set(&["2001:db8::/32"]),
        };
        assert!(may(&deny, "192.0.2.1") && !may(&deny, "2001:db8::1"));
    }
}
