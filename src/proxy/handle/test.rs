//! Requests for the unit tests of steps.

use std::net::IpAddr;

use http::Uri;
use pingora::http::RequestHeader;

use super::state::{Handling, Original};
use crate::config::load_str;
use crate::pool::Routes;
use crate::proxy::exchange::Exchange;

/// A request over HTTP/1.1.
pub(super) fn request(
    method: &str,
    target: &str,
    fields: &[(&'static str, &str)],
) -> RequestHeader {
    let mut request = RequestHeader::build(method, target.as_bytes(), None).expect("a head");
    for (name, value) in fields {
        request.append_header(*name, *value).expect("a field");
    }
    request
}

/// The state of a request that came as `/old?q` from 192.0.2.1 to a site with steps.
pub(super) fn exchange() -> Exchange {
    let text = "[[site]]\nhosts = [\"h\"]\ntls = \"off\"\nupstream = [\"127.0.0.1:1\"]\n";
    let config = load_str("test.toml", text).expect("a configuration");
    let routes = Routes::new(&config);
    let site = routes.site("h", 80).expect("the site");
    let original = Original {
        uri: Uri::from_static("/old?q"),
        authority: "h".to_owned(),
    };
    let mut exchange = Exchange::new();
    exchange.peer = IpAddr::from([192, 0, 2, 1]);
    exchange.client.ip = exchange.peer;
    exchange.local_port = 80;
    exchange.handling = Some(Box::new(Handling::new(
        std::sync::Arc::clone(site),
        original,
    )));
    exchange
}
