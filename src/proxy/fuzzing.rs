//! What the fuzz targets reach of the data plane.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::forwarded;
use crate::config::IpSet;

/// The client that is found behind `peer`; a field is `Forwarded` (true) or `X-Forwarded-For`.
/// Values that no request can carry, and texts that are no network, are left out.
#[must_use]
pub fn client(peer: IpAddr, fields: &[(bool, Vec<u8>)], trusted: &[&str]) -> IpAddr {
    let mut headers = HeaderMap::new();
    for (standard, value) in fields {
        let name = match standard {
            true => http::header::FORWARDED,
            false => HeaderName::from_static("x-forwarded-for"),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let networks = trusted.iter().filter_map(|text| text.parse::<IpNet>().ok());
    forwarded::client(peer, &headers, &IpSet(networks.collect())).ip
}
